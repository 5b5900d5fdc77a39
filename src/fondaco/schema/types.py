"""Schema types: an Avro schema as a tree of Python objects, the form that every other module of this package works on.

Made by `parse`, printed by `canonical`. A named type that occurs more than once is one object, so a recursive schema is a cyclic graph;
nodes therefore compare by identity, and two schemas are equal when their `canonical.full_form` is. Immutable after parsing.

Source: Apache Avro 1.12.0 specification, "Schema Declaration" and "Logical Types". `Vector` is our own logical type
(docs/internals/row-codec.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

PrimitiveKind = Literal["null", "boolean", "int", "long", "float", "double", "bytes", "string"]
TimeUnit = Literal["millis", "micros", "nanos"]
VectorDtype = Literal["float32", "float16", "bfloat16", "int8"]

VECTOR_ITEM_BYTES: Final[dict[VectorDtype, int]] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
INT8_SCALE_BYTES: Final = 4  # an int8 vector begins with its float32 scale


# -- logical types ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decimal:
    """Two's-complement big-endian unscaled integer, on bytes or fixed."""

    precision: int
    scale: int = 0


@dataclass(frozen=True, slots=True)
class Uuid:
    """RFC 4122 UUID, on string or fixed(16)."""


@dataclass(frozen=True, slots=True)
class Date:
    """Days since 1970-01-01, on int."""


@dataclass(frozen=True, slots=True)
class Time:
    """Time of day: millis on int, micros on long."""

    unit: TimeUnit


@dataclass(frozen=True, slots=True)
class Timestamp:
    """Units since the epoch on long: an instant in UTC, or (`local`) a wall-clock reading without a zone."""

    unit: TimeUnit
    local: bool = False


@dataclass(frozen=True, slots=True)
class Duration:
    """fixed(12): little-endian unsigned months, days, milliseconds."""


@dataclass(frozen=True, slots=True)
class Vector:
    """fixed: `dim` little-endian numbers; int8 is preceded by one float32 scale (value = int8 * scale)."""

    dim: int
    dtype: VectorDtype

    @property
    def size(self) -> int:
        """Bytes of the fixed that carries it."""
        return self.dim * VECTOR_ITEM_BYTES[self.dtype] + (INT8_SCALE_BYTES if self.dtype == "int8" else 0)


Logical = Decimal | Uuid | Date | Time | Timestamp | Duration | Vector


# -- schema nodes -------------------------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Primitive:
    """One of Avro's eight primitive types. `properties` keeps attributes that Avro does not define (Arrow widths, for example)."""

    kind: PrimitiveKind
    logical: Logical | None = None
    properties: dict[str, object] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Fixed:
    """`size` bytes with a name."""

    fullname: str
    size: int
    logical: Logical | None = None
    aliases: tuple[str, ...] = ()  # full names
    properties: dict[str, object] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Enum:
    """One of `symbols`; `default` is what a reader takes for a symbol that it does not know."""

    fullname: str
    symbols: tuple[str, ...]
    default: str | None = None
    aliases: tuple[str, ...] = ()
    doc: str | None = None
    properties: dict[str, object] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Array:
    """Any number of `items`."""

    items: Type
    properties: dict[str, object] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Map:
    """String keys to `values`."""

    values: Type
    properties: dict[str, object] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Union:
    """One of `branches`; no branch is itself a union, and unnamed branches differ in kind."""

    branches: tuple[Type, ...]

    @property
    def null_index(self) -> int | None:
        """Position of the null branch."""
        for index, branch in enumerate(self.branches):
            if isinstance(branch, Primitive) and branch.kind == "null":
                return index
        return None

    @property
    def optional(self) -> Type | None:
        """T of a union of exactly null and T (in either order), which becomes a nullable column; otherwise None."""
        if len(self.branches) == 2 and self.null_index is not None:
            return self.branches[1 - self.null_index]
        return None


@dataclass(frozen=True, slots=True)
class NoDefault:
    """Marks a field without a default (None is a default: null)."""


NO_DEFAULT: Final = NoDefault()


@dataclass(eq=False, slots=True)
class Field:
    """A named member of a record. `default` is the JSON value as written in the schema."""

    name: str
    type: Type
    default: object = NO_DEFAULT
    aliases: tuple[str, ...] = ()
    doc: str | None = None
    order: Literal["ascending", "descending", "ignore"] = "ascending"
    properties: dict[str, object] = field(default_factory=dict)

    @property
    def has_default(self) -> bool:
        """Whether a reader may fill this field in."""
        return not isinstance(self.default, NoDefault)


@dataclass(eq=False, slots=True)
class Record:
    """Named fields in order. `fields` is filled right after construction, because a field may refer back to its record."""

    fullname: str
    fields: tuple[Field, ...] = ()
    aliases: tuple[str, ...] = ()
    doc: str | None = None
    properties: dict[str, object] = field(default_factory=dict)


Type = Primitive | Fixed | Enum | Array | Map | Union | Record
Named = Fixed | Enum | Record
