"""The catalog in PostgreSQL: shared by the platforms' processes on several machines.

A transaction that writes first takes an advisory lock, which it holds until it ends, and then reads at READ COMMITTED: since nobody else
writes meanwhile, what it has read cannot change, exactly as under SQLite's BEGIN IMMEDIATE. (SERIALIZABLE would promise as much, but asks
for the transaction to be run again when it fails, and the body of a `with` cannot be; REPEATABLE READ would take its snapshot before the
lock was granted.) Transactions that read see one snapshot, and wait for nobody. The lock belongs to the schema in use, so that several
platforms can live in one database, each in a schema of its own (`?options=-csearch_path%3Dname` in the URL).

A process that stops in the middle of a write would hold the lock: the server ends its transaction after `IDLE_IN_TRANSACTION_S`, and TCP
keep-alives end that of a machine that went away. No prepared statements are used, so a pooler may stand between.
"""

from __future__ import annotations

import re
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import ArgumentError, DBAPIError

from fondaco.core.errors import (
    CorruptFileError,
    DiskFullError,
    FondacoError,
    InputError,
    LockedError,
    MissingExtraError,
    PermissionDeniedError,
    ReadOnlyError,
    UnavailableError,
)

BUSY_TIMEOUT_S = 10.0  # as in `_sqlite`
IDLE_IN_TRANSACTION_S = 30.0  # of a transaction that writes: between two statements we do nothing slow
CONNECT_TIMEOUT_S: Final = 5
CONNECTIONS_MAX: Final = 20  # a process; PostgreSQL allows 100 by default, and each costs it a process
READING: Final[dict[str, Any]] = {}
WRITING: Final[dict[str, Any]] = {"fondaco_write": True}

_DRIVER: Final = "postgresql+psycopg"
_KEEPALIVE: Final = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
_COMMITTED: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('fondaco catalog ' || coalesce(current_schema(), ''), 0))"


def parse_url(url: str) -> URL:
    """The parts of "postgresql://user:password@host:5432/database".

    Raises:
        InputError: it is none; the message does not repeat it, for it may hold a password.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in ("postgresql", "postgres", _DRIVER) or not parsed.database:
        raise InputError(
            "the URL of the catalog is not understood: write [catalog] url as postgresql://user@host:5432/database; "
            "the password may be in it, in ~/.pgpass or in PGPASSWORD"
        )
    return parsed.set(drivername=_DRIVER)


def place_of(url: URL) -> str:
    """The database in words, for messages: without user, password and options."""
    return f"postgresql://{url.host or 'localhost'}:{url.port or 5432}/{url.database}"


def make_engine(url: URL) -> sa.Engine:
    """An engine for the database; nothing is connected yet.

    Raises:
        MissingExtraError: psycopg is not installed.
    """
    settings: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "fondaco",
        "client_encoding": "utf8",  # a database without an encoding (SQL_ASCII) would else answer in bytes
        "prepare_threshold": None,
        **_KEEPALIVE,
    }
    try:
        engine = sa.create_engine(
            url,
            connect_args={name: value for name, value in settings.items() if name not in url.query},  # the URL has the last word
            pool_size=5,
            max_overflow=CONNECTIONS_MAX - 5,
            pool_pre_ping=True,  # a restarted server must not cost every pooled connection one failed call
            hide_parameters=True,
        )
    except ModuleNotFoundError as exc:
        raise MissingExtraError("psycopg", "postgres", "a catalog in PostgreSQL") from exc

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Said in SQL, not by SQLAlchemy's options: those would begin every later transaction as READ WRITE, which overrules the server.
        if not connection.get_execution_options().get("fondaco_write"):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        else:
            patience = f"SET LOCAL lock_timeout = {round(BUSY_TIMEOUT_S * 1000)}"
            idle = f"SET LOCAL idle_in_transaction_session_timeout = {round(IDLE_IN_TRANSACTION_S * 1000)}"
            connection.exec_driver_sql(f"{_COMMITTED}; {patience}; {idle}; {_LOCK}")  # one round trip

    return engine


def table_names(connection: Connection) -> set[str]:
    """The tables that exist in the schema in use."""
    return set(connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").scalars())


def translated(exc: DBAPIError, place: str) -> FondacoError | None:
    """Our error for one of PostgreSQL's, or None if it is a mistake of ours; `place` is the database in words."""
    state = getattr(exc.orig, "sqlstate", None) or ""
    reason = _first_line(str(exc.orig))
    if state in ("55P03", "40001", "40P01"):  # no lock in time, serialisation failure, deadlock
        return LockedError(place)
    if state == "53100":
        return DiskFullError(place)
    if state == "25006":  # a standby, or a database that was made read-only
        return ReadOnlyError(place)
    if state in ("42501", "28000", "28P01") or _REFUSED.search(reason):
        return PermissionDeniedError(_user_of(reason), "connect" if state != "42501" else "write", f"{place} ({reason})")
    if state == "3D000" or _NO_DATABASE.search(reason):
        return InputError(f"{place}: {reason}; make the database (createdb), or correct [catalog] url")
    if state in ("XX001", "XX002"):
        return CorruptFileError(place, "catalog", reason)
    if exc.connection_invalidated or state[:2] in ("08", "53", "57") or state == "25P03" or (not state and _is_operational(exc)):
        return UnavailableError(place, reason)
    return None


# What libpq says where it gives no code: while a connection is made.
_REFUSED: Final = re.compile(r"authentication failed|pg_hba\.conf|no password supplied|role \"[^\"]*\" does not exist", re.IGNORECASE)
_NO_DATABASE: Final = re.compile(r"database \"[^\"]*\" does not exist")
_USER: Final = re.compile(r"(?:user|role) \"([^\"]*)\"")


def _first_line(message: str) -> str:
    """What went wrong, without the list of addresses and hints around it."""
    line = next(iter(message.strip().splitlines()), "no reason given").strip()
    return line.rsplit("FATAL:", 1)[-1].strip().rstrip(".")


def _user_of(reason: str) -> str:
    found = _USER.search(reason)
    return found.group(1) if found else "the catalog's user"


def _is_operational(exc: DBAPIError) -> bool:
    from psycopg import InterfaceError, OperationalError

    return isinstance(exc.orig, OperationalError | InterfaceError)
