"""Programs: a resolved schema flattened into op-codes that one kernel runs over many rows.

`compile_program(step)` wraps the plan of `resolution`; the op-codes for a choice of fields are made at first use and kept. Everything the
plan knows is compiled in: promotions, skipped and reordered fields, defaults, enum symbols, unions into other unions. Compiling takes
microseconds per field and no compiler: the kernel (`_decode_kernels`) is the same for every schema.

A program never changes once made, but for its cache of compiled projections; it may be shared by threads (two may compile the same
projection, which is harmless). Instructions: `_ops`. Described in docs/internals/row-codec.md, "Op-code program".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from fondaco.core.errors import FieldNotFoundError
from fondaco.schema._code import CompiledCode
from fondaco.schema._compiler import Compiler
from fondaco.schema.resolution import Refuse, Skip, Step
from fondaco.schema.types import Record, Type

PROJECTIONS_MAX: Final = 64  # compiled choices of fields kept per program


def compile_program(step: Step, name: str = "value") -> Program:
    """The program that decodes rows by the plan `step` (of `resolution.resolve`).

    Args:
        name: of the one column that a schema other than a record decodes into.
    Raises:
        SchemaError: a recursive schema (its rows can be read one by one only), or a type that columns cannot hold; names the field.
    """
    program = Program(step, target_of(step), name)
    program.select(None)
    return program


@dataclass(eq=False, slots=True)
class Program:
    """A compiled plan. `type` is the reader's schema; `names` its columns: a record's fields, or one name for any other type."""

    step: Step
    type: Type
    name: str
    _projections: dict[tuple[str, ...] | None, CompiledCode] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the reader's order."""
        return tuple(member.name for member in self.type.fields) if isinstance(self.type, Record) else (self.name,)

    def select(self, fields: Sequence[str] | None) -> CompiledCode:
        """The code that materialises `fields` (None: all) and passes over the others.

        Raises:
            FieldNotFoundError: the reader's schema has no such field; names the nearest.
        """
        key = None if fields is None else tuple(fields)
        compiled = self._projections.get(key)
        if compiled is None:
            for name in key or ():
                if name not in self.names:
                    raise FieldNotFoundError(name, self.names)
            compiled = Compiler(self.step, self.type, self.name, self.names if key is None else key).compile()
            for old in list(self._projections)[: max(0, len(self._projections) - PROJECTIONS_MAX + 1)]:
                self._projections.pop(old, None)
            self._projections[key] = compiled
        return compiled


def target_of(step: Step) -> Type:
    """The reader's type that `step` gives."""
    assert not isinstance(step, Skip | Refuse)
    return step.target
