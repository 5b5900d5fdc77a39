"""A data-plane server as a process of its own, for tests: started on a free port, asked with plain sockets, stopped by its pid."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

START_S = 120.0


class Reply:
    """An answer: status, headers by lower-case name, body."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"])

    def __repr__(self) -> str:
        return f"Reply({self.status}, {self.body[:300]!r})"


class DataServer:
    """The server of a platform directory."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        command = [sys.executable, "-m", "fondaco.dataplane.serve", str(directory), "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            self.url = self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        self.port = int(self.url.rpartition(":")[2])

    def _wait_until_ready(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("data plane on "):
            self.process.kill()
            raise RuntimeError(f"the server did not start: {line!r} {self.process.communicate(timeout=20)}")
        return line.split()[-1]

    def ask(
        self, method: str, target: str, body: bytes | Any = None, headers: Mapping[str, str] | None = None, timeout: float = 20
    ) -> Reply:
        """One request on a connection of its own. A body that is no bytes goes as JSON."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            return ask(connection, method, target, body, headers)

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            yield connection

    @contextlib.contextmanager
    def raw(self, timeout: float = 20) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as raw:
            yield raw

    def stop(self) -> int:
        """End it as an operator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=30)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def open_connections(self) -> int:
        """Connections that the server's process has open, listener and all."""
        return sum(
            os.readlink(entry.path).startswith("socket:") for entry in os.scandir(f"/proc/{self.process.pid}/fd") if _is_there(entry.path)
        )

    def __enter__(self) -> DataServer:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.alive:
            self.process.terminate()
            try:
                self.process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
        else:
            self.kill()


def _is_there(path: str) -> bool:
    return os.path.islink(path)


def ask(
    connection: http.client.HTTPConnection, method: str, target: str, body: bytes | Any = None, headers: Mapping[str, str] | None = None
) -> Reply:
    """One request on a connection that stays."""
    given = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        given.setdefault("Content-Type", "application/json")
    connection.request(method, target, body, given)
    answer = connection.getresponse()
    return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def receive(raw: socket.socket) -> bytes:
    """Everything until the other side ends."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := raw.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


def receive_answers(raw: socket.socket, count: int) -> list[Reply]:
    """So many answers with a Content-Length, in order."""
    held, answers = b"", []
    while len(answers) < count:
        end = held.find(b"\r\n\r\n")
        if end >= 0:
            status, *lines = held[:end].decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(headers.get("content-length", "0"))
            if len(held) >= end + 4 + length:
                answers.append(Reply(int(status.split()[1]), headers, held[end + 4 : end + 4 + length]))
                held = held[end + 4 + length :]
                continue
        piece = raw.recv(1 << 16)
        assert piece, f"the connection ended after {len(answers)} answers: {held[:200]!r}"
        held += piece
    assert not held, held[:200]
    return answers
