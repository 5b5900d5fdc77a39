"""Personalised PageRank over several edge types, or at a time: by pushes in the client, which pulls the lists it needs, as DeepGNN's does.

Where one edge type within one node type is ranked along, servers do all of it (`Graph.ppr`). Pushes go in rounds, so that each round pulls
the lists of all seeds at once; the threshold is DeepGNN's: a node is pushed from while its residual is at least alpha * eps * its degree.
Source: Andersen, Chung, Lang 2006; Bojchevski et al. 2020 (PPRGo), whose form DeepGNN follows. Pure but for what it asks; any thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fondaco.graph.deepgnn.lists import I64, Lists

Ranks = list[tuple[int, float]]


def push_ranks(lists_of: Callable[[I64], Lists], seeds: I64, count: int, alpha: float, eps: float) -> list[Ranks]:
    """For each of `seeds` up to `count` (node, score), best first; `lists_of`: the neighbour lists of some nodes."""
    known: dict[int, npt.NDArray[np.int64]] = {}
    scores: list[dict[int, float]] = [{} for _ in seeds]
    residuals: list[dict[int, float]] = [{int(seed): alpha} for seed in seeds]
    active = set(range(len(seeds)))
    while active:
        _pull(lists_of, known, {node for row in active for node in residuals[row]})
        active = {row for row in active if _push(known, scores[row], residuals[row], alpha, eps)}
    return [sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))[:count] for found in scores]


def _pull(lists_of: Callable[[I64], Lists], known: dict[int, npt.NDArray[np.int64]], nodes: set[int]) -> None:
    missing = np.array(sorted(nodes - known.keys()), np.int64)
    if len(missing):
        lists = lists_of(missing)
        ends = np.searchsorted(lists.rows, np.arange(len(missing) + 1))
        known.update((int(node), lists.ids[ends[row] : ends[row + 1]]) for row, node in enumerate(missing))


def _push(known: dict[int, npt.NDArray[np.int64]], scores: dict[int, float], residuals: dict[int, float], alpha: float, eps: float) -> bool:
    """One round from every node that is above the threshold; returns whether there was any."""
    above = [(node, left) for node, left in residuals.items() if left > 0 and left >= alpha * eps * len(known[node])]
    for node, left in above:
        scores[node] = scores.get(node, 0.0) + left
        residuals[node] -= left
    for node, left in above:
        share = (1 - alpha) * left / max(len(known[node]), 1)
        for neighbor in known[node].tolist():
            residuals[neighbor] = residuals.get(neighbor, 0.0) + share
    return bool(above)
