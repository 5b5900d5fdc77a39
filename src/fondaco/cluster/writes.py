"""Writes: whether a node has indexed what was written in real time, so that it may be asked.

A node that brings a store has its version files before its tailer has made an index over the log; one that comes back has the index of
when it went. Until the tailer has applied what the log holds, answers would lack writes that other nodes have long shown: so partitions of
a store are not reported as ready before, and after a start the lease is not taken. Nothing is written here. Any thread.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from fondaco.cluster.directory import NodeDirectory
from fondaco.store.freshness import caught_up_us

PATIENCE_S: Final = 30.0
_LOGGER = logging.getLogger(__name__)


class IndexedWrites:
    """Of one node, from its start on."""

    def __init__(self, directory: NodeDirectory, *, patience_s: float = PATIENCE_S) -> None:
        """
        Args:
            patience_s: after which a node that has just started answers with what it has, and a store that waits is spoken of.
        """
        self._directory, self._patience_s = directory, patience_s
        self._since_us, self._began = time.time_ns() // 1000, time.monotonic()
        self._asked: dict[str, float] = {}  # stores that wait, and since when; infinite: it was said
        self._whole = False

    def has_all(self) -> bool:
        """Whether every store that lies here was caught up with once since the node began; stays so. A tailer that cannot work must not
        keep a cluster that restarts from answering, so after the patience it is so anyhow."""
        if not self._whole:
            behind = [store for store in self._directory.store_ids() if not self._has(store)]
            if behind and time.monotonic() - self._began > self._patience_s:
                _LOGGER.warning(
                    "stores %s are read without what was written lately: their tailer does not come on", ", ".join(sorted(behind))
                )
                behind = []
            self._whole = not behind
        return self._whole

    def has(self, store: str) -> bool:
        """Whether one store was caught up with since the node began, or since it was brought here, if that was later."""
        if self._has(store):
            self._asked.pop(store, None)
            return True
        if time.monotonic() - self._asked.setdefault(store, time.monotonic()) > self._patience_s:
            self._asked[store] = float("inf")
            _LOGGER.warning("store %r is not reported as ready: its tailer does not come on", store)
        return False

    def _has(self, store: str) -> bool:
        return caught_up_us(self._directory.layout(store).overlay) >= self._since_us
