"""Publishing and reading online: the same values as training sets, missing and expired ones named, other definitions refused."""

from __future__ import annotations

import datetime as dt
import importlib
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fondaco as fd
from fondaco import features as ft
from fondaco.catalog import records
from fondaco.core.clock import ManualClock
from fondaco.core.errors import (
    AlreadyExistsError,
    ColumnNotFoundError,
    DefinitionError,
    FeatureNotFoundError,
    InputError,
    KeyTypeError,
    SchemaError,
    StateError,
    StoreNotFoundError,
)

US = pa.timestamp("us", tz="UTC")
PUBLISHING = importlib.import_module("fondaco.features.publish")  # the package has a function of this name


class Plane(ft.Entity):
    """A single key."""

    tailnum: str


class Route(ft.Entity):
    """A composite one."""

    origin: str
    dest: str


class Airport(ft.Entity):
    """Looked up through two label columns."""

    code: str


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


FLIGHTS = pa.table(
    {
        "tailnum": ["N1", "N1", "N1", "N2"],
        "origin": ["JFK", "JFK", "LGA", "LGA"],
        "dest": ["LGA", "BOS", "JFK", "JFK"],
        "t": pa.array([at("2013-01-01"), at("2013-01-02"), at("2013-01-03"), at("2013-01-01")], US),
        "known": pa.array([at("2013-01-01T01"), at("2013-01-02T01"), at("2013-01-05"), at("2013-01-01")], US),
        "delay": [1.0, 20.0, 3.0, 4.0],
    }
)
AIRPORTS = pa.table({"code": ["JFK", "LGA"], "altitude": [13, 21], "coastal": pa.array([True, None])})
NOW = at("2013-01-03")


def make_set(name: str = "late", **more: ft.Expression) -> ft.FeatureSet:
    flights = ft.Table(FLIGHTS, name="flights", time="t", known_at="known", key=[Plane, Route])
    airports = ft.Table(AIRPORTS, name="airports", key=Airport)
    f, a = flights.c, airports.c
    members = {
        "mean": f.delay.mean(window="7d"),
        "late": ft.count(where=f.delay > 15, window="2d"),
        "aged": f.delay.latest(max_age="1d"),
        "aged_or": f.delay.latest(max_age="1d", default=-1),
        "lasts": f.delay.last(3),
        "when": f.t.latest(),
    }
    history = types.new_class("History", (ft.View[Plane],), {"source": flights}, lambda body: body.update(members))

    class Traffic(ft.View[Route], source=flights):
        flown: ft.Int8 = ft.count()

    class Facts(ft.View[Airport], source=airports):
        altitude: ft.Int16 = a.altitude
        coastal: ft.Bool = a.coastal

    chosen: list[Any] = [history, Traffic, Facts.on("origin", prefix="origin_"), Facts.altitude.on("dest").alias("dest_altitude")]
    if more:
        chosen.append(types.new_class("More", (ft.View[Plane],), {"source": flights}, lambda body: body.update(more)))
    return ft.FeatureSet(name, chosen)


KEYS = pa.table(
    {
        "tailnum": ["N1", "N2", None, "N9", "N1"],
        "origin": ["JFK", "LGA", "JFK", "SEA", "LGA"],
        "dest": ["LGA", "JFK", None, "JFK", "JFK"],
    }
)


@pytest.fixture
def platform(tmp_path: Path) -> Any:
    clock = ManualClock(int(NOW.timestamp()) * 1_000_000)
    from fondaco.platform import Platform

    with Platform.open(tmp_path / "platform", clock=clock) as opened:
        yield opened


def test_reading_gives_what_training_gave_for_the_same_moment(platform: Any) -> None:
    feature_set = make_set()
    reports = ft.publish(platform, feature_set)
    assert [report.store for report in reports] == ["late.Plane", "late.Route", "late.Airport"]
    labels = KEYS.append_column("at", pa.array([NOW] * KEYS.num_rows, US))
    trained = ft.training_set(None, feature_set, labels, at="at").to_arrow().select(list(feature_set.features))
    columns = ft.get_many(platform, feature_set, KEYS)
    assert columns.to_arrow().to_pydict() == trained.to_pydict()
    assert columns.to_arrow().schema.equals(trained.schema)
    for number, row in enumerate(KEYS.to_pylist()):
        expected = {name: trained[name][number].as_py() for name in trained.column_names}
        assert dict(ft.get(platform, feature_set, row)) == expected
        assert dict(columns.rows()[number]) == expected


