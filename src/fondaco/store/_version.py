"""One version, opened: its files mapped, its schemas compiled, and the probes that answer from it.

An `OpenVersion` never changes. A reader hands a call one of them, and the call uses no other, so it cannot mix versions. Its maps live as
long as anything refers to them (the version, a row, a vector that views a row): nothing is ever unmapped under a reader, and a version
whose files were retired meanwhile stays readable to those who hold it.

`get` is made once per version and kind of key, so that a call asks for nothing it knows already. Safe from any thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.core.errors import PartitionNotHeldError, SchemaError
from fondaco.schema import Codec
from fondaco.schema.columns import Columns, decode_addresses
from fondaco.store import _kernels
from fondaco.store.basefile import address_of
from fondaco.store.compression import Decompressor
from fondaco.store.keys import KeyCodec
from fondaco.store.manifest import Manifest, read_manifest
from fondaco.store.partial import open_files

if TYPE_CHECKING:
    from fondaco.schema.row import Row

I64Array = npt.NDArray[np.int64]

_LONG = (-(1 << 63), (1 << 63) - 1)
_INT = (-(1 << 31), (1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class PackedValues:
    """Values as they were written, one after the other: value i is `data[offsets[i]:offsets[i + 1]]` (uint8, int64 [n + 1]), Avro in the
    version's value schema; `found` is bool [n]; a missing key has no bytes."""

    data: npt.NDArray[np.uint8]
    offsets: I64Array
    found: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Located:
    """Where the values of many keys lie: absolute addresses int64 [n], start 0 = missing. `memory` keeps them alive."""

    starts: I64Array
    ends: I64Array
    memory: object


