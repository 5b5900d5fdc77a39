"""Sampling is exact: what is drawn has the distribution that theory gives, at a level of 1e-6 and with fixed seeds.

Every node of a graph here has the same list, so one call draws as many independent samples as there are nodes. DeepGNN's two faults of
sharded sampling (shares of neighbours on a small shard, and draws of one row that are not independent) are tested for by name.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import chi2, norm

from fondaco.graph import sampling
from graph import reference
from graph.reference import Lists

LEVEL = 1e-6
TRIALS = 20_000


@dataclass
class Trials:
    """TRIALS nodes with equal lists of `weights`; neighbour i of each is i."""

    weights: list[float]
    trials: int = TRIALS

    def __post_init__(self) -> None:
        d = len(self.weights)
        self.frontier = np.arange(self.trials, dtype=np.int32)
        row = np.array(self.weights, np.float32)
        sums = np.cumsum(row.astype(np.float64))
        self.keep = [
            np.arange(0, (self.trials + 1) * d, d, dtype=np.int64),
            np.tile(np.arange(d, dtype=np.int32), self.trials),
            np.tile(row, self.trials),
            np.tile(sums, self.trials),
        ]
        addresses = [np.array([section.ctypes.data], np.int64) for section in self.keep]
        self.adjacency = sampling.pack_adjacency(np.array([0, self.trials]), np.array([0, self.trials * d]), *addresses)

    def draw(self, fan_out: int, **options: object) -> np.ndarray:
        found = sampling.sample(self.adjacency, self.frontier, fan_out, **options)
        assert (found.counts == fan_out).all()
        return found.neighbours.reshape(self.trials, fan_out)


def passes(observed: np.ndarray, probabilities: np.ndarray, trials: int, freedom: int | None = None) -> bool:
    """Pearson's chi-squared."""
    expected = probabilities * trials
    assert expected.min() > 5
    return float(np.sum((observed - expected) ** 2 / expected)) < chi2.isf(LEVEL, freedom or observed.size - 1)


def all_within(observed: np.ndarray, probabilities: np.ndarray, trials: int) -> bool:
    """Every count within its own binomial bound, the level divided among them."""
    z = np.abs(observed - probabilities * trials) / np.sqrt(trials * probabilities * (1 - probabilities))
    return float(z.max()) < norm.isf(LEVEL / 2 / observed.size)


@pytest.mark.parametrize(("degree", "fan_out"), [(40, 10), (11, 10), (16, 15), (5, 1), (120, 60)])
def test_uniform_draws_without_replacement_include_every_neighbour_alike(degree: int, fan_out: int) -> None:
    trials = Trials([1.0] * degree)
    picks = trials.draw(fan_out, seed=1)
    assert (np.diff(picks, axis=1) > 0).all()  # distinct, in list order
    p = fan_out / degree
    counts = np.bincount(picks.ravel(), minlength=degree)
    statistic = np.sum((counts - TRIALS * p) ** 2) / (TRIALS * p * (1 - p)) * (degree - 1) / degree
    assert statistic < chi2.isf(LEVEL, degree - 1)


def test_every_pair_is_drawn_without_replacement_alike() -> None:
    degree, fan_out = 12, 4
    picks = Trials([1.0] * degree).draw(fan_out, seed=2)
    together = np.zeros((degree, degree))
    for a, b in itertools.combinations(range(fan_out), 2):
        np.add.at(together, (picks[:, a], picks[:, b]), 1)
    pairs = together[np.triu_indices(degree, 1)]
    assert all_within(pairs, np.full(len(pairs), fan_out * (fan_out - 1) / (degree * (degree - 1))), TRIALS)


def test_every_set_is_drawn_without_replacement_alike() -> None:
    picks = Trials([1.0] * 7).draw(3, seed=3)
    sets, counts = np.unique(picks @ [49, 7, 1], return_counts=True)
    assert len(sets) == 35
    assert passes(counts, np.full(35, 1 / 35), TRIALS)


@pytest.mark.parametrize("strategy", ["uniform", "weighted"])
def test_draws_with_replacement_are_exact_and_independent_within_a_row(strategy: str) -> None:
    weights = [1.0] * 8 if strategy == "uniform" else [0.5, 4.0, 1.0, 0.25, 2.0, 8.0, 1.0, 3.0]
    p = np.array(weights) / sum(weights)
    picks = Trials(weights, 80_000).draw(4, strategy=strategy, replace=True, seed=4)
    assert passes(np.bincount(picks.ravel(), minlength=8), p, picks.size)
    for a, b in itertools.combinations(range(4), 2):
        joint = np.bincount(picks[:, a] * 8 + picks[:, b], minlength=64)
        assert passes(joint, np.outer(p, p).ravel(), len(picks))


