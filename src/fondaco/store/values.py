"""Values: a store's value schemas, checked and compiled, and the rows that a version already holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from fondaco.core.errors import SchemaError
from fondaco.schema import Codec, as_type, full_form, to_arrow
from fondaco.schema.types import Field, Record
from fondaco.store import _kernels
from fondaco.store.basefile import BaseFile, address_of
from fondaco.store.compression import Decompressor
from fondaco.store.encoder import Encoded
from fondaco.store.keys import EncodedKeys, KeyCodec
from fondaco.store.manifest import Manifest


def value_schema_json(value: object) -> str:
    """The value schema that `value` declares, in its full form as JSON text.

    Args:
        value: Avro dict or JSON, `pa.Schema` or `pa.struct`, a parsed type, or an Arrow table or batch that has such columns.

    Raises:
        SchemaError: not a schema, or not a record.
    """
    if isinstance(value, (pa.Table, pa.RecordBatch)):
        value = value.schema
    elif isinstance(value, pa.StructType):
        value = pa.schema(list(value))
    elif isinstance(value, pa.DataType):
        raise SchemaError("$", f"the value of a store is a record, not one {value}: name its fields, even if there is one only")
    schema = as_type(value)
    if not isinstance(schema, Record):
        raise SchemaError("$", "the value of a store is a record: name its fields, even if there is one only")
    if not schema.fields:
        raise SchemaError("$", "the value of a store needs at least one field")
    return full_form(schema)


def value_codec(schema: str) -> Codec:
    """The codec of a value schema."""
    return Codec(schema)


def columns_of(value: Codec, key: KeyCodec) -> pa.Schema:
    """Arrow types of the columns that a push expects, for inputs that have none (CSV). What Arrow cannot say is left out."""
    members = [*value.schema.fields, *_key_fields(key)] if isinstance(value.schema, Record) else []
    columns: dict[str, pa.Field] = {}
    for member in members:
        with contextlib.suppress(SchemaError):
            columns.setdefault(member.name, to_arrow(Record("Column", (member,))).field(0))
    return pa.schema(list(columns.values()))


def _key_fields(key: KeyCodec) -> Sequence[Field]:
    return key.schema.fields if isinstance(key.schema, Record) else (Field(key.names[0], key.schema),)


def stored_rows(directory: Path, manifest: Manifest, *, batch_bytes: int) -> Iterator[Encoded]:
    """Every row of a version, as it was pushed, partition by partition, in batches of about `batch_bytes`.

    Raises:
        CorruptFileError: every section of every file is checked first.
    """
    first_row = 0
    for entry in manifest.files:
        file = BaseFile.open(directory / entry.name)
        decompressor = Decompressor(file.dictionary, str(file.path))
        for batch in file.scan(batch_bytes=batch_bytes):
            hashes = np.empty(len(batch.key_offsets) - 1, np.uint64)
            _kernels.hash_many(address_of(batch.keys), batch.key_offsets, hashes)
            values, offsets = batch.values, batch.value_offsets
            compressed = int(np.count_nonzero(batch.compressed))
            if compressed:
                starts, ends = offsets[:-1] + address_of(values), offsets[1:] + address_of(values)
                frames = decompressor.many(starts, ends, batch.compressed, compressed)
                data, packed = np.empty(int((ends - starts).sum()), np.uint8), np.empty(len(starts) + 1, np.int64)
                _kernels.gather(starts, ends, address_of(data), packed)
                del frames  # the addresses led into it until here
                values, offsets = data, packed
            yield Encoded(first_row, EncodedKeys(batch.keys, batch.key_offsets, hashes), values, offsets)
            first_row += len(hashes)
