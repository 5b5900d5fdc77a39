"""How fast are 10 features of 500 entities read online, and how fast are 1M rows published?

Publishing: 1M accounts with 10 features (7 doubles, 3 integers; `_accounts.py`) from Parquet into the online store, in a fresh process
(imports not counted), peak memory VmHWM; a quarter of the rows as well, to see whether memory grows with them (judged as independent
below 1.25x). Reading: 500 accounts drawn uniformly from 100,000, one request at a time, in the reader's process; rounds alternate with
the peers. Ten requests of warm-up each. Values read from Feast and from Fondaco are compared.

Where the peers differ in what they do:
* Fondaco publishes versions with counts and checksums and reads through its embedded reader; its store holds all 1M accounts, Feast's
  100,000 (at Feast's rate 1M would take minutes). It reads into a dict of lists, as Feast does and the goal compares; and into NumPy
  columns, and into typed rows.
* Feast's SDK 0.67 on its SQLite store, and on Redis over TCP on loopback (hiredis), in a process of its own, timed inside it: a feature
  service, columnar entity rows, `.to_dict()`. Its materialisation is timed once, after its imports.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import fondaco as fd
from benchmarks import _accounts
from benchmarks._account_features import one_view
from benchmarks._accounts import FEATURES
from benchmarks._child import call, note_peak
from benchmarks._harness import (
    Figures,
    Report,
    Settings,
    alternate,
    build_once,
    figures_of,
    in_rate,
    in_us,
    main,
    median_of,
    time_calls,
    times_higher,
    times_lower,
)
from benchmarks._peers import FeastWorker, RedisServer, have_feast, have_redis

NAME = "online_read"
QUESTION = "How fast are 10 features of 500 entities read online, and 1M rows published?"
ENTITIES = 500
PEER_ACCOUNTS = 100_000
LISTS, COLUMNS, ROWS = "Fondaco dict of lists", "Fondaco columns", "Fondaco rows"
SQLITE, REDIS = "Feast on SQLite", "Feast on Redis"


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=1_000_000, quick=2_000), settings.choose_rounds(full=9)
    light, heavy = (4, 2) if settings.quick else (200, 20)
    few = min(PEER_ACCOUNTS, rows)
    report.sizes = {"accounts": rows, "accounts_of_peers": few, "entities_per_request": ENTITIES, "features": 10, "rounds": rounds}
    report.sizes["requests_per_round"] = light
    published = _publish(settings, report, rows, rounds=1 if settings.quick else 3)
    draw = np.random.default_rng(settings.seed)
    batches = [draw.integers(0, few, ENTITIES).tolist() for _ in range(light * rounds)]
    with ExitStack() as stack:
        platform = stack.enter_context(fd.open(settings.workdir / "online-platform"))
        feature_set = one_view(_source(settings, rows))

        def read(keys: list[int]) -> Any:
            return platform.get_many(feature_set, {"account": keys})

        def read_lists(keys: list[int]) -> dict[str, list[Any]]:
            columns = read(keys)
            return {name: columns[name].tolist() for name in columns}

        def read_columns(keys: list[int]) -> list[Any]:
            columns = read(keys)
            return [columns[name] for name in columns]

        reads = {LISTS: read_lists, COLUMNS: read_columns, ROWS: lambda keys: read(keys).rows()}

        def ours(call_one: Callable[[list[int]], Any]) -> Callable[[int], Figures]:
            return lambda index: time_calls(call_one, batches[index * light : (index + 1) * light], scale=ENTITIES)

        for batch in batches[:10]:
            for call_one in reads.values():
                call_one(batch)
        paths = {name: ours(call_one) for name, call_one in reads.items()}
        if not settings.quick and have_feast(report):
            feast = _feast_stores(stack, settings, report, few)
            for name, (worker, seconds) in feast.items():
                rate = [{"per_s": few / seconds}]
                peer = f"{name}: {in_rate(rate, 'rows')} ({few:,} rows)"
                ratio = times_higher(published, rate * len(published), "per_s")
                report.found("publish", _published_figure(published), peer, ratio, at_least=20)
                report.add_paths({f"publish, {name}": rate})
                _check(worker.ask("online", name=name, requests=batches[:1], answer=True)["last"], read_lists(batches[0]))
                worker.ask("online", name=name, requests=batches[:10])
                paths[name] = lambda index, name=name, worker=worker: figures_of(
                    np.array(worker.ask("online", name=name, requests=batches[index * light : index * light + heavy])["elapsed_ns"]),
                    scale=ENTITIES,
                )
        results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    for path in reads:
        question, figure = f"read 500 entities x 10, p50: {path.removeprefix('Fondaco ')}", in_us(results[path])
        peers = [peer for peer in (SQLITE, REDIS) if peer in results]
        for peer in peers:
            ratio = times_lower(results[path], results[peer], "p50_us")
            report.found(question, figure, f"{peer}: {in_us(results[peer])}", ratio, at_least=20 if path == LISTS else None)
        if not peers:
            report.found(question, figure)


# -- publishing ---------------------------------------------------------------------------------------------------------------------


def _source(settings: Settings, accounts: int) -> Path:
    def build(directory: Path) -> None:
        _accounts.write_latest(directory / "latest.parquet", accounts=accounts, seed=settings.seed)

    return build_once(settings.workdir / f"latest-{accounts}-{settings.seed}", build) / "latest.parquet"


def _publish(settings: Settings, report: Report, rows: int, *, rounds: int) -> list[Figures]:
    """Publish all rows (as new versions of one store) and a quarter of them, alternating; leaves the store for the reads."""
    platform, warm = settings.workdir / "online-platform", str(_source(settings, 10))

    def path(source: Path, count: int, target: Path) -> Callable[[int], Figures]:
        def run(_: int) -> Figures:
            answer = call(publish, platform=str(target), source=str(source), warm=warm, rows=count)
            return {"seconds": answer["seconds"], "per_s": count / answer["seconds"], "peak_mib": answer["vm_hwm_bytes"] / (1 << 20)}

        return run

    quarter = rows // 4
    paths = {
        "publish": path(_source(settings, rows), rows, platform),
        "publish, a quarter": path(_source(settings, quarter), quarter, settings.workdir / "online-platform-quarter"),
    }
    results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    whole, part = results["publish"], results["publish, a quarter"]
    growth = times_higher(whole, part, "peak_mib")
    figure = f"{median_of(whole, 'peak_mib'):.0f} MiB for {rows:,} rows, {median_of(part, 'peak_mib'):.0f} MiB for {quarter:,}"
    report.found_limit("publish, memory at 4x the rows", figure, value=growth.median, at_most=1.25, unit="x")
    return whole


def _published_figure(published: list[Figures]) -> str:
    return f"{in_rate(published, 'rows')}, peak {median_of(published, 'peak_mib'):.0f} MiB"


def publish(*, platform: str, source: str, warm: str, rows: int) -> dict[str, Any]:
    """In a child process: publish the feature set and read one entity back; a set of ten rows first, untimed."""
    with tempfile.TemporaryDirectory(dir=Path(platform).parent) as other, fd.open(other) as opened:
        opened.publish(one_view(Path(warm)), progress=False)
    with fd.open(platform) as opened:
        feature_set = one_view(Path(source))
        begin = time.perf_counter()
        reports = opened.publish(feature_set, progress=False)
        found = opened.get_many(feature_set, {"account": [0]}).found
        seconds = time.perf_counter() - begin
    note_peak()
    assert found.all()
    assert [report.records for report in reports] == [rows], f"{rows} rows to publish, {reports} counted"
    return {"seconds": seconds}


# -- Feast --------------------------------------------------------------------------------------------------------------------------


def _feast_stores(stack: ExitStack, settings: Settings, report: Report, accounts: int) -> dict[str, tuple[FeastWorker, float]]:
    """A worker per online store with the accounts materialised, and the seconds that took."""
    home = settings.workdir / "feast-online"
    online: dict[str, dict[str, Any]] = {SQLITE: {"type": "sqlite", "path": str(home / "online.db")}}
    if have_redis(report):
        server = stack.enter_context(RedisServer())
        online[REDIS] = {"type": "redis", "connection_string": f"127.0.0.1:{server.port}"}
    features = {feature: kind for table in _accounts.TABLES.values() for feature, kind in table.items()}
    views = [{"name": "latest", "path": str(_source(settings, accounts)), "features": features}]
    workers: dict[str, tuple[FeastWorker, float]] = {}
    for number, (name, config) in enumerate(online.items()):
        worker = stack.enter_context(FeastWorker())
        worker.ask("open_repo", name=name, directory=str(home / str(number)), views=views, online=config)
        answer = worker.ask("materialize", name=name, start=_accounts.iso(0), end=_accounts.iso(31))
        report.note(
            f"{name}: {accounts:,} rows materialised in {answer['seconds']:.1f} s, peak {answer['vm_hwm_bytes'] / (1 << 20):.0f} MiB"
        )
        workers[name] = worker, answer["seconds"]
    return workers


def _check(theirs: dict[str, list[Any]], ours: dict[str, list[Any]]) -> None:
    """Stop unless Feast and Fondaco give the same values."""
    for feature in FEATURES:
        assert len(ours[feature]) == ENTITIES
        assert theirs[feature] == ours[feature], f"Feast and Fondaco disagree on {feature}"


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