def test_one_row_is_read_by_its_entities(platform: Any) -> None:
    feature_set = make_set()
    ft.publish(platform, feature_set)
    row = ft.get(platform, feature_set, Route("JFK", "BOS"), Plane("N1"), Airport("JFK"), Airport("LGA"))
    assert (row["mean"], row["flown"], row["origin_altitude"], row["dest_altitude"]) == (10.5, 1, 13, 21)
    assert row[feature_set["aged"]] == 20.0
    assert row["when"] == at("2013-01-02")
    assert row["lasts"] == [20.0, 1.0]
    with pytest.raises(FeatureNotFoundError, match="did you mean 'mean'"):
        row["maen"]
    with pytest.raises(InputError, match=r"needs Airport\(dest\)"):
        ft.get(platform, feature_set, Route("JFK", "BOS"), Plane("N1"), Airport("JFK"))
    with pytest.raises(InputError, match="more Plane than"):
        ft.get(platform, feature_set, Plane("N1"), Plane("N2"))
    with pytest.raises(KeyTypeError, match=r"Plane\.tailnum"):
        ft.get(platform, feature_set, {"tailnum": 7, "origin": "JFK", "dest": "LGA"})
    with pytest.raises(ColumnNotFoundError, match="did you mean 'tailnumb'"):
        ft.get(platform, feature_set, {"tailnumb": "N1", "origin": "JFK", "dest": "LGA"})


def test_every_value_says_why_it_is_what_it_is(platform: Any) -> None:
    feature_set = make_set()
    ft.publish(platform, feature_set)
    keys = {"tailnum": "N2", "origin": "LGA", "dest": "SEA"}
    row = ft.get(platform, feature_set, keys)
    states = {name: row.status(name) for name in row}
    assert states["mean"] == "present"
    assert (row["aged"], states["aged"]) == (None, "expired")
    assert (row["aged_or"], states["aged_or"]) == (-1.0, "default")
    assert (row["origin_coastal"], states["origin_coastal"]) == (None, "missing")
    assert (row["dest_altitude"], states["dest_altitude"]) == (None, "missing")
    many = ft.get_many(platform, feature_set, [keys]).rows()[0]
    assert {name: many.status(name) for name in many} == states
    unknown = ft.get(platform, feature_set, {**keys, "tailnum": "N9"})
    assert (unknown["late"], unknown.status("late")) == (0, "default")
    assert (unknown["mean"], unknown.status("mean")) == (None, "missing")


def test_max_age_goes_on_after_publishing(platform: Any) -> None:
    feature_set = make_set()
    ft.publish(platform, feature_set)
    keys = {"tailnum": ["N1", "N2"], "origin": ["JFK"] * 2, "dest": ["JFK"] * 2}
    assert ft.get_many(platform, feature_set, keys).arrow("aged").to_pylist() == [20.0, None]
    assert ft.get_many(platform, feature_set, keys)["aged_or"].tolist() == [20.0, -1.0]
    platform.clock.advance(us=1)
    assert ft.get_many(platform, feature_set, keys).arrow("aged").to_pylist() == [None, None]
    assert ft.get_many(platform, feature_set, keys, at=NOW).arrow("aged").to_pylist() == [20.0, None]
    assert ft.get(platform, feature_set, {name: values[0] for name, values in keys.items()})["aged"] is None
    with pytest.raises(InputError, match="no time zone"):
        ft.get_many(platform, feature_set, keys, at=dt.datetime(2013, 1, 3))


