"""Keys: from Python and Arrow values to key bytes and hashes, one and many, and back for messages.

Key bytes are the Avro binary encoding of the key under the store's key schema; the hash is XXH64 of them with seed 0; the partition comes
from the hash's upper half (`basefile.partition_rows`). None of this ever changes for a store, so a key is found by any later Fondaco.
A key of another type is refused, never converted: `True` is not 1, `"7"` is not 7, and 7.0 is no integer.

Codecs are immutable; any thread may use one. Importing this brings in no kernel, and so no numba: those come with the first batch that is
hashed (`encode_many`). `pack_many` encodes a batch without them, for clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.core.errors import ColumnNotFoundError, DataError, KeyTypeError, RowError, SchemaError
from fondaco.schema.wire import encode_long

if TYPE_CHECKING:
    from fondaco.schema.types import Type

KeyKind = Literal["int", "long", "string", "bytes", "record", "other"]

DEFAULT_NAME: Final = "key"
_SIMPLE: Final = ("int", "long", "string", "bytes")
_NAMED_TYPES: Final = ("record", "error", "enum", "fixed", "array", "map")  # a dict with one of these as "type" is a type, not a field
_INT_BOUNDS: Final = {"int": (-(1 << 31), (1 << 31) - 1), "long": (-(1 << 63), (1 << 63) - 1)}
_PYTHON_TYPES: Final[dict[type, str]] = {int: "long", str: "string", bytes: "bytes"}
_SHOWN_MAX: Final = 120  # characters of a key in a message


@dataclass(frozen=True, slots=True)
class EncodedKeys:
    """Key i is `data[offsets[i]:offsets[i + 1]]` (uint8, int64 [n + 1]) and hashes to `hashes[i]` (uint64 [n])."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.hashes)


