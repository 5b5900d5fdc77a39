"""HTTP: one connection of the server, from bytes to requests and from answers to bytes. It knows nothing of stores.

HTTP/1.1 and 1.0 (RFC 9112), parsed by httptools: keep-alive, pipelining, chunked bodies both ways, HEAD, `Expect: 100-continue`,
half-closed connections. Requests of one connection are answered one after the other, in order. The application makes of a `Request`

    bytes       a whole response, for what is asked most
    Answer      a response to be written; its body is bytes, pieces, or pieces that are still being made (sent chunked)
    Work        a function that gives a coroutine of an Answer: run as a task, waited for, and cancelled if the client goes away

A client's heads repeat: its gets differ in nothing but the target. So the head of a GET that `get_now` may answer is parsed once and
remembered by its bytes; the next equal one costs a look-up and a check of the request line, and is answered without a request being made.

Back-pressure: while `WRITE_HIGH` bytes wait for a slow reader nothing more is computed for that connection, and while `PIPELINE_MAX`
requests wait nothing more is read from it. A reader that takes nothing for `idle_s` is cut off. After `TURN_REQUESTS` answers the other
connections get their turn. What is refused before it was read completely is answered, and then the connection is read to its end for a
moment, because a reset would take the answer away from the client.

One event loop, one thread; nothing here blocks.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from email.utils import formatdate
from typing import Any, Final, Protocol, TypeAlias, cast

import httptools

from fondaco.core.errors import DeadlineExceededError, FondacoError, InputError, LimitError, UnavailableError
from fondaco.dataplane import wire
from fondaco.dataplane.limits import BODY_BYTES_PER_S, HEAD_BYTES_MAX, LINGER_S, PIPELINE_MAX, TURN_REQUESTS, WRITE_HIGH, Limits

Piece: TypeAlias = bytes | memoryview
_LOGGER = logging.getLogger(__name__)

_REASONS: Final = {
    200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict", 411: "Length Required", 413: "Content Too Large",
    414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported", 507: "Insufficient Storage",
}  # fmt: skip
_REQUEST_LINE: Final = re.compile(rb"GET (/[!-~]*) HTTP/1\.1")
_UNKNOWN: Final[Any] = object()
_HEADS_MAX: Final = 1024
_HEAD_REMEMBERED: Final = 2048  # bytes of a request whose head is kept
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request:
    """One request: all of it, body included.

    Attributes:
        target: path and query as sent. headers: by lower-case name; one sent twice is a list with a comma, so two tokens are none.
        deadline: time on the loop's clock after which nobody waits; infinity if none was given.
        plain: nothing special about the response: HTTP/1.1, kept alive, not HEAD.
    """

    __slots__ = ("arrived", "body", "deadline", "headers", "keep_alive", "method", "plain", "target", "version")

    def __init__(self, method: bytes, target: bytes, headers: dict[bytes, bytes], version: str, keep_alive: bool, arrived: float) -> None:
        self.method, self.target, self.headers, self.version, self.keep_alive = method, target, headers, version, keep_alive
        self.body: bytes | bytearray = b""
        self.arrived = arrived
        self.deadline = _FOREVER
        self.plain = keep_alive and version == "1.1" and method != b"HEAD"


_FOREVER: Final = float("inf")


class Answer:
    """One response. `headers` are whole lines; `body` is bytes, pieces, or pieces as they are made."""

    __slots__ = ("body", "close", "headers", "media", "status")

    def __init__(
        self,
        status: int,
        body: Piece | Sequence[Piece] | AsyncIterator[Sequence[Piece]] = b"",
        media: str = wire.JSON,
        headers: Sequence[bytes] = (),
        *,
        close: bool = False,
    ) -> None:
        self.status, self.body, self.media, self.headers, self.close = status, body, media, headers, close


def refusal(error: FondacoError, status: int | None = None, *, headers: Sequence[bytes] = (), close: bool = False) -> Answer:
    """The answer that carries an error; `status` if its class does not say it all."""
    seconds = wire.retry_after(error)
    lines = [*headers, *(() if seconds is None else (b"retry-after: %d\r\n" % seconds,))]
    return Answer(wire.status_of(error) if status is None else status, wire.error_body(error), wire.JSON, lines, close=close)


Work: TypeAlias = Callable[
    [], Coroutine[Any, Any, Answer]
]  # not the coroutine itself: a task that is cancelled before it begins never runs it


class Application(Protocol):
    """What the server asks for answers. It raises nothing."""

    def __call__(self, request: Request) -> bytes | Answer | Work:
        """The answer to a request."""
        ...

    def refuse_head(self, request: Request) -> Answer | None:
        """What can be refused of a request whose body is not there yet, for a client that asked first (`Expect`)."""
        ...

    def is_usual(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether `get_now` may answer a plain GET with these headers."""
        ...

    def get_now(self, target: bytes, authorization: bytes | None) -> bytes | None:
        """The whole response to such a GET, or None: then it is asked as any other request."""
        ...


