"""Metrics of stores: their versions and pushes, from the catalog; their overlay and log, from what the tailer and the log publish."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fondaco.catalog import pushes, stores, versions
from fondaco.control.metrics import Source
from fondaco.core.errors import TopicNotFoundError
from fondaco.platform import STORES_DIRECTORY, Platform
from fondaco.store.freshness import Freshness
from fondaco.store.governor import PlatformRisk, served_p99_ms
from fondaco.store.log_handle import LOG_DIRECTORY, topic_of

_BOUNDS_MS: Final = [2 ** ((number + 1) / 4) for number in range(64)]  # as in Freshness.histogram
_SHOWN: Final = range(3, 64, 4)  # the last of each doubling: 2 ms, 4 ms, ...


def store_metrics(platform: Platform) -> Source:
    """Stores and their versions, from the catalog."""

    def collect() -> Iterator[Metric]:
        def gauge(name: str, help_: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"fondaco_store_{name}", help_, labels=["store"])

        records = gauge("records", "Records of the current version.")
        size = gauge("bytes", "Bytes of its files.")
        version = gauge("version", "Number of the current version; 0: none.")
        age = gauge("version_age_seconds", "Time since the moment that the current version describes (its as_of).")
        retained = gauge("versions_retained", "Versions whose files exist.")
        target = gauge("freshness_target_seconds", "The store's freshness_ms.")
        pushed = GaugeMetricFamily("fondaco_pushes", "Pushes by the state they are in now.", labels=["store", "state"])
        now_us = platform.clock.now_us()
        with platform.catalog.read() as connection:
            for store in stores.all_live(connection):
                listed = versions.retained(connection, store.id)
                current = next((row for row in listed if row.number == store.current), None)
                retained.add_metric([store.name], len(listed))
                version.add_metric([store.name], store.current)
                target.add_metric([store.name], store.settings.get("freshness_ms", 1000) / 1000)
                for state, count in sorted(pushes.count_by_state(connection, store.id).items()):
                    pushed.add_metric([store.name, state], count)
                if current is not None:
                    records.add_metric([store.name], current.records)
                    size.add_metric([store.name], current.bytes)
                    age.add_metric([store.name], (now_us - current.as_of_us) / 1e6)
        yield from (records, size, version, age, retained, target, pushed)

    return collect


def freshness_metrics(platform: Platform) -> Source:
    """How far reads are behind writes, how long a write takes until it can be read, and how large the overlay is, for each store.

    p50, p99 and risk are of what was written since the scrape before; the histogram counts from the index's beginning.
    """
    before: dict[str, Freshness] = {}

    def collect() -> Iterator[Metric]:
        def gauge(name: str, help_: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"fondaco_store_{name}", help_, labels=["store"])

        def counter(name: str, help_: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"fondaco_store_{name}", help_, labels=["store"])

        tailing = gauge("tailing", "1 while a process tails the store's topic.")
        lag = gauge("freshness_lag_seconds", "Reads are at most so far behind what was written.")
        heartbeat = gauge("heartbeat_age_seconds", "Age of the newest heartbeat that came through the log.")
        p50 = gauge("append_to_readable_p50_seconds", "From append to readable, p50 of the writes since the last scrape.")
        p99 = gauge("append_to_readable_p99_seconds", "From append to readable, p99 of the writes since the last scrape.")
        readable = HistogramMetricFamily(
            "fondaco_store_append_to_readable_seconds", "From a write's append to the moment it can be read.", labels=["store"]
        )
        keys = gauge("overlay_keys", "Keys with real-time writes.")
        risk = gauge("freshness_at_risk", "1 while the store misses its freshness target, so that builds give way.")
        stalled = gauge("overlay_stalled", "1 while the disk has no room for real-time writes.")
        rebuilding = gauge("overlay_rebuilding", "1 while the index is made anew from the log.")
        applied = counter("writes_applied", "Real-time writes applied since the index was made.")
        merged = counter("writes_merged", "Of them, those that went through the merge of patches.")
        skipped = counter("writes_skipped", "Of a format that this Fondaco does not know.")
        damaged = counter("writes_damaged", "With a wrong checksum; they are left out.")
        lost = counter("writes_lost", "Deleted from the log by retention before they were applied.")
        offset = GaugeMetricFamily(
            "fondaco_store_applied_offset", "The offset below which everything can be read.", labels=["store", "partition"]
        )
        for name, target_ms in _targets(platform).items():
            fresh = Freshness.of(platform.directory / STORES_DIRECTORY / name / "overlay", target_ms=target_ms)
            recent = fresh.since(before[name]) if name in before else fresh
            before[name] = fresh
            tailing.add_metric([name], fresh.tailing)
            lag.add_metric([name], fresh.lag_ms / 1000)
            if fresh.heartbeat_age_ms is not None:
                heartbeat.add_metric([name], fresh.heartbeat_age_ms / 1000)
            for family, quantile in ((p50, recent.p50_ms), (p99, recent.p99_ms)):
                if quantile is not None:
                    family.add_metric([name], quantile / 1000)
            if fresh.counted:
                readable.add_metric([name], *_histogram(fresh.histogram))
            keys.add_metric([name], fresh.keys)
            risk.add_metric([name], bool(recent.at_risk))
            stalled.add_metric([name], fresh.stalled)
            rebuilding.add_metric([name], fresh.rebuilding)
            counts = (
                (applied, fresh.records),
                (merged, fresh.merged),
                (skipped, fresh.skipped),
                (damaged, fresh.damaged),
                (lost, fresh.lost),
            )
            for counted, value in counts:
                counted.add_metric([name], value)
            for partition, below in enumerate(fresh.applied):
                offset.add_metric([name, str(partition)], below)
        yield from (tailing, lag, heartbeat, p50, p99, readable, keys, risk, stalled, rebuilding)
        yield from (applied, merged, skipped, damaged, lost, offset)

    return collect


def log_metrics(platform: Platform) -> Source:
    """The topics of stores: what they hold, and how much room that takes."""

    def collect() -> Iterator[Metric]:
        size = GaugeMetricFamily("fondaco_store_log_bytes", "Bytes of the store's topic on this machine's disk.", labels=["store"])
        labels = ["store", "partition"]
        low = GaugeMetricFamily("fondaco_store_log_low_offset", "The oldest offset that the log holds.", labels=labels)
        high = GaugeMetricFamily("fondaco_store_log_high_offset", "The offset that the next write gets.", labels=labels)
        if (platform.directory / LOG_DIRECTORY).is_dir():
            from fondaco.log import EmbeddedLog

            with EmbeddedLog(platform.directory / LOG_DIRECTORY, clock=platform.clock, read_only=True) as log:  # or the mirror of brokers
                for name in _targets(platform):
                    topic = topic_of(name)
                    try:
                        partitions = log.describe_topic(topic).partitions
                    except TopicNotFoundError:
                        continue
                    size.add_metric([name], _bytes_below(platform.directory / LOG_DIRECTORY / topic))
                    for partition in range(partitions):
                        low.add_metric([name, str(partition)], log.low_watermark(topic, partition))
                        high.add_metric([name, str(partition)], log.high_watermark(topic, partition))
        yield from (size, low, high)

    return collect


def governor_metrics(platform: Platform) -> Source:
    """What the governor of builds looks at, and what it found."""
    risk = PlatformRisk(platform.directory, platform.config.governor, platform.clock)

    def collect() -> Iterator[Metric]:
        config = platform.config.governor
        enabled = GaugeMetricFamily("fondaco_governor_enabled", "1 if builds give way when reads or freshness are at risk.")
        enabled.add_metric([], config.enabled)
        target = GaugeMetricFamily("fondaco_governor_read_p99_target_seconds", "Above it, builds give way.")
        target.add_metric([], config.read_p99_ms / 1000)
        served = GaugeMetricFamily("fondaco_governor_read_p99_seconds", "p99 of single gets in the last second, of the slowest server.")
        p99_ms = served_p99_ms(platform.directory, platform.clock.now_us() // 1000)
        if p99_ms is not None:
            served.add_metric([], p99_ms / 1000)
        slows = GaugeMetricFamily("fondaco_governor_slows_builds", "1 while a build would be slowed down.")
        slows.add_metric([], config.enabled and bool(risk().reason))
        yield from (enabled, target, served, slows)

    return collect


def _targets(platform: Platform) -> dict[str, int]:
    """`freshness_ms` of every store, by name."""
    with platform.catalog.read() as connection:
        return {row.name: int(row.settings.get("freshness_ms", 1000)) for row in stores.all_live(connection)}


def _histogram(counts: tuple[int, ...]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets in seconds, and the sum of seconds (of the middles of the classes)."""
    buckets = [(repr(_BOUNDS_MS[last] / 1000), float(sum(counts[: last + 1]))) for last in _SHOWN]
    middles = [(begin + end) / 2 for begin, end in zip([0.0, *_BOUNDS_MS], _BOUNDS_MS, strict=False)]
    total_ms = sum(count * middle for count, middle in zip(counts, middles, strict=False))
    return [*buckets, ("+Inf", float(sum(counts)))], total_ms / 1000


def _bytes_below(directory: Path) -> int:
    """Bytes that files take on the disk; what vanishes meanwhile counts nothing."""
    total = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.stat(os.path.join(folder, file)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
