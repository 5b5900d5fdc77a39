"""Peer map: which servers hold which shard of a graph, as one of its servers knows them.

Known are those that say so in the platform's run directory (`presence`), those that were named at the start, whoever these know, and who
has asked this one. The map is read again every second, and at once when somebody is missing. Forgotten are those that stood in the run
directory and do so no more, and others that were not heard of for `SILENT_S` and give no sign of life. Whom others speak of is believed to
be there only after a sign of life, for they forget at their own time. Servers of the same graph that were started for another
number of shards are passed over. Any thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fondaco.core.errors import FondacoError
from fondaco.graph.buffers import BufferPool
from fondaco.graph.deadlines import Deadline
from fondaco.graph.service.connection import Address
from fondaco.graph.service.failover import ask
from fondaco.graph.service.frames import Kind
from fondaco.graph.service.handshake import Hello, ServerInfo, Welcome, decode_welcome
from fondaco.graph.service.peer import Asked, Peer
from fondaco.graph.service.presence import servers_present
from fondaco.graph.service.ring import Budget

REFRESH_S: Final = 1.0
MISSING_REFRESH_S: Final = 0.05  # at most as often, when somebody is missing
SILENT_S: Final = 30.0
_INFO_S: Final = 1.0
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Met:
    """A server that was met, and when it was last heard of (seconds, monotonic)."""

    server: ServerInfo
    heard: float


class PeerMap:
    """The other servers of a graph. Use as a context manager."""

    def __init__(
        self,
        graph: str,
        me: ServerInfo,
        server_id: str,
        *,
        platform: Path | None = None,
        named: Sequence[Address] = (),
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        shared_memory: bool = True,
    ) -> None:
        """
        Args:
            platform: whose run directory is read. named: further servers. token: for those that do not stand in the run directory.
        """
        self.me, self._graph, self._server_id = me, graph, server_id
        self._platform, self._named, self._token, self._tls, self._shared_memory = platform, tuple(named), token, tls, shared_memory
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._refreshed_at = -1e9
        self._budget, self.pool = Budget(), BufferPool()
        self._peers: dict[str, Peer] = {}  # by address
        self._servers: dict[str, ServerInfo] = {}
        self._secrets: dict[str, str] = {}
        self._met: dict[str, _Met] = {}  # named ones that have answered, those whom they know, and who has asked
        self._present: frozenset[str] = frozenset()  # addresses in the run directory, when it was last read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="graph peers", daemon=True)

    def start(self) -> None:
        """Begin to look around."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and close the connections."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            peer.close()

    def __enter__(self) -> PeerMap:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def servers(self) -> list[ServerInfo]:
        """All that are known, this one included, by shard."""
        with self._lock:
            known = {self.me.address: self.me, **self._servers}
        return sorted(known.values(), key=lambda server: (server.shard, server.address))

    def replicas(self, shard: int) -> list[Peer]:
        """Others that hold a shard, each asker's own first choice first."""
        with self._lock:
            found = sorted(address for address, server in self._servers.items() if server.shard == shard)
            turn = self.me.shard + os.getpid()
            return [self._peers[address] for address in found[turn % len(found) :] + found[: turn % len(found)]] if found else []

    def meet(self, server: ServerInfo) -> None:
        """Learn of a server that has asked this one."""
        known = self._met.get(server.address)
        if known is not None and known.server == server:
            self._hear_of(server)
            return
        with self._refreshing:
            self._hear_of(server)
            self._take()

    def refresh(self, *, at_most_every_s: float = MISSING_REFRESH_S) -> None:
        """Read the map again, unless somebody has just done so."""
        with self._refreshing:
            if time.monotonic() - self._refreshed_at < at_most_every_s:
                return
            self._meet_named()
            self._forget_one()
            self._take()
            self._refreshed_at = time.monotonic()

    def _run(self) -> None:
        while True:
            try:
                self.refresh(at_most_every_s=REFRESH_S / 2)
            except Exception:  # a file system that fails for a moment
                _LOGGER.warning("looking for the other servers of graph %r failed, and is tried again", self._graph, exc_info=True)
            if self._stop.wait(REFRESH_S):
                return

    def _take(self) -> None:
        found: dict[str, ServerInfo] = {}
        secrets: dict[str, str] = {}
        if self._platform is not None:
            for present in servers_present(self._platform, self._graph):
                if present.server_id != self._server_id:
                    found[present.server.address] = present.server
                    secrets[present.server.address] = present.secret
        for address in self._present - found.keys():
            self._met.pop(address, None)
        self._present = frozenset(found)
        found = {address: met.server for address, met in tuple(self._met.items())} | found
        found.pop(self.me.address, None)
        fitting = {address: server for address, server in found.items() if server.shards == self.me.shards}
        with self._lock:
            self._secrets = secrets
            self._servers = fitting
            gone = [self._peers.pop(address) for address in tuple(self._peers) if address not in fitting]
            for address in fitting:
                if address not in self._peers:
                    self._peers[address] = self._peer(Address.parse(address))
        for peer in gone:
            peer.close()

    def _peer(self, address: Address) -> Peer:
        def hello() -> Hello:
            token = self._secrets.get(str(address), self._token)
            return Hello(pid=os.getpid(), graph=self._graph, token=token, role="peer", server=self.me)

        return Peer(address, hello, self._budget, self.pool, tls=self._tls, shared_memory=self._shared_memory)

    def _meet_named(self) -> None:
        for address in self._named:
            with contextlib.suppress(FondacoError), self._reached(address) as peer:
                deadline = Deadline(_INFO_S)
                welcome: Welcome = decode_welcome(ask([peer], Asked(Kind.INFO, b""), deadline, peer.name).meta, peer.name)
                self._hear_of(welcome.server)
                for server in welcome.servers:
                    if server.address not in self._met and self._lives(server.address):
                        self._hear_of(server)
        self._met.pop(self.me.address, None)

    def _forget_one(self) -> None:
        """Of the one that was silent for the longest time ask a sign of life: one at a time, for it takes a while where there is none."""
        silent = min(tuple(self._met.values()), key=lambda met: met.heard, default=None)
        if silent is None or time.monotonic() < silent.heard + SILENT_S:
            return
        if self._lives(silent.server.address):
            self._hear_of(silent.server)
        else:
            self._met.pop(silent.server.address, None)

    def _hear_of(self, server: ServerInfo) -> None:
        self._met[server.address] = _Met(server, time.monotonic())

    def _lives(self, address: str) -> bool:
        if address in self._present or address == self.me.address:
            return True
        with self._reached(Address.parse(address)) as peer:
            return peer.ping(_INFO_S)

    @contextlib.contextmanager
    def _reached(self, address: Address) -> Iterator[Peer]:
        """Who is at an address: the peer that is kept for it, or one for the moment."""
        peer = self._peers.get(str(address)) or self._peer(address)
        try:
            yield peer
        finally:
            if str(address) not in self._peers:
                peer.close()
