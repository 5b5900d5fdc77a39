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
from fondaco.graph._arguments import pack_fan_outs
from fondaco.graph.graph import Edge
from fondaco.graph.schema import Direction, GraphSchema
from fondaco.graph.torch.batches import message_type

FanOut: TypeAlias = "int | Mapping[Edge, int]"
FanOuts: TypeAlias = Sequence[FanOut]
FanOutsByType: TypeAlias = Mapping[Edge, Sequence[int]]
AnyFanOuts: TypeAlias = "FanOuts | FanOutsByType | GrowingFanOuts"


class GrowingFanOuts:
    """Fan-outs in `levels`, smallest first; `report` the validation metric after each epoch.

        fan_outs = GrowingFanOuts([[5, 3], [10, 5], [15, 10]], patience=2, better="higher")
        loader = NeighborLoader(graph, seeds, fan_outs=fan_outs)
        for epoch in range(30):
            for batch in loader: ...
            fan_outs.report(accuracy)

    One thread. With several trainers, report the same number (a mean over all of them) in each.
    """

    def __init__(
        self, levels: Sequence[FanOuts], *, patience: int = 1, min_delta: float = 0.0, better: Literal["higher", "lower"] = "higher"
    ) -> None:
        lists = all(hasattr(level, "__len__") and not isinstance(level, (str, Mapping)) for level in levels)
        if not lists or len(levels) == 0 or len({len(level) for level in levels}) != 1 or len(levels[0]) == 0:
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


def hops_of(schema: GraphSchema, direction: Direction, fan_outs: object) -> FanOuts:
    """Fan-outs, one entry a hop. {edge type: [15, 10]}, as PyG writes them, may name the edges or the messages along them.

    Raises:
        InputError, EdgeTypeNotFoundError: they are none; names the entry.
    """
    if not isinstance(fan_outs, Mapping):
        return _one_a_hop(schema, fan_outs)
    messages = {message_type(edge.key, direction): edge.key for edge in schema.edges}
    by_edge = {messages.get(key, key): counts for key, counts in fan_outs.items()}
    if not all(hasattr(counts, "__len__") for counts in by_edge.values()):
        raise InputError("fan-outs by edge type are lists with one entry for each hop: {('a', 'links', 'b'): [15, 10]}")
    hops = {len(counts) for counts in by_edge.values()}
    if len(hops) != 1:
        raise InputError(f"fan-outs have as many hops for every edge type; got {sorted(hops)}")
    return _one_a_hop(schema, [{key: counts[hop] for key, counts in by_edge.items()} for hop in range(hops.pop())])


def _one_a_hop(schema: GraphSchema, fan_outs: object) -> FanOuts:
    hops: FanOuts = list(pack_fan_outs(schema, fan_outs))  # type: ignore[arg-type]  # names are edges, too: keys of mappings are invariant
    return tuple(hops)
