"""Fan-outs that grow when learning stalls: cheap batches first, more neighbours only when they may help.

The idea is the adaptive neighbour sampling of LiGNN (Borisyuk et al. 2024, arXiv:2402.11139): a model learns most of what it learns
from few neighbours, and a batch's cost grows with the product of its fan-outs. The rule here is ours, and plain: a list of levels; after
`patience` reports in a row that are no better than the best so far by `min_delta`, the next level holds from the next epoch on. Nothing
is guessed from the batches, so a batch remains a function of (seed, epoch, number, level), and a run repeats if its reports repeat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from fondaco.core.errors import InputError
from fondaco.graph.graph import Edge

FanOut: TypeAlias = "int | Mapping[Edge, int]"
FanOuts: TypeAlias = Sequence[FanOut]


class GrowingFanOuts:
    """Fan-outs in `levels`, smallest first; `report` the validation metric after each epoch.

    ```python
    fan_outs = GrowingFanOuts([[5, 3], [10, 5], [15, 10]], patience=2, better="higher")
    loader = NeighborLoader(graph, seeds, fan_outs=fan_outs)
    for epoch in range(30):
        for batch in loader: ...
        fan_outs.report(accuracy)
    ```
    One thread. With several trainers, report the same number (a mean over all of them) in each.
    """

    def __init__(
        self, levels: Sequence[FanOuts], *, patience: int = 1, min_delta: float = 0.0, better: Literal["higher", "lower"] = "higher"
    ) -> None:
        if not levels or len({len(level) for level in levels}) != 1 or not levels[0]:
            raise InputError("levels of fan-outs are lists of one length, as many hops in each: [[5, 3], [15, 10]]")
        if patience < 1 or min_delta < 0 or better not in ("higher", "lower"):
            raise InputError(
                f'patience is at least 1, min_delta at least 0, better "higher" or "lower"; got {patience}, {min_delta}, {better!r}'
            )
        self.levels: tuple[tuple[FanOut, ...], ...] = tuple(tuple(level) for level in levels)
        self.patience, self.min_delta, self.better = patience, min_delta, better
        self.level = 0
        self._best = -math.inf
        self._stalled = 0

    @property
    def current(self) -> tuple[FanOut, ...]:
        """The fan-outs of the level reached."""
        return self.levels[self.level]

    def report(self, metric: float) -> bool:
        """Say how validation went; returns whether the next level begins. Not a number counts as no progress."""
        value = float(metric) if self.better == "higher" else -float(metric)
        if value > self._best + self.min_delta:
            self._best, self._stalled = value, 0
            return False
        self._stalled += 1
        if self._stalled < self.patience or self.level + 1 == len(self.levels):
            return False
        self.level, self._stalled = self.level + 1, 0
        return True
