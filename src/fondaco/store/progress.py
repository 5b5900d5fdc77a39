"""Progress: how far a push is, for whoever waits for it. A bar on a terminal, now and then a line elsewhere, both on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_INTERVAL_S = 5.0  # a log file gets one line in this time, and none from a push that is shorter


class PushProgress:
    """Shows steps and rows of one push; silent unless `shown`. Belongs to one thread; use as a context manager."""

    def __init__(self, title: str, *, shown: bool) -> None:
        self._title = title
        self._row_count: int | None = None
        self._shown = shown
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._line_at = time.monotonic() + LINE_INTERVAL_S

    def __enter__(self) -> PushProgress:
        if self._shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(),
            )
            # no refresh thread: a push must not compete with the reader threads of its own process for the interpreter
            self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
            self._task = self._bar.add_task(self._title, total=self._row_count, unit="rows")
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, row_count: int | None) -> None:
        """How many rows there will be, if that is known."""
        self._row_count = row_count
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=row_count)

    def rows(self, done: int) -> None:
        """So many input rows are written."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)
            self._bar.refresh()
        elif self._due():
            of = f" of {self._row_count:,}" if self._row_count else ""
            self._line(f"{done:,}{of} rows")

    def files(self, verb: str, done: int, total: int) -> None:
        """So many of the partition files are through the step `verb` ("sealed", "verified")."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, unit=f"files {verb}")
            self._bar.refresh()
        elif self._due():
            self._line(f"{done} of {total} files {verb}")

    def _due(self) -> bool:
        return self._shown and time.monotonic() >= self._line_at

    def _line(self, text: str) -> None:
        self._line_at = time.monotonic() + LINE_INTERVAL_S
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)
