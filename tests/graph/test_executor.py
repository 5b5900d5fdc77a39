"""The executor against a plain reference of many hops, and the same answers however the graph is divided."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graph import reference

from fondaco.core.errors import DeadlineExceededError, InputError, LimitError, NodeIdError, StateError
from fondaco.graph import _merge_kernels as kernels
from fondaco.graph._draws import SALT_LABOR
from fondaco.graph.deadlines import Deadline
from fondaco.graph.embedded import EmbeddedGraph
from fondaco.graph.execution import Ask, Execution, take_ids
from fondaco.graph.executor import execute
from fondaco.graph.graph import Graph
from fondaco.graph.layout import GraphLayout
from fondaco.graph.local import LocalShards, ShardAnswers
from fondaco.graph.opened import open_version
from fondaco.graph.queries import Answer, AnswerMeta, Arrays, GraphInfo, Query, Sample, StringIds, decode_query, encode_query
from fondaco.graph.shards import Counts, EdgeFeature, Hop, NodeFeature, Resolve, ShardRequest, decode_shard_query, encode_shard_query
from fondaco.platform import Platform
from fondaco.testing.graph import same

A, B = "a", "b"
KNOWS, LIKES, BACK = (A, "knows", A), (A, "likes", B), (B, "back", A)
DRAWS = np.random.default_rng(3)
IDS = {A: [int(v) * 77 for v in DRAWS.permutation(1000)[:60]], B: [f"b{number}" for number in range(25)]}


def _edges(src: Sequence[Any], dst: Sequence[Any], count: int) -> list[tuple[Any, Any, float, int]]:
    """(src, dst, weight, time); some are parallel, with equal times."""
    picks = DRAWS.integers(0, [len(src), len(dst), 5, 12], (count, 4)).tolist()
    return [(src[s], dst[d], float(weight), time) for s, d, weight, time in picks]


EDGES = {KNOWS: _edges(IDS[A][:-5], IDS[A], 400), LIKES: _edges(IDS[A], IDS[B], 150), BACK: _edges(IDS[B][:-2], IDS[A], 90)}
TIMED = {KNOWS, BACK}


def _table(key: tuple[str, str, str]) -> pa.Table:
    src, dst, weight, time = zip(*EDGES[key], strict=True)
    columns: dict[str, Any] = {"src": src, "dst": dst, "mark": np.arange(len(src))}
    if key == KNOWS:
        columns["weight"] = pa.array(weight, pa.float32())
    if key in TIMED:
        columns["time"] = pa.array(time, pa.timestamp("us", "UTC"))
    return pa.table(columns)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, GraphLayout]:
    """The same graph in 1, 2 and 5 partitions."""
    directory = tmp_path_factory.mktemp("divided") / "platform"
    nodes = {
        A: pa.table(
            {
                "id": IDS[A],
                "x": pa.array([[float(node), 1.0, 2.0] for node in IDS[A]], pa.list_(pa.float32(), 3)),
                "maybe": pa.array([None if place == 9 else place for place in range(60)], pa.int16()),
            }
        ),
        B: pa.table({"id": IDS[B], "text": [node * 3 for node in IDS[B]]}),
    }
    with Platform.open(directory) as platform:
        for partitions in (1, 2, 5):
            platform.build_graph(
                f"g{partitions}", nodes=nodes, edges={key: _table(key) for key in EDGES}, partitions=partitions, directions="both",
                progress=False,
            )  # fmt: skip
    return {partitions: GraphLayout(directory / "graphs" / f"g{partitions}") for partitions in (1, 2, 5)}


@pytest.fixture(scope="module")
def graph(layouts: dict[int, GraphLayout]) -> Graph:
    opened = open_version(layouts[5], 1)
    return EmbeddedGraph(lambda: opened)


@pytest.fixture(scope="module")
def shards(layouts: dict[int, GraphLayout]) -> LocalShards:
    return LocalShards([ShardAnswers(open_version(layouts[5], 1, shard=(shard, 3))) for shard in range(3)])


# -- a plain reference of many hops -----------------------------------------------------------------------------------------------------


def _hash(node: int | str) -> int:
    return xxhash.xxh64_intdigest(node.encode() if isinstance(node, str) else node.to_bytes(8, "little", signed=True))


ORDER = {name: sorted(ids, key=lambda node: (_hash(node), node)) for name, ids in IDS.items()}
DENSE = {name: {node: place for place, node in enumerate(order)} for name, order in ORDER.items()}
NUMBERS = {(key, direction): 2 * place + (direction == "in") for place, key in enumerate(EDGES) for direction in ("out", "in")}


def _lists(key: tuple[str, str, str], direction: str) -> reference.Lists:
    src, _, dst = key
    start, end = (src, dst) if direction == "out" else (dst, src)
    rows: list[list[tuple[int, float, int]]] = [[] for _ in ORDER[start]]
    for s, d, weight, time in EDGES[key]:
        here, there = (s, d) if direction == "out" else (d, s)
        rows[DENSE[start][here]].append((DENSE[end][there], weight, time))
    return reference.Lists([sorted(row, key=lambda edge: edge[1]) for row in rows], timed=key in TIMED)


LISTS = {(key, direction): _lists(key, direction) for key, direction in NUMBERS}


@dataclass
class PlainSample:
    nodes: dict[str, list[Any]] = field(default_factory=dict)
    hops: dict[str, list[int]] = field(default_factory=dict)
    edges: dict[tuple[str, str, str], list[tuple[int, int, int]]] = field(default_factory=dict)


def plain_sample(
    seeds: list[int], fan_outs: Sequence[dict[tuple[str, str, str], int]], direction: str, strategy: str, replace: bool, seed: int,
    as_of: list[int] | None,
) -> PlainSample:  # fmt: skip
    """As the executor's documentation says it: hops, edge types in order, frontier in order of appearance, draws in order."""
    known: dict[str, dict[Any, int]] = {A: {}, B: {}}
    moments = [0] * len(seeds) if as_of is None else as_of
    reference.relabel([(DENSE[A][node], moment) for node, moment in zip(seeds, moments, strict=True)], known[A])
    ends = {name: [0, len(known[name])] for name in known}
    edges: dict[tuple[str, str, str], list[tuple[int, int, int]]] = defaultdict(list)
    for hop, plan in enumerate(fan_outs):
        frontiers = {name: list(known[name])[ends[name][-2] :] if hop else list(known[name]) for name in known}
        for key, fan_out in sorted(plan.items(), key=lambda step: NUMBERS[step[0], direction]):
            if not fan_out:  # nothing, whatever the strategy
                continue
            start, end = (key[0], key[2]) if direction == "out" else (key[2], key[0])
            frontier, lists = frontiers[start], LISTS[key, direction]
            bounds = [moment for _, moment in frontier] if as_of is not None else None
            counts, found, _ = _one_hop(
                lists, [node for node, _ in frontier], fan_out, strategy, replace, seed, hop, key, direction, bounds
            )
            owners = [owner for owner, count in zip(frontier, counts, strict=True) for _ in range(count)]
            local = reference.relabel([(node, owner[1]) for node, owner in zip(found, owners, strict=True)], known[end])
            edges[key] += [(hop, known[start][owner], place) for owner, place in zip(owners, local, strict=True)]
        for name in known:
            ends[name].append(len(known[name]))
    nodes = {name: [(ORDER[name][node], moment) for node, moment in table] for name, table in known.items()}
    return PlainSample(nodes, ends, edges)


