"""Walks over one shard and over several are equal bit for bit; and follow edges that exist, of the right types and times."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fondaco.core.errors import InputError, LimitError
from fondaco.graph import walks
from fondaco.graph.deadlines import Deadline
from fondaco.graph.embedded import EmbeddedGraph
from fondaco.graph.execution import Execution
from fondaco.graph.executor import execute
from fondaco.graph.queries import RandomWalk
from fondaco.graph.shards import Find, ShardRequest, WalkOn
from graph.divided import Divided, social

KNOWS, MET = ("person/knows/person",), ("person/met/person",)
CYCLE = (("person/reads/page",), ("page/read_by/person",))

PLANS = {
    "uniform": WalkOn(steps=(KNOWS,), direction="out", length=15, seed=1),
    "weighted": WalkOn(steps=(MET,), direction="out", length=15, weighted=True, seed=2),
    "with restart": WalkOn(steps=(KNOWS,), direction="out", length=20, restart=0.3, seed=3),
    "in time": WalkOn(steps=(MET,), direction="out", length=8, temporal=True, seed=4),
    "in time with restart": WalkOn(steps=(MET,), direction="out", length=12, temporal=True, restart=0.4, weighted=True, seed=5),
    "over two edge types": WalkOn(steps=(KNOWS + MET,), direction="out", length=15, seed=6),
    "metapath": WalkOn(steps=CYCLE, direction="out", length=11, seed=7),
    "metapath of persons with restart": WalkOn(steps=(KNOWS, MET), direction="out", length=11, restart=0.2, seed=8),
    "against the edges": WalkOn(steps=(KNOWS,), direction="in", length=10, seed=9),
    "node2vec": WalkOn(steps=(KNOWS,), direction="out", length=12, p=0.5, q=2.0, seed=10),
    "node2vec far": WalkOn(steps=(KNOWS,), direction="out", length=12, p=4.0, q=0.25, seed=11),
    "node2vec weighted": WalkOn(steps=(MET,), direction="out", length=12, p=0.25, q=4.0, weighted=True, seed=12),
    "node2vec over two edge types": WalkOn(steps=(KNOWS + MET,), direction="out", length=12, p=0.25, q=4.0, seed=13),
    "node2vec that refuses nearly all": WalkOn(steps=(KNOWS,), direction="out", length=4, p=1e5, q=1e5, seed=14),
    "node2vec that refuses nearly all, weighted": WalkOn(steps=(MET,), direction="out", length=4, p=1e5, q=1e5, weighted=True, seed=15),
    "no step": WalkOn(steps=(KNOWS,), direction="out", length=0),
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Divided:
    return social(tmp_path_factory.mktemp("walks"), directions="both")


@pytest.fixture(scope="module")
def whole(graph: Divided) -> Execution:
    return graph.execution()


@pytest.fixture(scope="module", params=[2, 4, 8])
def divided(graph: Divided, request: pytest.FixtureRequest) -> Execution:
    return graph.execution(request.param)


def starts_of(execution: Execution, count: int = 200) -> np.ndarray:
    starts = np.random.default_rng(0).integers(0, execution.node_count("person"), count).astype(np.int32)
    starts[::17] = -1
    return starts


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("bounded", [False, True])
def test_walks_over_shards_are_those_of_one(whole: Execution, divided: Execution, name: str, bounded: bool) -> None:
    plan = PLANS[name]
    starts = starts_of(whole)
    as_of = np.arange(200, dtype=np.int64) * 6 if bounded and "person/met/person" in sum(plan.steps, ()) else None
    one = walks.walk(whole, plan, starts, as_of)
    several = walks.walk(divided, plan, starts, as_of)
    assert one.dtype == np.int32
    assert one.shape == (200, plan.length + 1)
    assert (one[:, 0] == starts).all()
    assert (one[starts < 0] == -1).all()
    assert np.array_equal(one, several)
    assert plan.length == 0 or (one[:, 1] >= 0).mean() > 0.5  # they do walk


def test_partitions_change_no_walk(tmp_path_factory: pytest.TempPathFactory, whole: Execution) -> None:
    other = social(tmp_path_factory.mktemp("other"), partitions=3, directions="both").execution(2)
    starts = starts_of(whole)
    for plan in PLANS.values():
        assert np.array_equal(walks.walk(whole, plan, starts), walks.walk(other, plan, starts))


def test_many_walkers_walk_in_blocks_as_they_would_at_once(whole: Execution, divided: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, as_of = starts_of(whole), np.arange(200, dtype=np.int64) * 6
    for name in ("node2vec that refuses nearly all, weighted", "in time with restart", "metapath"):
        plan = PLANS[name]
        at_once = walks.walk(whole, plan, starts, as_of)
        with monkeypatch.context() as patch:
            patch.setattr(walks, "STEPS_MAX", 300)
            assert np.array_equal(walks.walk(whole, plan, starts, as_of), at_once)
            assert np.array_equal(walks.walk(divided, plan, starts, as_of), at_once)


def test_each_step_goes_along_an_edge_of_its_type(whole: Execution) -> None:
    for plan in (PLANS["metapath"], PLANS["node2vec far"], PLANS["over two edge types"], PLANS["against the edges"]):
        walked = walks.walk(whole, plan, starts_of(whole))
        for step in range(plan.length):
            there = walked[:, step + 1] >= 0
            assert (walked[there, step] >= 0).all()
            pairs = {"frontier": walked[there, step], "to": walked[there, step + 1]}
            found = np.zeros(there.sum(), bool)
            for name in plan.steps[step % len(plan.steps)]:
                query = Find(edge_type=name, direction=plan.direction)
                found |= whole.shards.ask([ShardRequest(0, query, pairs)], Deadline())[0]["edge_ids"] >= 0
            assert found.all()


@pytest.mark.parametrize("shards", [1, 3])
def test_walks_in_time_never_step_back_nor_past_the_bound_and_end_only_there(tmp_path: Path, shards: int) -> None:
    rng = np.random.default_rng(8)
    pairs = np.unique(rng.integers(0, 40, (250, 2)), axis=0)
    times = rng.integers(0, 100, len(pairs))
    table = pa.table({"src": pairs[:, 0], "dst": pairs[:, 1], "time": times})
    execution = Divided(tmp_path, {}, {("n", "e", "n"): table}, partitions=4).execution(shards)
    time_of = {(int(src), int(dst)): int(time) for (src, dst), time in zip(pairs, times, strict=True)}
    starts = np.repeat(np.arange(execution.node_count("n"), dtype=np.int32), 10)
    id_of = dict(enumerate(np.asarray(execution.ids("n", np.arange(execution.node_count("n"), dtype=np.int32))).tolist()))
    plan = WalkOn(steps=(("n/e/n",),), direction="out", length=20, temporal=True, seed=3)
    as_of = np.tile(np.arange(10) * 12, len(starts) // 10)
    lengths = []
    for row, bound in zip(walks.walk(execution, plan, starts, as_of).tolist(), as_of.tolist(), strict=True):
        ids = [id_of[dense] for dense in row if dense >= 0]
        walked = [time_of[pair] for pair in pairwise(ids)]
        assert walked == sorted(walked)
        assert all(time <= bound for time in walked)
        lengths.append(len(walked))
        if len(walked) < plan.length:
            since = walked[-1] if walked else -1
            assert not any(src == ids[-1] and since <= time <= bound for (src, _), time in time_of.items())
    assert max(lengths) > 3


def test_the_answer_holds_ids_by_type(whole: Execution) -> None:
    query = RandomWalk(node_type="person", length=3, edge_types=("person/reads/page", "page/read_by/person"), seed=1)
    arrays = execute(query, {"seeds": np.arange(60, dtype=np.int64) * 7 - 50}, whole.shards).arrays
    alive = arrays["alive"]
    assert alive.shape == (60, 4)
    assert len(arrays["walks/person"]) == alive[:, [0, 2]].sum()
    assert len(arrays["walks/page.offsets"]) - 1 == alive[:, [1, 3]].sum()


def test_a_list_of_edge_types_is_chosen_among(graph: Divided) -> None:
    face = EmbeddedGraph(lambda: graph.opened())
    nodes = np.arange(100) * 7 - 50
    both = [("person", "knows", "person"), "met"]
    for walked in (face.random_walk(nodes, 5, edge_type=both, seed=1), face.node2vec(nodes, 5, 0.5, 2.0, edge_type=both, seed=1)):
        pairs = walked[:, :2][walked[:, 1] >= 0]
        known = face.has_edges(pairs[:, 0], pairs[:, 1], edge_type="knows")
        assert 0.1 < known.mean() < 0.9
        assert (known | face.has_edges(pairs[:, 0], pairs[:, 1], edge_type="met")).all()
    metapath = face.random_walk(nodes, 4, metapath=[both, "reads", "read_by"], seed=1)
    assert metapath.dtype == object  # persons and pages
    assert face.ppr(nodes, 10, edge_type=both).counts.tolist() == [10] * 100
    alone = face.random_walk(nodes, 5, edge_type=["knows"], seed=1)
    assert np.array_equal(alone, face.random_walk(nodes, 5, edge_type="knows", seed=1))
    with pytest.raises(InputError, match="empty list"):
        face.random_walk(nodes, 1, edge_type=[])


def test_second_order_walks_and_ranks_stop_at_a_bound_too(graph: Divided) -> None:
    face = EmbeddedGraph(lambda: graph.opened())
    nodes = np.arange(100) * 7 - 50
    assert (face.node2vec(nodes, 3, 0.5, 2.0, edge_type="met", as_of=-1)[:, 1:] == -1).all()
    assert face.ppr(nodes, 3, edge_type="met", as_of=-1).ids.tolist() == nodes.tolist()
    early, late = (face.node2vec(nodes, 3, 0.5, 2.0, edge_type="met", as_of=bound) for bound in (100, 1000))
    assert (early[:, 1] >= 0).sum() < (late[:, 1] >= 0).sum()
    assert np.array_equal(late, face.node2vec(nodes, 3, 0.5, 2.0, edge_type="met"))
    with pytest.raises(InputError, match="needs edges with times"):
        face.node2vec(nodes, 3, edge_type="knows", as_of=5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": ()}, "needs an edge type"),
        ({"steps": ((),)}, "no edge type"),
        ({"steps": ((*KNOWS, "person/reads/page"),)}, "lead from one node type to one"),
        ({"steps": (("person/reads/page",),), "length": 2}, "choose edge types that follow"),
        ({"weighted": True}, "have no weights"),
        ({"p": 2.0, "temporal": True}, "not with temporal"),
        ({"p": 2.0, "steps": (KNOWS, KNOWS)}, "one step of edges"),
        ({"p": 0.0}, "numbers above 0"),
        ({"q": float("inf")}, "numbers above 0"),
        ({"restart": 1.5}, "between 0 and 1"),
        ({"length": -1}, "0 to 1048576 steps"),
    ],
)
def test_a_walk_that_cannot_be_is_refused(whole: Execution, change: dict[str, object], says: str) -> None:
    plan = WalkOn(**{"steps": (KNOWS,), "direction": "out", "length": 3, **change})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=says):
        walks.walk(whole, plan, np.zeros(1, np.int32))


def test_walks_of_more_nodes_than_memory_should_hold_are_refused(whole: Execution) -> None:
    with pytest.raises(LimitError, match=f"nodes of all walks: {300 * (walks.LENGTH_MAX + 1)} is more than the limit"):
        walks.walk(whole, WalkOn(steps=(KNOWS,), direction="out", length=walks.LENGTH_MAX), np.zeros(300, np.int32))


def test_walkers_from_the_network_are_checked_before_a_kernel_sees_them(divided: Execution) -> None:
    count = divided.node_count("person")
    plan = WalkOn(steps=(KNOWS,), direction="out", length=3, restart=0.5, p=2.0)
    good: Callable[[], dict[str, np.ndarray]] = lambda: {"node": np.zeros(1, np.int32), "walker": np.zeros(1, np.int64)}  # noqa: E731
    for name, value in [("node", count), ("node", -1), ("step", 4), ("step", -1), ("origin", count), ("previous", count), ("previous", -2),
                        ("phase", 9), ("attempt", -1)]:  # fmt: skip
        with pytest.raises(InputError, match="outside the graph"):
            divided.shards.ask([ShardRequest(0, plan, good() | {name: np.full(1, value, np.int32)})], Deadline())
    for name, odd in [("step", np.zeros(3, np.int32)), ("node", np.zeros((1, 2), np.int32)), ("as_of", np.zeros((1, 1)))]:
        with pytest.raises(InputError, match=f"{name} of 1 walkers"):
            divided.shards.ask([ShardRequest(0, plan, good() | {name: odd})], Deadline())
