"""Base files: the immutable file that holds one partition of one version, written once, then memory-mapped by every reader.

`BaseFileWriter` streams records into the heap through one bounded buffer; `seal` builds the index, removes repeated keys, and makes the
file valid by writing its header last: a file whose writer died has no header and is refused. `BaseFile` opens a sealed file, checks it
section by section, and answers where a value lies. A sealed file never changes. Byte layout: docs/internals/base-file.md.

Memory of a writer: `BUFFER_BYTES` while appending; `seal` adds 8 / 0.6 = 13.4 bytes a record for the index (16 at most) and one more
buffer. Thread rule: a writer belongs to one thread; a `BaseFile` may be used from any thread and through any number of processes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError, DataError, DuplicateKeyError, FormatVersionError, StateError
from fondaco.core.files import os_errors
from fondaco.core.xxh64 import xxh64, xxh64_finish, xxh64_start, xxh64_update
from fondaco.store import _kernels

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]

FORMAT_VERSION: Final = 1
MAGIC: Final = b"\x89FONBASE"  # the first byte is no ASCII and no UTF-8 start, so no text file begins like this
FOOTER_MAGIC: Final = b"FONFOOT\n"
HEADER_BYTES: Final = 128
FOOTER_BYTES: Final = 64
SECTION_ALIGN: Final = 4096  # sections that are advised apart begin on a page
HEAP_BYTES_MAX: Final = (1 << 40) - 2  # an index slot has 40 bits for a position
RECORD_BYTES_MAX: Final = 256 << 20  # key + value; a reader never has to trust a longer one
RECORDS_MAX: Final = 1 << 31  # the first slot of a key comes from 32 bits of its hash
DICTIONARY_BYTES_MAX: Final = 1 << 20
LOAD: Final = 0.6  # records per index slot: 1.8 slots read on a hit, 3.6 on a miss, nearly always one cache line
BUFFER_BYTES: Final = 1 << 20  # bytes per write; whole pages, so the checksum needs no tail and each write begins a page

# magic, format version, flags, records, slots, dictionary bytes, heap offset, heap bytes, index offset, footer offset, file bytes
_HEADER: Final = struct.Struct("<8sIIQQQQQQQQ")
# magic, checksums of header, dictionary, heap, index, then the number of records
_FOOTER: Final = struct.Struct("<8sQQQQQ")
_U64: Final = struct.Struct("<Q")


class OnDuplicate(Enum):
    """What a writer does with two different values for one key. Records that are equal in every byte always collapse."""

    FAIL = "fail"
    KEEP_FIRST = "keep_first"
    KEEP_LAST = "keep_last"


_MODES: Final = {
    OnDuplicate.FAIL: _kernels.KEEP_NONE,
    OnDuplicate.KEEP_FIRST: _kernels.KEEP_FIRST,
    OnDuplicate.KEEP_LAST: _kernels.KEEP_LAST,
}


@dataclass(frozen=True, slots=True)
class BaseFileSummary:
    """What a sealed file holds. `checksum` (16 hex digits) covers every byte, through the section checksums; `repeated` were dropped."""

    name: str
    bytes: int
    records: int
    repeated: int
    heap_bytes: int
    index_bytes: int
    checksum: str


def address_of(array: npt.NDArray[np.generic]) -> int:
    """Memory address of the first element; valid while the array lives."""
    return int(array.__array_interface__["data"][0])


def bytes_of(array: npt.NDArray[np.generic]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return memoryview(array).cast("B")  # type: ignore[arg-type]  # NumPy's stubs do not declare the buffer protocol


def _checksum(data: bytes) -> int:
    array = np.frombuffer(data, np.uint8)
    return int(xxh64(address_of(array), len(data)))


def _aligned(offset: int) -> int:
    return -(-offset // SECTION_ALIGN) * SECTION_ALIGN


def slot_count_of(records: int) -> int:
    """Index slots of a file with this many records: a multiple of 8 (one cache line), always more than the records."""
    return max(8, -(-int(records / LOAD + 1) // 8) * 8)


class BaseFileWriter:
    """Writes one base file. Leaving its `with` block without `seal` removes the file."""

    def __init__(self, path: Path | str, *, dictionary: bytes = b"", buffer_bytes: int = BUFFER_BYTES) -> None:
        """Create `path`, which must not exist.

        Args:
            dictionary: the zstd dictionary that compressed values need; kept in the file, which thus can be read alone.
            buffer_bytes: memory for records on their way to the file, a multiple of 4096.
        Raises:
            DiskFullError, ReadOnlyError.
        """
        if len(dictionary) > DICTIONARY_BYTES_MAX:
            raise DataError(f"a dictionary of {len(dictionary)} bytes is over the limit of {DICTIONARY_BYTES_MAX}")
        self.path = Path(path)
        self.records = 0
        self._dictionary = dictionary
        self._heap_offset = _aligned(HEADER_BYTES + len(dictionary))
        self._heap_bytes = 0
        self._buffer = np.zeros(-(-buffer_bytes // SECTION_ALIGN) * SECTION_ALIGN, np.uint8)
        self._used = 0
        self._checksum = np.empty(4, np.uint64)
        self._rows = _RowNumbers(self.path.with_name(self.path.name + ".rows"))
        xxh64_start(self._checksum)
        with os_errors(self.path):
            self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            self._write_at(0, b"\0" * HEADER_BYTES + dictionary + b"\0" * (self._heap_offset - HEADER_BYTES - len(dictionary)))
        except BaseException:
            self.abort()
            raise

    def append(
        self,
        keys: U8Array,
        key_offsets: I64Array,
        values: U8Array,
        value_offsets: I64Array,
        *,
        compressed: U8Array | None = None,
        select: I64Array | None = None,
        first_row: int | None = None,
    ) -> None:
        """Add records; row i has key `keys[key_offsets[i]:key_offsets[i + 1]]` and likewise its value.

        Args:
            keys, values: uint8, contiguous. key_offsets, value_offsets: int64 [n + 1], non-decreasing.
            compressed: uint8 [n], 1 where the value is a zstd frame; None: no value is.
            select: int64 [m], the rows to add, in this order (`partition_rows` makes them); None: all.
            first_row: position of row 0 in the whole input; give it always or never. It names rows in DuplicateKeyError.
        Raises:
            DataError: a record is over RECORD_BYTES_MAX, or the file would be over 2^40 bytes or 2^31 records.
            DiskFullError, ReadOnlyError: the writer cannot go on; leave its block, which removes the file.
        """
        descriptor = self._open_descriptor()
        select = np.arange(len(key_offsets) - 1, dtype=np.int64) if select is None else np.ascontiguousarray(select, np.int64)
        if not len(select):
            return
        keys, values = np.ascontiguousarray(keys, np.uint8), np.ascontiguousarray(values, np.uint8)
        key_offsets, value_offsets = np.ascontiguousarray(key_offsets, np.int64), np.ascontiguousarray(value_offsets, np.int64)
        flags = np.empty(0, np.uint8) if compressed is None else np.ascontiguousarray(compressed, np.uint8)
        self._check_sizes(key_offsets, value_offsets, select, first_row or 0)
        if first_row is not None:
            with os_errors(self.path):
                self._rows.add(self.records, first_row, select)
        position, capacity = 0, self._buffer.size
        while True:
            position, self._used = _kernels.fill(
                address_of(self._buffer),
                self._used,
                capacity,
                address_of(keys),
                key_offsets,
                address_of(values),
                value_offsets,
                flags,
                select,
                position,
            )
            if position == len(select):
                break
            row = int(select[position])  # it does not fit into what is left of the buffer: write it across
            key = keys[key_offsets[row] : key_offsets[row + 1]]
            value = values[value_offsets[row] : value_offsets[row + 1]]
            flag = int(flags[row]) if len(flags) else 0
            head = np.frombuffer(varint(len(key)) + varint(len(value) << 1 | flag), np.uint8)
            self._pad(descriptor, len(head) + len(key) + len(value))
            for piece in (head, key, value):
                self._write(descriptor, piece)
            position += 1
        self.records += len(select)

    def seal(self, on_duplicate: OnDuplicate = OnDuplicate.FAIL, *, show_key: Callable[[bytes], str] = repr) -> BaseFileSummary:
        """Build the index, drop repeated keys, write checksums and header, and make the file durable.

        Args:
            show_key: turns key bytes into the text of DuplicateKeyError.
        Raises:
            DuplicateKeyError: one key has two values and `on_duplicate` is FAIL; rows are input rows, or positions in this file if
                `append` was not told `first_row`.
            DiskFullError, ReadOnlyError.
        """
        descriptor = self._open_descriptor()
        heap_checksum, slots = self._finish_heap(descriptor), np.zeros(slot_count_of(self.records), np.uint64)
        with self._mapped_heap(descriptor) as heap:
            status, walked, repeated, first, second = _kernels.build_index(heap, self._heap_bytes, slots, _MODES[on_duplicate])
            if status == _kernels.DUPLICATE:
                raise self._duplicate(heap, first, second, show_key)
            if status != _kernels.OK or walked != self.records:
                raise CorruptFileError(str(self.path), "heap", f"it changed while it was written, at byte {first}")
            if repeated:
                self._compact(descriptor, heap, slots)
        if repeated:
            heap_checksum, slots = self._finish_heap(descriptor), np.zeros(slot_count_of(self.records - repeated), np.uint64)
            with self._mapped_heap(descriptor) as heap:
                _kernels.build_index(heap, self._heap_bytes, slots, _kernels.KEEP_NONE)
        self._rows.close()
        return self._finish(descriptor, slots, self.records - repeated, repeated, heap_checksum)

    def abort(self) -> None:
        """Close and remove the file. After `seal`, nothing happens."""
        self._rows.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> BaseFileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.abort()

    # -- writing --------------------------------------------------------------------------------------------------------------------

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise StateError(f"{self.path} is sealed or was given up; a base file is written once")
        return self._descriptor

    def _check_sizes(self, key_offsets: I64Array, value_offsets: I64Array, select: I64Array, first_row: int) -> None:
        sizes = key_offsets[select + 1] - key_offsets[select] + value_offsets[select + 1] - value_offsets[select]
        if not (key_offsets[select] < key_offsets[select + 1]).all():
            raise DataError("a key has no bytes, so it cannot tell rows apart; give the store a key type with a value")
        largest = int(sizes.argmax())
        if sizes[largest] > RECORD_BYTES_MAX:
            raise DataError(
                f"row {first_row + int(select[largest])} takes {int(sizes[largest])} bytes with its key; the limit is {RECORD_BYTES_MAX}. "
                "Keep large objects in files and store their names."
            )
        added = (int(sizes.sum()) + 12 * len(select)) * 9 // 8 + SECTION_ALIGN  # padding takes a tenth at most
        if self._heap_bytes + self._used + added > HEAP_BYTES_MAX or self.records + len(select) > RECORDS_MAX:
            raise DataError(f"{self.path.name} would be over 2^40 bytes or 2^31 records; give the store more partitions")

    def _pad(self, descriptor: int, length: int) -> None:
        self._write(descriptor, np.zeros(_kernels.padding(self._used, length), np.uint8))

    def _write(self, descriptor: int, piece: U8Array) -> None:
        while len(piece):
            taken = min(len(piece), self._buffer.size - self._used)
            self._buffer[self._used : self._used + taken] = piece[:taken]
            self._used += taken
            piece = piece[taken:]
            if self._used == self._buffer.size:
                self._flush(descriptor)

    def _flush(self, descriptor: int) -> None:
        """Write the buffer (a multiple of 32 bytes) at the end of the heap, and add it to the checksum."""
        xxh64_update(self._checksum, address_of(self._buffer), self._used)
        self._write_at(self._heap_offset + self._heap_bytes, bytes_of(self._buffer[: self._used]))
        self._heap_bytes += self._used
        self._used = 0

    def _write_at(self, offset: int, data: bytes | memoryview) -> None:
        descriptor, rest = self._open_descriptor(), memoryview(data)
        with os_errors(self.path):
            while len(rest):
                written = os.pwrite(descriptor, rest, offset)
                offset += written
                rest = rest[written:]

    def _finish_heap(self, descriptor: int) -> int:
        """Flush what the buffer holds with its padding; return the checksum of the section."""
        exact = self._heap_bytes + self._used
        padded = _aligned(self._used)
        self._buffer[self._used : padded] = 0
        self._used = padded
        self._flush(descriptor)
        total = self._heap_bytes
        self._heap_bytes = exact
        return int(xxh64_finish(self._checksum, total))

    @contextlib.contextmanager
    def _mapped_heap(self, descriptor: int) -> Iterator[int]:
        """Address of the heap, mapped for reading in order."""
        if not self._heap_bytes:
            yield 0
            return
        with os_errors(self.path):
            mapped = mmap.mmap(descriptor, self._heap_offset + self._heap_bytes, access=mmap.ACCESS_READ)
            mapped.madvise(mmap.MADV_SEQUENTIAL)
        view = np.frombuffer(mapped, np.uint8)
        try:
            yield address_of(view) + self._heap_offset
        finally:
            del view
            mapped.close()

    def _compact(self, descriptor: int, heap: int, slots: npt.NDArray[np.uint64]) -> None:
        """Move the records that stay to the front of the heap. Every byte lands at or before its old place, so one file is enough."""
        position, heap_bytes = 0, self._heap_bytes
        self._heap_bytes = self._used = 0
        xxh64_start(self._checksum)
        while True:
            position, self._used = _kernels.compact(
                heap, heap_bytes, position, slots, address_of(self._buffer), self._used, self._buffer.size
            )
            if position >= heap_bytes:
                break
            # the next one is kept and does not fit: write it across. Its bytes are copied first, as writing may reach them.
            _, _, end, _ = _kernels.record_at(heap, heap_bytes, position)
            record = np.empty(end - position, np.uint8)
            _kernels.gather(np.array([heap + position]), np.array([heap + end]), address_of(record), np.empty(2, np.int64))
            self._pad(descriptor, len(record))
            self._write(descriptor, record)
            position = int(_kernels.next_record(heap, heap_bytes, end))

    def _duplicate(self, heap: int, first: int, second: int, show_key: Callable[[bytes], str]) -> DuplicateKeyError:
        key_at, value_at, _, _ = _kernels.record_at(heap, self._heap_bytes, first)
        key = np.empty(value_at - key_at, np.uint8)
        _kernels.gather(np.array([heap + key_at]), np.array([heap + value_at]), address_of(key), np.empty(2, np.int64))
        rows = [self._rows.row_of(int(_kernels.count_before(heap, self._heap_bytes, position))) for position in (first, second)]
        return DuplicateKeyError(show_key(key.tobytes()), rows[0], rows[1])

    def _finish(self, descriptor: int, slots: npt.NDArray[np.uint64], records: int, repeated: int, heap_checksum: int) -> BaseFileSummary:
        index_offset = _aligned(self._heap_offset + self._heap_bytes)
        footer_offset = index_offset + slots.nbytes
        file_bytes = footer_offset + FOOTER_BYTES
        header = _HEADER.pack(
            MAGIC, FORMAT_VERSION, 0, records, len(slots), len(self._dictionary),
            self._heap_offset, self._heap_bytes, index_offset, footer_offset, file_bytes,
        ).ljust(HEADER_BYTES - 8, b"\0")  # fmt: skip
        header += _U64.pack(_checksum(header))
        dictionary = self._dictionary.ljust(self._heap_offset - HEADER_BYTES, b"\0")
        index_checksum = int(xxh64(address_of(slots), slots.nbytes))
        footer = _FOOTER.pack(FOOTER_MAGIC, _checksum(header), _checksum(dictionary), heap_checksum, index_checksum, records)
        footer = footer.ljust(FOOTER_BYTES - 8, b"\0")
        footer_checksum = _checksum(footer)
        self._write_at(index_offset, bytes_of(slots))
        self._write_at(footer_offset, footer + _U64.pack(footer_checksum))
        with os_errors(self.path):
            os.ftruncate(descriptor, file_bytes)
            os.fsync(descriptor)  # all that the header vouches for is on disk before the header
            self._write_at(0, header)
            os.fsync(descriptor)
            os.close(descriptor)
        self._descriptor = None
        return BaseFileSummary(
            name=self.path.name, bytes=file_bytes, records=records, repeated=repeated,
            heap_bytes=self._heap_bytes, index_bytes=slots.nbytes, checksum=f"{footer_checksum:016x}",
        )  # fmt: skip


class _RowNumbers:
    """Which input row each record came from: 4 bytes a record in a file beside, read only to word an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._starts: list[tuple[int, int]] = []  # (ordinal of a call's first record, input position of the call's row 0)

    def add(self, ordinal: int, first_row: int, select: I64Array) -> None:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._starts.append((ordinal, first_row))
        rest = bytes_of(select.astype("<u4"))
        offset = 4 * ordinal
        while len(rest):
            written = os.pwrite(self._file, rest, offset)
            offset += written
            rest = rest[written:]

    def row_of(self, ordinal: int) -> int:
        if self._file is None:
            return ordinal
        first_row = max(start for start in self._starts if start[0] <= ordinal)[1]
        return first_row + int.from_bytes(os.pread(self._file, 4, 4 * ordinal), "little")

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)


