"""Trimming: only what no version can show goes, and only what was applied."""

from __future__ import annotations

from pathlib import Path

from fondaco.catalog.rows import VersionRow, VersionState
from fondaco.store.trimming import trim, window_start_ms
from overlay_parts import TOPIC, both, make_log, place, put


def _version(state: VersionState, as_of_ms: int) -> VersionRow:
    return VersionRow(1, state, "p", 1, 1, 0, 0, "none", as_of_ms * 1000 + 999, 0, None, None, None)


def test_the_window_begins_with_the_oldest_version_whose_files_exist_or_will() -> None:
    rows = [
        _version(VersionState.RETIRED, 1_000),
        _version(VersionState.FAILED, 2_000),
        _version(VersionState.BACKUP, 5_000),
        _version(VersionState.CURRENT, 9_000),
        _version(VersionState.BUILDING, 8_000),
    ]
    assert window_start_ms(rows, rewind_ms=1_000, retention_ms=None, now_ms=10_000) == 4_000
    assert window_start_ms([*rows, _version(VersionState.STARTED, 3_000)], rewind_ms=1_000, retention_ms=None, now_ms=10_000) == 2_000
    assert window_start_ms(rows[:2], rewind_ms=1_000, retention_ms=None, now_ms=10_000) is None
    assert window_start_ms([], rewind_ms=1_000, retention_ms=5, now_ms=10_000) is None


def test_nothing_is_given_up_while_readers_read_a_store_without_a_current_version() -> None:
    for state in (VersionState.BUILDING, VersionState.VERIFYING, VersionState.READY):
        assert window_start_ms([_version(state, 9_000)], rewind_ms=1_000, retention_ms=None, now_ms=10_000) is None


def test_a_version_as_of_tomorrow_takes_away_nothing_that_a_push_of_now_would_show() -> None:
    assert window_start_ms([_version(VersionState.CURRENT, 99_000)], rewind_ms=1_000, retention_ms=None, now_ms=10_000) == 9_000


def test_retention_keeps_writes_longer_and_never_shorter() -> None:
    rows = [_version(VersionState.CURRENT, 9_000)]
    assert window_start_ms(rows, rewind_ms=1_000, retention_ms=7_000, now_ms=10_000) == 3_000
    assert window_start_ms(rows, rewind_ms=1_000, retention_ms=1, now_ms=10_000) == 8_000


def test_trimming_gives_up_what_is_older_and_was_applied(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at, 2, segment_bytes=1024) as log, both(overlay_at, log_at, log) as (tailer, _):
        for number in range(100):
            log.append(TOPIC, 0, [put(b"%d" % number, number, b"")])
        assert trim(log, TOPIC, 40, tailer.applied) == {}  # nothing of it was applied
        tailer.run_once()
        assert trim(log, TOPIC, 40, tailer.applied) == {0: 40}
        assert trim(log, TOPIC, 40, tailer.applied) == {}
        assert log.low_watermark(TOPIC, 0) == 40
        assert trim(log, TOPIC, 1000, tailer.applied) == {0: 100}
        assert log.low_watermark(TOPIC, 1) == 0
