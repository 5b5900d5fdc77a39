"""Protocol: HTTP/1.1 as a client speaks it, without I/O: request to bytes, bytes to answer. Shared by the sync and the async clients.

A server's heads repeat: the answers to many gets differ in nothing but the length and perhaps the schema. So a head is parsed once, by
httptools, and remembered by its bytes (`Heads`); the next equal one costs a dictionary look-up. Bodies with a `Content-Length` are taken
as they lie; chunked ones go through the C parser.

`Heads` may be shared by threads (a lost race parses twice). An `AnswerReader` belongs to one exchange.
Source: RFC 9112 (HTTP/1.1); RFC 9110 (HTTP semantics).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fondaco.core.errors import InputError, ProtocolError
from fondaco.dataplane.wire import DEADLINE_MS

HEAD_BYTES_MAX: Final = 64 << 10
BODY_BYTES_MAX: Final = 4 << 30  # a server that announces more is not believed
HEADS_KEPT: Final = 4096
_END: Final = b"\r\n\r\n"
_DEADLINE: Final = DEADLINE_MS.encode()


@dataclass(frozen=True, slots=True)
class Request:
    """One request, but for what depends on the connection (host, token) and the moment (time left).

    `repeatable`: sent twice is the same as sent once. One that is not goes out on a new connection, so that it cannot meet one that the
    server was just closing, and is never sent again.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    repeatable: bool = True

    def render(self, fixed: bytes, deadline_ms: int) -> bytes:
        """The bytes to send.

        Args:
            fixed: the head lines of the connection, each ended (`fixed_lines`).
            deadline_ms: milliseconds left.
        """
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
        length = f"Content-Length: {len(self.body)}\r\n" if self.body or self.method in ("POST", "PUT", "PATCH") else ""
        return b"%b %b HTTP/1.1\r\n%b%b: %d\r\n%b\r\n%b" % (
            self.method.encode(), self.target.encode("ascii"), fixed, _DEADLINE, deadline_ms, (lines + length).encode("latin-1"), self.body,
        )  # fmt: skip


def fixed_lines(host: str, token: str | None) -> bytes:
    """Head lines that every request on a connection has.

    Raises:
        InputError: a token that no header can carry.
    """
    if token is None:
        return f"Host: {host}\r\n".encode("ascii")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError("a token is visible ASCII characters without spaces; this one is not (is it cut, or a whole line of a file?)")
    return f"Host: {host}\r\nAuthorization: Bearer {token}\r\n".encode("ascii")


