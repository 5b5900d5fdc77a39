"""The changes of windowed features over one day, in the order in which they happened: what a stream job would write.

A feature of a window changes when a row becomes visible (its delay is known) and when a row leaves a window, so both are moments of
change; between two of them the value stands still. At each moment the features of the key are computed by the plan that also made the
training set (`features.oracle` evaluates it row by row), so there is one definition and not a second one for the stream.

Moments are whole milliseconds, the resolution of a write's timestamp. A window that is closed on the left takes a row in just after the
row's own time; here one millisecond after, which no flight's scheduled minute can tell apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from fondaco.features import oracle
from fondaco.features.plan import Aggregate, ViewPlan, aggregates_of, columns_of

MS: Final = 1000  # microseconds

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """From `at_us` on, the features of `key` (the values of the entity's fields) are `values`."""

    at_us: int
    entity: str
    key: Key
    values: dict[str, Any]


def changes(view: ViewPlan, source: pa.Table, begin_us: int, end_us: int) -> list[Change]:
    """Every change of the view's features in (begin_us, end_us], ordered by time.

    Args:
        view: every feature of it is an aggregate over a window.
        source: rows of the view's source; its times are UTC microseconds. Rows without a key are left out.
    """
    aggregates = [node for feature in view.features for node in aggregates_of(feature.value)]
    windows = sorted({_window(node) for node in aggregates})
    time, known_at = view.scan.time, view.scan.known_at
    assert time is not None
    found: list[Change] = []
    for key, rows in _rows_by_key(view, source, aggregates, begin_us - windows[-1], end_us).items():
        moments: set[int] = set()
        for row in rows:
            seen = max(row[time] + MS, row[known_at] if known_at is not None else 0)
            moments.update(at for at in (seen, *(row[time] + window for window in windows)) if begin_us < at <= end_us)
        for at in moments:
            inside = [row for row in rows if at - windows[-1] < row[time] <= at]
            values = {feature.name: oracle.feature_value(view, feature.name, key, at, inside, ()) for feature in view.features}
            found.append(Change(at, view.key.entity, key, values))
    return sorted(found, key=lambda change: (change.at_us, change.key))


def _window(node: Aggregate) -> int:
    assert node.window_us is not None
    return node.window_us


def _rows_by_key(
    view: ViewPlan, source: pa.Table, aggregates: Sequence[Aggregate], begin_us: int, end_us: int
) -> dict[Key, list[dict[str, Any]]]:
    """The rows that can matter between two moments, by key; times as microseconds, only the columns that the view reads."""
    time, known_at = view.scan.time, view.scan.known_at
    assert time is not None
    used = {column for node in aggregates for column in columns_of(node)}
    times = [column for column in (time, known_at) if column is not None]
    names = list(dict.fromkeys([*view.key.columns, *times, *sorted(used)]))
    table = source.select(names)
    for column in times:
        table = table.set_column(names.index(column), column, table[column].cast(pa.int64()))
    table = table.filter(pc.and_(pc.greater(table[time], begin_us), pc.less_equal(table[time], end_us)))
    rows: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        key = tuple(row[column] for column in view.key.columns)
        if None not in key:
            rows[key].append(row)
    return rows
