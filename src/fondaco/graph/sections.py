"""Section files: named arrays in one file, written once, then memory-mapped by everybody who reads them.

`SectionWriter` streams arrays into a file, or reserves room that the caller fills in any order, and makes the file valid by writing its
header last: a file whose writer died has no header and is refused. `open_sections` maps a file, checks that what it says of itself holds
together, and gives each section as a read-only array, or as an address for kernels; `verify` reads every byte. A file never changes once
it is closed. Byte layout: docs/internals/graph-format.md.

A writer belongs to one thread. Open sections may be used from any thread and live as long as an array made from them.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError, FormatVersionError, InputError, StateError
from fondaco.core.files import os_errors
from fondaco.core.xxh64 import xxh64, xxh64_finish, xxh64_start, xxh64_update
from fondaco.graph.manifest import FileEntry
from fondaco.graph.schema import DTYPES, numpy_dtype

Array = npt.NDArray[Any]
U8Array = npt.NDArray[np.uint8]

MAGIC: Final = b"\x89FONGRF\n"  # the first byte is no ASCII and no UTF-8 start, so no text file begins like this
FORMAT_VERSION: Final = 1
FIXED_BYTES: Final = 64
HEADER_BYTES: Final = 4096  # header and table together: the first section begins on a page
HEADER_BYTES_MAX: Final = 1 << 20  # of a later format; nobody has to trust a longer one
ALIGN: Final = 64
CHUNK_BYTES: Final = 16 << 20  # of one write, so that a signal is not kept waiting

_HEADER: Final = struct.Struct("<8sIIQ")  # magic, format version, header bytes, checksum; then zeros up to 64 bytes
_CHECKSUM: Final = slice(16, 24)


class SectionEntry(msgspec.Struct, frozen=True):
    """One line of a file's table: the section begins at byte `offset` and has `bytes` bytes; zeros pad it to a multiple of 64.
    `xxh64` (16 hex digits) covers both."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    xxh64: str


_TABLE: Final = msgspec.json.Decoder(tuple[SectionEntry, ...])


def address_of(array: Array) -> int:
    """Memory address of the first element; valid while the array lives."""
    return int(array.__array_interface__["data"][0])


