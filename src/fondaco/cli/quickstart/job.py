"""The main job, step by step: from raw flights to an online prediction. Every step says what it does while it does it.

Whatever interrupts it, the directory stays a platform that opens: a training set is only computed, a push that ends early is taken back.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

import fondaco
from fondaco.cli.quickstart.data import Flights, read_flights
from fondaco.cli.quickstart.definitions import (
    LIVE_NAME,
    SET_NAME,
    Airport,
    Carrier,
    Definitions,
    Destination,
    Plane,
    Route,
    define_features,
)
from fondaco.cli.quickstart.graph import NODE_KEYS, Embeddings, embed_flights, flat_names, flatten, push_embeddings
from fondaco.cli.quickstart.live import FLIGHT_KEY, replay
from fondaco.cli.quickstart.model import SCHEDULE, SEED, TEST_FROM, LateModel, score_groups, split
from fondaco.cli.quickstart.report import Prediction, PushFigures, ReadFigures, Report
from fondaco.cli.quickstart.tiers import compare_tiers, servers
from fondaco.core.clock import from_us, to_us

if TYPE_CHECKING:
    from fondaco.platform import Platform
    from fondaco.store.reader import StoreReader
    from fondaco.store.report import PushReport

Say = Callable[[str], None]

LABEL_COLUMNS = ["tailnum", "carrier", "flight", "origin", "dest", "scheduled_at", "dep_delay", *SCHEDULE]
PREDICTED_AFTER = datetime.fromisoformat("2013-12-30T22:00:00+00:00")  # the worked prediction: the first UA flight from here on
DAY_BEGINS = datetime.fromisoformat("2013-12-30T05:00:00+00:00")  # the day of that flight: midnight in New York
KEYS = {
    "flights": FLIGHT_KEY,
    "Plane": ("tailnum",),
    "Carrier": ("carrier",),
    "Route": ("origin", "dest"),
    "Airport": ("origin",),
    "Destination": ("dest",),
}
KEYS |= {kind: (column,) for kind, column in NODE_KEYS.items()}
GETS = 20_000
BATCHES = 200
BATCH_KEYS = 1000
TIER_GETS = 5_000


def run(directory: Path, say: Say) -> Report:
    """Run the whole job in `directory`.

    Raises:
        MissingExtraError: the data or scikit-learn is not installed. Otherwise what `fondaco.open` and `push` raise.
    """
    begun = time.perf_counter()
    with fondaco.open(directory) as platform:
        say("reading the flights of 2013")
        data = read_flights()
        embeddings = embed_flights(platform, data, until=TEST_FROM, say=say)
        definitions = define_features(data, embeddings.tables)
        labels = data.flights.select(LABEL_COLUMNS)
        report = Report(
            str(directory),
            flights=labels.num_rows,
            cancelled=int(pc.sum(data.flights["cancelled"]).as_py()),
            features=sum(map(len, definitions.groups.values())) + len(SCHEDULE),
            graph=embeddings.figures,
        )
        table = _training_set(platform, definitions, labels, report, say)
        model = _train(table, definitions, report, say)
        flight = _flight_to_predict(labels)
        _push_embeddings(platform, embeddings, report, say)
        _push_flights(platform, table, model.columns, report, say)
        _live(platform, data, definitions, table, model, to_us(flight["scheduled_at"]), report, say)
        _publish(platform, definitions, flight["scheduled_at"], report, say)
        _measure_reads(platform, report, data, say)
        say("reading one flight's features and predicting")
        report.prediction = _predict(platform, definitions, model, table, flight)
    report.seconds = time.perf_counter() - begun
    return report


def _training_set(platform: Platform, definitions: Definitions, labels: pa.Table, report: Report, say: Say) -> pa.Table:
    say(f"computing a point-in-time-correct training set: {labels.num_rows:,} flights x {len(definitions.feature_set)} features")
    begun = time.perf_counter()
    table = flatten(platform.training_set(definitions.feature_set, labels=labels, at="scheduled_at").to_arrow())
    report.training_set_seconds = time.perf_counter() - begun
    report.labels = table.num_rows
    return table


def _train(table: pa.Table, definitions: Definitions, report: Report, say: Say) -> LateModel:
    groups = {"schedule": SCHEDULE} | definitions.groups
    data = split(table, [name for columns in groups.values() for name in columns])
    report.train_rows, report.test_rows = len(data.train_y), len(data.test_y)
    report.late_share = float(data.test_y.mean())
    say(f"training on January to September ({report.train_rows:,} rows), testing on October to December ({report.test_rows:,})")
    model = LateModel(data, data.columns)
    report.auc_all = model.auc(data)
    say(f"all features: AUC {report.auc_all:.3f}; now each group alone, and all without it")
    for score in score_groups(data, groups):
        say(f"  {score.group}: alone {score.auc_alone:.3f}, all but it {score.auc_without:.3f}")
        report.groups.append(score)
    return model


def _flight_to_predict(labels: pa.Table) -> dict[str, Any]:
    wanted = pc.and_(
        pc.greater_equal(labels["scheduled_at"], pa.scalar(PREDICTED_AFTER, labels["scheduled_at"].type)),
        pc.and_(pc.equal(labels["carrier"], "UA"), pc.is_valid(labels["dep_delay"])),
    )
    rows = (
        labels.append_column("row", pa.array(range(labels.num_rows)))
        .filter(wanted)
        .sort_by([("scheduled_at", "ascending"), ("row", "ascending")])
    )
    found: dict[str, Any] = rows.slice(0, 1).to_pylist()[0]
    return found


def _push_embeddings(platform: Platform, embeddings: Embeddings, report: Report, say: Say) -> None:
    say(f"pushing the embeddings of {embeddings.figures.embedded:,} nodes")
    before = {name: platform.store(name).current for name in platform.stores()}
    for push in push_embeddings(platform, embeddings):
        _note_push(push, before.get(push.store), report, say)


def _push_flights(platform: Platform, table: pa.Table, columns: Sequence[str], report: Report, say: Say) -> None:
    """Every flight with what was known at its scheduled departure: for replays, and to look at what the model got wrong."""
    say(f"pushing {table.num_rows:,} flights with their values")
    key = pa.schema([table.schema.field(name) for name in FLIGHT_KEY])
    rows = table.select([*FLIGHT_KEY, *columns])
    store = platform.create_store(f"{SET_NAME}.flights", key=key, value=pa.schema([rows.schema.field(name) for name in columns]))
    before = store.current
    _note_push(store.push(rows, progress=False), before, report, say)


def _note_push(push: PushReport, before: int | None, report: Report, say: Say) -> None:
    say(f"  {push}")
    rate = push.records / push.seconds
    report.pushes.append(PushFigures(push.store, push.version, before, push.records, push.bytes, push.compression, push.seconds, rate))


def _live(
    platform: Platform, data: Flights, definitions: Definitions, table: pa.Table, model: LateModel, until_us: int, report: Report, say: Say
) -> None:
    """One day in real time, and its stores read through every tier, with the servers of `fondaco up` running."""
    midnight = to_us(DAY_BEGINS)
    say(f"publishing what was known on {DAY_BEGINS:%d %B %Y} at midnight in New York: yesterday's features")
    for name in platform.stores():
        if name.startswith(f"{LIVE_NAME}."):
            platform.delete_store(name)  # of an earlier run, and with it the day's events: this day begins once more
    platform.publish(definitions.live_set, as_of=DAY_BEGINS, progress=False)
    say("starting the data plane, the control API and the tailer: `fondaco up`")
    with servers(platform.directory) as running:
        report.live = replay(platform, data, definitions, table, model, begin_us=midnight, end_us=until_us, say=say)
        store = f"{LIVE_NAME}.Plane"
        keys = _known_keys(data, store)
        say(f"reading {TIER_GETS:,} planes one by one through each tier")
        drawn = [keys[index] for index in np.random.default_rng(SEED).integers(0, len(keys), TIER_GETS)]
        report.tiers = compare_tiers(platform, running, store, drawn, definitions.groups["plane history"])


def _known_keys(data: Flights, store: str) -> list[Any]:
    """Every key of a store that the flights name."""
    fields = KEYS[store.rpartition(".")[2]]
    known = data.flights.select(list(fields)).drop_null().group_by(list(fields)).aggregate([])
    return [next(iter(row.values())) if len(fields) == 1 else tuple(row.values()) for row in known.to_pylist()]


def _publish(platform: Platform, definitions: Definitions, as_of: datetime, report: Report, say: Say) -> None:
    say(f"publishing the features as of {as_of:%d %B %Y, %H:%M} UTC into stores")
    before = {name: platform.store(name).current for name in platform.stores()}
    for push in platform.publish(definitions.feature_set, as_of=as_of, progress=False):
        _note_push(push, before.get(push.store), report, say)


def _measure_reads(platform: Platform, report: Report, data: Flights, say: Say) -> None:
    say(f"measuring reads: {GETS:,} single gets and {BATCHES} batches of {BATCH_KEYS:,} keys from each store")
    for push in report.pushes:
        with platform.store(push.store).reader() as reader:
            report.reads.append(_time_reads(push.store, reader, _known_keys(data, push.store)))


def _time_reads(store: str, reader: StoreReader, keys: list[Any]) -> ReadFigures:
    rng = np.random.default_rng(SEED)
    singles = [keys[index] for index in rng.integers(0, len(keys), GETS)]
    batches = [[keys[index] for index in rng.integers(0, len(keys), BATCH_KEYS)] for _ in range(BATCHES)]
    single = _time_each(reader.get, singles)
    batch = _time_each(reader.get_columns, batches)
    p50, p99 = np.percentile(single, [50, 99])
    batch_p50, batch_p99 = np.percentile(batch, [50, 99])
    return ReadFigures(store, float(p50), float(p99), BATCH_KEYS, float(batch_p50), float(batch_p99))


def _time_each(call: Callable[[Any], object], arguments: list[Any]) -> npt.NDArray[np.float64]:
    """Microseconds of each call, after a tenth of them as warm-up; the garbage collector waits meanwhile."""
    for argument in arguments[: len(arguments) // 10]:
        call(argument)
    taken = np.empty(len(arguments))
    clock = time.perf_counter_ns
    gc.disable()
    try:
        for position, argument in enumerate(arguments):
            begun = clock()
            call(argument)
            taken[position] = clock() - begun
    finally:
        gc.enable()
    return taken / 1000


def _predict(platform: Platform, definitions: Definitions, model: LateModel, table: pa.Table, flight: dict[str, Any]) -> Prediction:
    route = Route(flight["origin"], flight["dest"])
    keys = (Plane(flight["tailnum"]), Carrier(flight["carrier"]), route, Airport(flight["origin"]), Destination(flight["dest"]))
    online = _flat(platform.get(definitions.feature_set, *keys, at=flight["scheduled_at"]))
    row = table.slice(flight["row"], 1).to_pylist()[0]
    values = {name: flight[name] if name in SCHEDULE else online[name] for name in model.columns}
    equal = sum(_equal(value, row[name]) for name, value in values.items())
    vector = np.array([[math.nan if value is None else float(value) for value in values.values()]])
    delay = flight["dep_delay"]
    return Prediction(
        flight=f"{flight['carrier']} {flight['flight']} {flight['origin']} to {flight['dest']}, plane {flight['tailnum']}",
        scheduled_at=f"{from_us(to_us(flight['scheduled_at'])):%d %B %Y, %H:%M} UTC",
        values={name: None if value is None else float(value) for name, value in values.items()},
        equal_to_training=equal,
        probability_late=float(model.probability(vector)[0]),
        happened=f"it left {abs(delay):.0f} minutes {'late' if delay > 0 else 'early'}" if delay else "it left on time",
    )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row, each number of an embedding under its column's name."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= dict(zip(flat_names(name), value, strict=True)) if isinstance(value, (list, np.ndarray)) else {name: value}
    return flat


def _equal(online: float | None, offline: float | None) -> bool:
    if online is None or offline is None:
        return online is offline
    return math.isclose(online, offline, rel_tol=1e-9, abs_tol=1e-9)
