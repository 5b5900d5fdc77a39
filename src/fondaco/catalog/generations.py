"""Generations: the numbered versions of whatever has some, of which at most one is current. What stores and graphs have in common.

`Generations` is told which tables hold the owners and their versions; its methods work on an open transaction. An owner's `current` and the
state CURRENT always change together, in `promote`. A number is used up once it was given, whatever becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog.rows import RETAINED, VersionState
from fondaco.core.errors import VersionNotFoundError


class Generation(Protocol):
    """What every row of a version has."""

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> VersionState: ...
    @property
    def rolled_back_us(self) -> int | None: ...


Row = TypeVar("Row", bound=Generation)


class Generations(Generic[Row]):
    """The versions in one pair of tables."""

    def __init__(self, noun: str, owners: sa.Table, versions: sa.Table, owner_id: sa.Column[int], to_row: Callable[[sa.Row[Any]], Row]):
        """
        Args:
            noun: what an owner is called, as "store". owner_id: the column of `versions` that names it. to_row: makes a row's value.
        """
        self.noun = noun
        self._owners, self._versions, self._owner_id, self._to_row = owners, versions, owner_id, to_row

    def all_of(self, connection: Connection, owner: int) -> list[Row]:
        """Every version there ever was, oldest first, failed and retired ones included."""
        return self._select(connection, self._owner_id == owner)

    def retained(self, connection: Connection, owner: int) -> list[Row]:
        """The versions whose files exist: READY, CURRENT and BACKUP, oldest first."""
        return self._select(connection, self._owner_id == owner, self._versions.c.state.in_(RETAINED))

    def find(self, connection: Connection, owner: int, number: int) -> Row | None:
        """One version in whatever state, or None if there never was one of this number."""
        found = self._select(connection, self._owner_id == owner, self._versions.c.number == number)
        return found[0] if found else None

    def get_retained(self, connection: Connection, owner: int, name: str, number: int) -> Row:
        """One version whose files exist.

        Raises:
            VersionNotFoundError: there is none of this number; names those that exist.
        """
        kept = self.retained(connection, owner)
        for version in kept:
            if version.number == number:
                return version
        raise VersionNotFoundError(name, number, [version.number for version in kept], self.noun)

    def allocate(self, connection: Connection, owner: int, *, at_least: int = 1, **values: object) -> int:
        """Give the next number (and `at_least` this one) to a version that begins now, with these columns; state STARTED."""
        number = connection.execute(sa.select(self._owners.c.next_version).where(self._owners.c.id == owner)).scalar_one()
        number = max(int(number), at_least)
        connection.execute(self._owners.update().where(self._owners.c.id == owner).values(next_version=number + 1))
        row = {self._owner_id.name: owner, "number": number, "state": VersionState.STARTED, **values}
        connection.execute(self._versions.insert().values(row))
        return number

    def update(self, connection: Connection, owner: int, number: int, **values: object) -> None:
        """Change columns of one version."""
        connection.execute(self._versions.update().where(self._owner_id == owner, self._versions.c.number == number).values(**values))

    def current(self, connection: Connection, owner: int) -> int:
        """The current version's number, 0 when there is none (or the owner was deleted)."""
        return int(connection.execute(sa.select(self._owners.c.current).where(self._owners.c.id == owner)).scalar_one())

    def promote(self, connection: Connection, owner: int, number: int, *, now_us: int, rollback: bool = False) -> int:
        """Make a retained version current and the former current one a backup; return the former's number (0: there was none).

        The caller has checked, in this transaction, that the version is retained. `rollback` marks the former as rolled back.
        """
        former = self.current(connection, owner)
        if former and former != number:
            self.update(connection, owner, former, state=VersionState.BACKUP, rolled_back_us=now_us if rollback else None)
        self.update(connection, owner, number, state=VersionState.CURRENT, promoted_us=now_us, rolled_back_us=None)
        connection.execute(self._owners.update().where(self._owners.c.id == owner).values(current=number))
        return former

    def demote_lost(self, connection: Connection, owner: int) -> int:
        """If the current version is none whose files exist, make the newest good backup current, or none; return what was current, else 0.

        No step of ours leads there: whoever comes here finds a catalog that was damaged, or written by an older Fondaco.
        """
        lost = self.current(connection, owner)
        kept = self.retained(connection, owner)
        if not lost or any(row.number == lost for row in kept):
            return 0
        backups = [row for row in kept if row.state is VersionState.BACKUP]
        newest = max(backups, key=lambda row: (row.rolled_back_us is None, row.number), default=None)
        if newest is not None:
            self.update(connection, owner, newest.number, state=VersionState.CURRENT, rolled_back_us=None)
        values = {"current": newest.number if newest else 0}
        connection.execute(self._owners.update().where(self._owners.c.id == owner).values(values))
        return lost

    def _select(self, connection: Connection, *where: sa.ColumnElement[bool]) -> list[Row]:
        rows = connection.execute(sa.select(self._versions).where(*where).order_by(self._versions.c.number))
        return [self._to_row(row) for row in rows]