def varint(value: int) -> bytes:
    """`value` in groups of 7 bits, lowest first."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def partition_rows(hashes: npt.NDArray[np.uint64], partition_count: int) -> tuple[I64Array, I64Array]:
    """Rows by partition: (order int64 [n], bounds int64 [partition_count + 1]); partition p has `order[bounds[p]:bounds[p + 1]]`.

    Within a partition rows keep their order. partition = ((hash >> 32) * partition_count) >> 32.
    """
    order, bounds = np.empty(len(hashes), np.int64), np.empty(partition_count + 1, np.int64)
    _kernels.partition_rows(np.ascontiguousarray(hashes, np.uint64), bounds, order)
    return order, bounds


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records as they lie in a heap, copied out: what `BaseFileWriter.append` takes."""

    keys: U8Array
    key_offsets: I64Array
    values: U8Array
    value_offsets: I64Array
    compressed: U8Array


class BaseFile:
    """A sealed base file, mapped. Its memory lives as long as anything refers to `memory`; there is nothing to close."""

    def __init__(self, path: Path, mapped: mmap.mmap, header: _Header, dictionary: bytes, checksum: str) -> None:
        """Use `BaseFile.open`."""
        self.path, self.checksum, self.dictionary, self._header = path, checksum, dictionary, header
        self.records, self.bytes = header.records, header.file_bytes
        self.memory = memoryview(mapped)
        self._array = np.frombuffer(mapped, np.uint8)
        self.address = address_of(self._array)
        self._table = np.array([1, *self.entry()], np.int64)

    @classmethod
    def open(cls, path: Path | str, *, check_heap: bool = True) -> BaseFile:
        """Map a sealed file and check it.

        Args:
            check_heap: read the heap too. The header, dictionary, index and footer are always checked (67 MB for 5M keys: 3 ms).
        Raises:
            CorruptFileError: `section` is header, dictionary, heap, index or footer.
            FormatVersionError: written by a newer Fondaco.
            FileNotFoundError.
        """
        path = Path(path)
        mapped = _map(path)
        view = memoryview(mapped)
        header = _read_header(path, view)
        heap = _pages(header.heap_offset, header.index_offset)
        if check_heap and heap[1]:
            mapped.madvise(mmap.MADV_SEQUENTIAL, *heap)
        mapped.madvise(mmap.MADV_WILLNEED, *_pages(header.index_offset, header.file_bytes))
        checksum, dictionary = _check_sections(path, view, header, check_heap=check_heap)
        if heap[1]:
            # Without this a read brings in its neighbours too, and data three times the memory is read 100x slower (measured)
            mapped.madvise(mmap.MADV_RANDOM, *heap)
        return cls(path, mapped, header, dictionary, checksum)

    def verify(self) -> None:
        """Read every byte again, through a mapping of its own, and check all sections.

        Raises:
            CorruptFileError, FormatVersionError.
        """
        found = BaseFile.open(self.path)
        if found.checksum != self.checksum:
            raise CorruptFileError(str(self.path), "footer", "another file has taken the place of the one that was opened")

    def entry(self) -> tuple[int, int, int, int, int]:
        """This file's entry in a table of partitions for `_kernels.probe_*`; good while this object lives."""
        header = self._header
        heap = self.address + header.heap_offset
        return self.address, heap, heap + header.heap_bytes, self.address + header.index_offset, header.slot_count

    def find(self, key: bytes) -> tuple[int, int, bool] | None:
        """Where the value of key bytes lies: (start, end, compressed), positions in `memory`; None if there is no such key.

        Raises:
            CorruptFileError: the index leads outside the heap.
        """
        where, start, end = _kernels.probe_bytes(key, address_of(self._table))
        if start <= 0:
            if start < 0:
                raise self.broken_index()
            return None
        return start, end, where < 0

    def broken_index(self) -> CorruptFileError:
        """The error for an index entry that leads outside the heap."""
        return CorruptFileError(str(self.path), "index", "an entry leads outside the heap although the checksum matches")

    def scan(self, *, batch_records: int = 8192, batch_bytes: int = 16 << 20) -> Iterator[RecordBatch]:
        """All records in the order they were written, copied out in batches (the bounds hold but for one large record).

        Reads through a mapping of its own, in order, so that a scan does not undo the advice that readers depend on.
        """
        header = self._header
        mapped = _map(self.path)
        mapped.madvise(mmap.MADV_SEQUENTIAL)
        view = np.frombuffer(mapped, np.uint8)
        heap, position = address_of(view) + header.heap_offset, 0
        keys, values, ends = (np.empty(batch_records, np.int64) for _ in range(3))
        flags = np.empty(batch_records, np.uint8)
        while position < header.heap_bytes:
            bound = min(header.heap_bytes, position + batch_bytes)
            count, _ = _kernels.list_records(heap, bound, position, keys, values, ends, flags)
            if not count:  # one record larger than the bound
                count, _ = _kernels.list_records(heap, header.heap_bytes, position, keys[:1], values[:1], ends[:1], flags[:1])
            if not count:
                raise CorruptFileError(str(self.path), "heap", f"no record at byte {position}")
            position = int(_kernels.next_record(heap, header.heap_bytes, int(ends[count - 1])))
            yield RecordBatch(
                *_copied(heap, keys[:count], values[:count]), *_copied(heap, values[:count], ends[:count]), flags[:count].copy()
            )


