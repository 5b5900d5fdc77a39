"""A PostgreSQL of the tests' own: Debian's binaries, a directory and a port of its own, stopped by its process.

    apt-get install -y --no-install-recommends postgresql

The package may start a cluster of its own; it is not used. PostgreSQL refuses to run as root, so as root it runs as the user `postgres`
that the package made, in a directory outside pytest's, which only root may enter.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from waiting import free_port

_NUMBERS = itertools.count(1)


def binaries() -> Path | None:
    """The newest installed server's folder, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class PostgresServer:
    """A server process and its directory."""

    def __init__(self) -> None:
        folder = binaries()
        if folder is None:
            pytest.skip("PostgreSQL is not installed: apt-get install -y --no-install-recommends postgresql")
        self._bin = folder
        self._directory = Path(tempfile.mkdtemp(prefix="fondaco-pg-"))
        self._as: dict[str, object] = {}
        if os.geteuid() == 0:
            user = next(entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody"))
            os.chown(self._directory, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            "initdb",
            "--pgdata",
            str(self._data),
            "--username",
            "owner",
            "--auth",
            "trust",
            "--no-sync",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
        )
        self.start()

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self._bin / program, *arguments], check=True, capture_output=True, cwd=self._directory, **self._as)  # type: ignore[call-overload]

    def start(self) -> None:
        """Start it, and wait until it lets us in."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self._directory, "fsync": "off"}
        settings |= {"shared_buffers": "16MB", "max_connections": "60", "logging_collector": "off"}
        arguments = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *arguments], stdout=log, stderr=log, cwd=self._directory, **self._as
            )  # type: ignore[call-overload]
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT breaks off every connection and shuts down, SIGQUIT crashes."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(30)

    def url(self, database: str, *, user: str = "owner", password: str | None = None) -> str:
        """The URL of a database, as `[catalog] url` takes it."""
        secret = "" if password is None else f":{password}"
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def new_database(self, options: str = "") -> str:
        """The URL of a new, empty database; `options` as CREATE DATABASE has them."""
        name = f"fondaco_{next(_NUMBERS)}"
        self.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def execute(self, statement: str, url: str | None = None) -> None:
        """Run one statement, in a database or beside them all."""
        with contextlib.closing(psycopg.connect(url or self.url("postgres"), autocommit=True)) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def require_passwords(self) -> None:
        """Ask everybody but the owner for a password."""
        rules = "host all owner 127.0.0.1/32 trust\nhost all barred 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (self._data / "pg_hba.conf").write_text(rules)
        self.execute("SELECT pg_reload_conf()")

    def become_standby(self) -> None:
        """Follow nobody for ever, from the next start on: reads are answered, nothing can be written."""
        (self._data / "standby.signal").touch()

    def remove(self) -> None:
        """Stop it and remove its directory."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


@contextlib.contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A server for as long as the block; skips the test where PostgreSQL is not installed."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()
