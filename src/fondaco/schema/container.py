"""Container files: Avro's own files of rows (`.avro`), as written by Apache Avro, fastavro, Spark, Kafka Connect and others.

A file carries its schema and, after it, blocks of rows, each possibly compressed and followed by a marker of 16 bytes. `AvroFile` reads one
block after the other: as rows, or as Arrow record batches, which is what a push takes. Memory: one batch and one block.

Codecs: null, deflate, bzip2, xz, snappy, zstandard. A block may not grow beyond `BLOCK_BYTES_MAX` when it is decompressed.
Damage (a missing marker, a wrong count, bytes that are not rows) raises AvroFileError with the position in the file.

Thread rule: an AvroFile belongs to one thread at a time. Source: Apache Avro 1.12.0 specification, "Object Container Files".
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from fondaco.core.errors import AvroFileError, DecodeError, InputError
from fondaco.schema.codec import Codec
from fondaco.schema.resolution import resolve
from fondaco.schema.rows import RowDecoder
from fondaco.schema.types import Array, Type
from fondaco.schema.wire import ZIGZAG, encode_long

if TYPE_CHECKING:
    import pyarrow as pa

    from fondaco.schema.program import Program

MAGIC: Final = b"Obj\x01"
SYNC_BYTES: Final = 16
BLOCK_BYTES_MAX: Final = 512 << 20  # of one block, decompressed
HEADER_BYTES_MAX: Final = 16 << 20
BATCH_BYTES: Final = 4 << 20  # encoded rows per record batch, unless one block has more


def read_avro_file(path: str | os.PathLike[str], reader: object = None) -> Iterator[Any]:
    """The rows of an Avro container file, as `Codec.decode` gives them; `reader`: the schema to read them as.

    Raises:
        AvroFileError, SchemaError, SchemaResolutionError, InputError: as `AvroFile`.
    """
    with AvroFile(path, reader) as file:
        yield from file


class AvroFile:
    """An open Avro container file; a context manager.

    Iterating gives the rows; `batches()` gives them as Arrow record batches. Both begin at the first row each time.
    """

    def __init__(self, path: str | os.PathLike[str], reader: object = None) -> None:
        """
        Args:
            reader: schema to read the rows as (as in `Codec`); None: as they were written.
        Raises:
            AvroFileError: not an Avro container file. SchemaError: its schema is not valid. InputError: no such file, or an unknown codec.
            SchemaResolutionError: its rows cannot be read as `reader`.
        """
        self.path = os.fspath(path)
        try:
            self._file: BinaryIO = open(self.path, "rb")  # noqa: SIM115  # closed by `close`
        except OSError as exc:
            raise InputError(f"{self.path}: {exc.strerror or exc}") from exc
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._read_header(reader)
        except BaseException:
            self._file.close()
            raise

    # -- what it holds ----------------------------------------------------------------------------------------------------------

    @property
    def schema(self) -> Type:
        """The schema of the rows as they are read."""
        return self.codec.schema

    @property
    def arrow_schema(self) -> pa.Schema:
        """Of `batches()`. Raises SchemaError for a schema without columns."""
        return self.codec.arrow_schema

    def __iter__(self) -> Iterator[Any]:
        """The rows, one after the other.

        Raises:
            AvroFileError: the file is damaged; everything before was yielded.
        """
        decoder = RowDecoder(self._step)
        for block in self._blocks():
            try:
                yield from decoder.decode_many(block.data, block.count)
            except DecodeError as exc:
                raise self._row_error(block, exc) from exc

    def batches(self, batch_bytes: int = BATCH_BYTES) -> Iterator[pa.RecordBatch]:
        """The rows as record batches of about `batch_bytes` encoded bytes each (at least one block).

        Raises:
            SchemaError: a schema without columns: not a record, or one that contains itself. AvroFileError: as for rows.
        """
        schema = self.arrow_schema
        pending: list[_Block] = []
        size = 0
        for block in self._blocks():
            if pending and size + len(block.data) > batch_bytes:
                yield self._batch(pending, schema)
                pending, size = [], 0
            pending.append(block)
            size += len(block.data)
        if pending:
            yield self._batch(pending, schema)

    def close(self) -> None:
        """Close the file; again is fine."""
        self._file.close()

    def __enter__(self) -> AvroFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"AvroFile({self.path!r}, compression={self.compression!r})"

    # -- header and blocks ------------------------------------------------------------------------------------------------------

    def _read_header(self, reader: object) -> None:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise AvroFileError(self.path, 0, "not an Avro container file (it does not begin with 'Obj' and 1)")
        self.metadata: dict[str, bytes] = {}
        while count := self._long("the count of the header's entries"):
            if count < 0:
                count = -count
                self._long("the size of the header's entries")
            for _ in range(count):
                key = self._bytes("a key of the header").decode("utf-8", "replace")
                self.metadata[key] = self._bytes(f"{key!r} in the header")
        self._sync = self._take(SYNC_BYTES, "the marker after the header")
        self._first_block = self._file.tell()
        if "avro.schema" not in self.metadata:
            raise AvroFileError(self.path, self._first_block, "the header has no 'avro.schema'")
        self.codec = Codec(self.metadata["avro.schema"].decode("utf-8", "replace"), reader)
        self.compression = self.metadata.get("avro.codec", b"null").decode("utf-8", "replace")
        if self.compression not in _DECOMPRESSORS:
            raise InputError(f"{self.path} is compressed with {self.compression!r}; known are {', '.join(_DECOMPRESSORS)}")

    def _blocks(self) -> Iterator[_Block]:
        position, number = self._first_block, 0
        decompress = _DECOMPRESSORS[self.compression]
        while True:
            self._file.seek(position)
            if position == self._size:
                return
            count = self._long("the count of a block's rows")
            packed = self._bytes("a block")
            if count < 0:
                raise AvroFileError(self.path, position, f"a block of {count} rows")
            if self._take(SYNC_BYTES, "the marker after a block") != self._sync:
                raise AvroFileError(self.path, self._file.tell() - SYNC_BYTES, f"the marker after block {number} is missing or damaged")
            try:
                data = decompress(packed)
            except Exception as exc:  # each library has errors of its own
                raise AvroFileError(self.path, position, f"block {number} does not decompress ({self.compression}): {exc}") from exc
            after = self._file.tell()  # kept, because a caller may run two iterations over one file
            yield _Block(number, position, count, data)
            position, number = after, number + 1

    def _take(self, count: int, noun: str) -> bytes:
        begin = self._file.tell()
        if not 0 <= count <= self._size - begin:
            raise AvroFileError(self.path, begin, f"truncated or damaged: {noun} takes {count} bytes, {self._size - begin} are left")
        return self._file.read(count)

    def _bytes(self, noun: str) -> bytes:
        return self._take(self._long(f"the length of {noun}"), noun)

    def _long(self, noun: str) -> int:
        begin, number, shift = self._file.tell(), 0, 0
        while shift < 70:
            byte = self._file.read(1)
            if not byte:
                raise AvroFileError(self.path, begin, f"truncated inside {noun}")
            number |= (byte[0] & 127) << shift
            shift += 7
            if byte[0] < 128:
                return (number >> 1) ^ -(number & 1) if number > 127 else ZIGZAG[number]
        raise AvroFileError(self.path, begin, f"{noun} has more than 10 bytes")

    # -- decoding ---------------------------------------------------------------------------------------------------------------

    @cached_property
    def _step(self) -> Any:
        return resolve(self.codec.writer, self.codec.schema)

    @cached_property
    def _program(self) -> Program:
        from fondaco.schema.program import compile_program

        return compile_program(resolve(Array(self.codec.writer), Array(self.codec.schema)), "rows")

    def _batch(self, blocks: list[_Block], schema: pa.Schema) -> pa.RecordBatch:
        """The rows of some blocks. Put one after the other with their counts, they are the bytes of one Avro array of rows."""
        import pyarrow as pa

        from fondaco.schema.columns import decode_list

        parts = [part for block in blocks if block.count for part in (encode_long(block.count), block.data)]
        try:
            (rows,) = decode_list(self._program, [b"".join((*parts, b"\0"))]).arrow("rows")
        except DecodeError as exc:
            for block in blocks:
                self._check_rows(block)
            raise AvroFileError(self.path, blocks[0].position, f"blocks {blocks[0].number} to {blocks[-1].number}: {exc}") from exc
        structs = rows.values
        columns = [structs.field(index) for index in range(len(schema))]
        cast = [column if column.type == field.type else column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
        if not cast:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * sum(block.count for block in blocks), pa.struct([])))
        return pa.RecordBatch.from_arrays(cast, schema=schema)

    def _check_rows(self, block: _Block) -> None:
        """Find the row at fault, for the message."""
        try:
            for _ in RowDecoder(self._step).decode_many(block.data, block.count):
                pass
        except DecodeError as exc:
            raise self._row_error(block, exc) from exc

    def _row_error(self, block: _Block, exc: DecodeError) -> AvroFileError:
        return AvroFileError(self.path, block.position, f"block {block.number}, {exc}")


@dataclass(frozen=True, slots=True)
class _Block:
    number: int
    position: int  # of the block's count, in the file
    count: int
    data: bytes


# -- codecs -------------------------------------------------------------------------------------------------------------------------


def _check_size(size: int) -> None:
    if size > BLOCK_BYTES_MAX:
        raise ValueError(f"it grows beyond {BLOCK_BYTES_MAX} bytes")


def _stream(make: Callable[[], Any]) -> Callable[[bytes], bytes]:
    """Decompression by an object with `decompress(data, max_length)` and `eof`."""

    def decompress(packed: bytes) -> bytes:
        stream = make()
        data: bytes = stream.decompress(packed, BLOCK_BYTES_MAX + 1)
        _check_size(len(data))
        if not stream.eof:
            raise ValueError("it ends too early")
        return data

    return decompress


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor()


def _zstandard(packed: bytes) -> bytes:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
        data = bytes(stream.read(BLOCK_BYTES_MAX + 1))
    _check_size(len(data))
    return data


def _snappy(packed: bytes) -> bytes:
    """Snappy's raw form, followed by the CRC-32 of the data (big-endian)."""
    import pyarrow as pa

    if len(packed) < 5:
        raise ValueError("it ends too early")
    size = shift = 0
    for byte in packed[:5]:
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    _check_size(size)
    data = pa.Codec("snappy").decompress(packed[:-4], decompressed_size=size, asbytes=True)
    if zlib.crc32(data) != int.from_bytes(packed[-4:], "big"):
        raise ValueError("its checksum is wrong")
    return bytes(data)


_DECOMPRESSORS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "null": lambda packed: packed,
    "deflate": _stream(lambda: zlib.decompressobj(-15)),
    "bzip2": _stream(_bzip2),
    "xz": _stream(_xz),
    "snappy": _snappy,
    "zstandard": _zstandard,
}
