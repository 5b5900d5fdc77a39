"""Kernels of writes: envelopes before rows, patches out of columns, and writes put in order of their partitions.

Each has a plain reference in tests/store/test_writer.py or test_incremental.py. They take addresses (`core.memory`); bounds are the
callers' affair. Pure functions of memory, without the GIL.
"""

# mypy: disable-error-code="no-any-return, untyped-decorator"

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import copy_bytes, load_i64, store_i32, store_i64

I64Array = npt.NDArray[np.int64]

ENVELOPE_BYTES = 24
PATCH_BYTES = 8
EDIT_BYTES = 12


@njit(nogil=True, cache=True)
def put_envelopes(template: int, values: int, offsets: I64Array, first_sequence: int, step: int, out: int, out_offsets: I64Array) -> None:
    """Rows `values[offsets[i]:offsets[i + 1]]` behind envelopes: the 24 bytes at `template`, sequence `first_sequence + i * step`.

    `out` has room for all rows and 24 bytes for each; `out_offsets` [n + 1] is filled.
    """
    at = out
    out_offsets[0] = 0
    for i in range(offsets.size - 1):
        copy_bytes(at, template, ENVELOPE_BYTES)
        store_i64(at + 16, first_sequence + i * step)
        length = offsets[i + 1] - offsets[i]
        copy_bytes(at + ENVELOPE_BYTES, values + offsets[i], length)
        at += ENVELOPE_BYTES + length
        out_offsets[i + 1] = at - out


@njit(nogil=True, cache=True)
def put_patches(template: int, columns: I64Array, count: int, first_sequence: int, step: int, out: int, out_offsets: I64Array) -> None:
    """Patches that set the fields of `columns` in `count` rows, behind envelopes as in `put_envelopes`.

    columns: int64 [fields, 4]: addresses of the edit's header with its path, the header's and path's length, addresses of the values and
    of their offsets (int64 [count + 1]). `out` has room for all.
    """
    at = out
    out_offsets[0] = 0
    fields = columns.shape[0]
    for i in range(count):
        copy_bytes(at, template, ENVELOPE_BYTES)
        store_i64(at + 16, first_sequence + i * step)
        at += ENVELOPE_BYTES
        store_i32(at, fields)
        store_i32(at + 4, 0)
        at += PATCH_BYTES
        for k in range(fields):
            offsets = columns[k, 3] + 8 * i
            start = load_i64(offsets)
            length = load_i64(offsets + 8) - start
            head = columns[k, 1]
            copy_bytes(at, columns[k, 0], head)
            store_i32(at + 8, length)  # the last field of the edit's header: bytes of data
            copy_bytes(at + head, columns[k, 2] + start, length)
            at += head + length
        out_offsets[i + 1] = at - out


@njit(nogil=True, cache=True)
def take(data: int, offsets: I64Array, rows: I64Array, out: int, out_offsets: I64Array) -> None:
    """The slices of `rows`, in that order, one after the other; `out_offsets` [n + 1] is filled."""
    at = out
    out_offsets[0] = 0
    for i in range(rows.size):
        start = offsets[rows[i]]
        length = offsets[rows[i] + 1] - start
        copy_bytes(at, data + start, length)
        at += length
        out_offsets[i + 1] = at - out


@njit(nogil=True, cache=True)
def order_by_partition(partitions: I64Array, bounds: I64Array, order: I64Array) -> None:
    """Rows in order of their partitions, and within one in their own: those of p are `order[bounds[p]:bounds[p + 1]]`.

    `bounds` [partitions + 1] is zero before.
    """
    for i in range(partitions.size):
        bounds[partitions[i] + 1] += 1
    for p in range(1, bounds.size):
        bounds[p] += bounds[p - 1]
    cursor = bounds[:-1].copy()
    for i in range(partitions.size):
        order[cursor[partitions[i]]] = i
        cursor[partitions[i]] += 1
