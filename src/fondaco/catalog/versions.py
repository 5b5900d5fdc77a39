"""Versions of stores in the catalog: numbers, states, and which one is current. Functions on an open transaction.

`stores.current` and the state CURRENT always change together, in `promote`; at most one version of a store is CURRENT. What they share with
the versions of graphs is in `generations`.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.generations import Generations
from fondaco.catalog.rows import VersionRow, VersionState


def _version(row: sa.Row[Any]) -> VersionRow:
    return VersionRow(
        row.number,
        VersionState(row.state),
        row.push_id,
        row.schema_number,
        row.partitions,
        row.records,
        row.bytes,
        row.compression,
        row.as_of_us,
        row.created_us,
        row.ready_us,
        row.promoted_us,
        row.rolled_back_us,
    )


GENERATIONS: Final = Generations("store", tables.stores, tables.versions, tables.versions.c.store_id, _version)

all_of = GENERATIONS.all_of
retained = GENERATIONS.retained
find = GENERATIONS.find
get_retained = GENERATIONS.get_retained
update = GENERATIONS.update
current = GENERATIONS.current
promote = GENERATIONS.promote
demote_lost = GENERATIONS.demote_lost


def allocate(
    connection: Connection,
    store_id: int,
    *,
    push_id: str,
    schema_number: int,
    partitions: int,
    as_of_us: int,
    now_us: int,
    at_least: int = 1,
) -> int:
    """Give the next version number (and `at_least` this one) to a push; the number is used up whatever becomes of the push."""
    return GENERATIONS.allocate(
        connection,
        store_id,
        at_least=at_least,
        push_id=push_id,
        schema_number=schema_number,
        partitions=partitions,
        as_of_us=as_of_us,
        created_us=now_us,
    )
