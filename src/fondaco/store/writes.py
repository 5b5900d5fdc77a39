"""Writes: one real-time write as the bytes of a log record, and back.

A record's key is the store's key bytes, its timestamp the write's logical time (ms since 1970), its value an *envelope*: who wrote, in
which order, under which value schema, and a payload. The payload of a put is the Avro row, of a delete and a heartbeat nothing, of a patch
a list of *edits*: a field's new value, or one element added to or removed from an array or map. A record without a value is a delete of
unknown origin (Kafka's tombstone). Byte layout: docs/internals/merge.md. It never changes; a new layout gets a new format number.

What comes from a log may come from anybody: every decoder checks what it reads and raises DecodeError with the position.

Thread rule: pure functions and immutable values; any thread. Imports no numba, so that clients can use it.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from fondaco.core.errors import DecodeError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

FORMAT: Final = 1
ENVELOPE: Final = Struct("<BBHIQQ")  # format, op, flags, schema number, writer, sequence
ENVELOPE_BYTES: Final = ENVELOPE.size
FUTURE_MS_MAX: Final = 24 * 3_600_000  # a clock that far ahead is a unit mistaken, and would win over every honest write for a day
PATH_DEPTH_MAX: Final = 128  # names in a path; a record that contains itself would allow any number
_PATCH: Final = Struct("<II")  # edits, zeros
_EDIT: Final = Struct("<BBHII")  # kind, zero, path bytes, item bytes, data bytes
PATCH_BYTES: Final = _PATCH.size
_MASK: Final = (1 << 64) - 1


class Op(IntEnum):
    """What a write does to the row of its key."""

    PUT = 1
    DELETE = 2
    PATCH = 3
    HEARTBEAT = 4  # to no row: it says that the log moves


class EditKind(IntEnum):
    """What an edit of a patch does to its field."""

    SET = 0
    ADD = 1
    REMOVE = 2


class Stamp(NamedTuple):
    """When a write happened, as all replicas agree: compared as a tuple, the greatest wins.

    `writer` is the XXH64 of the writer's id; `sequence` counts a writer's writes, and is 0 for one with a timestamp of its own.
    """

    timestamp_ms: int
    writer: int
    sequence: int


class Write(NamedTuple):
    """One write without its key."""

    op: Op
    stamp: Stamp
    schema_number: int
    payload: bytes


class Edit(NamedTuple):
    """One change of a patch.

    Attributes:
        path: the field, with dots between the names of nested records.
        item: of an element: the Avro bytes of an array's item, or a map's key in UTF-8; of a set field: nothing.
        data: the Avro bytes of the field's new value, or of the value under a map's key; otherwise nothing.
    """

    kind: EditKind
    path: str
    item: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """Writes in columns: of write i the key is `keys[key_offsets[i]:key_offsets[i + 1]]`; `values` holds envelopes with their payloads.

    Attributes:
        keys, values: uint8; key_offsets, value_offsets: int64, shape [writes + 1]; timestamps_ms: int64, shape [writes].
    """

    keys: npt.NDArray[np.uint8]
    key_offsets: npt.NDArray[np.int64]
    values: npt.NDArray[np.uint8]
    value_offsets: npt.NDArray[np.int64]
    timestamps_ms: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.timestamps_ms)

    @property
    def byte_count(self) -> int:
        """Bytes of all keys and envelopes."""
        return int(self.key_offsets[-1] - self.key_offsets[0]) + int(self.value_offsets[-1] - self.value_offsets[0])


_KINDS: Final = tuple(EditKind)
_OPS: Final = tuple(Op)  # looked up, because making a member of its number costs half a microsecond


def batch_of(keys: Sequence[bytes], values: Sequence[bytes], timestamps_ms: Sequence[int]) -> WriteBatch:
    """Writes given one by one, as columns."""
    import numpy as np

    offsets = np.zeros((2, len(keys) + 1), np.int64)
    np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)), out=offsets[0, 1:])
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1, 1:])
    return WriteBatch(
        np.frombuffer(b"".join(keys), np.uint8),
        offsets[0],
        np.frombuffer(b"".join(values), np.uint8),
        offsets[1],
        np.array(timestamps_ms, np.int64),
    )


# -- envelopes ----------------------------------------------------------------------------------------------------------------------


def encode_envelope(op: Op, schema_number: int, writer: int, sequence: int, payload: bytes = b"") -> bytes:
    """The value of the log record of a write."""
    return ENVELOPE.pack(FORMAT, op, 0, schema_number, writer, sequence) + payload


def heartbeat(writer: int = 0, sequence: int = 0) -> bytes:
    """The value of a heartbeat, whose key is empty and whose timestamp is the clock's."""
    return encode_envelope(Op.HEARTBEAT, 0, writer, sequence)


def decode_write(value: bytes | memoryview | None, timestamp_ms: int) -> Write:
    """The write in a log record's value; None is a delete by nobody in particular.

    Raises:
        DecodeError: no envelope, or one of a format or operation that this Fondaco does not know. Who follows a log skips such a record.
    """
    if value is None:
        return Write(Op.DELETE, Stamp(timestamp_ms, 0, 0), 0, b"")
    if len(value) < ENVELOPE_BYTES:
        raise DecodeError(len(value), f"a write of {len(value)} bytes; its envelope alone has {ENVELOPE_BYTES}")
    form, op, flags, schema_number, writer, sequence = ENVELOPE.unpack_from(value)
    if form != FORMAT or flags:
        raise DecodeError(0, f"a write of format {form}, flags {flags}; this Fondaco knows format {FORMAT}, flags 0")
    if not 1 <= op <= 4:
        raise DecodeError(1, f"a write with operation {op}, which this Fondaco does not know")
    return Write(_OPS[op - 1], Stamp(timestamp_ms, writer, sequence), schema_number, bytes(value[ENVELOPE_BYTES:]))


