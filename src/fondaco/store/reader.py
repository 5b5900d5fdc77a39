"""Readers: rows and columns of a store's current version with the writes over it, in the caller's process.

`EmbeddedReader` maps the version's files and follows the CURRENT cell: each call looks at eight mapped bytes (15 ns), and when they name
another version, that call opens it and swaps it in before it answers. A call takes one version at its start and uses no other, so it never
mixes two; what it returned keeps that version's memory alive for as long as it is held. Real-time writes are found through the store's
overlay in the same kernel call; which of them count for a version, `_serving` says. A store that was only written to is version 0.

If a version that became current cannot be opened (a damaged file, no memory), the reader goes on with the one it has: answers that are a
version old are better than none. It says so once through `logging` (logger "fondaco.store.reader") and in `adoption_error`, and tries
again every second. A version that was retired before it could be opened is no failure: the cell has moved on, and the reader with it.

Unless a schema is asked for, rows are read with the superset of the value schemas that the reader knows: those it was told of, those of
the versions it has opened and of the rows it has met. So a field that was there once is still there after a rollback, with its default in
rows that lack it.

A reader may be used from any thread, and pickled: it opens again where it arrives. Fork is safe too (maps are shared); prefer spawn, as
everywhere with threads.
"""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from fondaco.core.clock import Clock, SystemClock
from fondaco.core.errors import (
    CorruptFileError,
    DeadlineExceededError,
    FondacoError,
    InputError,
    NoCurrentVersionError,
    StateError,
    StoreNotFoundError,
    VersionNotFoundError,
)
from fondaco.schema.columns import Columns
from fondaco.store._overlay_view import OverlayView
from fondaco.store._schema_book import Outgrown, SchemaBook
from fondaco.store._serving import PackedValues, Rules, Serving
from fondaco.store._version import OpenVersion
from fondaco.store.compute import compute_scores
from fondaco.store.keys import KeyCodec
from fondaco.store.layout import CELL_BYTES, DELETED, StoreLayout
from fondaco.store.log_handle import LOG_DIRECTORY, topic_of
from fondaco.store.manifest import read_manifest
from fondaco.store.mirror import MirroredSchemas, StoreMirror, read_store
from fondaco.store.overlay import Overlay
from fondaco.store.positions import Positions
from fondaco.store.store_reader import TIMEOUT_S, Operation, StoreReader

if TYPE_CHECKING:
    from fondaco.schema.row import Row
    from fondaco.store.store_reader import MinPosition
    from fondaco.store.tails import Tail, TailSource

__all__ = ["EmbeddedReader", "PackedValues", "StoreReader"]

CATCH_UP_SECONDS: Final = 10.0  # that opening a reader waits for what was written before
TIMEOUT_S_MAX: Final = 1e9  # who asks for more means: for ever
RETRY_SECONDS: Final = 1.0  # between attempts to open a version that could not be opened

