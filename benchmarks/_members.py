"""Members: the synthetic rows of the store benchmarks, and the stores and peers' databases filled with them.

A member has a 40-bit id (scattered by a multiplicative permutation, so that ids are unique; then sorted), 10 scalars (integers, floats,
a flag, an enum, two strings, a nullable) and a 128-d float32 vector: about 600 bytes in Avro, key included. Everything follows from
(seed, first row of the chunk); headlines are five words of a vocabulary of 1,024, vectors are normal. Rows come in key order: LMDB and
RocksDB need that to load quickly, Fondaco does not care, so the peers' sort is free.

Peers get the rows in Avro with the vector as `array<float>`, as an Avro user would write it. Its bytes are the 10 scalars, a block
count (2 bytes), 512 bytes of floats and an end mark; so the same bytes can also be read by hand: fastavro for the scalars,
`np.frombuffer` at the known tail. Both are reported. Bytes are made by Fondaco's codec, which is quicker, and checked against
fastavro's on a sample.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._child import call
from benchmarks._harness import build_once

DIM = 128
LMDB_NAME = b"members"
LMDB_MAP_BYTES = 64 << 30
CHUNK_ROWS = 50_000
_ID_BITS = 40
_ID_FACTOR = 0x9E3779B97F4A7C15 | 1  # odd, so multiplication permutes the residues modulo 2^40
TIERS = ("FREE", "BASIC", "PLUS", "PRO")

_SCALARS: list[dict[str, Any]] = [
    {"name": "clicks", "type": "int"},
    {"name": "views", "type": "long"},
    {"name": "joined_ms", "type": "long"},
    {"name": "ctr", "type": "float"},
    {"name": "score", "type": "double"},
    {"name": "premium", "type": "boolean"},
    {"name": "country", "type": "string"},
    {"name": "tier", "type": {"type": "enum", "name": "Tier", "symbols": list(TIERS)}},
    {"name": "last_seen_ms", "type": ["null", "long"]},
    {"name": "headline", "type": "string"},
]
_VECTOR = {"type": "fixed", "name": "Embedding", "size": 4 * DIM, "logicalType": "vector", "dim": DIM, "dtype": "float32"}
ARRAY_TAIL_BYTES = 4 * DIM + 1  # the floats and the end mark of an Avro array<float> in one block

SCHEMA: dict[str, Any] = {"type": "record", "name": "Member", "fields": [*_SCALARS, {"name": "emb", "type": _VECTOR}]}
ARRAY_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Member",
    "fields": [*_SCALARS, {"name": "emb", "type": {"type": "array", "items": "float"}}],
}
SCALARS_SCHEMA: dict[str, Any] = {"type": "record", "name": "Member", "fields": list(_SCALARS)}

lmdb_key = struct.Struct("=Q").pack  # LMDB compares native integers with integerkey=True, quicker than bytes


def member_ids(rows: int) -> np.ndarray:
    """The ids of all members in row order, ascending; int64, shape [rows]."""
    scattered = np.arange(rows, dtype=np.uint64) * np.uint64(_ID_FACTOR) & np.uint64((1 << _ID_BITS) - 1)
    return np.sort(scattered.astype(np.int64))


def draw_ids(ids: np.ndarray, count: int, *seed: int) -> list[int]:
    """`count` ids drawn uniformly with repetition, as Python integers; the same for the same seed."""
    drawn: list[int] = ids[np.random.default_rng(seed).integers(0, len(ids), count)].tolist()
    return drawn


def batches(*, rows: int, seed: int) -> Iterator[pa.RecordBatch]:
    """The members in record batches of 50,000, columns `key`, the 10 scalars and `emb`."""
    ids = member_ids(rows)
    for first in range(0, rows, CHUNK_ROWS):
        yield _batch(ids[first : first + CHUNK_ROWS], np.random.default_rng([seed, first]))


def _batch(ids: np.ndarray, rng: np.random.Generator) -> pa.RecordBatch:
    count = len(ids)
    now_ms = 1_790_000_000_000
    words = pa.array([f"{stem}{ending}" for stem in _STEMS for ending in _ENDINGS])
    headline = pc.binary_join_element_wise(*[words.take(pa.array(rng.integers(0, len(words), count))) for _ in range(5)], " ")
    countries = pa.array(["US", "IN", "BR", "DE", "IT", "FR", "JP", "NL", "ES", "SE"])
    columns = {
        "key": pa.array(ids),
        "clicks": pa.array(rng.integers(0, 5_000, count, dtype=np.int32)),
        "views": pa.array(rng.integers(0, 2_000_000, count)),
        "joined_ms": pa.array(rng.integers(now_ms - 400_000_000_000, now_ms, count)),
        "ctr": pa.array(rng.random(count, dtype=np.float32)),
        "score": pa.array(rng.standard_normal(count)),
        "premium": pa.array(rng.random(count) < 0.2),
        "country": countries.take(pa.array(rng.integers(0, len(countries), count))),
        "tier": pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, len(TIERS), count, dtype=np.int32)), pa.array(TIERS)),
        "last_seen_ms": pa.array(rng.integers(now_ms - 2_592_000_000, now_ms, count), mask=rng.random(count) < 0.1),
        "headline": headline,
        "emb": pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(count * DIM, dtype=np.float32)), DIM),
    }
    return pa.RecordBatch.from_pydict(columns)


_STEMS = [f"{first}{second}" for first in ("ba", "co", "di", "fe", "gra", "lu", "mo", "se") for second in ("n", "r", "st", "l")]
_ENDINGS = [f"{first}{second}" for first in ("a", "e", "i", "o") for second in ("", "do", "ne", "ta", "ri", "lo", "ma", "se")]


def rows_bytes(batch: pa.RecordBatch, schema: dict[str, Any]) -> list[bytes]:
    """The rows of a batch as Avro bytes, made by Fondaco's codec."""
    import fondaco as fd

    data, offsets = fd.schema.Codec(schema).encode_columns(batch)
    view, ends = memoryview(data), offsets.tolist()
    return [bytes(view[begin:end]) for begin, end in itertools.pairwise(ends)]


