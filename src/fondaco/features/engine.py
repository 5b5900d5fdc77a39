"""Engine: DuckDB at work on one plan for one table of labels. Sessions, the facts of the data that choose strategies, the answers.

Sources are streamed by DuckDB within its memory limit; labels and answers are in memory. An engine belongs to one caller.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
from sqlglot import exp

from fondaco.core.clock import Clock, SystemClock
from fondaco.core.errors import DataError, InputError
from fondaco.features.checks import infer
from fondaco.features.feature import dtype_named
from fondaco.features.kinds import TIMESTAMP, ColumnType, Kind
from fondaco.features.merge import TiesError, newest_rows
from fondaco.features.order import arrow_array, in_order, nulls_of, numbers_of, picked
from fondaco.features.plan import Aggregate, Binding, Node, SetPlan, ViewPlan, aggregates_of
from fondaco.features.record import RecordKeeper
from fondaco.features.sql import LABELS, MOMENT, POSITION, Merge, Numbers, Source, Statement, numbers_probe, output, statements, tie_probe
from fondaco.features.sqlnodes import Sql, all_of, case, col, fn, not_null, number, op, print_node, source_column, text_of
from fondaco.features.table import Table, connect

if TYPE_CHECKING:
    import duckdb


TIE_PROBE_ROWS_MAX: Final = 50_000_000  # beyond it rows are taken to tie, which is always right and only slower: the probe holds 8 B a row
MERGE_VALUES_MAX: Final = 1 << 25  # 256 MiB: larger sources are joined by DuckDB, which spills
CONCURRENT_UNITS: Final = 2
INTERRUPT_EVERY_S: Final = 0.05
_SOURCE_NUMBERS: Final = itertools.count()


@dataclass(frozen=True)
class Options:
    """How a training set is computed; nothing here changes its values."""

    tz: str | None = None
    memory_limit: str | None = None
    threads: int | None = None
    platform: RecordKeeper | None = None
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True)
class Unit:
    """The aggregates of one view for one binding."""

    view_index: int
    view: ViewPlan
    binding: Binding
    aggregates: tuple[Aggregate, ...]


@dataclass(frozen=True)
class Share:
    """One of `count` shares of the keys, by hash: share `index` holds all rows of its keys."""

    index: int
    count: int

    def condition(self, view: ViewPlan, schema: dict[str, ColumnType]) -> Sql:
        """Whether a row of a view's source belongs to the share."""
        keys = [source_column(column, schema[column], view.scan.tz) for column in view.key.columns]
        return exp.EQ(this=op(exp.Mod, fn("hash", *keys), number(self.count)), expression=number(self.index))


