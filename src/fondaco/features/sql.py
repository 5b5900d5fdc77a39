"""SQL: the plan as DuckDB statements, one per group of aggregates that share a pass over the source.

How a group is computed is chosen from the plan, and from one fact of the data (do rows tie?); figures in docs/internals/feature-plan.md:

| strategy | for | how |
|---|---|---|
| static | sources without a time | GROUP BY key, join |
| merge | newest row, no known time, if its rows are numbers and fit in memory | sorted and searched in NumPy (`merge`) |
| lookup | newest row, no known time | ASOF join; ties are sorted out before, if there are any |
| frames | windows without known time; whole histories with one | window functions over labels and rows in one order |
| sweep | sliding windows with a known time, of sums and counts | all that came up to t, less all that left up to t: running sums |
| band | the other sliding windows with a known time | join on key and time bucket, at most two windows wide |

With a known time a row is visible at t in [max(event, known), event + w): that interval is all that the last three need.
Every statement gives `rid` (the label's position) and one column per aggregate, one row per label, in any order: putting a million rows
back in order by their position costs a fifth of what ORDER BY does.
Sums of floats in `sweep` are fixed-point 128-bit integers: a value that leaves takes exactly what it brought, so nothing drifts.
Pure functions; any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlglot import exp

from fondaco.features.aggregates import INVERTIBLE, ORDERED, aggregate_kind
from fondaco.features.kinds import BOOL, FLOAT, INT, STRING, TIMESTAMP, ColumnType, Kind
from fondaco.features.plan import Aggregate, Binding, Literal, Node, ViewPlan
from fondaco.features.plan import Column as ColumnNode
from fondaco.features.sqlnodes import (
    Sql,
    add,
    all_of,
    as_kind,
    case,
    cast,
    col,
    constant,
    duckdb_type,
    fn,
    not_null,
    number,
    op,
    print_node,
    source_column,
    sub,
    text_of,
)

LABELS: Final = "labels"  # the registered label table: its key columns and these two
MOMENT: Final = "label time"  # microseconds in UTC
POSITION: Final = "label position"  # 0 to n - 1
_BUCKET_SHIFT: Final = 1 << 62  # a multiple of nothing in particular; it keeps times before 1970 positive, so that // rounds down
_EXPONENT_MAX: Final = 1000  # of the scales of sweep: 2**1000 is a double, 2**1100 is not
_FIXED_POINT_BITS: Final = 124  # of a HUGEINT's 127, for the sum of all rows


@dataclass(frozen=True)
class Numbers:
    """Values of a column: whether all are finite; of the finite ones the greatest |x|, how many, and their mean."""

    finite: bool
    greatest: float
    count: int
    mean: float


@dataclass(frozen=True)
class Source:
    """What the printer has to know of a view's source: its name in the connection, its schema, and two facts, asked only where they matter.

    `ties(known)`: whether two rows have the same key and event time (and, with `known`, known time).
    `numbers(value)`: what the values of a float expression are like. `fits(columns)`: whether so many columns of its rows fit in memory.
    """

    name: str
    schema: dict[str, ColumnType]
    ties: Callable[[bool], bool]
    numbers: Callable[[Sql], Numbers]
    fits: Callable[[int], bool] = lambda _: False


@dataclass(frozen=True)
class Merge:
    """How a lookup is answered without a join: the statement's query gives rows (keys, e, values), `labels` labels (rid, keys, t, u)."""

    labels: exp.Query
    keys: tuple[str, ...]
    values: tuple[str, ...]
    strict: bool
    join: Callable[[], Statement]


@dataclass(frozen=True)
class Statement:
    """One query: rid, then for `aggregates[i]` the column `a{i}`, in the kind it is computed as."""

    strategy: str
    query: exp.Query
    aggregates: tuple[Aggregate, ...]
    merge: Merge | None = None

    def text(self, *, pretty: bool = False) -> str:
        """The SQL, in DuckDB's dialect."""
        return text_of(self.query, pretty=pretty)


def strategy_of(node: Aggregate, view: ViewPlan) -> tuple[object, ...]:
    """Aggregates with an equal answer share a statement; the first member names the strategy."""
    newest = node.op == "latest" or (node.op == "last" and node.k is None)
    if view.scan.time is None:
        return ("static",)
    if view.scan.known_at is None:
        return ("lookup", _filter_of(node), node.closed) if newest else ("frames",)
    if newest or node.window_us is None:
        return ("frames", node.closed)
    if node.op in INVERTIBLE:
        return ("sweep", node.closed)
    return ("band", node.window_us, node.closed)


