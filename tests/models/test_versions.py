"""A job is told the versions that it runs on, and its record keeps them: of its graphs, and of the feature sets that it asked for."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco import features as ft
from fondaco.catalog.rows import RunState
from fondaco.models.runs import get_run
from train_process import removing_services, train

SHOW = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]


class Plane(ft.Entity):
    """Has flown."""

    tailnum: str


class Airport(ft.Entity):
    """Stays where it is."""

    code: str


def at(day: int) -> dt.datetime:
    return dt.datetime(2013, 1, day, tzinfo=dt.UTC)


def feature_set(window: str) -> ft.FeatureSet:
    """One with two entities; of another window it is another plan, in the same stores."""
    times = pa.array([at(1), at(2)], pa.timestamp("us", tz="UTC"))
    flown = ft.Table(pa.table({"tailnum": ["N1", "N1"], "t": times, "delay": [1.0, 3.0]}), name="flown", time="t", key=Plane)
    airports = ft.Table(pa.table({"code": ["JFK"], "altitude": [13]}), name="airports", key=Airport)
    delay: Any = flown.c.delay
    altitude: Any = airports.c.altitude

    class History(ft.View[Plane], source=flown):
        mean: ft.Float64 = delay.mean(window=window)

    class Facts(ft.View[Airport], source=airports):
        height: ft.Int16 = altitude

    return ft.FeatureSet("late", [History, Facts])


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Graph `g` at version 2; set `late`, published from one plan, from another and from the first again, with one of its stores rolled
    back: no two numbers say the same."""
    found = tmp_path / "platform"
    edges = {("stop", "next", "stop"): pa.table({"src": [1, 2], "dst": [2, 1]})}
    with fd.open(found) as platform:
        for _ in range(2):
            platform.build_graph("g", edges=edges, progress=False)
        for window in ("7d", "1d", "7d"):
            platform.publish(feature_set(window), as_of=at(3), progress=False)
        assert platform.store("late.Airport").rollback() == 2
    with removing_services(found):
        yield found


def test_a_job_is_told_its_versions_and_the_record_keeps_them(directory: Path) -> None:
    ended = train(directory, "--graph", "g", "--features", "late", "--env", "X={features.late.stores}", "--name", "told", "--", *SHOW)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    plan, stores = feature_set("7d").version, "late.Plane=3,late.Airport=2"
    expected = {
        "FONDACO_FEATURES": "late",
        "FONDACO_FEATURES_LATE_PLAN": plan,
        "FONDACO_FEATURES_LATE_STORES": stores,
        "X": stores,
        "FONDACO_GRAPH_NAME": "g",
        "FONDACO_GRAPH_VERSION": "2",
        "FONDACO_GRAPH_G_VERSION": "2",
    }
    assert {name: told.get(name) for name in expected} == expected
    assert {name for name in told if name.startswith("FONDACO_FEATURES")} == {name for name in expected if name.startswith("FONDACO_F")}
    assert plan != feature_set("1d").version
    with fd.open(directory) as platform:
        run = get_run(platform, "told")
    assert (run.id, run.state) == (told["FONDACO_RUN_ID"], RunState.SUCCEEDED)
    assert run.graphs == {"g": 2}
    assert run.features == {"late": plan}
    assert {name: run.variables.get(name) for name in expected} == expected  # where the versions of the stores are


def test_the_version_of_a_graph_that_is_asked_for_is_the_one_recorded(directory: Path) -> None:
    ended = train(directory, "--graph", "g@1", "--name", "older", "--", *SHOW)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["FONDACO_GRAPH_VERSION"] == "1"
    assert not [name for name in told if name.startswith("FONDACO_FEATURES")]
    with fd.open(directory) as platform:
        run = get_run(platform, "older")
    assert (run.graphs, run.features) == ({"g": 1}, {})
