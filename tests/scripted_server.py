"""A server that does what a test tells it: real sockets on 127.0.0.1, raw bytes, and every way to misbehave. For tests of clients.

with ScriptedServer(handler) as server:            # handler(request) -> bytes to send, or an action
    ThinReader(server.url, ...)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Got:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int  # which connection, counted from 0
    number: int  # which request on the server, counted from 0


class CloseNow(Exception):  # noqa: N818  # an action, not an error
    """Close the connection without an answer, or after `first`."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first


Handler = Callable[[Got], "bytes | Awaitable[bytes]"]


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP answer; underscores in names of headers are dashes."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


@dataclass
class ScriptedServer:
    """Runs in a thread of its own until the block is left."""

    handler: Handler
    requests: list[Got] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    def __enter__(self) -> ScriptedServer:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop_listening(self) -> None:
        """Refuse new connections and break the old ones."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.connections = self.connections, self.connections + 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")[:-2]
                method, target, _ = first.split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                got = Got(method, target, headers, body, number, len(self.requests))
                self.requests.append(got)
                data = self.handler(got)
                writer.write(data if isinstance(data, bytes) else await data)
                await writer.drain()
        except CloseNow as exc:
            writer.write(exc.first)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
