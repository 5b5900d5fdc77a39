"""Kernels of global draws and negatives against plain references, and against exact distributions at a level of 1e-6."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from fondaco.graph import _global_kernels as kernels
from graph import reference
from graph.csr_tables import Csr

LEVEL = 1e-6
keys = st.integers(0, 2**64 - 1)


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def fits(observed: Counter[object], shares: dict[object, float], trials: int) -> bool:
    expected = {key: share * trials for key, share in shares.items() if share > 0}
    assert abs(sum(expected.values()) - trials) < 1e-6 * trials
    assert set(observed) <= set(expected)
    assert min(expected.values()) > 5
    return sum((observed[key] - e) ** 2 / e for key, e in expected.items()) < chi2.isf(LEVEL, len(expected) - 1)


def distinct(key: int, total: int, count: int) -> list[int]:
    """A shuffle of everything, cut off."""
    everything = list(range(total))
    for i in range(count):
        j = i + reference.below(reference.mix(key, i), total - i)
        everything[i], everything[j] = everything[j], everything[i]
    return everything[:count]


@given(keys, st.integers(1, 300), st.data())
@settings(max_examples=80, deadline=None)
def test_uniform_draws_are_those_of_the_plain_reference(key: int, total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    out = np.empty(count, np.int64)
    kernels.draw_distinct(np.uint64(key), total, out)
    assert out.tolist() == distinct(key, total, count)
    kernels.draw_again(np.uint64(key), total, out)
    assert out.tolist() == [reference.below(reference.mix(key, i), total) for i in range(count)]


def test_few_of_very_many_are_drawn_without_touching_the_others() -> None:
    out = np.empty(1000, np.int64)
    kernels.draw_distinct(np.uint64(7), 1 << 60, out)
    assert len(set(out.tolist())) == 1000
    assert 0 <= out.min() <= out.max() < 1 << 60


def test_all_ordered_choices_without_replacement_are_equally_likely() -> None:
    observed: Counter[object] = Counter()
    out = np.empty(3, np.int64)
    for seed in range(12_000):
        kernels.draw_distinct(np.uint64(reference.mix(1, seed)), 5, out)
        observed[tuple(out.tolist())] += 1
    assert fits(observed, dict.fromkeys(itertools.permutations(range(5), 3), 1 / 60), 12_000)


weights_of = st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0, 1e-9]), min_size=1, max_size=40).filter(lambda ws: sum(ws) > 0)


def first_above(sums: list[float], x: float) -> int:
    return next((i for i, s in enumerate(sums) if s > x), next(i for i, s in enumerate(sums) if s == sums[-1]))


@given(keys, weights_of, st.integers(0, 50))
@settings(max_examples=80, deadline=None)
def test_masses_and_picks_of_nodes_are_those_of_the_plain_reference(key: int, weights: list[float], count: int) -> None:
    sums = list(itertools.accumulate(weights))
    parts, rests, positions = np.empty(count, np.int64), np.empty(count, np.float64), np.empty(count, np.int64)
    kernels.draw_masses(np.uint64(key), np.array(sums), parts, rests)
    targets = [reference.unit(reference.mix(key, i)) * sums[-1] for i in range(count)]
    assert parts.tolist() == [first_above(sums, x) for x in targets]
    assert rests.tolist() == [x - ([0.0, *sums])[p] for x, p in zip(targets, parts.tolist(), strict=True)]
    assert not count or all(weights[p] > 0 for p in parts.tolist())
    stored = np.array(sums)
    kernels.pick_nodes(address(stored), len(sums), np.array(targets), positions)
    assert positions.tolist() == parts.tolist()
    assert kernels.last_sum(address(stored), len(sums)) == sums[-1]
    assert kernels.last_sum(0, 0) == 0.0
    assert kernels.above(stored, math.inf) == first_above(sums, math.inf)  # rounded up past the end: the last that adds anything


@given(st.integers(0, 2**32), st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_picks_of_edges_are_those_of_the_plain_reference(seed: int, chance: float) -> None:
    rng = np.random.default_rng(seed)
    graph = Csr(9, 9, rng.integers(0, 9, 30), rng.integers(0, 9, 30), rng.integers(0, 3, 30) * 0.3)
    weights = graph.weights.astype(np.float64)
    cumulative = np.concatenate([np.cumsum(weights[a:b]) for a, b in itertools.pairwise(graph.indptr)])
    sums = np.empty(9, np.float64)
    kernels.sum_rows(address(graph.indptr), address(cumulative), sums)
    rows = [cumulative[b - 1] if b > a else 0.0 for a, b in itertools.pairwise(graph.indptr)]
    assert sums.tolist() == list(itertools.accumulate(rows))
    if not sums[-1] > 0:
        return
    rests, out = np.array([chance * sums[-1], sums[-1]]), np.empty(2, np.int64)
    kernels.pick_edges(address(graph.indptr), address(cumulative), sums, rests, out)
    for rest, edge in zip(rests.tolist(), out.tolist(), strict=True):
        row = first_above(sums.tolist(), rest)
        a, b = graph.indptr[row], graph.indptr[row + 1]
        within = rest - (sums[row - 1] if row else 0.0)
        assert edge == a + first_above(cumulative[a:b].tolist(), within)
        assert weights[edge] > 0


@given(keys, weights_of, st.integers(0, 50), st.integers(0, 40))
@settings(max_examples=80, deadline=None)
def test_smallest_keys_are_those_of_the_plain_reference_whatever_the_parts(key: int, weights: list[float], room: int, cut: int) -> None:
    stored = np.array(weights, np.float32)
    found, positions, used = np.empty(room, np.float64), np.empty(room, np.int64), 0
    for part, first in ((stored[:cut].copy(), 0), (stored[cut:].copy(), min(cut, len(weights)))):
        used = kernels.keep_smallest(address(part), len(part), first, np.uint64(key), found, positions, used)
    expected = sorted((reference.exponential(reference.mix(key, i)) / float(np.float32(w)), i) for i, w in enumerate(weights) if w > 0)
    assert sorted(zip(found[:used].tolist(), positions[:used].tolist(), strict=True)) == expected[:room]


def test_draws_by_weight_without_replacement_have_the_exact_probabilities() -> None:
    """Efraimidis and Spirakis: the order of keys is that of successive draws in proportion to what is left."""
    weights = np.array([1.0, 2.0, 4.0, 0.0], np.float32)
    exact = {(a, b): weights[a] / 7 * weights[b] / (7 - weights[a]) for a, b in itertools.permutations(range(3), 2)}
    observed: Counter[object] = Counter()
    found, positions = np.empty(2, np.float64), np.empty(2, np.int64)
    for seed in range(20_000):
        kernels.keep_smallest(address(weights), 4, 0, np.uint64(reference.mix(2, seed)), found, positions, 0)
        observed[tuple(positions[np.argsort(found)].tolist())] += 1
    assert fits(observed, {key: float(share) for key, share in exact.items()}, 20_000)


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_degrees_are_counted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = Csr(9, 11, rng.integers(0, 9, 40), rng.integers(0, 11, 40))
    counts, lengths, sums = np.zeros(11, np.int64), np.zeros(9, np.int64), np.empty(11, np.float64)
    kernels.count_targets(address(graph.dst), 40, counts)
    assert counts.tolist() == np.bincount(graph.dst, minlength=11).tolist()
    kernels.take_lengths(address(graph.indptr), lengths)
    assert lengths.tolist() == np.bincount(graph.src, minlength=9).tolist()
    kernels.sum_powers(counts, sums)
    assert np.allclose(sums, np.cumsum(counts**0.75), rtol=1e-14)


@given(keys, st.integers(1, 30), st.lists(st.integers(0, 4), max_size=30), st.lists(st.integers(0, 40), max_size=20), st.data())
@settings(max_examples=100, deadline=None)
def test_proposals_and_draws_outside_a_list_are_those_of_the_plain_reference(
    key: int, total: int, degrees: list[int], members: list[int], data: st.DataObject
) -> None:
    by_degree = data.draw(st.booleans())
    masses = [math.sqrt(d) * math.sqrt(math.sqrt(d)) for d in (degrees + [0] * total)[:total]]
    sums = list(itertools.accumulate(masses)) if by_degree else []
    if by_degree and not sums[-1] > 0:
        return
    columns, stored = 3, np.array(sums, np.float64)
    wanted, tries = np.array([0, 4, 7, 7]), np.array([0, 1, 2, 31])
    out = np.empty(4, np.int32)
    kernels.propose(np.uint64(key), columns, total, stored, tries, wanted, out)
    streams = [reference.mix(reference.mix(key, entry // 3), entry % 3) for entry in wanted.tolist()]
    draws = [reference.mix(stream, t) for stream, t in zip(streams, tries.tolist(), strict=True)]
    assert out.tolist() == [first_above(sums, reference.unit(x) * sums[-1]) if by_degree else reference.below(x, total) for x in draws]

    inside = sorted({member for member in members if member < total})
    outside = [node for node in range(total) if node not in inside]
    outs = np.empty(2, np.int32)
    kernels.draw_outside(np.uint64(key), columns, total, stored, np.array([7, 4]), np.array(inside, np.int32), outs)
    found = int(outs[1])
    x = reference.mix(streams[1], kernels.TRIES)
    if by_degree:
        outside = [node for node in outside if masses[node] > 0]
        left = list(itertools.accumulate(masses[node] for node in outside))
        if outside:  # sums over gaps are rounded otherwise: the neighbour is as good where they meet
            target = reference.unit(x) * left[-1]
            assert found in {outside[first_above(left, target * (1 + e))] for e in (-1e-9, 0.0, 1e-9)}
        else:
            assert found == -1
    else:
        assert found == (outside[reference.below(x, len(outside))] if outside else -1)


def test_draws_outside_a_list_have_the_exact_probabilities() -> None:
    degrees = np.array([0, 5, 0, 2, 7, 0, 3, 1, 0], np.int64)
    sums = np.empty(9, np.float64)
    kernels.sum_powers(degrees, sums)
    members, trials = np.array([0, 3, 4], np.int32), 20_000
    for stored, masses in ((sums, degrees**0.75), (np.empty(0), np.ones(9))):
        shares = {node: 0.0 if node in members else float(mass) for node, mass in enumerate(masses)}
        whole = sum(shares.values())
        drawn = np.empty(trials, np.int32)
        kernels.draw_outside(np.uint64(5), 1, 9, stored, np.arange(trials), members, drawn)
        assert fits(Counter(drawn.tolist()), {node: share / whole for node, share in shares.items()}, trials)
