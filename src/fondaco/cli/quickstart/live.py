"""One day in real time: flights depart, the windows of planes and routes move, and a model reads what is known at that moment.

The day begins with the features published as of its midnight, what a nightly job would have left. Its changes (`events`) are written as
whole rows, and every flight's features are read at its scheduled departure, as an online model would: after the writes up to then, before
all later ones. The same changes are then written again as fast as the log takes them, and at a stated multiple of real time with and
without a push running beside them. Writing them again changes nothing: a write is known by its stamp.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fondaco.cli.quickstart.data import LATE_MINUTES, Flights
from fondaco.cli.quickstart.definitions import LIVE_NAME, Definitions
from fondaco.cli.quickstart.events import MS, Change, changes
from fondaco.cli.quickstart.model import FloatMatrix, LateModel, matrix
from fondaco.features import oracle

if TYPE_CHECKING:
    from fondaco.platform import Platform
    from fondaco.store.reader import StoreReader
    from fondaco.store.writer import StoreWriter

FLIGHT_KEY: Final = ("carrier", "flight", "scheduled_at")
SPEED_UP: Final = 10_000
WRITER: Final = "flights-replay"


@dataclass(frozen=True, slots=True)
class Freshness:
    """Milliseconds from `put` being called to the change being readable in this process."""

    writes: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """What the day showed."""

    changes: int
    events_per_second: float  # written as fast as the log takes them, until all of them were readable
    speed_up: int
    quiet: Freshness
    beside_push: Freshness
    pushed_records: int  # by the pushes that ran beside, one after the other
    flights: int
    late: int
    auc_yesterday: float
    auc_fresh: float
    values_equal: int  # fresh values equal to the training set's
    values: int


def replay(
    platform: Platform,
    data: Flights,
    definitions: Definitions,
    table: pa.Table,
    model: LateModel,
    *,
    begin_us: int,
    end_us: int,
    say: Callable[[str], None],
) -> LiveFigures:
    """Replay (begin, end], times in UTC microseconds. The live set was published as of `begin_us`, and a tailer is running."""
    views = definitions.live_set.plan().views
    todo = sorted((one for view in views for one in changes(view, data.flights, begin_us, end_us)), key=lambda change: change.at_us)
    scheduled = table["scheduled_at"].cast(pa.int64())
    chosen = pc.and_(pc.and_(pc.greater(scheduled, begin_us), pc.less_equal(scheduled, end_us)), pc.is_valid(table["dep_delay"]))
    flights = table.filter(chosen).sort_by("scheduled_at")
    with contextlib.ExitStack() as stack:
        stores = {entity: platform.store(f"{LIVE_NAME}.{entity}") for entity in (view.key.entity for view in views)}
        readers = {entity: stack.enter_context(store.reader()) for entity, store in stores.items()}
        writers = {entity: stack.enter_context(store.writer(WRITER)) for entity, store in stores.items()}
        say(f"reading {flights.num_rows:,} flights' features at their departures while {len(todo):,} changes are written")
        scores = _score(readers, writers, definitions, flights, model, todo)
        rate = _as_fast_as_possible(readers, writers, todo)
        seconds = (end_us - begin_us) / 1e6 / SPEED_UP
        say(f"  {rate:,.0f} changes a second until readable; now at {SPEED_UP:,} times real time, {seconds:.0f} s")
        quiet = _paced(readers, writers, todo, begin_us)
        say("  and again beside pushes of all flights, one after the other")
        with _PushBeside(platform, table.select([*FLIGHT_KEY, *model.columns])) as push:
            beside = _paced(readers, writers, todo, begin_us)
    return LiveFigures(len(todo), rate, SPEED_UP, quiet, beside, push.records, flights.num_rows, *scores)


# -- what the model sees --------------------------------------------------------------------------------------------------------------


def _score(
    readers: Mapping[str, StoreReader],
    writers: Mapping[str, StoreWriter],
    definitions: Definitions,
    flights: pa.Table,
    model: LateModel,
    todo: Sequence[Change],
) -> tuple[int, float, float, int, int]:
    """(late flights, AUC with yesterday's features, with fresh ones, values equal to the training set's, values compared)."""
    from sklearn.metrics import roc_auc_score

    views = definitions.live_set.plan().views
    fresh_columns = {view.key.entity: [feature.name for feature in view.features] for view in views}
    offline = matrix(flights, model.columns)
    yesterday, fresh = offline.copy(), offline.copy()
    keys = {view.key.entity: _keys(flights, view.key.columns) for view in views}
    empty = {name: oracle.empty_value(view, name) for view in views for name in fresh_columns[view.key.entity]}

    def fill(target: FloatMatrix, number: int, entity: str, row: Mapping[str, Any] | None) -> None:
        """Put what was read for a flight into its places. A key that is not there has no rows; no key has no features."""
        known = empty if keys[entity][number] is not None else {}
        for name in fresh_columns[entity]:
            value = known.get(name) if row is None else row[name]
            target[number, model.columns.index(name)] = math.nan if value is None else float(value)

    for entity in fresh_columns:  # before the first write
        for number, row in enumerate(_get_many(readers[entity], keys[entity])):
            fill(yesterday, number, entity, row)
    times = flights["scheduled_at"].cast(pa.int64()).to_pylist()
    done = 0
    for number, at in enumerate(times):
        while done < len(todo) and todo[done].at_us <= at:
            _write(writers, todo[done])
            done += 1
        for entity in fresh_columns:
            key, written = keys[entity][number], writers[entity].flush()
            fill(fresh, number, entity, None if key is None else readers[entity].get(key, min_position=written))
    for change in todo[done:]:
        _write(writers, change)
    late = flights["dep_delay"].to_numpy() > LATE_MINUTES
    places = [model.columns.index(name) for columns in fresh_columns.values() for name in columns]
    equal = np.isclose(fresh[:, places], offline[:, places], rtol=1e-9, atol=1e-9, equal_nan=True)
    auc_yesterday, auc_fresh = (float(roc_auc_score(late, model.probability(values))) for values in (yesterday, fresh))
    return int(late.sum()), auc_yesterday, auc_fresh, int(equal.sum()), equal.size


def _keys(flights: pa.Table, columns: Sequence[str]) -> list[Any]:
    values = [flights[column].to_pylist() for column in columns]
    return values[0] if len(values) == 1 else list(zip(*values, strict=True))


def _get_many(reader: StoreReader, keys: Sequence[Any]) -> Iterator[Mapping[str, Any] | None]:
    """The rows of `keys`; None for a key that is None."""
    found = iter(reader.get_many([key for key in keys if key is not None]))
    return (None if key is None else next(found) for key in keys)


# -- how fast it goes -----------------------------------------------------------------------------------------------------------------


def _key(change: Change) -> Any:
    """The change's key as its store takes it."""
    return change.key[0] if len(change.key) == 1 else change.key


