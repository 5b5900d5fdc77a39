"""Index: where to begin looking in a segment for an offset or a time. One sparse file beside each segment.

It is a hint and never the truth: every use checks the entry, and without one the search begins at the segment's begin. So it is written
without a sync, after the batch it names is visible, and a full disk costs only the entry. Layout: docs/internals/log-format.md.
Only the holder of the partition's lock writes; anybody reads.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fondaco.log._kernels import BATCH_HEADER_BYTES, BATCH_MAGIC, NO_TIMESTAMP, SEGMENT_HEADER_BYTES
from fondaco.log.segments import checksum_of

SPACING_BYTES: Final = 256 << 10  # walking headers over so much takes some microseconds
ENTRY_BYTES: Final = 32
_ENTRY: Final = struct.Struct("<qQq")
_U64: Final = struct.Struct("<Q")
_DTYPE: Final = np.dtype([("offset", "<i8"), ("byte", "<u8"), ("timestamp_max", "<i8"), ("checksum", "<u8")])
_BATCH_HEAD: Final = struct.Struct("<II8xq")


class Entry(NamedTuple):
    """A batch begins with `offset` at `byte`; no record before it in the segment has a timestamp greater than `timestamp_max`."""

    offset: int
    byte: int
    timestamp_max: int


def pack_entry(entry: Entry) -> bytes:
    """The 32 bytes of an entry."""
    head = _ENTRY.pack(*entry)
    return head + _U64.pack(checksum_of(head))


def read_index(path: Path) -> npt.NDArray[np.void]:
    """All entries, sound or not; none when there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    return np.frombuffer(data, _DTYPE, len(data) // ENTRY_BYTES)


def sound_entry(entries: npt.NDArray[np.void], at: int) -> Entry | None:
    """Entry `at` if its checksum is right."""
    if not 0 <= at < len(entries):
        return None
    data = entries[at].tobytes()
    return Entry(*_ENTRY.unpack_from(data)) if _U64.unpack_from(data, 24)[0] == checksum_of(data[:24]) else None


def find_offset(entries: npt.NDArray[np.void], offset: int) -> Entry | None:
    """The last entry at or before `offset`."""
    return sound_entry(entries, int(np.searchsorted(entries["offset"], offset, "right")) - 1)


def find_before_time(entries: npt.NDArray[np.void], timestamp_ms: int) -> Entry | None:
    """The last entry before which every record is older than `timestamp_ms`."""
    return sound_entry(entries, int(np.searchsorted(entries["timestamp_max"], timestamp_ms, "left")) - 1)


def names_a_batch(descriptor: int, entry: Entry, end: int) -> bool:
    """Whether a batch of the entry's offset begins where it says, before byte `end` of the segment."""
    if not SEGMENT_HEADER_BYTES <= entry.byte <= end - BATCH_HEADER_BYTES:
        return False
    magic, _, offset = _BATCH_HEAD.unpack(os.pread(descriptor, _BATCH_HEAD.size, entry.byte))
    return bool(magic == BATCH_MAGIC and offset == entry.offset)


def greatest_timestamp(path: Path, segment_bytes: int) -> int | None:
    """The greatest timestamp of a closed segment, from the entry that closing it wrote behind the last batch; None: not known."""
    entries = read_index(path)
    last = sound_entry(entries, len(entries) - 1)
    return last.timestamp_max if last is not None and last.byte == segment_bytes else None


class IndexBuilder:
    """Chooses which batches of a segment get an entry. `timestamp_max`: of all batches added so far."""

    def __init__(self, *, last_byte: int = -SPACING_BYTES, timestamp_max: int = NO_TIMESTAMP) -> None:
        self.last_byte, self.timestamp_max = last_byte, timestamp_max
        self.entries: list[Entry] = []

    def add(self, offset: int, byte: int, timestamp_max: int) -> None:
        """A batch with this base offset begins at `byte` and has this greatest timestamp."""
        if byte - self.last_byte >= SPACING_BYTES:
            self.entries.append(Entry(offset, byte, self.timestamp_max))
            self.last_byte = byte
        self.timestamp_max = max(self.timestamp_max, timestamp_max)

    def close(self, next_offset: int, byte: int) -> None:
        """The segment ends at `byte`: the entry that tells its greatest timestamp."""
        self.entries.append(Entry(next_offset, byte, self.timestamp_max))

    def packed(self) -> bytes:
        """The entries chosen, as they lie in the file."""
        return b"".join(map(pack_entry, self.entries))
