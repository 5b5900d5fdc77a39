"""Quotas in the catalog: how much of a store a caller may use in a second. Functions on an open transaction.

The most particular row decides, as a whole: that of the caller on the store, else that of everybody on the store, else that of the caller
on every store, else that of everybody everywhere; where there is none, there is no bound. Each is a bound per caller, not one for all
callers together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import EVERY, QuotaRow
from fondaco.core.errors import InputError

_T = tables.quotas


def set_quota(connection: Connection, store: str, caller: str, reads_per_s: float | None, writes_per_s: float | None) -> None:
    """Set the bounds of `caller` (a token's name, or "*") on `store` (or "*"), in rows a second; both None removes the quota.

    Raises:
        InputError: a bound that is no positive number.
    """
    for bound in (reads_per_s, writes_per_s):
        if bound is not None and not (math.isfinite(bound) and bound > 0):
            raise InputError(f"a quota is a positive number of rows a second, not {bound!r}; leave it out for no bound")
    connection.execute(_T.delete().where(_T.c.store == store, _T.c.caller == caller))
    if reads_per_s is not None or writes_per_s is not None:
        connection.execute(_T.insert().values(store=store, caller=caller, reads_per_s=reads_per_s, writes_per_s=writes_per_s))


def all_of(connection: Connection) -> list[QuotaRow]:
    """Every quota, by store and caller."""
    rows = connection.execute(sa.select(_T).order_by(_T.c.store, _T.c.caller))
    return [QuotaRow(row.store, row.caller, row.reads_per_s, row.writes_per_s) for row in rows]


def effective(quotas: Iterable[QuotaRow], store: str, caller: str) -> QuotaRow | None:
    """The row that decides for `caller` on `store`; None: no bound."""
    by_name = {(row.store, row.caller): row for row in quotas}
    names = ((store, caller), (store, EVERY), (EVERY, caller), (EVERY, EVERY))
    return next((by_name[name] for name in names if name in by_name), None)
