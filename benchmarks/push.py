"""How fast do rows in Arrow become readable, small ones and large ones?

5M rows of about 64 bytes (`_counters.py`) and 5M of about 600 (`_members.py`), each in a memory-mapped Arrow IPC file in the page
cache. The time runs from the first batch to a key read back, every load in a fresh process (imports, and for Fondaco a push of 1,000
other rows that loads its kernels, not counted) into an empty directory. Rounds alternate; peak memory is VmHWM, mapped file pages
included.

Where the peers differ in what they do:
* Fondaco validates, encodes, hashes, partitions (8), finds duplicates, writes with checksums, verifies counts and checksums, syncs and
  swaps. One push with `compression="none"` is compared; `auto`, the default, is shown beside it.
* Rows come in key order, which LMDB and RocksDB need and Fondaco does not use: the peers' sort is free.
* LMDB + fastavro encodes each row from `to_pylist` and loads in append mode, one commit, one sync. Its cost is linear in the rows, so
  it gets 100,000 (64 B) or 20,000 (600 B) of them and the rate is compared. `vector by hand` writes the vector as `fixed` from NumPy
  bytes.
* LMDB and RocksDB on ready bytes get (key, encoded value) in Arrow: nothing is validated or encoded, keys become bytes objects because
  their APIs ask for them. RocksDB writes one SST file, uncompressed, and ingests it. Neither computes checksums of its own over the
  whole (RocksDB: per block).
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import _counters, _members
from benchmarks._child import call, note_peak
from benchmarks._harness import Figures, Report, Settings, alternate, build_once, in_rate, main, median_of, times_higher
from benchmarks._members import load_lmdb, open_lmdb, read_arrow, write_arrow
from benchmarks._peers import have

NAME = "push"
QUESTION = "How fast do rows in Arrow become readable?"
KINDS = {"64 B": _counters, "600 B": _members}
FONDACO, AUTO, FASTAVRO, BY_HAND = "Fondaco push", "Fondaco push, auto", "LMDB + fastavro", "LMDB + fastavro, vector by hand"
LMDB, ROCKSDB = "LMDB, ready bytes", "RocksDB, ready bytes"


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=5_000_000, quick=4_000), settings.choose_rounds(full=3, quick=1)
    report.sizes = {"rows": rows, "rounds": rounds}
    peers = have(report, "lmdb", "fastavro"), have(report, "rocksdict")
    for kind, module in KINDS.items():
        sample = min(rows, 100_000 if kind == "64 B" else 20_000)
        report.sizes[f"rows given to fastavro, {kind}"] = sample
        source = str(module.arrow_file(settings.workdir, rows=rows, seed=settings.seed))
        paths: dict[str, Callable[[int], Figures]] = {
            FONDACO: _path(settings, push_fondaco, kind=kind, source=source, rows=rows, compression="none"),
            AUTO: _path(settings, push_fondaco, kind=kind, source=source, rows=rows, compression="auto"),
        }
        if peers[0]:
            paths[FASTAVRO] = _path(settings, load_fastavro, kind=kind, source=source, rows=sample, by_hand=False)
            if kind == "600 B":
                paths[BY_HAND] = _path(settings, load_fastavro, kind=kind, source=source, rows=sample, by_hand=True)
        if any(peers):
            ready = str(_ready_file(settings, kind, source, rows))
            loads = {LMDB: load_ready_lmdb, ROCKSDB: load_ready_rocksdb}
            paths |= {
                name: _path(settings, load, source=ready, rows=rows)
                for (name, load), here in zip(loads.items(), peers, strict=True)
                if here
            }
        results = alternate(paths, rounds=rounds)
        report.add_paths({f"{kind}: {name}": figures for name, figures in results.items()})
        _judge(report, kind, results)


def _path(settings: Settings, load: Callable[..., dict[str, Any]], **arguments: Any) -> Callable[[int], Figures]:
    def run(_: int) -> Figures:
        target = settings.workdir / "push-target"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        try:
            answer = call(load, target=str(target), **arguments)
            size = sum(file.stat().st_blocks * 512 for file in target.rglob("*") if file.is_file())
        finally:
            shutil.rmtree(target, ignore_errors=True)
        rows = arguments["rows"]
        return {
            "seconds": answer["seconds"],
            "per_s": rows / answer["seconds"],
            "peak_mib": answer["vm_hwm_bytes"] / (1 << 20),
            "bytes_per_row": size / rows,
        }

    return run


def _ready_file(settings: Settings, kind: str, source: str, rows: int) -> Path:
    """(key, value) with the values encoded, in key order."""

    def build(directory: Path) -> None:
        call(make_ready, kind=kind, source=source, target=str(directory / "ready.arrow"))

    return build_once(settings.workdir / f"ready-{kind.split()[0]}-{rows}-{settings.seed}", build) / "ready.arrow"


def _judge(report: Report, kind: str, results: dict[str, list[Figures]]) -> None:
    goals = {FASTAVRO: 10.0, LMDB: 1.5}
    ours = results[FONDACO]
    figure = f"{in_rate(ours, 'rows')}, peak {median_of(ours, 'peak_mib'):.0f} MiB"
    for name, theirs in results.items():
        if name == FONDACO:
            continue
        ratio = times_higher(ours, theirs, "per_s")
        peer = f"{name}: {in_rate(theirs, 'rows')}, peak {median_of(theirs, 'peak_mib'):.0f} MiB"
        report.found(f"push {kind} rows until readable", figure, peer, ratio, at_least=goals.get(name))


# -- in child processes -------------------------------------------------------------------------------------------------------------


def push_fondaco(*, target: str, kind: str, source: str, rows: int, compression: str) -> dict[str, Any]:
    """Push the Arrow file and read one key back."""
    import fondaco as fd

    module = KINDS[kind]
    key, batches = _first_key(source), read_arrow(source)
    with fd.open(Path(target) / "warm") as platform:
        warm = platform.create_store("warm", key="long", value=module.SCHEMA, partitions=2, compression=compression)
        warm.push(pa.Table.from_batches(module.batches(rows=1_000, seed=1)))
        with warm.reader() as reader:
            reader.get(0)
    with fd.open(Path(target) / "platform") as platform:
        begin = time.perf_counter()
        store = platform.create_store("rows", key="long", value=module.SCHEMA, partitions=8, compression=compression)
        pushed = store.push(batches)
        with store.reader() as reader:
            found = reader.get(key)
        seconds = time.perf_counter() - begin
    note_peak()
    assert found is not None
    assert pushed.records == rows, f"{rows} rows pushed, {pushed.records} counted"
    shutil.rmtree(Path(target) / "warm")
    return {"seconds": seconds}


def load_fastavro(*, target: str, kind: str, source: str, rows: int, by_hand: bool) -> dict[str, Any]:
    """Encode with fastavro and load LMDB in key order."""
    import fastavro
    import lmdb  # noqa: F401  (imports are not timed)

    module = KINDS[kind]
    schema = fastavro.parse_schema(module.SCHEMA if by_hand else module.ARRAY_SCHEMA)
    write = fastavro.schemaless_writer

    def encoded() -> Iterator[tuple[np.ndarray, list[bytes]]]:
        left = rows
        for batch in read_arrow(source):
            part = batch.slice(0, left)
            values = []
            for row in _vector_as_bytes(part) if by_hand else part.to_pylist():
                stream = io.BytesIO()
                write(stream, schema, row)
                values.append(stream.getvalue())
            yield part.column("key").to_numpy(), values
            left -= part.num_rows
            if not left:
                return

    key = _first_key(source)
    begin = time.perf_counter()
    load_lmdb(target, encoded())
    return {"seconds": _read_back(target, key, begin)}


def _vector_as_bytes(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    vectors = batch.column("emb").flatten().to_numpy().reshape(batch.num_rows, -1)
    for row, vector in zip(batch.drop_columns(["emb"]).to_pylist(), vectors, strict=True):
        row["emb"] = vector.tobytes()
        yield row


def load_ready_lmdb(*, target: str, source: str, rows: int) -> dict[str, Any]:
    """Load ready bytes into LMDB."""
    import lmdb  # noqa: F401  (imports are not timed)

    del rows
    key = _first_key(source)
    begin = time.perf_counter()
    load_lmdb(target, ((batch.column("key").to_numpy(), batch.column("value").to_pylist()) for batch in read_arrow(source)))
    return {"seconds": _read_back(target, key, begin)}


def load_ready_rocksdb(*, target: str, source: str, rows: int) -> dict[str, Any]:
    """Write ready bytes to an SST file and ingest it. Keys are big-endian, so that bytes compare like numbers."""
    from rocksdict import DBCompressionType, Options, Rdict, SstFileWriter

    del rows
    key = _first_key(source).to_bytes(8, "big")
    begin = time.perf_counter()
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.none())
    sst = f"{target}/rows.sst"
    writer = SstFileWriter(options)
    writer.open(sst)
    for batch in read_arrow(source):
        raw = batch.column("key").to_numpy().astype(">u8").tobytes()
        for index, value in enumerate(batch.column("value").to_pylist()):
            writer[raw[8 * index : 8 * index + 8]] = value
    writer.finish()
    database = Rdict(f"{target}/rocksdb", options)
    database.ingest_external_file([sst])
    found = database.get(key)
    seconds = time.perf_counter() - begin
    note_peak()
    assert found is not None
    database.close()
    Path(sst).unlink(missing_ok=True)
    return {"seconds": seconds}


def make_ready(*, kind: str, source: str, target: str) -> dict[str, Any]:
    """Encode an Arrow file's rows into (key, value)."""
    module = KINDS[kind]

    def ready() -> Iterator[pa.RecordBatch]:
        for batch in read_arrow(source):
            values = pa.array(_members.rows_bytes(batch, module.SCHEMA), pa.binary())
            yield pa.RecordBatch.from_pydict({"key": batch.column("key"), "value": values})

    write_arrow(Path(target), ready())
    return {}


def _first_key(source: str) -> int:
    """The key to read back. Asked for before the clock starts: pyarrow imports pandas at its first conversion to NumPy."""
    return int(next(iter(read_arrow(source))).column("key").to_numpy()[0])


def _read_back(target: str, key: int, begin: float) -> float:
    """Seconds since `begin` once the key is read from the LMDB environment."""
    with open_lmdb(target) as transaction:
        assert transaction.get(_members.lmdb_key(key)) is not None
        seconds = time.perf_counter() - begin
    note_peak()
    return seconds


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
