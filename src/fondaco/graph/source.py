"""Source: which opened version of a graph a call is answered from: the current one, or one that was asked for.

A `VersionSource` maps the CURRENT cell and compares it, at each `get`, with what it has open (0.1 us). When the cell names another version,
that call opens it, and it takes the place of the old one for the calls that come after. A call holds the `OpenGraph` that it got to its
end, so it never mixes two versions; the old one's files are unmapped when the last such call, and the last array made from them, is gone.

If a version that became current cannot be opened (a damaged file, no memory), calls go on with the one that is open: answers that are a
version old are better than none. It is said once through `logging`, stands in `adoption_error`, and is tried again every second. A version
that was retired before it could be opened is no failure: the cell has moved on, and so do we.

Any thread; safe after a fork (the child has its own lock; maps are shared). It can be pickled, and opens again where it arrives.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Final

from fondaco.core.errors import CorruptFileError, FondacoError, GraphNotFoundError, NoCurrentVersionError, StateError, VersionNotFoundError
from fondaco.core.ids import check_version_number
from fondaco.graph.layout import GraphLayout
from fondaco.graph.opened import OpenGraph, open_version
from fondaco.store.layout import CELL_BYTES, DELETED

RETRY_SECONDS: Final = 1.0  # between attempts to open a version that could not be opened

_LOGGER = logging.getLogger(__name__)
_NONE: Final = 0
_SOURCES: Final[weakref.WeakSet[VersionSource]] = weakref.WeakSet()
_CLOSED: Final = -1  # no cell ever holds it, so every call on a closed source takes the slow path, which refuses


def _after_fork() -> None:
    for source in list(_SOURCES):
        source._after_fork()


os.register_at_fork(after_in_child=_after_fork)


class VersionSource:
    """Opened versions of one graph. Close it when done; what was got from it stays good."""

    def __init__(
        self, directory: Path | str, name: str | None = None, *, version: int | None = None, shard: tuple[int, int] | None = None
    ) -> None:
        """
        Args:
            directory: the graph's (`<platform>/graphs/<name>`). Nothing else is needed: no catalog is read.
            name: for messages; None: the directory's.
            version: stay on this one; None: follow the current one, and raise NoCurrentVersionError as long as there is none.
            shard: (i, n): open only the partitions of shard i of n (`opened.shard_partitions`); None: all.
        Raises:
            GraphNotFoundError: no graph lies there. VersionNotFoundError: there is no such version (any more).
            CorruptFileError, FormatVersionError: the version cannot be read; names file and section.
        """
        self._layout = GraphLayout(Path(directory))
        self.name = self._layout.directory.name if name is None else name
        self._shard = shard
        self._lock = threading.RLock()  # held while a version is opened; no call waits for it unless it must open one too
        self._current: OpenGraph | None = None
        self._seen = _NONE  # what the cell said when `_current` was chosen; written after it, read before it
        self._failed: tuple[int, float] | None = None  # version that could not be opened, time of the next attempt
        self._failure: Exception | None = None
        self.pinned = None if version is None else int(check_version_number(version))
        if self.pinned is None:
            self._cell, self._identity = _map_cell(self._layout, self.name)
            self._adopt()
        else:
            self._current = self._open_pinned(self.pinned)
            self._cell, self._identity = memoryview(self.pinned.to_bytes(CELL_BYTES, "little")).cast("Q"), (0, 0)
            self._seen = self.pinned
        _SOURCES.add(self)

    def get(self) -> OpenGraph:
        """The version that a call made now is answered from. Hold it until the call ends.

        Raises:
            NoCurrentVersionError: there is none, or the graph was deleted. StateError: the source is closed.
            CorruptFileError, FormatVersionError: it cannot be read, and no other one is open.
        """
        if self._cell[0] != self._seen:
            self._adopt()
        return self._current or self._look_again()

    __call__ = get

    @property
    def directory(self) -> Path:
        """The graph's directory."""
        return self._layout.directory

    @property
    def adoption_error(self) -> Exception | None:
        """Why the version that the cell names could not be opened, so that calls go on with another; None: they do not."""
        return None if self._cell[0] == self._seen else self._failure

    def close(self) -> None:
        """Let go of the files; later calls raise StateError. Calls in flight keep what they need."""
        with self._lock:
            self._seen = _CLOSED
            self._current = None
            self._cell = memoryview(bytes(CELL_BYTES)).cast("Q")

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self._layout.directory), self.name, self.pinned, self._shard)

    def __repr__(self) -> str:
        current = self._current
        at = "closed" if self._seen == _CLOSED else f"v{current.version}" if current else "no version yet"
        return f"<VersionSource {self.name!r}, {at}{', pinned' if self.pinned is not None else ''}>"

    # -- adoption -------------------------------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Make `_current` what the cell names. Threads that come meanwhile wait, as they would have to open it themselves."""
        with self._lock:
            while self._seen != _CLOSED:
                number = self._cell[0]
                if number == self._seen:
                    return
                if self._failed is not None and self._failed[0] == number and time.monotonic() < self._failed[1]:
                    return
                try:
                    opened = None if number in (_NONE, DELETED) else open_version(self._layout, number, shard=self._shard)
                except Exception as exc:  # whatever it is: it must not take a working graph away from its callers
                    if self._cell[0] != number:
                        continue  # it was retired before we came to open it; the cell names its successor
                    if isinstance(exc, FileNotFoundError):
                        exc = CorruptFileError(str(self._layout.version(number)), "manifest", "it is missing")
                    if self._current is None:
                        raise exc from None
                    self._note_failure(number, exc)
                    return
                self._take(opened, number)
                return

    def _take(self, opened: OpenGraph | None, number: int) -> None:
        self._current = opened  # before `_seen`: whoever sees the new number finds the new version
        self._seen = number
        self._failed = self._failure = None

    def _note_failure(self, number: int, failure: Exception) -> None:
        assert self._current is not None
        if self._failed is None or self._failed[0] != number:
            kept = self._current.version
            _LOGGER.warning("graph %r: v%d cannot be opened, calls go on with v%d: %s", self.name, number, kept, failure)
        self._failed = (number, time.monotonic() + RETRY_SECONDS)
        self._failure = failure

    def _look_again(self) -> OpenGraph:
        """There is no version: unless the graph was deleted and made again under its name, and so has another cell."""
        with self._lock:
            if self._seen != _CLOSED and self._current is None:
                with contextlib.suppress(GraphNotFoundError):
                    self._cell, identity = _map_cell(self._layout, self.name)
                    if identity != self._identity:
                        self._identity, self._seen = identity, _NONE
                    self._adopt()
            if self._current is None:
                raise self._nothing()
            return self._current

    def _nothing(self) -> FondacoError:
        if self._seen == _CLOSED:
            return StateError(f"graph {self.name!r} was closed here; open it again")
        return NoCurrentVersionError(self.name, "graph")

    def _open_pinned(self, number: int) -> OpenGraph:
        try:
            return open_version(self._layout, number, shard=self._shard)
        except FileNotFoundError:
            available = [other for other in self._layout.version_numbers() if other != number]
            if not available and not self._layout.current_cell.exists():
                raise GraphNotFoundError(self.name, where=str(self._layout.directory)) from None
            raise VersionNotFoundError(self.name, number, available, "graph") from None

    def _after_fork(self) -> None:
        self._lock = threading.RLock()  # the parent's may have been held by a thread that does not exist here


def _map_cell(layout: GraphLayout, name: str) -> tuple[memoryview, tuple[int, int]]:
    """The CURRENT cell as one uint64 that changes under us, and which file it is; its map lives as long as the view."""
    try:
        with open(layout.current_cell, "rb") as file:
            status = os.fstat(file.fileno())
            mapped = mmap.mmap(file.fileno(), CELL_BYTES, access=mmap.ACCESS_READ)
        return memoryview(mapped).cast("Q"), (status.st_dev, status.st_ino)
    except (FileNotFoundError, NotADirectoryError):
        raise GraphNotFoundError(name, where=str(layout.directory)) from None
    except ValueError as exc:  # shorter than a cell
        raise CorruptFileError(str(layout.current_cell), "cell", str(exc)) from exc


def _reopen(directory: str, name: str, version: int | None, shard: tuple[int, int] | None) -> VersionSource:
    return VersionSource(directory, name, version=version, shard=shard)
