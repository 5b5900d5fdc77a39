"""Codec: rows of one schema, to bytes and back, one at a time or in columns. The public face of this package.

    codec = Codec(schema)                         # Avro as dict or JSON, a pyarrow.Schema, or a Type
    data = codec.encode({"clicks": 3, "emb": vector})
    codec.decode(data)["clicks"]
    codec.row(data)["emb"]                        # decodes this field only; a view of the bytes
    values, offsets = codec.encode_columns(table)
    codec.decode_columns(values, offsets)["clicks"]

With a reader schema, rows that were written in the writer's are read as the reader's (Avro's schema resolution); encoding writes the
writer's. Parts are compiled when first used, and shared by equal codecs: two are equal when the full forms of both their schemas are.

Thread rule: immutable; any thread may use one. Source: Apache Avro 1.12.0 specification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from fondaco.core.errors import SchemaError
from fondaco.schema.canonical import full_form
from fondaco.schema.declared import as_type, is_arrow
from fondaco.schema.parse import parse
from fondaco.schema.resolution import Step, resolve
from fondaco.schema.row import Row, row_class
from fondaco.schema.rows import RowDecoder, RowEncoder
from fondaco.schema.types import Record, Type

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from fondaco.schema.columns import Columns
    from fondaco.schema.program import Program
    from fondaco.schema.vectors import Buffer

_PARTS_KEPT = 256  # compiled codecs kept for reuse


class Codec:
    """Rows of `writer_schema`, read as `reader` (by default as they were written)."""

    __slots__ = ("_parts",)

    def __init__(self, writer_schema: object, reader: object = None) -> None:
        """
        Args:
            writer_schema: what rows are written in: Avro schema as dict, list or JSON text, a `pyarrow.Schema`, or a `Type`.
            reader: what rows are read as; None: the writer's schema. Names of records made from a `pyarrow.Schema` need not match.
        Raises:
            SchemaError: not a schema. SchemaResolutionError: the writer's rows cannot be read so.
        """
        writer = as_type(writer_schema)
        reader_type = writer if reader is None else as_type(reader)
        named = not (is_arrow(writer_schema) or is_arrow(reader))
        self._parts = _parts_of(full_form(writer), full_form(reader_type), named)

    # -- schemas ----------------------------------------------------------------------------------------------------------------

    @property
    def writer(self) -> Type:
        """The schema that `encode` writes and `decode` finds."""
        return self._parts.writer

    @property
    def schema(self) -> Type:
        """The schema of what `decode` gives: the reader's."""
        return self._parts.reader

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the reader's fields; empty when it is not a record."""
        reader = self._parts.reader
        return tuple(member.name for member in reader.fields) if isinstance(reader, Record) else ()

    @property
    def arrow_schema(self) -> pa.Schema:
        """The reader's schema in Arrow's types.

        Raises:
            SchemaError: not a record, or a record that contains itself.
        """
        return self._parts.arrow_schema

    # -- one row ----------------------------------------------------------------------------------------------------------------

    @property
    def encode(self) -> Callable[[Any], bytes]:
        """`encode(row) -> bytes`: a mapping (or another value, if the schema is no record) in the writer's schema.

        A field that is missing takes its default. Accepted Python types: docs/internals/row-codec.md.

        Raises:
            RowError: names the field, its value and what was expected.
        """
        return self._parts.encoder.encode

    @property
    def decode(self) -> Callable[[Buffer], Any]:
        """`decode(data) -> value` of a buffer that is exactly one row: a dict for a record. Arrays of float and vectors are NumPy views.

        Raises:
            DecodeError: the bytes are not a row; names byte, field and reason. InputError: not bytes.
        """
        return self._parts.decoder.decode

    @property
    def row(self) -> type[Row]:
        """`row(data, start=0, end=None) -> Row`: a mapping that decodes a field when it is touched.

        Raises:
            SchemaError: the schema is not a record.
        """
        return self._parts.row

    @property
    def sealed_row(self) -> type[Row]:
        """As `row`, of bytes that are known to be exactly one row (a checksum vouches for them): a last field is found from the end."""
        return self._parts.sealed_row

    # -- columns ----------------------------------------------------------------------------------------------------------------

    @property
    def program(self) -> Program:
        """What decodes batches: for callers that have rows at addresses, not in one array (`columns.decode_addresses`).

        Raises:
            SchemaError: a schema without columns: not a record, or one that contains itself.
        """
        return self._parts.program

    def encode_columns(self, table: Any, first_row: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Encode all rows of a table in the writer's schema; columns are found by name, those that are no field are left out.

        Args:
            table: a `pyarrow.Table` or `RecordBatch`, a pandas or Polars frame or anything else with `__arrow_c_stream__`, or a dict of
                arrays: encoded by one kernel. A dict with lists in it or a list of rows is encoded row by row, as by `encode`.
            first_row: position of the table's first row in a larger input, for errors.
        Returns:
            bytes, uint8; offsets, int64, shape [rows + 1]: row i is `bytes[offsets[i]:offsets[i + 1]]`.
        Raises:
            ColumnNotFoundError: a field without default has no column. RowError: the first value that does not fit: row, field, value.
            InputError: none of these; says what is accepted.
        """
        from fondaco.schema import _encode, _given

        given = _given.table_of(table)
        if given is None:
            return _given.encode_values(self._parts.writer, self.encode, table, first_row)
        return _encode.encode_columns(self._parts.writer, given, first_row)

    def decode_columns(self, data: Any, offsets: Any = None, fields: Sequence[str] | None = None) -> Columns:
        """Decode rows into columns.

        Args:
            data: one buffer (bytes, or uint8) with offsets, int64, shape [rows + 1]; or without them a list of bytes or an Arrow array of
                binary, one item a row.
            fields: which fields to decode (None: all); the others are passed over.
        Raises:
            DecodeError: bytes that are not a row; names row, byte and field. FieldNotFoundError: no such field.
            InputError: data or offsets of another kind; names the position of an item that is no bytes.
        """
        from fondaco.schema._given import block_of, offsets_of
        from fondaco.schema.columns import decode_batch, decode_list

        parts = self._parts
        declared = parts.arrow_schema if isinstance(parts.reader, Record) else None
        if offsets is None:
            return decode_list(parts.program, data, fields, declared)
        return decode_batch(parts.program, block_of(data), offsets_of(offsets), fields, declared)

    # -- identity ---------------------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codec) and self._parts.identity == other._parts.identity

    def __hash__(self) -> int:
        return hash(self._parts.identity)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._parts.identity

    def __repr__(self) -> str:
        writer, reader, _ = self._parts.identity
        return f"Codec({writer})" if writer == reader else f"Codec({writer}, reader={reader})"


class _Parts:
    """What a codec compiles, each part at first use."""

    def __init__(self, writer: str, reader: str, named: bool) -> None:
        self.identity = (writer, reader, named)
        self.writer = parse(writer)
        self.reader = self.writer if writer == reader else parse(reader)
        self.step: Step = resolve(self.writer, self.reader, match_names=named)

    @cached_property
    def decoder(self) -> RowDecoder:
        return RowDecoder(self.step)

    @cached_property
    def encoder(self) -> RowEncoder:
        return RowEncoder(self.writer)

    @cached_property
    def row(self) -> type[Row]:
        if not isinstance(self.reader, Record):
            raise SchemaError("$", "only a record has rows whose fields are read one by one; use decode")
        return row_class(self.decoder, lambda data: (_rebuild_row, (*self.identity, data)))

    @cached_property
    def sealed_row(self) -> type[Row]:
        return row_class(self.decoder, self.row._rebuild, sealed=True)

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        from fondaco.schema.arrow import to_arrow

        return to_arrow(self.reader)

    @cached_property
    def program(self) -> Program:
        from fondaco.schema.program import compile_program

        return compile_program(self.step)


@lru_cache(maxsize=_PARTS_KEPT)
def _parts_of(writer: str, reader: str, named: bool) -> _Parts:
    return _Parts(writer, reader, named)


def _rebuild(writer: str, reader: str, named: bool) -> Codec:
    codec = Codec.__new__(Codec)
    codec._parts = _parts_of(writer, reader, named)
    return codec


def _rebuild_row(writer: str, reader: str, named: bool, data: bytes) -> Row:
    return _parts_of(writer, reader, named).row(data)
