"""How many records a second does the log take, 200 bytes each in batches of 1,000, every batch synced to disk?

One process, one thread, one partition; every path gets the same values as a list of 1,000 bytes objects and packs them itself, inside the
timed call. All files lie beside each other in the work folder and grow through the whole run; a round is ten batches of each path, so that
whatever else the disk is doing meets all of them. The disk decides most of it: `plain file` says what it takes at all.

Where the peers differ in what they do:
* Fondaco appends one batch a call with durability "disk" (fdatasync before it is visible), or "os"; with keys of 8 bytes as well, which the
  peers have as their integer keys; from columns that are there already; and "group", four threads that append 250 records each.
* SQLite: a table (at INTEGER PRIMARY KEY, value BLOB), `journal_mode=wal`, `synchronous=full`, one `executemany` and one commit a batch;
  without durability: `synchronous=off`.
* LMDB: one transaction and one `putmulti(append=True)` a batch, keys are big-endian offsets; without durability: `sync=False`.
* Plain file: `os.write` of the joined values and `fdatasync`: what the disk itself takes.

Also: reading it all back from the begin, and how long after the begin of an append a reader in another process has the record, at 200
appends a second of one record.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Figures, Report, Settings, alternate, in_rate, in_us, main, time_calls, times_higher
from benchmarks._machine import ROOT
from benchmarks._peers import have
from fondaco.log import EmbeddedLog, Record, RecordBatch, TopicConfig

NAME = "log_append"
QUESTION = "How many records a second does the log take, synced, against SQLite and LMDB?"
BATCH = 1_000
VALUE_BYTES = 200
DISK, OS = "Fondaco, disk", "Fondaco, os"
SQLITE, LMDB = "SQLite WAL, synchronous=full", "LMDB append, synced"
SQLITE_OS, LMDB_OS = "SQLite WAL, synchronous=off", "LMDB append, sync=False"
Append = Callable[[list[bytes]], object]


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    batches = 10
    rounds = settings.choose_rounds(full=max(1, settings.choose_rows(full=600_000, quick=0) // (BATCH * batches)), quick=4)
    _say_what_a_sync_costs(report, settings.workdir)
    report.sizes = {"records_per_batch": BATCH, "value_bytes": VALUE_BYTES, "batches_per_round": batches, "rounds": rounds}
    rng = np.random.default_rng(settings.seed)
    values = [[rng.bytes(VALUE_BYTES) for _ in range(BATCH)] for _ in range(8)]  # taken in turn; nobody compresses
    openers: dict[str, Callable[[ExitStack, Path], Append]] = {
        DISK: lambda stack, path: _fondaco(stack, path, "disk"),
        OS: lambda stack, path: _fondaco(stack, path, "os"),
        "Fondaco, disk, with keys": lambda stack, path: _fondaco_keyed(stack, path, values),
        "Fondaco, disk, from columns": lambda stack, path: _fondaco_columns(stack, path, values),
        "Fondaco, disk, 4 threads of 250": _fondaco_group,
        SQLITE: lambda stack, path: _sqlite(stack, path, "full"),
        SQLITE_OS: lambda stack, path: _sqlite(stack, path, "off"),
        "plain file, fdatasync": _plain,
    }
    if have(report, "lmdb"):
        openers[LMDB] = lambda stack, path: _lmdb(stack, path, synced=True)
        openers[LMDB_OS] = lambda stack, path: _lmdb(stack, path, synced=False)
    folder = settings.workdir / "log_append"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        paths: dict[str, Callable[[int], Figures]] = {}
        for number, (name, opener) in enumerate(openers.items()):
            (folder / str(number)).mkdir(parents=True)
            append = opener(stack, folder / str(number))
            append(values[0])
            paths[name] = _path(append, values, batches)
        results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    _judge(report, results)
    _read_back(report, settings.workdir / "log_read", values, rounds * batches)
    _follow(report, settings.workdir / "log_follow", count=100 if settings.quick else 1_000)


def _say_what_a_sync_costs(report: Report, workdir: Path) -> None:
    """The goals were set where a sync took 2 to 4 ms; where it takes less, the packing of records weighs more, ours and the peers'."""
    path = workdir / "log_sync"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, bytes(4096))
    os.fsync(descriptor)
    figures = time_calls(lambda data: (os.pwrite(descriptor, data, 0), os.fdatasync(descriptor)), [bytes([i]) * 4096 for i in range(100)])
    os.close(descriptor)
    path.unlink()
    report.note(f"writing over 4 KiB and syncing takes {figures['p50_us']:.0f} µs here (p50); the goals were set where it took 2 to 4 ms")


