"""SQL nodes: row expressions of the plan as sqlglot trees in DuckDB's dialect, each with its kind.

Only what is listed in `PRINTERS` is ever printed, and every entry is compared with `oracle.EVALUATORS` by a property test. Trees are
built from nodes, never from text, so a name or a string of the author cannot become SQL. Pure functions; any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

from fondaco.features.kinds import BOOL, FLOAT, NULL, STRING, TIMESTAMP, ColumnType, Kind
from fondaco.features.operators import OPERATORS
from fondaco.features.plan import Call, Literal, Node

if TYPE_CHECKING:
    Sql: TypeAlias = exp.Expr
else:
    Sql = exp.Expression  # sqlglot before 30 has one class for both
Leaf = Callable[[Node], tuple[Sql, Kind]]
Printer = Callable[[list[Sql], list[Kind]], Sql]

_TYPES: Final = {
    "bool": "BOOLEAN",
    "int": "BIGINT",
    "float": "DOUBLE",
    "string": "VARCHAR",
    "bytes": "BLOB",
    "timestamp": "BIGINT",
    "null": "DOUBLE",
}


def text_of(tree: Sql, *, pretty: bool = False) -> str:
    """The SQL of a tree, in DuckDB's dialect."""
    return tree.sql(dialect=DuckDB, pretty=pretty)


# -- building blocks ----------------------------------------------------------------------------------------------------------------


def col(name: str, table: str | None = None) -> Sql:
    """A quoted column."""
    return exp.column(exp.to_identifier(name, quoted=True), table=exp.to_identifier(table, quoted=True) if table else None)


def fn(name: str, *args: Sql) -> Sql:
    """A function of DuckDB, printed under exactly this name."""
    return exp.Anonymous(this=name, expressions=list(args))


def number(value: int) -> Sql:
    """A whole number."""
    return exp.Literal.number(value)


def cast(value: Sql, stored: str) -> Sql:
    """CAST to a DuckDB type."""
    return exp.Cast(this=value, to=exp.DataType.build(stored, dialect="duckdb"))


def try_cast(value: Sql, stored: str) -> Sql:
    """CAST that gives null where it cannot be done."""
    return exp.TryCast(this=value, to=exp.DataType.build(stored, dialect="duckdb"))


def op(kind: type[exp.Binary], left: Sql, right: Sql) -> Sql:
    """A binary operator in parentheses."""
    return exp.paren(kind(this=left, expression=right), copy=False)


def add(left: Sql, right: Sql) -> Sql:
    return op(exp.Add, left, right)


def sub(left: Sql, right: Sql) -> Sql:
    return op(exp.Sub, left, right)


def all_of(conditions: Sequence[Sql]) -> Sql:
    """AND of the conditions; TRUE of none."""
    joined: Sql = exp.true()
    for index, condition in enumerate(conditions):
        joined = condition.copy() if index == 0 else op(exp.And, joined, condition.copy())
    return joined


def is_null(value: Sql) -> Sql:
    return exp.paren(exp.Is(this=value, expression=exp.null()), copy=False)


def not_null(value: Sql) -> Sql:
    return exp.paren(exp.Not(this=is_null(value)), copy=False)


def case(*branches: tuple[Sql, Sql], default: Sql | None = None) -> Sql:
    """CASE WHEN ... THEN ... ELSE default END."""
    tree = exp.Case(ifs=[exp.If(this=condition, true=value) for condition, value in branches])
    if default is not None:
        tree.set("default", default)
    return tree


def duckdb_type(kind: Kind) -> str:
    """The DuckDB type that values of a kind have inside a statement."""
    return f"{duckdb_type(kind.item)}[]" if kind.item is not None else _TYPES[kind.name]


def constant(literal: Literal) -> Sql:
    """A literal with its type: DuckDB takes 1.5 for a decimal and small numbers for 32 bits."""
    value = literal.value
    if value is None:
        return exp.null()
    if isinstance(value, bool):
        return exp.Boolean(this=value)
    if isinstance(value, str):
        return exp.Literal.string(value)
    if isinstance(value, float) and not math.isfinite(value):
        return cast(exp.Literal.string(str(value)), "DOUBLE")
    return cast(exp.Literal.number(repr(value)), "DOUBLE" if isinstance(value, float) else "BIGINT")


def source_column(name: str, column: ColumnType, tz: str | None) -> Sql:
    """A column of a source as its kind: integers 64 bits wide, times as microseconds in UTC."""
    value, kind = col(name), column.kind
    assert kind is not None, name
    if kind != TIMESTAMP:
        wanted = duckdb_type(kind)
        return value if column.stored == wanted else cast(value, wanted)
    if column.naive:
        value = cast(value, "TIMESTAMP")
        if tz not in (None, "UTC"):
            value = fn("timezone", exp.Literal.string(str(tz)), value)
    elif column.stored != "TIMESTAMP WITH TIME ZONE":  # nanoseconds are rounded; epoch_us knows microseconds only
        value = cast(value, "TIMESTAMPTZ")
    return fn("epoch_us", value)


