"""A process that pushes, so that tests can kill it. Started by path; talks JSON lines over stdin and stdout.

`push DIRECTORY`: push once, from a generator that says "pushing" after its first batch and waits for a line before its second.
`fork`: warm up once, then for each line {"directory", "seed", "push_id"} fork a child that pushes; answer its pid at once, and "ended" when
it is gone. Forking a warm process makes a hundred trials affordable; nothing but this test forks.
`read DIRECTORY`: read without a pause until stdin closes; answer what was seen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import fondaco as fd

ROWS = 20_000
VALUE = pa.schema([pa.field("seed", pa.int64(), nullable=False), pa.field("text", pa.string(), nullable=False)])


def say(message: Any) -> None:
    print(json.dumps(message), flush=True)


def batches(seed: int, count: int = 10) -> Iterator[pa.RecordBatch]:
    rows = ROWS // count
    for part in range(count):
        keys = np.arange(part * rows, (part + 1) * rows)
        texts = pa.array([f"row {key} of seed {seed}, and some words that take room" for key in keys.tolist()], pa.string())
        yield pa.RecordBatch.from_pydict({"key": keys, "seed": np.full(rows, seed), "text": texts})


def push_slowly(directory: Path) -> None:
    def slow() -> Iterator[pa.RecordBatch]:
        source = batches(99)
        yield next(source)
        say("pushing")
        sys.stdin.readline()
        yield from source

    with fd.open(directory) as platform:
        try:
            say(platform.store("s").push(slow(), push_id="slow").version)
        except fd.errors.FondacoError as exc:
            say(type(exc).__name__)


def fork_pushes() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch, fd.open(scratch) as platform:
        store = platform.create_store("s", value=VALUE, partitions=4)
        store.push(batches(0))
    say("warm")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                with fd.open(order["directory"]) as platform:
                    platform.store("s").push(batches(order["seed"]), push_id=order["push_id"])
            finally:
                os._exit(0)
        say(child)
        os.waitpid(child, 0)
        say("ended")


def read_throughout(directory: Path) -> None:
    import select

    keys = np.arange(0, ROWS, 50)
    reads, versions = 0, set()
    with fd.open(directory) as platform, platform.store("s").reader() as reader:
        say("reading")
        while not select.select([sys.stdin], [], [], 0)[0]:
            columns = reader.get_columns(keys, ["seed"])
            rows = reader.get_many(keys[:20])
            if not columns.found.all() or None in rows:
                say({"missing": int((~columns.found).sum())})
                return
            for seeds in (set(columns["seed"].tolist()), {row["seed"] for row in rows if row is not None}):
                if len(seeds) != 1:
                    say({"mixed": sorted(seeds)})
                    return
                versions |= seeds
            reads += 1
    say({"reads": reads, "seeds": sorted(versions)})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.argv[1] == "fork":
        fork_pushes()
    elif sys.argv[1] == "push":
        push_slowly(Path(sys.argv[2]))
    else:
        read_throughout(Path(sys.argv[2]))
