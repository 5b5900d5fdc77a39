"""Readers: rows and columns of a store's current version, in the caller's process.

`EmbeddedReader` maps the version's files and follows the CURRENT cell: each call looks at eight mapped bytes (15 ns), and when they name
another version, that call opens it and swaps it in before it answers. A call takes one version at its start and uses no other, so it never
mixes two; what it returned keeps that version's memory alive for as long as it is held.

If a version that became current cannot be opened (a damaged file, no memory), the reader goes on with the one it has: answers that are a
version old are better than none. It says so once through `logging` (logger "fondaco.store.reader") and in `adoption_error`, and tries
again every second. A version that was retired before it could be opened is no failure: the cell has moved on, and the reader with it.

Unless a schema is asked for, rows are read with the superset of the value schemas that the reader knows: those it was told of and those of
the versions it has opened. So a field that was there once is still there after a rollback, with its default in rows that lack it.

A reader may be used from any thread, and pickled: it opens again where it arrives. Fork is safe too (maps are shared); prefer spawn, as
everywhere with threads.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import (
    CorruptFileError,
    FondacoError,
    InputError,
    NoCurrentVersionError,
    StateError,
    StoreNotFoundError,
    VersionNotFoundError,
)
from fondaco.schema import full_form, superset
from fondaco.schema.columns import Columns
from fondaco.store._version import OpenVersion, PackedValues
from fondaco.store.compute import compute_scores
from fondaco.store.layout import CELL_BYTES, StoreLayout
from fondaco.store.manifest import Manifest, read_manifest
from fondaco.store.store_reader import Operation, StoreReader

if TYPE_CHECKING:
    from fondaco.schema.row import Row

__all__ = ["EmbeddedReader", "StoreReader"]

RETRY_SECONDS: Final = 1.0  # between attempts to open a version that could not be opened

_LOGGER = logging.getLogger(__name__)
_NO_VERSION: Final = 0
_CLOSED: Final = -1  # no cell ever holds it, so every call on a closed reader takes the slow path, which refuses


class EmbeddedReader:
    """Reads a store in this process. Open it with `EmbeddedReader.open`, or `platform.store(name).reader()`."""

    def __init__(
        self,
        directory: Path | str,
        store: str,
        *,
        schema: object = None,
        version: int | None = None,
        known_schemas: Sequence[object] | Mapping[int, object] = (),
        _shared: _Shared | None = None,
    ) -> None:
        """
        Args:
            directory: the store's directory (`<platform>/stores/<store>`). Nothing else is needed: no catalog is read.
            store: its name, for messages.
            schema: read rows with exactly this schema (Avro dict or JSON, or `pa.Schema`); None: with the superset of the schemas known.
            version: stay on this one; None: follow the current one. A store without a version can be opened; reads then raise
                NoCurrentVersionError until there is one.
            known_schemas: the store's registered value schemas, all and oldest first (number i is `known_schemas[i - 1]`), or by number.
                Their fields are there from the first read on; those of versions that are opened join them. Unused with `schema`.
        Raises:
            StoreNotFoundError: no store lies in the directory.
            VersionNotFoundError: there is no such version (any more).
            CorruptFileError, FormatVersionError, SchemaResolutionError: the version cannot be read.
        """
        self._layout = StoreLayout(Path(directory))
        self._store, self._pinned = store, version
        self._lock = threading.RLock()  # held while a version is opened; no read waits for it unless it must open one too
        self._shared = _Shared(schema, known_schemas) if _shared is None else _shared
        self._current: OpenVersion | None = None
        self._seen = _NO_VERSION  # what the cell said when `_current` was chosen; written after it, read before it
        self._failed: tuple[int, float] | None = None  # version that could not be opened, time of the next attempt
        self.adoption_error: Exception | None = None
        if version is None:
            self._cell = _map_cell(self._layout, store)
            self._adopt(first=True)
        else:
            self._pinned = version = _version_number(version)
            self._current = self._open_pinned(version)
            self._cell = memoryview(version.to_bytes(CELL_BYTES, "little")).cast("q")
            self._seen = version

    @classmethod
    def open(
        cls,
        directory: Path | str,
        store: str,
        *,
        schema: object = None,
        version: int | None = None,
        known_schemas: Sequence[object] | Mapping[int, object] = (),
    ) -> EmbeddedReader:
        """The same as the constructor, by the name that says it needs `close`."""
        return cls(directory, store, schema=schema, version=version, known_schemas=known_schemas)

    # -- reads ----------------------------------------------------------------------------------------------------------------------

    def get(self, key: Any) -> Row | None:
        """The row of `key`, or None. 2 us and the cache misses of one probe; fields are decoded when they are touched.

        Raises:
            KeyTypeError: not a key of this store.
            NoCurrentVersionError: the store has no version yet. StateError: the reader is closed.
            CorruptFileError: what was sound when the file was opened is not any more.
        """
        if self._cell[0] != self._seen:
            self._adopt()
        version = self._current or self._look_again()
        return version.get(key)

    def get_many(self, keys: Any) -> list[Row | None]:
        """The rows of `keys` in their order, None where there is none.

        Args:
            keys: list, any iterable, NumPy array, Arrow array or pandas/Polars series; for a record key also mappings or tuples in field
                order, or a table of its columns.
        Raises:
            as `get`; a KeyTypeError names the position.
        """
        return self._serving().get_many(keys)

    def get_columns(self, keys: Any, fields: Sequence[str] | None = None) -> Columns:
        """Columns of `fields` (None: all) for `keys`, decoded in one pass where the values lie, without the GIL.

        Args:
            keys: as `get_many`.
        Returns:
            `Columns`: one entry per key, in order; `.found` bool [n]; a missing key is null in every column.
        Raises:
            FieldNotFoundError: no such field. SchemaError: the schema is recursive, so it has rows (`get_many`) and no columns.
            and as `get_many`.
        """
        return self._serving().get_columns(keys, fields)

    def get_packed(self, keys: Any) -> PackedValues:
        """The values as they were written (Avro, decompressed), in one buffer: to send them on without decoding.

        Raises:
            as `get_many`.
        """
        return self._serving().get_packed(keys)

    def compute(self, keys: Any, operation: Operation, field: str, vector: npt.ArrayLike) -> np.ma.MaskedArray[Any, Any]:
        """Similarity or distance between `vector` and a vector field, computed where the rows are.

        Args:
            operation: "dot"; "cosine", in [-1, 1]; or "euclidean", the distance.
            field: a `vector`, an `array<float>` or an `array<double>`.
            vector: [dim], any real dtype; the sums are in float64.
        Returns:
            float64 [n], masked where the key is missing, the field is null, or (cosine) the stored vector has norm zero, for which a
            cosine does not exist.
        Raises:
            InputError: `vector` is not one-dimensional or not as long as the field, or has norm zero (cosine); or no such operation.
            FieldNotFoundError; and as `get_many`.
        """
        return compute_scores(self._serving().get_vectors(keys, field), operation, field, vector)

    # -- versions -------------------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The version that a call would read now.

        Raises:
            NoCurrentVersionError, StateError.
        """
        return self._serving().number

    def at(self, version: int) -> EmbeddedReader:
        """A reader of one version of this store, whatever becomes current; close it on its own. Reads of the current one share its maps.

        Raises:
            VersionNotFoundError: there is no such version (any more); lists those there are.
        """
        if self._seen == _CLOSED:
            raise self._nothing()
        number = _version_number(version)
        return EmbeddedReader(self._layout.directory, self._store, version=number, _shared=self._shared)

    def close(self) -> None:
        """Let go of the files; later calls raise StateError. Rows, columns and calls in flight keep what they need."""
        with self._lock:
            self._seen = _CLOSED
            self._current = None
            self._cell = memoryview(bytes(CELL_BYTES)).cast("q")
            self._shared = self._shared.without_versions()

    def __enter__(self) -> EmbeddedReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self._layout.directory), self._store, self._shared.schema, self._pinned, self._shared.known)

    def __repr__(self) -> str:
        current = self._current
        at = "closed" if self._seen == _CLOSED else f"v{current.number}" if current else "no version yet"
        return f"EmbeddedReader({self._store!r}, {at}{', pinned' if self._pinned is not None else ''})"

    # -- adoption -------------------------------------------------------------------------------------------------------------------

    def _serving(self) -> OpenVersion:
        """The version that this call uses."""
        if self._cell[0] != self._seen:
            self._adopt()
        return self._current or self._look_again()

    def _look_again(self) -> OpenVersion:
        """There is nothing to read: unless the store was deleted and made again under its name, and so has another cell."""
        with self._lock:
            if self._seen != _CLOSED:
                with contextlib.suppress(StoreNotFoundError):
                    self._cell = _map_cell(self._layout, self._store)
                    self._shared = self._shared.without_versions()
                    self._adopt()
            if self._current is None:
                raise self._nothing()
            return self._current

    def _nothing(self) -> FondacoError:
        if self._seen == _CLOSED:
            return StateError(f"the reader of store {self._store!r} is closed; open another")
        return NoCurrentVersionError(self._store)

    def _adopt(self, *, first: bool = False) -> None:
        """Make `_current` what the cell names. Threads that come meanwhile wait, as they would have to open it themselves."""
        with self._lock:
            while self._seen != _CLOSED:
                number = self._cell[0]
                if number == self._seen and not first:
                    return
                if self._failed is not None and self._failed[0] == number and time.monotonic() < self._failed[1]:
                    return
                try:
                    opened = self._open(number) if number > _NO_VERSION else None
                except Exception as exc:  # whatever it is: it must not take a working reader away from its callers
                    if self._cell[0] != number:
                        continue  # it was retired before we came to open it; the cell names its successor
                    if isinstance(exc, FileNotFoundError):
                        exc = CorruptFileError(str(self._layout.version(number)), "manifest", f"{exc.filename} is missing")
                    if self._current is None:
                        raise exc from None
                    self._note_failure(number, exc)
                    return
                self._current = opened  # before `_seen`: whoever sees the new number finds the new version
                self._seen = number
                self._failed = self.adoption_error = None
                return

    def _note_failure(self, number: int, failure: Exception) -> None:
        assert self._current is not None
        if self._failed is None or self._failed[0] != number:
            kept = self._current.number
            _LOGGER.warning("store %r: v%d cannot be opened, reads go on with v%d: %s", self._store, number, kept, failure)
        self._failed = (number, time.monotonic() + RETRY_SECONDS)
        self.adoption_error = failure

    def _open(self, number: int) -> OpenVersion:
        with self._lock:
            return self._shared.open(self._layout.version(number), number)

    def _open_pinned(self, number: int) -> OpenVersion:
        try:
            return self._open(number)
        except FileNotFoundError:
            available = [n for n in self._layout.version_numbers() if n != number]
            if not available and not self._layout.current_cell.exists():
                raise StoreNotFoundError(self._store, where=str(self._layout.directory)) from None
            raise VersionNotFoundError(self._store, number, available) from None