def _one_hop(
    lists: reference.Lists, frontier: list[int], fan_out: int, strategy: str, replace: bool, seed: int, hop: int, key: Any, direction: str,
    bounds: list[int] | None,
) -> reference.Answer:  # fmt: skip
    if fan_out == -1:
        strategy = "all"
    if strategy != "labor":
        return reference.sample(lists, frontier, fan_out, strategy, replace, seed, hop, NUMBERS[key, direction], bounds)
    end = key[2] if direction == "out" else key[0]
    salted = reference.mix(reference.mix(reference.mix(0, seed), hop), SALT_LABOR + list(ORDER).index(end))
    counts, found = [], []
    for place, node in enumerate(frontier):
        visible = [to for to, _, _ in lists.visible(node, None if bounds is None else bounds[place])]
        picks = reference.layer(visible, fan_out, salted)
        counts.append(len(picks))
        found += [visible[pick] for pick in picks]
    return counts, found, []


plans = st.lists(
    st.dictionaries(st.sampled_from(list(EDGES)), st.sampled_from([-1, 0, 1, 2, 4, 60]), min_size=0, max_size=3), min_size=0, max_size=3
)


@settings(max_examples=100, deadline=None)
@given(
    seeds=st.lists(st.sampled_from(IDS[A]), max_size=12),
    fan_outs=plans,
    direction=st.sampled_from(["out", "in"]),
    strategy=st.sampled_from(["uniform", "all", "labor"]),
    replace=st.booleans(),
    seed=st.integers(0, (1 << 64) - 1),
    moments=st.sampled_from(["none", "one", "many"]),
    data=st.data(),
)
def test_a_sample_is_what_the_plain_reference_finds(
    graph: Graph,
    seeds: list[int],
    fan_outs: Any,
    direction: Any,
    strategy: Any,
    replace: bool,
    seed: int,
    moments: str,
    data: st.DataObject,
) -> None:
    replace = replace and strategy == "uniform"
    timed = any(key in TIMED for plan in fan_outs for key in plan)
    as_of = None
    if moments != "none" and timed and seeds:
        several = st.lists(st.integers(-1, 13), min_size=len(seeds), max_size=len(seeds))
        as_of = data.draw(several) if moments == "many" else [data.draw(st.integers(-1, 13))] * len(seeds)
    sub = graph.sample(
        seeds,
        fan_outs,
        direction=direction,
        strategy=strategy,
        replace=replace,
        seed=seed,
        as_of=as_of,
        node_type=A,
        edge_features=["mark"],
    )
    plain = plain_sample(seeds, fan_outs, direction, strategy, replace, seed, as_of)
    assert [plain.nodes[A][place][0] for place in sub.seed_index.tolist()] == seeds
    for name, nodes in sub.nodes.items():
        assert nodes.tolist() == [node for node, _ in plain.nodes[name]]
        assert sub.hop_offsets[name].tolist() == plain.hops[name]
        if name in sub.as_of:
            assert sub.as_of[name].tolist() == [moment for _, moment in plain.nodes[name]]
    for key, index in sub.edge_index.items():
        rows = index if direction == "out" else index[::-1]
        expected = plain.edges.get(key, [])
        assert list(zip(*rows.tolist(), strict=True)) == [(here, there) for _, here, there in expected]
        assert np.diff(sub.edge_hop_offsets[key]).tolist() == [sum(hop == at for hop, _, _ in expected) for at in range(len(fan_outs))]
        for mark, place in zip(sub.edge_features[key]["mark"].tolist(), range(len(expected)), strict=True):  # type: ignore[union-attr]
            ends = sub.nodes[key[0]][index[0, place]], sub.nodes[key[2]][index[1, place]]
            assert EDGES[key][mark][:2] == ends


