"""DataServiceConfig: the settings of a data service task, under the names that Flyte's own data service plugin gave them, and ours beside.

A config is written by a person, checked when it is made, and travels as the `custom` of a task template: a protobuf Struct, which knows no
integers (40000 arrives as 40000.0) and in which older registrations carry explicit nulls. `from_custom` undoes both: whole numbers are
whole again, nulls are what was not set. What it means is a `ServiceSpec`.

Immutable; any thread. Imports no Flyte: resources are read by the names of their fields, from flytekit's `Resources` and flyte's alike.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fondaco.core.errors import InputError, near_name
from fondaco.core.units import parse_duration_us
from fondaco.services.spec import ServiceSpec
from fondaco.services.words import words_of

PORT: Final = 40_000  # what the plugin documents for a service of which only the image is said
HOLD: Final = "6h"
HOLD_MIN_US: Final = 1_000_000
POLICIES: Final = ("release", "keep")
# Programs written for the plugin find their port here.
_PLUGIN_ENV: Final = {"SERVER_PORT": "{port}", "GE_BASE_PORT": "{port}", "GE_COUNT": "{replicas}"}
_RESOURCES: Final = {
    "cpu": "cpu", "mem": "memory", "memory": "memory", "gpu": "nvidia.com/gpu", "ephemeral_storage": "ephemeral-storage",
    "ephemeral-storage": "ephemeral-storage", "disk": "ephemeral-storage",
}  # fmt: skip
# Where a setting lies in a spec: to refuse what is said twice, and to name in messages what the person wrote.
_IN_SPEC: Final = {
    "Name": "name", "Image": "image", "Command": "command", "Port": "ports", "Replicas": "replicas", "Requests": "resources.requests",
    "Limits": "resources.limits", "Cluster": "placement.cluster", "Placement": "placement.labels", "Graph": "graph", "Store": "store",
    "Version": "version", "Shards": "shards", "Env": "env", "Exports": "exports", "Readiness": "readiness", "Ttl": "ttl",
    "Labels": "labels",
}  # fmt: skip
_WITHOUT_SPEC: Final = frozenset({"Name", "Cluster", "ExistingReleaseName", "Policy", "Hold", "Ttl", "Exports"})
_BRACES: Final = re.compile(r"\$\{[^{}]*\}|\{\{[a-z][a-z0-9.-]*\}\}|\{[a-z][a-z0-9.-]*\}|[{}]")


@dataclass(frozen=True)
class DataServiceConfig:
    """What a data service task makes sure of. Unset is None everywhere.

    Attributes:
        Name: what the service is called, exactly; another meaning under a name in use is refused. None: a name of ours, with digits of the
            settings' hash, so that equal settings share one service and others never meet.
        Requests, Limits: what each instance is given and may not exceed: flytekit's or flyte's `Resources`, or {"cpu": "2", "mem": "4Gi"}.
        Port: the number listened on. None: with an image 40000, else any free one (`{port}` in Command, SERVER_PORT in the environment).
        Image, Command: what runs. In Command and Env words as {port}, {index}, {address} are filled in (see `ServiceSpec`); `${...}` and
            other braces stay as they are.
        Replicas: instances; with Graph, of each shard.
        ExistingReleaseName: use this service, which exists already; other settings, if any, must mean the same as it does.
        Cluster: where it runs, by name.
        Graph, Store: serve this graph or this store; Version: of the graph, None: the one that is current when the task starts.
        Shards: servers that hold the graph together; of other services: the number that {shards} stands for.
        Env: variables of the processes. Exports: variables that jobs get, in the task's output `env`.
        Readiness: when an instance can do its work: a path ("/ready", asked over HTTP), "tcp", "process", or a table as in `ServiceSpec`.
            None: for graphs and stores their own check, else "tcp".
        Ttl: how long the service stays after its last user has gone, as "10m".
        Policy: "release": the task's lease ends `Hold` after it has succeeded, and the service with its Ttl; "keep": it stays until
            somebody deletes it.
        Hold: as "6h", the default; longer than the workflow's other tasks take, which hold no lease of their own.
        Labels: labels of the service. Placement: labels that a cluster must have to run it.
        Spec: any other setting of `ServiceSpec`: a mapping, or the text of a TOML file.
    """

    Name: str | None = None
    Requests: Any = None
    Limits: Any = None
    Port: int | None = None
    Image: str | None = None
    Command: Sequence[str] | None = None
    Replicas: int | None = None
    ExistingReleaseName: str | None = None
    Cluster: str | None = None
    Graph: str | None = None
    Store: str | None = None
    Version: int | None = None
    Shards: int | None = None
    Env: Mapping[str, str] | None = None
    Exports: Mapping[str, str] | None = None
    Readiness: str | Mapping[str, Any] | None = None
    Ttl: str | None = None
    Policy: str | None = None
    Hold: str | None = None
    Labels: Mapping[str, str] | None = None
    Placement: Mapping[str, str] | None = None
    Spec: Mapping[str, Any] | str | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one is wrong, or two contradict each other; names them.
        """
        for name, read in _READERS.items():
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else read(name, given))
        _split_pairs(self)
        _check(self)
        self.to_spec()

    @property
    def hold_us(self) -> int | None:
        """How long the lease lasts after success, microseconds; None: until it is released (`Policy` "keep")."""
        return None if self.Policy == "keep" else _duration_us("Hold", self.Hold or HOLD)

    def to_custom(self) -> dict[str, Any]:
        """The settings as a task template carries them: what was set, in JSON's types."""
        return {item.name: value for item in dataclasses.fields(self) if (value := getattr(self, item.name)) is not None}

    @classmethod
    def from_custom(cls, custom: Mapping[str, Any]) -> DataServiceConfig:
        """The settings in a task template, ours or the plugin's.

        Raises:
            InputError: a setting is unknown (suggests the nearest) or wrong.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        for name in custom:
            if name not in known:
                near = near_name(name, known)
                hint = f"did you mean {near!r}?" if near else f"there are: {', '.join(known)}"
                raise InputError(f"{name!r} is no setting of a data service task; {hint}")
        return cls(**{name: value for name, value in custom.items() if value is not None})

    def to_spec(self) -> ServiceSpec | None:
        """What is asked for; None if only an existing service is named.

        Raises:
            InputError: as when the config was made.
        """
        for name, text in (self.Exports or {}).items():
            words_of(text, path=f"Exports.{name}", inside=False)
        if self.ExistingReleaseName and not self._says_more():
            return None
        document = _document(self)
        try:
            spec = ServiceSpec.from_dict(document)
            return spec.replace(exports={**spec.exports, **self.Exports}) if self.Exports else spec
        except InputError as exc:
            raise InputError(self._as_written(str(exc))) from exc

    def _says_more(self) -> bool:
        """Whether, beside the name of an existing service, a service is described."""
        return any(getattr(self, name) is not None for name in _IN_SPEC.keys() - _WITHOUT_SPEC) or self.Spec is not None

    def _as_written(self, message: str) -> str:
        """A message about the spec, about the setting that was written."""
        for name, path in _IN_SPEC.items():
            if getattr(self, name) is not None and re.match(re.escape(path) + r"\b", message):
                return name + message[len(path) :]
        return f"Spec: {message}" if self.Spec is not None else message


# -- from the config to a spec's document ---------------------------------------------------------------------------------------------


def _document(config: DataServiceConfig) -> dict[str, Any]:
    """A spec's document, as `ServiceSpec.from_dict` takes it."""
    document = _spec_table(config.Spec)
    ready_made = config.Graph or config.Store or document.get("graph") or document.get("store")
    plain = {
        "name": config.Name,
        "exact_name": True if config.Name else None,
        "image": config.Image,
        "command": [_literal_braces(text) for text in config.Command] if config.Command is not None else None,
        "replicas": config.Replicas,
        "shards": config.Shards,
        "version": config.Version,
        "graph": config.Graph,
        "store": config.Store,
        "ttl": config.Ttl,
        "labels": config.Labels,
        "readiness": _readiness(config.Readiness) if config.Readiness is not None else None,
        "env": {name: _literal_braces(text) for name, text in config.Env.items()} if config.Env is not None else None,
        "ports": _ports(config, document) if config.Port is not None else None,
    }
    document |= {name: value for name, value in plain.items() if value is not None}
    for outer, inner, value in (
        ("resources", "requests", config.Requests), ("resources", "limits", config.Limits), ("placement", "cluster", config.Cluster),
        ("placement", "labels", config.Placement),
    ):  # fmt: skip
        if value is not None:
            there = document.get(outer, {})
            if not isinstance(there, Mapping):
                raise InputError(f"{outer}: {there!r} in Spec says all of it, and so there is no room for {inner}; leave one out")
            document[outer] = {**there, inner: value}
    if ready_made:
        return document
    document.setdefault("name", "data-service")
    if config.Image is not None or config.Command is not None:
        ports = document.setdefault("ports", {"main": PORT if config.Image is not None else None})
        if ports:
            document.setdefault("readiness", {"tcp": True})
            env = document.get("env", {})
            document["env"] = {**_PLUGIN_ENV, **env} if isinstance(env, Mapping) else env
    return document


