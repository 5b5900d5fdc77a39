"""Encoder: a chunk of input becomes key bytes and value bytes, or an error that names row, field, value and expectation.

Which column is the key: the columns named as the store's key (a record key: as its fields, or one struct column `key`); for a single key
that was given no name of its own also the one column that is no field of the value. A column may be both key and field. Every other
column must be a field: a name that is neither is refused, because it is more often a slip than a wish. Only fields with a default may be
left out, by columns and, as JSON leaves out nulls, row by row by mappings.

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
from fondaco.store.keys import DEFAULT_NAME, EncodedKeys, KeyCodec
from fondaco.store.whole_numbers import integer_fields, with_whole_numbers

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
            RowError: a column's type cannot hold what the schema asks for; `row` is None, it is found without reading one.
        """
        self._store, self._key, self._value = store, key, value
        self._fields = frozenset(value.fields)
        self._required = frozenset(member.name for member in value.schema.fields if not member.has_default)  # type: ignore[union-attr]
        self._integers = integer_fields(value.schema)
        self._key_columns: Sequence[str] = ()
        if schema is not None:
            self._key_columns = self._find_key(schema.names)
            self._check_columns(schema.names)
            self._check_types(schema)

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
        named = self._key.name != DEFAULT_NAME  # then another column is not the key, but a slip or one column too many
        slip = len(others) == 1 and near_name(others[0], [field for field in self._fields if field not in names]) is not None
        if len(others) == 1 and not named and not slip:
            return others
        if not others or named or slip:
            raise ColumnNotFoundError(self._key.name, tuple(names), f"the data pushed to store {self._store!r}, whose key it is")
        raise InputError(
            f"which of the columns {', '.join(map(repr, others))} is the key of store {self._store!r}? Call it {self._key.name!r}, "
            "and leave out what is no field of the value"
        )

    def _check_columns(self, names: Sequence[str]) -> None:
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InputError(f"the data pushed to store {self._store!r} has two columns called {repeated[0]!r}")
        unknown = [name for name in names if name not in self._fields and name not in self._key_columns]
        for field in self._value.fields:
            # A field with a default may be left out, unless some column looks like it: then that is a slip.
            if field not in names and (field in self._required or near_name(field, unknown)):
                raise ColumnNotFoundError(field, tuple(names), f"the data pushed to store {self._store!r}")
        self._refuse_unknown(unknown)

    def _check_types(self, schema: pa.Schema) -> None:
        """Encode no rows: what is wrong then is wrong with the columns."""
        batch = pa.RecordBatch.from_arrays([pa.nulls(0, member.type) for member in schema], schema=schema)
        try:
            self._key.encode_many(self._key_input(batch))
        except KeyTypeError as exc:
            if isinstance(exc.__cause__, RowError):
                raise self._wrong_column(exc.__cause__, schema) from exc
            name = self._key_columns[0]
            if name not in self._key.names and self._key.kind != "record":  # only a guess, and a wrong one
                raise ColumnNotFoundError(
                    self._key.names[0], schema.names, f"the data pushed to store {self._store!r}, whose key it is"
                ) from exc
            found = f"a column of Arrow type {schema.field(name).type}; cast it"
            raise RowError(None, name, found, self._key.expected) from exc
        try:
            self._value.encode_columns(with_whole_numbers(batch, self._integers, 0))
        except RowError as exc:
            raise self._wrong_column(exc, schema) from exc

    def _wrong_column(self, exc: RowError, schema: pa.Schema) -> RowError:
        from fondaco.store.values import columns_of  # which needs this module's Encoded

        wanted = columns_of(self._value, self._key)
        remedy = f"; cast the column to {wanted.field(exc.field).type}" if exc.field in wanted.names else "; cast the column"
        return RowError(None, exc.field, f"{exc.value}{remedy}", exc.expected)

    def _refuse_unknown(self, unknown: Sequence[str]) -> None:
        if unknown:
            near = near_name(unknown[0], self._value.fields)
            hint = f"did you mean {near!r}?" if near else f"its fields are: {', '.join(self._value.fields)}."
            shown = ", ".join(map(repr, unknown))
            raise InputError(f"store {self._store!r} has no field {shown}; {hint} Leave such columns out, or add_schema a value with them.")

    # -- batches --------------------------------------------------------------------------------------------------------------------

    def _encode_batch(self, batch: pa.RecordBatch, first_row: int) -> Encoded:
        values, offsets = self._value.encode_columns(with_whole_numbers(batch, self._integers, first_row), first_row=first_row)
        return Encoded(first_row, self.keys_of(batch, first_row), values, offsets)

    def keys_of(self, batch: pa.RecordBatch, first_row: int) -> EncodedKeys:
        """The keys of a batch, encoded; `first_row` as in `encode`.

        Raises:
            RowError: the first key that does not fit.
        """
        return self._encode_keys(self._key_input(batch), first_row)

    def _key_input(self, batch: pa.RecordBatch) -> pa.Array | pa.Table:
        if self._key.name is None and self._key_columns == self._key.names:
            return pa.Table.from_batches([batch.select(list(self._key_columns))])
        return batch.column(batch.schema.get_field_index(self._key_columns[0]))

    def _encode_keys(self, keys: Any, first_row: int) -> EncodedKeys:
        try:
            return self._key.encode_many(keys)
        except KeyTypeError as exc:
            wrong = self._first_wrong(keys)
            if wrong is None:
                raise
            position, why = wrong
            inside = why.__cause__
            if isinstance(inside, RowError):
                raise RowError(first_row + position, inside.field, inside.value, inside.expected) from exc
            found = why.key.replace("NoneType None", "null")
            raise RowError(first_row + position, ", ".join(self._key_columns or self._key.names), found, why.expected) from exc

    def _first_wrong(self, keys: Any) -> tuple[int, KeyTypeError] | None:
        if isinstance(keys, pa.Table):
            keys = keys.to_struct_array()
        for position, key in enumerate(keys):
            try:
                self._key.encode(key.as_py() if isinstance(key, pa.Scalar) else key)
            except KeyTypeError as exc:
                return position, exc
            except UnicodeDecodeError:
                return position, KeyTypeError("text that is not UTF-8", self._key.expected)
        return None

    # -- mappings -------------------------------------------------------------------------------------------------------------------

    def _encode_mappings(self, rows: Sequence[Any], first_row: int) -> Encoded:
        encoded: list[bytes] = []
        keys: list[Any] = []
        for row_number, row in enumerate(rows, first_row):
            if not isinstance(row, Mapping):
                raise DataError(f"row {row_number}: expected a mapping like the rows before it, got {type(row).__name__}")
            keys.append(self.key_of(row))
            try:
                encoded.append(self._value.encode({name: value for name, value in row.items() if name in self._fields}))
            except RowError as exc:
                raise RowError(row_number, exc.field, exc.value, exc.expected) from exc
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        return Encoded(first_row, self._encode_keys(keys, first_row), np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def key_of(self, row: Mapping[str, Any]) -> Any:
        """The key in a row given as a mapping.

        Raises:
            ColumnNotFoundError: it is not in it. InputError: a name in the row is no field.
        """
        names = list(row)
        if not self._key_columns or not all(name in row for name in self._key_columns):
            self._key_columns = self._find_key(names)
        unknown = [name for name in names if name not in self._fields and name not in self._key_columns]
        if unknown:
            self._refuse_unknown(unknown)
        if self._key.name is None and self._key_columns == self._key.names:
            return {name: row[name] for name in self._key.names}
        return row[self._key_columns[0]]
