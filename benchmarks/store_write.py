"""What does a real-time write cost: taken by a writer, one by one and in tables, and merged when it is a patch?

A store with ten longs and an array of strings, four partitions, an embedded log, durability "os". `put` and `patch` take one row each, by
one thread, buffers of the default size, the last flush counted; `put_many` takes a table. Without a peer: the log has its own benchmark
(log_append), and freshness has another; these are the parts that lie between, each in us of one call or writes a second:

* `merge path` is what a tailer does for a patch of three fields to a key with eleven changes over a put: decode the record and the
  state, merge, encode the state. `apply` lays such a state over a row of the base, `apply one patch` a patch alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks._harness import Figures, Report, Settings, alternate, in_rate, in_us, main, time_calls
from fondaco.log import EmbeddedLog, TopicConfig
from fondaco.store.keys import KeyCodec
from fondaco.store.merge import RowCodecs, apply, decode_state, encode_state, merge, state_of
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writer import LogTarget, StoreWriter
from fondaco.store.writes import decode_write

NAME = "store_write"
QUESTION = "What does a real-time write cost, taken one by one, in tables, and merged?"

FIELDS = [{"name": f"f{i}", "type": "long", "default": 0} for i in range(10)]
TAGS = {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []}
SCHEMA = {"type": "record", "name": "Row", "fields": [*FIELDS, TAGS]}
ROW = {f"f{i}": 1000 * i for i in range(10)} | {"tags": ["a", "b"]}


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=1_000_000, quick=50_000), settings.choose_rounds(full=5)
    singles, calls = rows // 10, 200 if settings.quick else 5_000
    report.sizes = {"rows": rows, "rows_one_by_one": singles, "rounds": rounds, "merges_per_round": calls}
    table = pa.table({"key": np.arange(rows)} | {f"f{i}": np.arange(rows) * i for i in range(10)} | {"tags": pa.array([["a", "b"]] * rows)})
    with tempfile.TemporaryDirectory(dir=settings.workdir) as directory, EmbeddedLog(Path(directory) / "log") as log:
        log.create_topic("rows.rt", TopicConfig(partitions=4))
        encoder = WriteEncoder("rows", KeyCodec("long"), SCHEMA, 1, "benchmark")
        with StoreWriter(LogTarget(log, "rows.rt", "store 'rows'"), encoder) as writer:
            taking: dict[str, tuple[int, Callable[[], object]]] = {
                "put": (singles, lambda: _each(singles, lambda key: writer.put(key, ROW), writer)),
                "patch": (singles, lambda: _each(singles, lambda key: writer.patch(key, {"f1": key, "f2": 7, "f3": 300}), writer)),
                "put_many": (rows, lambda: writer.put_many(table)),
            }
            for _, take in taking.values():
                take()
            paths = {name: _timed(count, take) for name, (count, take) in taking.items()}
            for name, call in _merging(encoder).items():
                time_calls(call, range(100))
                paths[name] = lambda _, call=call: time_calls(call, range(calls))  # type: ignore[misc]
            results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    for name in taking:
        report.found(f"{name}, flush included", in_rate(results[name], "writes"))
    for name in results:
        if name not in taking:
            report.found(name, in_us(results[name]))


def _each(count: int, write: Callable[[int], object], writer: StoreWriter) -> None:
    for key in range(count):
        write(key)
    writer.flush()


def _timed(count: int, take: Callable[[], object]) -> Callable[[int], Figures]:
    def once(_: int) -> Figures:
        begin = time.perf_counter()
        take()
        return {"per_s": count / (time.perf_counter() - begin)}

    return once


def _merging(encoder: WriteEncoder) -> dict[str, Callable[[Any], object]]:
    codecs = RowCodecs(lambda number: SCHEMA, SCHEMA)
    put = encoder.put(1, ROW, 1_000)
    wide = encoder.patch(1, {f"f{i}": i for i in range(10)}, 2_000, add={"tags": ["c"]})
    patch = encoder.patch(1, {"f1": 1, "f2": 7, "f3": 300}, 3_000)
    states = [state_of(decode_write(write.value, write.timestamp_ms)) for write in (put, wide, patch)]
    known, newest = merge(states[0], states[1]), states[2]
    stored, both = encode_state(known), merge(known, newest)
    return {
        "merge path": lambda _: encode_state(merge(decode_state(stored), state_of(decode_write(patch.value, patch.timestamp_ms)))),
        "merge": lambda _: merge(known, newest),
        "apply": lambda _: apply(both, ROW, since_ms=1_500, codecs=codecs),
        "apply one patch": lambda _: apply(newest, ROW, since_ms=1_500, codecs=codecs),
    }


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
