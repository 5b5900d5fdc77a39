"""A process that works on a log, so that tests can kill it or run it beside themselves. Started by path; talks JSON lines.

`fork`: warm up, then for each line {"work": ..., "directory": ..., ...} fork a child that does it, and answer its pid; for {"work": "reap"}
wait for all of them and answer "ended". Forking a warm process makes dozens of trials affordable; every child opens its own log. The work:
  "append": append without end, and note after each append that returned, in the file "acknowledged", what it was;
  "compact": append rounds over a few keys and compact, without end, noting each round that was appended;
  "die": append four times, then compact or delete, and die before one of the stores into the cells;
  "produce": append `count` batches of a producer's name and end.
`follow DIRECTORY COUNT`: tail partition 0 from its begin until COUNT records were seen; answer how they came.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fondaco.log import EmbeddedLog, Record, TopicConfig

KEYS = 40


def say(message: Any) -> None:
    print(json.dumps(message), flush=True)


def value_of(seed: int, batch: int, record: int) -> bytes:
    """What a reader can check by itself; now and then long, so that a kill falls into a write."""
    return b"%d/%d/%d " % (seed, batch, record) + b"x" * ((seed * 7 + batch * 13 + record * 31) % 97) * (400 if batch % 5 == 0 else 1)


def append(log: EmbeddedLog, order: dict[str, Any]) -> None:
    noted = os.open(order["acknowledged"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for batch in itertools.count():
        records = [Record(b"%d" % i, value_of(order["seed"], batch, i)) for i in range(1 + batch % 60)]
        offsets = log.append("t", 0, records, durability="disk" if batch % 7 == 0 else "os")
        os.write(noted, json.dumps([order["seed"], batch, offsets.start, offsets.stop]).encode() + b"\n")


def compact(log: EmbeddedLog, order: dict[str, Any]) -> None:
    noted = os.open(order["acknowledged"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for round_ in itertools.count():
        records = [Record(b"%d" % key, None if (key + round_) % 5 == 0 else b"%d/%d" % (order["seed"], round_)) for key in range(KEYS)]
        offsets = log.append("t", 0, records)
        os.write(noted, json.dumps([order["seed"], round_, offsets.start, offsets.stop]).encode() + b"\n")
        log.compact("t", 0)


def produce(log: EmbeddedLog, order: dict[str, Any]) -> None:
    for batch in range(order["count"]):
        records = [Record(order["name"].encode(), b"%d/%d" % (batch, i)) for i in range(order["size"])]
        log.append("t", 0, records, durability="disk" if batch % 10 == 0 else "os")


class DyingCells:
    """Cells of a partition for a process that dies, like by a kill, just before its `last`-th store into them."""

    def __init__(self, cells: memoryview, last: int) -> None:
        self.cells, self.left = cells, last

    def __getitem__(self, at: int) -> int:
        return self.cells[at]

    def __setitem__(self, at: int, value: int) -> None:
        if self.left == 0:
            os._exit(9)
        self.left -= 1
        self.cells[at] = value


def die(log: EmbeddedLog, order: dict[str, Any]) -> None:
    partition = log._partition("t", 0).partition
    partition.cells = DyingCells(partition.cells, order["stores"])
    noted = os.open(order["acknowledged"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for step, durability in enumerate(("os", "disk", "os", "disk")):
        offsets = log.append("t", 0, [Record(b"%d" % i, b"%d" % step * 30) for i in range(3)], durability=durability)
        os.write(noted, json.dumps([offsets.stop, 0]).encode() + b"\n")
    if order["compacts"]:
        log.compact("t", 0)
    else:
        log.delete_before("t", 0, 4)
    os.write(noted, json.dumps([12, 1]).encode() + b"\n")


WORK = {"die": die, "append": append, "compact": compact, "produce": produce}


def warm() -> None:
    with tempfile.TemporaryDirectory() as scratch, EmbeddedLog(scratch) as log:
        log.create_topic("t", TopicConfig(1, cleanup="compact"))
        log.append("t", 0, [Record(b"a", b"b")])
        log.read("t", 0, 0)
        log.compact("t", 0)


def fork_workers() -> None:
    warm()
    say("warm")
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if order["work"] == "reap":
            statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            children.clear()
            say(statuses if order.get("statuses") else "ended")
            continue
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with EmbeddedLog(order["directory"]) as log:
                    WORK[order["work"]](log, order)
                status = 0
            finally:
                os._exit(status)
        children.add(child)
        say(child)


def follow(directory: Path, count: int) -> None:
    late_ms = []
    with EmbeddedLog(directory) as log:
        first = log.read("t", 0, 0)  # loads the kernels, which takes longer than what is measured
        seen = offset = first.next_offset
        say("following")
        while seen < count:
            batch = log.read("t", 0, offset, wait_s=10)
            now_ns = time.time_ns()
            for record in batch.records():
                assert record.offset == seen
                seen += 1
                late_ms.append((now_ns - int(record.value or b"")) / 1e6)
            offset = batch.next_offset
    say({"seen": seen, "late_ms": late_ms})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.argv[1] == "fork":
        fork_workers()
    else:
        follow(Path(sys.argv[2]), int(sys.argv[3]))
