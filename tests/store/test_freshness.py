"""Freshness: what the tailer counts is what another process reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fondaco.core.clock import ManualClock
from fondaco.log import EmbeddedLog, TopicConfig
from fondaco.store._tailer_partition import bucket_of
from fondaco.store.freshness import Freshness
from fondaco.store.tailer import Tailer
from overlay_parts import TOPIC, append, make_log, place, put


def test_a_store_that_nobody_wrote_to_lags_behind_nothing(tmp_path: Path) -> None:
    found = Freshness.of(tmp_path / "none", target_ms=1000)
    assert (found.lag_ms, found.tailing, found.p99_ms, found.counted, found.at_risk) == (0.0, False, None, 0, "")


@given(st.floats(0, 60_000))
def test_a_latency_falls_into_a_class_that_ends_above_it_by_a_fifth_at_most(latency_ms: float) -> None:
    end = 2 ** ((bucket_of(latency_ms) + 1) / 4)
    assert latency_ms <= end * 1.000001
    assert end <= max(1.19, latency_ms * 1.19) * 1.001


def test_latencies_are_counted_from_append_to_readable_and_quantiles_of_them_given(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    clock = ManualClock(1_000_000_000)
    with EmbeddedLog(log_at, clock=clock) as log:
        log.create_topic(TOPIC, TopicConfig(1))
        append(log, [put(b"before", 1, b"")])  # waits for a tailer to start: does not count
        clock.advance(us=5_000_000)
        with Tailer.open(overlay_at, log_at, TOPIC, log, clock=clock) as tailer:
            tailer.run_once()
            start = Freshness.of(overlay_at, target_ms=100, now_us=clock.now_us())
            assert start.counted == 0
            for number in range(100):
                append(log, [put(b"k", number, b"")])
                clock.advance(us=500_000 if number >= 98 else 3_000)
                tailer.run_once()
            found = Freshness.of(overlay_at, target_ms=100, now_us=clock.now_us())
            assert found.counted == 100
            assert 3 <= (found.p50_ms or 0) <= 3.6
            assert 500 <= (found.p99_ms or 0) <= 600
            assert found.at_risk.startswith("writes take 5")
            append(log, [put(b"k", 1000, b"")])
            clock.advance(us=7_000)
            tailer.run_once()
            lately = Freshness.of(overlay_at, target_ms=100, now_us=clock.now_us()).since(found)
            assert lately.counted == 1
            assert 7 <= (lately.p99_ms or 0) <= 8.4
            assert lately.at_risk == ""
            assert (lately.records, lately.keys) == (102, 2)


def test_a_tailer_that_is_behind_is_a_risk_and_one_that_is_gone_is_none(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    clock = ManualClock(1_000_000_000)
    with make_log(log_at) as log, Tailer.open(overlay_at, log_at, TOPIC, log, clock=clock) as tailer:
        tailer.run_once()
        behind = Freshness.of(overlay_at, target_ms=1000, now_us=clock.now_us() + 1_500_000)
        assert (behind.tailing, behind.lag_ms) == (True, 1500)
        assert behind.at_risk == "real-time reads are 1,500 ms behind, and 1000 ms are the target"
        gone = Freshness.of(overlay_at, target_ms=1000, now_us=clock.now_us() + 3_000_000)
        assert (gone.tailing, gone.lag_ms, gone.at_risk) == (False, 3000, "")


def test_freshness_is_read_without_numba() -> None:
    code = "import sys, fondaco.store.freshness; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_quantiles_are_between_the_first_and_the_last_class(tmp_path: Path) -> None:
    found = Freshness(1, histogram=(0, 5, 0, 5, *[0] * 60))
    assert found.quantile_ms(0.0) == found.p50_ms == pytest.approx(2 ** (2 / 4))
    assert found.p99_ms == found.quantile_ms(1.0) == pytest.approx(2.0)
