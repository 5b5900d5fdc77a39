"""Verified stamps: which files of a version had every byte checked, so that the next open need not read them whole again.

`verified.json` beside the files keeps, per file, what the file system says of it (inode, size, modification and change time). Any write
to a file changes its change time, which no program can set back, so a stamp that still matches means the bytes are those that were
checked (short of a disk that changes them silently: `BaseFile.verify` reads everything, always). A copy of a version has other inodes
and is read whole once. Losing the stamps costs time only; so a stamp file that cannot be read or written is no error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fondaco.core.errors import StorageError
from fondaco.core.files import write_atomically

VERIFIED_FILE = "verified.json"

Stamp = tuple[int, int, int, int]  # inode, size, mtime_ns, ctime_ns


def stamp_of(status: os.stat_result) -> Stamp:
    """What identifies the content of a file as long as nobody wrote to it."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_stamps(directory: Path) -> dict[str, Stamp]:
    """Stamps by file name; empty if there are none that can be read."""
    try:
        return msgspec.json.decode((directory / VERIFIED_FILE).read_bytes(), type=dict[str, Stamp])
    except (OSError, msgspec.MsgspecError):
        return {}


def write_stamps(directory: Path, names: Iterable[str]) -> None:
    """Stamp files of `directory` that were just checked whole. Not being able to is fine."""
    with contextlib.suppress(OSError, StorageError):
        stamps = read_stamps(directory) | {name: stamp_of(os.stat(directory / name)) for name in names}
        write_atomically(directory / VERIFIED_FILE, msgspec.json.encode(stamps))


def restamp(directory: Path, names: Iterable[str]) -> None:
    """Stamp anew files of which a hard link was made or removed meanwhile: that changes the change time, and nothing else of a stamp."""
    with contextlib.suppress(OSError, StorageError):
        stamps = read_stamps(directory)
        now = {name: stamp_of(os.stat(directory / name)) for name in names if name in stamps}
        moved = {name: stamp for name, stamp in now.items() if stamp[:3] == stamps[name][:3] and stamp != stamps[name]}
        if moved:
            write_atomically(directory / VERIFIED_FILE, msgspec.json.encode(stamps | moved))
