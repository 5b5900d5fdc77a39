"""Peers: one server as those who ask it see it: its connections, its greeting, and one question with its answer.

A connection begins with a greeting over TCP; if the server says that it listens on a Unix socket too and that socket can be reached, all
further ones go there, and answers may come in shared memory. Connections are kept and used again; one that turns out to have been closed
meanwhile (a server that was started anew) is replaced without anybody noticing.

While an answer is awaited and nothing comes for `TICK_S`, the server is asked for a sign of life on another connection: without one within
`PING_S` it counts as hung, which raises `QuietError` unless the caller is patient because there is nobody else to ask.
Any thread; a connection belongs to one exchange at a time. `forget` makes a peer good for use after a fork.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fondaco.core.errors import FondacoError, LimitError, ProtocolError, UnavailableError
from fondaco.dataplane.faults import error_of
from fondaco.graph.buffers import BufferPool
from fondaco.graph.deadlines import Deadline
from fondaco.graph.service.connection import TICK_S, Address, Connection, dial, read_arrays, unexpected
from fondaco.graph.service.frames import ANSWER_LIMITS, Array, Header, Kind, frame, total_bytes
from fondaco.graph.service.handshake import Hello, Welcome, decode_welcome, encode
from fondaco.graph.service.ring import Budget, Bytes, Ring

PING_S: Final = 0.2
CONNECT_S: Final = 0.4  # with somebody else to ask; alone, as long as the deadline allows
IDLE_MAX: Final = 16  # connections kept for later
SUSPECT_S: Final = 1.0  # a peer that failed is asked last for so long; twice as long each time, up to
SUSPECT_S_MAX: Final = 30.0
_DEADLINE_MS_MAX: Final = (1 << 32) - 1


class QuietError(UnavailableError):
    """A server that gives no sign of life; another may be asked. Never leaves this package."""

    def __init__(self, peer: str) -> None:
        super().__init__(peer, "it gave no sign of life")

    def __reduce__(self) -> tuple[object, ...]:
        return QuietError, (self.peer,)


class LostError(UnavailableError):
    """A server that cannot be reached, or a connection that broke. Never leaves this package."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. `sinks`: arrays that take the bytes of those of their name in the answer."""

    kind: Kind
    meta: bytes
    arrays: Mapping[str, Array] = field(default_factory=dict)
    graph_version: int = 0
    subject: str = ""  # what kind of question, so that alike ones get slots of the right size
    sinks: Mapping[str, Array] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: which version it is of, its meta, its arrays. Arrays are read by anybody, and writable if nobody else looks at them."""

    graph_version: int
    meta: bytes | memoryview
    arrays: dict[str, Array]


class Link:
    """A connection that was greeted, with the memory that its answers come in."""

    def __init__(self, connection: Connection, welcome: Welcome, budget: Budget, *, shared: bool) -> None:
        self.connection, self.welcome = connection, welcome
        self.used = False  # whether an answer came on it
        self.ring = Ring(budget) if shared and connection.is_unix and welcome.shared_memory else None
        self.numbers = itertools.count(1)

    def close(self) -> None:
        self.connection.close()
        if self.ring is not None:
            self.ring.close()


class Peer:
    """One server at one address."""

    def __init__(
        self,
        address: Address,
        hello: Callable[[], Hello],
        budget: Budget,
        pool: BufferPool,
        *,
        tls: ssl.SSLContext | None = None,
        shared_memory: bool = True,
        unix: bool = True,
    ) -> None:
        """
        Args:
            hello: makes the greeting of each connection. budget: of shared memory. pool: memory for answers that come through a socket.
            unix: go to its Unix socket, if it has one that can be reached.
        """
        self.address, self._hello, self._budget, self._tls, self._shared_memory = address, hello, budget, tls, shared_memory
        self.pool = pool
        self._may_unix = unix
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._unix: Address | None = None
        self._rooms: dict[tuple[str, int], int] = {}
        self._failures = 0
        self._suspect_until = 0.0
        self._closed = False
        _peers.add(self)

    @property
    def name(self) -> str:
        """For messages."""
        return f"graph server {self.address}"

    @property
    def is_suspect(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self._suspect_until

    def suspect(self) -> None:
        """Take it for the last choice for a while, and give up its idle connections."""
        self._failures += 1
        self._suspect_until = time.monotonic() + min(SUSPECT_S * 2 ** min(self._failures - 1, 5), SUSPECT_S_MAX)
        self._drop_idle()

    def begin(self, asked: Asked, deadline: Deadline, *, patient: bool) -> Exchange:
        """Send a question.

        Raises:
            LostError, QuietError, ProtocolError, DeadlineExceededError; LimitError: the server takes no question of this size;
            AuthenticationError, GraphNotFoundError and what else it turns a client away with.
        """
        deadline.check()
        exchange = Exchange(self, self._take(deadline, patient), asked, deadline, patient)
        exchange.send()
        return exchange

    def ping(self, seconds: float = PING_S) -> bool:
        """Whether it gives a sign of life within so long."""
        until = time.monotonic() + seconds

        def on_tick() -> None:
            if time.monotonic() >= until:
                raise TimeoutError

        try:
            sock = dial(self._unix or self.address, seconds, None if self._unix is not None else self._tls)
        except OSError:
            return False
        try:
            connection = Connection(sock, self.name, tick_s=max(until - time.monotonic(), 0.001))
            connection.send(frame(Kind.PING, 0), on_tick)
            _, descriptors = connection.receive_header(ANSWER_LIMITS, on_tick)
            for descriptor in descriptors:
                os.close(descriptor)
            return True
        except (OSError, EOFError, FondacoError):
            return False
        finally:
            sock.close()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it ends. Arrays of answers stay good."""
        self._closed = True
        self._drop_idle()

    def forget(self) -> None:
        """In the child of a fork: the connections are the parent's, and nobody holds the lock."""
        self._lock = threading.Lock()
        self._drop_idle()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    # -- connections --------------------------------------------------------------------------------------------------------------------

    def _take(self, deadline: Deadline, patient: bool) -> Link:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect(deadline, patient)

    def _put(self, link: Link) -> None:
        self._failures, self._suspect_until = 0, 0.0
        with self._lock:
            if len(self._idle) < IDLE_MAX and not self._closed:
                self._idle.append(link)
                return
        link.close()

    def _connect(self, deadline: Deadline, patient: bool) -> Link:
        if self._unix is not None:
            with contextlib.suppress(LostError):
                return self._greet(self._unix, deadline, patient)
            self._unix = None  # it was started anew, and has another
        link = self._greet(self.address, deadline, patient)
        unix = link.welcome.server.unix
        if unix is None or not self._may_unix or link.connection.is_unix:
            return link
        try:
            faster = self._greet(Address.parse(unix), deadline, patient)
        except FondacoError:
            return link  # on another machine, or behind a wall
        if faster.welcome.server_id != link.welcome.server_id:
            faster.close()
            return link
        self._unix = Address.parse(unix)
        link.close()
        return faster

    def _greet(self, address: Address, deadline: Deadline, patient: bool) -> Link:
        deadline.check()
        left = deadline.left_s()
        seconds = min(5.0 if patient else CONNECT_S, 5.0 if left is None else left)
        try:
            sock = dial(address, seconds, None if address.path else self._tls)
        except OSError as exc:
            deadline.check()
            raise LostError(self.name, _reason(exc)) from exc
        connection = Connection(sock, self.name)
        watch = Watch(self, connection, deadline, patient)
        try:
            connection.send(frame(Kind.HELLO, 0, encode(self._hello()), deadline_ms=_ms(left)), watch)
            header, meta = _receive_plain(connection, watch)
            if header.kind == Kind.ERROR:
                raise _error(meta, self.name)
            if header.kind != Kind.ANSWER or header.request:
                raise unexpected(connection, header)
            welcome = decode_welcome(meta, self.name)
        except (OSError, EOFError) as exc:
            connection.close()
            raise LostError(self.name, _reason(exc)) from exc
        except BaseException:
            connection.close()
            raise
        return Link(connection, welcome, self._budget, shared=self._shared_memory)

    # -- sizes of answers ---------------------------------------------------------------------------------------------------------------

    def _room(self, asked: Asked) -> int:
        return self._rooms.get(_alike(asked), 0)

    def _learn(self, asked: Asked, room: int) -> None:
        alike = _alike(asked)
        self._rooms[alike] = max(room, self._rooms.get(alike, 0) * 15 // 16)


_peers: weakref.WeakSet[Peer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for peer in tuple(_peers):
        peer.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Watch:
    """What a waiting connection calls at each tick: the deadline, and whether the server lives."""

    def __init__(self, peer: Peer, connection: Connection, deadline: Deadline, patient: bool) -> None:
        self._peer, self._connection, self._deadline, self._patient = peer, connection, deadline, patient
        connection.on_part = deadline.check
        self._aim()

    def __call__(self) -> None:
        self._deadline.check()
        if not self._patient:
            left = self._deadline.left_s()
            alive = self._peer.ping(PING_S if left is None else min(PING_S, left))
            self._deadline.check()
            if not alive:
                raise QuietError(self._peer.name)
        self._aim()

    def _aim(self) -> None:
        left = self._deadline.left_s()
        self._connection.set_tick(TICK_S if left is None else min(TICK_S, left + 0.001))


class Exchange:
    """One question on its way to one server. Ends with `finish` or `cancel`."""

    def __init__(self, peer: Peer, link: Link, asked: Asked, deadline: Deadline, patient: bool) -> None:
        self._peer, self._link, self._asked, self._deadline, self._patient = peer, link, asked, deadline, patient
        self._slot = None if link.ring is None else link.ring.take(peer._room(asked))
        self._number = 0

    def send(self) -> None:
        """Send it; over a connection that was idle too long, once more over a new one.

        Raises:
            as `Peer.begin`.
        """
        while True:
            try:
                return self._send()
            except OSError as exc:
                if not self._renew():
                    raise LostError(self._peer.name, _reason(exc)) from exc
            except _RefusedError as refused:
                raise self._refused(refused) from None
            except BaseException:
                self._link.close()
                raise

    def finish(self) -> Reply:
        """Wait for the answer.

        Raises:
            as `Peer.begin`; and the error that the server answers with.
        """
        while True:
            watch = Watch(self._peer, self._link.connection, self._deadline, self._patient)
            try:
                header, descriptors = self._link.connection.receive_header(ANSWER_LIMITS, watch)
                for descriptor in descriptors:
                    os.close(descriptor)
                return self._receive(header, watch)
            except (OSError, EOFError) as exc:
                if not self._renew():
                    raise LostError(self._peer.name, _reason(exc)) from exc
                self.send()
            except _RefusedError as refused:
                self._link.used = True
                raise self._refused(refused) from None
            except BaseException:
                self._link.close()
                raise

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._link.close()

    def _renew(self) -> bool:
        """Whether there is a new connection in place of one that had been idle; the old one is closed."""
        self._link.close()
        if not self._link.used:
            return False
        self._peer._drop_idle()  # they went with it
        self._link = self._peer._connect(self._deadline, self._patient)
        self._slot = None
        return True

    def _send(self) -> None:
        link, asked, slot = self._link, self._asked, self._slot
        limit = link.welcome.request_bytes_max
        size = total_bytes(asked.arrays.values())
        if limit and size > limit:
            raise _RefusedError(LimitError("arrays of a frame, in bytes", size, limit, "Ask with fewer ids at a time."))
        watch = Watch(self._peer, link.connection, self._deadline, self._patient)
        if link.ring is not None:
            for number in link.ring.take_dropped():
                link.connection.send(frame(Kind.ATTACH, 0, slot=number + 1), watch)
            if slot is not None and slot.descriptor is not None:
                link.connection.send(frame(Kind.ATTACH, 0, slot=slot.number + 1, room=slot.size), watch, slot.descriptor)
                slot.sent()
        self._number = next(link.numbers)
        slotted = (0, 0) if slot is None else (slot.number + 1, slot.size)
        link.connection.send(
            frame(
                asked.kind,
                self._number,
                asked.meta,
                asked.arrays,
                deadline_ms=_ms(self._deadline.left_s()),
                slot=slotted[0],
                room=slotted[1],
                graph_version=asked.graph_version,
            ),
            watch,
        )

    def _receive(self, header: Header, watch: Watch) -> Reply:
        link, slot = self._link, self._slot
        connection = link.connection
        if header.request != self._number or header.kind not in (Kind.ANSWER, Kind.ERROR):
            if header.kind == Kind.ERROR and not header.request:  # it did not understand us, and closes
                raise _error(connection.receive_head(header, watch)[0], self._peer.name)
            raise unexpected(connection, header)
        meta, entries = connection.receive_head(header, watch)
        if header.kind == Kind.ERROR:
            raise _RefusedError(_error(meta, self._peer.name))
        region: Bytes | None = None
        if header.slot:
            if slot is None or header.slot != slot.number + 1 or link.ring is None:
                raise ProtocolError(self._peer.name, f"an answer in slot {header.slot}, which was not offered")
            region, self._slot = link.ring.lend(slot), None
        memory = self._peer.pool.take(header.payload_bytes)
        arrays = read_arrays(connection, header, entries, memory, region, watch, self._asked.sinks)
        if slot is not None and region is not None and header.room * 8 < slot.size:
            arrays = {name: array.copy() for name, array in arrays.items()}  # too little to hold so much for it
        self._give_slot_back()
        self._peer._learn(self._asked, header.room)
        link.used = True
        self._peer._put(link)
        return Reply(header.graph_version, meta, arrays)

    def _refused(self, refused: _RefusedError) -> FondacoError:
        """The connection is as good as before."""
        self._give_slot_back()
        self._peer._put(self._link)
        return refused.error

    def _give_slot_back(self) -> None:
        if self._slot is not None and self._link.ring is not None:
            self._link.ring.put_back(self._slot)
            self._slot = None


class _RefusedError(Exception):
    """The question is answered with an error, or not even sent."""

    def __init__(self, error: FondacoError) -> None:
        super().__init__(error)
        self.error = error


def _alike(asked: Asked) -> tuple[str, int]:
    return asked.subject, total_bytes(asked.arrays.values()).bit_length()


def _receive_plain(connection: Connection, watch: Watch) -> tuple[Header, memoryview]:
    header, descriptors = connection.receive_header(ANSWER_LIMITS, watch)
    for descriptor in descriptors:
        os.close(descriptor)
    if header.arrays or header.payload_bytes:
        raise unexpected(connection, header)
    return header, connection.receive_head(header, watch)[0]


def _error(meta: memoryview, peer: str) -> FondacoError:
    return error_of(meta) or ProtocolError(peer, f"an error that cannot be read: {bytes(meta[:80])!r}")


def _ms(left_s: float | None) -> int:
    return 0 if left_s is None else min(max(int(left_s * 1000), 1), _DEADLINE_MS_MAX)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.lower()
    return str(exc) or type(exc).__name__
