"""Metrics: what Prometheus reads is what happened, and one part that is down takes no other with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

import fondaco as fd
from control_server import VALUE, rows
from fondaco.control.metrics import Metrics, process_metrics
from fondaco.control.metrics_dataplane import dataplane_metrics, histogram
from fondaco.control.metrics_stores import freshness_metrics, governor_metrics, log_metrics, store_metrics
from fondaco.core.runfile import ProcessInfo, ProcessState, RunFile, run_directory, write_run_file
from fondaco.dataplane.stats import StoreStats, bucket_of, upper_us
from fondaco.platform import Platform
from waiting import free_port


def scraped(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Value by name and label values (in the order of the labels' names), as Prometheus' own parser reads them."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {(sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples}


def everything(platform: Platform) -> Metrics:
    sources = {
        "processes": process_metrics(platform),
        "stores": store_metrics(platform),
        "freshness": freshness_metrics(platform),
        "log": log_metrics(platform),
        "governor": governor_metrics(platform),
        "data plane": dataplane_metrics(platform),
    }
    return Metrics(sources)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with fd.open(tmp_path / "platform") as opened:
        yield opened


def test_stores_show_their_current_version_and_their_pushes(platform: Platform) -> None:
    store = platform.create_store("members", key="long", value=VALUE, freshness_ms=250)
    store.push(rows(10))
    store.push(rows(30))
    with pytest.raises(fd.errors.DuplicateKeyError):
        store.push({"key": [1, 1], "clicks": [1, 2], "name": ["a", "b"]})
    found = scraped(everything(platform))
    assert found["fondaco_store_records", ("members",)] == 30
    assert found["fondaco_store_version", ("members",)] == 2
    assert found["fondaco_store_versions_retained", ("members",)] == 2
    assert found["fondaco_store_freshness_target_seconds", ("members",)] == 0.25
    assert 0 <= found["fondaco_store_version_age_seconds", ("members",)] < 60
    pushes = {labels[0]: value for (name, labels), value in found.items() if name == "fondaco_pushes"}
    assert pushes == {"BACKUP": 1, "CURRENT": 1, "FAILED": 1}
    assert {value for (name, _), value in found.items() if name == "fondaco_scrape_errors"} == {0.0}


def test_writes_show_in_log_and_overlay_and_how_soon_they_could_be_read(platform: Platform) -> None:
    store = platform.create_store("members", key="long", value=VALUE, partitions=2)
    store.push(rows(10))
    metrics = everything(platform)
    with store.reader() as reader, store.writer("test") as writer:
        begun = writer.put(0, {"clicks": 1, "name": "x"})
        assert reader.get(0, min_position=begun) is not None  # the tailer is at work: what waited for it to start is not measured
        positions = [writer.put(key, {"clicks": 1, "name": "x"}) for key in range(1, 50)]
        writer.flush()
        for position in positions:
            assert reader.get(0, min_position=position) is not None
        found = scraped(metrics)
    assert found["fondaco_store_writes_applied_total", ("members",)] == 50
    assert found["fondaco_store_overlay_keys", ("members",)] == 50
    highs = [found["fondaco_store_log_high_offset", (str(partition), "members")] for partition in (0, 1)]
    assert sum(highs) == 50
    assert [found["fondaco_store_applied_offset", (str(partition), "members")] for partition in (0, 1)] == highs
    assert found["fondaco_store_log_bytes", ("members",)] > 0
    counted = found["fondaco_store_append_to_readable_seconds_count", ("members",)]
    assert counted in (49, 50)
    assert (
        0
        < found["fondaco_store_append_to_readable_p50_seconds", ("members",)]
        <= found["fondaco_store_append_to_readable_p99_seconds", ("members",)]
    )
    again = scraped(metrics)
    assert ("fondaco_store_append_to_readable_p99_seconds", ("members",)) not in again  # nothing was written since the scrape before
    assert again["fondaco_store_append_to_readable_seconds_count", ("members",)] == counted


def test_processes_show_whether_they_are_up_and_how_often_they_were_started_again(platform: Platform) -> None:
    assert ("fondaco_process_up", ("data",)) not in scraped(everything(platform))
    processes = (ProcessInfo("data", ProcessState.READY, 7, 3, 1_000_000), ProcessInfo("tailer", ProcessState.WAITING, None, 1, 2_000_000))
    run_directory(platform.directory).mkdir()
    write_run_file(platform.directory, RunFile(1, str(platform.directory), "", "", 0, processes))
    found = scraped(everything(platform))
    assert (found["fondaco_process_up", ("data",)], found["fondaco_process_up", ("tailer",)]) == (1, 0)
    assert found["fondaco_process_restarts_total", ("data",)] == 3
    assert found["fondaco_process_start_time_seconds", ("data",)] == 1.0


def test_a_server_that_does_not_answer_is_down_and_one_that_is_gone_is_not_there(platform: Platform) -> None:
    import os

    run_directory(platform.directory).mkdir()
    for pid, name in ((os.getpid(), "1"), (2**22 - 1, "2")):
        document = f'{{"pid": {pid}, "address": "http://127.0.0.1:{free_port()}", "node": "n{name}", "secret": "s"}}'
        (run_directory(platform.directory) / f"served-{name}.json").write_text(document)
    found = scraped(everything(platform))
    assert {labels: value for (name, labels), value in found.items() if name == "fondaco_dataplane_up"} == {("n1",): 0}


def test_one_part_that_fails_leaves_the_others_and_is_named(platform: Platform) -> None:
    def broken() -> Iterator[Metric]:
        yield GaugeMetricFamily("fondaco_half", "Read before it broke.", value=1)
        raise OSError("gone")

    metrics = Metrics({"broken": broken, "stores": store_metrics(platform)})
    platform.create_store("members", key="long", value=VALUE)
    found = scraped(metrics)
    assert found["fondaco_scrape_errors", ("broken",)] == 1
    assert found["fondaco_scrape_errors", ("stores",)] == 0
    assert found["fondaco_store_version", ("members",)] == 0
    assert ("fondaco_half", ()) not in found


@given(st.lists(st.integers(min_value=1, max_value=80_000_000_000), max_size=40))
def test_a_histogram_counts_each_request_in_the_bucket_of_its_time(durations_ns: list[int]) -> None:
    stats = StoreStats()
    for ns in durations_ns:
        stats.answered(0, 1, 0, 0, ns)
    buckets, total_s = histogram(stats.document()["get"]["latency_us"]["buckets"])
    assert buckets[-1] == ("+Inf", len(durations_ns))
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    for end, count in buckets[:-1]:
        reached = sum(upper_us(bucket_of(ns)) <= float(end) * 1e6 * (1 + 1e-9) for ns in durations_ns)
        assert count == reached
    assert total_s == pytest.approx(sum(min(ns, 68_719_476_736) for ns in durations_ns) / 1e9, rel=0.15, abs=2e-6 * (1 + len(durations_ns)))
