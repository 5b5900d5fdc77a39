"""The oracle: what a plan means, in plain Python, row by row. Slow and short on purpose: it judges every engine, and nothing judges it.

Rows are mappings of column -> Python value: times are integers (microseconds in UTC), everything else as `kinds` says. Each label looks
at every row of its key. Used by tests, by `default` values of keys that a store does not hold, and to explain single values.
Pure functions; any thread.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from fondaco.features.aggregates import ORDERED, algebra
from fondaco.features.kinds import FLOAT
from fondaco.features.plan import Aggregate, Call, Column, Literal, Node, SetPlan, ViewPlan

Row = Mapping[str, Any]
Leaf = Callable[[Node], Any]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


# -- row expressions ----------------------------------------------------------------------------------------------------------------


def _nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _alike(values: Sequence[Any]) -> list[Any]:
    """Integers beside floats are compared as floats; None stays."""
    if any(isinstance(value, float) for value in values):
        return [float(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in values]
    return list(values)


def compare(left: Any, right: Any) -> int:
    """-1, 0 or 1 in the total order: NaN equals itself and is greater than every number."""
    left, right = _alike([left, right])
    if _nan(left) or _nan(right):
        return _nan(left) - _nan(right)
    return int(left > right) - int(left < right)


def _int(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise OverflowError(f"{value} does not fit in 64 bits")
    return value


def _number(value: float | int) -> float | int:
    return value if isinstance(value, float) else _int(value)


def _down(value: float) -> float:
    return value if not math.isfinite(value) else float(math.floor(value))


def _div(left: float, right: float) -> float | None:
    return None if right == 0 else float(left) / float(right)


def _floordiv(left: float, right: float) -> float | int | None:
    if right == 0:
        return None
    return _down(float(left) / float(right)) if isinstance(left, float) or isinstance(right, float) else _int(left // right)


def _mod(left: float, right: float) -> float | int | None:
    if right == 0:
        return None
    if isinstance(left, float) or isinstance(right, float):
        return float(left) - float(right) * _down(float(left) / float(right))
    return left % right


def _round(value: float, digits: int) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    scale = 10.0**digits
    moved = abs(value) * scale
    if not math.isfinite(moved):
        return value
    whole = math.floor(moved)
    return math.copysign((whole + (moved - whole >= 0.5)) / scale, value)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _local(us: int, zone: str) -> datetime:
    return (_EPOCH + timedelta(microseconds=us)).astimezone(ZoneInfo(zone))


def _cast_int(value: Any) -> int | None:
    if isinstance(value, str):
        if re.fullmatch("-?[0-9]+", value, re.ASCII) is None:
            return None
        value = int(value)
    elif isinstance(value, float) and not math.isfinite(value):
        return None
    cut = math.trunc(value)
    return cut if -(2**63) <= cut < 2**63 else None


def _cast_float(value: Any) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", value, re.ASCII) is None:
        return None
    return float(value)


def _cast_string(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pick(sign: int) -> Callable[..., Any]:
    def extreme(*values: Any) -> Any:
        best = None
        for value in _alike(values):
            if value is not None and (best is None or sign * compare(value, best) > 0):
                best = value
        return best

    return extreme


def _and(left: bool | None, right: bool | None) -> bool | None:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def _or(left: bool | None, right: bool | None) -> bool | None:
    if left is True or right is True:
        return True
    return None if left is None or right is None else False


def _case(*args: Any) -> Any:
    values = _alike([*args[1:-1:2], args[-1]])
    for condition, value in zip(args[:-1:2], values[:-1], strict=True):
        if condition is True:
            return value
    return values[-1]


def _in(value: Any, *constants: Any) -> bool:
    return any(compare(value, constant) == 0 for constant in constants)


def _between(value: Any, low: Any, high: Any) -> bool | None:
    above = None if value is None or low is None else compare(value, low) >= 0
    below = None if value is None or high is None else compare(value, high) <= 0
    return _and(above, below)


# These see nulls; every other operator gives null for null without being called.
NULL_AWARE: Final[dict[str, Callable[..., Any]]] = {
    "and": _and,
    "or": _or,
    "case": _case,
    "between": _between,
    "is_null": lambda value: value is None,
    "coalesce": lambda *values: next((value for value in _alike(values) if value is not None), None),
    "least": _pick(-1),
    "greatest": _pick(1),
}

EVALUATORS: Final[dict[str, Callable[..., Any]]] = {
    **NULL_AWARE,
    "add": lambda a, b: a + b if isinstance(a, str) else _number(a + b),
    "sub": lambda a, b: _number(a - b),
    "mul": lambda a, b: _number(a * b),
    "div": _div,
    "floordiv": _floordiv,
    "mod": _mod,
    "neg": lambda a: _number(-a),
    "abs": lambda a: _number(abs(a)),
    "round": _round,
    "floor": lambda a: _down(a) if isinstance(a, float) else a,
    "ceil": lambda a: -_down(-a) if isinstance(a, float) else a,
    "log": lambda a: math.log(a) if a > 0 else (a if _nan(a) else None),
    "exp": _exp,
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else (a if _nan(a) else None),
    "eq": lambda a, b: compare(a, b) == 0,
    "ne": lambda a, b: compare(a, b) != 0,
    "lt": lambda a, b: compare(a, b) < 0,
    "le": lambda a, b: compare(a, b) <= 0,
    "gt": lambda a, b: compare(a, b) > 0,
    "ge": lambda a, b: compare(a, b) >= 0,
    "not": lambda a: not a,
    "in": _in,
    "is_nan": _nan,
    "year": lambda us, zone: _local(us, zone).year,
    "month": lambda us, zone: _local(us, zone).month,
    "day": lambda us, zone: _local(us, zone).day,
    "hour": lambda us, zone: _local(us, zone).hour,
    "minute": lambda us, zone: _local(us, zone).minute,
    "second": lambda us, zone: _local(us, zone).second,
    "weekday": lambda us, zone: _local(us, zone).weekday(),
    "day_of_year": lambda us, zone: _local(us, zone).timetuple().tm_yday,
    "seconds_between": lambda earlier, later: float(later - earlier) / 1e6,
    "shift": lambda us, by: _int(us + by),
    "lower": str.lower,
    "upper": str.upper,
    "trim": lambda text: text.strip(" "),
    "contains": lambda text, part: part in text,
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "substring": lambda text, start, length=None: text[start:] if length is None else text[start : start + length],
    "length": len,
    "cast_float": _cast_float,
    "cast_int": _cast_int,
    "cast_string": _cast_string,
    "cast_bool": lambda value: value != 0,
}


def evaluate(node: Node, leaf: Leaf) -> Any:
    """The value of an expression; `leaf` gives the values of columns and aggregates."""
    if isinstance(node, Literal):
        return node.value
    if not isinstance(node, Call):
        return leaf(node)
    args = [evaluate(arg, leaf) for arg in node.args]
    if node.op in NULL_AWARE:
        return NULL_AWARE[node.op](*args)
    return None if any(arg is None for arg in args) else EVALUATORS[node.op](*args)


# -- which rows a label sees --------------------------------------------------------------------------------------------------------


def _of_row(row: Row) -> Leaf:
    def leaf(node: Node) -> Any:
        assert isinstance(node, Column)
        return row[node.name]

    return leaf


def _sortable(value: Any) -> tuple[Any, ...]:
    """Null first, NaN last."""
    if value is None:
        return (0,)
    if isinstance(value, list):
        return (1, [_sortable(item) for item in value])
    return (1, 1, 0.0) if _nan(value) else (1, 0, value)


def place(view: ViewPlan, row: Row, tie_columns: Sequence[str]) -> tuple[Any, ...]:
    """A row's place in the total order of its key: event time, known time, then the value columns by name."""
    times = [row[column] for column in (view.scan.time, view.scan.known_at) if column is not None]
    return (*times, *(_sortable(row[column]) for column in tie_columns))