@pytest.mark.parametrize("strategy", ["weighted", "top_k", "last"])
def test_strategies_that_look_at_weights_and_times_agree_with_the_reference(graph: Graph, strategy: Any) -> None:
    for seed in range(20):
        seeds = IDS[A][seed : seed + 9]
        sub = graph.sample(seeds, [{KNOWS: 3}, {KNOWS: 2}], strategy=strategy, seed=seed, node_type=A, as_of=[7 + seed % 3] * 9)
        plain = plain_sample(seeds, [{KNOWS: 3}, {KNOWS: 2}], "out", strategy, False, seed, [7 + seed % 3] * 9)
        assert sub.nodes[A].tolist() == [node for node, _ in plain.nodes[A]]
        assert list(zip(*sub.edge_index[KNOWS].tolist(), strict=True)) == [(here, there) for _, here, there in plain.edges[KNOWS]]


# -- however it is divided ----------------------------------------------------------------------------------------------------------------

SEEDS = [*IDS[A][:20], IDS[A][3], IDS[A][-1]]


def answers_of(graph: Graph) -> dict[str, object]:
    """One of everything."""
    edge = {"edge_type": "knows"}
    return {
        "sample": graph.sample(SEEDS, [4, 3, 2], node_type=A, features=["x", "maybe", "text"], edge_features=["mark"], seed=5),
        "moments": graph.sample(SEEDS, [4, 3], node_type=A, as_of=[place % 12 for place in range(22)], features=["x", "text"], seed=5),
        "weighted": graph.sample(SEEDS, [{KNOWS: 4}, {KNOWS: 9}], node_type=A, strategy="weighted", edge_weights=True, edge_times=True),
        "backwards": graph.sample(IDS[B][:9], [3, 3], node_type=B, direction="in", features=["text"]),
        "layers": graph.layer_sample(SEEDS, [3, 3], node_type=A),
        "induced": graph.subgraph(SEEDS[:5], 2, node_type=A, features=["x", "text"], edge_features=["mark"], edge_weights=True),
        "neighbors": graph.neighbors(SEEDS, weights=True, times=True, edge_ids=True, **edge),
        "string neighbors": graph.neighbors(SEEDS, edge_type="likes"),
        "counts": graph.neighbor_counts([*SEEDS, -1], on_unknown="pad", **edge),
        "edges": graph.find_edges(np.repeat(IDS[A][:20], 20), np.tile(IDS[A][:20], 20), "knows"),
        "features": graph.features_and_masks([*SEEDS, -1], ["x", "maybe"], node_type=A, on_unknown="pad"),
        "texts": graph.features_and_masks([*IDS[B], "?"], ["text"], node_type=B, on_unknown="pad"),
        "edge features": graph.edge_features_by_id(np.arange(399, -1, -7), ["mark"], "knows", direction="in"),
        "ids": [graph.node_ids(A), graph.node_ids(B), graph.node_ids(A, shard=(1, 3))],
        "types": [graph.node_types([*IDS[A], 5]), graph.contains([*IDS[B], "?"], node_type=B)],
        "walk": graph.random_walk(SEEDS, 6, metapath=["likes", "back"], seed=1),
        "node2vec": graph.node2vec(SEEDS, 6, 0.2, 4.0, seed=1, **edge),
        "ppr": graph.ppr(SEEDS, 5, **edge),
        "nodes": [graph.sample_nodes(20, A), graph.sample_nodes(20, B)],
        "drawn edges": [graph.sample_edges(20, "knows", weighted=True), graph.sample_edges(20, "likes")],
        "negatives": [graph.negatives(SEEDS, 4, edge_type="knows", distribution="degree"), graph.negatives(SEEDS, 4, edge_type="likes")],
    }


