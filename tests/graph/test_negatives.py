"""Negatives: never a neighbour if strict, with the right distribution, and the same over shards as from one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chi2

from fondaco.core.errors import InputError, LimitError, PartitionNotHeldError
from fondaco.graph import negatives
from fondaco.graph.deadlines import Deadline
from fondaco.graph.execution import Execution
from fondaco.graph.executor import execute
from fondaco.graph.local import LocalShards, ShardAnswers
from fondaco.graph.queries import Arrays, Negatives
from fondaco.graph.shards import Find, InDegrees, ShardRequest
from graph.divided import Divided, social

LEVEL = 1e-6
QUERIES = [
    Negatives(edge_type="person/knows/person", count=5, seed=1),
    Negatives(edge_type="person/knows/person", count=5, distribution="degree", seed=2),
    Negatives(edge_type="person/reads/page", count=7, seed=3),
    Negatives(edge_type="person/reads/page", count=7, distribution="degree", strict=False, seed=4),
    Negatives(edge_type="person/met/person", count=3, distribution="degree", seed=5),
]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Divided:
    return social(tmp_path_factory.mktemp("negatives"), directions="both")


@pytest.fixture(scope="module")
def whole(graph: Divided) -> Execution:
    return graph.execution()


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("count", [2, 4])
def test_negatives_over_shards_are_those_of_one(graph: Divided, whole: Execution, query: Negatives, count: int) -> None:
    sources = np.random.default_rng(0).integers(0, 300, 150).astype(np.int32)
    sources[::11] = -1
    one = negatives.draw_negatives(whole, query, sources)
    assert one.shape == (150, query.count)
    assert (one[sources < 0] == -1).all()
    assert (one[sources >= 0] >= 0).all()
    assert np.array_equal(one, negatives.draw_negatives(graph.execution(count), query, sources))


@pytest.mark.parametrize("directions", ["out", "in", "both"])
def test_neither_partitions_nor_stored_directions_change_a_negative(
    tmp_path_factory: pytest.TempPathFactory, whole: Execution, directions: str
) -> None:
    other = social(tmp_path_factory.mktemp("other"), partitions=3, directions=directions).execution(2)
    sources = np.arange(300, dtype=np.int32)
    for query in QUERIES:
        assert np.array_equal(negatives.draw_negatives(whole, query, sources), negatives.draw_negatives(other, query, sources))


@pytest.mark.parametrize("query", [query for query in QUERIES if query.strict])
def test_a_strict_negative_is_no_neighbour_nor_the_node_itself(whole: Execution, query: Negatives) -> None:
    sources = np.arange(300, dtype=np.int32)
    found = negatives.draw_negatives(whole, query, sources)
    pairs = {"frontier": np.repeat(sources, query.count), "to": found.reshape(-1)}
    (answer,) = whole.shards.ask([ShardRequest(0, Find(edge_type=query.edge_type, direction="out"), pairs)], Deadline())
    assert (answer["edge_ids"] < 0).all()
    if query.edge_type != "person/reads/page":
        assert (found != sources[:, None]).all()


def crowded(path: object, directions: str) -> Divided:
    """Node 0 leads to all, 1 to all but 7 and 9, 2 to all but itself and 8; 3 to none. In-degrees differ."""
    pairs = (
        [(0, to) for to in range(60)]
        + [(1, to) for to in range(60) if to not in (7, 9)]
        + [(2, to) for to in range(60) if to not in (2, 8)]
    )
    pairs += [(20 + i, to) for to, count in ((7, 15), (9, 2), (8, 5)) for i in range(count)]
    table = pa.table({"src": [pair[0] for pair in pairs], "dst": [pair[1] for pair in pairs]})
    return Divided(path, {"n": pa.table({"id": np.arange(60)})}, {("n", "e", "n"): table}, partitions=4, directions=directions)  # type: ignore[arg-type]


@pytest.mark.parametrize("directions", ["out", "in"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("distribution", ["uniform", "degree"])
def test_a_node_that_leads_nearly_everywhere_gets_what_is_left_and_one_that_leads_everywhere_none(
    tmp_path_factory: pytest.TempPathFactory, directions: str, shards: int, distribution: str
) -> None:
    part = crowded(tmp_path_factory.mktemp("crowded"), directions).shards(shards)
    trials = 3000
    query = Negatives(edge_type="n/e/n", count=trials, distribution=distribution, seed=3)
    arrays = execute(query, {"seeds": np.array([0, 1, 2], np.int64)}, part).arrays
    alive, nodes = arrays["alive"], arrays["nodes"]
    assert alive.tolist() == [[False] * trials, [True] * trials, [True] * trials]
    assert set(nodes[trials:].tolist()) == {8}
    in_degree = {7: 17, 9: 4}  # from 0 and 2 as well
    shares = np.array([in_degree[node] ** 0.75 if distribution == "degree" else 1.0 for node in (7, 9)])
    expected = shares / shares.sum() * trials
    observed = np.array([(nodes[:trials] == node).sum() for node in (7, 9)])
    assert observed.sum() == trials
    assert ((observed - expected) ** 2 / expected).sum() < chi2.isf(LEVEL, 1)


@pytest.mark.parametrize("distribution", ["uniform", "degree"])
def test_negatives_that_need_not_be_strict_have_the_exact_distribution(whole: Execution, distribution: str) -> None:
    query = Negatives(edge_type="person/reads/page", count=200, distribution=distribution, strict=False, seed=9)
    found = negatives.draw_negatives(whole, query, np.zeros(100, np.int32)).reshape(-1)
    (degrees,) = whole.ask_all(InDegrees(edge_type="person/reads/page", direction="out"), lambda shard: {"partitions": whole.held(shard)})
    (same,) = whole.ask_all(InDegrees(edge_type="person/reads/page", direction="in"), lambda shard: {"partitions": whole.held(shard)})
    assert np.array_equal(degrees["counts"], same["counts"])
    assert degrees["counts"].sum() == 2500
    shares = degrees["counts"] ** 0.75 if distribution == "degree" else np.ones(80)
    expected = shares / shares.sum() * len(found)
    observed = np.bincount(found, minlength=80)
    assert expected.min() > 5
    assert ((observed - expected) ** 2 / expected).sum() < chi2.isf(LEVEL, 79)


def test_without_any_edge_there_is_no_degree_to_draw_by_and_any_node_is_uniform(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = pa.table({"src": pa.array([], pa.int64()), "dst": pa.array([], pa.int64())})
    graph = Divided(tmp_path_factory.mktemp("empty"), {"n": pa.table({"id": [1, 2, 3]})}, {("n", "e", "n"): empty}, partitions=2)
    for shards in (1, 2):
        execution = graph.execution(shards)
        everyone = np.arange(3, dtype=np.int32)
        by_degree = negatives.draw_negatives(execution, Negatives(edge_type="n/e/n", count=2, distribution="degree"), everyone)
        assert (by_degree == -1).all()
        uniform = negatives.draw_negatives(execution, Negatives(edge_type="n/e/n", count=50), everyone)
        assert [set(row) for row in uniform.tolist()] == [{1, 2}, {0, 2}, {0, 1}]
        assert negatives.draw_negatives(execution, Negatives(edge_type="n/e/n", count=0), everyone).shape == (3, 0)


def test_what_cannot_be_asked_is_refused(graph: Divided, whole: Execution) -> None:
    one = np.zeros(1, np.int32)
    with pytest.raises(InputError, match='"uniform" or "degree"'):
        negatives.draw_negatives(whole, Negatives(edge_type="knows", count=1, distribution="popular"), one)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="negatives a source"):
        negatives.draw_negatives(whole, Negatives(edge_type="knows", count=-1), one)
    divided = graph.shards(2)
    with pytest.raises(PartitionNotHeldError):
        divided.ask([ShardRequest(0, InDegrees(edge_type="knows", direction="out"), {"partitions": np.array([7])})], Deadline())


def test_more_than_memory_should_hold_is_refused_before_any_is_drawn(whole: Execution) -> None:
    many = Negatives(edge_type="person/knows/person", count=negatives.COUNT_MAX)
    with pytest.raises(LimitError, match=f"{100 << 20} is more than the limit"):
        negatives.draw_negatives(whole, many, np.zeros(100, np.int32))


def test_degrees_are_counted_once_for_a_version_whoever_asks(graph: Divided) -> None:
    opened = graph.opened()
    asked = []

    class Counting(LocalShards):
        def ask(self, requests: Sequence[ShardRequest], deadline: Deadline) -> list[Arrays]:
            asked.extend(type(request.query) for request in requests)
            return super().ask(requests, deadline)

    query = Negatives(edge_type="person/met/person", count=1, distribution="degree", strict=False)
    for _ in range(3):
        negatives.draw_negatives(Execution(Counting([ShardAnswers(opened)]), Deadline()), query, np.zeros(1, np.int32))
    assert asked.count(InDegrees) <= 1
