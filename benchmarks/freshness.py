"""How long until a write is readable, with and without a push building beside it?

A store of members (`_members.py`); a tailer in a process of its own; this process writes a row, flushes, and reads it back with the
position that the write returned, at 500 writes a second (open loop: a latency counts from when the write was due). With the push, another
process pushes all members into the same store again and again. The build governor is on, as it is by default; a third path has it off by
`fondaco.toml`, as an operator would.

The tailer, the pushes and this process share the cores as they come: that is the question.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fondaco as fd
from benchmarks._child import call
from benchmarks._harness import Figures, Report, Settings, alternate, in_us, main, median_of, times_lower
from benchmarks._machine import ROOT
from benchmarks._members import arrow_file, draw_ids, member_ids, push_members, read_arrow
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
    ids = member_ids(rows)
    row = {name: value for name, value in next(iter(read_arrow(source))).slice(0, 1).to_pylist()[0].items() if name != "key"}
    with ExitStack() as stack:
        directory = stack.enter_context(_own_platform(settings.workdir, source, rows))
        stack.enter_context(_tailing(directory))
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

        def beside(index: int, *, governor: bool) -> Figures:
            with _pushing(directory, source, governor=governor) as pushes:
                figures = quiet(index)
            return {**figures, "pushes": pushes()}

        quiet(999)  # the tailer has caught up and everything is warm
        paths = {
            QUIET: quiet,
            BESIDE: lambda index: beside(index, governor=True),
            UNGOVERNED: lambda index: beside(index, governor=False),
        }
        results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    _judge(report, results)


def _judge(report: Report, results: dict[str, list[Figures]]) -> None:
    quiet = f"without: {in_us(results[QUIET])}"
    ratio = times_lower(results[BESIDE], results[QUIET], "p99_us")  # quiet / beside: at least a half is at most twice
    report.found("write -> readable, p99 beside pushes", in_us(results[BESIDE]), quiet, ratio, at_least=0.5)
    p99_ms = median_of(results[BESIDE], "p99_us") / 1e3
    report.found_limit("write -> readable, p99 beside pushes", in_us(results[BESIDE]), value=p99_ms, at_most=100, unit="ms")
    governed, free = median_of(results[BESIDE], "pushes"), median_of(results[UNGOVERNED], "pushes")
    ratio = times_lower(results[UNGOVERNED], results[QUIET], "p99_us")
    report.found("the same with the governor off", in_us(results[UNGOVERNED]), quiet, ratio)
    report.found("pushes done beside a round of writes", f"{governed:.1f} with the governor", f"{free:.1f} without")


@contextlib.contextmanager
def _own_platform(workdir: Path, source: Path, rows: int) -> Iterator[Path]:
    """A platform for this benchmark alone, for its writes and pushes would be in the way of others."""
    directory = workdir / "freshness"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        call(push_members, source=str(source), platform=str(directory), rows=rows, compression="none")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process of ours with pipes to it, which begins to work when it has said a line, and ends when its input does."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise RuntimeError(f"{arguments} ended with status {process.wait()}")
        yield process
    finally:
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        try:
            process.wait(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _tailing(directory: Path) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return _process("-m", "fondaco.store.tailing", str(directory), "--until-stdin-closes")


@contextlib.contextmanager
def _pushing(directory: Path, source: Path, *, governor: bool) -> Iterator[Any]:
    """Pushes in another process while the block runs; the yielded call says afterwards how many that were, parts included."""
    config = directory / "fondaco.toml"
    if not governor:
        config.write_text(_GOVERNOR_OFF)
    told: list[str] = []
    try:
        with _process("-m", "benchmarks.freshness", "--push", str(directory), str(source)) as process:
            config.unlink(missing_ok=True)  # it was read
            yield lambda: float(told[0])
            told.append(process.communicate(timeout=300)[0])  # closes its input, and waits for the push under way to be given up
    finally:
        config.unlink(missing_ok=True)


class _Enough(Exception):  # noqa: N818
    """The parent has measured enough."""


def _push(directory: str, source: str) -> None:
    """In a process of its own: push until our input ends; print how many pushes were done, and which part of the last."""
    count, done = 0, 0.0

    def batches(reader: Any) -> Iterator[Any]:
        nonlocal done
        total = sum(1 for _ in read_arrow(source))
        for number, batch in enumerate(reader):
            done = number / total
            if select.select([sys.stdin], [], [], 0)[0]:
                raise _Enough
            yield batch

    with fd.open(directory) as platform:
        store = platform.store("members")
        print("begun", flush=True)
        with contextlib.suppress(_Enough):
            while True:
                store.push(batches(read_arrow(source)), progress=False)
                count, done = count + 1, 0.0
    print(count + done)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--push"]:
        _push(*sys.argv[2:])
    else:
        main(NAME, QUESTION, measure)