def _filter_of(node: Aggregate) -> tuple[Node | None, Node | None]:
    return (node.where, node.value if node.skip_null else None)


def statements(view: ViewPlan, aggregates: Sequence[Aggregate], binding: Binding, source: Source) -> list[Statement]:
    """The statements that compute `aggregates` of a view for the entities that `binding` finds in the labels."""
    groups: dict[tuple[object, ...], list[Aggregate]] = {}
    for node in aggregates:
        groups.setdefault(strategy_of(node, view), []).append(node)
    return [_GROUPS[str(shape[0])](_Group(view, binding, source, tuple(members))) for shape, members in groups.items()]


# -- what every strategy needs ------------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """The members of one statement, and the columns that its scan of the source computes for them."""

    view: ViewPlan
    binding: Binding
    source: Source
    members: tuple[Aggregate, ...]
    columns: dict[str, Sql] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        return [f"k{index}" for index in range(len(self.binding.columns))]

    @property
    def has_known(self) -> bool:
        return self.view.scan.known_at is not None

    def leaf(self, node: Node) -> tuple[Sql, Kind]:
        assert isinstance(node, ColumnNode)
        column = self.source.schema[node.name]
        assert column.kind is not None
        return source_column(node.name, column, self.view.scan.tz), column.kind

    def printed(self, node: Node) -> tuple[Sql, Kind]:
        return print_node(node, self.leaf)

    def kind(self, node: Aggregate) -> Kind:
        """The kind of the member's answer."""
        if node.op == "count":
            return INT
        assert node.value is not None
        kind = self.printed(node.value)[1]
        kind = FLOAT if kind.name == "null" else kind
        return kind if node.op == "latest" else aggregate_kind(node.op, [kind], node.k)

    def column(self, value: Sql) -> str:
        """A column of the scan, shared by all who ask for the same value."""
        text = text_of(value)
        for name, other in self.columns.items():
            if text_of(other) == text:
                return name
        name = f"v{len(self.columns)}"
        self.columns[name] = value
        return name

    # -- the labels ------------------------------------------------------------------------------------------------------------------

    def labels(self) -> exp.Select:
        """rid, keys, t (floored to the last refresh) and u (the label's own time)."""
        moment = col(MOMENT)
        keys = [
            exp.alias_(cast(col(column), duckdb_type(kind)), name)
            for column, kind, name in zip(self.binding.columns, self.view.key.kinds, self.keys, strict=True)
        ]
        return exp.select(
            exp.alias_(col(POSITION), "rid"), *keys, exp.alias_(self._floored(moment), "t"), exp.alias_(moment.copy(), "u")
        ).from_(exp.to_table(LABELS))

    def _floored(self, moment: Sql) -> Sql:
        refresh = self.view.refresh
        if refresh.interval_us is None:
            return moment
        past = sub(moment.copy(), number(refresh.offset_us))
        rest = op(exp.Mod, add(op(exp.Mod, past, number(refresh.interval_us)), number(refresh.interval_us)), number(refresh.interval_us))
        return sub(moment, rest)

    def usable(self, table: str) -> Sql:
        """Whether the label has a whole key and a time; without them its features are null."""
        return all_of([not_null(col(name, table)) for name in [*self.keys, "t"]])

    # -- the source ------------------------------------------------------------------------------------------------------------------

    def event(self) -> Sql:
        assert self.view.scan.time is not None
        return self.leaf(ColumnNode(self.view.scan.time))[0]

    def known(self) -> Sql:
        assert self.view.scan.known_at is not None
        return self.leaf(ColumnNode(self.view.scan.known_at))[0]

    def visible_from(self, closed: str) -> Sql:
        """The first t at which a row is visible: max(event, known), or for (t - w, t) max(event + 1, known)."""
        event = add(self.event(), number(1)) if closed == "left" else self.event()
        return fn("greatest", event, self.known()) if self.has_known else event

    def key_values(self) -> list[Sql]:
        return [self.leaf(ColumnNode(column))[0] for column in self.view.key.columns]

    def scan(self, *extra: tuple[str, Sql], where: Sequence[Sql] = ()) -> exp.Select:
        """Rows of the source that can ever be visible: keys, `extra` columns, and the shared ones."""
        needed = [*self.view.key.columns, self.view.scan.time, self.view.scan.known_at]
        present = [not_null(col(name)) for name in needed if name is not None]
        chosen = [
            *(exp.alias_(value, name) for value, name in zip(self.key_values(), self.keys, strict=True)),
            *(exp.alias_(value, name) for name, value in extra),
            *(exp.alias_(value.copy(), name) for name, value in self.columns.items()),
        ]
        return exp.select(*chosen).from_(exp.to_table(self.source.name)).where(all_of([*present, *where]))

    def order(self) -> Sql:
        """A row's place in the total order of its key: event, known, then every value column where rows tie."""
        parts = [] if self.view.scan.time is None else [self.event()]
        if self.has_known:
            parts.append(self.known())
        if not parts or self.source.ties(self.has_known):
            parts += self.tie_parts()
        return parts[0] if len(parts) == 1 else fn("row", *(parts or [number(0)]))

    def tie_parts(self) -> list[Sql]:
        """All value columns by name, null first; sources may not order their rows otherwise."""
        parts: list[Sql] = []
        for name in tie_columns(self.view, self.source.schema):
            value = self.leaf(ColumnNode(name))[0]
            parts += [not_null(value), value.copy()]
        return parts

    # -- the members -----------------------------------------------------------------------------------------------------------------

    def condition(self, node: Aggregate) -> list[Sql]:
        """When a row counts for the member at all, beside being visible."""
        conditions = [self.printed(node.where)[0]] if node.where is not None else []
        if node.skip_null:
            assert node.value is not None
            conditions.append(not_null(self.printed(node.value)[0]))
        return conditions

    def value(self, node: Aggregate) -> str:
        """The column that the member folds: null where the row does not count. Booleans are numbers to sums."""
        if node.value is None:
            value: Sql = exp.true()
        else:
            value, kind = self.printed(node.value)
            if kind == BOOL and node.op != "count":
                value = cast(value, "BIGINT")
            if kind.name == "null":
                value = cast(value, "DOUBLE")
        conditions = self.condition(node)
        return self.column(case((all_of(conditions), value)) if conditions else value)

    def payload(self, node: Aggregate, *, event: bool = False) -> str:
        """The column {v: value[, e: event]} that first and last carry: a struct, because engines pass over plain nulls."""
        assert node.value is not None
        value, kind = self.printed(node.value)
        members = {"v": cast(value, duckdb_type(kind)) if kind.name == "null" else value}
        if event:
            members["e"] = self.event()
        return self.column(struct(members))

    def order_column(self, node: Aggregate) -> str:
        """The column to order by, null where the row does not count."""
        conditions = self.condition(node)
        return self.column(case((all_of(conditions), self.order())) if conditions else self.order())

    def finish(self, node: Aggregate, value: Sql, found: Sql | None, table: str) -> Sql:
        """The answer: null for labels without key or time, the default where nothing was found."""
        if node.default is not None:
            default = as_kind(constant(node.default), node.default.kind, self.kind(node))
            value = case((found if found is not None else not_null(value), value.copy()), default=default)
        elif found is not None:
            value = case((found, value))
        return case((self.usable(table), value))


