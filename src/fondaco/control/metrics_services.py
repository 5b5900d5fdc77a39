"""Metrics of data services: how each stands, who holds it, and what the reaper of this process has done.

A scrape asks the clusters, and waits for them for a bounded time: a cluster that does not answer must not take the other metrics with it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fondaco.control.metrics import Source
from fondaco.control.reaping import Reaping
from fondaco.core.errors import UnavailableError
from fondaco.platform import Platform
from fondaco.services.provisioner import Phase
from fondaco.services.status import ServiceStatus

PATIENCE_S: Final = 3.0
_SHOWN: Final = tuple(phase for phase in Phase if phase is not Phase.ABSENT)


class _Listing:
    """The services, asked for in a thread of its own; one at a time."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._lock = threading.Lock()
        self._asked: Future[Sequence[ServiceStatus]] | None = None

    def get(self) -> Sequence[ServiceStatus]:
        """The services as of now.

        Raises:
            UnavailableError: they were not known in time.
        """
        with self._lock:
            if self._asked is None or self._asked.done():
                self._asked = Future()
                threading.Thread(target=self._ask, args=(self._asked,), name="services-metrics", daemon=True).start()
            asked = self._asked
        try:
            return asked.result(PATIENCE_S)
        except TimeoutError:
            raise UnavailableError("a cluster of data services", f"it did not answer within {PATIENCE_S:g} s") from None

    def _ask(self, asked: Future[Sequence[ServiceStatus]]) -> None:
        try:
            asked.set_result(self._platform.services.list())
        except BaseException as exc:
            asked.set_exception(exc)


def service_metrics(platform: Platform) -> Source:
    """How the services stand."""
    listing = _Listing(platform)

    def collect() -> Iterator[Metric]:
        def gauge(name: str, help_: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, help_, labels=["service", "cluster"])

        count = GaugeMetricFamily("fondaco_services", "Data services, by how they stand.", labels=["cluster", "phase"])
        ready = gauge("fondaco_service_ready_instances", "Instances that can do their work.")
        wanted = gauge("fondaco_service_instances", "Instances that there shall be.")
        restarts = gauge("fondaco_service_restarts", "Times that its present instances were started again.")
        leases = gauge("fondaco_service_leases", "Holders whose leases count now.")
        drift = gauge("fondaco_service_drift", "Settings that somebody else has changed and the reaper has not repaired yet.")
        removal = gauge(
            "fondaco_service_removal_time_seconds", "When it will be removed if nobody comes, Unix time; absent while it is held."
        )
        found = listing.get()
        phases = Counter((status.cluster, status.phase) for status in found)
        for cluster in sorted({status.cluster for status in found}):
            for phase in _SHOWN:
                count.add_metric([cluster, phase], phases[cluster, phase])
        for status in found:
            labels = [status.service, status.cluster]
            ready.add_metric(labels, status.ready)
            wanted.add_metric(labels, status.replicas)
            restarts.add_metric(labels, sum(instance.restarts for instance in status.instances))
            leases.add_metric(labels, len(status.holders))
            drift.add_metric(labels, len(status.drift))
            if status.removal_us is not None:
                removal.add_metric(labels, status.removal_us / 1e6)
        yield from (count, ready, wanted, restarts, leases, drift, removal)

    return collect


def reaper_metrics(reaping: Reaping) -> Source:
    """What the reaper of this process has done."""

    def collect() -> Iterator[Metric]:
        done = reaping.done
        counters = (
            ("looks", "Times it looked.", done.looks),
            ("expired_leases", "Leases that had run out.", done.expired),
            ("removed_services", "Services that it has removed.", done.removed),
            ("adopted_services", "Services that it found running without an entry in the catalog.", done.adopted),
            ("repaired_services", "Services that it has put right.", done.repaired),
            ("errors", "What went wrong, such as clusters that did not answer.", done.errors),
            ("seconds", "Time that its looks took.", done.seconds),
        )
        for name, help_, value in counters:
            yield CounterMetricFamily(f"fondaco_reaper_{name}", help_, value=value)
        last = GaugeMetricFamily("fondaco_reaper_last_look_time_seconds", "When its last look ended, Unix time.")
        if done.last_us is not None:
            last.add_metric([], done.last_us / 1e6)
        yield last

    return collect
