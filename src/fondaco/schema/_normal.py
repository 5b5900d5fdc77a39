"""Arrow arrays in the few forms that the encode kernel reads, and raw access to their buffers.

A column may come as any of several Arrow types (int8 for a long, string_view for a string, lists of doubles for a vector). Here each is
brought to one form, without a copy where it has it already. A value that would lose something is not an error yet, because it may lie under
a null; it is *marked*, and the kernel refuses the row if it meets a mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Words = np.ndarray[Any, np.dtype[np.int64]]
Marks = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Normal:
    """An array in a form that the kernel reads. `marks`: entries that do not fit it (shape [entries]), None: none."""

    array: pa.Array
    marks: Marks | None = None


@dataclass(frozen=True, slots=True)
class Ranges:
    """A list-like array: entry i holds `items[offsets[i]:offsets[i + 1]]`. int64, beginning at 0."""

    offsets: Words
    items: pa.Array


def plain(array: pa.Array) -> pa.Array:
    """Without encodings that only save room: dictionaries, runs, extension types, views."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array))
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    return array


def cast(array: pa.Array, kind: pa.DataType) -> Normal:
    """`array` as `kind`; entries that would lose something by it are marked (and null)."""
    if array.type == kind:
        return Normal(array)
    try:
        return Normal(array.cast(kind))
    except pa.ArrowInvalid:
        marks = np.array([not _castable(array.slice(index, 1), kind) for index in range(len(array))])
        kept = pc.if_else(pa.array(~marks), array, pa.scalar(None, array.type))
        return Normal(kept.cast(kind), marks)


def _castable(one: pa.Array, kind: pa.DataType) -> bool:
    try:
        one.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def floats(array: pa.Array, kind: pa.DataType) -> Normal:
    """Numbers as float16, float32 or float64, rounded to the nearest; finite numbers beyond the range are marked. Nulls may be lost."""
    if array.type == kind:
        return Normal(array)
    if pa.types.is_integer(array.type):
        return cast(array, kind)
    with np.errstate(over="ignore"):
        source = _numbers(array)
        rounded = source.astype(kind.to_pandas_dtype())
    lost = np.isinf(rounded) & np.isfinite(source)
    bitmap = (
        None if array.null_count == 0 else pa.py_buffer(np.packbits(array.is_valid().to_numpy(zero_copy_only=False), bitorder="little"))
    )
    result = pa.Array.from_buffers(kind, len(array), [bitmap, pa.py_buffer(rounded)])
    return Normal(result, lost if lost.any() else None)


def _numbers(array: pa.Array) -> np.ndarray[Any, Any]:
    """The stored numbers of a float array, whatever is null."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)


def bfloat16(array: pa.Array) -> Normal:
    """float32 numbers as the bits of the nearest bfloat16 (uint16)."""
    import ml_dtypes

    source = _numbers(array)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = source.astype(ml_dtypes.bfloat16)
    lost = np.isinf(rounded.astype(np.float32)) & np.isfinite(source)
    result = pa.Array.from_buffers(pa.uint16(), len(array), [None, pa.py_buffer(rounded.view(np.uint16))])
    return Normal(result, lost if lost.any() else None)


# -- buffers ------------------------------------------------------------------------------------------------------------------------


def value_address(array: pa.Array, width: int) -> int:
    """Address of the first entry's value; `width` bytes each."""
    data = array.buffers()[1]
    return 0 if data is None else int(data.address) + array.offset * width


def bitmap(array: pa.Array, place: int) -> tuple[int, int]:
    """Address of the bits in buffer `place` of `array`, and the number of the first entry's."""
    bits = array.buffers()[place]
    return (0, 0) if bits is None else (int(bits.address), array.offset)


def text_ranges(array: pa.Array) -> tuple[Words, int]:
    """Offsets of text or binary entries, int64 from 0, and the address that they count from."""
    data = array.buffers()[2]
    offsets = _offsets(array, 0 if data is None else data.size)
    return offsets - offsets[0], (0 if data is None else int(data.address)) + int(offsets[0])


def list_ranges(array: pa.Array) -> Ranges:
    """The items of a list, large list, fixed-size list, list view or map array."""
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        items = array.values.slice(array.offset * size, len(array) * size)
        return Ranges(np.arange(len(array) + 1, dtype=np.int64) * size, items)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):  # casting them to lists gives invalid arrays (pyarrow 26)
        lengths = pc.list_value_length(array).fill_null(0).to_numpy()
        return Ranges(np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))), array.flatten())
    offsets = _offsets(array, len(array.values))
    first, end = int(offsets[0]), int(offsets[-1])
    return Ranges(offsets - first, array.values.slice(first, end - first))


def map_ranges(array: pa.MapArray) -> tuple[Words, pa.Array, pa.Array]:
    """Offsets, keys and items of a map array."""
    offsets = _offsets(array, len(array.keys))
    first, count = int(offsets[0]), int(offsets[-1] - offsets[0])
    return offsets - first, array.keys.slice(first, count), array.items.slice(first, count)


def repeated_keys(offsets: Words, keys: pa.Array) -> Marks | None:
    """Entries of a map in which a key comes twice; None: none. A mapping holds one value a key, so the other would be lost."""
    lengths = np.diff(offsets)
    if lengths.max(initial=0) < 2:
        return None
    codes = keys.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    entries = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((codes, entries))
    same = (entries[order][1:] == entries[order][:-1]) & (codes[order][1:] == codes[order][:-1])
    marks = np.zeros(len(lengths), np.bool_)
    marks[entries[order][1:][same]] = True
    return marks


def union_parts(array: pa.UnionArray) -> tuple[np.ndarray[Any, np.dtype[np.int8]], np.ndarray[Any, np.dtype[np.int32]] | None]:
    """Type codes, and places in the children; None for a sparse union, whose entries have their own place in every child."""
    buffers, count = array.buffers(), len(array)
    if count == 0:
        return np.empty(0, np.int8), np.empty(0, np.int32)
    codes = np.frombuffer(buffers[1], np.int8, count, array.offset)
    if not np.isin(codes, array.type.type_codes).all():
        raise pa.ArrowInvalid("type codes of no child")
    if array.type.mode == "sparse":
        return codes, None
    return codes, np.frombuffer(buffers[2], np.int32, count, 4 * array.offset)  # `array.offsets` does not know of slices


def _offsets(array: pa.Array, limit: int) -> Words:
    """Offsets of the entries, int64. Checked, because the kernel goes by them: not decreasing, from 0 to `limit`."""
    buffer = array.buffers()[1]
    if buffer is None or buffer.size == 0:  # allowed for an array without entries
        return np.zeros(1, np.int64)
    kind = array.type
    wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) or pa.types.is_large_list(kind)
    dtype = np.dtype(np.int64 if wide else np.int32)
    offsets = np.frombuffer(buffer, dtype, len(array) + 1, array.offset * dtype.itemsize).astype(np.int64)
    if offsets[0] < 0 or offsets[-1] > limit or (offsets[1:] < offsets[:-1]).any():
        raise pa.ArrowInvalid(f"offsets that decrease or leave the {limit} entries of the values")
    return offsets


def entries_of(items: Marks, offsets: Words) -> Marks:
    """Entries of a list with a marked item."""
    marks = np.zeros(len(offsets) - 1, np.bool_)
    marks[np.searchsorted(offsets, np.flatnonzero(items), side="right") - 1] = True
    return marks
