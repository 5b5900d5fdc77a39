"""Connections: frames over a blocking socket, TCP, TLS or Unix, with a tick at which whoever waits may give up.

The kernel itself returns from a wait after the tick (SO_RCVTIMEO), so sending and receiving 24 MB takes a few system calls and no poll.
What came late is never read: an exchange that ends otherwise than by its answer closes the connection.
One exchange at a time; `abort` alone may be called from another thread.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fondaco.core.errors import InputError, ProtocolError
from fondaco.graph.service.frames import (
    HEADER_BYTES,
    Array,
    Entry,
    Header,
    Limits,
    Place,
    arrays_of,
    bytes_of,
    parse_header,
    parse_table,
    size_of,
)
from fondaco.graph.service.ring import Bytes

TICK_S: Final = 0.25
PIECES_MAX: Final = 512  # of one sendmsg; the kernel takes 1024
SOCKET_BYTES: Final = 256 << 10  # of the kernel's buffers on one machine: what waits in them stays in the processor's cache (9.3 -> 7.3 ms)
TLS_BYTES: Final = 256 << 10
DESCRIPTORS_MAX: Final = 4  # taken from one message, to be closed if nobody asked for them
_TIMEVAL: Final = struct.Struct("ll")
_UNIX: Final = "unix:"

OnTick = Callable[[], None]
"""Called when a tick passed without a byte; raises to stop."""


class Connection:
    """One socket. `peer` says in messages who is at the other end."""

    def __init__(self, sock: socket.socket, peer: str, *, tick_s: float = TICK_S) -> None:
        self.sock, self.peer = sock, peer
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._unix = sock.family == socket.AF_UNIX
        self._tick_s = 0.0
        self._header = bytearray(HEADER_BYTES)
        self.received = 0  # bytes, in all
        self.sent = 0
        self.on_part: OnTick | None = None  # called when some bytes of a frame have passed and others not; who drips them is stopped there
        if not self._tls:
            sock.setblocking(True)
        if _is_near(sock):  # across a network the kernel finds out by itself how much is under way
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
        if not self._unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.set_tick(tick_s)

    @property
    def is_unix(self) -> bool:
        """Whether descriptors can be passed."""
        return self._unix

    def set_tick(self, seconds: float) -> None:
        """How long a wait may be silent before `on_tick` is called."""
        seconds = max(seconds, 0.001)
        if seconds == self._tick_s:
            return
        self._tick_s = seconds
        if self._tls:
            self.sock.settimeout(seconds)
            return
        value = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    # -- sending ------------------------------------------------------------------------------------------------------------------------

    def send(self, pieces: Sequence[bytes | memoryview], on_tick: OnTick, descriptor: int | None = None) -> None:
        """Send all of it, and a descriptor along with the first byte.

        Raises:
            OSError: the connection is lost; and what `on_tick` raises.
        """
        if self._tls:
            for piece in pieces:
                self._send_tls(memoryview(piece), on_tick)
            return
        views = [memoryview(piece) for piece in pieces if len(piece)]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))] if descriptor is not None else []
        first = 0
        while first < len(views):
            try:
                count = self.sock.sendmsg(views[first : first + PIECES_MAX], rights)
            except BlockingIOError:
                on_tick()
                continue
            rights = []
            self.sent += count
            first = self._passed(views, first, count)

    def _passed(self, views: list[memoryview], first: int, count: int) -> int:
        """Cut `count` bytes off `views[first:]`; the first that is not done."""
        while count and count >= len(views[first]):
            count -= len(views[first])
            first += 1
        if count:
            views[first] = views[first][count:]
        if first < len(views) and self.on_part is not None:
            self.on_part()
        return first

    def _send_tls(self, piece: memoryview, on_tick: OnTick) -> None:
        while piece:
            try:
                count = self.sock.send(piece[:TLS_BYTES])
            except TimeoutError:
                on_tick()
                continue
            self.sent += count
            piece = piece[count:]
            if piece and self.on_part is not None:
                self.on_part()

    # -- receiving ----------------------------------------------------------------------------------------------------------------------

    def receive_header(self, limits: Limits, on_tick: OnTick, on_first: OnTick | None = None) -> tuple[Header, list[int]]:
        """The header of the next frame, and descriptors that came with it, which are then the caller's to close.

        Args:
            on_first: called once the first byte is there.
        Raises:
            EOFError: the other side closed. OSError: it is lost. ProtocolError, LimitError; and what `on_tick` raises.
        """
        view = memoryview(self._header)
        descriptors: list[int] = []
        try:
            if self._unix:
                count, descriptors = self._receive_descriptors(view, on_tick)
            else:
                count = self._receive_some(view, on_tick)
            if on_first is not None:
                on_first()
            self._receive_all([view[count:]], on_tick)
            return parse_header(self._header, limits, self.peer), descriptors
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def _receive_descriptors(self, view: memoryview, on_tick: OnTick) -> tuple[int, list[int]]:
        space = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)
        while True:
            try:
                count, ancillary, _, _ = self.sock.recvmsg_into([view], space, socket.MSG_CMSG_CLOEXEC)
                break
            except BlockingIOError:
                on_tick()
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % 4])
        if not count:
            for descriptor in descriptors:
                os.close(descriptor)
            raise EOFError(f"{self.peer} closed the connection")
        self.received += count
        return count, list(descriptors)

    def _receive_some(self, view: memoryview, on_tick: OnTick) -> int:
        while True:
            try:
                count = self.sock.recv_into(view)
                break
            except (BlockingIOError, TimeoutError):
                on_tick()
        if not count:
            raise EOFError(f"{self.peer} closed the connection")
        self.received += count
        return count

    def _receive_all(self, views: list[memoryview], on_tick: OnTick) -> None:
        views = [view for view in views if len(view)]
        first = 0
        while first < len(views):
            if self._tls:
                count = self._receive_some(views[first], on_tick)
            else:
                try:
                    count = self.sock.recvmsg_into(views[first : first + PIECES_MAX], 0, socket.MSG_WAITALL)[0]
                except BlockingIOError:
                    on_tick()
                    continue
                if not count:
                    raise EOFError(f"{self.peer} closed the connection")
                self.received += count
            first = self._passed(views, first, count)

    def receive_head(self, header: Header, on_tick: OnTick) -> tuple[memoryview, tuple[Entry, ...]]:
        """Meta and table of a frame.

        Raises:
            as `receive_header`.
        """
        head = bytearray(header.head_bytes)
        self._receive_all([memoryview(head)], on_tick)
        view = memoryview(head)
        return view[: header.meta_bytes], parse_table(view[header.meta_bytes :], header, self.peer)

    def receive_payload(
        self, header: Header, entries: Sequence[Entry], memory: Bytes, on_tick: OnTick, sinks: Mapping[str, Array] | None = None
    ) -> None:
        """The payload of a frame.

        Args:
            memory: at least as many bytes as are announced. sinks: where the bytes of some arrays go instead; they fit.
        Raises:
            as `receive_header`.
        """
        whole = memory.data[: header.payload_bytes]
        if not sinks:
            self._receive_all([whole], on_tick)
            return
        views: list[memoryview] = []
        position = 0
        for entry in sorted(entries, key=lambda entry: entry.offset):
            sink = sinks.get(entry.name)
            if entry.place != Place.PAYLOAD or sink is None or not sink.nbytes or entry.offset < position:
                continue
            views += [whole[position : entry.offset], bytes_of(sink)]
            position = entry.offset + size_of(entry)
        self._receive_all([*views, whole[position:]], on_tick)

    # -- the end ------------------------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Make whoever waits on it stop; from any thread. `close` is still due."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def _is_near(sock: socket.socket) -> bool:
    if sock.family == socket.AF_UNIX:
        return True
    try:
        return bool(sock.getpeername()[0] == sock.getsockname()[0])
    except OSError:  # it is gone already, which the first byte will show
        return False


def read_arrays(
    connection: Connection,
    header: Header,
    entries: Sequence[Entry],
    memory: Bytes,
    region: Bytes | None,
    on_tick: OnTick,
    sinks: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Receive the payload; the arrays of the frame as views of `memory` and `region`. Those that fit one of `sinks` are written there.

    Raises:
        as `Connection.receive_header`.
    """
    taken = {entry.name: sinks[entry.name] for entry in entries if _fits(entry, sinks.get(entry.name))} if sinks else {}
    connection.receive_payload(header, entries, memory, on_tick, taken)
    arrays = arrays_of(entries, memory, region, connection.peer)
    for entry in entries:
        if entry.name in taken:
            if entry.place == Place.REGION:
                taken[entry.name][...] = arrays[entry.name]
            arrays[entry.name] = taken[entry.name]
    return arrays


