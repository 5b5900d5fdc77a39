"""Client faces: a reader's operations as methods, blocking and asyncio: what thin and fast clients have in common but for where they ask.

`BlockingReader` and `AsyncReader` differ in the transport and in `await`, in nothing else. Connections are shared with the readers that
`at` gives, and closed with the last of them. Imports neither numba nor SQLAlchemy.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from fondaco.core.errors import InputError, StateError
from fondaco.dataplane.client import TIMEOUT_S, Caller
from fondaco.dataplane.client_methods import awaitable, blocking
from fondaco.dataplane.client_reader import ReaderOperations
from fondaco.dataplane.client_routes import Routes
from fondaco.dataplane.pool import CONNECTIONS_MAX, Operation, Peer, Transport
from fondaco.dataplane.pool_async import AsyncTransport
from fondaco.dataplane.pool_blocking import BlockingTransport

T = TypeVar("T")
Carrier = TypeVar("Carrier", bound=Transport)
B = TypeVar("B", bound="BlockingReader")
A = TypeVar("A", bound="AsyncReader")


def peers_of(endpoints: str | Sequence[str], token: str | None, tls: ssl.SSLContext | None) -> tuple[Peer, ...]:
    """The servers of one or several addresses.

    Raises:
        InputError: none, or not an address.
    """
    urls = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    if not urls:
        raise InputError("a client needs the address of a server at least, as 'http://127.0.0.1:7071'")
    return tuple(Peer(url, token, tls) for url in dict.fromkeys(urls))


class Connections(Generic[Carrier]):
    """A client's caller and peers, and how many readers hold them."""

    def __init__(self, transport: Carrier, endpoints: str | Sequence[str], token: str | None, tls: ssl.SSLContext | None) -> None:
        self.transport, self.token, self.tls = transport, token, tls
        self.peers = peers_of(endpoints, token, tls)
        self.caller = Caller(transport)
        self.routes = Routes(self.peers, token, tls)
        self._holders = 0

    def hold(self) -> None:
        """One reader more."""
        self._holders += 1

    def release(self) -> bool:
        """One reader less; whether it was the last."""
        self._holders -= 1
        return self._holders == 0


