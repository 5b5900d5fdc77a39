"""RemoteGraph: a graph answered by servers. `fondaco.graph.connect` makes it.

It is a `Graph` like the embedded one, with the same answers bit for bit. Any server can enter a query: each client begins at another of
them (by its rank, or its process number), stays with it, and goes to the next when that one is gone, within a second and with the same
answer. All servers that these know are known to it after the first greeting. Followed is what the servers follow: each answer is whole
and of one version; opened at a version, that one is held by all servers as long as this is open.

Any thread, several at a time; each has a connection of its own for the time of its call. A forked child and a pickled copy begin with no
connections. Importing this is light: neither numba nor a catalog.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from fondaco.core.errors import FondacoError, InputError, ProtocolError, StateError
from fondaco.graph.buffers import BufferPool
from fondaco.graph.deadlines import Deadline
from fondaco.graph.graph import Graph
from fondaco.graph.queries import Answer, AnswerMeta, Arrays, GraphInfo, Query, encode_query
from fondaco.graph.service.connection import Address
from fondaco.graph.service.failover import ask
from fondaco.graph.service.frames import Array, Kind
from fondaco.graph.service.handshake import Hello, ServerInfo, Welcome, decode_welcome
from fondaco.graph.service.peer import Asked, Peer, Reply
from fondaco.graph.service.ring import Budget

TIMEOUT_S: Final = 30.0
INFO_S: Final = 1.0  # how long what is known of the current version is taken to be true
_META: Final = msgspec.msgpack.Decoder(AnswerMeta)


class RemoteGraph(Graph):
    """A graph behind servers. Close it, or use it as a context manager; arrays of its answers stay good."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        graph: str | None = None,
        version: int | None = None,
        timeout_s: float | None = TIMEOUT_S,
        shared_memory: bool = True,
        unix: bool = True,
        token: str | None = None,
        tls: ssl.SSLContext | str | os.PathLike[str] | None = None,
    ) -> None:
        """Use `fondaco.graph.connect`; this asks nobody yet.

        Raises:
            InputError: no address, or a file of certificates that cannot be used.
        """
        self._endpoints = tuple(dict.fromkeys(str(Address.parse(endpoint)) for endpoint in endpoints))
        if not self._endpoints:
            raise InputError("no address of a graph server; give at least one, as 127.0.0.1:7080")
        self._graph, self._pin, self._timeout_s = graph, version, timeout_s
        self._shared_memory, self._unix, self._token, self._trusted = shared_memory, unix, token, tls
        self._tls = tls if tls is None or isinstance(tls, ssl.SSLContext) else _trusting(tls)
        self._budget, self._pool = Budget(), BufferPool()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._peers: dict[str, Peer] = {}
        self._order: list[Peer] = []
        self._learned: tuple[str, ...] = ()
        self._info: GraphInfo | None = None
        self._info_at = -1e9
        self._seen = threading.local()  # .info: what this thread packed its question with
        self._pinned_everywhere = False
        self._closed = False
        self._arrange()

    # -- a Graph ------------------------------------------------------------------------------------------------------------------------

    @property
    def info(self) -> GraphInfo:
        """What a call would be answered from now, as known up to a second ago."""
        info = self._info
        if info is None or (self._pin is None and time.monotonic() - self._info_at > INFO_S):
            info = self._look(Deadline(self._timeout_s, self._what()))
        self._seen.info = info
        return info

    @property
    def servers(self) -> tuple[ServerInfo, ...]:
        """The servers of the graph, as the one that was asked knows them now, by shard."""
        return tuple(self._greet(Deadline(self._timeout_s, self._what())).servers)

    def close(self) -> None:
        """Close the connections. Twice is once."""
        self._closed = True
        with self._lock:
            peers, self._peers, self._order = list(self._peers.values()), {}, []
        for peer in peers:
            peer.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._trusted, ssl.SSLContext):
            raise StateError("a graph with a TLS context of its own cannot be pickled; give tls= the file of certificates instead")
        options = {
            "graph": self._graph, "version": self._pin, "timeout_s": self._timeout_s, "shared_memory": self._shared_memory,
            "unix": self._unix, "token": self._token, "tls": self._trusted,
        }  # fmt: skip
        return _reopen, (self._endpoints, options)

    def __repr__(self) -> str:
        name = "" if self._graph is None else f" {self._graph!r}"
        return f"<RemoteGraph{name}{'' if self._pin is None else f' v{self._pin}'} at {', '.join(self._endpoints)}>"

    def _ask(self, query: Query, arrays: Arrays, timeout_s: float | None) -> Answer:
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s, f"{self._what()}: {type(query).__name__}")
        info: GraphInfo = getattr(self._seen, "info", None) or self._look(deadline)
        asked = self._asked(query, arrays, self._pin or 0)
        reply = ask(self._candidates(), asked, deadline, self._what())
        if reply.graph_version != info.version:
            now = self._look(deadline)
            if now.schema != info.schema and self._pin is None:  # the question was about other types; its version answers once more
                reply = ask(self._candidates(), self._asked(query, arrays, info.version), deadline, self._what())
        return _answer(reply, self._what())

    # -- inside -------------------------------------------------------------------------------------------------------------------------

    def _what(self) -> str:
        return "the graph" if self._graph is None else f"graph {self._graph!r}"

    def _asked(self, query: Query, arrays: Arrays, version: int) -> Asked:
        packed: dict[str, Array] = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return Asked(Kind.QUERY, encode_query(query), packed, version, type(query).__name__)

    def _candidates(self) -> list[Peer]:
        if self._closed:
            raise StateError(f"{self._what()} was closed; connect again")
        if os.getpid() != self._pid:
            self._after_fork()
        return self._order

    def _look(self, deadline: Deadline) -> GraphInfo:
        welcome = self._greet(deadline)
        if self._pin is not None and not self._pinned_everywhere:
            self._pin_everywhere(deadline)
        self._info, self._info_at = welcome.info, time.monotonic()
        return welcome.info

    def _greet(self, deadline: Deadline) -> Welcome:
        reply = ask(self._candidates(), Asked(Kind.INFO, b"", subject="info"), deadline, self._what())
        return self._learn(decode_welcome(reply.meta, self._what()))

    def _learn(self, welcome: Welcome) -> Welcome:
        if self._graph is None:
            self._graph = welcome.info.graph
        learned = tuple(sorted(server.address for server in welcome.servers))
        if learned != self._learned:
            self._learned = learned
            self._arrange()
        return welcome

    def _arrange(self) -> None:
        """The servers in the order in which this process asks them."""
        with self._lock:
            addresses = list(dict.fromkeys((*self._endpoints, *self._learned)))
            for address in addresses:
                if address not in self._peers:
                    self._peers[address] = self._peer(Address.parse(address))
            gone = [self._peers.pop(address) for address in tuple(self._peers) if address not in addresses]
            turn = _turn() % len(addresses)
            self._order = [self._peers[address] for address in addresses[turn:] + addresses[:turn]]
        for peer in gone:
            peer.close()

    def _peer(self, address: Address) -> Peer:
        return Peer(address, self._hello, self._budget, self._pool, tls=self._tls, shared_memory=self._shared_memory, unix=self._unix)

    def _hello(self) -> Hello:
        return Hello(pid=os.getpid(), graph=self._graph, version=self._pin, token=self._token)

    def _pin_everywhere(self, deadline: Deadline) -> None:
        """Greet every server, so that each holds the version for us."""
        for peer in tuple(self._order):
            with contextlib.suppress(FondacoError):
                ask([peer], Asked(Kind.INFO, b"", subject="info"), Deadline(min(1.0, deadline.left_s() or 1.0)), peer.name)
        self._pinned_everywhere = True

    def _after_fork(self) -> None:
        """In a forked child; its peers have forgotten their connections already."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pinned_everywhere = False
        self._arrange()


def _turn() -> int:
    """At which server this process begins: trainers of one job are spread by their ranks, others by chance."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() else os.getpid()


def _answer(reply: Reply, what: str) -> Answer:
    try:
        meta = _META.decode(reply.meta)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(what, f"an answer that cannot be read: {exc}") from None
    return Answer(meta, reply.arrays)


def _trusting(file: str | os.PathLike[str]) -> ssl.SSLContext:
    """Servers are believed whose certificate is in this file, or is signed by one there."""
    try:
        return ssl.create_default_context(cafile=os.fspath(file))
    except OSError as exc:  # ssl.SSLError too
        raise InputError(f"{os.fspath(file)} cannot be used as a file of certificates to trust (PEM): {exc}") from exc


def _reopen(endpoints: tuple[str, ...], options: dict[str, Any]) -> RemoteGraph:
    return RemoteGraph(endpoints, **options)
