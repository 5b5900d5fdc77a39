"""Training sets: labels in, the same rows with feature columns out, each as it was known at the label's time.

A `TrainingSet` is lazy: the checks run when it is made, the join when its rows or its record are first asked for, once. Labels are held
in memory (as the result will be); sources are streamed by DuckDB within `memory_limit`. Not for several threads at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.core.clock import Clock, SystemClock, from_us
from fondaco.core.errors import ColumnNotFoundError, DataError, DefinitionError, InputError, NaiveTimestampError
from fondaco.features.checks import infer
from fondaco.features.feature import dtype_named
from fondaco.features.featureset import FeatureSet
from fondaco.features.kinds import TIMESTAMP, ColumnType, Kind, column_type
from fondaco.features.plan import Aggregate, Binding, Node, SetPlan, ViewPlan, aggregates_of, canonical_json
from fondaco.features.sql import LABELS, Numbers, Source, Statement, numbers_probe, output, statements, tie_probe
from fondaco.features.sqlnodes import Sql, all_of, case, col, exp, fn, not_null, number, op, print_node, source_column, text_of
from fondaco.features.table import Table, connect, to_arrow
from fondaco.features.wording import describe_set

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import polars as pl

    from fondaco.catalog import Catalog

TIE_PROBE_ROWS_MAX: Final = 50_000_000  # beyond it rows are taken to tie, which is always right and only slower: the probe holds 8 B a row
CONCURRENT_UNITS: Final = 2
_SOURCE_NUMBERS: Final = itertools.count()
_FINGERPRINT_BYTES: Final = 1 << 16


class RecordKeeper(Protocol):
    """A platform: what a training set needs of it."""

    @property
    def catalog(self) -> Catalog:
        """Where records are kept."""
        ...

    @property
    def clock(self) -> Clock:
        """What time it is."""
        ...


@dataclass(frozen=True)
class SourceRecord:
    """A source as it was read: `fingerprint` changes when its content does; `method` says what it covers."""

    name: str
    identity: tuple[str, ...]
    fingerprint: str
    method: str


@dataclass(frozen=True)
class TrainingRecord:
    """What a training set was made from; enough to make it again and to see what changed if it differs."""

    feature_set: str
    plan_hash: str
    plan: str
    sources: tuple[SourceRecord, ...]
    label_hash: str
    at: str
    rows: int
    null_rates: dict[str, float]
    created: str
    seconds: float
    engine: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        sources = [{"name": s.name, "identity": list(s.identity), "fingerprint": s.fingerprint, "method": s.method} for s in self.sources]
        return {**self.__dict__, "sources": sources}


@dataclass
class _Result:
    table: pa.Table
    record: TrainingRecord


class TrainingSet:
    """Labels with their features, lazily. Made by `training_set`."""

    def __init__(self, feature_set: FeatureSet, labels: pa.Table, at: str, options: Options) -> None:
        self._set, self._labels, self._at, self._options = feature_set, labels, at, options
        self._plan = feature_set.plan()
        self._tables = [definition.table for definition in feature_set.definitions]
        check_labels(self._plan, labels, at, options.tz)
        self._result: _Result | None = None

    def __len__(self) -> int:
        return int(self._labels.num_rows)

    def __repr__(self) -> str:
        state = "computed" if self._result is not None else "not computed yet"
        return f"<training set of {self._set.name!r}: {len(self)} rows, {len(self._set)} features, {state}>"

    @property
    def plan(self) -> SetPlan:
        """What it computes."""
        return self._plan

    def to_arrow(self) -> pa.Table:
        """One row per label row, in the labels' order: the label's columns, then the features in the order of the set.

        Raises:
            DataError: a value that cannot be computed, such as an integer overflow; the message is DuckDB's.
        """
        return self._computed().table

    def to_polars(self) -> pl.DataFrame:
        """The same as a Polars frame."""
        import polars

        frame = polars.from_arrow(self.to_arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas frame; nulls become NaN or None, as pandas does."""
        return self.to_arrow().to_pandas()

    @property
    def record(self) -> TrainingRecord:
        """What it was made from: plan hash, source fingerprints, label hash, row counts, null rates."""
        return self._computed().record

    def explain(self) -> str:
        """The plan in words, then the SQL of every statement."""
        with Engine(self._tables, self._plan, self._labels, self._at, self._options) as engine:
            lines = [describe_set(self._plan), ""]
            for unit in engine.units():
                for statement in engine.statements(unit):
                    lines += [
                        f"-- {unit.view.name} by {', '.join(unit.binding.columns)}: {statement.strategy}",
                        f"{statement.text(pretty=True)};",
                        "",
                    ]
        return "\n".join(lines)

    def _computed(self) -> _Result:
        if self._result is None:
            started = time.perf_counter()
            with Engine(self._tables, self._plan, self._labels, self._at, self._options) as engine:
                columns = engine.run()
            table = self._labels
            for chosen in self._plan.selections:
                table = table.append_column(chosen.output, columns[chosen.output])
            record = self._make_record(table, time.perf_counter() - started)
            self._result = _Result(table, record)
            if self._options.platform is not None:
                _keep(self._options.platform, record)
        return self._result

    def _make_record(self, table: pa.Table, seconds: float) -> TrainingRecord:
        import duckdb

        rows = table.num_rows
        return TrainingRecord(
            feature_set=self._set.name,
            plan_hash=self._plan.version,
            plan=canonical_json(self._plan),
            sources=tuple(fingerprint(definition.table) for definition in self._set.definitions),
            label_hash=arrow_hash(self._labels.select([*self._plan.key_columns, self._at])),
            at=self._at,
            rows=rows,
            null_rates={s.output: table[s.output].null_count / rows if rows else 0.0 for s in self._plan.selections},
            created=from_us(self._options.clock.now_us()).isoformat(),
            seconds=round(seconds, 6),
            engine=f"duckdb {duckdb.__version__}",
        )