def as_kind(value: Sql, kind: Kind, wanted: Kind) -> Sql:
    """An int as the float it has to be beside floats."""
    return cast(value, "DOUBLE") if wanted == FLOAT and kind != FLOAT else value


# -- operators ----------------------------------------------------------------------------------------------------------------------


def _alike(args: list[Sql], kinds: list[Kind]) -> list[Sql]:
    return [as_kind(arg, kind, FLOAT) for arg, kind in zip(args, kinds, strict=True)] if FLOAT in kinds else args


def _infix(node: type[exp.Binary]) -> Printer:
    return lambda args, kinds: op(node, *_alike(args, kinds))


def _add(args: list[Sql], kinds: list[Kind]) -> Sql:
    return op(exp.DPipe, *args) if STRING in kinds else op(exp.Add, *_alike(args, kinds))


def _nonzero(value: Sql) -> Sql:
    return exp.Nullif(this=value, expression=number(0))


def _div(args: list[Sql], kinds: list[Kind]) -> Sql:
    left, right = (cast(arg, "DOUBLE") for arg in args)
    return exp.paren(exp.Div(this=left, expression=_nonzero(right), typed=False, safe=False), copy=False)


def _floordiv(args: list[Sql], kinds: list[Kind]) -> Sql:
    if FLOAT in kinds:
        return fn("floor", _div(args, kinds))
    left, right = args
    quotient = op(exp.IntDiv, left, _nonzero(right))
    return sub(quotient, case((_signs_differ(left, right), number(1)), default=number(0)))


def _mod(args: list[Sql], kinds: list[Kind]) -> Sql:
    left, right = args
    if FLOAT in kinds:
        left, right = (cast(arg, "DOUBLE") for arg in args)
        return sub(left, op(exp.Mul, right.copy(), fn("floor", _div(args, kinds))))
    return add(op(exp.Mod, left, _nonzero(right)), case((_signs_differ(left, right), right.copy()), default=number(0)))


def _signs_differ(left: Sql, right: Sql) -> Sql:
    """Whether SQL's quotient, which is cut off, lies above the one rounded down."""
    rest = op(exp.Mod, left.copy(), _nonzero(right.copy()))
    differ = op(exp.NEQ, op(exp.LT, rest.copy(), number(0)), op(exp.LT, right.copy(), number(0)))
    return op(exp.And, op(exp.NEQ, rest, number(0)), differ)


def _where(condition: Callable[[Sql], Sql], then: Callable[[Sql], Sql]) -> Printer:
    """A function of one float, null where the condition does not hold."""

    def printer(args: list[Sql], kinds: list[Kind]) -> Sql:
        value = cast(args[0], "DOUBLE")
        return case((condition(value.copy()), then(value)))

    return printer


def _call(name: str) -> Printer:
    return lambda args, kinds: fn(name, *args)


def _call_alike(name: str) -> Printer:
    return lambda args, kinds: fn(name, *_alike(args, kinds))


def _rounding(name: str) -> Printer:
    return lambda args, kinds: fn(name, *args) if kinds[0] == FLOAT else args[0]


def _part(name: str, minus: int = 0) -> Printer:
    def printer(args: list[Sql], kinds: list[Kind]) -> Sql:
        moment, zone = args
        utc = isinstance(zone, exp.Literal) and zone.this == "UTC"
        local = fn("make_timestamp", moment) if utc else fn("timezone", zone, fn("make_timestamptz", moment))
        part = fn(name, local)
        return sub(part, number(minus)) if minus else part

    return printer


def _case(args: list[Sql], kinds: list[Kind]) -> Sql:
    values = [*args[1:-1:2], args[-1]]
    values = _alike(values, [*kinds[1:-1:2], kinds[-1]])
    return case(*zip(args[:-1:2], values[:-1], strict=True), default=values[-1])


def _in(args: list[Sql], kinds: list[Kind]) -> Sql:
    first, *rest = _alike(args, kinds)
    return exp.paren(exp.In(this=first, expressions=rest), copy=False)


def _between(args: list[Sql], kinds: list[Kind]) -> Sql:
    value, low, high = _alike(args, kinds)
    return op(exp.And, op(exp.GTE, value, low), op(exp.LTE, value.copy(), high))


def _substring(args: list[Sql], kinds: list[Kind]) -> Sql:
    return fn("substring", args[0], add(args[1], number(1)), *args[2:])


