"""Tables: the sources that features are computed from. Virtual: nothing is copied or read until a feature set runs, except the schema.

A source is Parquet or CSV files, a table in memory (Arrow, pandas, Polars, anything with the Arrow stream interface, a DuckDB relation),
or SQL for DuckDB (`ft.Sql`). With `time=` its rows are events; without, they are static facts, one per key. Immutable; any thread.
"""

from __future__ import annotations

import contextlib
import glob
import os
import threading
import zoneinfo
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from fondaco.core.errors import ColumnNotFoundError, DefinitionError, InputError, NaiveTimestampError
from fondaco.features.entity import Entity, entity_fields
from fondaco.features.expressions import Expression
from fondaco.features.kinds import TIMESTAMP, ColumnType, column_type
from fondaco.features.plan import Column, Key, Scan

if TYPE_CHECKING:
    import duckdb

_CSV_SUFFIXES: Final = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt")


class UnknownColumnError(ColumnNotFoundError, AttributeError):  # type: ignore[misc]  # both have a `name`, and it means the same
    """`table.c.nmae`: also an AttributeError, so that tools that look for optional attributes are not stopped."""


@dataclass(frozen=True)
class Sql:
    """A DuckDB query as a source: `ft.Sql("select * from 'flights.parquet' where not cancelled")`.

    Args:
        query: one SELECT; it runs in the connection of the training set, with `SET TimeZone='UTC'`.
        tables: name -> Arrow, pandas or Polars table that the query may name.
    """

    query: str
    tables: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.query, str):
            raise DefinitionError(f"ft.Sql takes the text of a query, not {self.query!r}")


class Columns:
    """The columns of a table: `flights.c.dep_delay` or, for names that are no identifiers, `flights.c["dep delay"]`."""

    __slots__ = ("_table",)

    def __init__(self, table: Table) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Expression:
        schema = self._table.schema_if_known()
        if schema is not None and name not in schema:
            raise UnknownColumnError(name, list(schema), f"table {self._table.name!r}")
        return Expression(Column(name, self._table))

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __dir__(self) -> list[str]:
        return [*(self._table.schema_if_known() or ())]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.schema())


