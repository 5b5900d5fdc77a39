"""Why: which rows make a value, for the right entity of several, and as text that needs nothing installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pyarrow as pa
import pytest

from fondaco import features as ft
from fondaco.core.errors import InputError, KeyTypeError

US = pa.timestamp("us", tz="UTC")


class Airport(ft.Entity):
    """Looked up through two label columns."""

    code: str


class Plane(ft.Entity):
    """Another entity of the set."""

    tailnum: str


WEATHER = pa.table({"code": ["JFK", "LGA"], "t": pa.array([1, 2], US), "temp": [10.0, 20.0]})
PLANES = pa.table({"tailnum": ["N1"], "seats": [180]})


def make_set() -> ft.FeatureSet:
    weather = ft.Table(WEATHER, name="weather", time="t", key=Airport)
    planes = ft.Table(PLANES, name="planes", key=Plane)

    class Weather(ft.View[Airport], source=weather):
        temp = weather.c.temp

    class Facts(ft.View[Plane], source=planes):
        seats = planes.c.seats

    return ft.FeatureSet("late", [Weather.on("origin"), Weather.temp.on("dest").alias("dest_temp"), Facts])


def values(*entities: Any) -> dict[str, Any]:
    return {name: reason.value for name, reason in ft.why(None, make_set(), *entities, at=9).items()}


def test_entities_of_one_type_go_to_the_bindings_in_their_order() -> None:
    assert values(Airport("JFK"), Airport("LGA")) == {"temp": 10.0, "dest_temp": 20.0}
    assert values(Airport("LGA"), Plane("N1"), Airport("JFK")) == {"temp": 20.0, "dest_temp": 10.0, "seats": 180}
    assert values(Airport("LGA")) == {"temp": 20.0}
    assert values({"origin": "JFK", "dest": "LGA"}) == {"temp": 10.0, "dest_temp": 20.0}
    assert values({"dest": "JFK", "tailnum": None}) == {"dest_temp": 10.0, "seats": None}


def test_what_matches_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"asks for Airport\(origin\), Airport\(dest\), Plane\(tailnum\); \{'tail': 'x'\} names none"):
        values({"tail": "x"})
    with pytest.raises(InputError, match="nothing was given"):
        values()
    with pytest.raises(InputError, match="more Airport than"):
        values(Airport("JFK"), Airport("LGA"), Airport("JFK"))
    with pytest.raises(InputError, match="no features of str"):
        values("JFK")
    with pytest.raises(KeyTypeError, match=r"Airport\.code"):
        values({"origin": 7})
    with pytest.raises(InputError, match=r"at: .* has no time zone"):
        ft.why(None, make_set(), Airport("JFK"), at="2013-01-01")


def test_a_reason_prints_its_rows_without_pandas() -> None:
    found = ft.why(None, make_set(), Airport("JFK"), at="2013-01-01T00:00:00Z")["temp"]
    lines = str(found).splitlines()
    assert lines[1].split() == ["code", "t", "temp"]
    assert lines[2].split() == ["JFK", "1970-01-01", "00:00:00.000001+00:00", "10.0"]
    script = """
    import sys

    class NotInstalled:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "pandas":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, NotInstalled())
    import pyarrow as pa
    from fondaco import features as ft

    class Plane(ft.Entity):
        tailnum: str

    rows = pa.table({"tailnum": ["N1"], "t": pa.array([1_500], pa.timestamp("ns", tz="UTC")), "seats": [180]})
    table = ft.Table(rows, time="t", key=Plane)

    class Facts(ft.View[Plane], source=table):
        seats = table.c.seats

    print(ft.why(None, ft.FeatureSet("s", [Facts]), Plane("N1"))["seats"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "180" in done.stdout.splitlines()[-1]