@pytest.fixture(scope="module")
def expected(layouts: dict[int, GraphLayout]) -> dict[str, object]:
    opened = open_version(layouts[1], 1)
    return answers_of(EmbeddedGraph(lambda: opened))


@pytest.mark.parametrize("shard_count", [1, 2, 5])
@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_answers_do_not_depend_on_partitions_or_shards(
    layouts: dict[int, GraphLayout], expected: dict[str, object], partitions: int, shard_count: int
) -> None:
    parts = [open_version(layouts[partitions], 1, shard=(shard, shard_count)) for shard in range(shard_count)]
    found = answers_of(EmbeddedGraph(lambda: parts))
    assert [name for name in expected if not same(found[name], expected[name])] == []


def test_answers_do_not_depend_on_threads(layouts: dict[int, GraphLayout], expected: dict[str, object]) -> None:
    parts = [open_version(layouts[5], 1, shard=(shard, 2)) for shard in range(2)]
    graph = EmbeddedGraph(lambda: parts)
    wrong: list[object] = []

    def ask() -> None:
        with contextlib.suppress(AssertionError):
            found = answers_of(graph)
            wrong.extend(name for name in expected if not same(found[name], expected[name]))
            return
        wrong.append("failed")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_only_the_shards_that_hold_rows_are_asked(shards: LocalShards) -> None:
    class Counting(LocalShards):
        asked: list[list[int]]

        def ask(self, requests: Sequence[ShardRequest], deadline: Deadline) -> list[Arrays]:
            self.asked.append([request.shard for request in requests])
            return super().ask(requests, deadline)

    counting = Counting(shards._answers)
    counting.asked = []
    run = Execution(counting, Deadline())
    adjacency = counting.schema.adjacency(KNOWS)
    starts = counting.starts(A)
    first_of_last = np.array([starts[4]], np.int32)
    assert len(run.counts(adjacency, first_of_last)) == 1
    assert counting.asked == [[2]]
    counting.asked.clear()
    run.counts(adjacency, np.array([starts[4], 0, starts[4]], np.int32))
    assert counting.asked == [[0, 2]]  # one round for both