def test_keys_of_every_form_give_the_same_columns(platform: Any) -> None:
    flights = ft.Table(FLIGHTS, time="t", key=Plane)

    class Flown(ft.View[Plane], source=flights):
        n: ft.Int64 = ft.count()
        mean: ft.Float32 = flights.c.delay.mean()

    feature_set = ft.FeatureSet("flown", [Flown])
    ft.publish(platform, feature_set)
    names = ["N2", "N1", "N9", "N1"]
    import pandas
    import polars

    for keys in (
        [Plane(name) for name in names],
        [(Plane(name),) for name in names],
        [{"tailnum": name} for name in names],
        {"tailnum": names},
        {"tailnum": np.array(names, object)},
        {"tailnum": pandas.Series(names)},
        {"tailnum": pandas.Series(names, dtype="category")},
        {"tailnum": polars.Series(names)},
        polars.DataFrame({"tailnum": names}, schema={"tailnum": polars.Categorical}),
        pa.table({"tailnum": pa.array(names, pa.string_view())}),
        {"tailnum": pa.array(names)},
        pa.table({"tailnum": names}),
        pandas.DataFrame({"tailnum": names}),
        polars.DataFrame({"tailnum": names}),
    ):
        columns = ft.get_many(platform, feature_set, keys)
        assert columns["n"].tolist() == [1, 3, 0, 3]
        assert isinstance(columns["mean"], np.ma.MaskedArray)
        assert columns[Flown.mean].tolist() == [4.0, 8.0, None, 8.0]
        assert columns.found.tolist() == [True, True, False, True]
        assert columns.row_count == 4
    assert ft.get_many(platform, feature_set, {"tailnum": []}).row_count == 0
    with pytest.raises(ColumnNotFoundError):
        ft.get_many(platform, feature_set, {"tail": names})


def test_keys_that_are_missing_are_null_in_every_form(platform: Any) -> None:
    feature_set = make_set()
    ft.publish(platform, feature_set)
    import pandas
    import polars

    expected = ft.get_many(platform, feature_set, KEYS).to_arrow().to_pydict()
    views = pa.table({name: KEYS[name].cast(pa.string_view()) for name in KEYS.column_names})
    nan = {name: np.array([math.nan if key is None else key for key in KEYS[name].to_pylist()], object) for name in KEYS.column_names}
    na = {name: [pandas.NA if key is None else key for key in KEYS[name].to_pylist()] for name in KEYS.column_names}
    categories = polars.from_arrow(KEYS).with_columns(polars.all().cast(polars.Categorical))  # type: ignore[union-attr]
    for keys in (KEYS.to_pandas(), polars.from_arrow(KEYS), categories, views, KEYS.to_pydict(), KEYS.to_pylist(), nan, na):
        assert ft.get_many(platform, feature_set, keys).to_arrow().to_pydict() == expected
    assert dict(ft.get(platform, feature_set, {"tailnum": math.nan, "origin": "JFK", "dest": None}))["mean"] is None


def test_integer_keys_that_a_missing_one_made_floats_are_integers_again(platform: Any) -> None:
    class Member(ft.Entity):
        number: int

    rows = pa.table({"number": [1, 2], "x": [10, 20]})
    table = ft.Table(rows, name="rows", key=Member)

    class Facts(ft.View[Member], source=table):
        x = table.c.x

    feature_set = ft.FeatureSet("members", Facts)
    ft.publish(platform, feature_set)
    import pandas

    frame = pandas.DataFrame({"number": [1, None, 2]})
    assert frame["number"].dtype == np.float64
    for keys in (
        frame,
        {"number": frame["number"].to_numpy()},
        {"number": frame["number"]},
        frame.to_dict("records"),
        frame.astype("Int64"),
    ):
        assert ft.get_many(platform, feature_set, keys).arrow("x").to_pylist() == [10, None, 20]
    for wrong in (1.5, math.inf, 2.0**60):
        for form in ([wrong], np.array([wrong]), pa.array([wrong])):
            with pytest.raises(KeyTypeError, match="Int64"):
                ft.get_many(platform, feature_set, {"number": form})
    with pytest.raises(DefinitionError, match=r'astype\("Int64"\)'):
        ft.training_set(None, feature_set, frame.assign(at=NOW), at="at")
    for none in (1, "ab", np.array(1), np.array([[1]]), {1}):
        with pytest.raises(InputError, match="expected an array"):
            ft.get_many(platform, feature_set, {"number": none})