class Table:
    """A source of features.

    Args:
        source: path or paths of Parquet or CSV files (globs allowed), a table in memory, `Sql`, or a DuckDB relation.
        time: column of the event time. Without it the rows are static facts: lookups by key, no windows.
        known_at: column of the time from which a row may be used. A row is visible at t if event time <= t and known time <= t;
            a row whose known time is null is never visible.
        key: the entity (its fields are columns of the source), several entities, `{field: column}`, or `{Entity: column or mapping}`.
            Left out, a view's entity finds its fields by name.
        tz: the zone of times without one ("UTC", "America/New_York"). Such times are refused if it is missing.
        name: for messages and plans; the file's name, if left out.
    Raises:
        DefinitionError: an option that contradicts another; NaiveTimestampError and ColumnNotFoundError as soon as the schema can be read.
    """

    def __init__(
        self,
        source: object,
        *,
        time: str | None = None,
        known_at: str | None = None,
        key: Any = None,
        tz: str | None = None,
        name: str | None = None,
    ) -> None:
        if known_at is not None and time is None:
            raise DefinitionError(
                f"known_at={known_at!r} without time=: name the column of the event time too, or leave both out for static facts"
            )
        check_zone(tz)
        self.time, self.known_at, self.tz = time, known_at, tz
        self._paths: tuple[str, ...] = ()
        self._arrow: pa.Table | None = None
        self._sql: Sql | None = None
        if isinstance(source, Sql):
            self._sql = Sql(source.query, {table: to_arrow(content) for table, content in source.tables.items()})
        elif isinstance(source, (str, os.PathLike)):
            self._paths = (os.fspath(source),)
        elif isinstance(source, Sequence) and source and all(isinstance(item, (str, os.PathLike)) for item in source):
            self._paths = tuple(os.fspath(item) for item in source)
        else:
            self._arrow = to_arrow(source)
        self.name = name or (Path(self._paths[0]).name if self._paths else "query" if self._sql else "table")
        self._named = name is not None
        self._keys = _normalise_keys(key)
        self._schema: dict[str, ColumnType] | None = None
        self._seen: object = None  # signature of the source when the schema was read

    @property
    def c(self) -> Columns:
        """The columns, for expressions."""
        return Columns(self)

    def __repr__(self) -> str:
        return f"<table {self.name!r}>"

    # -- what plans say of it -------------------------------------------------------------------------------------------------------

    def scan(self) -> Scan:
        """The plan node of this source. A table in memory is identified by its name alone."""
        if self._sql is not None:
            source: tuple[str, ...] = ("sql", self._sql.query)
        elif self._paths:
            source = ("files", *self._paths)
        else:
            source = ("memory", self.name)
        return Scan(source, self.time, self.known_at, self.tz)

    def key_of(self, entity: type[Entity]) -> Key:
        """The plan node that says which columns hold the fields of `entity`.

        Raises:
            DefinitionError: the table is declared to be keyed by others.
        """
        fields = entity_fields(entity)
        mapping: Mapping[str, str] = {}
        if self._keys:
            if entity in self._keys:
                mapping = self._keys[entity]
            elif None in self._keys:
                mapping = self._keys[None]
            else:
                declared = ", ".join(other.__name__ for other in self._keys if other is not None)
                raise DefinitionError(
                    f"table {self.name!r} is keyed by {declared}, not by {entity.__name__}; write key=[{declared}, {entity.__name__}]"
                )
        for member in mapping:
            if member not in fields:
                raise ColumnNotFoundError(member, list(fields), f"entity {entity.__name__}")
        return Key(entity.__name__, tuple(fields), tuple(fields.values()), tuple(mapping.get(member, member) for member in fields))

    # -- what the source says -------------------------------------------------------------------------------------------------------

    def schema(self, *, fresh: bool = False) -> dict[str, ColumnType]:
        """Columns and their types, read from the source (milliseconds: a file's footer or head, never its rows).

        Raises:
            InputError: the source cannot be opened.
            ColumnNotFoundError, NaiveTimestampError, DefinitionError: time= or known_at= does not fit it.
        """
        signature = self._signature()
        if self._schema is None or (fresh and (signature is None or signature != self._seen)):
            with self._reading() as connection:
                self._schema = _types_of(self._relation(connection))
            self._check_times(self._schema)
            self._seen = signature
        return self._schema

    def _signature(self) -> object:
        """Changes when the source may have changed; None if nobody can tell (a query)."""
        if self._arrow is not None:
            return "memory"
        if self._sql is not None:
            return None
        return tuple((name, status.st_size, status.st_mtime_ns) for name in self.files() for status in [os.stat(name)])

    def schema_if_known(self) -> dict[str, ColumnType] | None:
        """The schema, or None where the files do not exist yet."""
        if self._schema is None and self._paths and not self.files():
            return None
        return self.schema()

    def register(self, connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, ColumnType]:
        """Make the source visible as `name` in a connection, and return its schema.

        Raises:
            InputError: the source cannot be opened or the query is wrong; the cause is DuckDB's.
        """
        import duckdb

        relation = self._relation(connection)
        try:
            relation.create_view(name, replace=True)
        except duckdb.Error as exc:
            raise self._unreadable(exc) from exc
        return _types_of(relation)

    def read(self) -> pa.Table:
        """All rows of the source.

        Raises:
            InputError: as `register`.
        """
        import duckdb

        if self._arrow is not None:
            return self._arrow
        with self._reading() as connection:
            relation = self._relation(connection)
            try:
                return relation.to_arrow_table()
            except duckdb.Error as exc:
                raise self._unreadable(exc) from exc

    def _reading(self) -> contextlib.AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A connection to read with. Queries get a DuckDB of their own: they may name what they like, and leave nothing behind."""
        return contextlib.closing(connect()) if self._sql is not None else shared()

    def _relation(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        import duckdb

        try:
            if self._arrow is not None:
                return connection.from_arrow(self._arrow)
            if self._sql is not None:
                for table, content in self._sql.tables.items():
                    connection.register(table, content)
                statements = connection.extract_statements(self._sql.query)
                if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:  # before any of them has run
                    raise DefinitionError(f"table {self.name!r}: the SQL is not one SELECT: {self._sql.query}")
                return connection.sql(self._sql.query)
            files = self.files()
            if not files:
                raise InputError(f"table {self.name!r}: no such file: {', '.join(self._paths)}")
            csv = files[0].lower().endswith(_CSV_SUFFIXES)
            return connection.read_csv(files) if csv else connection.read_parquet(files)  # type: ignore[arg-type]  # csv: lists too
        except duckdb.Error as exc:
            raise self._unreadable(exc) from exc

    def _unreadable(self, cause: Exception) -> InputError:
        return InputError(f"table {self.name!r} cannot be read: {cause}")

    def files(self) -> list[str]:
        """Paths that exist now, globs expanded, in order."""
        found: list[str] = []
        for path in self._paths:
            found.extend(sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path] if os.path.exists(path) else [])
        return found

    @property
    def memory(self) -> pa.Table | None:
        """The table in memory, if that is what the source is."""
        return self._arrow

    @property
    def sql(self) -> Sql | None:
        """The query, if that is what the source is."""
        return self._sql

    def _check_times(self, schema: dict[str, ColumnType]) -> None:
        for option, column in (("time", self.time), ("known_at", self.known_at)):
            if column is None:
                continue
            if column not in schema:
                raise ColumnNotFoundError(column, list(schema), f"table {self.name!r} ({option}=)")
            found = schema[column]
            if found.kind != TIMESTAMP:
                raise DefinitionError(
                    f"table {self.name!r}: {option}={column!r} is {found.stored}, expected a timestamp (turn it into one with ft.Sql)"
                )
            if found.naive and self.tz is None:
                raise NaiveTimestampError(column, f"table {self.name!r}")


def _types_of(relation: duckdb.DuckDBPyRelation) -> dict[str, ColumnType]:
    return {column: column_type(str(stored)) for column, stored in zip(relation.columns, relation.types, strict=True)}


_shared: dict[int, duckdb.DuckDBPyConnection] = {}  # by process: after a fork a DuckDB has lost its threads, and is left alone
_shared_lock = threading.Lock()


@contextlib.contextmanager
def shared() -> Iterator[duckdb.DuckDBPyConnection]:
    """A session of the process's own DuckDB, for what reads and defines nothing: a fresh DuckDB costs 12 ms, a session 0.2 ms."""
    with _shared_lock:
        if os.getpid() not in _shared:
            _shared[os.getpid()] = connect(enable_external_file_cache=False)  # it lives on, and must not hold what it has read
        connection = _shared[os.getpid()].cursor()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def check_zone(tz: str | None) -> None:
    """
    Raises:
        DefinitionError: no time zone's name.
    """
    if tz is not None and (not isinstance(tz, str) or tz not in zoneinfo.available_timezones()):
        raise DefinitionError(f'tz={tz!r} is no time zone; write for example "UTC" or "America/New_York"')


