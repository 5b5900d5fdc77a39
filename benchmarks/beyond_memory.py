"""How many random gets a second when the data is three times the memory?

5M members (`_members.py`); the cap is a third of the bytes of keys and values together, so it is the same for every engine whatever its
file needs. Each engine reads in a fresh process inside a memory control group with that cap (interpreter, libraries and page cache all
count against it), after its files have been dropped from the page cache (checked with mincore(2)). Ids are drawn uniformly, all
present. First single gets for a set time, of which the second half, with the cache full, is compared; then batches of 200 for a set
time.

Where the peers differ in what they do: each get returns the row and sums its vector, so that every page of it is touched. Fondaco
decodes the vector through its lazy row (batches: into a column); LMDB, opened with readahead off, and RocksDB take it by NumPy at the
known tail and decode nothing else. RocksDB (block table, a quarter of the cap as its cache, mapped reads off) is shown for information.
In quick mode the cap does not bind: it only shows that all runs.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _members
from benchmarks._child import call, caps_available
from benchmarks._harness import (
    Figures,
    Report,
    Settings,
    alternate,
    build_once,
    figures_of,
    in_rate,
    in_us,
    main,
    quiet_collector,
    times_higher,
)
from benchmarks._members import (
    ARRAY_TAIL_BYTES,
    DIM,
    arrow_file,
    fondaco_platform,
    lmdb_environment,
    lmdb_key,
    member_ids,
    open_lmdb,
    read_arrow,
)
from benchmarks._peers import have

NAME = "beyond_memory"
QUESTION = "How many random gets a second when the data is three times the memory?"
TIMES_CAP = 3
BATCH = 200
CAP_BYTES_MIN = 400 << 20  # below this the interpreter and its libraries alone would fill the cap
FONDACO, LMDB, ROCKSDB = "Fondaco", "LMDB, readahead off", "RocksDB"


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=5_000_000, quick=3_000), settings.choose_rounds(full=3, quick=1)
    seconds = 0.3 if settings.quick else 20.0
    source = arrow_file(settings.workdir, rows=rows, seed=settings.seed)
    data_bytes = _data_bytes(source)
    cap = max(data_bytes // TIMES_CAP, CAP_BYTES_MIN)
    report.sizes = {"rows": rows, "rounds": rounds, "data_bytes": data_bytes, "cap_bytes": cap, "seconds_of_gets": seconds}
    if data_bytes < TIMES_CAP * cap:
        report.note(
            f"the cap does not bind: data is {data_bytes / cap:.2f}x the cap, not {TIMES_CAP}x; figures say nothing about disk reads"
        )
    why_not = caps_available()
    if why_not is not None:
        report.note(f"{why_not}: ran without a cap, so all reads are from memory and the goal cannot be judged")
    engines: dict[str, tuple[Path, Callable[..., dict[str, Any]]]] = {
        FONDACO: (fondaco_platform(settings.workdir, rows=rows, seed=settings.seed), read_fondaco)
    }
    if have(report, "lmdb", "fastavro"):
        engines[LMDB] = (lmdb_environment(settings.workdir, rows=rows, seed=settings.seed), read_lmdb)
    if have(report, "rocksdict"):
        engines[ROCKSDB] = (_rocksdb(settings, source, rows), read_rocksdb)

    def path(directory: Path, read: Callable[..., dict[str, Any]]) -> Callable[[int], Figures]:
        def run(round_index: int) -> Figures:
            left = drop_from_cache([directory, source])
            assert left < 0.01, f"{left:.0%} of {directory.name} would not leave the page cache"
            capped = {"cap_bytes": cap} if why_not is None else {}
            answer = call(read, path=str(directory), rows=rows, seconds=seconds, seed=[settings.seed, round_index], cap=cap, **capped)
            return {**answer["gets"], "batch_keys_per_s": answer["batches"]["per_s"], "peak_mib": answer["vm_hwm_bytes"] / (1 << 20)}

        return run

    results = alternate({name: path(*engine) for name, engine in engines.items()}, rounds=rounds)
    report.add_paths(results)
    for peer in (LMDB, ROCKSDB):
        if peer not in results:
            continue
        ratio = times_higher(results[FONDACO], results[peer], "per_s")
        binds = why_not is None and data_bytes >= TIMES_CAP * cap
        figure = f"{in_rate(results[FONDACO], 'gets')}; {in_us(results[FONDACO])}"
        theirs = f"{peer}: {in_rate(results[peer], 'gets')}; {in_us(results[peer])}"
        report.found("random gets, data 3x the memory", figure, theirs, ratio, at_least=1 if peer == LMDB and binds else None)
        ratio = times_higher(results[FONDACO], results[peer], "batch_keys_per_s")
        figure, theirs = (in_rate(results[name], "keys", "batch_keys_per_s") for name in (FONDACO, peer))
        report.found(f"batches of {BATCH}, data 3x the memory", figure, f"{peer}: {theirs}", ratio)


def _data_bytes(source: Path) -> int:
    """Bytes of all keys (8 each) and values, from the sizes of one batch's encoded rows: the rows are alike."""
    batch = next(iter(read_arrow(source)))
    encoded = _members.rows_bytes(batch.slice(0, 2_000), _members.SCHEMA)
    rows = sum(part.num_rows for part in read_arrow(source))
    return round(rows * (8 + sum(map(len, encoded)) / len(encoded)))


def _rocksdb(settings: Settings, source: Path, rows: int) -> Path:
    def build(directory: Path) -> None:
        call(fill_rocksdb, source=str(source), path=str(directory / "rocksdb"))

    return build_once(settings.workdir / f"members-rocksdb-{rows}-{settings.seed}", build) / "rocksdb"


