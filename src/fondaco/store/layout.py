"""Layout: where things lie in a store's directory, and the CURRENT cell.

    CURRENT                   8 bytes, little-endian: the current version, 0 = none, 2^64 - 2 = the store was deleted
    store.json, schemas.json  what the catalog knows of the store, for processes without it (mirror.py)
    push.lock                 held (flock) by the process that pushes
    building/<push id>/       files of a push at work; whatever lies here without the lock held is debris
    versions/<n>/             manifest.json, part-00000.base, ...: a version, never changed
    overlay/                  index of the real-time writes (overlay.py); made again from the log if it is lost

The cell is a hint that mirrors the catalog: readers map it and look at it on each call, so it is written in place and never replaced.
Eight aligned bytes change in one store of the processor (x86-64 and ARM64, little-endian both): a reader sees the old or the new number,
nothing between.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fondaco.core.files import os_errors, sync_directory, write_atomically

CELL_BYTES = 8
DELETED = (1 << 64) - 2  # in the cell of a store that was deleted, for those who still have it mapped


@dataclass(frozen=True, slots=True)
class VersionsLayout:
    """Paths of whatever has versions: a store, or a graph."""

    directory: Path

    MADE_HERE: ClassVar[frozenset[str]] = frozenset({"CURRENT", "building", "versions"})
    """Entries of a directory without a version; more than these means that somebody put something there."""

    @property
    def current_cell(self) -> Path:
        """The file that names the current version."""
        return self.directory / "CURRENT"

    @property
    def building(self) -> Path:
        """Where versions are built."""
        return self.directory / "building"

    @property
    def versions(self) -> Path:
        """Where finished versions lie."""
        return self.directory / "versions"

    def version(self, number: int) -> Path:
        """The directory of one version."""
        return self.versions / str(number)

    def version_numbers(self) -> list[int]:
        """Versions whose directories exist, ascending; whether they are complete only the catalog knows."""
        if not self.versions.is_dir():
            return []
        return sorted(int(entry) for entry in os.listdir(self.versions) if entry.isdigit())

    def is_blank(self) -> bool:
        """Whether there is nothing here to lose: no directory, or one with nothing but what `create` makes."""
        if not self.directory.exists():
            return True
        if not self.directory.is_dir() or not set(os.listdir(self.directory)) <= self.MADE_HERE:
            return False
        return not any(path.is_dir() and os.listdir(path) for path in (self.building, self.versions))

    def create(self) -> None:
        """Make the directories and a cell that says 0.

        Raises:
            DiskFullError, ReadOnlyError.
        """
        with os_errors(self.directory):
            self.building.mkdir(parents=True, exist_ok=True)
            self.versions.mkdir(exist_ok=True)
            if not self.current_cell.exists():
                write_atomically(self.current_cell, bytes(CELL_BYTES))
            sync_directory(self.directory)
            sync_directory(self.directory.parent)


@dataclass(frozen=True, slots=True)
class StoreLayout(VersionsLayout):
    """Paths of one store."""

    MADE_HERE: ClassVar[frozenset[str]] = frozenset(
        {"CURRENT", "push.lock", "building", "versions", "overlay", "store.json", "schemas.json"}
    )

    @property
    def push_lock(self) -> Path:
        """The file whose lock a push holds."""
        return self.directory / "push.lock"

    @property
    def overlay(self) -> Path:
        """The index of the store's real-time writes."""
        return self.directory / "overlay"


def partition_name(index: int) -> str:
    """The base file of one partition, in a version's directory."""
    return f"part-{index:05d}.base"


def read_cell(path: Path) -> int | None:
    """The version that the cell names, 0 = none; None if the cell is missing or cut short."""
    try:
        cell = path.read_bytes()[:CELL_BYTES]
    except FileNotFoundError:
        return None
    return int.from_bytes(cell, "little") if len(cell) == CELL_BYTES else None


def write_cell(path: Path, version: int) -> None:
    """Make the cell name `version`, durably. Only under the catalog's write lock, so that two swaps cannot overtake each other here.

    A cell that was lost is made again, one that was cut short is filled up in place, for those who have it mapped.

    Raises:
        ReadOnlyError: the cell cannot be written.
    """
    with os_errors(path), open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
        if os.fstat(file.fileno()).st_size < CELL_BYTES:
            file.truncate(CELL_BYTES)
        _store_number(file.fileno(), version)


def _store_number(descriptor: int, version: int) -> None:
    with mmap.mmap(descriptor, CELL_BYTES) as mapped:
        # through a cast view the number is stored at once; write(2) promises no more than bytes in some order
        with memoryview(mapped) as view, view.cast("Q") as cell:
            cell[0] = version
        mapped.flush()
