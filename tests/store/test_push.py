"""Pushes: what ends up in a version, what is refused, and what each push leaves behind in the catalog and on disk."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy.engine import Connection

import fondaco as fd
from fondaco.catalog import Catalog, VersionState
from fondaco.core.errors import (
    ColumnNotFoundError,
    DataError,
    DuplicateKeyError,
    InputError,
    NoCurrentVersionError,
    PushInProgressError,
    PushKilledError,
    PushNotFoundError,
    RowError,
    StateError,
)
from fondaco.store.layout import read_cell
from fondaco.store.manifest import read_manifest

VALUE = pa.schema([pa.field("clicks", pa.int64(), nullable=False), pa.field("name", pa.string())])


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[fd.Platform]:
    with fd.open(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def store(platform: fd.Platform) -> fd.Store:
    return platform.create_store("members", key="long", value=VALUE, partitions=4)


def _table(rows: int, clicks: int = 0) -> pa.Table:
    keys = np.arange(rows)
    return pa.table({"key": keys, "clicks": keys + clicks, "name": pa.array([f"name {i % 7}" for i in keys], pa.string())})


_BESIDE = {"push.lock", "store.json", "schemas.json", "cells", "tailer.lock"}  # no part of a version


def _files(platform: fd.Platform) -> set[str]:
    root = platform.directory / "stores"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name not in _BESIDE}


def _read(store: fd.Store, keys: list[Any]) -> list[Any]:
    with store.reader() as reader:
        return [None if row is None else dict(row) for row in reader.get_many(keys)]


# -- what goes in comes out ---------------------------------------------------------------------------------------------------------


def test_every_row_of_a_push_is_read_back(store: fd.Store) -> None:
    report = store.push(_table(10_000))
    assert (report.records, report.input_rows, report.duplicates, report.version) == (10_000, 10_000, 0, 1)
    expected = [{"clicks": key, "name": f"name {key % 7}"} for key in range(10_000)]
    assert _read(store, list(range(10_000))) == expected
    assert _read(store, [-1, 10_000]) == [None, None]


def test_the_report_says_what_was_pushed_in_one_line(store: fd.Store) -> None:
    report = store.push(_table(1000))
    assert str(report).startswith("pushed members v1: 1,000 records, 4 partitions, ")
    assert str(report).endswith("; current is v1")
    assert report.raw_bytes > 0
    assert report.bytes == sum(path.stat().st_size for path in Path(store._context.layout.version(1)).glob("*.base"))
    assert {"read", "encode", "write", "seal", "verify"} <= report.steps.keys()
    assert report.swapped
    assert report.current == 1


def test_the_manifest_holds_exact_counts_and_what_the_version_was_built_from(store: fd.Store) -> None:
    store.push(_table(100), as_of=datetime(2026, 1, 2, tzinfo=UTC), built_from={"job": "nightly"})
    manifest = read_manifest(store._context.layout.version(1))
    assert manifest.records == 100
    assert manifest.built_from == {"job": "nightly"}
    assert manifest.as_of_us == 1_767_312_000_000_000
    assert store.versions()[0].as_of == datetime(2026, 1, 2, tzinfo=UTC)


def test_the_moment_of_a_push_may_be_written_as_text(store: fd.Store) -> None:
    assert store.push(_table(1), as_of="2026-01-02T01:00:00+01:00").as_of == datetime(2026, 1, 2, tzinfo=UTC)


def test_mappings_are_pushed_row_by_row(store: fd.Store) -> None:
    store.push([{"key": 1, "clicks": 5, "name": None}, {"key": 2, "clicks": 6, "name": "two"}])
    assert _read(store, [1, 2]) == [{"clicks": 5, "name": None}, {"clicks": 6, "name": "two"}]


def test_keys_of_several_columns(platform: fd.Platform) -> None:
    key = pa.schema([pa.field("origin", pa.string()), pa.field("hour", pa.int32())])
    store = platform.create_store("weather", key=key, value=VALUE)
    store.push({"origin": ["JFK", "LGA"], "hour": pa.array([1, 1], pa.int32()), "clicks": [1, 2], "name": ["a", "b"]})
    assert _read(store, [{"origin": "LGA", "hour": 1}, ("JFK", 2)]) == [{"clicks": 2, "name": "b"}, None]


def test_string_and_bytes_keys(platform: fd.Platform) -> None:
    for kind, keys in (("string", ["a", "é", ""]), ("bytes", [b"a", b"\xff", b""])):
        store = platform.create_store(f"by_{kind}", key=kind, value=VALUE)
        store.push({"key": keys, "clicks": [1, 2, 3], "name": [None] * 3})
        assert [row["clicks"] for row in _read(store, keys)] == [1, 2, 3]


def test_the_one_column_that_is_no_field_is_the_key(store: fd.Store) -> None:
    store.push(_table(3).rename_columns({"key": "member_id"}))
    assert _read(store, [2]) == [{"clicks": 2, "name": "name 2"}]


def test_a_column_may_be_key_and_field(platform: fd.Platform) -> None:
    store = platform.create_store("s", key={"name": "clicks", "type": "long"}, value=VALUE)
    store.push(_table(3, clicks=10).drop_columns("key"))
    assert _read(store, [11]) == [{"clicks": 11, "name": "name 1"}]


def test_text_is_compressed_with_a_dictionary_and_read_back(platform: fd.Platform) -> None:
    store = platform.create_store("texts", value=pa.schema([pa.field("text", pa.string(), nullable=False)]), partitions=2)
    texts = [f"member {i} has shown interest in data platforms and feature stores for machine learning" for i in range(20_000)]
    report = store.push({"key": list(range(20_000)), "text": texts})
    assert report.compression == "zstd"
    assert report.bytes < report.raw_bytes
    assert report.compression_sample["ratio_zstd"] > 1.1
    assert _read(store, [0, 19_999]) == [{"text": texts[0]}, {"text": texts[-1]}]


def test_embeddings_stay_as_they_are(platform: fd.Platform) -> None:
    schema = pa.schema([pa.field("emb", pa.list_(pa.float32(), 16), nullable=False)])
    store = platform.create_store("embeddings", value=schema)
    embeddings = np.random.default_rng(7).normal(size=(5000, 16)).astype(np.float32)
    assert store.push({"key": np.arange(5000), "emb": embeddings}).compression == "none"
    with store.reader() as reader:
        np.testing.assert_array_equal(reader.get_columns(np.arange(5000), ["emb"])["emb"], embeddings)


# -- what is refused ----------------------------------------------------------------------------------------------------------------


def test_the_first_row_that_does_not_fit_is_named_and_nothing_is_left(platform: fd.Platform, store: fd.Store) -> None:
    store.push(_table(10))
    before = _files(platform)
    table = _table(1000).set_column(1, "clicks", pa.array([None if i == 700 else i for i in range(1000)], pa.int64()))
    with pytest.raises(RowError, match=r"row 700, field 'clicks': expected .*, got null"):
        store.push(table)
    assert store.current == 1
    assert _files(platform) == before
    failed = store.pushes()[-1]
    assert (failed.state, failed.error_class, failed.blame) == (VersionState.FAILED, "RowError", "user")


def test_a_row_too_long_to_be_read_back_is_refused_even_if_it_compresses_well(
    platform: fd.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fondaco.store.encoder.RECORD_BYTES_MAX", 1 << 20)
    store = platform.create_store("blobs", value=pa.schema([pa.field("blob", pa.binary())]), compression="zstd")
    with pytest.raises(DataError, match=r"row 1 takes \d+ bytes; the limit is 1048576"):
        store.push({"key": [1, 2], "blob": [b"", b"x" * (2 << 20)]})


def test_rows_are_counted_over_all_batches(store: fd.Store) -> None:
    batches = [*_table(500).to_batches(), pa.RecordBatch.from_pydict({"key": [None], "clicks": [1], "name": ["x"]}, _table(1).schema)]
    with pytest.raises(RowError, match="row 500, field 'key'"):
        store.push(batches)
    with pytest.raises(RowError, match="row 1, field 'clicks'"):
        store.push([{"key": 1, "clicks": 1, "name": None}, {"key": 2, "clicks": "many", "name": None}])


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"key": [1], "name": ["x"]}, ColumnNotFoundError, "no column 'clicks'"),
        ({"key": [1], "clicks": [1], "nmae": ["x"]}, ColumnNotFoundError, "did you mean 'nmae'"),
        ({"clicks": [1], "name": ["x"]}, ColumnNotFoundError, "no column 'key'.*whose key it is"),
        ({"key": [1], "clicks": [1], "name": ["x"], "clickz": [1]}, InputError, "no field 'clickz'; did you mean 'clicks'"),
        ({"a": [1], "b": [1], "clicks": [1], "name": ["x"]}, InputError, "which of the columns 'a', 'b' is the key"),
        ({"key": [1.5], "clicks": [1], "name": ["x"]}, InputError, "key"),
        ({"key": [1], "clicks": ["x"], "name": ["x"]}, InputError, "clicks"),
    ],
)
def test_columns_that_do_not_match_are_refused_by_name(
    store: fd.Store, columns: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        store.push(columns)


def test_nothing_is_a_mistake_unless_it_is_meant(store: fd.Store) -> None:
    store.push(_table(3))
    for nothing in ([], _table(0)):
        with pytest.raises(InputError, match=r"no rows.*push_empty"):
            store.push(nothing)
    report = store.push_empty()
    assert (report.records, store.current) == (0, report.version)
    assert _read(store, [1]) == [None]


def test_equal_rows_collapse_and_are_counted(store: fd.Store) -> None:
    report = store.push(pa.concat_tables([_table(100), _table(50)]))
    assert (report.records, report.input_rows, report.duplicates) == (100, 150, 50)
    assert "50 repeated rows dropped" in str(report)


def test_two_values_for_one_key_fail_the_push_with_key_and_rows(store: fd.Store) -> None:
    table = pa.concat_tables([_table(100), _table(100, clicks=1).slice(42, 1)])
    with pytest.raises(DuplicateKeyError, match="key 42 has different values in rows 42 and 100"):
        store.push(table)
    assert store.current is None


@pytest.mark.parametrize(("rule", "clicks"), [("keep_first", 42), ("keep_last", 43)])
def test_a_rule_chooses_between_two_values_for_one_key(store: fd.Store, rule: Any, clicks: int) -> None:
    report = store.push(pa.concat_tables([_table(100), _table(100, clicks=1).slice(42, 1)]), on_duplicate=rule)
    assert (report.records, report.duplicates) == (100, 1)
    assert _read(store, [42])[0]["clicks"] == clicks


def test_misspelt_options_are_refused(store: fd.Store) -> None:
    with pytest.raises(InputError, match=r"on_duplicate is one of"):
        store.push(_table(1), on_duplicate="last")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"as_of.*time zone"):
        store.push(_table(1), as_of=datetime(2026, 1, 1))
    for moment in (1.5, True, 2**63, "2026-01-01", "today"):
        with pytest.raises(InputError, match=r"^as_of: "):
            store.push(_table(1), as_of=moment)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be a push id"):
        store.push(_table(1), push_id="../x")


def test_an_exception_of_the_pushed_iterator_comes_through_and_is_its_owners(platform: fd.Platform, store: fd.Store) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from _table(10).to_batches()
        raise ZeroDivisionError("theirs")

    with pytest.raises(ZeroDivisionError, match="theirs"):
        store.push(batches())
    assert store.pushes()[-1].blame == "user"
    assert _files(platform) == {"members/CURRENT"}


# -- identity and order -------------------------------------------------------------------------------------------------------------


def test_the_same_push_id_again_returns_the_same_report_and_does_nothing(platform: fd.Platform, store: fd.Store) -> None:
    first = store.push(_table(10), push_id="2026-11-21T00:00:00+00:00")
    before = _files(platform)
    again = store.push(_table(99), push_id="2026-11-21T00:00:00+00:00")
    assert again == first
    assert _files(platform) == before
    assert len(store.pushes()) == 1


def test_the_same_push_id_after_a_failure_tries_again_with_a_new_number(store: fd.Store) -> None:
    with pytest.raises(InputError):
        store.push([], push_id="nightly")
    assert store.push(_table(10), push_id="nightly").version == 2
    assert [push.state for push in store.pushes()] == [VersionState.FAILED, VersionState.CURRENT]


def test_a_second_push_is_told_who_pushes(store: fd.Store) -> None:
    started, go_on = threading.Event(), threading.Event()

    def batches() -> Iterator[pa.RecordBatch]:
        yield from _table(10).to_batches()
        started.set()
        assert go_on.wait(60)

    pusher = threading.Thread(target=store.push, args=(batches(),), kwargs={"push_id": "slow"})
    pusher.start()
    assert started.wait(60)
    with pytest.raises(PushInProgressError, match="push 'slow'"):
        store.push(_table(5))
    go_on.set()
    pusher.join()
    assert store.push(_table(5)).version == 2


def test_a_killed_push_stops_and_leaves_nothing(platform: fd.Platform, store: fd.Store) -> None:
    store.push(_table(10))
    before = _files(platform)

    def batches() -> Iterator[pa.RecordBatch]:
        yield from _table(10).to_batches()
        store.kill("slow")
        yield from _table(1000).to_batches()

    with pytest.raises(PushKilledError, match="'slow'"):
        store.push(batches(), push_id="slow")
    assert store.current == 1
    assert _files(platform) == before
    assert store.pushes()[-1].state is VersionState.KILLED
    store.kill("slow")


def test_a_push_that_is_over_cannot_be_killed(store: fd.Store) -> None:
    store.push(_table(10), push_id="done")
    with pytest.raises(StateError, match="is over"):
        store.kill("done")
    with pytest.raises(PushNotFoundError, match="did you mean 'done'"):
        store.kill("doen")


def test_a_deferred_push_waits_until_it_is_swapped(store: fd.Store) -> None:
    store.push(_table(10))
    report = store.push(_table(20), swap=False)
    assert (report.state, report.swapped, report.current, store.current) == (VersionState.READY, False, 1, 1)
    assert "current is still v1" in str(report)
    with store.reader() as reader:
        assert reader.get(15) is None
        assert store.swap(2) == 2
        assert reader.get(15) is not None


def test_a_repush_keeps_the_rows_and_changes_the_settings(platform: fd.Platform) -> None:
    store = platform.create_store("texts", value=VALUE, partitions=2, compression="zstd")
    table = _table(5000)
    moment = datetime(2026, 5, 5, tzinfo=UTC)
    first = store.push(table, as_of=moment)
    for compression in ("none", "zstd"):
        report = store.repush(partitions=7, compression=compression)
        assert (report.records, report.partitions, report.compression, report.as_of) == (5000, 7, compression, moment)
        assert report.raw_bytes == first.raw_bytes
        assert [row["clicks"] for row in _read(store, list(range(5000)))] == list(range(5000))


def test_there_is_nothing_to_repush_before_the_first_push(store: fd.Store) -> None:
    with pytest.raises(NoCurrentVersionError):
        store.repush()


# -- what is recorded ---------------------------------------------------------------------------------------------------------------


def test_the_push_table_is_an_arrow_table(store: fd.Store) -> None:
    store.push(_table(10), push_id="good")
    with pytest.raises(InputError):
        store.push([], push_id="bad")
    table = store.pushes().to_arrow()
    assert table.column("push_id").to_pylist() == ["good", "bad"]
    assert table.column("blame").to_pylist() == [None, "user"]
    assert table.column("records").to_pylist() == [10, 0]
    assert table.schema.field("started").type == pa.timestamp("us", tz="UTC")


def test_at_most_one_push_is_listed_as_current(store: fd.Store) -> None:
    for swap in (True, True, True, False):
        store.push(_table(10), swap=swap)
    assert [push.state for push in store.pushes()] == ["RETIRED", "BACKUP", "CURRENT", "READY"]
    assert store.pushes().to_arrow().column("state").to_pylist() == ["RETIRED", "BACKUP", "CURRENT", "READY"]
    store.rollback()
    assert [push.state for push in store.pushes()] == ["RETIRED", "CURRENT", "BACKUP", "READY"]


def test_rows_are_pushed_with_the_newest_value_schema(store: fd.Store) -> None:
    store.push(_table(3))
    wider = pa.schema([*VALUE, pa.field("city", pa.string())])
    avro = {**store.value_schema}
    avro["fields"] = [*avro["fields"], {"name": "city", "type": ["null", "string"], "default": None}]
    assert store.add_schema(avro) == 2
    assert store.add_schema(avro) == 2
    store.push(_table(3).append_column("city", pa.array(["Rome", None, "Oslo"])))
    assert _read(store, [0, 1]) == [{"clicks": 0, "name": "name 0", "city": "Rome"}, {"clicks": 1, "name": "name 1", "city": None}]
    assert [version.schema_number for version in store.versions()] == [1, 2]
    assert wider.names == [field["name"] for field in store.value_schema["fields"]]


# -- interrupted ----------------------------------------------------------------------------------------------------------------------


class _Interrupted(Catalog):
    """A catalog in which Ctrl-C arrives right after the commit of one transaction, or right before it."""

    when: tuple[str, int] = ("", 0)
    writes = 0

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        self.writes += 1
        moment, number = self.when
        with super().write() as connection:
            yield connection
            if moment == "before" and self.writes == number:
                raise KeyboardInterrupt
        if moment == "after" and self.writes == number:
            raise KeyboardInterrupt


def _interrupt(store: fd.Store, moment: str, write: int) -> None:
    context = store._context
    catalog = _Interrupted(context.catalog._engine, context.catalog.directory, read_only=False)
    catalog.when = (moment, write)
    with pytest.raises(KeyboardInterrupt):
        fd.Store(replace(context, catalog=catalog)).push(_table(20), push_id="interrupted")


# the transactions of a short push: started, building, verifying, committed, cell; after the fourth it has happened
@pytest.mark.parametrize(("moment", "write"), [(moment, write) for write in range(1, 6) for moment in ("before", "after")])
def test_a_push_interrupted_at_any_of_its_commits_has_happened_or_not(
    platform: fd.Platform, store: fd.Store, moment: str, write: int
) -> None:
    store.push(_table(10))
    before = _files(platform)
    _interrupt(store, moment, write)
    happened = write == 5 or (write, moment) == (4, "after")
    assert store.current == (2 if happened else 1)
    assert read_cell(store._context.layout.current_cell) == store.current
    assert [version.version for version in store.versions()] == store._context.layout.version_numbers()
    assert happened or _files(platform) == before
    assert _read(store, list(range(20))).count(None) == (0 if happened else 10)
    if happened:
        assert store.pushes()[-1].error_class is None
        assert store.push(_table(99), push_id="interrupted").records == 20
    else:
        assert store.push(_table(30), push_id="interrupted").records == 30
    assert platform.store("members").push(_table(40)).swapped


def test_an_interrupted_push_still_removes_what_its_commit_retired(store: fd.Store) -> None:
    for _ in range(2):
        store.push(_table(10))
    _interrupt(store, "after", 4)
    assert store._context.layout.version_numbers() == [2, 3]
