"""Kernels of features: copy the rows of nodes or edges out of the partitions' sections, to an address.

All take the packed table of a feature (`gathering.pack_feature`): int64 [P + 1, 8], by partition the columns below; rows are by dense node
or edge id. The copy is bound by memory: several rows are asked for ahead of the one that is copied. A partition that is not held gives
zeros, lengths of 0 and no presence. References: tests/graph/reference.py. Bounds are the callers' affair. No GIL; any thread.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from fondaco.core.memory import copy_bytes, load_i64, load_u8, prefetch, store_i8, store_i64

RowArray = npt.NDArray[np.int32] | npt.NDArray[np.int64]
I64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# -- columns of a packed feature: first dense id of the partition (the last row has the end), addresses of its sections -----------------
START: Final = 0
DATA: Final = 1  # values of dense rows; of ragged ones their bytes, or the indices of sparse ones
OFFSETS: Final = 2  # int64 [rows + 1], of ragged rows
VALUES: Final = 3  # values of sparse rows
PRESENT: Final = 4  # uint8 [rows]; 0: every row is present
SCALE: Final = 7  # in the last row: partitions per 2^32 rows; no division finds the owner
COLUMNS: Final = 8

LINE: Final = 64


def _copy_line(typing_context: Any, target: Any, source: Any) -> Any:
    """64 bytes as one vector: the processor's widest moves, without a call."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(64), 8).as_pointer()
        line = builder.load(builder.inttoptr(args[1], vector), align=1)
        builder.store(line, builder.inttoptr(args[0], vector), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


copy_line: Any = intrinsic(_copy_line)


@njit(nogil=True, cache=True, inline="always")
def owner(feature: I64Array, row: int) -> int:
    """The partition that holds `row`."""
    partitions = feature.shape[0] - 1
    if partitions == 1:
        return 0
    p = row * feature[partitions, SCALE] >> 32  # ranges are nearly even, as hashes are
    while feature[p + 1, START] <= row:
        p += 1
    while feature[p, START] > row:
        p -= 1
    return p


@njit(nogil=True, cache=True)
def _fill_zeros(address: int, count: int) -> None:
    for at in range(address, address + count):
        store_i8(at, 0)


@njit(nogil=True, cache=True, inline="always")
def _source(feature: I64Array, row: int, row_bytes: int) -> int:
    p = owner(feature, row)
    data = feature[p, DATA]
    return data + (row - feature[p, START]) * row_bytes if data != 0 else 0


@njit(nogil=True, cache=True)
def gather_lines(feature: I64Array, rows: RowArray, row_bytes: int, out: int, stride: int, ahead: int) -> None:
    """Dense rows of a multiple of 64 bytes to out, out + stride, ... `ahead`: a power of two."""
    n = rows.size
    asked = np.empty(ahead, np.int64)  # a ring of the sources under way
    for i in range(n + ahead):
        slot = i & (ahead - 1)
        if i >= ahead:
            source = asked[slot]
            target = out + (i - ahead) * stride
            if source == 0:
                _fill_zeros(target, row_bytes)
            else:
                for at in range(0, row_bytes, LINE):
                    copy_line(target + at, source + at)
        if i < n:
            source = _source(feature, np.int64(rows[i]), row_bytes)
            asked[slot] = source
            for at in range(0, row_bytes, LINE):
                prefetch(source + at)


@njit(nogil=True, cache=True)
def gather_words(feature: I64Array, rows: RowArray, out: int, stride: int, ahead: int) -> None:
    """Dense rows of 8 bytes: ids, numbers."""
    n = rows.size
    asked = np.empty(ahead, np.int64)
    for i in range(n + ahead):
        slot = i & (ahead - 1)
        if i >= ahead:
            store_i64(out + (i - ahead) * stride, load_i64(asked[slot]) if asked[slot] != 0 else 0)
        if i < n:
            asked[slot] = _source(feature, np.int64(rows[i]), 8)
            prefetch(asked[slot])


@njit(nogil=True, cache=True)
def gather_rows(feature: I64Array, rows: RowArray, row_bytes: int, out: int, stride: int, ahead: int) -> None:
    """Dense rows of any width."""
    n = rows.size
    asked = np.empty(ahead, np.int64)
    for i in range(n + ahead):
        slot = i & (ahead - 1)
        if i >= ahead:
            if asked[slot] == 0:
                _fill_zeros(out + (i - ahead) * stride, row_bytes)
            else:
                copy_bytes(out + (i - ahead) * stride, asked[slot], row_bytes)
        if i < n:
            source = _source(feature, np.int64(rows[i]), row_bytes)
            asked[slot] = source
            for at in range(0, row_bytes, LINE):
                prefetch(source + at)


@njit(nogil=True, cache=True)
def take_present(feature: I64Array, rows: RowArray, present: BoolArray) -> None:
    """Whether each row has a value of its own, rather than the zeros of an absent one."""
    for i in range(rows.size):
        row = np.int64(rows[i])
        p = owner(feature, row)
        flags = feature[p, PRESENT]
        held = feature[p, DATA] != 0 or feature[p, OFFSETS] != 0
        present[i] = held and (flags == 0 or load_u8(flags + row - feature[p, START]) != 0)


@njit(nogil=True, cache=True)
def measure_ragged(feature: I64Array, rows: RowArray, offsets: I64Array) -> int:
    """Offsets of the rows' items one after the other, int64 [n + 1]. Returns how many items."""
    n = rows.size
    total = 0
    for i in range(n):
        if i + 8 < n:
            ahead = np.int64(rows[i + 8])
            q = owner(feature, ahead)
            prefetch(feature[q, OFFSETS] + 8 * (ahead - feature[q, START]))
        offsets[i] = total
        row = np.int64(rows[i])
        p = owner(feature, row)
        if feature[p, OFFSETS] != 0:
            at = feature[p, OFFSETS] + 8 * (row - feature[p, START])
            total += load_i64(at + 8) - load_i64(at)
    offsets[n] = total
    return total


@njit(nogil=True, cache=True)
def gather_ragged(feature: I64Array, rows: RowArray, column: int, item_bytes: int, offsets: I64Array, out: int) -> None:
    """Items of `item_bytes` from section `column` (DATA or VALUES), to where `offsets` of `measure_ragged` say."""
    for i in range(rows.size):
        count = offsets[i + 1] - offsets[i]
        if count > 0:
            row = np.int64(rows[i])
            p = owner(feature, row)
            first = load_i64(feature[p, OFFSETS] + 8 * (row - feature[p, START]))
            copy_bytes(out + offsets[i] * item_bytes, feature[p, column] + first * item_bytes, count * item_bytes)
