"""State: the cells of one partition, mapped by all who append to it and all who read it. Layout: docs/internals/log-format.md.

A cell is one aligned int64: it changes in one store of the processor, and a reader sees the old or the new number. Only the process that
holds the partition's lock (flock on this very file) writes. `HIGH_POSITION` is stored before `HIGH_OFFSET`, and both after the bytes they
speak of, so whoever reads them in the other order finds everything in place. The file is never replaced while the topic lives.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
from pathlib import Path
from typing import Final

STATE_FILE: Final = "state"
STATE_BYTES: Final = 4096
STATE_MAGIC: Final = int.from_bytes(b"FONSTAT\n", "little")
STATE_FORMAT: Final = 1

# -- cells ----------------------------------------------------------------------------------------------------------------------------
MAGIC: Final = 0
FORMAT: Final = 1
LOW_OFFSET: Final = 2
HIGH_OFFSET: Final = 3  # committed end: the next offset
HIGH_POSITION: Final = 4  # committed end in bytes since the first segment began
ACTIVE_BASE: Final = 5  # base offset of the segment that is appended to; -1: no segment yet
FIRST_BASE: Final = 6  # base offset of the oldest segment; -1: none
GENERATION: Final = 7  # grows when segments are removed, rewritten or cut off: forget what you know about files
SYNCED_OFFSET: Final = 8  # everything below survives a loss of power
SYNCED_POSITION: Final = 9
BOOT: Final = 10  # hash of the boot id of the machine's run in which the cells were written
WRITING: Final = 11  # process id of whoever is changing files now; not 0 under a lock that is free: it died, recover first
APPENDED_MS: Final = 12  # moment of the last append; never goes back
DELETED: Final = 13  # 1: the topic was deleted, let go
SEGMENT_TIMESTAMP_MAX: Final = 14  # greatest timestamp in the active segment; NO_TIMESTAMP: it is empty
INDEX_ENTRIES: Final = 15  # entries in the active segment's index
INDEX_BYTE: Final = 16  # byte in the active segment that the last of them names
PENDING_OFFSET: Final = 17  # what HIGH_OFFSET and HIGH_POSITION become when the batch at work is published
PENDING_POSITION: Final = 18
RESERVED_POSITION: Final = 19  # the active file goes on up to here, with zeros to be written over; not behind HIGH_POSITION: it does not
CELLS: Final = 20

NO_TIMESTAMP: Final = -(2**63)


def map_state(path: Path, *, writable: bool) -> tuple[memoryview, int]:
    """The cells of a state file, a memoryview of int64 [512], and the open descriptor, which is also what the partition's lock is on.

    Raises:
        OSError: as from open and mmap.
    """
    descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        mapped = mmap.mmap(descriptor, STATE_BYTES, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
    except BaseException:
        os.close(descriptor)
        raise
    return memoryview(mapped).cast("q"), descriptor


@functools.cache
def boot_id() -> int:
    """A number of this run of the machine, another after each restart; what was mapped and not synced before it may be lost."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:  # not Linux: every process counts as a restart, which costs a check of what was not synced
        text = os.urandom(16)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
