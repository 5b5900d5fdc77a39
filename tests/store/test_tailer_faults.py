"""Tailers in processes of their own: killed at any moment, and read by other processes meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fondaco.log import Record
from fondaco.store.merge import NOTHING, merge
from fondaco.store.overlay import Overlay
from fondaco.store.tailer import Tailer
from fondaco.store.writes import EditKind, Op, pack_edit, pack_patch
from overlay_parts import TOPIC, Answer, append, flip, make_log, model, place, put, read_all, write

CHILD = Path(__file__).with_name("overlay_child.py")


class _Child:
    """A process of `overlay_child.py`."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, str(CHILD), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def tell(self, number: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def finish(self) -> Any:
        """Close its stdin and hear the rest."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        rest = self.process.stdout.read()
        assert self.process.wait(30) == 0
        return json.loads(rest) if rest else None


def _some_writes(chance: random.Random, count: int, now: int) -> list[Record]:
    records = []
    for i in range(count):
        key = b"key-%d" % chance.randrange(3000)
        stamp = {"timestamp_ms": now + i - chance.randrange(200), "writer": chance.randrange(3), "sequence": i}
        kind = chance.random()
        if kind < 0.7:
            records.append(put(key, payload=b"%d" % i * chance.randrange(1, 30), **stamp))
        elif kind < 0.8:
            records.append(write(key, Op.DELETE, **stamp))
        else:
            edit = pack_edit(EditKind.SET, chance.choice([b"a", b"b"]), b"", b"%d" % i)
            records.append(write(key, Op.PATCH, payload=pack_patch([edit]), **stamp))
    return records


@pytest.mark.timeout(120)
def test_killing_the_tailer_at_any_moment_loses_nothing_and_applies_nothing_twice(tmp_path: Path) -> None:
    _trials(tmp_path, 12, seed=20)


@pytest.mark.timeout(120)
def test_killing_a_tailer_that_makes_its_index_anew_leaves_no_half_of_one(tmp_path: Path) -> None:
    chance = random.Random(31)
    print("seed 31")
    overlay_at, log_at = place(tmp_path)
    records = [record for part in range(40) for record in _some_writes(chance, 1000, 1000 * part + 1000)]
    expected = model(records)
    with make_log(log_at) as log, _Child("tail", overlay_at, log_at, 1) as child:
        assert child.hear() == "warm"
        for first in range(0, len(records), 1000):
            log.append(TOPIC, 0, records[first : first + 1000])
        whole = 0
        for trial in range(15):
            for index in overlay_at.glob("*.index"):
                flip(index, 8)
            child.tell(trial)
            pid = child.hear()
            time.sleep(chance.random() * 0.25)
            os.kill(pid, signal.SIGKILL)
            assert child.hear() == "ended"
            with Overlay.open(overlay_at, log_at, TOPIC) as overlay:
                if not overlay.is_empty:
                    found = read_all(overlay, expected)
                    assert found == expected
                    whole += 1
                # Killed between showing the index and saying how far it goes: then it is made once more, which changes nothing
                assert overlay.applied(0) in (0, len(records))
        child.finish()
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer, Overlay.open(overlay_at, log_at, TOPIC) as overlay:
            tailer.run_once()
            assert read_all(overlay, expected) == expected
            print({"whole": whole})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_killing_the_tailer_at_any_moment_many_times(tmp_path: Path, seed: int) -> None:
    _trials(tmp_path, 60, seed=seed)


def _trials(tmp_path: Path, trials: int, *, seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")
    overlay_at, log_at = place(tmp_path)
    records: list[Record] = []
    reached = 0
    with (
        make_log(log_at, segment_bytes=1 << 18) as log,
        Overlay.open(overlay_at, log_at, TOPIC) as overlay,
        _Child("tail", overlay_at, log_at, seed) as child,
    ):
        assert child.hear() == "warm"
        for trial in range(trials):
            child.tell(trial)
            pid = child.hear()
            if trial % 4:  # else it is killed while it starts
                overlay.wait({0: len(records) - 1}, time.monotonic() + 30)
            for _ in range(chance.randrange(1, 5)):
                more = _some_writes(chance, chance.randrange(1, 500), 1000 * trial + 1000)
                log.append(TOPIC, 0, more)
                records += more
                time.sleep(chance.random() * 0.004)
            os.kill(pid, signal.SIGKILL)
            assert child.hear() == "ended"
            applied = overlay.applied(0)
            assert applied >= reached  # what could be read is not taken back
            reached = applied
            promised, everything = model(records[:applied]), model(records)
            for key, state in everything.items():
                found = Answer(overlay, key).state
                assert merge(found, promised.get(key, NOTHING)) == found  # everything that was applied is in it
                assert merge(found, state) == state  # and nothing that was not written
        child.finish()
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            tailer.run_once()
            assert overlay.applied(0) == len(records)
            assert read_all(overlay, everything) == everything


# -- readers ------------------------------------------------------------------------------------------------------------------------------


def _stress(tmp_path: Path, seconds: float, *, readers: int, keys: int, seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")
    overlay_at, log_at = place(tmp_path)
    make_log(log_at, segment_bytes=1 << 19).close()
    with contextlib.ExitStack() as children:
        tailers = children.enter_context(_Child("tail", overlay_at, log_at, seed))
        assert tailers.hear() == "warm"
        reading = [children.enter_context(_Child("read", overlay_at, log_at, keys, seed + number)) for number in range(readers)]
        writing = children.enter_context(_Child("write", overlay_at, log_at, keys))
        assert [child.hear() for child in (*reading, writing)] == ["reading"] * readers + ["writing"]
        end = time.monotonic() + seconds
        lives = 0
        while time.monotonic() < end:
            tailers.tell(lives)
            pid = tailers.hear()
            if lives % 2:  # for a while nothing is applied, as on a machine that is busy with something else
                os.kill(pid, signal.SIGSTOP)
                time.sleep(chance.random() * 1.5)
                os.kill(pid, signal.SIGCONT)
            time.sleep(min(chance.random() * seconds / 3, max(0.0, end - time.monotonic())))
            os.kill(pid, signal.SIGKILL)
            assert tailers.hear() == "ended"
            lives += 1
        rounds = writing.finish()
        said = [child.finish() for child in reading]
        tailers.finish()
    assert [answer["fault"] for answer in said] == [None] * readers
    assert all(answer["reads"] > 1000 and answer["newest"] > 1 for answer in said)
    assert rounds > 3
    print({"rounds": rounds, "lives of tailers": lives, "reads": [answer["reads"] for answer in said]})


@pytest.mark.timeout(120)
def test_readers_in_other_processes_never_see_a_torn_an_older_or_a_vanished_row(tmp_path: Path) -> None:
    _stress(tmp_path, 8, readers=3, keys=3000, seed=11)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_readers_see_no_fault_for_long(tmp_path: Path) -> None:
    _stress(tmp_path, float(os.environ.get("FONDACO_STRESS_S", "25")), readers=3, keys=20_000, seed=12)


def test_readers_see_what_a_process_appended_soon(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, Overlay.open(overlay_at, log_at, TOPIC) as overlay, _Child("tail", overlay_at, log_at, 1) as child:
        assert child.hear() == "warm"
        child.tell(0)
        pid = child.hear()
        overlay.wait(append(log, [put(b"k", 0, b"first")]), time.monotonic() + 30)
        for number in range(1, 100):
            overlay.wait(append(log, [put(b"k", number, b"%d" % number)]), time.monotonic() + 5)
            assert Answer(overlay, b"k").row == b"%d" % number
        os.kill(pid, signal.SIGKILL)
        assert child.hear() == "ended"
        child.finish()
