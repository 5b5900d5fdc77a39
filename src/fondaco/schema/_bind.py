"""Binding: an Avro type and the Arrow array that holds its values become instructions for the encode kernel.

The code is made anew for each batch, because it holds the addresses of that batch's buffers; that costs microseconds a column. While it is
made, the most bytes that the batch can take are added up, so the kernel writes without looking for room.

What cannot be known from the Arrow types (nulls, ranges, symbols, text) becomes a check in the code; what can (a column of another type) is
refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fondaco.core.errors import ColumnNotFoundError
from fondaco.schema import _ops as o
from fondaco.schema._default_bytes import default_bytes
from fondaco.schema._expected import expected_column, expected_value
from fondaco.schema._nodes import member_path
from fondaco.schema._normal import (
    Marks,
    Normal,
    Words,
    bfloat16,
    bitmap,
    cast,
    entries_of,
    floats,
    list_ranges,
    map_ranges,
    plain,
    repeated_keys,
    text_ranges,
    union_parts,
    value_address,
)
from fondaco.schema.logical import time_range
from fondaco.schema.types import (
    Array,
    Date,
    Decimal,
    Duration,
    Enum,
    Fixed,
    Map,
    Primitive,
    Record,
    Time,
    Timestamp,
    Type,
    Union,
    Uuid,
    Vector,
)
from fondaco.schema.wire import encode_long

LENGTH_BYTES: Final = 10  # a varint at most
_UNITS = {"millis": "ms", "micros": "us", "nanos": "ns"}
_NARROW_INTS: Final = {"int8": (-(1 << 7), (1 << 7) - 1), "int16": (-(1 << 15), (1 << 15) - 1), "uint8": (0, (1 << 8) - 1)} | {
    "uint16": (0, (1 << 16) - 1),
    "uint32": (0, (1 << 32) - 1),
}
_FIXED_LIST: Final = re.compile(r"fixed_size_list\[(\d+)\]")
_INT = (-(1 << 31), (1 << 31) - 1)
_LONG = (-(1 << 63), (1 << 63) - 1)


@dataclass(frozen=True, slots=True)
class Step:
    """A step on the way to a value: a field's name, or `keys` None for the items of an array, else of a map."""

    name: str | None
    keys: pa.Array | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """What an instruction works on, for its errors."""

    way: tuple[Step, ...]
    array: pa.Array | None
    expected: str


class WrongTypeError(Exception):
    """A column's Arrow type cannot hold values of the Avro type. Becomes a RowError."""

    def __init__(self, way: tuple[Step, ...], array: pa.Array, expected: str) -> None:
        super().__init__(str(array.type), expected)
        self.way, self.array, self.expected = way, array, expected


@dataclass(eq=False, slots=True)
class Binding:
    """Instructions for one batch. `keep` holds the arrays whose addresses the code has."""

    code: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)
    bytes_max: int = 0
    frames_max: int = 0