def struct(members: dict[str, Sql]) -> Sql:
    """{'name': value, ...}."""
    return exp.Struct(
        expressions=[exp.PropertyEQ(this=exp.to_identifier(name, quoted=True), expression=value) for name, value in members.items()]
    )


def member_of(value: Sql, name: str) -> Sql:
    """A member of a struct."""
    return fn("struct_extract", value, exp.Literal.string(name))


def tie_columns(view: ViewPlan, schema: dict[str, ColumnType]) -> list[str]:
    """The value columns that order rows of one key, event time and known time: all that have a kind, by name."""
    used = {*view.key.columns, view.scan.time, view.scan.known_at}
    return sorted(name for name, column in schema.items() if name not in used and _orderable(column, view.scan.tz))


def _orderable(column: ColumnType, tz: str | None) -> bool:
    return column.kind is not None and not (column.naive and tz is None and column.stored != "DATE")


def _window(value: Sql, keys: Sequence[str], order: str, start: Sql | str, end: Sql | str = "CURRENT ROW", *, rows: bool = False) -> Sql:
    """value OVER (PARTITION BY keys ORDER BY order RANGE BETWEEN start PRECEDING AND end)."""
    spec = exp.WindowSpec(
        kind="ROWS" if rows else "RANGE",
        start=start,
        start_side="PRECEDING",
        end=end,
        end_side=None if isinstance(end, str) else "PRECEDING",
    )
    ordered = exp.Order(expressions=[exp.Ordered(this=col(order))])
    return exp.Window(this=value, partition_by=[col(key) for key in keys], order=ordered, spec=spec)


