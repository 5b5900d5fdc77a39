"""LogHandle: the platform's log, opened when somebody first needs it, by whichever implementation the configuration names.

Most programs that read a store never touch the log, so opening a platform opens none. The handle is picklable, as stores and readers are:
where it arrives, the log is opened again. Any thread may call it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fondaco.log import Log

LOG_DIRECTORY: Final = "log"  # <platform>/log/<topic>/<partition>: the log itself, or the mirror of a broker's


def topic_of(store: str) -> str:
    """The topic of a store's real-time writes."""
    return f"{store}.rt"


class LogHandle:
    """One log, open or not yet."""

    def __init__(self, directory: Path, opener: Callable[[Path], Log]) -> None:
        """
        Args:
            directory: `<platform>/log`, where segments lie.
            opener: opens the log in that directory; a function that pickles by its name, or a `functools.partial` of one.
        """
        self.directory = directory
        self._opener = opener
        self._lock = threading.Lock()
        self._log: Log | None = None

    def open(self) -> Log:
        """The log, opened at the first call. Whoever made the handle closes it."""
        log = self._log
        if log is None:
            with self._lock:
                log = self._log
                if log is None:
                    log = self._log = self._opener(self.directory)
        return log

    def close(self) -> None:
        """Close the log if it was opened; the next `open` opens it again."""
        with self._lock:
            log, self._log = self._log, None
        if log is not None:
            log.close()

    def copy(self) -> LogHandle:
        """Another handle of the same log, to be closed on its own."""
        return LogHandle(self.directory, self._opener)

    def __reduce__(self) -> tuple[object, ...]:
        return LogHandle, (self.directory, self._opener)
