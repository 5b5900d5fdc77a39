"""Kernels that divide rows among shards, put their answers together again, and write edges by local index.

Addresses as int64, no bounds checked (`core.memory`); each has a plain reference in tests/graph/test_executor.py. No GIL; any thread.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import copy_bytes, load_i64, prefetch, store_i64
from fondaco.graph._gather_kernels import DATA, LINE, START, copy_line, owner

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
RowArray = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@njit(nogil=True, cache=True, inline="always")
def _shard_of(uppers: I64Array, row: int) -> int:
    shard = 0
    while uppers[shard] <= row:
        shard += 1
    return shard


@njit(nogil=True, cache=True)
def divide(uppers: I64Array, rows: RowArray, order: I64Array, ends: I64Array) -> None:
    """Positions of `rows` grouped by shard, in order within one: those of shard s are order[ends[s]:ends[s + 1]].

    uppers: int64 [S], ascending: shard s holds rows below uppers[s] that no shard before it holds; the last is above every row.
    """
    shards = uppers.size
    ends[:] = 0
    for i in range(rows.size):
        ends[_shard_of(uppers, np.int64(rows[i])) + 1] += 1
    for s in range(shards):
        ends[s + 1] += ends[s]
    at = ends.copy()
    for i in range(rows.size):
        s = _shard_of(uppers, np.int64(rows[i]))
        order[at[s]] = i
        at[s] += 1


@njit(nogil=True, cache=True)
def scatter_rows(order: I64Array, source: int, out: int, row_bytes: int) -> None:
    """Row i of `source` to row order[i] of `out`."""
    if row_bytes == 8:
        for i in range(order.size):
            store_i64(out + 8 * order[i], load_i64(source + 8 * i))
    else:
        for i in range(order.size):
            copy_bytes(out + row_bytes * order[i], source + row_bytes * i, row_bytes)


@njit(nogil=True, cache=True)
def gather_into(feature: I64Array, rows: RowArray, row_bytes: int, order: I64Array, out: int, ahead: int) -> None:
    """Dense row rows[i] of a feature (`_gather_kernels`) to row order[i] of `out`: what gathering and then `scatter_rows` would do."""
    n = rows.size
    for i in range(n):
        if i + ahead < n:
            asked = np.int64(rows[i + ahead])
            p = owner(feature, asked)
            for at in range(0, row_bytes, LINE):
                prefetch(feature[p, DATA] + (asked - feature[p, START]) * row_bytes + at)
        row = np.int64(rows[i])
        p = owner(feature, row)
        source = feature[p, DATA] + (row - feature[p, START]) * row_bytes
        target = out + order[i] * row_bytes
        if row_bytes % LINE == 0:
            for at in range(0, row_bytes, LINE):
                copy_line(target + at, source + at)
        else:
            copy_bytes(target, source, row_bytes)


@njit(nogil=True, cache=True)
def scatter_runs(order: I64Array, starts: I64Array, source: int, out: int, item_bytes: int) -> None:
    """Runs of items, one after the other in `source`, to where they belong: run i to out + starts[order[i]], up to starts[order[i] + 1]."""
    at = source
    for i in range(order.size):
        row = order[i]
        count = (starts[row + 1] - starts[row]) * item_bytes
        if count > 0:
            copy_bytes(out + starts[row] * item_bytes, at, count)
            at += count


@njit(nogil=True, cache=True)
def fill_edges(first: int, counts: I32Array, found: I32Array, from_row: I64Array, to_row: I64Array) -> None:
    """Ends of one hop's edges: node first + i, counts[i] times, and the nodes found."""
    at = 0
    for i in range(counts.size):
        for _ in range(counts[i]):
            from_row[at] = first + i
            to_row[at] = found[at]
            at += 1
