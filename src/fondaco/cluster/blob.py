"""Blob folder: where version files are kept for good, reached through fsspec: a directory, S3, GCS, Azure, HTTP.

    <url>/stores/<store>/versions/<n>/manifest.json, part-00000.base, ...

A platform's own directory is such a folder (`file:///srv/fondaco`): what a push left there is what nodes fetch. `upload` copies a version
into another folder, its manifest last, so that a version that can be seen there is complete. Blocking; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fondaco.core.errors import InputError, StorageError, UnavailableError
from fondaco.store.layout import StoreLayout
from fondaco.store.manifest import MANIFEST_FILE, read_manifest

CHUNK_BYTES: Final = 1 << 20


class BlobFolder:
    """A folder of version files."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: as fsspec takes it: "file:///srv/fondaco", "s3://bucket/fondaco"; a plain path is a directory.
        Raises:
            InputError: nothing installed knows this kind of URL.
        """
        import fsspec  # late: it costs 30 ms, and a node whose files are all there needs none

        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as exc:
            raise InputError(f"the blob folder {url!r} cannot be used: {exc}") from exc

    def __str__(self) -> str:
        return self.url

    def chunks(self, store: str, version: int, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of one file from `start` on, in pieces.

        Raises:
            FileNotFoundError: it is not there. UnavailableError: the folder cannot be read.
        """
        try:
            with self._fs.open(self._path(store, version, name), "rb", **self._reading()) as file:
                file.seek(start)
                while piece := file.read(CHUNK_BYTES):
                    yield bytes(piece)
        except FileNotFoundError:
            raise
        except Exception as exc:  # each file system has errors of its own
            raise UnavailableError(self.url, f"{type(exc).__name__}: {exc}") from exc

    def upload(self, layout: StoreLayout, store: str, version: int) -> int:
        """Copy a version of a platform into this folder; returns the bytes copied. What is there already, of the right size, is left.

        Raises:
            FileNotFoundError: the platform has no such version. UnavailableError: the folder cannot be written.
        """
        directory, copied = layout.version(version), 0
        manifest = read_manifest(directory)
        sizes = {entry.name: entry.bytes for entry in manifest.files}
        sizes[MANIFEST_FILE] = (directory / MANIFEST_FILE).stat().st_size
        for name, size in sizes.items():  # the manifest is the last
            path = self._path(store, version, name)
            try:
                if self._fs.exists(path) and self._fs.size(path) == size:
                    continue
                self._fs.makedirs(self._fs._parent(path), exist_ok=True)
                self._fs.put_file(str(directory / name), path)
            except Exception as exc:
                raise UnavailableError(self.url, f"{type(exc).__name__}: {exc}") from exc
            copied += size
        return copied

    def _reading(self) -> dict[str, Any]:
        return {} if "file" in _protocols(self._fs) else {"block_size": CHUNK_BYTES, "cache_type": "none"}

    def _path(self, store: str, version: int, name: str) -> str:
        return f"{self._root.rstrip('/')}/stores/{store}/versions/{version}/{name}"


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def directory_blob(directory: Path) -> BlobFolder:
    """The blob folder that a platform's directory is."""
    if not directory.is_dir():
        raise StorageError(f"{directory} is no directory")
    return BlobFolder(directory.absolute().as_uri())
