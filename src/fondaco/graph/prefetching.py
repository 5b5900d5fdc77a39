"""Results made ahead in threads, handed out in order.

At most `depth` results are being made or wait at any moment; the next one is begun when one is taken, so a slow trainer never piles up
memory. What a thread raises is raised to whoever takes that result, after the results before it. Leaving the loop early, by whatever way,
cancels what has not begun and waits for what has: no thread outlives its iterator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from fondaco.core.errors import InputError

S = TypeVar("S")
T = TypeVar("T")


def in_order(make: Callable[[S], T], items: Iterable[S], *, depth: int, threads: int) -> Iterator[T]:
    """`make(item)` for each of `items`, in their order. depth 0: made when taken, in the caller's thread, where items are taken, too.

    Raises:
        InputError: depth below 0, threads below 1. And whatever `make` raises.
    """
    if depth < 0 or threads < 1:
        raise InputError(f"prefetch is at least 0 batches and at least 1 thread; got {depth} and {threads}")
    return _ahead(make, iter(items), depth, threads) if depth else map(make, items)


def _ahead(make: Callable[[S], T], items: Iterator[S], depth: int, threads: int) -> Iterator[T]:
    pool = ThreadPoolExecutor(min(depth, threads), thread_name_prefix="fondaco-ahead")
    try:
        begun: deque[Future[T]] = deque(pool.submit(make, item) for item in islice(items, depth))
        while begun:
            result = begun.popleft().result()  # no name for the future: it would keep the result's memory until the next one
            begun.extend(pool.submit(make, item) for item in islice(items, 1))
            yield result
            del result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
