"""Server: the sockets of a graph server: one thread a connection, frames in, answers out; what is answered is a `Service`'s affair.

A sign of life (`Kind.PING`) needs no greeting and no service, so it is given however busy the kernels are. A connection that sends what is
no frame of ours, or too much, or too slowly, is told so and closed; it costs nobody else anything. So does a client that vanishes in the
middle of its answer: its memory, descriptors and thread go with its connection. How many connections there are, and how many queries are
answered at once, is bounded. `stop` takes no new ones, lets what is being answered be answered, and ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec
import numpy as np

from fondaco.core.errors import DeadlineExceededError, FondacoError, InputError, LimitError, ProtocolError, UnavailableError
from fondaco.dataplane.faults import error_body
from fondaco.graph.buffers import BufferPool
from fondaco.graph.deadlines import Deadline
from fondaco.graph.service.connection import TICK_S, Address, Connection, read_arrays, unexpected
from fondaco.graph.service.frames import REQUEST_LIMITS, Array, Header, Kind, Limits, frame
from fondaco.graph.service.handshake import Hello, Welcome, decode_hello, encode
from fondaco.graph.service.ring import AnswerMemory, Attached, room_of

BACKLOG: Final = 256
FRAME_S: Final = 10.0  # for a frame to become complete, once it began, and for a greeting to come
BYTES_PER_S_MIN: Final = 1 << 20  # and as much longer as its bytes take at this rate
IDLE_S: Final = 3600.0
DRAIN_S: Final = 10.0
_REFUSED_BYTES_MAX: Final = 64 << 20  # read and thrown away so that a refusal arrives; without, the kernel resets the connection
_REFUSED_S: Final = 1.0
_LOGGER = logging.getLogger(__name__)

Refusal = Literal["full", "slow", "limit", "garbage", "greeting"]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a service answers. Arrays are those of the `Allocator` where it paid, or any others."""

    graph_version: int
    meta: bytes
    arrays: dict[str, Array]


class Session(Protocol):
    """A client as the service knows it."""

    def answer(self, header: Header, meta: memoryview, arrays: dict[str, Array], memory: AnswerMemory, deadline: Deadline) -> Answered:
        """Answer a query (`Kind.QUERY`) or a part of one (`Kind.SHARD`): `header.kind`.

        Raises:
            FondacoError: what the client is told.
        """
        ...

    def welcome(self) -> Welcome:
        """What the greeting was answered with, as it is now."""
        ...

    def close(self) -> None:
        """The client is gone."""
        ...


class Service(Protocol):
    """What a server answers from. Any thread."""

    def greet(self, hello: Hello) -> Session:
        """Let a client in.

        Raises:
            FondacoError: why not.
        """
        ...


