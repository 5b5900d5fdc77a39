"""Async pool: connections of the asyncio clients, and the coroutine that runs their operations.

Works on asyncio's own loop and on uvloop. A transport belongs to the loop that first used it; a connection carries one exchange at a time.
Cancelling a call gives up its exchanges and closes their connections.
"""

from __future__ import annotations

import asyncio
import collections
import ssl
import time
from collections.abc import Sequence
from typing import TypeVar, cast

from fondaco.core.errors import FondacoError, StateError, UnavailableError
from fondaco.dataplane.pool import CONNECTIONS_MAX, Exchange, Operation, Peer, closed_early, reason_of
from fondaco.dataplane.protocol import AnswerReader, Heads, Request

T = TypeVar("T")


class _Connection(asyncio.Protocol):
    """One connection to a peer, and what is under way on it."""

    def __init__(self, owner: AsyncTransport, peer: Peer) -> None:
        self._owner, self.peer = owner, peer
        self.exchange: Exchange | None = None
        self.used = self.lost = False
        self.reader: AnswerReader | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, exchange: Exchange) -> None:
        assert self._transport is not None
        self.exchange, exchange.connection = exchange, self
        exchange.tried += 1
        self.reader = exchange.reader(self._owner.heads)
        self._transport.write(exchange.wire_bytes())

    def data_received(self, data: bytes) -> None:
        if self.exchange is None or self.reader is None:  # nobody asked
            self.close()
            return
        try:
            whole = self.reader.feed(data)
        except FondacoError as exc:
            self._fail(exc)
            return
        if whole:
            self._owner.answered(self)

    def eof_received(self) -> bool:
        if self.exchange is not None and self.reader is not None and self.reader.end():
            self._owner.answered(self)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._owner.lost(self, exc)

    def _fail(self, error: FondacoError) -> None:
        exchange = self.exchange
        self.exchange = None
        self.close()
        if exchange is not None:
            exchange.finish(None, error)

    def close(self) -> None:
        """Close it now; what has not been sent is dropped."""
        self.exchange = None
        if self._transport is not None and not self.lost:
            self._transport.abort()


class _PeerPool:
    __slots__ = ("count", "idle", "waiting")

    def __init__(self) -> None:
        self.idle: list[_Connection] = []
        self.count = 0
        self.waiting: collections.deque[Exchange] = collections.deque()


