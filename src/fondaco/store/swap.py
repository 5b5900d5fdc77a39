"""Swap: which version is current, which are kept, and removing the files of those that are not. For stores, and for graphs.

The catalog decides, in one transaction; the CURRENT cell follows it, and files go last. A crash between these steps is finished by
`recovery`. Retired files that a reader has mapped stay readable to it until it lets go: the kernel keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from fondaco.catalog import Catalog, VersionState
from fondaco.catalog.generations import Generations
from fondaco.core.clock import Clock
from fondaco.core.errors import StateError
from fondaco.core.files import remove_tree
from fondaco.store.layout import VersionsLayout, write_cell


class Versioned(Protocol):
    """What has versions, of which one is current: a store or a graph, as its context knows it."""

    @property
    def catalog(self) -> Catalog: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def layout(self) -> VersionsLayout: ...
    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def keep(self) -> int: ...
    @property
    def generations(self) -> Generations[Any]: ...

    def check_live(self, connection: Connection) -> None:
        """Raise a NotFoundError if it was deleted."""


def swap_to(context: Versioned, number: int) -> None:
    """Make a retained version current, whichever it is; the current one again changes nothing.

    Raises:
        VersionNotFoundError: its files do not exist; StoreNotFoundError, GraphNotFoundError: it was deleted.
    """
    with context.catalog.write() as connection:
        context.check_live(connection)
        context.generations.get_retained(connection, context.id, context.name, number)
        context.generations.promote(connection, context.id, number, now_us=context.clock.now_us())
        surplus = retire_surplus(context, connection)
    sync_cell(context)
    remove_files(context, surplus)


def roll_back(context: Versioned) -> int:
    """Return to the newest backup older than the current version and not rolled back itself; nothing is retired. Returns its number.

    Raises:
        StateError: there is none; nothing changed.
    """
    with context.catalog.write() as connection:
        context.check_live(connection)
        current = context.generations.current(connection, context.id)
        retained = context.generations.retained(connection, context.id)
        backups = [
            row.number for row in retained if row.state is VersionState.BACKUP and row.rolled_back_us is None and row.number < current
        ]
        if not backups:
            held = ", ".join(f"v{row.number} {row.state}" for row in retained) or "no version"
            raise StateError(
                f"{context.generations.noun} {context.name!r} has no backup to roll back to; it holds {held}. To choose one, swap to it."
            )
        number: int = backups[-1]
        context.generations.promote(connection, context.id, number, now_us=context.clock.now_us(), rollback=True)
    sync_cell(context)
    return number


def retire(context: Versioned, number: int) -> None:
    """Remove the files of one version by hand.

    Raises:
        VersionNotFoundError: they do not exist; StateError: it is the current version.
    """
    with context.catalog.write() as connection:
        context.check_live(connection)
        row = context.generations.get_retained(connection, context.id, context.name, number)
        if row.state is VersionState.CURRENT:
            what = f"version {number} of {context.generations.noun} {context.name!r}"
            raise StateError(f"{what} is current and cannot be retired; swap to another version first")
        context.generations.update(connection, context.id, number, state=VersionState.RETIRED)
    remove_files(context, [number])


def retire_surplus(context: Versioned, connection: Connection) -> list[int]:
    """Retire what the `keep` rule does not cover, in the caller's transaction; return the numbers, whose files go after it.

    Kept are the current version, `keep` - 1 backups (the newest, those that a rollback left last), and one READY version: the newest, and
    only while it is newer than the current one. An older READY version has been overtaken without ever serving.
    """
    retained = context.generations.retained(connection, context.id)
    current = context.generations.current(connection, context.id)
    backups = [row for row in retained if row.state is VersionState.BACKUP]
    backups.sort(key=lambda row: (row.rolled_back_us is None, row.number), reverse=True)
    ready = [row for row in retained if row.state is VersionState.READY]
    surplus = backups[context.keep - 1 :] + [row for row in ready if row is not ready[-1] or row.number < current]
    for row in surplus:
        context.generations.update(connection, context.id, row.number, state=VersionState.RETIRED)
    return [row.number for row in surplus]


def sync_cell(context: Versioned) -> None:
    """Write the current version into the cell, under the catalog's write lock: of two swaps at once, the later one writes last."""
    with context.catalog.write() as connection:
        context.check_live(connection)
        write_cell(context.layout.current_cell, context.generations.current(connection, context.id))


def remove_files(context: Versioned, numbers: Iterable[int]) -> None:
    """Remove directories of versions that the catalog no longer counts as retained; their numbers are never given again."""
    for number in numbers:
        remove_tree(context.layout.version(number))
