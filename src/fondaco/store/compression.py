"""Compression of values: choosing it from a sample, and doing it, one value to one zstd frame.

A value is small, so a frame is only worth it with a dictionary trained on values like it. Frames carry their content size, and neither
checksum (the heap has one) nor dictionary id (the base file holds the dictionary). A value whose frame is not smaller stays raw; a flag
in its record says so. A dictionary and the level never change within a version, and equal values give equal frames, so that equal rows
can be recognised when they are compressed.

Source: RFC 8878; the rule for `auto`: measurements on text, counts and embeddings (docs/internals/base-file.md, "Compression").
Thread rule: a `Compressor` belongs to one thread; a `Decompressor` may be used from any (zstd contexts are kept per thread).
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import zstandard

from fondaco.core.errors import CorruptFileError, InputError
from fondaco.store import _kernels
from fondaco.store.basefile import RECORD_BYTES_MAX, address_of, bytes_of
from fondaco.store.manifest import CompressionReport

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]

Requested = Literal["none", "zstd", "auto"]

LEVEL: Final = 3
DICTIONARY_BYTES: Final = 64 << 10  # every file of a version holds it, and each process keeps it in cache: more gained 2 % at best
DICTIONARY_SHARE: Final = 50  # a dictionary of 1/50 of the sample at most, or a small store would be mostly dictionary
SAVING_MIN: Final = 0.10  # below this, decompressing every read costs more than the space is worth
TRAINING_BYTES_MAX: Final = 8 << 20  # training takes 50 ms a MiB
MEASURED_BYTES_MAX: Final = 4 << 20
HELD_OUT: Final = 4  # every fourth row measures and does not train: a dictionary looks too good on the rows it was made from
BATCH_BYTES: Final = 16 << 20  # values per call into zstd
VALUE_BYTES_MAX: Final = RECORD_BYTES_MAX  # a frame that claims more is refused before anything is allocated


@dataclass(frozen=True, slots=True)
class Choice:
    """How a version's values are stored. `compressor` is None for "none"; `dictionary` goes into every base file (empty: none)."""

    compressor: Compressor | None
    dictionary: bytes
    report: CompressionReport

    @property
    def dictionary_checksum(self) -> str | None:
        """SHA-256 of the dictionary, hex, as the manifest keeps it."""
        return hashlib.sha256(self.dictionary).hexdigest() if self.dictionary else None


class Compressor:
    """Turns values into frames, where that makes them smaller."""

    def __init__(self, dictionary: bytes = b"") -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL, write_content_size=True, write_checksum=False, write_dict_id=False
        )
        trained = _load(dictionary)
        if trained is not None:
            trained.precompute_compress(compression_params=parameters)
        self.dictionary = dictionary
        self._context = zstandard.ZstdCompressor(dict_data=trained, compression_params=parameters)

    def compress(self, values: U8Array, offsets: I64Array) -> tuple[U8Array, I64Array, U8Array]:
        """Compress value i, `values[offsets[i]:offsets[i + 1]]`, of each row.

        Returns:
            data uint8, offsets int64 [n + 1], compressed uint8 [n] (0: the value stayed as it was): what `BaseFileWriter.append` takes.
        """
        count = len(offsets) - 1
        starts, ends = offsets[:-1] + address_of(values), offsets[1:] + address_of(values)
        compressed = np.zeros(count, np.uint8)
        kept = []  # zstd's output buffers, alive until the copy
        first = 0
        while first < count:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BATCH_BYTES, "right")) - 1)
            part = slice(first, last)
            first = last
            if offsets[part.start] == offsets[last]:
                continue  # nothing but empty values, which zstd refuses
            frames = self._frames(values, offsets[part.start : last + 1])
            frame_starts, frame_ends = _segments(frames, last - part.start)
            smaller = frame_ends - frame_starts < ends[part] - starts[part]
            starts[part] = np.where(smaller, frame_starts, starts[part])
            ends[part] = np.where(smaller, frame_ends, ends[part])
            compressed[part] = smaller
            kept.append(frames)
        data, packed = np.empty(int((ends - starts).sum()), np.uint8), np.empty(count + 1, np.int64)
        _kernels.gather(starts, ends, address_of(data), packed)
        return data, packed, compressed

    def _frames(self, values: U8Array, offsets: I64Array) -> zstandard.BufferWithSegmentsCollection:
        # One thread: two were slower on shared cores, and a push has its own ways to use the other one
        return self._context.multi_compress_to_buffer(_with_segments(values, offsets), threads=1)


