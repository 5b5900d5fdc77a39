"""How long does a point-in-time join of 1M labels with three views of 2M rows each take?

10 features over three Parquet files (`_accounts.py`: 100,000 accounts, 20 events each a table on average, no time limit), labels in
Parquet, the result an Arrow table in memory. Every run is a fresh process; imports are not counted, peak memory is VmHWM. Rounds
alternate; Feast, at half a minute a run, takes part in the first two. Nothing is warmed but the page cache (each file is read once
before the first round).

The results of all engines are compared value by value in the first round they take part in: "no row lost" is checked, not assumed.

Where the peers differ in what they do:
* Fondaco checks the definitions, prints SQL for DuckDB, keeps the labels' order, breaks ties by rule and keeps a record (hash of the
  labels, row counts, null rates); its time covers all of that.
* DuckDB: three hand-written ASOF LEFT JOINs on the same files. Nothing else: its rows come in any order. `in order` sorts them by label
  as well.
* Feast 0.67 with its duckdb store (its default, dask, loses rows): an entity data frame read from the same Parquet, `to_arrow`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import _accounts
from benchmarks._accounts import FEATURES, TABLES
from benchmarks._child import call, note_peak
from benchmarks._harness import Figures, Report, Settings, alternate, build_once, log, main, median_of, times_lower
from benchmarks._members import touch_file
from benchmarks._peers import FeastWorker, have_feast

NAME = "pit_join"
QUESTION = "How long does a point-in-time join of 1M labels with 3 views of 2M rows take?"
FEAST_ROUNDS = 2
MEMORY_GOAL_MIB = 1_000_000_000 / (1 << 20)
FONDACO, DUCKDB, DUCKDB_ORDERED, FEAST = "Fondaco training_set", "DuckDB ASOF", "DuckDB ASOF, in order", "Feast, duckdb store"


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=1_000_000, quick=2_000), settings.choose_rounds(full=5, quick=1)
    accounts = max(1, rows * _accounts.ACCOUNTS // 1_000_000)
    report.sizes = {"labels": rows, "rows_per_view": 2 * rows, "views": 3, "features": 10, "accounts": accounts, "rounds": rounds}

    data = _tables(settings, labels=rows, accounts=accounts)
    touch_file(data)
    arguments = {"data": str(data), "warm": str(_tables(settings, labels=10, accounts=5)), "workdir": str(settings.workdir)}
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        FONDACO: lambda: call(join_fondaco, **arguments),
        DUCKDB: lambda: call(join_duckdb, ordered=False, **arguments),
        DUCKDB_ORDERED: lambda: call(join_duckdb, ordered=True, **arguments),
    }
    checker = _Checker(settings.workdir)
    results = alternate({name: _path(name, run, checker, rows) for name, run in runs.items()}, rounds=rounds)
    report.add_paths(results)
    ours = results[FONDACO]
    peak = median_of(ours, "peak_mib")
    for name, goal in ((DUCKDB, 1 / 1.3), (DUCKDB_ORDERED, None)):
        ratio = times_lower(ours, results[name], "seconds")
        report.found("point-in-time join", _figure(ours), f"{name}: {_figure(results[name])}", ratio, at_least=goal and round(goal, 3))
    report.found_limit("point-in-time join, peak memory", f"{peak:.0f} MiB", value=peak, at_most=round(MEMORY_GOAL_MIB), unit="MiB")
    if not settings.quick and have_feast(report):
        runs[FEAST] = lambda: _join_feast(settings, data)
        both = {name: _path(name, runs[name], checker, rows) for name in (FONDACO, FEAST)}
        feast = alternate(both, rounds=min(FEAST_ROUNDS, rounds))
        report.add_paths({FEAST: feast[FEAST]})
        ratio = times_lower(feast[FONDACO], feast[FEAST], "seconds")
        report.found("point-in-time join", _figure(feast[FONDACO]), f"{FEAST}: {_figure(feast[FEAST])}", ratio, at_least=5)
    report.note("all engines gave the same values for every label: no row lost, none doubled")


def _tables(settings: Settings, *, labels: int, accounts: int) -> Path:
    """A folder with the three tables and the labels."""

    def build(directory: Path) -> None:
        _accounts.write_events(directory, rows=2 * labels, accounts=accounts, seed=settings.seed)
        _accounts.write_labels(directory / "labels.parquet", rows=labels, accounts=accounts, seed=settings.seed)

    return build_once(settings.workdir / f"accounts-{labels}-{settings.seed}", build)


def _figure(rounds: list[Figures]) -> str:
    return f"{median_of(rounds, 'seconds'):.2f} s, peak {median_of(rounds, 'peak_mib'):.0f} MiB"


def _path(name: str, run: Callable[[], dict[str, Any]], checker: _Checker, rows: int) -> Callable[[int], Figures]:
    def once(_: int) -> Figures:
        answer = run()
        assert answer["rows"] == rows, f"{name} gave {answer['rows']} rows for {rows} labels"
        checker.check(name)
        return {"seconds": answer["seconds"], "peak_mib": answer["vm_hwm_bytes"] / (1 << 20)}

    return once


class _Checker:
    """Compares every engine's result with the first one's, value by value, once per engine."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._seen: set[str] = set()
        self._expected: dict[str, np.ndarray] | None = None

    def check(self, name: str) -> None:
        """Compare what `name` wrote, unless it was compared before."""
        result = result_file(self._workdir)
        if name not in self._seen:
            self._seen.add(name)
            found = _sorted_columns(pq.read_table(result))
            self._expected = self._expected or found
            for column, values in self._expected.items():
                assert np.array_equal(values, found[column], equal_nan=True), f"{name} differs from {next(iter(self._seen))} in {column}"
            log.print(f"  {name}: values compared", style="dim")
        result.unlink()