def test_weighted_draws_with_replacement_leave_out_weights_of_zero_and_keep_the_rest_exact() -> None:
    weights = np.array([0, 3, 0, 0, 1, 5, 0.5, 0, 0])
    picks = Trials(weights.tolist()).draw(10, strategy="weighted", replace=True, seed=5)
    counts = np.bincount(picks.ravel(), minlength=9)
    assert (counts[weights == 0] == 0).all()
    assert passes(counts[weights > 0], weights[weights > 0] / weights.sum(), picks.size)


def test_weighted_draws_without_replacement_are_successive_draws_order_included() -> None:
    weights = [1.0, 2.0, 0.5, 4.0, 1.5, 3.0]
    total = sum(weights)
    picks = Trials(weights, 200_000).draw(3, strategy="weighted", seed=6)
    orders, exact = [], []
    for order in itertools.permutations(range(6), 3):
        left, p = total, 1.0
        for i in order:
            p *= weights[i] / left
            left -= weights[i]
        orders.append(order[0] * 36 + order[1] * 6 + order[2])
        exact.append(p)
    counts = np.bincount(picks @ [36, 6, 1], minlength=216)[orders]
    assert counts.sum() == 200_000
    assert passes(counts, np.array(exact), 200_000)
    inclusion = np.array([sum(p for p, o in zip(exact, itertools.permutations(range(6), 3), strict=True) if i in o) for i in range(6)])
    assert all_within(np.bincount(picks.ravel(), minlength=6), inclusion, 200_000)


def test_weighted_draws_from_long_lists_are_the_same_distribution() -> None:
    weights = np.array([1.0 + (i % 5) for i in range(40)])
    p = weights / weights.sum()
    picks = Trials(weights.tolist(), 60_000).draw(2, strategy="weighted", seed=7)
    assert (picks[:, 0] != picks[:, 1]).all()
    assert passes(np.bincount(picks[:, 0], minlength=40), p, 60_000)
    second = np.array([sum(p[j] * p[i] / (1 - p[j]) for j in range(40) if j != i) for i in range(40)])
    assert passes(np.bincount(picks[:, 1], minlength=40), second, 60_000)


def test_weighted_draws_whose_tries_run_out_are_the_same_distribution() -> None:
    weights = np.array([1.0] * 20 + [1e6] + [2.0] * 20)  # the heavy one is nearly always drawn again
    picks = Trials(weights.tolist(), 60_000).draw(2, strategy="weighted", seed=8)
    heavy_first = picks[picks[:, 0] == 20]
    assert len(heavy_first) > 59_900
    rest = np.delete(weights, 20)
    assert passes(np.delete(np.bincount(heavy_first[:, 1], minlength=41), 20), rest / rest.sum(), len(heavy_first))


@pytest.mark.parametrize(("degree", "fan_out"), [(40, 10), (7, 6), (300, 3)])
def test_layers_take_every_neighbour_with_probability_fan_out_over_degree(degree: int, fan_out: int) -> None:
    row = Lists([[(t, 1.0, 0) for t in range(degree)]])
    taken = np.zeros(degree)
    sizes = np.zeros(4000)
    for seed in range(4000):
        found = sampling.sample_layer(row.adjacency, np.zeros(1, np.int32), fan_out, seed=seed)
        taken[found.neighbours] += 1
        sizes[seed] = len(found.neighbours)
    p = fan_out / degree
    assert all_within(taken, np.full(degree, p), 4000)
    variance = degree * p * (1 - p)
    assert abs(sizes.mean() - fan_out) < norm.isf(LEVEL / 2) * math.sqrt(variance / 4000)
    assert float(np.sum((sizes - fan_out) ** 2)) / variance < chi2.isf(LEVEL, 4000) * 1.05  # independent within a list: binomial spread


def test_layers_share_their_neighbours() -> None:
    """A node whose list holds another's, and is no longer than it, takes what the other takes; the union is far below independent draws."""
    graph = Lists([[(t, 1.0, 0) for t in range(100)] for _ in range(50)])
    frontier = np.arange(50, dtype=np.int32)
    layer = sampling.sample_layer(graph.adjacency, frontier, 10, seed=3)
    assert len(set(layer.counts)) == 1
    assert len(np.unique(layer.neighbours)) == layer.counts[0]
    assert len(np.unique(sampling.sample(graph.adjacency, frontier, 10, seed=3).neighbours)) > 90
    shorter = Lists([[(t, 1.0, 0) for t in range(100)], [(t, 1.0, 0) for t in range(50)]])
    both = sampling.sample_layer(shorter.adjacency, np.arange(2, dtype=np.int32), 10, seed=3)
    long, short = np.split(both.neighbours, [both.counts[0]])
    assert {t for t in long if t < 50} <= set(short)