def _cast_int(args: list[Sql], kinds: list[Kind]) -> Sql:
    if kinds[0] == FLOAT:
        return try_cast(fn("trunc", args[0]), "BIGINT")
    if kinds[0] == STRING:
        return case((fn("regexp_full_match", args[0], exp.Literal.string("-?[0-9]+")), try_cast(args[0].copy(), "BIGINT")))
    return cast(args[0], "BIGINT")


def _cast_float(args: list[Sql], kinds: list[Kind]) -> Sql:
    if kinds[0] == STRING:
        shape = exp.Literal.string(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
        return case((fn("regexp_full_match", args[0], shape), try_cast(args[0].copy(), "DOUBLE")))
    return cast(cast(args[0], "BIGINT"), "DOUBLE") if kinds[0] == BOOL else cast(args[0], "DOUBLE")


PRINTERS: Final[dict[str, Printer]] = {
    "add": _add,
    "sub": _infix(exp.Sub),
    "mul": _infix(exp.Mul),
    "div": _div,
    "floordiv": _floordiv,
    "mod": _mod,
    "neg": lambda args, kinds: exp.paren(exp.Neg(this=exp.paren(args[0], copy=False)), copy=False),
    "abs": _call("abs"),
    "round": lambda args, kinds: fn("round", args[0], cast(args[1], "INTEGER")) if kinds[0] == FLOAT else args[0],
    "floor": _rounding("floor"),
    "ceil": _rounding("ceil"),
    "log": _where(lambda x: op(exp.GT, x, number(0)), lambda x: fn("ln", x)),
    "exp": lambda args, kinds: fn("exp", cast(args[0], "DOUBLE")),
    "sqrt": _where(lambda x: op(exp.GTE, x, number(0)), lambda x: fn("sqrt", x)),
    "eq": _infix(exp.EQ),
    "ne": _infix(exp.NEQ),
    "lt": _infix(exp.LT),
    "le": _infix(exp.LTE),
    "gt": _infix(exp.GT),
    "ge": _infix(exp.GTE),
    "and": _infix(exp.And),
    "or": _infix(exp.Or),
    "not": lambda args, kinds: exp.paren(exp.Not(this=exp.paren(args[0], copy=False)), copy=False),
    "in": _in,
    "between": _between,
    "is_null": lambda args, kinds: is_null(exp.paren(args[0], copy=False)),
    "is_nan": lambda args, kinds: fn("isnan", cast(args[0], "DOUBLE")),
    "coalesce": _call_alike("coalesce"),
    "least": _call_alike("least"),
    "greatest": _call_alike("greatest"),
    "case": _case,
    **{name: _part(name) for name in ("year", "month", "day", "hour", "minute", "second")},
    "weekday": _part("isodow", minus=1),
    "day_of_year": _part("dayofyear"),
    "seconds_between": lambda args, kinds: exp.paren(
        exp.Div(this=cast(sub(args[1], args[0]), "DOUBLE"), expression=constant(Literal(1e6, FLOAT)), typed=False, safe=False), copy=False
    ),
    "shift": _infix(exp.Add),
    "lower": _call("lower"),
    "upper": _call("upper"),
    "trim": _call("trim"),
    "contains": _call("contains"),
    "starts_with": _call("starts_with"),
    "ends_with": _call("ends_with"),
    "substring": _substring,
    "length": lambda args, kinds: fn("len" if kinds[0].item is not None else "length", args[0]),
    "cast_float": _cast_float,
    "cast_int": _cast_int,
    "cast_string": lambda args, kinds: cast(args[0], "VARCHAR"),
    "cast_bool": lambda args, kinds: op(exp.NEQ, args[0], number(0)),
}


def print_node(node: Node, leaf: Leaf) -> tuple[Sql, Kind]:
    """The tree and the kind of an expression; `leaf` prints columns and aggregates."""
    if isinstance(node, Literal):
        return constant(node), node.kind
    if not isinstance(node, Call):
        tree, kind = leaf(node)
        return tree.copy(), kind
    printed = [print_node(arg, leaf) for arg in node.args]
    kinds = [kind for _, kind in printed]
    result = OPERATORS[node.op](node.op, kinds)
    tree = PRINTERS[node.op]([_typed_null(arg, kind, kinds) for arg, kind in printed], kinds)
    return tree, result


def _typed_null(arg: Sql, kind: Kind, kinds: list[Kind]) -> Sql:
    """A bare NULL with the type of its neighbours, so that DuckDB chooses the operator that was checked."""
    if kind != NULL:
        return arg
    known = [other for other in kinds if other != NULL]
    return cast(arg, duckdb_type(known[0])) if known else arg
