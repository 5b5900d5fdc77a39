"""Service: what a graph server answers: who may ask, from which version, by the executor or by the kernels of its own shard.

A whole query (`Kind.QUERY`) goes to the executor, whose shards are this server's own and its peers'; a part (`Kind.SHARD`) to this server's
kernels alone, so parts never wait for parts. A query that follows the current version and finds it retired in the middle is answered once
more, whole, from the one that is current then. Any thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from fondaco.core.errors import (
    AuthenticationError,
    GraphNotFoundError,
    InputError,
    PermissionDeniedError,
    UnavailableError,
    VersionNotFoundError,
)
from fondaco.dataplane.auth import Access
from fondaco.graph.deadlines import Deadline
from fondaco.graph.executor import execute
from fondaco.graph.queries import decode_query
from fondaco.graph.service.frames import Array, Header, Kind
from fondaco.graph.service.handshake import Hello, Welcome
from fondaco.graph.service.incoming import check_part, check_query
from fondaco.graph.service.metrics import GraphMetrics
from fondaco.graph.service.peer_map import PeerMap
from fondaco.graph.service.remote_shards import RemoteShards, feature_memory
from fondaco.graph.service.ring import AnswerMemory
from fondaco.graph.service.server import Answered, ServerLimits
from fondaco.graph.service.versions import ServedVersions
from fondaco.graph.shards import EdgeFeature, NodeFeature, decode_shard_query
from fondaco.graph.store_features import StoreFeatures

PEER: Final = "peer"
_ENCODER: Final = msgspec.msgpack.Encoder()


class GraphService:
    """A `server.Service` for one graph. `begin` makes it ready."""

    def __init__(
        self,
        graph: str,
        access: Access,
        metrics: GraphMetrics,
        stores: StoreFeatures,
        server_id: str,
        *,
        shared_memory: bool,
        limits: ServerLimits,
    ) -> None:
        self.graph, self.metrics, self.stores = graph, metrics, stores
        self._access, self._server_id, self._shared_memory, self._limits = access, server_id, shared_memory, limits
        self._lock = threading.Lock()
        self._versions: ServedVersions | None = None
        self._peers: PeerMap | None = None

    def begin(self, versions: ServedVersions, peers: PeerMap) -> None:
        """Answer from these."""
        self._versions, self._peers = versions, peers

    @property
    def is_ready(self) -> bool:
        """Whether there is something to answer from."""
        return self._versions is not None and self._versions.is_ready

    def standing(self) -> tuple[int, int]:
        """The version that is answered from now (0: none), and how many are open."""
        versions = self._versions
        return (0, 0) if versions is None else (versions.current_number, len(versions.numbers()))

    @property
    def versions(self) -> ServedVersions:
        """
        Raises:
            UnavailableError: the server has only just started.
        """
        if self._versions is None:
            raise UnavailableError("this graph server", "it has only just started")
        return self._versions

    @property
    def peers(self) -> PeerMap:
        """The other servers."""
        assert self._peers is not None
        return self._peers

    def greet(self, hello: Hello) -> GraphSession:
        """As `server.Service.greet`.

        Raises:
            AuthenticationError, PermissionDeniedError, GraphNotFoundError, VersionNotFoundError, NoCurrentVersionError.
        """
        credentials = None if hello.token is None else b"Bearer " + hello.token.encode()
        self.admit(credentials)
        if hello.graph is not None and hello.graph != self.graph:
            raise GraphNotFoundError(hello.graph, [self.graph], "this server")
        versions = self.versions
        if hello.server is not None and hello.role == PEER:
            self.peers.meet(hello.server)
        unpin = versions.pin(hello.version) if hello.version is not None and hello.role != PEER else None
        return GraphSession(self, credentials, hello.version or 0, unpin, is_peer=hello.role == PEER)

    def admit(self, credentials: bytes | None) -> None:
        """Whether a caller may ask, now: tokens are revoked and expire while their holders are connected.

        Raises:
            AuthenticationError, PermissionDeniedError.
        """
        with self._lock:  # `Access` is for one thread at a time
            try:
                caller = self._access.caller(credentials)
            except AuthenticationError as error:
                raise AuthenticationError(
                    f"{error.reason} (clients of graphs give it as connect(token=...) or FONDACO_GRAPH_TOKEN)"
                ) from None
            may = caller.may("read", self.graph)
        if not may:
            raise PermissionDeniedError(caller.name, "read", f"graph {self.graph!r}")

    def welcome(self, number: int) -> Welcome:
        """What the server says of itself, and of a version (0: the current one)."""
        with self.versions.lease(number) as version:
            info = version.info
        return Welcome(
            info=info,
            server=self.peers.me,
            server_id=self._server_id,
            servers=self.peers.servers(),
            shared_memory=self._shared_memory,
            request_bytes_max=self._limits.frames.payload_bytes,
        )


class GraphSession:
    """One client's."""

    def __init__(
        self, service: GraphService, credentials: bytes | None, version: int, unpin: Callable[[], None] | None, *, is_peer: bool
    ) -> None:
        self._service, self._credentials, self._version, self._unpin, self._is_peer = service, credentials, version, unpin, is_peer

    def welcome(self) -> Welcome:
        """As `server.Session.welcome`."""
        self._service.admit(self._credentials)
        return self._service.welcome(self._version)

    def close(self) -> None:
        """As `server.Session.close`."""
        if self._unpin is not None:
            self._unpin()
            self._unpin = None

    def answer(self, header: Header, meta: memoryview, arrays: dict[str, Array], memory: AnswerMemory, deadline: Deadline) -> Answered:
        """As `server.Session.answer`."""
        self._service.admit(self._credentials)
        if header.kind == Kind.SHARD:
            return self._part(header, meta, arrays, memory, deadline)
        number = header.graph_version or self._version
        try:
            return self._whole(number, meta, arrays, memory, deadline)
        except VersionNotFoundError:
            if number:
                raise
            return self._whole(0, meta, arrays, memory, deadline)

    def _whole(self, number: int, meta: memoryview, arrays: dict[str, Array], memory: AnswerMemory, deadline: Deadline) -> Answered:
        service = self._service
        with _readable():
            query = decode_query(meta)
        with service.versions.lease(number) as version:
            check_query(version.info.schema, query, arrays)
            shards = RemoteShards(version, service.peers, service.metrics.gathered)
            answer = execute(query, arrays, shards, deadline=deadline, allocate=memory, stores=service.stores)
            return Answered(version.info.version, _ENCODER.encode(answer.meta), answer.arrays)

    def _part(self, header: Header, meta: memoryview, arrays: dict[str, Array], memory: AnswerMemory, deadline: Deadline) -> Answered:
        service = self._service
        if not self._is_peer:
            raise InputError("parts of a query are for the servers of a graph; ask a whole one")
        with _readable():
            query = decode_shard_query(meta)
        deadline.check()
        with service.versions.lease(header.graph_version) as version:
            check_part(version.opened, query, arrays)
            out = feature_memory(version.info.schema, query, arrays, memory)
            answer = version.answers.answer(query, arrays, out, deadline)
            if isinstance(query, (NodeFeature, EdgeFeature)):
                service.metrics.gathered(len(arrays["rows"]))
            return Answered(version.info.version, b"", answer)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InputError(f"the query cannot be read: {exc}; is the client of another version of Fondaco than the server?") from None