def _spec_table(spec: Mapping[str, Any] | str | None) -> dict[str, Any]:
    if not isinstance(spec, str):
        return dict(spec or {})
    try:
        table = tomllib.loads(spec)
    except tomllib.TOMLDecodeError as exc:
        raise InputError(f"Spec: not TOML: {exc}") from exc
    inner = table.get("service", table)
    if not isinstance(inner, dict):
        raise InputError(f"Spec: service is a table, [service], not {inner!r}")
    return inner


def _ports(config: DataServiceConfig, document: Mapping[str, Any]) -> dict[str, int | None]:
    if config.Graph or document.get("graph"):
        return {"graph": config.Port, "metrics": None}
    return {"http" if config.Store or document.get("store") else "main": config.Port}


def _readiness(given: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(given, str):
        return {"http": given} if given.startswith("/") else {"tcp": True} if given == "tcp" else {}
    return given


def _literal_braces(text: str) -> str:
    """A text of a command, with every brace doubled that is no placeholder: shells write ${VARIABLE}, JSON writes {"a": 1}. A word in
    double braces is the word in braces, as in `ServiceSpec`."""

    def written(match: re.Match[str]) -> str:
        found = match[0]
        if found.startswith("${"):
            return "${{" + found[2:-1] + "}}"
        return found if len(found) > 1 else found * 2

    return _BRACES.sub(written, text)


# -- what is accepted -----------------------------------------------------------------------------------------------------------------


def _text(path: str, value: object) -> str | None:
    if not isinstance(value, str):
        raise InputError(f"{path}: expected a text, not {value!r}")
    return value or None  # an empty one says nothing, as in the plugin


def _whole(path: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a Struct has no integers
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{path}: expected a whole number, not {value!r}")
    if value < 1:
        raise InputError(f"{path}: expected 1 or more, not {value}")
    return value


def _command(path: str, value: object) -> list[str]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise InputError(f'{path}: expected a list of texts, as ["python", "serve.py"], not {value!r}')
    return [str(part) for part in value]


def _texts(path: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InputError(f'{path}: expected a mapping, as {{"NAME": "value"}}, not {value!r}')
    found = {}
    for name, item in value.items():
        if isinstance(item, float) and item.is_integer():
            item = int(item)
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise InputError(f"{path}.{name}: expected a text, not {item!r}")
        found[str(name)] = str(item)
    return found


def _resources(path: str, value: object) -> dict[str, Any]:
    """Quantities by Kubernetes' names, from a mapping or from an object with fields as flytekit's and flyte's `Resources` have them."""
    if isinstance(value, Mapping):
        fields = dict(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    else:
        raise InputError(f'{path}: expected Resources or a mapping, as {{"cpu": "2", "mem": "4Gi"}}, not {value!r}')
    found: dict[str, Any] = {}
    for name, amount in fields.items():
        if amount is None:
            continue
        kubernetes = _RESOURCES.get(str(name), str(name) if "/" in str(name) else None)
        if kubernetes is None:
            near = near_name(str(name), _RESOURCES)
            raise InputError(f"{path}.{name}: no such resource" + (f"; did you mean {near!r}?" if near else f"; {_DEVICES}"))
        if isinstance(amount, (list, tuple)):
            if len(amount) != 2:
                raise InputError(f"{path}.{name}: expected one amount, or request and limit, not {amount!r}")
            found[kubernetes] = [_quantity(f"{path}.{name}", part) for part in amount]
        else:
            found[kubernetes] = _quantity(f"{path}.{name}", amount)
    return found


_DEVICES: Final = 'there are cpu, mem, gpu, ephemeral_storage, and devices by their full name, as "amd.com/gpu"'


def _quantity(path: str, amount: object) -> str:
    if isinstance(amount, float) and amount.is_integer():
        amount = int(amount)
    if isinstance(amount, bool) or not isinstance(amount, (str, int, float)):
        raise InputError(f'{path}: expected a quantity as "2", "500m" or "4Gi", not {amount!r}')
    if path.endswith(".gpu") and isinstance(amount, str) and not amount.isdigit():
        raise InputError(f"{path}: expected a number of devices, not {amount!r}; say which kind by Spec's pod.node_selector")
    return str(amount)


def _readiness_of(path: str, value: object) -> str | dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(name): _json(f"{path}.{name}", item) for name, item in value.items()}
    if isinstance(value, str) and (value in ("tcp", "process") or value.startswith("/")):
        return value
    raise InputError(f'{path}: expected a path as "/ready", "tcp", "process", or a table of ServiceSpec\'s readiness, not {value!r}')


def _policy(path: str, value: object) -> str:
    if value not in POLICIES:
        raise InputError(f'{path}: expected "release" or "keep", not {value!r}')
    return str(value)


def _duration(path: str, value: object) -> str:
    _duration_us(path, value)
    return str(value)


def _duration_us(path: str, value: object) -> int:
    if not isinstance(value, str):
        raise InputError(f'{path}: expected a duration as "90s" or "6h", not {value!r}')
    try:
        return parse_duration_us(value)
    except InputError as exc:
        raise InputError(f"{path}: {exc}") from exc


def _spec_of(path: str, value: object) -> str | dict[str, Any]:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _json(f"{path}.{name}", item) for name, item in value.items()}
    raise InputError(f"{path}: expected a mapping of ServiceSpec's settings, or the text of a TOML file, not {value!r}")


def _json(path: str, value: object) -> Any:
    """A value as JSON carries it, whole numbers whole again."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _json(f"{path}.{name}", item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_json(f"{path}[{index}]", item) for index, item in enumerate(value)]
    raise InputError(f"{path}: {value!r} is nothing that a task template can carry")


_READERS: Final = {
    "Name": _text, "Requests": _resources, "Limits": _resources, "Port": _whole, "Image": _text, "Command": _command,
    "Replicas": _whole, "ExistingReleaseName": _text, "Cluster": _text, "Graph": _text, "Store": _text, "Version": _whole,
    "Shards": _whole, "Env": _texts, "Exports": _texts, "Readiness": _readiness_of, "Ttl": _duration, "Policy": _policy,
    "Hold": _duration, "Labels": _texts, "Placement": _texts, "Spec": _spec_of,
}  # fmt: skip


def _split_pairs(config: DataServiceConfig) -> None:
    """Resources that say request and limit at once, as `cpu=(1, 2)`, become one of each."""
    requests: dict[str, Any] = dict(config.Requests or {})
    limits: dict[str, Any] = dict(config.Limits or {})
    for path, amounts in (("Requests", requests), ("Limits", limits)):
        for name, amount in list(amounts.items()):
            if isinstance(amount, list):
                if config.Requests is not None and config.Limits is not None:
                    raise InputError(f"{path}.{name}: says request and limit, {amount}, and so does having both Requests and Limits")
                requests[name], limits[name] = amount
    for path, amounts in (("Requests", requests), ("Limits", limits)):
        object.__setattr__(config, path, amounts or None)


def _check(config: DataServiceConfig) -> None:
    """Refuse what contradicts itself."""
    spec = _spec_table(config.Spec)
    for name, path in _IN_SPEC.items():
        inside: Any = spec
        for part in path.split("."):
            inside = inside.get(part) if isinstance(inside, Mapping) else None
        if inside is not None and getattr(config, name) is not None:
            raise InputError(f"{name}: said twice, here and as {path!r} in Spec; leave one out")
    for one, other, why in (
        ("Graph", "Store", "a service serves one of them"),
        ("Graph", "Command", "a graph's service knows its command"),
        ("Store", "Command", "a store's service knows its command"),
        ("Store", "Version", "a store's service serves whichever version is current"),
        ("Cluster", "Placement", "the first names a cluster, the second lets labels choose one"),
    ):
        if getattr(config, one) is not None and getattr(config, other) is not None:
            raise InputError(f"{one} and {other}: {why}; leave one out")
    if config.Version is not None and config.Graph is None and "graph" not in spec:
        raise InputError(f"Version: {config.Version} of what? Say Graph, too")
    if config.Policy == "keep" and config.Hold is not None:
        raise InputError(f'Hold: {config.Hold!r} has no meaning with Policy "keep", which holds until the service is deleted')
    if config.Hold is not None and _duration_us("Hold", config.Hold) < HOLD_MIN_US:
        raise InputError(f"Hold: {config.Hold!r} is over before the next task begins; 1s at least")
    if config.ExistingReleaseName and config.Name and config.Name != config.ExistingReleaseName:
        raise InputError(
            f"Name: {config.Name!r} is not ExistingReleaseName, {config.ExistingReleaseName!r}; an existing service has a name"
        )
    if not config.ExistingReleaseName and not config._says_more():
        raise InputError("a data service task needs to know what runs: Graph, Store, Image, Command, Spec, or ExistingReleaseName")
