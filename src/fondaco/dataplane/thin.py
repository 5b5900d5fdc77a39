"""Thin client: reads a store through any server over HTTP. Knows no partitions and keeps no data.

    with ThinReader("http://127.0.0.1:7071", "members") as reader:
        reader.get(42)["emb"]

Several addresses are gateways to the same stores: each request goes to the one of two with less under way; one that fails is avoided for a
while. `ThinReader` blocks; `AsyncThinReader` is the same for asyncio.

A single get of the blocking reader usually takes a shorter way: a prepared request, one `send`, one `recv`, a head that was met before, and
a row over the bytes as they came. Anything unusual (a new head, an error, a broken connection) goes the general way, from the beginning.

A `ThinReader` may be used from any thread, and pickled (but for a TLS context of its own). Imports neither numba nor SQLAlchemy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from fondaco.core.errors import DeadlineExceededError, FondacoError
from fondaco.dataplane import wire
from fondaco.dataplane.client_faces import AsyncReader, BlockingReader
from fondaco.dataplane.client_store import StoreInfo
from fondaco.dataplane.pool_blocking import RECV_BYTES, Connection

if TYPE_CHECKING:
    from fondaco.schema.row import Row
    from fondaco.store.store_reader import MinPosition

QUICK_HEADS_MAX: Final = 4096
_LONG: Final = (-(1 << 63), (1 << 63) - 1)
_INT: Final = (-(1 << 31), (1 << 31) - 1)


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

    # -- the short way --------------------------------------------------------------------------------------------------------------------

    def _learn(self, info: StoreInfo) -> None:
        super()._learn(info)
        if info.keys.kind in ("int", "long") and len(self._peers) == 1 and self._peers[0].tls is None:
            self._quick = self._quick_get(info, *(_INT if info.keys.kind == "int" else _LONG))

    def _quick_get(self, info: StoreInfo, low: int, high: int) -> Callable[[Any], Row | None]:
        """`get(key)` of integers from one server without TLS, as short as it can be."""
        peer, transport, general, timeout_s = self._peers[0], self._connections.transport, super().get, self._timeout_s
        take, give_back = transport.take_idle, transport.give_back
        before = f"GET {wire.row_path(self._store, 0)[:-1]}".encode()
        headers = "".join(f"{name}: {value}\r\n" for name, value in (("Accept", wire.AVRO), *self._version_header(self._pinned)))
        after = b" HTTP/1.1\r\n%b%b%b: %d\r\n\r\n" % (peer.fixed, headers.encode(), wire.DEADLINE_MS.encode(), int(timeout_s * 1000))
        known: dict[bytes, tuple[int, Any]] = {}  # by the bytes of a head: where its answer ends, and what makes it a row

        def get(key: Any) -> Row | None:
            if type(key) is not int or not low <= key <= high or (connection := take(peer)) is None:
                return general(key)
            try:
                if connection.recv_timeout_s != timeout_s:
                    connection.set_recv_timeout(timeout_s)
                connection.sock.sendall(b"%b%d%b" % (before, key, after))
                data = connection.sock.recv(RECV_BYTES)
            except BlockingIOError:
                transport.discard(connection)
                raise DeadlineExceededError(f"get from store {self._store!r}", timeout_s, f"{peer.url} had not answered") from None
            except OSError:  # closed while it was idle, most likely
                transport.discard(connection)
                return general(key)
            except BaseException:
                transport.discard(connection)
                raise
            end = data.find(b"\r\n\r\n")
            found = known.get(data[:end])
            if found is not None and len(data) == end + found[0]:
                give_back(connection)
                return found[1](data, end + 4) if found[1] is not None else None
            return unusual(connection, key, data)

        def unusual(connection: Connection, key: Any, data: bytes) -> Row | None:
            """A head for the first time, an answer in several pieces, an error, or nothing at all."""
            learnt = learn(data)
            if learnt is None:
                transport.discard(connection)
                return general(key)
            end, length, maker = learnt
            deadline = time.monotonic() + timeout_s
            pieces, missing = [data], end + length - len(data)
            try:
                while missing > 0:
                    piece = connection.sock.recv(RECV_BYTES)
                    if not piece or time.monotonic() > deadline:
                        raise TimeoutError
                    pieces.append(piece)
                    missing -= len(piece)
            except OSError:
                transport.discard(connection)
                return general(key)
            except BaseException:
                transport.discard(connection)
                raise
            if missing:
                transport.discard(connection)
                return general(key)
            give_back(connection)
            return maker(b"".join(pieces), end + 4) if maker is not None else None

        def learn(data: bytes) -> tuple[int, int, Any] | None:
            """(end of the head, bytes from there, maker) of a usual answer, kept for the next; None for any other."""
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return None
            try:
                head = transport.heads.parse(data[:end])
            except FondacoError:
                return None
            number = head.headers.get(wire.SCHEMA.lower(), "")
            maker = info.maker(int(number)) if number.isascii() and number.isdigit() else None
            missing = head.status == 404 and data[end + 4 :].startswith((b'{"found":false', b'{"found": false'))
            if head.length is None or not head.keep_alive or not (missing or (head.status == 200 and maker is not None)):
                return None
            length = 4 + head.length
            if not missing:
                if len(known) >= QUICK_HEADS_MAX:
                    known.clear()
                known[data[:end]] = length, maker
            return end, length, None if missing else maker

        return get
