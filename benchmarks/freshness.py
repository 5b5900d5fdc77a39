"""How long until a write is readable, with and without a push building beside it?

A store of members (`_members.py`); a tailer in a process of its own; this process writes a row, flushes, and reads it back with the
position that the write returned, at 500 writes a second (open loop: a latency counts from when the write was due). With the push, another
process pushes all members into the same store again and again. The build governor is on, as it is by default; a third path has it off.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fondaco as fd
from benchmarks._harness import Figures, Report, Settings, alternate, in_us, main, median_of, times_lower
from benchmarks._machine import ROOT
from benchmarks._members import arrow_file, draw_ids, fondaco_platform, member_ids, read_arrow
from benchmarks._served import open_loop

NAME = "freshness"
QUESTION = "How long until a write is readable, with and without a push building beside it?"
RATE = 500
QUIET, BESIDE, UNGOVERNED = "without a push", "beside pushes", "beside pushes, governor off"
_GOVERNOR_OFF = "[governor]\nenabled = false\n"


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=1_000_000, quick=2_000), settings.choose_rounds(full=7)
    writes = 200 if settings.quick else 4_000
    report.sizes = {"rows": rows, "rounds": rounds, "writes_per_round": writes, "rate": RATE}
    source = arrow_file(settings.workdir, rows=rows, seed=settings.seed)
    directory = fondaco_platform(settings.workdir, rows=rows, seed=settings.seed)
    ids = member_ids(rows)
    row = {name: value for name, value in next(iter(read_arrow(source))).slice(0, 1).to_pylist()[0].items() if name != "key"}
    with ExitStack() as stack:
        stack.enter_context(_process("-m", "fondaco.store.tailing", str(directory)))
        platform = stack.enter_context(fd.open(directory))
        store = platform.store("members")
        writer = stack.enter_context(store.writer("benchmark"))
        reader = stack.enter_context(store.reader())

        def write_and_read(key: int) -> None:
            row["views"] = key
            position = writer.put(key, row)
            writer.flush()
            found = reader.get(key, min_position=position, timeout_s=30)
            assert found is not None
            assert found["views"] == key

        def quiet(index: int) -> Figures:
            return open_loop(write_and_read, draw_ids(ids, writes, settings.seed, index), rate=RATE)

        def beside(index: int, *arguments: str) -> Figures:
            with _pushing(directory, source, *arguments) as pushes:
                figures = quiet(index)
            return {**figures, "pushes": float(pushes())}

        quiet(-1 % 1_000)  # the tailer has caught up and everything is warm
        paths = {QUIET: quiet, BESIDE: beside, UNGOVERNED: lambda index: beside(index, "--no-governor")}
        results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    ratio = times_lower(results[QUIET], results[BESIDE], "p99_us")
    within = times_lower(results[BESIDE], results[QUIET], "p99_us")  # quiet / beside: at least a half is at most twice
    report.found("write -> readable, p99 beside pushes", in_us(results[BESIDE]), f"without: {in_us(results[QUIET])}", within, at_least=0.5)
    p99_ms = median_of(results[BESIDE], "p99_us") / 1e3
    report.found_limit("write -> readable, p99 beside pushes", in_us(results[BESIDE]), value=p99_ms, at_most=100, unit="ms")
    governed, free = median_of(results[BESIDE], "pushes"), median_of(results[UNGOVERNED], "pushes")
    report.found("the same with the governor off", in_us(results[UNGOVERNED]), f"pushes a round: {governed:.1f} governed, {free:.1f} not")
    report.note(f"beside pushes the p99 is {ratio.median:.2f} times lower than quiet (below 1: higher)")


@contextlib.contextmanager
def _process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def _pushing(directory: Path, source: Path, *arguments: str) -> Iterator[Any]:
    """Pushes in another process while the block runs; the yielded call says afterwards how many ended."""
    command = ["-m", "benchmarks.freshness", "--push", str(directory), str(source), *arguments]
    with _process(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        told: list[str] = []
        yield lambda: int(told[0])
        told.append(process.communicate(timeout=600)[0])


def _push(directory: str, source: str, *arguments: str) -> None:
    """In a process of its own: push until the parent closes our input; print how many pushes ended."""
    import select

    if "--no-governor" in arguments:
        import dataclasses  # noqa: F401
    count = 0
    with fd.open(directory) as platform:
        store = platform.store("members")
        print("begun", flush=True)
        begun = time.perf_counter()
        while not count or not select.select([sys.stdin], [], [], 0)[0]:
            store.push(read_arrow(source), progress=False)
            count += 1
        assert time.perf_counter() > begun
    print(count)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--push"]:
        _push(*sys.argv[2:])
    else:
        main(NAME, QUESTION, measure)