class HttpServer:
    """What the connections of one server share: the application, limits, tasks, and the count of everything."""

    def __init__(self, application: Application, limits: Limits, tasks: asyncio.TaskGroup) -> None:
        self.application, self.limits, self.tasks = application, limits, tasks
        self.get_now = application.get_now
        self.heads: dict[bytes, bytes | None] = {}  # from the end of the request line on, of GETs for `get_now`: their Authorization
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.body_bytes = 0  # of all requests in flight
        self.accepted = self.requests = self.timeouts = self.malformed = 0
        self.closing = False
        self.date = b""
        self._tick()

    def connection(self) -> Connection:
        """The protocol of a new connection (for `create_server`)."""
        return Connection(self)

    def close_idle(self) -> None:
        """From now on each connection is closed as soon as it owes no answer."""
        self.closing = True
        for connection in list(self.connections):
            connection.close_when_done()

    def abort(self) -> None:
        """Cut off whoever is left."""
        for connection in list(self.connections):
            connection.abort()

    def sweep(self) -> None:
        """Close what is idle, slow or stuck; call it about twice a second."""
        self._tick()
        now = self.loop.time()
        for connection in list(self.connections):
            connection.check(now)

    def _tick(self) -> None:
        self.date = b"date: %s\r\n" % formatdate(usegmt=True).encode()


