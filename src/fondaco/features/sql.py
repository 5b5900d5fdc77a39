"""SQL: the plan as DuckDB statements, one per group of aggregates that share a pass over the source.

How a group is computed is chosen from the plan, and from one fact of the data (do rows tie?); figures in docs/internals/feature-plan.md:

| strategy | for | how |
|---|---|---|
| static | sources without a time | GROUP BY key, join |
| lookup | newest row, no known time | ASOF join; ties are sorted out before, if there are any |
| frames | windows without known time; whole histories with one | window functions over labels and rows in one order |
| sweep | sliding windows with a known time, of what can be taken out again | +x when a row becomes visible, -x when it leaves: running sums |
| band | the other sliding windows with a known time | join on key and time bucket, at most two windows wide |

With a known time a row is visible at t in [max(event, known), event + w): that interval is all that the last three need.
Every statement gives `rid` (the label's position) and one column per aggregate, one row per label, in any order: putting a million rows
back in order by their position costs a fifth of what ORDER BY does.
Sums of floats in `sweep` are fixed-point 128-bit integers: a value that leaves takes exactly what it brought, so nothing drifts.
Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlglot import exp

from fondaco.features.aggregates import INVERTIBLE, ORDERED, aggregate_kind
from fondaco.features.kinds import BOOL, FLOAT, INT, STRING, TIMESTAMP, ColumnType, Kind
from fondaco.features.plan import Aggregate, Binding, Node, ViewPlan
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

LABELS: Final = "labels"  # the registered label table: its own columns, rid and t (microseconds)
_BUCKET_SHIFT: Final = 1 << 62  # a multiple of nothing in particular; it keeps times before 1970 positive, so that // rounds down
_EXPONENT_MAX: Final = 1000  # of the scales of sweep: 2**1000 is a double, 2**1100 is not


@dataclass(frozen=True)
class Source:
    """What the printer has to know of a view's source: its name in the connection, its schema, and whether rows tie.

    `ties(known)`: whether two rows have the same key and event time (and, with `known`, known time); asked only where it matters.
    """

    name: str
    schema: dict[str, ColumnType]
    ties: Callable[[bool], bool]


@dataclass(frozen=True)
class Statement:
    """One query: rid, then for `aggregates[i]` the column `a{i}`, in the kind it is computed as."""

    strategy: str
    query: exp.Query
    aggregates: tuple[Aggregate, ...]

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
        moment = col("t")
        keys = [
            exp.alias_(cast(col(column), duckdb_type(kind)), name)
            for column, kind, name in zip(self.binding.columns, self.view.key.kinds, self.keys, strict=True)
        ]
        return exp.select(col("rid"), *keys, exp.alias_(self._floored(moment), "t"), exp.alias_(moment.copy(), "u")).from_(
            exp.to_table(LABELS)
        )

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
        present = [not_null(value) for value in self.key_values()]
        if self.view.scan.time is not None:
            present.append(not_null(self.event()))
        if self.has_known:
            present.append(not_null(self.known()))
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
    return exp.Struct(expressions=[exp.PropertyEQ(this=exp.to_identifier(name, quoted=True), expression=value) for name, value in members.items()])


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
    """ASOF join of the labels with the rows that count."""
    first = group.members[0]
    values = {}
    for node in group.members:
        assert node.value is not None
        value, kind = group.printed(node.value)
        values[node] = group.column(cast(value, duckdb_type(kind)) if kind.name == "null" else value)
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
    answers = [group.finish(node, col(values[node], "s"), _in_age(node, col("e", "s")), "l") for node in group.members]
    comparison = exp.GT if first.closed == "left" else exp.GTE
    query = query.with_("l", as_=group.labels()).from_(_table("l")).join(_asof(group, "l", "s", comparison, "e"))
    return _statement("lookup", group, query, answers, "l")


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
    labels = exp.select(*keys, exp.alias_(col("t"), "o"), col("t"), col("u"), col("rid"), *(exp.alias_(exp.null(), name) for name in group.columns))
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
class _Sum:
    """One running sum: `delta` is what a row adds on entering, as an integer; `window` when it takes that back."""

    delta: Sql
    window: int


def _sweep(group: _Group) -> Statement:
    """Rows come and go; per key and moment their deltas are added up, then run up; a label takes the last total before it."""
    sums: dict[str, _Sum] = {}
    bounds: dict[str, Sql] = {}
    answers = [_swept(group, node, sums, bounds) for node in group.members]
    closed = group.members[0].closed
    windows = list(dict.fromkeys(total.window for total in sums.values()))
    moves = [_move(group, sums, col("visible", "s"), 1, None)]
    for width in windows:
        leave = fn("greatest", add(col("e", "s"), number(width)), col("visible", "s"))
        moves.append(_move(group, sums, leave, -1, width))
    every: exp.Query = moves[0]
    for move in moves[1:]:
        every = every.union(move, distinct=False)
    keys = [col(key) for key in (*group.keys, "o")]
    totals = exp.select(*keys, *(exp.alias_(fn("sum", col(name)), name) for name in sums)).from_(_table("moves")).group_by(*(key.copy() for key in keys))
    running = exp.select(*(key.copy() for key in keys), *(exp.alias_(_window(fn("sum", col(n)), group.keys, "o", "UNBOUNDED", rows=True), n) for n in sums))
    query = exp.select().with_("l", as_=group.labels())
    query = query.with_("s", as_=group.scan(("e", group.event()), ("visible", group.visible_from(closed))))
    query = query.with_("b", as_=_bounds(group, bounds)) if bounds else query
    query = query.with_("moves", as_=every).with_("totals", as_=totals).with_("r", as_=running.from_(_table("totals")))
    query = query.from_(_table("l")).join(_asof(group, "l", "r", exp.GTE, "o"))
    if bounds:
        query = query.join(exp.Join(this=_table("b"), kind="CROSS"))
    return _statement("sweep", group, query, answers, "l")


def _move(group: _Group, sums: dict[str, _Sum], moment: Sql, sign: int, width: int | None) -> exp.Select:
    """All rows at the moment when they enter (width None: every sum changes) or leave (only the sums of this window change)."""
    deltas: list[Sql] = []
    for name, total in sums.items():
        delta = total.delta.copy() if width in (None, total.window) else cast(number(0), "HUGEINT")
        deltas.append(exp.alias_(delta if sign > 0 else exp.Neg(this=exp.paren(delta)), name))
    chosen = exp.select(*(col(key, "s") for key in group.keys), exp.alias_(moment, "o"), *deltas).from_(_table("s"))
    scaled = any(total.delta.find(exp.Column, bfs=True) is not None and "b" in {c.table for c in total.delta.find_all(exp.Column)} for total in sums.values())
    return chosen.join(exp.Join(this=_table("b"), kind="CROSS")) if scaled else chosen


def _swept(group: _Group, node: Aggregate, sums: dict[str, _Sum], bounds: dict[str, Sql]) -> Sql:
    """The member's answer from running sums, which it adds to `sums` (and the scales that they need to `bounds`)."""
    window = node.window_us
    assert window is not None
    name = group.value(node)
    value = col(name, "s")
    floats = group.columns and node.value is not None and group.printed(node.value)[1] == FLOAT

    def total(what: str, delta: Sql) -> Sql:
        label = f"{what}_{name}_{window}"
        sums.setdefault(label, _Sum(delta, window))
        return fn("coalesce", col(label, "r"), cast(number(0), "HUGEINT"))

    def flag(condition: Sql) -> Sql:
        return case((condition, cast(number(1), "HUGEINT")), default=cast(number(0), "HUGEINT"))

    rows = total("n", flag(not_null(value)))
    if node.op == "count":
        return _counted(group, node, rows, "l")
    finite = fn("isfinite", cast(value.copy(), "DOUBLE")) if floats else not_null(value)
    if node.op != "stddev" and not floats:
        exact = total("i", fn("coalesce", cast(value.copy(), "HUGEINT"), cast(number(0), "HUGEINT")))
        some = op(exp.GT, rows.copy(), number(0))
        if node.op == "sum":
            return _counted(group, node, case((some, exact)), "l")
        return group.finish(node, case((some, _divide(cast(exact, "DOUBLE"), cast(rows.copy(), "DOUBLE")))), None, "l")
    return _swept_floats(group, node, name, rows, total, flag, finite, bounds, floats=bool(floats))