class Observer(Protocol):
    """Who counts. Any thread."""

    def connections(self, count: int) -> None:
        """So many are open."""
        ...

    def refused(self, reason: Refusal) -> None:
        """A connection was turned away or closed."""
        ...

    def begun(self) -> None:
        """A request is there."""
        ...

    def ended(self, kind: Kind, call: str, seconds: float, received: int, sent: int, shared: int, error: FondacoError | None) -> None:
        """It is answered: with `sent` bytes through the socket and `shared` in shared memory, or with an error."""
        ...


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of one server."""

    connections: int = 512
    queries: int = max(4, 2 * (os.cpu_count() or 1))  # answered at once; the others wait, and are told when their deadline is over
    frames: Limits = REQUEST_LIMITS
    frame_s: float = FRAME_S
    idle_s: float = IDLE_S


class _StopError(Exception):
    """The connection ends without a word."""


class GraphServer:
    """Listens until `stop`. Use as a context manager, or `start` and `stop`."""

    def __init__(
        self,
        service: Service,
        observer: Observer,
        *,
        host: str | None = "127.0.0.1",
        port: int = 0,
        unix: str | None = None,
        tls: ssl.SSLContext | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        """
        Args:
            host: None: no TCP. unix: a path, or `@name`; None: no Unix socket.
        Raises:
            InputError: an address cannot be listened on.
        """
        self.service, self.observer, self.limits = service, observer, limits or ServerLimits()
        self.pool = BufferPool()  # for arrays of answers that go through sockets
        self._tls = tls
        self._unix = unix
        self._tcp_listener = _listen_tcp(host, port) if host is not None else None
        try:
            self._unix_listener = _listen_unix(unix) if unix is not None else None
        except BaseException:
            if self._tcp_listener is not None:
                self._tcp_listener.close()
            raise
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self.stopping = threading.Event()
        self.gates = {kind: threading.BoundedSemaphore(self.limits.queries) for kind in (Kind.QUERY, Kind.SHARD)}
        self._lock = threading.Lock()
        self._sessions: dict[_Served, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept, name="graph acceptor", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port; 0: there is none."""
        return 0 if self._tcp_listener is None else int(self._tcp_listener.getsockname()[1])

    def start(self) -> None:
        """Begin to listen."""
        self._acceptor.start()

    def __enter__(self) -> GraphServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """End: no new connection, what is being answered is answered for up to so long. Idempotent."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._wake_out.send(b"x")
        if self._acceptor.ident is not None:
            self._acceptor.join()
        self._selector.close()
        for listener in (self._tcp_listener, self._unix_listener, self._wake_in, self._wake_out):
            if listener is not None:
                listener.close()
        if self._unix is not None and not self._unix.startswith("@"):
            with contextlib.suppress(OSError):
                os.unlink(self._unix)
        deadline = time.monotonic() + drain_s
        with self._lock:
            sessions = dict(self._sessions)
        for served in sessions:
            if not served.busy:
                served.abort()
        for thread in sessions.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        for served, thread in sessions.items():
            if thread.is_alive():
                served.abort()
                thread.join(1.0)

    def _accept(self) -> None:
        for listener in (self._tcp_listener, self._unix_listener, self._wake_in):
            if listener is not None:
                self._selector.register(listener, selectors.EVENT_READ)
        while not self.stopping.is_set():
            for key, _ in self._selector.select():
                if key.fileobj is not self._wake_in:
                    assert isinstance(key.fileobj, socket.socket)
                    self._take(key.fileobj)

    def _take(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as exc:  # no descriptor is left: the client waits in the backlog until one is
            _LOGGER.warning("a connection could not be taken: %s", exc)
            time.sleep(0.05)
            return
        name = f"client {address[0]}:{address[1]}" if listener is self._tcp_listener else "client on the Unix socket"
        with self._lock:
            if len(self._sessions) >= self.limits.connections:
                served = None
            else:
                tls = self._tls if listener is self._tcp_listener else None
                served = _Served(self, sock, name, tls)
                thread = threading.Thread(target=self._serve, args=(served,), name="graph connection", daemon=True)
                self._sessions[served] = thread
                thread.start()
            count = len(self._sessions)
        self.observer.connections(count)
        if served is None:
            self.observer.refused("full")
            _turn_away(sock, UnavailableError("this graph server", f"it has {count} connections and takes no more"))

    def _serve(self, served: _Served) -> None:
        try:
            served.run()
        except Exception:
            _LOGGER.exception("%s: the connection failed", served.name)
        finally:
            served.close()
            with self._lock:
                self._sessions.pop(served, None)
                count = len(self._sessions)
            self.observer.connections(count)


class _Served:
    """One connection, in its own thread."""

    def __init__(self, server: GraphServer, sock: socket.socket, name: str, tls: ssl.SSLContext | None) -> None:
        self._server, self._sock, self.name, self._tls = server, sock, name, tls
        self._attached = Attached()
        self._session: Session | None = None
        self._connection: Connection | None = None
        self._shared = 0  # bytes of the last answer that lie in a slot
        self._slow_at = 0.0  # when the frame under way takes too long
        self.busy = True

    def abort(self) -> None:
        """Make the thread end; from any other."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._attached.close()
        if self._session is not None:
            self._session.close()
        self._sock.close()

    def run(self) -> None:
        limits = self._server.limits
        try:
            if self._tls is not None:
                self._sock.settimeout(limits.frame_s)
                self._sock = self._tls.wrap_socket(self._sock, server_side=True)
            connection = self._connection = Connection(self._sock, self.name)
        except OSError:
            return
        connection.on_part = self._check
        try:
            while not self._server.stopping.is_set():
                self._slow_at = time.monotonic() + (limits.frame_s if self._session is None else limits.idle_s)
                self.busy = self._session is None
                header, descriptors = connection.receive_header(limits.frames, self._check, self._first)
                try:
                    self._take(connection, header, descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
        except (OSError, EOFError, _StopError):
            pass
        except (ProtocolError, LimitError) as error:
            self._server.observer.refused("limit" if isinstance(error, LimitError) else "garbage")
            _LOGGER.info("%s", error)
            _turn_away(self._sock, error)

    def _first(self) -> None:
        self.busy = True
        self._slow_at = time.monotonic() + self._server.limits.frame_s

    def _check(self) -> None:
        """At each tick without a byte, and whenever a frame comes or goes in parts."""
        if time.monotonic() >= self._slow_at:
            self._server.observer.refused("slow")
            raise _StopError
        if self._server.stopping.is_set() and not self.busy:
            raise _StopError

    def _allow(self, size: int) -> None:
        self._slow_at = time.monotonic() + self._server.limits.frame_s + size / BYTES_PER_S_MIN

    def _take(self, connection: Connection, header: Header, descriptors: list[int]) -> None:
        self._allow(header.head_bytes + header.payload_bytes)
        if header.kind == Kind.ATTACH:
            self._attach(connection, header, descriptors)
            return
        meta, entries = connection.receive_head(header, self._check)
        arrays = read_arrays(connection, header, entries, np.empty(header.payload_bytes, np.uint8), None, self._check)
        if header.kind == Kind.PING:
            self._send([*frame(Kind.ANSWER, header.request)])
        elif header.kind == Kind.HELLO and self._session is None:
            self._greet(header, meta)
        elif header.kind == Kind.INFO and self._session is not None:
            self._tell(header, self._session.welcome)
        elif header.kind in (Kind.QUERY, Kind.SHARD) and self._session is not None:
            self._answer(connection, self._session, header, meta, arrays)
        else:
            raise unexpected(connection, header)

    def _attach(self, connection: Connection, header: Header, descriptors: list[int]) -> None:
        if header.head_bytes or header.payload_bytes or not header.slot or self._session is None:
            raise unexpected(connection, header)
        if not header.room:
            self._attached.detach(header.slot - 1)
            return
        if len(descriptors) != 1:
            raise ProtocolError(self.name, f"a slot with {len(descriptors)} descriptors")
        self._attached.attach(header.slot - 1, header.room, descriptors[0], self.name)

    def _greet(self, header: Header, meta: memoryview) -> None:
        hello = decode_hello(meta, self.name)

        def greet() -> Welcome:
            self._session = self._server.service.greet(hello)
            return self._session.welcome()

        self._tell(header, greet)

    def _tell(self, header: Header, welcome: Callable[[], Welcome]) -> None:
        try:
            told = encode(welcome())
        except FondacoError as error:
            self._server.observer.refused("greeting")
            self._send(frame(Kind.ERROR, header.request, error_body(error)))
            return
        self._send(frame(Kind.ANSWER, header.request, told))

    def _answer(self, connection: Connection, session: Session, header: Header, meta: memoryview, arrays: dict[str, Array]) -> None:
        observer, begun = self._server.observer, time.perf_counter()
        received = header.head_bytes + header.payload_bytes
        sent, self._shared = connection.sent, 0
        told: FondacoError | None = None
        observer.begun()
        try:
            pieces = self._pieces(session, header, meta, arrays)
            self._send(pieces)
        except (OSError, _StopError):
            told = UnavailableError(self.name, "it was gone before its answer was sent")
            raise
        except FondacoError as error:
            told = error
            self._send(frame(Kind.ERROR, header.request, error_body(error)))
        except Exception as exc:
            _LOGGER.exception("a query failed by a mistake of ours")
            failed = told = FondacoError(f"the graph server failed: {type(exc).__name__}: {exc}")
            self._send(frame(Kind.ERROR, header.request, error_body(failed)))
        finally:
            seconds = time.perf_counter() - begun
            observer.ended(Kind(header.kind), _call_of(meta), seconds, received, connection.sent - sent, self._shared, told)

    def _pieces(self, session: Session, header: Header, meta: memoryview, arrays: dict[str, Array]) -> list[bytes | memoryview]:
        deadline = Deadline(header.deadline_ms / 1000 if header.deadline_ms else None)
        slot = self._attached.find(header.slot - 1) if header.slot else None
        memory = AnswerMemory(slot, self._server.pool)
        kind = Kind(header.kind)
        with _passed(self._server.gates[kind], deadline):
            answered = session.answer(header, meta, arrays, memory, deadline)
        found = {name: np.ascontiguousarray(array) for name, array in answered.arrays.items()}
        placed = memory.place(found)
        self._shared = sum(found[name].nbytes for name in placed)
        return frame(
            Kind.ANSWER,
            header.request,
            answered.meta,
            found,
            placed=placed,
            slot=header.slot if placed else 0,
            room=room_of(found),
            graph_version=answered.graph_version,
        )

    def _send(self, pieces: list[bytes | memoryview]) -> None:
        assert self._connection is not None
        self._allow(sum(map(len, pieces)))
        self._connection.send(pieces, self._check)


class _Tagged(msgspec.Struct):
    type: str


_TAGGED: Final = msgspec.msgpack.Decoder(_Tagged)


def _call_of(meta: memoryview) -> str:
    """The name of a query, by which it is counted."""
    try:
        return _TAGGED.decode(meta).type
    except msgspec.MsgspecError:
        return "unknown"


@contextlib.contextmanager
def _passed(gate: threading.BoundedSemaphore, deadline: Deadline) -> Iterator[None]:
    if not gate.acquire(timeout=deadline.left_s()):
        raise DeadlineExceededError(deadline.what, deadline.seconds or 0.0, "the server was busy with others")
    try:
        yield
    finally:
        gate.release()


def _turn_away(sock: socket.socket, error: FondacoError) -> None:
    """Say why, and close so that it arrives: what the client still sends is read and thrown away."""
    with contextlib.suppress(OSError), sock:
        sock.settimeout(TICK_S)
        sock.sendall(b"".join(frame(Kind.ERROR, 0, error_body(error))))
        sock.shutdown(socket.SHUT_WR)
        until, left, piece = time.monotonic() + _REFUSED_S, _REFUSED_BYTES_MAX, bytearray(1 << 18)
        while left > 0 and time.monotonic() < until:
            count = sock.recv_into(piece)
            if not count:
                return
            left -= count


def _listen_tcp(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as exc:
        raise InputError(
            f"{host}:{port} cannot be listened on ({exc.strerror or exc}); choose another with --host and --port, or stop who is there"
        ) from None


def _listen_unix(path: str) -> socket.socket:
    if not path.startswith("@"):
        if os.sep not in path:
            raise InputError(f"{path!r} is no Unix socket: write a path with a slash, @{path} for a name without a file, auto or none")
        _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(Address(path=path).unix_name)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise InputError(f"the Unix socket {path!r} cannot be listened on ({exc.strerror or exc}); choose another with --unix") from None
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that was killed; any other file stays."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(TICK_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(path)
        except OSError:
            pass