def _path(append: Append, values: Sequence[list[bytes]], batches: int) -> Callable[[int], Figures]:
    """`batches` appends a round. Short rounds: what else the disk is doing should meet all paths alike."""
    return lambda index: time_calls(append, [values[(index + i) % len(values)] for i in range(batches)], scale=BATCH)


# -- ours ---------------------------------------------------------------------------------------------------------------------------------


def _log(stack: ExitStack, directory: Path) -> EmbeddedLog:
    log = stack.enter_context(EmbeddedLog(directory))
    log.create_topic("t", TopicConfig(1))
    return log


def _fondaco(stack: ExitStack, directory: Path, durability: Any) -> Append:
    log = _log(stack, directory)
    return lambda values: log.append("t", 0, RecordBatch.from_values(values), durability=durability)


def _fondaco_keyed(stack: ExitStack, directory: Path, values: Sequence[list[bytes]]) -> Append:
    log = _log(stack, directory)
    keys = [struct.pack("<q", i) for i in range(BATCH)]
    return lambda values: log.append("t", 0, RecordBatch.from_values(values, keys), durability="disk")


def _fondaco_columns(stack: ExitStack, directory: Path, values: Sequence[list[bytes]]) -> Append:
    log = _log(stack, directory)
    made = {id(each): RecordBatch.from_values(each) for each in values}
    return lambda values: log.append("t", 0, made[id(values)], durability="disk")


def _fondaco_group(stack: ExitStack, directory: Path) -> Append:
    log = _log(stack, directory)
    barriers = threading.Barrier(5), threading.Barrier(5)
    shared: dict[str, list[bytes]] = {}

    def work(part: int) -> None:
        while True:
            barriers[0].wait()
            if not shared["values"]:
                return
            log.append("t", 0, RecordBatch.from_values(shared["values"][part * 250 : part * 250 + 250]), durability="disk")
            barriers[1].wait()

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()

    def stop() -> None:
        shared["values"] = []
        barriers[0].wait()
        for thread in threads:
            thread.join()

    def append(values: list[bytes]) -> None:
        shared["values"] = values
        barriers[0].wait()
        barriers[1].wait()

    stack.callback(stop)
    return append


# -- peers --------------------------------------------------------------------------------------------------------------------------------