def _on_keys(group: _Group, left: str, right: str) -> list[Sql]:
    return [exp.EQ(this=col(key, left), expression=col(key, right)) for key in group.keys]


def _table(name: str) -> exp.Table:
    return exp.to_table(name)


def _asof(group: _Group, left: str, right: str, comparison: type[exp.Binary], right_time: str) -> exp.Join:
    condition = all_of([*_on_keys(group, left, right), comparison(this=col("t", left), expression=col(right_time, right))])
    return exp.Join(this=_table(right), method="ASOF", side="LEFT", on=condition)


def _statement(strategy: str, group: _Group, query: exp.Select, answers: Sequence[Sql], table: str) -> Statement:
    """The last SELECT: rid and the answers."""
    chosen = [col("rid", table), *(exp.alias_(answer, f"a{index}") for index, answer in enumerate(answers))]
    return Statement(strategy, query.select(*chosen), group.members)


# -- the strategies -----------------------------------------------------------------------------------------------------------------


def _static(group: _Group) -> Statement:
    """One row of answers per key, then a join."""
    answers: list[Sql] = []
    aggregated: list[Sql] = []
    for index, node in enumerate(group.members):
        name = f"r{index}"
        if node.op == "latest":
            folded = fn("arg_max", col(group.payload(node)), col(group.order_column(node)))
            answers.append(group.finish(node, member_of(col(name, "s"), "v"), not_null(col(name, "s")), "l"))
        else:
            folded = _fold(group, node, col(group.value(node)))
            answers.append(_counted(group, node, col(name, "s"), "l"))
        aggregated.append(exp.alias_(folded, name))
    keys = [col(key) for key in group.keys]
    rows = exp.select(*keys, *aggregated).from_(_table("rows")).group_by(*(key.copy() for key in keys))
    query = exp.select().with_("l", as_=group.labels()).with_("rows", as_=group.scan()).with_("s", as_=rows).from_(_table("l"))
    query = query.join(exp.Join(this=_table("s"), side="LEFT", on=all_of(_on_keys(group, "l", "s"))))
    return _statement("static", group, query, answers, "l")


def _fold(group: _Group, node: Aggregate, value: Sql) -> Sql:
    """Count, sum, mean, min, max or stddev as DuckDB's aggregate."""
    if node.op == "sum":
        return fn("sum", value)
    if node.op == "stddev":
        return fn("stddev_samp", cast(value, "DOUBLE"))
    return fn({"count": "count", "mean": "avg", "min": "min", "max": "max"}[node.op], value)


def _counted(group: _Group, node: Aggregate, value: Sql, table: str) -> Sql:
    """The answer of an aggregate that is null (count: 0) without rows."""
    if node.op == "count":
        some = op(exp.GT, fn("coalesce", value, number(0)), number(0))
        counted = fn("coalesce", cast(value.copy(), "BIGINT"), number(0))
        return group.finish(node, counted, some if node.default is not None else None, table)
    if node.op == "sum" and group.kind(node) == INT:
        value = cast(value, "BIGINT")
    return group.finish(node, value, None, table)


def _lookup(group: _Group) -> Statement:
    """The newest row: by a merge in memory where that can be done, otherwise by a join."""
    kinds = [*group.view.key.kinds, *(group.kind(node) for node in group.members)]
    if all(_is_plain(node) for node in group.members) and all(kind in (INT, FLOAT, TIMESTAMP) for kind in kinds):
        values = _looked_up(group)
        rows = group.scan(("e", group.event()), where=group.condition(group.members[0]))
        if group.source.fits(len(group.keys) + 1 + len(group.columns)):
            names = tuple(values[node] for node in group.members)
            fresh = _Group(group.view, group.binding, group.source, group.members)
            merge = Merge(group.labels(), tuple(group.keys), names, group.members[0].closed == "left", lambda: _joined(fresh))
            return Statement("merge", rows, group.members, merge)
        group.columns.clear()
    return _joined(group)