@dataclass(frozen=True)
class Options:
    """How a training set is computed; nothing here changes its values."""

    tz: str | None = None
    memory_limit: str | None = None
    threads: int | None = None
    platform: RecordKeeper | None = None
    clock: Clock = field(default_factory=SystemClock)


def training_set(
    platform: RecordKeeper | None,
    feature_set: FeatureSet,
    labels: object,
    *,
    at: str,
    tz: str | None = None,
    memory_limit: str | None = None,
    threads: int | None = None,
) -> TrainingSet:
    """Join features to labels as of each label's time. Checked now, computed when first asked for.

    Args:
        platform: keeps the record of the training set in its catalog; None keeps it nowhere but in the result.
        labels: Arrow, pandas or Polars table, or paths of Parquet or CSV files; its key columns are named like the entities' fields,
            or as `on(...)` says. Rows may repeat, be in any order, and have null keys (their features are null).
        at: the label's time column. tz: its zone, if it has none.
        memory_limit: of DuckDB, such as "1GB"; beyond it, it spills to a temporary directory.
    Raises:
        ColumnNotFoundError, NaiveTimestampError, DefinitionError: found before anything runs.
    """
    table = read_labels(labels)
    clock = platform.clock if platform is not None else SystemClock()
    return TrainingSet(feature_set, table, at, Options(tz, memory_limit, threads, platform, clock))


def _keep(platform: RecordKeeper, record: TrainingRecord) -> None:
    """In the catalog, unless its directory cannot be written: reading must work there."""
    from fondaco.catalog import records

    if platform.catalog.read_only:
        return
    with platform.catalog.write() as connection:
        records.record_training_set(
            connection, record.feature_set, plan_hash=record.plan_hash, record=record.to_dict(), now_us=platform.clock.now_us()
        )


# -- labels -------------------------------------------------------------------------------------------------------------------------


def read_labels(labels: object) -> pa.Table:
    """The labels as an Arrow table.

    Raises:
        InputError, DefinitionError: not a table, or a file that cannot be read.
    """
    if isinstance(labels, Table) or (isinstance(labels, (str, os.PathLike, list, tuple))):
        table = labels if isinstance(labels, Table) else Table(labels, name="labels")
        if table.memory is not None:
            return table.memory
        with contextlib.closing(connect()) as connection:
            table.register(connection, "labels")
            return connection.table("labels").to_arrow_table()
    return to_arrow(labels)


def label_types(labels: pa.Table) -> dict[str, ColumnType]:
    """The columns of the labels as DuckDB sees them."""
    with contextlib.closing(connect(threads=1)) as connection:
        relation = connection.from_arrow(labels.slice(0, 0))
        return {name: column_type(str(stored)) for name, stored in zip(relation.columns, relation.types, strict=True)}