class Connection(asyncio.Protocol):
    """One connection; see the module."""

    def __init__(self, server: HttpServer) -> None:
        self._server, self._loop = server, server.loop
        self.transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpRequestParser(self)
        self._pending: deque[Request | Answer] = deque()  # an Answer here is a refusal: nothing is read after it
        self._task: asyncio.Task[None] | None = None
        self._scheduled = self._write_paused = self._reading_paused = self._deaf = self._eof = self._expects = self._tls = False
        self._writable: asyncio.Future[None] | None = None
        self._last_active = self._loop.time()
        self._head_started: float | None = None  # since when a request is incomplete
        self._linger_until = self._stuck_since = _FOREVER
        self._stuck_size = 0
        self._start_request()

    def _start_request(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._head_size = self._body_size = self._loose_size = 0
        self._moved = False  # whether the last bytes brought the end of a head, or body

    # -- the transport's side -----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._tls = self.transport.get_extra_info("sslcontext") is not None
        server = self._server
        server.accepted += 1
        server.connections.add(self)
        if len(server.connections) > server.limits.connections_max:
            reason = f"it has {server.limits.connections_max} connections, as many as it takes"
            self._refuse(refusal(UnavailableError("this server", reason)))
        elif server.closing:
            self._refuse(refusal(UnavailableError("this server", "it is stopping")))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._deaf = True
        self._forget(self._body_size)
        for request in self._pending:
            if isinstance(request, Request):
                self._forget(len(request.body))
        self._pending.clear()
        if self._task is not None:
            self._task.cancel()
        self.resume_writing()
        self._parser = self.transport = None

    def eof_received(self) -> bool:
        self._eof = True
        if self._head_started is not None:
            self._deaf = True  # the rest of this request will never come
        return self._owes and not self._tls  # True: the client may still want what it asked for; TLS has no half-closed connections

    def pause_writing(self) -> None:
        self._write_paused = True
        self._stuck_since = self._loop.time()
        self._stuck_size = -1

    def resume_writing(self) -> None:
        self._write_paused = False
        self._stuck_since = _FOREVER
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None
        elif self.transport is not None:
            self._proceed()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        alone = self._head_started is None and not self._pending and self._task is None
        if alone and not self._write_paused and self._answer_now(data):
            return
        whole = data if alone and len(data) <= _HEAD_REMEMBERED and data.startswith(b"GET ") else None
        self._moved = False
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:  # we speak nothing else, so it is a request like any other
                data = data[exc.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
                if data and not self._deaf:
                    continue
            except httptools.HttpParserError as exc:
                if not self._deaf:
                    self._server.malformed += 1
                    self._refuse(refusal(InputError(f"not a request of HTTP/1.1: {exc}")))
            break
        if self._head_started is not None and not self._deaf:
            self._count_loose(len(data))
        if self._pending:
            if whole is not None and len(self._pending) == 1 and self._head_started is None:
                self._remember(whole, self._pending[0])
            self._proceed()

    def _answer_now(self, data: bytes) -> bool:
        """Answer a GET whose head was met before, if that needs nothing but the answer."""
        server, end = self._server, data.find(b"\r\n")
        authorization = server.heads.get(data[end:], _UNKNOWN)
        if authorization is _UNKNOWN or server.closing:
            return False
        line = _REQUEST_LINE.fullmatch(data, 0, end)
        if line is None:
            return False
        response = server.get_now(line[1], authorization)
        if response is None:
            return False
        server.requests += 1
        self.transport.write(response)  # type: ignore[union-attr]  # there is one while data comes
        self._last_active = self._loop.time()
        return True

    def _remember(self, data: bytes, request: Request | Answer) -> None:
        """Keep the head of a request that was all there was, if the next like it may be answered at once."""
        if not isinstance(request, Request) or not request.plain or request.body or request.method != b"GET":
            return
        end, heads = data.find(b"\r\n"), self._server.heads
        if (
            data.find(b"\r\n\r\n") == len(data) - 4
            and _REQUEST_LINE.fullmatch(data, 0, end)
            and self._server.application.is_usual(request.headers)
        ):
            if len(heads) >= _HEADS_MAX:
                heads.clear()
            heads[data[end:]] = request.headers.get(b"authorization")

    # -- the parser's side --------------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._start_request()
        self._head_started = self._loop.time()

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._head_size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_size < 0:
            return  # a trailer: whoever checked the head of this request did not see it, so it says nothing
        name = name.lower()
        before = self._headers.get(name)
        self._headers[name] = value if before is None else before + b", " + value
        self._head_size += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        headers, limits = self._headers, self._server.limits
        self._check_head_size()
        self._head_size = -1  # complete; what follows counts as body
        self._moved = True
        if self._deaf:
            return
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            self._refuse(refusal(InputError(f"Transfer-Encoding is chunked, or there is none, not {coding.decode('latin-1')[:80]!r}")))
            return
        content = headers.get(b"content-encoding", b"identity")
        if content.lower() != b"identity":
            self._refuse(
                refusal(InputError(f"bodies are taken as they are, not with Content-Encoding {content.decode('latin-1')[:80]!r}"), 415)
            )
            return
        length = headers.get(b"content-length")
        if length is not None and int(length) > limits.request_bytes_max:
            self._refuse(refusal(LimitError("the body of a request, in bytes", int(length), limits.request_bytes_max)))
        elif b"expect" in headers:
            self._expect(headers[b"expect"])

    def _expect(self, expectation: bytes) -> None:
        if expectation.lower() != b"100-continue":
            self._refuse(refusal(InputError(f"Expect: {expectation.decode('latin-1')[:80]!r} is nothing that can be expected here"), 417))
            return
        refused = self._server.application.refuse_head(self._request())
        if refused is not None:
            self._refuse(refused)
        elif self._owes:
            self._expects = True  # the answers before it go first
        elif self.transport is not None:
            self.transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._moved = True
        if self._deaf:
            return
        limits, server = self._server.limits, self._server
        self._body_size += len(body)
        server.body_bytes += len(body)
        if self._body_size > limits.request_bytes_max:  # of one without a length
            self._refuse(refusal(LimitError("the body of a request, in bytes", self._body_size, limits.request_bytes_max)))
        elif server.body_bytes > limits.bodies_bytes_max:
            reason = f"it holds {server.body_bytes} bytes of requests, more than {limits.bodies_bytes_max}"
            self._refuse(refusal(UnavailableError("this server", reason)))
        elif not self._body:
            self._body = body
        else:
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        request = self._request()
        request.body = self._body
        self._head_started, self._body, self._body_size = None, b"", 0
        self._expects = False
        self._server.requests += 1
        self._pending.append(request)
        if not request.keep_alive:
            self._deaf = True
        elif len(self._pending) >= PIPELINE_MAX and not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _request(self) -> Request:
        parser = self._parser
        keep_alive = parser.should_keep_alive() and not self._server.closing
        return Request(parser.get_method(), self._target, self._headers, parser.get_http_version(), keep_alive, self._loop.time())

    def _count_loose(self, size: int) -> None:
        """Bound what the parser holds and has not shown yet: the head, or a trailer or chunk extension that does not end."""
        if self._head_size >= 0:
            self._head_size += size
        elif self._moved:
            self._loose_size = 0
        else:
            self._loose_size += size
        self._check_head_size()

    def _check_head_size(self) -> None:
        size = max(self._head_size, self._loose_size)
        if size > HEAD_BYTES_MAX:
            error = LimitError("request line and headers, in bytes", size, HEAD_BYTES_MAX, "Send less in the head.")
            self._refuse(refusal(error, 414 if len(self._target) > HEAD_BYTES_MAX // 2 else 431))

    # -- answering ----------------------------------------------------------------------------------------------------------------------

    @property
    def _owes(self) -> bool:
        return self._task is not None or bool(self._pending)

    def _refuse(self, answer: Answer) -> None:
        """Answer, after what is owed before it, and hear nothing more."""
        if self._deaf:
            return
        self._deaf = True
        self._forget(self._body_size)
        self._body, self._body_size, self._head_started = b"", 0, None
        answer.close = True
        self._pending.append(answer)
        if self._task is None and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._again)  # not from within the parser's callback

    def _again(self) -> None:
        self._scheduled = False
        if self.transport is not None:
            self._proceed()

    def _proceed(self) -> None:
        """Answer what waits, until something must be waited for."""
        if self._task is not None or self._write_paused or self._scheduled or self.transport is None:
            return
        server, pending, size, close = self._server, self._pending, 0, False
        out: list[Piece] = []
        for served in range(TURN_REQUESTS + 1):
            if not pending or close:
                break
            if served == TURN_REQUESTS or size > WRITE_HIGH:
                self._scheduled = True
                self._loop.call_soon(self._again)
                break
            request = pending.popleft()
            if isinstance(request, Answer):
                result: Any = request
                request = _NOBODY
            else:
                result = server.application(request)
                close = not request.keep_alive
            if type(result) is bytes:
                out.append(result)
                size += len(result)
            elif isinstance(result, Answer) and not isinstance(result.body, AsyncIterator):
                close = close or result.close
                pieces = self._encoded(result, request, close)
                out.extend(pieces)
                size += sum(map(len, pieces))
            else:
                self._begin(request, result)
                break
            if request.body:
                self._forget(len(request.body))
        if out:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._last_active = self._loop.time()
        if self._task is None:
            if close:
                pending.clear()
            if not self._scheduled or close:
                self._settle(close)

    def _settle(self, close: bool) -> None:
        """Nothing is being answered now."""
        if self.transport is None or self._pending:
            return
        if close or self._eof or (self._server.closing and self._head_started is None):
            self._say_goodbye()
            return
        if self._expects:
            self._expects = False
            self.transport.write(_CONTINUE)
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def _begin(self, request: Request, result: Answer | Work) -> None:
        """Let a task wait for an answer that takes its time."""
        size = len(request.body)
        self._task = self._server.tasks.create_task(self._finish(request, result))
        self._task.add_done_callback(lambda _: self._forget(size))

    async def _finish(self, request: Request, result: Answer | Work) -> None:
        close = True
        try:
            answer = result if isinstance(result, Answer) else await result()
            close = answer.close or not request.keep_alive
            if isinstance(answer.body, AsyncIterator):
                close = close or request.version != "1.1"  # HTTP/1.0 knows the end of such an answer by the end of the connection
                await self._stream(answer, answer.body, request, close)
            else:
                self._write(b"".join(self._encoded(answer, request, close)))
                await self._drained()
        except Exception:
            # an answer that has begun cannot become an error: the client sees it end before its end
            _LOGGER.exception("an answer to %s broke off", request.target[:200].decode("latin-1"))
            self.abort()
        finally:
            self._task = None
            self._last_active = self._loop.time()
        if self.transport is not None:
            if close:
                self._pending.clear()
                self._settle(True)
            else:
                self._proceed()

    async def _stream(self, answer: Answer, body: AsyncIterator[Sequence[Piece]], request: Request, close: bool) -> None:
        chunked = request.version == "1.1"
        self._write(self._head(answer, close, request) + (b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n"))
        async for pieces in body:
            size = sum(map(len, pieces))
            if size:
                self._write(b"".join((b"%x\r\n" % size, *pieces, b"\r\n") if chunked else pieces))
                await self._drained()
        if chunked:
            self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    async def _drained(self) -> None:
        """Return when the reader has taken enough; the loop gets its turn in any case."""
        if self._write_paused:
            self._writable = self._loop.create_future()
            await self._writable
        else:
            await asyncio.sleep(0)

    def _encoded(self, answer: Answer, request: Request, close: bool) -> list[Piece]:
        body = answer.body
        pieces: list[Piece] = [body] if isinstance(body, (bytes, memoryview)) else list(cast(Sequence[Piece], body))
        head = self._head(answer, close, request) + b"content-length: %d\r\n\r\n" % sum(map(len, pieces))
        return [head] if request.method == b"HEAD" else [head, *pieces]

    def _head(self, answer: Answer, close: bool, request: Request) -> bytes:
        status = answer.status
        kept = b"connection: close\r\n" if close else b"connection: keep-alive\r\n" if request.version == "1.0" else b""
        line = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\n" % (status, _REASONS.get(status, "").encode(), answer.media.encode())
        number = request.headers.get(b"fondaco-request-id")
        known = b"fondaco-request-id: %s\r\n" % number[:128] if number is not None else b""
        return b"".join((line, *answer.headers, known, kept, self._server.date))

    # -- the end ------------------------------------------------------------------------------------------------------------------------

    def _say_goodbye(self) -> None:
        """Close so that the last answer arrives: what the client still sends is read and dropped until it has seen our end."""
        transport = self.transport
        if transport is None or self._linger_until != _FOREVER:
            return
        self._deaf = True
        if self._eof or self._tls or not transport.can_write_eof():
            transport.close()
            return
        self._linger_until = self._loop.time() + LINGER_S
        transport.write_eof()
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()

    def close_when_done(self) -> None:
        """Close now, if no answer is owed; otherwise after it."""
        if not self._owes and self._head_started is None:
            self._say_goodbye()

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    def check(self, now: float) -> None:
        """Close or cut the connection if it waits in vain."""
        transport, limits = self.transport, self._server.limits
        if transport is None:
            return
        if self._write_paused:
            size = transport.get_write_buffer_size()
            if size != self._stuck_size:
                self._stuck_size, self._stuck_since = size, now
            elif now - self._stuck_since > limits.idle_s:
                self._server.timeouts += 1
                self.abort()
        elif now > self._linger_until:
            if transport.get_write_buffer_size() == 0 or now > self._linger_until + limits.idle_s:
                self.abort()
        elif self._owes:
            return
        elif self._head_started is not None:
            allowed = limits.header_s + self._body_size / BODY_BYTES_PER_S
            if now - self._head_started > allowed:
                self._server.timeouts += 1
                self._refuse(refusal(DeadlineExceededError("reading the request", allowed, "it is not complete"), 408))
        elif now - self._last_active > limits.idle_s:
            self._server.timeouts += 1
            self._say_goodbye()

    def _forget(self, size: int) -> None:
        self._server.body_bytes -= size


_NOBODY: Final = Request(b"", b"", {}, "1.1", False, 0.0)


def tls_context(certificate: str, private_key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer with a certificate and its key, both PEM files.

    Raises:
        InputError: they cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as exc:
        raise InputError(f"[server] certificate {certificate!r} and private_key {private_key!r} cannot be used: {exc}") from exc
    context.set_alpn_protocols(["http/1.1"])
    return context
