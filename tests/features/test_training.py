"""Training sets: exactly the labels, each with what was known at its time; the record; what the inputs may be."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import fondaco as fd
from fondaco import features as ft
from fondaco.catalog import records
from fondaco.core.errors import ColumnNotFoundError, DataError, DefinitionError, InputError, NaiveTimestampError

US = pa.timestamp("us", tz="UTC")


class Plane(ft.Entity):
    """The entity of these tests."""

    tailnum: str


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


FLIGHTS = pa.table(
    {
        "tailnum": ["N1", "N1", "N1", "N2", None],
        "scheduled_at": pa.array([at(f"2013-01-{day}") for day in ("01", "02", "03", "01", "01")], US),
        "known_at": pa.array([at("2013-01-01T01"), at("2013-01-02T02"), None, at("2013-01-01"), at("2013-01-01")], US),
        "delay": [10.0, None, 30.0, 5.0, 99.0],
    }
)
LABELS = pa.table(
    {
        "y": [1, 2, 3, 4, 5, 6],
        "tailnum": ["N1", "N2", "N1", None, "N9", "N1"],
        "at": pa.array([at(f"2013-01-{day}") for day in ("02T03", "02", "01T00:30", "02", "02", "02T03")], US),
    }
)


def history(source: object, **options: Any) -> type[ft.View[Plane]]:
    flights = ft.Table(source, **{"time": "scheduled_at", "known_at": "known_at", "key": Plane, **options})
    f = flights.c

    class History(ft.View[Plane], source=flights):
        last_delay: ft.Float64 = f.delay
        last_known_delay: ft.Float32 = f.delay.latest(skip_null=True, default=-1)
        flown: ft.Int16 = ft.count(window="7d")
        delay_per_flight: ft.Float64 = f.delay.sum(window="7d") / ft.count(window="7d")
        weekday: ft.Int8 = f.scheduled_at.weekday()
        when: ft.Timestamp = f.scheduled_at.latest()

    return History


EXPECTED = {
    "last_delay": [None, 5.0, None, None, None, None],
    "last_known_delay": [10.0, 5.0, -1.0, None, -1.0, 10.0],
    "flown": [2, 1, 0, None, 0, 2],
    "delay_per_flight": [5.0, 5.0, None, None, None, 5.0],
    "weekday": [2, 1, None, None, None, 2],
    "when": [at("2013-01-02"), at("2013-01-01"), None, None, None, at("2013-01-02")],
}


def features_of(table: pa.Table) -> dict[str, list[Any]]:
    return table.select(list(EXPECTED)).to_pydict()


def test_every_label_row_comes_back_once_in_order_with_what_was_known_then() -> None:
    table = ft.training_set(None, ft.FeatureSet("s", [history(FLIGHTS)]), LABELS, at="at").to_arrow()
    assert table.column_names == [*LABELS.column_names, *EXPECTED]
    assert table.select(LABELS.column_names).equals(LABELS)
    assert features_of(table) == EXPECTED
    assert table.schema.field("flown").type == pa.int16()
    assert table.schema.field("last_known_delay").type == pa.float32()
    assert table.schema.field("when").type == US


@pytest.mark.parametrize(
    "form",
    [
        "parquet",
        "two parquets",
        "glob",
        "csv",
        "pandas",
        "polars",
        "sql",
        "sql over files",
        "relation",
        "naive",
        "nanoseconds",
        "nanoseconds in parquet",
        "nanoseconds in pandas",
    ],
)
def test_sources_of_every_form_give_the_same(form: str, tmp_path: Path) -> None:
    path = tmp_path / "flights.parquet"
    pq.write_table(FLIGHTS, path)
    options: dict[str, Any] = {}
    source: object
    if form == "parquet":
        source = path
    elif form in ("two parquets", "glob"):
        pq.write_table(FLIGHTS.slice(0, 2), tmp_path / "a-1.parquet")
        pq.write_table(FLIGHTS.slice(2), tmp_path / "a-2.parquet")
        source = str(tmp_path / "a-*.parquet") if form == "glob" else [tmp_path / "a-1.parquet", tmp_path / "a-2.parquet"]
    elif form == "csv":
        source = tmp_path / "flights.csv"
        pa.csv.write_csv(FLIGHTS, source)
    elif form == "pandas":
        source = FLIGHTS.to_pandas()
    elif form == "polars":
        import polars

        source = polars.from_arrow(FLIGHTS)
    elif form == "sql":
        source = ft.Sql("select * from raw where true", {"raw": FLIGHTS})
    elif form == "sql over files":
        source = ft.Sql(f"select * from '{path}'")
    elif form == "relation":
        import duckdb

        with duckdb.connect() as connection:
            source = connection.from_arrow(FLIGHTS)
            table = ft.Table(source, time="scheduled_at", known_at="known_at", key=Plane)
        source = table.memory
    elif form.startswith("nanoseconds"):
        source = in_nanoseconds(FLIGHTS, "scheduled_at", "known_at")
        if form.endswith("parquet"):
            pq.write_table(source, path)
            source = path
        elif form.endswith("pandas"):
            source = source.to_pandas()
            assert str(source.dtypes["known_at"]) == "datetime64[ns, UTC]"
    else:
        bare = pa.timestamp("us")
        source = FLIGHTS.set_column(1, "scheduled_at", FLIGHTS["scheduled_at"].cast(bare)).set_column(
            2, "known_at", FLIGHTS["known_at"].cast(bare)
        )
        options["tz"] = "UTC"
    table = ft.training_set(None, ft.FeatureSet("s", [history(source, **options)]), LABELS, at="at").to_arrow()
    assert features_of(table) == EXPECTED


def in_nanoseconds(table: pa.Table, *names: str) -> Any:
    """The columns as a zone's nanoseconds, each a little after its microsecond."""
    for name in names:
        moments = pc.add(pc.multiply(table[name].cast(pa.int64()), 1000), 499).cast(pa.timestamp("ns", tz="UTC"))
        table = table.set_column(table.column_names.index(name), name, moments)
    return table