_LOGGER = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_NO_VERSION: Final = 0
_CLOSED: Final = -1  # no cell ever holds it, so every call on a closed reader takes the slow path, which refuses
_DELETED: Final = DELETED - (1 << 64)  # as an int64


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
        tail: TailSource | None = None,
        clock: Clock | None = None,
        _shared: _Shared | None = None,
    ) -> None:
        """
        Args:
            directory: the store's directory (`<platform>/stores/<store>`). Nothing else is needed: no catalog is read.
            store: its name, for messages.
            schema: read rows with exactly this schema (Avro dict or JSON, or `pa.Schema`); None: with the superset of the schemas known.
            version: stay on this one; None: follow the current one. A store without a version and without writes can be opened; reads
                then raise NoCurrentVersionError until there is one.
            known_schemas: the store's registered value schemas, all and oldest first (number i is `known_schemas[i - 1]`), or by number.
                Their fields are there from the first read on; those of versions that are opened join them. Unused with `schema`.
            tail: how to follow the log where no other process does, and to wait for what was written before; None: somebody else follows
                it, as in a server.
            clock: what a TTL goes by; None: the machine's.
        Raises:
            StoreNotFoundError: no store lies in the directory.
            VersionNotFoundError: there is no such version (any more).
            CorruptFileError, FormatVersionError, SchemaResolutionError: the version cannot be read.
        """
        self._layout = StoreLayout(Path(directory))
        self._store, self._pinned = store, version
        self._lock = threading.RLock()  # held while a version is opened; no read waits for it unless it must open one too
        self._shared = _Shared(self._layout, schema, known_schemas, clock or SystemClock()) if _shared is None else _shared
        self._current: Serving | None = None
        self._seen = _NO_VERSION  # what the cell said when `_current` was chosen; written after it, read before it
        self._failed: tuple[int, float] | None = None  # version that could not be opened, time of the next attempt
        self.adoption_error: Exception | None = None
        self._source = tail
        self._tail: Tail | None = None
        if version is None:
            self._cell, self._identity = _map_cell(self._layout, store)
            self._adopt(first=True)
        else:
            self._pinned = version = _version_number(version)
            self._current = self._open_pinned(version)
            self._cell, self._identity = memoryview(version.to_bytes(CELL_BYTES, "little")).cast("q"), (0, 0)
            self._seen = version
        if tail is not None:
            self._tail = tail.acquire()
            if _shared is None:
                self._catch_up(self._tail)

    @classmethod
    def open(
        cls,
        directory: Path | str,
        store: str,
        *,
        schema: object = None,
        version: int | None = None,
        known_schemas: Sequence[object] | Mapping[int, object] = (),
        tail: TailSource | None = None,
        clock: Clock | None = None,
    ) -> EmbeddedReader:
        """The same as the constructor, by the name that says it needs `close`."""
        return cls(directory, store, schema=schema, version=version, known_schemas=known_schemas, tail=tail, clock=clock)

    # -- reads ----------------------------------------------------------------------------------------------------------------------

    def get(self, key: Any, *, min_position: MinPosition = None, timeout_s: float = TIMEOUT_S) -> Row | None:
        """The row of `key`, or None. 1 us and the cache misses of one probe; fields are decoded when they are touched.

        Args:
            min_position: a write's position, several, or their text: wait until the answer includes it.
            timeout_s: seconds to wait for that.
        Raises:
            KeyTypeError: not a key of this store.
            DeadlineExceededError: `min_position` was not reached in time.
            NoCurrentVersionError: the store has no version yet, and nobody wrote to it. StateError: the reader is closed.
            CorruptFileError: what was sound when the file was opened is not any more.
        """
        if min_position is not None:
            self._wait(min_position, timeout_s)
        if self._cell[0] != self._seen:
            self._adopt()
        serving = self._current or self._look_again()
        try:
            return serving.get(key)
        except Outgrown as exc:
            self._learn(exc.number)
            return self.get(key)

    def get_many(self, keys: Any, *, min_position: MinPosition = None, timeout_s: float = TIMEOUT_S) -> list[Row | None]:
        """The rows of `keys` in their order, None where there is none.

        Args:
            keys: list, any iterable, NumPy array, Arrow array or pandas/Polars series; for a record key also mappings or tuples in field
                order, or a table of its columns.
            min_position, timeout_s: as `get`.
        Raises:
            as `get`; a KeyTypeError names the position.
        """
        return self._answer(lambda serving: serving.get_many(keys), min_position, timeout_s)

    def get_columns(
        self, keys: Any, fields: Sequence[str] | None = None, *, min_position: MinPosition = None, timeout_s: float = TIMEOUT_S
    ) -> Columns:
        """Columns of `fields` (None: all) for `keys`, decoded in one pass where the values lie, without the GIL.

        Args:
            keys: as `get_many`. min_position, timeout_s: as `get`.
        Returns:
            `Columns`: one entry per key, in order; `.found` bool [n]; a missing key is null in every column.
        Raises:
            FieldNotFoundError: no such field. SchemaError: the schema is recursive, so it has rows (`get_many`) and no columns.
            and as `get_many`.
        """
        return self._answer(lambda serving: serving.get_columns(keys, fields), min_position, timeout_s)

    def get_packed(self, keys: Any, *, min_position: MinPosition = None, timeout_s: float = TIMEOUT_S) -> PackedValues:
        """The values as they were written (Avro, decompressed), in one buffer: to send them on without decoding. A row that was patched is
        written anew, in the newest value schema.

        Raises:
            as `get_many`.
        """
        return self._answer(lambda serving: serving.get_packed(keys), min_position, timeout_s)

    def compute(
        self,
        keys: Any,
        operation: Operation,
        field: str,
        vector: npt.ArrayLike,
        *,
        min_position: MinPosition = None,
        timeout_s: float = TIMEOUT_S,
    ) -> np.ma.MaskedArray[Any, Any]:
        """Similarity or distance between `vector` and a vector field, computed where the rows are.

        Args:
            operation: "dot"; "cosine", in [-1, 1]; "euclidean", the distance; "hadamard", the products of their numbers.
            field: a `vector`, an `array<float>` or an `array<double>`.
            vector: [dim], any real dtype; the sums are in float64.
            min_position, timeout_s: as `get`.
        Returns:
            float64 [n] ("hadamard": [n, dim]), masked where the key is missing, the field is null, or (cosine) the stored vector has norm
            zero, for which a cosine does not exist.
        Raises:
            InputError: `vector` is not one-dimensional or not as long as the field, or has norm zero (cosine); or no such operation.
            FieldNotFoundError; and as `get_many`.
        """
        columns = self._answer(lambda serving: serving.get_vectors(keys, field), min_position, timeout_s)
        return compute_scores(columns, operation, field, vector)

    # -- versions and positions -------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The version that a call would read now; 0: the store was only written to.

        Raises:
            NoCurrentVersionError, StateError.
        """
        return self.serving().number

    @property
    def position(self) -> Positions:
        """How far real-time writes are readable here: per partition of the store's topic the offset of the last one."""
        return Positions(self._shared.overlay.positions())

    @property
    def since_ms(self) -> int:
        """Writes with an older timestamp (ms since 1970) do not count for the version that a call would read now.

        Raises:
            as `version`.
        """
        return self.serving().since_ms

    def at(self, version: int) -> EmbeddedReader:
        """A reader of one version of this store, whatever becomes current, with the writes that apply to it; close it on its own. Reads of
        the current one share its maps.

        Raises:
            VersionNotFoundError: there is no such version (any more); lists those there are.
        """
        if self._seen == _CLOSED:
            raise self._nothing()
        number = _version_number(version)
        return EmbeddedReader(self._layout.directory, self._store, version=number, tail=self._source, _shared=self._shared)

    def close(self) -> None:
        """Let go of the files; later calls raise StateError. Rows, columns and calls in flight keep what they need."""
        with self._lock:
            self._seen = _CLOSED
            self._current = None
            self._cell = memoryview(bytes(CELL_BYTES)).cast("q")
            self._shared = self._shared.without_versions()
            tail, self._tail = self._tail, None
        if tail is not None:
            tail.release()

    def __enter__(self) -> EmbeddedReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        shared = self._shared
        return _reopen, (
            str(self._layout.directory), self._store, shared.book.given, self._pinned, dict(shared.book.known), self._source, shared.clock,
        )  # fmt: skip

    def __repr__(self) -> str:
        current = self._current
        at = "closed" if self._seen == _CLOSED else f"v{current.number}" if current else "no version yet"
        return f"EmbeddedReader({self._store!r}, {at}{', pinned' if self._pinned is not None else ''})"

    # -- one call -------------------------------------------------------------------------------------------------------------------

    def _answer(self, call: Callable[[Serving], _Answer], min_position: MinPosition, timeout_s: float) -> _Answer:
        """What `call` says of the version that this call uses."""
        if min_position is not None:
            self._wait(min_position, timeout_s)
        while True:
            try:
                return call(self.serving())
            except Outgrown as exc:
                self._learn(exc.number)

    def _wait(self, min_position: MinPosition, timeout_s: float) -> None:
        if self._seen == _CLOSED:
            raise self._nothing()
        assert min_position is not None
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or math.isnan(timeout_s):
            raise InputError(f"timeout_s is how many seconds to wait for min_position, as 5.0, not {timeout_s!r}")
        self._follow()
        self._shared.overlay.wait(Positions.of(min_position), time.monotonic() + min(timeout_s, TIMEOUT_S_MAX))

    def _catch_up(self, tail: Tail) -> None:
        """See what was written before this reader was opened; after a restart of the machine the overlay is first made again."""
        try:
            self._shared.overlay.wait(tail.written(), time.monotonic() + CATCH_UP_SECONDS)
        except DeadlineExceededError as exc:
            _LOGGER.warning("reads of store %r begin without its newest writes: %s", self._store, exc)

    def _move_tail(self) -> None:
        """Follow the log of the store that lies here now, and no more that of the one that was deleted."""
        if self._tail is not None and self._source is not None:
            before, self._tail = self._tail, self._source.acquire()
            before.release()

    def _follow(self) -> None:
        """Follow the log, if there is one by now."""
        tail = self._tail
        if tail is not None:
            tail.ensure()

    def _learn(self, number: int) -> None:
        """Read rows with the fields of a value schema that was met for the first time."""
        with self._lock:
            self._shared.learn_all(number)
            current = self._current
            if current is not None and self._seen != _CLOSED:
                self._current = self._open(current.number)

    # -- adoption -------------------------------------------------------------------------------------------------------------------

    def serving(self) -> Serving:
        """What a call made now reads from; whoever holds it reads one version throughout (`fold` does).

        Raises:
            NoCurrentVersionError, StateError.
        """
        if self._cell[0] != self._seen:
            self._adopt()
        return self._current or self._look_again()

    def _look_again(self) -> Serving:
        """There is no version to read: unless somebody wrote to the store meanwhile, or it was deleted and made again under its name, and
        so has another cell."""
        with self._lock:
            if self._seen != _CLOSED and self._current is None:
                with contextlib.suppress(StoreNotFoundError):
                    self._cell, identity = _map_cell(self._layout, self._store)
                    if identity != self._identity:
                        self._identity = identity
                        self._shared = self._shared.without_versions()
                        self._move_tail()
                    self._adopt(first=True)
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
                    opened = None if number == _DELETED else self._open(number)
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

    def _open(self, number: int) -> Serving | None:
        """A version and the writes over it; None: version 0 of a store that nobody wrote to."""
        with self._lock:
            return self._shared.open(number, None if self._source is None else self._follow)

    def _open_pinned(self, number: int) -> Serving | None:
        try:
            if number > _NO_VERSION:
                return self._open(number)
            raise FileNotFoundError
        except FileNotFoundError:
            available = [n for n in self._layout.version_numbers() if n != number]
            if not available and not self._layout.current_cell.exists():
                raise StoreNotFoundError(self._store, where=str(self._layout.directory)) from None
            raise VersionNotFoundError(self._store, number, available) from None


