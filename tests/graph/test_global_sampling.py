"""Nodes and edges drawn out of all of a type: the same over shards as from one, and with the right distribution."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chi2

from fondaco.core.errors import InputError, PartitionNotHeldError
from fondaco.graph.deadlines import Deadline
from fondaco.graph.executor import execute
from fondaco.graph.local import LocalShards
from fondaco.graph.queries import Arrays, Query, SampleEdges, SampleNodes
from fondaco.graph.shards import Masses, Pick, ShardRequest, SmallestKeys
from graph.divided import Divided, social

LEVEL = 1e-6
QUERIES = {
    "nodes": SampleNodes(node_type="person", count=100, seed=1),
    "all nodes": SampleNodes(node_type="person", count=300, seed=1),
    "nodes, with replacement": SampleNodes(node_type="page", count=500, replace=True, seed=2),
    "nodes by weight": SampleNodes(node_type="person", count=150, weighted=True, seed=3),
    "nodes by weight, with replacement": SampleNodes(node_type="person", count=1000, weighted=True, replace=True, seed=4),
    "edges": SampleEdges(edge_type="person/knows/person", count=400, seed=5),
    "edges, with replacement": SampleEdges(edge_type="person/reads/page", count=400, replace=True, seed=6),
    "edges by weight": SampleEdges(edge_type="person/met/person", count=400, weighted=True, seed=7),
    "edges by weight, with replacement": SampleEdges(edge_type="person/reads/page", count=400, weighted=True, replace=True, seed=8),
    "edges against their direction": SampleEdges(edge_type="person/met/person", direction="in", count=30, weighted=True, seed=9),
    "none": SampleEdges(edge_type="person/met/person", count=0, weighted=True, replace=True),
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Divided:
    return social(tmp_path_factory.mktemp("global"), directions="both")


@pytest.fixture(scope="module")
def whole(graph: Divided) -> LocalShards:
    return graph.shards()


@pytest.fixture(scope="module", params=[2, 4])
def divided(graph: Divided, request: pytest.FixtureRequest) -> LocalShards:
    return graph.shards(request.param)


def ask(shards: LocalShards, query: Query) -> Arrays:
    return execute(query, {}, shards).arrays


@pytest.mark.parametrize("name", QUERIES)
def test_draws_over_shards_are_those_of_one(whole: LocalShards, divided: LocalShards, name: str) -> None:
    one, several = ask(whole, QUERIES[name]), ask(divided, QUERIES[name])
    assert one.keys() == several.keys()
    assert all(np.array_equal(one[array], several[array]) for array in one)
    query = QUERIES[name]
    if not query.replace and query.count:
        drawn = one["nodes"] if "nodes" in one else one["edge_ids"]
        assert len(set(drawn.tolist())) == len(drawn) == query.count


def test_partitions_change_no_draw(tmp_path: object, whole: LocalShards, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = social(tmp_path_factory.mktemp("other"), partitions=3, directions="both").shards()
    for query in QUERIES.values():
        one, several = ask(whole, query), ask(other, query)
        assert all(np.array_equal(one[array], several[array]) for array in one)


def test_edges_come_with_their_ends_and_weights(tmp_path: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(3)
    pairs = np.unique(rng.integers(0, 30, (200, 2)), axis=0)
    weights = rng.random(len(pairs)).astype(np.float32)
    table = pa.table({"src": pairs[:, 0], "dst": pairs[:, 1], "weight": weights})
    graph = Divided(tmp_path_factory.mktemp("ends"), {}, {("n", "e", "n"): table}, partitions=4, directions="both")
    known = {(int(src), int(dst)): float(weight) for (src, dst), weight in zip(pairs, weights, strict=True)}
    for direction in ("out", "in"):
        query = SampleEdges(edge_type="n/e/n", count=len(pairs), direction=direction, seed=2)
        arrays = ask(graph.shards(3), query)
        drawn = zip(arrays["src"].tolist(), arrays["dst"].tolist(), arrays["weights"].tolist(), strict=True)
        assert {(src, dst): weight for src, dst, weight in drawn} == known


def test_by_weight_nodes_and_edges_come_in_proportion_to_it(whole: LocalShards) -> None:
    trials = 20_000
    drawn = ask(whole, SampleNodes(node_type="person", count=trials, weighted=True, replace=True, seed=11))["nodes"]
    weights = (np.arange(300) % 9).astype(np.float64)
    observed = np.bincount((drawn + 50) // 7, minlength=300)
    assert observed[weights == 0].sum() == 0
    expected = (weights / weights.sum() * trials)[weights > 0]
    assert ((observed[weights > 0] - expected) ** 2 / expected).sum() < chi2.isf(LEVEL, len(expected) - 1)

    edge_ids = ask(whole, SampleEdges(edge_type="person/met/person", count=trials, weighted=True, replace=True, seed=12))["edge_ids"]
    total = ask(whole, SampleEdges(edge_type="person/met/person", count=2500, seed=1))
    by_id = total["weights"][np.argsort(total["edge_ids"])].astype(np.float64)
    groups = np.arange(2500) // 25  # 100 edges expect more than 5
    expected = np.bincount(groups, by_id) / by_id.sum() * trials
    observed = np.bincount(groups[edge_ids], minlength=100)
    assert ((observed - expected) ** 2 / expected).sum() < chi2.isf(LEVEL, 99)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (SampleNodes(node_type="person", count=301), "cannot draw 301 different nodes of type 'person': there are 300"),
        (SampleNodes(node_type="person", count=-1), "cannot draw -1"),
        (SampleNodes(node_type="person", count=(1 << 31) - 1, replace=True), "2147483647 is more than the limit"),
        (SampleEdges(edge_type="person/knows/person", count=(1 << 31) - 1, replace=True), "2147483647 is more than the limit"),
        (SampleNodes(node_type="page", count=1, weighted=True), "have no weights"),
        (SampleNodes(node_type="person", count=299, weighted=True), "266 have one above 0"),
        (SampleEdges(edge_type="person/knows/person", count=1, weighted=True), "have no weights"),
        (SampleEdges(edge_type="person/met/person", count=2501), "there are 2500"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(whole: LocalShards, query: Query, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ask(whole, query)


def test_nothing_to_draw_from_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = pa.table({"src": pa.array([], pa.int64()), "dst": pa.array([], pa.int64()), "weight": pa.array([], pa.float32())})
    nodes = {"n": pa.table({"id": [1, 2], "weight": pa.array([0.0, 0.0], pa.float32())})}
    shards = Divided(tmp_path_factory.mktemp("empty"), nodes, {("n", "e", "n"): empty}, partitions=2).shards(2)
    for query in (
        SampleEdges(edge_type="n/e/n", count=1, replace=True),
        SampleEdges(edge_type="n/e/n", count=1, weighted=True, replace=True),
        SampleNodes(node_type="n", count=1, weighted=True, replace=True),
        SampleNodes(node_type="n", count=1, weighted=True),
    ):
        with pytest.raises(InputError, match="cannot draw"):
            ask(shards, query)
    assert len(ask(shards, SampleEdges(edge_type="n/e/n", count=0))["edge_ids"]) == 0


def test_what_comes_from_the_network_is_checked_before_a_kernel_sees_it(divided: LocalShards) -> None:
    foreign = int(np.flatnonzero(divided.owners != 0)[0])
    partitions = {"partitions": np.array([foreign])}
    picks = {"partition": np.array([foreign]), "mass": np.array([0.5])}
    for query, arrays in [
        (Masses(node_type="person"), partitions),
        (Masses(node_type="person"), {"partitions": np.array([99])}),
        (Pick(edge_type="person/met/person"), picks),
        (SmallestKeys(node_type="person", count=3, seed=1), partitions),
    ]:
        with pytest.raises(PartitionNotHeldError):
            divided.ask([ShardRequest(0, query, arrays)], Deadline())
    for query, arrays, says in [
        (Masses(node_type="page"), partitions, "has no weights"),
        (Masses(), partitions, "one of them"),
        (Masses(node_type="page", edge_type="person/met/person"), partitions, "one of them"),
    ]:
        with pytest.raises(InputError, match=says):
            divided.ask([ShardRequest(0, query, arrays)], Deadline())
