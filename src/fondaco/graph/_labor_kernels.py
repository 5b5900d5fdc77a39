"""Kernels of layer-wise sampling and of induced edges: both visit whole lists, and fill as much as there is room for.

What they take: `_kernels`. Both stop before the first row that might not fit, and say where; the caller gives more room and goes on. The
result does not depend on the room. References: tests/graph/reference.py. No GIL; any thread.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import load_i32, prefetch
from fondaco.graph._draws import mix, multiply_high
from fondaco.graph._kernels import ADDRESS, LENGTH, POSITION
from fondaco.graph._relabel_kernels import find_one

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]

_AHEAD = 12


@njit(nogil=True, cache=True)
def fill_layer(
    rows: I64Array, first: int, fan_out: int, key: np.uint64, counts: I32Array, neighbours: I32Array, positions: I64Array
) -> tuple[int, int]:
    """LABOR-0 from row `first` on: an edge is taken if its neighbour's number, of [0, 2^64), times the degree is below fan_out * 2^64.

    Returns the row to go on with, and how many edges were taken.
    """
    n = rows.shape[0]
    used = 0
    i = first
    while i < n:
        if i + _AHEAD < n:
            prefetch(rows[i + _AHEAD, ADDRESS])
        length = rows[i, LENGTH]
        if used + length > neighbours.size:
            break
        address = rows[i, ADDRESS]
        position = rows[i, POSITION]
        before = used
        whole = fan_out < 0 or length <= fan_out
        for j in range(length):
            neighbour = load_i32(address + 4 * j)
            # written always, kept if taken: no branch to predict
            neighbours[used] = neighbour
            positions[used] = position + j
            if whole or np.int64(multiply_high(mix(key, np.uint64(neighbour)), np.uint64(length))) < fan_out:
                used += 1
        counts[i] = used - before
        i += 1
    return i, used


@njit(nogil=True, cache=True)
def fill_induced(
    rows: I64Array,
    first: int,
    marker: I32Array,
    table: U64Array,
    nodes: I32Array,
    groups: I32Array,
    wanted: I32Array,
    row_of: I32Array,
    column_of: I32Array,
    positions: I64Array,
) -> tuple[int, int]:
    """Edges from row `first` on whose to-node is in a set (of `_relabel_kernels`): row, index in the set, position.

    `wanted`: int32 [n], the group that row i's neighbours are looked up with; or empty. Returns the row to go on with, and how many.
    """
    n = rows.shape[0]
    used = 0
    i = first
    while i < n:
        if i + _AHEAD < n:
            prefetch(rows[i + _AHEAD, ADDRESS])
        length = rows[i, LENGTH]
        if used + length > positions.size:
            break
        group = np.int64(wanted[i]) if wanted.size > 0 else 0
        for j in range(length):
            local = find_one(marker, table, nodes, groups, load_i32(rows[i, ADDRESS] + 4 * j), group)
            if local >= 0:
                row_of[used] = i
                column_of[used] = local
                positions[used] = rows[i, POSITION] + j
                used += 1
        i += 1
    return i, used
