"""Stores in the catalog: names, schemas, settings. Functions on an open transaction (`Catalog.read` or `Catalog.write`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import StoreRow, ValueSchemaRow
from fondaco.core.errors import StoreNotFoundError

_T = tables.stores
_S = tables.value_schemas


def find(connection: Connection, name: str) -> StoreRow | None:
    """The live store called `name`, or None."""
    row = connection.execute(sa.select(_T).where(_T.c.name == name, _T.c.deleted_us.is_(None))).first()
    return _store(row) if row else None


def get(connection: Connection, name: str) -> StoreRow:
    """The live store called `name`.

    Raises:
        StoreNotFoundError: there is none; suggests the nearest name.
    """
    found = find(connection, name)
    if found is None:
        raise StoreNotFoundError(name, [row.name for row in all_live(connection)])
    return found


def check_live(connection: Connection, store: StoreRow) -> None:
    """Make sure that a store looked up earlier was not deleted since; a new one of the same name is another store.

    Raises:
        StoreNotFoundError: it was.
    """
    if connection.execute(sa.select(_T.c.id).where(_T.c.id == store.id, _T.c.deleted_us.is_(None))).first() is None:
        raise StoreNotFoundError(store.name, [row.name for row in all_live(connection) if row.name != store.name])


def all_live(connection: Connection) -> list[StoreRow]:
    """Every store that is not deleted, by name."""
    rows = connection.execute(sa.select(_T).where(_T.c.deleted_us.is_(None)).order_by(_T.c.name))
    return [_store(row) for row in rows]


def create(connection: Connection, name: str, *, key_schema: str, value_schema: str, settings: Mapping[str, Any], now_us: int) -> StoreRow:
    """Enter a new store with its first value schema. Numbers go on where a deleted store of this name left off."""
    used = connection.execute(sa.select(sa.func.max(_T.c.next_version)).where(_T.c.name == name)).scalar()
    connection.execute(
        _T.insert().values(
            name=name,
            key_schema=key_schema,
            settings=msgspec.json.encode(dict(settings)).decode(),
            next_version=used or 1,
            created_us=now_us,
        )
    )
    row = get(connection, name)
    add_value_schema(connection, row.id, value_schema, now_us=now_us)
    return row


def delete(connection: Connection, store_id: int, *, now_us: int) -> None:
    """Mark a store as deleted; its rows stay, so that its version numbers are never given again."""
    connection.execute(_T.update().where(_T.c.id == store_id).values(deleted_us=now_us, current=0))


def value_schemas(connection: Connection, store_id: int) -> list[ValueSchemaRow]:
    """The value schemas of a store, oldest first; the last one is what new pushes write."""
    rows = connection.execute(sa.select(_S).where(_S.c.store_id == store_id).order_by(_S.c.number))
    return [ValueSchemaRow(row.number, row.schema, row.created_us) for row in rows]


def add_value_schema(connection: Connection, store_id: int, schema: str, *, now_us: int) -> int:
    """Register the next value schema of a store; return its number (the first is 1)."""
    last = connection.execute(sa.select(sa.func.max(_S.c.number)).where(_S.c.store_id == store_id)).scalar()
    number = int(last or 0) + 1
    connection.execute(_S.insert().values(store_id=store_id, number=number, schema=schema, created_us=now_us))
    return number


def _store(row: sa.Row[Any]) -> StoreRow:
    return StoreRow(row.id, row.name, row.key_schema, msgspec.json.decode(row.settings), row.current, row.created_us)
