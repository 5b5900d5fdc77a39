"""Rows that patches make are made once, are never stale, and take bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fondaco as fd
from fondaco.store import _merged_rows, merge
from fondaco.store._merged_rows import MergedRow, MergedRows

SCHEMA = {"type": "record", "name": "Row", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string", "default": "none"}]}
KEYS = list(range(200))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[fd.Platform]:
    with fd.open(tmp_path / "platform") as opened:
        yield opened


def test_a_patched_row_is_made_once_and_again_after_its_next_patch(platform: fd.Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    apply = merge.apply
    monkeypatch.setattr(merge, "apply", lambda *args, **options: made.append(1) or apply(*args, **options))
    store = platform.create_store("rows", value=SCHEMA)
    store.push([{"key": key, "a": key, "b": "pushed"} for key in KEYS])
    with store.writer() as writer, store.reader() as reader:
        for key in KEYS:
            writer.patch(key, {"a": -key})
        position = writer.flush()
        for _ in range(3):
            rows = reader.get_many(KEYS, min_position=position)
            assert [dict(row) for row in rows if row] == [{"a": -key, "b": "pushed"} for key in KEYS]
            assert reader.get_columns(KEYS)["a"].tolist() == [-key for key in KEYS]
            assert reader.get_columns(KEYS, ["b"])["b"].tolist() == ["pushed"] * len(KEYS)
        assert len(made) == len(KEYS)
        position = writer.patch(7, {"b": "patched"})
        assert dict(reader.get(7, min_position=position) or {}) == {"a": -7, "b": "patched"}
        assert reader.get_columns(KEYS)["b"].tolist().count("patched") == 1
        assert len(made) == len(KEYS) + 1
        store.push([{"key": key, "a": 0, "b": "again"} for key in KEYS])
        assert dict(reader.get(7) or {}) == {"a": -7, "b": "patched"}, "patches of the window count for the next version"
        assert dict(reader.get(8) or {}) == {"a": -8, "b": "again"}, "and are laid over its rows, not over those before"


def test_a_patch_that_waits_for_its_put_is_remembered_as_no_row(platform: fd.Platform) -> None:
    store = platform.create_store("rows", value=SCHEMA)
    store.push([{"key": 1, "a": 1, "b": "x"}])
    with store.writer() as writer, store.reader() as reader:
        position = writer.patch(2, {"b": "early"})
        assert reader.get(2, min_position=position) is None
        assert reader.get_columns([1, 2]).found.tolist() == reader.get_columns([1, 2]).found.tolist() == [True, False]
        position = writer.put(2, {"a": 2, "b": "late"}, timestamp_ms=time.time_ns() // 1_000_000 - 1000)
        assert dict(reader.get(2, min_position=position) or {}) == {"a": 2, "b": "early"}


def test_the_oldest_rows_make_room_and_what_is_kept_is_bounded() -> None:
    rows = MergedRows(bytes_max=10 * (100 + _merged_rows._OVERHEAD))
    for address in range(1000):
        rows.keep(address, MergedRow(0, bytes(100)))
        rows.keep(address, MergedRow(0, bytes(100)))  # made by two threads at once: counted once
    assert len(rows) == 10
    assert rows.get(999) is not None
    assert rows.get(0) is None
    rows.keep(1000, MergedRow(0, None))
    assert rows.get(1000) == MergedRow(0, None)
    rows.keep(2000, MergedRow(0, bytes(1 << 20)))
    assert len(rows) == 0, "a row larger than all is not kept, nor is anything beside it"
    rows.keep(1, MergedRow(0, b"x"))
    assert rows.get(1) is not None


def test_threads_may_keep_rows_at_once() -> None:
    rows = MergedRows(bytes_max=20_000)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for address in rng.integers(0, 500, 5_000).tolist():
                found = rows.get(address)
                assert found is None or found.newest_ms == address
                rows.keep(address, MergedRow(address, bytes(address % 7 * 50)))
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(rows) <= 101
