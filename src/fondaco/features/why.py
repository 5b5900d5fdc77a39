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

from fondaco.core.clock import SystemClock, from_us
from fondaco.core.errors import InputError
from fondaco.features import oracle
from fondaco.features.entity import Entity, check_key, entity_fields
from fondaco.features.featureset import FeatureSet, check_set
from fondaco.features.kinds import TIMESTAMP, ColumnType
from fondaco.features.moments import moment_us
from fondaco.features.plan import Aggregate, Binding, Literal, SetPlan, ViewPlan, aggregates_of
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
        return f"{head}\n{_text_of(self.rows)}" if self.rows.num_rows else head


def why(
    platform: RecordKeeper | None, feature_set: FeatureSet, *entities: Entity | Mapping[str, Any], at: datetime | str | int | None = None
) -> dict[str, Reason]:
    """The rows that make each feature of the given entities what it is at a moment.

    Args:
        entities: instances of entities of the set (several of one entity: in the order of the set's bindings), or one mapping of label
            columns. Features of entities that are not given are left out.
        at: an aware datetime, ISO text with a zone, or microseconds since the epoch; default: now.
    Returns:
        output name -> `Reason`, in the order of the set.
    Raises:
        InputError: an entity that the set does not use, one too many, or none. KeyTypeError: a key of another type.
    """
    plan = check_set(feature_set).plan()
    u = moment_us("at", at, platform.clock if platform is not None else SystemClock())
    keys = _keys(feature_set, plan, entities)
    tables = [definition.table for definition in feature_set.definitions]
    return {
        chosen.output: _reason(plan.views[chosen.view], chosen.feature, tables[chosen.view], keys[chosen.binding], u)
        for chosen in plan.selections
        if chosen.binding in keys
    }


def _keys(feature_set: FeatureSet, plan: SetPlan, entities: tuple[Entity | Mapping[str, Any], ...]) -> dict[Binding, tuple[Any, ...]]:
    """The key of every binding that something was given for, assigned as online reads do it."""
    found: dict[Binding, tuple[Any, ...]] = {}
    asked = ", ".join(f"{binding.entity}({', '.join(binding.columns)})" for binding in plan.bindings)
    for entity in entities:
        if isinstance(entity, Mapping):
            for binding in plan.bindings:
                if all(column in entity for column in binding.columns):
                    found.setdefault(binding, _key_in(entity, binding, feature_set))
            continue
        if type(entity) not in feature_set.entities:
            raise InputError(f"feature set {plan.name!r} has no features of {type(entity).__name__}; it asks for {asked}")
        name = type(entity).__name__
        free = next((binding for binding in plan.bindings if binding.entity == name and binding not in found), None)
        if free is None:
            raise InputError(f"more {name} than feature set {plan.name!r} asks for: {asked}")
        found[free] = tuple(getattr(entity, field) for field in entity_fields(type(entity)))
    if not found:
        given = f"{', '.join(map(repr, entities))} names none of them" if entities else "nothing was given"
        raise InputError(f"feature set {plan.name!r} asks for {asked}; {given}")
    return found


def _key_in(row: Mapping[str, Any], binding: Binding, feature_set: FeatureSet) -> tuple[Any, ...]:
    entity = next(entity for entity in feature_set.entities if entity.__name__ == binding.entity)
    return tuple(
        row[column] if row[column] is None else check_key(f"{binding.entity}.{field}", kind, row[column])
        for column, (field, kind) in zip(binding.columns, entity_fields(entity).items(), strict=True)
    )


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


def _text_of(rows: pa.Table) -> str:
    """A table as lines of text, each column as wide as its widest value; null is empty."""
    columns = []
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)  # Python has no nanoseconds
        cells = [name, *("" if value is None else str(value) for value in column.to_pylist())]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _unusable(column: ColumnType, view: ViewPlan) -> bool:
    return column.kind == TIMESTAMP and column.naive and view.scan.tz is None and column.stored != "DATE"
