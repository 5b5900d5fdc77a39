"""Spec: what a data service is, as its user states it: which program, how many of it, how it is reached, when it is ready, how long it
stays.

A spec says nothing of one machine or cluster: words in braces stand for what only the provisioner knows (`words`).

Two specs that mean the same have the same `identity`, and share one service. The meaning is everything but `ttl`, `exports` and `labels`,
which do not change what runs. Values are checked when the spec is made; a message names the path (`readiness.http`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from fondaco.core.errors import InputError, near_name
from fondaco.core.ids import check_name
from fondaco.services.conversion import (
    as_env,
    as_list,
    as_mapping,
    as_ports,
    as_resources,
    as_ttl_us,
    check_text,
    check_variable,
    converted,
)
from fondaco.services.quantities import amounts, check_resources
from fondaco.services.settings import Count, Placement, PodSettings, Readiness, Resources, Source, Volume
from fondaco.services.words import words_of

NAME_MAX: Final = (
    41  # with "-" and ten digits of the identity 52: to which Kubernetes adds "-" and ten more in a label of pods (63 at most)
)
REPLICAS_MAX: Final = 4096
TTL: Final = "10m"
EXPORTS: Final = {"FONDACO_SERVICE_NAME": "{name}", "FONDACO_SERVICE_ENDPOINTS": "{endpoints}"}
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_SECRET = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+|[^/:]+/[^/]+")
_PORT_NAME = re.compile(r"[a-z]([a-z0-9-]{0,13}[a-z0-9])?")  # a port's name in Kubernetes: 15 at most (RFC 6335)
_NOT_MEANT: Final = frozenset({"ttl_us", "exports", "labels"})


@dataclass(frozen=True, init=False)
class ServiceSpec:
    """A set of equal long-running processes that feeds jobs.

    Attributes:
        name: of lower-case letters, digits and `-`; the service is called `<name>-<ten digits of the identity>`, or with `exact_name` as it
            says, at the price that another spec under this name is a conflict.
        command: program and arguments; empty: what the image starts. image: needed on Kubernetes (or configured there), ignored locally.
        replicas: instances. shards: they are shards 0 to shards-1, over and over; `replicas` is a multiple of it.
        ports: names to numbers; the first is the one of `endpoints`. None: any free one locally, 7080 and following on Kubernetes. A number
            is instance 0's locally, where instance i listens on number + i.
        env: variables of the processes. secrets: variables from secrets, {"TOKEN": "secret-name/key"}; locally {"TOKEN": "env:NAME"} or
            "file:PATH".
        source: what a ready-made service serves.
        ttl_us: how long it stays after its last lease ended. exports: variables that jobs get.
        labels: for people and their tools; on Kubernetes, labels of the objects.
    """

    name: str
    _: KW_ONLY
    command: tuple[str, ...]
    image: str | None
    replicas: int
    shards: int
    ports: dict[str, int | None]
    resources: Resources
    env: dict[str, str]
    secrets: dict[str, str]
    volumes: tuple[Volume, ...]
    readiness: Readiness
    placement: Placement
    pod: PodSettings
    source: Source | None
    exact_name: bool
    ttl_us: int
    exports: dict[str, str]
    labels: dict[str, str]

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str] = (),
        image: str | None = None,
        replicas: int = 1,
        shards: int = 1,
        ports: Mapping[str, int | None] | Sequence[str] | int | str = (),
        resources: Resources | Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        volumes: Sequence[Volume | Mapping[str, Any]] = (),
        readiness: Readiness | Mapping[str, Any] | None = None,
        ttl: str | timedelta = TTL,
        placement: Placement | Mapping[str, Any] | str | None = None,
        pod: PodSettings | Mapping[str, Any] | None = None,
        source: Source | Mapping[str, Any] | None = None,
        exact_name: bool = False,
        exports: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        ttl_us: int | None = None,
    ) -> None:
        """
        Args:
            ports: also a number, a name, or a list of names. placement: also the name of a cluster. ttl: as "10m"; ttl_us: the same, exact.
        Raises:
            InputError: a value is wrong; names its path.
        """
        values: dict[str, Any] = {
            "name": name,
            "command": converted("command", [command] if isinstance(command, str) else as_list("command", command), tuple[str, ...]),
            "image": converted("image", image, str | None),
            "replicas": converted("replicas", replicas, Count),
            "shards": converted("shards", shards, Count),
            "ports": as_ports(ports),
            "resources": as_resources(resources),
            "env": as_env(env),
            "secrets": converted("secrets", as_mapping("secrets", secrets), dict[str, str]),
            "volumes": converted("volumes", as_list("volumes", volumes), tuple[Volume, ...]),
            "readiness": converted("readiness", readiness or {}, Readiness),
            "placement": converted("placement", {"cluster": placement} if isinstance(placement, str) else placement or {}, Placement),
            "pod": converted("pod", pod or {}, PodSettings),
            "source": converted("source", source, Source | None),
            "exact_name": converted("exact_name", exact_name, bool),
            "ttl_us": as_ttl_us(ttl, ttl_us),
            "exports": converted("exports", as_mapping("exports", exports), dict[str, str]),
            "labels": converted("labels", as_mapping("labels", labels), dict[str, str]),
        }
        for field_name, value in values.items():
            object.__setattr__(self, field_name, value)
        _check(self)

    # -- ready-made -------------------------------------------------------------------------------------------------------------------

    @classmethod
    def graph(
        cls, graph: str, *, version: int | None = None, follow: bool = False, shards: int = 1, replicas: int = 1, **more: Any
    ) -> ServiceSpec:
        """The service that answers queries about a graph (`fondaco.graph.serve`).

        Args:
            version: None: the one that is current when it is ensured. follow: whichever is current, at any time; jobs may see a swap.
            shards: servers that hold the graph together. replicas: of each shard, so `shards * replicas` instances run.
            more: any other argument of ServiceSpec.
        """
        check_name("graph", graph)
        shards, replicas = converted("shards", shards, Count), converted("replicas", replicas, Count)
        if follow and version is not None:
            raise InputError(f"follow: a service stays on version {version}, or follows whichever is current, not both")
        command = ["{python}", "-m", "fondaco.graph.serve", "{directory}", graph, "--shard", "{shard}/{shards}", "--host", "{host}"]
        command += ["--port", "{port}", "--metrics-port", "{port.metrics}"]
        # A single server too: what it listens on ("0.0.0.0" in a pod) is no address for clients, and it meets others when it is scaled.
        command += ["--advertise", "{address}", "--peers", "{endpoints}"]
        given: dict[str, Any] = {
            "name": _label("graph-" + graph),
            "command": command,
            "ports": ["graph", "metrics"],
            "readiness": Readiness(http="/ready", port="metrics"),
            "exports": {"FONDACO_GRAPH_ENDPOINTS": "{endpoints}", "FONDACO_GRAPH_NAME": graph},
        }
        source = converted("source", {"kind": "graph", "name": graph, "version": version, "follow": follow}, Source)
        return cls(**(given | {"shards": shards, "replicas": shards * replicas, "source": source} | more))

    @classmethod
    def store(cls, store: str, *, replicas: int = 1, **more: Any) -> ServiceSpec:
        """The service that answers reads (and writes) of a store over HTTP (`fondaco.dataplane.serve`); `fd.connect()` finds it."""
        check_name("store", store)
        given: dict[str, Any] = {
            "name": _label("store-" + store),
            "command": ["{python}", "-m", "fondaco.dataplane.serve", "{directory}", "--host", "{host}", "--port", "{port}"],
            "ports": ["http"],
            "readiness": Readiness(http="/readyz"),
            "exports": {"FONDACO_URL": "http://{host}:{port}", "FONDACO_STORE_ENDPOINTS": "{endpoints}", "FONDACO_STORE_NAME": store},
        }
        return cls(**(given | {"replicas": replicas, "source": Source("store", store, follow=True)} | more))

    # -- as a document ----------------------------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ServiceSpec:
        """The spec that a mapping states, as `to_dict` makes one or a person writes one; {"graph": "routes", ...} and {"store": ...} are
        the ready-made ones.

        Raises:
            InputError: a key is unknown (suggests the nearest) or a value is wrong; names its path.
        """
        given = dict(document)
        kinds = [kind for kind in ("graph", "store") if kind in given]
        if len(kinds) > 1:
            raise InputError("a service serves a graph or a store, not both: leave out one of these keys")
        allowed = [*_ARGUMENTS, "version", "follow"] if kinds == ["graph"] else list(_ARGUMENTS)
        for key in given.keys() - {*allowed, *kinds}:
            near = near_name(str(key), [*allowed, "graph", "store"])
            raise InputError(
                f"{key!r} is no setting of a service" + (f"; did you mean {near!r}?" if near else f"; there are: {', '.join(allowed)}")
            )
        if kinds:
            subject = converted(kinds[0], given.pop(kinds[0]), str)
            return cls.graph(subject, **given) if kinds == ["graph"] else cls.store(subject, **given)
        if "name" not in given:
            raise InputError("name: a service needs one")
        return cls(**given)

    @classmethod
    def from_toml(cls, path: str | Path) -> ServiceSpec:
        """The spec in a TOML file, in its [service] table or at its top level.

        Raises:
            InputError: no such file, not TOML, or as `from_dict`; names the file.
        """
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(document.get("service", document))
        except OSError as exc:
            raise InputError(f"{path}: {exc.strerror}; a spec is a TOML file") from exc
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, InputError) as exc:
            raise InputError(f"{path}: {exc}") from exc

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON can carry it (lists, no tuples); what `from_dict` reads back to an equal spec. What is empty is left out."""
        same = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        built: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(same))
        return {name: value for name, value in built.items() if value not in ({}, [], None, False) or name == "ttl_us"}

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of `meaning`, in canonical JSON: equal for specs that mean the same."""
        return hashlib.sha256(json.dumps(self.meaning(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()).hexdigest()

    def meaning(self) -> dict[str, Any]:
        """What runs, however it was written: amounts as numbers, ports in their order, and what was left out as what stands in for it."""
        meant = {name: value for name, value in self.to_dict().items() if name not in _NOT_MEANT}
        if self.ports:
            meant["ports"] = list(self.ports.items())  # the first one is that of `endpoints`
        if self.resources != Resources():
            limits, requests = amounts(self.resources.limits), amounts(self.resources.requests)
            meant["resources"] = {"limits": limits, "requests": limits | requests}  # Kubernetes asks for the limit where nothing is said
        if self.readiness.http is not None or self.readiness.tcp:
            meant["readiness"].setdefault("port", next(iter(self.ports), None))
        return meant

    @property
    def service(self) -> str:
        """What the service is called: a DNS label."""
        return self.name if self.exact_name else f"{self.name}-{self.identity[:10]}"

    def replace(self, **changes: Any) -> ServiceSpec:
        """The same with some arguments changed."""
        same = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        if "ttl" in changes:
            del same["ttl_us"]
        return ServiceSpec(**(same | changes))


_ARGUMENTS: Final = tuple(name for name in inspect.signature(ServiceSpec.__init__).parameters if name != "self")


def _check(spec: ServiceSpec) -> None:
    name = converted("name", spec.name, str)
    if not _NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise InputError(
            f"name: {name!r} must be a letter, then lower-case letters, digits and '-', not '-' at the end, {NAME_MAX} at most"
        )
    if spec.replicas > REPLICAS_MAX:
        raise InputError(f"replicas: {spec.replicas} is more than {REPLICAS_MAX}")
    if spec.replicas % spec.shards:
        raise InputError(
            f"replicas: {spec.replicas} is not a multiple of shards, {spec.shards}: each shard needs as many instances as the others"
        )
    if not spec.command and spec.image is None:
        raise InputError("command: a service needs a command to run, or an image that starts one")
    for port in spec.ports:
        if not _PORT_NAME.fullmatch(port):
            raise InputError(f"ports.{port}: a port's name is a letter, then lower-case letters, digits and '-', 15 at most")
    for path, variables in (("env", spec.env), ("secrets", spec.secrets), ("exports", spec.exports)):
        for variable in variables:
            check_variable(path, variable)
    for variable in spec.env.keys() & spec.secrets.keys():
        raise InputError(f"secrets.{variable}: this variable is in env already")
    for variable, reference in spec.secrets.items():
        if not _SECRET.fullmatch(reference):
            raise InputError(
                f'secrets.{variable}: {reference!r} must say where the value is: "name/key" of a Kubernetes secret, or, on this machine, '
                '"env:NAME" or "file:PATH"'
            )
    check_resources(spec.resources.requests, spec.resources.limits)
    _check_readiness(spec)
    _check_volumes(spec.volumes)
    texts = [(f"command[{index}]", text, True) for index, text in enumerate(spec.command)]
    texts += [(f"readiness.command[{index}]", text, True) for index, text in enumerate(spec.readiness.command)]
    texts += [(f"env.{key}", text, True) for key, text in spec.env.items()] + [
        (f"exports.{key}", text, False) for key, text in spec.exports.items()
    ]
    for path, text, inside in texts:
        check_text(path, text)
        for word in words_of(text, path=path, inside=inside):
            head, _, port = word.partition(".")
            if head in ("port", "endpoints", "address") and not spec.ports:
                raise InputError(f"{path}: {text!r} names a port, and the service has none (ports)")
            if port and port not in spec.ports:
                raise InputError(f"{path}: {text!r} names port {port!r}; there is: {', '.join(spec.ports)}")


def _check_readiness(spec: ServiceSpec) -> None:
    readiness = spec.readiness
    ways = [way for way, given in (("http", readiness.http is not None), ("tcp", readiness.tcp), ("command", readiness.command)) if given]
    if len(ways) > 1:
        raise InputError(f"readiness: {' and '.join(ways)}: an instance is asked in one way; leave out the others")
    if readiness.http is not None and not readiness.http.startswith("/"):
        raise InputError(f"readiness.http: {readiness.http!r} is a path, as '/ready'")
    if readiness.port is not None and readiness.port not in spec.ports:
        raise InputError(f"readiness.port: {readiness.port!r} is no port of the service; there is: {', '.join(spec.ports) or 'none'}")
    if ways in (["http"], ["tcp"]) and not spec.ports:
        raise InputError(f"readiness.{ways[0]}: the service has no port to ask (ports)")


def _check_volumes(volumes: Sequence[Volume]) -> None:
    for index, volume in enumerate(volumes):
        sources = [name for name in ("claim", "host", "secret", "config", "empty") if getattr(volume, name)]
        if len(sources) != 1:
            raise InputError(f"volumes[{index}]: {volume.path} needs one of claim, host, secret, config, empty, and has {len(sources)}")
        if not volume.path.startswith("/"):
            raise InputError(f"volumes[{index}].path: {volume.path!r} is not absolute")
        if any(other.path == volume.path for other in volumes[:index]):
            raise InputError(f"volumes[{index}].path: {volume.path!r} is used twice")


def _label(text: str) -> str:
    """A name made from any other: what a DNS label cannot hold becomes `-`."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return label[:NAME_MAX].rstrip("-")