def test_publishing_again_makes_a_new_version_and_readers_follow(platform: Any) -> None:
    feature_set = make_set()
    ft.publish(platform, feature_set, as_of=at("2013-01-01T02"))
    assert ft.get(platform, feature_set, {"tailnum": "N1", "origin": "JFK", "dest": "LGA"})["mean"] == 1.0
    reports = ft.publish(platform, feature_set, as_of=NOW)
    assert {report.version for report in reports} == {2}
    assert ft.get(platform, feature_set, {"tailnum": "N1", "origin": "JFK", "dest": "LGA"})["mean"] == 10.5
    platform.store("late.Plane").rollback()
    assert ft.get(platform, feature_set, {"tailnum": "N1", "origin": "JFK", "dest": "LGA"})["mean"] == 1.0


def test_keys_that_are_known_later_are_not_published(platform: Any) -> None:
    feature_set = make_set()
    ft.publish(platform, feature_set, as_of=at("2013-01-01T00:30"))
    columns = ft.get_many(platform, feature_set, {"tailnum": ["N1", "N2"], "origin": ["LGA"] * 2, "dest": ["JFK"] * 2})
    with platform.store("late.Plane").reader() as reader:
        assert [row is not None for row in reader.get_many(["N1", "N2"])] == [False, True]
    assert columns["late"].tolist() == [0, 0]


def test_before_anything_is_known_an_empty_version_is_published(platform: Any) -> None:
    feature_set = make_set()
    reports = ft.publish(platform, feature_set, as_of=at("2012-01-01"))
    assert [report.records for report in reports] == [0, 0, 2]
    assert ft.get(platform, feature_set, {"tailnum": "N1", "origin": "JFK", "dest": "LGA"})["late"] == 0


def test_a_changed_definition_is_refused_until_it_is_published(platform: Any) -> None:
    old = make_set()
    ft.publish(platform, old)
    new = make_set(extra=ft.count())
    keys = {"tailnum": "N1", "origin": "JFK", "dest": "LGA"}
    with pytest.raises(StateError, match="another definition of feature set 'late'"):
        ft.get(platform, new, keys)
    assert ft.get(platform, old, keys)["mean"] == 10.5
    ft.publish(platform, _with_more())
    assert ft.get(platform, _with_more(), keys)["flown_ever"] == 2
    with pytest.raises(StateError, match="publish it again"):
        ft.get(platform, old, keys)


def _with_more() -> ft.FeatureSet:
    flights = ft.Table(FLIGHTS, name="flights", time="t", known_at="known", key=Plane)

    class Ever(ft.View[Plane], source=flights):
        flown_ever: ft.Int64 = ft.count()

    return ft.FeatureSet("late", [*make_set(), Ever])


def test_a_feature_that_changes_its_type_needs_another_name(platform: Any) -> None:
    def defined(expression: Any) -> ft.FeatureSet:
        table = ft.Table(FLIGHTS, name="flights", time="t", key=Plane)
        return ft.FeatureSet(
            "s", [types.new_class("V", (ft.View[Plane],), {"source": table}, lambda body: body.update(x=expression(table.c)))]
        )

    ft.publish(platform, defined(lambda c: c.delay))
    with pytest.raises(SchemaError, match="x"):
        ft.publish(platform, defined(lambda c: c.origin))
    assert ft.get(platform, defined(lambda c: c.delay), Plane("N2"))["x"] == 4.0


def test_moments_are_checked_wherever_they_are_given(platform: Any) -> None:
    flights = ft.Table(FLIGHTS, time="t", key=Plane)

    class Flown(ft.View[Plane], source=flights):
        n: ft.Int64 = ft.count()

    feature_set = ft.FeatureSet("flown", Flown)
    ft.publish(platform, feature_set, as_of="2013-01-03T01:00:00+01:00")
    assert platform.store("flown.Plane").pushes()[-1].built_from["as_of_us"] == int(NOW.timestamp()) * 1_000_000
    assert ft.get(platform, feature_set, Plane("N1"), at="2013-01-03T00:00:00Z")["n"] == 3
    wrong: Any
    for wrong in ("2013-01-01", dt.datetime(2013, 1, 1), "yesterday", 1.5, dt.date(2013, 1, 1)):
        for call in (
            lambda wrong=wrong: ft.publish(platform, feature_set, as_of=wrong),
            lambda wrong=wrong: ft.get(platform, feature_set, Plane("N1"), at=wrong),
            lambda wrong=wrong: ft.get_many(platform, feature_set, [Plane("N1")], at=wrong),
            lambda wrong=wrong: ft.why(platform, feature_set, Plane("N1"), at=wrong),
        ):
            with pytest.raises(InputError, match=r"no time zone|is no moment"):
                call()