class AsyncTransport:
    """Connections to any number of peers. Close it, from the loop that used it."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        """
        Args:
            connections_max: to one peer; more callers wait for a free one.
        """
        self.heads = Heads()
        self._connections_max = connections_max
        self._pools: dict[Peer, _PeerPool] = {}
        self._connecting: dict[Exchange, asyncio.Task[None]] = {}
        self._all: set[_Connection] = set()
        self._closed = False

    # -- for operations -------------------------------------------------------------------------------------------------------------------

    def start(self, peer: Peer, request: Request, deadline: float, *, wait: bool = True) -> Exchange | None:
        """As `Transport.start`.

        Raises:
            StateError: the transport is closed.
        """
        if self._closed:
            raise StateError("the client is closed; open another")
        pool = self._pools.get(peer)
        if pool is None:
            pool = self._pools[peer] = _PeerPool()
        if not pool.idle and pool.count >= self._connections_max and not wait:
            return None
        exchange = Exchange(peer, request, deadline)
        if not request.repeatable and pool.idle:
            pool.idle.pop().close()  # its place in the count is free in a moment; one too many until then
            pool.count += 1
            self._connect(exchange)
        elif pool.idle:
            pool.idle.pop().begin(exchange)
        elif pool.count < self._connections_max:
            pool.count += 1
            self._connect(exchange)
        else:
            pool.waiting.append(exchange)
        return exchange

    def abandon(self, exchange: Exchange) -> None:
        """As `Transport.abandon`: the connection is closed, for the answer would come when nobody reads it."""
        connection, task = exchange.connection, self._connecting.pop(exchange, None)
        if not exchange.done:
            exchange.finish(None, UnavailableError(exchange.peer.url, "given up"))
        if task is not None:
            task.cancel()
        if isinstance(connection, _Connection):
            connection.close()

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end and give its result.

        Raises:
            what it raises.
        """
        try:
            while True:
                wait = next(operation)
                await self._wait(wait.exchanges, wait.until)
        except StopIteration as exc:
            result: T = exc.value
            return result
        finally:
            operation.close()

    async def close(self) -> None:
        """Close every connection, and wait until they are."""
        self._closed = True
        tasks = list(self._connecting.values())
        for exchange, task in list(self._connecting.items()):
            task.cancel()
            exchange.finish(None, UnavailableError(exchange.peer.url, "the client was closed"))
        for connection in list(self._all):
            connection.close()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        while self._all:
            await asyncio.sleep(0)

    # -- for connections ------------------------------------------------------------------------------------------------------------------

    def answered(self, connection: _Connection) -> None:
        """The answer of a connection's exchange is whole."""
        exchange, reader = connection.exchange, connection.reader
        assert exchange is not None
        assert reader is not None
        connection.exchange, connection.reader, connection.used = None, None, True
        if not reader.reusable or self._closed:
            connection.close()
        else:
            self._free(connection)
        exchange.finish(reader.answer, None)

    def lost(self, connection: _Connection, exc: Exception | None) -> None:
        """A connection has ended, whoever ended it."""
        self._all.discard(connection)
        exchange, reader = connection.exchange, connection.reader
        connection.exchange = None
        pool = self._pools[connection.peer]
        if connection in pool.idle:
            pool.idle.remove(connection)
        if exchange is not None and connection.used and reader is not None and not reader.started and exchange.tried == 1:
            self._connect(exchange)  # in the place that the old one had in the pool's count
            return
        self._uncount(connection.peer)
        if exchange is not None:
            reason = reason_of(exc) if isinstance(exc, OSError) else "the connection was closed"
            exchange.finish(None, closed_early(exchange, reader, reason))

    # -- inside ---------------------------------------------------------------------------------------------------------------------------

    def _free(self, connection: _Connection) -> None:
        pool = self._pools[connection.peer]
        while pool.waiting:
            exchange = pool.waiting.popleft()
            if not exchange.done:
                connection.begin(exchange)
                return
        pool.idle.append(connection)

    def _uncount(self, peer: Peer) -> None:
        pool = self._pools[peer]
        pool.count -= 1
        while pool.waiting and pool.count < self._connections_max and not self._closed:
            exchange = pool.waiting.popleft()
            if not exchange.done:
                pool.count += 1
                self._connect(exchange)

    def _connect(self, exchange: Exchange) -> None:
        task = asyncio.get_running_loop().create_task(self._connected(exchange))
        self._connecting[exchange] = task

    async def _connected(self, exchange: Exchange) -> None:
        peer = exchange.peer
        loop = asyncio.get_running_loop()
        connection = _Connection(self, peer)
        try:
            await loop.create_connection(
                lambda: connection, peer.host, peer.port, ssl=peer.tls, server_hostname=peer.host if peer.tls else None
            )
        except BaseException as exc:
            self._connecting.pop(exchange, None)
            self._uncount(peer)
            if not isinstance(exc, (OSError, ssl.SSLError)):
                raise
            exchange.finish(None, UnavailableError(peer.url, reason_of(exc)))
            return
        self._connecting.pop(exchange, None)
        self._all.add(connection)
        if self._closed or connection.lost:
            connection.close()
            exchange.finish(None, UnavailableError(peer.url, "the connection was closed"))
        elif exchange.done:
            connection.used = True
            self._free(connection)
        else:
            connection.begin(exchange)

    async def _wait(self, exchanges: Sequence[Exchange], until: float) -> None:
        if any(exchange.done for exchange in exchanges):
            return
        left = until - time.monotonic()
        if left <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = loop.call_later(left, wake)
        for exchange in exchanges:
            exchange.on_done = wake
        try:
            await waiter
        finally:
            timer.cancel()
            for exchange in exchanges:
                exchange.on_done = None
