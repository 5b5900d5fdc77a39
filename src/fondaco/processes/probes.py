"""Probes: how a supervisor finds out whether a process it started is ready, and later whether it still answers.

A probe is asked about one process by its pid and says yes or no within a deadline of its own; it never raises. After a no, `why` says in
words what came instead. asyncio, one loop, one question at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import ssl

PROBE_S: Final = 5.0
_OK: Final = range(200, 201)
_HEAD_LINES_MAX: Final = 100
_WHY_BYTES: Final = 200  # of an answer's body, to be shown


class Probe(Protocol):
    """What can be asked about a process."""

    why: str

    async def is_ready(self, pid: int) -> bool:
        """Whether it can do its work now."""
        ...

    async def is_alive(self, pid: int) -> bool:
        """Whether it still moves: a process that was ready and does not for long is taken to hang."""
        ...


@dataclass(slots=True)
class RunningProbe:
    """Nothing is asked: a process is ready that still runs `settle_s` after it was first asked about; many mistakes end one before."""

    settle_s: float = 0.0
    why: str = ""
    _since: tuple[int, float] = (0, 0.0)

    async def is_ready(self, pid: int) -> bool:
        if self._since[0] != pid:
            self._since = (pid, time.monotonic())
        return time.monotonic() - self._since[1] >= self.settle_s

    async def is_alive(self, pid: int) -> bool:
        return True


@dataclass(slots=True)
class HttpProbe:
    """`GET` of a server on this machine. Its certificate is not looked at: we know whom we started.

    Attributes:
        ready, alive: paths asked. statuses: that are a yes.
    """

    host: str
    port: int
    tls: bool = False
    ready: str = "/readyz"
    alive: str = "/healthz"
    statuses: range = _OK
    timeout_s: float = PROBE_S
    why: str = ""

    async def is_ready(self, pid: int) -> bool:
        return await self._answers(self.ready)

    async def is_alive(self, pid: int) -> bool:
        return await self._answers(self.alive)

    async def _answers(self, path: str) -> bool:
        where = f"GET {'https' if self.tls else 'http'}://{self.host}:{self.port}{path}"
        try:
            async with asyncio.timeout(self.timeout_s):
                status, said = await self._ask(path)
        except TimeoutError:
            self.why = f"{where} was not answered within {self.timeout_s:g} s"
        except OSError as exc:
            self.why = f"{where}: {_words(exc)}"
        except (ValueError, IndexError):
            self.why = f"{where} was answered with something that is not HTTP"
        else:
            if status in self.statuses:
                return True
            self.why = f"{where} was answered with {status}" + (f": {said}" if said else "")
        return False

    async def _ask(self, path: str) -> tuple[int, str]:
        """The status and, if that is a no, the beginning of what it says."""
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=_trusting() if self.tls else None)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
            status = int((await reader.readline()).split()[1])
            if status in self.statuses:
                return status, ""
            for _ in range(_HEAD_LINES_MAX):
                if not (await reader.readline()).strip():
                    break
            return status, _first_line(await reader.read(_WHY_BYTES))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@dataclass(slots=True)
class TcpProbe:
    """The port takes connections."""

    host: str
    port: int
    timeout_s: float = PROBE_S
    why: str = ""

    async def is_ready(self, pid: int) -> bool:
        try:
            async with asyncio.timeout(self.timeout_s):
                _, writer = await asyncio.open_connection(self.host, self.port)
        except TimeoutError:
            self.why = f"port {self.port} took no connection within {self.timeout_s:g} s"
            return False
        except OSError as exc:
            self.why = f"port {self.port}: {_words(exc)}"
            return False
        writer.transport.abort()
        return True

    async def is_alive(self, pid: int) -> bool:
        return await self.is_ready(pid)


@dataclass(slots=True)
class CommandProbe:
    """A program, run beside the process, that ends with 0. One that takes too long is killed, with all that it started in its group.

    Attributes:
        env: its variables; None: ours. before_exec: called in the child before it becomes the program (only where no thread runs).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    timeout_s: float = PROBE_S
    before_exec: Callable[[], None] | None = field(default=None, repr=False)
    why: str = ""

    async def is_ready(self, pid: int) -> bool:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=self.env,
                cwd=self.cwd,
                process_group=0,
                preexec_fn=self.before_exec,
            )
        except OSError as exc:
            self.why = f"the readiness command {self.argv[0]!r} could not be started: {_words(exc)}"
            return False
        try:
            async with asyncio.timeout(self.timeout_s):
                code = await process.wait()
        except TimeoutError:
            self.why = f"the readiness command {self.argv[0]!r} did not end within {self.timeout_s:g} s"
            return False
        finally:
            if process.returncode is None:  # also when whoever asked has been cancelled
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        self.why = f"the readiness command {self.argv[0]!r} ended with exit code {code}"
        return code == 0

    async def is_alive(self, pid: int) -> bool:
        return await self.is_ready(pid)


@dataclass(slots=True)
class FileProbe:
    """A file that the process writes when it is ready, with its pid in it, and touches while it moves."""

    path: Path
    stale_s: float = 30.0
    why: str = ""

    async def is_ready(self, pid: int) -> bool:
        try:
            if self.path.read_text().split()[0] == str(pid):
                return True
        except (OSError, IndexError, ValueError):
            pass
        self.why = f"it has not written {self.path.name}"
        return False

    async def is_alive(self, pid: int) -> bool:
        try:
            if time.time() - self.path.stat().st_mtime < self.stale_s:
                return True
        except OSError:
            pass
        self.why = f"it has not touched {self.path.name} for {self.stale_s:g} s"
        return False


def _trusting() -> ssl.SSLContext:
    import ssl  # here: it costs 10 ms and 3 MB, and few ask for TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _words(exc: OSError) -> str:
    return (os.strerror(exc.errno) if exc.errno else str(exc)).lower()


def _first_line(body: bytes) -> str:
    line = body.decode(errors="replace").strip().split("\n")[0].strip()
    return "".join(letter for letter in line if letter.isprintable())
