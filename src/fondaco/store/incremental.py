"""Incremental pushes: the rows of a table as real-time writes, at the pace that live traffic leaves.

A table with a column for every field becomes puts; one that lacks some becomes patches, so that the fields without a column stay as they
are. Of a struct column the same holds for its members. Rows given as mappings decide one by one.

Every write is stamped with the time of the push and the number of its row, under a writer of its own that is named after the push: the same
push again makes the same writes, bit for bit, and the merge makes nothing of them. So a push that broke off is simply repeated. Of several
rows of one key the last wins.

Thread rule: one push belongs to one thread. Importing this imports numba.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa

from fondaco.core.errors import DataError, FieldNotFoundError, InputError, RowError, UnwrittenError, near_name
from fondaco.schema import Codec
from fondaco.schema.types import Field, Record, Type, Union
from fondaco.store import _write_kernels
from fondaco.store._patch import PatchEncoder
from fondaco.store._write_columns import envelope_template, put_batch, refuse_long
from fondaco.store.basefile import address_of
from fondaco.store.encoder import RECORD_KEY_COLUMN, Encoded, RowEncoder
from fondaco.store.inputs import open_input
from fondaco.store.keys import DEFAULT_NAME, KeyCodec
from fondaco.store.positions import Positions
from fondaco.store.values import columns_of
from fondaco.store.whole_numbers import integer_fields, with_whole_numbers
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writer import Durability, StoreWriter, WriterTarget
from fondaco.store.writes import (
    ENVELOPE_BYTES,
    PATCH_BYTES,
    EditKind,
    Op,
    WriteBatch,
    batch_of,
    check_timestamp,
    encode_envelope,
    pack_edit,
)

BATCH_BYTES: Final = 256 << 10  # between two looks at the pace; live writes wait behind one such batch at most


@dataclass(frozen=True, slots=True)
class IncrementalResult:
    """What an incremental push wrote.

    Attributes:
        rows: of the input; each is one write, of which `patches` are patches and the others puts.
        bytes: of keys, envelopes and payloads.
        positions: the last position in each partition: a read that demands them sees the whole push.
        built_from: what the data was.
    """

    rows: int
    patches: int
    bytes: int
    positions: Positions
    built_from: Mapping[str, Any]


def push_writer_id(push_id: str) -> str:
    """The writer's id under which a push writes."""
    return f"push:{push_id}"


def write_incremental(
    target: WriterTarget,
    data: object,
    *,
    store: str,
    key: KeyCodec,
    schema: object,
    schema_number: int,
    push_id: str,
    timestamp_ms: int,
    now_ms: int,
    durability: Durability = "os",
    pace: Callable[[], object] | None = None,
    on_rows: Callable[[int], object] | None = None,
) -> IncrementalResult:
    """Write all rows of `data`, and wait until the log has them.

    Args:
        data: whatever a push takes (`inputs.open_input`), with the key's columns and some of the fields.
        schema: the newest value schema, and its number.
        timestamp_ms: the time of the push; the same when it is repeated.
        pace: called after each batch; sleeps as long as live traffic asks for.
        on_rows: called with the number of rows written so far; may raise to end the push.
    Raises:
        ColumnNotFoundError, FieldNotFoundError, RowError, InputError, DataError: as a push, before or after some rows were written.
        FondacoError: the log's error.
    """
    moment = check_timestamp(timestamp_ms, now_ms)
    encoder = WriteEncoder(store, key, schema, schema_number, push_writer_id(push_id))
    opened = open_input(data, batch_bytes=BATCH_BYTES, columns=lambda: columns_of(encoder.codec, key))
    source = _Rows(encoder, moment) if opened.schema is None else _Columns(encoder, moment, opened.schema)
    rows = patches = size = 0
    writer = StoreWriter(target, encoder, durability="os")
    try:
        for chunk in opened.chunks:
            batch, patched = source.encode(chunk, rows)
            writer.put_batch(batch)
            writer.flush()
            rows, patches, size = rows + len(batch), patches + patched, size + batch.byte_count
            if on_rows is not None:
                on_rows(rows)
            if pace is not None:
                pace()
        opened.check_unchanged()
        if not rows:
            raise InputError(f"no rows to push into store {store!r}")
        return IncrementalResult(rows, patches, size, writer.flush(durability), opened.described())
    finally:
        with contextlib.suppress(UnwrittenError):  # what a flush could not write, that flush has told
            writer.close(timeout_s=0)