def _write(writers: Mapping[str, StoreWriter], change: Change) -> Any:
    return writers[change.entity].put(_key(change), change.values, timestamp_ms=change.at_us // MS)


def _as_fast_as_possible(readers: Mapping[str, StoreReader], writers: Mapping[str, StoreWriter], todo: Sequence[Change]) -> float:
    begun = time.perf_counter()
    last: dict[str, Change] = {}
    for change in todo:
        _write(writers, change)
        last[change.entity] = change
    for entity, writer in writers.items():
        positions = writer.flush()
        readers[entity].get(_key(last[entity]), min_position=positions)
    return len(todo) / (time.perf_counter() - begun)


def _paced(
    readers: Mapping[str, StoreReader],
    writers: Mapping[str, StoreWriter],
    todo: Sequence[Change],
    begin_us: int,
) -> Freshness:
    """Write the day's changes at `SPEED_UP` times real time; each is awaited by a read."""
    taken: list[float] = []
    begun = time.perf_counter()
    for change in todo:
        wait = (change.at_us - begin_us) / 1e6 / SPEED_UP - (time.perf_counter() - begun)
        if wait > 0:
            time.sleep(wait)
        called = time.perf_counter()
        position = _write(writers, change)
        writers[change.entity].flush()
        readers[change.entity].get(_key(change), min_position=position)
        taken.append(time.perf_counter() - called)
    p50, p99 = np.percentile(np.array(taken) * 1e3, [50, 99])
    return Freshness(len(taken), float(p50), float(p99))


_PUSH_AGAIN: Final = """
import select, sys, fondaco
directory, store, file = sys.argv[1:]
pushes = 0
with fondaco.open(directory) as platform:
    while not pushes or not select.select([sys.stdin], [], [], 0)[0]:  # until our parent closes the pipe
        platform.store(store).push(file, progress=False)
        pushes += 1
print(pushes)
"""


class _PushBeside:
    """All flights pushed again and again, in a process of its own, until the block ends."""

    def __init__(self, platform: Platform, table: pa.Table) -> None:
        fields = [table.schema.field(name) for name in table.column_names]
        key, value = pa.schema(fields[: len(FLIGHT_KEY)]), pa.schema(fields[len(FLIGHT_KEY) :])
        store = platform.create_store(f"{LIVE_NAME}.flights", key=key, value=value)
        self._file = platform.directory / "run" / "replay.parquet"
        self._command = [sys.executable, "-c", _PUSH_AGAIN, str(platform.directory), store.name, str(self._file)]
        self._table = table
        self.records = 0

    def __enter__(self) -> _PushBeside:
        pq.write_table(self._table, self._file)
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            told, _none = self._process.communicate(timeout=120)
            self.records = self._table.num_rows * int(told or 0)
        finally:
            self._process.kill()
            self._file.unlink()