def _looked_up(group: _Group) -> dict[Aggregate, str]:
    values = {}
    for node in group.members:
        assert node.value is not None
        value, kind = group.printed(node.value)
        values[node] = group.column(cast(value, duckdb_type(kind)) if kind.name == "null" else value)
    return values


def _joined(group: _Group) -> Statement:
    """ASOF join of the labels with the rows that count."""
    first = group.members[0]
    values = _looked_up(group)
    event = group.event()
    if group.source.ties(False):
        packed = struct({name: value.copy() for name, value in group.columns.items()})
        names = list(group.columns)
        group.columns = {"packed": packed, "place": group.order()}
        rows = group.scan(("e", event), where=group.condition(first))
        keys = [col(key) for key in (*group.keys, "e")]
        best = exp.select(*keys, exp.alias_(fn("arg_max", col("packed"), col("place")), "packed")).from_(_table("rows"))
        best = best.group_by(*(key.copy() for key in keys))
        unpacked = [exp.alias_(member_of(col("packed"), name), name) for name in names]
        query = exp.select().with_("rows", as_=rows).with_("best", as_=best)
        query = query.with_("s", as_=exp.select(*(key.copy() for key in keys), *unpacked).from_(_table("best")))
    else:
        query = exp.select().with_("s", as_=group.scan(("e", event), where=group.condition(first)))
    answers = [_found(group, node, col(values[node], "s")) for node in group.members]
    comparison = exp.GT if first.closed == "left" else exp.GTE
    query = query.with_("l", as_=group.labels()).from_(_table("l")).join(_asof(group, "l", "s", comparison, "e"))
    return _statement("lookup", group, query, answers, "l")


def _found(group: _Group, node: Aggregate, value: Sql) -> Sql:
    """The newest row's value. The join gives null where there is none, or no whole key or time: most lookups need to say no more."""
    if _is_plain(node):
        return value
    return group.finish(node, value, _in_age(node, col("e", "s")), "l")


def _is_plain(node: Aggregate) -> bool:
    return node.default is None and node.max_age_us is None and node.window_us is None


def _in_age(node: Aggregate, event: Sql) -> Sql:
    """Whether the newest row exists and is young enough: the age from the label's own time, the window from the floored one."""
    conditions = [not_null(event)]
    if node.max_age_us is not None:
        conditions.append(op(exp.GTE, event.copy(), sub(col("u", "l"), number(node.max_age_us))))
    if node.window_us is not None:
        conditions.append(op(exp.GT, event.copy(), sub(col("t", "l"), number(node.window_us))))
    return all_of(conditions)


def _frames(group: _Group) -> Statement:
    """Labels and rows in one order per key; each answer is a window function at the label's row."""
    sliding = not group.has_known  # then the order is the event time, and the frame has both its ends
    answers: list[Sql] = []
    folded: list[Sql] = []
    for index, node in enumerate(group.members):
        name = f"r{index}"
        start = number(node.window_us - 1) if sliding and node.window_us is not None else "UNBOUNDED"
        end = number(1) if sliding and node.closed == "left" else "CURRENT ROW"
        value, answer = _framed(group, node, name)
        folded.append(exp.alias_(_window(value, group.keys, "o", start, end), name))
        answers.append(answer)
    place = group.event() if sliding else group.visible_from(group.members[0].closed)
    keys = [col(key) for key in group.keys]
    labels = exp.select(
        *keys, exp.alias_(col("t"), "o"), col("t"), col("u"), col("rid"), *(exp.alias_(exp.null(), name) for name in group.columns)
    )
    rows = exp.select(*(key.copy() for key in keys), col("o"), *(exp.null() for _ in range(3)), *(col(name) for name in group.columns))
    both = labels.from_(_table("labelled")).union(rows.from_(_table("s")), distinct=False)
    carried = [col(name) for name in (*group.keys, "t", "u", "rid")]
    query = exp.select().with_("labelled", as_=group.labels()).with_("s", as_=group.scan(("o", place))).with_("both_", as_=both)
    query = query.with_("l", as_=exp.select(*carried, *folded).from_(_table("both_"))).from_(_table("l")).where(not_null(col("rid", "l")))
    return _statement("frames", group, query, answers, "l")


