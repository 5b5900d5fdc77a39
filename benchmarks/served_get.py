"""How long does a single get over the network take, and how many can one server answer?

200,000 members (`_members.py`), all in memory. The server, Fondaco's data plane or Redis, has one core; the client another.

* Open loop: 2,000 gets a second over one connection, latencies counted from when each was due. Fondaco's thin client gives a row (its
  fields decode when touched), redis-py with hiredis gives the same row's bytes and decodes nothing.
* Saturation: 16 connections, one request in flight on each, prepared requests from one uvloop client for both, which only counts the
  answers: so it is the servers that are compared, HTTP/1.1 with routing, quota and metrics against Redis' own protocol.
* Closed loop of each tier on the same keys: embedded, fast, thin, and the processor time of client and server a request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import fondaco as fd
from benchmarks._harness import Figures, Report, Settings, alternate, in_rate, in_us, main, median_of, time_calls, times_higher, times_lower
from benchmarks._members import ARRAY_SCHEMA, arrow_file, draw_ids, fondaco_platform, member_ids, read_arrow, rows_bytes, touch_file
from benchmarks._peers import RedisServer, have_redis
from benchmarks._served import FondacoServer, client_core, cpu_seconds, open_loop, saturate, server_core

NAME = "served_get"
QUESTION = "How long does a single get over the network take, and how many can one server answer?"
RATE = 2_000
CONNECTIONS = 16
OPEN, OPEN_REDIS = "thin get, open loop", "redis-py GET, open loop"
FULL, FULL_REDIS = "Fondaco, saturated", "Redis, saturated"
TIERS = ("embedded", "fast", "thin")


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=200_000, quick=2_000), settings.choose_rounds(full=9)
    gets, seconds = (200, 0.5) if settings.quick else (4_000, 3.0)
    report.sizes = {"rows": rows, "rounds": rounds, "gets_per_round": gets, "rate": RATE, "connections": CONNECTIONS}
    ids = member_ids(rows)
    with ExitStack() as stack:
        directory = fondaco_platform(settings.workdir, rows=rows, seed=settings.seed)
        touch_file(directory)
        server = stack.enter_context(FondacoServer(directory))
        remote = fd.connect(server.url).store("members")
        readers: dict[str, Any] = {
            "embedded": stack.enter_context(stack.enter_context(fd.open(directory)).store("members").reader()),
            "fast": stack.enter_context(remote.reader(tier="fast")),
            "thin": stack.enter_context(remote.reader(tier="thin")),
        }
        for reader in readers.values():
            for key in draw_ids(ids, 200, settings.seed, 99):
                assert reader.get(key)["views"] == readers["embedded"].get(key)["views"], "the tiers disagree"

        def drawn(index: int) -> list[int]:
            return draw_ids(ids, gets, settings.seed, index)

        http = [f"GET /v1/stores/members/rows/{key} HTTP/1.1\r\nHost: x\r\nAccept: application/avro\r\n\r\n".encode() for key in drawn(0)]
        paths: dict[str, Callable[[int], Figures]] = {
            OPEN: lambda index: open_loop(readers["thin"].get, drawn(index), rate=RATE),
            FULL: lambda _: saturate(server.port, http, kind="http", connections=CONNECTIONS, seconds=seconds, pid=server.process.pid),
        }
        for tier in TIERS:
            paths[f"{tier}, closed loop"] = _with_cpu(readers[tier].get, drawn, server.process.pid)
        if have_redis(report):
            redis = stack.enter_context(RedisServer())
            os.sched_setaffinity(redis.pid, {server_core()})
            client = redis.client()
            for batch in read_arrow(arrow_file(settings.workdir, rows=rows, seed=settings.seed)):
                client.mset(dict(zip(batch.column("key").to_pylist(), rows_bytes(batch, ARRAY_SCHEMA), strict=True)))
            resp = [f"*2\r\n$3\r\nGET\r\n${len(str(key))}\r\n{key}\r\n".encode() for key in drawn(0)]
            paths[OPEN_REDIS] = lambda index: open_loop(client.get, drawn(index), rate=RATE)
            paths["redis-py, closed loop"] = _with_cpu(client.get, drawn, redis.pid)
            paths[FULL_REDIS] = lambda _: saturate(redis.port, resp, kind="resp", connections=CONNECTIONS, seconds=seconds, pid=redis.pid)
        with client_core():
            results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    _judge(report, results)


def _with_cpu(call: Callable[[Any], object], drawn: Callable[[int], list[int]], pid: int) -> Callable[[int], Figures]:
    def path(index: int) -> Figures:
        keys = drawn(index)
        served, own = cpu_seconds(pid), time.process_time()
        figures = time_calls(call, keys)
        count = len(keys) / 1e6
        return {**figures, "client_cpu_us": (time.process_time() - own) / count, "server_cpu_us": (cpu_seconds(pid) - served) / count}

    return path


def _judge(report: Report, results: dict[str, list[Figures]]) -> None:
    for tier in TIERS:
        figures: Sequence[Figures] = results[f"{tier}, closed loop"]
        cpu = f"CPU a get: client {median_of(figures, 'client_cpu_us'):.0f} µs, server {median_of(figures, 'server_cpu_us'):.0f} µs"
        report.found(f"{tier} get, one after the other", f"{in_us(figures)}; {cpu}")
    if OPEN_REDIS not in results:
        return
    ours, theirs = results[OPEN], results[OPEN_REDIS]
    for name, at_least in (("p50", 1 / 0.7), ("p99", 1.0)):
        ratio = times_lower(ours, theirs, f"{name}_us")
        report.found(f"thin get at {RATE:,}/s, {name}", in_us(ours), f"redis-py: {in_us(theirs)}", ratio, at_least=at_least)
    ratio = times_higher(results[FULL], results[FULL_REDIS], "per_s")

    def full(figures: Sequence[Figures]) -> str:
        return f"{in_rate(figures, 'gets')}; {median_of(figures, 'server_cpu_us'):.0f} µs CPU a get"

    report.found(f"gets/s over {CONNECTIONS} connections", full(results[FULL]), f"Redis: {full(results[FULL_REDIS])}", ratio, at_least=0.8)


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
