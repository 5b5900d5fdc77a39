"""Quotas: how many keys a second a caller may read from and write to a store: one token bucket for each.

A bucket fills at the quota's rate up to one second's worth. A request passes while there is anything in it and takes one unit per key,
below zero if need be: a batch larger than a second's quota is served, and paid for by waiting. Refusing costs nothing and takes nothing.
On the event loop's thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from fondaco.catalog.quotas import effective
from fondaco.catalog.rows import QuotaRow
from fondaco.core.errors import QuotaExceededError

Use = Literal["reads", "writes"]
_CALLERS_MAX: Final = 100_000  # buckets kept; beyond that all are made anew, full


class Bucket:
    """Units that fill up with time. `now` is seconds on any clock that only moves forward."""

    __slots__ = ("_at", "_units", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._units = max(rate, 1.0)
        self._at = now

    def take(self, units: int, now: float) -> float:
        """Take `units`; 0.0 if they were there, otherwise nothing is taken and it is the seconds after which to ask again."""
        filled = self._units + (now - self._at) * self.rate
        self._at = now
        self._units = filled = min(filled, max(self.rate, 1.0))
        if filled <= 0.0:
            return (1e-3 - filled) / self.rate
        self._units = filled - units
        return 0.0


class Quotas:
    """The buckets of all callers and stores."""

    def __init__(self) -> None:
        self._rows: Sequence[QuotaRow] = ()
        self._buckets: dict[tuple[str, str, Use], Bucket | None] = {}
        self.any = False  # whether there is any quota at all

    def replace(self, rows: Sequence[QuotaRow]) -> None:
        """Take what the catalog says now; a bucket whose rate stays keeps what is in it."""
        if rows == self._rows:
            return
        self._rows = rows
        self.any = bool(rows)
        for (store, caller, use), bucket in list(self._buckets.items()):
            rate = self._rate(store, caller, use)
            if rate != (None if bucket is None else bucket.rate):
                del self._buckets[store, caller, use]

    def take(self, store: str, caller: str, use: Use, units: int, now: float) -> None:
        """Let `units` keys pass.

        Raises:
            QuotaExceededError: the caller's share is used up; says when to ask again.
        """
        name = (store, caller, use)
        try:
            bucket = self._buckets[name]
        except KeyError:
            if len(self._buckets) >= _CALLERS_MAX:
                self._buckets.clear()
            rate = self._rate(store, caller, use)
            bucket = self._buckets[name] = None if rate is None else Bucket(rate, now)
        if bucket is not None:
            wait_s = bucket.take(units, now)
            if wait_s:
                raise QuotaExceededError(caller, f"store {store!r}", f"{bucket.rate:g} {use} a second", round(wait_s, 3))

    def _rate(self, store: str, caller: str, use: Use) -> float | None:
        row = effective(self._rows, store, caller)
        return None if row is None else row.reads_per_s if use == "reads" else row.writes_per_s
