"""Neighbourhoods: several hops from seeds, merged and relabelled, with features; and induced subgraphs.

At each hop, every edge type in the schema's order, every node that the hop before found first in the order in which it was found, and its
draws in their order: that is the order of edges, and the order in which nodes get their index. It is the same for any division of the graph
(docs/internals/determinism.md). All requests of one hop go out at once. Source: Hamilton et al. 2017 (GraphSAGE), Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, LimitError
from fondaco.graph import _merge_kernels as kernels
from fondaco.graph.execution import Ask, Execution, seeds_of
from fondaco.graph.features_of import put_edge_feature, put_node_feature
from fondaco.graph.labels import Labels
from fondaco.graph.queries import ALL, Arrays, InducedSubgraph, Sample, find_ids, put_ids
from fondaco.graph.schema import Adjacency, Direction, EdgeType, GraphSchema
from fondaco.graph.shards import EdgesAt, Hop, Induced

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]

PICKS_MAX = 1 << 28  # 3 GB
HOPS_MAX = 64
_EXPECTED_MAX = 1 << 20  # nodes that room is made for at once


@dataclass(slots=True)
class _Nodes:
    """The nodes of one type, as they are found. `ends`: how many there were after the seeds and after each hop."""

    labels: Labels
    ends: list[int] = field(default_factory=list)

    def frontier(self) -> tuple[int, int]:
        """Those that the hop before found first."""
        return (self.ends[-2] if len(self.ends) > 1 else 0), self.ends[-1]


@dataclass(slots=True)
class _Edges:
    """The edges of one adjacency, hop by hop: first frontier node, how many each has, the other ends, and what else was asked for."""

    parts: list[tuple[int, I32Array, npt.NDArray[Any], Arrays]] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])

    @property
    def count(self) -> int:
        return self.ends[-1]


class _Bounds:
    """As-of bounds of seeds: one for all (or none), or groups of seeds with one each."""

    def __init__(self, as_of: I64Array | None, seeds: int) -> None:
        """
        Raises:
            InputError: neither one nor one a seed.
        """
        if as_of is not None and as_of.shape not in ((1,), (seeds,)):
            raise InputError(f"as_of has shape {as_of.shape} for {seeds} seeds; give one moment, or one for each seed")
        self.groups: I32Array | None = None
        self.values = as_of
        if as_of is not None and len(as_of) > 1:
            self.values, inverse = np.unique(as_of, return_inverse=True)
            if len(self.values) > 1:
                self.groups = inverse.astype(np.int32)

    def of(self, groups: I32Array) -> I64Array | None:
        """What a frontier is asked with."""
        return self.values if self.values is None or self.groups is None else self.values[groups]


def sample(run: Execution, query: Sample, arrays: Arrays) -> Arrays:
    """Answer a `Sample`."""
    plan = [_steps(run.schema, query.edge_types, query.direction, fan_out) for fan_out in query.fan_outs]
    touched = _touched(plan)
    _check(query, touched, "as_of" in arrays)
    seeds = run.resolve(query.node_type, seeds_of(arrays), pad=query.pad)
    bounds = _Bounds(arrays.get("as_of"), len(seeds))
    with ExitStack() as stack:
        nodes = _open_nodes(run, stack, query.node_type, touched, bounds.groups is not None, _expected(len(seeds), plan))
        edges = {adjacency.number: _Edges() for adjacency in touched}
        seed_index = _seed(nodes[query.node_type], seeds, bounds)
        for table in nodes.values():
            table.ends.append(len(table.labels))
        keep_ids = query.edges and (query.edge_ids or any(True for _ in query.edge_features))
        for hop, steps in enumerate(plan):
            _hop(run, query, hop, steps, nodes, edges, bounds, keep_ids)
        answer = _put_nodes(run, nodes, bounds)
        answer["seed_index"] = seed_index
        for adjacency in touched if query.edges else ():
            _put_edges(run, query, answer, adjacency, edges[adjacency.number])
    _put_features(run, query, answer, nodes, touched)
    return answer


def _steps(
    schema: GraphSchema, edge_types: Sequence[str] | None, direction: Direction, fan_out: int | dict[str, int]
) -> list[tuple[Adjacency, int]]:
    """The adjacencies of one hop, in the schema's order, with their fan-outs, those of 0 too where the direction is stored."""
    if isinstance(fan_out, dict):
        if edge_types is not None:
            for name in fan_out:
                if schema.edge(name).name not in edge_types:
                    raise InputError(f"fan_outs names the edge type {name!r}, which edge_types leaves out: {list(edge_types)}")
        wanted = {schema.edge(name).name: count for name, count in fan_out.items()}
    else:
        wanted = dict.fromkeys((edge.name for edge in schema.edges) if edge_types is None else edge_types, fan_out)
    for name, count in wanted.items():
        if count < ALL:
            raise InputError(f"a fan-out is 0 or more, or -1 for all neighbours, not {count} (edge type {name!r})")
    numbered = [
        (schema.adjacency(name, direction), count) for name, count in wanted.items() if count or direction in schema.edge(name).directions
    ]
    return sorted(numbered, key=lambda step: step[0].number)


