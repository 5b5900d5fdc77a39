"""Serving: what a call reads from: one version, and the real-time writes that apply to it.

A row at version v is v's row with every write laid over it whose timestamp is at or after `since_ms` = as_of - rewind. A put or a delete
stands alone, a patch needs what is under it. In a store with a TTL a put is over `ttl` after its timestamp and a pushed row `ttl` after its
version's moment; a row that was patched lives as long as the newest thing it is made of. Version 0 is a base without rows whose window is
everything: a store that was only written to.

The version never changes; the writes do. They are read through an `OverlayView`, which is replaced when a kernel finds it stale; a call
takes the view at its start, and what it returns keeps the view's memory alive.

`get` is made once per kind of key, so that a call asks for nothing it knows already. Safe from any thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from ctypes import string_at
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.core.errors import PartitionNotHeldError, SchemaError
from fondaco.schema import Codec, full_form
from fondaco.schema.columns import Columns, decode_addresses
from fondaco.schema.types import Record
from fondaco.store import _kernels, _read_kernels, merge
from fondaco.store import _overlay_kernels as overlay_kernels
from fondaco.store._merged_rows import MergedRow, MergedRows, RowMaker
from fondaco.store._read_kernels import ALWAYS, ASK, BASE_WORD, BROKEN, FRAME, MERGED, MISSING, OTHER_SCHEMA
from fondaco.store._rows import RowCodecs
from fondaco.store._version import OpenVersion
from fondaco.store.basefile import address_of
from fondaco.store.keys import EncodedKeys, KeyCodec

if TYPE_CHECKING:
    from fondaco.schema.row import Row
    from fondaco.store._overlay_view import OverlayView
    from fondaco.store._schema_book import SchemaBook
    from fondaco.store.overlay import Overlay

I64Array = npt.NDArray[np.int64]

_AS_READ: Final = -1  # stands for a value schema's number: rows that were made in the schema that is read
FOREVER_MS: Final = -(1 << 63)  # window of version 0: since ever
_LONG: Final = (-(1 << 63), (1 << 63) - 1)
_INT: Final = (-(1 << 31), (1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class PackedValues:
    """Values as they were written, one after the other: value i is `data[offsets[i]:offsets[i + 1]]` (uint8, int64 [n + 1]), Avro in the
    store's value schema `schemas[i]` (int32 [n]; 0: missing). `found` is bool [n]; a missing key has no bytes."""

    data: npt.NDArray[np.uint8]
    offsets: I64Array
    found: npt.NDArray[np.bool_]
    schemas: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is true of every version of a store: how far before its moment writes count, and how long rows live."""

    rewind_ms: int
    ttl_ms: int | None
    now_ms: Callable[[], int]


class Serving:
    """One version of a store and the writes over it, readable."""

    def __init__(
        self,
        number: int,
        base: OpenVersion | None,
        keys: KeyCodec,
        schemas: SchemaBook,
        overlay: Overlay,
        rules: Rules | None,
        on_refresh: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            base: the version; None: version 0.
            schemas: the store's value schemas, and what rows are read as.
            rules: None: no write counts (a version that lies alone, without its store's settings).
            on_refresh: called after the overlay was looked at anew, as when the first write came.
        """
        self._on_refresh = on_refresh
        self.number, self.keys = number, keys
        self._base, self._schemas, self._overlay = base, schemas, overlay
        self._ttl_ms = rules.ttl_ms if rules else None
        self._now_ms = rules.now_ms if rules else None
        if base is None:
            self._own, self._as_of_ms, self.since_ms = schemas.newest, 0, FOREVER_MS
            self._codec = schemas.codec(self._own)
        else:
            self._own, self._as_of_ms = base.manifest.value_schema_id, base.manifest.as_of_us // 1000
            self.since_ms = self._as_of_ms - rules.rewind_ms if rules else -FOREVER_MS - 1
            self._codec = base.codec
        self._files = base.files if base else []
        self._lock = threading.Lock()
        self._classes: dict[int, type[Row]] = {self._own: self._codec.sealed_row}
        self._narrow: dict[tuple[str, ...] | None, _Narrowed] = {}
        self._bound = _Bound(self, overlay.view)
        self.get: Callable[[Any], Row | None] = self._getter()

    # -- one key --------------------------------------------------------------------------------------------------------------------

    def _getter(self) -> Callable[[Any], Row | None]:
        """`get(key)`: the row, or None. Raises KeyTypeError, CorruptFileError."""
        if self.keys.kind in ("int", "long"):
            bounds = _INT if self.keys.kind == "int" else _LONG
            return self._integer_getter(*bounds) if self._ttl_ms is None else self._integer_getter_with_ttl(*bounds)
        return self._bytes_getter() if self._ttl_ms is None else self._bytes_getter_with_ttl()

    def _integer_getter(self, low: int, high: int) -> Callable[[Any], Row | None]:
        read, serving, row, check, other = (
            _read_kernels.read_long_always, self, self._codec.sealed_row, self.keys.integer, self._unusual,
        )  # fmt: skip

        def get(key: Any) -> Row | None:
            if type(key) is not int or not low <= key <= high:
                key = check(key)
            bound = serving._bound
            where, start, end = read(key, bound.table)
            if start > 0 <= where:
                return row(bound.memories[where], start, end)
            return other(key, bound, where, start, end)

        return get

    def _bytes_getter(self) -> Callable[[Any], Row | None]:
        read, serving, row, encode, other = (
            _read_kernels.read_bytes_always, self, self._codec.sealed_row, self.keys.encode, self._unusual,
        )  # fmt: skip

        def get(key: Any) -> Row | None:
            bound = serving._bound
            where, start, end = read(encode(key), bound.table)
            if start > 0 <= where:
                return row(bound.memories[where], start, end)
            return other(key, bound, where, start, end)

        return get

    def _integer_getter_with_ttl(self, low: int, high: int) -> Callable[[Any], Row | None]:
        read, check, oldest, row = _read_kernels.read_long, self.keys.integer, self._oldest_ms, self._codec.sealed_row

        def get(key: Any) -> Row | None:
            if type(key) is not int or not low <= key <= high:
                key = check(key)
            bound, oldest_ms = self._bound, oldest()
            where, start, end = read(key, bound.table, oldest_ms)
            if start > 0 <= where:
                return row(bound.memories[where], start, end)
            return self._unusual(key, bound, where, start, end, oldest_ms)

        return get

    def _bytes_getter_with_ttl(self) -> Callable[[Any], Row | None]:
        read, encode, oldest, row = _read_kernels.read_bytes, self.keys.encode, self._oldest_ms, self._codec.sealed_row

        def get(key: Any) -> Row | None:
            bound, oldest_ms = self._bound, oldest()
            where, start, end = read(encode(key), bound.table, oldest_ms)
            if start > 0 <= where:
                return row(bound.memories[where], start, end)
            return self._unusual(key, bound, where, start, end, oldest_ms)

        return get

    def _oldest_ms(self) -> int:
        """What was written before this is over now; ALWAYS in a store without a TTL."""
        if self._ttl_ms is None:
            return ALWAYS
        assert self._now_ms is not None
        return self._now_ms() - self._ttl_ms + 1

    def _unusual(self, key: Any, bound: _Bound, where: int, start: int, end: int, oldest_ms: int = ALWAYS) -> Row | None:
        """What is left: a missing key, a compressed value, a damaged index, and what the overlay must be asked for in another way."""
        if start == MISSING:
            return None
        if start == BROKEN:
            raise self._files[where].broken_index()
        if start == ASK:
            return self._ask(self.keys.encode(key), oldest_ms)
        return self._codec.sealed_row(self._decompressed(bound, where, start, end))

    def _decompressed(self, bound: _Bound, where: int, start: int, end: int) -> Any:
        assert self._base is not None
        assert self._base.decompressor is not None
        return self._base.decompressor.one(bound.memories[~where][start:end])

    def _ask(self, key: bytes, oldest_ms: int) -> Row | None:
        """The row of key bytes, by way of everything that is known about it."""
        found = self._look_up(key, oldest_ms, self._as_read)
        if found is None:
            return None
        number, memory, start, end = found
        return (self._merged_codec.sealed_row if number == _AS_READ else self._row_class(number))(memory, start, end)

    def _look_up(self, key: bytes, oldest_ms: int, maker: RowMaker) -> tuple[int, Any, int, int] | None:
        """Where the row of key bytes lies, as (schema number, memory, start, end); None: there is none.

        Args:
            maker: what a row is made as that must be made.
        """
        while True:
            bound = self._bound
            kind, memory, start, end, number, timestamp_ms = _read_kernels.ask_overlay(key, bound.table)
            if kind == overlay_kernels.STALE:
                self._refresh(bound.view)
                continue
            if kind == overlay_kernels.DAMAGED:
                raise bound.view.broken(memory, start)
            if kind == overlay_kernels.DELETE:
                return None
            if kind == overlay_kernels.PUT and timestamp_ms >= oldest_ms:
                return number, bound.view.memories[memory], start, end
            if kind != overlay_kernels.MERGE:
                return self._base_value(bound, key, oldest_ms)
            address = bound.view.bases[memory] + start
            made = bound.made(maker).get(address)
            if made is None or made.newest_ms < oldest_ms:
                state = merge.trim(bound.view.state(memory, start, end, timestamp_ms), self.since_ms)
                if state.newest_ms < oldest_ms:  # all that was written is over; the base may not be
                    under = None if state.deleted is not None else self._base_value(bound, key, oldest_ms)
                    if under is None or state.put is not None or state.deleted is not None:
                        return under
                made = MergedRow(state.newest_ms, self._merged(bound, key, state, maker))
                bound.made(maker).keep(address, made)
            return None if made.data is None else (maker.number, made.data, 0, len(made.data))

    def _merged(self, bound: _Bound, key: bytes, state: merge.State, maker: RowMaker) -> bytes | None:
        """The row that a state makes with what the version has of its key."""
        base = None
        if state.put is None and state.deleted is None:
            found = self._base_value(bound, key, ALWAYS)
            if found is not None:
                number, memory, start, end = found
                base = maker.codecs.row(number, bytes(memory[start:end]))
        row = merge.apply(state, base, since_ms=self.since_ms, codecs=maker.codecs)
        return None if row is None else maker.codec.encode(row)

    def _base_value(self, bound: _Bound, key: bytes, oldest_ms: int) -> tuple[int, Any, int, int] | None:
        """Where the row of key bytes lies in the version, decompressed if need be; None: nowhere."""
        if self._as_of_ms < oldest_ms or not self._files:
            return None
        where, start, end = _kernels.probe_bytes(key, bound.base_table)
        if start == MISSING:
            return None
        if start == BROKEN:
            raise self._files[where].broken_index()
        if where < 0:
            value = self._decompressed(bound, where, start, end)
            return self._own, value, 0, len(value)
        return self._own, bound.memories[where], start, end

    # -- many keys ------------------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Any) -> list[Row | None]:
        """Rows in the order of `keys`, None where there is none."""
        located = self._locate(keys)
        frames = iter(located.frames())
        bases, memories, row = located.bound.addresses, located.bound.memories, self._codec.sealed_row
        rows: list[Row | None] = []
        places = zip(located.wheres.tolist(), located.starts.tolist(), located.ends.tolist(), located.flags.tolist(), strict=True)
        for i, (where, start, end, flag) in enumerate(places):
            if not start:
                rows.append(None)
            elif not flag:
                base = bases[where]
                rows.append(row(memories[where], start - base, end - base))
            elif flag == FRAME:
                rows.append(row(next(frames)))
            elif flag == OTHER_SCHEMA:
                base = bases[where]
                rows.append(self._row_class(int(located.schemas[i]))(memories[where], start - base, end - base))
            else:
                rows.append(self._ask(located.key(i), located.oldest_ms))
        return rows

    def get_columns(self, keys: Any, fields: Sequence[str] | None) -> Columns:
        """Columns of the values of `keys`, decoded where they lie."""
        return self._columns(keys, fields, self._arrow_schema)

    def get_vectors(self, keys: Any, field: str) -> Columns:
        """One field in the layout it is decoded into, whatever Arrow type it was declared with."""
        return self._columns(keys, [field], None)

    def _columns(self, keys: Any, fields: Sequence[str] | None, declared: pa.Schema | None) -> Columns:
        located = self._locate(keys)
        located.decompress()
        if not located.others:
            return decode_addresses(self._codec.program, located.starts, located.ends, fields, declared)
        self._codec.program.select(fields)  # refuses what is no field
        numbers = [number for number in np.unique(located.schemas).tolist() if number]
        as_it_is = all(self._whole.is_written_so(self._schemas.text(number)) for number in numbers)
        narrowed = self._whole if as_it_is else self._narrowed(fields)
        kept = self._unify(located, narrowed)
        columns = decode_addresses(narrowed.codec.program, located.starts, located.ends, fields, declared)
        del kept  # the addresses led into it until here
        return columns

    def get_packed(self, keys: Any) -> PackedValues:
        """The values' bytes, copied into one buffer."""
        located = self._locate(keys)
        located.decompress()
        kept = self._place_merged(located, self._as_newest) if located.others else []
        offsets = np.empty(len(located.starts) + 1, np.int64)
        data = np.empty(int((located.ends - located.starts).sum()), np.uint8)
        _kernels.gather(located.starts, located.ends, address_of(data), offsets)
        del kept
        return PackedValues(data, offsets, located.starts != 0, located.schemas.astype(np.int32))

    def rows_as_read(self, keys: EncodedKeys) -> tuple[npt.NDArray[np.uint8], I64Array, npt.NDArray[np.bool_]]:
        """The rows of keys as bytes in the reader's schema, for a version to be built from: values, offsets [n + 1], found [n]."""
        located = self._locate(keys)
        located.decompress()
        kept = self._unify(located, self._whole)
        found = located.starts != 0
        offsets = np.empty(len(located.starts) + 1, np.int64)
        data = np.empty(int((located.ends - located.starts).sum()), np.uint8)
        _kernels.gather(located.starts, located.ends, address_of(data), offsets)
        del kept  # the addresses led into it until here
        return data, offsets, found

    def in_base(self, keys: EncodedKeys) -> npt.NDArray[np.bool_]:
        """Which keys the version has a row of, whatever was written since."""
        starts, ends, flags = np.zeros(len(keys), np.int64), np.empty(len(keys), np.int64), np.empty(len(keys), np.uint8)
        if self._files:
            table = self._bound.base_table
            _, broken = _kernels.probe_many(address_of(keys.data), keys.offsets, keys.hashes, table, starts, ends, flags)
            if broken >= 0:
                raise self._files[int(_kernels.partition_of(keys.hashes[broken], len(self._files)))].broken_index()
        present: npt.NDArray[np.bool_] = starts != 0
        return present

    def written_keys(self, batch_bytes: int) -> Iterator[EncodedKeys]:
        """Every key that was written to in this version's window, in batches of about `batch_bytes`; now and then one comes twice."""
        keys, offsets = np.empty(batch_bytes, np.uint8), np.empty(batch_bytes // 8 + 2, np.int64)
        for partition in range(self._bound.view.partition_count):
            slot, view = 0, self._bound.view
            while slot >= 0:
                begun_at = slot
                slot, count, status, memory, record = _read_kernels.list_writes(
                    view.table, partition, slot, self.since_ms, address_of(keys), len(keys), offsets
                )
                if count:
                    data, ends = keys[: offsets[count]].copy(), offsets[: count + 1].copy()
                    hashes = np.empty(count, np.uint64)
                    _kernels.hash_many(address_of(data), ends, hashes)
                    yield EncodedKeys(data, ends, hashes)
                if status == overlay_kernels.DAMAGED:
                    raise view.broken(memory, record - view.bases[memory] if record else 0)
                if status == overlay_kernels.STALE:
                    self._refresh(view)
                    before, view = view, self._bound.view
                    if view.partitions[partition].index is not before.partitions[partition].index:
                        slot = 0  # another generation of the index, in another order
                elif slot == begun_at:
                    keys = np.empty(2 * len(keys), np.uint8)

    def _locate(self, keys: Any) -> _Located:
        """Find many keys."""
        encoded = self.keys.encode_many(keys)
        count = len(encoded)
        wheres, starts, ends, schemas = (np.empty(count, np.int64) for _ in range(4))
        flags = np.empty(count, np.uint8)
        oldest_ms, address = self._oldest_ms(), address_of(encoded.data)
        while True:
            bound = self._bound
            frames, others, status, at = _read_kernels.read_many(
                address, encoded.offsets, encoded.hashes, bound.table, oldest_ms, wheres, starts, ends, flags, schemas
            )
            if status == 0:
                return _Located(self, bound, encoded, wheres, starts, ends, flags, schemas, frames, others, oldest_ms)
            if status == BROKEN:
                raise self._files[int(_kernels.partition_of(encoded.hashes[at], len(self._files)))].broken_index()
            if wheres[at] == overlay_kernels.STALE:
                self._refresh(bound.view)
            else:
                self._look_up(
                    encoded.data[encoded.offsets[at] : encoded.offsets[at + 1]].tobytes(), oldest_ms, self._as_read
                )  # says what is damaged

    def _unify(self, located: _Located, narrowed: _Narrowed) -> object:
        """Bring the rows of a batch, of several schemas and some made of patches, into one schema; returns what keeps them alive."""
        kept = self._place_merged(located, self._as_read)
        for number in np.unique(located.schemas).tolist():
            if number == 0 or (number == _AS_READ and narrowed is self._whole):
                continue
            text = self._merged_text if number == _AS_READ else self._schemas.text(number)
            if narrowed.is_written_so(text):
                continue
            which = np.flatnonzero((located.schemas == number) & (located.starts != 0))
            data, offsets = narrowed.converted(text, located.starts[which], located.ends[which])
            kept.append(data)
            located.starts[which], located.ends[which] = offsets[:-1] + address_of(data), offsets[1:] + address_of(data)
        return kept

    def _place_merged(self, located: _Located, maker: RowMaker) -> list[object]:
        """Make the rows of a batch that patches make, and say where they lie; returns what keeps them alive."""
        kept: list[object] = []
        known, oldest_ms, made, rows = located.bound.made(maker), located.oldest_ms, [], []
        which = np.flatnonzero(located.flags == MERGED)
        for i, address in zip(which.tolist(), located.starts[which].tolist(), strict=True):
            row = known.get(address)
            if row is not None and row.newest_ms >= oldest_ms and row.data is not None:
                made.append(i)
                rows.append(row.data)
            else:
                kept.append(located.place(i, self._look_up(located.key(i), oldest_ms, maker)))
        if made:
            data = np.frombuffer(b"".join(rows) + b"\0", np.uint8)
            lengths = np.array([len(row) for row in rows], np.int64)
            located.ends[made] = ends = np.cumsum(lengths) + address_of(data)
            located.starts[made], located.schemas[made] = ends - lengths, maker.number
            kept.append(data)
        return kept

    # -- schemas --------------------------------------------------------------------------------------------------------------------

    def _row_class(self, number: int) -> type[Row]:
        found = self._classes.get(number)
        if found is None:
            found = self._classes[number] = self._schemas.codec(number).sealed_row
        return found

    @cached_property
    def _merged_codec(self) -> Codec:
        """Of rows that are made here: written as this reader reads."""
        return Codec(self._schemas.reader)

    @cached_property
    def _merged_text(self) -> str:
        """Their schema."""
        return full_form(self._merged_codec.schema)

    @cached_property
    def _as_read(self) -> RowMaker:
        return RowMaker(RowCodecs(self._schemas.text, self._schemas.reader), self._merged_codec, _AS_READ)

    @cached_property
    def _as_newest(self) -> RowMaker:
        """Rows in a schema that has a number, for those who get bytes."""
        text = self._schemas.text(self._schemas.newest)
        return RowMaker(RowCodecs(self._schemas.text, text), Codec(text), self._schemas.newest)

    @cached_property
    def _arrow_schema(self) -> pa.Schema | None:
        """Arrow types that columns were declared with; None if Arrow cannot hold the schema as a whole."""
        try:
            return self._codec.arrow_schema
        except SchemaError:
            return None

    @cached_property
    def _whole(self) -> _Narrowed:
        """The reader's schema with all its fields, also if it is recursive and has no columns."""
        return _Narrowed(self._merged_codec, None, by_arrow=self._schemas.reader_is_arrow)

    def _narrowed(self, fields: Sequence[str] | None) -> _Narrowed:
        key = None if fields is None else tuple(fields)
        found = self._narrow.get(key)
        if found is None:
            if len(self._narrow) >= _NARROWED_MAX:
                self._narrow.clear()
            found = self._narrow[key] = _Narrowed(self._merged_codec, key, by_arrow=self._schemas.reader_is_arrow)
        return found

    # -- writes ---------------------------------------------------------------------------------------------------------------------

    def _refresh(self, stale: OverlayView) -> None:
        """Read through the overlay's next view, if this one is still the one in use."""
        with self._lock:
            if self._bound.view is stale:
                self._bound = _Bound(self, self._overlay.refresh(stale))
        if self._on_refresh is not None:
            self._on_refresh()

    # -- warm-up --------------------------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Load the kernels that reads need, so that the first read takes as long as the others: 0.5 s in a process, once."""
        with _WARM_LOCK:
            if self.keys.kind in _WARMED:
                return
            table = self._bound.table
            if self.keys.kind in ("int", "long"):
                with contextlib.suppress(PartitionNotHeldError):
                    _read_kernels.read_long_always(0, table)
                _read_kernels.read_long(0, table, ALWAYS)
            else:
                _read_kernels.read_bytes_always(b"", table)
                _read_kernels.read_bytes(b"", table, ALWAYS)
            _read_kernels.ask_overlay(b"", table)
            with contextlib.suppress(SchemaError):  # a recursive schema has rows and no columns
                self.get_columns([], None)
            _WARMED.add(self.keys.kind)


_WARM_LOCK = threading.Lock()
_WARMED: set[str] = set()
_NARROWED_MAX: Final = 64


class _Bound:
    """A version and one view of the writes over it, as kernels take them; never changes.

    Attributes:
        table: address of the serving table; base_table: of the part of it that is the base's alone.
        memories: the base's files, then the view's; `addresses` says where each begins.
    """

    __slots__ = ("_array", "_made", "addresses", "base_table", "memories", "table", "view")

    def __init__(self, serving: Serving, view: OverlayView) -> None:
        base = serving._base
        entries = base.entries.ravel() if base else np.empty(0, np.int64)
        head = [serving._as_of_ms, view.table, serving.since_ms, serving._own, len(serving._files), len(serving._files)]
        self._array = np.concatenate([np.array(head, np.int64), entries])
        self.table = address_of(self._array)
        self.base_table = self.table + 8 * BASE_WORD
        self.view = view
        self.memories = (*(file.memory for file in serving._files), *view.memories)
        self.addresses = (*(file.address for file in serving._files), *view.bases)
        self._made: dict[int, MergedRows] = {}

    def made(self, maker: RowMaker) -> MergedRows:
        """The rows of patched keys that were made already."""
        found = self._made.get(maker.number)
        return found if found is not None else self._made.setdefault(maker.number, MergedRows())


class _Located:
    """Where the values of many keys lie: arrays as `_read_kernels.read_many` fills them. Belongs to one call."""

    def __init__(
        self, serving: Serving, bound: _Bound, encoded: EncodedKeys, wheres: I64Array, starts: I64Array, ends: I64Array,
        flags: npt.NDArray[np.uint8], schemas: I64Array, frame_count: int, others: int, oldest_ms: int,
    ) -> None:  # fmt: skip
        self.serving, self.bound, self.oldest_ms = serving, bound, oldest_ms
        self.wheres, self.starts, self.ends, self.flags, self.schemas = wheres, starts, ends, flags, schemas
        self.others = others
        self._encoded, self._frame_count = encoded, frame_count
        self._values: Any = None

    def key(self, i: int) -> bytes:
        """The bytes of key i."""
        return self._encoded.data[self._encoded.offsets[i] : self._encoded.offsets[i + 1]].tobytes()

    def decompress(self) -> Any:
        """Decompress values that are frames into memory of their own; their starts and ends move there."""
        if self._frame_count:
            assert self.serving._base is not None
            assert self.serving._base.decompressor is not None
            marked = self.flags if not self.others else (self.flags == FRAME).astype(np.uint8)
            self._values = self.serving._base.decompressor.many(self.starts, self.ends, marked, self._frame_count)
        return self._values

    def frames(self) -> Any:
        """The decompressed values, in order."""
        values = self.decompress()
        return (memoryview(values[i]) for i in range(self._frame_count))

    def place(self, i: int, found: tuple[int, Any, int, int] | None) -> object:
        """Say where the value of key i lies; returns what keeps it alive."""
        if found is None:
            self.starts[i] = self.ends[i] = self.schemas[i] = 0
            return None
        self.schemas[i], memory, start, end = found
        array = np.frombuffer(memory, np.uint8)
        self.starts[i] = address_of(array) + start
        self.ends[i] = address_of(array) + (len(array) if end < 0 else end)
        return array


class _Narrowed:
    """The reader's schema with some fields only (None: all): what the rows of a mixed batch are brought into."""

    def __init__(self, reader: Codec, fields: tuple[str, ...] | None, *, by_arrow: bool) -> None:
        self.fields = fields
        self._reader: object = reader.schema
        if by_arrow:  # so that names of records go on not to count
            declared = reader.arrow_schema
            self._reader = declared if fields is None else pa.schema([declared.field(name) for name in dict.fromkeys(fields)])
        elif fields is not None:
            assert isinstance(reader.schema, Record)
            by_name = {member.name: member for member in reader.schema.fields}
            self._reader = replace(reader.schema, fields=tuple(by_name[name] for name in dict.fromkeys(fields)))
        self.codec = Codec(self._reader)
        self._names = self.codec.fields
        self._codecs: dict[str, Codec] = {}
        self._same: dict[str, bool] = {}

    def encode(self, row: dict[str, Any]) -> bytes:
        """A row of the whole schema, as bytes of this one."""
        return self.codec.encode({name: row[name] for name in self._names})

    def is_written_so(self, text: str) -> bool:
        """Whether rows of a schema need no conversion."""
        found = self._same.get(text)
        if found is None:
            found = self._same[text] = Codec(text) == self.codec
        return found

    def converted(self, text: str, starts: I64Array, ends: I64Array) -> tuple[npt.NDArray[np.uint8], I64Array]:
        """Rows of a schema as rows of this one: bytes, offsets [n + 1]."""
        codec = self._codecs.get(text)
        if codec is None:
            codec = self._codecs[text] = Codec(text, self._reader)
        try:
            program = codec.program
        except SchemaError:  # recursive: no columns, so row by row
            rows = [self.codec.encode(codec.decode(string_at(start, end - start))) for start, end in zip(starts, ends, strict=True)]
            offsets = np.zeros(len(rows) + 1, np.int64)
            np.cumsum([len(row) for row in rows], out=offsets[1:])
            return np.frombuffer(b"".join(rows) or b"\0", np.uint8), offsets
        return self.codec.encode_columns(decode_addresses(program, starts, ends, self.fields).to_arrow())
