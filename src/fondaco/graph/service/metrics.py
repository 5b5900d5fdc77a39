"""Metrics of a graph server, as Prometheus reads them: requests, errors and latencies by kind of query, bytes, rows, connections, versions.

Every name begins with `fondaco_graph_`; every sample carries the graph and the shard. A request counts under the name of its query
(`Sample`, `NodeFeatures`) or, for the parts that servers ask of each other, of its step (`shard.Hop`); what is neither is `unknown`,
because names come from requests. Any thread.
"""

from __future__ import annotations

import os
import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fondaco.core.errors import FondacoError
from fondaco.core.version import VERSION
from fondaco.graph.queries import Query
from fondaco.graph.service.frames import Kind
from fondaco.graph.service.server import Refusal
from fondaco.graph.shards import ShardQuery

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
UNKNOWN: Final = "unknown"
_CALLS: Final = frozenset(query.__name__ for query in Query.__subclasses__())
_STEPS: Final = frozenset(step.__name__ for step in ShardQuery.__subclasses__())


class GraphMetrics:
    """What one server counts. An `Observer` of `server.GraphServer`."""

    def __init__(self, graph: str, shard: int, shards: int) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"graph": graph, "shard": f"{shard}/{shards}"}
        self._requests = self._counter("requests", "Requests, whatever they ended in.", "call")
        self._errors = self._counter("errors", "Requests that ended in an error.", "call", "error")
        self._seconds = Histogram(
            "fondaco_graph_request_seconds",
            "Time from a request to the last byte of its answer.",
            [*self._labels, "call"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._received = self._counter("received_bytes", "Bytes of requests.", "call")
        self._sent = self._counter("sent_bytes", "Bytes of answers that went through sockets.", "call")
        self._shared = self._counter("shared_memory_bytes", "Bytes of answers that were written into shared memory.", "call")
        self._rows = self._counter("rows_gathered", "Rows of features gathered from this shard.")
        self._refusals = self._counter("refused_connections", "Connections turned away or closed.", "reason")
        self._in_flight = self._gauge("in_flight", "Requests being answered now.")
        self._connections = self._gauge("connections", "Open connections.")
        self._version = self._gauge("version", "The version that requests are answered from; 0: none.")
        self._versions = self._gauge("open_versions", "Versions that are open, for requests and pins too.")
        self._ready = self._gauge("ready", "1 once the server is warm and has a version.")
        self._peers = self._gauge("known_servers", "Servers of this graph that this one knows, itself included.")
        self._up_since = self._gauge("start_time_seconds", "When the server started, Unix time.")
        self._up_since.labels(**self._labels).set(time.time())
        info = Gauge("fondaco_build_info", "Version of Fondaco; always 1.", ["version"], registry=self._registry)
        info.labels(VERSION).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"fondaco_graph_{name}", text, [*self._labels, *labels], registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"fondaco_graph_{name}", text, [*self._labels], registry=self._registry)

    # -- an Observer --------------------------------------------------------------------------------------------------------------------

    def connections(self, count: int) -> None:
        self._connections.labels(**self._labels).set(count)

    def refused(self, reason: Refusal) -> None:
        self._refusals.labels(**self._labels, reason=reason).inc()

    def begun(self) -> None:
        self._in_flight.labels(**self._labels).inc()

    def ended(self, kind: Kind, call: str, seconds: float, received: int, sent: int, shared: int, error: FondacoError | None) -> None:
        labels = {**self._labels, "call": _name(kind, call)}
        self._in_flight.labels(**self._labels).dec()
        self._requests.labels(**labels).inc()
        self._seconds.labels(**labels).observe(seconds)
        self._received.labels(**labels).inc(received)
        self._sent.labels(**labels).inc(sent)
        self._shared.labels(**labels).inc(shared)
        if error is not None:
            self._errors.labels(**labels, error=type(error).__name__).inc()

    # -- the rest -----------------------------------------------------------------------------------------------------------------------

    def gathered(self, rows: int) -> None:
        """Count rows of features."""
        self._rows.labels(**self._labels).inc(rows)

    def stands(self, *, version: int, open_versions: int, ready: bool, servers: int) -> None:
        """Say where the server stands."""
        self._version.labels(**self._labels).set(version)
        self._versions.labels(**self._labels).set(open_versions)
        self._ready.labels(**self._labels).set(ready)
        self._peers.labels(**self._labels).set(servers)

    def text(self) -> bytes:
        """One scrape."""
        return generate_latest(self._registry) + _process_metrics()


def _name(kind: Kind, call: str) -> str:
    if kind == Kind.QUERY:
        return call if call in _CALLS else UNKNOWN
    return f"shard.{call}" if call in _STEPS else UNKNOWN


def _process_metrics() -> bytes:
    """Memory and descriptors of this process: what leaks would show in."""
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    descriptors = len(os.listdir("/proc/self/fd"))
    return (
        "# HELP process_resident_memory_bytes Resident memory size in bytes.\n# TYPE process_resident_memory_bytes gauge\n"
        f"process_resident_memory_bytes {resident}\n"
        "# HELP process_open_fds Number of open file descriptors.\n# TYPE process_open_fds gauge\n"
        f"process_open_fds {descriptors}\n"
    ).encode()