def _touched(plan: Sequence[Sequence[tuple[Adjacency, int]]]) -> list[Adjacency]:
    """Every adjacency of the plan, once: each has its place in the answer."""
    found = {adjacency.number: adjacency for steps in plan for adjacency, _ in steps}
    return [found[number] for number in sorted(found)]


def _check(query: Sample, touched: Sequence[Adjacency], has_as_of: bool) -> None:
    if query.replace and query.strategy not in ("uniform", "weighted"):
        raise InputError(f'replace=True goes with strategy "uniform" or "weighted"; {query.strategy!r} never takes a neighbour twice')
    for adjacency in touched:
        check_strategy(adjacency.edge, query.strategy)
    if has_as_of and touched and not any(adjacency.edge.timed for adjacency in touched):
        names = ", ".join(repr(adjacency.edge.name) for adjacency in touched)
        raise InputError(f"as_of needs edges with times, and {names} have none; build the graph with a `time` column, or leave as_of out")


def check_strategy(edge: EdgeType, strategy: str) -> None:
    """Whether an edge type has what a strategy looks at.

    Raises:
        InputError: it has not; names the column to build the graph with.
    """
    if strategy in ("weighted", "top_k") and not edge.weighted:
        raise InputError(
            f"strategy {strategy!r} needs weights, and edges {edge.name!r} have none; "
            'build the graph with a `weight` column, or use "uniform"'
        )
    if strategy == "last" and not edge.timed:
        raise InputError(
            f"strategy 'last' needs times, and edges {edge.name!r} have none; build the graph with a `time` column, or use \"uniform\""
        )


def check_picks(rows: int, fan_out: int, *, replace: bool) -> None:
    """Draws with replacement can be many times more than there are edges.

    Raises:
        LimitError: more than `PICKS_MAX` at once.
    """
    if replace and rows * max(fan_out, 0) > PICKS_MAX:
        raise LimitError("draws with replacement of one hop", rows * fan_out, PICKS_MAX, "Ask for fewer seeds or a smaller fan-out.")


def _expected(seeds: int, plan: Sequence[Sequence[tuple[Adjacency, int]]]) -> int:
    """About how many nodes will be found, so that room is made once."""
    found, layer = seeds, seeds
    for steps in plan:
        layer *= sum(20 if fan_out < 0 else fan_out for _, fan_out in steps)
        found += layer
        if found > _EXPECTED_MAX:
            return _EXPECTED_MAX
    return found


def _open_nodes(
    run: Execution, stack: ExitStack, seed_type: str, touched: Sequence[Adjacency], grouped: bool, expected: int
) -> dict[str, _Nodes]:
    """A set for every node type at hand, in the schema's order."""
    types = {run.schema.node_index(seed_type)}
    types.update(index for adjacency in touched for index in (adjacency.from_type, adjacency.to_type))
    opened = {}
    for index in sorted(types):
        name = run.schema.nodes[index].name
        count = run.node_count(name)
        room = expected if grouped else min(expected, count)
        opened[name] = _Nodes(stack.enter_context(Labels(count, grouped=grouped, expected=room)))
    return opened


def _seed(nodes: _Nodes, seeds: I32Array, bounds: _Bounds) -> I64Array:
    return nodes.labels.add(seeds, bounds.groups).astype(np.int64)


