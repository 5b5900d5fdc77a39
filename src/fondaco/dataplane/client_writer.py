"""Client writer: a `StoreWriter` whose log is a server's write route.

What is promised is what `StoreWriter` promises; the server acknowledges with the position of each write. A request may be sent twice, when
its answer was lost: a write carries its stamp, so twice is once. A writer that has used up its quota sends nothing until the time that the
server named. Any thread. Imports neither numba nor SQLAlchemy, unless a table is written (`put_many`).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from fondaco.core.errors import ProtocolError, QuotaExceededError
from fondaco.dataplane import wire
from fondaco.dataplane.client import TIMEOUT_S, deadline_of
from fondaco.dataplane.client_faces import Connections
from fondaco.dataplane.client_reader import ReaderOperations
from fondaco.dataplane.pool_blocking import BlockingTransport
from fondaco.dataplane.protocol import Request
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writer import Durability, Part, Placed, StoreWriter
from fondaco.store.writes import WriteBatch

PART_WRITES: Final = 10_000
PART_BYTES: Final = 4 << 20  # of one request; a single longer write goes alone
WRITER_CONNECTIONS: Final = 2


class _Written(msgspec.Struct):
    """The server's acknowledgement."""

    partitions: list[int]
    offsets: list[int]


class HttpTarget:
    """The write route of a store, as a `WriterTarget`."""

    def __init__(self, connections: Connections[BlockingTransport], store: str, timeout_s: float) -> None:
        self.name = f"store {store!r}"
        self._connections, self._timeout_s = connections, timeout_s
        self._path = wire.store_path(store, wire.WRITES)
        self._quota: tuple[float, QuotaExceededError] | None = None  # until when nothing is sent, and why
        self._last: dict[int, WriteBatch] = {}  # one write of each partition that was not asked to be on disk

    def split(self, batch: WriteBatch) -> Sequence[Part]:
        """Requests of bounded size; the server finds the partitions."""
        parts, first, count = [], 0, len(batch)
        ends = batch.key_offsets[1:] + batch.value_offsets[1:]
        while first < count:
            base = int(batch.key_offsets[first] + batch.value_offsets[first])
            by_bytes = int(np.searchsorted(ends, base + PART_BYTES, "right"))
            last = min(count, first + PART_WRITES, max(first + 1, by_bytes))
            whole = first == 0 and last == count
            parts.append(Part(-1, None if whole else np.arange(first, last), batch if whole else _slice(batch, first, last)))
            first = last
        return parts

    def append(self, part: Part, durability: Durability) -> Placed:
        """Send a part and wait until the server has it.

        Raises:
            what the server says; UnavailableError, DeadlineExceededError, QuotaExceededError: to be tried again.
        """
        placed = self._send(part.batch, durability)
        for partition in np.unique(placed.partitions).tolist():
            if durability == "disk":
                self._last.pop(partition, None)
            else:
                row = int(np.flatnonzero(placed.partitions == partition)[-1])
                self._last[partition] = _slice(part.batch, row, row + 1)
        return placed

    def sync(self, partitions: Iterable[int]) -> None:
        """Make what was appended with "os" as safe as "disk": one write of each partition is sent again, to be on disk, and what lies
        before it in the log is then on disk too. That write is there twice, which is the same as once.

        Raises:
            as `append`.
        """
        for partition in partitions:
            last = self._last.get(partition)
            if last is not None:
                self._send(last, "disk")
                self._last.pop(partition, None)

    def _send(self, batch: WriteBatch, durability: Durability) -> Placed:
        if self._quota is not None and time.monotonic() < self._quota[0]:
            raise self._quota[1]
        self._quota = None
        connections = self._connections
        request = Request(
            "POST", self._path, (("Accept", wire.JSON), ("Content-Type", wire.WRITES_BODY)), wire.pack_writes(batch, durability)
        )
        asking = connections.caller.ask(f"write to {self.name}", request, connections.peers, deadline_of(self._timeout_s))
        try:
            answer = connections.transport.run(asking)
        except QuotaExceededError as exc:
            self._quota = time.monotonic() + exc.retry_after_s, exc
            raise
        peer = connections.peers[0].url
        try:
            written = msgspec.json.decode(answer.body, type=_Written)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ProtocolError(peer, f"an acknowledgement that cannot be read ({exc})") from exc
        if not len(written.partitions) == len(written.offsets) == len(batch):
            raise ProtocolError(peer, f"{len(written.offsets)} positions for {len(batch)} writes")
        return Placed(np.array(written.partitions, np.int64), np.array(written.offsets, np.int64))


def _slice(batch: WriteBatch, first: int, last: int) -> WriteBatch:
    keys, values = batch.key_offsets[first : last + 1], batch.value_offsets[first : last + 1]
    return WriteBatch(
        batch.keys[keys[0] : keys[-1]], keys - keys[0], batch.values[values[0] : values[-1]], values - values[0],
        batch.timestamps_ms[first:last],
    )  # fmt: skip


class RemoteWriter(StoreWriter):
    """Writes to one store over HTTP. Close it, or use it as a context manager."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        store: str,
        writer_id: str = "default",
        *,
        token: str | None = None,
        durability: Durability = "os",
        linger_ms: float = 5,
        buffer_bytes: int = 1 << 20,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Args:
            endpoints: addresses of data-plane servers. The others are those of `Store.writer`.
        Raises:
            StoreNotFoundError, UnavailableError, PermissionDeniedError, ...: the store cannot be looked up. InputError.
        """
        self._connections = Connections(BlockingTransport(WRITER_CONNECTIONS), endpoints, token, tls)
        try:
            reading = ReaderOperations(self._connections, store, version=None, schema=None, timeout_s=TIMEOUT_S)
            info = self._connections.transport.run(reading.info_operation())
            number = max(info.schemas)
            encoder = WriteEncoder(store, info.keys, info.schemas[number], number, writer_id)
            super().__init__(
                HttpTarget(self._connections, store, max(0.1, min(TIMEOUT_S, timeout_s))), encoder, durability=durability,
                linger_ms=linger_ms, buffer_bytes=buffer_bytes, timeout_s=timeout_s,
            )  # fmt: skip
        except BaseException:
            self._connections.transport.close()
            raise

    def close(self, *, timeout_s: float | None = None) -> None:
        """Send what waits, and end. Closing twice is fine.

        Raises:
            UnwrittenError: some of what was taken could not be written; says how many writes, and why.
        """
        try:
            super().close(timeout_s=timeout_s)
        finally:
            self._connections.transport.close()

    def __enter__(self) -> RemoteWriter:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a writer cannot be pickled: its writes wait in this process; open one where it is needed")
