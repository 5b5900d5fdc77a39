"""Bodies: keys, rows, columns, scores and writes as raw little-endian bytes, packed and unpacked.

Grammar and worked example: docs/internals/data-plane.md. In short:

    keys    = count u32 | offsets u32[count + 1] | key bytes (Avro)
    writes  = count u32 | durability u32 | timestamps_ms i64[count] | key_offsets u32[count + 1] | value_offsets u32[count + 1]
              | key bytes (Avro) | envelopes (docs/internals/merge.md)
    answer  = block+                        the last with the flag LAST; a large answer comes in several, so it can be read as it arrives
    block   = bytes u64 | count u32 | flags u32 | body       `bytes` is the length of the whole block, a multiple of 8
    rows    = schema i32[count] | zeros to 8 | offsets u64[count + 1] | data | zeros to 8            schema 0: no such row
    columns = columns u32 | 0 u32 | found bits | column[columns];
    column  = dtype, 8 characters | dim u32 | shape u32 | valid bits if shape & 1 | numbers | zeros to 8
    scores  = dim u32 | shape u32 | valid bits | f64[...]           shape & 2: numbers are [count, dim]; without it dim is 1: [count]
    top k   = position i64[count] | score f64[count]                                                     flag TOP_K
    bits    = u8[ceil(count / 8)], bit i of byte i // 8 from the lowest, zeros to 8
    error   = a JSON object of `faults`, zeros to 8; flag ERROR: what went wrong after the answer had begun

What is unpacked is a view of the bytes given; nothing is copied. Bytes that break the grammar raise InputError with the place, whatever
they hold. Pure functions; safe from any thread.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import FondacoError, InputError
from fondaco.dataplane.faults import error_body, error_of
from fondaco.store.writes import WriteBatch

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Buffer = bytes | bytearray | memoryview | U8Array

_U32: Final = struct.Struct("<I")
_TWO: Final = struct.Struct("<II")
_BLOCK: Final = struct.Struct("<QII")
_COLUMN: Final = struct.Struct("<8sII")
BLOCK_HEADER: Final = _BLOCK.size
_NULLS: Final = 1
_MATRIX: Final = 2
DURABILITIES: Final[tuple[str | None, ...]] = (None, "os", "disk")  # by number; None: as configured
BFLOAT16: Final = "bf16"  # NumPy has no text for it


class BlockFlag(enum.IntFlag):
    """Flags of a block."""

    LAST = 1
    ERROR = 2
    TOP_K = 4


@dataclass(frozen=True, slots=True)
class Block:
    """One block: `body` is what follows its header."""

    count: int
    flags: BlockFlag
    body: memoryview

    @property
    def error(self) -> FondacoError | None:
        """The error that it carries, if it carries one."""
        if not self.flags & BlockFlag.ERROR:
            return None
        return error_of(bytes(self.body).rstrip(b"\0")) or InputError("an error block without an error")


@dataclass(frozen=True, slots=True)
class RowsBlock:
    """Rows of one block: row i is `data[offsets[i]:offsets[i + 1]]` in value schema `schemas[i]`; 0 where there is no row."""

    schemas: npt.NDArray[np.int32]
    offsets: I64Array
    data: U8Array


@dataclass(frozen=True, slots=True)
class WireColumn:
    """One column of numbers: `values` [n] or [n, dim], and bool [n] where they are (None: everywhere)."""

    values: npt.NDArray[Any]
    valid: BoolArray | None


@dataclass(frozen=True, slots=True)
class ColumnsBlock:
    """Columns of one block, in the order asked for; `found` is bool [n]."""

    found: BoolArray
    columns: tuple[WireColumn, ...]


@dataclass(frozen=True, slots=True)
class ScoresBlock:
    """Scores of one block: float64 [n], or [n, dim] of "hadamard"; `valid` is bool [n]."""

    values: npt.NDArray[np.float64]
    valid: BoolArray


@dataclass(frozen=True, slots=True)
class TopK:
    """The best of a batch, best first: positions in the keys asked for, int64 [k], and their scores, float64 [k]."""

    positions: I64Array
    scores: npt.NDArray[np.float64]


# -- keys and writes ------------------------------------------------------------------------------------------------------------------


def pack_keys(data: Buffer, offsets: I64Array) -> bytes:
    """The body of keys that lie one after the other: key i is `data[offsets[i]:offsets[i + 1]]`; offsets int64 [n + 1] from 0."""
    count = len(offsets) - 1
    return b"".join((_U32.pack(count), np.asarray(offsets, "<u4").tobytes(), _view(data)[: int(offsets[-1])]))


def pack_key_list(keys: Sequence[bytes]) -> bytes:
    """The body of keys that were encoded one by one."""
    offsets = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)), out=offsets[1:])
    return b"".join((_U32.pack(len(keys)), offsets.astype("<u4").tobytes(), *keys))


def unpack_keys(body: Buffer) -> tuple[U8Array, I64Array]:
    """(data uint8, offsets int64 [n + 1]) of a body of keys.

    Raises:
        InputError: it breaks the grammar.
    """
    scan = _Scan(body, "keys")
    count = scan.u32("count")
    offsets = scan.offsets(count, "<u4", "offsets")
    data = scan.array("<u1", int(offsets[-1]), "key bytes")
    scan.done()
    return data, offsets


def pack_writes(batch: WriteBatch, durability: str | None = None) -> bytes:
    """The body of writes. `durability` "os" or "disk"; None: what the platform is configured for."""
    return b"".join(
        (
            _TWO.pack(len(batch), DURABILITIES.index(durability)),
            np.asarray(batch.timestamps_ms, "<i8").tobytes(),
            np.asarray(batch.key_offsets, "<u4").tobytes(),
            np.asarray(batch.value_offsets, "<u4").tobytes(),
            _view(batch.keys)[: int(batch.key_offsets[-1])],
            _view(batch.values)[: int(batch.value_offsets[-1])],
        )
    )


def unpack_writes(body: Buffer) -> tuple[WriteBatch, str | None]:
    """(writes, durability) of a body. What the envelopes say is not looked at here.

    Raises:
        InputError: it breaks the grammar.
    """
    scan = _Scan(body, "writes")
    count, durability = scan.u32("count"), scan.u32("durability")
    if durability >= len(DURABILITIES):
        raise InputError(f"writes: durability at byte 4 is 0 (as configured), 1 (os) or 2 (disk), not {durability}")
    timestamps = scan.array("<i8", count, "timestamps_ms")
    key_offsets = scan.offsets(count, "<u4", "key_offsets")
    value_offsets = scan.offsets(count, "<u4", "value_offsets")
    keys = scan.array("<u1", int(key_offsets[-1]), "key bytes")
    values = scan.array("<u1", int(value_offsets[-1]), "envelopes")
    scan.done()
    return WriteBatch(keys, key_offsets, values, value_offsets, timestamps), DURABILITIES[durability]


# -- blocks ---------------------------------------------------------------------------------------------------------------------------


class BlockSplitter:
    """Cuts an answer into blocks as its bytes arrive; one object an answer, not for two threads at once."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.complete = False  # whether the last block was handed out

    def feed(self, data: Buffer) -> Iterator[Block]:
        """The blocks that are complete with `data`.

        Raises:
            InputError: the bytes are no blocks, or go on after the last.
        """
        if self.complete and len(data):
            raise InputError("an answer goes on after its last block")
        held = self._held
        held += _view(data)
        position = 0
        while not self.complete and len(held) - position >= BLOCK_HEADER:
            length, count, flags = _BLOCK.unpack_from(held, position)
            if length < BLOCK_HEADER or length % 8:
                raise InputError(f"a block of {length} bytes; it has {BLOCK_HEADER} at least, and a multiple of 8")
            if len(held) - position < length:
                break
            self.complete = bool(flags & BlockFlag.LAST)
            yield Block(count, BlockFlag(flags & 7), memoryview(bytes(held[position + BLOCK_HEADER : position + length])))
            position += length
        del held[:position]
        if self.complete and held:
            raise InputError("an answer goes on after its last block")


