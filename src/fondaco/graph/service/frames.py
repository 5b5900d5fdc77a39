"""Frames: what travels between a graph client and a graph server, both ways, as bytes; nothing here does I/O.

A frame is a header of 64 bytes, then `meta` (a msgpack document), then a table of arrays (msgpack), then the payload: the arrays' raw
bytes, each at a multiple of 64. An array whose place is `REGION` lies in shared memory instead, in the slot that the request named. Every
length is compared with a limit before anything is allocated for it, and the header has a CRC, so a stream out of step is seen at once.
Grammar with a worked example: docs/internals/graph-wire.md. Pure functions; any thread.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from fondaco.core.errors import LimitError, ProtocolError
from fondaco.graph.schema import DTYPES, numpy_dtype

MAGIC: Final = b"\x89FGW"
PROTOCOL: Final = 1
HEADER_BYTES: Final = 64
ALIGNMENT: Final = 64
DIMENSIONS_MAX: Final = 8
_HEADER: Final = struct.Struct("<4sBBHQIIIIQIQQ")  # the CRC, a u32, follows
_CRC: Final = struct.Struct("<I")
_ZEROS: Final = bytes(ALIGNMENT)
_DTYPES: Final = frozenset(DTYPES)
assert _HEADER.size + _CRC.size == HEADER_BYTES

Array = np.ndarray[Any, np.dtype[Any]]


class Kind(IntEnum):
    """What a frame is. Answers have the top bit set."""

    HELLO = 1  # first on every connection: who asks, for which graph
    PING = 2  # answered at once, however busy the server is
    QUERY = 3  # a whole query, for the server that fans out
    SHARD = 4  # a part of one, for the server that holds the partitions
    ATTACH = 5  # a slot of shared memory: its descriptor comes along; with no room: give it up. Not answered
    INFO = 6  # the greeting's answer once more, as it is now
    ANSWER = 128
    ERROR = 129  # meta is the JSON object of dataplane/faults.py


class Place(IntEnum):
    """Where an array's bytes are."""

    PAYLOAD = 0
    REGION = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The greatest lengths that a side takes, in bytes and arrays."""

    meta_bytes: int = 4 << 20
    table_bytes: int = 1 << 20
    arrays: int = 4096
    payload_bytes: int = 64 << 20


REQUEST_LIMITS: Final = Limits()
ANSWER_LIMITS: Final = Limits(meta_bytes=64 << 20, table_bytes=4 << 20, arrays=65_536, payload_bytes=16 << 30)


class Header(NamedTuple):
    """The first 64 bytes.

    Attributes:
        request: chosen by who asks, given back in the answer.
        deadline_ms: of a request: how much time it has left; 0: as long as it takes.
        slot: 1 + the number of the slot of shared memory that the answer may use or uses; 0: none.
        room: of a request: the slot's bytes; of an answer: what a slot would have needed to hold all of it.
        graph_version: of a request: which to read, 0: the current one; of an answer: which was read.
    """

    kind: int
    request: int
    deadline_ms: int = 0
    meta_bytes: int = 0
    table_bytes: int = 0
    arrays: int = 0
    payload_bytes: int = 0
    slot: int = 0
    room: int = 0
    graph_version: int = 0

    @property
    def head_bytes(self) -> int:
        """Of meta and table together, which are read in one piece."""
        return self.meta_bytes + self.table_bytes


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One array of a frame. `offset` counts from the payload's, or the slot's, first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: int
    offset: int


_ENTRIES: Final = msgspec.msgpack.Decoder(tuple[Entry, ...])
_ENCODER: Final = msgspec.msgpack.Encoder()


def pack_header(header: Header) -> bytes:
    """The 64 bytes of a header."""
    kind, request, deadline_ms, meta_bytes, table_bytes, arrays, payload_bytes, slot, room, graph_version = header
    data = _HEADER.pack(
        MAGIC, PROTOCOL, kind, 0, request, deadline_ms, meta_bytes, table_bytes, arrays, payload_bytes, slot, room, graph_version
    )
    return data + _CRC.pack(zlib.crc32(data))


def parse_header(data: bytes | bytearray | memoryview, limits: Limits, peer: str) -> Header:
    """Read a header.

    Args:
        data: 64 bytes.
        peer: who sent it, for the message.
    Raises:
        ProtocolError: it is none of ours. LimitError: it announces more than this side takes.
    """
    magic, protocol, kind, flags, *numbers = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError(peer, f"a frame that begins with {bytes(data[:4])!r}")
    if protocol != PROTOCOL:
        raise ProtocolError(peer, f"protocol {protocol} of the graph service; this side speaks {PROTOCOL}")
    if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(memoryview(data)[: _HEADER.size]):
        raise ProtocolError(peer, "a frame whose header does not agree with its checksum")
    if kind not in _KINDS or flags:
        raise ProtocolError(peer, f"a frame of kind {kind} with flags {flags}")
    header = Header(kind, *numbers)
    for what, size, limit in (
        ("meta of a frame, in bytes", header.meta_bytes, limits.meta_bytes),
        ("table of a frame, in bytes", header.table_bytes, limits.table_bytes),
        ("arrays of a frame", header.arrays, limits.arrays),
        ("arrays of a frame, in bytes", header.payload_bytes, limits.payload_bytes),
    ):
        if size > limit:
            raise LimitError(what, size, limit, "Ask with fewer ids at a time." if kind < Kind.ANSWER else "Ask for less at a time.")
    return header


_KINDS: Final = frozenset(map(int, Kind))


def layout(arrays: Mapping[str, Array], placed: Mapping[str, int] | None = None) -> tuple[list[Entry], int]:
    """Where each array goes: the table, and the bytes of the payload.

    Args:
        arrays: C-contiguous, of the types that travel.
        placed: offsets in the slot of those that lie there already.
    Raises:
        TypeError: an array of another type; our own mistake, never a user's.
    """
    entries, end = [], 0
    for name, array in arrays.items():
        dtype = array.dtype.name
        if dtype not in _DTYPES or not array.flags.c_contiguous:
            raise TypeError(f"array {name!r} of {array.dtype} with strides {array.strides} does not travel")
        if placed is not None and name in placed:
            entries.append(Entry(name, dtype, array.shape, int(Place.REGION), placed[name]))
        else:
            entries.append(Entry(name, dtype, array.shape, int(Place.PAYLOAD), end))
            end = aligned(end + array.nbytes)
    return entries, end


def aligned(offset: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def frame(
    kind: int,
    request: int,
    meta: bytes = b"",
    arrays: Mapping[str, Array] | None = None,
    *,
    placed: Mapping[str, int] | None = None,
    deadline_ms: int = 0,
    slot: int = 0,
    room: int = 0,
    graph_version: int = 0,
) -> list[bytes | memoryview]:
    """A frame as pieces to send one after the other; arrays are not copied.

    Raises:
        as `layout`.
    """
    if not arrays:
        return [pack_header(Header(kind, request, deadline_ms, len(meta), 0, 0, 0, slot, room, graph_version)), meta]
    entries, payload_bytes = layout(arrays, placed)
    table = _ENCODER.encode(entries)
    header = Header(kind, request, deadline_ms, len(meta), len(table), len(entries), payload_bytes, slot, room, graph_version)
    pieces: list[bytes | memoryview] = [pack_header(header) + meta + table]
    for entry, array in zip(entries, arrays.values(), strict=True):
        if entry.place == Place.PAYLOAD and array.nbytes:
            pieces.append(bytes_of(array))
            if array.nbytes % ALIGNMENT:
                pieces.append(_ZEROS[array.nbytes % ALIGNMENT :])
    return pieces


def bytes_of(array: Array) -> memoryview:
    """The bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def parse_table(data: bytes | bytearray | memoryview, header: Header, peer: str) -> tuple[Entry, ...]:
    """Read a table, and check that what it names lies inside payload and slot.

    Raises:
        ProtocolError: it is none, or names bytes that are not there.
    """
    if not header.arrays and not header.table_bytes:
        return ()
    try:
        entries = _ENTRIES.decode(data)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(peer, f"a table of arrays that cannot be read: {exc}") from None
    if len(entries) != header.arrays:
        raise ProtocolError(peer, f"a table of {len(entries)} arrays where {header.arrays} are announced")
    for entry in entries:
        _check(entry, header, peer)
    if len({entry.name for entry in entries}) != len(entries):
        raise ProtocolError(peer, "a table that names an array twice")
    return entries


