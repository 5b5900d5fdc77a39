"""The plan of an epoch: which seeds make which batch, for which trainer. Numbers only; no graph, no torch.

An epoch puts the positions 0..count - 1 of the seeds into an order keyed by (seed, epoch), and cuts it into *rounds* of `world` batches of
`batch_size`: batch number `round * world + rank` is that trainer's in that round. So each seed is in one batch, all trainers have as many
batches, and what batch n is does not depend on who computes it, nor (but for the last round) on how many trainers there are.

The last round may be short. It is shared out evenly, so that it costs every trainer about the same; if even one each is not left, the
trainers without any get one seed of the epoch's beginning again (`repeated`), because a trainer that has no batch while the others wait for
its gradients stops them all. `drop_last` leaves the short round out.

With `groups` (see `grouping`) seeds are kept together in blocks; the order of the blocks is what an epoch shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fondaco.graph._arguments import whole
from fondaco.graph.torch.counters import WHOLE_EPOCH, mixed, permutation
from fondaco.graph.torch.ranks import ALONE, Rank

Positions = npt.NDArray[np.int64]


class PlannedBatch(NamedTuple):
    """Batch `number` of an epoch: positions of its seeds, int64 [n]. `repeated`: they were in another trainer's batch already."""

    number: int
    positions: Positions
    repeated: bool = False


class Groups(NamedTuple):
    """Seeds ordered so that neighbours in the order share neighbours in the graph: positions, int64 [count], kept in blocks of `size`."""

    order: Positions
    size: int


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """How every epoch over `count` seeds is cut into batches."""

    count: int
    batch_size: int
    rank: Rank = ALONE
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    groups: Groups | None = None

    def __post_init__(self) -> None:
        whole(self.batch_size, "batch_size (seeds in a batch)", 1)

    def __len__(self) -> int:
        """Batches of one trainer in one epoch."""
        full, rest = divmod(self.count, self._round_size)
        return full + (rest > 0 and not self.drop_last)

    @property
    def _round_size(self) -> int:
        return self.batch_size * self.rank.world

    def order(self, epoch: int) -> Positions:
        """The epoch's order of all seeds: int64 [count]."""
        if self.groups is not None:
            return self._grouped_order(epoch, self.groups)
        return permutation(self.count, self.seed, epoch, WHOLE_EPOCH) if self.shuffle else np.arange(self.count, dtype=np.int64)

    def batch(self, order: Positions, index: int) -> PlannedBatch:
        """This trainer's batch in round `index`, out of `order(epoch)`.

        Raises:
            IndexError: there are not so many.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        rank, world = self.rank
        number, start = index * world + rank, index * self._round_size
        rest = self.count - start
        if rest >= self._round_size:
            start += rank * self.batch_size
            return PlannedBatch(number, order[start : start + self.batch_size])
        share, more = divmod(rest, world)
        start += rank * share + min(rank, more)
        share += rank < more
        if share == 0:
            return PlannedBatch(number, order[rank % self.count : rank % self.count + 1], repeated=True)
        return PlannedBatch(number, order[start : start + share])

    def _grouped_order(self, epoch: int, groups: Groups) -> Positions:
        if not self.shuffle:
            return groups.order
        # Blocks begin elsewhere in every epoch, so that the same seeds do not always meet.
        first = mixed(self.seed, epoch, WHOLE_EPOCH, 1) % groups.size
        cuts = np.arange(first, self.count, groups.size)
        blocks = np.split(groups.order, cuts[cuts > 0])
        return np.concatenate([blocks[block] for block in permutation(len(blocks), self.seed, epoch, WHOLE_EPOCH)])