def _hop(
    run: Execution,
    query: Sample,
    hop: int,
    steps: Sequence[tuple[Adjacency, int]],
    nodes: dict[str, _Nodes],
    edges: dict[int, _Edges],
    bounds: _Bounds,
    keep_ids: bool,
) -> None:
    """One hop: every edge type is asked at once, then their answers are labelled in order."""
    schema = run.schema
    asks: list[Ask] = []
    asked: list[tuple[Adjacency, int, I32Array | None]] = []
    for adjacency, fan_out in steps:
        table = nodes[schema.nodes[adjacency.from_type].name]
        first, end = table.frontier()
        if first == end or not fan_out:
            continue
        check_picks(end - first, fan_out, replace=query.replace)
        groups = table.labels.groups[first:end] if bounds.groups is not None else None
        as_of = bounds.values if groups is None else bounds.of(groups)
        one_hop = Hop(
            edge_type=adjacency.edge.name,
            direction=adjacency.direction,
            fan_out=fan_out,
            strategy=query.strategy,
            replace=query.replace,
            seed=query.seed,
            hop=hop,
            edge_ids=keep_ids,
            weights=query.edges and query.edge_weights and adjacency.edge.weighted,
            times=query.edges and query.edge_times and adjacency.edge.timed,
        )
        by_row = {"as_of": as_of} if as_of is not None and adjacency.edge.timed else None
        asks.append(Ask(one_hop, run.starts(adjacency), "frontier", table.labels.nodes[first:end], by_row))
        asked.append((adjacency, first, groups))
    for (adjacency, first, groups), parts in zip(asked, run.ask_many(asks), strict=True):
        counts = parts.rows("counts", np.int32)
        found = parts.runs(counts, "neighbors", np.int32)
        extra: Arrays = {}
        for name, dtype in (("edge_ids", np.int64), ("weights", np.float32), ("times", np.int64)):
            if parts.has(name):
                extra[name] = parts.runs(counts, name, dtype)
        to = nodes[schema.nodes[adjacency.to_type].name].labels
        local = to.add(found, None if groups is None else np.repeat(groups, counts))
        edges[adjacency.number].parts.append((first, counts, local, extra))
    for table in nodes.values():
        table.ends.append(len(table.labels))
    for part in edges.values():
        part.ends.append(sum(len(local) for _, _, local, _ in part.parts))


def _put_nodes(run: Execution, nodes: dict[str, _Nodes], bounds: _Bounds) -> Arrays:
    answer: Arrays = {}
    for name, table in nodes.items():
        put_ids(answer, f"nodes/{name}", run.ids(name, table.labels.nodes))
        answer[f"hops/{name}"] = np.array([0, *table.ends], np.int64)
        answer[f"dense/{name}"] = table.labels.nodes  # taken out again by _put_features
        if bounds.groups is not None and bounds.values is not None:
            answer[f"as_of/{name}"] = bounds.values[table.labels.groups]
    return answer


def _put_edges(run: Execution, query: Sample, answer: Arrays, adjacency: Adjacency, edges: _Edges) -> None:
    name = adjacency.edge.name
    index = run.array((2, edges.count), np.int64)
    rows = (index[0], index[1]) if adjacency.direction == "out" else (index[1], index[0])
    at = 0
    for first, counts, local, _ in edges.parts:
        end = at + len(local)
        kernels.fill_edges(first, counts, local, rows[0][at:end], rows[1][at:end])
        at = end
    answer[f"edge_index/{name}"] = index
    answer[f"edge_hops/{name}"] = np.array(edges.ends, np.int64)
    wanted = (("edge_ids", np.int64, True), ("weights", np.float32, query.edge_weights and adjacency.edge.weighted))
    for extra, dtype, asked in (*wanted, ("times", np.int64, query.edge_times and adjacency.edge.timed)):
        found = [part[3][extra] for part in edges.parts if extra in part[3]]
        if found:
            joined = run.array((edges.count,), dtype)
            np.concatenate(found, out=joined)
            answer[f"{extra}/{name}"] = joined
        elif asked and (extra != "edge_ids" or query.edge_ids or query.edge_features):
            answer[f"{extra}/{name}"] = np.empty(0, dtype)


def _put_features(
    run: Execution, query: Sample | InducedSubgraph, answer: Arrays, nodes: dict[str, _Nodes], touched: Sequence[Adjacency]
) -> None:
    """Add the features; take out what was kept for them only."""
    dense = {name: answer.pop(f"dense/{name}") for name in nodes}
    for node_type, name in query.features:
        feature = run.schema.node(node_type).feature(name)
        if node_type in dense:
            ids = find_ids(answer, f"nodes/{node_type}") if feature.kind == "store" else None
            put_node_feature(run, answer, f"x/{node_type}/{name}", node_type, feature, dense[node_type], ids)
    by_name = {adjacency.edge.name: adjacency for adjacency in touched}
    for edge_type, name in query.edge_features:
        edge = run.schema.edge(edge_type)
        feature = edge.feature(name)
        rows = answer.get(f"edge_ids/{edge.name}")
        if rows is not None and edge.name in by_name:
            put_edge_feature(run, answer, f"edge_x/{edge.name}/{name}", by_name[edge.name], feature, rows)
    if not query.edge_ids:
        for edge_type in by_name:
            answer.pop(f"edge_ids/{edge_type}", None)