class Engine:
    """One DuckDB that computes one set for one table of labels. A context manager: leaving closes it.

    Units run two at a time, each in a session (cursor) of its own: what one does on a single core, such as putting its answer in order,
    the other's sorting fills up. More at once would only cost memory.
    """

    def __init__(
        self, tables: Sequence[Table], plan: SetPlan, labels: pa.Table, at: str, options: Options, share: Share | None = None
    ) -> None:
        """
        Args:
            tables: the source of each view of the plan.
            labels: key columns as the bindings name them, and the time column `at`.
            share: compute from the rows of some keys only; the labels must hold no others.
        """
        self._tables, self._plan, self._labels, self._at, self._options, self._share = tables, plan, labels, at, options, share

    def __enter__(self) -> Engine:
        self._spill = tempfile.TemporaryDirectory(prefix="fondaco-", ignore_cleanup_errors=True)
        config: dict[str, str | int] = {"temp_directory": self._spill.name}
        if self._options.memory_limit is not None:
            config["memory_limit"] = self._options.memory_limit
        if self._options.threads is not None:
            config["threads"] = self._options.threads
        try:
            self._connection = connect(**config)
        except InputError:
            self._spill.cleanup()
            raise
        self._working: set[Session] = set()
        self._stopped = False
        self._prepared = self._prepare_labels()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._spill.cleanup()

    def units(self) -> list[Unit]:
        """What there is to compute, view by view and binding by binding."""
        wanted: dict[tuple[int, Binding], list[Aggregate]] = {}
        for chosen in self._plan.selections:
            node = self._plan.views[chosen.view].feature(chosen.feature).value
            found = wanted.setdefault((chosen.view, chosen.binding), [])
            found += [aggregate for aggregate in aggregates_of(node) if aggregate not in found]
        return [Unit(index, self._plan.views[index], binding, tuple(found)) for (index, binding), found in wanted.items()]

    def statements(self, unit: Unit) -> list[Statement]:
        """The SQL of a unit, as it will run on the data as it is now."""
        with self._session(unit) as session:
            return session.statements()

    def run(self) -> dict[str, pa.ChunkedArray]:
        """Every output column, in the labels' order.

        Raises:
            DataError: a value that cannot be computed; InputError: a source changed or cannot be read.
        """
        units = self.units()
        computed: dict[tuple[int, Binding, Aggregate], pa.ChunkedArray] = {}
        answers = self._compute_all(units)
        for unit, columns in zip(units, answers, strict=True):
            for aggregate, column in columns.items():
                computed[unit.view_index, unit.binding, aggregate] = column
        return self._derive(computed)

    def _compute_all(self, units: list[Unit]) -> list[dict[Aggregate, pa.ChunkedArray]]:
        """The answers of each unit; where one fails or Ctrl-C is pressed, the others are not waited for but interrupted."""
        pool = ThreadPoolExecutor(CONCURRENT_UNITS, thread_name_prefix="fondaco-join")
        try:
            futures = [pool.submit(self._compute, unit) for unit in units]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self._stopped = True
            while self._working:  # again and again: an interrupt is lost on a session between two queries
                for session in list(self._working):
                    session.interrupt()
                time.sleep(INTERRUPT_EVERY_S)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _compute(self, unit: Unit) -> dict[Aggregate, pa.ChunkedArray]:
        session = self._session(unit)
        self._working.add(session)
        try:
            if self._stopped:  # asked after `add`, and set before `_working` is looked at: one of the two sees the other
                raise CancelledError
            return self._answers(session)
        finally:
            self._working.discard(session)

    def _answers(self, session: Session) -> dict[Aggregate, pa.ChunkedArray]:
        columns = {}
        with session:
            for statement in session.statements():
                table = session.answer(statement)
                assert table.num_rows == self._labels.num_rows, (
                    f"{self._plan.name}: {table.num_rows} rows for {self._labels.num_rows} labels"
                )
                for number, aggregate in enumerate(statement.aggregates):
                    columns[aggregate] = table[f"a{number}"]
        return columns

    def _session(self, unit: Unit | None = None) -> Session:
        if unit is None:
            return Session(self._connection.cursor(), self._plan.name)
        limited = self._options.memory_limit is not None
        table = self._tables[unit.view_index]
        return Session(self._connection.cursor(), self._plan.name, unit, table, self._prepared, self._share, limited)

    def _prepare_labels(self) -> pa.Table:
        """Key columns, t in microseconds of UTC, and position; what else the labels carry never goes through the engine."""
        keys = list(self._plan.key_columns)
        kind = self._labels.schema.field(self._at).type
        naive = not (pa.types.is_timestamp(kind) and kind.tz is not None)
        moment = source_column(self._at, ColumnType(TIMESTAMP, str(kind), naive), self._options.tz)
        query = exp.select(exp.alias_(moment, "t")).from_(exp.to_table("raw_labels"))
        with self._session() as session:
            session.register("raw_labels", self._labels.select([self._at]))
            times = session.query(text_of(query))["t"]
        rid = arrow_array(np.arange(self._labels.num_rows, dtype=np.int64), pa.int64())
        return self._labels.select(keys).append_column(MOMENT, times).append_column(POSITION, rid)

    def _derive(self, computed: dict[tuple[int, Binding, Aggregate], pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
        """The features from their aggregates, in their own types: answers that are that already, and one projection for the others."""
        names = {place: f"c{number}" for number, place in enumerate(computed)}
        answers = {names[place]: column for place, column in computed.items()}
        answers |= {f"label_{name}": self._prepared[name] for name in (*self._plan.key_columns, MOMENT)}
        schemas = [table.schema() for table in self._tables]
        types: dict[str, pa.DataType] = {}
        ready: dict[str, pa.ChunkedArray] = {}
        chosen = []
        for selection in self._plan.selections:
            place = (selection.view, selection.binding)
            feature = self._plan.views[selection.view].feature(selection.feature)
            dtype = dtype_named(feature.dtype)
            types[selection.output] = dtype.arrow
            if isinstance(feature.value, Aggregate) and computed[*place, feature.value].type == dtype.arrow:
                ready[selection.output] = computed[*place, feature.value]
                continue

            def leaf(node: Node, place: tuple[int, Binding] = place) -> tuple[Sql, Kind]:
                assert isinstance(node, Aggregate)
                name = self._tables[place[0]].name
                return col(names[*place, node]), infer(node, schemas[place[0]], self._plan.views[place[0]].scan, name)

            value, kind = print_node(feature.value, leaf)
            if not isinstance(feature.value, Aggregate):
                usable = all_of([not_null(col(f"label_{name}")) for name in (*selection.binding.columns, MOMENT)])
                value = case((usable, value))
            chosen.append(exp.alias_(output(value, kind, dtype.duckdb), selection.output, quoted=True))
        if chosen:
            with self._session() as session:
                session.register("answers", pa.table(answers))
                table = session.query(text_of(exp.select(*chosen).from_(exp.to_table("answers"))))
            ready |= {
                name: table[name] if table[name].type == types[name] else table[name].cast(types[name]) for name in table.column_names
            }
        return {name: ready[name] for name in types}


class Session:
    """A cursor of the engine's DuckDB with one unit's source and the labels in it; used by one thread. A context manager."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        feature_set: str,
        unit: Unit | None = None,
        table: Table | None = None,
        labels: pa.Table | None = None,
        share: Share | None = None,
        memory_limited: bool = False,
    ) -> None:
        self._memory_limited = memory_limited
        self._cursor, self._feature_set, self._unit, self._table, self._labels, self._share = (
            cursor,
            feature_set,
            unit,
            table,
            labels,
            share,
        )
        self._source = f"source_{next(_SOURCE_NUMBERS)}"  # views are seen by every session of an engine, so each names its own
        self._ties: dict[bool, bool] = {}

    def __enter__(self) -> Session:
        self._cursor.execute("SET TimeZone = 'UTC'")
        if self._table is not None:
            self._schema = self._table.register(self._cursor, self._source)
            if self._share is not None and self._unit is not None:
                rows = exp.select("*").from_(exp.to_table(self._source)).where(self._share.condition(self._unit.view, self._schema))
                self._source += "_share"
                self._cursor.sql(text_of(rows)).create_view(self._source, replace=True)
            self._cursor.register(LABELS, self._labels)
        return self

    def __exit__(self, *_: object) -> None:
        self._cursor.close()

    def interrupt(self) -> None:
        """Make the statement that runs in another thread fail at once; nothing if none does."""
        import duckdb

        with contextlib.suppress(duckdb.Error):  # closed meanwhile
            self._cursor.interrupt()

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table visible under a name."""
        self._cursor.register(name, table)

    def query(self, text: str) -> pa.Table:
        """Run one statement.

        Raises:
            DataError: a value that cannot be computed; InputError: the source changed or cannot be read.
        """
        import duckdb

        try:
            return self._cursor.sql(text).to_arrow_table()
        except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException) as exc:
            raise DataError(f"feature set {self._feature_set!r}: {exc}") from exc
        except duckdb.OutOfMemoryException as exc:
            raise InputError(f"feature set {self._feature_set!r} needs more memory than memory_limit= allows: {exc}") from exc
        except duckdb.Error as exc:
            raise InputError(f"feature set {self._feature_set!r} cannot be computed: {exc}") from exc

    def statements(self) -> list[Statement]:
        """The unit's statements; asks the data whether rows tie, where that matters."""
        assert self._unit is not None
        unit = self._unit
        return statements(
            unit.view, unit.aggregates, unit.binding, Source(self._source, self._schema, self._has_ties, self._numbers, self._fits)
        )

    def answer(self, statement: Statement) -> pa.Table:
        """The columns a0, a1, ... of a statement, in the labels' order."""
        if statement.merge is None:
            return in_order(self.query(text_of(statement.query)))
        merged = self._merged(statement.query, statement.merge)
        return merged if merged is not None else self.answer(statement.merge.join())

    def _merged(self, query: exp.Query, merge: Merge) -> pa.Table | None:
        """The answers of a lookup, or None if it has to be a join after all."""
        labels = in_order(self.query(text_of(merge.labels)))
        places = [labels[name] for name in (*merge.keys, "t")]
        usable = np.ones(labels.num_rows, np.bool_)
        for column in places:
            if column.null_count:
                usable &= ~nulls_of(column)
        *wanted, moments = (numbers_of(column, np.int64) for column in places)
        rows = self.query(text_of(query))
        *keys, events = (numbers_of(rows[name], np.int64) for name in (*merge.keys, "e"))
        rows = rows.select(list(dict.fromkeys(merge.values)))
        try:
            found = newest_rows(keys, events, wanted, moments, usable, strict=merge.strict)
        except TiesError:
            self._ties[False] = True
            return None
        if found is None:
            return None
        del keys, events, wanted, moments, labels, places  # half of what is held, and the answers are still to come
        return pa.table({f"a{number}": picked(rows[name], found) for number, name in enumerate(merge.values)})

    def _fits(self, columns: int) -> bool:
        """Whether so many columns of the source may be held in memory: counted (a footer's matter for Parquet), before they are read."""
        if self._memory_limited:
            return False
        count = self.query(text_of(exp.select(exp.alias_(fn("count", exp.Star()), "n")).from_(exp.to_table(self._source))))["n"][0].as_py()
        return bool(count * columns <= MERGE_VALUES_MAX)

    def _has_ties(self, known: bool) -> bool:
        """Whether rows tie. Sorting 64-bit hashes costs a tenth of the join; equal hashes by chance only cost time, never answers."""
        if known not in self._ties:
            assert self._unit is not None
            probe = tie_probe(self._unit.view, self._schema, self._source, known).limit(TIE_PROBE_ROWS_MAX + 1)
            hashes = numbers_of(self.query(text_of(probe))["h"], np.uint64)
            hashes.sort()
            self._ties[known] = len(hashes) > TIE_PROBE_ROWS_MAX or bool((hashes[1:] == hashes[:-1]).any())
        return self._ties[known]

    def _numbers(self, value: Sql) -> Numbers:
        (row,) = self.query(text_of(numbers_probe(value, self._source))).to_pylist()
        return Numbers(row["finite"] is not False, row["greatest"] or 0.0, row["count"], row["mean"] or 0.0)
