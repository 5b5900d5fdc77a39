"""Catalog: the SQLite database of one platform directory, opened, brought up to date and handed out in transactions.

Writers are serialised by SQLite itself: `write()` begins with BEGIN IMMEDIATE, so what a transaction reads cannot change before it
commits, and a check followed by a change inside one `write()` is a compare-and-set. Keep them short; never do slow work inside. Readers
never wait (WAL). Any number of threads and processes; an object must not cross a fork.

A directory that cannot be written is opened read-only: reading works, `write()` raises ReadOnlyError.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.pool import QueuePool

from fondaco.catalog import tables
from fondaco.core.errors import CorruptFileError, DiskFullError, FormatVersionError, LockedError, ReadOnlyError, StateError, StorageError

CATALOG_FILE = "catalog.sqlite"
HEAD_REVISION = "0002"  # newest revision in migrations/versions; a test compares
BUSY_TIMEOUT_S = 10.0  # our transactions take milliseconds; whoever waits this long waits for something that hangs

_COUNT = tables.changes.update().values(counter=tables.changes.c.counter + 1)
_CHANGED = "fondaco.changed"  # in a connection's `info`: whether the transaction under way has changed rows
_ALEMBIC = threading.Lock()  # alembic keeps the migration at work in module globals


class Catalog:
    """The open catalog of one platform directory; close it when done."""

    def __init__(self, engine: sa.Engine, path: Path, *, read_only: bool) -> None:
        self._engine = engine
        self.path = path
        self.read_only = read_only
        self._closed = False
        self._finalizer = weakref.finalize(self, engine.dispose)  # for one that came by pickle, which nobody closes

    def __reduce__(self) -> tuple[object, ...]:
        """What has it open can be pickled; where it arrives, the catalog is opened again."""
        self._check_open()
        return _reopen, (self.path.parent, self.read_only)

    @classmethod
    def open(cls, directory: Path, *, read_only: bool = False, must_exist: bool = False) -> Catalog:
        """Open the catalog in `directory`; create it, or bring it up to date, unless `read_only`.

        Args:
            must_exist: there is data that only the catalog explains, so one without tables is a loss and not a beginning.
        Raises:
            FormatVersionError: a newer Fondaco made it; nothing was changed.
            CorruptFileError: not a database, or nothing in it where it `must_exist`; nothing was changed.
            StorageError: absent and `read_only`.
        """
        path = directory / CATALOG_FILE
        if must_exist and not (path.exists() and path.stat().st_size):  # looked at before SQLite: to open is to create
            raise _lost(path, "it is empty" if path.exists() else "it is missing")
        if read_only and not path.exists():
            raise StorageError(f"{path} is missing, and the directory cannot be written")
        catalog = cls(_engine(path, read_only=read_only), path, read_only=read_only)
        try:
            revision = catalog._revision()
            if revision is None and must_exist:
                raise _lost(path, "its tables are missing")
            if revision != HEAD_REVISION:
                catalog._upgrade()
        except BaseException:
            catalog.close()
            raise
        return catalog

    def close(self) -> None:
        """Close every connection; the last process to do so folds the write-ahead log into the database. Reading then raises StateError."""
        self._closed = True
        self._finalizer()

    def _check_open(self) -> None:
        if self._closed:
            raise StateError(f"the platform {str(self.path.parent)!r} is closed; open it again")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the catalog and changes nothing."""
        self._check_open()
        with _sql_errors(self.path), self._engine.connect() as connection, connection.begin():
            yield connection

    def change_counter(self) -> int:
        """A number that grows with every committed change: as long as it stays, what was read stays right. Costs one look-up by key."""
        with self.read() as connection:
            return int(connection.execute(sa.select(tables.changes.c.counter)).scalar_one())

    @contextlib.contextmanager
    def write(self, *, quiet: bool = False) -> Iterator[Connection]:
        """A transaction that excludes every other writer until it ends; leaving by an exception undoes it.

        Args:
            quiet: leave the change counter alone, for what nobody caches (a lease renewed, progress of a push).
        Raises:
            ReadOnlyError, DiskFullError: nothing was written; LockedError: another writer held on for more than 10 s.
        """
        self._check_open()
        if self.read_only:
            raise ReadOnlyError(str(self.path.parent))
        with _sql_errors(self.path), self._engine.connect().execution_options(begin="IMMEDIATE") as connection, connection.begin():
            connection.info[_CHANGED] = False
            yield connection
            if connection.info[_CHANGED] and not quiet:
                connection.execute(_COUNT)

    def _revision(self) -> str | None:
        with self.read() as connection:
            present = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
            if "alembic_version" not in present:
                return None
            revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            if revision is not None and "stores" not in present:
                raise _lost(self.path, "its tables are missing")
        if revision is not None and revision > HEAD_REVISION:
            raise FormatVersionError(str(self.path), int(revision) if revision.isdigit() else -1, int(HEAD_REVISION))
        return revision

    def _upgrade(self) -> None:
        # alembic is imported only here: an up-to-date catalog, the usual case, opens without its 70 ms
        import alembic.command
        from alembic.config import Config

        if self.read_only:
            raise ReadOnlyError(str(self.path.parent))
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        with _ALEMBIC, self.write() as connection:  # a second process that opens at the same time waits here and finds nothing left to do
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")


