"""Harness: how a benchmark is asked for, timed, compared with its peers, judged and reported.

What never changes: paths (ours and the peers') alternate inside every round and the order rotates from round to round, so that a busy
machine slows all of them; a ratio is taken per round and reported as the median of the rounds with their range; the garbage collector
is off inside timed loops; latencies are kept one by one, so that percentiles are of calls and not of means. Results go to stdout, talk
to stderr. One thread; nothing here imports Fondaco.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._machine import describe_machine

Figures = dict[str, float]  # figures of one path in one round, the unit last in the name: p99_us, rows_per_s, seconds

log = Console(stderr=True, highlight=False)
_out = Console(highlight=False, width=None if sys.stdout.isatty() else 170)


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for on the command line. `rows` and `rounds` are None where the benchmark is to choose."""

    quick: bool
    rows: int | None
    rounds: int | None
    seed: int
    workdir: Path

    def choose_rows(self, *, full: int, quick: int) -> int:
        """The row count to use: the one asked for, or the benchmark's own for this mode."""
        return self.rows if self.rows is not None else (quick if self.quick else full)

    def choose_rounds(self, *, full: int, quick: int = 2) -> int:
        """The number of rounds to use, at least 1."""
        return max(1, self.rounds if self.rounds is not None else (quick if self.quick else full))


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of per-round ratios and their range."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)}x ({_short(self.low)}-{_short(self.high)})"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table: a question, our figure, the peer's, their ratio, and whether the goal of DESIGN 14 is reached.

    `goal` is empty and `reached` None for lines that only inform.
    """

    question: str
    figure: str
    peer: str
    ratio: Spread | None = None
    goal: str = ""
    reached: bool | None = None


@dataclass(slots=True)
class Report:
    """What one benchmark found."""

    name: str
    question: str
    sizes: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Figures] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_paths(self, rounds: Mapping[str, Sequence[Figures]]) -> None:
        """Keep the median over the rounds of every figure of every path."""
        for name, figures in rounds.items():
            self.paths[name] = {key: statistics.median(round_[key] for round_ in figures) for key in figures[0]}

    def found(self, question: str, figure: str, peer: str = "", ratio: Spread | None = None, *, at_least: float | None = None) -> None:
        """Add a finding; `at_least` is the goal for the ratio's median, none if the line only informs."""
        goal = "" if at_least is None else f">= {at_least:g}x"
        reached = None if at_least is None or ratio is None else ratio.median >= at_least
        self.findings.append(Finding(question, figure, peer, ratio, goal, reached))

    def found_limit(self, question: str, figure: str, *, value: float, at_most: float, unit: str) -> None:
        """Add a finding whose goal is an absolute limit."""
        self.findings.append(Finding(question, figure, "", None, f"<= {at_most:g} {unit}", value <= at_most))

    def found_floor(self, question: str, figure: str, *, value: float, at_least: float, unit: str) -> None:
        """Add a finding whose goal is an absolute rate."""
        self.findings.append(Finding(question, figure, "", None, f">= {at_least:g} {unit}", value >= at_least))

    def note(self, text: str) -> None:
        """Keep a remark, and say it now."""
        self.notes.append(text)
        log.print(f"  note: {text}", style="yellow")


# -- timing -------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """Collect garbage now and not again until the end of the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def time_calls(call: Callable[[Any], object], items: Sequence[Any], *, scale: int = 1) -> Figures:
    """Time `call(item)` for every item, one by one.

    Args:
        items: a list, so that indexing makes no objects inside the loop.
        scale: how many keys or rows one call handles; adds `per_s`, keys or rows a second over the whole loop.
    Returns:
        p50_us, p99_us, p999_us, mean_us of the calls, and per_s.
    """
    elapsed = np.zeros(len(items), dtype=np.int64)
    clock = time.perf_counter_ns
    with quiet_collector():
        for index, item in enumerate(items):
            begin = clock()
            call(item)
            elapsed[index] = clock() - begin
    return figures_of(elapsed, scale=scale)


def figures_of(elapsed_ns: np.ndarray, *, scale: int = 1) -> Figures:
    """Percentiles in microseconds of int64 nanoseconds, shape [calls], and the rate they amount to."""
    p50, p99, p999 = np.percentile(elapsed_ns, [50, 99, 99.9]) / 1e3
    total_s = float(elapsed_ns.sum()) / 1e9
    return {
        "p50_us": float(p50),
        "p99_us": float(p99),
        "p999_us": float(p999),
        "mean_us": float(elapsed_ns.mean()) / 1e3,
        "per_s": len(elapsed_ns) * scale / total_s,
    }


def alternate(paths: Mapping[str, Callable[[int], Figures]], *, rounds: int) -> dict[str, list[Figures]]:
    """Run every path once per round, the first of a round being another each time; returns each path's figures, round by round."""
    names = list(paths)
    results: dict[str, list[Figures]] = {name: [] for name in names}
    for round_index in range(rounds):
        log.print(f"  round {round_index + 1} of {rounds}", style="dim")
        shift = round_index % len(names)
        for name in names[shift:] + names[:shift]:
            results[name].append(paths[name](round_index))
    return results