def check_bytes(batch: pa.RecordBatch, encoded: list[bytes], schema: dict[str, Any]) -> None:
    """Stop unless fastavro reads the values of `batch` back from `encoded`, row by row."""
    import fastavro

    parsed = fastavro.parse_schema(schema)
    for row, data in zip(batch.to_pylist(), encoded, strict=True):
        stream = io.BytesIO(data)
        decoded = fastavro.schemaless_reader(stream, parsed, None)
        assert stream.read() == b"", "fastavro left bytes behind"
        row.pop("key")
        if isinstance(decoded["emb"], bytes):
            decoded["emb"] = np.frombuffer(decoded["emb"], "<f4").tolist()
        assert decoded == row, "fastavro and Fondaco disagree on a row"


# -- the same rows in stores --------------------------------------------------------------------------------------------------------


def arrow_file(workdir: Path, *, rows: int, seed: int) -> Path:
    """An Arrow IPC file of the members, to be memory-mapped."""

    def build(directory: Path) -> None:
        write_arrow(directory / "members.arrow", batches(rows=rows, seed=seed))

    return build_once(workdir / f"members-arrow-{rows}-{seed}", build) / "members.arrow"


def write_arrow(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write batches to an Arrow IPC file."""
    first = next(batches)
    with pa.ipc.new_file(path, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def read_arrow(path: Path | str) -> pa.RecordBatchReader:
    """A reader over a memory-mapped Arrow IPC file; its batches are views of the map."""
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    return pa.RecordBatchReader.from_batches(file.schema, (file.get_batch(index) for index in range(file.num_record_batches)))


def fondaco_platform(workdir: Path, *, rows: int, seed: int, compression: str = "none") -> Path:
    """A platform directory whose store `members` holds the members in one version of 8 partitions."""
    source = arrow_file(workdir, rows=rows, seed=seed)

    def build(directory: Path) -> None:
        call(push_members, source=str(source), platform=str(directory / "platform"), rows=rows, compression=compression)

    return build_once(workdir / f"members-fondaco-{compression}-{rows}-{seed}", build) / "platform"


def push_members(*, source: str, platform: str, rows: int, compression: str) -> dict[str, Any]:
    """In a child process: push the members' Arrow file."""
    import fondaco as fd

    with fd.open(platform) as opened:
        store = opened.create_store("members", key="long", value=SCHEMA, partitions=8, compression=compression)
        report = store.push(read_arrow(source))
    assert report.records == rows, f"{rows} rows pushed, {report.records} counted"
    return {}


def lmdb_environment(workdir: Path, *, rows: int, seed: int) -> Path:
    """An LMDB environment of the members, values in Avro with the vector as array<float>."""
    source = arrow_file(workdir, rows=rows, seed=seed)

    def build(directory: Path) -> None:
        call(fill_lmdb, source=str(source), path=str(directory / "lmdb"))

    return build_once(workdir / f"members-lmdb-{rows}-{seed}", build) / "lmdb"


def fill_lmdb(*, source: str, path: str) -> dict[str, Any]:
    """In a child process: encode the members and load them."""

    def rows() -> Iterator[tuple[np.ndarray, list[bytes]]]:
        for index, batch in enumerate(read_arrow(source)):
            encoded = rows_bytes(batch, ARRAY_SCHEMA)
            if index == 0:
                check_bytes(batch.slice(0, 200), encoded[:200], ARRAY_SCHEMA)
            yield batch.column("key").to_numpy(), encoded

    load_lmdb(path, rows())
    return {}


def load_lmdb(path: str, rows: Iterable[tuple[np.ndarray, list[bytes]]]) -> None:
    """Load rows that come in key order the fastest way LMDB has: integer keys, append mode, one commit, one sync at the end."""
    import lmdb

    with (
        lmdb.open(path, map_size=LMDB_MAP_BYTES, max_dbs=1, sync=False) as environment,
        environment.begin(write=True, db=environment.open_db(LMDB_NAME, integerkey=True)) as transaction,
        transaction.cursor() as cursor,
    ):
        for ids, values in rows:
            raw = ids.astype("=u8").tobytes()
            keys = [raw[at : at + 8] for at in range(0, len(raw), 8)]
            cursor.putmulti(zip(keys, values, strict=True), append=True)
    with lmdb.open(path, map_size=LMDB_MAP_BYTES, max_dbs=1) as environment:
        environment.sync(True)


@contextlib.contextmanager
def open_lmdb(path: Path | str, *, readahead: bool = True) -> Iterator[Any]:
    """A read transaction on the members that gives buffers, not copies: py-lmdb at its quickest."""
    import lmdb

    with lmdb.open(str(path), readonly=True, lock=False, max_dbs=1, map_size=LMDB_MAP_BYTES, readahead=readahead) as environment:
        database = environment.open_db(LMDB_NAME, integerkey=True, create=False)
        with environment.begin(db=database, buffers=True) as transaction:
            yield transaction


def fastavro_decoder() -> Callable[[Any], dict[str, Any]]:
    """Bytes of a member -> dict with the vector as a list of floats: fastavro's own decoder, its schema parsed once."""
    import fastavro

    parsed, read, stream = fastavro.parse_schema(ARRAY_SCHEMA), fastavro.schemaless_reader, io.BytesIO
    return lambda data: read(stream(data), parsed, None)


def hand_decoder() -> Callable[[Any], dict[str, Any]]:
    """The same by hand: fastavro for the scalars, and the vector as a NumPy view at the known tail."""
    import fastavro

    parsed, read, stream = fastavro.parse_schema(SCALARS_SCHEMA), fastavro.schemaless_reader, io.BytesIO

    def decode(data: Any) -> dict[str, Any]:
        row = read(stream(data), parsed, None)
        row["emb"] = np.frombuffer(data, "<f4", DIM, len(data) - ARRAY_TAIL_BYTES)
        return row

    return decode


def touch_file(path: Path) -> None:
    """Read a file, or every file below a directory, once, so that it lies in the page cache."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            with open(file, "rb", buffering=0) as stream:
                while stream.read(8 << 20):
                    pass
