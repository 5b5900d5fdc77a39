"""The oracle and DuckDB agree on random tables and random definitions: ties, nulls, NaN, repeats, disorder, every window edge."""

from __future__ import annotations

import math
import types
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fondaco import features as ft
from fondaco.features import oracle
from fondaco.features.aggregates import algebra
from fondaco.features.operators import OPERATORS
from fondaco.features.sql import tie_columns
from fondaco.features.sqlnodes import PRINTERS
from fondaco.features.view import View, definition_of
from fondaco.features.wording import describe

# Shrinking reruns the engine hundreds of times; a failure prints the whole (small) example and its SQL anyway.
settings.register_profile(
    "engine", deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate), suppress_health_check=list(HealthCheck)
)
ENGINE = settings.get_profile("engine")

US = pa.timestamp("us", tz="UTC")


class Pair(ft.Entity):
    """A composite key."""

    name: str
    number: int


class Place(ft.Entity):
    """A composite key of whole numbers."""

    letter: int
    number: int


def keys() -> st.SearchStrategy[tuple[str | None, int | None]]:
    return st.tuples(st.sampled_from(["a", "b", "é", None]), st.sampled_from([1, 2, None]))


floats = st.sampled_from([None, math.nan, math.inf, -math.inf, -1.5, 0.0, 0.1, 2.0, 3.25, 1e12])
tame = st.sampled_from([None, -1.5, 0.0, 0.1, 2.0, 3.25, 40.0])
ticks = st.integers(0, 14)


@st.composite
def tables(draw: st.DrawFn, *, wild: bool, known: bool) -> pa.Table:
    """Rows of few keys at few moments, so that edges and ties are the rule."""
    base = draw(st.sampled_from([1_600_000_000_000_000, -7]))
    rows = draw(
        st.lists(
            st.tuples(
                keys(),
                st.one_of(ticks, st.none()),
                st.one_of(st.integers(-2, 9), st.none()) if known else st.just(0),
                floats if wild else tame,
                st.one_of(st.none(), st.integers(-3, 3)),
                st.one_of(st.none(), st.sampled_from(["", "x", "Yy", " z "])),
                st.one_of(st.none(), st.booleans()),
            ),
            max_size=24,
        )
    )
    rows = rows + draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else rows
    events = [None if row[1] is None else base + row[1] for row in rows]
    knowns = [None if event is None or row[2] is None else event + row[2] for row, event in zip(rows, events, strict=True)]
    return pa.table(
        {
            "name": pa.array([row[0][0] for row in rows], pa.string()),
            "number": pa.array([row[0][1] for row in rows], pa.int64()),
            "event": pa.array(events, US),
            "known": pa.array(knowns, US),
            "x": pa.array([row[3] for row in rows], pa.float64()),
            "i": pa.array([row[4] for row in rows], pa.int32()),
            "s": pa.array([row[5] for row in rows], pa.string()),
            "b": pa.array([row[6] for row in rows], pa.bool_()),
        }
    ).append_column("base", pa.array([base] * len(rows), pa.int64()))


@st.composite
def labels_for(draw: st.DrawFn, base: int) -> pa.Table:
    rows = draw(st.lists(st.tuples(keys(), st.one_of(st.integers(-1, 18), st.none())), min_size=1, max_size=12))
    return pa.table(
        {
            "y": pa.array(range(len(rows)), pa.int64()),
            "name": pa.array([row[0][0] for row in rows], pa.string()),
            "number": pa.array([row[0][1] for row in rows], pa.int64()),
            "at": pa.array([None if row[1] is None else base + row[1] for row in rows], US),
        }
    )


