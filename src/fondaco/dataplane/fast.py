"""Fast client: asks the node that holds a key's partition, and a second replica when the first takes long.

    with FastReader("http://127.0.0.1:7071", "members") as reader:
        reader.get_many([1, 2])

The addresses given are only where the routing table is read (`routing`); every node named there is asked directly. A batch goes to the
nodes of its partitions at the same time. Every request asks for the version that the table names, so whatever was hedged, repeated or cut
into pieces is of one version. Of two replicas the one with less under way is asked; when it has not answered after the 95th percentile of
such requests, another is, too, at most one request in ten (`hedging`); the first answer wins. A node that fails is avoided for a while.

`FastReader` blocks, `AsyncFastReader` is the same for asyncio. Imports neither numba nor SQLAlchemy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fondaco.core.errors import FondacoError, ProtocolError, StoreNotFoundError, UnavailableError
from fondaco.dataplane import wire
from fondaco.dataplane.client_batches import PackedKeys, Piece, cut, groups_of
from fondaco.dataplane.client_faces import AsyncReader, BlockingReader
from fondaco.dataplane.client_methods import blocking
from fondaco.dataplane.client_quick import Quick
from fondaco.dataplane.client_reader import Asking, ReaderOperations
from fondaco.dataplane.client_routes import Route
from fondaco.dataplane.client_store import StoreInfo
from fondaco.dataplane.hedging import LatencyWindow
from fondaco.dataplane.pool import Exchange, Operation, Peer, Wait
from fondaco.dataplane.protocol import Request
from fondaco.dataplane.routing import decode_routing

if TYPE_CHECKING:
    from fondaco.schema.row import Row
    from fondaco.store.store_reader import MinPosition

STALE_PAUSE_S: Final = 0.02  # before the same is asked again, when the table that said so has not changed


class FastOperations(ReaderOperations):
    """Reads that go where the routing table says."""

    def __init__(self, asking: Asking, store: str, *, version: int | None, schema: object, timeout_s: float) -> None:
        super().__init__(asking, store, version=version, schema=schema, timeout_s=timeout_s)
        self._routes = asking.routes
        self._caller.on_failure = self._routes.suspect
        self._latencies = self._routes.latencies(store)
        self._route: Route | None = None

    def _route_operation(self, deadline: float, *, at_once: bool = False) -> Operation[None]:
        now = time.monotonic()
        routes = self._routes
        if at_once or routes.is_due(now):
            routes.asking(now)
            request = Request("GET", wire.ROUTING, (("Accept", wire.JSON),))
            try:
                answer = yield from self._caller.ask("routing table", request, routes.seeds(now), deadline)
                routes.take(decode_routing(bytes(answer.body), self._peers[0].url))
            except UnavailableError as exc:
                if isinstance(exc, ProtocolError) or not routes.is_usable(now):
                    raise
        self._route = routes.store(self._store)

    def _describers(self) -> Sequence[Peer]:
        assert self._route is not None
        nodes = dict.fromkeys(peer for peers in self._route.replicas for peer in peers)
        return tuple(nodes) or self._peers

    def _place_of(self, key: bytes) -> Sequence[Peer]:
        assert self._route is not None
        return self._route.of(key)

    def _pieces_of(self, keys: PackedKeys, keys_max: int, bytes_max: int) -> list[Piece]:
        route = self._route
        assert route is not None
        if route.everywhere is not None or not len(keys):
            return cut(keys, route.everywhere or self._describers(), None, keys_max, bytes_max)
        numbers: dict[frozenset[Peer], int] = {}  # partitions with the same replicas are asked for together
        group = np.array([numbers.setdefault(frozenset(peers), len(numbers)) for peers in route.replicas], np.int64)
        members = {number: route.replicas[int(np.flatnonzero(group == number)[0])] for number in numbers.values()}
        pieces: list[Piece] = []
        for number, rows in groups_of(group[route.partitions_of(keys.data, keys.offsets)]):
            pieces += cut(keys.take(rows), members[number], rows, keys_max, bytes_max)
        return pieces

    def _wanted(self) -> int | None:
        if self._pinned is not None:
            return self._pinned
        return self._route.version or None if self._route is not None else None

    def _window(self, key_count: int) -> LatencyWindow | None:
        return self._latencies.of(key_count)

    def _is_stale(self, error: FondacoError, deadline: float) -> Operation[bool]:
        """Ask for the table again. If it says the same, a node lags behind it, or is gone: another replica may do."""
        if isinstance(error, ProtocolError) or self._pinned is not None:
            return False
        before = self._route
        try:
            yield from self._route_operation(deadline, at_once=True)
        except StoreNotFoundError:
            return False
        if self._route is before:
            if isinstance(error, UnavailableError) or time.monotonic() + STALE_PAUSE_S >= deadline:
                return False
            yield Wait((), time.monotonic() + STALE_PAUSE_S)
        return True

    def go_on_operation(self, key: Any, started: Exchange) -> Operation[Row | None]:
        """The row of `key`, asked for by a quick get whose answer is late; `key` is an integer."""
        deadline, route, info = started.deadline, self._route, self._info
        assert route is not None
        assert info is not None
        request = Request("GET", wire.row_path(self._store, key), (("Accept", wire.AVRO),))
        started.request = request
        answer = yield from self._caller.ask(
            f"get from store {self._store!r}", request, route.everywhere or (), deadline, window=self._window(1), started=started
        )
        if answer.header(wire.VERSION) != str(route.version):  # versions change now: agree on one
            return (yield from self.get_operation(key, timeout_s=max(0.001, deadline - time.monotonic())))
        return (yield from self._row_operation(info, answer, deadline))


class FastReader(BlockingReader, FastOperations):
    """Reads one store from the nodes that hold it, blocking."""

    _quick: Callable[[Any], Row | None] | None = None
    _quick_of: tuple[Route | None, StoreInfo | None] = (None, None)

    def get(self, key: Any, *, min_position: MinPosition = None, timeout_s: float | None = None) -> Row | None:
        quick = self._quick
        if quick is not None and min_position is None and timeout_s is None and not self._routes.is_due(time.monotonic()):
            return quick(key)
        row = super().get(key, min_position=min_position, timeout_s=timeout_s)
        if self._quick_of != (self._route, self._info):
            self._quick_of = self._route, self._info
            self._quick = self._quick_get()
        return row

    get.__doc__ = BlockingReader.get.__doc__

    _go_on = blocking(FastOperations.go_on_operation)

    def _quick_get(self) -> Callable[[Any], Row | None] | None:
        """The short way (`client_quick`), if every key is at the same nodes and the route says which version to read."""
        route, info = self._route, self._info
        if route is None or info is None or not route.everywhere or not route.version or not Quick.serves(info, route.everywhere):
            return None
        pins = {"asked_version": self._pinned} if self._pinned is not None else {"answered_version": route.version}
        quick = Quick(self._store, info, self._connections.transport, super().get, self._timeout_s, **pins)
        if len(route.everywhere) == 1:
            return quick.of_one(route.everywhere[0])
        return None if self._pinned is not None else quick.of_several(route.everywhere, self._caller, self._latencies.of(1), self._go_on)

    def close(self) -> None:
        self._quick, self._quick_of = None, (None, None)
        super().close()

    close.__doc__ = BlockingReader.close.__doc__


class AsyncFastReader(AsyncReader, FastOperations):
    """Reads one store from the nodes that hold it, for asyncio."""