def test_labels_of_every_form_give_the_same(tmp_path: Path) -> None:
    pq.write_table(LABELS, tmp_path / "labels.parquet")
    feature_set = ft.FeatureSet("s", [history(FLIGHTS)])
    import polars

    nanoseconds = in_nanoseconds(LABELS, "at")
    assert nanoseconds["at"].type == pa.timestamp("ns", tz="UTC")
    for labels in (
        str(tmp_path / "labels.parquet"),
        tmp_path / "labels.parquet",
        LABELS.to_pandas(),
        polars.from_arrow(LABELS),
        LABELS.to_pylist(),
        nanoseconds,
        nanoseconds.to_pandas(),
    ):
        assert features_of(ft.training_set(None, feature_set, labels, at="at").to_arrow()) == EXPECTED
    naive = LABELS.set_column(2, "at", LABELS["at"].cast(pa.timestamp("us")))
    with pytest.raises(NaiveTimestampError, match="column 'at' of the labels"):
        ft.training_set(None, feature_set, naive, at="at")
    assert features_of(ft.training_set(None, feature_set, naive, at="at", tz="UTC").to_arrow()) == EXPECTED


def test_zones_are_honoured() -> None:
    local = pa.table({"tailnum": ["N1"], "scheduled_at": pa.array([dt.datetime(2013, 7, 1, 8)], pa.timestamp("us")), "delay": [1.0]})
    flights = ft.Table(local, time="scheduled_at", key=Plane, tz="America/New_York")

    class Flown(ft.View[Plane], source=flights):
        hour = flights.c.scheduled_at.hour()
        local_hour = flights.c.scheduled_at.hour(tz="America/New_York")

    labels = pa.table({"tailnum": ["N1"] * 2, "at": pa.array([at("2013-07-01T11:59:59.999999"), at("2013-07-01T12")], US)})
    table = ft.training_set(None, ft.FeatureSet("s", [Flown]), labels, at="at").to_arrow()
    assert table["hour"].to_pylist() == [None, 12]
    assert table["local_hour"].to_pylist() == [None, 8]


def test_nanoseconds_are_rounded_to_microseconds() -> None:
    rows = pa.table({"tailnum": ["N1", "N2"], "t": pa.array([1_499, 1_500], pa.timestamp("ns", tz="America/New_York")), "x": [1, 2]})
    table = ft.Table(rows, name="rows", time="t", key=Plane)

    class View(ft.View[Plane], source=table):
        when = table.c.t
        x = table.c.x

    labels = pa.table({"tailnum": ["N1", "N2", "N2"], "at": pa.array([600, 1_499, 1_501], pa.timestamp("ns", tz="UTC"))})
    found = ft.training_set(None, ft.FeatureSet("s", [View]), labels, at="at").to_arrow()
    assert found["when"].cast(pa.int64()).to_pylist() == [1, None, 2]
    assert found["x"].to_pylist() == [1, None, 2]