def _check(entry: Entry, header: Header, peer: str) -> None:
    if entry.dtype not in _DTYPES or len(entry.shape) > DIMENSIONS_MAX or any(size < 0 for size in entry.shape):
        raise ProtocolError(peer, f"array {entry.name[:80]!r} of {entry.dtype[:80]!r} and shape {entry.shape[:9]}")
    if entry.place not in (Place.PAYLOAD, Place.REGION) or entry.offset < 0 or entry.offset % ALIGNMENT:
        raise ProtocolError(peer, f"array {entry.name[:80]!r} at place {entry.place}, offset {entry.offset}")
    if entry.place == Place.PAYLOAD:
        if entry.offset + size_of(entry) > header.payload_bytes:
            raise ProtocolError(peer, f"array {entry.name[:80]!r}, which ends behind the payload")
    elif not header.slot:
        raise ProtocolError(peer, f"array {entry.name[:80]!r} in shared memory, and no slot is named")


def size_of(entry: Entry) -> int:
    """Bytes of an array."""
    return math.prod(entry.shape) * numpy_dtype(entry.dtype).itemsize


def arrays_of(entries: Sequence[Entry], payload: Array, region: Array | None, peer: str) -> dict[str, Array]:
    """The arrays of a frame as views.

    Args:
        payload: uint8, the bytes that came; region: uint8, the slot, or None.
    Raises:
        ProtocolError: an array lies outside the slot.
    """
    found: dict[str, Array] = {}
    for entry in entries:
        size = size_of(entry)
        source: Array | None = payload if entry.place == Place.PAYLOAD else region
        if source is None or entry.offset + size > source.nbytes:
            raise ProtocolError(peer, f"array {entry.name[:80]!r}, which ends behind the shared memory")
        found[entry.name] = source[entry.offset : entry.offset + size].view(numpy_dtype(entry.dtype)).reshape(entry.shape)
    return found


def total_bytes(arrays: Iterable[Array]) -> int:
    """What a slot needs to hold all of them."""
    return sum(aligned(array.nbytes) for array in arrays)