def test_what_is_no_feature_set_is_refused(platform: Any) -> None:
    view: Any = definition()
    for wrong in (view, [view], "flown"):
        for call in (
            lambda wrong=wrong: ft.publish(platform, wrong),
            lambda wrong=wrong: ft.get(platform, wrong, Plane("N1")),
            lambda wrong=wrong: ft.get_many(platform, wrong, [Plane("N1")]),
            lambda wrong=wrong: ft.why(platform, wrong, Plane("N1")),
            lambda wrong=wrong: ft.OnlineReader(platform, wrong),
            lambda wrong=wrong: ft.training_set(platform, wrong, KEYS, at="at"),
        ):
            with pytest.raises(DefinitionError, match="is no feature set"):
                call()


def definition() -> type[ft.View[Plane]]:
    flights = ft.Table(FLIGHTS, time="t", key=Plane)

    class Flown(ft.View[Plane], source=flights):
        n: ft.Int64 = ft.count()

    return Flown


def test_a_closed_platform_reads_no_features(platform: Any) -> None:
    feature_set = ft.FeatureSet("flown", definition())
    platform.publish(feature_set)
    assert platform.get(feature_set, Plane("N2"))["n"] == 1
    platform.close()
    for call in (lambda: platform.get(feature_set, Plane("N2")), lambda: platform.get_many(feature_set, [Plane("N2")])):
        with pytest.raises(StateError, match="closed"):
            call()


def test_a_publish_that_fails_leaves_no_plan_in_the_catalog(platform: Any) -> None:
    platform.create_store("late.Airport", key="long", value=pa.schema([("x", pa.int64())]))
    with pytest.raises((AlreadyExistsError, SchemaError)):
        ft.publish(platform, make_set())
    with platform.catalog.read() as connection:
        assert records.feature_sets(connection, "late") == []


def test_a_name_that_no_field_can_have_is_refused_before_anything_runs(platform: Any) -> None:
    feature_set = ft.FeatureSet("flown", definition().n.alias("flown so far"))  # type: ignore[attr-defined]
    assert ft.training_set(None, feature_set, KEYS.append_column("at", pa.array([NOW] * 5, US)), at="at").to_arrow().num_columns == 5
    with pytest.raises(DefinitionError, match=r'cannot name a field of a store.*\.alias\("flown_so_far"\)'):
        ft.publish(platform, feature_set)
    assert platform.stores() == []
    with pytest.raises(DefinitionError, match=r'\.alias\("_1st"\)'):
        ft.publish(platform, ft.FeatureSet("flown", definition().n.alias("1st")))  # type: ignore[attr-defined]


def test_what_cannot_be_read_online_is_refused(platform: Any) -> None:
    table = ft.Table(FLIGHTS, name="flights", time="t", key=Plane)

    class Mixed(ft.View[Plane], source=table):
        share = table.c.delay.latest(max_age="1d") / ft.count()

    with pytest.raises(DefinitionError, match=r"Mixed\.share computes with a lookup that has a max_age"):
        ft.publish(platform, ft.FeatureSet("s", [Mixed]))

    class Same(ft.View[Plane], source=table):
        tailnum = ft.count()

    with pytest.raises(DefinitionError, match="the name 'tailnum' is taken"):
        ft.publish(platform, ft.FeatureSet("s", [Same]))
    with pytest.raises(StoreNotFoundError, match="publish"):
        ft.get(platform, make_set("never"), {"tailnum": "N1", "origin": "JFK", "dest": "LGA"})
    platform.create_store("late.Plane", key="long", value=pa.schema([("x", pa.int64())]))
    with pytest.raises((AlreadyExistsError, SchemaError)):
        ft.publish(platform, make_set())