class OpenVersion:
    """A version of a store, readable."""

    def __init__(self, directory: Path, schema: object = None) -> None:
        """
        Args:
            directory: `versions/<n>` of a store.
            schema: the reader's schema, which rows are resolved to; None: the schema they were written in.
        Raises:
            FileNotFoundError: the version, or one of its files, is not there (any more).
            CorruptFileError, FormatVersionError: it cannot be trusted, or not be read by this Fondaco.
            SchemaResolutionError: rows cannot be read with `schema`.
        """
        self.manifest: Manifest = read_manifest(directory)
        self.number = self.manifest.version
        self.keys = KeyCodec(self.manifest.key_schema)
        self.codec = Codec(self.manifest.value_schema, schema)
        self._files = open_files(directory, self.manifest)
        self._memories = [file.memory for file in self._files]
        self._bases = [file.address for file in self._files]
        self._table = np.array([len(self._files), *(word for file in self._files for word in file.entry())], np.int64)
        self._table_address = address_of(self._table)
        held = next((file for file in self._files if file.memory), None)  # each has the dictionary
        self._decompressor = Decompressor(held.dictionary, str(directory)) if held is not None else None
        self.get: Callable[[Any], Row | None] = self._getter()

    @cached_property
    def _arrow_schema(self) -> pa.Schema | None:
        """Arrow types that columns were declared with; None if Arrow cannot hold the schema as a whole."""
        try:
            return self.codec.arrow_schema
        except SchemaError:
            return None

    # -- one key --------------------------------------------------------------------------------------------------------------------

    def _getter(self) -> Callable[[Any], Row | None]:
        """`get(key)`: the row, or None. Raises KeyTypeError, CorruptFileError."""
        if self.keys.kind in ("int", "long"):
            return self._integer_getter(*(_INT if self.keys.kind == "int" else _LONG))
        return self._bytes_getter()

    def _integer_getter(self, low: int, high: int) -> Callable[[Any], Row | None]:
        probe, table, memories, row, check, other = (
            _kernels.probe_long, self._table_address, self._memories, self.codec.sealed_row, self.keys.integer, self._unusual,
        )  # fmt: skip

        def get(key: Any) -> Row | None:
            if type(key) is not int or not low <= key <= high:
                key = check(key)
            where, start, end = probe(key, table)
            if start > 0 <= where:
                return row(memories[where], start, end)
            return other(where, start, end)

        return get

    def _bytes_getter(self) -> Callable[[Any], Row | None]:
        probe, table, memories, row, encode, other = (
            _kernels.probe_bytes, self._table_address, self._memories, self.codec.sealed_row, self.keys.encode, self._unusual,
        )  # fmt: skip

        def get(key: Any) -> Row | None:
            where, start, end = probe(encode(key), table)
            if start > 0 <= where:
                return row(memories[where], start, end)
            return other(where, start, end)

        return get

    def _unusual(self, where: int, start: int, end: int) -> Row | None:
        """What is left: a missing key, a compressed value, a damaged index."""
        if start == 0:
            return None
        if start < 0:
            raise self._files[where].broken_index()
        assert self._decompressor is not None
        return self.codec.sealed_row(self._decompressor.one(self._memories[~where][start:end]))

    # -- many keys ------------------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Any) -> list[Row | None]:
        """Rows in the order of `keys`, None where there is none."""
        encoded, starts, ends, compressed, count = self._probe(keys)
        segments = iter(self._frames(starts, ends, compressed, count))
        partitions = (encoded >> np.uint64(32)) * np.uint64(len(self._files)) >> np.uint64(32)
        row, memories, bases = self.codec.sealed_row, self._memories, self._bases
        rows: list[Row | None] = []
        for partition, start, end, flag in zip(partitions.tolist(), starts.tolist(), ends.tolist(), compressed.tolist(), strict=True):
            if not start:
                rows.append(None)
            elif flag:
                rows.append(row(next(segments)))
            else:
                base = bases[partition]
                rows.append(row(memories[partition], start - base, end - base))
        return rows

    def get_columns(self, keys: Any, fields: Sequence[str] | None) -> Columns:
        """Columns of the values of `keys`, decoded where they lie."""
        located = self.locate(keys)
        return decode_addresses(self.codec.program, located.starts, located.ends, fields, self._arrow_schema)

    def get_vectors(self, keys: Any, field: str) -> Columns:
        """One field in the layout it is decoded into, whatever Arrow type it was declared with."""
        located = self.locate(keys)
        return decode_addresses(self.codec.program, located.starts, located.ends, [field])

    def get_packed(self, keys: Any) -> PackedValues:
        """The values' bytes, copied into one buffer."""
        located = self.locate(keys)
        offsets = np.empty(len(located.starts) + 1, np.int64)
        data = np.empty(int((located.ends - located.starts).sum()), np.uint8)
        _kernels.gather(located.starts, located.ends, address_of(data), offsets)
        return PackedValues(data, offsets, located.starts != 0)

    def locate(self, keys: Any) -> Located:
        """Find many keys; compressed values are decompressed into memory of their own."""
        _, starts, ends, compressed, count = self._probe(keys)
        memory: object = None
        if count:
            assert self._decompressor is not None
            memory = self._decompressor.many(starts, ends, compressed, count)
        return Located(starts, ends, (self, memory))

    def _probe(self, keys: Any) -> tuple[npt.NDArray[np.uint64], I64Array, I64Array, npt.NDArray[np.uint8], int]:
        """(hashes, starts, ends, compressed, number of compressed values) of many keys."""
        encoded = self.keys.encode_many(keys)
        count = len(encoded)
        starts, ends, compressed = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.uint8)
        frames, broken = _kernels.probe_many(
            address_of(encoded.data), encoded.offsets, encoded.hashes, self._table_address, starts, ends, compressed
        )
        if broken >= 0:
            raise self._files[int(_kernels.partition_of(encoded.hashes[broken], len(self._files)))].broken_index()
        return encoded.hashes, starts, ends, compressed, frames

    def _frames(self, starts: I64Array, ends: I64Array, compressed: npt.NDArray[np.uint8], count: int) -> Any:
        if not count:
            return ()
        assert self._decompressor is not None
        values: Any = self._decompressor.many(starts, ends, compressed, count)
        return (memoryview(values[i]) for i in range(count))

    # -- warm-up --------------------------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Load the kernels that reads need, so that the first read takes as long as the others: 0.5 s in a process, once."""
        with _WARM_LOCK:
            if self.keys.kind in _WARMED:
                return
            if self.keys.kind in ("int", "long"):
                with contextlib.suppress(PartitionNotHeldError):
                    self.get(0)
            else:
                _kernels.probe_bytes(b"", self._table_address)
            with contextlib.suppress(SchemaError):  # a recursive schema has rows and no columns
                self.get_columns([], None)
            _WARMED.add(self.keys.kind)


_WARM_LOCK = threading.Lock()
_WARMED: set[str] = set()