def pack_rows(schemas: npt.NDArray[np.int32], offsets: I64Array, data: Buffer, *, last: bool = True) -> list[bytes | memoryview]:
    """One block of rows, in pieces to send one after the other (the rows' bytes are not copied)."""
    count = len(schemas)
    numbers = _padded(np.asarray(schemas, "<i4").tobytes())
    return _block(count, _last(last), numbers, np.asarray(offsets, "<u8").tobytes(), _view(data)[: int(offsets[-1])])


def unpack_rows(block: Block) -> RowsBlock:
    """The rows of a block.

    Raises:
        InputError: it breaks the grammar. And the error that the block carries, if it does.
    """
    scan = _scan_of(block, "rows")
    schemas = scan.array("<i4", block.count, "schema")
    scan.align()
    offsets = scan.offsets(block.count, "<u8", "offsets")
    return RowsBlock(schemas, offsets, scan.array("<u1", int(offsets[-1]), "data"))


def pack_columns(found: BoolArray, columns: Sequence[WireColumn], *, last: bool = True) -> list[bytes | memoryview]:
    """One block of columns of numbers, in pieces to send one after the other."""
    pieces: list[bytes | memoryview] = [_TWO.pack(len(columns), 0), _bits(found)]
    for column in columns:
        values = np.ascontiguousarray(column.values)
        name = dtype_name(values.dtype)
        if name is None:
            raise InputError(f"a column of {values.dtype} does not travel as raw numbers; ask for Arrow or JSON")
        pieces.append(_COLUMN.pack(name.encode(), *_shape(values, column.valid is not None)))
        if column.valid is not None:
            pieces.append(_bits(column.valid))
        pieces.append(_view(values.reshape(-1).view(np.uint8)))
        if values.nbytes % 8:
            pieces.append(bytes(-values.nbytes % 8))
    return _block(len(found), _last(last), *pieces)