def _copied(heap: int, starts: I64Array, ends: I64Array) -> tuple[U8Array, I64Array]:
    data, offsets = np.empty(int((ends - starts).sum()), np.uint8), np.empty(len(starts) + 1, np.int64)
    _kernels.gather(starts + heap, ends + heap, address_of(data), offsets)
    return data, offsets


# -- checks of a file ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Header:
    records: int
    slot_count: int
    dictionary_bytes: int
    heap_offset: int
    heap_bytes: int
    index_offset: int
    footer_offset: int
    file_bytes: int


def _map(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < HEADER_BYTES + FOOTER_BYTES:
            raise CorruptFileError(str(path), "header", "the file is too short to be a base file")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _pages(start: int, end: int) -> tuple[int, int]:
    """(start, length) widened down to a page, as madvise asks."""
    start -= start % mmap.PAGESIZE
    return start, end - start


def _read_header(path: Path, view: memoryview) -> _Header:
    raw = bytes(view[:HEADER_BYTES])
    magic, version, _flags, *numbers = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        unsealed = not any(raw)
        raise CorruptFileError(str(path), "header", "it was never sealed" if unsealed else f"it begins with {raw[:8]!r}, not {MAGIC!r}")
    # Every format keeps the version and the header's checksum where they are, so that damage and a newer format can be told apart
    if _U64.unpack_from(raw, HEADER_BYTES - 8)[0] != _checksum(raw[: HEADER_BYTES - 8]):
        raise CorruptFileError(str(path), "header", "the checksum does not match")
    if version > FORMAT_VERSION:
        raise FormatVersionError(str(path), version, FORMAT_VERSION)
    header = _Header(*numbers)
    if header.file_bytes != len(view):
        raise CorruptFileError(str(path), "header", f"the file has {len(view)} bytes, and had {header.file_bytes} when it was sealed")
    consistent = (
        header.heap_offset == _aligned(HEADER_BYTES + header.dictionary_bytes)
        and header.index_offset == _aligned(header.heap_offset + header.heap_bytes)
        and header.footer_offset == header.index_offset + 8 * header.slot_count
        and header.file_bytes == header.footer_offset + FOOTER_BYTES
        and header.records < header.slot_count
    )
    if not consistent or version < 1:
        raise CorruptFileError(str(path), "header", "the sections do not fit the file")
    return header


def _check_sections(path: Path, view: memoryview, header: _Header, *, check_heap: bool) -> tuple[str, bytes]:
    """Compare section checksums with the footer; return the footer's checksum as hex, and the dictionary."""
    base = np.frombuffer(view, np.uint8)
    address = address_of(base)
    footer = bytes(view[header.footer_offset : header.file_bytes])
    footer_checksum = _U64.unpack_from(footer, FOOTER_BYTES - 8)[0]
    magic, header_sum, dictionary_sum, heap_sum, index_sum, records = _FOOTER.unpack_from(footer)
    if magic != FOOTER_MAGIC or footer_checksum != _checksum(footer[: FOOTER_BYTES - 8]) or records != header.records:
        raise CorruptFileError(str(path), "footer", "the checksum does not match")
    sections = [
        ("header", 0, HEADER_BYTES, header_sum),
        ("dictionary", HEADER_BYTES, header.heap_offset, dictionary_sum),
        ("index", header.index_offset, header.footer_offset, index_sum),
        ("heap", header.heap_offset, header.index_offset, heap_sum),
    ]
    for name, start, end, expected in sections if check_heap else sections[:3]:
        found = int(xxh64(address + start, end - start))
        if found != expected:
            raise CorruptFileError(str(path), name, f"checksum {found:016x} instead of {expected:016x}")
    return f"{footer_checksum:016x}", bytes(view[HEADER_BYTES : HEADER_BYTES + header.dictionary_bytes])
