"""The builder keeps its promise about memory, and leaves no file behind when it is left early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fondaco.schema import Codec
from fondaco.store.basefile import OnDuplicate
from fondaco.store.builder import VersionBuilder, verify_files
from fondaco.store.encoder import RowEncoder
from fondaco.store.inputs import open_input
from fondaco.store.keys import KeyCodec

# Pushes 460 MB of rows that are made as they are read, with chunks of 1 MiB and a sample of 2 MiB, and reports by how much the memory of
# its own (RssAnon: without mapped files, which the kernel can drop at any time) ever exceeded what it was before the push.
MEMORY_PROGRAM = """
import sys, threading
import numpy as np, pyarrow as pa
import fondaco as fd

BATCHES, ROWS, DIM = 450, 1000, 256
value = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("emb", pa.list_(pa.float32(), DIM), nullable=False)])

def anonymous_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10

def batches(count):
    generator = np.random.default_rng(1)
    for part in range(count):
        keys = np.arange(part * ROWS, (part + 1) * ROWS)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(generator.random(ROWS * DIM, dtype=np.float32)), DIM)
        yield pa.RecordBatch.from_arrays([pa.array(keys), pa.array(keys), vectors], ["key", "id", "emb"])

def watch(done, peaks):
    while not done.wait(0.002):
        peaks.append(anonymous_bytes())

with fd.open(sys.argv[1]) as platform:
    store = platform.create_store("s", value=value, partitions=4, compression=sys.argv[2])
    store.push(batches(4))  # loads every kernel and library
    before, peaks, done = anonymous_bytes(), [], threading.Event()
    watcher = threading.Thread(target=watch, args=(done, peaks))
    watcher.start()
    report = store.push(batches(BATCHES))
    done.set()
    watcher.join()
    assert report.records == BATCHES * ROWS
    print(max(peaks) - before, report.raw_bytes)
"""


@pytest.mark.parametrize("compression", ["none", "auto"])
def test_memory_stays_below_the_stated_bound_for_far_more_rows_than_fit_into_it(tmp_path: Path, compression: str) -> None:
    batch_bytes, sample_bytes, partitions, records = 1 << 20, 2 << 20, 4, 450_000
    (tmp_path / "fondaco.toml").write_text(f"[store]\nbatch_bytes = {batch_bytes}\nsample_bytes = {sample_bytes}\n")
    command = [sys.executable, "-c", MEMORY_PROGRAM, str(tmp_path), compression]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    grown, pushed = map(int, answer.split())
    bound = 6 * batch_bytes + (12 * sample_bytes if compression == "auto" else 0) + partitions * (1 << 20) + 32 * records // partitions
    assert pushed > 10 * bound
    assert grown < bound


# Pushes rows that are far larger in memory than their file or their number says, and reports by how much that raised the highest memory.
# Compressed, because the files that are mapped to be verified would count.
WIDE_PROGRAM = """
import sys
import pyarrow as pa
from pyarrow import parquet
import fondaco as fd

WIDE = 1 << 20

def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10

INPUTS = {
    "mappings": lambda path, rows: ({"key": key, "text": "x" * WIDE} for key in range(rows)),
    "dictionary of Parquet": lambda path, rows: written(path, rows),
    "dictionary of Arrow": lambda path, rows: columns(rows),
}

def columns(rows):
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * WIDE]))
    return pa.table({"key": range(rows), "text": text})

def written(path, rows):
    parquet.write_table(columns(rows), path + "/t.parquet")
    return path + "/t.parquet"

with fd.open(sys.argv[1]) as platform:
    store = platform.create_store("s", value=pa.schema([("text", pa.string())]), partitions=2, compression="zstd")
    data = INPUTS[sys.argv[2]](sys.argv[1], 600)
    store.push(INPUTS[sys.argv[2]](sys.argv[1] + "/..", 8))
    before = peak_bytes()
    assert store.push(data).raw_bytes >= 600 * WIDE
    print(peak_bytes() - before)
