"""Index and side heap of one partition and generation: the two files beside the cells. Layout: docs/internals/overlay.md.

The index is a header page and an open-addressing table of slots; it has a fixed size and all of its room is taken when it is made, so that
a full disk is noticed then and not by a signal later. The side heap is appended to: states that were merged from patches, each framed like
a log record. A generation is made under its final name before the cells name it; a file that they do not name is debris.

An index that was written in another run of the machine, was copied, or whose header is damaged is not trusted: it is made again from the
log. One tailer writes; readers map both files.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.files import os_errors
from fondaco.core.xxh64 import xxh64
from fondaco.log.state import boot_id
from fondaco.store._atomics import store_word
from fondaco.store._overlay_maps import GrowingMap
from fondaco.store.basefile import address_of

INDEX_MAGIC: Final = int.from_bytes(b"\x89FONOVI\n", "little", signed=True)
SIDE_MAGIC: Final = int.from_bytes(b"\x89FONOVH\n", "little", signed=True)
FORMAT: Final = 1
HEADER_BYTES: Final = 4096
SIDE_HEADER_BYTES: Final = 64
SLOTS_MIN: Final = 4096
SIDE_RESERVE_BYTES: Final = 64 << 20

# -- words of the index's header ------------------------------------------------------------------------------------------------------
SLOT_COUNT: Final = 4
ORIGIN: Final = 5
CHECKED_WORDS: Final = 10  # the checksum follows them
SIDE_BYTES: Final = 16  # of the side heap that are there; stored after them and before any slot that leads to them
SIDE_GARBAGE: Final = 17  # of them, bytes of states that others took the place of
_WORDS: Final = struct.Struct(f"<{CHECKED_WORDS}q")


def index_name(generation: int, partition: int) -> str:
    """File of the index of a partition."""
    return f"{generation}-{partition}.index"


def side_name(generation: int, partition: int) -> str:
    """File of the side heap of a partition."""
    return f"{generation}-{partition}.side"


@dataclass(frozen=True, slots=True)
class IndexFiles:
    """One generation of one partition, mapped."""

    generation: int
    partition: int
    slot_count: int
    origin: int
    index: GrowingMap
    side: GrowingMap

    @property
    def slots_address(self) -> int:
        """Address of the first slot."""
        return self.index.address + HEADER_BYTES

    @property
    def side_bytes(self) -> int:
        """Bytes of the side heap that are there now."""
        return int.from_bytes(self.index.memory[8 * SIDE_BYTES : 8 * SIDE_BYTES + 8], "little")

    def set_side_bytes(self, count: int) -> None:
        """Say that so many bytes of the side heap are there; after they were written. Only the tailer."""
        store_word(self.index.address + 8 * SIDE_BYTES, count)

    def add_garbage(self, count: int) -> int:
        """Count bytes of the side heap that nothing leads to any more; returns all of them. Only the tailer."""
        words = self.index.memory[8 * SIDE_GARBAGE : 8 * SIDE_GARBAGE + 8].cast("q")
        words[0] += count
        return words[0]


def slots_for(entries: int) -> int:
    """Slots of a new index for this many entries: room for as many again before it is 0.6 full."""
    return max(SLOTS_MIN, -(-int(entries / 0.3) // 512) * 512)


def create_files(directory: Path, generation: int, partition: int, *, slot_count: int, origin: int) -> IndexFiles:
    """Make the files of a generation, empty, with all the room of the index taken; the writer's maps of them.

    Raises:
        DiskFullError, ReadOnlyError: nothing is left behind.
    """
    index_path, side_path = directory / index_name(generation, partition), directory / side_name(generation, partition)
    try:
        with os_errors(side_path), open(side_path, "wb") as file:
            file.write(struct.pack("<4q", SIDE_MAGIC, FORMAT, generation, partition).ljust(SIDE_HEADER_BYTES, b"\0"))
            side = os.fstat(file.fileno())
        with os_errors(index_path), open(index_path, "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, HEADER_BYTES + 8 * slot_count)
            own = os.fstat(file.fileno())
            words = _WORDS.pack(
                INDEX_MAGIC, FORMAT, generation, partition, slot_count, origin, boot_id(), own.st_dev, own.st_ino, side.st_ino
            )
            file.write(words + struct.pack("<Q", _checksum(words)))
            file.seek(8 * SIDE_BYTES)
            file.write(struct.pack("<q", SIDE_HEADER_BYTES))
    except BaseException:
        index_path.unlink(missing_ok=True)
        side_path.unlink(missing_ok=True)
        raise
    files = open_files(directory, generation, partition, writable=True)
    assert files is not None
    return files


def open_files(directory: Path, generation: int, partition: int, *, writable: bool = False) -> IndexFiles | None:
    """Map the files of a generation; None if they cannot be trusted.

    Raises:
        FileNotFoundError: there are none (any more).
    """
    index_path, side_path = directory / index_name(generation, partition), directory / side_name(generation, partition)
    with open(index_path, "rb", buffering=0) as file:
        header = file.read(8 * (CHECKED_WORDS + 1))  # not through the map: pages that a short file lacks cannot be touched
        own, side = os.fstat(file.fileno()), os.stat(side_path)
    if len(header) < 8 * (CHECKED_WORDS + 1) or int.from_bytes(header[-8:], "little") != _checksum(header[:-8]):
        return None
    magic, form, found_generation, found_partition, slot_count, origin, boot, *inodes = _WORDS.unpack(header[:-8])
    trusted = (
        (magic, form, found_generation, found_partition) == (INDEX_MAGIC, FORMAT, generation, partition)
        and boot == boot_id()
        and inodes == [own.st_dev, own.st_ino, side.st_ino]
        and own.st_size == HEADER_BYTES + 8 * slot_count
    )
    if not trusted:
        return None
    index = GrowingMap(index_path, writable=writable)
    reserve_bytes = max(SIDE_RESERVE_BYTES, 2 * side.st_size)
    return IndexFiles(generation, partition, slot_count, origin, index, GrowingMap(side_path, reserve_bytes=reserve_bytes))


def grown_side(files: IndexFiles, directory: Path) -> IndexFiles:
    """The same files with the side heap mapped anew, where it has grown beyond what was reserved."""
    if files.side_bytes <= files.side.bytes:
        return files
    side = GrowingMap(directory / side_name(files.generation, files.partition), reserve_bytes=2 * files.side_bytes)
    return IndexFiles(files.generation, files.partition, files.slot_count, files.origin, files.index, side)


def remove_others(directory: Path, keep: dict[int, int]) -> None:
    """Remove files of generations that the cells do not name. `keep`: partition -> generation."""
    for entry in os.listdir(directory):
        stem, _, ending = entry.partition(".")
        generation, _, partition = stem.partition("-")
        named = ending in ("index", "side") and generation.isdigit() and partition.isdigit()
        if named and keep.get(int(partition)) != int(generation):
            (directory / entry).unlink(missing_ok=True)


def _checksum(data: bytes) -> int:
    array: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    return int(xxh64(address_of(array), len(data)))