def times_lower(ours: Sequence[Figures], peers: Sequence[Figures], figure: str) -> Spread:
    """How many times lower our `figure` (a time, bytes) is than the peer's, round by round; above 1 we win."""
    return _spread([peer[figure] / our[figure] for our, peer in zip(ours, peers, strict=True)])


def times_higher(ours: Sequence[Figures], peers: Sequence[Figures], figure: str) -> Spread:
    """How many times higher our `figure` (a rate) is than the peer's, round by round; above 1 we win."""
    return _spread([our[figure] / peer[figure] for our, peer in zip(ours, peers, strict=True)])


def median_of(rounds: Sequence[Figures], figure: str) -> float:
    """The median over the rounds of one figure."""
    return statistics.median(round_[figure] for round_ in rounds)


def _spread(ratios: Sequence[float]) -> Spread:
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


# -- words --------------------------------------------------------------------------------------------------------------------------


def _short(value: float) -> str:
    """Three digits or so: 0.87, 4.2, 61, 12,490."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.0f}"


def in_us(figures: Sequence[Figures]) -> str:
    """`p50 1.2 µs, p99 4.5 µs`, medians of the rounds; milliseconds where they read better."""
    p50, p99 = median_of(figures, "p50_us"), median_of(figures, "p99_us")
    if p50 >= 1000:
        return f"p50 {_short(p50 / 1e3)} ms, p99 {_short(p99 / 1e3)} ms"
    return f"p50 {_short(p50)} µs, p99 {_short(p99)} µs"


def in_rate(figures: Sequence[Figures], noun: str, figure: str = "per_s") -> str:
    """`812k rows/s`, the median of the rounds."""
    rate = median_of(figures, figure)
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if rate >= limit:
            return f"{_short(rate / limit)}{unit} {noun}/s"
    return f"{_short(rate)} {noun}/s"


# -- asking and reporting -----------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that a single benchmark and all of them together share."""
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds: shows that it runs, says nothing about speed")
    parser.add_argument("--rows", type=int, help="rows, in place of the benchmark's own")
    parser.add_argument("--rounds", type=int, help="rounds, in place of the benchmark's own")
    parser.add_argument("--seed", type=int, default=20261121, help="seed of all data and draws (default: %(default)s)")
    parser.add_argument("--workdir", type=Path, help="keep data and stores here for the next run (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")


def main(name: str, question: str, measure: Callable[[Settings, Report], None]) -> None:
    """Run one benchmark from the command line and print what it found."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=question)
    add_arguments(parser)
    options = parser.parse_args()
    report = Report(name, question)
    begin = time.perf_counter()
    with workdir_of(options.workdir) as workdir:
        settings = Settings(options.quick, options.rows, options.rounds, options.seed, workdir)
        log.print(f"{name}: {question}", style="bold")
        measure(settings, report)
    result = {
        **asdict(report),
        "quick": options.quick,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": describe_machine(),
    }
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_paths(result)
        print_findings([result])


@contextlib.contextmanager
def workdir_of(asked: Path | None) -> Iterator[Path]:
    """The folder asked for, kept; or a temporary one, removed at the end."""
    if asked is not None:
        asked.mkdir(parents=True, exist_ok=True)
        yield asked.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="fondaco-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def build_once(directory: Path, build: Callable[[Path], None]) -> Path:
    """`directory`, built by `build` unless an earlier benchmark of this run has; a half-built one is built again."""
    done = directory / ".complete"
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        log.print(f"  building {directory.name}", style="dim")
        begin = time.perf_counter()
        build(directory)
        done.touch()
        log.print(f"  built {directory.name} in {time.perf_counter() - begin:.1f} s", style="dim")
    return directory


def print_paths(result: Mapping[str, Any]) -> None:
    """Every path's figures, medians of the rounds."""
    table = Table(title=f"{result['name']} (medians of the rounds)", title_justify="left")
    table.add_column("path")
    table.add_column("figures")
    for path, figures in result["paths"].items():
        table.add_row(path, ", ".join(f"{key} {_short(value)}" for key, value in figures.items()))
    _out.print(table)
    _out.print(f"sizes: {result['sizes']}; seed {result['seed']}; {result['seconds']} s")
    for note in result["notes"]:
        _out.print(f"note: {note}")


def print_findings(results: Sequence[Mapping[str, Any]]) -> None:
    """The table of all findings: question, figure, peer, ratio, goal, reached."""
    quick = any(result["quick"] for result in results)
    title = "quick mode: it runs; the figures say nothing" if quick else "figures of one run; ratio = median of the rounds (range)"
    table = Table(title=title, title_justify="left")
    for column in ("question", "figure", "peer", "ratio", "goal", "reached"):
        table.add_column(column)
    for result in results:
        for finding in result["findings"]:
            ratio = str(Spread(**finding["ratio"])) if finding["ratio"] else ""
            reached = {None: "", True: "yes", False: "NO"}[finding["reached"]]
            table.add_row(
                finding["question"], finding["figure"], finding["peer"], ratio, finding["goal"], "-" if quick and reached else reached
            )
        table.add_section()
    _out.print(table)
