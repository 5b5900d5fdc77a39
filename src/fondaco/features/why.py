"""Why: the source rows behind one feature's value for one entity at one moment.

The rows are found by DuckDB (those of the key, up to the moment), and chosen by the oracle's own rules, so the answer to "why" is given
by the judge and not by the engine that is asked about. For lookups it is the one row; for aggregates, every row that counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from sqlglot import exp

from fondaco.core.clock import SystemClock, from_us, to_us
from fondaco.core.errors import InputError
from fondaco.features import oracle
from fondaco.features.entity import Entity
from fondaco.features.featureset import FeatureSet
from fondaco.features.kinds import TIMESTAMP, ColumnType
from fondaco.features.plan import Aggregate, Literal, ViewPlan, aggregates_of
from fondaco.features.record import RecordKeeper, SourceRecord, fingerprint
from fondaco.features.sql import tie_columns
from fondaco.features.sqlnodes import all_of, constant, source_column, text_of
from fondaco.features.table import Table, connect
from fondaco.features.wording import describe


@dataclass(frozen=True)
class Reason:
    """One feature's value, its definition, and the rows (of the source, all columns, oldest first) that made it."""

    feature: str
    value: Any
    definition: str
    version: str
    source: SourceRecord
    rows: pa.Table

    def __str__(self) -> str:
        origin = f"from {self.rows.num_rows} rows of {self.source.name} (view version {self.version[:12]})"
        head = f"{self.feature} = {self.value!r}: {self.definition}, {origin}"
        return f"{head}\n{self.rows.to_pandas().to_string(index=False)}" if self.rows.num_rows else head


def why(
    platform: RecordKeeper | None, feature_set: FeatureSet, *entities: Entity | Mapping[str, Any], at: datetime | int | None = None
) -> dict[str, Reason]:
    """The rows that make each feature of the given entities what it is at a moment.

    Args:
        entities: instances of entities of the set (features of others are left out), or one mapping of label columns.
        at: an aware datetime, or microseconds since the epoch; default: now.
    Returns:
        output name -> `Reason`, in the order of the set.
    Raises:
        InputError: an entity that the set does not use.
    """
    plan = feature_set.plan()
    clock = platform.clock if platform is not None else SystemClock()
    try:
        u = clock.now_us() if at is None else to_us(at)
    except ValueError as exc:
        raise InputError(f"at: {exc}") from None
    known = {entity.__name__ for entity in feature_set.entities}
    for entity in entities:
        if isinstance(entity, Entity) and type(entity).__name__ not in known:
            raise InputError(f"feature set {plan.name!r} has no features of {type(entity).__name__}; it has of {', '.join(sorted(known))}")
    tables = [definition.table for definition in feature_set.definitions]
    reasons = {}
    for selection in plan.selections:
        view = plan.views[selection.view]
        key = _key(view, selection.binding.columns, entities)
        if key is not None:
            reasons[selection.output] = _reason(view, selection.feature, tables[selection.view], key, u)
    return reasons


def _key(view: ViewPlan, columns: tuple[str, ...], entities: tuple[Entity | Mapping[str, Any], ...]) -> tuple[Any, ...] | None:
    for entity in entities:
        if isinstance(entity, Entity):
            if type(entity).__name__ == view.key.entity:
                return tuple(getattr(entity, name) for name in view.key.fields)
        elif all(column in entity for column in columns):
            return tuple(entity[column] for column in columns)
    return None


def _reason(view: ViewPlan, name: str, table: Table, key: tuple[Any, ...], u: int) -> Reason:
    shown, rows, schema = _rows_of(view, table, key)
    ties = tie_columns(view, schema)
    feature = view.feature(name)
    t = view.refresh.floor(u)
    counted: set[int] = set()
    for node in aggregates_of(feature.value):
        counted.update(_counted(view, node, rows, t, u, ties))
    order = sorted(counted, key=lambda number: oracle.place(view, rows[number], ties))
    value = oracle.feature_value(view, name, key, u, rows, ties)
    if feature.dtype == "timestamp" and value is not None:
        value = from_us(value)
    return Reason(name, value, describe(feature.value), view.version, fingerprint(table), shown.take(pa.array(order, pa.int64())))


def _counted(view: ViewPlan, node: Aggregate, rows: list[dict[str, Any]], t: int, u: int, ties: list[str]) -> list[int]:
    """Positions of the rows that decide an aggregate."""
    found = [number for number, row in enumerate(rows) if oracle.counts(view, node, row, t)]
    if node.op in ("latest", "first", "last"):
        found.sort(key=lambda number: oracle.place(view, rows[number], ties), reverse=node.op != "first")
        found = found[: node.k or 1]
        if node.max_age_us is not None and view.scan.time is not None:
            limit, time = u - node.max_age_us, view.scan.time
            found = [number for number in found if rows[number][time] >= limit]
    return found


def _rows_of(view: ViewPlan, table: Table, key: tuple[Any, ...]) -> tuple[pa.Table, list[dict[str, Any]], dict[str, ColumnType]]:
    """The rows of a key as they are in the source, and as the oracle takes them."""
    with contextlib.closing(connect()) as connection:
        schema = table.register(connection, "source")
        matches = [
            exp.EQ(this=source_column(column, schema[column], view.scan.tz), expression=constant(Literal(part, kind)))
            for column, part, kind in zip(view.key.columns, key, view.key.kinds, strict=True)
        ]
        mine = exp.select("*").from_(exp.to_table("source")).where(all_of(matches))
        shown = connection.sql(text_of(mine)).to_arrow_table()
        usable = {name: column for name, column in schema.items() if column.kind is not None and not _unusable(column, view)}
        connection.register("mine", shown)
        values = [exp.alias_(source_column(name, column, view.scan.tz), name, quoted=True) for name, column in usable.items()]
        rows = connection.sql(text_of(exp.select(*values).from_(exp.to_table("mine")))).to_arrow_table().to_pylist()
    return shown, rows, schema


def _unusable(column: ColumnType, view: ViewPlan) -> bool:
    return column.kind == TIMESTAMP and column.naive and view.scan.tz is None and column.stored != "DATE"
