"""Bounded: an answer within seconds from work that may take longer, for callers with a deadline of their own.

The work goes on in its thread after the answer was given up; it must be such that doing it again does no harm. Any thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from fondaco.core.errors import DeadlineExceededError, UnavailableError

CALLS_MAX: Final = 64  # at once, with those that nobody waits for any more: what hangs cannot pile up
_SLOTS: Final = threading.BoundedSemaphore(CALLS_MAX)
_LOGGER = logging.getLogger(__name__)
Result = TypeVar("Result")


def within(seconds: float, what: str, work: Callable[[], Result], *, late: Callable[[BaseException], None] | None = None) -> Result:
    """The result of `work`, or what it raises.

    Args:
        what: is done, for messages. late: gets what it raises when nobody waits for that any more.
    Raises:
        DeadlineExceededError: it takes longer. UnavailableError: `CALLS_MAX` are at work.
    """
    if not _SLOTS.acquire(blocking=False):
        raise UnavailableError("the data services of this process", f"{CALLS_MAX} calls are at work, {what} is one too many")
    results: list[Result] = []
    errors: list[BaseException] = []
    over, given_up, lock = threading.Event(), threading.Event(), threading.Lock()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as exc:
            with lock:
                errors.append(exc)
                is_late = given_up.is_set()
            if is_late:
                _LOGGER.warning("%s failed after its caller had stopped waiting: %s", what, exc)
                if late is not None:
                    late(exc)
        finally:
            _SLOTS.release()
            over.set()

    threading.Thread(target=run, name=f"fondaco {what}", daemon=True).start()
    over.wait(seconds)
    with lock:
        if not errors and not results:
            given_up.set()
            raise DeadlineExceededError(what, seconds, "it goes on without being waited for")
    if errors:
        raise errors[0]
    return results[0]