def unpack_columns(block: Block) -> ColumnsBlock:
    """The columns of a block. Raises as `unpack_rows`."""
    scan = _scan_of(block, "columns")
    column_count = scan.u32("columns")
    scan.u32("zero")
    found = scan.bits(block.count, "found")
    columns = []
    for number in range(column_count):
        where = f"column {number}"
        name = bytes(scan.array("<u1", 8, where)).rstrip(b"\0").decode("latin-1")
        dim, shape = scan.shape(where)
        valid = scan.bits(block.count, where) if shape & _NULLS else None
        kind = dtype_of(name)
        if kind is None:
            raise InputError(f"columns: {where} has numbers of an unknown type {name!r}")
        values = scan.array("<u1", block.count * dim * kind.itemsize, where).view(kind)
        scan.align()
        columns.append(WireColumn(values.reshape(block.count, dim) if shape & _MATRIX else values, valid))
    return ColumnsBlock(found, tuple(columns))


def pack_scores(values: npt.NDArray[np.float64], valid: BoolArray, *, last: bool = True) -> list[bytes | memoryview]:
    """One block of scores, [n] or [n, dim]."""
    return _block(len(valid), _last(last), _TWO.pack(*_shape(values, False)), _bits(valid), np.ascontiguousarray(values, "<f8").tobytes())


def pack_top_k(best: TopK) -> list[bytes | memoryview]:
    """The one block of the best scores."""
    flags = BlockFlag.LAST | BlockFlag.TOP_K
    return _block(len(best.positions), flags, np.asarray(best.positions, "<i8").tobytes(), np.asarray(best.scores, "<f8").tobytes())


def unpack_scores(block: Block) -> ScoresBlock | TopK:
    """The scores of a block. Raises as `unpack_rows`."""
    scan = _scan_of(block, "scores")
    if block.flags & BlockFlag.TOP_K:
        return TopK(scan.array("<i8", block.count, "position"), scan.array("<f8", block.count, "score"))
    dim, shape = scan.shape("scores")
    valid = scan.bits(block.count, "valid")
    values = scan.array("<f8", block.count * dim, "scores")
    return ScoresBlock(values.reshape(block.count, dim) if shape & _MATRIX else values, valid)


def pack_error(error: FondacoError) -> list[bytes | memoryview]:
    """The block that ends an answer which began well."""
    return _block(0, BlockFlag.LAST | BlockFlag.ERROR, error_body(error))