class SectionWriter:
    """Writes one section file. Leaving its `with` block by an exception removes the file; leaving it otherwise closes it.

    Sections come one after another: `add` a whole array; `begin` one of unknown length and `append` to it; or `reserve` room of known
    length, and fill the array it returns in any order until the file is closed.
    """

    def __init__(self, path: Path | str) -> None:
        """Create `path`, which must not exist.

        Raises:
            DiskFullError, ReadOnlyError.
        """
        self.path = Path(path)
        self.entry: FileEntry | None = None
        self._sections: list[SectionEntry] = []
        self._reserved: dict[str, U8Array] = {}
        self._stream: _Stream | None = None
        self._end = HEADER_BYTES
        with os_errors(self.path):
            self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def add(self, name: str, array: Array) -> None:
        """Write a whole array as the section `name`.

        Raises:
            InputError: the name is taken, or no dtype that a section can have. DiskFullError, ReadOnlyError.
        """
        self.begin(name, array.dtype, array.shape[1:])
        self.append(array)
        self._end_stream()

    def begin(self, name: str, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        """Begin the section `name`, whose rows come by `append`; the one before ends.

        Raises:
            as `add`.
        """
        self._end_stream()
        self._check_name(name)
        self._stream = _Stream(name, _checked(np.dtype(dtype)), tuple(row_shape), self._end)

    def append(self, chunk: Array) -> None:
        """Add rows to the section that was begun last.

        Args:
            chunk: [rows, *row_shape], of the section's dtype.
        Raises:
            StateError: none was begun. InputError: another dtype or shape. DiskFullError, ReadOnlyError.
        """
        stream = self._stream
        if stream is None:
            raise StateError(f"{self.path}: no section was begun")
        if chunk.dtype != stream.dtype or chunk.shape[1:] != stream.row_shape:
            raise InputError(
                f"section {stream.name!r} of {self.path.name} takes {stream.dtype}{list(stream.row_shape)}, "
                f"not {chunk.dtype}{list(chunk.shape[1:])}"
            )
        raw = _bytes_of(np.ascontiguousarray(chunk))
        self._write(raw, stream.offset + stream.bytes)
        stream.update(raw)
        stream.rows += len(chunk)

    def reserve(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...] | int) -> Array:
        """Make room for the section `name` and return it: zeros, to be filled in any order until `close`, and not touched after it.

        The space is taken on the disk now, so that a full one is an error here and not a signal later.

        Raises:
            as `add`.
        """
        self._end_stream()
        self._check_name(name)
        descriptor, kind = self._open_descriptor(), _checked(np.dtype(dtype))
        whole = (shape,) if isinstance(shape, int) else tuple(shape)
        size = int(np.prod(whole, dtype=np.int64)) * kind.itemsize
        offset, padded = self._end, _aligned(size)
        self._sections.append(SectionEntry(name, kind.name, whole, offset, size, ""))
        self._end += padded
        if not size:
            return np.empty(whole, kind)
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        with os_errors(self.path):
            os.posix_fallocate(descriptor, offset, padded)
            mapped = mmap.mmap(descriptor, offset + padded - start, offset=start)
        self._reserved[name] = np.frombuffer(mapped, np.uint8)[offset - start :]
        return np.frombuffer(mapped, kind, size // kind.itemsize, offset - start).reshape(whole)

    def close(self) -> FileEntry:
        """Make the file valid and durable; again, it returns the same.

        Raises:
            DiskFullError, ReadOnlyError.
        """
        if self.entry is not None:
            return self.entry
        self._end_stream()
        descriptor = self._open_descriptor()
        for index, section in enumerate(self._sections):
            if not section.xxh64:
                reserved = self._reserved.get(section.name)
                checksum = _hash(reserved) if reserved is not None else _hash(np.empty(0, np.uint8))
                self._sections[index] = msgspec.structs.replace(section, xxh64=f"{checksum:016x}")
        self._reserved.clear()
        table = msgspec.json.encode(self._sections)
        if len(table) > HEADER_BYTES - FIXED_BYTES:
            raise InputError(f"{self.path.name}: the table of {len(self._sections)} sections takes {len(table)} bytes; use shorter names")
        head = _HEADER.pack(MAGIC, FORMAT_VERSION, HEADER_BYTES, 0).ljust(FIXED_BYTES, b"\0") + table.ljust(
            HEADER_BYTES - FIXED_BYTES, b" "
        )
        checksum = _header_checksum(head)
        head = _HEADER.pack(MAGIC, FORMAT_VERSION, HEADER_BYTES, checksum) + head[_HEADER.size :]
        with os_errors(self.path):
            os.fsync(descriptor)  # the sections before the header, which says that they are there
            self._write(np.frombuffer(head, np.uint8), 0)
            os.fsync(descriptor)
            os.close(descriptor)
        self._descriptor = None
        self.entry = FileEntry(self.path.name, self._end, f"{checksum:016x}")
        return self.entry

    def abort(self) -> None:
        """Give up and remove the file. After `close`, nothing happens."""
        self._reserved.clear()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> SectionWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abort()

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise StateError(f"{self.path} is closed or was given up; a section file is written once")
        return self._descriptor

    def _check_name(self, name: str) -> None:
        self._open_descriptor()
        if any(section.name == name for section in self._sections):
            raise InputError(f"{self.path.name} has a section {name!r} already")

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._write(np.zeros(_aligned(stream.bytes) - stream.bytes, np.uint8), stream.offset + stream.bytes)
            shape = (stream.rows, *stream.row_shape)
            checksum = f"{stream.finish():016x}"
            self._sections.append(SectionEntry(stream.name, stream.dtype.name, shape, stream.offset, stream.bytes, checksum))
            self._end = stream.offset + _aligned(stream.bytes)

    def _write(self, raw: U8Array, offset: int) -> None:
        descriptor, rest = self._open_descriptor(), memoryview(raw)  # type: ignore[arg-type]  # NumPy's stubs lack the buffer protocol
        with os_errors(self.path):
            while len(rest):
                written = os.pwrite(descriptor, rest[:CHUNK_BYTES], offset)
                offset += written
                rest = rest[written:]


class _Stream:
    """A section at work: how far it is, and its checksum so far."""

    def __init__(self, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...], offset: int) -> None:
        self.name, self.dtype, self.row_shape, self.offset = name, dtype, row_shape, offset
        self.rows = self.bytes = 0
        self._state = np.empty(4, np.uint64)
        self._rest = np.zeros(ALIGN, np.uint8)  # bytes that do not fill a block yet
        self._resting = 0
        xxh64_start(self._state)

    def update(self, raw: U8Array) -> None:
        self.bytes += len(raw)
        if self._resting:
            taken = min(ALIGN - self._resting, len(raw))
            self._rest[self._resting : self._resting + taken] = raw[:taken]
            self._resting += taken
            raw = raw[taken:]
            if self._resting < ALIGN:
                return
            xxh64_update(self._state, address_of(self._rest), ALIGN)
            self._resting = 0
        whole = len(raw) - len(raw) % ALIGN
        if whole:
            xxh64_update(self._state, address_of(raw), whole)
        self._resting = len(raw) - whole
        self._rest[: self._resting] = raw[whole:]

    def finish(self) -> int:
        if self._resting:
            self._rest[self._resting :] = 0
            xxh64_update(self._state, address_of(self._rest), ALIGN)
        return int(xxh64_finish(self._state, _aligned(self.bytes)))