def _framed(group: _Group, node: Aggregate, name: str) -> tuple[Sql, Sql]:
    """The aggregate to be framed, and the answer made from it."""
    folded = col(name, "l")
    if node.op not in ORDERED:
        return _fold(group, node, col(group.value(node))), _counted(group, node, folded, "l")
    newest = node.k is None and node.op != "first"
    payload, place = group.payload(node, event=newest), group.order_column(node)
    if node.k is not None:
        return _newest(payload, place, node.k), group.finish(node, _unpacked(folded), None, "l")
    if node.op == "first":
        return fn("arg_min", col(payload), col(place)), group.finish(node, member_of(folded, "v"), not_null(folded), "l")
    found = all_of([not_null(folded), _in_age(node, member_of(folded, "e"))])
    return fn("arg_max", col(payload), col(place)), group.finish(node, member_of(folded, "v"), found, "l")


def _newest(payload: str, place: str, k: int) -> Sql:
    return fn("arg_max", col(payload), col(place), number(k))


def _unpacked(values: Sql) -> Sql:
    """The list of the members v of a list of structs; null for an empty list."""
    some = op(exp.GT, fn("len", values), number(0))
    member = exp.Lambda(this=member_of(exp.column("x"), "v"), expressions=[exp.to_identifier("x")])
    return case((some, fn("list_transform", values.copy(), member)))


def _band(group: _Group) -> Statement:
    """Labels meet the rows of their own time bucket and the one before; a bucket is as wide as the window."""
    first = group.members[0]
    width = first.window_us
    assert width is not None
    answers: list[Sql] = []
    folded: list[Sql] = []
    for index, node in enumerate(group.members):
        name = f"r{index}"
        result = col(name, "g")
        if node.op in ORDERED:
            payload, place = col(group.payload(node), "s"), col(group.order_column(node), "s")
            if node.k is not None:
                value, answer = fn("arg_max", payload, place, number(node.k)), group.finish(node, _unpacked(result), None, "l")
            else:
                value = fn("arg_min", payload, place)
                answer = group.finish(node, member_of(result, "v"), not_null(result), "l")
        else:
            value = _fold(group, node, col(group.value(node), "s"))
            answer = _counted(group, node, result, "l")
        folded.append(exp.alias_(value, name))
        answers.append(answer)

    def bucket(moment: Sql) -> Sql:
        return op(exp.IntDiv, add(moment, number(_BUCKET_SHIFT)), number(width))

    own = bucket(col("t"))
    both = fn("unnest", exp.Array(expressions=[own, sub(own.copy(), number(1))]))
    spread = exp.select(col("rid"), *(col(key) for key in group.keys), col("t"), exp.alias_(both, "bucket")).from_(_table("l"))
    rows = group.scan(("e", group.event()), ("visible", group.visible_from(first.closed)), ("bucket", bucket(group.event())))
    meet = [
        *_on_keys(group, "b", "s"),
        exp.EQ(this=col("bucket", "b"), expression=col("bucket", "s")),
        op(exp.GT, col("e", "s"), sub(col("t", "b"), number(width))),
        op(exp.LTE, col("visible", "s"), col("t", "b")),
    ]
    grouped = exp.select(col("rid", "b"), *folded).from_(_table("b")).join(exp.Join(this=_table("s"), kind="INNER", on=all_of(meet)))
    query = exp.select().with_("l", as_=group.labels()).with_("b", as_=spread).with_("s", as_=rows)
    query = query.with_("g", as_=grouped.group_by(col("rid", "b"))).from_(_table("l"))
    query = query.join(exp.Join(this=_table("g"), side="LEFT", on=exp.EQ(this=col("rid", "l"), expression=col("rid", "g"))))
    return _statement("band", group, query, answers, "l")


# -- sweep --------------------------------------------------------------------------------------------------------------------------


@dataclass
class _Sums:
    """Running sums of a sweep: label -> what a row adds, and window -> the labels that it needs."""

    deltas: dict[str, Sql] = field(default_factory=dict)
    needed: dict[int, list[str]] = field(default_factory=dict)

    def within(self, window: int, label: str, delta: Sql) -> Sql:
        """The sum over the rows inside the window at the label's time: all that came, less all that left. Integers, so exactly that."""
        self.deltas.setdefault(label, delta)
        labels = self.needed.setdefault(window, [])
        if label not in labels:
            labels.append(label)
        return sub(_or_zero(col(label, "come")), _or_zero(col(label, f"left_{window}")))


