"""CSR in memory for kernel tests: an adjacency cut into partitions, some of them held, packed as `fondaco.graph.sampling` does it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from fondaco.graph.sampling import pack_adjacency


@dataclass
class Csr:
    """One adjacency in canonical order. Rows by from-node; inside a row by (time, to, weight)."""

    nodes: int
    targets: int
    src: np.ndarray
    dst: np.ndarray
    weights: np.ndarray | None = None
    times: np.ndarray | None = None
    _alive: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.src, self.dst = np.asarray(self.src, np.int64), np.asarray(self.dst, np.int32)
        keys: list[np.ndarray] = [self.dst]
        if self.weights is not None:
            self.weights = np.asarray(self.weights, np.float32)
            keys.insert(0, self.weights)
        if self.times is not None:
            self.times = np.asarray(self.times, np.int64)
            keys.append(self.times)
        order = np.lexsort([*keys, self.src])
        self.src, self.dst = self.src[order], self.dst[order]
        self.weights = None if self.weights is None else self.weights[order]
        self.times = None if self.times is None else self.times[order]
        self.indptr = np.concatenate([[0], np.cumsum(np.bincount(self.src, minlength=self.nodes))]).astype(np.int64)

    def row(self, node: int, *, as_of: int | None = None, since: int | None = None) -> list[int]:
        """Positions of the node's edges within the bounds."""
        positions = range(self.indptr[node], self.indptr[node + 1])
        if self.times is None:
            return list(positions)
        return [j for j in positions if (as_of is None or self.times[j] <= as_of) and (since is None or self.times[j] >= since)]

    def packed(self, starts: Sequence[int] | None = None, held: Collection[int] | None = None) -> np.ndarray:
        """int64 [P + 1, 8]. `starts`: first node of each partition, then the number of nodes; `held`: partitions that are here."""
        starts = [0, self.nodes] if starts is None else list(starts)
        columns = np.zeros((5, len(starts) - 1), np.int64)
        for p in range(len(starts) - 1):
            if held is not None and p not in held:
                continue
            first, last = int(self.indptr[starts[p]]), int(self.indptr[starts[p + 1]])
            indptr = self.indptr[starts[p] : starts[p + 1] + 1] - first
            columns[0, p] = self._address(indptr)
            columns[1, p] = self._address(self.dst[first:last])
            if self.weights is not None:
                sums = [np.cumsum(self.weights[first:last][a:b], dtype=np.float64) for a, b in pairwise(indptr)]
                columns[2, p] = self._address(self.weights[first:last])
                columns[3, p] = self._address(np.concatenate([*sums, np.empty(0)]))
            if self.times is not None:
                columns[4, p] = self._address(self.times[first:last])
        return pack_adjacency(np.asarray(starts), self.indptr[np.asarray(starts)], *columns)

    def _address(self, array: np.ndarray) -> int:
        copy = np.concatenate([array, np.zeros(1, array.dtype)])  # never empty, so never at address 0
        self._alive.append(copy)
        return int(copy.ctypes.data)


def power_law(nodes: int, seed: int = 7) -> Csr:
    """A weighted power-law graph like that of the benchmarks."""
    rng = np.random.default_rng(seed)
    degrees = np.minimum(12.6 * rng.pareto(1.6, nodes) + 1, 5000).astype(np.int64)
    src = np.repeat(np.arange(nodes), degrees)
    dst = rng.permutation(nodes)[(nodes * rng.random(len(src)) ** 2.2).astype(np.int64)]
    pairs = np.unique(src * nodes + dst)
    return Csr(nodes, nodes, pairs // nodes, pairs % nodes, rng.random(len(pairs)) + 0.05)
