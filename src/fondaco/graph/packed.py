"""Packed tables of an opened version: addresses of its adjacencies in the form that kernels take, and sums that global draws need.

All is made when first asked for and kept as long as the `OpenGraph` lives. Any thread. Importing this imports numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from fondaco.graph._global_kernels import sum_rows
from fondaco.graph.sampling import pack_adjacency
from fondaco.graph.schema import Direction

if TYPE_CHECKING:
    from fondaco.graph.opened import OpenGraph

I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]


class PackedTables:
    """Use `tables_of`. It does not keep the opened version alive: whoever calls a kernel does."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._stacks: dict[tuple[int, ...], I64Array] = {}
        self._sums: dict[tuple[int, int], F64Array] = {}

    def stack(self, opened: OpenGraph, edge_types: Sequence[str], direction: Direction) -> I64Array:
        """int64 [A, P + 1, 8]: the packed tables of several edge types in one direction, in their order.

        Raises:
            EdgeTypeNotFoundError, InputError: no such edge type, or the direction is not stored.
        """
        numbers = tuple(opened.schema.adjacency(name, direction).number for name in edge_types)
        with self._lock:
            found = self._stacks.get(numbers)
            if found is None:
                found = self._stacks[numbers] = np.stack([_packed(opened, number) for number in numbers])
        return found

    def row_sums(self, opened: OpenGraph, number: int, partition: int) -> F64Array:
        """float64 [rows]: inclusive sums of the edges' weights over the rows of one partition of an adjacency. O(rows) the first time."""
        key = number, partition
        with self._lock:
            found = self._sums.get(key)
            if found is None:
                table = opened.adjacency_tables[number]
                found = np.empty(int(table.starts[partition + 1] - table.starts[partition]), np.float64)
                if len(found):
                    sum_rows(int(table.indptr[partition]), int(table.cumulative[partition]), found)
                self._sums[key] = found
        return found


def tables_of(opened: OpenGraph) -> PackedTables:
    """The packed tables of an opened version."""
    with _lock:
        found = _tables.get(opened)
        if found is None:
            found = _tables[opened] = PackedTables()
    return found


_lock: Final = Lock()
_tables: Final[WeakKeyDictionary[OpenGraph, PackedTables]] = WeakKeyDictionary()


def _packed(opened: OpenGraph, number: int) -> I64Array:
    table = opened.adjacency_tables[number]
    return pack_adjacency(table.starts, table.edge_starts, table.indptr, table.indices, table.weights, table.cumulative, table.times)