class KeyCodec:
    """Encodes the keys of one store.

    Attributes:
        kind: "int", "long", "string", "bytes"; "record"; "other" for any other Avro type.
        name: the column of a single key in a pushed table (None for a record key).
        names: columns that make up the key: `(name,)`, or the fields of the record.
        schema: the key's Avro type.
        expected: what messages call the type.
    """

    def __init__(self, spec: object) -> None:
        """
        Args:
            spec: "long", "int", "string", "bytes", or the Python types int (a long), str, bytes; a record as Avro dict, JSON, `pa.Schema`
                or `pa.struct`; one named key as `pa.Field` or `{"name": "member_id", "type": "long"}`; any other Avro type or
                `pa.DataType`; or what `to_json` gave.
        Raises:
            SchemaError: not a key schema. Floats and maps are none, at any depth: equal keys would differ in their bytes.
        """
        name, self.schema = _parse(spec)
        self.kind: KeyKind = _kind(self.schema)
        self._codec = _row_codec(self.schema, name or DEFAULT_NAME) if self.kind in ("record", "other") else None
        if self.kind == "record":
            self.name: str | None = None
            self.names: tuple[str, ...] = tuple(member.name for member in self.schema.fields)  # type: ignore[union-attr]
        else:
            self.name = name or DEFAULT_NAME
            self.names = (self.name,)
        self.expected = _expected(self.kind, self.schema)
        self.encode: Callable[[Any], bytes] = self._encoder()

    def to_json(self) -> str:
        """The form that the manifest keeps: `KeyCodec(codec.to_json())` is an equal codec."""
        from fondaco.schema.canonical import to_json

        declared = to_json(self.schema)
        return json.dumps(declared if self.kind == "record" else {"name": self.name, "type": declared})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyCodec) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"KeyCodec({self.to_json()})"

    # -- one key --------------------------------------------------------------------------------------------------------------------

    def _encoder(self) -> Callable[[Any], bytes]:
        """`encode(key) -> bytes`; raises KeyTypeError. Chosen once, so that no call asks for the kind."""
        return {
            "int": self._encode_integer,
            "long": self._encode_integer,
            "string": self._encode_string,
            "bytes": self._encode_bytes,
            "record": self._encode_row,
            "other": self._encode_row,
        }[self.kind]

    def integer(self, key: Any) -> int:
        """The key of an int or long store as a Python int.

        Raises:
            KeyTypeError: not an integer (a bool is not), or out of the type's range.
        """
        if isinstance(key, (bool, np.bool_)) or not isinstance(key, (int, np.integer)):
            raise self._wrong(key)
        low, high = _INT_BOUNDS[self.kind]
        if not low <= key <= high:
            raise self._wrong(key)
        return int(key)

    def _encode_integer(self, key: Any) -> bytes:
        value = self.integer(key)
        return encode_long(value)

    def _encode_string(self, key: Any) -> bytes:
        if not isinstance(key, str):
            raise self._wrong(key)
        try:
            data = key.encode()
        except UnicodeEncodeError as exc:
            raise self._wrong(key) from exc
        return encode_long(len(data)) + data

    def _encode_bytes(self, key: Any) -> bytes:
        if not isinstance(key, (bytes, bytearray, memoryview)):
            raise self._wrong(key)
        data = bytes(key)
        return encode_long(len(data)) + data

    def _encode_row(self, key: Any) -> bytes:
        assert self._codec is not None
        try:
            encoded: bytes = self._codec.encode(self._as_mapping(key))
            return encoded
        except DataError as exc:
            if isinstance(exc, KeyTypeError):
                raise
            raise KeyTypeError(f"{_shown(key)} ({exc})", self.expected) from exc

    def _as_mapping(self, key: Any) -> Mapping[str, Any]:
        if self.kind == "other":
            return {self.names[0]: key}
        if isinstance(key, Mapping):
            if unknown := [name for name in key if name not in self.names]:
                raise KeyTypeError(f"{_shown(key)} (no such field: {unknown[0]!r})", self.expected)
            return key
        if isinstance(key, (tuple, list)) and len(key) == len(self.names):
            return dict(zip(self.names, key, strict=True))
        raise self._wrong(key)

    # -- many keys ------------------------------------------------------------------------------------------------------------------

    def encode_many(self, keys: Any) -> EncodedKeys:
        """Encode and hash many keys; the order is kept, repeats are fine.

        Args:
            keys: a list or any iterable of keys as `encode` takes them; a NumPy array; an Arrow array or chunked array; anything with
                `to_numpy()` (pandas, Polars); a table or batch (Arrow, pandas, Polars) or a dict of columns with the key's columns; for a
                record key also a struct array; or keys that are encoded already.
        Raises:
            KeyTypeError: one key does not fit; the message names its position. ColumnNotFoundError: a table without the key's columns.
        """
        if isinstance(keys, EncodedKeys):  # as they came over the network, checked there
            return keys
        keys = self._many(keys)
        if self.kind in _INT_BOUNDS:
            return self.encode_integers(self._integers(keys))
        if self.kind in ("string", "bytes"):
            return _encode_blobs(self._blobs(keys))
        return self._encode_rows(keys)

    def pack_many(self, keys: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Encode many keys without hashing them, and without a kernel: (bytes uint8, offsets int64 [n + 1]) as in `EncodedKeys`.

        Args, Raises:
            as `encode_many`. Costs some hundred nanoseconds a key where that costs some ten.
        """
        keys = self._many(keys)
        if self.kind in _INT_BOUNDS:
            return _varints(self._integers(keys))
        if self.kind in ("string", "bytes"):
            return _joined([encode_long(len(key)) + key for key in self._blobs(keys).to_pylist()])
        table = self._as_table(keys)
        if table is not None:
            keys = table.to_pylist() if self.kind == "record" else table.column(0).to_pylist()
        elif isinstance(keys, np.ndarray):
            keys = keys.tolist()
        return _joined([self._checked(self.encode, key, position) for position, key in enumerate(keys)])

    def _many(self, keys: Any) -> Any:
        """What was given for many keys, less what wraps them."""
        if _is_table(keys):
            keys = self._columns(keys)
        elif isinstance(keys, (str, bytes, Mapping)) or not isinstance(keys, Iterable):
            raise KeyTypeError(
                f"one {type(keys).__name__}, {_shown(keys)}; get() takes one key", f"{self.expected}, many in a list or array"
            )
        elif not isinstance(keys, (pa.Array, pa.ChunkedArray, np.ndarray)) and hasattr(keys, "to_numpy"):
            keys = keys.to_numpy()
        return keys

    def _columns(self, table: Any) -> Any:
        """The key's columns of any kind of table: a table for a record key, otherwise the one column."""
        names = [str(name) for name in _column_names(table)]
        for name in self.names:
            if name not in names:
                raise ColumnNotFoundError(name, tuple(names), "the keys")
        if self.kind != "record":
            return table[self.names[0]]
        try:
            return pa.table({name: table[name] for name in self.names})
        except (pa.ArrowException, TypeError, ValueError) as exc:
            raise KeyTypeError(f"columns that make no table ({exc})", self.expected) from exc

    def encode_integers(self, values: npt.NDArray[np.int64]) -> EncodedKeys:
        """Encode keys of an int or long store that were checked already; int64 [n]."""
        from fondaco.store import _kernels
        from fondaco.store.basefile import address_of

        out = np.empty(10 * len(values) + 1, np.uint8)
        offsets, hashes = np.empty(len(values) + 1, np.int64), np.empty(len(values), np.uint64)
        used = _kernels.encode_longs(values, out, address_of(out), offsets, hashes)
        return EncodedKeys(out[:used], offsets, hashes)

    def _integers(self, keys: Any) -> npt.NDArray[np.int64]:
        low, high = _INT_BOUNDS[self.kind]
        if isinstance(keys, (pa.Array, pa.ChunkedArray)):
            if not pa.types.is_integer(keys.type):
                raise KeyTypeError(f"an Arrow array of {keys.type}", self.expected)
            self._refuse_nulls(keys)
            array = keys.to_numpy(zero_copy_only=False) if isinstance(keys, pa.Array) else keys.to_numpy()
        elif isinstance(keys, np.ndarray) and keys.dtype != object:
            array = self._flat(keys)
        else:
            values = list(keys)
            if set(map(type, values)) - {int}:
                values = [self._checked(self.integer, key, position) for position, key in enumerate(values)]
            try:
                array = np.array(values, np.int64)
            except OverflowError:
                array = np.array([self._checked(self.integer, key, position) for position, key in enumerate(values)], np.int64)
        if array.dtype.kind not in "iu":
            raise KeyTypeError(f"an array of {array.dtype}", self.expected)
        if len(array) and array.dtype.itemsize * 8 > (32 if self.kind == "int" else 63):
            outside = (array > high) | (array < low) if array.dtype.kind == "i" else array > np.uint64(high)
            if outside.any():
                position = int(outside.argmax())
                raise KeyTypeError(f"{array[position]} (position {position})", self.expected)
        return np.ascontiguousarray(array, np.int64)

    def _blobs(self, keys: Any) -> pa.Array:
        """Keys of a string or bytes store as one large_binary array without nulls."""
        python_type, arrow_types = (str, _is_text) if self.kind == "string" else (bytes, _is_binary)
        if isinstance(keys, (pa.Array, pa.ChunkedArray)):
            if pa.types.is_dictionary(keys.type):
                keys = keys.cast(keys.type.value_type)
            if not arrow_types(keys.type):
                raise KeyTypeError(f"an Arrow array of {keys.type}", self.expected)
            self._refuse_nulls(keys)
            array = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
            if isinstance(array, pa.ChunkedArray):
                array = pa.concat_arrays(array.chunks)
            if self.kind == "string":
                try:
                    array.validate(full=True)
                except pa.ArrowInvalid as exc:
                    raise KeyTypeError(f"text that is not UTF-8 ({exc})", self.expected) from exc
            return array.cast(pa.large_binary())
        values = self._flat(keys).tolist() if isinstance(keys, np.ndarray) else list(keys)
        if set(map(type, values)) - {python_type}:
            values = [self._checked(self._plain, key, position) for position, key in enumerate(values)]
        try:
            return pa.array(values, pa.large_string() if self.kind == "string" else pa.large_binary()).cast(pa.large_binary())
        except (UnicodeEncodeError, pa.ArrowException):
            for position, key in enumerate(values):
                self._checked(self.encode, key, position)
            raise

    def _flat(self, keys: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if keys.ndim != 1:
            raise KeyTypeError(f"an array of shape {keys.shape}", f"{self.expected}, many in a list or an array of shape [n]")
        return keys

    def _plain(self, key: Any) -> str | bytes:
        self.encode(key)  # the check
        return str(key) if self.kind == "string" else bytes(key)

    def _encode_rows(self, keys: Any) -> EncodedKeys:
        from fondaco.store import _kernels
        from fondaco.store.basefile import address_of

        assert self._codec is not None
        table = self._as_table(keys)
        if table is not None:
            try:
                data, offsets = self._codec.encode_columns(table)
            except RowError as exc:
                raise KeyTypeError(f"{exc.value} as its field {exc.field!r} (position {exc.row})", self.expected) from exc
            except DataError as exc:
                raise KeyTypeError(str(exc), self.expected) from exc
        else:
            if isinstance(keys, np.ndarray):
                keys = keys.tolist()
            data, offsets = _joined([self._checked(self.encode, key, position) for position, key in enumerate(keys)])
        data = np.ascontiguousarray(data)
        hashes = np.empty(len(offsets) - 1, np.uint64)
        _kernels.hash_many(address_of(data), offsets, hashes)
        return EncodedKeys(data, offsets, hashes)

    def _as_table(self, keys: Any) -> pa.Table | None:
        if isinstance(keys, pa.RecordBatch):
            return pa.Table.from_batches([keys])
        if isinstance(keys, (pa.Array, pa.ChunkedArray)):
            chunks = keys.chunks if isinstance(keys, pa.ChunkedArray) else [keys]
            self._refuse_nulls(keys)
            if self.kind == "other":
                return pa.table({self.names[0]: keys})
            if not pa.types.is_struct(keys.type):
                raise KeyTypeError(f"an Arrow array of {keys.type}", self.expected)
            return pa.Table.from_batches([pa.RecordBatch.from_struct_array(chunk) for chunk in chunks], pa.schema(list(keys.type)))
        return keys if isinstance(keys, pa.Table) else None

    def _refuse_nulls(self, keys: pa.Array | pa.ChunkedArray) -> None:
        if keys.null_count:
            position = int(np.asarray(keys.is_null()).argmax())
            raise KeyTypeError(f"null (position {position})", self.expected)

    def _checked(self, convert: Callable[[Any], Any], key: Any, position: int) -> Any:
        try:
            return convert(key)
        except KeyTypeError as exc:
            raise KeyTypeError(f"{exc.key} (position {position})", self.expected) from exc.__cause__

    def _wrong(self, key: Any) -> KeyTypeError:
        return KeyTypeError(f"{type(key).__name__} {_shown(key)}", self.expected)

    # -- back -----------------------------------------------------------------------------------------------------------------------

    def decode(self, data: bytes) -> Any:
        """The Python key of key bytes; a record key comes back as a dict.

        Raises:
            DecodeError: bytes that this key schema does not produce.
        """
        from fondaco.core.errors import DecodeError

        if self._codec is not None:
            row = self._codec.decode(data)
            return row if self.kind == "record" else row[self.names[0]]
        word, position = _read_varint(data)
        value = word >> 1 ^ -(word & 1)
        if self.kind in _INT_BOUNDS:
            if position != len(data):
                raise DecodeError(position, "bytes after the key")
            return value
        if value != len(data) - position:
            raise DecodeError(0, f"a length of {value} where {len(data) - position} bytes follow")
        return data[position:].decode() if self.kind == "string" else data[position:]

    def readable(self, data: bytes) -> str:
        """Key bytes as messages show them: the key's repr, shortened; hexadecimal if they cannot be decoded."""
        try:
            return _shown(self.decode(data))
        except (DataError, UnicodeDecodeError):
            return _shown(f"0x{data.hex()}")


# -- schemas ------------------------------------------------------------------------------------------------------------------------


def _parse(spec: object) -> tuple[str | None, Type]:
    from fondaco.schema.parse import parse

    if isinstance(spec, type) and spec in _PYTHON_TYPES:
        spec = _PYTHON_TYPES[spec]
    if isinstance(spec, pa.StructType):
        spec = pa.schema(list(spec))
    if isinstance(spec, pa.DataType):
        spec = pa.field(DEFAULT_NAME, spec)
    if isinstance(spec, (pa.Field, pa.Schema)):
        return _from_arrow(spec)
    if isinstance(spec, str) and spec.lstrip()[:1] in ("{", '"', "["):
        try:
            spec = json.loads(spec)
        except ValueError as exc:
            raise SchemaError("$", f"not JSON: {exc}") from exc
    if isinstance(spec, Mapping) and "name" in spec and "type" in spec and spec["type"] not in _NAMED_TYPES:
        return str(spec["name"]), parse(spec["type"])
    return None, parse(spec)


def _from_arrow(spec: pa.Field | pa.Schema) -> tuple[str | None, Type]:
    from fondaco.schema.arrow import from_arrow

    if isinstance(spec, pa.Schema):
        fields = [member.with_nullable(False) for member in spec]
        return None, from_arrow(pa.schema(fields))
    record = from_arrow(pa.schema([spec.with_nullable(False)]))
    return spec.name, record.fields[0].type


def _refuse_ambiguous(schema: Type, path: str = "$", inside: tuple[Type, ...] = ()) -> None:
    """Refuse types whose equal values have unequal bytes: 0.0 and -0.0, two NaNs, the entries of a map in another order."""
    from fondaco.schema.types import Array, Fixed, Map, Primitive, Record, Union, Vector

    if any(schema is outer for outer in inside):
        return
    inside = (*inside, schema)
    if isinstance(schema, Primitive) and schema.kind in ("float", "double"):
        raise SchemaError(
            path, f"a {schema.kind} cannot be in a key: 0.0 and -0.0 are equal and would be two keys; use a long, decimal or string"
        )
    if isinstance(schema, Map):
        raise SchemaError(
            path, "a map cannot be in a key: its entries have no order, so equal maps would be two keys; use a record or an array"
        )
    if isinstance(schema, Fixed) and isinstance(schema.logical, Vector):
        raise SchemaError(path, "a vector cannot be in a key: keys are compared by their bytes; use an id and keep the vector in the value")
    if isinstance(schema, Record):
        for member in schema.fields:
            _refuse_ambiguous(member.type, f"{path}.{member.name}", inside)
    elif isinstance(schema, Array):
        _refuse_ambiguous(schema.items, f"{path}[]", inside)
    elif isinstance(schema, Union):
        for branch in schema.branches:
            _refuse_ambiguous(branch, path, inside)


def _kind(schema: Type) -> KeyKind:
    from fondaco.schema.types import Primitive, Record, Union

    _refuse_ambiguous(schema)
    if isinstance(schema, Record):
        if not schema.fields:
            raise SchemaError("$", "a key record needs at least one field")
        return "record"
    if isinstance(schema, Union) or (isinstance(schema, Primitive) and schema.kind == "null"):
        raise SchemaError("$", "a key is never null; name the one type that it has")
    if isinstance(schema, Primitive) and schema.logical is None and schema.kind in _SIMPLE:
        return schema.kind
    return "other"


def _row_codec(schema: Type, name: str) -> Any:
    """The codec of a record key; any other key is encoded as a record of one field, which in Avro has the same bytes."""
    from fondaco.schema import Codec
    from fondaco.schema.types import Field, Record

    return Codec(schema if isinstance(schema, Record) else Record("Key", (Field(name, schema),)))


def _expected(kind: KeyKind, schema: Type) -> str:
    if kind == "int":
        return "int (an integer from -2^31 to 2^31 - 1)"
    if kind == "long":
        return "long (an integer from -2^63 to 2^63 - 1)"
    if kind == "record":
        fields = ", ".join(f"{member.name}: {_type_name(member.type)}" for member in schema.fields)  # type: ignore[union-attr]
        return f"record {{{fields}}} (a mapping, or a tuple in this order)"
    return _type_name(schema)


def _type_name(schema: Type) -> str:
    from fondaco.schema.types import Primitive

    if isinstance(schema, Primitive):
        return f"{schema.kind} ({type(schema.logical).__name__.lower()})" if schema.logical else schema.kind
    return getattr(schema, "fullname", type(schema).__name__.lower())


# -- bytes --------------------------------------------------------------------------------------------------------------------------


def _joined(encoded: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(key) for key in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded) or b"\0", np.uint8), offsets


def _varints(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Avro's zigzag varints of int64 [n]: all ten groups of 7 bits of each, then those that its length takes."""
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    groups = zigzag[:, None] >> np.arange(0, 70, 7, dtype=np.uint64)
    used = groups != 0
    used[:, 0] = True
    out = (groups & np.uint64(127)).astype(np.uint8)
    out[:, :-1] |= used[:, 1:].astype(np.uint8) << np.uint8(7)
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(used.sum(axis=1), out=offsets[1:])
    return out[used], offsets


def _encode_blobs(array: pa.Array) -> EncodedKeys:
    from fondaco.store import _kernels
    from fondaco.store.basefile import address_of

    count = len(array)
    offsets, hashes = np.empty(count + 1, np.int64), np.empty(count, np.uint64)
    if not count:
        offsets[0] = 0
        return EncodedKeys(np.empty(0, np.uint8), offsets, hashes)
    _, starts_buffer, data = array.buffers()
    starts = np.frombuffer(starts_buffer, np.int64)[array.offset : array.offset + count + 1].copy()
    out = np.empty(int(starts[-1] - starts[0]) + 10 * count, np.uint8)
    used = _kernels.encode_blobs(data.address if data is not None else 0, starts, out, address_of(out), offsets, hashes)
    return EncodedKeys(out[:used], offsets, hashes)


def _column_names(table: Any) -> list[Any]:
    if isinstance(table, (pa.Table, pa.RecordBatch)):
        return list(table.schema.names)
    return list(table if isinstance(table, Mapping) else table.columns)


def _is_table(keys: Any) -> bool:
    if isinstance(keys, Mapping):  # of columns, and not one key
        return bool(keys) and all(
            isinstance(column, (list, np.ndarray, pa.Array, pa.ChunkedArray)) or hasattr(column, "to_numpy") for column in keys.values()
        )
    # a pandas or Polars table has `columns`, a series has not
    return isinstance(keys, (pa.Table, pa.RecordBatch)) or (hasattr(keys, "columns") and hasattr(keys, "to_numpy"))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    flexible = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(flexible or pa.types.is_fixed_size_binary(kind))


def _read_varint(data: bytes) -> tuple[int, int]:
    from fondaco.core.errors import DecodeError

    value = 0
    for position, byte in enumerate(data[:10]):
        value |= (byte & 127) << (7 * position)
        if byte < 128:
            return value, position + 1
    raise DecodeError(0, "no number where the key begins")


def _shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."
