"""Accounts: the synthetic tables of the feature benchmarks, as Parquet files that Fondaco, DuckDB and Feast all read.

Three tables of events about accounts, four + three doubles and three integers: 10 features. Times are microseconds UTC over 30 days,
(account, time) is unique, rows come in the order of time. Labels fall on the last 20 days, in no order. Feast wants the time column
called `event_timestamp`; so it is in all.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ACCOUNTS = 100_000
START_US = 1_788_000_000_000_000
DAY_US = 86_400_000_000
TABLES: dict[str, dict[str, str]] = {
    "profile": {"f0": "double", "f1": "double", "f2": "double", "f3": "double"},
    "activity": {"f4": "double", "f5": "double", "f6": "double"},
    "counts": {"f7": "int64", "f8": "int64", "f9": "int64"},
}
FEATURES = [feature for features in TABLES.values() for feature in features]
_TIME = pa.timestamp("us", tz="UTC")
_GROUP_ROWS = 131_072


def write_events(directory: Path, *, rows: int, accounts: int, seed: int) -> None:
    """One Parquet file per table, `rows` rows each: account, event_timestamp, features."""
    for index, (name, features) in enumerate(TABLES.items()):
        rng = np.random.default_rng([seed, index])
        times = np.sort(rng.integers(0, 30 * DAY_US, rows))
        accounts_of = rng.integers(0, accounts, rows)
        pairs = accounts_of * (30 * DAY_US) + times
        assert len(np.unique(pairs)) == rows, "two events of one account at one time; choose another seed"
        _write(directory / f"{name}.parquet", accounts_of, times, features, rng)


def write_labels(path: Path, *, rows: int, accounts: int, seed: int) -> None:
    """label_id, account, event_timestamp, in no order of time."""
    rng = np.random.default_rng([seed, 99])
    columns = {
        "label_id": pa.array(np.arange(rows)),
        "account": pa.array(rng.integers(0, accounts, rows)),
        "event_timestamp": pa.array(START_US + rng.integers(10 * DAY_US, 30 * DAY_US, rows), _TIME),
    }
    pq.write_table(pa.table(columns), path, row_group_size=_GROUP_ROWS)


def write_latest(path: Path, *, accounts: int, seed: int) -> None:
    """One row per account with the 10 features, 7 doubles and 3 integers: what is published and read online.

    An account's values do not depend on how many accounts there are, so that stores of different size can be compared.
    """
    features = {feature: kind for table in TABLES.values() for feature, kind in table.items()}
    columns: dict[str, np.ndarray] = {"account": np.arange(accounts)}
    columns |= {
        feature: _values(kind, accounts, np.random.default_rng([seed, 100, index]))
        for index, (feature, kind) in enumerate(features.items())
    }
    rng = np.random.default_rng([seed, 101])
    order, times = rng.permutation(accounts), START_US + rng.integers(0, 30 * DAY_US, accounts)
    table = {name: pa.array(values[order]) for name, values in columns.items()} | {"event_timestamp": pa.array(times, _TIME)}
    pq.write_table(pa.table(table), path, row_group_size=_GROUP_ROWS)


def iso(day: int) -> str:
    """The start of a day of the data as ISO text with its zone."""
    return datetime.fromtimestamp((START_US + day * DAY_US) / 1e6, UTC).isoformat()


def _write(path: Path, accounts: np.ndarray, times: np.ndarray, features: dict[str, str], rng: np.random.Generator) -> None:
    columns = {"account": pa.array(accounts), "event_timestamp": pa.array(START_US + times, _TIME)}
    columns |= {feature: pa.array(_values(kind, len(accounts), rng)) for feature, kind in features.items()}
    pq.write_table(pa.table(columns), path, row_group_size=_GROUP_ROWS)


def _values(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(count) if kind == "double" else rng.integers(0, 100_000, count)
