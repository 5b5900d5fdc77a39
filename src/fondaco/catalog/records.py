"""Records that features leave: published plans of feature sets, and what each training set was made from.

Functions on an open transaction (`Catalog.read` or `Catalog.write`); what a plan or a record holds is the features package's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import FeatureSetRow, TrainingSetRow

_F = tables.feature_sets
_T = tables.training_sets


def record_feature_set(connection: Connection, name: str, *, plan_hash: str, plan: Mapping[str, Any], now_us: int) -> None:
    """Keep the plan of a feature set, as the newest of its name."""
    known = _F.update().where(_F.c.name == name, _F.c.plan_hash == plan_hash).values(created_us=now_us)
    if not connection.execute(known).rowcount:
        document = msgspec.json.encode(dict(plan)).decode()
        connection.execute(_F.insert().values(name=name, plan_hash=plan_hash, plan=document, created_us=now_us))


def feature_sets(connection: Connection, name: str | None = None) -> list[FeatureSetRow]:
    """Recorded feature sets (of one name, or all), oldest first."""
    query = sa.select(_F).order_by(_F.c.created_us, _F.c.name)
    rows = connection.execute(query if name is None else query.where(_F.c.name == name))
    return [FeatureSetRow(row.name, row.plan_hash, msgspec.json.decode(row.plan), row.created_us) for row in rows]


def record_training_set(connection: Connection, name: str, *, plan_hash: str, record: Mapping[str, Any], now_us: int) -> int:
    """Keep the record of one training set; return its id."""
    document = msgspec.json.encode(dict(record)).decode()
    statement = _T.insert().values(name=name, plan_hash=plan_hash, record=document, created_us=now_us).returning(_T.c.id)
    return int(connection.execute(statement).scalar_one())


def training_sets(connection: Connection, name: str | None = None) -> list[TrainingSetRow]:
    """Records of training sets (of one name, or all), oldest first."""
    query = sa.select(_T).order_by(_T.c.id)
    rows = connection.execute(query if name is None else query.where(_T.c.name == name))
    return [TrainingSetRow(row.id, row.name, row.plan_hash, msgspec.json.decode(row.record), row.created_us) for row in rows]
