"""Answers are printed by what they hold: types and shapes, not a million numbers."""

from __future__ import annotations

import numpy as np

from fondaco.graph.answers import BytesColumn, HeteroSubgraph, Ranked, SparseColumn, Subgraph


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_a_long_answer_is_printed_in_a_line() -> None:
    ids = np.array([f"n{i}" for i in range(10_000)], object)
    edges, vectors = np.zeros((2, 50_000), np.int64), np.zeros((10_000, 16), np.float32)
    column = SparseColumn(ints(0, 1), ints(3), np.ones(1, np.float32), (1, 8))
    words = {"x": vectors, "sparse": column, "text": BytesColumn(ints(0, 3), np.frombuffer(b"abc", np.uint8))}
    subgraph = Subgraph(ids, edges, ints(0, 10, 10_000), ints(0, 50_000), ints(0), words, 3, 7)
    assert repr(subgraph) == (
        "Subgraph(nodes=str[10000], edge_index=int64[2, 50000], hop_offsets=[0, 10, 10000], edge_hop_offsets=[0, 50000], seed_index=[0], "
        "features={'x': float32[10000, 16], 'sparse': SparseColumn(indptr=[0, 1], indices=[3], values=[1.0], shape=(1, 8)), "
        "'text': BytesColumn(offsets=[0, 3], data=[97, 98, 99])}, version=3, seed=7)"
    )


def test_parts_by_type_keep_their_names() -> None:
    key = ("user", "buys", "item")
    answer = HeteroSubgraph(
        {"user": ints(1), "item": ints(2)},
        {key: np.zeros((2, 1), np.int64)},
        {"user": ints(0, 1)},
        {key: ints(0, 1)},
        "user",
        ints(0),
        {},
        1,
        2,
    )
    assert repr(answer) == (
        "HeteroSubgraph(nodes={'user': [1], 'item': [2]}, edge_index={('user', 'buys', 'item'): int64[2, 1]}, "
        "hop_offsets={'user': [0, 1]}, edge_hop_offsets={('user', 'buys', 'item'): [0, 1]}, seed_type='user', seed_index=[0], "
        "version=1, seed=2)"
    )


def test_what_is_not_there_is_not_printed() -> None:
    ranked = Ranked(ints(2), ints(5, 6), np.array([0.5, 0.25], np.float32), 1)
    assert repr(ranked) == "Ranked(counts=[2], ids=[5, 6], scores=[0.5, 0.25], version=1)"
