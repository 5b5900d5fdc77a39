"""Thin client: reads a store through any server over HTTP. Knows no partitions and keeps no data.

    with ThinReader("http://127.0.0.1:7071", "members") as reader:
        reader.get(42)["emb"]

Several addresses are gateways to the same stores: each request goes to the one of two with less under way; one that fails is avoided for a
while. `ThinReader` blocks; `AsyncThinReader` is the same for asyncio.

A single get of the blocking reader from one address usually takes the short way of `client_quick`.

A `ThinReader` may be used from any thread, and pickled (but for a TLS context of its own). Imports neither numba nor SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fondaco.dataplane.client_faces import AsyncReader, BlockingReader
from fondaco.dataplane.client_quick import Quick
from fondaco.dataplane.client_store import StoreInfo

if TYPE_CHECKING:
    from fondaco.schema.row import Row
    from fondaco.store.store_reader import MinPosition


class AsyncThinReader(AsyncReader):
    """Reads one store over HTTP, for asyncio."""


class ThinReader(BlockingReader):
    """Reads one store over HTTP, blocking."""

    _quick: Callable[[Any], Row | None] | None = None

    def get(self, key: Any, *, min_position: MinPosition = None, timeout_s: float | None = None) -> Row | None:
        quick = self._quick
        if quick is not None and min_position is None and timeout_s is None:
            return quick(key)
        return super().get(key, min_position=min_position, timeout_s=timeout_s)

    get.__doc__ = BlockingReader.get.__doc__

    def close(self) -> None:
        self._quick = None
        super().close()

    close.__doc__ = BlockingReader.close.__doc__

    def _learn(self, info: StoreInfo) -> None:
        super()._learn(info)
        if len(self._peers) == 1 and Quick.serves(info, self._peers):
            transport = self._connections.transport
            quick = Quick(self._store, info, transport, super().get, self._timeout_s, asked_version=self._pinned)
            self._quick = quick.of_one(self._peers[0])