# -- numbers --------------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)  # NumPy takes 3 us to name one
def dtype_name(kind: np.dtype[Any]) -> str | None:
    """How a column's dtype is written, such as "<f4" or "<M8[us]"; None for one that is not numbers."""
    if kind.name == "bfloat16":
        return BFLOAT16
    if kind.kind not in "biufmM":
        return None
    name = kind.newbyteorder("<").str
    return name if len(name) <= 8 else None


def dtype_of(name: str) -> np.dtype[Any] | None:
    """The dtype that `dtype_name` wrote; None if it is none."""
    if name == BFLOAT16:
        import ml_dtypes

        wide: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return wide
    if name[:2] not in _DTYPE_STARTS:
        return None
    try:
        kind = np.dtype(name)
    except (TypeError, ValueError):
        return None
    return kind if dtype_name(kind) == name else None


_DTYPE_STARTS: Final = frozenset(("|b", "|i", "|u", "<i", "<u", "<f", "<m", "<M"))


def _block(count: int, flags: int, *pieces: bytes | memoryview) -> list[bytes | memoryview]:
    length = BLOCK_HEADER + sum(map(len, pieces))
    padding = -length % 8
    block: list[bytes | memoryview] = [_BLOCK.pack(length + padding, count, flags), *pieces]
    if padding:
        block.append(bytes(padding))
    return block


def _view(data: Buffer) -> memoryview:
    return memoryview(data)  # type: ignore[arg-type]  # typeshed knows NumPy's buffers from Python 3.12 on


def _shape(values: npt.NDArray[Any], nulls: bool) -> tuple[int, int]:
    return (values.shape[1], _MATRIX | nulls) if values.ndim == 2 else (1, int(nulls))


def _last(last: bool) -> int:
    return BlockFlag.LAST if last else 0


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _bits(values: BoolArray) -> bytes:
    return _padded(np.packbits(values, bitorder="little").tobytes())


def _scan_of(block: Block, what: str) -> _Scan:
    if (error := block.error) is not None:
        raise error
    return _Scan(block.body, what)


class _Scan:
    """Takes arrays off the front of a body; every message names the body, the part and the byte."""

    def __init__(self, body: Buffer, what: str) -> None:
        self._body = np.frombuffer(body, np.uint8) if len(body) else np.empty(0, np.uint8)
        self._position, self._what = 0, what

    def array(self, dtype: str, count: int, part: str) -> npt.NDArray[Any]:
        kind = np.dtype(dtype)
        end = self._position + count * kind.itemsize
        if end > len(self._body):
            raise InputError(
                f"{self._what}: {part} at byte {self._position} needs {count * kind.itemsize} bytes, and "
                f"{len(self._body) - self._position} follow; the body is {len(self._body)} bytes"
            )
        taken = self._body[self._position : end]
        self._position = end
        return taken.view(kind)

    def u32(self, part: str) -> int:
        return int(self.array("<u4", 1, part)[0])

    def shape(self, part: str) -> tuple[int, int]:
        dim, shape = self.u32(part), self.u32(part)
        if dim != 1 and not shape & _MATRIX:
            raise InputError(f"{self._what}: {part} before byte {self._position} has {dim} numbers a row and is no matrix")
        return dim, shape

    def offsets(self, count: int, dtype: str, part: str) -> I64Array:
        """`count + 1` offsets from 0 that do not decrease, as int64."""
        at = self._position
        raw = self.array(dtype, count + 1, part)
        if int(raw[-1]) > len(self._body):
            raise InputError(f"{self._what}: {part} at byte {at} ends at {int(raw[-1])}, and the body is {len(self._body)} bytes")
        offsets: I64Array = raw.astype(np.int64)
        if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any():
            raise InputError(f"{self._what}: {part} at byte {at} must begin with 0 and not decrease")
        return offsets

    def bits(self, count: int, part: str) -> BoolArray:
        packed = self.array("<u1", (count + 7) // 8, part)
        self.align()
        return np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)

    def align(self) -> None:
        self._position += -self._position % 8

    def done(self) -> None:
        if self._position != len(self._body):
            raise InputError(f"{self._what}: {len(self._body) - self._position} bytes follow its end at {self._position}")
