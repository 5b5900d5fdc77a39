"""Resolution: from a spec as its user states it to one that means the same tomorrow: versions are numbers, sources exist.

What comes out is resolved: resolved again, it stays as it is. It is what gets an identity, and what provisioners see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fondaco.core.errors import InputError
from fondaco.services.conversion import checked_variables
from fondaco.services.settings import Source
from fondaco.services.spec import EXPORTS, ServiceSpec
from fondaco.services.words import filled, words_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

GRAPH_SERVER: Final = "fondaco.graph.serve"


def resolve(connection: Connection, spec: ServiceSpec) -> ServiceSpec:
    """The spec with the version that is current now in place of none; a graph server is told to stay on it, unless it shall follow.

    Raises:
        GraphNotFoundError, NoCurrentVersionError, VersionNotFoundError, StoreNotFoundError: there is no such source.
    """
    from fondaco.catalog import graphs, stores
    from fondaco.core.errors import NoCurrentVersionError

    source = spec.source
    if source is None:
        return spec
    if source.kind == "store":
        stores.get(connection, source.name)
        return spec
    graph = graphs.get(connection, source.name)
    if source.follow:
        if not graph.current:
            raise NoCurrentVersionError(source.name, "graph")
        return spec
    version = graph.current if source.version is None else source.version
    if not version:
        raise NoCurrentVersionError(source.name, "graph")
    graphs.GENERATIONS.get_retained(connection, graph.id, graph.name, version)
    command = list(spec.command)
    if GRAPH_SERVER in command and "--version" not in command:
        command += ["--version", str(version)]
    return spec.replace(source=Source("graph", source.name, version), command=command)


def environment(
    spec: ServiceSpec, service: str, endpoints: Mapping[str, tuple[str, ...]], more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables that a job gets: those of every service, the spec's exports, the version of a pinned graph, and `more`, all with
    their words in braces filled in.

    Args:
        endpoints: of each port, in the order of the instances; empty texts come out while there are none.
    Raises:
        InputError: `more` is no mapping of variables, or a word in it is unknown.
    """
    more = checked_variables("env", more)
    first = next(iter(spec.ports), "")
    values: dict[str, object] = {"name": service}
    for port, addresses in endpoints.items():
        values[f"endpoints.{port}"] = ",".join(addresses)
        values[f"port.{port}"] = addresses[0].rpartition(":")[2] if addresses else ""
    for port in spec.ports:
        values.setdefault(f"endpoints.{port}", "")
        values.setdefault(f"port.{port}", "")
    addresses = endpoints.get(first, ())
    values["endpoints"] = ",".join(addresses)
    values["host"], _, values["port"] = addresses[0].rpartition(":") if addresses else ("", "", "")
    templates = EXPORTS | _version_export(spec) | spec.exports | more
    for variable, text in more.items():
        unknown = words_of(text, path=f"env.{variable}", inside=False) - values.keys()
        if unknown:
            raise InputError(f"env.{variable}: {text!r} names {{{min(unknown)}}}, and the service has the ports: {', '.join(spec.ports)}")
    return {variable: filled(text, values) for variable, text in templates.items()}


def _version_export(spec: ServiceSpec) -> dict[str, Any]:
    source = spec.source
    pinned = source is not None and source.kind == "graph" and not source.follow and source.version is not None
    return {"FONDACO_GRAPH_VERSION": str(source.version)} if source is not None and pinned else {}