def visible(view: ViewPlan, row: Row, t: int, node: Aggregate) -> bool:
    """Whether a row of the label's key exists for an aggregate at (floored) time t."""
    scan = view.scan
    if scan.time is None:
        return True
    event = row[scan.time]
    if event is None or event > t or (node.closed == "left" and event == t):
        return False
    if scan.known_at is not None and (row[scan.known_at] is None or row[scan.known_at] > t):
        return False
    return node.window_us is None or event > t - node.window_us


def _value(node: Aggregate, row: Row) -> Any:
    return evaluate(node.value, _of_row(row)) if node.value is not None else True


def counts(view: ViewPlan, node: Aggregate, row: Row, t: int) -> bool:
    """Whether a row of the key takes part in an aggregate at (floored) time t: visible, chosen by `where`, and not null where nulls are
    left out."""
    if not visible(view, row, t, node) or (node.where is not None and evaluate(node.where, _of_row(row)) is not True):
        return False
    return _value(node, row) is not None or (node.op in ORDERED and not node.skip_null)


def aggregate(view: ViewPlan, node: Aggregate, rows: Sequence[Row], t: int, u: int, tie_columns: Sequence[str]) -> Any:
    """The aggregate over `rows` of one key at time t (floored to the refresh), for a label whose own time is u."""
    counted = [row for row in rows if counts(view, node, row, t)]
    values = [(row, _value(node, row)) for row in counted]
    newest = node.op in ORDERED
    default = _default(node)
    if newest:
        if node.op == "latest" and node.max_age_us is not None and values:
            values = [max(values, key=lambda pair: place(view, pair[0], tie_columns))]
            assert view.scan.time is not None
            values = [pair for pair in values if pair[0][view.scan.time] >= u - node.max_age_us]
        fold = algebra("last" if node.op == "latest" else node.op, node.k)
        state = fold.init()
        for row, value in values:
            state = fold.update(state, (place(view, row, tie_columns), value))
        return fold.finalise(state) if state else default
    fold = algebra(node.op)
    state = fold.init()
    for _, value in values:
        state = fold.update(state, int(value) if isinstance(value, bool) else value)
    answer = fold.finalise(state)
    if node.op == "sum" and isinstance(answer, int):
        _int(answer)
    empty = answer == 0 if node.op == "count" else answer is None
    return default if empty and node.default is not None else answer