def _reopen(directory: Path, read_only: bool) -> Catalog:
    return Catalog.open(directory, read_only=read_only, must_exist=True)


def _lost(path: Path, reason: str) -> CorruptFileError:
    return CorruptFileError(str(path), "catalog", f"{reason}, and only it knows what the stores hold")


def _engine(path: Path, *, read_only: bool) -> sa.Engine:
    def connect() -> sqlite3.Connection:
        with contextlib.ExitStack() as on_error:
            connection = sqlite3.connect(
                _uri(path, read_only), uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            on_error.callback(connection.close)
            connection.execute("PRAGMA foreign_keys = ON")
            if not read_only:
                _use_write_ahead_log(connection)
                connection.execute("PRAGMA synchronous = FULL")  # a swap that was reported must survive power loss
            on_error.pop_all()
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=QueuePool)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', '')}")

    @sa.event.listens_for(engine, "after_cursor_execute")
    def after_cursor_execute(connection: Connection, *details: Any) -> None:
        context = details[3]
        if context.isinsert or context.isupdate or context.isdelete:
            connection.info[_CHANGED] = True

    return engine


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # Only the first process ever changes the mode. SQLite answers "locked" at once, without its busy handler, when two try together.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _uri(path: Path, read_only: bool) -> str:
    name = f"file:{quote(str(path.absolute()))}"
    if not read_only:
        return name
    # Reading a WAL database needs its -shm file or leave to make one. Where neither is there, nobody is writing either (a writer would
    # have made both), so the file may be read as immutable.
    log = path.with_name(path.name + "-wal")
    quiet = not log.exists() or log.stat().st_size == 0
    return f"{name}?mode=ro&immutable=1" if quiet and not os.access(path.parent, os.W_OK, effective_ids=True) else f"{name}?mode=ro"


@contextlib.contextmanager
def _sql_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as exc:
        ours = _translated(exc, path)
        if ours is None:
            raise
        raise ours from exc


def _translated(exc: DBAPIError, path: Path) -> StorageError | LockedError | None:
    code = getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF  # the primary code; the rest tells variants apart
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LockedError(str(path))
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(str(path))
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return ReadOnlyError(str(path.parent))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) and isinstance(exc, DatabaseError):
        return CorruptFileError(str(path), "catalog", str(exc.orig))
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        usage = os.statvfs(path.parent)
        return DiskFullError(str(path)) if usage.f_bavail == 0 else StorageError(f"{path}: {exc.orig}")
    return None
