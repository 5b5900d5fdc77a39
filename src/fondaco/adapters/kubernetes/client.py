"""Client: the few requests that a provisioner makes of an API server: one deadline for all of a call's, and errors that can be acted on.

lightkube keeps the connections (any thread may ask at once) and logs in, but for programs that fetch tokens (`login_program`); objects
are JSON as the server sends them, because fields are what is compared with what was applied, not models. Every request is counted
(`counts`, `on_request`). A request that lost its connection, or that the server put off, is sent once more: all of them can be.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

import msgspec

from fondaco.adapters.kubernetes.login_program import login_program
from fondaco.adapters.kubernetes.place import MANAGER, Object
from fondaco.core.errors import InputError, PermissionDeniedError, StateError, UnavailableError

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig

T = TypeVar("T")

CALL_S: Final = 9.0  # all requests of one method together: a connector must answer within 10
REQUEST_S: Final = 5.0
CONNECT_S: Final = 3.0
PUT_OFF_S: Final = 1.0  # so long is waited if the server asks for it
PAGE: Final = 500  # of a list: a busy server needs seconds for a thousand pods
_DENIED = re.compile(r'User "([^"]*)" cannot (\S+) resource "([^"]*)"(?: in API group "([^"]*)")?(?: in the namespace "([^"]*)")?')
_PREPARING: Final = threading.Lock()
_SCHEMA: Final = ("failed to create typed", "field not declared in schema", ".spec", "unmarshal")  # of a 500 that is about our object


Query = dict[str, str | int]


class Kind(NamedTuple):
    """A kind of objects: where the API has it."""

    group: str
    version: str
    plural: str

    @property
    def api(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def resource(self) -> str:
        """As roles name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


STATEFUL_SETS: Final = Kind("apps", "v1", "statefulsets")
SERVICES: Final = Kind("", "v1", "services")
PODS: Final = Kind("", "v1", "pods")
EVENTS: Final = Kind("", "v1", "events")


class ConflictError(StateError):
    """The object is not (any more) the one that was meant."""


class RefusedError(InputError):
    """The server refuses the object; `fields` names the paths in it."""

    def __init__(self, message: str, fields: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(fields))
        self.message, self.fields = message, tuple(fields)

    def __str__(self) -> str:
        return self.message


class _ExpiredError(UnavailableError):
    """The next page was asked for too late: the list as it was then is forgotten."""


class _Cause(msgspec.Struct):
    field: str = ""
    message: str = ""


class _Details(msgspec.Struct, rename="camel"):
    causes: list[_Cause] | None = None
    name: str = ""
    retry_after_seconds: float = 0


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    details: _Details | None = None


_STATUS: Final = msgspec.json.Decoder(_Status)


class _ListMeta(msgspec.Struct, frozen=True, rename={"go_on": "continue"}):
    go_on: str = ""


class _Answer(NamedTuple):
    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes


