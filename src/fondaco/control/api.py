"""Api: an operation of the control API, declared once: how it is called, who may call it, what it takes and gives, and what it does.

From the declaration come the route (`route_of`), the checks before the call, and the OpenAPI document (`openapi`), so none of them can
say something else than the others. What an operation does is an ordinary function that runs in a worker thread, because the catalog
blocks; the event loop reads requests and waits for processes, nothing else.
Errors leave as the data plane's do (`dataplane.faults`); one that is not ours is logged with its traceback and answered with 500.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fondaco.catalog.rows import EVERY, Role, TokenRow
from fondaco.control.access import Access
from fondaco.core.errors import DeadlineExceededError, FondacoError, InputError, LimitError
from fondaco.dataplane import wire
from fondaco.platform import Platform

BODY_BYTES_MAX: Final = 4 << 20  # of a JSON body; the largest is a schema
BODY_IDLE_S: Final = 10.0
_DISCARD_IDLE_S: Final = 1.0
_DISCARD_BYTES: Final = 64 << 20  # of a refused upload are read, so that its sender gets to see the answer
_LOGGER = logging.getLogger(__name__)


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operation without query parameters."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, checked: `names` are the parts of the path, `body` and `query` what the operation declared, `caller` who asks."""

    names: Mapping[str, str]
    query: Any
    body: Any
    caller: TokenRow | None

    def name(self, of: str) -> str:
        """A part of the path."""
        return self.names[of]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not 200 with JSON."""

    value: object
    status: int = 200
    media_type: str = wire.JSON
    headers: Mapping[str, str] = field(default_factory=dict)


Run = Callable[[Call], object]
RunAsync = Callable[[Request, Call], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path.

    `role` is what a caller needs where tokens are required: on the store that the path names in its part `scope`, or on every store ("*")
    if there is no such part; "any" is a good token with whatever role, None is everybody. `run` gets the call in a worker thread;
    `run_async`, instead, gets it on the event loop; if it takes an `upload`, before the body is read.
    """

    method: str
    path: str
    summary: str
    run: Run | None = None
    run_async: RunAsync | None = None
    role: Role | str | None = "admin"
    scope: str | None = "store"
    query: type[msgspec.Struct] = NoQuery
    body: Any = None  # a Struct type; None: no body is taken
    answer: Any = dict[str, Any]
    status: int = 200
    other_status: Mapping[int, str] = field(default_factory=dict)
    upload: bool = False  # the body is an Arrow IPC stream, read by `run_async`
    media_type: str = wire.JSON
    tag: str = "stores"

    @property
    def name(self) -> str:
        """An identifier for generated clients."""
        words = [part.strip("{}").replace(".", "_") for part in self.path.removeprefix("/v1").split("/") if part]
        return "_".join([self.method.lower(), *words])


class StatusError(InputError):
    """A mistake that HTTP has a status of its own for."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


def route_of(operation: Operation, platform: Platform, access: Access) -> Route:
    """The Starlette route of an operation."""

    async def endpoint(request: Request) -> Response:
        try:
            answer = await _call(operation, request, platform, access)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except FondacoError as exc:
            return error_response(exc)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            _LOGGER.exception("%s %s failed", operation.method, request.url.path)
            return error_response(FondacoError(f"an error inside the control API: {type(exc).__name__}; its log says more"))
        return _response(operation, answer)

    return Route(operation.path, endpoint, methods=[operation.method], name=operation.name)


def error_response(error: FondacoError) -> Response:
    """An error as JSON, with its status."""
    status, headers = wire.status_of(error), {}
    if isinstance(error, StatusError):
        status, headers = error.status, error.headers
        error = InputError(*error.args)
    after = wire.retry_after(error)
    if after is not None:
        headers[wire.RETRY_AFTER] = str(after)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(wire.error_body(error), status, headers, wire.JSON)


async def _call(operation: Operation, request: Request, platform: Platform, access: Access) -> object:
    body = b"" if operation.upload else await _read_body(request, operation)

    def check() -> Call:
        caller = None if operation.role is None else access.authenticate(request.headers.get(wire.AUTHORIZATION))
        names = dict(request.path_params)
        if operation.role is not None:
            access.authorise(caller, operation.role, names.get(operation.scope or "", EVERY))
        query = _decode_query(request, operation)
        return Call(names, query, _decode_body(body, operation), caller)

    if operation.run_async is not None:
        try:
            call = await run_in_threadpool(check)
        except FondacoError:
            if operation.upload:
                await discard(request)
            raise
        return await operation.run_async(request, call)
    run = operation.run
    assert run is not None
    return await run_in_threadpool(lambda: run(check()))


async def _read_body(request: Request, operation: Operation) -> bytes:
    """The body of a request, within the bound.

    Raises:
        LimitError: it is larger. StatusError: it is of another type than the operation takes.
    """
    parts, size = [], 0
    async for part in arriving(request, BODY_IDLE_S):
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise LimitError(
                "bytes of the request's body", size, BODY_BYTES_MAX, "Rows go to /v1/stores/{store}/pushes as an Arrow stream."
            )
        parts.append(part)
    if size and operation.body is not None:
        check_content_type(request, wire.JSON)
    return b"".join(parts)


async def arriving(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    """The parts of a request's body.

    Raises:
        DeadlineExceededError: nothing came for `idle_s`: a sender that stands still must not hold anything for ever.
    """
    parts = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(idle_s):
                part = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceededError("the next part of the request's body", idle_s) from None
        yield part


async def discard(request: Request) -> None:
    """Read on what a refused upload still sends, within a bound."""
    left = _DISCARD_BYTES
    with contextlib.suppress(ClientDisconnect, DeadlineExceededError, RuntimeError):  # RuntimeError: it was read to its end before
        async for part in arriving(request, _DISCARD_IDLE_S):
            left -= len(part)
            if left < 0:
                return


def check_content_type(request: Request, expected: str) -> None:
    """Refuse a body that says it is something else.

    Raises:
        StatusError: 415.
    """
    given = request.headers.get("content-type", expected).partition(";")[0].strip().lower()
    if given != expected:
        raise StatusError(415, f"the body's Content-Type is {given!r}; send {expected}")


def _decode_query(request: Request, operation: Operation) -> msgspec.Struct:
    try:
        return msgspec.convert(dict(request.query_params), operation.query, strict=False)
    except msgspec.ValidationError as exc:
        raise InputError(f"query of {operation.method} {request.url.path}: {exc}") from None


def _decode_body(body: bytes, operation: Operation) -> Any:
    if operation.body is None:
        return None
    try:
        return msgspec.json.decode(body or b"{}", type=operation.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InputError(f"body of {operation.method} {operation.path}: {exc}") from None


def _response(operation: Operation, answer: object) -> Response:
    if not isinstance(answer, Answer):
        answer = Answer(answer, operation.status, operation.media_type)
    value = answer.value
    content = value if isinstance(value, (bytes, str)) else msgspec.json.encode(value, enc_hook=str)
    return Response(content, answer.status, dict(answer.headers), answer.media_type)