class BlockingReader(ReaderOperations):
    """A reader whose calls block. Close it, or use it as a context manager."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        store: str,
        *,
        token: str | None = None,
        version: int | None = None,
        schema: object = None,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        connections_max: int = CONNECTIONS_MAX,
        _connections: Connections[BlockingTransport] | None = None,
    ) -> None:
        """
        Args:
            endpoints: addresses of data-plane servers, as "http://127.0.0.1:7071"; several serve the same stores.
            store: its name.
            token: sent with every request. tls: how to check https servers; None: by the certificates of the system.
            version: stay on this one; None: follow the current one.
            schema: read rows with exactly this schema; None: with the superset of the store's value schemas.
            timeout_s: of every call that says nothing else.
            connections_max: to one server at a time; more threads wait for each other.
        Raises:
            StoreNotFoundError, VersionNotFoundError; UnavailableError and the others of `get`.
        """
        self._connections = Connections(BlockingTransport(connections_max), endpoints, token, tls) if _connections is None else _connections
        self._arguments = _arguments(endpoints, store, token, version, schema, timeout_s, connections_max)
        super().__init__(self._connections, store, version=version, schema=schema, timeout_s=timeout_s)
        self._connections.hold()
        self._shares = _connections is not None
        try:
            self._run(self.open_operation())
        except BaseException:
            self.close()
            raise

    def _run(self, operation: Operation[T]) -> T:
        return self._connections.transport.run(operation)

    get = blocking(ReaderOperations.get_operation)
    get_many = blocking(ReaderOperations.get_many_operation)
    get_columns = blocking(ReaderOperations.get_columns_operation)
    compute = blocking(ReaderOperations.compute_operation)
    describe = blocking(ReaderOperations.describe_operation)
    version = property(blocking(ReaderOperations.version_operation))
    position = property(blocking(ReaderOperations.position_operation))

    def at(self: B, version: int) -> B:
        """A reader of one version, whatever becomes current; close it on its own. It shares the connections.

        Raises:
            VersionNotFoundError: there is no such version (any more); lists those there are.
        """
        self.check_open()
        return type(self)(**{**self._arguments, "version": version}, tls=self._connections.tls, _connections=self._connections)

    def close(self) -> None:
        """Close the connections; later calls raise StateError. Rows and columns handed out stay valid."""
        if not self._closed:
            self._closed = True
            if self._connections.release():
                self._connections.transport.close()

    def __del__(self) -> None:
        """A reader that `at` gave and nobody closed (`reader.at(3).get(42)`) must not keep the connections of the first one open."""
        if getattr(self, "_shares", False):
            self.close()

    def __enter__(self: B) -> B:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._connections.tls is not None:
            raise InputError("a reader with a TLS context of its own cannot be pickled; open one where it is needed")
        return _reopen, (type(self), self._arguments)


class AsyncReader(ReaderOperations):
    """A reader for asyncio: `async with` it, or `await reader.close()`. The store is looked up by the first call.

    `version` and `position` are awaited, as `await reader.version`; so is `at`. Arguments and errors are those of the blocking reader.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        store: str,
        *,
        token: str | None = None,
        version: int | None = None,
        schema: object = None,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        connections_max: int = CONNECTIONS_MAX,
        _connections: Connections[AsyncTransport] | None = None,
    ) -> None:
        """As `BlockingReader`, but that nothing is asked yet."""
        self._connections = Connections(AsyncTransport(connections_max), endpoints, token, tls) if _connections is None else _connections
        self._arguments = _arguments(endpoints, store, token, version, schema, timeout_s, connections_max)
        super().__init__(self._connections, store, version=version, schema=schema, timeout_s=timeout_s)
        self._connections.hold()
        self._shares = _connections is not None

    async def _run(self, operation: Operation[T]) -> T:
        return await self._connections.transport.run(operation)

    get = awaitable(ReaderOperations.get_operation)
    get_many = awaitable(ReaderOperations.get_many_operation)
    get_columns = awaitable(ReaderOperations.get_columns_operation)
    compute = awaitable(ReaderOperations.compute_operation)
    describe = awaitable(ReaderOperations.describe_operation)
    version = property(awaitable(ReaderOperations.version_operation))
    position = property(awaitable(ReaderOperations.position_operation))

    async def at(self: A, version: int) -> A:
        """As `BlockingReader.at`."""
        self.check_open()
        reader = type(self)(**{**self._arguments, "version": version}, tls=self._connections.tls, _connections=self._connections)
        try:
            await reader._run(reader.open_operation())
        except BaseException:
            await reader.close()
            raise
        return reader

    async def close(self) -> None:
        """Close the connections; later calls raise StateError. Rows and columns handed out stay valid."""
        if not self._closed:
            self._closed = True
            if self._connections.release():
                await self._connections.transport.close()

    def __del__(self) -> None:
        """As `BlockingReader`; if the first reader was closed before, its connections end with the loop."""
        if getattr(self, "_shares", False) and not self._closed:
            self._closed = True
            self._connections.release()

    async def __aenter__(self: A) -> A:
        try:
            await self._run(self.open_operation())
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise StateError("an asyncio reader belongs to its loop and cannot be pickled; open one where it is needed")


def _arguments(
    endpoints: str | Sequence[str], store: str, token: str | None, version: int | None, schema: object, timeout_s: float, connections: int
) -> dict[str, Any]:
    return {
        "endpoints": endpoints, "store": store, "token": token, "version": version, "schema": schema, "timeout_s": timeout_s,
        "connections_max": connections,
    }  # fmt: skip


def _reopen(kind: type[BlockingReader], arguments: dict[str, Any]) -> BlockingReader:
    return kind(**arguments)
