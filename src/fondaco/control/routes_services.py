"""Routes of data services: how they stand, and who holds them. Looking asks for the role read on every store, the rest for admin.

    GET    /v1/services                      {"services": [...]}
    POST   /v1/services                      {"spec", "holder", "lease"}: ensure; answers before it is ready
    GET    /v1/services/{service}            how it stands
    PUT    /v1/services/{service}            {"spec"}: change it, instance by instance
    DELETE /v1/services/{service}            ?force=true: also under its holders
    GET    /v1/services/{service}/logs       ?index=&lines=
    POST   /v1/services/{service}/hold       {"holder", "lease", "incarnation"}: take a lease or renew it; "lease": null has no end
    POST   /v1/services/{service}/release    {"holder"}
    POST   /v1/services/{service}/scale      {"replicas"}

A spec with a command of its own is a program that this platform's machine (or cluster) will run. It is taken only from a caller who shows
an admin token, also where tokens are not required: whoever may connect to a loopback port, a web page in a browser included, must not be
able to run programs. The ready-made services, which serve a graph or a store, are taken from everybody who may call, up to a number of
instances that harms no machine.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec

from fondaco.control.api import Call, Operation
from fondaco.core.errors import AuthenticationError, ServiceNotFoundError
from fondaco.platform import Platform
from fondaco.services.spec import ServiceSpec
from fondaco.services.status import ServiceStatus

ANSWER: Final = "3s"  # for what cannot be answered before something has been done; callers ask again
REPLICAS_UNNAMED_MAX: Final = 32
_HARMLESS: Final = ("name", "placement", "exact_name", "ttl_us", "exports", "labels", "resources")  # what a ready-made service may choose

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")

HolderName = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Duration = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
Replicas = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class NewService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service to ensure: `spec` as in a file; `lease` as "60s", null: until it is released."""

    spec: dict[str, Any]
    holder: HolderName
    lease: Duration | None = "60s"


class Hold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A lease to take or renew; `incarnation`: only on this one of all services that ever had the name."""

    holder: HolderName
    lease: Duration | None = "60s"
    incarnation: int | None = None


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose lease ends."""

    holder: HolderName


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many instances there shall be."""

    replicas: Replicas


class ChangedService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the service shall be."""

    spec: dict[str, Any]


class DeleteQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`force`: also under those who hold it. `holder`: whose own lease does not count."""

    force: bool = False
    holder: HolderName | None = None


class StatusQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`log_lines`: newest lines to bring along; -1: 20 if it has failed, else none."""

    log_lines: Annotated[int, msgspec.Meta(ge=-1, le=1000)] = -1


class LogsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`index`: of this instance; -1: of each."""

    index: Annotated[int, msgspec.Meta(ge=-1, le=4095)] = -1
    lines: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class Services(msgspec.Struct, frozen=True):
    """Every service."""

    services: list[ServiceStatus]


class Deleted(msgspec.Struct, frozen=True):
    """`gone`: nothing is left of it; else the reaper goes on."""

    service: str
    gone: bool


class Held(msgspec.Struct, frozen=True):
    """A lease: on which of all services that ever had the name, since when and until when (null: until it is released)."""

    service: str
    incarnation: int
    holder: str
    acquired_us: int
    expires_us: int | None


class Released(msgspec.Struct, frozen=True):
    """`held`: whether there was a lease."""

    service: str
    held: bool


class Logs(msgspec.Struct, frozen=True):
    """What a service has said, oldest first."""

    service: str
    lines: list[str]


def operations(platform: Platform) -> list[Operation]:
    """The operations on data services."""

    def name(call: Call) -> str:
        given = call.name("service")
        if not _NAME.fullmatch(given):
            raise ServiceNotFoundError(given, [], "")
        return given

    def list_all(call: Call) -> Services:
        return Services(list(platform.services.list()))

    def ensure(call: Call) -> ServiceStatus:
        wanted: NewService = call.body
        spec = ServiceSpec.from_dict(wanted.spec)
        check_may_run(call, spec)
        lease = platform.services.ensure(spec, wanted.holder, wait=False, timeout=ANSWER, lease=wanted.lease)
        lease.leave()  # the caller renews it
        return platform.services.status(lease.service)

    def status(call: Call) -> ServiceStatus:
        return platform.services.status(name(call), log_lines=None if call.query.log_lines < 0 else call.query.log_lines)

    def update(call: Call) -> ServiceStatus:
        spec = ServiceSpec.from_dict(call.body.spec)
        check_may_run(call, spec)
        platform.services.update(name(call), spec)
        return platform.services.status(name(call))

    def delete(call: Call) -> object:
        gone = platform.services.delete(name(call), force=call.query.force, holder=call.query.holder, timeout=ANSWER)
        return Deleted(name(call), gone)

    def logs(call: Call) -> Logs:
        asked: LogsQuery = call.query
        index = None if asked.index < 0 else asked.index
        return Logs(name(call), list(platform.services.logs(name(call), index=index, lines=asked.lines)))

    def hold(call: Call) -> Held:
        asked: Hold = call.body
        row = platform.services.hold(name(call), asked.holder, lease=asked.lease)
        if asked.incarnation is not None and row.service_id != asked.incarnation:  # the one that was held is gone, and this is another
            platform.services.release(name(call), asked.holder)
            raise ServiceNotFoundError(f"{name(call)} ({asked.incarnation})", [], "")
        return Held(name(call), row.service_id, row.holder, row.acquired_us, row.expires_us)

    def release(call: Call) -> Released:
        return Released(name(call), platform.services.release(name(call), call.body.holder))

    def scale(call: Call) -> ServiceStatus:
        _check_replicas(call, call.body.replicas)
        platform.services.scale(name(call), call.body.replicas)
        return platform.services.status(name(call))

    def operation(method: str, path: str, summary: str, run: Any, **more: Any) -> Operation:
        given = {"role": "read"} if method == "GET" else {}
        return Operation(method=method, path=path, summary=summary, run=run, scope=None, tag="services", **(given | more))

    one = "/v1/services/{service}"
    return [
        operation("GET", "/v1/services", "The data services, and how they stand", list_all, answer=Services),
        operation("POST", "/v1/services", "Have a service run, and hold it", ensure, body=NewService, answer=ServiceStatus),
        operation("GET", one, "How a service stands, and who holds it", status, query=StatusQuery, answer=ServiceStatus),
        operation("PUT", one, "Change a service, instance by instance", update, body=ChangedService, answer=ServiceStatus),
        operation("DELETE", one, "Remove a service that nobody holds", delete, query=DeleteQuery, answer=Deleted),
        operation("GET", f"{one}/logs", "What its instances have said", logs, query=LogsQuery, answer=Logs),
        operation("POST", f"{one}/hold", "Take a lease, or renew it", hold, body=Hold, answer=Held),
        operation("POST", f"{one}/release", "End a lease", release, body=Release, answer=Released),
        operation("POST", f"{one}/scale", "Have more instances, or fewer", scale, body=Scale, answer=ServiceStatus),
    ]


def check_may_run(call: Call, spec: ServiceSpec) -> None:
    """Refuse programs from callers without a token.

    Raises:
        AuthenticationError: the spec has a command, an environment or a pod of its own, or many replicas, and no token came.
    """
    _check_replicas(call, spec.replicas)
    if call.caller is None and not is_ready_made(spec):
        raise AuthenticationError(
            "a service with settings of its own (beside graph or store, version, shards, replicas, "
            f"{', '.join(_HARMLESS)}) runs a program; over the network that takes a token with the role admin, also where others need none"
        )


def _check_replicas(call: Call, replicas: int) -> None:
    if call.caller is None and replicas > REPLICAS_UNNAMED_MAX:
        raise AuthenticationError(
            f"{replicas} instances over the network take a token with the role admin; up to {REPLICAS_UNNAMED_MAX} do not"
        )


def is_ready_made(spec: ServiceSpec) -> bool:
    """Whether a spec is what `ServiceSpec.graph` or `.store` makes, but for settings that run nothing."""
    source = spec.source
    if source is None:
        return False
    same: dict[str, Any] = {field: getattr(spec, field) for field in _HARMLESS}
    if source.kind == "store":
        return spec == ServiceSpec.store(source.name, replicas=spec.replicas, **same)
    each = spec.replicas // spec.shards
    return spec == ServiceSpec.graph(source.name, version=source.version, follow=source.follow, shards=spec.shards, replicas=each, **same)