# -- cold caches --------------------------------------------------------------------------------------------------------------------


def drop_from_cache(paths: list[Path]) -> float:
    """Write back and drop every file below `paths` from the page cache; returns the share of their pages that stayed."""
    resident = pages = 0
    for file in _files(paths):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            counts = _residency(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        resident, pages = resident + counts[0], pages + counts[1]
    return resident / max(pages, 1)


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file() and file.stat().st_size)


def _residency(descriptor: int, size: int) -> tuple[int, int]:
    """(resident pages, pages) of a file, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    pages = -(-size // mmap.PAGESIZE)
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
    flags = ctypes.create_string_buffer(pages)
    try:
        assert libc.mincore(address, size, flags) == 0, os.strerror(ctypes.get_errno())
    finally:
        libc.munmap(address, size)
    return int((np.frombuffer(flags.raw, np.uint8) & 1).sum()), pages


# -- in child processes, under the cap ----------------------------------------------------------------------------------------------


def _read(get: Callable[[int], Any], get_batch: Callable[[np.ndarray], Any], rows: int, seconds: float, seed: list[int]) -> dict[str, Any]:
    """Single gets for `seconds`, the second half reported; then batches for a third of it, all reported.

    With them: disk reads (major faults) per get over all, and the MiB of memory that is not file pages, which the cap takes from the cache.
    """
    ids, rng, clock = member_ids(rows), np.random.default_rng(seed), time.perf_counter_ns
    elapsed = array.array("q")  # 8 bytes a call: a list of integers would take 40, under a cap that counts them
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    end = time.perf_counter() + seconds
    with quiet_collector():
        while time.perf_counter() < end or not elapsed:
            for key in ids[rng.integers(0, rows, 500)].tolist():
                begin = clock()
                get(key)
                elapsed.append(clock() - begin)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
    batches: list[int] = []
    end = time.perf_counter() + seconds / 3
    with quiet_collector():
        while time.perf_counter() < end or not batches:
            keys = ids[rng.integers(0, rows, BATCH)]
            begin = clock()
            get_batch(keys)
            batches.append(clock() - begin)
    every = np.frombuffer(elapsed, np.int64)
    spent = np.cumsum(every)
    warm = every[spent >= spent[-1] // 2]
    gets = {**figures_of(warm), "disk_reads_per_get": faults / len(elapsed), "own_memory_mib": _own_memory_mib()}
    return {"gets": gets, "batches": figures_of(np.array(batches), scale=BATCH)}


def _own_memory_mib() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) / 1024


def read_fondaco(*, path: str, rows: int, seconds: float, seed: list[int], cap: int) -> dict[str, Any]:
    """Read through the embedded reader."""
    import fondaco as fd

    del cap
    with ExitStack() as stack:
        reader = stack.enter_context(stack.enter_context(fd.open(path)).store("members").reader())
        return _read(
            lambda key: reader.get(key)["emb"].sum(), lambda keys: reader.get_columns(keys, ["emb"])["emb"].sum(axis=1), rows, seconds, seed
        )


def read_lmdb(*, path: str, rows: int, seconds: float, seed: list[int], cap: int) -> dict[str, Any]:
    """Read from LMDB with readahead off; batches by a loop of get, which py-lmdb does quicker than getmulti."""
    del cap
    with open_lmdb(path, readahead=False) as transaction:
        fetch = transaction.get
        return _read(
            lambda key: _vector(fetch(lmdb_key(key))).sum(),
            lambda keys: np.stack([_vector(fetch(lmdb_key(key))) for key in keys.tolist()]).sum(axis=1),
            rows,
            seconds,
            seed,
        )


def _vector(value: Any) -> np.ndarray:
    return np.frombuffer(value, "<f4", DIM, len(value) - ARRAY_TAIL_BYTES)


def read_rocksdb(*, path: str, rows: int, seconds: float, seed: list[int], cap: int) -> dict[str, Any]:
    """Read from RocksDB with a block cache of a quarter of the cap."""
    from rocksdict import AccessType, BlockBasedOptions, Cache, Rdict

    options = _rocksdb_options()
    table = BlockBasedOptions()
    table.set_block_cache(Cache(cap // 4))
    table.set_block_size(4096)
    options.set_block_based_table_factory(table)
    database = Rdict(path, options, access_type=AccessType.read_only())
    fetch = database.get

    def vectors(keys: np.ndarray) -> np.ndarray:
        raw = keys.astype(">u8").tobytes()
        return np.stack([_vector(value) for value in fetch([raw[at : at + 8] for at in range(0, len(raw), 8)])]).sum(axis=1)

    try:
        return _read(lambda key: _vector(fetch(key.to_bytes(8, "big"))).sum(), vectors, rows, seconds, seed)
    finally:
        database.close()


def fill_rocksdb(*, source: str, path: str) -> dict[str, Any]:
    """Write the members to an SST file and ingest it."""
    from rocksdict import Rdict, SstFileWriter

    options = _rocksdb_options()
    writer = SstFileWriter(options)
    writer.open(f"{path}.sst")
    for batch in read_arrow(source):
        raw = batch.column("key").to_numpy().astype(">u8").tobytes()
        for index, value in enumerate(_members.rows_bytes(batch, _members.ARRAY_SCHEMA)):
            writer[raw[8 * index : 8 * index + 8]] = value
    writer.finish()
    database = Rdict(path, options)
    database.ingest_external_file([f"{path}.sst"])
    database.close()
    Path(f"{path}.sst").unlink(missing_ok=True)
    return {}


def _rocksdb_options() -> Any:
    from rocksdict import DBCompressionType, Options

    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.none())
    return options


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
