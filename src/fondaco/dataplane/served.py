"""Served stores: each store of a platform as the server reads it, and the set of them, kept in step with the catalog.

A `ServedStore` answers from one version at a time. When another becomes current, that version is opened in a worker thread, and requests
that come meanwhile wait for it for up to `ADOPT_S`; after that they are answered from the old one until the new one is open. So a swap is
seen by the next request, as with an embedded reader, and a large version delays nobody for long. A version that cannot be opened leaves
the old one in place and is tried again every second. Versions that requests name are kept open, the few used last.

The readers follow no log: a tailer in another process does, and its writes appear in the mapped overlay.

Everything here belongs to the event loop's thread, but for what `open_*` functions do in a worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from fondaco.catalog.rows import StoreRow
from fondaco.core.clock import Clock
from fondaco.core.errors import FondacoError, NoCurrentVersionError, StoreNotFoundError, UnavailableError, VersionNotFoundError
from fondaco.dataplane.keys import checked
from fondaco.dataplane.limits import PIECE_KEYS
from fondaco.dataplane.stats import StoreStats
from fondaco.schema import full_form
from fondaco.store.keys import KeyCodec
from fondaco.store.layout import CELL_BYTES, StoreLayout
from fondaco.store.manifest import Manifest, read_manifest
from fondaco.store.mirror import read_schemas
from fondaco.store.reader import EmbeddedReader
from fondaco.store.settings import StoreSettings

if TYPE_CHECKING:
    from fondaco.schema.row import Row

ADOPT_S: Final = 0.2  # how long a request waits for a version that has just become current
RETRY_S: Final = 1.0
PINNED_MAX: Final = 4  # versions kept open besides the current one
PIECE_BYTES: Final = 4 << 20  # of rows answered at once, by their average size
PIECE_KEYS_MIN: Final = 16
_LOGGER = logging.getLogger(__name__)
_NO_VERSION: Final = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """A version, open.

    Attributes:
        reader: stays on this version; for 0, the store's real-time writes alone, it follows the store.
        manifest: None for version 0. piece_keys: how many keys are looked up at once, so that a piece is of bounded size.
    """

    number: int
    reader: EmbeddedReader
    manifest: Manifest | None
    piece_keys: int


class ServedStore:
    """One store, readable."""

    def __init__(self, row: StoreRow, directory: Path, base: EmbeddedReader, first: Opened | None, schemas: Mapping[int, str]) -> None:
        """Use `open_store`."""
        self.id, self.name = row.id, row.name
        self.row, self.layout = row, StoreLayout(directory)
        self.keys = KeyCodec(row.key_schema)
        self.integers = self.keys.kind in ("int", "long")
        self.settings = msgspec.convert(row.settings, StoreSettings)
        self.schemas = dict(schemas)
        self.stats = StoreStats()
        self._base = base
        self._cell, self._identity = _map_cell(self.layout)
        self._opened = first
        self._seen = self._cell[0] if first is None else first.number
        self._pinned: OrderedDict[int, Opened] = OrderedDict()
        self._adopting: asyncio.Future[None] | None = None
        self._failed: tuple[int, float, FondacoError] | None = None
        self._numbers: dict[type[Row], int | None] = {}

    # -- versions -----------------------------------------------------------------------------------------------------------------------

    @property
    def current(self) -> Opened | None:
        """The current version, if it is open: the usual case, at the price of eight mapped bytes. None: ask `adopted`."""
        return self._opened if self._cell[0] == self._seen else None

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to read: neither a version nor real-time writes."""
        if self._cell[0] > 0 or (self._opened is not None and self._opened.number > 0):
            return False
        try:
            return self._base.version < 0
        except FondacoError:
            return True

    @property
    def is_cut_off(self) -> bool:
        """Whether the directory was removed, and perhaps made anew (a node that gave the store away has it again): what is open is not fed
        any more."""
        try:
            status = os.stat(self.layout.current_cell)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    @property
    def version_and_partitions(self) -> tuple[int, int]:
        """Of whatever is open, for the routing table."""
        opened = self._opened
        return (opened.number, opened.manifest.partition_count) if opened is not None and opened.manifest is not None else (0, 1)

    def read_schemas(self) -> dict[int, str]:
        """The value schemas by number, as they are now."""
        self.schemas = read_schemas(self.layout.directory) or self.schemas
        return self.schemas

    async def adopted(self, workers: Executor) -> Opened:
        """The current version, opened if need be.

        Raises:
            NoCurrentVersionError: there is none. What opening raises, if nothing else is open.
        """
        loop = asyncio.get_running_loop()
        failed = self._failed
        if self._cell[0] != self._seen and (failed is None or failed[0] != self._cell[0] or loop.time() >= failed[1]):
            if self._adopting is None:
                self._adopting = asyncio.ensure_future(self._adopt(workers))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._adopting), ADOPT_S if self._opened is not None else None)
        if self._opened is not None:
            return self._opened
        if self._failed is not None:
            raise self._failed[2]
        raise NoCurrentVersionError(self.name)

    async def _adopt(self, workers: Executor) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (number := self._cell[0]) != self._seen:
                try:
                    opened = await loop.run_in_executor(workers, open_version, self.layout, self.name, self._base, number)
                except Exception as exc:
                    if self._cell[0] != number:
                        continue  # it was retired before we came to open it
                    _LOGGER.warning("store %r: v%d cannot be opened: %s", self.name, number, exc)
                    error = exc if isinstance(exc, FondacoError) else FondacoError(str(exc))
                    self._failed = (number, loop.time() + RETRY_S, error)
                    return
                self._pinned.pop(number, None)
                if self._opened is not None and self._opened.number:
                    self._keep(self._opened)
                self._opened, self._seen, self._failed = opened, number, None
                self._numbers.clear()
        finally:
            self._adopting = None

    async def at(self, number: int, workers: Executor) -> Opened:
        """One version, current or not.

        Raises:
            VersionNotFoundError: there is no such version (any more).
        """
        if number == _NO_VERSION and (self._opened is None or self._opened.number):  # it lasts until the first version is there
            raise VersionNotFoundError(self.name, number, self.layout.version_numbers())
        kept = self.pinned(number)
        if kept is not None:
            if number in self._pinned:
                self._pinned.move_to_end(number)
            return kept
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(workers, open_version, self.layout, self.name, self._base, number)
        self._keep(opened)
        return opened

    def pinned(self, number: int) -> Opened | None:
        """One version, if it is open already."""
        if self._opened is not None and self._opened.number == number:
            return self._opened
        kept = self._pinned.get(number)
        return kept if kept is not None and self.layout.version(number).exists() else None

    def _keep(self, opened: Opened) -> None:
        self._pinned[opened.number] = opened
        while len(self._pinned) > PINNED_MAX:
            self._pinned.popitem(last=False)

    def forget_retired(self) -> None:
        """Let go of versions whose files are gone, so that their memory and disk are free."""
        for number in [number for number in self._pinned if not self.layout.version(number).exists()]:
            del self._pinned[number]

    def close(self) -> None:
        """Let go of everything."""
        self._pinned.clear()
        self._opened = None
        self._base.close()

    # -- rows ---------------------------------------------------------------------------------------------------------------------------

    def schema_number(self, row: Row) -> int | None:
        """The number of the value schema that a row's bytes are written in; None: it was made here, of several."""
        kind = type(row)
        try:
            return self._numbers[kind]
        except KeyError:
            text = full_form(kind.written_as())
            numbers = [number for number, schema in self.schemas.items() if full_form(schema) == text]
            if not numbers:
                self.schemas = read_schemas(self.layout.directory)
                numbers = [number for number, schema in self.schemas.items() if full_form(schema) == text]
            found = self._numbers[kind] = max(numbers, default=None)
            return found


