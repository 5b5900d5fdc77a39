"""Checks: what is refused before anything runs, from the plan and the schemas of its sources alone (milliseconds, no rows are read).

Types of every expression, columns that exist, times that have a zone, defaults that fit, annotations that can hold the value.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping

from fondaco.core.errors import ColumnNotFoundError, DefinitionError, NaiveTimestampError
from fondaco.features.aggregates import ORDERED, aggregate_kind
from fondaco.features.feature import DType
from fondaco.features.kinds import BOOL, FLOAT, INT, NULL, TIMESTAMP, ColumnType, Kind
from fondaco.features.operators import OPERATORS
from fondaco.features.plan import Aggregate, Call, Column, Key, Literal, Node, Scan, aggregates_of, walk

Schema = Mapping[str, ColumnType]
_ZONED = ("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year")


def normalise(node: Node, where: str) -> Node:
    """A feature's expression with its lookups written out: columns alone mean the newest row's value.

    Raises:
        DefinitionError: columns beside aggregates, an aggregate of an aggregate, or neither.
    """
    found = aggregates_of(node)
    if not found:
        if not any(isinstance(part, Column) for part in walk(node)):
            raise DefinitionError(f"{where} is a constant; a feature is computed from a column")
        return Aggregate("latest", node)
    for aggregate in found:
        for inner in (aggregate.value, aggregate.where):
            if inner is not None and aggregates_of(inner):
                raise DefinitionError(f"{where}: an aggregate of an aggregate; a second view over the first is the way to chain them")
    loose = _loose_columns(node)
    if loose:
        raise DefinitionError(
            f"{where} mixes aggregates with the column {loose[0]!r} of single rows; write {loose[0]}.latest() for the newest row's value"
        )
    return node


def _loose_columns(node: Node) -> list[str]:
    if isinstance(node, Column):
        return [node.name]
    return [name for arg in node.args for name in _loose_columns(arg)] if isinstance(node, Call) else []


def infer(node: Node, schema: Schema, scan: Scan, table: str) -> Kind:
    """The kind of an expression over the columns of a source.

    Raises:
        ColumnNotFoundError: with the near name; NaiveTimestampError; DefinitionError: operands of the wrong type.
    """
    if isinstance(node, Literal):
        return node.kind
    if isinstance(node, Column):
        return _column_kind(node.name, schema, scan, table)
    if isinstance(node, Aggregate):
        return _aggregate_kind(node, schema, scan, table)
    kinds = [infer(arg, schema, scan, table) for arg in node.args]
    if node.op in _ZONED:
        zone = node.args[1]
        if isinstance(zone, Literal) and zone.value not in zoneinfo.available_timezones():
            raise DefinitionError(f'{node.op}(tz={zone.value!r}): no such time zone; write for example "America/New_York"')
    return OPERATORS[node.op](node.op, kinds)


def _column_kind(name: str, schema: Schema, scan: Scan, table: str) -> Kind:
    if name not in schema:
        raise ColumnNotFoundError(name, list(schema), f"table {table!r}")
    column = schema[name]
    if column.kind is None:
        raise DefinitionError(
            f"column {name!r} of table {table!r} is {column.stored}, which expressions cannot use; turn it into another type with ft.Sql"
        )
    if column.naive and scan.tz is None and column.stored != "DATE":
        raise NaiveTimestampError(name, f"table {table!r}")
    return column.kind


def _aggregate_kind(node: Aggregate, schema: Schema, scan: Scan, table: str) -> Kind:
    if scan.time is None and (node.window_us is not None or node.max_age_us is not None or node.op in ("first", "last")):
        raise DefinitionError(f"{node.op} with a window, an age or an order needs the time of each row; table {table!r} has no time=")
    if node.where is not None:
        kind = infer(node.where, schema, scan, table)
        if kind not in (BOOL, NULL):
            raise DefinitionError(f"where= of {node.op} is {kind}, expected a boolean")
    kinds = [infer(node.value, schema, scan, table)] if node.value is not None else []
    if kinds == [NULL]:
        kinds = [FLOAT]
    result = kinds[0] if node.op == "latest" else aggregate_kind(node.op, kinds, node.k)
    if node.op in ORDERED and node.k is None and kinds[0].item is not None and node.default is not None:
        raise DefinitionError(f"{node.op} of {kinds[0]} takes no default")
    if node.default is not None and node.default.kind != result and (node.default.kind, result) != (INT, FLOAT):
        raise DefinitionError(f"default={node.default.value!r} of {node.op} is {node.default.kind}, expected {result}")
    return result


def check_key(key: Key, schema: Schema, table: str) -> None:
    """The key columns exist and hold what the entity's fields say.

    Raises:
        ColumnNotFoundError, DefinitionError.
    """
    for field, kind, column in zip(key.fields, key.kinds, key.columns, strict=True):
        if column not in schema:
            raise ColumnNotFoundError(
                column, list(schema), f"table {table!r} (field {field!r} of {key.entity}; another name is given by key={{{field!r}: ...}})"
            )
        if schema[column].kind != kind:
            raise DefinitionError(
                f"{key.entity}.{field} is {kind}, but column {column!r} of table {table!r} is {schema[column].stored}"
                f"{integers_with_gaps(kind, schema[column])}"
            )


def integers_with_gaps(kind: Kind, found: ColumnType) -> str:
    """What to do where pandas made floats of integers, because some are missing."""
    return '; in pandas write .astype("Int64") for integers that may be missing' if (kind, found.kind) == (INT, FLOAT) else ""


def check_feature(where: str, node: Node, dtype: DType | None, schema: Schema, scan: Scan, table: str) -> Kind:
    """The kind of a feature, and whether its annotation can hold it.

    Raises:
        DefinitionError and its kin, beginning with `where`.
    """
    try:
        kind = infer(node, schema, scan, table)
    except DefinitionError as exc:
        if type(exc) is not DefinitionError:
            raise
        raise DefinitionError(f"{where}: {exc}") from None
    if dtype is not None and not dtype.accepts(kind):
        raise DefinitionError(f"{where} is declared {dtype.name}, but its expression gives {kind}{_remedy(dtype, kind)}")
    return kind


def _remedy(dtype: DType, kind: Kind) -> str:
    if kind == FLOAT and dtype.kind == INT:
        return "; declare it Float64 or Float32, or write .cast(ft.Int64), which cuts the fraction off"
    if kind == TIMESTAMP:
        return "; declare it Timestamp"
    return f"; declare it {str(kind).capitalize()} or cast it"
