"""Variables: what a job finds in its environment, and the words in braces with which a user asks for other names.

    FONDACO_RUN_ID, FONDACO_RUN_NAME    this run
    FONDACO_DIR                         the platform's directory, absolute; not where the job runs on another machine
    FONDACO_GRAPH_ENDPOINTS, _NAME, _VERSION    of the first graph: what `fondaco.graph.connect()` reads
    FONDACO_GRAPH_<GRAPH>_ENDPOINTS, _VERSION   of each graph
    FONDACO_FEATURES                    the feature sets, "late_departure,..."
    FONDACO_FEATURES_<SET>_PLAN         SHA-256 of the set's plan; _STORES: its stores and their current versions, "late.Plane=3,..."
    FONDACO_SERVICES                    the services, "graph-routes-0123456789,..."
    FONDACO_SERVICE_<SPEC>_ENDPOINTS    of each service, by the name of its spec
    and what the specs export

A name in a variable is in capitals, and `_` for all that is no letter or digit. `{graph.endpoints}` and its kin are listed by `words`.
Values are facts of a moment, never secrets. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fondaco.core.errors import InputError, near_name
from fondaco.services import words as braces

DEEPGNN: Final = ("GE_ENDPOINTS", "DEEPGNN_SERVERS")  # both: "host:port,host:port"; GE_COUNT is how many
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Served:
    """A service that a job uses. `label` is what its user calls it: the name of its spec. `endpoints` in order, at its first port."""

    label: str
    service: str
    endpoints: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    graph: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """A published feature set: the hash of its plan, and the version that is current of each of its stores (0: none)."""

    name: str
    plan: str
    stores: Mapping[str, int]

    @property
    def stores_text(self) -> str:
        """As jobs get it: "late.Plane=3,late.Airport=2"."""
        return ",".join(f"{store}={version}" for store, version in self.stores.items())


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a job can be told."""

    run_id: str
    run_name: str
    directory: str
    served: Sequence[Served] = ()
    features: Sequence[Features] = ()

    @property
    def graphs(self) -> list[Served]:
        """The services of graphs, in the order they were asked for."""
        return [served for served in self.served if served.graph is not None]


def capitals(name: str) -> str:
    """A name as a part of a variable's: "my-graph.v2" becomes "MY_GRAPH_V2"."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def variables(facts: Facts, *, deepgnn: bool = False) -> dict[str, str]:
    """What the job gets, without what is asked for by name.

    Args:
        deepgnn: also DeepGNN's names, for the first graph.
    """
    found: dict[str, str] = {}
    for served in reversed(facts.served):  # where two export the same name, the first has it
        found |= served.exports
    for served in facts.served:
        found[f"FONDACO_SERVICE_{capitals(served.label)}_ENDPOINTS"] = ",".join(served.endpoints)
    if facts.served:
        found["FONDACO_SERVICES"] = ",".join(served.service for served in facts.served)
    for graph in facts.graphs:
        assert graph.graph is not None
        found |= _graph_variables(f"FONDACO_GRAPH_{capitals(graph.graph)}", graph)
    for graph in facts.graphs[:1]:
        found |= _graph_variables("FONDACO_GRAPH", graph) | {"FONDACO_GRAPH_NAME": graph.graph or ""}
        if deepgnn:
            found |= dict.fromkeys(DEEPGNN, ",".join(graph.endpoints)) | {"GE_COUNT": str(len(graph.endpoints))}
    for features in facts.features:
        prefix = f"FONDACO_FEATURES_{capitals(features.name)}"
        found |= {f"{prefix}_PLAN": features.plan, f"{prefix}_STORES": features.stores_text}
    if facts.features:
        found["FONDACO_FEATURES"] = ",".join(features.name for features in facts.features)
    return found | {"FONDACO_RUN_ID": facts.run_id, "FONDACO_RUN_NAME": facts.run_name, "FONDACO_DIR": facts.directory}


def _graph_variables(prefix: str, graph: Served) -> dict[str, str]:
    found = {f"{prefix}_ENDPOINTS": ",".join(graph.endpoints)}
    return found if graph.version is None else found | {f"{prefix}_VERSION": str(graph.version)}


def words(facts: Facts) -> dict[str, str]:
    """The words in braces and what they stand for; their names are known before any service runs."""
    found = {"run.id": facts.run_id, "run.name": facts.run_name, "dir": facts.directory}
    for number, graph in enumerate(facts.graphs):
        for prefix in (f"graph.{graph.graph}", "graph")[: 2 - bool(number)]:
            found[f"{prefix}.endpoints"] = ",".join(graph.endpoints)
            found[f"{prefix}.name"] = graph.graph or ""
            found[f"{prefix}.version"] = "" if graph.version is None else str(graph.version)
            found[f"{prefix}.count"] = str(len(graph.endpoints))
    for served in facts.served:
        host, _, port = (served.endpoints[0] if served.endpoints else "").rpartition(":")
        values = {"endpoints": ",".join(served.endpoints), "name": served.service, "host": host, "port": port}
        found |= {f"service.{served.label}.{word}": value for word, value in (values | {"count": str(len(served.endpoints))}).items()}
    for features in facts.features:
        found |= {f"features.{features.name}.plan": features.plan, f"features.{features.name}.stores": features.stores_text}
    return found


def check_asked(asked: Mapping[str, str], known: Iterable[str]) -> None:
    """Check the variables that a user asks for, names and words.

    Raises:
        InputError: not a variable's name; braces that do not match; a word that stands for nothing (suggests, and lists what there is).
    """
    there_are = sorted(known)
    for name, text in asked.items():
        if not _NAME.fullmatch(name):
            raise InputError(f"--env {name}={text}: {name!r} names no variable: letters, digits and '_', no digit first")
        for word in braces.words_in(text, where=f"--env {name}={text}"):
            if word not in there_are:
                near = near_name(word, there_are)
                hint = f"did you mean {{{near}}}? There are" if near else "there are"
                listed = ", ".join(f"{{{one}}}" for one in there_are)
                raise InputError(
                    f"--env {name}={text}: nothing is called {{{word}}} here; {hint}: {listed}; write {{{{ and }}}} for braces"
                )


def filled(asked: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """The variables asked for, their words replaced; checked before."""
    return {name: braces.filled(text, values) for name, text in asked.items()}
