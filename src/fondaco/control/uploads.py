"""Uploads: rows that arrive over HTTP for a push: spooled to disk within a bound, then pushed by a process of its own (`push_job`).

The disk and not memory holds what arrives, and a broken upload never begins a push. At most `AT_ONCE` uploads and pushes are at work; one
more is told to come again. A push goes on when its caller leaves: the same push id asks for the same report. At shutdown, pushes that are
at work are taken back. asyncio, one loop, in the main thread (see `launch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from starlette.concurrency import run_in_threadpool

from fondaco.control.push_job import PushJob, PushOutcome
from fondaco.core.errors import FondacoError, LimitError, UnavailableError
from fondaco.core.files import os_errors, remove_tree
from fondaco.core.runfile import run_directory
from fondaco.dataplane import wire
from fondaco.processes.launch import command

AT_ONCE: Final = 4
_WRITE_BYTES: Final = 1 << 20  # per hop to a worker thread
_TAKE_BACK_S: Final = 10.0


class Uploads:
    """The uploads and pushes of one platform directory."""

    def __init__(self, directory: Path, *, bytes_max: int) -> None:
        self._directory = directory
        self._spool = run_directory(directory) / "spool"
        self._bytes_max = bytes_max
        self._at_work = 0
        self._jobs: set[asyncio.Task[bytes]] = set()
        self._children: set[asyncio.subprocess.Process] = set()
        self._closing = False

    def open(self) -> None:
        """Make the spool, empty: what lies in it is of a process that died."""
        with os_errors(self._spool):
            remove_tree(self._spool)
            self._spool.mkdir(parents=True)

    async def close(self) -> None:
        """Take back the pushes that are at work, within a bound."""
        self._closing = True
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=_TAKE_BACK_S)
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        if self._jobs:
            await asyncio.wait(self._jobs)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place among those at work.

        Raises:
            UnavailableError: there is none; try again later.
        """
        if self._closing or self._at_work >= AT_ONCE:
            reason = "it is stopping" if self._closing else f"{AT_ONCE} pushes are at work already"
            raise UnavailableError("the control API", reason)
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    @contextlib.asynccontextmanager
    async def spooled(self, parts: AsyncIterator[bytes], announced: int | None) -> AsyncIterator[tuple[Path, int]]:
        """The body of a request as a file, and its size in bytes; the file is removed at the end.

        Raises:
            LimitError: it is larger than allowed. DiskFullError: it does not fit.
        """
        if announced is not None and announced > self._bytes_max:
            raise self._too_large(announced)
        path = self._spool / f"{secrets.token_hex(8)}.arrows"
        try:
            with os_errors(path):
                file: BinaryIO = await run_in_threadpool(path.open, "xb")
                try:
                    size = await self._write(file, parts)
                finally:
                    await run_in_threadpool(file.close)
            yield path, size
        finally:
            path.unlink(missing_ok=True)

    async def _write(self, file: BinaryIO, parts: AsyncIterator[bytes]) -> int:
        size, pending = 0, bytearray()
        async for part in parts:
            size += len(part)
            if size > self._bytes_max:
                raise self._too_large(size)
            pending += part
            if len(pending) >= _WRITE_BYTES:
                await run_in_threadpool(file.write, pending)
                pending = bytearray()
        await run_in_threadpool(file.write, pending)
        return size

    def _too_large(self, size: int) -> LimitError:
        return LimitError("bytes of a push over the network", size, self._bytes_max, "Push in parts, or raise push_bytes_max in [server].")

    async def push(self, job: PushJob) -> bytes:
        """Run a push in a process of its own; returns its report as JSON. It runs to its end even if the caller leaves.

        Raises:
            what the push raised. UnavailableError: its process died, or was ended because we stop.
        """
        task = asyncio.create_task(self._push(job))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return await asyncio.shield(task)

    async def _push(self, job: PushJob) -> bytes:
        child = await asyncio.create_subprocess_exec(
            *command("fondaco.control.push_job"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._children.add(child)
        try:
            said, _ = await child.communicate(msgspec.json.encode(job))
        finally:
            self._children.discard(child)
        outcome = _outcome(said)
        if outcome is not None and outcome.ended_well:
            return bytes(outcome.body)
        if self._closing:
            raise UnavailableError("the control API", "it is stopping, and took the push back")
        if outcome is None:
            raise UnavailableError("the control API", f"the push's process ended with {child.returncode}")
        raise wire.error_of(bytes(outcome.body)) or FondacoError(bytes(outcome.body).decode())


def _outcome(said: bytes) -> PushOutcome | None:
    try:
        return msgspec.json.decode(said, type=PushOutcome)
    except msgspec.MsgspecError:
        return None