class Client:
    """One namespace of one API server, as one user. Any thread. `close` gives the connections back."""

    def __init__(self, cluster: str, config: SingleConfig, *, namespace: str, on_request: Callable[[str, str], None] | None = None) -> None:
        """
        Raises:
            InputError: the configuration cannot be used, as certificates that are not there.
        """
        import httpx2
        from lightkube.config import client_adapter
        from lightkube.core.exceptions import ConfigError

        self.cluster, self.namespace = cluster, namespace
        self._login = login_program(cluster, config)
        self.counts: Counter[tuple[str, str]] = Counter()
        self._user = f"context {config.context_name}"
        self._server = config.cluster.server
        self._on_request = on_request
        self._lock, self._lock_counts = threading.Lock(), threading.Lock()
        self._budgets: Kind | None = None
        try:
            parameters = client_adapter.ConnectionParams(timeout=httpx2.Timeout(REQUEST_S, connect=CONNECT_S))
            self._http = client_adapter.Client(_without_program(config), parameters)
        except (ConfigError, OSError, ValueError) as exc:
            raise InputError(f"cluster {cluster!r}: {config.fname or 'the service account'} cannot be used: {exc}") from exc

    def within(self, seconds: float = CALL_S) -> Requests:
        """Requests that all together may take so long."""
        return Requests(self, time.monotonic() + seconds)

    def close(self) -> None:
        if self._login is not None:
            self._login.close()
        self._http.close()

    # -- for Requests -------------------------------------------------------------------------------------------------------------------

    def send(
        self,
        deadline: float,
        verb: str,
        resource: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
    ) -> bytes | None:
        """One request; None: there is no such object.

        Raises:
            as `Requests`.
        """
        answer = self._exchanged(deadline, verb, resource, method, path, query, body)
        if answer.status >= 400:
            self._refuse(answer, verb, resource)
            return None
        return answer.content

    def budgets(self, deadline: float) -> Kind:
        """Disruption budgets, at the version that this server has; asked once."""
        with self._lock:
            if self._budgets is None:
                said = self.send(deadline, "get", "apis", "GET", "/apis/policy")
                versions = {one["version"] for one in msgspec.json.decode(said).get("versions", ())} if said else set()
                self._budgets = Kind("policy", "v1" if "v1" in versions or not versions else "v1beta1", "poddisruptionbudgets")
            return self._budgets

    def _exchanged(
        self, deadline: float, verb: str, resource: str, method: str, path: str, query: Mapping[str, str | int] | None, body: bytes | None
    ) -> _Answer:
        import httpx2
        from lightkube.core.exceptions import ConfigError

        headers = {"Content-Type": "application/apply-patch+yaml" if method == "PATCH" else "application/json"} if body is not None else {}
        for attempt in (1, 2):
            token = self._login.token(deadline) if self._login is not None else ""
            headers |= {"Authorization": f"Bearer {token}"} if token else {}
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._unavailable(TimeoutError(f"no time was left to {verb} {resource}: it is slow"))
            self._count(verb, resource)
            timeout = httpx2.Timeout(min(REQUEST_S, left), connect=min(CONNECT_S, left))
            try:
                with self._http.stream(method, path, params=query, content=body, headers=headers, timeout=timeout) as got:
                    answer = _Answer(got.status_code, got.reason_phrase, got.headers, b"".join(_in_time(got.iter_bytes(), deadline)))
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as exc:  # it had closed an idle connection
                if attempt == 2:
                    raise self._unavailable(exc) from exc
                continue
            except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ConfigError, OSError, ValueError) as exc:
                raise self._unavailable(exc) from exc
            if answer.status == 401 and self._login is not None:
                self._login.refused(token)  # it was good for a while
                if attempt == 1:
                    continue
            if answer.status not in (429, 503) or attempt == 2:
                return answer
            after = answer.headers.get("retry-after", "")
            if not after.isdecimal() or deadline - time.monotonic() < PUT_OFF_S:
                return answer
            time.sleep(min(float(after), PUT_OFF_S))  # it asked for that
        raise AssertionError("unreachable")

    def _count(self, verb: str, resource: str) -> None:
        with self._lock_counts:
            self.counts[verb, resource] += 1
        if self._on_request is not None:
            self._on_request(verb, resource)

    def _unavailable(self, exc: Exception) -> UnavailableError:
        said = str(exc) or type(exc).__name__
        return UnavailableError(f"the API server of cluster {self.cluster!r} ({self._server})", said)

    def _refuse(self, answer: _Answer, verb: str, resource: str) -> None:
        """Raise what an answer of 400 and above means; returns for an object that is not there."""
        try:
            status = _STATUS.decode(answer.content)
        except msgspec.MsgspecError:
            status = _Status(answer.content.decode(errors="replace")[:500])
        message, code = status.message or answer.reason, answer.status
        where = f"namespace {self.namespace!r} of cluster {self.cluster!r}"
        if code == 404:
            if verb in ("patch", "create") or message.startswith("namespaces "):
                raise RefusedError(f"cluster {self.cluster!r}: {message}: make the namespace first, or configure another")
            return
        if code == 401:
            raise PermissionDeniedError(self._user, "a login that the server takes (401 Unauthorized)", f"cluster {self.cluster!r}")
        if code == 403 and (denied := _DENIED.search(message)):
            needed = f"{denied[2]} {denied[3]}" + (f".{denied[4]}" if denied[4] else "")
            raise PermissionDeniedError(denied[1], needed, where)
        if code == 410:
            raise _ExpiredError(f"the API server of cluster {self.cluster!r}", message)
        if code == 409:
            raise ConflictError(f"cluster {self.cluster!r}: {message}")
        about_object = code == 500 and verb == "patch" and any(part in message for part in _SCHEMA)
        if code in (400, 403, 413, 415, 422) or about_object:
            causes = (status.details.causes if status.details else None) or []
            fields = [cause.field for cause in causes if cause.field]
            said = "; ".join(f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in causes) or message
            raise RefusedError(f"cluster {self.cluster!r} refuses to {verb} {resource}: {said}", fields)
        raise UnavailableError(f"the API server of cluster {self.cluster!r} ({self._server})", f"{code}: {message}")


