"""Resolution: what to do with each value a writer wrote so that a reader sees its own schema. Computed once, before any byte is read.

`resolve(writer, reader)` returns a tree of *steps* in the order of the bytes. Both decoders are made from it: the generated Python one
(`rows`) and the op-code program (`program`), so resolution costs nothing when rows are read. With reader = writer it is the plain plan.
A recursive schema gives a cyclic graph of steps (a record's step is one object per pair of record types).

Source: Apache Avro 1.12.0 specification, "Schema Resolution". A union branch of the writer that the reader cannot hold is an error only
when a row uses it, as the specification asks: such a branch resolves to `Refuse`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fondaco.schema.types import Array, Enum, Fixed, Map, Primitive, PrimitiveKind, Record, Type, Union


@dataclass(eq=False, slots=True)
class ReadPrimitive:
    """Bytes hold a `wire` value; the reader wants `target` (equal, or promoted: int -> long, float, double; string <-> bytes)."""

    wire: PrimitiveKind
    target: Primitive


@dataclass(eq=False, slots=True)
class ReadFixed:
    """`target.size` bytes as they are (decimal, uuid, duration and vectors included)."""

    target: Fixed


@dataclass(eq=False, slots=True)
class ReadEnum:
    """Writer's symbol index -> reader's; -1 where the reader has neither the symbol nor a default (an error when met)."""

    target: Enum
    index_map: tuple[int, ...]


@dataclass(eq=False, slots=True)
class ReadArray:
    """Blocks of items."""

    target: Array
    item: Step


@dataclass(eq=False, slots=True)
class ReadMap:
    """Blocks of string key, value."""

    target: Map
    value: Step


@dataclass(eq=False, slots=True)
class RecordMember:
    """One field of the writer: read it into field `reader_index`, or (None) skip it."""

    name: str
    step: Step
    reader_index: int | None


@dataclass(eq=False, slots=True)
class DefaultMember:
    """A reader's field that the writer does not have. `value` is a Python value in the form that `Codec.decode` returns."""

    reader_index: int
    value: Any


@dataclass(eq=False, slots=True)
class ReadRecord:
    """The writer's fields in the writer's order, then the reader's defaults. Filled after construction (recursion)."""

    target: Record
    members: tuple[RecordMember, ...] = ()
    defaults: tuple[DefaultMember, ...] = ()


@dataclass(eq=False, slots=True)
class ReadUnion:
    """A branch index, then that branch.

    `branches[i]` reads the writer's branch i. `targets[i]` is the reader's branch it lands in when the reader is a union (`target`),
    else `target` is the reader's plain type and every `targets[i]` is 0.
    """

    target: Type
    branches: tuple[Step, ...]
    targets: tuple[int, ...]


@dataclass(eq=False, slots=True)
class WrapUnion:
    """The writer has no union where the reader has one: read `inner`, it lands in branch `target_index`. No branch index in the bytes."""

    target: Union
    inner: Step
    target_index: int


@dataclass(eq=False, slots=True)
class Skip:
    """The writer's value of type `wire` is passed over, with the same checks as if it were read."""

    wire: Type


@dataclass(eq=False, slots=True)
class Refuse:
    """Meeting this value is an error: the reader has no place for it."""

    reason: str
    path: str = field(default="$")


Step = ReadPrimitive | ReadFixed | ReadEnum | ReadArray | ReadMap | ReadRecord | ReadUnion | WrapUnion | Skip | Refuse