class Binder:
    """Emits the code of one batch; `binding` is the result."""

    def __init__(self) -> None:
        self.binding = Binding()
        self._way: tuple[Step, ...] = ()
        self._site = Site((), None, "")
        self._frames = 0

    def record(self, kind: Record, columns: Mapping[str, pa.Array], count: int) -> None:
        """Code for the fields of `kind` from columns of the same names; a column that is absent is its field's default.

        Raises:
            ColumnNotFoundError: a field has neither column nor default.
        """
        for member in kind.fields:
            with self._to(Step(member.name)):
                array = columns.get(member.name)
                if array is not None:
                    if len(self._way) == 1:
                        array.validate()  # children included
                    self.value(member.type, array)
                elif member.has_default:
                    self._constant(default_bytes(member), count)
                else:
                    raise ColumnNotFoundError(member.name, tuple(columns), _show_way(self._way[:-1]) or "the table")

    def column(self, kind: Type, name: str, array: pa.Array) -> None:
        """Code for the values of one array that is no record's field."""
        with self._to(Step(name)):
            array.validate()
            self.value(kind, array)

    @property
    def path(self) -> str:
        """Where the binder is, or was when it gave up."""
        return _show_way(self._way)

    def finish(self) -> Binding:
        """The code, complete."""
        self._emit(o.PUT_END)
        return self.binding

    # -- instructions -----------------------------------------------------------------------------------------------------------

    def _emit(self, op: int, *operands: int) -> int:
        word = len(self.binding.code)
        self.binding.code += [op, *operands, *[0] * (o.WIDTH - 1 - len(operands))]
        self.binding.sites.append(self._site)
        return word

    def _here(self) -> int:
        return len(self.binding.code)

    def _room(self, count: int, each: int, more: int = 0) -> None:
        self.binding.bytes_max += count * each + more

    def _keep(self, array: Any) -> Any:
        self.binding.keep.append(array)
        return array

    def _address(self, words: np.ndarray[Any, Any]) -> int:
        return int(self._keep(words).ctypes.data)

    @contextmanager
    def _to(self, step: Step) -> Iterator[None]:
        outer, self._way = self._way, (*self._way, step)
        yield
        self._way = outer

    def _constant(self, data: bytes, count: int) -> None:
        if data:
            self._emit(o.PUT_CONSTANT, self._address(np.frombuffer(data, np.uint8)), len(data))
            self._room(count, len(data))

    def _check_marks(self, marks: Marks | None) -> None:
        if marks is not None and marks.any():
            self._emit(o.REFUSE_MARKED, self._address(marks.view(np.uint8)))

    def _wrong(self, array: pa.Array, kind: Type) -> WrongTypeError:
        return WrongTypeError(self._way, array, expected_column(kind))

    # -- values -----------------------------------------------------------------------------------------------------------------

    def value(self, kind: Type, array: pa.Array) -> None:
        """Code for one entry of `array`, nulls included."""
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        array = _unwrapped(array, kind)
        self._keep(array)
        self._site = Site(self._way, array, expected_value(kind))
        if isinstance(kind, Union):
            self._union(kind, array)
        elif pa.types.is_null(array.type):
            if not _is_null(kind):
                self._emit(o.REQUIRE, self._address(np.zeros(len(array) // 8 + 1, np.uint8)), 0)
        else:
            if array.null_count and not _is_null(kind):
                self._require(array)
            self._present(kind, array)

    def _require(self, array: pa.Array) -> None:
        if pa.types.is_union(array.type):
            raise WrongTypeError(self._way, array, self._site.expected)
        self._emit(o.REQUIRE, *bitmap(array, 0))

    def _present(self, kind: Type, array: pa.Array) -> None:
        """Code for an entry that is not null."""
        match kind:
            case Primitive("null"):
                bits = bitmap(array, 0) if array.null_count else (0, 0)
                self._emit(o.REQUIRE_NULL, *bits)
            case Primitive() | Fixed() if kind.logical is not None:
                self._logical(kind, array)
            case Primitive():
                self._primitive(kind, array)
            case Fixed():
                self._fixed(kind, array)
            case Enum():
                self._enum(kind, array)
            case Array():
                self._array(kind, array)
            case Map():
                self._map(kind, array)
            case Record():
                if not pa.types.is_struct(array.type):
                    raise self._wrong(array, kind)
                names = [array.type.field(index).name for index in range(array.type.num_fields)]
                self.record(kind, {name: array.field(index) for index, name in enumerate(names)}, len(array))

    def _primitive(self, kind: Primitive, array: pa.Array) -> None:
        count, arrow = len(array), array.type
        match kind.kind:
            case "boolean" if pa.types.is_boolean(arrow):
                self._emit(o.PUT_BOOLEAN, *bitmap(array, 1))
                self._room(count, 1)
            case "int" | "long" if pa.types.is_integer(arrow):
                self._integer(kind, array)
            case "long" if pa.types.is_duration(arrow) and str(kind.properties.get("arrow")).startswith("duration["):
                unit = str(kind.properties["arrow"])[len("duration[") : -1]
                self._temporal(cast(array, pa.duration(unit)), pa.int64(), *_LONG)
            case "float" | "double" if pa.types.is_floating(arrow) or pa.types.is_integer(arrow):
                self._numbers(floats(array, pa.float32() if kind.kind == "float" else pa.float64()), 4 if kind.kind == "float" else 8)
            case "string" if _is_text(arrow):
                self._text(o.PUT_TEXT, array)
            case "bytes" if _is_binary(arrow):
                self._text(o.PUT_BYTES, array)
            case "bytes" if pa.types.is_fixed_size_binary(arrow):
                self._emit(o.PUT_SIZED, value_address(array, arrow.byte_width), arrow.byte_width)
                self._room(count, LENGTH_BYTES + arrow.byte_width)
            case _:
                raise self._wrong(array, kind)

    def _integer(self, kind: Primitive, array: pa.Array) -> None:
        declared = _NARROW_INTS.get(str(kind.properties.get("arrow")))
        low, high = declared or (_INT if kind.kind == "int" else _LONG)
        source = array.type
        if pa.types.is_uint64(source):  # values from 2**63 show as negative
            array, low = array.view(pa.int64()), max(low, 0)
        elif source not in (pa.int32(), pa.int64()):
            array = self._keep(array.cast(pa.int64() if pa.types.is_uint32(source) else pa.int32()))
        self._put_integer(array, low, high)

    def _put_integer(self, array: pa.Array, low: int, high: int) -> None:
        """Varints of an int32 or int64 array whose values must lie within `low` and `high`."""
        width = array.type.bit_width // 8
        address = value_address(array, width)
        if (low, high) == _LONG or (width == 4 and (low, high) == _INT):
            self._emit(o.PUT_INT64 if width == 8 else o.PUT_INT32, address)
        else:
            self._emit(o.PUT_WITHIN, address, width, low, high)
        self._room(len(array), LENGTH_BYTES if width == 8 else 5)

    def _numbers(self, normal: Normal, width: int) -> None:
        self._check_marks(normal.marks)
        self._emit(o.PUT_FIXED, value_address(self._keep(normal.array), width), width)
        self._room(len(normal.array), width)

    def _text(self, op: int, array: pa.Array) -> None:
        offsets, data = text_ranges(array)
        self._emit(op, self._address(offsets), data)
        self._room(len(array), LENGTH_BYTES, int(offsets[-1]))

    def _fixed(self, kind: Fixed, array: pa.Array) -> None:
        count, arrow = len(array), array.type
        if pa.types.is_fixed_size_binary(arrow) and arrow.byte_width == kind.size:
            self._emit(o.PUT_FIXED, value_address(array, kind.size), kind.size)
        elif _is_binary(arrow):
            offsets, data = text_ranges(array)
            self._emit(o.PUT_EXACT, self._address(offsets), data, kind.size)
        else:
            raise self._wrong(array, kind)
        self._room(count, kind.size)

    def _enum(self, kind: Enum, array: pa.Array) -> None:
        symbols = pa.array(kind.symbols, pa.string())
        if pa.types.is_dictionary(array.type) and _is_text(array.dictionary.type):
            places = pc.index_in(array.dictionary.cast(pa.string()), symbols).fill_null(-1).to_numpy()
            wanted = array.indices.fill_null(0).to_numpy()
            indices = places[wanted] if len(places) else np.full(len(array), -1, np.int32)
        elif _is_text(array.type):
            indices = pc.index_in(array.cast(pa.string()), symbols).fill_null(-1).to_numpy()
        else:
            raise self._wrong(array, kind)
        self._emit(o.PUT_ENUM, self._address(np.ascontiguousarray(indices, np.int32)))
        self._room(len(array), LENGTH_BYTES)

    # -- logical types ----------------------------------------------------------------------------------------------------------

    def _logical(self, kind: Primitive | Fixed, array: pa.Array) -> None:
        arrow = array.type
        match kind.logical:
            case Decimal() if pa.types.is_decimal(arrow):
                self._decimal(kind, kind.logical, array)
            case Uuid():
                self._uuid(kind, array)
            case Date() if pa.types.is_date(arrow):
                self._temporal(cast(array, pa.date32()), pa.int32(), *_time_range(kind))
            case Time(unit) if pa.types.is_time(arrow):
                wanted = pa.time32("ms") if unit == "millis" else pa.time64(_UNITS[unit])
                self._temporal(cast(array, wanted), pa.int32() if unit == "millis" else pa.int64(), *_time_range(kind))
            case Timestamp(unit, local) if pa.types.is_timestamp(arrow) and (arrow.tz is None) == local:
                self._temporal(cast(array, pa.timestamp(_UNITS[unit], arrow.tz)), pa.int64(), *_time_range(kind))
            case Duration() if arrow == pa.month_day_nano_interval():
                self._emit(o.PUT_DURATION, value_address(array, 16))
                self._room(len(array), 12)
            case Vector() as vector:
                assert isinstance(kind, Fixed)
                self._vector(kind, vector, array)
            case Duration():
                assert isinstance(kind, Fixed)
                self._fixed(kind, array)
            case _:
                raise self._wrong(array, kind)

    def _temporal(self, normal: Normal, stored: pa.DataType, low: int, high: int) -> None:
        self._check_marks(normal.marks)
        self._put_integer(self._keep(normal.array.view(stored)), low, high)

    def _decimal(self, kind: Primitive | Fixed, logical: Decimal, array: pa.Array) -> None:
        width = 16 if logical.precision <= 38 and array.type.precision <= 38 else 32
        wide = pa.decimal128(38, logical.scale) if width == 16 else pa.decimal256(76, logical.scale)
        normal = cast(array, wide)
        self._check_marks(normal.marks)
        bound = 10**logical.precision - 1
        words = b"".join(value.to_bytes(width, "little", signed=True) for value in (-bound, bound))
        table = self._table(np.frombuffer(words, np.int64).tolist())
        address = value_address(self._keep(normal.array), width)
        if isinstance(kind, Fixed):
            self._emit(o.PUT_DECIMAL_FIXED, address, width, table, kind.size)
            self._room(len(array), kind.size)
        else:
            self._emit(o.PUT_DECIMAL, address, width, table)
            self._room(len(array), LENGTH_BYTES + width)

    def _uuid(self, kind: Primitive | Fixed, array: pa.Array) -> None:
        arrow = array.type
        if pa.types.is_fixed_size_binary(arrow) and arrow.byte_width == 16:
            if isinstance(kind, Fixed):
                self._emit(o.PUT_FIXED, value_address(array, 16), 16)
            else:
                self._emit(o.PUT_UUID, value_address(array, 16))
        elif _is_text(arrow):
            offsets, data = text_ranges(array)
            self._emit(o.PUT_UUID_TEXT, self._address(offsets), data, int(isinstance(kind, Fixed)))
        else:
            raise self._wrong(array, kind)
        self._room(len(array), 64)

    def _vector(self, kind: Fixed, logical: Vector, array: pa.Array) -> None:
        arrow = array.type
        if pa.types.is_fixed_size_binary(arrow) or _is_binary(arrow):
            self._fixed(kind, array)
            return
        if pa.types.is_struct(arrow) and logical.dtype == "int8":
            self._scaled(kind, logical, array)
            return
        if not _is_list(arrow):
            raise self._wrong(array, kind)
        ranges = list_ranges(array)
        items, item_bytes, marks = self._vector_items(kind, logical, ranges.items, array)
        wrong = np.diff(ranges.offsets) != logical.dim
        entries = wrong if marks is None else wrong | entries_of(marks, ranges.offsets)
        self._check_marks(entries)
        starts = self._address(ranges.offsets) if wrong.any() else 0
        address = value_address(self._keep(items), item_bytes)
        if logical.dtype == "int8":
            self._emit(o.PUT_QUANTIZED, address, starts, logical.dim)
        else:
            self._emit(o.PUT_VECTOR, address, starts, kind.size, item_bytes)
        self._room(len(array), kind.size)

    def _vector_items(self, kind: Fixed, logical: Vector, items: pa.Array, array: pa.Array) -> tuple[pa.Array, int, Marks | None]:
        """The numbers of all vectors as the row wants them, the bytes of one, and which must not be met."""
        nulls = items.is_null().to_numpy(zero_copy_only=False) if items.null_count else None
        if logical.dtype == "bfloat16" and pa.types.is_uint16(items.type):
            return items, 2, nulls  # the bits themselves, as they were read
        if not (pa.types.is_floating(items.type) or pa.types.is_integer(items.type)):
            raise self._wrong(array, kind)
        normal = floats(items, pa.float16() if logical.dtype == "float16" else pa.float32())
        marks = _either(nulls, normal.marks)
        if logical.dtype == "bfloat16":
            normal = bfloat16(normal.array)
            marks = _either(marks, normal.marks)
        return normal.array, 2 if logical.dtype in ("float16", "bfloat16") else 4, marks

    def _scaled(self, kind: Fixed, logical: Vector, array: pa.Array) -> None:
        arrow = array.type
        names = [arrow.field(index).name for index in range(arrow.num_fields)]
        if sorted(names) != ["scale", "values"]:
            raise self._wrong(array, kind)
        scales, values = array.field("scale"), array.field("values")
        if scales.type != pa.float32() or values.type.id != pa.list_(pa.int8(), 1).id or values.type.list_size != logical.dim:
            raise self._wrong(array, kind)
        numbers = values.values.slice(values.offset * logical.dim, len(values) * logical.dim)
        if numbers.type != pa.int8():
            raise self._wrong(array, kind)
        holes = np.zeros(len(array), np.bool_)
        for child in (scales, values):
            if child.null_count:
                holes |= child.is_null().to_numpy(zero_copy_only=False)
        if numbers.null_count:
            holes |= numbers.is_null().to_numpy(zero_copy_only=False).reshape(len(array), logical.dim).any(axis=1)
        self._check_marks(holes)
        self._emit(o.PUT_SCALED, value_address(self._keep(scales), 4), value_address(self._keep(numbers), 1), logical.dim)
        self._room(len(array), kind.size)

    # -- collections and unions -------------------------------------------------------------------------------------------------

    def _array(self, kind: Array, array: pa.Array) -> None:
        if not _is_list(array.type):
            raise self._wrong(array, kind)
        ranges = list_ranges(array)
        items = ranges.items
        size = _FIXED_LIST.fullmatch(str(kind.properties.get("arrow")))
        if size is not None:
            self._check_marks(np.diff(ranges.offsets) != int(size[1]))
        self._room(len(array), LENGTH_BYTES + 1)
        if isinstance(kind.items, Primitive) and kind.items.kind in ("float", "double") and pa.types.is_floating(plain(items).type):
            self._float_array(kind.items.kind, ranges.offsets, plain(items))
        else:
            with self._items(ranges.offsets, Step(None)):
                self.value(kind.items, items)

    def _float_array(self, kind: str, offsets: Words, items: pa.Array) -> None:
        width = 4 if kind == "float" else 8
        normal = floats(items, pa.float32() if width == 4 else pa.float64())
        marks = _either(items.is_null().to_numpy(zero_copy_only=False) if items.null_count else None, normal.marks)
        if marks is not None:
            self._check_marks(entries_of(marks, offsets))
        self._emit(o.PUT_ARRAY, self._address(offsets), value_address(self._keep(normal.array), width), width)
        self._room(len(items), width)

    def _map(self, kind: Map, array: pa.Array) -> None:
        if not pa.types.is_map(array.type) or not _is_text(plain(array.keys.slice(0, 0)).type):
            raise self._wrong(array, kind)
        offsets, keys, items = map_ranges(array)
        self._room(len(array), LENGTH_BYTES + 1)
        keys = self._keep(plain(keys))
        self._check_marks(repeated_keys(offsets, keys))
        with self._items(offsets, Step(None, keys)):
            self._site = Site(self._way, keys, "text that UTF-8 can encode")
            self._text(o.PUT_TEXT, keys)
            self.value(kind.values, items)

    @contextmanager
    def _items(self, offsets: Words, step: Step) -> Iterator[None]:
        """Around the code for one item: the loop over the items of an entry."""
        word = self._emit(o.PUT_LIST, self._address(offsets))
        body = self._here()
        with self._to(step), self._frame():
            yield
        self._emit(o.PUT_NEXT, body)
        self.binding.code[word + 2] = self._here()

    @contextmanager
    def _frame(self) -> Iterator[None]:
        self._frames += 1
        self.binding.frames_max = max(self.binding.frames_max, self._frames)
        yield
        self._frames -= 1

    def _union(self, kind: Union, array: pa.Array) -> None:
        if pa.types.is_union(array.type):
            self._choice(kind, array)
            return
        null = kind.null_index
        if pa.types.is_null(array.type):
            if null is None:
                self._emit(o.REQUIRE, self._address(np.zeros(len(array) // 8 + 1, np.uint8)), 0)
            else:
                self._constant(encode_long(null), len(array))
            return
        index = self._fitting_branch(kind, array)
        with self._nullable(array, index, null):
            self._present(kind.branches[index], array)

    @contextmanager
    def _nullable(self, array: pa.Array, index: int, null: int | None) -> Iterator[None]:
        """Around the code for a value of branch `index`: writes the branch index, that of `null` where there is none."""
        if array.null_count == 0 or pa.types.is_null(array.type):
            self._constant(encode_long(index), len(array))
            yield
            return
        if null is None:
            self._require(array)
            self._constant(encode_long(index), len(array))
            yield
            return
        word = self._emit(o.PUT_OPTIONAL, *bitmap(array, 0), null, index)
        self._room(len(array), 2)
        yield
        self.binding.code[word + 5] = self._here()

    def _fitting_branch(self, kind: Union, array: pa.Array) -> int:
        """The first branch that columns of the type of `array` can hold."""
        candidates = [index for index in range(len(kind.branches)) if index != kind.null_index]
        if len(candidates) == 1:
            return candidates[0]
        for index in candidates:
            trial = Binder()
            try:
                trial._present(kind.branches[index], _unwrapped(array.slice(0, 0), kind.branches[index]))
            except (WrongTypeError, ColumnNotFoundError):
                continue
            return index
        raise self._wrong(array, kind)

    def _choice(self, kind: Union, array: pa.Array) -> None:
        """A union of both sides: the branches in the same order."""
        arrow = array.type
        if arrow.num_fields != len(kind.branches):
            raise self._wrong(array, kind)
        codes, child_places = union_parts(array)
        places = np.zeros(len(array), np.int64)
        table = self._table([0] * 128)
        self._emit(o.CHOOSE, self._address(codes), self._address(places), table)
        jumps, site = [], self._site
        for index, (code, branch) in enumerate(zip(arrow.type_codes, kind.branches, strict=True)):
            here = np.flatnonzero(codes == code)
            places[here] = np.arange(len(here))
            child = array.field(index)
            child = child.take(pa.array(here if child_places is None else child_places[here]))
            self.binding.tables[table + code] = self._here()
            with self._frame():
                self._branch(branch, index, child, kind.null_index)
            self._site = site
            self._emit(o.CHOOSE_END)
            jumps.append(self._emit(o.PUT_JUMP))
        for word in jumps:
            self.binding.code[word + 1] = self._here()

    def _branch(self, kind: Type, index: int, child: pa.Array, null: int | None) -> None:
        child = self._keep(_unwrapped(child, kind))
        if _is_null(kind):
            self._constant(encode_long(index), len(child))
            return
        self._site = Site(self._way, child, expected_value(kind))
        with self._nullable(child, index, null):
            self._present(kind, child)

    def _table(self, values: Sequence[int]) -> int:
        self.binding.tables += values
        return len(self.binding.tables) - len(values)


# -- columns of another type --------------------------------------------------------------------------------------------------------


def _unwrapped(array: pa.Array, kind: Type) -> pa.Array:
    """`array` without encodings, but for the dictionary of an enum, whose symbols are looked up once each."""
    targets = kind.branches if isinstance(kind, Union) else (kind,)
    if pa.types.is_dictionary(array.type) and any(isinstance(target, Enum) for target in targets):
        return array
    return plain(array)


def _time_range(kind: Primitive | Fixed) -> tuple[int, int]:
    bounds = time_range(kind)
    assert bounds is not None, kind
    return bounds


def _is_null(kind: Type) -> bool:
    return isinstance(kind, Primitive) and kind.kind == "null"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _either(left: Marks | None, right: Marks | None) -> Marks | None:
    return left if right is None else right if left is None else left | right


def _show_way(way: Sequence[Step]) -> str:
    path = ""
    for step in way:
        path = f"{path}[]" if step.name is None else member_path(path, step.name)
    return path