# -- parts ------------------------------------------------------------------------------------------------------------------------------


def test_a_deadline_is_looked_at_between_the_hops(shards: LocalShards) -> None:
    class Late(LocalShards):
        hops = 0

        def ask(self, requests: Sequence[ShardRequest], deadline: Deadline) -> list[Arrays]:
            if isinstance(requests[0].query, Hop):
                self.hops += 1
                deadline.at = 0.0
            return [self._answers[request.shard].answer(request.query, request.arrays, request.out) for request in requests]

    late = Late(shards._answers)
    with pytest.raises(DeadlineExceededError):
        execute(Sample(node_type=A, fan_outs=(2, 2, 2)), {"seeds": np.array(IDS[A][:3])}, late, deadline=Deadline(60))
    assert late.hops == 1


def test_big_arrays_lie_where_the_allocator_says(shards: LocalShards, layouts: dict[int, GraphLayout]) -> None:
    given: list[np.ndarray] = []

    def allocate(size: int) -> np.ndarray:
        given.append(np.empty(size, np.uint8))
        return given[-1]

    one = LocalShards([ShardAnswers(open_version(layouts[5], 1))])
    for where in (one, shards):
        given.clear()
        query = Sample(node_type=A, fan_outs=(5, 5), features=((A, "x"),))
        answer = execute(query, {"seeds": np.array(IDS[A][:9])}, where, allocate=allocate).arrays
        for name in ("x/a/x", "nodes/a", "edge_index/a/knows/a", "edge_ids/a/knows/a"):
            assert any(np.shares_memory(answer[name], memory) for memory in given), name


def test_queries_travel(shards: LocalShards) -> None:
    query = Sample(node_type=A, fan_outs=(3, {"a/knows/a": -1}), features=((A, "x"),), seed=(1 << 64) - 1)
    assert decode_query(encode_query(query)) == query
    hop = Hop(edge_type="a/knows/a", direction="in", fan_out=3, seed=(1 << 64) - 1)
    assert decode_shard_query(encode_shard_query(hop)) == hop


