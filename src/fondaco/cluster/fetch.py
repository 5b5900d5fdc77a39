"""Fetch: bring one file of a version here, from whichever source has it, and never anything but what the manifest names.

Bytes go to `building/<version>/<file>.part`, so a fetch that was cut off goes on where it stopped, from any source: versions never change.
When all are there the file is checked whole (checksums of each section, against the manifest) and only then moved into the version. A file
that fails is thrown away and fetched again from the start, from the next source. Sources are asked in order: the blob folder, which is the
truth, then peers that say they have it.

Blocking; a thread per fetch; `stop` is looked at with each piece.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from fondaco.core.errors import CorruptFileError, FondacoError, UnavailableError
from fondaco.core.files import os_errors, sync_directory
from fondaco.store.manifest import MANIFEST_FILE, FileEntry, Manifest, read_manifest
from fondaco.store.partial import adopt_file

_LOGGER = logging.getLogger(__name__)


class Source(Protocol):
    """Whoever has version files."""

    def chunks(self, store: str, version: int, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of one file from `start` on. Raises FileNotFoundError, UnavailableError."""
        ...


class FetchStoppedError(FondacoError):
    """The fetch is not wanted any more; what was fetched is kept."""


Progress = Callable[[int], None]


def fetch_manifest(sources: Sequence[Source], store: str, version: int, directory: Path, building: Path) -> Manifest:
    """Bring a version's manifest into its directory, unless it is there.

    Raises:
        UnavailableError: no source has one that can be trusted. CorruptFileError: the one that is there is damaged.
    """
    with contextlib.suppress(FileNotFoundError):
        return read_manifest(directory)
    problems = []
    with os_errors(building):
        building.mkdir(parents=True, exist_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
    for source in sources:
        try:
            (building / MANIFEST_FILE).write_bytes(b"".join(source.chunks(store, version, MANIFEST_FILE)))
            manifest = read_manifest(building)
            if (manifest.store, manifest.version) != (store, version):
                raise CorruptFileError(str(source), "manifest", f"it is that of version {manifest.version} of store {manifest.store!r}")
        except (OSError, FondacoError) as exc:
            problems.append(_said(source, exc))
            continue
        _sync(building / MANIFEST_FILE)
        os.replace(building / MANIFEST_FILE, directory / MANIFEST_FILE)
        sync_directory(directory)
        return manifest
    raise _nobody(f"the manifest of version {version} of store {store!r}", problems)


def fetch_file(
    sources: Sequence[Source],
    store: str,
    version: int,
    entry: FileEntry,
    directory: Path,
    building: Path,
    *,
    progress: Progress,
    stop: Callable[[], bool],
) -> None:
    """Bring one base file into a version's directory, checked.

    Args:
        progress: is told now and then how many bytes are there. stop: whether to give up now.
    Raises:
        UnavailableError: no source has one that can be trusted. FetchStoppedError: it was told to stop.
        DiskFullError, ReadOnlyError: nothing can be written here.
    """
    part, problems = building / f"{entry.name}.part", []
    with os_errors(building):
        building.mkdir(parents=True, exist_ok=True)
    for source in sources:
        for _ in range(2):
            resumed = part.exists() and part.stat().st_size > 0
            try:
                _complete(source, store, version, entry, part, progress, stop)
                adopt_file(part, directory, entry)
                sync_directory(directory)
                return
            except CorruptFileError as exc:
                part.unlink(missing_ok=True)
                problems.append(_said(source, exc))
                if not resumed:
                    break  # else what was there before may be at fault, and not this source: once more, from the start
            except (FileNotFoundError, UnavailableError) as exc:
                problems.append(_said(source, exc))
                break
    raise _nobody(f"{entry.name} of version {version} of store {store!r}", problems)


def _complete(source: Source, store: str, version: int, entry: FileEntry, part: Path, progress: Progress, stop: Callable[[], bool]) -> None:
    """Append what is missing of the file; one that is there already is only checked."""
    with os_errors(part), open(part, "ab") as file:
        there = file.tell()
        if there > entry.bytes:
            file.truncate(0)
            there = 0
        progress(there)
        if there < entry.bytes:
            for piece in source.chunks(store, version, entry.name, there):
                if stop():
                    raise FetchStoppedError(f"{entry.name} of version {version} of store {store!r} is not wanted any more")
                if there + len(piece) > entry.bytes:
                    raise CorruptFileError(str(source), "file", f"{entry.name} is longer there than its {entry.bytes} bytes")
                file.write(piece)
                there += len(piece)
                progress(there)
        if there < entry.bytes:
            raise UnavailableError(str(source), f"{entry.name} broke off after {there} of {entry.bytes} bytes")
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _said(source: Source, exc: Exception) -> str:
    said = f"{source}: {'it is not there' if isinstance(exc, FileNotFoundError) else exc}"
    _LOGGER.info("%s", said)
    return said


def _nobody(what: str, problems: list[str]) -> UnavailableError:
    return UnavailableError(f"every source of {what}", "; ".join(problems) or "there is none")
