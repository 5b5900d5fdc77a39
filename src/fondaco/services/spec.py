"""Spec: what a data service is, as its user states it: which program, how many of it, how it is reached, when it is ready, how long it
stays.

A spec says nothing of one machine or cluster: words in braces stand for what only the provisioner knows. In `command`, `env` and the
command of a readiness check:

    {python} {directory}            an interpreter that has Fondaco; the platform's directory as the process sees it
    {name} {index} {replicas}       the service's name, this instance's number (from 0), how many there are
    {shard} {shards}                index modulo shards; shards
    {host} {port} {port.NAME}       the address to listen on; the first port, or the named one
    {address} {address.NAME}        "host:port" by which others reach this instance at the first port, or the named one
    {endpoints} {endpoints.NAME}    "host:port,host:port" of all instances, in order, at the first port, or the named one

and in `exports`, the variables that jobs get: {name}, {endpoints}, {endpoints.NAME}, {host}, {port} (of instance 0). `{{` is a brace.

Two specs that mean the same have the same `identity`, and share one service. The meaning is everything but `ttl`, `exports` and `labels`,
which do not change what runs. Values are checked when the spec is made; a message names the path (`readiness.http`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
import string
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from fondaco.core.errors import InputError, near_name
from fondaco.core.ids import check_name
from fondaco.core.units import parse_duration_us
from fondaco.services.quantities import check_resources

NAME_MAX: Final = (
    41  # with "-" and ten digits of the identity 52: to which Kubernetes adds "-" and ten more in a label of pods (63 at most)
)
REPLICAS_MAX: Final = 4096
TTL: Final = "10m"
TTL_MAX_US: Final = 10 * 366 * 86_400_000_000
EXPORTS: Final = {"FONDACO_SERVICE_NAME": "{name}", "FONDACO_SERVICE_ENDPOINTS": "{endpoints}"}
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+|[^/:]+/[^/]+")
_PORT_NAME = re.compile(r"[a-z]([a-z0-9-]{0,13}[a-z0-9])?")  # a port's name in Kubernetes: 15 at most (RFC 6335)
_INSIDE: Final = frozenset({"python", "directory", "name", "index", "replicas", "shard", "shards", "host", "port", "address", "endpoints"})
_OUTSIDE: Final = frozenset({"name", "host", "port", "endpoints"})
_NOT_MEANT: Final = frozenset({"ttl_us", "exports", "labels"})

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one instance is given (`requests`) and may not exceed (`limits`), in Kubernetes' quantities: cpu "500m" or 2, memory "2Gi".

    Keys: "cpu", "memory", "ephemeral-storage", and devices as "nvidia.com/gpu" (whole numbers; a limit of a device is its request).
    """

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class Readiness(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an instance is asked whether it can do its work; exactly one of `http`, `tcp`, `command`. Without any: its process runs.

    Attributes:
        http: path that is answered with 200 to 399. tcp: True: the port takes connections. command: ends with 0; run beside the process.
        port: name of the port asked; None: the first.
        every_s, timeout_s: between two questions; for one answer. start_s: it has failed if it was not ready by then.
        hang_s: without an answer for so long after it was ready, it is started again; None: never for that reason.
    """

    http: str | None = None
    tcp: bool = False
    command: tuple[str, ...] = ()
    port: str | None = None
    every_s: Seconds = 1.0
    timeout_s: Seconds = 5.0
    start_s: Seconds = 600.0
    hang_s: Seconds | None = 60.0


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A folder that instances see at `path`; exactly one source.

    Attributes:
        path: absolute, where the process sees it. Locally nothing is mounted: `host` must be the same path, the others are refused,
            except `empty`, which is made.
        claim: a PersistentVolumeClaim. host: a folder of the machine. secret, config: of the namespace. empty: scratch, gone with the pod;
            True, or a size as "10Gi".
    """

    path: str
    claim: str | None = None
    host: str | None = None
    secret: str | None = None
    config: str | None = None
    empty: bool | str | None = None
    read_only: bool = True


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a service may run. Neither: on the default cluster. `labels`: on any cluster that has all of these, in the configured order."""

    cluster: str | None = None
    labels: dict[str, str] = {}


class PodSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What only Kubernetes knows; other provisioners leave it alone.

    Attributes:
        template: merged into the pod template last, as a strategic merge would (lists of named things by name), for all that has no name
            here; e.g. {"spec": {"hostNetwork": True}}. `selector` labels and the names of our containers cannot be changed by it.
        security: merged into the container's security context; the default drops all capabilities, runs as uid 1000, not root, with a
            read-only root and RuntimeDefault seccomp.
        spread: "prefer" (default) or "require" instances on different nodes, or "none".
        disruption: how many instances a voluntary disruption may take at once (maxUnavailable); 0: none; None: no budget.
        publish_unready: whether DNS names instances before they are ready, so that they find each other while they start.
    """

    service_account: str | None = None
    pull_secrets: tuple[str, ...] = ()
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = {}
    priority_class: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    security: dict[str, Any] = {}
    spread: Literal["prefer", "require", "none"] = "prefer"
    disruption: int | None = 1
    publish_unready: bool = True
    grace_s: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 30
    template: dict[str, Any] = {}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a ready-made service serves. `version` None: the one that is current when the service is ensured, which then is in its identity;
    `follow`: whichever is current, at any time."""

    kind: Literal["graph", "store"]
    name: str
    version: int | None = None
    follow: bool = False


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
            "command": _converted("command", [command] if isinstance(command, str) else _list("command", command), tuple[str, ...]),
            "image": _converted("image", image, str | None),
            "replicas": _converted("replicas", replicas, Count),
            "shards": _converted("shards", shards, Count),
            "ports": _ports(ports),
            "resources": _resources(resources),
            "env": _env(env),
            "secrets": _converted("secrets", _mapping("secrets", secrets), dict[str, str]),
            "volumes": _converted("volumes", _list("volumes", volumes), tuple[Volume, ...]),
            "readiness": _converted("readiness", readiness or {}, Readiness),
            "placement": _converted("placement", {"cluster": placement} if isinstance(placement, str) else placement or {}, Placement),
            "pod": _converted("pod", pod or {}, PodSettings),
            "source": _converted("source", source, Source | None),
            "exact_name": _converted("exact_name", exact_name, bool),
            "ttl_us": _ttl(ttl, ttl_us),
            "exports": _converted("exports", _mapping("exports", exports), dict[str, str]),
            "labels": _converted("labels", _mapping("labels", labels), dict[str, str]),
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
        shards, replicas = _converted("shards", shards, Count), _converted("replicas", replicas, Count)
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
        source = _converted("source", {"kind": "graph", "name": graph, "version": version, "follow": follow}, Source)
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
            subject = _converted(kinds[0], given.pop(kinds[0]), str)
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
        """SHA-256 (hex) of what the spec means, in canonical JSON: equal for specs that mean the same."""
        meant = {name: value for name, value in self.to_dict().items() if name not in _NOT_MEANT}
        return hashlib.sha256(json.dumps(meant, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()).hexdigest()

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


def words_of(text: str, *, path: str, inside: bool) -> set[str]:
    """The words in braces of a text.

    Raises:
        InputError: braces do not match, or a word is unknown.
    """
    known = _INSIDE if inside else _OUTSIDE
    try:
        fields = [field[1:] for field in string.Formatter().parse(text)]
    except ValueError as exc:
        raise InputError(f"{path}: {text!r}: {exc}; write {{{{ and }}}} for braces") from None
    found = {name for name, _, _ in fields if name is not None}
    if any(format_ or conversion for _, format_, conversion in fields):
        raise InputError(f"{path}: {text!r}: a word in braces stands as it is, without ':' and '!'; write {{{{ and }}}} for braces")
    for word in found:
        head, dot, _ = word.partition(".")
        if head not in known or (dot and head not in ("port", "endpoints", "address")):
            there_are = ", ".join(f"{{{name}}}" for name in sorted(known))
            raise InputError(f"{path}: {text!r} names {{{word}}}, which is none of {there_are}; write {{{{ and }}}} for braces")
    return found


def filled(text: str, values: Mapping[str, object]) -> str:
    """A text with its words in braces replaced; `values` has all of them, "port.metrics" too."""
    parts = []
    for before, word, _, _ in string.Formatter().parse(text):
        parts.append(before)
        if word is not None:
            parts.append(str(values[word]))
    return "".join(parts)


def _converted(path: str, value: object, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, from_attributes=False)
    except (msgspec.ValidationError, RecursionError) as exc:
        what, where = _fault(exc)
        if "[...]" in where:
            where = _with_keys(value, kind, where)
        got = f", not {value!r}" if not where else ""
        raise InputError(f"{path}{where}: {what[:1].lower() + what[1:]}{got}") from None


def _fault(exc: Exception) -> tuple[str, str]:
    """What is wrong, and where below the value, as ".limits[...]"."""
    what, _, where = str(exc).partition(" - at `")
    return what, where.partition("$")[2].rstrip("`")


def _with_keys(value: object, kind: Any, where: str) -> str:
    """The path of a fault with the keys that msgspec writes as `[...]`: those of the entries that are at fault alone, too."""
    steps = re.findall(r"\.\w+|\[\d+\]|\[\.\.\.\]", where)
    found = ""
    for position, step in enumerate(steps):
        if step != "[...]":
            found += step
            continue
        inside = steps[:position]
        for key, item in _at(value, inside).items():
            try:
                msgspec.convert(_with(value, inside, {key: item}), kind, from_attributes=False)
            except msgspec.ValidationError:
                found += f".{key}"
                value = _with(value, inside, {key: item})
                steps[position] = f".{key}"
                break
    return found


def _at(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        value = value[int(step[1:-1])] if step.startswith("[") else value[step[1:]]
    return value


def _with(value: Any, steps: Sequence[str], inner: object) -> Any:
    """A copy of nested mappings and lists with something else at a place."""
    if not steps:
        return inner
    key = int(steps[0][1:-1]) if steps[0].startswith("[") else steps[0][1:]
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[key] = _with(value[key], steps[1:], inner)  # type: ignore[index]
    return copy


def _list(path: str, given: object) -> list[Any]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InputError(f"{path}: expected a list, not {given!r}")
    return list(given)


def _mapping(path: str, given: object) -> dict[Any, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{path}: expected a mapping, as {{'NAME': 'value'}}, not {given!r}")
    return dict(given)


def _env(given: object, path: str = "env") -> dict[str, str]:
    """Variables; a whole number is the text of it."""
    values = {key: str(value) if type(value) is int else value for key, value in _mapping(path, given).items()}
    return _converted(path, values, dict[str, str])  # type: ignore[no-any-return]


def _resources(given: object) -> Resources:
    """Amounts may be numbers: `cpu=2` is "2", and 0.5 is "0.5"."""
    if given is None or isinstance(given, Resources):
        return given or Resources()
    document = _mapping("resources", given)
    for kind, amounts in document.items():
        if isinstance(amounts, Mapping):
            document[kind] = {name: str(amount) if type(amount) in (int, float) else amount for name, amount in amounts.items()}
    return _converted("resources", document, Resources)  # type: ignore[no-any-return]


def _ttl(ttl: object, ttl_us: object) -> int:
    if ttl_us is not None:
        return _converted("ttl_us", ttl_us, Annotated[int, msgspec.Meta(ge=0, le=TTL_MAX_US)])  # type: ignore[no-any-return]
    if not isinstance(ttl, (str, timedelta)):
        raise InputError(f'ttl: expected a duration, as "10m", not {ttl!r}')
    try:
        us = parse_duration_us(ttl)
    except (InputError, OverflowError) as exc:
        raise InputError(f"ttl: {exc}") from None
    if us > TTL_MAX_US:
        raise InputError(f"ttl: {ttl!r} is longer than ten years; a lease without an end keeps a service for as long as you like")
    return us


def _ports(given: object) -> dict[str, int | None]:
    if isinstance(given, (int, str)) and not isinstance(given, bool):
        given = {"main": given} if isinstance(given, int) else {given: None}
    elif not isinstance(given, Mapping):
        named = _list("ports", given)
        for index, name in enumerate(named):
            if not isinstance(name, str):
                raise InputError(f"ports[{index}]: {name!r} is no name; write ports={{'main': 8080}} for a number, or names in a list")
        given = dict.fromkeys(named)
    ports: dict[str, int | None] = _converted("ports", dict(given), dict[str, PortNumber | None])
    taken: dict[int, str] = {}
    for name, number in ports.items():
        if number is not None and taken.setdefault(number, name) != name:
            raise InputError(f"ports.{name}: {number} is the number of port {taken[number]!r} already")
    return ports


def _check(spec: ServiceSpec) -> None:
    name = _converted("name", spec.name, str)
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
            _check_variable(path, variable)
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
        _check_text(path, text)
        for word in words_of(text, path=path, inside=inside):
            head, _, port = word.partition(".")
            if head in ("port", "endpoints", "address") and not spec.ports:
                raise InputError(f"{path}: {text!r} names a port, and the service has none (ports)")
            if port and port not in spec.ports:
                raise InputError(f"{path}: {text!r} names port {port!r}; there is: {', '.join(spec.ports)}")


def checked_variables(path: str, given: object) -> dict[str, str]:
    """Variables that a program can be given, as whoever uses a service states them; a whole number is the text of it.

    Raises:
        InputError: names the path.
    """
    variables = _env(given, path)
    for variable, text in variables.items():
        _check_variable(path, variable)
        _check_text(f"{path}.{variable}", text)
    return variables


def _check_variable(path: str, name: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise InputError(f"{path}.{name}: a variable's name is letters, digits and '_', no digit first")


def _check_text(path: str, text: str) -> None:
    if not text.isascii() and _is_torn(text):
        raise InputError(f"{path}: {text!r} holds half a character (a surrogate), which UTF-8 cannot")
    if "\0" in text:
        raise InputError(f"{path}: a program's arguments and variables cannot hold a NUL byte")


def _is_torn(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


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
