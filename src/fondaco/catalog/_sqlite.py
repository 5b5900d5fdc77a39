"""The catalog in SQLite: one file in the platform's directory, shared by its processes.

Writers are serialised by SQLite itself: BEGIN IMMEDIATE takes the write lock before anything is read. Readers never wait (WAL).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.pool import QueuePool

from fondaco.core.errors import CorruptFileError, DiskFullError, FondacoError, LockedError, ReadOnlyError, StorageError

BUSY_TIMEOUT_S = 10.0  # our transactions take milliseconds; whoever waits this long waits for something that hangs
READING: Final[dict[str, Any]] = {}  # execution options of a transaction that reads, and of one that writes
WRITING: Final[dict[str, Any]] = {"begin": "IMMEDIATE"}


def make_engine(path: Path, *, read_only: bool) -> sa.Engine:
    """An engine for the file at `path`; nothing is opened yet."""

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

    return engine


def table_names(connection: Connection) -> set[str]:
    """The tables that exist."""
    return set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())


def translated(exc: DBAPIError, place: str) -> FondacoError | None:
    """Our error for one of SQLite's, or None if it is a mistake of ours; `place` is the file."""
    code = getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF  # the primary code; the rest tells variants apart
    directory = Path(place).parent
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LockedError(place)
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(place)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return ReadOnlyError(str(directory))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) and isinstance(exc, DatabaseError):
        return CorruptFileError(place, "catalog", str(exc.orig))
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        usage = os.statvfs(directory)
        return DiskFullError(place) if usage.f_bavail == 0 else StorageError(f"{place}: {exc.orig}")
    return None


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
