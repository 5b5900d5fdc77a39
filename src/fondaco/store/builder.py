"""Builder: chunks of input become the base files of one version, in bounded memory.

The caller's thread reads and encodes a chunk while a second thread compresses, partitions and writes the one before it. Memory, beyond
what the caller's own input takes, stays below

    6 x batch_bytes                          a chunk as read, as encoded (two of them), compressed, and as pyarrow made it
  + 2 x sample_bytes                         the head of the input, kept until the compression is chosen (nothing for "none")
  + 10 x min(sample_bytes, 8 MiB)            what zstd takes to train a dictionary (nothing for "none")
  + partitions x min(1 MiB, 64 MiB / partitions)   buffers of the base file writers
  + 32 bytes x records of one partition      indexes of the two partitions that are sealed at a time

and does not depend on the rows otherwise: they go straight to the files. Bytes are those of the rows unpacked: a text of a dictionary
counts as often as it comes, and mappings by what they hold. Two things are larger than batch_bytes and then stand in its place: a single
row, and the batch of a Parquet file in which the rows become longer than in the batches before it (by as much as they do).

A builder belongs to one thread and is a context manager; leaving it without `seal` removes the files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError, DataError
from fondaco.core.files import os_errors
from fondaco.store import compression
from fondaco.store.basefile import BaseFile, BaseFileSummary, BaseFileWriter, OnDuplicate, partition_rows
from fondaco.store.compression import Choice
from fondaco.store.encoder import Encoded, RowEncoder
from fondaco.store.inputs import Input
from fondaco.store.keys import KeyCodec
from fondaco.store.layout import partition_name
from fondaco.store.settings import Compression

BUFFERS_BYTES_MAX = 64 << 20  # of all partitions' writers together
SEALED_AT_ONCE = 2  # partitions whose indexes are in memory together
SAMPLE_VALUE_BYTES_MAX = 64 << 10  # of one value, in the sample: a dictionary is no longer than this itself
TRIAL_SHARE = 16  # of the sample, one part in so many is tried first
TRIAL_ROWS_MIN = 2000
TRIAL_RATIO = 1.08  # below it, `auto` (which asks for 1.11) is settled by the trial


class Steps:
    """Seconds spent in each step of a push, by name; steps of two threads overlap, so they may add up to more than the whole."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of the block to step `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to step `name`."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 6)


