"""Manifests: what one version is, and what it was built from. `manifest.json` in its directory; written once, last, never changed.

A version directory holds everything a reader needs: schemas, partitions, checksums, dictionary (in the base files). No catalog and no SQL
are asked on the way to a row. This module does without numba, so that the command line may import it.

The file is JSON for people too: `{"format": 1, "checksum": <SHA-256 of "fondaco-manifest <format>\\n" and the bytes of the manifest's own
object>, "manifest": {...}}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from fondaco.core.errors import CorruptFileError
from fondaco.core.sealed import read_sealed, write_sealed

MANIFEST_FILE: Final = "manifest.json"
MANIFEST_FORMAT: Final = 1
_KIND: Final = "fondaco-manifest"
PARTITIONER: Final = "xxh64-high32-scaled"  # partition = ((XXH64(key bytes, seed 0) >> 32) * partition_count) >> 32
HASH: Final = "xxh64-seed0"

CompressionName = Literal["none", "zstd"]


class FileEntry(msgspec.Struct, frozen=True):
    """One base file: partition p is entry p. `checksum` is `BaseFileSummary.checksum`."""

    name: str
    bytes: int
    records: int
    checksum: str


class CompressionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, what was chosen, and what each choice would have given on the sample. Ratios are raw bytes / stored bytes."""

    requested: Literal["none", "zstd", "auto"]
    chosen: CompressionName
    sample_rows: int
    sample_bytes: int
    ratio_zstd: float | None = None  # with the dictionary; None: not measured
    ratio_zstd_plain: float | None = None  # without it
    dictionary_bytes: int = 0
    reason: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A version. Times are microseconds since the epoch, UTC."""

    store: str
    version: int
    push_id: str
    created_us: int
    as_of_us: int
    key_schema: str  # `KeyCodec.to_json()`
    value_schema_id: int
    value_schema: str  # Avro JSON, in which every row was written
    partition_count: int
    partitioner: str = PARTITIONER
    hash: str = HASH
    records: int
    repeated: int = 0  # rows of the input dropped because their key came again
    bytes: int
    compression: CompressionReport
    dictionary_checksum: str | None = None  # SHA-256, hex
    files: tuple[FileEntry, ...]
    built_from: dict[str, Any] = {}


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into a version's directory, durably and all at once.

    Raises:
        DiskFullError, ReadOnlyError.
    """
    write_sealed(directory / MANIFEST_FILE, manifest, kind=_KIND, format_=MANIFEST_FORMAT)


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a version.

    Raises:
        FileNotFoundError: there is none; the directory is no complete version.
        CorruptFileError: section "manifest".
        FormatVersionError: written by a newer Fondaco.
    """
    path = directory / MANIFEST_FILE
    manifest = read_sealed(path, Manifest, kind=_KIND, format_=MANIFEST_FORMAT)
    if (manifest.hash, manifest.partitioner) != (HASH, PARTITIONER):
        reason = f"keys are placed by {manifest.hash!r} and {manifest.partitioner!r}, which this Fondaco does not know"
        raise CorruptFileError(str(path), "manifest", reason)
    if not 0 < manifest.partition_count == len(manifest.files) or manifest.records != sum(file.records for file in manifest.files):
        raise CorruptFileError(str(path), "manifest", "its counts contradict each other")
    return manifest
