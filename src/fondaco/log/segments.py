"""Segments: the files that hold one partition's records, oldest first; their names, headers, and which of them count.

A segment is appended to until the next one is begun; then it never changes. A compaction replaces one by a rename and covers its
neighbours, so a directory may hold files that are dead already: those below the first base offset of the state, and those that an earlier
segment covers. Byte layout: docs/internals/log-format.md. Free functions; any thread.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError, FormatVersionError
from fondaco.core.xxh64 import xxh64
from fondaco.log._kernels import SEGMENT_HEADER_BYTES

MAGIC: Final = b"\x89FONLOG\n"
FORMAT_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIqQqq8x")
_U64: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Segment:
    """What the header of a file says, and where the file is."""

    base_offset: int
    base_position: int
    created_ms: int
    covers_offset: int
    path: Path

    @property
    def index_path(self) -> Path:
        """The index beside it."""
        return self.path.with_suffix(".index")


def segment_path(directory: Path, base_offset: int) -> Path:
    """Where the segment of this base offset lies."""
    return directory / f"{base_offset:020d}.log"


def pack_header(base_offset: int, base_position: int, created_ms: int, *, covers_offset: int = 0) -> bytes:
    """The 64 bytes that begin a segment."""
    head = _HEADER.pack(MAGIC, FORMAT_VERSION, 0, base_offset, base_position, created_ms, covers_offset)
    return head + _U64.pack(checksum_of(head))


def read_header(path: Path) -> Segment:
    """The header of a segment.

    Raises:
        CorruptFileError: it is damaged or cut off. FormatVersionError: a newer Fondaco wrote it. FileNotFoundError: it was removed.
    """
    with open(path, "rb") as file:
        data = file.read(SEGMENT_HEADER_BYTES)
    if len(data) < SEGMENT_HEADER_BYTES:
        raise CorruptFileError(str(path), "header", f"it has {len(data)} of {SEGMENT_HEADER_BYTES} bytes")
    magic, version, _, base_offset, base_position, created_ms, covers_offset = _HEADER.unpack_from(data)
    if magic != MAGIC or _U64.unpack_from(data, 56)[0] != checksum_of(data[:56]):
        raise CorruptFileError(str(path), "header", "its magic or its checksum is wrong")
    if version > FORMAT_VERSION:
        raise FormatVersionError(str(path), version, FORMAT_VERSION)
    if segment_path(path.parent, base_offset).name != path.name:
        raise CorruptFileError(str(path), "header", f"it is the header of the segment that begins at {base_offset}")
    return Segment(base_offset, base_position, created_ms, covers_offset, path)


def base_offsets(directory: Path) -> list[int]:
    """Base offsets of all segment files in a directory, ascending, the dead ones too."""
    return sorted(int(name[:-4]) for name in os.listdir(directory) if len(name) == 24 and name.endswith(".log") and name[:-4].isdigit())


def live_segments(directory: Path, first_base: int, last_base: int, known: dict[int, Segment]) -> list[Segment]:
    """The segments that count, oldest first: from `first_base` to `last_base`, and not covered by another.

    Args:
        known: headers read before, by base offset, which need not be read again.
    Raises:
        CorruptFileError, FormatVersionError: as `read_header`. FileNotFoundError: a file went away meanwhile; look again.
    """
    live, _, unreadable = readable_segments(directory, first_base, last_base, known)
    if unreadable is not None:
        raise unreadable
    return live


def readable_segments(
    directory: Path, first_base: int, last_base: int | None = None, known: dict[int, Segment] | None = None
) -> tuple[list[Segment], list[Path], CorruptFileError | None]:
    """As `live_segments`, but only up to the first header that cannot be read; then the files that are dead, and what is wrong there."""
    live: list[Segment] = []
    dead: list[Path] = []
    for base in base_offsets(directory):
        if last_base is not None and base > last_base:
            break
        path = segment_path(directory, base)
        if base < first_base or (live and base < live[-1].covers_offset):
            dead.append(path)
            continue
        try:
            live.append((known or {}).get(base) or read_header(path))
        except CorruptFileError as exc:
            return live, dead, exc
    return live, dead, None


def remove_segment(path: Path) -> None:
    """Unlink a segment and its index; those who have it open read on."""
    path.with_suffix(".index").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


# -- bytes ------------------------------------------------------------------------------------------------------------------------------


def bytes_of(data: bytes | bytearray | mmap.mmap) -> npt.NDArray[np.uint8]:
    """A view of bytes as uint8; nothing is copied."""
    return np.frombuffer(data, np.uint8)


def address_of(array: npt.NDArray[np.generic]) -> int:
    """Where an array's bytes lie, for kernels. Hold the array while they run."""
    return int(array.__array_interface__["data"][0])


def checksum_of(data: bytes) -> int:
    """XXH64 of a few bytes."""
    return int(xxh64(address_of(bytes_of(data)), len(data)))


def write_at(descriptor: int, data: memoryview | bytes, position: int) -> None:
    """Write all of `data` at `position`.

    Raises:
        OSError: some of it may have been written.
    """
    rest = memoryview(data)
    while len(rest):
        written = os.pwrite(descriptor, rest, position)
        position += written
        rest = rest[written:]


def read_at(descriptor: int, count: int, position: int) -> npt.NDArray[np.uint8]:
    """`count` bytes at `position`, fewer where the file ends."""
    data = os.pread(descriptor, count, position)
    while len(data) < count:  # one call gives 2 GiB at most, and may be interrupted
        more = os.pread(descriptor, count - len(data), position + len(data))
        if not more:
            break
        data += more
    return bytes_of(data)


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """An open descriptor for the length of a block."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
