"""Neighbour lists and draws as arrays, in the shapes of DeepGNN; and what is done with them without asking a graph. Pure; any thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fondaco.graph.answers import pad_ragged

I64: TypeAlias = npt.NDArray[np.int64]
I32: TypeAlias = npt.NDArray[np.int32]
F32: TypeAlias = npt.NDArray[np.float32]


class Fill(NamedTuple):
    """What stands where there is no neighbour."""

    node: int
    weight: float
    type: int
    time: int = -1


class Lists(NamedTuple):
    """Neighbour lists of several nodes, one after the other, by edge type within a node."""

    rows: I64
    ids: I64
    weights: F32
    types: I32
    times: I64


class Drawn(NamedTuple):
    """Drawn neighbours, [n, count] each."""

    ids: I64
    weights: F32
    types: I32
    times: I64


def joined(parts: Sequence[Lists]) -> Lists:
    """Several lists in one: by row, within a row by type, else as they come."""
    if not parts:
        return Lists(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, np.int64))
    rows, types = np.concatenate([part.rows for part in parts]), np.concatenate([part.types for part in parts])
    order = np.lexsort((types, rows))
    return Lists(
        rows[order],
        np.concatenate([part.ids for part in parts])[order],
        np.concatenate([part.weights for part in parts])[order],
        types[order],
        np.concatenate([part.times for part in parts])[order],
    )


def best_of(lists: Lists, row_count: int, count: int, fill: Fill, by: npt.NDArray[np.generic]) -> Drawn:
    """The first `count` of each row by falling `by`."""
    best = nothing(row_count, count, fill)
    order = np.lexsort((-by.astype(np.float64), lists.rows))
    counts = np.bincount(lists.rows, minlength=row_count)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    order, place = order[place < count], place[place < count]
    rows = lists.rows[order]
    best.ids[rows, place], best.weights[rows, place] = lists.ids[order], lists.weights[order]
    best.types[rows, place], best.times[rows, place] = lists.types[order], lists.times[order]
    return best


def nothing(rows: int, count: int, fill: Fill) -> Drawn:
    """`rows` x `count` times nothing."""
    shape = rows, count
    return Drawn(
        np.full(shape, fill.node, np.int64),
        np.full(shape, fill.weight, np.float32),
        np.full(shape, fill.type, np.int32),
        np.full(shape, fill.time, np.int64),
    )


def picked_from(each: Sequence[Drawn], column: I64) -> Drawn:
    """Of several draws of one shape, entry by entry that of `each[column]`."""
    return Drawn(
        np.choose(column, [drawn.ids for drawn in each]),
        np.choose(column, [drawn.weights for drawn in each]),
        np.choose(column, [drawn.types for drawn in each]),
        np.choose(column, [drawn.times for drawn in each]),
    )


def put(drawn: Drawn, rows: I64, counts: I64, ids: I64, weights: F32 | None, times: I64 | None, number: int, fill: Fill) -> None:
    """Write the neighbours drawn for some rows."""
    count = drawn.ids.shape[1]
    drawn.ids[rows] = pad_ragged(ids, counts, fill.node, count)
    there = np.arange(count) < counts[:, None]
    drawn.types[rows] = np.where(there, number, fill.type)
    drawn.weights[rows] = np.where(there, 1.0, fill.weight) if weights is None else pad_ragged(weights, counts, fill.weight, count)
    if times is not None:
        drawn.times[rows] = pad_ragged(times, counts, fill.time, count)


def filled(lists: Lists, picked: I64, there: npt.NDArray[np.bool_], fill: Fill) -> Drawn:
    """Entries `picked` of the lists where `there`."""
    drawn = nothing(there.shape[0], there.shape[1], fill)
    chosen = picked[there]
    drawn.ids[there], drawn.weights[there] = lists.ids[chosen], lists.weights[chosen]
    drawn.types[there], drawn.times[there] = lists.types[chosen], lists.times[chosen]
    return drawn


def without_replacement(each: Sequence[Drawn], sizes: I64, count: int, fill: Fill, chance: np.random.Generator) -> Drawn:
    """One sample out of samples of each edge type: how many of each is hypergeometric; which of each, any.

    `sizes` int64 [rows, types]: how many neighbours there are.
    """
    rest = sizes.sum(axis=1)
    left = np.minimum(rest, count)
    chosen = np.zeros((len(sizes), len(each) * count), bool)
    for column in range(len(each)):
        rest = rest - sizes[:, column]
        share = chance.hypergeometric(sizes[:, column], rest, left)
        left = left - share
        keys = chance.random((len(sizes), count))
        keys[np.arange(count) >= sizes[:, column, None]] = np.inf
        chosen[:, column * count : (column + 1) * count] = keys.argsort(axis=1).argsort(axis=1) < share[:, None]
    drawn = nothing(len(sizes), count, fill)
    rows, columns = np.nonzero(chosen)
    counts = chosen.sum(axis=1)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn.ids[rows, place] = np.concatenate([part.ids for part in each], axis=1)[rows, columns]
    drawn.weights[rows, place] = np.concatenate([part.weights for part in each], axis=1)[rows, columns]
    drawn.types[rows, place] = np.concatenate([part.types for part in each], axis=1)[rows, columns]
    drawn.times[rows, place] = np.concatenate([part.times for part in each], axis=1)[rows, columns]
    return drawn


def pairs_in(lists: Lists, before: Lists) -> npt.NDArray[np.bool_]:
    """Which (row, id) of `lists` stand in `before`, too."""
    codes = np.unique(np.concatenate((lists.ids, before.ids)), return_inverse=True)[1]
    width = int(codes.max(initial=0)) + 1
    return np.isin(lists.rows * width + codes[: len(lists.ids)], before.rows * width + codes[len(lists.ids) :])
