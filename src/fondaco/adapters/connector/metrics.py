"""Metrics of a connector: how many calls it answered, how, and how long they took; for Prometheus, on a port of their own.

They live in a registry of this object, not in prometheus_client's global one, in which both Flyte SDKs make series of the same names: so
one process can hold both, and tests any number. Any thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from fondaco.core.errors import InputError

if TYPE_CHECKING:
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

DEADLINE_S: Final = 10.0  # what Flyte's backends give every call, so it is one of the buckets
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, DEADLINE_S)


class ConnectorMetrics:
    """Counts of one connector process. Labels: protocol (flyte1, flyte2), task_type (one of ours, or "unknown"), operation (create, get,
    delete, ...), code (of gRPC: OK, UNAVAILABLE, ...)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("protocol", "task_type", "operation")
        self._answered = Counter(
            "fondaco_connector_requests", "Calls answered, by the status code of the answer.", (*labels, "code"), registry=self.registry
        )
        self._seconds = Histogram(
            "fondaco_connector_request_seconds", "How long calls took.", labels, buckets=_BUCKETS, registry=self.registry
        )
        self._at_work = Gauge(
            "fondaco_connector_requests_in_flight", "Calls that are being answered.", ("protocol",), registry=self.registry
        )

    @contextmanager
    def call(self, protocol: str, task_type: str, operation: str) -> Iterator[list[str]]:
        """Measure a call; put the name of its status code into the list that this yields, if it is not OK."""
        code: list[str] = []
        begun = time.perf_counter()
        self._at_work.labels(protocol).inc()
        try:
            yield code
        except BaseException:
            code = code or ["CANCELLED"]  # whoever asked went away, or its deadline passed
            raise
        finally:
            self._at_work.labels(protocol).dec()
            self._seconds.labels(protocol, task_type, operation).observe(time.perf_counter() - begun)
            self._answered.labels(protocol, task_type, operation, code[-1] if code else "OK").inc()

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Serve /metrics on an address; yields the port (port 0: any free one).

        Raises:
            InputError: the address cannot be listened on.
        """
        server: WSGIServer
        thread: Thread
        try:
            server, thread = start_http_server(port, addr=host, registry=self.registry)
        except OSError as exc:
            raise InputError(
                f"{host}:{port} cannot be listened on ({exc.strerror or exc}); choose another with --metrics-port, or stop who is there"
            ) from None
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