class Decompressor:
    """Turns frames of one version back into values."""

    def __init__(self, dictionary: bytes, path: str) -> None:
        """
        Args:
            path: named in errors.
        """
        self._dictionary, self._path = _load(dictionary), path
        self._local = threading.local()

    def one(self, frame: memoryview) -> bytes:
        """The value of one frame.

        Raises:
            CorruptFileError: section "heap": not a frame, none of this version, or one that claims more than VALUE_BYTES_MAX.
        """
        try:
            size = zstandard.frame_content_size(frame)
            if not 0 < size <= VALUE_BYTES_MAX:
                raise self._refused(size)
            return self._context().decompress(frame)
        except zstandard.ZstdError as exc:
            raise CorruptFileError(self._path, "heap", f"a compressed value cannot be read ({exc})") from exc

    def many(self, starts: I64Array, ends: I64Array, compressed: U8Array, count: int) -> object:
        """Decompress the values marked in `compressed`; their `starts` and `ends` (absolute addresses) are moved to the results.

        Args:
            count: how many are marked.
        Returns:
            What must stay alive while the addresses are used.
        Raises:
            CorruptFileError: as `one`.
        """
        which, sizes = np.empty(count, np.int64), np.empty(count, np.int64)
        found, refused = _kernels.list_frames(starts, ends, compressed, VALUE_BYTES_MAX, which, sizes)
        if refused >= 0:
            raise self._refused(refused)
        assert found == count
        frames = np.empty(int((ends[which] - starts[which]).sum()), np.uint8)
        offsets = np.empty(count + 1, np.int64)
        _kernels.gather(starts[which], ends[which], address_of(frames), offsets)
        try:
            values = self._context().multi_decompress_to_buffer(
                _with_segments(frames, offsets), decompressed_sizes=bytes_of(sizes), threads=0
            )
        except zstandard.ZstdError as exc:
            raise CorruptFileError(self._path, "heap", f"a compressed value cannot be read ({exc})") from exc
        starts[which], ends[which] = _segments(values, count, sizes)
        return values

    def _context(self) -> zstandard.ZstdDecompressor:
        try:
            context: zstandard.ZstdDecompressor = self._local.context
        except AttributeError:
            context = self._local.context = zstandard.ZstdDecompressor(dict_data=self._dictionary)
        return context

    def _refused(self, size: int) -> CorruptFileError:
        claim = f"claims {size} bytes; the limit is {VALUE_BYTES_MAX}" if size > 0 else "does not state its size"
        return CorruptFileError(self._path, "heap", f"a compressed value {claim}")


def choose(values: U8Array, offsets: I64Array, *, requested: Requested = "auto", partition_count: int = 1, whole: bool = False) -> Choice:
    """Choose the compression of a version from a sample of its values.

    Args:
        values, offsets: the sample, uint8 and int64 [n + 1].
        whole: the sample is all there is, so the dictionary's `partition_count` copies count against the saving.
    Raises:
        InputError: `requested` is not none, zstd or auto.
    """
    rows, sample_bytes = len(offsets) - 1, int(offsets[-1] - offsets[0])
    if requested not in ("none", "zstd", "auto"):
        raise InputError(f'compression is "none", "zstd" or "auto", not {requested!r}')
    if requested == "none" or sample_bytes == 0:
        reason = "as asked" if requested == "none" else "there are no values to compress"
        return Choice(
            None, b"", CompressionReport(requested=requested, chosen="none", sample_rows=rows, sample_bytes=sample_bytes, reason=reason)
        )
    dictionary = _train(values, offsets, sample_bytes)
    measured = _take(values, offsets, np.arange(HELD_OUT - 1, rows, HELD_OUT) if rows >= HELD_OUT else np.arange(rows), MEASURED_BYTES_MAX)
    plain_saving, saving = _saving(Compressor(), measured), _saving(Compressor(dictionary), measured)
    copies = len(dictionary) * partition_count if whole else 0
    if dictionary and saving - copies / sample_bytes <= plain_saving:
        dictionary, copies = b"", 0  # it does not pay for itself
    net = max(saving if dictionary else plain_saving, 0.0) - copies / sample_bytes
    chosen: Literal["none", "zstd"] = "zstd" if requested == "zstd" or net >= SAVING_MIN else "none"
    reason = "as asked" if requested == "zstd" else f"it saves {net:.1%}; {SAVING_MIN:.0%} are asked for"
    report = CompressionReport(
        requested=requested, chosen=chosen, sample_rows=rows, sample_bytes=sample_bytes,
        ratio_zstd=round(1 / (1 - saving), 3), ratio_zstd_plain=round(1 / (1 - plain_saving), 3),
        dictionary_bytes=len(dictionary) if chosen == "zstd" else 0, reason=reason,
    )  # fmt: skip
    return Choice(Compressor(dictionary), dictionary, report) if chosen == "zstd" else Choice(None, b"", report)