def test_the_plan_is_kept_in_the_catalog(platform: Any) -> None:
    feature_set = make_set()
    ft.publish(platform, feature_set)
    with platform.catalog.read() as connection:
        (kept,) = records.feature_sets(connection, "late")
    assert kept.plan_hash == feature_set.version
    assert kept.plan["node"] == "SetPlan"
    push = platform.store("late.Plane").pushes()[-1]
    assert push.built_from["plan_hash"] == feature_set.version


def test_shares_give_what_one_pass_gives(platform: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    count = 5_000
    content = {
        "origin": rng.integers(0, 40, count).astype(str),
        "dest": rng.integers(0, 40, count).astype(str),
        "t": pa.array(rng.integers(0, 10**9, count), US),
        "x": rng.normal(size=count),
    }
    pq.write_table(pa.table(content), tmp_path / "rows.parquet")
    table = ft.Table(tmp_path / "rows.parquet", time="t", key=Route)

    class Rows(ft.View[Route], source=table):
        n = ft.count(window="500s")
        last = table.c.x
        mean = table.c.x.mean()

    feature_set = ft.FeatureSet("shares", [Rows])
    keys = {"origin": [str(i) for i in range(40) for _ in range(40)], "dest": [str(i) for _ in range(40) for i in range(40)]}
    answers = []
    for rows_per_share in (1 << 17, 300):
        monkeypatch.setattr(PUBLISHING, "ROWS_PER_SHARE", rows_per_share)
        (report,) = ft.publish(platform, feature_set, as_of=10**9)
        answers.append((report.records, ft.get_many(platform, feature_set, keys).to_arrow()))
    assert answers[0][0] == answers[1][0]
    assert answers[0][1].equals(answers[1][1])


@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_published_values_equal_training_at_any_moment(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "b", "c", None]),
                st.integers(0, 12),
                st.one_of(st.none(), st.integers(-2, 4)),
                st.sampled_from([None, 1.5, -2.0, 7.25]),
            ),
            min_size=1,
            max_size=20,
        )
    )
    source = pa.table(
        {
            "tailnum": pa.array([row[0] for row in rows], pa.string()),
            "t": pa.array([row[1] for row in rows], US),
            "known": pa.array([None if row[2] is None else row[1] + row[2] for row in rows], US),
            "x": pa.array([row[3] for row in rows], pa.float64()),
        }
    )
    table = ft.Table(source, name="source", time="t", known_at=data.draw(st.sampled_from([None, "known"])), key=Plane)
    x = table.c.x
    members = {
        "last": x,
        "aged": x.latest(max_age="3us"),
        "aged_default": x.latest(max_age="2us", skip_null=True, where=x > -1, default=9.0),
        "sum": x.sum(window="4us"),
        "spread": x.stddev(window="6us"),
        "least": x.min(window="4us", closed="left"),
        "lasts": x.last(2, window="5us"),
        "first": x.first(default=0.5),
        "n": ft.count(window="4us"),
        "derived": (x.sum() / ft.count()).fill_null(-1.0),
    }
    refresh = data.draw(st.sampled_from(["stream", "4us"]))
    view = types.new_class("Random", (ft.View[Plane],), {"source": table, "refresh": refresh}, lambda body: body.update(members))
    feature_set = ft.FeatureSet("random", [view])
    moment = data.draw(st.integers(0, 16))
    keys = {"tailnum": ["a", "b", "c", "z", None]}
    labels = pa.table({"tailnum": pa.array(keys["tailnum"]), "at": pa.array([moment] * 5, US)})
    trained = ft.training_set(None, feature_set, labels, at="at").to_arrow().drop_columns(["tailnum", "at"])
    with fd.open(tmp_path_factory.mktemp("platform")) as platform:
        ft.publish(platform, feature_set, as_of=moment, progress=False)
        online = ft.get_many(platform, feature_set, keys, at=moment)
        for name in members:
            for left, right in zip(online.arrow(name).to_pylist(), trained[name].to_pylist(), strict=True):
                close = left == right or (isinstance(left, float) and isinstance(right, float) and math.isclose(left, right, rel_tol=1e-9))
                assert close, (name, left, right)
        for number, key in enumerate(keys["tailnum"]):
            row = ft.get(platform, feature_set, {"tailnum": key}, at=moment)
            assert dict(row) == {name: online.arrow(name)[number].as_py() for name in members}
        ft.close_readers(platform)