def _swept_floats(
    group: _Group,
    node: Aggregate,
    name: str,
    rows: Sql,
    total: Callable[[str, Sql], Sql],
    flag: Callable[[Sql], Sql],
    finite: Sql,
    bounds: dict[str, Sql],
    *,
    floats: bool,
) -> Sql:
    """Sum, mean or stddev of floats: ((x - c) * f) is at most 1, times 2**s a 128-bit integer; what is not finite is counted apart."""
    value = cast(col(name, "s"), "DOUBLE")
    spread = node.op == "stddev"
    centre, factor, scale = (f"{part}_{name}" for part in ("c" if spread else "z", "f", "p"))
    source = cast(col(name), "DOUBLE")
    kept = lambda tree: exp.Filter(this=tree, expression=exp.Where(this=fn("isfinite", source.copy())))  # noqa: E731
    greatest = fn("max", fn("abs", source.copy()))
    bounds[factor] = fn("coalesce", _power(fn("ceil", fn("log2", fn("nullif", kept(greatest), number(0)))), -1, -1), constant_float(1.0))
    bounds[scale] = _power(fn("ceil", fn("log2", add(fn("count", source.copy()), number(2)))), -1, 124)
    bounds[centre] = fn("coalesce", kept(fn("avg", source.copy())), constant_float(0.0)) if spread else constant_float(0.0)

    def scaled(square: bool) -> Sql:
        unit = sub(op(exp.Mul, value.copy(), col(factor, "b")), op(exp.Mul, col(centre, "b"), col(factor, "b")))
        unit = op(exp.Mul, unit, unit.copy()) if square else unit
        return case((finite.copy(), cast(op(exp.Mul, unit, col(scale, "b")), "HUGEINT")), default=cast(number(0), "HUGEINT"))

    count = cast(rows, "DOUBLE")
    first = _divide(cast(total("d" if spread else "m", scaled(False)), "DOUBLE"), col(scale, "b"))
    if spread:
        second = _divide(cast(total("q", scaled(True)), "DOUBLE"), col(scale, "b"))
        variance = _divide(sub(second, _divide(op(exp.Mul, first, first.copy()), count.copy())), sub(count.copy(), number(1)))
        answer = _divide(fn("sqrt", fn("greatest", variance, constant_float(0.0))), col(factor, "b"))
        enough = op(exp.GT, rows.copy(), number(1))
    else:
        answer = _divide(first, col(factor, "b"))
        answer = _divide(answer, count.copy()) if node.op == "mean" else answer
        enough = op(exp.GT, rows.copy(), number(0))
    if floats:
        plain = col(name, "s")
        odd = {what: total(what, flag(test)) for what, test in _odd_tests(plain).items()}
        some = {what: op(exp.GT, count_, number(0)) for what, count_ in odd.items()}
        nan, high, low = constant_float(float("nan")), constant_float(float("inf")), constant_float(float("-inf"))
        mixed = op(exp.Or, some["nan"], op(exp.And, some["high"], some["low"]))
        any_odd = op(exp.Or, mixed.copy(), op(exp.Or, some["high"].copy(), some["low"].copy()))
        odd_answers = [(any_odd, nan)] if spread else [(mixed, nan), (some["high"].copy(), high), (some["low"].copy(), low)]
        answer = case(*odd_answers, default=answer)
    return group.finish(node, case((enough, answer)), None, "l")