# -- answers ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """A parsed head. Names of headers are in lower case. `length`: bytes of the body; None: chunked, or up to the end."""

    status: int
    headers: dict[str, str]
    length: int | None
    chunked: bool
    keep_alive: bool


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    head: Head
    body: bytes | bytearray | memoryview

    @property
    def status(self) -> int:
        return self.head.status

    def header(self, name: str) -> str | None:
        """A header by its name in any case; None if there is none."""
        return self.head.headers.get(name.lower())

    def number(self, name: str, peer: str) -> int | None:
        """A header that is a whole number.

        Raises:
            ProtocolError: it is something else.
        """
        text = self.header(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit():
            raise ProtocolError(peer, f"the header {name} is {text[:40]!r}, not a number")
        return int(text)


class Heads:
    """Heads that were met, parsed; by their bytes without the empty line at the end."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def parse(self, data: bytes) -> Head:
        """The head that `data` is.

        Raises:
            ProtocolError: it is no HTTP/1.1 head (the peer is named by the caller, so it is empty here).
        """
        known = self._known.get(data)
        if known is None:
            known = _parse_head(data)
            if len(self._known) >= HEADS_KEPT:
                self._known.clear()
            self._known[data] = known
        return known


@dataclass(slots=True)
class AnswerReader:
    """Takes the bytes of one answer as they come."""

    heads: Heads
    peer: str
    body_bytes_max: int = BODY_BYTES_MAX
    started: bool = False  # whether anything came
    answer: Answer | None = None
    reusable: bool = False  # whether the connection is good for another exchange
    _held: bytearray = field(default_factory=bytearray)
    _head: Head | None = None
    _filled: int = 0
    _body: bytearray = field(default_factory=bytearray)
    _chunks: _Chunks | None = None

    def feed(self, data: bytes | memoryview) -> bool:
        """Take what arrived; whether the answer is whole.

        Raises:
            ProtocolError: it is no HTTP, or not an answer one could hold.
        """
        self.started = True
        if self._head is None:
            if self._held:
                self._held += data
                data = bytes(self._held)
            rest = self._take_head(bytes(data))
            if rest is None:
                return False
            data = rest
        return self._take_body(data)

    def end(self) -> bool:
        """The peer has closed; whether that makes the answer whole."""
        head = self._head
        if head is not None and head.length is None and not head.chunked:
            self.answer = Answer(head, self._body)
            return True
        return False

    def _take_head(self, data: bytes) -> bytes | None:
        """What follows the head in `data`; None if the head is not whole yet."""
        while True:
            end = data.find(_END)
            if end < 0:
                if len(data) > HEAD_BYTES_MAX:
                    raise ProtocolError(self.peer, f"a head of more than {HEAD_BYTES_MAX} bytes")
                if not b"HTTP/1.".startswith(data[:7]):
                    raise ProtocolError(self.peer, f"{data[:60]!r} where HTTP/1.1 begins")
                self._held = bytearray(data)
                return None
            try:
                head = self.heads.parse(data[:end])
            except ProtocolError as exc:
                raise ProtocolError(self.peer, exc.reason) from None
            data = data[end + 4 :]
            if head.status >= 200:
                break
        self._head = head
        if head.length is not None:
            if head.length > self.body_bytes_max:
                raise ProtocolError(self.peer, f"an answer of {head.length} bytes, more than the {self.body_bytes_max} taken")
            self._body = bytearray()
        elif head.chunked:
            self._chunks = _Chunks(self.peer, self.body_bytes_max)
        return data

    def _take_body(self, data: bytes | memoryview) -> bool:
        head = self._head
        assert head is not None
        if self._chunks is not None:
            if not self._chunks.feed(data):
                return False
            self.answer, self.reusable = Answer(head, self._chunks.body), head.keep_alive and not self._chunks.surplus
            return True
        if head.length is None:
            self._body += data
            if len(self._body) > self.body_bytes_max:
                raise ProtocolError(self.peer, f"an answer of more than the {self.body_bytes_max} bytes taken")
            return False
        if not self._filled and len(data) >= head.length:  # all at once, as usual
            body: bytes | bytearray | memoryview = data if len(data) == head.length else bytes(data[: head.length])
            self.answer, self.reusable = Answer(head, body), head.keep_alive and len(data) == head.length
            return True
        if not self._filled:
            self._body = bytearray(head.length)
        taken = min(len(data), head.length - self._filled)
        self._body[self._filled : self._filled + taken] = data[:taken]
        self._filled += taken
        if self._filled < head.length:
            return False
        self.answer, self.reusable = Answer(head, self._body), head.keep_alive and taken == len(data)
        return True


def _parse_head(data: bytes) -> Head:
    import httptools

    class Events:
        def __init__(self) -> None:
            self.headers: dict[str, str] = {}
            self.complete = False

        def on_header(self, name: bytes, value: bytes) -> None:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

        def on_headers_complete(self) -> None:
            self.complete = True

    events = Events()
    parser = httptools.HttpResponseParser(events)
    if len(data) > HEAD_BYTES_MAX:
        raise ProtocolError("", f"a head of more than {HEAD_BYTES_MAX} bytes")
    try:
        parser.feed_data(data + _END)
    except Exception as exc:  # httptools raises several classes, and for some input plain ones of its callbacks
        raise ProtocolError("", f"{data[:60]!r} is no head of HTTP/1.1 ({exc})") from None
    if not events.complete or parser.get_http_version() != "1.1":
        raise ProtocolError("", f"{data[:60]!r} is no head of HTTP/1.1")
    status = parser.get_status_code()
    chunked = "chunked" in events.headers.get("transfer-encoding", "").lower()
    text = events.headers.get("content-length")
    length = None
    if status in (204, 304) or status < 200:
        length, chunked = 0, False
    elif text is not None and not chunked:
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise ProtocolError("", f"a Content-Length of {text[:40]!r}")
        length = int(text)
    closing = "close" in events.headers.get("connection", "").lower()
    return Head(status, events.headers, length, chunked, not closing and (length is not None or chunked))


class _Chunks:
    """A chunked body, read by httptools behind a head of its own."""

    def __init__(self, peer: str, bytes_max: int) -> None:
        import httptools

        self._peer, self._bytes_max = peer, bytes_max
        self.body = bytearray()
        self.complete = self.surplus = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def on_message_begin(self) -> None:
        self.surplus = self.surplus or self.complete

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes | memoryview) -> bool:
        """Whether the body is whole."""
        if not len(data):
            return False
        try:
            self._parser.feed_data(data)
        except Exception as exc:
            if not self.complete:
                raise ProtocolError(self._peer, f"a chunked answer that breaks HTTP/1.1 ({exc})") from None
            self.surplus = True
        if len(self.body) > self._bytes_max:
            raise ProtocolError(self._peer, f"an answer of more than the {self._bytes_max} bytes taken")
        return self.complete