def _fits(entry: Entry, sink: Array | None) -> bool:
    return sink is not None and sink.flags.c_contiguous and sink.shape == entry.shape and sink.dtype.name == entry.dtype


# -- addresses ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: `host:port`, `[::1]:port`, `unix:/path`, or `unix:@name` for a name without a file."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """
        Raises:
            InputError: it is none.
        """
        text = text.strip()
        if text.startswith(_UNIX) and len(text) > len(_UNIX):
            return cls(path=text.removeprefix(_UNIX))
        host, colon, port = text.removeprefix("tcp://").rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536):
            raise InputError(f"{text!r} is no address of a graph server; write host:port, as 127.0.0.1:7080, or unix:/path")
        return cls(host, int(port))

    def __str__(self) -> str:
        if self.path:
            return _UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def unix_name(self) -> str:
        """As the kernel wants it: names without a file begin with a zero byte."""
        return "\0" + self.path[1:] if self.path.startswith("@") else self.path


def dial(address: Address, seconds: float, tls: ssl.SSLContext | None = None) -> socket.socket:
    """Connect.

    Raises:
        OSError: nobody is there, or not within so long.
    """
    if address.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(seconds, 0.001))
            sock.connect(address.unix_name)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((address.host, address.port), timeout=max(seconds, 0.001))
    if tls is None:
        return sock
    try:
        return tls.wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise


def unexpected(connection: Connection, header: Header) -> ProtocolError:
    """The error for a frame that has no place here."""
    return ProtocolError(connection.peer, f"a frame of kind {header.kind}, request {header.request}, which nothing waits for")
