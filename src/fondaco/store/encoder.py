"""Encoder: a chunk of input becomes key bytes and value bytes, or an error that names row, field, value and expectation.

Which column is the key: the columns named as the store's key (a record key: as its fields, or one struct column `key`); for a single key
also the one column that is no field of the value. A column may be both key and field. Every other column must be a field, and every field
a column: a name that is neither is refused, because it is more often a slip than a wish. A mapping may leave out a field with a default,
as JSON leaves out nulls.

One encoder serves one push, in one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.core.errors import ColumnNotFoundError, DataError, InputError, KeyTypeError, RowError, near_name
from fondaco.store.basefile import RECORD_BYTES_MAX
from fondaco.store.inputs import Chunk
from fondaco.store.keys import EncodedKeys, KeyCodec

if TYPE_CHECKING:
    from fondaco.schema import Codec

RECORD_KEY_COLUMN = "key"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as bytes: value i is `values[offsets[i]:offsets[i + 1]]` (uint8, int64 [n + 1])."""

    first_row: int
    keys: EncodedKeys
    values: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def value_bytes(self) -> int:
        """Encoded bytes of all values."""
        return int(self.offsets[-1] - self.offsets[0])


class RowEncoder:
    """Encodes the chunks of one input for one store."""

    def __init__(self, store: str, key: KeyCodec, value: Codec, schema: pa.Schema | None) -> None:
        """
        Args:
            schema: of the chunks; None if they are lists of mappings.
        Raises:
            ColumnNotFoundError, InputError: columns and fields do not match.
            DataError: a column's type cannot hold what the schema asks for; found without reading a row.
        """
        self._store, self._key, self._value = store, key, value
        self._fields = frozenset(value.fields)
        self._key_columns: Sequence[str] = ()
        if schema is not None:
            self._key_columns = self._find_key(schema.names)
            self._check_columns(schema.names)
            self.encode(pa.RecordBatch.from_pylist([], schema=schema), 0)

    def encode(self, chunk: Chunk, first_row: int) -> Encoded:
        """Encode one chunk; `first_row` is the position of its first row in the input.

        Raises:
            RowError: the first value that does not fit. DataError: a row is too long, also if it would be short when compressed.
        """
        encoded = self._encode_mappings(chunk, first_row) if isinstance(chunk, list) else self._encode_batch(chunk, first_row)
        sizes = np.diff(encoded.offsets)
        if len(sizes) and sizes.max() > RECORD_BYTES_MAX:
            longest = int(sizes.argmax())
            raise DataError(
                f"row {first_row + longest} takes {int(sizes[longest])} bytes; the limit is {RECORD_BYTES_MAX}. "
                "Keep large objects in files and store their names."
            )
        return encoded

    # -- columns --------------------------------------------------------------------------------------------------------------------

    def _find_key(self, names: Sequence[str]) -> Sequence[str]:
        missing = [name for name in self._key.names if name not in names]
        if not missing:
            return self._key.names
        if self._key.name is None:
            if RECORD_KEY_COLUMN in names:
                return (RECORD_KEY_COLUMN,)
            raise ColumnNotFoundError(missing[0], tuple(names), f"the data pushed to store {self._store!r}, whose key it is part of")
        others = [name for name in names if name not in self._fields]
        if len(others) == 1:
            return others
        if not others:
            raise ColumnNotFoundError(self._key.name, tuple(names), f"the data pushed to store {self._store!r}, whose key it is")
        raise InputError(
            f"which of the columns {', '.join(map(repr, others))} is the key of store {self._store!r}? Call it {self._key.name!r}, "
            "and leave out what is no field of the value"
        )

    def _check_columns(self, names: Sequence[str]) -> None:
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InputError(f"the data pushed to store {self._store!r} has two columns called {repeated[0]!r}")
        for field in self._value.fields:
            if field not in names:
                raise ColumnNotFoundError(field, tuple(names), f"the data pushed to store {self._store!r}")
        self._refuse_unknown([name for name in names if name not in self._fields and name not in self._key_columns])

    def _refuse_unknown(self, unknown: Sequence[str]) -> None:
        if unknown:
            near = near_name(unknown[0], self._value.fields)
            hint = f"did you mean {near!r}?" if near else f"its fields are: {', '.join(self._value.fields)}."
            shown = ", ".join(map(repr, unknown))
            raise InputError(f"store {self._store!r} has no field {shown}; {hint} Leave such columns out, or add_schema a value with them.")

    # -- batches --------------------------------------------------------------------------------------------------------------------

    def _encode_batch(self, batch: pa.RecordBatch, first_row: int) -> Encoded:
        values, offsets = self._value.encode_columns(batch, first_row=first_row)
        return Encoded(first_row, self._encode_keys(self._key_input(batch), first_row), values, offsets)

    def _key_input(self, batch: pa.RecordBatch) -> pa.Array | pa.Table:
        if self._key.name is None and self._key_columns == self._key.names:
            return pa.Table.from_batches([batch.select(list(self._key_columns))])
        return batch.column(batch.schema.get_field_index(self._key_columns[0]))

    def _encode_keys(self, keys: Any, first_row: int) -> EncodedKeys:
        try:
            return self._key.encode_many(keys)
        except KeyTypeError as exc:
            position = self._first_wrong(keys)
            if position is None:
                raise
            value = exc.key.removesuffix(f" (position {position})")
            raise RowError(first_row + position, ", ".join(self._key_columns or self._key.names), value, exc.expected) from exc

    def _first_wrong(self, keys: Any) -> int | None:
        for position, key in enumerate(keys.to_pylist() if hasattr(keys, "to_pylist") else keys):
            try:
                self._key.encode(key)
            except KeyTypeError:
                return position
        return None

    # -- mappings -------------------------------------------------------------------------------------------------------------------

    def _encode_mappings(self, rows: Sequence[Any], first_row: int) -> Encoded:
        encoded: list[bytes] = []
        keys: list[Any] = []
        for row_number, row in enumerate(rows, first_row):
            if not isinstance(row, Mapping):
                raise DataError(f"row {row_number}: expected a mapping like the rows before it, got {type(row).__name__}")
            keys.append(self._key_of(row))
            try:
                encoded.append(self._value.encode({name: value for name, value in row.items() if name in self._fields}))
            except RowError as exc:
                raise RowError(row_number, exc.field, exc.value, exc.expected) from exc
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        return Encoded(first_row, self._encode_keys(keys, first_row), np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def _key_of(self, row: Mapping[str, Any]) -> Any:
        names = list(row)
        if not self._key_columns or not all(name in row for name in self._key_columns):
            self._key_columns = self._find_key(names)
        unknown = [name for name in names if name not in self._fields and name not in self._key_columns]
        if unknown:
            self._refuse_unknown(unknown)
        if self._key.name is None and self._key_columns == self._key.names:
            return {name: row[name] for name in self._key.names}
        return row[self._key_columns[0]]
