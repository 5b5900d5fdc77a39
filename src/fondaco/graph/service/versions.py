"""Serving: the versions that a server has open, and which of them answers a request.

A thread looks at the CURRENT cell. When it names another version, that one is opened and warmed aside, and only then takes the old one's
place, so no request waits for it. An old version stays open as long as a request is answered from it or a client holds on to it (a *pin*),
and `LINGER_S` longer, as servers that are a moment behind ask for parts of it. A version that is asked for by number is opened if its
files are there. Any thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from fondaco.core.errors import GraphNotFoundError, NoCurrentVersionError, VersionNotFoundError
from fondaco.graph.layout import GRAPHS_DIRECTORY, GraphLayout
from fondaco.graph.local import ShardAnswers
from fondaco.graph.opened import OpenGraph, open_version
from fondaco.graph.queries import GraphInfo
from fondaco.store.layout import DELETED, read_cell

LOOK_S: Final = 0.05
RETRY_S: Final = 1.0
LINGER_S: Final = 30.0
_LOGGER = logging.getLogger(__name__)


class ServedVersion:
    """One version, open."""

    def __init__(self, opened: OpenGraph) -> None:
        self.opened = opened
        self.answers = ShardAnswers(opened)
        manifest = opened.manifest
        self.info = GraphInfo(
            graph=opened.name,
            version=opened.version,
            partitions=opened.partitions,
            schema=opened.schema,
            node_counts=manifest.node_counts(),
            edge_counts=manifest.edge_counts(),
        )
        self.users = 0  # requests and pins
        self.used_at = time.monotonic()


class ServedVersions:
    """The open versions of one graph, or of one shard of it. Use as a context manager."""

    def __init__(
        self,
        layout: GraphLayout,
        name: str,
        *,
        shard: tuple[int, int],
        pinned: int | None = None,
        warm: Callable[[ServedVersion], None] | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        """
        Args:
            pinned: serve this version and follow nothing. warm: makes a version fast before it answers.
        Raises:
            GraphNotFoundError: there is no graph there. VersionNotFoundError: no version `pinned`. CorruptFileError.
        """
        self._layout, self.name, self._shard, self._pinned = layout, name, shard, pinned
        self._warm, self._linger_s = warm, linger_s
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # one version is opened at a time
        self._open: dict[int, ServedVersion] = {}
        self._current: ServedVersion | None = None
        self._stop = threading.Event()
        self._retry_at = 0.0
        if read_cell(layout.current_cell) in (None, DELETED):
            raise _not_found(layout.directory, name)
        self._follow()
        self._thread = threading.Thread(target=self._run, name="graph versions", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether there is a version to answer from."""
        return self._current is not None

    @property
    def current_number(self) -> int:
        """The number of the version that requests are answered from; 0: there is none."""
        current = self._current
        return 0 if current is None else current.info.version

    def current(self) -> ServedVersion:
        """The version that requests without a number are answered from.

        Raises:
            NoCurrentVersionError.
        """
        current = self._current
        if current is None:
            raise NoCurrentVersionError(self.name, "graph")
        return current

    @contextlib.contextmanager
    def lease(self, number: int) -> Iterator[ServedVersion]:
        """A version for the time of a request; 0: the current one.

        Raises:
            NoCurrentVersionError, VersionNotFoundError, CorruptFileError.
        """
        version = self._enter(number)
        try:
            yield version
        finally:
            self._leave(version)

    def pin(self, number: int) -> Callable[[], None]:
        """Keep a version open until the function that is returned is called, once.

        Raises:
            as `lease`.
        """
        version = self._enter(number)
        return lambda: self._leave(version)

    def numbers(self) -> list[int]:
        """Versions that are open."""
        with self._lock:
            return sorted(self._open)

    def close(self) -> None:
        """Stop following. What is open stays so for those who use it."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> ServedVersions:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- inside -------------------------------------------------------------------------------------------------------------------------

    def _enter(self, number: int) -> ServedVersion:
        while True:
            with self._lock:
                version = self._open.get(number) if number else self._current
                if version is not None:
                    version.users += 1
                    return version
            if not number:
                raise NoCurrentVersionError(self.name, "graph")
            self._ensure(number)

    def _leave(self, version: ServedVersion) -> None:
        with self._lock:
            version.users -= 1
            version.used_at = time.monotonic()

    def _ensure(self, number: int) -> ServedVersion:
        with self._opening:
            with self._lock:
                version = self._open.get(number)
            if version is not None:
                return version
            try:
                version = ServedVersion(open_version(self._layout, number, shard=self._shard))
            except FileNotFoundError:
                held = sorted({*self.numbers(), *self._layout.version_numbers()} - {number})
                raise VersionNotFoundError(self.name, number, held, "graph") from None
            with self._lock:
                self._open[number] = version
            return version

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                if time.monotonic() >= self._retry_at:
                    self._follow()
                self._drop_unused()
            except VersionNotFoundError:
                pass  # it was retired before it could be opened; the cell names another by now
            except Exception as exc:  # whatever it is: the version before goes on answering
                self._retry_at = time.monotonic() + RETRY_S
                _LOGGER.warning("graph %r: the new version cannot be opened, and is tried again: %s", self.name, exc)

    def _follow(self) -> None:
        number = self._pinned or read_cell(self._layout.current_cell)
        if not number or number == DELETED:
            if self._current is not None:
                _LOGGER.warning("graph %r has no current version any more", self.name)
            self._current = None
            return
        if self._current is not None and self._current.opened.version == number:
            return
        version = self._ensure(number)
        if not version.opened.held:
            share, has = f"shard {self._shard[0]}/{self._shard[1]}", f"v{number} has {version.opened.partitions}"
            _LOGGER.warning("graph %r: %s holds no partition, as %s; it only passes questions on", self.name, share, has)
        if self._warm is not None:
            self._warm(version)
        before, self._current = self._current, version
        if before is not None:
            before.used_at = time.monotonic()
            _LOGGER.info("graph %r: answering from v%d, was v%d", self.name, number, before.opened.version)

    def _drop_unused(self) -> None:
        too_old = time.monotonic() - self._linger_s
        with self._lock:
            for number, version in tuple(self._open.items()):
                if version is not self._current and not version.users and version.used_at < too_old:
                    del self._open[number]


def _not_found(directory: Path, name: str) -> GraphNotFoundError:
    try:
        others = sorted(
            path.name for path in directory.parent.iterdir() if read_cell(GraphLayout(path).current_cell) not in (None, DELETED)
        )
    except OSError:
        others = []
    return GraphNotFoundError(name, others, str(directory.parent.parent))


def layout_of(platform: Path, graph: str) -> GraphLayout:
    """Where a graph of a platform lies."""
    return GraphLayout(platform / GRAPHS_DIRECTORY / graph)
