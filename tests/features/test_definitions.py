"""What authors write: entities, tables, views, sets. Mistakes are found before anything runs, and the message names the remedy."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fondaco import features as ft
from fondaco.core.errors import (
    ColumnNotFoundError,
    DefinitionError,
    FeatureNotFoundError,
    InputError,
    KeyTypeError,
    NaiveTimestampError,
)

US = pa.timestamp("us", tz="UTC")


class Plane(ft.Entity):
    """One key field."""

    tailnum: str


class Route(ft.Entity):
    """Two."""

    origin: str
    dest: str


FLIGHTS = pa.table(
    {
        "tailnum": pa.array([], pa.string()),
        "origin": pa.array([], pa.string()),
        "dest": pa.array([], pa.string()),
        "scheduled_at": pa.array([], US),
        "local_time": pa.array([], pa.timestamp("us")),
        "dep_delay": pa.array([], pa.float64()),
        "cancelled": pa.array([], pa.bool_()),
        "distance": pa.array([], pa.int32()),
        "gates": pa.array([], pa.struct([("a", pa.int64())])),
    }
)


def flights(**options: object) -> ft.Table:
    return ft.Table(FLIGHTS, **{"name": "flights", "time": "scheduled_at", "key": [Plane, Route], **options})  # type: ignore[arg-type]


def view_of(table: ft.Table, **features: ft.Expression) -> type[ft.View[Plane]]:
    import types

    return types.new_class("Flown", (ft.View[Plane],), {"source": table}, lambda body: body.update(features))


# -- entities -----------------------------------------------------------------------------------------------------------------------


def test_an_entity_is_a_frozen_value() -> None:
    assert Plane("N1") == Plane(tailnum="N1") != Plane("N2")
    assert {Route("JFK", "LAX")} == {Route(dest="LAX", origin="JFK")}
    with pytest.raises(AttributeError):
        Plane("N1").tailnum = "N2"  # type: ignore[misc]


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(KeyTypeError, match=r"string for Plane\.tailnum"):
        Plane(7)  # type: ignore[arg-type]


def test_numpy_keys_become_plain_ones() -> None:
    import numpy as np

    class Member(ft.Entity):
        number: int

    assert type(Member(np.int64(3)).number) is int  # type: ignore[arg-type]


def test_an_entity_without_fields_or_with_a_float_field_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no key field"):

        class Nothing(ft.Entity):
            pass

    with pytest.raises(DefinitionError, match=r"Weight\.grams"):

        class Weight(ft.Entity):
            grams: float


# -- columns ------------------------------------------------------------------------------------------------------------------------


def test_a_missing_column_is_named_with_its_neighbour_where_it_is_written() -> None:
    with pytest.raises(ColumnNotFoundError, match="did you mean 'dep_delay'"):
        flights().c.dep_dealy  # noqa: B018


def test_columns_complete_and_are_listed() -> None:
    table = flights()
    assert "dep_delay" in dir(table.c)
    assert list(table.c) == FLIGHTS.column_names
    assert not hasattr(table.c, "no_such")


def test_a_missing_time_column_is_refused() -> None:
    with pytest.raises(ColumnNotFoundError, match="did you mean 'scheduled_at'"):
        view_of(flights(time="schedule_at"), n=ft.count())


def test_naive_times_are_refused_unless_the_source_says_what_they_mean() -> None:
    with pytest.raises(NaiveTimestampError, match="local_time"):
        view_of(flights(time="local_time"), n=ft.count())
    table = flights()
    with pytest.raises(NaiveTimestampError, match="local_time"):
        view_of(table, hour=table.c.local_time.hour())
    zoned = flights(time="local_time", tz="America/New_York")
    view_of(zoned, hour=zoned.c.local_time.hour())


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no time zone"):
        flights(tz="Mars/Olympus")


def test_known_at_needs_time() -> None:
    with pytest.raises(DefinitionError, match="without time="):
        ft.Table(FLIGHTS, known_at="scheduled_at")


def test_a_number_is_no_time() -> None:
    with pytest.raises(DefinitionError, match="INTEGER, expected a timestamp"):
        view_of(flights(time="distance"), n=ft.count())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda c: c.tailnum + 1, "string, int: expected numbers"),
        (lambda c: c.tailnum.mean(window="1d"), "mean of string: expected numbers"),
        (lambda c: c.dep_delay.mean(where=c.distance, window="1d"), "where= of mean is int"),
        (lambda c: c.dep_delay > "late", "values of one type"),
        (lambda c: c.cancelled & c.distance, "expected booleans"),
        (lambda c: c.dep_delay.contains("x"), "expected string"),
        (lambda c: c.scheduled_at - 1.5, "expected numbers"),
        (lambda c: c.distance.hour(), "expected timestamp"),
        (lambda c: c.scheduled_at.hour(tz="Nowhere"), "no such time zone"),
        (lambda c: c.gates, "STRUCT"),
        (lambda c: c.dep_delay.mean(window="1d", default="none"), "default='none'"),
        (lambda c: c.dep_delay.mean(window="1d") + c.distance, "mixes aggregates with the column 'distance'"),
        (lambda c: c.dep_delay.mean(window="1d").max(window="2d"), "aggregate of an aggregate"),
        (lambda c: ft.coalesce(1, 2), "is a constant"),
        (lambda c: ft.when(c.cancelled, 1).otherwise("x"), "values of one type"),
        (lambda c: c.scheduled_at.cast(ft.Int64), "timestamp cannot be cast to int"),
    ],
)
def test_expressions_of_the_wrong_type_are_refused_at_definition(make: object, words: str) -> None:
    table = flights()
    with pytest.raises(DefinitionError) as caught:
        view_of(table, bad=make(table.c))  # type: ignore[operator]
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda c: bool(c.cancelled), "no truth value"),
        (lambda c: c.dep_delay == None, "is_null"),  # noqa: E711
        (lambda c: c.dep_delay.is_in([]), "at least one"),
        (lambda c: c.dep_delay.sum(window="0s"), "longer than nothing"),
        (lambda c: c.dep_delay.sum(window="1d", closed="both"), 'write "right"'),
        (lambda c: c.dep_delay.last(0), "whole number from 1"),
        (lambda c: c.dep_delay.last(2, default=0.0), "takes no default"),
        (lambda c: c.dep_delay + 2**70, "64 bits"),
        (lambda c: c.scheduled_at > dt.datetime(2020, 1, 1), "no time zone"),
        (lambda c: c.dep_delay * [1], "cannot stand in an expression"),
        (lambda c: c.tailnum.substring(-1), "cannot be negative"),
    ],
)
def test_misuse_of_an_operator_says_what_to_write(make: object, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        make(flights().c)  # type: ignore[operator]
    assert words in str(caught.value)


def test_a_duration_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="7 days"):
        flights().c.dep_delay.mean(window="7 days")


def test_a_static_table_has_no_windows() -> None:
    table = ft.Table(FLIGHTS, name="facts", key=Plane)
    with pytest.raises(DefinitionError, match="has no time="):
        view_of(table, n=table.c.distance.sum(window="1d"))


# -- views --------------------------------------------------------------------------------------------------------------------------


def test_the_attributes_of_a_view_are_typed_features() -> None:
    table = flights()
    f = table.c

    class History(ft.View[Plane], source=table, refresh="daily@06:30"):
        mean_7d: ft.Float32 = f.dep_delay.mean(window="7d")
        last_three: ft.List[ft.Float64] = f.dep_delay.last(3)
        inferred = f.cancelled

    assert isinstance(History.mean_7d, ft.Float32)
    assert isinstance(History.last_three, ft.List)
    assert isinstance(History.inferred, ft.Bool)
    assert repr(History.mean_7d) == "<History.mean_7d: float32>"
    assert History.mean_7d.alias("m").output == "m"
    assert History.mean_7d.output == "mean_7d"


def test_an_annotation_that_cannot_hold_the_value_is_refused() -> None:
    table = flights()
    with pytest.raises(DefinitionError, match=r"Bad\.m is declared int64, but its expression gives float"):

        class Bad(ft.View[Plane], source=table):
            m: ft.Int64 = table.c.dep_delay.mean(window="1d")

    with pytest.raises(DefinitionError, match="no feature type"):

        class Worse(ft.View[Plane], source=table):
            m: float = table.c.dep_delay.mean(window="1d")


def test_an_unknown_feature_is_named_with_its_neighbour() -> None:
    view = view_of((table := flights()), mean_delay=table.c.dep_delay.mean(window="1d"))
    with pytest.raises(FeatureNotFoundError, match="did you mean 'mean_delay'"):
        view.mean_dealy  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(FeatureNotFoundError, match="did you mean 'mean_delay'"):
        ft.FeatureSet("s", [view])["mean_delya"]


def test_a_set_takes_one_view_alone() -> None:
    view = view_of(table := flights(), n=table.c.distance)
    for alone in (view, view.n, view.on("x")):  # type: ignore[attr-defined]
        assert ft.FeatureSet("s", alone).version == ft.FeatureSet("s", [alone]).version
    with pytest.raises(DefinitionError, match="is no feature"):
        ft.FeatureSet("s", "view")  # type: ignore[arg-type]


def test_a_name_that_python_needs_names_no_feature() -> None:
    table = flights()
    for name in ("__class__", "__definition__", "a b"):
        with pytest.raises(DefinitionError, match=f"{name!r} cannot name a feature"):
            view_of(table, **{name: table.c.distance})
    for nothing in ("", 5):
        with pytest.raises(DefinitionError, match="cannot name a feature"):
            view_of(table, n=table.c.distance).n.alias(nothing)  # type: ignore[attr-defined]


def test_a_key_that_64_bits_cannot_hold_is_refused() -> None:
    class Member(ft.Entity):
        number: int

    assert Member(-(2**63)).number == -(2**63)
    with pytest.raises(KeyTypeError, match="more than 64 bits"):
        Member(2**70)


def test_sql_that_is_not_one_select_is_refused_before_it_runs(tmp_path: Path) -> None:
    made = tmp_path / "made.csv"
    for query in (f"copy (select 1 as x) to '{made}'; select 1 as x", f"copy (select 1 as x) to '{made}'", "", "select 1; select 2"):
        with pytest.raises(DefinitionError, match="not one SELECT"):
            ft.Table(ft.Sql(query)).schema()
    assert not made.exists()
    assert list(ft.Table(ft.Sql("with one as (select 1 as x) from one;")).schema()) == ["x"]


def test_what_is_no_table_yet_names_the_remedy() -> None:
    import pandas
    import polars

    with pytest.raises(DefinitionError, match=r"LazyFrame is not computed yet; write \.collect\(\)"):
        ft.Table(polars.LazyFrame({"x": [1]}))
    with pytest.raises(DefinitionError, match="make no table"):
        ft.Table({"x": [1, 2], "y": [1]})
    with pytest.raises(DefinitionError, match="make no table"):
        ft.Table(pandas.DataFrame({"x": [1, "a"]}))


def test_what_names_no_column_is_refused() -> None:
    view = view_of(table := flights(), n=table.c.distance)
    for make in (
        lambda: view.on(5),
        lambda: view.n.on({"tailnum": 5}),  # type: ignore[attr-defined]
        lambda: ft.Table(FLIGHTS, key={Plane: 5}),
        lambda: ft.Table(FLIGHTS, key={5: "tailnum"}),
        lambda: ft.Table(FLIGHTS, tz=["UTC"]),  # type: ignore[arg-type]
        lambda: ft.Sql(5),  # type: ignore[arg-type]
    ):
        with pytest.raises(DefinitionError, match=r"on\(|key=|tz=|text of a query"):
            make()
    with pytest.raises(ColumnNotFoundError, match="no column 5"):
        ft.training_set(None, ft.FeatureSet("s", view), FLIGHTS, at=5)  # type: ignore[arg-type]


def test_a_view_has_one_source() -> None:
    other = flights(name="other")
    with pytest.raises(DefinitionError, match="one view has one source"):
        view_of(flights(), n=other.c.distance.sum(window="1d"))


def test_a_view_of_an_entity_that_the_table_is_not_keyed_by_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"keyed by Route, not by Plane; write key=\[Route, Plane\]"):
        view_of(flights(key=Route), n=ft.count())


def test_key_columns_are_checked() -> None:
    with pytest.raises(ColumnNotFoundError, match="did you mean 'tailnum'"):
        view_of(flights(key={"tailnum": "tailnumm"}), n=ft.count())
    with pytest.raises(DefinitionError, match=r"Plane\.tailnum is string, but column 'distance'"):
        view_of(flights(key={Plane: "distance"}), n=ft.count())


@pytest.mark.parametrize("refresh", ["hourly", "daily@25:00", "0s"])
def test_an_unknown_refresh_is_refused(refresh: str) -> None:
    table = flights()
    with pytest.raises(DefinitionError, match="refresh="):

        class Bad(ft.View[Plane], source=table, refresh=refresh):
            n = ft.count()


def test_a_view_without_source_entity_or_features_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no source"):

        class A(ft.View[Plane]):
            n = ft.count()

    with pytest.raises(DefinitionError, match="names no entity"):

        class B(ft.View, source=flights()):  # type: ignore[type-arg]
            n = ft.count()

    with pytest.raises(DefinitionError, match="no feature"):

        class C(ft.View[Plane], source=flights()):
            pass

    with pytest.raises(DefinitionError, match="declared without an expression"):

        class D(ft.View[Plane], source=flights()):
            n: ft.Int64


def test_a_source_that_does_not_exist_yet_is_checked_when_it_does(tmp_path: Path) -> None:
    path = tmp_path / "flights.parquet"
    table = ft.Table(path, time="scheduled_at", key=Plane)
    view = view_of(table, n=table.c.dep_dealy.mean(window="1d"))
    feature_set = ft.FeatureSet("s", [view])
    with pytest.raises(InputError, match="no such file"):
        feature_set.check()
    pq.write_table(FLIGHTS, path)
    with pytest.raises(ColumnNotFoundError, match="did you mean 'dep_delay'"):
        feature_set.check()


# -- sets ---------------------------------------------------------------------------------------------------------------------------


def test_two_features_of_one_name_need_an_alias() -> None:
    view = view_of((table := flights()), n=table.c.distance.sum(window="1d"))
    with pytest.raises(DefinitionError, match=r'Flown\.n\.alias\("\.\.\."\)'):
        ft.FeatureSet("s", [view, view.n])  # type: ignore[attr-defined]
    assert list(ft.FeatureSet("s", [view, view.n.alias("again")]).features) == ["n", "again"]  # type: ignore[attr-defined]


def test_one_view_can_be_looked_up_through_two_label_columns() -> None:
    table = flights(key={"tailnum": "tailnum"})
    view = view_of(table, n=ft.count())
    feature_set = ft.FeatureSet("s", [view.on("outbound", prefix="out_"), view.on({"tailnum": "inbound"}, prefix="in_")])
    assert list(feature_set.features) == ["out_n", "in_n"]
    assert feature_set.plan().key_columns == ("outbound", "inbound")
    with pytest.raises(ColumnNotFoundError, match="did you mean 'tailnum'"):
        view.on({"tailnumber": "x"})


def test_checks_take_milliseconds_whatever_the_size(tmp_path: Path) -> None:
    rows = 300_000
    big = pa.table({"tailnum": ["N1"] * rows, "scheduled_at": pa.array([0] * rows, US), **{f"c{i}": [1.0] * rows for i in range(4)}})
    pq.write_table(big, tmp_path / "big.parquet")
    table = ft.Table(tmp_path / "big.parquet", time="scheduled_at", key=Plane)
    begun = time.thread_time()
    view = view_of(table, **{f"f{i}": table.c[f"c{i}"].mean(window="7d") for i in range(4)})
    with pytest.raises(DefinitionError):
        ft.training_set(None, ft.FeatureSet("s", [view]), pa.table({"tailnum": ["N1"], "at": [1]}), at="at")
    assert time.thread_time() - begun < 1.0


# -- versions -----------------------------------------------------------------------------------------------------------------------


def test_the_version_is_the_meaning() -> None:
    one, two = flights(), flights()
    same = [ft.FeatureSet("s", [view_of(t, m=t.c.dep_delay.mean(window="7d"), n=ft.count())]) for t in (one, two)]
    assert same[0].version == same[1].version
    assert same[0].diff(same[1]) == []
    spelt = ft.FeatureSet("s", [view_of(one, m=one.c.dep_delay.mean(window="168h", closed="right"), n=ft.count())])
    assert spelt.version == same[0].version
    other = ft.FeatureSet("s", [view_of(one, m=one.c.dep_delay.mean(window="1d"), n=ft.count(), extra=one.c.distance)])
    assert other.version != same[0].version
    lines = same[0].diff(other)
    assert "~ views[Flown].features[m].value.window_us: 604800000000 -> 86400000000" in lines
    assert any(line.startswith("+ selections[extra]") for line in lines)


def test_constants_of_different_types_are_different_plans() -> None:
    table = flights()
    versions = {
        ft.FeatureSet("s", [view_of(table, m=table.c.dep_delay.latest(where=table.c.distance > threshold))]).version
        for threshold in (1, 1.0, 2)
    }
    assert len(versions) == 3


def test_expressions_show_themselves() -> None:
    c = flights().c
    shown = repr(c.dep_delay.mean(where=c.distance > 5, window="7d", closed="left", default=0.0))
    assert shown == "<mean(dep_delay, where (distance > 5), in (t - 7d, t), else 0.0)>"


# -- typing -------------------------------------------------------------------------------------------------------------------------

SNIPPET = """
from fondaco import features as ft