def check_labels(plan: SetPlan, labels: pa.Table, at: str, tz: str | None) -> None:
    """The labels have what the set needs.

    Raises:
        ColumnNotFoundError, NaiveTimestampError, DefinitionError.
    """
    repeated = sorted({name for name in labels.column_names if labels.column_names.count(name) > 1})
    if repeated:
        raise DefinitionError(f"the labels have two columns named {repeated[0]!r}")
    types = label_types(labels)
    if at not in types:
        raise ColumnNotFoundError(at, list(types), "the labels (at=)")
    if types[at].kind != TIMESTAMP:
        raise DefinitionError(f"at={at!r}: the labels' column is {types[at].stored}, expected a timestamp")
    if types[at].naive and tz is None:
        raise NaiveTimestampError(at, "the labels")
    for chosen in plan.selections:
        view = plan.views[chosen.view]
        for column, member, kind in zip(chosen.binding.columns, view.key.fields, view.key.kinds, strict=True):
            if column not in types:
                where = f'the labels ({view.key.entity}.{member}; another column is named by {view.name}.on({{"{member}": ...}}))'
                raise ColumnNotFoundError(column, list(types), where)
            if types[column].kind != kind and types[column].stored != '"NULL"':
                raise DefinitionError(f"the labels' column {column!r} is {types[column].stored}, but {view.key.entity}.{member} is {kind}")
        if chosen.output in types:
            raise DefinitionError(f"the labels have a column {chosen.output!r}, which is also a feature; rename one (feature.alias(...))")