class _Columns:
    """Batches of columns, as puts or patches."""

    def __init__(self, encoder: WriteEncoder, moment: int, schema: pa.Schema) -> None:
        self._encoder, self._moment = encoder, moment
        record = cast(Record, encoder.codec.writer)
        given = [field for field in record.fields if field.name in schema.names]
        _refuse_slips(encoder, record, schema.names)
        part = _part(record, schema, given)
        self._whole = part is record
        self._codec = Codec(part)
        self._rows = RowEncoder(encoder.store, encoder.key, self._codec, schema)
        # Fields whose members are patched one by one are read back and patched row by row.
        self._slow = not self._whole and any(_has_members(field.type) for field in given)
        self._patches = PatchEncoder(record, f"store {encoder.store!r}")
        self._columns = [] if self._whole or self._slow else [_Column(field) for field in part.fields]

    def encode(self, batch: pa.RecordBatch, first_row: int) -> tuple[WriteBatch, int]:
        """One batch of writes, and how many of them are patches."""
        encoder, rows = self._encoder, batch.num_rows
        moments = np.full(rows, self._moment, np.int64)
        if self._whole:
            encoded = self._rows.encode(batch, first_row)
            refuse_long(np.diff(encoded.offsets), first_row)
            return put_batch(encoded, moments, encoder.schema_number, encoder.writer, first_row + 1, step=1), 0
        if self._slow:
            return self._one_by_one(self._rows.encode(batch, first_row), moments), rows
        keys = self._rows.keys_of(batch, first_row)
        encoded_columns = [column.encode(batch, first_row) for column in self._columns]
        table = np.array(
            [
                (address_of(column.head), len(column.head), address_of(values), address_of(offsets))
                for column, (values, offsets) in zip(self._columns, encoded_columns, strict=True)
            ],
            np.int64,
        )
        size = sum(len(values) for values, _ in encoded_columns)
        out = np.empty(size + rows * (ENVELOPE_BYTES + PATCH_BYTES + sum(len(column.head) for column in self._columns)), np.uint8)
        out_offsets = np.empty(rows + 1, np.int64)
        template = envelope_template(Op.PATCH, encoder.schema_number, encoder.writer)
        _write_kernels.put_patches(address_of(template), table, rows, first_row + 1, 1, address_of(out), out_offsets)
        refuse_long(np.diff(out_offsets), first_row)
        return WriteBatch(keys.data, keys.offsets, out[: out_offsets[-1]], out_offsets, moments), rows

    def _one_by_one(self, encoded: Encoded, moments: np.ndarray[Any, np.dtype[np.int64]]) -> WriteBatch:
        encoder, data, bounds = self._encoder, encoded.values.tobytes(), encoded.offsets.tolist()
        values = []
        for index, sequence in zip(range(len(encoded)), count(encoded.first_row + 1), strict=False):
            row = self._codec.decode(data[bounds[index] : bounds[index + 1]])
            values.append(encode_envelope(Op.PATCH, encoder.schema_number, encoder.writer, sequence, self._patches.encode(row)))
        patches = batch_of([b""] * len(values), values, [0] * len(values))
        refuse_long(np.diff(patches.value_offsets), encoded.first_row)
        return WriteBatch(encoded.keys.data, encoded.keys.offsets, patches.values, patches.value_offsets, moments)