def test_neighbours_behind_a_shard_boundary_get_their_share() -> None:
    """DeepGNN's first bias: of 100 + 3 neighbours on two servers, 10 drawn without replacement, 0.300 came from the 3; 0.029 is exact."""
    trials = Trials([1.0] * 103)
    share = np.mean(trials.draw(10, seed=9) >= 100)
    exact = 3 / 103
    deviation = math.sqrt(exact * (1 - exact) / (10 * TRIALS) * (103 - 10) / (103 - 1))
    assert abs(share - exact) < norm.isf(LEVEL / 2) * deviation


def test_draws_with_replacement_repeat_as_often_as_independent_ones() -> None:
    """DeepGNN's second bias: 3.46 repeats in 10 draws from those 103, where independent draws have 0.43."""
    picks = np.sort(Trials([1.0] * 103).draw(10, replace=True, seed=10), axis=1)
    repeats = (np.diff(picks, axis=1) == 0).sum(axis=1)
    exact = 10 - 103 * (1 - (102 / 103) ** 10)
    assert abs(repeats.mean() - exact) < norm.isf(LEVEL / 2) * repeats.std() / math.sqrt(TRIALS)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("strategy", ["uniform", "weighted"])
def test_a_node_whose_neighbours_live_on_two_shards_is_sampled_as_on_one(strategy: str, replace: bool) -> None:
    """Its own partition holds its whole list, wherever the neighbours are, so there is nothing to merge."""
    lists: list[list[tuple[int, float, int]]] = [[] for _ in range(104)]
    lists[0] = [(t, 1.0 + t % 3, 0) for t in range(1, 104)]
    answers = set()
    for cuts in ([], [101], [1, 50], [52, 104]):
        graph = Lists([list(row) for row in lists], cuts)
        found = sampling.sample(graph.adjacency, np.zeros(1, np.int32), 10, strategy=strategy, replace=replace, seed=11)
        answers.add((found.neighbours.tobytes(), found.positions.tobytes()))
    assert len(answers) == 1


@pytest.fixture(scope="module")
def hub() -> tuple[np.ndarray, list[np.ndarray]]:
    """One node of a million neighbours, all of weight 0.1 but the last, of half the total: float32 sums would be off by percents."""
    d = 1_000_000
    weights = np.full(d, 0.1, np.float32)
    weights[-1] = 100_000
    keep = [np.array([0, d]), np.arange(d, dtype=np.int32), weights, np.cumsum(weights, dtype=np.float64)]
    table = sampling.pack_adjacency(np.array([0, 1]), np.array([0, d]), *(np.array([a.ctypes.data]) for a in keep))
    return table, keep


def test_weighted_draws_from_a_hub_of_a_million_neighbours_are_exact(hub: tuple[np.ndarray, list[np.ndarray]]) -> None:
    draws = 200_000
    found = sampling.sample_weighted(hub[0], np.zeros(1, np.int32), draws, replace=True, seed=12).neighbours
    light = found[found < 999_999]
    tenth = float(np.float32(0.1))
    p = 999_999 * tenth / (999_999 * tenth + 100_000)
    assert abs(len(light) - draws * p) < norm.isf(LEVEL / 2) * math.sqrt(draws * p * (1 - p))
    assert passes(np.bincount(light // 10_000, minlength=100)[:100], np.full(100, 0.01), len(light))


@pytest.mark.parametrize("fan_out", [15, 5000])
def test_uniform_draws_from_a_hub_reach_all_of_it_alike(hub: tuple[np.ndarray, list[np.ndarray]], fan_out: int) -> None:
    zeros = np.zeros(1, np.int32)
    picks = np.concatenate([sampling.sample_uniform(hub[0], zeros, fan_out, seed=s).neighbours for s in range(30_000 // fan_out)])
    assert passes(np.bincount(picks // 10_000, minlength=100), np.full(100, 0.01), len(picks))
    once = sampling.sample_uniform(hub[0], zeros, fan_out, seed=1).neighbours.tolist()
    assert once == reference.uniform(1_000_000, fan_out, reference.stream_of(1, 0, 0, 0))


def test_weighted_draws_without_replacement_from_a_hub_take_the_heavy_one_first_half_of_the_time(
    hub: tuple[np.ndarray, list[np.ndarray]],
) -> None:
    firsts = [sampling.sample_weighted(hub[0], np.zeros(1, np.int32), 10, seed=s).neighbours for s in range(2000)]
    assert all(len(set(picks)) == 10 for picks in firsts)
    heavy = sum(picks[0] == 999_999 for picks in firsts)
    assert abs(heavy - 1000) < norm.isf(LEVEL / 2) * math.sqrt(500)