def _saving(compressor: Compressor, sample: tuple[U8Array, I64Array]) -> float:
    """Share of the sample's bytes that compression saves, 0 to less than 1."""
    stored = compressor.compress(*sample)[0].nbytes
    return 1 - max(stored, 1) / max(sample[0].nbytes, 1)


def _train(values: U8Array, offsets: I64Array, sample_bytes: int) -> bytes:
    rows = np.arange(len(offsets) - 1)
    data, ends = _take(values, offsets, rows[rows % HELD_OUT != HELD_OUT - 1], TRAINING_BYTES_MAX)
    raw = data.tobytes()
    samples: list[bytes | bytearray | memoryview] = [
        raw[start:end] for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]
    try:
        return zstandard.train_dictionary(min(DICTIONARY_BYTES, max(sample_bytes // DICTIONARY_SHARE, 1)), samples).as_bytes()
    except (zstandard.ZstdError, MemoryError):
        return b""  # too few or too small values to learn from: zstd says so by failing


def _take(values: U8Array, offsets: I64Array, rows: I64Array, bytes_max: int) -> tuple[U8Array, I64Array]:
    """Rows spread evenly over `rows`, as many as `bytes_max` holds: (data, offsets)."""
    sizes = offsets[rows + 1] - offsets[rows]
    if sizes.sum() > bytes_max:
        step = int(-(-int(sizes.sum()) // bytes_max))
        rows = rows[::step]
        sizes = offsets[rows + 1] - offsets[rows]
        rows = rows[: max(1, int(np.searchsorted(np.cumsum(sizes), bytes_max, "right")))]
    starts = np.ascontiguousarray(offsets[rows]) + address_of(values)
    ends = np.ascontiguousarray(offsets[rows + 1]) + address_of(values)
    data, packed = np.empty(int((ends - starts).sum()), np.uint8), np.empty(len(rows) + 1, np.int64)
    _kernels.gather(starts, ends, address_of(data), packed)
    return data, packed


def _load(dictionary: bytes) -> zstandard.ZstdCompressionDict | None:
    return zstandard.ZstdCompressionDict(dictionary) if dictionary else None


def _with_segments(data: U8Array, offsets: I64Array) -> zstandard.BufferWithSegments:
    """Slices of `data` as zstd's batch calls take them, without a copy."""
    return zstandard.BufferWithSegments(bytes_of(data), bytes_of(np.stack([offsets[:-1], np.diff(offsets)], axis=1)))


def _segments(collection: zstandard.BufferWithSegmentsCollection, count: int, sizes: I64Array | None = None) -> tuple[I64Array, I64Array]:
    """Absolute addresses (starts, ends) of zstd's results.

    With one thread they lie one after the other in one buffer, which the first and the last prove; asking each of them costs 0.2 us.
    """
    if sizes is not None:
        ends = np.cumsum(sizes)
        first = _address(collection[0])
        if _address(collection[count - 1]) == first + int(ends[-1] - sizes[-1]):
            return ends - sizes + first, ends + first
    parts = [collection[i] for i in range(count)]
    lengths = np.array([len(part) for part in parts], np.int64)
    places = np.array([part.offset for part in parts], np.int64)
    heads = np.flatnonzero(places == 0)  # each begins a buffer
    base = np.repeat([_address(parts[i]) for i in heads], np.diff(np.append(heads, count)))
    return places + base, places + base + lengths


def _address(segment: zstandard.BufferSegment) -> int:
    return address_of(np.frombuffer(segment, np.uint8)) if len(segment) else 0  # type: ignore[call-overload]
