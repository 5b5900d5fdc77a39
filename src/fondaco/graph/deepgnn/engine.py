"""The queries of DeepGNN's graph engine, over a Fondaco graph: numbers for types, one space of ids, flat arrays, padding.

Every method takes what DeepGNN's C++ library is asked for, seed and all, and gives arrays of its shapes and dtypes; `client` and `native`
put DeepGNN's two faces on it. What differs is written in docs/deepgnn.md. In short: ids that the graph has not are an error, unless they
are padding that an earlier answer held, or `on_unknown` is "pad"; draws are exact however many servers there are, and a node that stands
twice in one call gets the same draws twice. Any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fondaco.core.clock import EARLIEST_US, LATEST_US
from fondaco.core.errors import InputError, NodeIdError
from fondaco.graph.answers import FeatureColumn, Neighbors
from fondaco.graph.deepgnn.columns import dense_names, lay_out
from fondaco.graph.deepgnn.lists import (
    F32,
    I32,
    I64,
    Drawn,
    Fill,
    Lists,
    best_of,
    filled,
    joined,
    nothing,
    pairs_in,
    picked_from,
    put,
    without_replacement,
)
from fondaco.graph.deepgnn.numbering import Numbering
from fondaco.graph.deepgnn.push import push_ranks
from fondaco.graph.graph import Graph, OnUnknown
from fondaco.graph.queries import Strategy
from fondaco.graph.schema import EdgeType

NO_NODE: Final = -1


class _Step(NamedTuple):
    """Some of the nodes asked for, and an edge type that starts at them."""

    rows: I64
    number: int
    edge: EdgeType


class Engine:
    """One graph, asked as DeepGNN's engine is."""

    def __init__(self, graph: Graph, numbering: Numbering, on_unknown: OnUnknown, unit_us: int) -> None:
        """`unit_us`: microseconds in one step of a timestamp."""
        self.graph, self.numbering, self.unit_us = graph, numbering, unit_us
        self.strict = on_unknown == "error"
        self._padding = {NO_NODE}  # ids that answers may have been padded with

    # -- nodes ------------------------------------------------------------------------------------------------------------------------

    def padding(self, default_node: int) -> None:
        """Remember that answers are padded with `default_node`."""
        self._padding.add(int(default_node))

    def places(self, nodes: I64) -> I32:
        """Each node's type, as its position in the schema; -1 for what is none.

        Raises:
            NodeIdError: (strict) an id that is neither a node nor padding.
        """
        found = self.graph.node_types(nodes)
        if self.strict and (found < 0).any():
            wrong = np.unique(nodes[found < 0])
            wrong = wrong[~np.isin(wrong, list(self._padding))]
            if len(wrong):
                raise NodeIdError("any type", wrong[:5].tolist(), int(np.isin(nodes, wrong).sum()))
        return found

    def node_types(self, nodes: I64, default_type: int) -> I32:
        found = self.graph.node_types(nodes)
        numbers = np.array([*(self.numbering.node_number(node.name) for node in self.graph.schema.nodes), default_type], np.int32)
        return numbers[found]  # -1 is the last

    def node_count(self, types: Sequence[int]) -> int:
        names = self.numbering.nodes
        return sum(self.graph.node_count(names[number]) for number in set(types) if number in names)

    def edge_count(self, types: Sequence[int]) -> int:
        return sum(self.graph.edge_count(edge) for _, edge in self.numbering.edges(self.graph.schema, types))

    # -- neighbours -------------------------------------------------------------------------------------------------------------------

    def neighbor_counts(self, nodes: I64, types: Sequence[int], timestamps: I64 | None) -> npt.NDArray[np.uint64]:
        counts = np.zeros(len(nodes), np.uint64)
        for step in self._steps(nodes, types):
            found = self.graph.neighbor_counts(nodes[step.rows], edge_type=step.edge.key, as_of=self._moments(timestamps, step.rows))
            counts[step.rows] += found.astype(np.uint64)
        return counts

    def neighbors(self, nodes: I64, types: Sequence[int], timestamps: I64 | None) -> Lists:
        """All neighbours, node by node and within a node by edge type."""
        parts = []
        for rows, number, edge in self._steps(nodes, types):
            found = self.graph.neighbors(
                nodes[rows], edge_type=edge.key, as_of=self._moments(timestamps, rows), weights=edge.weighted, times=edge.timed
            )
            parts.append(_lists(rows, number, found, self._times(found.times)))
        return joined(parts)

    def draw_weighted(self, nodes: I64, types: Sequence[int], count: int, fill: Fill, seed: int, at: I64 | None) -> Drawn:
        """`count` neighbours of each node, with replacement, by edge weight."""
        steps = list(self._steps(nodes, types))
        if _apart(steps):
            return self._drawn(nodes, steps, count, fill, seed, at, "weighted", replace=True)
        lists = self.neighbors(nodes, types, at)
        ends = np.searchsorted(lists.rows, np.arange(len(nodes) + 1))
        sums = np.concatenate(([0.0], np.cumsum(lists.weights, dtype=np.float64)))
        low, high = sums[ends[:-1]], sums[ends[1:]]
        points = low[:, None] + np.random.Generator(np.random.Philox(seed)).random((len(nodes), count)) * (high - low)[:, None]
        picked = np.searchsorted(sums[1:], points, side="right")
        picked = np.clip(picked, ends[:-1, None], np.maximum(ends[1:, None] - 1, ends[:-1, None]))
        return filled(lists, picked, np.repeat((high > low)[:, None], count, axis=1), fill)

    def draw_uniform(self, nodes: I64, types: Sequence[int], count: int, fill: Fill, seed: int, at: I64 | None, replace: bool) -> Drawn:
        """`count` neighbours of each node, each as likely as another; without `replace` fewer where there are not so many."""
        steps = list(self._steps(nodes, types))
        if _apart(steps):
            return self._drawn(nodes, steps, count, fill, seed, at, "uniform", replace=replace)
        # Over several edge types: first how many of each, exactly, then which ones.
        chance = np.random.Generator(np.random.Philox(seed))
        sizes = np.zeros((len(nodes), len(steps)), np.int64)
        for column, (rows, _, edge) in enumerate(steps):
            sizes[rows, column] = self.graph.neighbor_counts(nodes[rows], edge_type=edge.key, as_of=self._moments(at, rows))
        each = [self._drawn(nodes, [step], count, fill, seed, at, "uniform", replace=replace) for step in steps]
        if replace:
            ends = np.cumsum(sizes, axis=1)
            points = chance.integers(0, np.maximum(ends[:, -1:], 1), (len(nodes), count))
            return picked_from(each, (points[:, :, None] >= ends[:, None, :-1]).sum(axis=2))
        return without_replacement(each, sizes, count, fill, chance)

    def last(self, nodes: I64, types: Sequence[int], count: int, fill: Fill, at: I64 | None) -> Drawn:
        """The `count` newest edges of each node, newest first."""
        lists = self._firsts(nodes, types, count, at, "last", fill)
        return best_of(lists, len(nodes), count, fill, lists.times)

    def top(self, nodes: I64, types: Sequence[int], count: int, fill: Fill, at: I64 | None) -> Drawn:
        """The `count` heaviest edges of each node, heaviest first."""
        lists = self._firsts(nodes, types, count, at, "top_k", fill)
        return best_of(lists, len(nodes), count, fill, lists.weights)

    def ppr(self, nodes: I64, types: Sequence[int], count: int, alpha: float, eps: float, fill: Fill, at: I64 | None) -> tuple[I64, F32]:
        """The `count` nodes of highest personalised PageRank of each node, best first, and their scores: [n, count] each."""
        self.padding(fill.node)
        ids = np.full((len(nodes), count), fill.node, np.int64)
        scores = np.full((len(nodes), count), fill.weight, np.float32)
        steps = list(self._steps(nodes, types))
        if at is None and len(steps) == 1 and steps[0].edge.src == steps[0].edge.dst:
            rows, _, edge = steps[0]
            for row, (best, of_best) in zip(rows.tolist(), self._ranked(nodes[rows], edge, count, alpha, eps), strict=True):
                ids[row, : len(best)], scores[row, : len(best)] = best, of_best
            return ids, scores
        known = np.flatnonzero(self.places(nodes) >= 0)
        moments: list[int | None] = [None] if at is None else np.unique(at[known]).tolist()
        for moment in moments:
            rows = known if at is None else known[at[known] == moment]

            def lists_of(missing: I64, moment: int | None = moment) -> Lists:
                return self.neighbors(missing, types, None if moment is None else np.full(len(missing), moment))

            for row, ranks in zip(rows.tolist(), push_ranks(lists_of, nodes[rows], count, alpha, eps), strict=True):
                ids[row, : len(ranks)] = [node for node, _ in ranks]
                scores[row, : len(ranks)] = [score for _, score in ranks]
        return ids, scores

    def walk(self, nodes: I64, types: Sequence[int], length: int, p: float, q: float, default_node: int, seed: int, at: I64 | None) -> I64:
        """Walks by edge weight, with node2vec's p and q: [n, length + 1]; `default_node` after a dead end."""
        self.padding(default_node)
        walks = np.full((len(nodes), length + 1), default_node, np.int64)
        walks[:, 0] = nodes
        steps = list(self._steps(nodes, types))
        first_order = p == q == 1
        if len(steps) == 1 and steps[0].edge.src == steps[0].edge.dst and (at is None or first_order):
            rows, _, edge = steps[0]
            if first_order:
                found = self.graph.random_walk(
                    nodes[rows], length, edge_type=edge.key, weighted=edge.weighted, as_of=self._moments(at, rows), seed=seed
                )
            else:
                found = self.graph.node2vec(nodes[rows], length, p, q, edge_type=edge.key, weighted=edge.weighted, seed=seed)
            walks[rows, 1:] = np.where(found == NO_NODE, default_node, found)[:, 1:]
            return walks
        self._walk_over_types(walks, types, p, q, seed, at)
        return walks

    # -- features ---------------------------------------------------------------------------------------------------------------------

    def node_features(self, nodes: I64, features: npt.NDArray[np.int32], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Dense features side by side: [n, sum of dims]; zeros where a node has none."""
        values = np.zeros((len(nodes), int(features[:, 1].sum())), dtype)
        for rows, node_type in self._of_types(nodes):
            known, names = self.graph.schema.node(node_type), self.numbering.node_features.get(node_type, {})
            wanted = dense_names(known.features, names, features, f"node type {node_type!r}", self.strict)
            if wanted:
                found = self.graph.features(nodes[rows], list(dict.fromkeys(wanted.values())), node_type=node_type, on_unknown="pad")
                lay_out(values, rows, features, wanted, found)
        return values

    def edge_features(self, edges: I64, features: npt.NDArray[np.int32], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Dense features of the edges [src, dst, type] side by side: [n, sum of dims]; zeros where an edge has none.

        Raises:
            InputError: (strict) there is no such edge.
        """
        values = np.zeros((len(edges), int(features[:, 1].sum())), dtype)
        for rows, edge in self._of_edge_types(edges):
            names = self.numbering.edge_features.get(edge.relation, {})
            wanted = dense_names(edge.features, names, features, f"edge type {edge.name!r}", self.strict)
            if wanted:
                found = self._edge_columns(edges[rows], edge, list(dict.fromkeys(wanted.values())))
                lay_out(values, rows, features, wanted, found)
        return values

    def node_columns(self, nodes: I64, feature: int) -> Iterator[tuple[I64, FeatureColumn]]:
        """Rows, and their column, of a sparse or bytes feature."""
        for rows, node_type in self._of_types(nodes):
            name = self.numbering.node_features.get(node_type, {}).get(feature)
            if name is not None:
                yield rows, self.graph.features(nodes[rows], [name], node_type=node_type, on_unknown="pad")[name]

    def edge_columns(self, edges: I64, feature: int) -> Iterator[tuple[I64, FeatureColumn]]:
        """Rows, and their column, of a sparse or bytes feature."""
        for rows, edge in self._of_edge_types(edges):
            name = self.numbering.edge_features.get(edge.relation, {}).get(feature)
            if name is not None and any(known.name == name for known in edge.features):
                yield rows, self._edge_columns(edges[rows], edge, [name])[name]

    # -- draws from the whole graph -----------------------------------------------------------------------------------------------------

    def sample_nodes(self, size: int, types: Sequence[int], kind: str, seed: int) -> tuple[I64, I32]:
        """`size` nodes of any of these types, and their types. kind: "weighted", "uniform", "withoutreplacement"."""
        schema, names = self.graph.schema, self.numbering.nodes
        numbers = [number for number in sorted(set(types)) if number in names and self.graph.node_count(names[number])]
        if not numbers:
            raise InputError(f"no nodes of types {sorted(set(types))}; there are types {sorted(names)}")
        weighted = [kind == "weighted" and schema.node(names[number]).weighted for number in numbers]  # others weigh 1 a node
        counts = [self.graph.node_count(names[number]) for number in numbers]
        sizes = [
            self.graph.total_weight(names[number]) if by_weight else count
            for number, by_weight, count in zip(numbers, weighted, counts, strict=True)
        ]
        chosen = self._split(counts, sizes, size, kind, seed, "node")
        nodes, kinds = np.empty(size, np.int64), np.asarray(numbers, np.int32)[chosen]
        for place, number in enumerate(numbers):
            mask = chosen == place
            if mask.any():
                nodes[mask] = self.graph.sample_nodes(
                    int(mask.sum()), names[number], weighted=weighted[place], replace=kind != "withoutreplacement", seed=seed
                )
        return nodes, kinds

    def sample_edges(self, size: int, types: Sequence[int], kind: str, seed: int) -> tuple[I64, I64, I32]:
        """`size` edges of any of these types: sources, targets, types."""
        edges = [(number, edge) for number, edge in self.numbering.edges(self.graph.schema, types) if self.graph.edge_count(edge)]
        if not edges:
            raise InputError(f"no edges of types {sorted(set(types))}; there are types {sorted(self.numbering.relations)}")
        weighted = [kind == "weighted" and edge.weighted for _, edge in edges]
        counts = [self.graph.edge_count(edge) for _, edge in edges]
        sizes = [
            self.graph.total_weight(edge_type=edge) if by_weight else count
            for (_, edge), by_weight, count in zip(edges, weighted, counts, strict=True)
        ]
        chosen = self._split(counts, sizes, size, kind, seed, "edge")
        ends, kinds = np.empty((2, size), np.int64), np.array([number for number, _ in edges], np.int32)[chosen]
        for place, (_, edge) in enumerate(edges):
            mask = chosen == place
            if mask.any():
                found = self.graph.sample_edges(
                    int(mask.sum()), edge.key, weighted=weighted[place], replace=kind != "withoutreplacement", seed=seed
                )
                ends[0, mask], ends[1, mask] = found.src, found.dst
        return ends[0], ends[1], kinds

    def _ranked(self, nodes: I64, edge: EdgeType, count: int, alpha: float, eps: float) -> list[tuple[I64, F32]]:
        """Ids and scores of each node's best, ranked by the graph.

        A node without edges keeps there all that comes to it, and in DeepGNN the share `alpha` of it. So more than `count` are asked for,
        and again more, until no node that was left out can belong to them. (DeepGNN's threshold is alpha * eps * degree.)
        """
        asked = 2 * count
        while True:
            found = self.graph.ppr(nodes, asked, alpha=alpha, eps=eps * alpha, edge_type=edge.key)
            dead = self.graph.neighbor_counts(found.ids, edge_type=edge.key) == 0
            ends = found.indptr
            living = np.diff(np.concatenate(([0], np.cumsum(~dead)))[ends])
            if ((found.counts < asked) | (living >= count)).all():
                break
            asked *= 2
        scores = np.where(dead, np.float32(alpha) * found.scores, found.scores)
        best = []
        for start, stop in pairwise(ends.tolist()):
            order = np.argsort(-scores[start:stop], kind="stable")[:count] + start
            best.append((found.ids[order], scores[order]))
        return best

    # -- parts ------------------------------------------------------------------------------------------------------------------------

    def _moments(self, timestamps: I64 | None, rows: I64) -> I64 | None:
        """Timestamps of some rows in microseconds, as the graph keeps time; outside the years that edges have, the first or the last."""
        if timestamps is None:
            return None
        return np.clip(timestamps[rows], -(-EARLIEST_US // self.unit_us), LATEST_US // self.unit_us) * self.unit_us

    def _times(self, moments: I64 | None) -> I64 | None:
        """Microseconds in the unit of timestamps."""
        return None if moments is None else moments // self.unit_us

    def _split(self, counts: Sequence[int], sizes: Sequence[float], size: int, kind: str, seed: int, noun: str) -> I64:
        """Of which of several types each of `size` draws is; with replacement by `sizes`, without by `counts`."""
        if len(counts) == 1:
            return np.zeros(size, np.int64)
        chance = np.random.Generator(np.random.Philox(seed))
        if kind != "withoutreplacement":
            return chance.choice(len(sizes), size, p=np.asarray(sizes) / sum(sizes))
        if size > sum(counts):
            raise InputError(f"{size} different {noun}s of {sum(counts)}; draw with replacement (SamplingStrategy.Random), or fewer")
        return np.repeat(np.arange(len(counts)), chance.multivariate_hypergeometric(counts, size))

    def _of_types(self, nodes: I64) -> Iterator[tuple[I64, str]]:
        places = self.places(nodes)
        for place, node in enumerate(self.graph.schema.nodes):
            rows = np.flatnonzero(places == place)
            if len(rows):
                yield rows, node.name

    def _of_edge_types(self, edges: I64) -> Iterator[tuple[I64, EdgeType]]:
        schema = self.graph.schema
        places = self.places(edges[:, :2].ravel()).reshape(-1, 2)
        known = np.zeros(len(edges), bool)
        for number, edge in self.numbering.edges(schema, np.unique(edges[:, 2]).tolist()):
            ends = (places[:, 0] == schema.node_index(edge.src)) & (places[:, 1] == schema.node_index(edge.dst))
            rows = np.flatnonzero((edges[:, 2] == number) & ends)
            known[rows] = True
            if len(rows):
                yield rows, edge
        wrong = np.flatnonzero(~known & (places >= 0).all(axis=1))
        if self.strict and len(wrong):
            raise InputError(f"{len(wrong)} of {len(edges)} edges are not there, the first is {edges[wrong[0]].tolist()} (src, dst, type)")

    def _edge_columns(self, edges: I64, edge: EdgeType, names: list[str]) -> dict[str, FeatureColumn]:
        src, dst = np.ascontiguousarray(edges[:, 0]), np.ascontiguousarray(edges[:, 1])
        return self.graph.edge_features(
            src, dst, names, edge.key, direction=edge.directions[0], on_unknown="error" if self.strict else "pad"
        )

    def _steps(self, nodes: I64, types: Sequence[int]) -> Iterator[_Step]:
        of_type = {name: rows for rows, name in self._of_types(nodes)}
        for number, edge in self.numbering.edges(self.graph.schema, types):
            if edge.src in of_type:
                yield _Step(of_type[edge.src], number, edge)

    def _drawn(
        self,
        nodes: I64,
        steps: Sequence[_Step],
        count: int,
        fill: Fill,
        seed: int,
        at: I64 | None,
        strategy: Strategy,
        *,
        replace: bool,
    ) -> Drawn:
        """Draws where no node has more than one edge type to draw from."""
        self.padding(fill.node)
        drawn = nothing(len(nodes), count, fill)
        for rows, number, edge in steps:
            found = self.graph.sample_neighbors(
                nodes[rows], count, edge_type=edge.key, strategy=strategy if edge.weighted or strategy != "weighted" else "uniform",
                replace=replace, seed=seed, as_of=self._moments(at, rows), weights=edge.weighted, times=edge.timed,
            )  # fmt: skip
            put(drawn, rows, found.counts, found.ids, found.weights, self._times(found.times), number, fill)
        return drawn

    def _firsts(self, nodes: I64, types: Sequence[int], count: int, at: I64 | None, how: Strategy, fill: Fill) -> Lists:
        """The first `count` by time or weight of each edge type."""
        self.padding(fill.node)
        parts = []
        for rows, number, edge in self._steps(nodes, types):
            found = self.graph.sample_neighbors(
                nodes[rows], count, edge_type=edge.key, strategy=how, as_of=self._moments(at, rows), weights=edge.weighted, times=edge.timed
            )
            parts.append(_lists(rows, number, found, self._times(found.times)))
        return joined(parts)

    def _walk_over_types(self, walks: I64, types: Sequence[int], p: float, q: float, seed: int, at: I64 | None) -> None:
        """Step by step with whole lists, as DeepGNN's own client does: several edge types, or a time."""
        chance = np.random.Generator(np.random.Philox(seed))
        alive = np.arange(len(walks))
        before: Lists | None = None
        for step in range(1, walks.shape[1]):
            lists = self.neighbors(walks[alive, step - 1], types, None if at is None else at[alive])
            weights = lists.weights.astype(np.float64)
            if before is not None:
                parents = walks[alive, step - 2][lists.rows]
                near = pairs_in(lists, before)
                weights /= np.where(lists.ids == parents, p, np.where(near, 1.0, q))
            sums = np.concatenate(([0.0], np.cumsum(weights)))
            ends = np.searchsorted(lists.rows, np.arange(len(alive) + 1))
            low, high = sums[ends[:-1]], sums[ends[1:]]
            picked = np.searchsorted(sums[1:], low + chance.random(len(alive)) * (high - low), side="right")
            going = np.flatnonzero(high > low)
            walks[alive[going], step] = lists.ids[np.minimum(picked, ends[1:] - 1)[going]]
            kept = np.isin(lists.rows, going)
            renamed = np.full(len(alive), -1)
            renamed[going] = np.arange(len(going))
            before = Lists(renamed[lists.rows[kept]], lists.ids[kept], lists.weights[kept], lists.types[kept], lists.times[kept])
            alive = alive[going]


def _lists(rows: I64, number: int, found: Neighbors, times: I64 | None) -> Lists:
    size = len(found.ids)
    weights = np.ones(size, np.float32) if found.weights is None else found.weights
    of_edges = np.full(size, -1, np.int64) if times is None else times
    return Lists(np.repeat(rows, found.counts), found.ids, weights, np.full(size, number, np.int32), of_edges)


def _apart(steps: Sequence[_Step]) -> bool:
    """Whether no node has edges of several types to draw from."""
    starts = [step.edge.src for step in steps]
    return len(starts) == len(set(starts))