def test_no_labels_and_no_rows_give_empty_columns_of_the_right_type() -> None:
    table = ft.training_set(None, ft.FeatureSet("s", [history(FLIGHTS)]), LABELS.slice(0, 0), at="at").to_arrow()
    assert table.num_rows == 0
    assert table.schema.field("flown").type == pa.int16()
    empty = ft.training_set(None, ft.FeatureSet("s", [history(FLIGHTS.slice(0, 0))]), LABELS, at="at").to_arrow()
    assert empty["flown"].to_pylist() == [0, 0, 0, None, 0, 0]
    assert empty["last_known_delay"].to_pylist() == [-1, -1, -1, None, -1, -1]


def test_ties_are_broken_by_known_time_then_by_all_values() -> None:
    moment = at("2013-01-01")
    rows = [("N1", moment, at("2013-01-02"), 1.0, "b"), ("N1", moment, at("2013-01-03"), 2.0, "a"), ("N2", moment, moment, 3.0, "a")]
    rows += [("N2", moment, moment, 3.0, "b"), ("N2", moment, moment, 2.0, "c"), ("N2", moment, moment, None, "z")]
    source = pa.table(
        {
            "tailnum": [row[0] for row in rows],
            "scheduled_at": pa.array([row[1] for row in rows], US),
            "known_at": pa.array([row[2] for row in rows], US),
            "delay": pa.array([row[3] for row in rows], pa.float64()),
            "note": [row[4] for row in rows],
        }
    )
    labels = pa.table({"tailnum": ["N1", "N1", "N2"], "at": pa.array([at("2013-01-02"), at("2013-01-04"), at("2013-01-04")], US)})
    for known in ("known_at", None):
        answers = []
        for order in (source, source.take(list(reversed(range(len(rows)))))):
            flights = ft.Table(order, time="scheduled_at", known_at=known, key=Plane)
            view = _notes(flights)
            answers.append(ft.training_set(None, ft.FeatureSet("s", [view]), labels, at="at").to_arrow()["note"].to_pylist())
        assert answers[0] == answers[1], "the order of the source's rows does not matter"
        if known:
            assert answers[0] == ["b", "a", "b"]


def _notes(flights: ft.Table) -> type[ft.View[Plane]]:
    class Notes(ft.View[Plane], source=flights):
        note = flights.c.note

    return Notes


def test_max_age_counts_from_the_label_and_windows_from_the_last_refresh() -> None:
    source = pa.table({"tailnum": ["N1"], "t": pa.array([at("2013-01-01T06")], US), "x": [1.0]})
    table = ft.Table(source, time="t", key=Plane)

    class Daily(ft.View[Plane], source=table, refresh="daily@00:00"):
        aged = table.c.x.latest(max_age="20h")
        day = ft.count(window="1d")

    moments = ["2013-01-01T12", "2013-01-02T01", "2013-01-02T02", "2013-01-02T02:00:00.000001", "2013-01-03T01"]
    labels = pa.table({"tailnum": ["N1"] * 5, "at": pa.array([at(moment) for moment in moments], US)})
    found = ft.training_set(None, ft.FeatureSet("s", [Daily]), labels, at="at").to_arrow()
    assert found["aged"].to_pylist() == [None, 1.0, 1.0, None, None]
    assert found["day"].to_pylist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("known", [False, True])
def test_sums_of_sliding_windows_do_not_drift(known: bool) -> None:
    """1e15 comes and goes between cents; running sums of doubles would keep its rounding for ever."""
    count = 2_000
    rng = np.random.default_rng(7)
    values = rng.integers(0, 100, count) / 100
    values[::10] = 1e15
    times = np.arange(count) * 1_000_000
    source = pa.table({"tailnum": ["N1"] * count, "t": pa.array(times, US), "known": pa.array(times, US), "x": values})
    table = ft.Table(source, time="t", known_at="known" if known else None, key=Plane)

    class Sums(ft.View[Plane], source=table):
        total = table.c.x.sum(window="5s")
        mean = table.c.x.mean(window="5s")

    labels = pa.table({"tailnum": ["N1"] * count, "at": pa.array(times, US)})
    found = ft.training_set(None, ft.FeatureSet("s", [Sums]), labels, at="at").to_arrow()
    expected = np.array([values[max(0, i - 4) : i + 1].sum() for i in range(count)])
    np.testing.assert_allclose(found["total"].to_numpy(), expected, rtol=1e-12)


