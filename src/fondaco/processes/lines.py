"""Lines: what the supervised processes say, one line at a time, each with the name of who said it, on the supervisor's stderr.

Nobody waits for whoever reads that stderr: a thread writes, lines queue up to a bound, and what does not fit is dropped and counted.
A paused terminal must not stop a data plane.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from typing import Final

LINES_MAX: Final = 10_000
LINE_BYTES_MAX: Final = 8192
_CHUNK_BYTES: Final = 1 << 16


class LineWriter:
    """Writes whole lines to a file descriptor from a thread of its own. `say` may be called from any thread and never waits.

    Not to `sys.stderr`: its lock, held by a thread whose write hangs, would hang the end of the interpreter too.
    """

    def __init__(self, descriptor: int, *, lines_max: int = LINES_MAX) -> None:
        self._descriptor = descriptor
        self._queue: queue.Queue[bytes | None] = queue.Queue(lines_max)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def say(self, name: str, line: str | bytes) -> None:
        """Queue one line, without its end, as said by `name`."""
        text = line.encode(errors="replace") if isinstance(line, str) else line
        try:
            self._queue.put_nowait(b"%-8s | %s\n" % (name.encode(), text[:LINE_BYTES_MAX]))
        except queue.Full:
            self._dropped += 1

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for as long as that may take."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            self._write(line)
            if self._dropped and self._queue.empty():
                self._confess()
        if self._dropped:  # the queue was full until its end
            self._confess()

    def _confess(self) -> None:
        dropped, self._dropped = self._dropped, 0
        self._write(b"%-8s | %d lines were dropped: nobody read them in time\n" % (b"up", dropped))

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # nobody reads any more; go on emptying the queue
            return


class LineSink:
    """What one process says, line by line under its name, and what is said about it, under ours."""

    def __init__(self, writer: LineWriter, name: str, ours: str) -> None:
        self._writer, self._name, self._ours = writer, name, ours

    async def take(self, stream: asyncio.StreamReader) -> None:
        await forward(stream, self._name, self._writer)

    def say(self, what: str) -> None:
        self._writer.say(self._ours, what)


async def forward(stream: asyncio.StreamReader, name: str, writer: LineWriter) -> None:
    """Pass on lines until the stream ends. A line longer than LINE_BYTES_MAX arrives in pieces."""
    rest = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            for start in range(0, max(len(line), 1), LINE_BYTES_MAX):
                writer.say(name, line[start : start + LINE_BYTES_MAX].rstrip(b"\r"))
        while len(rest) > LINE_BYTES_MAX:
            writer.say(name, rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
    if rest:
        writer.say(name, rest)
