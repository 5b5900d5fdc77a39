"""A graph server in this process whose answers are known: frames, sockets, limits and shared memory, without a graph behind them."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fondaco.core.errors import FondacoError, GraphNotFoundError
from fondaco.graph.buffers import BufferPool
from fondaco.graph.deadlines import Deadline
from fondaco.graph.queries import GraphInfo
from fondaco.graph.schema import GraphSchema, NodeType
from fondaco.graph.service.connection import Address
from fondaco.graph.service.failover import ask
from fondaco.graph.service.frames import Header, Kind
from fondaco.graph.service.handshake import Hello, ServerInfo, Welcome
from fondaco.graph.service.peer import Asked, Peer, Reply
from fondaco.graph.service.ring import AnswerMemory, Budget
from fondaco.graph.service.server import Answered, GraphServer, ServerLimits

INFO = GraphInfo(
    graph="canned", version=7, partitions=1, schema=GraphSchema((NodeType("node"),), ()), node_counts={"node": 3}, edge_counts={}
)


class Counted:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.open = 0
        self.reasons: list[str] = []
        self.errors: list[FondacoError] = []
        self.shared = 0
        self.requests = 0
        self.answered = 0  # counted after the answer went out: wait for it

    def connections(self, count: int) -> None:
        self.open = count

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)

    def begun(self) -> None:
        self.requests += 1

    def ended(self, kind: Kind, call: str, seconds: float, received: int, sent: int, shared: int, error: FondacoError | None) -> None:
        self.shared += shared
        if error is not None:
            self.errors.append(error)
        self.answered += 1


class Canned:
    """Answers a question with `count` doubles of what came, in memory of the answer; `wait` makes it take its time."""

    def __init__(self) -> None:
        self.unix: str | None = None
        self.server_id = secrets.token_hex(8)
        self.wait: Callable[[], None] = lambda: None
        self.fail: Exception | None = None
        self.sessions = 0
        self.seen_versions: list[int | None] = []

    def greet(self, hello: Hello) -> Canned:
        self.seen_versions.append(hello.version)
        if hello.graph not in (None, "canned"):
            raise GraphNotFoundError(hello.graph, ["canned"])
        self.sessions += 1
        return self

    def welcome(self) -> Welcome:
        server = ServerInfo(address="127.0.0.1:1", shard=0, shards=1, unix=self.unix)
        return Welcome(info=INFO, server=server, server_id=self.server_id, shared_memory=True, request_bytes_max=1 << 20)

    def close(self) -> None:
        self.sessions -= 1

    def answer(self, header: Header, meta: memoryview, arrays: dict[str, Any], memory: AnswerMemory, deadline: Deadline) -> Answered:
        self.wait()
        if self.fail is not None:
            raise self.fail
        given = arrays["x"]
        doubled = memory(given.nbytes).view(given.dtype).reshape(given.shape)
        np.multiply(given, 2, out=doubled)
        elsewhere = np.ascontiguousarray(given[:16])
        return Answered(header.graph_version or 7, bytes(meta), {"doubled": doubled, "elsewhere": elsewhere, "none": given[:0]})


class CannedServer:
    """A `GraphServer` over `Canned`. A context manager."""

    def __init__(self, *, unix: bool = True, limits: ServerLimits | None = None) -> None:
        self.service, self.observer = Canned(), Counted()
        name = f"@fondaco-canned-{secrets.token_hex(8)}" if unix else None
        self.service.unix = None if name is None else f"unix:{name}"
        self.server = GraphServer(self.service, self.observer, unix=name, limits=limits)
        self.server.start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.server.port)

    def __enter__(self) -> CannedServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()
        assert self.service.sessions == 0
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("graph connection")]


@contextlib.contextmanager
def peer_of(
    address: Address, *, budget: int = 1 << 26, shared_memory: bool = True, unix: bool = True, graph: str | None = None
) -> Iterator[Peer]:
    peer = Peer(address, lambda: Hello(pid=1, graph=graph), Budget(budget), BufferPool(), shared_memory=shared_memory, unix=unix)
    try:
        yield peer
    finally:
        peer.close()


def double(peer: Peer, numbers: Any, *, seconds: float | None = 20.0, version: int = 0, sinks: dict[str, Any] | None = None) -> Reply:
    """One question."""
    asked = Asked(Kind.QUERY, b"meta", {"x": numbers}, version, "double", sinks)
    return ask([peer], asked, Deadline(seconds), "the canned graph")
