"""Expressions: what authors write with columns. Python operators and methods build plan nodes; nothing is computed here.

    f = flights.c
    f.dep_delay.mean(window="7d")                         an aggregate of the rows that are visible at the label's time
    ft.when(f.dep_delay > 15, 1).otherwise(0)             a row expression
    f.seats                                               alone as a feature: the newest row's value (a lookup)
    f.late.sum(window="1d") / ft.count(window="1d")       expressions of aggregates

For a type checker every expression fits every feature type (its type depends on the source, which only the run knows); the checks at
definition compare the real ones. Immutable; any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from typing import Literal as OneOf

from fondaco.core.clock import to_us
from fondaco.core.errors import DefinitionError
from fondaco.core.units import parse_duration_us
from fondaco.features.feature import Bool, Bytes, Feature, Float32, Float64, Int8, Int16, Int32, Int64, List, String, Timestamp
from fondaco.features.kinds import BOOL, FLOAT, INT, NULL, STRING, TIMESTAMP
from fondaco.features.plan import Aggregate, Call, Closed, Literal, Node

if TYPE_CHECKING:

    class _FitsEveryFeature(Bool, Int8, Int16, Int32, Int64, Float32, Float64, String, Bytes, Timestamp, List[Any]):
        """What lets `x: ft.Float32 = f.delay.mean()` check; at run time an expression is no feature until a view names it."""

else:
    _FitsEveryFeature = object

Value = "Expression | bool | int | float | str | datetime | None"
Duration = str | int | timedelta
_CASTS = {"int": "cast_int", "float": "cast_float", "string": "cast_string", "bool": "cast_bool"}


def literal(value: object) -> Literal:
    """A constant of the plan.

    Raises:
        DefinitionError: not a bool, int, float, str, aware datetime or None.
    """
    if value is None:
        return Literal(None, NULL)
    if hasattr(value, "item") and not isinstance(value, str):  # NumPy scalars
        value = value.item()
    if isinstance(value, bool):
        return Literal(value, BOOL)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise DefinitionError(f"{value} does not fit in 64 bits; write it as a float")
        return Literal(value, INT)
    if isinstance(value, float):
        return Literal(value, FLOAT)
    if isinstance(value, str):
        return Literal(value, STRING)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DefinitionError(f"{value!r} has no time zone; write for example datetime(..., tzinfo=UTC)")
        return Literal(to_us(value), TIMESTAMP)
    raise DefinitionError(f"{value!r} cannot stand in an expression; use a number, string, boolean, datetime, None or a column")


def node_of(value: object) -> Node:
    """The plan node of an expression or of a constant."""
    return value.node if isinstance(value, Expression) else literal(value)


def call(op: str, *args: object) -> Expression:
    """An operator applied to expressions and constants."""
    return Expression(Call(op, tuple(node_of(arg) for arg in args)))


class Expression(_FitsEveryFeature):
    """A value computed from the columns of a row, or from aggregates of rows. `node` is its plan."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    # -- arithmetic, comparison, logic ----------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Expression:
        """Numbers are added, strings joined; a timestamp is moved by a timedelta."""
        return call("shift", self, parse_shift(other)) if isinstance(other, timedelta) else call("add", self, other)

    def __radd__(self, other: Any) -> Expression:
        return call("add", other, self)

    def __sub__(self, other: Any) -> Expression:
        return call("shift", self, -parse_shift(other)) if isinstance(other, timedelta) else call("sub", self, other)

    def __rsub__(self, other: Any) -> Expression:
        return call("sub", other, self)

    def __mul__(self, other: Any) -> Expression:
        return call("mul", self, other)

    def __rmul__(self, other: Any) -> Expression:
        return call("mul", other, self)

    def __truediv__(self, other: Any) -> Expression:
        """Always a float; by zero: null."""
        return call("div", self, other)

    def __rtruediv__(self, other: Any) -> Expression:
        return call("div", other, self)

    def __floordiv__(self, other: Any) -> Expression:
        """Rounded down, as Python's; by zero: null."""
        return call("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Expression:
        return call("floordiv", other, self)

    def __mod__(self, other: Any) -> Expression:
        """The sign of the divisor, as Python's; by zero: null."""
        return call("mod", self, other)

    def __rmod__(self, other: Any) -> Expression:
        return call("mod", other, self)

    def __neg__(self) -> Expression:
        return call("neg", self)

    def __abs__(self) -> Expression:
        return call("abs", self)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return _not_none("==", "is_null()", call("eq", self, other), other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return _not_none("!=", "is_not_null()", call("ne", self, other), other)

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, other: Any) -> Expression:
        return call("lt", self, other)

    def __le__(self, other: Any) -> Expression:
        return call("le", self, other)

    def __gt__(self, other: Any) -> Expression:
        return call("gt", self, other)

    def __ge__(self, other: Any) -> Expression:
        return call("ge", self, other)

    def __and__(self, other: Any) -> Expression:
        return call("and", self, other)

    def __rand__(self, other: Any) -> Expression:
        return call("and", other, self)

    def __or__(self, other: Any) -> Expression:
        return call("or", self, other)

    def __ror__(self, other: Any) -> Expression:
        return call("or", other, self)

    def __invert__(self) -> Expression:
        return call("not", self)

    def __bool__(self) -> bool:
        raise DefinitionError("an expression has no truth value; write & | ~ instead of and, or, not, and ft.when(...) instead of if")

    def between(self, low: Any, high: Any) -> Expression:
        """low <= value <= high."""
        return call("between", self, low, high)

    def is_in(self, values: Iterable[Any]) -> Expression:
        """Whether the value is one of these constants (no None among them); null for null."""
        constants = [literal(value) for value in values]
        if not constants or any(constant.kind == NULL for constant in constants):
            raise DefinitionError("is_in needs at least one constant, and None is not one of them: use is_null()")
        return Expression(Call("in", (self.node, *constants)))

    # -- nulls ----------------------------------------------------------------------------------------------------------------------

    def is_null(self) -> Expression:
        """True for null (NaN is not null)."""
        return call("is_null", self)

    def is_not_null(self) -> Expression:
        """False for null."""
        return call("not", self.is_null())

    def is_nan(self) -> Expression:
        """True for NaN; null for null."""
        return call("is_nan", self)

    def fill_null(self, value: Any) -> Expression:
        """The value, or `value` where it is null."""
        return call("coalesce", self, value)

    # -- numbers --------------------------------------------------------------------------------------------------------------------

    def abs(self) -> Expression:
        """Without the sign."""
        return call("abs", self)

    def round(self, digits: int = 0) -> Expression:
        """Half away from zero, to `digits` decimals (0 to 15)."""
        if not 0 <= digits <= 15:
            raise DefinitionError(f"round({digits}): digits are 0 to 15")
        return call("round", self, digits)

    def floor(self) -> Expression:
        """Down to a whole number."""
        return call("floor", self)

    def ceil(self) -> Expression:
        """Up to a whole number."""
        return call("ceil", self)

    def log(self) -> Expression:
        """Natural logarithm; null unless positive."""
        return call("log", self)

    def exp(self) -> Expression:
        """e to this power."""
        return call("exp", self)

    def sqrt(self) -> Expression:
        """Square root; null if negative."""
        return call("sqrt", self)

    def cast(self, target: type[Feature[Any]]) -> Expression:
        """To `ft.Int64`, `ft.Float64`, `ft.String` or `ft.Bool`; null where it cannot be done. Features choose widths."""
        op = _CASTS.get(target.dtype.kind.name)
        if op is None:
            raise DefinitionError(f"cast to {target.__name__} is not possible; to Int64, Float64, String or Bool it is")
        return call(op, self)

    # -- dates ----------------------------------------------------------------------------------------------------------------------

    def year(self, tz: str = "UTC") -> Expression:
        """Calendar year in the zone."""
        return call("year", self, tz)

    def month(self, tz: str = "UTC") -> Expression:
        """1 to 12."""
        return call("month", self, tz)

    def day(self, tz: str = "UTC") -> Expression:
        """Day of the month, from 1."""
        return call("day", self, tz)

    def hour(self, tz: str = "UTC") -> Expression:
        """0 to 23."""
        return call("hour", self, tz)

    def minute(self, tz: str = "UTC") -> Expression:
        """0 to 59."""
        return call("minute", self, tz)

    def second(self, tz: str = "UTC") -> Expression:
        """0 to 59, without the fraction."""
        return call("second", self, tz)

    def weekday(self, tz: str = "UTC") -> Expression:
        """Monday = 0 to Sunday = 6, as `datetime.weekday`."""
        return call("weekday", self, tz)

    def day_of_year(self, tz: str = "UTC") -> Expression:
        """1 to 366."""
        return call("day_of_year", self, tz)

    def seconds_since(self, earlier: Any) -> Expression:
        """Seconds from `earlier` to this, as a float; negative if it is later."""
        return call("seconds_between", earlier, self)

    # -- strings --------------------------------------------------------------------------------------------------------------------

    def lower(self) -> Expression:
        """In lower case, code point by code point."""
        return call("lower", self)

    def upper(self) -> Expression:
        """In upper case, code point by code point."""
        return call("upper", self)

    def trim(self) -> Expression:
        """Without spaces at both ends."""
        return call("trim", self)

    def length(self) -> Expression:
        """Code points of a string, items of a list."""
        return call("length", self)

    def contains(self, part: Any) -> Expression:
        """Whether `part` occurs."""
        return call("contains", self, part)

    def starts_with(self, part: Any) -> Expression:
        """Whether it begins with `part`."""
        return call("starts_with", self, part)

    def ends_with(self, part: Any) -> Expression:
        """Whether it ends with `part`."""
        return call("ends_with", self, part)

    def substring(self, start: int, length: int | None = None) -> Expression:
        """`length` code points from `start`, counted from 0; to the end without `length`."""
        if start < 0 or (length is not None and length < 0):
            raise DefinitionError(f"substring({start}, {length}): start and length cannot be negative")
        return call("substring", self, start) if length is None else call("substring", self, start, length)

    # -- aggregates -----------------------------------------------------------------------------------------------------------------

    def latest(
        self, *, where: Expression | None = None, max_age: Duration | None = None, skip_null: bool = False, default: Any = None
    ) -> Expression:
        """The newest visible row's value: a lookup. A column alone means the same.

        Args:
            where: only rows for which this is true.
            max_age: null if the row's event is longer ago than this (exactly as long ago still counts).
            skip_null: pass over rows whose value is null.
            default: the value if there is no such row.
        """
        return aggregate("latest", self, where=where, max_age=max_age, skip_null=skip_null, default=default)

    def sum(
        self, *, where: Expression | None = None, window: Duration | None = None, closed: Closed = "right", default: Any = None
    ) -> Expression:
        """Sum of the values that are not null; null if there is none. Integers are summed exactly, beyond 64 bits is an error."""
        return aggregate("sum", self, where=where, window=window, closed=closed, default=default)

    def mean(
        self, *, where: Expression | None = None, window: Duration | None = None, closed: Closed = "right", default: Any = None
    ) -> Expression:
        """Mean of the values that are not null; null if there is none."""
        return aggregate("mean", self, where=where, window=window, closed=closed, default=default)

    def stddev(
        self, *, where: Expression | None = None, window: Duration | None = None, closed: Closed = "right", default: Any = None
    ) -> Expression:
        """Sample standard deviation of the values that are not null; null for fewer than two."""
        return aggregate("stddev", self, where=where, window=window, closed=closed, default=default)

    def min(
        self, *, where: Expression | None = None, window: Duration | None = None, closed: Closed = "right", default: Any = None
    ) -> Expression:
        """Least value that is not null."""
        return aggregate("min", self, where=where, window=window, closed=closed, default=default)

    def max(
        self, *, where: Expression | None = None, window: Duration | None = None, closed: Closed = "right", default: Any = None
    ) -> Expression:
        """Greatest value that is not null; NaN is greater than every number."""
        return aggregate("max", self, where=where, window=window, closed=closed, default=default)

    def count(
        self, *, where: Expression | None = None, window: Duration | None = None, closed: Closed = "right", default: Any = None
    ) -> Expression:
        """How many values are not null; 0 if there is none. `ft.count()` counts rows."""
        return aggregate("count", self, where=where, window=window, closed=closed, default=default)

    def first(
        self,
        *,
        where: Expression | None = None,
        window: Duration | None = None,
        closed: Closed = "right",
        skip_null: bool = False,
        default: Any = None,
    ) -> Expression:
        """The oldest row's value."""
        return aggregate("first", self, where=where, window=window, closed=closed, skip_null=skip_null, default=default)

    def last(
        self,
        k: int | None = None,
        *,
        where: Expression | None = None,
        window: Duration | None = None,
        closed: Closed = "right",
        skip_null: bool = False,
        default: Any = None,
    ) -> Expression:
        """The newest row's value; with `k`, a list of the values of the newest k rows, newest first (shorter if there are fewer)."""
        return aggregate("last", self, k=k, where=where, window=window, closed=closed, skip_null=skip_null, default=default)

    def __repr__(self) -> str:
        from fondaco.features.wording import describe

        return f"<{describe(self.node)}>"


class Case(Expression):
    """`when(...)`, to be continued by `when` or closed by `otherwise`; left open, no match gives null."""

    __slots__ = ()

    def when(self, condition: Any, value: Any) -> Case:
        """The next case; the first that is true counts."""
        assert isinstance(self.node, Call)
        return Case(Call("case", (*self.node.args[:-1], node_of(condition), node_of(value), Literal(None, NULL))))

    def otherwise(self, value: Any) -> Expression:
        """The value if no case is true."""
        assert isinstance(self.node, Call)
        return Expression(Call("case", (*self.node.args[:-1], node_of(value))))


def when(condition: Any, value: Any) -> Case:
    """`ft.when(f.delay > 60, "late").when(f.delay > 15, "slow").otherwise("fine")`."""
    return Case(Call("case", (node_of(condition), node_of(value), Literal(None, NULL))))


def coalesce(*values: Any) -> Expression:
    """The first that is not null."""
    return call("coalesce", *values)


def least(*values: Any) -> Expression:
    """The least of several columns; nulls are skipped."""
    return call("least", *values)


def greatest(*values: Any) -> Expression:
    """The greatest of several columns; nulls are skipped, NaN is greater than every number."""
    return call("greatest", *values)


def concat(*values: Any) -> Expression:
    """Strings joined; null if one is null."""
    first, *rest = values
    joined = first if isinstance(first, Expression) else Expression(literal(first))
    for value in rest:
        joined = call("add", joined, value)
    return joined


def count(*, where: Expression | None = None, window: Duration | None = None, closed: Closed = "right", default: Any = None) -> Expression:
    """How many rows are visible; 0 if there is none."""
    return aggregate("count", None, where=where, window=window, closed=closed, default=default)


def aggregate(
    op: str,
    value: Expression | None,
    *,
    where: Expression | None = None,
    window: Duration | None = None,
    closed: OneOf["left", "right"] = "right",
    skip_null: bool = False,
    k: int | None = None,
    max_age: Duration | None = None,
    default: Any = None,
) -> Expression:
    """An aggregate node from its options as authors write them.

    Raises:
        DefinitionError: a window, age or k that is not positive, or another word than left or right.
        InputError: not a duration.
    """
    if closed not in ("left", "right"):
        raise DefinitionError(f'closed={closed!r}: write "right" for (t - w, t] or "left" for (t - w, t)')
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 10_000):
        raise DefinitionError(f"last({k!r}): k is a whole number from 1 to 10000")
    if k is not None and default is not None:
        raise DefinitionError(f"last({k}) takes no default; an empty window gives null")
    node = Aggregate(
        op,
        value.node if value is not None else None,
        where=node_of(where) if where is not None else None,
        window_us=_positive("window", window),
        closed=closed,
        skip_null=skip_null,
        k=k,
        max_age_us=_positive("max_age", max_age),
        default=None if default is None else literal(default),
    )
    return Expression(node)


def parse_shift(delta: timedelta) -> int:
    """A timedelta of either sign in microseconds."""
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _positive(name: str, duration: Duration | None) -> int | None:
    if duration is None:
        return None
    us = parse_duration_us(duration)
    if not 0 < us <= 10**17:
        raise DefinitionError(f"{name}={duration!r}: must be longer than nothing and at most 3000 years")
    return us


def _not_none(operator: str, remedy: str, expression: Expression, other: object) -> Expression:
    if other is None:
        raise DefinitionError(f"{operator} None is null for every row; use .{remedy}")
    return expression
