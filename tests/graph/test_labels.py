"""Labels: indexes are those of first appearance, whichever way back from a node is used, and memory is given back clean."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.graph import labels as labels_module
from fondaco.graph import sampling
from fondaco.graph.labels import Labels
from graph import reference
from graph.reference import Lists

NODES = 50
CHUNKS = st.lists(st.lists(st.integers(-1, NODES - 1), max_size=40), max_size=6)


@pytest.fixture(params=["marker", "table"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways back: by default a set of a small type has a marker."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "table":
            patch.setattr(labels_module, "MARKED_NODES_MAX", 0)
            patch.setattr(labels_module, "_TABLE_SLOTS_MIN", 2)  # so that it grows
        yield request.param


@given(chunks=CHUNKS)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("slots", [None, 2])
def test_indexes_are_in_order_of_first_appearance(slots: int | None, chunks: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if slots:
            patch.setattr(labels_module, "MARKED_NODES_MAX", 0)
            patch.setattr(labels_module, "_TABLE_SLOTS_MIN", slots)
        known: dict[object, int] = {}
        with Labels(NODES) as labels:
            for chunk in chunks:
                expected = [reference.relabel([node], known)[0] if node >= 0 else -1 for node in chunk]
                assert labels.add(np.array(chunk, np.int32)).tolist() == expected
                assert labels.nodes.tolist() == list(known)
                assert len(labels) == len(known)
            everything = np.arange(-1, NODES, dtype=np.int32)
            assert labels.find(everything).tolist() == [known.get(node, -1) for node in everything.tolist()]


@given(chunks=st.lists(st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 3)), max_size=40), max_size=6))
@settings(max_examples=60, deadline=None)
def test_with_groups_a_node_counts_once_per_group(chunks: list[list[tuple[int, int]]]) -> None:
    known: dict[object, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_module, "_TABLE_SLOTS_MIN", 2)
        with Labels(10, grouped=True) as labels:
            for chunk in chunks:
                expected = [reference.relabel([pair], known)[0] if pair[0] >= 0 else -1 for pair in chunk]
                nodes, groups = (np.array([pair[side] for pair in chunk], np.int32) for side in (0, 1))
                assert labels.add(nodes, groups).tolist() == expected
                assert list(zip(labels.nodes.tolist(), labels.groups.tolist(), strict=True)) == list(known)
            pairs = [(node, group) for node in range(-1, 10) for group in range(5)]
            nodes, groups = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
            assert labels.find(nodes, groups).tolist() == [known.get(pair, -1) for pair in pairs]


def test_many_nodes_get_the_same_indexes_both_ways(way: str) -> None:
    rng = np.random.default_rng(1)
    with Labels(1 << 20, expected=10) as labels:
        assert (len(labels._marker) > 0) == (way == "marker")
        chunks = [rng.integers(0, 1 << 20, 40_000).astype(np.int32) for _ in range(3)]
        local = np.concatenate([labels.add(chunk) for chunk in chunks])
        nodes, first, inverse = np.unique(np.concatenate(chunks), return_index=True, return_inverse=True)
        order = np.argsort(first)
        assert labels.nodes.tolist() == nodes[order].tolist()
        assert (np.argsort(order)[inverse] == local).all()


def test_a_marker_comes_back_clean_and_is_used_again() -> None:
    with Labels(NODES) as first:
        marker = first._marker
        first.add(np.arange(20, dtype=np.int32))
        kept = first.nodes
    with Labels(NODES) as second:
        assert second._marker is marker
        assert second.find(np.arange(NODES, dtype=np.int32)).tolist() == [-1] * NODES
        assert second.add(np.array([7, 3], np.int32)).tolist() == [0, 1]
    assert kept.tolist() == list(range(20))


def test_nodes_taken_before_the_set_grew_or_closed_stay_as_they_were(way: str) -> None:
    with Labels(100_000) as labels:
        labels.add(np.array([5, 6], np.int32))
        early = labels.nodes
        labels.add(np.arange(100_000, dtype=np.int32))
        assert early.tolist() == [5, 6]
    labels.close()
    assert early.tolist() == [5, 6]
    assert len(labels) == 0


def test_threads_have_sets_of_their_own() -> None:
    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            wanted = rng.integers(0, 5000, 3000).astype(np.int32)
            with Labels(5000) as labels:
                local = labels.add(wanted)
                if not (labels.nodes[local] == wanted).all() or len(labels) != len(np.unique(wanted)):
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_a_type_without_nodes_has_an_empty_set(way: str) -> None:
    with Labels(0) as labels:
        assert labels.add(np.empty(0, np.int32)).tolist() == []
        assert labels.add(np.array([-1], np.int32)).tolist() == [-1]
        assert labels.nodes.tolist() == []


@given(seed=st.integers(0, 1 << 32), timed=st.booleans())
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("marked", [True, False])
def test_induced_edges_equal_the_reference(marked: bool, seed: int, timed: bool) -> None:
    rng = np.random.default_rng(seed)
    nodes = 12
    lists = [[(int(t), 1.0, int(rng.integers(0, 5))) for t in rng.integers(0, nodes, rng.integers(0, 9))] for _ in range(nodes)]
    graph = Lists(lists, sorted(rng.integers(0, nodes, 2).tolist()), timed)
    frontier = rng.integers(0, nodes, 6).astype(np.int32)
    members = rng.permutation(nodes)[:7].astype(np.int32)
    as_of = rng.integers(-1, 6, 6).astype(np.int64)
    with pytest.MonkeyPatch.context() as patch:
        if not marked:
            patch.setattr(labels_module, "MARKED_NODES_MAX", 0)
        with Labels(nodes) as labels:
            labels.add(members)
            found = labels.induced(graph.adjacency, frontier, as_of=as_of)
    index = {int(node): i for i, node in enumerate(members)}
    expected = [
        (i, index[edge[0]], graph.first_edge(int(node)) + j)
        for i, node in enumerate(frontier)
        for j, edge in enumerate(graph.visible(int(node), int(as_of[i])))
        if edge[0] in index
    ]
    assert list(zip(found.rows.tolist(), found.columns.tolist(), found.positions.tolist(), strict=True)) == expected


def test_induced_edges_of_a_grouped_set_are_within_the_rows_group() -> None:
    graph = Lists([[(0, 1.0, 0), (1, 1.0, 0)], [(0, 1.0, 0)]])
    with Labels(2, grouped=True) as labels:
        labels.add(np.array([0, 1, 0], np.int32), np.array([0, 0, 1], np.int32))
        found = labels.induced(graph.adjacency, labels.nodes, groups=labels.groups)
    assert list(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (2, 2)]


def test_induced_edges_beyond_the_first_room_are_all_found() -> None:
    rng = np.random.default_rng(2)
    graph = Lists([[(int(t), 1.0, 0) for t in rng.permutation(300)[:150]] for _ in range(300)], [100])
    everything = np.arange(300, dtype=np.int32)
    with Labels(300) as labels:
        labels.add(everything)
        found = labels.induced(graph.adjacency, everything)
    assert found.positions.tolist() == list(range(300 * 150))
    assert found.columns.tolist() == sampling.sample_all(graph.adjacency, everything).neighbours.tolist()
    with Labels(300) as labels:
        nothing = labels.induced(graph.adjacency, everything[:0])
    assert len(nothing.rows) == len(nothing.columns) == len(nothing.positions) == 0
