"""Client quick: a single get of the blocking readers, as short as Python can make it.

A prepared request, one `send`, one `recv`, a head that was met before, and a row over the bytes as they came. It serves integer and text
keys without TLS, when nothing but the key is asked for; anything unusual goes the general way, from the beginning: a head for the first
time, an error, a broken connection, an answer of another version than wanted. Measured on loopback: three fifths of redis-py's GET.

With several peers the less busy one is asked, and a slow one hedged: the exchange goes on in `Caller.ask`, which may ask another.
Any thread; made again when the store or its route changes. Imports neither numba nor SQLAlchemy.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fondaco.core.errors import DeadlineExceededError, FondacoError
from fondaco.dataplane import wire
from fondaco.dataplane.client_store import StoreInfo
from fondaco.dataplane.pool import Exchange, Peer
from fondaco.dataplane.pool_blocking import RECV_BYTES, BlockingTransport, Connection
from fondaco.dataplane.protocol import Request

if TYPE_CHECKING:
    from fondaco.dataplane.client import Caller
    from fondaco.dataplane.hedging import LatencyWindow
    from fondaco.schema.row import Row

HEADS_MAX: Final = 4096
_BOUNDS: Final = {"int": (-(1 << 31), (1 << 31) - 1), "long": (-(1 << 63), (1 << 63) - 1)}
_END: Final = b"\r\n\r\n"
_MISSING: Final = (b'{"found":false', b'{"found": false')

Get = Callable[[Any], "Row | None"]


class Quick:
    """What quick gets of one store, by one route, have in common."""

    def __init__(
        self, store: str, info: StoreInfo, transport: BlockingTransport, general: Get, timeout_s: float, *,
        asked_version: int | None = None, answered_version: int | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            general: the general way. timeout_s: of a call.
            asked_version: to ask for; answered_version: the only one to take an answer of, if it is not asked for. None: any.
        """
        self._store, self._info, self._transport, self.general, self._timeout_s = store, info, transport, general, timeout_s
        self._answered = None if answered_version is None else str(answered_version)
        self._headers = f"Accept: {wire.AVRO}\r\n" + ("" if asked_version is None else f"{wire.VERSION}: {asked_version}\r\n")
        self.known: dict[bytes, tuple[int, Any]] = {}  # by the bytes of a head: bytes of its answer from there, and what makes it a row

    @staticmethod
    def serves(info: StoreInfo, peers: Sequence[Peer]) -> bool:
        """Whether there is a quick way to a store's keys."""
        return info.keys.kind in _BOUNDS and bool(peers) and all(peer.tls is None for peer in peers)

    def request(self, peer: Peer) -> tuple[bytes, bytes]:
        """What stands before and after the key."""
        before = f"GET {wire.row_path(self._store, 0)[:-1]}".encode()
        deadline_ms = max(1, int(self._timeout_s * 1000))
        return before, b" HTTP/1.1\r\n%b%b%b: %d\r\n\r\n" % (peer.fixed, self._headers.encode(), wire.DEADLINE_MS.encode(), deadline_ms)

    def of_one(self, peer: Peer) -> Get:
        """`get(key)` from one server."""
        low, high = _BOUNDS[self._info.keys.kind]
        transport, general, timeout_s, known, rest = self._transport, self.general, self._timeout_s, self.known, self.rest
        take, give_back = transport.take_idle, transport.give_back
        before, after = self.request(peer)

        def get(key: Any) -> Row | None:
            if type(key) is not int or not low <= key <= high or (connection := take(peer)) is None:
                return general(key)
            try:
                if connection.recv_timeout_s != timeout_s:
                    connection.set_recv_timeout(timeout_s)
                connection.sock.sendall(b"%b%d%b" % (before, key, after))
                data = connection.sock.recv(RECV_BYTES)
            except BlockingIOError:
                raise self.late(connection) from None
            except OSError:  # closed while it was idle, most likely
                transport.discard(connection)
                return general(key)
            except BaseException:
                transport.discard(connection)
                raise
            end = data.find(_END)
            found = known.get(data[:end])
            if found is not None and len(data) == end + found[0]:
                give_back(connection)
                return found[1](data, end + 4)  # type: ignore[no-any-return]
            return rest(connection, key, data)

        return get

    def of_several(self, peers: Sequence[Peer], caller: Caller, window: LatencyWindow, go_on: Callable[[Any, Exchange], Row | None]) -> Get:
        """`get(key)` from the less busy of several servers.

        Args:
            go_on: waits on for the answer to an exchange that has taken too long to be waited for here, and hedges it.
        """
        low, high = _BOUNDS[self._info.keys.kind]
        transport, general, timeout_s, known, rest = self._transport, self.general, self._timeout_s, self.known, self.rest
        take, give_back, monotonic = transport.take_idle, transport.give_back, time.monotonic
        requests = [(peer, peers[(place + 1) % len(peers)]) for place, peer in enumerate(peers)]
        parts = {peer: self.request(peer) for peer in peers}
        turns, earn, add = itertools.cycle(requests), caller.earn, window.add

        def get(key: Any) -> Row | None:
            peer, other = next(turns)
            began = monotonic()
            if other.pending < peer.pending or peer.avoided_until > began:
                peer = other
            if type(key) is not int or not low <= key <= high or peer.avoided_until > began or (connection := take(peer)) is None:
                return general(key)
            before, after = parts[peer]
            peer.pending += 1
            try:
                earn()
                connection.sock.sendall(b"%b%d%b" % (before, key, after))
                ready = connection.readable(window.delay_s)
                if ready:
                    data = connection.sock.recv(RECV_BYTES, socket.MSG_DONTWAIT)
            except OSError:
                transport.discard(connection)
                return general(key)
            except BaseException:
                transport.discard(connection)
                raise
            finally:
                peer.pending -= 1
            if not ready:
                exchange = Exchange(peer, Request("GET", ""), began + timeout_s)
                exchange.started = began
                connection.adopt(exchange, transport.heads)
                return go_on(key, exchange)
            end = data.find(_END)
            found = known.get(data[:end])
            if found is not None and len(data) == end + found[0]:
                give_back(connection)
                add(monotonic() - began)
                return found[1](data, end + 4)  # type: ignore[no-any-return]
            return rest(connection, key, data)

        return get

    def late(self, connection: Connection) -> DeadlineExceededError:
        """The answer did not come in time."""
        self._transport.discard(connection)
        state = f"{connection.peer.url} had not answered"
        return DeadlineExceededError(f"get from store {self._store!r}", self._timeout_s, state)

    def rest(self, connection: Connection, key: Any, data: bytes) -> Row | None:
        """What an answer means whose head is not known, or that has not come whole."""
        learnt = self._learn(data)
        if learnt is None:
            self._transport.discard(connection)
            return self.general(key)
        length, maker = learnt
        deadline = time.monotonic() + self._timeout_s
        pieces, missing = [data], data.find(_END) + length - len(data)
        try:
            connection.set_recv_timeout(self._timeout_s)
            while missing > 0 and time.monotonic() < deadline:
                piece = connection.sock.recv(RECV_BYTES)
                if not piece:
                    break
                pieces.append(piece)
                missing -= len(piece)
        except OSError:
            missing = -1
        except BaseException:
            self._transport.discard(connection)
            raise
        if missing:
            self._transport.discard(connection)
            return self.general(key)
        self._transport.give_back(connection)
        return maker(b"".join(pieces), data.find(_END) + 4)  # type: ignore[no-any-return]

    def _learn(self, data: bytes) -> tuple[int, Any] | None:
        """(bytes from the end of the head, maker) of a usual answer, kept for the next; None for any other."""
        end = data.find(_END)
        if end < 0:
            return None
        try:
            head = self._transport.heads.parse(data[:end])
        except FondacoError:
            return None
        if head.length is None or not head.keep_alive or self._answered not in (None, head.headers.get(wire.VERSION.lower())):
            return None
        if head.status == 404 and data[end + 4 :].startswith(_MISSING):
            return 4 + head.length, _no_row  # not kept: another 404 of this length may be an error
        number = head.headers.get(wire.SCHEMA.lower(), "")
        maker = self._info.maker(int(number)) if number.isascii() and number.isdigit() else None
        if head.status != 200 or maker is None:
            return None
        if len(self.known) >= HEADS_MAX:
            self.known.clear()
        self.known[data[:end]] = 4 + head.length, maker
        return 4 + head.length, maker


def _no_row(data: bytes, start: int) -> None:
    return None
