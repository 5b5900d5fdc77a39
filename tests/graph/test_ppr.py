"""Personalised PageRank: the kernel against a plain reference, exact scores, and shards against one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DeadlineExceededError, InputError
from fondaco.graph import _ppr_kernels as kernels
from fondaco.graph import ppr
from fondaco.graph.deadlines import Deadline
from fondaco.graph.execution import Execution
from fondaco.graph.executor import execute
from fondaco.graph.queries import PageRank
from fondaco.graph.shards import Rank, ShardRequest
from graph.csr_tables import Csr
from graph.divided import Divided, social

NODES = 14


def run(
    graphs: Sequence[Csr], seeds: Sequence[int], alpha: float, eps: float, weighted: bool, top_k: int, as_of: Sequence[int] = (),
    cuts: Sequence[int] | None = None,
) -> list[list[tuple[int, float]]]:  # fmt: skip
    """(node, score) of every seed, by the kernel."""
    counts, nodes = np.empty(len(seeds), np.int64), np.empty((len(seeds), top_k), np.int32)
    scores = np.empty((len(seeds), top_k), np.float64)
    tables = np.stack([graph.packed(cuts) for graph in graphs])
    came_to = kernels.rank(
        tables, np.array(seeds, np.int32), np.array(as_of, np.int64), alpha, eps, weighted, counts, nodes, scores, 1 << 40
    )
    assert came_to == (len(seeds), False)
    return [list(zip(nodes[i, :n].tolist(), scores[i, :n].tolist(), strict=True)) for i, n in enumerate(counts)]


def push(
    graphs: Sequence[Csr], seed: int, alpha: float, eps: float, weighted: bool, as_of: int | None = None
) -> tuple[dict[int, float], dict[int, float]]:
    """Estimates and residuals: the reference, in dicts."""
    residuals, estimates = {seed: 1.0}, {}
    rows = {node: [(graph, j) for graph in graphs for j in graph.row(node, as_of=as_of)] for node in range(NODES)}
    marked = [seed]
    while marked:
        frontier = [node for node in marked if residuals[node] >= eps * max(len(rows[node]), 1)]
        marked = []
        for node in frontier:
            mass, residuals[node] = residuals[node], 0.0
            shares = [float(graph.weights[j]) if weighted else 1.0 for graph, j in rows[node]]
            total = 0.0
            for share in shares:
                total += share
            if not total > 0:
                estimates[node] = estimates.get(node, 0.0) + mass
                continue
            estimates[node] = estimates.get(node, 0.0) + alpha * mass
            unit = (1.0 - alpha) * mass / total
            for (graph, j), share in zip(rows[node], shares, strict=True):
                to = int(graph.dst[j])
                if share > 0:
                    residuals[to] = residuals.get(to, 0.0) + unit * share
                    if to not in marked and residuals[to] >= eps:
                        marked.append(to)
    return estimates, residuals


def exact(graphs: Sequence[Csr], alpha: float, weighted: bool) -> np.ndarray:
    """scores[u, v]: where a walk from u stops, by solving the linear system."""
    shares = np.zeros((NODES, NODES))
    for graph in graphs:
        np.add.at(shares, (graph.src, graph.dst), graph.weights.astype(np.float64) if weighted else 1.0)
    totals = shares.sum(1)
    stops = np.where(totals > 0, alpha, 1.0)
    moves = np.divide((1 - alpha) * shares, totals[:, None], out=np.zeros_like(shares), where=totals[:, None] > 0)
    return np.linalg.solve(np.eye(NODES) - moves, np.diag(stops))


@st.composite
def graphs(draw: st.DrawFn) -> Csr:
    count = draw(st.integers(0, 70))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    ends = numbers.integers(0, NODES, (2, count))
    return Csr(NODES, NODES, ends[0], ends[1], numbers.integers(0, 4, count) * 0.3, numbers.integers(0, 10, count))


chances = st.sampled_from([0.05, 0.15, 0.5, 1.0])
bounds = st.sampled_from([0.3, 1e-2, 1e-4])


@given(
    st.lists(graphs(), min_size=1, max_size=2), chances, bounds, st.booleans(), st.integers(1, NODES), st.integers(0, NODES), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_the_plain_reference(
    pair: list[Csr], alpha: float, eps: float, weighted: bool, top_k: int, cut: int, bounded: bool
) -> None:
    as_of = [5] * NODES if bounded else []
    found = run(pair, range(NODES), alpha, eps, weighted, top_k, as_of, [0, cut, cut, NODES])
    for seed in range(NODES):
        estimates, _ = push(pair, seed, alpha, eps, weighted, 5 if bounded else None)
        ranked = sorted(((node, score) for node, score in estimates.items() if score > 0), key=lambda entry: (-entry[1], entry[0]))
        assert found[seed] == ranked[:top_k]


@given(graphs(), chances, bounds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_is_missing_of_exact_scores_is_what_the_residuals_say(graph: Csr, alpha: float, eps: float, weighted: bool) -> None:
    scores = exact([graph], alpha, weighted)
    degrees = np.maximum(np.diff(graph.indptr), 1)
    for seed in range(0, NODES, 5):
        estimates, residuals = push([graph], seed, alpha, eps, weighted)
        rest = np.array([residuals.get(node, 0.0) for node in range(NODES)])
        settled = np.array([estimates.get(node, 0.0) for node in range(NODES)])
        assert (rest < eps * degrees).all()
        assert np.allclose(settled + rest @ scores, scores[seed], atol=1e-12)


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-7])
def test_scores_of_an_undirected_graph_are_within_eps_times_degree_of_the_exact_ones(eps: float) -> None:
    rng = np.random.default_rng(4)
    ends = rng.integers(0, NODES, (2, 30))
    graph = Csr(NODES, NODES, np.concatenate([ends[0], ends[1]]), np.concatenate([ends[1], ends[0]]), np.ones(60))
    scores, degrees = exact([graph], 0.15, False), np.diff(graph.indptr)
    for seed, ranked in enumerate(run([graph], range(NODES), 0.15, eps, False, NODES)):
        found = np.zeros(NODES)
        for node, score in ranked:
            found[node] = score
        missing = scores[seed] - found
        assert (missing >= -1e-12).all()
        assert (missing <= eps * np.maximum(degrees, 1) + 1e-12).all()


def test_a_node_without_edges_keeps_all_and_more_room_is_made_when_needed() -> None:
    assert run([Csr(3, 3, [0], [1], [1.0])], [2, 0], 0.25, 1e-6, False, 3) == [[(2, 1.0)], [(1, 0.75), (0, 0.25)]]
    many = 3 * kernels.ROOM_AT_FIRST
    star = Csr(many + 1, many + 1, np.zeros(many, int), np.arange(many) + 1)
    ranked = run([star], [0, 5, 0], 0.2, 1e-6, False, 10)
    assert ranked[0] == ranked[2] == [(0, 0.2), *((node, 0.8 / many) for node in range(1, 10))]
    assert ranked[1] == [(5, 1.0)]


# -- over shards ------------------------------------------------------------------------------------------------------------------------

RANKS = {
    "plain": Rank(edge_types=("person/knows/person",), direction="out", top_k=20),
    "weighted": Rank(edge_types=("person/met/person",), direction="out", top_k=30, weighted=True, eps=1e-5),
    "two edge types": Rank(edge_types=("person/knows/person", "person/met/person"), direction="out", top_k=500, alpha=0.3),
    "against the edges": Rank(edge_types=("person/met/person",), direction="in", top_k=5, eps=1e-3),
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Divided:
    return social(tmp_path_factory.mktemp("ppr"), directions="both")


@pytest.fixture(scope="module")
def whole(graph: Divided) -> Execution:
    return graph.execution()


@pytest.fixture(scope="module", params=[2, 4])
def divided(graph: Divided, request: pytest.FixtureRequest) -> Execution:
    return graph.execution(request.param)


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("bounded", [False, True])
def test_ranks_over_shards_are_those_of_one(whole: Execution, divided: Execution, name: str, bounded: bool) -> None:
    seeds = np.random.default_rng(1).integers(0, whole.node_count("person"), 90).astype(np.int32)
    seeds[::13] = -1
    as_of = np.array([300, 600, 1000])[np.arange(90) % 3] if bounded else None
    one = ppr.rank_all(whole, RANKS[name], seeds, as_of)
    several = ppr.rank_all(divided, RANKS[name], seeds, as_of)
    assert all(np.array_equal(a, b) for a, b in zip(one, several, strict=True))
    counts, nodes, scores = one
    assert (counts[seeds < 0] == 0).all()
    assert (counts[seeds >= 0] > 0).all()
    assert counts.sum() == len(nodes) == len(scores)
    first = np.cumsum(counts) - counts
    assert (np.diff(scores)[np.setdiff1d(np.arange(len(scores) - 1), first[first > 0] - 1)] <= 0).all()


@pytest.mark.parametrize("work", [1, 20, 300])
@pytest.mark.parametrize("name", ["weighted", "two edge types"])
def test_scores_do_not_show_how_often_a_rank_paused(
    whole: Execution, divided: Execution, name: str, work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = np.arange(12, dtype=np.int32)
    as_of = np.array([300, 1000])[np.arange(12) % 2]
    at_once = ppr.rank_all(whole, RANKS[name], seeds, as_of)
    monkeypatch.setattr(ppr, "_WORK", work)
    for execution in (whole, divided):
        assert all(np.array_equal(a, b) for a, b in zip(at_once, ppr.rank_all(execution, RANKS[name], seeds, as_of), strict=True))


@pytest.mark.parametrize("shards", [1, 2])
def test_a_deadline_ends_a_rank_that_takes_long(graph: Divided, shards: int) -> None:
    endless = Rank(edge_types=("person/knows/person",), direction="out", top_k=3, alpha=0.11, eps=1e-9)
    begun = time.monotonic()
    execution = Execution(graph.execution(shards).shards, Deadline(0.5))
    with pytest.raises(DeadlineExceededError):
        ppr.rank_all(execution, endless, np.arange(128, dtype=np.int32) % 64)
    assert time.monotonic() - begun < 5.0


def test_the_answer_holds_ids_and_scores(whole: Execution) -> None:
    query = PageRank(node_type="person", edge_type="person/knows/person", top_k=3)
    arrays = execute(query, {"seeds": np.array([-50, -43], np.int64)}, whole.shards).arrays
    assert arrays["counts"].tolist() == [3, 3]
    assert arrays["scores"].dtype == np.float32
    assert -50 in arrays["nodes"][:3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edge_types": ("person/reads/page",)}, "within one node type"),
        ({"edge_types": ()}, "within one node type"),
        ({"weighted": True}, "have no weights"),
        ({"alpha": 0.0}, "alpha is a chance"),
        ({"eps": 0.0}, "eps is at least 1e-09"),
        ({"alpha": 1e-300, "eps": 1e-9}, "choose a greater eps"),
        ({"alpha": 0.05, "eps": 1e-9}, "more than 1e.10 are too many"),
        ({"top_k": 0}, "top_k is between"),
    ],
)
def test_a_rank_that_cannot_be_is_refused(whole: Execution, change: dict[str, object], says: str) -> None:
    query = Rank(**{"edge_types": ("person/knows/person",), "direction": "out", "top_k": 3, **change})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=says):
        ppr.rank_all(whole, query, np.zeros(1, np.int32))


def test_what_comes_from_the_network_is_checked_before_a_kernel_sees_it(whole: Execution, divided: Execution) -> None:
    for execution, node, says in [(whole, 10**6, "nodes from"), (whole, -1, "nodes from"), (divided, 0, "holds the whole graph")]:
        with pytest.raises(InputError, match=says):
            execution.shards.ask([ShardRequest(0, RANKS["plain"], {"frontier": np.array([node], np.int32)})], Deadline())
