"""Labels: small consecutive indexes for the nodes of one answer, in order of first appearance.

A query has one set of labels per node type: seeds first, then each hop's neighbours, so `nodes` is the answer's node list and what `add`
returns are its edges' ends. With groups (as-of times differ between seeds) a node counts once per (node, group) pair.

The way back from a node to its index is a marker array where that is small, a hash table elsewhere; it never shows. Markers are kept and
reused, so they are paid for once per thread, not per query. One thread at a time uses a set; the pool of markers is shared safely.
Importing this imports numba.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from fondaco.graph import _relabel_kernels as kernels
from fondaco.graph._labor_kernels import fill_induced
from fondaco.graph.sampling import ALWAYS, Induced, locate, writable

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]

MARKED_NODES_MAX: Final = 4 << 20
"""Node types up to here use a marker of 4 bytes a node. Measured for a batch of 62,000 neighbours, marker and table: 0.12 and 0.9 ms of 200
thousand nodes, 0.3 and 0.5 of 4 million, 1.0 and 0.4 of 16 million, where the marker has left the processor's caches."""
_MARKERS_KEPT = 8  # of each length
_TABLE_SLOTS_MIN = 1024
_NO_I32: Final = np.empty(0, np.int32)
_NO_U64: Final = np.empty(0, np.uint64)

_markers: dict[int, deque[I32Array]] = {}  # by length, all -1; append and pop are atomic, and a full deque drops its oldest


class Labels:
    """A growing set of the nodes of one type. A context manager: leaving it gives its memory back to the pool."""

    def __init__(self, node_count: int, *, grouped: bool = False, expected: int = 0) -> None:
        """`node_count`: of the type, over the whole graph. `expected`: how many the set will hold, if known; it grows anyway."""
        self.grouped = grouped
        self._count = 0
        self._nodes = np.empty(max(expected, 256), np.int32)
        self._groups = np.empty(len(self._nodes), np.int32) if grouped else _NO_I32
        self._marker = _NO_I32 if grouped or node_count > MARKED_NODES_MAX else _take_marker(node_count)
        slots = max(_TABLE_SLOTS_MIN, 1 << (2 * expected).bit_length())
        self._table = _NO_U64 if len(self._marker) else np.zeros(slots, np.uint64)

    def __len__(self) -> int:
        return self._count

    @property
    def nodes(self) -> I32Array:
        """Dense ids by index: int32 [len(self)]; a view, which stays valid when the set grows."""
        return self._nodes[: self._count]

    @property
    def groups(self) -> I32Array:
        """Groups by index: int32 [len(self)]; a view. Empty if the set has none."""
        return self._groups[: self._count]

    def add(self, dense: I32Array, groups: I32Array | None = None) -> I32Array:
        """Indexes of these nodes, int32 [n], the new ones appended in their order; -1 for a negative id."""
        dense = writable(dense, np.int32)
        local = np.empty(len(dense), np.int32)
        self._reserve(self._count + len(dense) + 1)
        if len(self._marker):
            self._count = kernels.add_marked(self._marker, self._nodes, self._count, dense, local)
            return local
        done = 0
        while True:
            if groups is None:
                done, self._count = kernels.add_hashed(self._table, self._nodes, self._count, dense, done, local)
            else:
                done, self._count = kernels.add_grouped(
                    self._table, self._nodes, self._groups, self._count, dense, writable(groups, np.int32), done, local
                )
            if done == len(dense):
                return local
            self._table = np.zeros(4 * len(self._table), np.uint64)
            kernels.fill_table(self._table, self._nodes, self._groups, self._count)

    def find(self, dense: I32Array, groups: I32Array | None = None) -> I32Array:
        """Indexes of these nodes, int32 [n]; -1 for those not in the set."""
        local = np.empty(len(dense), np.int32)
        wanted_groups = _NO_I32 if groups is None else writable(groups, np.int32)
        kernels.find_many(*self._ways(), writable(dense, np.int32), wanted_groups, local)
        return local

    def induced(self, adjacency: I64Array, frontier: I32Array, *, groups: I32Array | None = None, as_of: I64Array = ALWAYS) -> Induced:
        """Edges from the frontier to nodes of this set. `groups`: int32 [n], the group in which row i's neighbours are looked up."""
        rows, most = locate(adjacency, frontier, as_of)
        wanted = _NO_I32 if groups is None else writable(groups, np.int32)
        found: list[tuple[I32Array, I32Array, I64Array]] = []
        first, room = 0, min(most, 4 * len(rows) + 4096)
        while first < len(rows):
            room = max(room, int(rows[first, 2]))  # one row always fits
            out = (np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int64))
            first, used = fill_induced(rows, first, *self._ways(), wanted, *out)
            found.append((out[0][:used], out[1][:used], out[2][:used]))
            room *= 2
        if len(found) == 1:
            return Induced(*found[0])
        joined = [np.concatenate(column) for column in zip(*found, strict=True)] or [_NO_I32, _NO_I32, np.empty(0, np.int64)]
        return Induced(joined[0], joined[1], joined[2])

    def close(self) -> None:
        """Give the memory back; `nodes` and `groups` taken before stay valid. Idempotent."""
        if len(self._marker):
            kernels.unmark(self._marker, self._nodes, self._count)
            _keep_marker(self._marker)
        self._marker, self._table = _NO_I32, np.zeros(_TABLE_SLOTS_MIN, np.uint64)
        self._nodes, self._groups, self._count = np.empty(0, np.int32), _NO_I32, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ways(self) -> tuple[I32Array, U64Array, I32Array, I32Array]:
        return self._marker, self._table, self._nodes, self._groups

    def _reserve(self, count: int) -> None:
        if count > len(self._nodes):
            room = max(count, 2 * len(self._nodes))
            self._nodes = _grown(self._nodes, self._count, room)
            if self.grouped:
                self._groups = _grown(self._groups, self._count, room)


def _grown(array: I32Array, count: int, room: int) -> I32Array:
    grown = np.empty(room, np.int32)
    grown[:count] = array[:count]
    return grown


def _take_marker(node_count: int) -> I32Array:
    """A marker of -1 of at least `node_count` elements, from the pool if there is one."""
    size = 1 << max(node_count - 1, 0).bit_length()
    try:
        return _markers[size].pop()
    except (KeyError, IndexError):
        return np.full(size, -1, np.int32)


def _keep_marker(marker: I32Array) -> None:
    _markers.setdefault(len(marker), deque(maxlen=_MARKERS_KEPT)).append(marker)