def check_timestamp(timestamp_ms: object, now_ms: int) -> int:
    """`timestamp_ms` as an int, if it can be the time of a write.

    Raises:
        InputError: no whole number, before 1970, or more than a day from now.
    """
    if not isinstance(timestamp_ms, bool):
        try:
            moment = operator.index(timestamp_ms)  # type: ignore[arg-type]  # what is no number is what we ask for
        except TypeError:
            pass
        else:
            if 0 <= moment <= now_ms + FUTURE_MS_MAX:
                return moment
            if moment < 0:
                raise InputError(f"timestamp_ms={moment} lies before 1970; a write needs a time that is not negative")
            raise InputError(
                f"timestamp_ms={moment} lies {(moment - now_ms) / 3_600_000:,.0f} hours from now ({now_ms}), and 24 are allowed; "
                "is it in milliseconds?"
            )
    raise InputError(f"timestamp_ms is a whole number of milliseconds since 1970, not {timestamp_ms!r}")


# -- patches ------------------------------------------------------------------------------------------------------------------------


def pack_edit(kind: EditKind, path: bytes, item: bytes, data: bytes) -> bytes:
    """The bytes of one edit, for `pack_patch`."""
    return _EDIT.pack(kind, 0, len(path), len(item), len(data)) + path + item + data


def pack_patch(edits: Sequence[bytes]) -> bytes:
    """The payload of a patch with these edits, one at least."""
    return _PATCH.pack(len(edits), 0) + b"".join(edits)


def ancestors(path: str) -> Iterator[str]:
    """The paths of the records around a field, innermost first."""
    while (end := path.rfind(".")) > 0:
        path = path[:end]
        yield path


def decode_patch(payload: bytes) -> list[Edit]:
    """The edits of a patch.

    Raises:
        DecodeError: bytes that are no patch.
    """
    end = len(payload)
    if end < _PATCH.size:
        raise DecodeError(end, "a patch that ends in its header")
    count, reserved = _PATCH.unpack_from(payload)
    if reserved:
        raise DecodeError(4, "a patch of another layout")
    if not 0 < count <= (end - _PATCH.size) // _EDIT.size:
        raise DecodeError(0, f"a patch of {count} edits in {end} bytes")
    edits, at = [], _PATCH.size
    for _ in range(count):
        if at + _EDIT.size > end:
            raise DecodeError(end, "a patch that ends in an edit")
        kind, zero, path_bytes, item_bytes, data_bytes = _EDIT.unpack_from(payload, at)
        path_at = at + _EDIT.size
        item_at = path_at + path_bytes
        data_at = item_at + item_bytes
        after = data_at + data_bytes
        if after > end:
            raise DecodeError(end, "a patch that ends in an edit")
        if kind > EditKind.REMOVE or zero or not path_bytes or (kind == EditKind.SET and item_bytes):
            raise DecodeError(at, f"an edit of kind {kind}, which this Fondaco does not know, or without a field")
        try:
            path = payload[path_at:item_at].decode()
        except UnicodeDecodeError:
            raise DecodeError(path_at, "a field's path that is not UTF-8") from None
        if path.count(".") >= PATH_DEPTH_MAX:
            raise DecodeError(path_at, f"a field's path of more than {PATH_DEPTH_MAX} names")
        edits.append(Edit(_KINDS[kind], path, payload[item_at:data_at], payload[data_at:after]))
        at = after
    if at != end:
        raise DecodeError(at, f"{end - at} bytes after the last edit of a patch")
    return edits


# -- writers ------------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def writer_number(writer_id: str) -> int:
    """The number under which a writer's writes are known: XXH64 of its id in UTF-8.

    Raises:
        InputError: not a text, or an empty one.
    """
    if not isinstance(writer_id, str) or not writer_id:
        raise InputError(f"a writer's id is a text that is not empty, as 'clicks-job', not {writer_id!r}")
    return xxh64(writer_id.encode("utf-8", "surrogatepass"))


_P1, _P2, _P3, _P4, _P5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0 in plain Python, for a few short texts where numba is not wanted (0.2 us a byte). Kernels: `core.xxh64`."""
    at, end = 0, len(data)
    if end >= 32:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        while at + 32 <= end:
            lanes = [_round(lane, int.from_bytes(data[at + 8 * i : at + 8 * i + 8], "little")) for i, lane in enumerate(lanes)]
            at += 32
        hash_ = sum(_rotate(lane, count) for lane, count in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            hash_ = ((hash_ ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        hash_ = _P5
    hash_ = (hash_ + end) & _MASK
    while at + 8 <= end:
        hash_ = (_rotate(hash_ ^ _round(0, int.from_bytes(data[at : at + 8], "little")), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= end:
        hash_ = (_rotate(hash_ ^ int.from_bytes(data[at : at + 4], "little") * _P1 & _MASK, 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        hash_ = _rotate(hash_ ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    hash_ = (hash_ ^ hash_ >> 33) * _P2 & _MASK
    hash_ = (hash_ ^ hash_ >> 29) * _P3 & _MASK
    return hash_ ^ hash_ >> 32


def _rotate(value: int, count: int) -> int:
    return (value << count | value >> 64 - count) & _MASK


def _round(accumulator: int, lane: int) -> int:
    return _rotate((accumulator + lane * _P2) & _MASK, 31) * _P1 & _MASK