class _Column:
    """One column of a patch: the edit's header with its path, and how values are encoded."""

    def __init__(self, field: Field) -> None:
        self.head = np.frombuffer(pack_edit(EditKind.SET, field.name.encode(), b"", b""), np.uint8)
        self._name = field.name
        self._codec = Codec(Record("Column", (field,)))
        self._integers = integer_fields(self._codec.writer)

    def encode(self, batch: pa.RecordBatch, first_row: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        values, offsets = self._codec.encode_columns(
            with_whole_numbers(batch.select([self._name]), self._integers, first_row), first_row=first_row
        )
        return np.ascontiguousarray(values), np.ascontiguousarray(offsets, np.int64)


class _Rows:
    """Rows as mappings: each one a put if it has all fields, else a patch."""

    def __init__(self, encoder: WriteEncoder, moment: int) -> None:
        self._encoder, self._moment = encoder, moment
        self._rows = RowEncoder(encoder.store, encoder.key, encoder.codec, None)
        self._fields = frozenset(encoder.codec.fields)
        self._patches = PatchEncoder(cast(Record, encoder.codec.writer), f"store {encoder.store!r}")

    def encode(self, rows: Sequence[Any], first_row: int) -> tuple[WriteBatch, int]:
        encoder = self._encoder
        keys, values, patches = [], [], 0
        for number, row in enumerate(rows, first_row):
            if not isinstance(row, Mapping):
                raise DataError(f"row {number}: expected a mapping like the rows before it, got {type(row).__name__}")
            keys.append(encoder.key.encode(self._rows.key_of(row)))
            given = {name: value for name, value in row.items() if name in self._fields}
            whole = len(given) == len(self._fields)
            try:
                payload = encoder.codec.encode(given) if whole else self._patches.encode(given)
            except RowError as exc:
                raise RowError(number, exc.field, exc.value, exc.expected) from exc
            patches += not whole
            values.append(encode_envelope(Op.PUT if whole else Op.PATCH, encoder.schema_number, encoder.writer, number + 1, payload))
        batch = batch_of(keys, values, [self._moment] * len(keys))
        refuse_long(np.diff(batch.value_offsets), first_row)
        return batch, patches


# -- which fields -------------------------------------------------------------------------------------------------------------------


def _refuse_slips(encoder: WriteEncoder, record: Record, names: Sequence[str]) -> None:
    """Refuse columns that are neither key nor field, by the names of all fields: a patch is meant to lack some, not to misspell them.

    Raises:
        FieldNotFoundError: suggests the nearest.
    """
    key, fields = encoder.key, [field.name for field in record.fields]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the data pushed to store {encoder.store!r} has two columns called {repeated[0]!r}")
    others = [name for name in names if name not in fields and name not in key.names]
    if key.name is None and not set(key.names) <= set(names):
        others = [name for name in others if name != RECORD_KEY_COLUMN]
    guessed = key.name == DEFAULT_NAME and key.name not in names and len(others) == 1
    missing = [name for name in fields if name not in names]
    for name in others:
        if not guessed or near_name(name, missing) is not None:
            raise FieldNotFoundError(name, tuple(fields), f"store {encoder.store!r}")
    if len(missing) == len(fields):
        raise InputError(f"the data has a key and no field of store {encoder.store!r}; its fields are: {', '.join(fields)}")


def _has_members(kind: Type) -> bool:
    plain = kind.optional if isinstance(kind, Union) else kind
    return isinstance(plain, Record) and bool(plain.fields)


def _part(record: Record, given: pa.Schema | pa.StructType, fields: Sequence[Field], numbers: Iterator[int] | None = None) -> Record:
    """The record with those fields alone that there are columns for, at any depth; itself, if nothing is missing.

    Parts have names of their own, because one record may lack different fields in different places; and no defaults, as all is given.
    """
    numbers = count(1) if numbers is None else numbers
    kept = []
    for field in fields:
        kind = field.type
        plain = kind.optional if isinstance(kind, Union) else kind
        column = given.field(field.name).type
        if isinstance(plain, Record) and pa.types.is_struct(column):
            names = {column.field(index).name for index in range(column.num_fields)}
            inner = _part(plain, column, [member for member in plain.fields if member.name in names], numbers)
            if inner is not plain:
                kind = Union(tuple(inner if branch is plain else branch for branch in kind.branches)) if isinstance(kind, Union) else inner
        kept.append(field if kind is field.type else Field(field.name, kind))
    if len(kept) == len(record.fields) and all(new is old for new, old in zip(kept, record.fields, strict=True)):
        return record
    return Record(f"{record.fullname}_part{next(numbers)}", tuple(Field(field.name, field.type) for field in kept))