@pytest.mark.parametrize(
    ("query", "arrays", "message"),
    [
        (
            Hop(edge_type="a/knows/a", direction="out", fan_out=2),
            {"frontier": np.array([60], np.int32)},
            "rows from 60 to 60; there are 60",
        ),
        (Hop(edge_type="a/knows/a", direction="out", fan_out=2), {"frontier": np.array([-1], np.int32)}, "rows from -1"),
        (Counts(edge_type="a/knows/a", direction="out"), {"frontier": np.array([[1]], np.int32)}, "shape"),
        (Counts(edge_type="a/knows/a", direction="out"), {"frontier": np.array([1.5])}, "whole numbers"),
        (
            Counts(edge_type="a/knows/a", direction="out"),
            {"frontier": np.array([1, 2, 3], np.int32), "as_of": np.array([1, 2])},
            r"as_of has shape \(2,\) for 3 rows",
        ),
        (NodeFeature(node_type=A, name="x"), {"rows": np.array([1 << 40])}, "rows from"),
        (EdgeFeature(edge_type="a/knows/a", direction="out", name="mark"), {"rows": np.array([400])}, "there are 400"),
        (Resolve(node_type=B), {"ids.offsets": np.array([0, 9]), "ids.data": np.zeros(3, np.uint8)}, "not ascending within their bytes"),
        (Resolve(node_type=B), {"ids.offsets": np.array([0, 2, 1]), "ids.data": np.zeros(3, np.uint8)}, "not ascending"),
    ],
)
def test_a_shard_refuses_rows_that_it_cannot_have(shards: LocalShards, query: Any, arrays: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shards._answers[0].answer(query, arrays)


def test_shards_together_hold_every_partition_once(layouts: dict[int, GraphLayout]) -> None:
    parts = [ShardAnswers(open_version(layouts[5], 1, held=held)) for held in ([0, 1], [1, 2, 3, 4])]
    with pytest.raises(InputError, match=r"not each of 5 once"):
        LocalShards(parts)


def test_a_query_without_its_ids_is_refused(shards: LocalShards) -> None:
    with pytest.raises(InputError, match="needs the ids 'seeds'"):
        execute(Sample(node_type=A, fan_outs=(1,)), {}, shards)


def test_ids_of_the_other_kind_are_refused(shards: LocalShards) -> None:
    with pytest.raises(InputError, match="nodes of type 'b' have string ids, and others came"):
        execute(Sample(node_type=B, fan_outs=(1,)), {"seeds": np.array([1])}, shards)
    with pytest.raises(InputError, match="nodes of type 'a' have long ids, and others came"):
        execute(Sample(node_type=A, fan_outs=(1,)), {"seeds.offsets": np.array([0, 0]), "seeds.data": np.empty(0, np.uint8)}, shards)


def test_draws_that_would_fill_memory_are_refused(graph: Graph) -> None:
    with pytest.raises(LimitError, match="smaller fan-out"):
        graph.sample(IDS[A][:2], [{KNOWS: 1 << 30}], node_type=A, replace=True)
    with pytest.raises(LimitError, match="smaller fan-out"):
        graph.sample_neighbors(IDS[A][:2], 1 << 30, edge_type=KNOWS, replace=True)
    everything = graph.sample(IDS[A][:2], [{KNOWS: 1 << 30}], node_type=A)
    assert everything.edge_count == graph.neighbor_counts(IDS[A][:2], edge_type=KNOWS).sum()
    with pytest.raises(InputError, match="hops is a whole number from 0 to 64"):
        graph.subgraph(IDS[A][:2], 65, node_type=A)


def test_a_version_that_changes_while_nodes_are_listed_is_said(layouts: dict[int, GraphLayout]) -> None:
    opened = open_version(layouts[1], 1)

    class Switching(EmbeddedGraph):
        def _ask(self, query: Query, arrays: Arrays, timeout_s: float | None) -> Answer:
            answer = super()._ask(query, arrays, timeout_s)
            return Answer(AnswerMeta(version=2), answer.arrays)

    with pytest.raises(StateError, match="from version 1 to 2 while its nodes were listed"):
        Switching(lambda: opened).node_ids(A)


def test_only_the_first_unknown_ids_are_listed(graph: Graph) -> None:
    with pytest.raises(NodeIdError, match=r"9 ids are not among the nodes of type 'b': '0', '1', '2', '3', '4', \.\.\."):
        graph.sample([str(number) for number in range(9)], [1], node_type=B)


def test_a_schema_that_changes_under_a_question_is_said(graph: Graph) -> None:
    class Changing(Graph):
        looks = 0

        @property
        def info(self) -> GraphInfo:
            self.looks += 1
            info = graph.info
            schema = type(info.schema)(info.schema.nodes, info.schema.edges[: 2 if self.looks > 1 else 3])
            return GraphInfo(graph="g", version=self.looks, partitions=1, schema=schema, node_counts={}, edge_counts={})

        def _ask(self, query: Query, arrays: Arrays, timeout_s: float | None) -> Answer:
            return Answer(AnswerMeta(version=2), {"counts": np.zeros(1, np.int64)})

        def close(self) -> None:
            pass

    with pytest.raises(StateError, match="has another schema; ask again"):
        Changing().neighbor_counts([1], edge_type="knows")


# -- kernels ------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 99), max_size=50), cuts=st.lists(st.integers(0, 99), max_size=4), wide=st.booleans())
def test_rows_divided_among_shards_come_together_again(rows: list[int], cuts: list[int], wide: bool) -> None:
    uppers = np.array([*sorted(cuts), 100], np.int64)
    array = np.array(rows, np.int64 if wide else np.int32)
    order, ends = np.empty(len(rows), np.int64), np.empty(len(uppers) + 1, np.int64)
    kernels.divide(uppers, array, order, ends)
    for shard in range(len(uppers)):
        low = uppers[shard - 1] if shard else 0
        mine = [place for place, row in enumerate(rows) if low <= row < uppers[shard]]
        assert order[ends[shard] : ends[shard + 1]].tolist() == mine
    for dtype in (np.int64, np.int16, np.uint8):
        values = np.arange(3 * len(rows), dtype=dtype).reshape(-1, 3)
        single, triple = np.zeros(len(rows), dtype), np.zeros((len(rows), 3), dtype)
        taken, taken_rows = values[order, 0].copy(), values[order]
        kernels.scatter_rows(order, taken.ctypes.data, single.ctypes.data, single.itemsize)
        kernels.scatter_rows(order, taken_rows.ctypes.data, triple.ctypes.data, 3 * triple.itemsize)
        assert np.array_equal(single, values[:, 0])
        assert np.array_equal(triple, values)
    runs = [list(range(row % 4)) for row in rows]
    starts = np.concatenate([[0], np.cumsum([len(run) for run in runs])]).astype(np.int64)
    source = np.array([item + place for place in order for item in runs[place]], np.float32)
    merged = np.zeros(starts[-1], np.float32)
    kernels.scatter_runs(order, starts, source.ctypes.data, merged.ctypes.data, 4)
    assert merged.tolist() == [item + place for place, run in enumerate(runs) for item in run]


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 5), max_size=20), first=st.integers(0, 1000))
def test_edges_are_filled_by_frontier_node(counts: list[int], first: int) -> None:
    total = sum(counts)
    from_row, to_row = np.zeros(total, np.int64), np.zeros(total, np.int64)
    kernels.fill_edges(first, np.array(counts, np.int32), np.arange(total, dtype=np.int32), from_row, to_row)
    assert from_row.tolist() == [first + place for place, count in enumerate(counts) for _ in range(count)]
    assert to_row.tolist() == list(range(total))


@given(st.lists(st.text(max_size=5), min_size=1, max_size=9), st.data())
def test_ids_can_be_taken_by_position(texts: list[str], data: st.DataObject) -> None:
    encoded = [text.encode() for text in texts]
    ids = StringIds(np.cumsum([0, *map(len, encoded)]), np.frombuffer(b"".join(encoded), np.uint8))
    positions = data.draw(st.lists(st.integers(0, len(texts) - 1)))
    taken = take_ids(ids, np.array(positions, np.int64))
    assert isinstance(taken, StringIds)
    assert [taken.data[a:b].tobytes() for a, b in zip(taken.offsets, taken.offsets[1:], strict=False)] == [encoded[p] for p in positions]


def test_nothing_to_ask_is_asked_of_nobody_but_one(shards: LocalShards) -> None:
    run = Execution(shards, Deadline())
    adjacency = shards.schema.adjacency(LIKES)
    parts = run.ask_rows(
        Ask(Hop(edge_type=adjacency.edge.name, direction="out", fan_out=3), run.starts(adjacency), "frontier", np.empty(0, np.int32))
    )
    assert len(parts.answers) == 1
    assert parts.rows("counts", np.int32).tolist() == []