def test_key_columns_may_have_any_name() -> None:
    class Odd(ft.Entity):
        t: str
        rid: int

    table = ft.Table(pa.table({"t": ["a"], "rid": [1], "k0": pa.array([5], US), "v0": [2.5]}), time="k0", key=Odd)

    class Values(ft.View[Odd], source=table):
        s = table.c.v0
        e = table.c.v0.sum(window="1d")

    labels = pa.table({"u": [1], "t": ["a"], "rid": [1], "o": pa.array([6], US)})
    found = ft.training_set(None, ft.FeatureSet("odd", [Values]), labels, at="o").to_arrow()
    assert found.to_pydict() == {**labels.to_pydict(), "s": [2.5], "e": [2.5]}


# -- refusals -----------------------------------------------------------------------------------------------------------------------


def test_labels_that_do_not_fit_are_refused_before_anything_runs() -> None:
    feature_set = ft.FeatureSet("s", [history(FLIGHTS)])
    with pytest.raises(ColumnNotFoundError, match="did you mean 'at'"):
        ft.training_set(None, feature_set, LABELS, at="aat")
    with pytest.raises(ColumnNotFoundError, match=r"History\.on"):
        ft.training_set(None, feature_set, LABELS.drop_columns(["tailnum"]), at="at")
    with pytest.raises(DefinitionError, match="BIGINT, expected a timestamp"):
        ft.training_set(None, feature_set, LABELS, at="y")
    with pytest.raises(DefinitionError, match=r"'tailnum' is BIGINT, but Plane\.tailnum is string"):
        ft.training_set(None, feature_set, LABELS.set_column(1, "tailnum", LABELS["y"]), at="at")
    with pytest.raises(DefinitionError, match="also a feature"):
        ft.training_set(None, feature_set, LABELS.rename_columns(["flown", "tailnum", "at"]), at="at")


def test_a_zone_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(DefinitionError, match="is no time zone"):
        ft.training_set(None, ft.FeatureSet("s", history(FLIGHTS)), LABELS, at="at", tz="Mars/Olympus")


def test_labels_without_a_single_time_have_null_features() -> None:
    labels = LABELS.select(["tailnum"]).append_column("at", pa.nulls(LABELS.num_rows))
    table = ft.training_set(None, ft.FeatureSet("s", history(FLIGHTS)), labels, at="at").to_arrow()
    assert all(set(table[name].to_pylist()) == {None} for name in EXPECTED)


def test_rows_of_labels_may_leave_columns_out() -> None:
    rows = [{"tailnum": "N1"}, {"at": at("2013-01-02"), "tailnum": "N2"}]
    table = ft.training_set(None, ft.FeatureSet("s", history(FLIGHTS)), rows, at="at").to_arrow()
    assert table["flown"].to_pylist() == [None, 1]
    with pytest.raises(InputError, match="make no table"):
        ft.training_set(None, ft.FeatureSet("s", history(FLIGHTS)), [{"tailnum": 1}, {"tailnum": "N1"}], at="at")


