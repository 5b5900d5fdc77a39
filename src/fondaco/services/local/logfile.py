"""Log files: what an instance says, in two files of bounded size: when one is full it becomes the older one, and the oldest half goes.

What cannot be written, as on a full disk, is lost and counted; nobody waits for it. One writer; any number of readers, from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

LOG_BYTES_MAX: Final = 8 << 20  # of each of the two
_CHUNK_BYTES: Final = 1 << 16
_TAIL_BYTES_MAX: Final = 4 << 20  # read for the newest lines, however long they are


class LogFile:
    """Writes a log. Remarks go to `remark`."""

    def __init__(self, path: Path, *, bytes_max: int = LOG_BYTES_MAX) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._descriptor: int | None = None
        self._size = 0
        self._lost = 0

    async def take(self, stream: asyncio.StreamReader) -> None:
        """Write all that a stream brings."""
        while chunk := await stream.read(_CHUNK_BYTES):
            self.write(chunk)

    def write(self, data: bytes) -> None:
        """Write, or lose and count."""
        try:
            self._make_room(len(data))
            if self._lost:
                self._write(b"\n[%d bytes that were said here could not be written]\n" % self._lost)
                self._lost = 0
            self._write(data)
        except OSError:
            self._lost += len(data)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _make_room(self, count: int) -> None:
        if self._descriptor is not None and self._size + count > self._bytes_max:
            self.close()
            os.replace(self.path, older(self.path))
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._descriptor).st_size

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)
            self._size += written
            rest = rest[written:]


def older(path: Path) -> Path:
    """The file before this one."""
    return path.with_name(path.name + ".1")


def tail(path: Path, lines: int) -> list[str]:
    """The newest lines of a log, oldest first; none if there is no log."""
    if lines <= 0:
        return []
    data = _end_of(path, lines)
    if data.count(b"\n") <= lines and len(data) < _TAIL_BYTES_MAX:
        data = _end_of(older(path), lines) + data
    return [line.rstrip("\r") for line in data.decode(errors="replace").removesuffix("\n").split("\n")][-lines:] if data else []


def _end_of(path: Path, lines: int) -> bytes:
    """The end of a file, with at least so many lines in it if it has them and they are not too long."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        position, data = file.seek(0, os.SEEK_END), b""
        while position and len(data) < _TAIL_BYTES_MAX and data.count(b"\n") <= lines:
            step = min(position, _CHUNK_BYTES)
            position -= step
            file.seek(position)
            data = file.read(step) + data
        return data
    return b""