class _Shared:
    """What a reader and those of its `at` have in common: how rows are read, the versions that are open, and the writes over them.

    A version opened before a field became known is opened again when it is next adopted; calls under way keep the one they have.
    """

    def __init__(self, layout: StoreLayout, schema: object, known: Sequence[object] | Mapping[int, object], clock: Clock) -> None:
        self.layout, self.clock = layout, clock
        numbered = known if isinstance(known, Mapping) else dict(enumerate(known, start=1))
        mirror = MirroredSchemas(layout.directory)
        self.book = SchemaBook(schema, numbered, mirror)
        self._store = _find_store(layout)
        self.overlay = _overlay(layout, self._store)
        self._opened: WeakValueDictionary[tuple[int, str | None], OpenVersion] = WeakValueDictionary()
        self._lock = threading.Lock()  # while learning; versions are opened without it, because that may take long

    def open(self, number: int, on_refresh: Callable[[], None] | None) -> Serving | None:
        """A version, opened or shared, and the writes over it; None: there is neither. Raises as `OpenVersion`."""
        store = self._store
        rules = None if store is None else Rules(store.settings.rewind_ms, store.settings.ttl_ms, lambda: self.clock.now_us() // 1000)
        if number == _NO_VERSION:
            if store is None or self.overlay.refresh().partition_count == 0 or not self.overlay.positions():
                return None
            with self._lock:
                self.book = self.book.with_all()
            serving = Serving(0, None, KeyCodec(store.key_schema), self.book, self.overlay, rules, on_refresh)
        else:
            opened, book = self._open_version(self.layout.version(number), number)
            serving = Serving(number, opened, opened.keys, book, self.overlay, rules, on_refresh)
        serving.warm()
        return serving

    def _open_version(self, directory: Path, number: int) -> tuple[OpenVersion, SchemaBook]:
        manifest = read_manifest(directory)
        with self._lock:
            book = self.book = self.book.with_schema(manifest.value_schema_id, manifest.value_schema)
        superset = book.superset
        opened = self._opened.get((number, superset))
        if opened is None:
            opened = self._opened[number, superset] = OpenVersion(directory, book.reader)
        return opened, book

    def learn_all(self, number: int) -> None:
        """Know every value schema that the store has now, `number` among them."""
        with self._lock:
            if number not in self.book.known:
                self.book = self.book.with_all()

    def without_versions(self) -> _Shared:
        """The same, with nothing open: another store may lie where this one's versions were."""
        return _Shared(self.layout, self.book.given, self.book.known, self.clock)


class _NoWrites(Overlay):
    """The overlay of a version that lies somewhere alone, without the store it is of: its store's rewind is not known."""

    def __init__(self, layout: StoreLayout) -> None:
        super().__init__(layout.overlay, layout.directory, "")

    def refresh(self, stale: OverlayView | None = None) -> OverlayView:
        return self.view


def _find_store(layout: StoreLayout) -> StoreMirror | None:
    try:
        return read_store(layout.directory)
    except StoreNotFoundError:
        return None


def _overlay(layout: StoreLayout, store: StoreMirror | None) -> Overlay:
    if store is None:
        return _NoWrites(layout)
    return Overlay.open(layout.overlay, layout.directory.parent.parent / LOG_DIRECTORY, topic_of(store.name))


def _version_number(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, (int, np.integer)):
        raise InputError(f"a version is a whole number, not {version!r}")
    return int(version)


def _map_cell(layout: StoreLayout, store: str) -> tuple[memoryview, tuple[int, int]]:
    """The CURRENT cell as one int64 that changes under us, and which file it is; its map lives as long as the view."""
    try:
        with open(layout.current_cell, "rb") as file:
            status = os.fstat(file.fileno())
            mapped = mmap.mmap(file.fileno(), CELL_BYTES, access=mmap.ACCESS_READ)
        return memoryview(mapped).cast("q"), (status.st_dev, status.st_ino)
    except FileNotFoundError:
        raise StoreNotFoundError(store, where=str(layout.directory)) from None
    except ValueError as exc:  # shorter than a cell
        raise CorruptFileError(str(layout.current_cell), "cell", str(exc)) from exc


def _reopen(
    directory: str, store: str, schema: object, version: int | None, known: Mapping[int, object], tail: TailSource | None, clock: Clock
) -> EmbeddedReader:
    return EmbeddedReader(directory, store, schema=schema, version=version, known_schemas=known, tail=tail, clock=clock)
