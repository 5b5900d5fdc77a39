"""Processes of an overlay's stress and kill tests. Started by path; they talk JSON lines over stdin and stdout, and end when stdin closes.

`tail OVERLAY LOG SEED`: warm up, then for each line fork a child that tails and now and then makes a new generation; answers its pid. The
test kills it. Forking a warm process makes many trials affordable; nothing but tests forks.
`write OVERLAY LOG KEYS`: write rounds over all keys, and trim what is five rounds old and was applied. Answers the number of rounds.
`read OVERLAY LOG KEYS SEED`: read keys at random and check what comes; answers {"reads": n, "fault": text or null}.
"""

from __future__ import annotations

import json
import os
import random
import select
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fondaco.log import EmbeddedLog, Record
from fondaco.store import _overlay_kernels as probes
from fondaco.store.overlay import Overlay
from fondaco.store.tailer import Tailer, wait_all
from fondaco.store.writes import EditKind, Op, pack_edit, pack_patch, xxh64
from overlay_parts import TOPIC, Answer, make_log, place, put, write

_ROW = struct.Struct("<QQ")  # version, then XXH64 of what follows, the key and the version
BATCH = 100


def say(message: Any) -> None:
    print(json.dumps(message), flush=True)


def goes_on() -> bool:
    """Whether stdin is open still."""
    return not select.select([sys.stdin], [], [], 0)[0]


# -- rows that say themselves whether they are whole ----------------------------------------------------------------------------------


def row_of(key: bytes, version: int) -> bytes:
    filler = bytes((version + i) & 255 for i in range(version * 7 % 90))
    return _ROW.pack(version, xxh64(filler + key + version.to_bytes(8, "little"))) + filler


def version_of(key: bytes, row: bytes) -> int:
    version, checksum = _ROW.unpack_from(row)
    if xxh64(row[_ROW.size :] + key + version.to_bytes(8, "little")) != checksum:
        raise ValueError(f"torn row of {key!r}: {row.hex()}")
    return int(version)


def keys_of(count: int) -> Iterator[bytes]:
    """Two in three are put and deleted, the others patched."""
    for number in range(count):
        yield b"%s-%d" % ([b"put", b"put", b"patch"][number % 3], number)


def write_of(key: bytes, version: int) -> Record:
    if key.startswith(b"put"):
        return put(key, version, row_of(key, version))
    field = [b"a", b"b"][version % 2]
    return write(key, Op.PATCH, version, pack_patch([pack_edit(EditKind.SET, field, b"", row_of(key, version))]))


# -- processes ------------------------------------------------------------------------------------------------------------------------


def tail(overlay: Path, log_directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    with EmbeddedLog(log_directory) as log, Tailer.open(overlay, log_directory, TOPIC, log) as tailer:
        parent = os.getppid()
        while os.getppid() == parent:
            tailer.run_once()
            if chance.random() < 0.05:
                chance.choice(tailer.partitions).next_generation()
            wait_all((tailer,), limit_us=2_000)


def fork_tailers(overlay: Path, log_directory: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        at, log_at = place(Path(scratch))
        with make_log(log_at) as log, Tailer.open(at, log_at, TOPIC, log) as tailer:
            log.append(TOPIC, 0, [write_of(key, 1 + number % 4) for number, key in enumerate(keys_of(12))])
            tailer.run_once()
            tailer.partitions[0].next_generation()
            wait_all((tailer,), limit_us=0)
    say("warm")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                tail(overlay, log_directory, seed + int(line))
            finally:
                os._exit(1)
        say(child)
        os.waitpid(child, 0)
        say("ended")


def write_rounds(overlay_directory: Path, log_directory: Path, count: int) -> None:
    keys = list(keys_of(count))
    rounds: list[int] = []
    with EmbeddedLog(log_directory) as log, Overlay.open(overlay_directory, log_directory, TOPIC) as overlay:
        say("writing")
        while goes_on():
            rounds.append(log.high_watermark(TOPIC, 0))
            records = [write_of(key, len(rounds)) for key in keys]
            for first in range(0, count, BATCH):
                log.append(TOPIC, 0, records[first : first + BATCH])
            if len(rounds) > 6:
                # A round before what was applied: the newest record of a key that readers know of is never given up, as in `trimming`
                log.delete_before(TOPIC, 0, max(0, min(rounds[-6], overlay.applied(0) - count)))
    say(len(rounds))


def read_throughout(overlay_directory: Path, log_directory: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    keys = list(keys_of(count))
    seen = dict.fromkeys(keys, 0)
    reads = 0
    with Overlay.open(overlay_directory, log_directory, TOPIC) as overlay:
        say("reading")
        try:
            while reads % 64 or goes_on():
                key = chance.choice(keys)
                version = _read(overlay, key)
                if version < seen[key]:
                    raise ValueError(f"{key!r} went back from version {seen[key]} to {version}")
                seen[key] = version
                reads += 1
        except Exception as exc:
            say({"reads": reads, "fault": f"{type(exc).__name__}: {exc}"})
            return
    say({"reads": reads, "fault": None, "newest": max(seen.values())})


def _read(overlay: Overlay, key: bytes) -> int:
    """The version of a key; 0 if it is not there."""
    answer = Answer(overlay, key)
    if answer.kind == probes.NONE:
        return 0
    if key.startswith(b"put"):
        return version_of(key, answer.row)
    return max(version_of(key, value.data) for value in answer.state.fields.values())


if __name__ == "__main__":
    if sys.argv[1] == "tail":
        fork_tailers(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1] == "write":
        write_rounds(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        read_throughout(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