class Requests:
    """Requests with one deadline.

    Errors of every method: UnavailableError (also: the time is over), PermissionDeniedError (names verb and resource), RefusedError (names
    the fields), ConflictError.
    """

    def __init__(self, client: Client, deadline: float) -> None:
        self._client, self._deadline = client, deadline

    @property
    def left_s(self) -> float:
        """How much of the time is left."""
        return self._deadline - time.monotonic()

    def budgets(self) -> Kind:
        """The kind of disruption budgets."""
        return self._client.budgets(self._deadline)

    def get(self, kind: Kind, name: str) -> Object | None:
        """The object, or None."""
        found = self._client.send(self._deadline, "get", kind.resource, "GET", self._path(kind, name))
        return None if found is None else msgspec.json.decode(found)

    def list_all(self, kind: Kind, item: type[T], *, labels: str = "", fields: str = "", pages: int = 1000) -> list[T]:
        """The objects, each as an `item` (msgspec), page by page; at most so many pages."""
        for _ in range(2):
            with contextlib.suppress(_ExpiredError):
                return self._pages(kind, item, labels, fields, pages)
        return self._pages(kind, item, labels, fields, pages)

    def _pages(self, kind: Kind, item: type[T], labels: str, fields: str, pages: int) -> list[T]:
        decoder = _page_decoder(cast("Hashable", item))
        found: list[T] = []
        query: Query = {"limit": PAGE}
        query |= {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}
        for _ in range(pages):
            said = self._client.send(self._deadline, "list", kind.resource, "GET", self._path(kind), query=query)
            if said is None:
                break
            page = decoder.decode(said)
            found += page.items or []
            if not page.metadata.go_on:
                break
            query["continue"] = page.metadata.go_on
        return found

    def apply(self, kind: Kind, item: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply, with force: fields that we state become ours, others are left alone. Returns the object as it is then."""
        query: Query = {"fieldManager": MANAGER, "force": "true"}
        query |= {"dryRun": "All"} if dry_run else {}
        body, path = msgspec.json.encode(item), self._path(kind, item["metadata"]["name"])
        said = self._client.send(self._deadline, "patch", kind.resource, "PATCH", path, query=query, body=body)
        assert said is not None
        return msgspec.json.decode(said)  # type: ignore[no-any-return]

    def delete(self, kind: Kind, name: str, uid: str, *, propagation: str = "Background") -> None:
        """Delete exactly this object; absent is fine.

        Raises:
            ConflictError: another of this name is there by now; it was left alone.
        """
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation, "preconditions": {"uid": uid}}
        self._client.send(self._deadline, "delete", kind.resource, "DELETE", self._path(kind, name), body=msgspec.json.encode(options))

    def log(self, pod: str, container: str, *, lines: int, previous: bool = False) -> list[str] | None:
        """The newest lines that a container has said; None: there is no such pod, or it has not run (before)."""
        query: Query = {"container": container, "tailLines": lines, "limitBytes": 4 << 20}
        query |= {"previous": "true"} if previous else {}
        try:
            said = self._client.send(self._deadline, "get", "pods/log", "GET", f"{self._path(PODS, pod)}/log", query=query)
        except RefusedError:  # 400: it waits to start, or has not ended before
            return None
        return None if said is None else said.decode(errors="replace").splitlines()

    def _path(self, kind: Kind, name: str = "") -> str:
        return f"{kind.api}/namespaces/{self._client.namespace}/{kind.plural}" + (f"/{name}" if name else "")


def _in_time(chunks: Iterable[bytes], deadline: float) -> Iterator[bytes]:
    """The chunks, as long as there is time: each of them has a time-out of its own, which a server that trickles never meets."""
    for chunk in chunks:
        if time.monotonic() > deadline:
            raise TimeoutError("its answer had not come to an end in time")
        yield chunk


def _without_program(config: SingleConfig) -> SingleConfig:
    """lightkube would wait for it without end."""
    if config.user is None or config.user.exec is None:
        return config
    user = copy.copy(config.user)
    user.exec = None
    return config._replace(user=user)


def _page_decoder(item: Hashable) -> msgspec.json.Decoder[Any]:
    """Decodes a page of a list of such items. Made by one thread: msgspec prepares a type at its first use, and two at once crash it."""
    with _PREPARING:
        return _made_page_decoder(item)


@functools.cache
def _made_page_decoder(item: Hashable) -> msgspec.json.Decoder[Any]:
    fields = [("items", list[item] | None, None), ("metadata", _ListMeta, _ListMeta())]  # type: ignore[valid-type]
    return msgspec.json.Decoder(msgspec.defstruct("Page", fields))
