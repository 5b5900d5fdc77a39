"""Reaping: the loop that ends leases and removes services, as a thread of the control API, and what it has done, for the metrics.

It is a thread of this process and no process of its own: it works for milliseconds every few seconds, and its counters are here where
`/metrics` reads them. Any number of reapers may be at work on one platform. A look that fails is counted and logged; the next one follows.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final

from fondaco.platform import Platform

JOIN_S: Final = 15.0  # provisioners give up on a call after about 10 s
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reaped:
    """What was done since the process began. `last_us`: when the last look ended, None before the first one."""

    looks: int = 0
    expired: int = 0
    removed: int = 0
    adopted: int = 0
    repaired: int = 0
    errors: int = 0
    seconds: float = 0.0
    last_us: int | None = None


class Reaping:
    """The loop; use it as a context manager."""

    def __init__(self, platform: Platform, *, every_s: float) -> None:
        self._platform, self._every_s = platform, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reaper", daemon=True)
        self.done = Reaped()

    def _loop(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._every_s)

    def look(self) -> None:
        """One look; whatever goes wrong in it is counted."""
        begun, before = time.perf_counter(), self.done
        try:
            report = self._platform.services.reap()
        except Exception:  # the loop must go on, whatever it is
            _LOGGER.exception("services: a look of the reaper failed")
            after = replace(before, errors=before.errors + 1)
        else:
            for error in report.errors:
                _LOGGER.warning("services: %s", error)
            after = replace(
                before,
                expired=before.expired + len(report.expired),
                removed=before.removed + len(report.removed),
                adopted=before.adopted + len(report.adopted),
                repaired=before.repaired + len(report.repaired),
                errors=before.errors + len(report.errors),
            )
        seconds = before.seconds + time.perf_counter() - begun
        self.done = replace(after, looks=before.looks + 1, seconds=seconds, last_us=self._platform.clock.now_us())

    def __enter__(self) -> Reaping:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)  # one that hangs in a call to a cluster ends with the process
