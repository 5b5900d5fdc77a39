"""Remote: a platform over the network, with the names of the one in a directory. `fondaco.connect` makes it.

    with fondaco.connect("http://host:7070", token="fdc_...") as platform:
        store = platform.store("members")
        store.push(table)
        with store.reader() as reader, store.writer("clicks-job") as writer: ...

The address is that of the control API (port 7070), which knows where the data plane is; or of a data-plane node (7071), which can be read
and written and says so of everything else. Handles hold one connection or none and may be used from any thread; readers and writers have
connections of their own. A push streams batch by batch. Admin calls are not repeated by themselves once they may have begun, but for those
that give the same result again.

Imports neither numba nor SQLAlchemy until something is pushed, or a report is asked for.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fondaco._upload import ipc_parts
from fondaco.core.clock import from_us, to_us
from fondaco.core.errors import (
    InputError,
    NotFoundError,
    ProtocolError,
    UnavailableError,
)
from fondaco.dataplane import wire
from fondaco.dataplane.client import deadline_of
from fondaco.dataplane.client_faces import Connections
from fondaco.dataplane.client_writer import RemoteWriter
from fondaco.dataplane.pool import reason_of
from fondaco.dataplane.pool_blocking import BlockingTransport
from fondaco.dataplane.protocol import Request
from fondaco.dataplane.tiers import open_reader

if TYPE_CHECKING:
    from fondaco.dataplane.fast import FastReader
    from fondaco.dataplane.thin import ThinReader
    from fondaco.services.remote import RemoteServices
    from fondaco.store.keys import KeyCodec
    from fondaco.store.report import IncrementalReport, PushReport, PushTable, VersionInfo

Tier = Literal["fast", "thin"]

ADMIN_TIMEOUT_S: Final = 60.0
PUSH_TIMEOUT_S: Final = 24 * 3600.0
_ENDPOINTS: Final = "/v1/endpoints"

T = TypeVar("T")


class _Endpoints(msgspec.Struct):
    data: list[str]
    version: str = ""


class RemotePlatform:
    """A platform at an address. Close it, or use it as a context manager; `fondaco.connect` makes it."""

    def __init__(self, url: str, token: str | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        """
        Args:
            url: of the control API, as "http://host:7070", or of a data-plane node.
            token: sent with every request. tls: how to check an https server; None: by the certificates of the system.
        Raises:
            UnavailableError: nobody answers. ProtocolError: what answers is no Fondaco. AuthenticationError. InputError: no address.
        """
        self._token, self._tls = token, tls
        self._services: RemoteServices | None = None
        self._connections = Connections(BlockingTransport(), url, token, tls)
        self.url = self._connections.peers[0].url
        try:
            self._data: list[str] | None = None
            self._is_node = False
            self._look()
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        """Find out what answers, and where the data plane is."""
        try:
            self._data = self._ask("GET", _ENDPOINTS, into=_Endpoints).data
        except InputError as exc:
            if type(exc) not in (InputError, NotFoundError):  # such as a token that is not good
                raise
            self._ask("GET", wire.STORES)  # a data-plane node has no endpoints to tell, and stores
            self._data, self._is_node = [self.url], True

    # -- stores ---------------------------------------------------------------------------------------------------------------------------

    def stores(self) -> list[str]:
        """Names of the stores that the token may read, in order."""
        listed = self._ask("GET", wire.STORES)["stores"]
        return sorted(item["name"] for item in listed)

    def store(self, name: str) -> RemoteStore:
        """The store called `name`.

        Raises:
            StoreNotFoundError: there is none; suggests the nearest name. InputError: not a name.
        """
        if not isinstance(name, str):
            raise InputError(f"a store is named by a text, not by {name!r}")
        store = RemoteStore(self, name)
        store.describe()
        return store

    def create_store(
        self,
        name: str,
        key: object = "long",
        value: object = None,
        partitions: int | None = None,
        compression: str | None = None,
        rewind: str | timedelta | None = None,
        keep: int | None = None,
        ttl: str | timedelta | None = None,
        freshness_ms: int | None = None,
    ) -> RemoteStore:
        """Create a store, or return the one of this name if it was created alike. Arguments and errors: `Platform.create_store`."""
        from fondaco.store.keys import KeyCodec

        if value is None:
            raise InputError(f"store {name!r} needs value=, the schema of its rows: an Avro record, or a pyarrow.Schema")
        wanted = {
            "name": name, "key": msgspec.json.decode(KeyCodec(key).to_json()), "value": _schema(value), "partitions": partitions,
            "compression": compression, "rewind": _duration(rewind), "keep": keep, "ttl": _duration(ttl), "freshness_ms": freshness_ms,
        }  # fmt: skip
        self.control("POST", wire.STORES, body={name: setting for name, setting in wanted.items() if setting is not None})
        return RemoteStore(self, name)

    def delete_store(self, name: str) -> None:
        """Delete a store and all its versions.

        Raises:
            StoreNotFoundError, PushInProgressError.
        """
        self.control("DELETE", wire.store_path(name))

    # -- data services --------------------------------------------------------------------------------------------------------------------

    @property
    def services(self) -> RemoteServices:
        """The platform's data services: `with platform.services.ensure(spec) as lease: ...`; the lease is renewed over HTTP.

        Raises:
            InputError: the platform was connected to at a data-plane node.
        """
        self.check_control()
        if self._services is None:
            from fondaco.services.remote import RemoteServices

            self._services = RemoteServices(self.control, self.url)
        return self._services

    # -- inside ---------------------------------------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[str]:
        """Addresses of the data plane.

        Raises:
            UnavailableError: the control API knows of none now.
        """
        if not self._is_node and not self._data:
            self._look()
        if not self._data:
            raise UnavailableError(self.url, "it knows no data-plane node that lives")
        return self._data

    @property
    def is_node(self) -> bool:
        """Whether the address is a data-plane node's, so that stores can be read and written and not steered."""
        return self._is_node

    def control(self, method: str, target: str, *, body: object = None, again: bool = True, timeout_s: float = ADMIN_TIMEOUT_S) -> Any:
        """Ask the control API.

        Args:
            again: whether asking twice is the same as asking once, so that a broken connection may be retried.
        Raises:
            InputError: the platform was connected to at a data-plane node.
        """
        self.check_control()
        return self._ask(method, target, body=body, again=again, timeout_s=timeout_s)

    def check_control(self) -> None:
        """Raises InputError at a data-plane node."""
        if self._is_node:
            raise InputError(
                f"{self.url} is a data-plane node: it reads and writes rows. Connect to the control API for this, as "
                "fondaco.connect('http://host:7070')"
            )

    def _ask(
        self, method: str, target: str, *, body: object = None, again: bool = True, timeout_s: float = ADMIN_TIMEOUT_S, into: Any = Any
    ) -> Any:
        connections = self._connections
        headers: tuple[tuple[str, str], ...] = (("Accept", wire.JSON),)
        encoded = b""
        if body is not None:
            encoded, headers = msgspec.json.encode(body), (*headers, ("Content-Type", wire.JSON))
        request = Request(method, target, headers, encoded, repeatable=again)
        asking = connections.caller.ask(f"{method} {target}", request, connections.peers, deadline_of(timeout_s))
        answer = connections.transport.run(asking)
        return decoded(bytes(answer.body), self.url, into)

    def open_reader(self, tier: str, store: str, schema: object) -> ThinReader | FastReader:
        """A reader of a store."""
        return open_reader(tier, self.endpoints, store, token=self._token, schema=schema, tls=self._tls)

    def open_writer(self, store: str, writer_id: str, **settings: Any) -> RemoteWriter:
        """A writer to a store."""
        return RemoteWriter(self.endpoints, store, writer_id, token=self._token, tls=self._tls, **settings)

    def upload(self, target: str, parts: Iterator[bytes]) -> bytes:
        """POST a body that is made while it is sent; returns the answer's.

        Raises:
            as `control`.
        """
        self.check_control()
        peer = self._connections.peers[0]
        connection = (
            http.client.HTTPConnection(peer.host, peer.port, timeout=PUSH_TIMEOUT_S)
            if peer.tls is None
            else http.client.HTTPSConnection(peer.host, peer.port, timeout=PUSH_TIMEOUT_S, context=peer.tls)
        )
        headers = {"Content-Type": wire.ARROW, "Accept": wire.JSON, "Transfer-Encoding": "chunked"}
        if self._token is not None:
            headers[wire.AUTHORIZATION] = f"Bearer {self._token}"
        try:
            # refused before it was read: the answer says why
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                connection.request("POST", target, parts, headers, encode_chunked=True)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as exc:
            reason = reason_of(exc) if isinstance(exc, OSError) else f"{type(exc).__name__} {exc}"
            raise UnavailableError(self.url, f"{reason}; the push may go on: push again with the same push_id") from exc
        finally:
            connection.close()
        if response.status >= 300:
            raise wire.error_from(response.status, body, self.url)
        return body

    def close(self) -> None:
        """Release the leases of data services that this object renews, and close the connections. Readers and writers stay good until you
        close them."""
        if self._services is not None:
            self._services.close()
        self._connections.transport.close()

    def __enter__(self) -> RemotePlatform:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RemotePlatform {self.url!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._tls is not None:
            raise InputError("a platform with a TLS context of its own cannot be pickled; connect where it is needed")
        return RemotePlatform, (self.url, self._token)


class RemoteStore:
    """One store of a remote platform."""

    def __init__(self, platform: RemotePlatform, name: str) -> None:
        """Use `RemotePlatform.store`."""
        self._platform, self.name = platform, name

    def __repr__(self) -> str:
        return f"<RemoteStore {self.name!r}>"

    # -- what it is -----------------------------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Name, schemas, settings, and the size of the current version, as JSON-like values. Times in microseconds since the epoch."""
        described: dict[str, Any] = self._platform._ask("GET", wire.store_path(self.name))
        return described

    @property
    def key(self) -> KeyCodec:
        """The key's codec."""
        from fondaco.store.keys import KeyCodec

        described = self.describe()
        return KeyCodec(described["key_schema"] if "key_schema" in described else described["key"])

    @property
    def value_schema(self) -> dict[str, Any]:
        """The newest value schema, as Avro JSON."""
        described = self.describe()
        schema: dict[str, Any] = described["value"] if "value" in described else described["value_schemas"][str(self._newest(described))]
        return schema

    @staticmethod
    def _newest(described: Mapping[str, Any]) -> int:
        return max(map(int, described["value_schemas"]))

    def add_schema(self, value: object) -> int:
        """Register the next value schema; return its number. Arguments and errors: `Store.add_schema`."""
        number: int = self._control("POST", "schemas", body={"value": _schema(value)})["number"]
        return number

    # -- versions -------------------------------------------------------------------------------------------------------------------------

    @property
    def current(self) -> int | None:
        """Number of the current version, None when there is none."""
        described = self.describe()
        number = described["current"] if "current" in described else described["version"]
        return number or None

    def versions(self, *, all: bool = False) -> list[VersionInfo]:
        """The versions one can read, oldest first; with `all`, also those that failed, are at work, or were retired."""
        from fondaco.store.report import VersionInfo

        listed = self._control("GET", "versions?all=true" if all else "versions")["versions"]
        return _converted(listed, list[VersionInfo], self._platform.url)

    def swap(self, version: int) -> int:
        """Make a READY or BACKUP version current; return its number. Errors: `Store.swap`."""
        return self._current_after("swap", {"version": version})

    def rollback(self) -> int:
        """Return to the newest backup; return its number. Errors: `Store.rollback`."""
        return self._current_after("rollback", None)

    def retire(self, version: int) -> None:
        """Remove the files of a version that is not current. Errors: `Store.retire`."""
        self._control("POST", "retire", body={"version": version})

    def _current_after(self, what: str, body: object) -> int:
        number: int = self._control("POST", what, body=body, again=what == "swap")["current"]
        return number

    # -- pushes ---------------------------------------------------------------------------------------------------------------------------

    def push(
        self,
        data: object,
        push_id: str | None = None,
        as_of: datetime | int | str | None = None,
        swap: bool = True,
        on_duplicate: Literal["fail", "keep_first", "keep_last"] = "fail",
        built_from: Mapping[str, Any] | None = None,
        *,
        progress: bool | None = None,
    ) -> PushReport:
        """Build a version from `data`, which is sent batch by batch, and make it current. Arguments and errors: `Store.push`.

        Should the connection break, push again with the same `push_id`: a push that ended well gives its report and does nothing.
        """
        from fondaco.store.report import PushReport

        query = _query(push_id=push_id, as_of=_moment(as_of), swap=swap, on_duplicate=on_duplicate, built_from=built_from)
        return self._uploaded(query, data, PushReport)

    def push_empty(self, push_id: str | None = None, as_of: datetime | int | str | None = None, swap: bool = True) -> PushReport:
        """Push a version without rows."""
        from fondaco.store.report import PushReport

        query = _query(push_id=push_id, as_of=_moment(as_of), swap=swap, kind="empty")
        return self._uploaded(query, None, PushReport)

    def push_incremental(
        self,
        data: object,
        push_id: str | None = None,
        as_of: datetime | int | str | None = None,
        durability: Literal["os", "disk"] = "disk",
        *,
        progress: bool | None = None,
    ) -> IncrementalReport:
        """Write the rows of a table as real-time writes, at a lower priority than live ones. As `Store.push_incremental`."""
        from fondaco.store.report import IncrementalReport

        query = _query(push_id=push_id, as_of=_moment(as_of), kind="incremental", durability=durability)
        return self._uploaded(query, data, IncrementalReport)

    def repush(
        self,
        push_id: str | None = None,
        *,
        partitions: int | None = None,
        compression: Literal["auto", "none", "zstd"] | None = None,
        swap: bool = True,
        fold: bool = False,
        progress: bool | None = None,
    ) -> PushReport:
        """Build a new version from the rows of the current one. Arguments and errors: `Store.repush`."""
        from fondaco.store.report import PushReport

        wanted = {"push_id": push_id, "partitions": partitions, "compression": compression, "swap": swap, "fold": fold}
        body = {name: setting for name, setting in wanted.items() if setting is not None}
        report = self._control("POST", "repush", body=body, again=push_id is not None, timeout_s=3600.0)
        return _converted(report, PushReport, self._platform.url)

    def kill(self, push_id: str) -> None:
        """Ask a push to stop. Errors: `Store.kill`."""
        self._control("POST", f"pushes/{quote(push_id, safe='')}/kill")

    def pushes(self) -> PushTable:
        """Every push of the store, oldest first, however it ended: a list of rows, and `.to_arrow()`."""
        from fondaco.catalog import PushRow
        from fondaco.store.report import PushTable

        return PushTable(_converted(self._control("GET", "pushes")["pushes"], list[PushRow], self._platform.url))

    def _uploaded(self, query: str, data: object, kind: type[T]) -> T:
        target = f"{wire.store_path(self.name)}/pushes?{query}"
        if data is None:
            return _converted(self._control("POST", f"pushes?{query}", again=False, timeout_s=3600.0), kind, self._platform.url)
        self._platform.check_control()
        body = self._platform.upload(target, ipc_parts(data, self.value_schema, self.key))
        return decoded(body, self._platform.url, kind)

    # -- reading and writing --------------------------------------------------------------------------------------------------------------

    def reader(self, tier: Tier = "fast", schema: object = None) -> ThinReader | FastReader:
        """Open a reader; close it, or use it as a context manager. It follows swaps and rollbacks by itself.

        Args:
            tier: "fast" asks the nodes that hold the rows, and hedges; "thin" asks any gateway.
            schema: read every row with exactly this schema; None: with every field of every value schema of the store.
        Raises:
            StoreNotFoundError, UnavailableError, AuthenticationError, PermissionDeniedError. InputError: no such tier.
        """
        return self._platform.open_reader(tier, self.name, schema)

    def writer(
        self,
        writer_id: str = "default",
        *,
        durability: Literal["os", "disk"] = "os",
        linger_ms: float = 5,
        buffer_bytes: int = 1 << 20,
        timeout_s: float = 30.0,
    ) -> RemoteWriter:
        """Open a writer; close it, or use it as a context manager. Arguments: `Store.writer`."""
        return self._platform.open_writer(
            self.name, writer_id, durability=durability, linger_ms=linger_ms, buffer_bytes=buffer_bytes, timeout_s=timeout_s
        )

    def _control(self, method: str, what: str, *, body: object = None, again: bool = True, timeout_s: float = ADMIN_TIMEOUT_S) -> Any:
        return self._platform.control(method, f"{wire.store_path(self.name)}/{what}", body=body, again=again, timeout_s=timeout_s)


# -- what travels -------------------------------------------------------------------------------------------------------------------------


def decoded(body: bytes, peer: str, into: type[T]) -> T:
    """A JSON answer.

    Raises:
        ProtocolError: it is none, or not of the shape.
    """
    try:
        return msgspec.json.decode(body, type=into)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ProtocolError(peer, f"an answer that cannot be read ({exc})") from exc


def _converted(value: Any, into: type[T], peer: str) -> T:
    try:
        return msgspec.convert(value, into)
    except msgspec.ValidationError as exc:
        raise ProtocolError(peer, f"an answer that cannot be read ({exc})") from exc


def _schema(value: object) -> Any:
    from fondaco.schema import as_type, full_form

    return msgspec.json.decode(full_form(as_type(value)))


def _duration(value: str | timedelta | None) -> str | None:
    return f"{value.total_seconds():g}s" if isinstance(value, timedelta) else value


def _moment(as_of: datetime | int | str | None) -> str | None:
    if as_of is None:
        return None
    try:
        return from_us(to_us(as_of)).isoformat()
    except ValueError as exc:
        raise InputError(f"as_of: {exc}") from None


def _query(**settings: Any) -> str:
    words = {True: "true", False: "false"}
    given = {name: words[value] if isinstance(value, bool) else value for name, value in settings.items() if value is not None}
    return urlencode({name: msgspec.json.encode(value).decode() if isinstance(value, Mapping) else value for name, value in given.items()})
