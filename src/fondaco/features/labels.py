"""Labels: the rows that features are joined to; read from whatever holds them, and checked before anything runs.

Pure functions; any thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pyarrow as pa

from fondaco.core.errors import ColumnNotFoundError, DefinitionError, InputError, NaiveTimestampError
from fondaco.features.checks import integers_with_gaps
from fondaco.features.kinds import TIMESTAMP, ColumnType, column_type
from fondaco.features.plan import SetPlan
from fondaco.features.table import Table, check_zone, shared, to_arrow

_ALL_NULL = '"NULL"'  # the type of a column without a single value


def read_labels(labels: object) -> pa.Table:
    """The labels as an Arrow table.

    Raises:
        InputError, DefinitionError: not a table, or a file that cannot be read.
    """
    if isinstance(labels, (list, tuple)) and labels and all(isinstance(row, Mapping) for row in labels):
        return _table_of_rows(labels)
    if isinstance(labels, (Table, str, os.PathLike, list, tuple)):
        table = labels if isinstance(labels, Table) else Table(labels, name="labels")
        return table.read()
    return to_arrow(labels)


def _table_of_rows(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """The columns are those of all rows, in order of first use; a row without one has null there."""
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return pa.table({name: [row.get(name) for row in rows] for name in names})
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as exc:
        raise InputError(f"the labels' rows make no table: {exc}") from exc


def label_types(labels: pa.Table) -> dict[str, ColumnType]:
    """The columns of the labels as DuckDB sees them."""
    with shared() as connection:
        relation = connection.from_arrow(labels.slice(0, 0))
        return {name: column_type(str(stored)) for name, stored in zip(relation.columns, relation.types, strict=True)}


def check_labels(plan: SetPlan, labels: pa.Table, at: str, tz: str | None) -> None:
    """The labels have what the set needs.

    Raises:
        ColumnNotFoundError, NaiveTimestampError, DefinitionError.
    """
    check_zone(tz)
    repeated = sorted({name for name in labels.column_names if labels.column_names.count(name) > 1})
    if repeated:
        raise DefinitionError(f"the labels have two columns named {repeated[0]!r}")
    types = label_types(labels)
    if at not in types:
        raise ColumnNotFoundError(at, list(types), "the labels (at=)")
    if types[at].kind != TIMESTAMP and types[at].stored != _ALL_NULL:
        raise DefinitionError(f"at={at!r}: the labels' column is {types[at].stored}, expected a timestamp")
    if types[at].naive and tz is None:
        raise NaiveTimestampError(at, "the labels")
    for chosen in plan.selections:
        view = plan.views[chosen.view]
        for column, member, kind in zip(chosen.binding.columns, view.key.fields, view.key.kinds, strict=True):
            if column not in types:
                where = f'the labels ({view.key.entity}.{member}; another column is named by {view.name}.on({{"{member}": ...}}))'
                raise ColumnNotFoundError(column, list(types), where)
            if types[column].kind != kind and types[column].stored != _ALL_NULL:
                raise DefinitionError(
                    f"the labels' column {column!r} is {types[column].stored}, but {view.key.entity}.{member} is {kind}"
                    f"{integers_with_gaps(kind, types[column])}"
                )
        if chosen.output in types:
            raise DefinitionError(f"the labels have a column {chosen.output!r}, which is also a feature; rename one (feature.alias(...))")