def definitions(columns: Any) -> st.SearchStrategy[ft.Expression]:
    """A random aggregate over the columns x, i, s, b."""
    wheres = st.sampled_from([None, columns.i > 0, columns.b, (columns.x < 2.0) | columns.s.is_null()])
    windows = st.sampled_from([None, "1us", "2us", "5us"])
    sides = st.sampled_from(["right", "left"])

    def build(
        op: str, column: str, where: Any, window: Any, closed: Any, skip: bool, k: int | None, age: Any, default: bool
    ) -> ft.Expression:
        value = columns[column]
        fallback = {"x": 7.5, "i": -9, "s": "none", "b": True}[column] if default else None
        if op == "latest":
            return value.latest(where=where, max_age=age, skip_null=skip, default=fallback)
        if op == "count":
            return value.count(where=where, window=window, closed=closed, default=-1 if default else None)
        if op == "rows":
            return ft.count(where=where, window=window, closed=closed)
        if op in ("first", "last"):
            return getattr(value, op)(where=where, window=window, closed=closed, skip_null=skip, default=fallback)
        if op == "last k":
            return value.last(k, where=where, window=window, closed=closed, skip_null=skip)
        value = columns["i"] if column in "sb" and op in ("sum", "mean", "stddev") else columns["s"] if column == "b" else value
        return getattr(value, op)(where=where, window=window, closed=closed)

    return st.builds(
        build,
        st.sampled_from(["latest", "count", "rows", "first", "last", "last k", "sum", "mean", "stddev", "min", "max"]),
        st.sampled_from(["x", "i", "s", "b"]),
        wheres,
        windows,
        sides,
        st.booleans(),
        st.integers(1, 4),
        st.sampled_from([None, "1us", "4us"]),
        st.booleans(),
    )