def _sorted_columns(table: pa.Table) -> dict[str, np.ndarray]:
    order = np.argsort(table.column("label_id").to_numpy(), kind="stable")
    assert np.array_equal(table.column("label_id").to_numpy()[order], np.arange(table.num_rows)), "labels are missing or doubled"
    return {name: table.column(name).cast(pa.float64()).to_numpy()[order] for name in FEATURES}


def result_file(workdir: Path | str) -> Path:
    """Where an engine's result is left for the comparison."""
    return Path(workdir) / "pit-result.parquet"


def _join_feast(settings: Settings, data: Path) -> dict[str, Any]:
    """A fresh worker, so that its memory is its own."""
    views = [{"name": name, "path": str(data / f"{name}.parquet"), "features": features} for name, features in TABLES.items()]
    home = settings.workdir / "feast-offline"
    with FeastWorker() as worker:
        worker.ask("open_repo", name="pit", directory=str(home), views=views, online={"type": "sqlite", "path": str(home / "online.db")})
        labels, target = str(data / "labels.parquet"), str(result_file(settings.workdir))
        return worker.ask("historical", name="pit", labels=labels, columns=FEATURES, target=target)


# -- in child processes -------------------------------------------------------------------------------------------------------------


def join_duckdb(*, data: str, warm: str, workdir: str, ordered: bool) -> dict[str, Any]:
    """Hand-written ASOF joins."""
    import duckdb

    def query(directory: str) -> str:
        joins = "".join(
            f" ASOF LEFT JOIN read_parquet('{directory}/{name}.parquet') {name}"
            f" ON labels.account = {name}.account AND labels.event_timestamp >= {name}.event_timestamp"
            for name in TABLES
        )
        columns = ", ".join(["labels.*", *(f"{name}.{feature}" for name, features in TABLES.items() for feature in features)])
        return f"SELECT {columns} FROM read_parquet('{directory}/labels.parquet') labels{joins}" + (" ORDER BY label_id" if ordered else "")

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.sql(query(warm)).to_arrow_table()
        begin = time.perf_counter()
        table = connection.sql(query(data)).to_arrow_table()
        seconds = time.perf_counter() - begin
    note_peak()
    pq.write_table(table.select(["label_id", *FEATURES]), result_file(workdir))
    return {"seconds": seconds, "rows": table.num_rows}


def join_fondaco(*, data: str, warm: str, workdir: str) -> dict[str, Any]:
    """The same through views."""
    import fondaco as fd
    from benchmarks._account_features import three_views

    def join(directory: str) -> pa.Table:
        labels = f"{directory}/labels.parquet"
        return platform.training_set(three_views(Path(directory)), labels=labels, at="event_timestamp").to_arrow()

    with tempfile.TemporaryDirectory(dir=workdir) as home, fd.open(home) as platform:
        join(warm)
        begin = time.perf_counter()
        table = join(data)
        seconds = time.perf_counter() - begin
    note_peak()
    assert np.array_equal(table.column("label_id").to_numpy(), np.arange(table.num_rows)), "labels are out of order"
    pq.write_table(table.select(["label_id", *FEATURES]), result_file(workdir))
    return {"seconds": seconds, "rows": table.num_rows}


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
