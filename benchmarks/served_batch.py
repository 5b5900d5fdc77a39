"""How long does a batch get of 100 and of 1,000 vectors over the network take?

200,000 members (`_members.py`), all in memory; the field asked for is the 128-d float32 vector. The server has one core, the client
another. Fondaco answers with columns: one matrix a batch, ready for arithmetic. Redis answers MGET through redis-py with hiredis with a
list of bytes objects, one vector each; a second path also stacks them into a matrix, which is what a user does next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

import fondaco as fd
from benchmarks._harness import Figures, Report, Settings, alternate, in_rate, in_us, main, time_calls, times_higher, times_lower
from benchmarks._members import arrow_file, fondaco_platform, member_ids, read_arrow, touch_file
from benchmarks._peers import RedisServer, have_redis
from benchmarks._served import FondacoServer, client_core, server_core

NAME = "served_batch"
QUESTION = "How long does a batch get of 100 and of 1,000 vectors over the network take?"
SIZES = (100, 1_000)
DIM = 128


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=200_000, quick=2_000), settings.choose_rounds(full=9)
    calls = 10 if settings.quick else 200
    report.sizes = {"rows": rows, "rounds": rounds, "batches_per_round": calls, "dim": DIM}
    ids = member_ids(rows)
    with ExitStack() as stack:
        directory = fondaco_platform(settings.workdir, rows=rows, seed=settings.seed)
        touch_file(directory)
        server = stack.enter_context(FondacoServer(directory))
        remote = fd.connect(server.url).store("members")
        readers = {tier: stack.enter_context(remote.reader(tier=tier)) for tier in ("thin", "fast")}
        fetches: dict[str, Callable[[np.ndarray], Any]] = {
            tier: lambda keys, reader=reader: reader.get_columns(keys, ["emb"])["emb"]  # type: ignore[misc]
            for tier, reader in readers.items()
        }
        if have_redis(report):
            redis = stack.enter_context(RedisServer())
            os.sched_setaffinity(redis.pid, {server_core()})
            client = redis.client()
            for batch in read_arrow(arrow_file(settings.workdir, rows=rows, seed=settings.seed)):
                vectors = batch.column("emb").flatten().to_numpy().reshape(-1, DIM)
                client.mset({key: vector.tobytes() for key, vector in zip(batch.column("key").to_pylist(), vectors, strict=True)})
            fetches["Redis MGET"] = lambda keys: client.mget(keys.tolist())
            fetches["Redis MGET, stacked"] = lambda keys: np.frombuffer(b"".join(client.mget(keys.tolist())), np.float32).reshape(-1, DIM)
            _check(fetches, ids[:100])

        def path(fetch: Callable[[np.ndarray], Any], size: int) -> Callable[[int], Figures]:
            def run(index: int) -> Figures:
                rng = np.random.default_rng([settings.seed, index, size])
                return time_calls(fetch, [ids[rng.integers(0, len(ids), size)] for _ in range(calls)], scale=size)

            return run

        with client_core():
            results = alternate({f"{name}, {size}": path(fetch, size) for size in SIZES for name, fetch in fetches.items()}, rounds=rounds)
    report.add_paths(results)
    for size in SIZES:
        peer = f"Redis MGET, {size}"
        if peer not in results:
            continue
        for tier in readers:
            ours = results[f"{tier}, {size}"]
            figure, theirs = f"{in_us(ours)}; {in_rate(ours, 'keys')}", f"MGET: {in_us(results[peer])}; {in_rate(results[peer], 'keys')}"
            goal = 2.0 if tier == "thin" else None
            report.found(f"{tier}, {size} vectors, time", figure, theirs, times_lower(ours, results[peer], "p50_us"), at_least=goal)
            report.found(f"{tier}, {size} vectors, keys/s", figure, theirs, times_higher(ours, results[peer], "per_s"), at_least=goal)


def _check(fetches: dict[str, Callable[[np.ndarray], Any]], keys: np.ndarray) -> None:
    expected = fetches["Redis MGET, stacked"](keys)
    for tier in ("thin", "fast"):
        assert np.array_equal(np.asarray(fetches[tier](keys)), expected), f"{tier} and Redis disagree"


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
