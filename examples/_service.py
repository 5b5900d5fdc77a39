"""A graph service on this machine for as long as a block lasts, as a data service of the platform: `shards` x `replicas` server processes.

What `fondaco train --graph NAME --shards n` does around a command, in a script. Clients find the servers by their environment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fondaco as fd


@dataclass(frozen=True, slots=True)
class Service:
    """What runs."""

    endpoints: list[str]
    pids: list[int]  # in the order of `endpoints`: all shards of the first replica, then the next


@contextlib.contextmanager
def serving(directory: Path, graph: str, *, shards: int = 1, replicas: int = 1) -> Iterator[Service]:
    """Serve a graph of a platform directory; FONDACO_GRAPH_ENDPOINTS and its like say where, for this process and its children, until the
    end. Then nothing is left running, unless somebody else uses the same service.

    Raises:
        as `Services.ensure`.
    """
    spec = fd.ServiceSpec.graph(graph, shards=shards, replicas=replicas)
    with fd.open(directory) as platform:
        lease = platform.services.ensure(spec)
        try:
            where = [instance.where for instance in lease.status().instances]  # "machine, process 1234"
            with _environment(lease.env):
                yield Service(lease.endpoints, [int(words.rpartition(" ")[2]) for words in where])
        finally:
            lease.release()
            with contextlib.suppress(fd.errors.StateError):  # somebody else holds it
                platform.services.delete(lease.service)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
