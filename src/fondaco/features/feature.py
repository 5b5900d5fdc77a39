"""Features and their types: `Float32`, `Int64`, ... are written as annotations, and the attributes of a view *are* instances of them.

`PlaneHistory.mean_delay_7d` is a `Float32`, therefore a `Feature[float]`, for the type checker and at run time. A feature is a value: it
can be selected, renamed (`alias`) and looked up through other label columns (`on`). Immutable; any thread.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, get_args, get_origin

import pyarrow as pa

from fondaco.core.errors import DefinitionError
from fondaco.features.kinds import BOOL, BYTES, FLOAT, INT, NULL, STRING, TIMESTAMP, Kind, list_of

if TYPE_CHECKING:
    from fondaco.features.view import View

T = TypeVar("T", covariant=True)
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class DType:
    """How a feature's values are kept: its name in plans, the kind it is computed as, its Arrow and its DuckDB type."""

    name: str
    kind: Kind
    arrow: pa.DataType
    duckdb: str

    def accepts(self, kind: Kind) -> bool:
        """Whether values of `kind` become this type without a cast by the author."""
        if self.kind.item is not None:
            return kind == NULL or (kind.item is not None and (kind.item == self.kind.item or (kind.item, self.kind.item) == (INT, FLOAT)))
        return kind in (self.kind, NULL) or (self.kind == FLOAT and kind == INT)


class Feature(Generic[T]):
    """One typed column about an entity, named by the attribute of the view that holds it.

    `name` is the attribute's, `output` the column's name in training sets and answers, `view` the class that it belongs to,
    `columns` which label columns hold the entity's fields (empty: columns named like the fields).
    """

    dtype: DType
    view: type[View[Any]]
    name: str
    output: str
    columns: tuple[tuple[str, str], ...] = ()

    def alias(self, name: str) -> Self:
        """The same feature under another name in what a model reads.

        Raises:
            DefinitionError: not a name.
        """
        if not isinstance(name, str) or not name:
            raise DefinitionError(f"{name!r} cannot name a feature; give a text")
        return self._with(output=name)

    def on(self, columns: Mapping[str, str] | str) -> Self:
        """The same feature of the entity that other label columns name.

        Args:
            columns: field of the entity -> label column; or the column alone, for an entity of one field.
                `WeatherAt.temp.on("dest").alias("temp_at_dest")`.
        """
        return self._with(columns=type(self.view).bind(self.view, columns))

    def _with(self, **changes: object) -> Self:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed

    def __repr__(self) -> str:
        view = getattr(self, "view", None)
        if view is None:
            return f"<{type(self).__name__} feature>"
        renamed = f" as {self.output}" if self.output != self.name else ""
        return f"<{view.__name__}.{self.name}: {self.dtype.name}{renamed}>"


class Bool(Feature[bool]):
    """True or false."""

    dtype = DType("bool", BOOL, pa.bool_(), "BOOLEAN")


class Int8(Feature[int]):
    """8-bit signed integer; a value that does not fit is an error."""

    dtype = DType("int8", INT, pa.int8(), "TINYINT")


class Int16(Feature[int]):
    """16-bit signed integer; a value that does not fit is an error."""

    dtype = DType("int16", INT, pa.int16(), "SMALLINT")


class Int32(Feature[int]):
    """32-bit signed integer; a value that does not fit is an error."""

    dtype = DType("int32", INT, pa.int32(), "INTEGER")


class Int64(Feature[int]):
    """64-bit signed integer."""

    dtype = DType("int64", INT, pa.int64(), "BIGINT")


class Float32(Feature[float]):
    """binary32; computed as binary64 and rounded at the end."""

    dtype = DType("float32", FLOAT, pa.float32(), "FLOAT")


class Float64(Feature[float]):
    """binary64."""

    dtype = DType("float64", FLOAT, pa.float64(), "DOUBLE")


class String(Feature[str]):
    """Text."""

    dtype = DType("string", STRING, pa.string(), "VARCHAR")


class Bytes(Feature[bytes]):
    """Bytes as they are."""

    dtype = DType("bytes", BYTES, pa.binary(), "BLOB")


class Timestamp(Feature[Any]):
    """An instant, microseconds in UTC; a `datetime` with a zone in Python."""

    dtype = DType("timestamp", TIMESTAMP, pa.timestamp("us", tz="UTC"), "TIMESTAMP WITH TIME ZONE")


class List(Feature[list[Any]], Generic[F]):
    """A list of another feature type: `ft.List[ft.Float64]`. Lists come from `last(k)` and from list columns (embeddings)."""

    dtype: DType


SCALARS: Final[dict[str, type[Feature[Any]]]] = {
    kind.dtype.name: kind for kind in (Bool, Int8, Int16, Int32, Int64, Float32, Float64, String, Bytes, Timestamp)
}
_DEFAULTS: Final = {"bool": Bool, "int": Int64, "float": Float64, "string": String, "bytes": Bytes, "timestamp": Timestamp, "null": Float64}


def dtype_of(annotation: object) -> tuple[type[Feature[Any]], DType]:
    """The feature class and type that an annotation names.

    Raises:
        DefinitionError: it is not one of ours.
    """
    if isinstance(annotation, type) and issubclass(annotation, Feature) and annotation.__dict__.get("dtype") is not None:
        return annotation, annotation.dtype
    if get_origin(annotation) is List:
        (item,) = get_args(annotation)
        _, inner = dtype_of(item)
        if inner.kind.item is not None:
            raise DefinitionError(f"{annotation}: a list of lists is not supported")
        return List, DType(f"list<{inner.name}>", list_of(inner.kind), pa.list_(inner.arrow), f"{inner.duckdb}[]")
    shown = getattr(annotation, "__name__", None) or repr(annotation)
    raise DefinitionError(f"{shown} is no feature type; use one of {', '.join(c.__name__ for c in SCALARS.values())} or List[...]")


def natural_dtype(kind: Kind) -> tuple[type[Feature[Any]], DType]:
    """The type of a feature without annotation."""
    if kind.item is not None:
        return dtype_of(types.GenericAlias(List, (_DEFAULTS[kind.item.name],)))
    feature = _DEFAULTS[kind.name]
    return feature, feature.dtype


def dtype_named(name: str) -> DType:
    """The type that a plan names, such as `float32` or `list<int64>`."""
    if name.startswith("list<"):
        return dtype_of(types.GenericAlias(List, (SCALARS[name[5:-1]],)))[1]
    return SCALARS[name].dtype
