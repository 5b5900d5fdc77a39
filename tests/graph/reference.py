"""Plain references of the graph kernels: what they promise, in lists and loops, and tables of memory to run the kernels over.

Nothing here uses NumPy's or Fondaco's arithmetic on draws: whole numbers are Python's, floats are IEEE doubles one operation at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fondaco.graph import gathering, sampling

MASK = (1 << 64) - 1

# -- draws --------------------------------------------------------------------------------------------------------------------------------


def mix(state: int, word: int) -> int:
    z = (state + (word + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def stream_of(seed: int, hop: int, salt: int, node: int) -> int:
    return mix(mix(mix(mix(0, seed & MASK), hop), salt), node)


def below(x: int, count: int) -> int:
    while (x * count) & MASK < (1 << 64) % count:
        x = mix(x, 0)
    return (x * count) >> 64


def unit(x: int) -> float:
    return (x >> 11) / 2**53


def exponential(x: int) -> float:
    m, e = math.frexp(((x >> 11) + 1) / 2**53)  # m in [0.5, 1)
    m, e = 2 * m, e - 1
    if m > math.sqrt(2):
        m, e = m / 2, e + 1
    s = (m - 1) / (m + 1)
    z = s * s
    series = 1 / 19 + z * (1 / 21)
    for odd in (15, 11, 7, 3):
        series = 1 / odd + z * (1 / (odd + 2) + z * series)
    return 0.0 - (e * math.log(2) + 2 * (s + s * z * series))


# -- a graph as lists, and as the kernels see it ------------------------------------------------------------------------------------------


@dataclass
class Lists:
    """One adjacency: lists[node] = [(neighbour, weight, time), ...] in list order; `cuts`: first node of every partition but the first."""

    lists: list[list[tuple[int, float, int]]]
    cuts: Sequence[int] = ()
    timed: bool = False
    adjacency: npt.NDArray[np.int64] = field(init=False)
    keep: list[npt.NDArray[np.generic]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.lists = [sorted(row, key=lambda edge: (edge[2] if self.timed else 0, edge[0])) for row in self.lists]
        starts = [0, *self.cuts, len(self.lists)]
        sections: dict[str, list[int]] = {name: [] for name in ("indptr", "indices", "weights", "cumulative", "times")}
        edge_starts = [0]
        for first, last in itertools.pairwise(starts):
            rows = self.lists[first:last]
            edges = [edge for row in rows for edge in row]
            sums: list[float] = []
            for row in rows:
                total = 0.0
                for edge in row:
                    total += float(np.float32(edge[1]))
                    sums.append(total)
            edge_starts.append(edge_starts[-1] + len(edges))
            self._section(sections["indptr"], np.cumsum([0, *map(len, rows)], dtype=np.int64))
            self._section(sections["indices"], np.array([edge[0] for edge in edges], np.int32))
            self._section(sections["weights"], np.array([edge[1] for edge in edges], np.float32))
            self._section(sections["cumulative"], np.array(sums, np.float64))
            self._section(sections["times"], np.array([edge[2] for edge in edges], np.int64))
        if not self.timed:
            del sections["times"]
        arrays = {name: np.array(addresses, np.int64) for name, addresses in sections.items()}
        self.adjacency = sampling.pack_adjacency(np.array(starts, np.int64), np.array(edge_starts, np.int64), **arrays)

    def _section(self, addresses: list[int], values: npt.NDArray[np.generic]) -> None:
        self.keep.append(values)
        addresses.append(values.ctypes.data)

    def visible(self, node: int, as_of: int | None) -> list[tuple[int, float, int]]:
        return [edge for edge in self.lists[node] if as_of is None or not self.timed or edge[2] <= as_of]

    def first_edge(self, node: int) -> int:
        return sum(map(len, self.lists[:node]))


def rows_feature(
    values: npt.NDArray[np.generic], cuts: Sequence[int], present: npt.NDArray[np.uint8] | None = None
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.generic]]]:
    """Dense rows over partitions: the packed feature, and what keeps its memory alive."""
    starts = [0, *cuts, len(values)]
    parts = [np.ascontiguousarray(values[a:b]) for a, b in itertools.pairwise(starts)]
    flags = None if present is None else [np.ascontiguousarray(present[a:b]) for a, b in itertools.pairwise(starts)]
    feature = gathering.pack_feature(np.array(starts, np.int64), _addresses(parts), present=None if flags is None else _addresses(flags))
    return feature, [*parts, *(flags or [])]


def ragged_feature(
    rows: list[tuple[list[int], list[float] | None]], cuts: Sequence[int], dtype: npt.DTypeLike
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.generic]]]:
    """Ragged rows (items, values of sparse ones or None) over partitions; items of `dtype`, values float32."""
    starts = [0, *cuts, len(rows)]
    data, offsets, values = [], [], []
    for a, b in itertools.pairwise(starts):
        offsets.append(np.cumsum([0, *(len(items) for items, _ in rows[a:b])], dtype=np.int64))
        data.append(np.array([item for items, _ in rows[a:b] for item in items], dtype))
        values.append(np.array([value for _, row in rows[a:b] for value in row or []], np.float32))
    feature = gathering.pack_feature(np.array(starts, np.int64), _addresses(data), _addresses(offsets), _addresses(values))
    return feature, [*data, *offsets, *values]


def _addresses(parts: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
    return np.array([part.ctypes.data for part in parts], np.int64)


# -- samplers: indexes into one visible list ----------------------------------------------------------------------------------------------


def uniform(length: int, fan_out: int, stream: int) -> list[int]:
    if length <= fan_out:
        return list(range(length))
    picked: set[int] = set()
    for i, last in enumerate(range(length - fan_out, length)):
        index = below(mix(stream, i), last + 1)
        picked.add(last if index in picked else index)
    return sorted(picked)


def uniform_again(length: int, fan_out: int, stream: int) -> list[int]:
    return [below(mix(stream, i), length) for i in range(fan_out)] if length else []


def _weighted_one(weights: list[float], x: int) -> int:
    total = 0.0
    sums = []
    for weight in weights:
        total += weight
        sums.append(total)
    target = unit(x) * total
    return next((i for i, s in enumerate(sums) if s > target), sums.index(total))


def weighted_again(weights: list[float], fan_out: int, stream: int) -> list[int]:
    if sum(weights) == 0.0:
        return []
    return [_weighted_one(weights, mix(stream, i)) for i in range(fan_out)]


def weighted(weights: list[float], fan_out: int, stream: int) -> list[int]:
    length = len(weights)
    if length <= fan_out:
        return [i for i, weight in enumerate(weights) if weight > 0]
    picked: list[int] = []
    if fan_out <= 64 and length > 16 * fan_out and sum(weights) > 0:
        for attempt in range(4 * fan_out):
            index = _weighted_one(weights, mix(stream, length + attempt))
            if index not in picked:
                picked.append(index)
            if len(picked) == fan_out:
                return picked
    keys = [(exponential(mix(stream, i)) / w, i) for i, w in enumerate(weights) if w > 0 and i not in picked]
    return picked + [i for _, i in sorted(keys)[: fan_out - len(picked)]]


def top_k(weights: list[float], fan_out: int) -> list[int]:
    return sorted(range(len(weights)), key=lambda i: (-weights[i], i))[:fan_out]


def layer(neighbours: list[int], fan_out: int, key: int) -> list[int]:
    length = len(neighbours)
    return [i for i, t in enumerate(neighbours) if length <= fan_out or mix(key, t) * length < fan_out << 64]


Answer = tuple[list[int], list[int], list[int]]


def sample(
    graph: Lists,
    frontier: list[int],
    fan_out: int,
    strategy: str,
    replace: bool,
    seed: int,
    hop: int,
    salt: int,
    as_of: list[int] | None,
) -> Answer:
    """counts, neighbours, positions."""
    counts, neighbours, positions = [], [], []
    for i, node in enumerate(frontier):
        edges = graph.visible(node, None if as_of is None else as_of[i])
        weights = [float(np.float32(edge[1])) for edge in edges]
        stream = stream_of(seed, hop, salt, node)
        match strategy, replace:
            case ("uniform", False):
                picks = uniform(len(edges), fan_out, stream)
            case ("uniform", True):
                picks = uniform_again(len(edges), fan_out, stream)
            case ("weighted", False):
                picks = weighted(weights, fan_out, stream)
            case ("weighted", True):
                picks = weighted_again(weights, fan_out, stream)
            case ("top_k", _):
                picks = top_k(weights, fan_out)
            case ("last", _):
                picks = list(range(len(edges)))[max(len(edges) - fan_out, 0) :]
            case _:
                picks = list(range(len(edges)))
        counts.append(len(picks))
        neighbours += [edges[pick][0] for pick in picks]
        positions += [graph.first_edge(node) + pick for pick in picks]
    return counts, neighbours, positions


# -- sets of nodes ------------------------------------------------------------------------------------------------------------------------


def relabel(keys: Sequence[object], known: dict[object, int]) -> list[int]:
    return [known.setdefault(key, len(known)) for key in keys]