class VersionBuilder:
    """Builds the base files of one version in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        key: KeyCodec,
        *,
        partitions: int,
        requested: Compression,
        sample_bytes: int,
        on_duplicate: OnDuplicate,
        on_thread: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            on_thread: called in each thread that helps, when it starts (`Governor.lower_helper`).
        """
        self.directory = directory
        self.steps = Steps()
        self.input_rows = 0
        self.raw_bytes = 0
        self.choice: Choice | None = None
        self.reading = False  # inside the input's own code
        self._key = key
        self._partitions = partitions
        self._requested = requested
        self._sample_bytes = sample_bytes
        self._on_duplicate = on_duplicate
        self._writers: list[BaseFileWriter] = []
        self._on_thread = on_thread
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="fondaco-push", initializer=on_thread)
        self._written: Future[None] | None = None

    def __enter__(self) -> VersionBuilder:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._worker.shutdown(cancel_futures=True)
        for writer in self._writers:
            writer.abort()

    def write_all(self, data: Input, encoder: RowEncoder, on_chunk: Callable[[int], None]) -> None:
        """Encode and write every chunk; `on_chunk(rows so far)` is called after each, and may raise to stop.

        Raises:
            RowError, KeyTypeError, InputError: the first row that does not fit. DiskFullError.
        """
        chunks = self._encoded(data, encoder, on_chunk)
        if self.choice is None:
            self._choose(data, encoder, chunks)
        for encoded in chunks:
            self._write(encoded)
        self._wait()

    def write(self, encoded: Encoded) -> None:
        """Write rows that are encoded already; the first ones decide the compression unless it is chosen."""
        self._count(encoded)
        if self.choice is None:
            self._start(self._chosen([encoded], whole=False))
        self._write(encoded)

    def seal(self, on_file: Callable[[int], None]) -> list[BaseFileSummary]:
        """Finish every file, by partition; `on_file(files so far)` is called after each.

        Raises:
            DuplicateKeyError: one key has two values and the rule is to fail.
        """
        self._wait()
        if self.choice is None:
            self._start(self._chosen([], whole=True))

        def seal_one(writer: BaseFileWriter) -> BaseFileSummary:
            return writer.seal(self._on_duplicate, show_key=self._key.readable)

        summaries = []
        with self.steps.timed("seal"), ThreadPoolExecutor(SEALED_AT_ONCE, initializer=self._on_thread) as pool:
            sealing = [pool.submit(seal_one, writer) for writer in self._writers]
            try:
                for future in sealing:
                    summaries.append(future.result())
                    on_file(len(summaries))
            except BaseException:
                for future in sealing:
                    future.cancel()
                raise
        return summaries

    # -- reading side ---------------------------------------------------------------------------------------------------------------

    def _encoded(self, data: Input, encoder: RowEncoder, on_chunk: Callable[[int], None]) -> Iterator[Encoded]:
        while True:
            with self.steps.timed("read"):
                self.reading = True
                chunk = next(data.chunks, None)
                self.reading = False
            if chunk is None:
                return
            with self.steps.timed("encode"):
                encoded = encoder.encode(chunk, self.input_rows)
            del chunk
            self._count(encoded)
            yield encoded
            on_chunk(self.input_rows)

    def _count(self, encoded: Encoded) -> None:
        self.input_rows += len(encoded)
        self.raw_bytes += encoded.value_bytes

    def _choose(self, data: Input, encoder: RowEncoder, chunks: Iterator[Encoded]) -> None:
        """Choose the compression, from rows spread over the input where it can be looked at twice, else from its head."""
        if self._requested == "none":
            self._start(self._chosen([], whole=False))
            return
        spread = self._spread_sample(data, encoder)
        if spread:
            self._start(self._chosen(spread, whole=False))
            return
        head: list[Encoded] = []
        for encoded in chunks:
            head.append(encoded)
            if self.raw_bytes >= self._sample_bytes:
                break
        self._start(self._chosen(head, whole=self.raw_bytes < self._sample_bytes))
        while head:
            self._write(head.pop(0))

    def _spread_sample(self, data: Input, encoder: RowEncoder) -> list[Encoded]:
        if data.sample is None:
            return []
        with self.steps.timed("sample"):
            try:
                return [encoder.encode(chunk, 0) for chunk in data.sample(self._sample_bytes)]
            except DataError:
                return []  # the row that does not fit is found again in its turn, and then named by its place in the input

    def _chosen(self, sample: list[Encoded], *, whole: bool) -> Choice:
        with self.steps.timed("sample"):
            values, offsets = _joined(sample)
            if self._requested == "auto":
                # Training costs up to 2 s where rows are short. Values that a small sample says are far from compressing, such as
                # embeddings, need no second opinion.
                rows = (len(offsets) - 1) // TRIAL_SHARE
                if rows >= TRIAL_ROWS_MIN:
                    trial = (
                        _joined(sample[::TRIAL_SHARE]) if len(sample) >= 2 * TRIAL_SHARE else (values[: offsets[rows]], offsets[: rows + 1])
                    )
                    choice = compression.choose(*trial, requested="auto", partition_count=self._partitions)
                    if choice.compressor is None and (choice.report.ratio_zstd or 0.0) < TRIAL_RATIO:
                        return choice
            return compression.choose(values, offsets, requested=self._requested, partition_count=self._partitions, whole=whole)

    # -- writing side ---------------------------------------------------------------------------------------------------------------

    def _start(self, choice: Choice) -> None:
        self.choice = choice
        buffer_bytes = min(1 << 20, BUFFERS_BYTES_MAX // self._partitions)
        with os_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        for index in range(self._partitions):
            path = self.directory / partition_name(index)
            self._writers.append(BaseFileWriter(path, dictionary=choice.dictionary, buffer_bytes=buffer_bytes))

    def _write(self, encoded: Encoded) -> None:
        self._wait()
        self._written = self._worker.submit(self._append, encoded)

    def _wait(self) -> None:
        if self._written is not None:
            written, self._written = self._written, None
            written.result()

    def _append(self, encoded: Encoded) -> None:
        assert self.choice is not None
        values, offsets, flags = encoded.values, encoded.offsets, None
        if self.choice.compressor is not None:
            with self.steps.timed("compress"):
                values, offsets, flags = self.choice.compressor.compress(values, offsets)
        with self.steps.timed("write"):
            order, bounds = partition_rows(encoded.keys.hashes, self._partitions)
            keys = encoded.keys
            for writer, first, last in zip(self._writers, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                if first < last:
                    writer.append(
                        keys.data, keys.offsets, values, offsets, compressed=flags, select=order[first:last], first_row=encoded.first_row
                    )


def _joined(parts: list[Encoded]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The values of all parts in one piece; of a long value only its beginning (training on one of 300 MB took 23 GB)."""
    if not parts:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    pieces: list[npt.NDArray[np.uint8]] = []
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    for part in parts:
        if len(part) and np.diff(part.offsets).max() > SAMPLE_VALUE_BYTES_MAX:
            starts = part.offsets[:-1].tolist()
            pieces += [
                part.values[start : min(start + SAMPLE_VALUE_BYTES_MAX, end)]
                for start, end in zip(starts, part.offsets[1:].tolist(), strict=True)
            ]
        else:
            pieces.append(part.values[part.offsets[0] : part.offsets[-1]])
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.minimum(lengths, SAMPLE_VALUE_BYTES_MAX), out=offsets[1:])
    return np.concatenate(pieces), offsets


def verify_files(
    directory: Path, summaries: list[BaseFileSummary], on_file: Callable[[int], None], on_thread: Callable[[], None] | None = None
) -> None:
    """Read sealed files back whole and compare counts and checksums with what was written.

    Raises:
        CorruptFileError: names file and section.
    """

    def verify_one(summary: BaseFileSummary) -> None:
        found = BaseFile.open(directory / summary.name)
        if (found.records, found.bytes, found.checksum) != (summary.records, summary.bytes, summary.checksum):
            raise CorruptFileError(str(directory / summary.name), "footer", "it reads back as another file than was written")

    with ThreadPoolExecutor(SEALED_AT_ONCE, initializer=on_thread) as pool:
        for done, _ in enumerate(pool.map(verify_one, summaries), 1):
            on_file(done)
