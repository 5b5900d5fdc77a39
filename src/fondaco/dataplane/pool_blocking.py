"""Blocking pool: connections of the synchronous clients, and the loop that runs their operations.

Sockets stay in blocking mode, so that the quick path of a single get is one `send` and one `recv` without a `poll` (the kernel itself gives
up after `SO_RCVTIMEO`); everything else passes MSG_DONTWAIT and polls. TLS sockets never block and take only the second way.

Any thread may run operations; a connection belongs to one exchange at a time. A fork's child begins with an empty pool: two processes that
talk on one connection would read each other's answers.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Final, TypeVar

from fondaco.core.errors import FondacoError, StateError, UnavailableError
from fondaco.dataplane.pool import CONNECTIONS_MAX, Exchange, Operation, Peer, closed_early, reason_of
from fondaco.dataplane.protocol import AnswerReader, Heads, Request

RECV_BYTES: Final = 256 << 10
_IN: Final = select.POLLIN
_OUT: Final = select.POLLOUT

T = TypeVar("T")


class Connection:
    """One socket to a peer, and what is under way on it."""

    __slots__ = ("_handshaken", "_outgoing", "_poll", "_reader", "_wants", "exchange", "peer", "recv_timeout_s", "sock", "used")

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.peer, self.sock = peer, sock
        self.exchange: Exchange | None = None
        self.used = False  # whether an exchange has ended well on it
        self.recv_timeout_s = 0.0
        self._handshaken = peer.tls is None
        self._outgoing = memoryview(b"")
        self._poll: select.poll | None = None  # of the quick path
        self._reader: AnswerReader | None = None
        self._wants = _OUT

    @classmethod
    def open(cls, peer: Peer) -> Connection:
        """Begin to connect.

        Raises:
            OSError: the name is not known, or the system refuses at once.
        """
        family, kind, protocol, _, address = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return cls(peer, sock)

    def begin(self, exchange: Exchange, heads: Heads) -> None:
        """Put an exchange on it; `advance` moves it on."""
        self.exchange, exchange.connection = exchange, self
        exchange.tried += 1
        self._outgoing = memoryview(exchange.wire_bytes())
        self._reader = exchange.reader(heads)
        self._wants = _OUT

    def adopt(self, exchange: Exchange, heads: Heads) -> None:
        """Go on with an exchange whose request was sent by the quick path."""
        self.exchange, exchange.connection = exchange, self
        exchange.tried = 2  # what is lost now was not stale
        self._outgoing, self._reader, self._wants = memoryview(b""), exchange.reader(heads), _IN

    def readable(self, seconds: float) -> bool:
        """Whether something comes within so long (a whole millisecond at least)."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.sock.fileno(), _IN)
        return bool(self._poll.poll(max(1, -int(-seconds * 1000 // 1))))

    @property
    def wants(self) -> int:
        """The poll event to wait for."""
        return self._wants

    def advance(self) -> bool:
        """Do what can be done without waiting; whether the answer is whole.

        Raises:
            OSError, ProtocolError; EOFError: the peer closed.
        """
        if not self.used and not self._connected():
            return False
        while self._outgoing:
            sent = self._send(self._outgoing)
            if not sent:
                return False
            self._outgoing = self._outgoing[sent:]
        self._wants = _IN
        assert self._reader is not None
        while True:
            data = self._recv()
            if data is None:
                return False
            if not data:
                if self._reader.end():
                    return True
                raise EOFError("the connection was closed")
            if self._reader.feed(data):
                return True

    def _connected(self) -> bool:
        if self.recv_timeout_s == 0.0:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            try:
                self.sock.getpeername()
            except OSError:  # not yet
                return False
            if self.peer.tls is None:
                self.sock.setblocking(True)
            else:
                self.sock = self.peer.tls.wrap_socket(self.sock, server_hostname=self.peer.host, do_handshake_on_connect=False)
            self.recv_timeout_s = -1.0
        if not self._handshaken:
            assert isinstance(self.sock, ssl.SSLSocket)
            try:
                self.sock.do_handshake()
            except ssl.SSLWantReadError:
                self._wants = _IN
                return False
            except ssl.SSLWantWriteError:
                self._wants = _OUT
                return False
            self._handshaken = True
        return True

    def _send(self, data: memoryview) -> int:
        try:
            return self.sock.send(data) if self.peer.tls else self.sock.send(data, socket.MSG_DONTWAIT)
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._wants = _OUT
        except ssl.SSLWantReadError:
            self._wants = _IN
        return 0

    def _recv(self) -> bytes | None:
        try:
            return self.sock.recv(RECV_BYTES) if self.peer.tls else self.sock.recv(RECV_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._wants = _IN
        except ssl.SSLWantWriteError:
            self._wants = _OUT
        except ssl.SSLZeroReturnError:
            return b""
        return None

    @property
    def reader(self) -> AnswerReader | None:
        """The reader of the answer under way."""
        return self._reader

    def end(self) -> None:
        """The exchange is over; the connection may take another."""
        self.exchange, self._reader, self.used = None, None, True

    def set_recv_timeout(self, seconds: float) -> None:
        """Let a blocking `recv` give up after so long."""
        if seconds != self.recv_timeout_s:
            whole, part = divmod(max(seconds, 0.001), 1.0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(whole), int(part * 1e6)))
            self.recv_timeout_s = seconds

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self.sock.close()


class _PeerPool:
    """Idle connections of a peer, newest last, and how many there are in all."""

    __slots__ = ("count", "freed", "idle")

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        self.count = 0
        self.freed = threading.Condition(threading.Lock())


class BlockingTransport:
    """Connections to any number of peers. Close it."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        """
        Args:
            connections_max: to one peer; more callers wait for a free one.
        """
        self.heads = Heads()
        self._connections_max = connections_max
        self._pools: dict[Peer, _PeerPool] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        _TRANSPORTS.add(self)

    # -- for operations -------------------------------------------------------------------------------------------------------------------

    def start(self, peer: Peer, request: Request, deadline: float, *, wait: bool = True) -> Exchange | None:
        """As `Transport.start`.

        Raises:
            StateError: the transport is closed.
        """
        connection, allowed = self._take(self._pool(peer), deadline if wait else None)
        if not allowed:
            return None
        if connection is not None and not request.repeatable:
            connection.close()
            connection = None  # a new one takes its place in the count
        exchange = Exchange(peer, request, deadline)
        if connection is None:
            self._connect(exchange)
        else:
            connection.begin(exchange, self.heads)
            self._advance(connection)
        return exchange

    def abandon(self, exchange: Exchange) -> None:
        """As `Transport.abandon`: the connection is closed, for the answer would come when nobody reads it."""
        connection = exchange.connection
        if not exchange.done:
            exchange.finish(None, UnavailableError(exchange.peer.url, "given up"))
        if isinstance(connection, Connection):
            self._discard(connection)

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end and give its result.

        Raises:
            what it raises.
        """
        try:
            while True:
                wait = next(operation)
                self._wait(wait.exchanges, wait.until)
        except StopIteration as exc:
            result: T = exc.value
            return result
        finally:
            operation.close()

    def close(self) -> None:
        """Close every idle connection; those in use are closed when their exchange ends."""
        with self._lock:
            self._closed = True
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            with pool.freed:
                idle, pool.idle = pool.idle, []
                pool.count = 0
            for connection in idle:
                connection.close()

    # -- the quick path -------------------------------------------------------------------------------------------------------------------

    def take_idle(self, peer: Peer) -> Connection | None:
        """An idle connection without TLS that is the caller's alone, until `give_back` or `discard`; None if there is none."""
        pool = self._pools.get(peer)
        if pool is None or peer.tls is not None:
            return None
        try:
            return pool.idle.pop()
        except IndexError:
            return None

    def give_back(self, connection: Connection) -> None:
        """The connection is idle again."""
        pool = self._pools.get(connection.peer)
        if pool is None:
            connection.close()
            return
        pool.idle.append(connection)
        if pool.count >= self._connections_max:
            with pool.freed:
                pool.freed.notify()

    def discard(self, connection: Connection) -> None:
        """The connection is of no more use."""
        self._discard(connection)

    # -- inside ---------------------------------------------------------------------------------------------------------------------------

    def _pool(self, peer: Peer) -> _PeerPool:
        pool = self._pools.get(peer)
        if pool is None:
            with self._lock:
                if self._closed:
                    raise StateError("the client is closed; open another")
                pool = self._pools.setdefault(peer, _PeerPool())
        return pool

    def _take(self, pool: _PeerPool, until: float | None) -> tuple[Connection | None, bool]:
        """(idle connection, True), or (None, True) to make one, which is counted; (None, False) when all are in use until then."""
        with pool.freed:
            while True:
                try:
                    return pool.idle.pop(), True  # the quick path takes them without the lock
                except IndexError:
                    pass
                if pool.count < self._connections_max:
                    pool.count += 1
                    return None, True
                if until is None or not pool.freed.wait(until - time.monotonic()):
                    return None, False

    def _connect(self, exchange: Exchange) -> None:
        """A new connection for an exchange; the pool has counted it."""
        try:
            connection = Connection.open(exchange.peer)
        except OSError as exc:
            self._uncount(exchange.peer)
            exchange.finish(None, UnavailableError(exchange.peer.url, reason_of(exc)))
            return
        connection.begin(exchange, self.heads)
        self._advance(connection)

    def _advance(self, connection: Connection) -> None:
        exchange, reader = connection.exchange, connection.reader
        assert exchange is not None
        assert reader is not None
        try:
            if not connection.advance():
                return
        except FondacoError as exc:
            self._discard(connection)
            exchange.finish(None, exc)
        except (OSError, EOFError) as exc:
            stale = connection.used and not reader.started and exchange.tried == 1
            reason = reason_of(exc) if isinstance(exc, OSError) else str(exc)
            connection.close()
            if stale:
                self._connect(exchange)  # in the place that the old one had in the pool's count
            else:
                self._uncount(exchange.peer)
                exchange.finish(None, closed_early(exchange, reader, reason))
        else:
            connection.end()
            if reader.reusable:
                self.give_back(connection)
            else:
                self._discard(connection)
            exchange.finish(reader.answer, None)

    def _wait(self, exchanges: Sequence[Exchange], until: float) -> None:
        if any(exchange.done for exchange in exchanges):
            return
        if not exchanges:
            time.sleep(max(0.0, until - time.monotonic()))
            return
        poll = select.poll()
        watched: dict[int, tuple[Connection, int]] = {}
        while True:
            for exchange in exchanges:
                connection: Connection = exchange.connection
                number = connection.sock.fileno()
                known = watched.get(number)
                if known is None or known != (connection, connection.wants):
                    poll.register(number, connection.wants)
                    watched[number] = connection, connection.wants
            left = until - time.monotonic()
            if left <= 0:
                return
            for number, _ in poll.poll(max(1, -int(-left * 1000 // 1))):
                connection = watched.pop(number)[0]
                poll.unregister(number)
                if connection.exchange in exchanges:
                    self._advance(connection)
            if any(exchange.done for exchange in exchanges):
                return

    def _discard(self, connection: Connection) -> None:
        connection.close()
        self._uncount(connection.peer)

    def _uncount(self, peer: Peer) -> None:
        pool = self._pools.get(peer)
        if pool is not None:
            with pool.freed:
                pool.count = max(0, pool.count - 1)
                pool.freed.notify()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            for connection in pool.idle:
                connection.close()  # this process's copy; the parent's goes on


_TRANSPORTS: weakref.WeakSet[BlockingTransport] = weakref.WeakSet()


def _forget_connections() -> None:
    for transport in list(_TRANSPORTS):
        transport._after_fork()


os.register_at_fork(after_in_child=_forget_connections)
