"""Partial versions: the version directory of a node that holds some of a version's partitions and not the others.

`held.json` in it lists the partitions whose files are there, whole and verified; a version without it is whole. Files come before the list
names them and go after it stops doing so, and a file that is there never changes, so the list can be believed at any moment. A version is
opened with what the list says then; who holds it open does not see what comes later, and is told so by PartitionNotHeldError when asked for
a key of another partition. Never is such a key taken for missing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from fondaco.core.errors import CorruptFileError, PartitionNotHeldError, StorageError
from fondaco.core.files import write_atomically
from fondaco.core.verified import read_stamps, stamp_of, write_stamps
from fondaco.store.basefile import BaseFile
from fondaco.store.manifest import FileEntry, Manifest

HELD_FILE: Final = "held.json"


class AbsentFile:
    """Stands for a base file that is not held, in a table of partitions: whatever is asked of it is an error, as by a damaged index."""

    memory: Final[memoryview] = memoryview(b"")
    address: Final = 0
    dictionary: Final = b""

    def __init__(self, manifest: Manifest, partition: int) -> None:
        self._store, self._version, self._partition = manifest.store, manifest.version, partition

    def entry(self) -> tuple[int, int, int, int, int]:
        """An index of no slots: `_kernels.probe_*` take an index without a free slot for a broken one."""
        return 0, 0, 0, 0, 0

    def broken_index(self) -> PartitionNotHeldError:
        """The error for a key of this partition."""
        return PartitionNotHeldError(self._store, self._version, self._partition)


def held_partitions(directory: Path) -> frozenset[int] | None:
    """The partitions of a version directory that are there; None: all of them.

    Raises:
        CorruptFileError: the list cannot be read.
    """
    path = directory / HELD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=frozenset[int])
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise CorruptFileError(str(path), "held", str(exc)) from exc


def write_held(directory: Path, partitions: Iterable[int]) -> None:
    """Say which partitions are there, durably and all at once.

    Raises:
        DiskFullError, ReadOnlyError.
    """
    write_atomically(directory / HELD_FILE, msgspec.json.encode(sorted(partitions)))


def open_files(directory: Path, manifest: Manifest) -> list[BaseFile | AbsentFile]:
    """The base files of a version, partition p at p. Those that are opened for the first time are read whole and checked.

    Raises:
        FileNotFoundError: one that should be there is not. CorruptFileError, FormatVersionError: one cannot be trusted, or not be read.
    """
    held, stamps, checked = held_partitions(directory), read_stamps(directory), []
    files: list[BaseFile | AbsentFile] = []
    for partition, entry in enumerate(manifest.files):
        if held is not None and partition not in held:
            files.append(AbsentFile(manifest, partition))
            continue
        path = directory / entry.name
        stamped = stamps.get(entry.name) == stamp_of(path.stat())
        files.append(open_file(path, entry, check_heap=not stamped))
        if not stamped:
            checked.append(entry.name)
    if checked:
        write_stamps(directory, checked)
    return files


def open_file(path: Path, entry: FileEntry, *, check_heap: bool = True) -> BaseFile:
    """One base file, compared with what the manifest says of it: one that is sound in itself may still be another version's.

    Raises:
        as `open_files`.
    """
    file = BaseFile.open(path, check_heap=check_heap)
    if (file.checksum, file.bytes, file.records) != (entry.checksum, entry.bytes, entry.records):
        raise CorruptFileError(str(file.path), "footer", "it is not the file that the manifest names")
    return file


def adopt_file(arrived: Path, directory: Path, entry: FileEntry) -> None:
    """Move a base file that came from elsewhere into a version directory, once every byte of it was checked.

    Raises:
        CorruptFileError, FormatVersionError: it is not what the manifest names; it stays where it is.
    """
    open_file(arrived, entry)
    os.replace(arrived, directory / entry.name)
    with contextlib.suppress(OSError, StorageError):
        write_stamps(directory, [entry.name])  # renaming changed its change time, and nobody wrote to it since it was checked
