"""Columns: what a batch of rows decodes into, and the functions that decode and encode batches.

The bytes are read once, by one kernel call, into buffers of Arrow's shape. NumPy arrays, Arrow arrays and Python objects are made from
those when a column is asked for, and kept. A null, or a row that a store does not have, is masked or null: never a silent zero.

Thread rule: decoding runs without the GIL in any number of threads. A `Columns` may be shared; two threads may make the same column twice,
which is harmless. Its arrays are views of shared memory: a kept column keeps the other columns' memory of its batch alive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from fondaco.core.errors import DataError, FieldNotFoundError
from fondaco.schema._arrow_buffers import UNITS, Bools, arrow_array, fixed_places, offsets_of, valid_entries
from fondaco.schema._code import CompiledCode
from fondaco.schema._encode import encode_array, encode_columns
from fondaco.schema._given import rows_of
from fondaco.schema._nodes import Layout, Node
from fondaco.schema._objects import numbers, objects, vectors
from fondaco.schema._run import Bytes, Decoded, Words, run
from fondaco.schema.arrow import arrow_type
from fondaco.schema.program import Program
from fondaco.schema.types import Array, Date, Fixed, Primitive, Time, Timestamp, Vector

if TYPE_CHECKING:
    from fondaco.schema.codec import Codec

__all__ = ["Column", "Columns", "decode_addresses", "decode_batch", "decode_list", "encode_array", "encode_columns"]

Column: TypeAlias = "np.ndarray[Any, Any]"
DEFAULT_BYTES_MAX = 256 << 20  # of a batch's defaults; a long one in a schema of some bytes would else fill memory
_FIXED_LIST = re.compile(r"fixed_size_list\[(\d+)\]")
_DURATION = re.compile(r"duration\[(\w+)\]")


class Columns(Mapping[str, Column]):
    """Decoded columns by field name, in the order asked for; `columns["clicks"]` is a NumPy array with one element a row.

    | field | array |
    |---|---|
    | boolean, int, long, float, double | bool, int32, int64, float32, float64, shape [rows] |
    | date, timestamp | datetime64[D], datetime64[ms, us or ns], shape [rows]; UTC, or local time as declared |
    | time of day, Arrow's duration | timedelta64[ms or us] since midnight; timedelta64, shape [rows] |
    | list declared as Arrow's fixed_size_list of numbers | as its numbers, shape [rows, size] |
    | vector | float32, float16 or bfloat16, shape [rows, dim]; int8 is dequantised to float32 |
    | all others | object, shape [rows]: the values that `Codec.decode` gives |

    Where a value is null or its row missing, the array is a `numpy.ma.MaskedArray`; otherwise a plain array. `arrow(name)` and `to_arrow()`
    give the same as Arrow, without a copy where Arrow has the same layout.
    """

    def __init__(
        self, compiled: CompiledCode, decoded: Decoded, found: Bools, missing: bool, arrow_schema: pa.Schema | None = None
    ) -> None:
        self._nodes, self._decoded = compiled.nodes, decoded
        self._found, self._missing = found, missing
        self._arrow_schema = arrow_schema
        self._arrays: dict[str, Column] = {}

    @classmethod
    def from_arrow(
        cls, batch: pa.RecordBatch | pa.Table, codec: Codec, fields: Sequence[str] | None = None, found: Bools | None = None
    ) -> Columns:
        """The columns that `to_arrow` gave, elsewhere: equal to those it was called on, and as lazy. Needs no kernel, so no numba.

        Args:
            batch: a column for each field, of the Arrow type that the field maps to. Its memory is used, not copied.
            codec: of the schema that the columns were read with.
            fields: which they are, in this order (None: all).
            found: bool, shape [rows]: False for rows that do not exist. None: all do.
        Raises:
            FieldNotFoundError: the schema has no such field. DataError: a column is not there or of another type; or `found` of another
            length.
        """
        from fondaco.schema._from_arrow import decoded_of

        compiled = codec.program.select(fields)
        found = np.ones(batch.num_rows, np.bool_) if found is None else found
        if found.shape != (batch.num_rows,):
            raise DataError(f"{batch.num_rows} rows, and {list(found.shape)} marks of which were found")
        return cls(compiled, decoded_of(compiled, batch), found, not found.all(), codec.arrow_schema)

    @classmethod
    def from_numbers(
        cls, columns: Sequence[tuple[Column, Bools | None]], codec: Codec, fields: Sequence[str] | None, found: Bools
    ) -> Columns:
        """As `from_arrow`, of columns that are nothing but numbers (`travels_raw`): what `columns[name]` gave and where it is valid."""
        from fondaco.schema._from_arrow import decoded_of_numbers

        compiled = codec.program.select(fields)
        if len(columns) != len(compiled.nodes):
            raise DataError(f"{len(columns)} columns where {len(compiled.nodes)} were asked for")
        return cls(compiled, decoded_of_numbers(compiled, columns, len(found)), found, not found.all(), codec.arrow_schema)

    @staticmethod
    def travels_raw(codec: Codec, fields: Sequence[str] | None) -> bool:
        """Whether these fields are numbers, moments and vectors of floats only, whose NumPy arrays hold all that there is."""
        from fondaco.schema._from_arrow import is_raw

        return all(map(is_raw, codec.program.select(fields).nodes.values()))

    @property
    def row_count(self) -> int:
        """How many rows were asked for, missing ones included."""
        return len(self._found)

    @property
    def found(self) -> Bools:
        """bool, shape [rows]: False for rows that do not exist. All True where rows were given as bytes."""
        return self._found

    def __getitem__(self, name: str) -> Column:
        """The column of field `name`.

        Raises:
            FieldNotFoundError: it is not among the decoded fields; suggests the nearest.
        """
        array = self._arrays.get(name)
        if array is None:
            node = self._node(name)
            array = self._arrays[name] = _numpy(node, self._decoded, self._valid(node))
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        """How many fields (not rows, see `row_count`)."""
        return len(self._nodes)

    def get(self, name: str, default: Any = None) -> Any:
        """The column of field `name`, or `default`."""
        return self[name] if name in self._nodes else default

    def valid(self, name: str) -> Bools:
        """bool, shape [rows]: where field `name` is not null and its row not missing."""
        node = self._node(name)
        valid = ~_union_nulls(node, self._decoded) if node.layout is Layout.UNION else self._valid(node)
        if node.layout is Layout.NULL:
            valid = np.zeros(self.row_count, np.bool_)
        return np.ones(self.row_count, np.bool_) if valid is None else valid.copy()

    def arrow(self, name: str) -> pa.Array:
        """Field `name` as an Arrow array with nulls, of the type that the schema was declared with or maps to."""
        node = self._node(name)
        return arrow_array(node, self._decoded, self._valid(node), arrow_type(node.type))

    def to_arrow(self) -> pa.RecordBatch:
        """All columns. A field that is not nullable in the schema becomes nullable where rows are missing."""
        arrays = [self.arrow(name) for name in self]
        fields = [
            pa.field(name, array.type, self._nodes[name].nullable or array.null_count > 0) for name, array in zip(self, arrays, strict=True)
        ]
        metadata = None
        if self._arrow_schema is not None:
            declared = [self._arrow_schema.field(name) for name in self]
            fields = [field.with_metadata(origin.metadata) for field, origin in zip(fields, declared, strict=True)]
            metadata = self._arrow_schema.metadata
        if not fields:
            rows = pa.array([{}] * self.row_count, pa.struct([]))  # a batch of rows without columns cannot be made otherwise
            return pa.RecordBatch.from_struct_array(rows).replace_schema_metadata(metadata)
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata))

    def __repr__(self) -> str:
        missing = f", {self.row_count - int(np.count_nonzero(self._found))} missing" if self._missing else ""
        return f"Columns({self.row_count} rows{missing}: {', '.join(self._nodes)})"

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            raise FieldNotFoundError(name, tuple(self._nodes), "the decoded columns")
        return node

    def _valid(self, node: Node) -> Bools | None:
        """Which entries of a column are neither null nor missing; None: all."""
        if node.validity is None:  # a union's missing rows are nulls of one of its branches, a null column's are null anyway
            return self._found if self._missing and node.layout not in (Layout.NULL, Layout.UNION) else None
        return valid_entries(node, self._decoded)


# -- decoding -----------------------------------------------------------------------------------------------------------------------


def decode_addresses(
    program: Program, starts: Words, ends: Words, fields: Sequence[str] | None = None, arrow_schema: pa.Schema | None = None
) -> Columns:
    """Decode rows that lie anywhere in memory, such as in several memory maps.

    Args:
        starts, ends: int64, shape [rows]: absolute addresses of each row's first byte and of the byte after its last. A start of 0 is a
            missing row: not found, null in every column. The caller keeps the memory alive and mapped during the call.
        fields: what to decode (None: all); the others are passed over.
        arrow_schema: of the reader's schema (`arrow.to_arrow`); its metadata is passed on by `Columns.to_arrow`.
    Raises:
        DecodeError: bytes that are not a row; names row, byte and field. FieldNotFoundError: no such field.
        DataError: one column of the batch would hold more than 2 GiB of text or 2**31 items, or defaults would take more than 256 MiB.
    """
    compiled = _affordable(program.select(fields), len(starts))
    starts, ends = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(ends, np.int64)
    if starts.shape != ends.shape or starts.ndim != 1:
        raise DataError(f"starts and ends are one-dimensional and of one length, not {starts.shape} and {ends.shape}")
    found = starts != 0
    missing = not found.all()
    return Columns(compiled, run(compiled, starts, ends, missing), found, missing, arrow_schema)


def decode_batch(
    program: Program,
    data: bytes | bytearray | memoryview | Bytes,
    offsets: Words,
    fields: Sequence[str] | None = None,
    arrow_schema: pa.Schema | None = None,
) -> Columns:
    """Decode rows that lie one after the other: row i is `data[offsets[i]:offsets[i + 1]]`.

    Args:
        data: bytes, or uint8. offsets: int64, shape [rows + 1], non-decreasing, within `data`.
    Raises:
        As `decode_addresses`; DataError for offsets that do not fit `data`.
    """
    buffer = np.frombuffer(data, np.uint8) if len(data) else np.empty(1, np.uint8)
    offsets = np.ascontiguousarray(offsets, np.int64)
    if offsets.ndim != 1 or len(offsets) == 0:
        raise DataError(f"offsets have the shape [rows + 1], not {list(offsets.shape)}")
    if offsets[0] < 0 or offsets[-1] > len(data) or (offsets[1:] < offsets[:-1]).any():
        raise DataError(f"offsets must not decrease and stay within the {len(data)} bytes of data")
    compiled = _affordable(program.select(fields), len(offsets) - 1)
    places = offsets + buffer.ctypes.data
    decoded = run(compiled, places[:-1], places[1:], missing=False)
    return Columns(compiled, decoded, np.ones(len(places) - 1, np.bool_), False, arrow_schema)


def decode_list(
    program: Program,
    rows: Iterable[bytes] | pa.Array | pa.ChunkedArray,
    fields: Sequence[str] | None = None,
    arrow_schema: pa.Schema | None = None,
) -> Columns:
    """Decode one row from each bytes object. They are joined first, which costs less than asking each for its address.

    Args:
        rows: iterable of bytes, or an Arrow array of binary.
    Raises:
        As `decode_addresses`; InputError for an item that is no bytes.
    """
    data, offsets = rows_of(rows)
    return decode_batch(program, data, offsets, fields, arrow_schema)


def _affordable(compiled: CompiledCode, row_count: int) -> CompiledCode:
    """`compiled`, unless the defaults of fields that the rows lack would take memory out of all proportion to the rows."""
    if compiled.default_bytes * row_count > DEFAULT_BYTES_MAX:
        raise DataError(
            f"the defaults of fields that {row_count} rows lack would take {compiled.default_bytes} bytes a row, more than "
            f"{DEFAULT_BYTES_MAX >> 20} MiB together; ask for fewer rows at a time, or leave those fields out"
        )
    return compiled


# -- NumPy --------------------------------------------------------------------------------------------------------------------------


def _numpy(node: Node, decoded: Decoded, valid: Bools | None) -> Column:
    kind = node.type
    values = None
    if isinstance(kind, Fixed) and isinstance(kind.logical, Vector):
        values = vectors(node, decoded)
    elif _is_number(node):
        assert isinstance(kind, Primitive)
        values = times_of(kind, numbers(node, decoded))
    elif isinstance(kind, Array):
        values = _fixed_lists(kind, node, decoded, valid)
    if values is None:
        return _object_array(node, decoded, valid)
    if valid is None:
        return values
    mask = ~valid if values.ndim == 1 else np.broadcast_to(~valid[:, None], values.shape)
    return np.ma.MaskedArray(values, mask)


def _is_number(node: Node) -> bool:
    kind = node.type
    plain = isinstance(kind, Primitive) and (kind.logical is None or isinstance(kind.logical, Date | Time | Timestamp))
    return plain and node.layout is Layout.VALUES


def times_of(kind: Primitive, stored: Column) -> Column:
    """Stored numbers as the moments that they mean, if they mean some."""
    match kind.logical:
        case Date():
            return stored.astype("<M8[D]")
        case Time(unit):
            return stored.astype(f"<m8[{UNITS[unit]}]")
        case Timestamp(unit):
            return stored.view(f"<M8[{UNITS[unit]}]")
    duration = _DURATION.fullmatch(str(kind.properties.get("arrow"))) if kind.kind == "long" else None
    return stored.view(f"<m8[{duration[1]}]") if duration else stored


def _fixed_lists(kind: Array, node: Node, decoded: Decoded, valid: Bools | None) -> Column | None:
    """An array declared as a fixed-size list of numbers, shape [rows, size]; None for any other."""
    size = _FIXED_LIST.fullmatch(str(kind.properties.get("arrow")))
    (child,) = node.children
    if size is None or not _is_number(child) or valid_entries(child, decoded) is not None:
        return None
    assert isinstance(child.type, Primitive)
    items = times_of(child.type, numbers(child, decoded))
    offsets = offsets_of(node, decoded)
    places = fixed_places(node, offsets, valid, int(size[1]))
    rows: Column = items[places] if len(places) else np.zeros((len(offsets) - 1) * int(size[1]), items.dtype)
    return rows.reshape(len(offsets) - 1, int(size[1]))


def _object_array(node: Node, decoded: Decoded, valid: Bools | None) -> Column:
    values = objects(node, decoded, valid)
    array = np.fromiter(values, object, len(values))  # np.array would take lists of one length for a second dimension
    if node.layout is Layout.UNION:
        nulls = _union_nulls(node, decoded)
        return np.ma.MaskedArray(array, nulls) if nulls.any() else array
    if node.layout is Layout.NULL:
        return np.ma.MaskedArray(array, np.ones(len(values), np.bool_))
    return array if valid is None else np.ma.MaskedArray(array, ~valid)


def _union_nulls(node: Node, decoded: Decoded) -> Bools:
    """Which entries of a dense union are null: of the null branch, or null in theirs (a missing row)."""
    count = decoded.counts[node.scope]
    child = node.children[node.null_branch]
    nulls: Bools = decoded.buffer(node.buffers[0])[:count] == node.null_branch
    if child.layout is Layout.NULL:
        return nulls
    valid = valid_entries(child, decoded)
    if valid is None:
        return np.zeros(count, np.bool_)
    places = decoded.buffer(node.buffers[1])[: 4 * count].view("<i4")
    result = np.zeros(count, np.bool_)
    result[nulls] = ~valid[places[nulls]]
    return result
