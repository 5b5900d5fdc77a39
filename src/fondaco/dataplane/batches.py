"""Batches: the answers to many keys, made in pieces, each one call into a kernel and a part of the body.

A *batch* is a function from a range of the keys to pieces of the body, in one format. `routes` decides whether one call is enough, or
whether the answer is streamed with the loop's other work in between. Nothing here waits; on the event loop's thread.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.core.errors import InputError
from fondaco.dataplane import wire
from fondaco.dataplane.http import Piece
from fondaco.dataplane.json_rows import numbers_to_json, to_json
from fondaco.schema.columns import Columns
from fondaco.store.compute import best_of
from fondaco.store.keys import EncodedKeys
from fondaco.store.reader import EmbeddedReader
from fondaco.store.store_reader import Operation

_encode: Final = msgspec.json.Encoder().encode


def slice_keys(keys: EncodedKeys, first: int, last: int) -> EncodedKeys:
    """Keys `first` to `last`, of the same memory."""
    if first == 0 and last == len(keys):
        return keys
    return EncodedKeys(keys.data, keys.offsets[first : last + 1], keys.hashes[first:last])


class Batch(Protocol):
    """Makes the body of an answer, range by range, in order.

    Attributes:
        framed: whether an error can still be said after the body has begun. missing: keys without a row so far.
    """

    framed: bool
    missing: int

    def piece(self, keys: EncodedKeys, *, last: bool) -> Sequence[Piece]:
        """The part of the body for these keys. Raises what reading raises."""
        ...


class PackedRows:
    """Rows as raw Avro."""

    framed = True

    def __init__(self, reader: EmbeddedReader) -> None:
        self._reader, self.missing = reader, 0

    def piece(self, keys: EncodedKeys, *, last: bool) -> Sequence[Piece]:
        packed = self._reader.get_packed(keys)
        self.missing += len(keys) - int(np.count_nonzero(packed.found))
        return wire.pack_rows(packed.schemas, packed.offsets, packed.data, last=last)


class JsonRows:
    """Rows as JSON objects, or null."""

    framed = False

    def __init__(self, reader: EmbeddedReader, fields: Sequence[str] | None) -> None:
        self._reader, self._fields, self.missing, self._begun = reader, fields, 0, False
        if fields is not None:
            reader.get_columns([], fields)  # refuses what is no field

    def piece(self, keys: EncodedKeys, *, last: bool) -> Sequence[Piece]:
        rows: list[Any] = []
        for row in self._reader.get_many(keys):
            if row is None:
                self.missing += 1
                rows.append(None)
            else:
                whole = row.to_dict()
                rows.append(to_json(whole if self._fields is None else {name: whole[name] for name in self._fields}))
        head = b"," if self._begun and rows else b"" if self._begun else b'{"rows":['
        self._begun = True
        return [head, _encode(rows)[1:-1], b"]}" if last else b""]


class RawColumns:
    """Columns of numbers as raw buffers."""

    framed = True

    def __init__(self, reader: EmbeddedReader, fields: Sequence[str] | None) -> None:
        self._reader, self._fields, self.missing = reader, fields, 0

    def piece(self, keys: EncodedKeys, *, last: bool) -> Sequence[Piece]:
        columns = self._reader.get_columns(keys, self._fields)
        found = columns.found
        self.missing += len(found) - int(np.count_nonzero(found))
        return wire.pack_columns(found, [_wire_column(columns, name) for name in self._fields or columns], last=last)


def _wire_column(columns: Columns, name: str) -> wire.WireColumn:
    column = columns[name]
    if not isinstance(column, np.ma.MaskedArray):
        return wire.WireColumn(column, None)
    valid = columns.valid(name)
    return wire.WireColumn(np.ma.getdata(column), None if valid.all() else valid)


class JsonColumns:
    """Columns as JSON lists, one object for all keys; so a large one is made at once at the end."""

    framed = False

    def __init__(self, reader: EmbeddedReader, fields: Sequence[str] | None) -> None:
        self._reader, self._fields, self.missing = reader, fields, 0
        self._found: list[bool] = []
        self._columns: dict[str, list[Any]] = {}

    def piece(self, keys: EncodedKeys, *, last: bool) -> Sequence[Piece]:
        columns = self._reader.get_columns(keys, self._fields)
        found = columns.found.tolist()
        self.missing += found.count(False)
        self._found += found
        for name in self._fields or columns:
            self._columns.setdefault(name, []).extend(_json_column(columns, name))
        return [_encode({"found": self._found, "columns": self._columns})] if last else []


def _json_column(columns: Columns, name: str) -> list[Any]:
    column = columns[name]
    if column.dtype == object:
        return [None if value is np.ma.masked else to_json(value) for value in column]
    values: list[Any] = numbers_to_json(np.ma.getdata(column))
    if isinstance(column, np.ma.MaskedArray):
        values = [value if there else None for value, there in zip(values, columns.valid(name).tolist(), strict=True)]
    return values


class ArrowColumns:
    """Columns as an Arrow IPC stream, one record batch a piece, `fondaco.found` first. Every field is nullable: rows may be missing."""

    framed = False

    def __init__(self, reader: EmbeddedReader, fields: Sequence[str] | None) -> None:
        self._reader, self._fields, self.missing = reader, fields, 0
        self._sink = _Sink()
        self._writer: Any = None

    def piece(self, keys: EncodedKeys, *, last: bool) -> Sequence[Piece]:
        columns = self._reader.get_columns(keys, self._fields)
        self.missing += columns.row_count - int(np.count_nonzero(columns.found))
        batch = columns.to_arrow()
        fields = [field.with_nullable(True) for field in batch.schema]
        schema = pa.schema([pa.field(wire.FOUND_COLUMN, pa.bool_(), nullable=False), *fields], batch.schema.metadata)
        if self._writer is None:
            self._writer = pa.ipc.new_stream(pa.PythonFile(self._sink, "w"), schema)
        self._writer.write_batch(pa.RecordBatch.from_arrays([pa.array(columns.found), *batch.columns], schema=schema))
        if last:
            self._writer.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """Where Arrow writes; gives away what it holds."""

    def __init__(self) -> None:
        self._held: list[Piece] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        held = bytes(data)
        self._held.append(held)
        return len(held)

    def take(self) -> list[Piece]:
        held, self._held = self._held, []
        return held


class Scores:
    """Similarities, as raw numbers or JSON; with `top_k` only the best of all, at the end."""

    def __init__(
        self, reader: EmbeddedReader, operation: str, field: str, vector: npt.NDArray[np.float64], top_k: int | None, *, raw: bool
    ) -> None:
        """
        Raises:
            InputError: no such operation, or `top_k` with one that gives no one number a row.
        """
        self._reader, self._field, self._raw, self._top_k = reader, field, raw, top_k
        self._operation = cast(Operation, operation)
        self._vector = vector
        self._kept: list[Any] = []
        self._begun = False
        self.framed, self.missing = raw and top_k is None, 0
        if top_k is not None:
            best_of(np.ma.MaskedArray(np.zeros((0, 1) if operation == "hadamard" else 0)), self._operation, top_k)

    def piece(self, keys: EncodedKeys, *, last: bool) -> Sequence[Piece]:
        scores = self._reader.compute(keys, self._operation, self._field, self._vector)
        mask = np.ma.getmaskarray(scores)
        valid: npt.NDArray[np.bool_] = np.asarray(~mask if mask.ndim == 1 else ~mask.all(axis=1))
        self.missing += len(valid) - int(np.count_nonzero(valid))
        if self._top_k is not None:
            self._kept.append(scores)
            return self._best() if last else []
        values = np.ma.getdata(scores)
        if self._raw:
            return wire.pack_scores(values, valid, last=last)
        listed = [value if there else None for value, there in zip(numbers_to_json(values), valid.tolist(), strict=True)]
        head = b"," if self._begun and listed else b"" if self._begun else b'{"scores":['
        self._begun = True
        return [head, _encode(listed)[1:-1], b"]}" if last else b""]

    def _best(self) -> Sequence[Piece]:
        assert self._top_k is not None
        values, masks = (np.concatenate([part(kept) for kept in self._kept]) for part in (np.ma.getdata, np.ma.getmaskarray))
        positions, scores = best_of(np.ma.MaskedArray(values, masks), self._operation, self._top_k)
        if self._raw:
            return wire.pack_top_k(wire.TopK(positions, scores))
        return [_encode({"positions": positions.tolist(), "scores": numbers_to_json(scores)})]


def ranges(count: int, step: int) -> Iterator[tuple[int, int]]:
    """(first, last) of each piece of `count` keys; one empty range for none."""
    for first in range(0, max(count, 1), step):
        yield first, min(first + step, count)


def check_fields(fields: Sequence[str] | None) -> None:
    """Raises InputError: one twice. A list of none asks which keys are there."""
    if fields is not None and len(set(fields)) < len(fields):
        raise InputError(f"fields names each field once, not {list(fields)[:20]!r}; leave it out for all")
