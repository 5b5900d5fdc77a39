"""Batches made ahead in threads, handed out in order.

At most `depth` batches are being made or wait at any moment; the next one is begun when one is taken, so a slow trainer never piles up
memory. What a thread raises is raised to whoever takes that batch, after the batches before it. Leaving the loop early, by whatever way,
cancels what has not begun and waits for what has: no thread outlives its iterator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fondaco.core.errors import InputError

T = TypeVar("T")


def in_order(make: Callable[[int], T], indexes: Sequence[int], *, depth: int, threads: int) -> Iterator[T]:
    """`make(index)` for each of `indexes`, in their order. depth 0: made when taken, in the caller's thread.

    Raises:
        InputError: depth below 0, threads below 1. And whatever `make` raises.
    """
    if depth < 0 or threads < 1:
        raise InputError(f"prefetch is at least 0 batches and at least 1 thread; got {depth} and {threads}")
    return _ahead(make, indexes, depth, threads) if depth else map(make, indexes)


def _ahead(make: Callable[[int], T], indexes: Sequence[int], depth: int, threads: int) -> Iterator[T]:
    pool = ThreadPoolExecutor(min(depth, threads), thread_name_prefix="fondaco-batches")
    try:
        begun: deque[Future[T]] = deque(pool.submit(make, index) for index in indexes[:depth])
        for index in indexes[depth:]:
            first = begun.popleft()
            batch = first.result()
            del first  # a future keeps its result: a batch's memory must be free as soon as the trainer lets go of it
            begun.append(pool.submit(make, index))
            yield batch
            del batch
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
