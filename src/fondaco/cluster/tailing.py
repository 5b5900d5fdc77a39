"""`python -m fondaco.cluster.tailing DIRECTORY`: a process that keeps the overlays of a node's stores over the shared log.

A node on the machine of the log reads the log's files and keeps an index of its own over them (`stores/<store>/overlay`), so that its
readers need nothing of any other node. It writes nothing into the log: heartbeats and trimming are the platform's tailer's. Stores are
followed as the agent brings them and let go as it takes them away. One thread; SIGTERM and SIGINT end it cleanly.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fondaco.cluster.directory import LOG_LINK, NodeDirectory
from fondaco.core.errors import FondacoError
from fondaco.log import EmbeddedLog
from fondaco.store.log_handle import topic_of
from fondaco.store.tailer import Tailer, wait_all, warm

LOOK_S: Final = 0.25
RETRY_S: Final = 1.0
_LOGGER = logging.getLogger("fondaco.cluster.tailing")


class NodeTailing:
    """Tails what lies in a node's directory. One thread."""

    def __init__(self, directory: NodeDirectory) -> None:
        self._directory = directory
        self._log = EmbeddedLog(directory.path / LOG_LINK, read_only=True)
        self._tailers: dict[tuple[str, int], Tailer] = {}
        self._resting: dict[tuple[str, int], float] = {}
        self._looked_at = -1e9

    def round(self) -> int:
        """Follow the stores that are there, and apply what the log holds; returns how many records that was."""
        now, applied = time.monotonic(), 0
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look(now)
        for name, tailer in list(self._tailers.items()):
            try:
                applied += tailer.step()
            except (FondacoError, OSError) as exc:
                self._rest(name, exc)
        return applied

    def wait(self) -> None:
        """Sleep until the log moves, 50 ms at most."""
        wait_all(list(self._tailers.values()))

    def close(self) -> None:
        """Let others tail."""
        for tailer in self._tailers.values():
            tailer.close()
        self._tailers.clear()
        self._log.close()

    def _look(self, now: float) -> None:
        there = set(self._directory.store_ids().items())
        for name, tailer in list(self._tailers.items()):
            if name not in there or tailer.is_cut_off:  # the latter: it went and came back between two looks
                self._tailers.pop(name).close()
        for name in there - self._tailers.keys():
            if now >= self._resting.get(name, 0.0):
                try:
                    overlay = self._directory.layout(name[0]).overlay
                    self._tailers[name] = Tailer.open(overlay, self._directory.path / LOG_LINK, topic_of(name[0]), self._log)
                except (FondacoError, OSError) as exc:
                    self._rest(name, exc)

    def _rest(self, name: tuple[str, int], exc: Exception) -> None:
        _LOGGER.warning("tailing of store %r is tried again in %g s: %s", name[0], RETRY_S, exc)
        tailer = self._tailers.pop(name, None)
        if tailer is not None:
            tailer.close()
        self._resting[name] = time.monotonic() + RETRY_S


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fondaco.cluster.tailing", description="Tail the stores of a node's directory.")
    parser.add_argument("directory", type=Path)
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    warm()
    tailing = NodeTailing(NodeDirectory(given.directory.absolute()))
    try:
        while not stop.is_set():
            tailing.round()
            tailing.wait()
    finally:
        tailing.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