class _Shared:
    """What a reader and those of its `at` have in common: how rows are read, and the versions that are open.

    A version opened before a field became known is opened again when it is next adopted; calls under way keep the one they have.
    """

    def __init__(self, schema: object, known: Sequence[object] | Mapping[int, object]) -> None:
        self.schema = schema
        numbered = known if isinstance(known, Mapping) else dict(enumerate(known, start=1))
        self.known = {number: full_form(value) for number, value in numbered.items()} if schema is None else {}
        self._superset = _superset(self.known)
        self._opened: WeakValueDictionary[tuple[int, str | None], OpenVersion] = WeakValueDictionary()
        self._lock = threading.Lock()  # while learning; versions are opened without it, because that may take long

    def open(self, directory: Path, number: int) -> OpenVersion:
        """The version in `directory`, opened or shared. Raises as `OpenVersion`."""
        superset = None
        if self.schema is None:
            manifest = read_manifest(directory)
            with self._lock:
                superset = self._learn(manifest)
        opened = self._opened.get((number, superset))
        if opened is None:
            opened = OpenVersion(directory, self.schema if superset is None else superset)
            opened.warm()
            self._opened[number, superset] = opened
        return opened

    def without_versions(self) -> _Shared:
        """The same, with nothing open: another store may lie where this one's versions were."""
        return _Shared(self.schema, self.known)

    def _learn(self, manifest: Manifest) -> str:
        """The superset of what was known and the version's schema."""
        written, number = full_form(manifest.value_schema), manifest.value_schema_id
        if self._superset is None or self.known.get(number) != written:
            # A schema never changes under its number: if it did, the store is another of the same name, and what was known is not its own.
            known = {number: written} if number in self.known else {**self.known, number: written}
            self._superset, self.known = _superset(known), known
        assert self._superset is not None
        return self._superset


def _superset(known: Mapping[int, str]) -> str | None:
    return full_form(superset([known[number] for number in sorted(known)])) if known else None


def _version_number(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, (int, np.integer)):
        raise InputError(f"a version is a whole number, not {version!r}")
    return int(version)


def _map_cell(layout: StoreLayout, store: str) -> memoryview:
    """The CURRENT cell as one int64 that changes under us; its map lives as long as the view."""
    try:
        with open(layout.current_cell, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), CELL_BYTES, access=mmap.ACCESS_READ)).cast("q")
    except FileNotFoundError:
        raise StoreNotFoundError(store, where=str(layout.directory)) from None
    except ValueError as exc:  # shorter than a cell
        raise CorruptFileError(str(layout.current_cell), "cell", str(exc)) from exc


def _reopen(directory: str, store: str, schema: object, version: int | None, known: Mapping[int, object]) -> EmbeddedReader:
    return EmbeddedReader(directory, store, schema=schema, version=version, known_schemas=known)
