"""Sampling kernels: equal to the plain reference over any partitions, and a pick depends on its node, seed, hop and list alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import InputError
from fondaco.graph import sampling
from fondaco.graph._kernels import draw_weighted
from graph import reference
from graph.reference import Lists

STRATEGIES = [
    ("uniform", False),
    ("uniform", True),
    ("weighted", False),
    ("weighted", True),
    ("top_k", False),
    ("last", False),
    ("all", False),
]


@dataclass
class Case:
    graph: Lists
    frontier: list[int]
    as_of: list[int] | None

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.frontier, np.int32), sampling.ALWAYS if self.as_of is None else np.array(self.as_of, np.int64)


@st.composite
def cases(draw: st.DrawFn, degree_max: int = 40, nodes_max: int = 12) -> Case:
    """Graphs with hubs, empty lists, parallel edges, weights of 0, equal weights and times; cuts anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    nodes = draw(st.integers(1, nodes_max))
    timed = draw(st.booleans())
    weightless = draw(st.sampled_from([0.0, 0.3, 1.0]))
    lists = []
    for _ in range(nodes):
        degree = int(rng.integers(0, degree_max + 1)) if rng.random() < 0.7 else int(rng.integers(0, 3))
        weights = np.where(
            rng.random(degree) < weightless, 0.0, rng.choice([0.25, 1.0, 3.0, 1e-3, 1e5], degree) * rng.choice([1, 1.5], degree)
        )
        lists.append(
            list(zip(rng.integers(0, nodes, degree).tolist(), weights.tolist(), rng.integers(-3, 4, degree).tolist(), strict=True))
        )
    cuts = sorted(draw(st.lists(st.integers(0, nodes), max_size=4)))
    frontier = rng.integers(0, nodes, draw(st.integers(0, 20))).tolist()
    as_of = rng.integers(-5, 5, len(frontier)).tolist() if draw(st.booleans()) else None
    return Case(Lists(lists, cuts, timed), frontier, as_of)