def _or_zero(value: Sql) -> Sql:
    return fn("coalesce", value, number(0))


def _sweep(group: _Group) -> Statement:
    """What rows add, run up in the order of their coming, and per window in the order of their leaving; a label takes the difference."""
    sums = _Sums()
    answers = [_swept(group, node, sums) for node in group.members]
    closed = group.members[0].closed
    query = exp.select().with_("l", as_=group.labels())
    query = query.with_("s", as_=group.scan(("e", group.event()), ("come", group.visible_from(closed))))
    query = (
        query.with_("come", as_=_run_up(group, sums, col("come"), list(sums.deltas)))
        .from_(_table("l"))
        .join(_asof(group, "l", "come", exp.GTE, "o"))
    )
    for window, labels in sums.needed.items():
        # a row that is known only after it left comes and leaves at one moment
        leave = fn("greatest", add(col("e"), number(window)), col("come"))
        query = query.with_(f"left_{window}", as_=_run_up(group, sums, leave, labels)).join(
            _asof(group, "l", f"left_{window}", exp.GTE, "o")
        )
    return _statement("sweep", group, query, answers, "l")


def _run_up(group: _Group, sums: _Sums, moment: Sql, labels: Sequence[str]) -> exp.Select:
    """Running sums of `labels` per key in the order of `moment`; rows of one moment all carry the same totals."""
    moved = exp.select(
        *(col(key) for key in group.keys), exp.alias_(moment, "o"), *(exp.alias_(sums.deltas[n].copy(), n) for n in labels)
    ).from_(_table("s"))
    totals = [exp.alias_(_window(fn("sum", col(name)), group.keys, "o", "UNBOUNDED"), name) for name in labels]
    return exp.select(*(col(key) for key in group.keys), col("o"), *totals).from_(moved.subquery("moved"))


def _swept(group: _Group, node: Aggregate, sums: _Sums) -> Sql:
    """The member's answer from running sums."""
    window = node.window_us
    assert window is not None
    name = group.value(node)
    value = col(name)
    rows = sums.within(window, f"n_{name}", flag(not_null(value)))
    if node.op == "count":
        return _counted(group, node, rows, "l")
    some = op(exp.GT, rows.copy(), number(0))
    floats = node.value is not None and group.printed(node.value)[1] == FLOAT
    if node.op == "stddev" or floats:
        return group.finish(node, _swept_floats(group, node, name, rows, sums), None, "l")
    total = sums.within(window, f"i_{name}", value.copy())
    answer = cast(total, "BIGINT") if node.op == "sum" else divide(cast(total, "DOUBLE"), cast(rows.copy(), "DOUBLE"))
    return group.finish(node, case((some, answer)), None, "l")


def _swept_floats(group: _Group, node: Aggregate, name: str, rows: Sql, sums: _Sums) -> Sql:
    """Sum, mean or stddev of floats in 128-bit fixed point: x * f lies in [-1/2, 1/2] and is kept with all bits that n of them leave free.

    For stddev x is counted from the mean c of the whole column, so that squares do not drown what differs. Powers of two scale exactly.
    """
    window = node.window_us
    assert window is not None
    numbers = group.source.numbers(group.columns[name])
    factor = _power_of_two(-math.frexp(numbers.greatest)[1] - 1) if numbers.greatest else 1.0
    scale = _power_of_two(_FIXED_POINT_BITS - math.frexp(numbers.count + 1.0)[1])
    spread = node.op == "stddev"
    unit: Sql = op(exp.Mul, cast(col(name), "DOUBLE"), constant_float(factor))
    if spread:
        unit = sub(unit, constant_float(numbers.mean * factor))

    def total(label: str, value: Sql) -> Sql:
        kept = cast(op(exp.Mul, value, constant_float(scale)), "HUGEINT")
        kept = kept if numbers.finite else case((fn("isfinite", cast(col(name), "DOUBLE")), kept))
        return divide(cast(sums.within(window, f"{label}_{name}", kept), "DOUBLE"), constant_float(scale))

    count = cast(rows, "DOUBLE")
    if spread:
        shifted, squares = total("d", unit), total("q", op(exp.Mul, unit.copy(), unit.copy()))
        variance = divide(sub(squares, divide(op(exp.Mul, shifted, shifted.copy()), count.copy())), sub(count.copy(), number(1)))
        answer = divide(fn("sqrt", fn("greatest", variance, constant_float(0.0))), constant_float(factor))
    else:
        answer = divide(total("m", unit), constant_float(factor))
        answer = divide(answer, count.copy()) if node.op == "mean" else answer
    if not numbers.finite:
        answer = _with_odd_values(node, name, answer, sums, window)
    enough = op(exp.GT, rows.copy(), number(1 if spread else 0))
    return case((enough, answer))