def _sqlite(stack: ExitStack, directory: Path, synchronous: str) -> Append:
    connection = sqlite3.connect(directory / "log.db", isolation_level=None)
    stack.callback(connection.close)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("CREATE TABLE log (at INTEGER PRIMARY KEY, value BLOB)")

    def append(values: list[bytes]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO log (value) VALUES (?)", [(value,) for value in values])
        connection.execute("COMMIT")

    return append


def _lmdb(stack: ExitStack, directory: Path, *, synced: bool) -> Append:
    import lmdb

    environment = lmdb.open(str(directory / "lmdb"), map_size=8 << 30, sync=synced, metasync=synced)
    stack.callback(environment.close)
    at = 0

    def append(values: list[bytes]) -> None:
        nonlocal at
        keys = [offset.to_bytes(8, "big") for offset in range(at, at + len(values))]
        with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(list(zip(keys, values, strict=True)), append=True)
        at += len(values)

    return append


def _plain(stack: ExitStack, directory: Path) -> Append:
    descriptor = os.open(directory / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stack.callback(os.close, descriptor)

    def append(values: list[bytes]) -> None:
        os.write(descriptor, b"".join(values))
        os.fdatasync(descriptor)

    return append


# -- what was found -----------------------------------------------------------------------------------------------------------------------


def _judge(report: Report, results: dict[str, list[Figures]]) -> None:
    def compare(question: str, ours: str, peer: str, at_least: float | None = None) -> None:
        if peer in results:
            ratio = times_higher(results[ours], results[peer], "per_s")
            figure = f"{in_rate(results[ours], 'records')}; {in_us(results[ours])}"
            report.found(question, figure, f"{peer}: {in_rate(results[peer], 'records')}; {in_us(results[peer])}", ratio, at_least=at_least)

    compare("1,000 records synced", DISK, SQLITE, 8)
    compare("1,000 records synced", DISK, LMDB, 4)
    compare("1,000 records with keys synced", "Fondaco, disk, with keys", SQLITE)
    compare("1,000 records with keys synced", "Fondaco, disk, with keys", LMDB)
    compare("1,000 records from columns synced", "Fondaco, disk, from columns", LMDB)
    compare("4 threads of 250 records synced", "Fondaco, disk, 4 threads of 250", LMDB)
    compare("1,000 records, durability os", OS, SQLITE_OS)
    compare("1,000 records, durability os", OS, LMDB_OS)
    compare("1,000 records synced", DISK, "plain file, fdatasync")


def _read_back(report: Report, directory: Path, values: Sequence[list[bytes]], batches: int) -> None:
    """Records a second of one reader from the begin, as columns and as objects."""
    with EmbeddedLog(directory) as log:
        log.create_topic("t", TopicConfig(1))
        for i in range(batches):
            log.append("t", 0, RecordBatch.from_values(values[i % len(values)]))
        for name, use in (("columns", len), ("single records", lambda batch: sum(1 for _ in batch.records()))):
            rates = []
            for _ in range(3):
                offset, seen, begin = 0, 0, time.perf_counter()
                while offset < log.high_watermark("t", 0):
                    batch = log.read("t", 0, offset)
                    seen, offset = seen + use(batch), batch.next_offset
                rates.append({"per_s": seen / (time.perf_counter() - begin)})
            report.found(f"reading all back as {name}", in_rate(rates, "records"))
    shutil.rmtree(directory)


_FOLLOWER = """
import sys, time
import numpy as np
from fondaco.log import EmbeddedLog
with EmbeddedLog(sys.argv[1]) as log:
    late = []
    offset = log.read("t", 0, 0).next_offset  # the first one loads the kernels
    print("following", flush=True)
    while len(late) < int(sys.argv[2]):
        batch = log.read("t", 0, offset, wait_s=10)
        now = time.time_ns()
        late += [now - int(value) for value in batch.values()]
        offset = batch.next_offset
print(*np.percentile(late, [50, 99]))
"""


def _follow(report: Report, directory: Path, *, count: int) -> None:
    """From the begin of an append to a reader in another process, 200 a second of one record."""
    for durability in ("os", "disk"):
        with EmbeddedLog(directory) as log:
            log.create_topic("t", TopicConfig(1))
            log.append("t", 0, [Record(None, b"first")])
            command = [sys.executable, "-c", _FOLLOWER, str(directory), str(count)]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as follower:
                assert follower.stdout is not None
                follower.stdout.readline()
                for _ in range(count):
                    log.append("t", 0, [Record(None, b"%d" % time.time_ns())], durability=durability)  # type: ignore[arg-type]
                    time.sleep(0.005)
                p50, p99 = (float(text) / 1e6 for text in follower.stdout.readline().split())
        report.found(f"append ({durability}) -> seen in another process", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
