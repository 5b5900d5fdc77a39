"""Metrics: everything that is promised, as Prometheus reads it: stores, freshness, pushes, the data plane's requests, the processes.

Nothing is counted here: a scrape reads the catalog, the cells that the tailer and the servers keep, the log's state files, the data
plane's own statistics and `run/up.json`. What cannot be read leaves its metrics out and `fondaco_scrape_errors` says so; a scrape never
fails because one part is down. Any thread; one scrape at a time. The table of all of them: docs/operators.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fondaco.core.runfile import ProcessState, find_run_file
from fondaco.core.version import VERSION
from fondaco.platform import Platform

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LOGGER = logging.getLogger(__name__)

Source = Callable[[], Iterable[Metric]]


class Metrics(Collector):
    """The metrics of one platform. `sources` are read at each scrape, in order; each yields whole families."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """One scrape, in the text format."""
        with self._lock:
            return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return []  # so that registering reads nothing

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("fondaco_build_info", "Version of Fondaco; always 1.", labels=["version"])
        info.add_metric([VERSION], 1)
        yield info
        failed = GaugeMetricFamily("fondaco_scrape_errors", "Parts that this scrape could not read.", labels=["part"])
        for part, source in self._sources.items():
            try:
                families = list(source())
            except Exception:  # whatever it is, the other parts are read
                _LOGGER.warning("metrics: %s could not be read", part, exc_info=True)
                families = []
                failed.add_metric([part], 1)
            else:
                failed.add_metric([part], 0)
            yield from families
        yield failed


def process_metrics(platform: Platform) -> Source:
    """Processes of `fondaco up`."""

    def collect() -> Iterator[Metric]:
        up = GaugeMetricFamily("fondaco_process_up", "1 while the process is ready.", labels=["process"])
        restarts = CounterMetricFamily("fondaco_process_restarts", "Times it was started again since `fondaco up`.", labels=["process"])
        started = GaugeMetricFamily("fondaco_process_start_time_seconds", "When it was started last, Unix time.", labels=["process"])
        run = find_run_file(platform.directory)
        for process in run.processes if run is not None else ():
            up.add_metric([process.name], process.state is ProcessState.READY)
            restarts.add_metric([process.name], process.restarts)
            if process.started_us is not None:
                started.add_metric([process.name], process.started_us / 1e6)
        yield from (up, restarts, started)

    return collect
