"""Entities: the things that features describe. A class with typed key fields; its instances are values, and are what `get` takes.

    class Plane(ft.Entity):
        tailnum: str

    class Route(ft.Entity):        # a composite key
        origin: str
        dest: str

Fields are `str`, `int`, `bytes` or `bool` (or the feature types of the same kind). Instances are frozen, hashable, and safe in any thread.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import sys
from typing import Any, ClassVar, Final, dataclass_transform

from fondaco.core.errors import DefinitionError, KeyTypeError
from fondaco.features.feature import Feature
from fondaco.features.kinds import BOOL, BYTES, INT, STRING, Kind

_KINDS: Final[dict[object, Kind]] = {str: STRING, int: INT, bytes: BYTES, bool: BOOL}


def evaluate_annotations(cls: type, depth: int) -> dict[str, object]:
    """The class's own annotations as objects, also where `from __future__ import annotations` left them as text.

    Names are looked up in the class's module and in the function that defines it (`depth` frames up), as a reader would.
    """
    found: dict[str, object] = {}
    module = sys.modules.get(cls.__module__)
    frame = sys._getframe(depth)
    for name, annotation in inspect.get_annotations(cls).items():
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, {**vars(module)} if module else {}, dict(frame.f_locals))  # the author's own code
            except Exception as exc:
                raise DefinitionError(f"{cls.__name__}.{name}: the annotation {annotation!r} cannot be evaluated: {exc}") from exc
        found[name] = annotation
    return found


@dataclass_transform(frozen_default=True)
class Entity:
    """Base of entities; declare the key fields as annotations. The class name is the entity's name."""

    __entity_fields__: ClassVar[dict[str, Kind]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        fields: dict[str, Kind] = {}
        for name, annotation in evaluate_annotations(cls, 2).items():
            kind = _KINDS.get(annotation)
            if kind is None and isinstance(annotation, type) and issubclass(annotation, Feature):
                kind = annotation.dtype.kind if annotation.dtype.kind in _KINDS.values() else None
            if kind is None:
                raise DefinitionError(f"{cls.__name__}.{name}: a key field is a str, int, bytes or bool, not {annotation!r}")
            fields[name] = kind
        if not fields:
            raise DefinitionError(f"entity {cls.__name__} has no key field; write for example `{cls.__name__.lower()}_id: str` in its body")
        cls.__entity_fields__ = fields
        dataclasses.dataclass(frozen=True)(cls)

    def __post_init__(self) -> None:
        for name, kind in self.__entity_fields__.items():
            value = getattr(self, name)
            checked = check_key(f"{type(self).__name__}.{name}", kind, value)
            if checked is not value:
                object.__setattr__(self, name, checked)


def check_key(where: str, kind: Kind, value: object) -> object:
    """The value as a plain Python object of the kind (NumPy's scalars are unwrapped).

    Raises:
        KeyTypeError: another type, or an integer that 64 bits cannot hold.
    """
    if kind is STRING and isinstance(value, str):
        return value
    if kind is INT and not isinstance(value, bool):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
        else:
            if -(2**63) <= number < 2**63:
                return number
            raise KeyTypeError(f"{number} (more than 64 bits)", f"{kind} for {where}")
    if (kind is BYTES and isinstance(value, bytes)) or (kind is BOOL and isinstance(value, bool)):
        return value
    raise KeyTypeError(f"{value!r} ({type(value).__name__})", f"{kind} for {where}")


def entity_fields(entity: type[Entity]) -> dict[str, Kind]:
    """Key fields and their kinds, in order."""
    return entity.__entity_fields__