# -- running ------------------------------------------------------------------------------------------------------------------------


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
        with ThreadPoolExecutor(CONCURRENT_UNITS, thread_name_prefix="fondaco-join") as pool:
            answers = list(pool.map(self._compute, units))
        for unit, columns in zip(units, answers, strict=True):
            for aggregate, column in columns.items():
                computed[unit.view_index, unit.binding, aggregate] = column
        return self._derive(computed)

    def _compute(self, unit: Unit) -> dict[Aggregate, pa.ChunkedArray]:
        columns = {}
        with self._session(unit) as session:
            for statement in session.statements():
                table = in_order(session.query(text_of(statement.query)))
                assert table.num_rows == self._labels.num_rows, (
                    f"{unit.view.name}: {table.num_rows} rows for {self._labels.num_rows} labels"
                )
                for number, aggregate in enumerate(statement.aggregates):
                    columns[aggregate] = table[f"a{number}"]
        return columns

    def _session(self, unit: Unit | None = None) -> Session:
        if unit is None:
            return Session(self._connection.cursor(), self._plan.name)
        return Session(self._connection.cursor(), self._plan.name, unit, self._tables[unit.view_index], self._prepared, self._share)

    def _prepare_labels(self) -> pa.Table:
        """Key columns, t in microseconds of UTC, and rid; what else the labels carry never goes through the engine."""
        keys = list(self._plan.key_columns)
        for reserved in ("rid", "t"):
            if reserved in keys:
                raise DefinitionError(
                    f"a key column of the labels is named {reserved!r}, which is taken; rename it and say so with .on(...)"
                )
        column = label_types(self._labels.select([self._at]))[self._at]
        moment = source_column(self._at, column, self._options.tz)
        query = exp.select(exp.alias_(moment, "t")).from_(exp.to_table("raw_labels"))
        with self._session() as session:
            session.register("raw_labels", self._labels.select([self._at]))
            times = session.query(text_of(query))["t"]
        rid = arrow_array(np.arange(self._labels.num_rows, dtype=np.int64), pa.int64())
        return self._labels.select(keys).append_column("t", times).append_column("rid", rid)

    def _derive(self, computed: dict[tuple[int, Binding, Aggregate], pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
        """The features from their aggregates, in their own types; one projection over the answers, which keeps the order."""
        names = {place: f"c{number}" for number, place in enumerate(computed)}
        answers = {names[place]: column for place, column in computed.items()}
        answers |= {f"label_{name}": self._prepared[name] for name in (*self._plan.key_columns, "t")}
        schemas = [table.schema() for table in self._tables]
        chosen = []
        for selection in self._plan.selections:
            place = (selection.view, selection.binding)
            feature = self._plan.views[selection.view].feature(selection.feature)

            def leaf(node: Node, place: tuple[int, Binding] = place) -> tuple[Sql, Kind]:
                assert isinstance(node, Aggregate)
                name = self._tables[place[0]].name
                return col(names[*place, node]), infer(node, schemas[place[0]], self._plan.views[place[0]].scan, name)

            value, kind = print_node(feature.value, leaf)
            if not isinstance(feature.value, Aggregate):
                usable = all_of([not_null(col(f"label_{name}")) for name in (*selection.binding.columns, "t")])
                value = case((usable, value))
            dtype = dtype_named(feature.dtype)
            chosen.append(exp.alias_(output(value, kind, dtype.duckdb), selection.output, quoted=True))
        with self._session() as session:
            session.register("answers", pa.table(answers))
            table = session.query(text_of(exp.select(*chosen).from_(exp.to_table("answers"))))
        types = {s.output: dtype_named(self._plan.views[s.view].feature(s.feature).dtype).arrow for s in self._plan.selections}
        return {name: table[name] if table[name].type == types[name] else table[name].cast(types[name]) for name in types}


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
    ) -> None:
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
        return statements(unit.view, unit.aggregates, unit.binding, Source(self._source, self._schema, self._has_ties, self._numbers))

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


def in_order(table: pa.Table) -> pa.Table:
    """The rows by `rid`, which holds 0 to n - 1 in any order."""
    positions = numbers_of(table["rid"], np.int64)
    answers = table.drop_columns(["rid"])
    if (positions[1:] > positions[:-1]).all():
        return answers
    order: npt.NDArray[np.int64] | None = None
    columns = []
    for column in answers.columns:
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            columns.append(_scattered(column, positions))
            continue
        if order is None:
            order = np.empty(len(positions), np.int64)
            order[positions] = np.arange(len(positions))
        columns.append(column.combine_chunks().take(arrow_array(order, pa.int64())))
    return pa.table(columns, names=answers.column_names)


def _scattered(column: pa.ChunkedArray, positions: npt.NDArray[np.int64]) -> pa.Array:
    """Numbers put in their places: a third of the time that Arrow's `take` needs."""
    kind = column.type.to_pandas_dtype()
    values, missing = np.empty(len(positions), kind), np.zeros(len(positions), np.bool_)
    start = 0
    for chunk in column.chunks:
        places = positions[start : start + len(chunk)]
        values[places] = _raw(chunk, kind)
        if chunk.null_count:
            missing[places] = np.unpackbits(_bits(chunk), count=len(chunk) + chunk.offset % 8, bitorder="little")[chunk.offset % 8 :] == 0
        start += len(chunk)
    return arrow_array(values, column.type, ~missing if column.null_count else None)


def numbers_of(column: pa.ChunkedArray, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """A column of numbers without nulls as one fresh array."""
    return np.concatenate([np.empty(0, kind), *(_raw(chunk, kind) for chunk in column.chunks)])


def _raw(chunk: pa.Array, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    return (
        np.frombuffer(chunk.buffers()[1], kind, count=len(chunk), offset=chunk.offset * np.dtype(kind).itemsize)
        if len(chunk)
        else np.empty(0, kind)
    )


def _bits(chunk: pa.Array) -> npt.NDArray[np.uint8]:
    return np.frombuffer(chunk.buffers()[0], np.uint8)[chunk.offset // 8 :]


def arrow_array(values: npt.NDArray[Any], kind: pa.DataType, valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """NumPy numbers as Arrow, without a copy. (`pyarrow.array` and `to_numpy` would import pandas first, a tenth of a second, to ask whether it is a series.)"""
    validity = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values)])


# -- what the record says -----------------------------------------------------------------------------------------------------------


def arrow_hash(table: pa.Table) -> str:
    """BLAKE2b of a table's content in Arrow's IPC form."""
    digest = hashlib.blake2b(digest_size=16)

    class Sink:
        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return digest.hexdigest()


def fingerprint(table: Table) -> SourceRecord:
    """What identifies the content of a source as it is now; files are sampled, so that this stays milliseconds for any size."""
    identity = table.scan().source
    digest = hashlib.blake2b(digest_size=16)
    if table.memory is not None:
        return SourceRecord(table.name, identity, arrow_hash(table.memory), "arrow content")
    if table.sql is not None:
        digest.update(table.sql.query.encode())
        for name, content in sorted(table.sql.tables.items()):
            digest.update(f"{name}:{arrow_hash(content)}".encode())  # type: ignore[arg-type]
        return SourceRecord(table.name, identity, digest.hexdigest(), "query text and its tables in memory")
    for name in table.files():
        path = Path(name)
        status = path.stat()
        digest.update(f"{name}:{status.st_size}:{status.st_mtime_ns}".encode())
        with path.open("rb") as file:
            for share in range(17):
                file.seek(max(0, (status.st_size - _FINGERPRINT_BYTES) * share // 16))
                digest.update(file.read(_FINGERPRINT_BYTES))
    return SourceRecord(table.name, identity, digest.hexdigest(), "path, size, modification time, 17 samples of 64 KiB")