ENDLESS = """
import os, signal, threading
import pyarrow as pa
from fondaco import features as ft
from fondaco.features.engine import Session

signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in children of some shells

class Plane(ft.Entity):
    tailnum: str

slow = "(select count(*) from range(1000000000000) r(i) where hash(i) % 7 = 3)"
table = ft.Table(ft.Sql(f"select 'N1' as tailnum, timestamptz '2013-01-01' as t, {slow} as x"), time="t", key=Plane)

class First(ft.View[Plane], source=table):
    newest = table.c.x

class Second(ft.View[Plane], source=table):
    total = table.c.x.sum(window="1d")

query = Session.query

def announced(self, text):
    if threading.current_thread().name.startswith("fondaco-join"):
        os.write(1, b"joining\\n")  # in one piece: two threads come here
    return query(self, text)

Session.query = announced
labels = pa.table({"tailnum": ["N1"], "at": pa.array([0], pa.timestamp("us", tz="UTC"))})
try:
    ft.training_set(None, ft.FeatureSet("s", [First, Second]), labels, at="at").to_arrow()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_ctrl_c_stops_a_join_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "joining\n"
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=10)
        finally:
            child.kill()
    assert out.splitlines()[-1] == "stopped", err
    assert child.returncode == 0


def test_an_error_of_one_view_does_not_wait_for_another() -> None:
    slow = "(select count(*) from range(1000000000000) r(i) where hash(i) % 7 = 3)"
    endless = ft.Table(ft.Sql(f"select 'N1' as tailnum, timestamptz '2013-01-01' as t, {slow} as x"), time="t", key=Plane)
    wrong = ft.Table(pa.table({"tailnum": ["N1"], "t": pa.array([0], US), "x": [1 << 62]}), time="t", key=Plane)

    class Endless(ft.View[Plane], source=endless):
        newest = endless.c.x

    class Wrong(ft.View[Plane], source=wrong):
        total = (wrong.c.x * 4).sum()

    with pytest.raises(DataError):
        ft.training_set(None, ft.FeatureSet("s", [Endless, Wrong]), LABELS, at="at").to_arrow()


def test_an_integer_overflow_is_an_error_and_not_a_wrong_number() -> None:
    source = pa.table({"tailnum": ["N1", "N1"], "t": pa.array([0, 1], US), "n": [2**62, 2**62]})
    table = ft.Table(source, time="t", key=Plane)

    class Sums(ft.View[Plane], source=table):
        total = table.c.n.sum()

    class Small(ft.View[Plane], source=table):
        narrow: ft.Int8 = table.c.n

    labels = pa.table({"tailnum": ["N1"], "at": pa.array([5], US)})
    for view in (Sums, Small):
        with pytest.raises(DataError):
            ft.training_set(None, ft.FeatureSet("s", [view]), labels, at="at").to_arrow()


def test_a_memory_limit_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="memory_limit"):
        ft.training_set(None, ft.FeatureSet("s", [history(FLIGHTS)]), LABELS, at="at", memory_limit="lots").to_arrow()


# -- the record ---------------------------------------------------------------------------------------------------------------------


def test_the_record_says_what_it_was_made_from(tmp_path: Path) -> None:
    path = tmp_path / "flights.parquet"
    pq.write_table(FLIGHTS, path)
    feature_set = ft.FeatureSet("late", [history(path)])
    with fd.open(tmp_path / "platform") as platform:
        training = ft.training_set(platform, feature_set, LABELS, at="at")
        record = training.record
        assert record.plan_hash == feature_set.version
        assert record.rows == 6
        assert record.null_rates["last_known_delay"] == pytest.approx(1 / 6)
        assert record.seconds > 0
        with platform.catalog.read() as connection:
            (kept,) = records.training_sets(connection, "late")
        assert kept.plan_hash == record.plan_hash
        assert kept.record["label_hash"] == record.label_hash
        again = ft.training_set(platform, feature_set, LABELS, at="at").record
        assert (again.label_hash, again.sources) == (record.label_hash, record.sources)
        os.utime(path, ns=(1, 1))
        assert ft.training_set(platform, feature_set, LABELS, at="at").record.sources != record.sources
    assert ft.training_set(None, feature_set, LABELS.slice(1), at="at").record.label_hash != record.label_hash


def test_the_hash_of_the_labels_covers_every_column() -> None:
    feature_set = ft.FeatureSet("s", history(FLIGHTS))

    def label_hash(labels: pa.Table) -> str:
        return ft.training_set(None, feature_set, labels, at="at").record.label_hash

    assert label_hash(LABELS) == label_hash(pa.concat_tables([LABELS.slice(0, 2), LABELS.slice(2)]))
    others = LABELS.set_column(0, "y", pa.array([1, 2, 3, 4, 5, 7]))
    assert len({label_hash(LABELS), label_hash(others), label_hash(LABELS.rename_columns(["z", "tailnum", "at"]))}) == 3


def test_it_is_computed_once_and_explains_itself() -> None:
    training = ft.training_set(None, ft.FeatureSet("late", [history(FLIGHTS)]), LABELS, at="at")
    assert "not computed yet" in repr(training)
    assert training.to_arrow() is training.to_arrow()
    assert training.to_polars().height == len(training.to_pandas()) == len(training) == 6
    text = training.explain()
    assert "last_known_delay: float32 = latest(delay, skipping nulls, else -1)" in text
    assert "view History of Plane (tailnum)" in text
    assert "WINDOW" in text.upper() or "OVER (" in text


def test_why_shows_the_rows_behind_a_value() -> None:
    feature_set = ft.FeatureSet("s", [history(FLIGHTS)])
    reasons = ft.why(None, feature_set, Plane("N1"), at=at("2013-01-02T03"))
    assert {name: reason.value for name, reason in reasons.items()} == {name: values[0] for name, values in EXPECTED.items()}
    assert reasons["last_known_delay"].rows["delay"].to_pylist() == [10.0]
    assert reasons["last_delay"].rows["scheduled_at"].to_pylist() == [at("2013-01-02")]
    assert reasons["flown"].rows.num_rows == 2
    assert "last_known_delay = 10.0: latest(delay, skipping nulls, else -1)" in str(reasons["last_known_delay"])
    assert ft.why(None, feature_set, {"tailnum": "N9"}, at=0)["flown"].rows.num_rows == 0

    class Other(ft.Entity):
        number: int

    with pytest.raises(InputError, match="no features of Other"):
        ft.why(None, feature_set, Other(1))
