"""How many keys a second does a batch get of 1,000 keys read into columns?

5M members (`_members.py`), in memory; every batch draws 1,000 ids uniformly, all present, as an int64 array; every field is asked for.
One thread. Per round each path reads the same batches; the paths that decode row by row fewer of them.

Where the peers differ in what they do:
* Fondaco decodes into NumPy columns (`get_columns`) in one kernel call; strings stay offset and length until a column is touched, so
  one path also touches every column, and one makes dicts of rows (`get_many`, then `dict`).
* LMDB getmulti + fastavro gives a dict a row, the vector a list of floats: what the goal names. `by hand` is fastavro for the scalars
  and `np.frombuffer` for the vector, and `loop` reads with single gets, which py-lmdb does quicker than getmulti.
* Redis gives undecoded bytes objects through redis-py with hiredis over TCP on loopback, MGET of 1,000 keys: it decodes nothing.
* The zstd store compresses with a trained dictionary (most of a row is random floats, which hardly shrink, so the figure is of the work
  of decompressing and not of bytes saved); its peers stay uncompressed. It holds a fifth of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import fondaco as fd
from benchmarks._harness import Figures, Report, Settings, alternate, in_rate, in_us, main, time_calls, times_higher
from benchmarks._members import (
    ARRAY_SCHEMA,
    arrow_file,
    fastavro_decoder,
    fondaco_platform,
    hand_decoder,
    lmdb_environment,
    lmdb_key,
    member_ids,
    open_lmdb,
    read_arrow,
    rows_bytes,
    touch_file,
)
from benchmarks._peers import RedisServer, have, have_redis

NAME = "batch_get"
QUESTION = "How many keys a second does a batch get of 1,000 keys read into columns?"
BATCH = 1_000
GETMULTI = "LMDB getmulti + fastavro"
MGET = "Redis MGET (bytes only)"


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=5_000_000, quick=3_000), settings.choose_rounds(full=11)
    zstd_rows = max(1_000, rows // 5)
    light, heavy = (4, 2) if settings.quick else (100, 8)
    report.sizes = {"rows": rows, "zstd_rows": zstd_rows, "keys_per_batch": BATCH, "rounds": rounds, "batches_per_round": light}
    ids, zstd_ids = member_ids(rows), member_ids(zstd_rows)
    with ExitStack() as stack:
        plain = _open(stack, fondaco_platform(settings.workdir, rows=rows, seed=settings.seed))
        zstd = _open(stack, fondaco_platform(settings.workdir, rows=zstd_rows, seed=settings.seed, compression="zstd"))
        paths: dict[str, tuple[int, np.ndarray, Callable[[np.ndarray], Any]]] = {
            "Fondaco columns": (light, ids, plain.get_columns),
            "Fondaco columns, each touched": (light, ids, lambda keys: _touch(plain.get_columns(keys))),
            "Fondaco vectors only": (light, ids, lambda keys: plain.get_columns(keys, ["emb"])["emb"]),
            "Fondaco rows as dicts": (heavy, ids, lambda keys: [dict(row) for row in plain.get_many(keys.tolist())]),
            "Fondaco zstd columns": (light, zstd_ids, zstd.get_columns),
        }
        if have(report, "lmdb", "fastavro"):
            paths |= _lmdb_paths(stack, settings, rows, heavy, ids)
        if have_redis(report):
            client = stack.enter_context(RedisServer()).client()
            _fill_redis(client, arrow_file(settings.workdir, rows=rows, seed=settings.seed))
            paths[MGET] = (light, ids, lambda keys: client.mget(keys.tolist()))
        _check(paths, ids[:BATCH])
        for _, ids_of_path, call in paths.values():
            for batch in _batches(ids_of_path, 2, settings.seed, 0):
                call(batch)

        def path(count: int, ids_of_path: np.ndarray, call: Callable[[np.ndarray], Any]) -> Callable[[int], Figures]:
            return lambda index: time_calls(call, _batches(ids_of_path, count, settings.seed, 1 + index), scale=BATCH)

        results = alternate({name: path(*parts) for name, parts in paths.items()}, rounds=rounds)
    report.add_paths(results)
    _judge(report, results)


def _open(stack: ExitStack, directory: Path) -> Any:
    touch_file(directory)
    return stack.enter_context(stack.enter_context(fd.open(directory)).store("members").reader())


def _batches(ids: np.ndarray, count: int, *seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [ids[rng.integers(0, len(ids), BATCH)] for _ in range(count)]


def _touch(columns: Any) -> list[Any]:
    return [columns[name] for name in columns]


def _lmdb_paths(stack: ExitStack, settings: Settings, rows: int, heavy: int, ids: np.ndarray) -> dict[str, Any]:
    environment = lmdb_environment(settings.workdir, rows=rows, seed=settings.seed)
    touch_file(environment)
    transaction = stack.enter_context(open_lmdb(environment))
    cursor = stack.enter_context(transaction.cursor())
    fetch, decode, by_hand = transaction.get, fastavro_decoder(), hand_decoder()

    def keys_of(batch: np.ndarray) -> list[bytes]:
        raw = batch.astype("=u8").tobytes()
        return [raw[at : at + 8] for at in range(0, len(raw), 8)]

    return {
        GETMULTI: (heavy, ids, lambda keys: [decode(value) for _, value in cursor.getmulti(keys_of(keys))]),
        "LMDB getmulti + by hand": (heavy, ids, lambda keys: [by_hand(value) for _, value in cursor.getmulti(keys_of(keys))]),
        "LMDB loop + fastavro": (heavy, ids, lambda keys: [decode(fetch(lmdb_key(key))) for key in keys.tolist()]),
        "LMDB getmulti, raw": (heavy, ids, lambda keys: cursor.getmulti(keys_of(keys))),
    }


def _fill_redis(client: Any, source: Path) -> None:
    """The members under their decimal ids, values as in LMDB."""
    for batch in read_arrow(source):
        pairs = list(zip(batch.column("key").to_pylist(), rows_bytes(batch, ARRAY_SCHEMA), strict=True))
        for at in range(0, len(pairs), 2_000):
            client.mset(dict(pairs[at : at + 2_000]))


def _check(paths: dict[str, Any], keys: np.ndarray) -> None:
    """Stop unless every path finds the same vectors."""
    columns = paths["Fondaco columns"][2](keys)
    assert columns.found.all(), "Fondaco misses members"
    assert (paths["Fondaco zstd columns"][2](keys[:1]).found.shape) == (1,)
    vectors = np.asarray(columns["emb"])
    for name in (GETMULTI, "LMDB getmulti + by hand", "Fondaco rows as dicts"):
        if name in paths:
            other = np.array([row["emb"] for row in paths[name][2](keys)], dtype=np.float32)
            assert np.array_equal(vectors, other), f"Fondaco and {name} disagree"
    if MGET in paths:
        assert all(paths[MGET][2](keys)), "Redis misses members"


def _judge(report: Report, results: dict[str, list[Figures]]) -> None:
    def compare(question: str, ours: str, peer: str, at_least: float | None = None) -> None:
        if peer in results:
            ratio = times_higher(results[ours], results[peer], "per_s")
            figure = f"{in_rate(results[ours], 'keys')}; {in_us(results[ours])}"
            theirs = f"{peer}: {in_rate(results[peer], 'keys')}; {in_us(results[peer])}"
            report.found(question, figure, theirs, ratio, at_least=at_least)

    compare("1,000 keys into columns", "Fondaco columns", GETMULTI, 50)
    compare("1,000 keys into columns, each touched", "Fondaco columns, each touched", GETMULTI)
    compare("1,000 keys into columns", "Fondaco columns", "LMDB loop + fastavro")
    compare("1,000 keys into columns", "Fondaco columns", "LMDB getmulti + by hand")
    compare("1,000 keys, zstd, into columns", "Fondaco zstd columns", GETMULTI, 12)
    compare("1,000 keys into columns", "Fondaco columns", MGET, 4)
    compare("1,000 keys as dicts", "Fondaco rows as dicts", GETMULTI)


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
