"""The walk kernels against a plain reference, and against exact distributions at a level of 1e-6."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from fondaco.graph import _walk_kernels as kernels
from fondaco.graph._draws import SALT_WALK, key_of
from graph import reference
from graph.csr_tables import Csr

LEVEL = 1e-6


@dataclass(frozen=True)
class Plan:
    """Arguments of a walk. `path`: adjacencies of each turn."""

    path: Sequence[Sequence[int]]
    length: int
    seed: int = 0
    weighted: bool = False
    temporal: bool = False
    restart: float = 0.0
    p: float = 1.0
    q: float = 1.0


def run(
    graphs: Sequence[Csr], plan: Plan, starts: Sequence[int], as_of: Sequence[int] = (), cuts: Sequence[int] | None = None
) -> np.ndarray:
    """Walks by the kernel, with all partitions here: int32 [n, length + 1]."""
    tables = np.stack([graph.packed(cuts) for turn in plan.path for graph in (graphs[a] for a in turn)])
    bounds = np.cumsum([0, *map(len, plan.path)])
    n = len(starts)
    origins = np.array(starts, np.int32)
    out = np.full((n, plan.length + 1), -1, np.int32)
    out[:, 0] = origins
    status = np.empty(n, np.uint8)

    def numbers(value: int) -> np.ndarray:
        return np.full(n, value, np.int32)

    kernels.walk_on(
        tables, bounds, key_of(plan.seed, 0, SALT_WALK), plan.length, plan.weighted, plan.temporal, plan.restart, plan.p, plan.q,
        np.arange(n), numbers(0), numbers(0), origins.copy(), numbers(-1), origins, numbers(0), np.full(n, kernels.NEVER),
        np.array(as_of, np.int64), out, status, np.empty((0, kernels.CANDIDATES), np.int32),
    )  # fmt: skip
    assert (status == kernels.DONE).all()
    return out


# -- the reference: one walker, lists and Python numbers ----------------------------------------------------------------------------------


def choose(graphs: Sequence[Csr], node: int, since: int | None, as_of: int | None, weighted: bool, x: int) -> tuple[Csr, int] | None:
    rows = [(graph, graph.row(node, as_of=as_of, since=since)) for graph in graphs]
    if not weighted:
        edges = [(graph, j) for graph, row in rows for j in row]
        return edges[reference.below(x, len(edges))] if edges else None
    masses = []
    for graph, row in rows:
        sums = dict(zip(graph.row(node), itertools.accumulate(float(graph.weights[j]) for j in graph.row(node)), strict=True))
        base = sums.get(row[0] - 1, 0.0) if row else 0.0
        masses.append((graph, row, sums, base, sums[row[-1]] - base if row else 0.0))
    rest = reference.unit(x) * sum(mass for *_, mass in masses)
    found = None
    for graph, row, sums, base, mass in masses:
        if mass > 0.0:
            target, top = base + rest, sums[row[-1]]
            found = graph, next((j for j in row if sums[j] > target), next(j for j in row if sums[j] >= top))
            if rest < mass:
                break
            rest -= mass
    return found


def walk(graphs: Sequence[Csr], plan: Plan, walker: int, start: int, as_of: int | None = None) -> list[int]:
    key = reference.mix(reference.mix(reference.mix(reference.mix(0, plan.seed), 0), SALT_WALK), walker)
    walked, previous, since, phase = [start], None, None, 0
    for step in range(plan.length):
        stream, node = reference.mix(key, step), walked[-1]
        if plan.restart and reference.unit(reference.mix(stream, 0)) < plan.restart:
            walked, previous, since, phase = [*walked, start], None, None, 0
            continue
        turn = [graphs[a] for a in plan.path[phase % len(plan.path)]]
        if previous is None or plan.p == plan.q == 1.0:
            found = choose(turn, node, since if plan.temporal else None, as_of, plan.weighted, reference.mix(stream, 1))
            if found is None:
                break
            graph, edge = found
            to = int(graph.dst[edge])
            since = int(graph.times[edge]) if graph.times is not None else since
        else:
            second = second_order(turn, plan, node, previous, as_of, stream)
            if second is None:
                break
            to = second
        walked, previous, phase = [*walked, to], node, phase + 1
    return walked + [-1] * (plan.length + 1 - len(walked))


def second_order(turn: Sequence[Csr], plan: Plan, node: int, previous: int, as_of: int | None, stream: int) -> int | None:
    near = {int(graph.dst[j]) for graph in turn for j in graph.row(previous, as_of=as_of)}

    def share(to: int) -> float:
        return 1 / plan.p if to == previous else 1.0 if to in near else 1 / plan.q

    for t in range(kernels.ATTEMPTS_MAX):
        found = choose(turn, node, None, as_of, plan.weighted, reference.mix(stream, 2 + 2 * t))
        if found is None:
            return None
        to = int(found[0].dst[found[1]])
        if reference.unit(reference.mix(stream, 3 + 2 * t)) * max(1 / plan.p, 1.0, 1 / plan.q) < share(to):
            return to
    edges = [(graph, j) for graph in turn for j in graph.row(node, as_of=as_of)]
    shares = [share(int(graph.dst[j])) * (float(graph.weights[j]) if plan.weighted else 1.0) for graph, j in edges]
    sums = list(itertools.accumulate(shares))
    target = reference.unit(reference.mix(stream, 1)) * sums[-1]
    index = next((i for i, total in enumerate(sums) if total > target), max(i for i, s in enumerate(shares) if s > 0))
    return int(edges[index][0].dst[edges[index][1]])


NODES = 12


@st.composite
def graphs(draw: st.DrawFn, *, timed: bool = True, dense: bool = False) -> Csr:
    count = draw(st.integers(NODES * 3 if dense else 0, 60))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = numbers.integers(0, 4, count).astype(np.float32) * np.float32(0.3)
    times = numbers.integers(0, 10, count) if timed and draw(st.booleans()) else None
    return Csr(NODES, NODES, numbers.integers(0, NODES, count), numbers.integers(0, NODES, count), weights, times)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    path = draw(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=2), min_size=1, max_size=3))
    second = draw(st.booleans())
    ratios = st.sampled_from([1e-3, 0.25, 0.5, 1.0, 2.0, 4.0, 1e3])
    return Plan(
        path=path[:1] if second else path,
        length=draw(st.integers(0, 12)),
        seed=draw(st.integers(0, 2**64 - 1)),
        weighted=draw(st.booleans()),
        temporal=not second and draw(st.booleans()),
        restart=draw(st.sampled_from([0.0, 0.3, 1.0])),
        p=draw(ratios) if second else 1.0,
        q=draw(ratios) if second else 1.0,
    )


@given(st.tuples(graphs(), graphs()), plans(), st.booleans(), st.integers(0, NODES), st.data())
@settings(max_examples=100, deadline=None)
def test_walks_are_those_of_the_plain_reference(pair: tuple[Csr, Csr], plan: Plan, bounded: bool, cut: int, data: st.DataObject) -> None:
    starts = list(range(NODES)) * 2
    as_of = [data.draw(st.integers(0, 10)) for _ in starts] if bounded else []
    walked = run(pair, plan, starts, as_of, [0, cut, cut, NODES])
    expected = [walk(pair, plan, i, start, as_of[i] if bounded else None) for i, start in enumerate(starts)]
    assert walked.tolist() == expected


@given(graphs(dense=True, timed=False), st.integers(0, 2**64 - 1), st.sampled_from([0.3, 1e-3, 50.0]), st.sampled_from([0.3, 1e-3, 50.0]))
@settings(max_examples=50, deadline=None)
def test_candidates_settled_elsewhere_are_those_of_the_kernel(graph: Csr, seed: int, p: float, q: float) -> None:
    """As if the previous node lay on another shard: candidates here, its neighbours there, the choice by `settle`."""
    plan = Plan([[0]], 2, seed, p=p, q=q)
    starts = list(range(NODES))
    walked = run([graph], plan, starts)
    rows = np.flatnonzero(walked[:, 1] >= 0)
    key = key_of(seed, 0, SALT_WALK)
    attempts, chosen = np.zeros(len(rows), np.int32), np.full(len(rows), -1, np.int32)
    previous, nodes = walked[rows, 0].copy(), walked[rows, 1]
    for round_ in range(kernels.ATTEMPTS_MAX // kernels.CANDIDATES):
        candidates = np.full((len(rows), kernels.CANDIDATES), -1, np.int32)
        for i, row in enumerate(rows):
            stream = reference.mix(reference.mix(int(key), int(row)), 1)
            for c in range(kernels.CANDIDATES):
                t = round_ * kernels.CANDIDATES + c
                found = choose([graph], int(nodes[i]), None, None, False, reference.mix(stream, 2 + 2 * t))
                candidates[i, c] = -1 if found is None else graph.dst[found[1]]
        known = np.array([[c in graph.dst[graph.row(v)] for c in row] for v, row in zip(previous, candidates, strict=True)], np.uint8)
        settled = np.empty(len(rows), np.int32)
        kernels.settle(key, p, q, rows, np.ones(len(rows), np.int32), previous, attempts, candidates, known.reshape(-1, 8), settled)
        chosen = np.where((chosen < 0) & (walked[rows, 2] >= 0), settled, chosen)
        attempts[:] = (round_ + 1) * kernels.CANDIDATES
    decided = chosen >= 0
    assert (chosen[decided] == walked[rows[decided], 2]).all()


def test_lists_that_are_not_here_stop_a_walker_and_change_nothing() -> None:
    graph = Csr(4, 4, [0, 1, 2, 3], [1, 2, 3, 0])
    n, length = 1, 6
    status, out = np.empty(n, np.uint8), np.full((n, length + 1), -1, np.int32)
    steps, nodes = np.zeros(n, np.int32), np.zeros(n, np.int32)
    kernels.walk_on(
        graph.packed([0, 2, 4], held={0})[None], np.array([0, 1]), key_of(1, 0, SALT_WALK), length, False, False, 0.0, 1.0, 1.0,
        np.arange(n), steps, np.zeros(n, np.int32), nodes, np.full(n, -1, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32),
        np.full(n, kernels.NEVER), np.empty(0, np.int64), out, status, np.empty((n, kernels.CANDIDATES), np.int32),
    )  # fmt: skip
    assert (status[0], steps[0], nodes[0]) == (kernels.ELSEWHERE, 2, 2)
    assert out.tolist() == [[-1, 1, 2, -1, -1, -1, -1]]


# -- distributions ------------------------------------------------------------------------------------------------------------------------

# a graph with every kind of second step: back, to a common neighbour, further away; parallel edges; a self-loop
EDGES = [
    (0, 1),
    (0, 2),
    (0, 3),
    (1, 0),
    (1, 2),
    (1, 4),
    (1, 4),
    (2, 0),
    (2, 2),
    (2, 5),
    (3, 0),
    (3, 5),
    (4, 1),
    (4, 3),
    (5, 2),
    (5, 4),
    (5, 5),
]
WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0, 0.25, 0.25, 2.0, 1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 0.0, 1.0, 2.0]


def fits(observed: Counter[tuple[int, ...]], probabilities: dict[tuple[int, ...], float], trials: int) -> bool:
    assert abs(sum(probabilities.values()) - 1) < 1e-9
    assert not set(observed) - {key for key, share in probabilities.items() if share > 0}
    expected = {key: share * trials for key, share in probabilities.items() if share > 0}
    assert min(expected.values()) > 5
    return sum((observed[key] - e) ** 2 / e for key, e in expected.items()) < chi2.isf(LEVEL, len(expected) - 1)


def step_shares(weighted: bool, node: int, previous: int | None, p: float, q: float) -> dict[int, float]:
    near = {to for source, to in EDGES if source == previous}
    shares: Counter[int] = Counter()
    for (source, to), weight in zip(EDGES, WEIGHTS, strict=True):
        if source == node:
            bias = 1.0 if previous is None else 1 / p if to == previous else 1.0 if to in near else 1 / q
            shares[to] += bias * (weight if weighted else 1.0)
    total = sum(shares.values())
    return {to: share / total for to, share in shares.items()}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("p", "q"), [(1.0, 1.0), (0.5, 2.0), (4.0, 0.25), (0.25, 0.25), (3.0, 3.0), (30.0, 30.0)])
def test_second_order_steps_have_the_probabilities_of_enumeration(weighted: bool, p: float, q: float) -> None:
    trials = 40_000
    graph = Csr(6, 6, [e[0] for e in EDGES], [e[1] for e in EDGES], WEIGHTS)
    walked = run([graph], Plan([[0]], 3, seed=5, weighted=weighted, p=p, q=q), [0] * trials)
    exact: dict[tuple[int, ...], float] = {}
    for first, share_1 in step_shares(weighted, 0, None, p, q).items():
        for second, share_2 in step_shares(weighted, first, 0, p, q).items():
            exact[first, second] = share_1 * share_2
    common = {key: share for key, share in exact.items() if share * trials > 5}
    rare = 1 - sum(common.values())
    observed = Counter(map(tuple, walked[:, 1:3].tolist()))
    if rare > 0:  # what is expected less than 5 times is counted together
        others = sum(count for key, count in observed.items() if key not in common)
        assert others <= binom.isf(LEVEL, trials, rare)
        assert not set(observed) - {key for key, share in exact.items() if share > 0}
    kept = Counter({key: observed[key] for key in common})
    assert fits(kept, {key: share / (1 - rare) for key, share in common.items()}, kept.total())


def test_the_scan_after_many_refusals_has_the_same_probabilities() -> None:
    """From a leaf of a star back to the hub is the only way, and p makes it all but impossible; in the tail many ways are."""
    p = q = 5e3
    edges = [(0, 1), (1, 0), (1, 2), (1, 3), (2, 0), (3, 0)]  # 0 -> 1, then 0 (back), 2, 3 (both further away)
    trials = 30_000
    graph = Csr(4, 4, [e[0] for e in edges], [e[1] for e in edges])
    near = Csr(4, 4, [0, 0, 1, 1, 1], [1, 2, 0, 2, 3])  # 2 is a neighbour of 0: the one that is not refused
    walked = run([graph], Plan([[0]], 2, seed=3, p=p, q=q), [0] * trials)
    assert fits(Counter(map(tuple, walked[:, 2:].tolist())), {(0,): 1 / 3, (2,): 1 / 3, (3,): 1 / 3}, trials)
    walked = run([near], Plan([[0]], 2, seed=3, p=p, q=q), [0] * trials)
    first = walked[:, 1] == 1
    assert (walked[first, 2] == 2).mean() > 0.99


def test_restarts_come_with_their_chance_and_lead_to_the_start() -> None:
    n, length, chance = 500, 40, 0.15
    ring = Csr(1000, 1000, np.arange(1000), (np.arange(1000) + 1) % 1000)
    starts = (np.arange(n) * 2).tolist()
    walked = run([ring], Plan([[0]], length, seed=9, restart=chance), starts)
    steps = walked[:, 1:] != (walked[:, :-1] + 1) % 1000
    assert (walked[:, 1:][steps] == np.repeat(starts, steps.sum(1))).all()
    assert binom.isf(1 - LEVEL / 2, n * length, chance) <= steps.sum() <= binom.isf(LEVEL / 2, n * length, chance)


def test_weighted_steps_are_drawn_by_weight_and_never_along_an_edge_of_none() -> None:
    weights = [0.0, 1.0, 2.5, 0.0, 4.0, 0.0]
    star = Csr(7, 7, [0] * 6, [1, 2, 3, 4, 5, 6], weights)
    walked = run([star], Plan([[0]], 1, seed=2, weighted=True), [0] * 20_000)
    shares = {(i + 1,): weight / sum(weights) for i, weight in enumerate(weights)}
    assert fits(Counter(map(tuple, walked[:, 1:].tolist())), shares, 20_000)


def test_walkers_that_start_at_one_node_walk_independently() -> None:
    full = Csr(8, 8, np.repeat(np.arange(8), 8), np.tile(np.arange(8), 8))
    walked = run([full], Plan([[0]], 2, seed=1), [0] * 20_000)
    pairs = Counter(zip(walked[:-1:2, 1].tolist(), walked[1::2, 1].tolist(), strict=True))
    assert fits(pairs, {(i, j): 1 / 64 for i in range(8) for j in range(8)}, 10_000)
    along = Counter(zip(walked[:, 1].tolist(), walked[:, 2].tolist(), strict=True))
    assert fits(along, {(i, j): 1 / 64 for i in range(8) for j in range(8)}, 20_000)


def test_dead_ends_and_isolated_nodes_end_a_walk() -> None:
    graph = Csr(3, 3, [0], [1], [1.0])
    for weighted in (False, True):
        walked = run([graph], Plan([[0]], 3, weighted=weighted), [0, 1, 2])
        assert walked.tolist() == [[0, 1, -1, -1], [1, -1, -1, -1], [2, -1, -1, -1]]
    worthless = Csr(2, 2, [0], [1], [0.0])
    assert run([worthless], Plan([[0]], 2, weighted=True), [0]).tolist() == [[0, -1, -1]]
    assert run([worthless], Plan([[0]], 2, weighted=True, p=2.0), [0]).tolist() == [[0, -1, -1]]
