"""Routes: from a request to an answer: which handler a path and method have, and what becomes of the errors on the way.

Every error of the tree becomes its status and JSON object; anything else is a fault of ours: logged, and answered with 500 without a word
of what it was. The handlers are in `reads`, `writes_route` and `about`. On the event loop's thread.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from fondaco.catalog.rows import Role
from fondaco.core.errors import FondacoError, InputError, UnavailableError, near_name
from fondaco.dataplane import asked
from fondaco.dataplane.about import About
from fondaco.dataplane.admission import Admission, Reply
from fondaco.dataplane.asked import KEYS_BODIES, WRITES_BODIES, HttpError
from fondaco.dataplane.http import Answer, Request, Work, refusal
from fondaco.dataplane.reads import Reads
from fondaco.dataplane.writes_route import Writes

_LOGGER = logging.getLogger(__name__)

ROUTES: Final[tuple[tuple[tuple[str | None, ...], dict[bytes, str]], ...]] = (  # path, None = a name; method -> handler
    (("healthz",), {b"GET": "healthy"}),
    (("readyz",), {b"GET": "ready"}),
    (("openapi.json",), {b"GET": "openapi"}),
    (("v1", "stores"), {b"GET": "list_stores"}),
    (("v1", "routing"), {b"GET": "routing"}),
    (("v1", "stats"), {b"GET": "stats"}),
    (("v1", "stores", None), {b"GET": "describe"}),
    (("v1", "stores", None, "rows"), {b"GET": "get_by_query", b"POST": "get_rows"}),
    (("v1", "stores", None, "rows", None), {b"GET": "get_by_path"}),
    (("v1", "stores", None, "columns"), {b"POST": "get_columns"}),
    (("v1", "stores", None, "compute"), {b"POST": "compute"}),
    (("v1", "stores", None, "writes"), {b"POST": "write"}),
)
_BODIES: Final[Mapping[str, tuple[Role, tuple[str, ...]]]] = {  # of routes that take one: the role they need, and its media types
    "get_rows": ("read", KEYS_BODIES), "get_columns": ("read", KEYS_BODIES), "compute": ("read", KEYS_BODIES),
    "write": ("write", WRITES_BODIES),
}  # fmt: skip

_Handler: TypeAlias = Callable[[Reply, Sequence[bytes], bytes], "Answer | Work"]  # the request, the parts of its path, its query


class DataPlane:
    """The application of the server's connections."""

    def __init__(self, admission: Admission, reads: Reads, writes: Writes, about: About) -> None:
        self._admission = admission
        self.is_usual, self.get_now = reads.is_usual, reads.get_now
        self._table: dict[tuple[object, ...], dict[bytes, tuple[str, _Handler]]] = {}
        for path, methods in ROUTES:
            handlers = {method: (name, self._handler(name, reads, writes, about)) for method, name in methods.items()}
            self._table[(len(path), *(part.encode() for part in path if part is not None))] = handlers

    @staticmethod
    def _handler(name: str, *parts: object) -> _Handler:
        handler: _Handler = next(getattr(part, name) for part in parts if hasattr(part, name))
        return handler

    def __call__(self, request: Request) -> bytes | Answer | Work:
        if request.method == b"GET" and request.plain and self.is_usual(request.headers):
            answer = self.get_now(request.target, request.headers.get(b"authorization"))
            if answer is not None:
                return answer
        reply = Reply(request)
        try:
            result = self._dispatch(reply)
        except Exception as exc:
            return self._refused(reply, exc)
        if isinstance(result, Answer):
            return result
        return functools.partial(self._guarded, reply, result)

    async def _guarded(self, reply: Reply, work: Work) -> Answer:
        try:
            return await work()
        except Exception as exc:
            return self._refused(reply, exc)

    def _refused(self, reply: Reply, exc: Exception) -> Answer:
        match exc:
            case HttpError():
                answer = refusal(exc.error, exc.status, headers=exc.headers)
            case FondacoError():
                answer = refusal(exc)
            case MemoryError():
                answer = refusal(UnavailableError("this server", "it has no memory left for this request"))
            case _:
                _LOGGER.error("%s %s failed", reply.request.method.decode(), reply.request.target[:200].decode("latin-1"), exc_info=exc)
                answer = refusal(FondacoError("the server failed at this request; its log says how"))
        if answer.status == 401:
            answer.headers = [*answer.headers, b"www-authenticate: Bearer\r\n"]
        if reply.store is not None:
            reply.store.stats.refused(reply.kind, answer.status)
        return answer

    def refuse_head(self, request: Request) -> Answer | None:
        """What can be refused of a request whose body is not there yet: its route, its caller, its content type."""
        reply = Reply(request)
        try:
            _, (name, _), _ = self._route(request)
            if name in _BODIES:
                role, media_types = _BODIES[name]
                self._admission.admit(reply, role, request)
                asked.content_type(request, media_types)
        except (HttpError, FondacoError) as exc:
            return self._refused(reply, exc)
        return None

    def _dispatch(self, reply: Reply) -> Answer | Work:
        parts, (_, handler), query = self._route(reply.request)
        asked.check_request_id(reply.request)
        return handler(reply, parts, query)

    def _route(self, request: Request) -> tuple[Sequence[bytes], tuple[str, _Handler], bytes]:
        """(parts of the path, handler, query).

        Raises:
            HttpError: 404, no such path; 405, not with this method.
        """
        parts, query = asked.split_target(request.target)
        methods = self._table.get((len(parts), *parts[:2], *parts[3:4]))
        if methods is None:
            path, known = (
                b"/".join((b"", *parts)).decode("latin-1"),
                ["/" + "/".join(part or "{}" for part in pattern) for pattern, _ in ROUTES],
            )
            near = near_name(path[:200], known)
            hint = f"did you mean {near}?" if near else "/openapi.json lists them"
            raise HttpError(404, InputError(f"no route {request.target[:200].decode('latin-1')!r}; {hint}"))
        method = b"GET" if request.method == b"HEAD" else request.method
        handler = methods.get(method)
        if handler is None:
            allowed = ", ".join(sorted(known.decode() for known in {*methods, *([b"HEAD"] if b"GET" in methods else [])}))
            error = InputError(f"{request.target[:200].decode('latin-1')} takes {allowed}, not {request.method.decode('latin-1')}")
            raise HttpError(405, error, [f"allow: {allowed}\r\n".encode()])
        return parts, handler, query
