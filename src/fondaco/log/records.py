"""Records: what goes into a log and what comes out, as objects for people and as columns for machines.

`Record` and `LogRecord` are single records. `RecordBatch` is what `append` takes and `LogBatch` what `read` gives: columns over one buffer
of bytes, so that a thousand records cost two kernel calls and no object each. A null key or value differs from an empty one; in a
compacted topic a null value deletes its key (a tombstone). Batches are never changed once made; any thread may read them. No numba here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError

I64Array = npt.NDArray[np.int64]
U8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Headers = Sequence[tuple[str, bytes | None]]

NO_TIMESTAMP = -(2**63)  # in a column of timestamps: take the moment of the append
_HEADER = struct.Struct("<Ii")  # bytes of the name, bytes of the value (-1: null)


class Record(NamedTuple):
    """A record to append. Without `timestamp_ms` it gets the moment of the append."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None
    headers: Headers = ()


class LogRecord(NamedTuple):
    """A record as the log holds it. `appended_ms` is the log's own clock, never smaller than that of the record before it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    appended_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class RecordBatch:
    """Records to append, as columns; made by `of`, `from_values` or `from_columns`.

    keys, values, headers: uint8 buffers. key_offsets, value_offsets, header_offsets: int64 [n + 1]; record i has
    `keys[key_offsets[i] : key_offsets[i + 1]]`. key_nulls, value_nulls: bool [n], or None when nothing is null. timestamps_ms: int64
    [n], or None: the moment of the append. header_offsets is None when no record has headers.
    """

    __slots__ = (
        "header_offsets", "headers", "key_nulls", "key_offsets", "keys", "timestamps_ms", "value_nulls", "value_offsets", "values",
    )  # fmt: skip

    def __init__(
        self,
        keys: U8Array,
        key_offsets: I64Array,
        values: U8Array,
        value_offsets: I64Array,
        timestamps_ms: I64Array | None = None,
        *,
        key_nulls: BoolArray | None = None,
        value_nulls: BoolArray | None = None,
        headers: U8Array | None = None,
        header_offsets: I64Array | None = None,
        trusted: bool = False,
    ) -> None:
        """`trusted` leaves out the checks that keep kernels inside these arrays; only for columns made by our own code."""
        self.keys, self.key_offsets = keys, key_offsets
        self.values, self.value_offsets = values, value_offsets
        self.timestamps_ms = timestamps_ms
        self.key_nulls, self.value_nulls = key_nulls, value_nulls
        self.headers = _NO_BYTES if headers is None else headers
        self.header_offsets = header_offsets
        if not trusted:
            self._check()

    @classmethod
    def from_columns(
        cls,
        keys: U8Array,
        key_offsets: I64Array,
        values: U8Array,
        value_offsets: I64Array,
        timestamps_ms: I64Array | None = None,
        *,
        key_nulls: BoolArray | None = None,
        value_nulls: BoolArray | None = None,
    ) -> RecordBatch:
        """A batch over columns that are there already; they are not copied, so do not change them before the append has returned.

        Raises:
            InputError: a dtype, a length, or offsets that decrease or lead outside their buffer; a negative timestamp.
        """
        return cls(keys, key_offsets, values, value_offsets, timestamps_ms, key_nulls=key_nulls, value_nulls=value_nulls)

    @classmethod
    def of(cls, records: Iterable[Record]) -> RecordBatch:
        """A batch of single records.

        Raises:
            InputError: a key or value that is not bytes, a negative timestamp, a header that is not (str, bytes or None).
        """
        records = records if isinstance(records, (list, tuple)) else list(records)
        if not records:
            return cls.from_values([])
        try:
            keys, values, timestamps, headers = zip(*records, strict=True)
        except (TypeError, ValueError):
            raise InputError(f"a log takes fondaco.log.Record(key, value, timestamp_ms, headers), not {records[0]!r}") from None
        return cls.from_values(values, keys, None if not any(t is not None for t in timestamps) else timestamps, headers)

    @classmethod
    def from_values(
        cls,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        timestamps_ms: Sequence[int | None] | I64Array | None = None,
        headers: Sequence[Headers] | None = None,
    ) -> RecordBatch:
        """A batch of values as bytes, with keys (None: all null), timestamps and headers of the same number. The quickest way from Python
        objects: the bytes are joined, not walked.

        Raises:
            InputError: as `of`, or lists of different lengths.
        """
        count = len(values)
        for name, column in (("keys", keys), ("timestamps", timestamps_ms), ("headers", headers)):
            if column is not None and len(column) != count:
                raise InputError(f"{len(column)} {name} for {count} values; give one for each value, or none at all")
        value_data, value_offsets, value_nulls = _pack(values, "value")
        if keys is None:
            key_data, key_offsets, key_nulls = _NO_BYTES, np.zeros(count + 1, np.int64), np.ones(count, np.bool_) if count else None
        else:
            key_data, key_offsets, key_nulls = _pack(keys, "key")
        header_data, header_offsets = _NO_BYTES, None
        if headers is not None and any(headers):
            header_data, header_offsets, _ = _pack([encode_headers(of_record) for of_record in headers], "headers")
        return cls(
            key_data, key_offsets, value_data, value_offsets, _timestamps(timestamps_ms), key_nulls=key_nulls, value_nulls=value_nulls,
            headers=header_data, header_offsets=header_offsets, trusted=True,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.value_offsets) - 1

    def __repr__(self) -> str:
        return f"RecordBatch({len(self)} records)"

    def slice(self, start: int, stop: int) -> RecordBatch:
        """Records `start` to `stop`; copies nothing."""
        return RecordBatch(
            self.keys, self.key_offsets[start : stop + 1], self.values, self.value_offsets[start : stop + 1],
            None if self.timestamps_ms is None else self.timestamps_ms[start:stop],
            key_nulls=None if self.key_nulls is None else self.key_nulls[start:stop],
            value_nulls=None if self.value_nulls is None else self.value_nulls[start:stop],
            headers=self.headers, header_offsets=None if self.header_offsets is None else self.header_offsets[start : stop + 1],
            trusted=True,
        )  # fmt: skip

    def records(self) -> Iterator[Record]:
        """The records one by one, as given."""
        keys, values, headers = self.keys.tobytes(), self.values.tobytes(), self.headers.tobytes()
        for i in range(len(self)):
            key = None if self.key_nulls is not None and self.key_nulls[i] else keys[self.key_offsets[i] : self.key_offsets[i + 1]]
            null = self.value_nulls is not None and self.value_nulls[i]
            value = None if null else values[self.value_offsets[i] : self.value_offsets[i + 1]]
            moment = None if self.timestamps_ms is None or self.timestamps_ms[i] == NO_TIMESTAMP else int(self.timestamps_ms[i])
            found: Headers = ()
            if self.header_offsets is not None:
                found = decode_headers(headers[self.header_offsets[i] : self.header_offsets[i + 1]])
            yield Record(key, value, moment, found)

    def _check(self) -> None:
        count = len(self.value_offsets) - 1
        if count < 0:
            raise InputError("offsets of n records have n + 1 entries; got none")
        _check_column("key", self.keys, self.key_offsets, count)
        _check_column("value", self.values, self.value_offsets, count)
        if self.header_offsets is not None:
            _check_column("header", self.headers, self.header_offsets, count)
        for name, nulls in (("key_nulls", self.key_nulls), ("value_nulls", self.value_nulls)):
            if nulls is not None and (nulls.dtype != np.bool_ or nulls.shape != (count,)):
                raise InputError(f"{name}: expected bool [{count}], got {nulls.dtype} {list(nulls.shape)}")
        if self.timestamps_ms is not None:
            if self.timestamps_ms.dtype != np.int64 or self.timestamps_ms.shape != (count,):
                raise InputError(
                    f"timestamps_ms: expected int64 [{count}], got {self.timestamps_ms.dtype} {list(self.timestamps_ms.shape)}"
                )
            _check_timestamps(self.timestamps_ms)


class LogBatch:
    """Records read from one partition, in the order of their offsets, as columns over one buffer.

    data: uint8, holds all bytes. offsets, timestamps_ms, appended_ms: int64 [n]. key_starts, value_starts, header_starts: int64 [n], places
    in `data`; key_lengths, value_lengths: int64 [n], -1 = null; header_lengths: int64 [n]. `next_offset` is where to read on; offsets
    may have gaps, so it is not the last offset plus one in general.
    """

    __slots__ = (
        "appended_ms", "data", "header_lengths", "header_starts", "key_lengths", "key_starts", "next_offset", "offsets", "partition",
        "timestamps_ms", "topic", "value_lengths", "value_starts",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        partition: int,
        next_offset: int,
        *,
        data: U8Array,
        offsets: I64Array,
        timestamps_ms: I64Array,
        appended_ms: I64Array,
        key_starts: I64Array,
        key_lengths: I64Array,
        value_starts: I64Array,
        value_lengths: I64Array,
        header_starts: I64Array,
        header_lengths: I64Array,
    ) -> None:
        self.topic, self.partition, self.next_offset = topic, partition, next_offset
        self.data, self.offsets, self.timestamps_ms, self.appended_ms = data, offsets, timestamps_ms, appended_ms
        self.key_starts, self.key_lengths = key_starts, key_lengths
        self.value_starts, self.value_lengths = value_starts, value_lengths
        self.header_starts, self.header_lengths = header_starts, header_lengths

    @classmethod
    def empty(cls, topic: str, partition: int, next_offset: int) -> LogBatch:
        """No records; read on at `next_offset`."""
        none = np.zeros(0, np.int64)
        return cls(
            topic, partition, next_offset, data=_NO_BYTES, offsets=none, timestamps_ms=none, appended_ms=none, key_starts=none,
            key_lengths=none, value_starts=none, value_lengths=none, header_starts=none, header_lengths=none,
        )  # fmt: skip

    @classmethod
    def of(cls, topic: str, partition: int, records: Sequence[LogRecord], next_offset: int) -> LogBatch:
        """Columns of single records, for logs that get them one by one."""
        parts: list[bytes] = []
        lengths = np.zeros((len(records), 3), np.int64)
        for i, record in enumerate(records):
            headers = encode_headers(record.headers)
            parts += (record.key or b"", record.value or b"", headers)
            lengths[i] = (
                -1 if record.key is None else len(record.key), -1 if record.value is None else len(record.value), len(headers),
            )  # fmt: skip
        ends = np.cumsum(np.maximum(lengths, 0).reshape(-1))
        starts = (ends - np.maximum(lengths, 0).reshape(-1)).reshape(-1, 3)
        return cls(
            topic, partition, next_offset, data=np.frombuffer(b"".join(parts), np.uint8),
            offsets=np.array([record.offset for record in records], np.int64),
            timestamps_ms=np.array([record.timestamp_ms for record in records], np.int64),
            appended_ms=np.array([record.appended_ms for record in records], np.int64),
            key_starts=starts[:, 0].copy(), key_lengths=lengths[:, 0].copy(),
            value_starts=starts[:, 1].copy(), value_lengths=lengths[:, 1].copy(),
            header_starts=starts[:, 2].copy(), header_lengths=lengths[:, 2].copy(),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"LogBatch({self.topic!r}, {self.partition}, {len(self)} records, next_offset={self.next_offset})"

    def keys(self) -> list[bytes | None]:
        """Every key, None where it is null."""
        return self._slices(self.key_starts, self.key_lengths)

    def values(self) -> list[bytes | None]:
        """Every value, None where it is null."""
        return self._slices(self.value_starts, self.value_lengths)

    def records(self) -> Iterator[LogRecord]:
        """The records one by one."""
        headers: Iterable[tuple[tuple[str, bytes | None], ...]]
        if self.header_lengths.any():
            headers = [decode_headers(data or b"") for data in self._slices(self.header_starts, self.header_lengths)]
        else:
            headers = [()] * len(self)
        columns = (self.offsets.tolist(), self.timestamps_ms.tolist(), self.appended_ms.tolist(), self.keys(), self.values(), headers)
        topic, partition = self.topic, self.partition
        for rest in zip(*columns, strict=True):
            yield LogRecord(topic, partition, *rest)

    def _slices(self, starts: I64Array, lengths: I64Array) -> list[bytes | None]:
        data = self.data.tobytes()
        pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
        return [None if length < 0 else data[start : start + length] for start, length in pairs]


def encode_headers(headers: Headers) -> bytes:
    """Headers as one run of bytes: for each its name's length (u32), its value's (i32, -1 = null), the name in UTF-8, the value.

    Raises:
        InputError: a name that is not text, a value that is neither bytes nor None.
    """
    parts: list[bytes] = []
    for header in headers:
        try:
            name, value = header
            encoded = name.encode()
            parts += (_HEADER.pack(len(encoded), -1 if value is None else len(value)), encoded, b"" if value is None else bytes(value))
        except (TypeError, ValueError, AttributeError):
            raise InputError(f"a header is a pair of text and bytes (or None), as ('source', b'web'), not {header!r}") from None
    return b"".join(parts)


def decode_headers(data: bytes) -> tuple[tuple[str, bytes | None], ...]:
    """The headers in bytes of `encode_headers`."""
    found: list[tuple[str, bytes | None]] = []
    at = 0
    while at < len(data):
        name_bytes, value_bytes = _HEADER.unpack_from(data, at)
        name_end = at + _HEADER.size + name_bytes
        at = name_end + max(value_bytes, 0)
        found.append((data[at - max(value_bytes, 0) - name_bytes : name_end].decode(), None if value_bytes < 0 else data[name_end:at]))
    return tuple(found)


_NO_BYTES: U8Array = np.zeros(0, np.uint8)


def _pack(parts: Sequence[bytes | None], noun: str) -> tuple[U8Array, I64Array, BoolArray | None]:
    """One buffer of all parts, their offsets int64 [n + 1], and which are null (None: none is)."""
    nulls: BoolArray | None = None
    filled: Sequence[bytes]
    try:
        data = b"".join(parts)  # type: ignore[arg-type]  # a None among them takes the other path
        filled = parts  # type: ignore[assignment]
    except TypeError:
        for part in parts:
            if part is not None and not isinstance(part, (bytes, bytearray, memoryview)):
                raise InputError(f"a record's {noun} is bytes or None, not {type(part).__name__}: {part!r}") from None
        nulls = np.fromiter((part is None for part in parts), np.bool_, len(parts))
        filled = [b"" if part is None else part for part in parts]
        data = b"".join(filled)
    offsets = np.zeros(len(filled) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, filled), np.int64, len(filled)), out=offsets[1:])
    if offsets[-1] != len(data):  # a memoryview counts elements, not bytes
        return _pack([part if part is None else bytes(part) for part in parts], noun)
    return np.frombuffer(data, np.uint8), offsets, nulls


def _timestamps(timestamps_ms: Sequence[int | None] | I64Array | None) -> I64Array | None:
    if timestamps_ms is None:
        return None
    try:
        if isinstance(timestamps_ms, np.ndarray):
            column = np.ascontiguousarray(timestamps_ms, np.int64)
        else:
            column = np.fromiter((NO_TIMESTAMP if moment is None else moment for moment in timestamps_ms), np.int64, len(timestamps_ms))
    except (TypeError, ValueError, OverflowError):
        raise InputError("a record's timestamp is whole milliseconds since 1970, or None for the moment of the append") from None
    _check_timestamps(column)
    return column


def _check_timestamps(column: I64Array) -> None:
    negative = column[(column < 0) & (column != NO_TIMESTAMP)]
    if len(negative):
        raise InputError(f"a record's timestamp cannot be negative: {negative[0]}; give milliseconds since 1970")


def _check_column(noun: str, data: U8Array, offsets: I64Array, count: int) -> None:
    if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
        raise InputError(f"{noun}s: expected one run of uint8, got {data.dtype} {list(data.shape)}")
    if offsets.dtype != np.int64 or offsets.shape != (count + 1,):
        raise InputError(f"{noun}_offsets: expected int64 [{count + 1}], got {offsets.dtype} {list(offsets.shape)}")
    if offsets[0] < 0 or offsets[-1] > len(data) or (offsets[1:] < offsets[:-1]).any():
        raise InputError(f"{noun}_offsets must not decrease and stay within the {len(data)} bytes of their buffer")
