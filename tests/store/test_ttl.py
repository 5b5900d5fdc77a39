"""Time to live: a row is absent `ttl` after its last write, a pushed one `ttl` after its version's moment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.clock import ManualClock
from fondaco.core.errors import AlreadyExistsError, InputError
from fondaco.platform import Platform
from fondaco.store.reader import EmbeddedReader

T0_MS = 1_750_000_000_000
HOUR_MS = 3_600_000
TTL_MS = 2 * HOUR_MS
VALUE = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "a", "type": "long", "default": 0}, {"name": "b", "type": "long", "default": 0}],
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(T0_MS * 1000)


@pytest.fixture
def platform(tmp_path: Any, clock: ManualClock) -> Iterator[Platform]:
    with Platform.open(tmp_path / "p", clock=clock) as platform:
        yield platform


@pytest.fixture(params=["long", "string"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def push(store: fd.Store, keys: list[Any], value: int, as_of_ms: int) -> None:
    rows = {"key": keys, "a": [value] * len(keys), "b": [value] * len(keys)}
    store.push(pa.table(rows), as_of=as_of_ms * 1000, progress=False)


def seen(reader: EmbeddedReader, keys: list[Any]) -> list[Any]:
    """(a, b) of each key, the same whichever way it is asked for."""
    single = [None if (row := reader.get(key)) is None else (row["a"], row["b"]) for key in keys]
    assert [None if row is None else (row["a"], row["b"]) for row in reader.get_many(keys)] == single
    columns = reader.get_columns(keys)
    assert [(a, b) if found else None for a, b, found in zip(columns["a"], columns["b"], columns.found, strict=True)] == single
    assert reader.get_packed(keys).found.tolist() == [row is not None for row in single]
    return single


def test_a_pushed_row_is_there_for_its_ttl_and_not_a_millisecond_longer(platform: Platform, clock: ManualClock, kind: str) -> None:
    keys: list[Any] = [1, 2] if kind == "long" else ["x", "y"]
    store = platform.create_store("s", key=kind, value=VALUE, ttl="2h")
    push(store, keys, 7, T0_MS)
    with store.reader() as reader:
        clock.advance(us=(TTL_MS - 1) * 1000)
        assert seen(reader, keys) == [(7, 7)] * 2
        clock.advance(us=1000)
        assert seen(reader, keys) == [None] * 2
        assert reader.version == 1


def test_a_written_row_is_there_for_its_ttl_after_the_write(platform: Platform, clock: ManualClock, kind: str) -> None:
    one, two, three = (1, 2, 3) if kind == "long" else ("x", "y", "z")
    store = platform.create_store("s", key=kind, value=VALUE, ttl=timedelta(hours=2))
    with store.writer() as writer, store.reader() as reader:
        writer.put(one, {"a": 1}, timestamp_ms=T0_MS)
        writer.put(two, {"a": 2}, timestamp_ms=T0_MS + 5)
        writer.put(three, {"a": 3}, timestamp_ms=T0_MS - TTL_MS)
        reader.get_many([], min_position=writer.flush())
        assert seen(reader, [one, two, three]) == [(1, 0), (2, 0), None]
        clock.advance(us=(TTL_MS - 1) * 1000)
        assert seen(reader, [one, two]) == [(1, 0), (2, 0)]
        clock.advance(us=1000)
        assert seen(reader, [one, two]) == [None, (2, 0)]
        reader.get(one, min_position=writer.put(one, {"a": 9}, timestamp_ms=T0_MS + TTL_MS))
        clock.advance(us=5000)
        assert seen(reader, [one, two]) == [(9, 0), None]


def test_a_patched_row_lives_as_long_as_the_newest_thing_it_is_made_of(platform: Platform, clock: ManualClock) -> None:
    store = platform.create_store("s", key="long", value=VALUE, ttl="2h")
    push(store, [1, 2, 3], 7, T0_MS)
    with store.writer() as writer, store.reader() as reader:
        writer.patch(1, {"a": 1}, timestamp_ms=T0_MS + HOUR_MS)
        writer.patch(2, {"a": 2}, timestamp_ms=T0_MS - HOUR_MS)
        writer.patch(4, {"a": 4}, timestamp_ms=T0_MS + HOUR_MS)
        clock.advance(us=(TTL_MS - 1) * 1000)
        reader.get_many([], min_position=writer.flush())
        assert seen(reader, [1, 2, 3, 4]) == [(1, 7), (2, 7), (7, 7), (4, 0)]
        clock.advance(us=1000)
        assert seen(reader, [1, 2, 3, 4]) == [(1, 7), None, None, (4, 0)]
        clock.advance(us=HOUR_MS * 1000)
        assert seen(reader, [1, 2, 3, 4]) == [None] * 4


def test_a_put_that_is_over_uncovers_a_row_that_was_pushed_later_and_a_delete_does_not(platform: Platform, clock: ManualClock) -> None:
    store = platform.create_store("s", key="long", value=VALUE, ttl="2h")
    with store.writer() as writer, store.reader() as reader:
        writer.put(1, {"a": 1}, timestamp_ms=T0_MS - HOUR_MS)
        writer.delete(2, timestamp_ms=T0_MS - HOUR_MS)
        push(store, [1, 2], 7, T0_MS)
        reader.get_many([], min_position=writer.flush())
        assert seen(reader, [1, 2]) == [(1, 0), None]
        clock.advance(us=HOUR_MS * 1000)
        assert seen(reader, [1, 2]) == [(7, 7), None]
        clock.advance(us=HOUR_MS * 1000)
        assert seen(reader, [1, 2]) == [None, None]


def test_a_fold_makes_no_row_younger(platform: Platform, clock: ManualClock) -> None:
    store = platform.create_store("s", key="long", value=VALUE, ttl="2h", rewind="1h")
    push(store, [1, 2], 7, T0_MS)
    with store.writer() as writer, store.reader() as reader:
        reader.get(3, min_position=writer.put(3, {"a": 3}, timestamp_ms=T0_MS + HOUR_MS))
        clock.advance(us=(HOUR_MS + 10) * 1000)
        store.repush(fold=True, progress=False)
        assert reader.version == 2
        assert seen(reader, [1, 2, 3]) == [(7, 7), (7, 7), (3, 0)]
        clock.advance(us=HOUR_MS * 1000)
        assert seen(reader, [1, 2, 3]) == [None, None, (3, 0)]
        report = store.repush(fold=True, progress=False)
        assert report.records == 1
        assert seen(reader, [1, 2, 3]) == [None, None, (3, 0)]
        clock.advance(us=HOUR_MS * 1000)
        assert seen(reader, [1, 2, 3]) == [None] * 3
        assert np.ma.count(reader.get_columns([1, 2, 3])["a"]) == 0


def test_a_ttl_that_cannot_be_is_refused(platform: Platform) -> None:
    for wrong in ("0s", "soon", 3, "-1h"):
        with pytest.raises(InputError, match=r"ttl|duration"):
            platform.create_store("s", value=VALUE, ttl=wrong)  # type: ignore[arg-type]
    store = platform.create_store("s", value=VALUE, ttl="48h")
    assert store.describe()["ttl"] == "2d"
    with pytest.raises(AlreadyExistsError, match="its ttl is '2d', not '3d'"):
        platform.create_store("s", value=VALUE, ttl="3d")
    assert platform.create_store("s", value=VALUE).describe()["ttl"] == "2d"
