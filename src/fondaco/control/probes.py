"""Probes: how the supervisor finds out whether a process it started is ready, and later whether it still answers.

A probe is asked about one process by its pid and says yes or no within a deadline of its own; it never raises. asyncio, one loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

PROBE_S: Final = 5.0


class Probe(Protocol):
    """What can be asked about a process."""

    async def is_ready(self, pid: int) -> bool:
        """Whether it can do its work now."""
        ...

    async def is_alive(self, pid: int) -> bool:
        """Whether it still moves: a process that was ready and does not for long is taken to hang."""
        ...


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """`GET /readyz` and `GET /healthz` of a server on this machine. Its certificate is not looked at: we know whom we started."""

    host: str
    port: int
    tls: bool = False

    async def is_ready(self, pid: int) -> bool:
        return await self._answers("/readyz")

    async def is_alive(self, pid: int) -> bool:
        return await self._answers("/healthz")

    async def _answers(self, path: str) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                return await self._status(path) == 200
        except (OSError, TimeoutError, ValueError, IndexError):
            return False

    async def _status(self, path: str) -> int:
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
            return int((await reader.readline()).split()[1])
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@dataclass(frozen=True, slots=True)
class FileProbe:
    """A file that the process writes when it is ready, with its pid in it, and touches while it moves."""

    path: Path
    stale_s: float = 30.0

    async def is_ready(self, pid: int) -> bool:
        try:
            return self.path.read_text().split()[0] == str(pid)
        except (OSError, IndexError, ValueError):
            return False

    async def is_alive(self, pid: int) -> bool:
        try:
            return time.time() - self.path.stat().st_mtime < self.stale_s
        except OSError:
            return False