class Sections(Mapping[str, Array]):
    """A section file, mapped. Arrays are read-only views of the map, which lives as long as one of them does."""

    def __init__(self, path: Path, mapped: mmap.mmap, table: tuple[SectionEntry, ...], checksum: str) -> None:
        """Use `open_sections`."""
        self.path, self.table, self.checksum = path, table, checksum
        self.bytes = len(mapped)
        self._mapped = mapped
        self._base = address_of(np.frombuffer(mapped, np.uint8))
        self._entries = {entry.name: entry for entry in table}

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        dtype = numpy_dtype(entry.dtype)
        return np.frombuffer(self._mapped, dtype, entry.bytes // dtype.itemsize, entry.offset).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, name: str) -> SectionEntry | None:
        """What the table says of a section; None: there is none."""
        return self._entries.get(name)

    def address(self, name: str) -> int:
        """Where the first byte of a section lies while this object lives; 0: there is no such section."""
        entry = self._entries.get(name)
        return 0 if entry is None else self._base + entry.offset

    def verify(self) -> None:
        """Read every byte and compare with the checksums.

        Raises:
            CorruptFileError: names the section.
        """
        self._mapped.madvise(mmap.MADV_SEQUENTIAL)
        try:
            for entry in self.table:
                state = np.empty(4, np.uint64)
                xxh64_start(state)
                xxh64_update(state, self._base + entry.offset, _aligned(entry.bytes))
                if f"{int(xxh64_finish(state, _aligned(entry.bytes))):016x}" != entry.xxh64:
                    raise CorruptFileError(str(self.path), entry.name, "the checksum does not match")
        finally:
            self._mapped.madvise(mmap.MADV_RANDOM)

    def warm(self) -> None:
        """Ask the system to read the file into memory, in the background."""
        self._mapped.madvise(mmap.MADV_WILLNEED)


def open_sections(path: Path | str, *, verify: bool = False) -> Sections:
    """Map a section file and check what it says of itself; `verify`: every byte too.

    Raises:
        FileNotFoundError: it is not there.
        CorruptFileError: no such file, cut short, or damaged; names the section ("header", or one of the file's).
        FormatVersionError: written by a newer Fondaco.
    """
    path = Path(path)
    with os_errors(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < HEADER_BYTES:
            head = file.read(len(MAGIC))
            reason = f"it is cut short, at {size} bytes" if head == MAGIC else "it is no section file of a graph"
            raise CorruptFileError(str(path), "header", reason)
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)  # neighbours and features are read in no order; `warm` reads ahead where there is room
    magic, version, header_bytes, checksum = _HEADER.unpack_from(mapped)
    if magic != MAGIC:
        blank = not any(mapped[:FIXED_BYTES])
        reason = "its writer did not finish it" if blank else "it is no section file of a graph"
        raise CorruptFileError(str(path), "header", reason)
    if not FIXED_BYTES <= header_bytes <= min(size, HEADER_BYTES_MAX) or _header_checksum(mapped[:header_bytes]) != checksum:
        raise CorruptFileError(str(path), "header", "the checksum does not match")
    if version > FORMAT_VERSION:
        raise FormatVersionError(str(path), version, FORMAT_VERSION)
    try:
        table = _TABLE.decode(mapped[FIXED_BYTES:header_bytes].rstrip(b" "))
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise CorruptFileError(str(path), "header", str(exc)) from exc
    _check_table(path, table, size)
    sections = Sections(path, mapped, table, f"{checksum:016x}")
    if verify:
        sections.verify()
    return sections


def _check_table(path: Path, table: tuple[SectionEntry, ...], size: int) -> None:
    end = HEADER_BYTES
    for entry in table:
        count = int(np.prod(entry.shape, dtype=np.int64))
        known = entry.dtype in DTYPES and all(length >= 0 for length in entry.shape)
        if not known or entry.offset != end or entry.bytes != count * numpy_dtype(entry.dtype).itemsize:
            raise CorruptFileError(str(path), "header", f"what it says of {entry.name!r} contradicts itself")
        end += _aligned(entry.bytes)
        if end > size:
            raise CorruptFileError(str(path), entry.name, f"the file is cut short: it has {size} bytes, the section ends at {end}")
    if end != size:
        raise CorruptFileError(str(path), "header", f"the file has {size} bytes, its sections end at {end}")


def _checked(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.name not in DTYPES or not dtype.isnative:
        raise InputError(f"a section's numbers are one of {', '.join(DTYPES)}, in this machine's order of bytes; not {dtype}")
    return dtype


def _aligned(count: int) -> int:
    return -(-count // ALIGN) * ALIGN


def _bytes_of(array: Array) -> U8Array:
    return np.frombuffer(b"", np.uint8) if not array.size else array.reshape(-1).view(np.uint8)


def _hash(raw: U8Array) -> int:
    """The checksum of a section whose padding is there: `raw` is a multiple of 64 bytes."""
    state = np.empty(4, np.uint64)
    xxh64_start(state)
    xxh64_update(state, address_of(raw), len(raw))
    return int(xxh64_finish(state, len(raw)))


def _header_checksum(head: bytes) -> int:
    """XXH64 of header and table, the checksum's own place taken for zeros."""
    array = np.frombuffer(head, np.uint8).copy()
    array[_CHECKSUM] = 0
    return int(xxh64(address_of(array), len(array)))
