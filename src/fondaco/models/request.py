"""Request: what a job needs, as its user says it, and what that comes to now: graphs at versions, feature sets with plans, specs.

Nothing runs for it and nothing is changed; whatever a user can get wrong is found here, before a service is started. Any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fondaco.core.clock import Clock
from fondaco.core.errors import FeatureSetNotFoundError, InputError
from fondaco.models import variables
from fondaco.models.variables import Facts, Features, Served
from fondaco.services import resolution
from fondaco.services.spec import ServiceSpec

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from fondaco.catalog import Catalog
    from fondaco.services.manager import Services


class RunPlatform(Protocol):
    """A platform: what running a job needs of it."""

    @property
    def directory(self) -> Path: ...

    @property
    def catalog(self) -> Catalog: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def read_only(self) -> bool: ...

    @property
    def services(self) -> Services: ...


@dataclass(frozen=True, slots=True)
class Request:
    """What a job needs.

    Attributes:
        graphs: "routes" for its current version, "routes@3" for that one. shards, replicas: of the service of each.
        features: names of published feature sets. services: specs, or paths of TOML files.
        cluster: where the services shall run; None: as their specs or the configuration say.
        env: variables of the job's own, with words in braces. deepgnn: also set DeepGNN's.
        name: of the run, for people; None: the run's id.
    """

    graphs: Sequence[str] = ()
    features: Sequence[str] = ()
    services: Sequence[ServiceSpec | str | Path] = ()
    shards: int = 1
    replicas: int = 1
    cluster: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    deepgnn: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a request comes to: services to ensure, each with what is known of it before it runs, and feature sets."""

    specs: tuple[ServiceSpec, ...]
    served: tuple[Served, ...]
    features: tuple[Features, ...]

    @property
    def graphs(self) -> dict[str, int]:
        """Versions by graph, of those that stay on one."""
        return {served.graph: served.version for served in self.served if served.graph is not None and served.version is not None}


def resolve(platform: RunPlatform, request: Request) -> Resolved:
    """What a request comes to now.

    Raises:
        GraphNotFoundError, VersionNotFoundError, NoCurrentVersionError, StoreNotFoundError, FeatureSetNotFoundError: it is not there.
        InputError: a spec, or a variable asked for, cannot be.
    """
    specs = [_graph_spec(text, request) for text in request.graphs]
    specs += [given if isinstance(given, ServiceSpec) else ServiceSpec.from_toml(given) for given in request.services]
    if request.cluster is not None:
        specs = [spec.replace(placement=request.cluster) for spec in specs]
    with platform.catalog.read() as connection:
        specs = [resolution.resolve(connection, spec) for spec in specs]
        features = tuple(_features(connection, name) for name in request.features)
    served = tuple(_before_it_runs(spec) for spec in specs)
    labels = [one.label for one in served]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"two services of this job are called {label!r}; name each once, or give one of the specs another name")
    resolved = Resolved(tuple(specs), served, features)
    facts = Facts("", "", "", resolved.served, resolved.features)
    variables.check_asked(request.env, variables.words(facts))
    if request.deepgnn and not facts.graphs:
        raise InputError("DeepGNN's variables say where a graph is served: name one with --graph")
    return resolved


def _graph_spec(text: str, request: Request) -> ServiceSpec:
    name, at, number = text.partition("@")
    if at and not re.fullmatch(r"[1-9][0-9]*", number):
        raise InputError(f"--graph {text}: {number!r} is no version; write GRAPH, or GRAPH@3 for version 3")
    return ServiceSpec.graph(name, version=int(number) if at else None, shards=request.shards, replicas=request.replicas)


def _before_it_runs(spec: ServiceSpec) -> Served:
    source = spec.source
    if source is None or source.kind != "graph":
        return Served(spec.name, spec.service)
    return Served(spec.name, spec.service, graph=source.name, version=source.version)


def _features(connection: Connection, name: str) -> Features:
    from fondaco.catalog import records, stores

    found = records.feature_sets(connection, name)
    if not found:
        raise FeatureSetNotFoundError(name, sorted({row.name for row in records.feature_sets(connection)}))
    newest = found[-1]
    rows = {entity: stores.find(connection, f"{name}.{entity}") for entity in _entities(newest.plan)}
    return Features(name, newest.plan_hash, {row.name: row.current for row in rows.values() if row is not None})


def _entities(plan: Mapping[str, Any]) -> list[str]:
    """The entities of a set's views, in their order."""
    return list(dict.fromkeys(view["key"]["entity"] for view in plan.get("views", ())))