def make_view(table: ft.Table, members: dict[str, ft.Expression], refresh: str = "stream") -> type[View[Pair]]:
    return types.new_class("Random", (ft.View[Pair],), {"source": table, "refresh": refresh}, lambda body: body.update(members))


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as the oracle takes them: times as microseconds."""
    converted = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in table.columns]
    return pa.table(dict(zip(table.column_names, converted, strict=True))).to_pylist()


def same(left: Any, right: Any) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-7)
    return type(left) is type(right) and left == right


def assert_equal_to_oracle(feature_set: ft.FeatureSet, labels: pa.Table) -> None:
    training = ft.training_set(None, feature_set, labels, at="at")
    plan = training.plan
    sources = [plain_rows(definition.table.memory) for definition in feature_set.definitions]
    ties = [tie_columns(view, definition.table.schema()) for view, definition in zip(plan.views, feature_set.definitions, strict=True)]
    expected = oracle.training_rows(plan, sources, ties, plain_rows(labels), "at")
    table = training.to_arrow()
    assert table.select(labels.column_names).equals(labels), "the labels come back as they were"
    found = plain_rows(table.select(list(feature_set.features)))
    for number, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        for name, value in wanted.items():
            if not same(row[name], value):
                words = describe(definition_of(feature_set[name].view).nodes[feature_set[name].name])
                raise AssertionError(f"label {number}: {words}: DuckDB {row[name]!r}, oracle {value!r}")


@pytest.mark.parametrize("known", [False, True], ids=["known at once", "known later"])
@settings(ENGINE, max_examples=40)
@given(data=st.data())
def test_every_aggregate_equals_the_oracle(known: bool, data: st.DataObject) -> None:
    rows = data.draw(tables(wild=data.draw(st.booleans()), known=known))
    base = rows["base"][0].as_py() if rows.num_rows else 0
    table = ft.Table(rows.drop_columns(["base"]), time="event", known_at="known" if known else None, key=Pair)
    chosen = data.draw(st.lists(definitions(table.c), min_size=1, max_size=8))
    refresh = data.draw(st.sampled_from(["stream", "4us", "daily@00:00"]))
    view = make_view(table, {f"f{number}": member for number, member in enumerate(chosen)}, refresh)
    assert_equal_to_oracle(ft.FeatureSet("random", [view]), data.draw(labels_for(base)))


@settings(ENGINE, max_examples=60)
@given(data=st.data())
def test_newest_rows_by_numbers_equal_the_oracle(data: st.DataObject) -> None:
    rows = data.draw(tables(wild=True, known=False))
    base = rows["base"][0].as_py() if rows.num_rows else 0
    labels = data.draw(labels_for(base))
    if data.draw(st.booleans()):  # without ties
        moments = [(row["name"], row["number"], row["event"]) for row in rows.to_pylist()]
        rows = rows.take(pa.array([index for index, moment in enumerate(moments) if moment not in moments[:index]], pa.int64()))

    def numbered(table: pa.Table) -> pa.Table:
        letters = [{"a": -4, "b": 7, "é": 1 << 40}.get(name) for name in table["name"].to_pylist()]
        return table.append_column("letter", pa.array(letters, pa.int64())).drop_columns(["name"])

    table = ft.Table(numbered(rows.drop_columns(["base", "known"])), time="event", key=Place)
    where = data.draw(st.sampled_from([None, table.c.i > 0, table.c.b]))
    closed = data.draw(st.sampled_from(["right", "left"]))
    members = {
        "x": table.c.x.last(where=where, closed=closed),
        "i": table.c.i.last(where=where, closed=closed),
        "seen": table.c.event.last(where=where, closed=closed),
        "some": table.c.x.latest(where=where, skip_null=True),
    }
    refresh = data.draw(st.sampled_from(["stream", "4us", "daily@00:00"]))
    view = types.new_class("Random", (ft.View[Place],), {"source": table, "refresh": refresh}, lambda body: body.update(members))
    assert_equal_to_oracle(ft.FeatureSet("random", [view]), numbered(labels))


@settings(ENGINE, max_examples=25)
@given(data=st.data())
def test_static_facts_equal_the_oracle(data: st.DataObject) -> None:
    rows = data.draw(tables(wild=True, known=True)).drop_columns(["base", "event", "known"])
    table = ft.Table(rows, key=Pair)
    c = table.c
    members = {
        "x": c.x,
        "not_null": c.x.latest(skip_null=True, default=5.5),
        "chosen": c.s.latest(where=c.i > 0),
        "total": c.i.sum(),
        "rows": ft.count(where=c.b),
        "spread": c.x.stddev(),
        "most": c.x.max(),
        "ratio": (c.i.sum() * 2.0 / ft.count()).fill_null(-1.0),
    }
    assert_equal_to_oracle(ft.FeatureSet("static", [make_view(table, members)]), data.draw(labels_for(1_600_000_000_000_000)))


# -- operators ----------------------------------------------------------------------------------------------------------------------


def numeric(columns: Any) -> list[ft.Expression]:
    x, i, j = columns.x, columns.i, columns.j
    return [
        i + j, i - j, i * j, i / j, i // j, i % j, -i, i.abs(), x + i, x - 1.5, x * i, x / i, x // i, x % i, 7 // j, 7.5 % x, -x, x.abs(),
        x.round(), x.round(1), x.floor(), x.ceil(), i.round(), x.log(), x.exp(), x.sqrt(), i.log(), i.sqrt(), i.exp(),
        ft.least(x, i, j), ft.greatest(x, i, j), ft.greatest(i, j), x.cast(ft.Int64), i.cast(ft.Float64), columns.b.cast(ft.Int64),
        columns.b.cast(ft.Float64), columns.s.cast(ft.Int64), columns.s.cast(ft.Float64), ft.coalesce(x, i, 0), x.fill_null(3),
        ft.when(x > i, 1).when(columns.b, x).otherwise(j), ft.when(i > 0, i), columns.s.length(),
    ]  # fmt: skip


def logical(columns: Any) -> list[ft.Expression]:
    x, i, s, b = columns.x, columns.i, columns.s, columns.b
    return [
        x > i, x >= 2.0, x < i, x <= i, x == i, x != i, i == columns.j, s == "x", s < "y", s != "", b == True, b & (i > 0), b | (i > 0), ~b,  # noqa: E712
        x.is_null(), x.is_not_null(), x.is_nan(), i.between(-1, columns.j), x.between(i, 3),
        i.is_in([1, 2, 3]), s.is_in(["x", ""]), x.is_in([0, 2.0]),
        i.cast(ft.Bool), s.contains("y"), s.starts_with("Y"), s.ends_with(" "), s.contains(s),
        columns.t > columns.u, columns.t == columns.u,
    ]  # fmt: skip


def textual(columns: Any) -> list[ft.Expression]:
    s = columns.s
    return [
        s.lower(), s.upper(), s.trim(), s.substring(1), s.substring(0, 2), s.substring(5, 1), s + "!", "<" + s, ft.concat(s, "-", s),
        columns.i.cast(ft.String), columns.b.cast(ft.String), ft.coalesce(s, "null"), ft.least(s, "m"),
        ft.when(columns.b, s).otherwise("no"),
    ]  # fmt: skip


def temporal(columns: Any) -> list[ft.Expression]:
    import datetime

    t = columns.t
    parts = [
        getattr(t, part)(tz)
        for part in ("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year")
        for tz in ("UTC", "America/New_York")
    ]
    shifted = [t + datetime.timedelta(days=1), t - datetime.timedelta(microseconds=3), ft.greatest(t, columns.u)]
    return [*parts, t.seconds_since(columns.u), *shifted, t >= datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)]


@settings(ENGINE, max_examples=25)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "x": st.one_of(floats, st.floats(-1e6, 1e6)),
                "i": st.one_of(st.none(), st.integers(-5, 5), st.integers(-(2**31), 2**31)),
                "j": st.one_of(st.none(), st.integers(-5, 5)),
                "s": st.sampled_from([None, "", "x", "Yy", " z ", "12", "-3", "1.5", "2e3", "1e999", "9999999999999999999", "añc", "12 "]),
                "b": st.one_of(st.none(), st.booleans()),
                "t": st.one_of(st.none(), st.integers(-(10**15), 4 * 10**15)),
                "u": st.one_of(st.none(), st.integers(-(10**15), 4 * 10**15)),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_every_operator_equals_the_oracle(rows: list[dict[str, Any]]) -> None:
    schema = {"x": pa.float64(), "i": pa.int64(), "j": pa.int64(), "s": pa.string(), "b": pa.bool_(), "t": US, "u": US}
    content = {name: pa.array([row[name] for row in rows], kind) for name, kind in schema.items()}
    content |= {"name": pa.array(["k"] * len(rows)), "number": pa.array(range(len(rows)), pa.int64())}
    table = ft.Table(pa.table(content), key=Pair)
    every = [*numeric(table.c), *logical(table.c), *textual(table.c), *temporal(table.c)]
    feature_set = ft.FeatureSet("operators", [make_view(table, {f"o{number}": member for number, member in enumerate(every)})])
    labels = pa.table({"name": content["name"], "number": content["number"], "at": pa.array([0] * len(rows), US)})
    assert_equal_to_oracle(feature_set, labels)


def test_every_operator_has_a_signature_a_printer_and_an_evaluator() -> None:
    assert set(OPERATORS) == set(PRINTERS) == set(oracle.EVALUATORS)


# -- algebra ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["count", "sum", "mean", "stddev", "min", "max", "first", "last"])
@settings(ENGINE, max_examples=60)
@given(values=st.lists(floats.filter(lambda value: value is not None and abs(value) != 1e12), max_size=12), cut=st.integers(0, 12))
def test_merging_parts_equals_folding_the_whole(op: str, values: list[float], cut: int) -> None:
    fold = algebra(op)
    items = [((number,), value) for number, value in enumerate(values)] if op in ("first", "last") else values

    def folded(part: list[Any]) -> Any:
        state = fold.init()
        for value in part:
            state = fold.update(state, value)
        return state

    merged = fold.finalise(fold.merge(folded(items[:cut]), folded(items[cut:])))
    assert same(merged, fold.finalise(folded(items))) or merged == fold.finalise(folded(items))
    if fold.invertible:
        state = folded(items)
        for value in items[:cut]:
            state = fold.inverse(state, value)
        left, right = fold.finalise(state), fold.finalise(folded(items[cut:]))
        assert left == right or math.isclose(left, right, abs_tol=1e-6) or (math.isnan(left) and math.isnan(right))
