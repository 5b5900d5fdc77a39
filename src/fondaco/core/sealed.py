"""Sealed documents: one JSON object in a file, with its format's number and a checksum over both. Manifests of versions are such files.

The file is JSON for people too: `{"format": 1, "checksum": <SHA-256 of "<kind> <format>\\n" and the bytes of the manifest's own object>,
"manifest": {...}}`. The kind keeps documents of one kind from being taken for another. Needs no numba.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from fondaco.core.errors import CorruptFileError, FormatVersionError
from fondaco.core.files import write_atomically

Document = TypeVar("Document", bound=msgspec.Struct)


class _Envelope(msgspec.Struct):
    format: int
    checksum: str
    manifest: msgspec.Raw


def write_sealed(path: Path, document: msgspec.Struct, *, kind: str, format_: int) -> None:
    """Write a document, durably and all at once.

    Raises:
        DiskFullError, ReadOnlyError.
    """
    write_atomically(path, sealed(document, kind=kind, format_=format_))


def sealed(document: msgspec.Struct, *, kind: str, format_: int) -> bytes:
    """The bytes of such a file."""
    raw = msgspec.json.format(msgspec.json.encode(document), indent=2)
    return b'{"format": %d, "checksum": "%s", "manifest":\n' % (format_, _checksum(kind, format_, raw).encode()) + raw + b"}\n"


def read_sealed(path: Path, document: type[Document], *, kind: str, format_: int) -> Document:
    """Read and check a document; what its values mean together is the caller's to check.

    Raises:
        FileNotFoundError.
        CorruptFileError: section "manifest". FormatVersionError: written by a newer Fondaco than `format_`'s.
    """
    try:
        envelope = msgspec.json.decode(path.read_bytes(), type=_Envelope)
        raw = bytes(envelope.manifest)
        if envelope.checksum != _checksum(kind, envelope.format, raw):
            raise CorruptFileError(str(path), "manifest", "the checksum does not match")
        if envelope.format > format_:
            raise FormatVersionError(str(path), envelope.format, format_)
        return msgspec.json.decode(raw, type=document)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise CorruptFileError(str(path), "manifest", str(exc)) from exc


def _checksum(kind: str, format_: int, raw: bytes) -> str:
    return hashlib.sha256(f"{kind} {format_}\n".encode() + raw).hexdigest()