@pytest.mark.parametrize(("strategy", "replace"), STRATEGIES)
@given(case=cases(), fan_out=st.integers(0, 12), seed=st.integers(0, 1 << 64), hop=st.integers(0, 3), salt=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_samples_equal_the_reference(case: Case, fan_out: int, seed: int, hop: int, salt: int, strategy: str, replace: bool) -> None:
    frontier, as_of = case.arrays()
    found = sampling.sample(
        case.graph.adjacency, frontier, fan_out, strategy=strategy, replace=replace, seed=seed, hop=hop, salt=salt, as_of=as_of
    )
    expected = reference.sample(case.graph, case.frontier, fan_out, strategy, replace, seed, hop, salt, case.as_of)
    assert (found.counts.tolist(), found.neighbours.tolist(), found.positions.tolist()) == expected


@pytest.mark.parametrize(("strategy", "replace"), STRATEGIES)
@pytest.mark.parametrize("fan_out", [1, 2, 20, 48, 49, 64, 65, 90, 700])
def test_samples_of_long_lists_equal_the_reference(strategy: str, replace: bool, fan_out: int) -> None:
    rng = np.random.default_rng(fan_out)
    degrees = [0, 1, 33, 40, 64, 65, 400, 700, 1300]
    lists = [
        list(
            zip(
                rng.integers(0, 9, d).tolist(),
                (rng.random(d) ** 8 * (rng.random(d) < 0.9)).tolist(),
                rng.integers(0, 9, d).tolist(),
                strict=True,
            )
        )
        for d in degrees
    ]
    graph = Lists(lists, [4, 7])
    frontier = [*range(9), 6]
    found = sampling.sample(
        graph.adjacency, np.array(frontier, np.int32), fan_out, strategy=strategy, replace=replace, seed=11, hop=2, salt=3
    )
    expected = reference.sample(graph, frontier, fan_out, strategy, replace, 11, 2, 3, None)
    assert (found.counts.tolist(), found.neighbours.tolist(), found.positions.tolist()) == expected


@pytest.mark.parametrize(("strategy", "replace"), STRATEGIES)
@given(case=cases(), fan_out=st.integers(0, 12), seed=st.integers(0, 1 << 64), chosen=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_nodes_picks_do_not_depend_on_the_rest_of_the_frontier_its_order_or_repeats(
    case: Case, fan_out: int, seed: int, chosen: object, strategy: str, replace: bool
) -> None:
    everything = np.arange(len(case.graph.lists), dtype=np.int32)
    alone = {}
    for node in everything:
        one = sampling.sample(case.graph.adjacency, everything[node : node + 1], fan_out, strategy=strategy, replace=replace, seed=seed)
        alone[int(node)] = one.positions.tolist()
    frontier, _ = case.arrays()
    together = sampling.sample(case.graph.adjacency, frontier, fan_out, strategy=strategy, replace=replace, seed=seed)
    assert together.positions.tolist() == [position for node in case.frontier for position in alone[node]]


@pytest.mark.parametrize(("strategy", "replace"), STRATEGIES)
@given(case=cases(), fan_out=st.integers(0, 12), seed=st.integers(0, 1 << 64), cuts=st.lists(st.integers(0, 12), max_size=5))
@settings(max_examples=30, deadline=None)
def test_samples_do_not_depend_on_partitions(case: Case, fan_out: int, seed: int, cuts: list[int], strategy: str, replace: bool) -> None:
    frontier, as_of = case.arrays()
    other = Lists(case.graph.lists, sorted(min(cut, len(case.graph.lists)) for cut in cuts), case.graph.timed)
    one, two = (
        sampling.sample(graph.adjacency, frontier, fan_out, strategy=strategy, replace=replace, seed=seed, as_of=as_of)
        for graph in (case.graph, other)
    )
    assert one.counts.tolist() == two.counts.tolist()
    assert one.neighbours.tolist() == two.neighbours.tolist()
    assert one.positions.tolist() == two.positions.tolist()


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_counts_equal_the_reference(case: Case) -> None:
    frontier, as_of = case.arrays()
    found = sampling.counts(case.graph.adjacency, frontier, as_of=as_of)
    expected = [len(case.graph.visible(node, None if case.as_of is None else case.as_of[i])) for i, node in enumerate(case.frontier)]
    assert found.dtype == np.int64
    assert found.tolist() == expected


@given(case=cases(), seed=st.integers(0, 1 << 64), fan_out=st.integers(-1, 12), node_type=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_layers_equal_the_reference(case: Case, seed: int, fan_out: int, node_type: int) -> None:
    frontier, as_of = case.arrays()
    found = sampling.sample_layer(case.graph.adjacency, frontier, fan_out, seed=seed, hop=2, node_type=node_type, as_of=as_of)
    key = reference.mix(reference.mix(reference.mix(0, seed & reference.MASK), 2), (1 << 32) + node_type)
    counts, positions = [], []
    for i, node in enumerate(case.frontier):
        neighbours = [edge[0] for edge in case.graph.visible(node, None if case.as_of is None else case.as_of[i])]
        picks = reference.layer(neighbours, fan_out if fan_out >= 0 else len(neighbours), key)
        counts.append(len(picks))
        positions += [case.graph.first_edge(node) + pick for pick in picks]
    assert found.counts.tolist() == counts
    assert found.positions.tolist() == positions
    assert found.neighbours.tolist() == sampling.edge_ends(case.graph.adjacency, found.positions)[1].tolist()


def test_a_layer_that_needs_more_room_than_expected_is_whole() -> None:
    rows = [[(t, 1.0, 0) for t in range(3000)] for _ in range(5)]
    graph = Lists(rows, [2])
    found = sampling.sample_layer(graph.adjacency, np.arange(5, dtype=np.int32), 1, seed=4)
    key = reference.mix(reference.mix(reference.mix(0, 4), 0), 1 << 32)
    picks = reference.layer(list(range(3000)), 1, key)
    assert found.counts.tolist() == [len(picks)] * 5
    assert found.neighbours.tolist() == picks * 5


@given(case=cases(), pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_edges_found_by_their_ends_are_the_last_of_the_list(case: Case, pairs: list[tuple[int, int]]) -> None:
    nodes = len(case.graph.lists)
    sources, targets = ([pair[side] % nodes for pair in pairs] for side in (0, 1))
    as_of = None if case.as_of is None else [(3 * i) % 7 - 4 for i in range(len(pairs))]
    expected = []
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        visible = case.graph.visible(source, None if as_of is None else as_of[i])
        hits = [case.graph.first_edge(source) + j for j, edge in enumerate(visible) if edge[0] == target]
        expected.append(hits[-1] if hits else -1)
    arguments = (case.graph.adjacency, np.array(sources, np.int32), np.array(targets, np.int32))
    bounds = sampling.ALWAYS if as_of is None else np.array(as_of, np.int64)
    assert sampling.find_edges(*arguments, as_of=bounds).tolist() == expected
    assert sampling.has_edges(*arguments, as_of=bounds).tolist() == [position >= 0 for position in expected]


@given(case=cases(), chosen=st.lists(st.integers(0, 1 << 20), max_size=30))
@settings(max_examples=60, deadline=None)
def test_what_edges_carry_is_found_by_their_ids(case: Case, chosen: list[int]) -> None:
    edges = [(node, *edge) for node, row in enumerate(case.graph.lists) for edge in row]
    positions = np.array([number % len(edges) for number in chosen] if edges else [], np.int64)
    wanted = [edges[position] for position in positions]
    sources, targets = sampling.edge_ends(case.graph.adjacency, positions)
    assert sources.tolist() == [edge[0] for edge in wanted]
    assert targets.tolist() == [edge[1] for edge in wanted]
    assert sampling.edge_weights(case.graph.adjacency, positions).tolist() == [float(np.float32(edge[2])) for edge in wanted]
    times = [edge[3] for edge in wanted] if case.graph.timed else [0] * len(wanted)
    assert sampling.edge_times(case.graph.adjacency, positions).tolist() == times


def test_edges_without_stored_weights_weigh_one() -> None:
    graph = Lists([[(0, 5.0, 0)]])
    graph.adjacency[0, 4] = 0
    assert sampling.edge_weights(graph.adjacency, np.zeros(1, np.int64)).tolist() == [1.0]


@pytest.mark.parametrize(("strategy", "replace"), STRATEGIES)
def test_an_as_of_bound_shows_its_own_instant_and_nothing_after_it(strategy: str, replace: bool) -> None:
    times = [10, 20, 20, 20, 30, 40]
    graph = Lists([[(neighbour, 1.0, time) for neighbour, time in enumerate(times)]], timed=True)
    for bound, visible in [(9, 0), (10, 1), (19, 1), (20, 4), (21, 4), (40, 6), (-(1 << 63), 0), ((1 << 63) - 1, 6)]:
        assert sampling.counts(graph.adjacency, np.zeros(1, np.int32), as_of=np.array([bound])).tolist() == [visible]
        for fan_out in (1, 3, 6):
            frontier = np.zeros(2, np.int32)
            found = sampling.sample(
                graph.adjacency, frontier, fan_out, strategy=strategy, replace=replace, seed=bound & 7, as_of=np.array([bound, bound])
            )
            assert all(times[neighbour] <= bound for neighbour in found.neighbours)
            assert (found.counts == 0).all() == (visible == 0)


def test_the_last_neighbours_are_the_newest_at_the_bound() -> None:
    graph = Lists([[(neighbour, 1.0, time) for neighbour, time in enumerate([10, 20, 20, 30, 40])]], timed=True)
    found = sampling.sample_last(graph.adjacency, np.zeros(3, np.int32), 2, as_of=np.array([20, 35, 9]))
    assert found.counts.tolist() == [2, 2, 0]
    assert found.neighbours.tolist() == [1, 2, 2, 3]


@pytest.mark.parametrize(("strategy", "replace"), STRATEGIES)
def test_nodes_without_neighbours_and_empty_frontiers_have_no_picks(strategy: str, replace: bool) -> None:
    graph = Lists([[], [], []], [1])
    for frontier in ([], [0, 1, 2, 1]):
        found = sampling.sample(graph.adjacency, np.array(frontier, np.int32), 5, strategy=strategy, replace=replace)
        assert found.counts.tolist() == [0] * len(frontier)
        assert len(found.neighbours) == len(found.positions) == 0


def test_a_node_of_a_partition_that_is_not_held_has_no_neighbours_here() -> None:
    graph = Lists([[(0, 1.0, 0)], [(1, 1.0, 0)]], [1])
    graph.adjacency[0, 2:] = 0
    frontier = np.array([0, 1], np.int32)
    assert sampling.sample(graph.adjacency, frontier, 3).counts.tolist() == [0, 1]
    assert sampling.has_edges(graph.adjacency, frontier, frontier).tolist() == [False, True]


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("fan_out", [2, 3, 5, 12])
def test_an_edge_of_weight_zero_is_never_drawn(fan_out: int, replace: bool) -> None:
    weights = [0.0, 0.0, 2.0, 0.0, 1e-30, 5.0, 0.0, 0.0]
    rows = [[(i, weight, 0) for i, weight in enumerate(weights * 8)] for _ in range(300)]
    graph = Lists([*rows, [(0, 0.0, 0)] * 40], [7])
    found = sampling.sample_weighted(graph.adjacency, np.arange(301, dtype=np.int32), fan_out, replace=replace)
    assert set(found.neighbours % 8) <= {2, 4, 5}
    assert found.counts[:300].min() == fan_out
    assert found.counts[300] == 0


@pytest.mark.parametrize("weight", [1e-45, 1.1754944e-38, 1.0, 1.0000001, 3.4028235e38])
def test_the_greatest_draw_stays_below_the_total_whatever_its_size(weight: float) -> None:
    total = float(np.float32(weight))
    assert total * ((1 << 53) - 1) / (1 << 53) < total
    sums = np.array([total / 2, total, total, total])
    assert draw_weighted(sums.ctypes.data, 4, total, np.uint64((1 << 64) - 1)) == 1
    assert draw_weighted(sums.ctypes.data, 4, total, np.uint64(0)) == 0


def test_a_list_no_longer_than_the_fan_out_is_given_whole_in_list_order() -> None:
    graph = Lists([[(neighbour, neighbour * 1.0, 0) for neighbour in range(6)]])
    for fan_out in (6, 7, -1):
        assert sampling.sample(graph.adjacency, np.zeros(1, np.int32), fan_out).neighbours.tolist() == [0, 1, 2, 3, 4, 5]
        found = sampling.sample(graph.adjacency, np.zeros(1, np.int32), fan_out, strategy="weighted")
        assert found.neighbours.tolist() == ([0] if fan_out == -1 else []) + [1, 2, 3, 4, 5]


def test_read_only_strided_and_wider_frontiers_are_taken() -> None:
    graph = Lists([[(0, 1.0, 0), (1, 1.0, 0)], [(1, 1.0, 0)]])
    frozen = np.array([0, 1], np.int32)
    frozen.flags.writeable = False
    for frontier in (frozen, np.array([0, 9, 1, 9], np.int32)[::2], np.array([0, 1], np.int64)):
        assert sampling.sample(graph.adjacency, frontier, 2).counts.tolist() == [2, 1]


def test_a_wrong_strategy_or_fan_out_is_refused_by_name() -> None:
    graph = Lists([[(0, 1.0, 0)]])
    with pytest.raises(InputError, match="no sampling strategy 'best'; there are uniform, weighted"):
        sampling.sample(graph.adjacency, np.zeros(1, np.int32), 2, strategy="best")
    with pytest.raises(InputError, match="fan-out -2 is not a number of neighbours"):
        sampling.sample(graph.adjacency, np.zeros(1, np.int32), -2)
