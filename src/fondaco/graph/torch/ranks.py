"""Which of how many trainers this process is: said, or taken from torch.distributed, or from the environment of torchrun."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from fondaco.core.errors import InputError


class Rank(NamedTuple):
    """Trainer `rank` of `world`, from 0."""

    rank: int
    world: int


ALONE: Final = Rank(0, 1)


def trainer_rank(rank: int | None = None, world: int | None = None) -> Rank:
    """The rank to load for: `rank` and `world` if said (both or neither); else those of the process group that torch.distributed has
    joined; else RANK and WORLD_SIZE; else 0 of 1.

    Raises:
        InputError: one without the other, or a rank outside [0, world).
    """
    if (rank is None) != (world is None):
        raise InputError(f"rank= and world= go together; got rank={rank} and world={world}")
    if rank is None or world is None:
        rank, world = _joined_group() or _environment() or (0, 1)
    if world < 1 or not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world} trainers: a rank is at least 0 and less than their number")
    return Rank(rank, world)


def _joined_group() -> tuple[int, int] | None:
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return None
    return int(distributed.get_rank()), int(distributed.get_world_size())


def _environment() -> tuple[int, int] | None:
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return None
    if not (rank.isdecimal() and world.isdecimal()):
        raise InputError(f"RANK={rank!r} and WORLD_SIZE={world!r} in the environment are not numbers; say rank= and world=")
    return int(rank), int(world)
