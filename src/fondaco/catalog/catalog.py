"""Catalog: the database of a platform's names and versions, opened, brought up to date and handed out in transactions.

It is a SQLite file in the platform's directory, or, for a platform shared by several machines, a PostgreSQL database; both behave alike
(`fondaco.testing.CatalogContract`). Writers exclude each other from the beginning of `write()` on, so what a transaction reads cannot
change before it commits, and a check followed by a change inside one `write()` is a compare-and-set. Keep them short; never do slow work
inside. Readers never wait. Any number of threads and processes; an object must not cross a fork.

A directory that cannot be written is opened read-only: reading works, `write()` raises ReadOnlyError.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from fondaco.catalog import _postgres, _sqlite, tables
from fondaco.core.errors import CorruptFileError, FormatVersionError, LockedError, ReadOnlyError, StateError, StorageError

CATALOG_FILE = "catalog.sqlite"
HEAD_REVISION = "0004"  # newest revision in migrations/versions; a test compares

_BACKENDS: dict[str, Any] = {"sqlite": _sqlite, "postgresql": _postgres}
_COUNT = tables.changes.update().values(counter=tables.changes.c.counter + 1)
_CHANGED = "fondaco.changed"  # in a connection's `info`: whether the transaction under way has changed rows
_ALEMBIC = threading.Lock()  # alembic keeps the migration at work in module globals


class Catalog:
    """The open catalog of one platform; close it when done."""

    def __init__(self, engine: sa.Engine, directory: Path, *, read_only: bool, url: str | None = None) -> None:
        """Use `Catalog.open`."""
        self._engine = engine
        self._backend = _BACKENDS[engine.dialect.name]
        self._url = url
        self.directory = directory
        self.place = str(directory / CATALOG_FILE) if url is None else _postgres.place_of(engine.url)
        self.read_only = read_only
        self._closed = False
        self._finalizer = weakref.finalize(self, engine.dispose)  # for one that came by pickle, which nobody closes

    def __reduce__(self) -> tuple[object, ...]:
        """What has it open can be pickled; where it arrives, the catalog is opened again. With a password in the URL, so has the pickle."""
        self._check_open()
        return _reopen, (self.directory, self.read_only, self._url)

    def __repr__(self) -> str:
        return f"<Catalog {self.place!r}>"

    @classmethod
    def open(cls, directory: Path, *, url: str | None = None, read_only: bool = False, must_exist: bool = False) -> Catalog:
        """Open a platform's catalog; create it, or bring it up to date, unless `read_only`.

        Args:
            directory: the platform's.
            url: None: SQLite in the directory; else "postgresql://user:password@host:5432/database", which must exist.
            must_exist: there is data that only the catalog explains, so one without tables is a loss and not a beginning.
        Raises:
            FormatVersionError: a newer Fondaco made it; nothing was changed.
            CorruptFileError: not a database, or nothing in it where it `must_exist`; nothing was changed.
            StorageError: absent and `read_only`.
            UnavailableError: the server does not answer. PermissionDeniedError: it does not let us in. MissingExtraError: no psycopg.
            InputError: not such a URL, or no such database. No message holds the password.
        """
        if url is None:
            _check_file(directory / CATALOG_FILE, read_only=read_only, must_exist=must_exist)
            engine = _sqlite.make_engine(directory / CATALOG_FILE, read_only=read_only)
        else:
            engine = _postgres.make_engine(_postgres.parse_url(url))
        _watch_changes(engine)
        catalog = cls(engine, directory, read_only=read_only, url=url)
        try:
            revision = catalog._revision()
            if revision is None and must_exist:
                raise _lost(catalog.place, "its tables are missing")
            if revision is None and read_only:
                raise StorageError(f"{catalog.place} has no tables, and may not be written")
            if revision != HEAD_REVISION:
                catalog._upgrade()
        except BaseException:
            catalog.close()
            raise
        return catalog

    def close(self) -> None:
        """Close every connection; the last process to do so folds SQLite's write-ahead log into the file. `read` then raises StateError."""
        self._closed = True
        self._finalizer()

    def _check_open(self) -> None:
        if self._closed:
            raise StateError(f"the platform {str(self.directory)!r} is closed; open it again")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the catalog and changes nothing.

        Raises:
            UnavailableError: the server does not answer (any more).
        """
        self._check_open()
        with self._begin(self._backend.READING) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, *, quiet: bool = False) -> Iterator[Connection]:
        """A transaction that excludes every other writer until it ends; leaving by an exception undoes it.

        Args:
            quiet: leave the change counter alone, for what nobody caches (a lease renewed, progress of a push).
        Raises:
            ReadOnlyError, DiskFullError: nothing was written; LockedError: another writer held on for more than 10 s.
            UnavailableError: the server does not answer (any more). While it commits, that leaves open whether it has.
        """
        self._check_open()
        if self.read_only:
            raise ReadOnlyError(str(self.directory))
        with self._begin(self._backend.WRITING) as connection:
            connection.info[_CHANGED] = False
            yield connection
            if connection.info[_CHANGED] and not quiet:
                connection.execute(_COUNT)

    def change_counter(self) -> int:
        """A number that grows with every committed change: as long as it stays, what was read stays right. Costs one look-up by key."""
        with self.read() as connection:
            return int(connection.execute(sa.select(tables.changes.c.counter)).scalar_one())

    @contextlib.contextmanager
    def _begin(self, options: dict[str, Any]) -> Iterator[Connection]:
        with self._sql_errors(), self._engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def _sql_errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as exc:
            ours = self._backend.translated(exc, self.place)
            if ours is None:
                raise
            raise ours from exc
        except PoolTimeoutError as exc:  # every connection of this process is in use, and stays so
            raise LockedError(self.place) from exc

    def _revision(self) -> str | None:
        with self.read() as connection:
            present = self._backend.table_names(connection)
            if "alembic_version" not in present:
                return None
            revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            if revision is not None and "stores" not in present:
                raise _lost(self.place, "its tables are missing")
        if revision is not None and revision > HEAD_REVISION:
            raise FormatVersionError(self.place, int(revision) if revision.isdigit() else -1, int(HEAD_REVISION))
        return revision

    def _upgrade(self) -> None:
        # alembic is imported only here: an up-to-date catalog, the usual case, opens without its 70 ms
        import alembic.command
        from alembic.config import Config

        if self.read_only:
            raise ReadOnlyError(str(self.directory))
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        with _ALEMBIC, self.write() as connection:  # a second process that opens at the same time waits here and finds nothing left to do
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")


def _reopen(directory: Path, read_only: bool, url: str | None) -> Catalog:
    return Catalog.open(directory, url=url, read_only=read_only, must_exist=True)


def _check_file(path: Path, *, read_only: bool, must_exist: bool) -> None:
    """Looked at before SQLite: to open is to create."""
    if must_exist and not (path.exists() and path.stat().st_size):
        raise _lost(str(path), "it is empty" if path.exists() else "it is missing")
    if read_only and not path.exists():
        raise StorageError(f"{path} is missing, and the directory cannot be written")


def _lost(place: str, reason: str) -> CorruptFileError:
    return CorruptFileError(place, "catalog", f"{reason}, and only it knows what the stores hold")


def _watch_changes(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "after_cursor_execute")
    def after_cursor_execute(connection: Connection, *details: Any) -> None:
        context = details[3]
        if context.isinsert or context.isupdate or context.isdelete:
            connection.info[_CHANGED] = True