def _odd_tests(value: Sql) -> dict[str, Sql]:
    return {
        "nan": fn("isnan", value.copy()),
        "high": op(exp.EQ, value.copy(), constant_float(float("inf"))),
        "low": op(exp.EQ, value.copy(), constant_float(float("-inf"))),
    }


def constant_float(value: float) -> Sql:
    """A DOUBLE."""
    from fondaco.features.plan import Literal

    return constant(Literal(value, FLOAT))


def _divide(left: Sql, right: Sql) -> Sql:
    return exp.paren(exp.Div(this=left, expression=right, typed=False, safe=False), copy=False)


def _power(exponent: Sql, sign: int, offset: int) -> Sql:
    """2 ** (sign * exponent + offset), kept within what a double can hold."""
    shifted = add(number(offset), exponent) if sign > 0 else sub(number(offset), exponent)
    kept = fn("greatest", number(-_EXPONENT_MAX), fn("least", number(_EXPONENT_MAX), shifted))
    return fn("pow", constant_float(2.0), kept)


def _bounds(group: _Group, bounds: dict[str, Sql]) -> exp.Select:
    return exp.select(*(exp.alias_(value, name) for name, value in bounds.items())).from_(_table("s"))


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
    group = _Group(view, Binding(view.key.entity, view.key.columns), Source(source, schema, lambda _: True), ())
    times = [group.event()] if view.scan.time is not None else []
    times += [group.known()] if known and group.has_known else []
    return exp.select(exp.alias_(fn("hash", *group.key_values(), *times), "h")).from_(_table(source))


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
