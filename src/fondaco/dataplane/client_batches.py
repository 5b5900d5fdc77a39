"""Client batches: many keys cut into pieces of one request each, and the answers of the pieces as one, all of one version.

Pieces are bounded in keys and bytes, so a batch of any size streams through a bounded window of requests. Which version answers is agreed
on the way: the first answer names it, requests sent later ask for it, and those that were under way and answered from another are asked
again. Imports neither numba nor SQLAlchemy; pure but for the waits of its operations.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import ProtocolError
from fondaco.dataplane import wire
from fondaco.dataplane.pool import Peer

PIECE_KEYS: Final = 10_000
PIECE_BYTES: Final = 4 << 20  # of keys in one request

_BLOCK: Final = struct.Struct("<QII")  # bytes, count, flags

I64Array = npt.NDArray[np.int64]
U8Array = npt.NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PackedKeys:
    """Key i is `data[offsets[i]:offsets[i + 1]]`: uint8, int64 [n + 1]."""

    data: U8Array
    offsets: I64Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice(self, first: int, last: int) -> PackedKeys:
        """Keys `first` to `last`."""
        offsets = self.offsets[first : last + 1]
        return PackedKeys(self.data[offsets[0] : offsets[-1]], offsets - offsets[0])

    def take(self, rows: I64Array) -> PackedKeys:
        """The keys at `rows`, in that order."""
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        data = self.data.tobytes()
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(ends - starts, out=offsets[1:])
        joined = b"".join([data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])
        return PackedKeys(np.frombuffer(joined or b"\0", np.uint8), offsets)

    def body(self) -> bytes:
        """As a request's body."""
        return wire.pack_keys(self.data, self.offsets)


@dataclass(frozen=True, slots=True)
class Piece:
    """Keys of one request, who can answer it, and which keys of the batch they are (None: all of them, in order)."""

    keys: PackedKeys
    peers: Sequence[Peer]
    rows: I64Array | None


@dataclass(frozen=True, slots=True)
class PieceAnswer:
    """What a piece was answered, and from which version."""

    version: int
    value: Any


def blocks_of(body: bytes | bytearray | memoryview, peer: str) -> list[wire.Block]:
    """The blocks of a whole answer, as views of it.

    Raises:
        ProtocolError: it is no blocks, ends before its last, or goes on after it.
    """
    blocks, view, position = [], memoryview(body), 0
    while True:
        if len(view) - position < _BLOCK.size:
            raise ProtocolError(peer, "an answer that ends before its last block")
        length, count, flags = _BLOCK.unpack_from(view, position)
        if length < _BLOCK.size or length % 8 or length > len(view) - position:
            raise ProtocolError(peer, f"a block of {length} bytes, and {len(view) - position} follow")
        blocks.append(wire.Block(count, wire.BlockFlag(flags & 7), view[position + _BLOCK.size : position + length]))
        position += length
        if flags & wire.BlockFlag.LAST:
            break
    if position != len(view):
        raise ProtocolError(peer, "an answer that goes on after its last block")
    return blocks


def cut(keys: PackedKeys, peers: Sequence[Peer], rows: I64Array | None, keys_max: int, bytes_max: int) -> list[Piece]:
    """Pieces of at most so many keys and bytes (one key may be longer); one piece without keys if there are none."""
    count = len(keys)
    if count <= keys_max and int(keys.offsets[-1]) <= bytes_max:
        return [Piece(keys, peers, rows)]
    pieces, first = [], 0
    while first < count:
        by_bytes = int(np.searchsorted(keys.offsets, keys.offsets[first] + bytes_max, "right")) - 1
        last = min(count, first + keys_max, max(first + 1, by_bytes))
        places = np.arange(first, last) if rows is None else rows[first:last]
        pieces.append(Piece(keys.slice(first, last), peers, places))
        first = last
    return pieces


def joined(count: int, pieces: Sequence[Piece], values: Sequence[Sequence[T]], peer: str) -> list[T]:
    """Values of all keys in the order of the batch.

    Raises:
        ProtocolError: a piece has another number of values than keys.
    """
    for piece, value in zip(pieces, values, strict=True):
        if len(value) != len(piece.keys):
            raise ProtocolError(peer, f"{len(value)} rows answered for {len(piece.keys)} keys")
    if len(pieces) == 1 and pieces[0].rows is None:
        return list(values[0])
    out: list[Any] = [None] * count
    for piece, value in zip(pieces, values, strict=True):
        assert piece.rows is not None
        for place, item in zip(piece.rows.tolist(), value, strict=True):
            out[place] = item
    return out


def order_of(pieces: Sequence[Piece]) -> I64Array | None:
    """Where each key of the batch lies in the pieces' keys one after the other; None: in order."""
    if len(pieces) == 1 and pieces[0].rows is None:
        return None
    places = np.concatenate([piece.rows for piece in pieces if piece.rows is not None])
    order = np.empty(len(places), np.int64)
    order[places] = np.arange(len(places))
    return None if (order == np.arange(len(order))).all() else order


def groups_of(numbers: I64Array) -> list[tuple[int, I64Array]]:
    """(number, rows that have it), each number once."""
    order = np.argsort(numbers, kind="stable")
    sorted_numbers = numbers[order]
    bounds = np.flatnonzero(np.diff(sorted_numbers, prepend=sorted_numbers[:1] - 1))
    return [(int(sorted_numbers[start]), rows) for start, rows in zip(bounds, np.split(order, bounds[1:]), strict=True)]