def _default(node: Aggregate) -> Any:
    if node.default is None:
        return None
    value = node.default.value
    return float(value) if isinstance(value, int) and node.default.kind == FLOAT else value


# -- views and sets -----------------------------------------------------------------------------------------------------------------


def feature_value(view: ViewPlan, name: str, key: Sequence[Any], u: int | None, rows: Sequence[Row], tie_columns: Sequence[str]) -> Any:
    """One feature for one label: `key` in the order of the entity's fields, `u` the label's time, `rows` all rows of the source."""
    if u is None or any(part is None for part in key):
        return None
    t = view.refresh.floor(u)
    mine = [row for row in rows if all(row[column] == part for column, part in zip(view.key.columns, key, strict=True))]
    feature = view.feature(name)
    return as_dtype(evaluate(feature.value, lambda node: aggregate(view, node, mine, t, u, tie_columns)), feature.dtype)  # type: ignore[arg-type]


def as_dtype(value: Any, dtype: str) -> Any:
    """A value in its feature's type: integers as floats where the type is one, binary32 rounded."""
    if isinstance(value, list):
        return [as_dtype(item, dtype.removeprefix("list<").removesuffix(">")) for item in value]
    if value is None or not dtype.startswith("float"):
        return value
    return struct.unpack("<f", struct.pack("<f", value))[0] if dtype == "float32" else float(value)


def training_rows(
    plan: SetPlan, sources: Sequence[Sequence[Row]], tie_columns: Sequence[Sequence[str]], labels: Sequence[Row], at: str
) -> list[dict[str, Any]]:
    """Every feature of every label row, in order; source i and tie columns i belong to view i."""
    found = []
    for label in labels:
        values = {}
        for chosen in plan.selections:
            key = [label[column] for column in chosen.binding.columns]
            values[chosen.output] = feature_value(
                plan.views[chosen.view], chosen.feature, key, label[at], sources[chosen.view], tie_columns[chosen.view]
            )
        found.append(values)
    return found


def empty_value(view: ViewPlan, name: str) -> Any:
    """What a feature is for a key without rows: 0 for a count, the default where there is one, otherwise null."""
    feature = view.feature(name)
    return as_dtype(evaluate(feature.value, lambda part: aggregate(view, part, (), 0, 0, ())), feature.dtype)  # type: ignore[arg-type]