def connect(**settings: str | bool | int) -> duckdb.DuckDBPyConnection:
    """A fresh DuckDB in memory that reads and writes times in UTC.

    Raises:
        InputError: a setting that DuckDB refuses.
    """
    import duckdb

    try:
        connection = duckdb.connect(config=dict(settings))
    except duckdb.Error as exc:
        raise InputError(f"DuckDB refuses {settings}: {exc}") from exc
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def to_arrow(content: object) -> pa.Table:
    """Any table in memory as Arrow. NaN of pandas becomes null, as pandas means it; Arrow's and Polars' NaN stays NaN.

    Raises:
        DefinitionError: not a table.
    """
    if isinstance(content, pa.Table):
        return content
    if isinstance(content, pa.RecordBatch):
        return pa.Table.from_batches([content])
    if type(content).__module__.partition(".")[0] == "pandas":
        return _as_table(lambda: pa.Table.from_pandas(content, preserve_index=False))
    if hasattr(content, "to_arrow_table"):  # a DuckDB relation, bound to its own connection: its rows are taken now
        return content.to_arrow_table()
    if hasattr(content, "__arrow_c_stream__"):
        return pa.table(content)
    if isinstance(content, Mapping):
        return _as_table(lambda: pa.table(dict(content)))
    if hasattr(content, "collect"):
        raise DefinitionError(f"{type(content).__name__} is not computed yet; write .collect() behind it")
    raise DefinitionError(
        f"{type(content).__name__} is no table: give paths of Parquet or CSV files, an Arrow, pandas or Polars table, or ft.Sql(...)"
    )


def _as_table(make: Callable[[], pa.Table]) -> pa.Table:
    try:
        return make()
    except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise DefinitionError(f"the columns make no table: {exc}") from exc


def _normalise_keys(key: Any) -> dict[type[Entity] | None, Mapping[str, str]]:
    """Entity -> field -> column; the entity None stands for "whichever the view names"."""
    if key is None:
        return {}
    if isinstance(key, type) and issubclass(key, Entity):
        return {key: {}}
    if isinstance(key, Mapping):
        if all(isinstance(member, str) for member in key):
            return {None: dict(key)}
        found: dict[type[Entity] | None, Mapping[str, str]] = {}
        for entity, columns in key.items():
            if not (isinstance(entity, type) and issubclass(entity, Entity)) or not isinstance(columns, (str, Mapping)):
                raise DefinitionError(f"key={key!r}: map each entity class to a column, or to a mapping of its fields to columns")
            fields = list(entity_fields(entity))
            found[entity] = {fields[0]: columns} if isinstance(columns, str) else dict(columns)
        return found
    if isinstance(key, Sequence) and not isinstance(key, str):
        return {entity: {} for entity in key}
    raise DefinitionError(f"key={key!r}: give an entity class, several, or a mapping of its fields to columns")