"""


@pytest.mark.parametrize("kind", ["mappings", "dictionary of Parquet", "dictionary of Arrow"])
def test_memory_is_bounded_by_the_bytes_of_rows_and_not_by_their_number_or_the_size_of_a_file(tmp_path: Path, kind: str) -> None:
    batch_bytes, home = 4 << 20, tmp_path / "platform"
    home.mkdir()
    (home / "fondaco.toml").write_text(f"[store]\nbatch_bytes = {batch_bytes}\nsample_bytes = {1 << 20}\n")
    answer = subprocess.run([sys.executable, "-c", WIDE_PROGRAM, str(home), kind], capture_output=True, text=True, check=True).stdout
    assert int(answer) < 12 * batch_bytes


def _builder(directory: Path, on_duplicate: OnDuplicate = OnDuplicate.FAIL) -> VersionBuilder:
    return VersionBuilder(directory, KeyCodec("long"), partitions=3, requested="auto", sample_bytes=4 << 20, on_duplicate=on_duplicate)


def _table(rows: int) -> pa.Table:
    return pa.table({"key": np.arange(rows), "x": np.arange(rows)})


def _encoder(table: pa.Table) -> RowEncoder:
    value = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    return RowEncoder("s", KeyCodec("long"), Codec(value), table.schema)


def test_every_record_is_in_the_files_and_they_verify(tmp_path: Path) -> None:
    table = _table(10_000)
    with _builder(tmp_path) as builder:
        builder.write_all(open_input(table, batch_bytes=1 << 14), _encoder(table), lambda rows: None)
        summaries = builder.seal(lambda files: None)
    assert sum(summary.records for summary in summaries) == 10_000
    assert all(2_500 < summary.records < 4_200 for summary in summaries)
    seen: list[int] = []
    verify_files(tmp_path, summaries, seen.append)
    assert seen == [1, 2, 3]


def test_leaving_a_builder_early_removes_its_files(tmp_path: Path) -> None:
    table = _table(10_000)

    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), _builder(tmp_path) as builder:
        builder.write_all(open_input(table, batch_bytes=1 << 14), _encoder(table), stop)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_reported_as_they_are_read(tmp_path: Path) -> None:
    table = _table(10_000)
    seen: list[int] = []
    with _builder(tmp_path) as builder:
        builder.write_all(open_input(table, batch_bytes=1 << 15), _encoder(table), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 10_000
    assert len(seen) >= 4


def test_values_that_are_far_from_compressing_are_told_by_a_small_trial(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(1).normal(size=(80_000, 16)).astype(np.float32)
    table = pa.table({"key": np.arange(80_000), "emb": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), 16)})
    schema = pa.schema([pa.field("emb", pa.list_(pa.float32(), 16), nullable=False)])
    with _builder(tmp_path) as builder:
        encoder = RowEncoder("s", KeyCodec("long"), Codec(schema), table.schema)
        builder.write_all(open_input(table.to_reader(), batch_bytes=1 << 20), encoder, lambda rows: None)
        assert builder.choice is not None
        assert builder.choice.report.chosen == "none"
        assert builder.choice.report.sample_rows <= 5_000


def test_a_huge_value_does_not_train_the_dictionary_by_itself(tmp_path: Path) -> None:
    table = pa.table({"key": np.arange(3), "b": [b"small", b"x" * (40 << 20), b""]})
    with _builder(tmp_path) as builder:
        encoder = RowEncoder("s", KeyCodec("long"), Codec(pa.schema([pa.field("b", pa.binary(), nullable=False)])), table.schema)
        builder.write_all(open_input(table, batch_bytes=1 << 20), encoder, lambda rows: None)
        assert builder.choice is not None
        assert builder.choice.report.sample_bytes < 1 << 20
        assert sum(summary.records for summary in builder.seal(lambda files: None)) == 3