# -- induced subgraphs ------------------------------------------------------------------------------------------------------------------


def induced(run: Execution, query: InducedSubgraph, arrays: Arrays) -> Arrays:
    """Answer an `InducedSubgraph`: whole lists for `hops` hops, then the edges among all that was found."""
    if not 0 <= query.hops <= HOPS_MAX:
        raise InputError(f"hops is a whole number from 0 to {HOPS_MAX}, not {query.hops}")
    names = query.edge_types if query.edge_types is not None else tuple(edge.name for edge in run.schema.edges)
    touched = sorted((run.schema.adjacency(name, query.direction) for name in names), key=lambda adjacency: adjacency.number)
    reach = Sample(
        node_type=query.node_type,
        fan_outs=(ALL,) * query.hops,
        edge_types=names,
        direction=query.direction,
        strategy="all",
        edges=False,
        pad=query.pad,
    )
    _check(reach, touched, "as_of" in arrays)
    seeds = run.resolve(query.node_type, seeds_of(arrays), pad=query.pad)
    bounds = _Bounds(arrays.get("as_of"), len(seeds))
    if bounds.groups is not None:
        raise InputError("as_of of an induced subgraph is one moment for all seeds; ask for each seed by itself")
    with ExitStack() as stack:
        nodes = _open_nodes(run, stack, query.node_type, touched, False, len(seeds))
        edges = {adjacency.number: _Edges() for adjacency in touched}
        seed_index = _seed(nodes[query.node_type], seeds, bounds)
        for table in nodes.values():
            table.ends.append(len(table.labels))
        for hop in range(query.hops):
            _hop(run, reach, hop, [(adjacency, ALL) for adjacency in touched], nodes, edges, bounds, False)
        answer = _put_nodes(run, nodes, bounds)
    answer["seed_index"] = seed_index
    for adjacency, found in zip(touched, _induced_edges(run, touched, answer, bounds), strict=True):
        _put_induced(run, query, answer, adjacency, *found)
    _put_features(run, query, answer, nodes, touched)
    return answer


def _induced_edges(
    run: Execution, touched: Sequence[Adjacency], answer: Arrays, bounds: _Bounds
) -> list[tuple[I32Array, I32Array, I64Array]]:
    asks = []
    for adjacency in touched:
        frontier, members = (answer[f"dense/{run.schema.nodes[end].name}"] for end in (adjacency.from_type, adjacency.to_type))
        by_row = {"as_of": bounds.values} if bounds.values is not None and adjacency.edge.timed else None
        one = Induced(edge_type=adjacency.edge.name, direction=adjacency.direction)
        asks.append(Ask(one, run.starts(adjacency), "frontier", frontier, by_row, {"members": members}))
    found = []
    for parts in run.ask_many(asks):
        counts = parts.rows("counts", np.int32)
        found.append((counts, parts.runs(counts, "members", np.int32), parts.runs(counts, "edge_ids", np.int64)))
    return found


def _put_induced(
    run: Execution,
    query: InducedSubgraph,
    answer: Arrays,
    adjacency: Adjacency,
    counts: I32Array,
    members: I32Array,
    edge_ids: I64Array,
) -> None:
    name = adjacency.edge.name
    index = run.array((2, len(members)), np.int64)
    rows = (index[0], index[1]) if adjacency.direction == "out" else (index[1], index[0])
    kernels.fill_edges(0, counts, members, rows[0], rows[1])
    answer[f"edge_index/{name}"] = index
    answer[f"edge_hops/{name}"] = np.array([0, len(members)], np.int64)
    answer[f"edge_ids/{name}"] = edge_ids
    weights, times = query.edge_weights and adjacency.edge.weighted, query.edge_times and adjacency.edge.timed
    if weights or times:
        one = EdgesAt(edge_type=name, direction=adjacency.direction, weights=weights, times=times)
        starts = run.shards.edge_starts(name, adjacency.direction)
        parts = run.ask_rows(Ask(one, starts, "edge_ids", edge_ids))
        if weights:
            answer[f"weights/{name}"] = parts.rows("weights", np.float32)
        if times:
            answer[f"times/{name}"] = parts.rows("times", np.int64)
