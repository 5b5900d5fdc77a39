"""Literals: the outputs of a data service task in the types that the task declares.

flyte asks a connector's outputs for their Python type, and a plain `list` or `dict` does not say of what: a list would travel as a pickle,
which a backend refuses for a declared list of texts. `Endpoints` and `Variables` are a list and a dict that say it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from flyte.types import TypeEngine
from flyte.types._type_engine import TypeTransformer
from flyteidl2.core.literals_pb2 import Literal
from flyteidl2.core.types_pb2 import LiteralType

from fondaco.adapters.data_service import DataServiceOutputs


class Endpoints(list[str]):
    """A list of texts, also to flyte's type engine."""


class Variables(dict[str, str]):
    """A mapping of texts to texts, also to flyte's type engine."""


def typed_outputs(outputs: DataServiceOutputs, declared: Collection[str] | None) -> dict[str, Any]:
    """The outputs that a task declares (None: all) by name, each with a type that says all."""
    kinds: dict[str, Callable[[Any], Any]] = {"name": str, "endpoints": Endpoints, "env": Variables}
    return {name: kinds[name](value) for name, value in outputs.to_dict(declared).items()}


class _Typed(TypeTransformer[Any]):  # type: ignore[misc]  # flyte's types are not followed
    """Hands values of a class on to the transformer of the type that it stands for."""

    def __init__(self, kind: type[Any], plain: type[Any], stands_for: Any) -> None:
        super().__init__(kind.__name__, kind)
        self._plain, self._stands_for = plain, stands_for  # its transformer takes the plain type and no class made from it

    def get_literal_type(self, t: type[Any]) -> LiteralType:
        return TypeEngine.to_literal_type(self._stands_for)

    async def to_literal(self, python_val: Any, python_type: type[Any], expected: LiteralType) -> Literal:
        return await TypeEngine.to_literal(self._plain(python_val), self._stands_for, expected)

    async def to_python_value(self, lv: Literal, expected_python_type: type[Any]) -> Any:
        return self.python_type(await TypeEngine.to_python_value(lv, self._stands_for))


TypeEngine.register(_Typed(Endpoints, list, list[str]))
TypeEngine.register(_Typed(Variables, dict, dict[str, str]))