class Plane(ft.Entity):
    tailnum: str

flights = ft.Table("flights.parquet", time="scheduled_at", known_at="landed_at", key=Plane)
f = flights.c

class PlaneHistory(ft.View[Plane], source=flights, refresh="stream"):
    mean_delay_7d: ft.Float32 = f.dep_delay.mean(window="7d")
    late_1d: ft.Int64 = ft.count(where=f.dep_delay > 15, window="1d")
    lasts: ft.List[ft.Float64] = f.dep_delay.last(3)
    plain = f.dep_delay

one = ft.FeatureSet("one", PlaneHistory)
late = ft.FeatureSet("late_departure", [PlaneHistory, PlaneHistory.late_1d.alias("again"), PlaneHistory.on({"tailnum": "x"})])
feature: ft.Feature[float] = PlaneHistory.mean_delay_7d
plane = Plane("N14228")
name: str = plane.tailnum

def read(row: ft.FeatureRow) -> float:
    value = row[PlaneHistory.mean_delay_7d]
    reveal_type(value)
    plain: str = row[PlaneHistory.plain]
    return 0.0 if value is None else value
"""
MISTAKES = {
    'Plane("N1").tailnum = "N2"': "read-only",
    "Plane(5)": "incompatible type",
    "Plane(tail='N1')": "Unexpected keyword",
    "PlaneHistory.maen_delay_7d": 'no attribute "maen_delay_7d"',
    "wrong: ft.Feature[str] = PlaneHistory.mean_delay_7d": "Incompatible types",
}


def _mypy(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(path.parent / "cache"), str(path)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False).stdout


@pytest.mark.slow
def test_definitions_pass_a_strict_type_checker_and_mistakes_do_not(tmp_path: Path) -> None:
    found = _mypy(tmp_path / "snippet.py", SNIPPET + "\n" + "\n".join(MISTAKES))
    errors = [line for line in found.splitlines() if "error:" in line]
    assert 'Revealed type is "float | None"' in found or 'Revealed type is "builtins.float | None"' in found, found
    assert len(errors) == len(MISTAKES), found
    for words in MISTAKES.values():
        assert words in found
