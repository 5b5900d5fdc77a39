"""Pacing: a build gives way to reads and real-time writes of its platform, and says how far it is.

`Pacing.step` is what a build calls after each piece of work (`build.OnStep`). On a terminal it shows the piece at work, elsewhere now and
then a line, both on stderr. Belongs to one thread; use as a context manager.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fondaco.core.clock import Clock
from fondaco.core.config import GovernorConfig

if TYPE_CHECKING:
    from rich.live import Live

LINE_INTERVAL_S = 5.0  # a log file gets one line in this time, and none from a build that is shorter


class Pacing:
    """What the steps of one build report to."""

    def __init__(self, platform_directory: Path, config: GovernorConfig, clock: Clock, title: str, *, shown: bool) -> None:
        self._directory, self._config, self._clock = platform_directory, config, clock
        self._title, self._shown = title, shown
        self._done: dict[str, int] = {}
        self._line_at = time.monotonic() + LINE_INTERVAL_S
        self._live: Live | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Pacing:
        from fondaco.store.governor import Governor, PlatformRisk
        from fondaco.store.tails import handed_over

        risk = PlatformRisk(self._directory, self._config, self._clock)
        self._governor = self._open.enter_context(Governor(self._config, risk))
        self._hand_over = self._open.enter_context(handed_over(self._directory))
        if self._shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            # no refresh thread: a build must not compete with the reader threads of its own process for the interpreter
            self._live = self._open.enter_context(Live(self._title, console=Console(stderr=True), auto_refresh=False, transient=True))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._open.close()

    def step(self, what: str, amount: int) -> None:
        """`amount` more of `what` ("rows of nodes person") is done. May take its time."""
        self._hand_over.tick()
        self._governor.pace()
        done = self._done[what] = self._done.get(what, 0) + amount
        if self._live is not None:
            self._live.update(f"{self._title}: {done:,} {what}", refresh=True)
        elif self._shown and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + LINE_INTERVAL_S
            print(f"{self._title}: {done:,} {what}", file=sys.stderr, flush=True)
