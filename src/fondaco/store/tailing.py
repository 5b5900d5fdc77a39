"""`python -m fondaco.store.tailing DIRECTORY`: a process that tails all stores of a platform.

It follows stores that appear and lets go of those that are deleted, sends a heartbeat through every partition each second, and once a
minute trims the log to what some version can still show. A store that another process tails is left to it, and taken over when that one
ends. Trouble with one store is said on stderr, once, and does not keep the others waiting; it is tried again every second.

    --ready-file FILE       written (process id) when every store can be read up to now, then touched each second
    --until-stdin-closes    end with whoever holds the other end; a line on stdout says that this process can take over
    --parent-pid PID        end when this process is gone

SIGTERM and SIGINT end it cleanly, within 0.1 s. Exit code 2: a mistake in the call or in fondaco.toml. One thread does all the work, so a
store with a burst delays the others by at most a step (8 MiB of its log).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from fondaco.catalog import stores, versions
from fondaco.catalog.rows import StoreRow
from fondaco.core.errors import FondacoError, LockedError, TopicNotFoundError
from fondaco.core.units import parse_duration_us
from fondaco.log import Record
from fondaco.store.layout import StoreLayout
from fondaco.store.log_handle import LOG_DIRECTORY, topic_of
from fondaco.store.settings import StoreSettings
from fondaco.store.tailer import LOCK_SECONDS, Tailer, wait_all, warm
from fondaco.store.trimming import trim, window_start_ms
from fondaco.store.writes import heartbeat, writer_number

if TYPE_CHECKING:
    from fondaco.catalog import Catalog
    from fondaco.core.clock import Clock
    from fondaco.core.config import Config
    from fondaco.log import Log

HEARTBEAT_S: Final = 1.0
LOOK_S: Final = 0.5  # between looks for stores in the catalog
TRIM_S: Final = 60.0
RETRY_S: Final = 1.0
_LOGGER: Final = logging.getLogger("fondaco.store.tailing")


class OpenPlatform(Protocol):
    """What is needed of an open platform."""

    directory: Path
    config: Config
    catalog: Catalog
    clock: Clock

    @property
    def log(self) -> Log:
        """The log, opened at the first use."""
        ...


@dataclass(slots=True)
class _Followed:
    """A store. `tailer` is None while another process tails it, or after a failure; then it is tried again at `again_at`."""

    row: StoreRow
    tailer: Tailer | None = None
    again_at: float = 0.0
    said: str = ""
    started: bool = False  # readable up to the moment this process began, by its own work or another's


class Tailing:
    """Tails the stores of an open platform. One thread."""

    def __init__(self, platform: OpenPlatform, *, say: Callable[[str], None]) -> None:
        self._platform, self._say = platform, say
        self._stores: dict[int, _Followed] = {}
        self._changes = -1
        self._looked_at = self._beat_at = -1e9
        self._trimmed_at = time.monotonic() - TRIM_S + 5  # not at once: who restarts the platform has other work first
        self._writer = writer_number("fondaco.tailing")

    # -- rounds ---------------------------------------------------------------------------------------------------------------------

    def round(self) -> None:
        """Do what is due, and apply what the logs hold."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        for store in self._stores.values():
            self._follow(store, now)
        if now - self._beat_at >= HEARTBEAT_S:
            self._beat_at = now
            self._each("heartbeat", self._beat)
        if now - self._trimmed_at >= TRIM_S:
            self._trimmed_at = now
            self._each("trimming", self._trim)

    def wait(self) -> None:
        """Sleep until a log moves, 50 ms at most."""
        wait_all([store.tailer for store in self._stores.values() if store.tailer is not None])

    @property
    def ready(self) -> bool:
        """Whether every store that was there at first can be read up to that moment."""
        return self._changes >= 0 and all(store.started for store in self._stores.values())

    def _look(self) -> None:
        """Stores that came and went."""
        catalog = self._platform.catalog
        changes = catalog.change_counter()
        if changes == self._changes:
            return
        with catalog.read() as connection:
            rows = {row.id: row for row in stores.all_live(connection)}
        self._changes = changes
        for gone in self._stores.keys() - rows.keys():
            store = self._stores.pop(gone)
            self._let_go(store)
            self._say(f"store {store.row.name!r} was deleted")
        for number, row in rows.items():
            self._stores.setdefault(number, _Followed(row)).row = row

    def _follow(self, store: _Followed, now: float) -> None:
        if store.tailer is None and now < store.again_at:
            return
        try:
            if store.tailer is None:
                store.tailer = self._open(store)
            store.tailer.step()
            store.started = store.started or store.tailer.caught_up
            store.said = ""
        except LockedError as exc:
            store.again_at = now + LOCK_SECONDS
            store.started = True
            if store.said != "locked":
                store.said = "locked"
                self._say(f"store {store.row.name!r} is tailed by process {exc.pid}; waiting for it to end")
        except (FondacoError, OSError) as exc:
            self._let_go(store)
            store.again_at = now + RETRY_S
            self._complain(store, "tailing", exc)

    def _open(self, store: _Followed) -> Tailer:
        platform, name = self._platform, store.row.name
        layout = StoreLayout(platform.directory / "stores" / name)
        log: Any = platform.log  # every log that a platform opens has its segments as local files
        tailer = Tailer.open(layout.overlay, platform.directory / LOG_DIRECTORY, topic_of(name), log, clock=platform.clock)
        self._say(f"tailing store {name!r}")
        return tailer

    def _let_go(self, store: _Followed) -> None:
        if store.tailer is not None:
            store.tailer.close()
            store.tailer = None

    def _complain(self, store: _Followed, what: str, exc: Exception) -> None:
        text = f"{what} of store {store.row.name!r}: {exc}"
        if store.said != text:
            store.said = text
            self._say(text)

    # -- heartbeats and trimming ------------------------------------------------------------------------------------------------------

    def _each(self, what: str, act: Callable[[_Followed], None]) -> None:
        """Do something for every store that is tailed here and has a topic."""
        for store in self._stores.values():
            if store.tailer is not None and store.tailer.partitions:
                try:
                    act(store)
                except TopicNotFoundError:
                    continue
                except (FondacoError, OSError) as exc:
                    self._complain(store, what, exc)

    def _beat(self, store: _Followed) -> None:
        now_us = self._platform.clock.now_us()
        record = Record(b"", heartbeat(self._writer, now_us), now_us // 1000)
        assert store.tailer is not None
        for partition in range(len(store.tailer.partitions)):
            self._platform.log.append(topic_of(store.row.name), partition, [record])

    def _trim(self, store: _Followed) -> None:
        platform = self._platform
        with platform.catalog.read() as connection:
            rows = versions.all_of(connection, store.row.id)
        retention = platform.config.log.retention
        start_ms = window_start_ms(
            rows,
            rewind_ms=_rewind_ms(store.row),
            retention_ms=None if retention is None else parse_duration_us(retention) // 1000,
            now_ms=platform.clock.now_us() // 1000,
        )
        if start_ms is None:
            return
        tailer = store.tailer
        assert tailer is not None
        tailer.set_horizon(start_ms)
        lows = trim(platform.log, topic_of(store.row.name), start_ms, tailer.applied)
        if lows:
            _LOGGER.info("store %r: gave up writes that no version shows; partitions begin at %s", store.row.name, lows)

    # -- end --------------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let others tail."""
        for store in self._stores.values():
            self._let_go(store)


def _rewind_ms(row: StoreRow) -> int:
    import msgspec

    return msgspec.convert(row.settings, StoreSettings).rewind_ms


# -- the program ----------------------------------------------------------------------------------------------------------------------


class _Ends:
    """What ends the process besides a signal: a parent that is gone, or a pipe that was closed."""

    def __init__(self, parent: int | None, *, stdin: bool) -> None:
        self._poll = select.poll()
        self._gone = False
        self._pid = -1
        if stdin:
            self._poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
        if parent is not None:
            try:
                self._pid = os.pidfd_open(parent)  # not the number: that may soon be another process's
                self._poll.register(self._pid, select.POLLIN)
            except ProcessLookupError:
                self._gone = True

    def reached(self) -> bool:
        """Whether one of them has happened."""
        for descriptor, event in self._poll.poll(0):
            if descriptor == self._pid or event & (select.POLLHUP | select.POLLERR) or not os.read(descriptor, 4096):
                self._gone = True
        return self._gone

    def close(self) -> None:
        if self._pid >= 0:
            os.close(self._pid)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fondaco.store.tailing", description="Tail all stores of a platform.")
    parser.add_argument("directory", type=Path, help="the platform")
    parser.add_argument("--ready-file", type=Path, help="write the process id here when everything can be read; touched each second")
    parser.add_argument("--parent-pid", type=int, help="end when this process is gone")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when stdin does; say 'ready' on stdout")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to end; the exit code."""
    arguments = _arguments(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="tailing: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # The name of this module is what supervisors start, so it lies with the tailer; what it opens stands above it
    platforms = importlib.import_module("fondaco.platform")
    try:
        with platforms.Platform.open(arguments.directory, create=False) as platform:
            _run(platform, arguments, stop)
    except FondacoError as exc:
        _LOGGER.error("%s", exc)
        return 2 if exc.blame == "user" and not exc.retryable else 1
    return 0


def _run(platform: OpenPlatform, arguments: argparse.Namespace, stop: threading.Event) -> None:
    ends = _Ends(arguments.parent_pid, stdin=arguments.until_stdin_closes)
    tailing = Tailing(platform, say=_LOGGER.info)
    ready_file: Path | None = arguments.ready_file
    announced, touched_at = False, 0.0
    try:
        warm()
        while not stop.is_set() and not ends.reached():
            tailing.round()
            if not announced and tailing.ready:
                announced = True
                _LOGGER.info("ready: process %d", os.getpid())
                if arguments.until_stdin_closes:
                    print("ready", flush=True)
                if ready_file is not None:
                    ready_file.write_text(f"{os.getpid()}\n")
            if announced and ready_file is not None and time.monotonic() - touched_at >= 1:
                touched_at = time.monotonic()
                with contextlib.suppress(FileNotFoundError):
                    os.utime(ready_file)
            tailing.wait()
    finally:
        tailing.close()
        ends.close()
        _LOGGER.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