def _with_odd_values(node: Aggregate, name: str, answer: Sql, sums: _Sums, window: int) -> Sql:
    """NaN and the infinities are counted apart: they cannot be taken out of a sum again."""
    tests = {
        "nan": fn("isnan", col(name)),
        "high": op(exp.EQ, col(name), constant_float(math.inf)),
        "low": op(exp.EQ, col(name), constant_float(-math.inf)),
    }
    nan, high, low = (op(exp.GT, sums.within(window, f"{what}_{name}", flag(test)), number(0)) for what, test in tests.items())
    mixed = op(exp.Or, nan, op(exp.And, high, low))
    if node.op == "stddev":
        return case((op(exp.Or, mixed, op(exp.Or, high.copy(), low.copy())), constant_float(math.nan)), default=answer)
    odd = [(mixed, math.nan), (high.copy(), math.inf), (low.copy(), -math.inf)]
    return case(*((test, constant_float(value)) for test, value in odd), default=answer)


def flag(condition: Sql) -> Sql:
    """1 or 0."""
    return case((condition, cast(number(1), "BIGINT")), default=cast(number(0), "BIGINT"))


def constant_float(value: float) -> Sql:
    """A DOUBLE."""
    return constant(Literal(value, FLOAT))


def divide(left: Sql, right: Sql) -> Sql:
    """left / right, of floats."""
    return exp.paren(exp.Div(this=left, expression=right, typed=False, safe=False), copy=False)


def _power_of_two(exponent: int) -> float:
    return math.ldexp(1.0, max(-_EXPONENT_MAX, min(_EXPONENT_MAX, exponent)))


_GROUPS: Final[dict[str, Callable[[_Group], Statement]]] = {
    "static": _static,
    "lookup": _lookup,
    "frames": _frames,
    "sweep": _sweep,
    "band": _band,
}


# -- what is asked of the source before, and made of the answers after -----------------------------------------------------------------


def tie_probe(view: ViewPlan, schema: dict[str, ColumnType], source: str, known: bool) -> exp.Select:
    """One 64-bit hash per row of (key, event[, known]): equal rows hash alike, so no equal hashes means no ties."""
    group = _Group(
        view, Binding(view.key.entity, view.key.columns), Source(source, schema, lambda _: True, lambda _: Numbers(True, 0.0, 0, 0.0)), ()
    )
    times = [group.event()] if view.scan.time is not None else []
    times += [group.known()] if known and group.has_known else []
    return exp.select(exp.alias_(fn("hash", *group.key_values(), *times), "h")).from_(_table(source))


def numbers_probe(value: Sql, source: str) -> exp.Select:
    """One row: whether all values are finite, then greatest |x|, count and mean of those that are."""
    number_ = cast(value, "DOUBLE")
    finite = fn("isfinite", number_.copy())

    def kept(tree: Sql) -> Sql:
        return exp.Filter(this=tree, expression=exp.Where(this=finite.copy()))

    facts = [
        fn("bool_and", finite.copy()),
        kept(fn("max", fn("abs", number_.copy()))),
        fn("count", number_.copy()),
        kept(fn("avg", number_.copy())),
    ]
    return exp.select(*(exp.alias_(fact, name) for fact, name in zip(facts, ("finite", "greatest", "count", "mean"), strict=True))).from_(
        _table(source)
    )


def output(value: Sql, kind: Kind, stored: str) -> Sql:
    """A computed value in the type of its feature."""
    if kind == TIMESTAMP:
        return fn("make_timestamptz", value)
    if kind.item == TIMESTAMP:
        member = exp.Lambda(this=fn("make_timestamptz", exp.column("x")), expressions=[exp.to_identifier("x")])
        return fn("list_transform", value, member)
    if kind == STRING:
        return value
    return cast(value, stored)