def open_store(row: StoreRow, directory: Path, clock: Clock) -> ServedStore:
    """Open a store with its current version, if it has one that can be opened. Slow: for a worker thread.

    Raises:
        StoreNotFoundError: it was deleted meanwhile.
    """
    layout = StoreLayout(directory)
    schemas = read_schemas(directory)
    base = EmbeddedReader.open(directory, row.name, known_schemas=schemas, clock=clock)
    first = None
    try:
        with contextlib.suppress(FondacoError, FileNotFoundError):  # the store's first reader is told
            first = open_version(layout, row.name, base, row.current)
        opened = ServedStore(row, directory, base, first, schemas)
        _warm(opened.keys, first)
        return opened
    except BaseException:
        base.close()
        raise


def open_version(layout: StoreLayout, store: str, base: EmbeddedReader, number: int) -> Opened:
    """Open one version; 0 is what was written in real time alone.

    Raises:
        as `EmbeddedReader.at`.
    """
    if number == _NO_VERSION:
        return Opened(number, base, None, PIECE_KEYS)
    if number < 0:
        raise StoreNotFoundError(store, where="this platform: it was deleted")
    reader = base.at(number)
    manifest = read_manifest(layout.version(number))
    ratio = manifest.compression.ratio_zstd if manifest.compression.chosen == "zstd" else None
    row_bytes = int(manifest.bytes * (ratio or 1.0)) // max(manifest.records, 1) + 1
    return Opened(number, reader, manifest, max(PIECE_KEYS_MIN, min(PIECE_KEYS, PIECE_BYTES // row_bytes)))


def _warm(keys: KeyCodec, first: Opened | None) -> None:
    """Load the kernels that batches need, so that the first request takes as long as the others."""
    checked(keys, np.empty(0, np.uint8), np.zeros(1, np.int64))
    nothing = keys.encode_many([])
    if first is not None:
        with contextlib.suppress(FondacoError):  # a store that was never written to has nothing to pack
            first.reader.get_packed(nothing)


def _map_cell(layout: StoreLayout) -> tuple[memoryview[int], tuple[int, int]]:
    with open(layout.current_cell, "rb") as file:
        status = os.fstat(file.fileno())
        return memoryview(mmap.mmap(file.fileno(), CELL_BYTES, access=mmap.ACCESS_READ)).cast("q"), (status.st_dev, status.st_ino)


class StoreSet:
    """The stores of a platform by name, as URLs name them."""

    def __init__(self) -> None:
        self.by_name: dict[bytes, ServedStore] = {}
        self.epoch = 0  # the catalog's change counter
        self.loaded = False  # whether the first look at the catalog is over
        self._held: Mapping[str, tuple[int, int]] = {}

    def __iter__(self) -> Iterator[ServedStore]:
        return iter(list(self.by_name.values()))

    def get(self, name: str) -> ServedStore:
        """The store called `name`.

        Raises:
            StoreNotFoundError: there is none; suggests the nearest. UnavailableError: it may not be open yet.
        """
        found = self.by_name.get(name.encode("utf-8", "surrogateescape"))
        if found is not None:
            return found
        if not self.loaded:
            raise UnavailableError("this server", "it is starting")
        raise StoreNotFoundError(name, sorted(store.name for store in self))

    async def replace(
        self, rows: Iterable[StoreRow], held: Mapping[str, tuple[int, int]], opener: Callable[[StoreRow], ServedStore], workers: Executor
    ) -> None:
        """Take what there is now: open what is new, close what is gone. One that cannot be opened is tried again next time.

        Args:
            held: a stamp for each store of which only some partitions are there; another one means that there are others now.
        """
        loop = asyncio.get_running_loop()
        wanted = {row.name.encode(): row for row in rows}
        for name, store in list(self.by_name.items()):
            if name not in wanted or wanted[name].id != store.id:
                del self.by_name[name]
                store.close()
        for name, row in wanted.items():
            known = self.by_name.get(name)
            if known is None or held.get(row.name) != self._held.get(row.name) or known.is_cut_off:
                try:
                    opened = await loop.run_in_executor(workers, opener, row)
                except Exception as exc:
                    _LOGGER.warning("store %r cannot be opened: %s", row.name, exc)
                    continue
                if known is not None:  # requests under way keep what they have
                    opened.stats = known.stats
                self.by_name[name] = opened
        self._held, self.loaded = held, True
        for store in self:
            store.forget_retired()

    def close(self) -> None:
        """Close all of them."""
        for store in self:
            store.close()
        self.by_name.clear()
