"""Recovery: putting a store's directory in order after a process died in it.

The catalog is the truth, the directory follows. With the push lock held by us nobody else pushes, so: a push at work in the catalog is one
whose process died, what lies in `building/` is debris, and so is the directory of a version that the catalog says is over: FAILED or
KILLED (a crash before the version became READY), or RETIRED (a crash before its files were gone). A push whose commit (READY,
and CURRENT if it was to be swapped, in one transaction) is in the catalog has happened; only the cell may lag, and is written again, as it
is where it was lost or cut short.
So every crash has exactly one outcome. Runs when a platform opens and before each push; does nothing where nothing is wrong.

A version that the catalog has never heard of is no debris of ours: a number is in the catalog before its files are on disk. Somebody put
an older catalog in place. Its files are left alone, said so through `logging`, and its number is not given to a push.
"""

from __future__ import annotations

import logging
import os

from fondaco.catalog import OVER, RETAINED, VersionState, pushes, stores, versions
from fondaco.core.errors import LockedError, StoreNotFoundError
from fondaco.core.files import FileLock, remove_tree
from fondaco.store.context import StoreContext
from fondaco.store.layout import read_cell
from fondaco.store.swap import remove_files, sync_cell

_LOGGER = logging.getLogger(__name__)


def recover_if_needed(context: StoreContext) -> bool:
    """Recover the store unless all is well or somebody is pushing to it; returns whether anything was done."""
    if not _needed(context):
        return False
    try:
        with FileLock(context.layout.push_lock):
            return recover(context)
    except (LockedError, StoreNotFoundError, FileNotFoundError):
        return False  # a push is at work, and what looked like debris is its own; or there is nothing left to recover


def recover(context: StoreContext) -> bool:
    """Put the store in order; the caller holds the push lock. Returns whether anything was done.

    Raises:
        StoreNotFoundError: the store was deleted since it was looked up.
    """
    with context.catalog.read() as connection:
        stores.check_live(connection, context.row)  # else the directory is that of another store of this name
    if not _needed(context):
        return False
    _end_dead_pushes(context)
    if context.layout.building.is_dir():
        for entry in os.listdir(context.layout.building):
            remove_tree(context.layout.building / entry)
    with context.catalog.write() as connection:
        lost = versions.demote_lost(connection, context.id)
    if lost:
        _LOGGER.warning("version %d of store %r was current and is gone; the newest backup is current instead", lost, context.name)
    remove_files(context, _stray_versions(context))
    sync_cell(context)
    return True


def _needed(context: StoreContext) -> bool:
    layout = context.layout
    if not layout.directory.is_dir():
        return False  # the store was deleted since it was looked up
    if layout.building.is_dir() and os.listdir(layout.building):
        return True
    with context.catalog.read() as connection:
        current = versions.current(connection, context.id)
        if pushes.at_work(connection, context.id) or current != read_cell(layout.current_cell):
            return True
        version = versions.find(connection, context.id, current)
    return (current > 0 and (version is None or version.state not in RETAINED)) or bool(_stray_versions(context))


def _stray_versions(context: StoreContext) -> list[int]:
    """Versions whose files are debris: the catalog knows them, and knows that they are over."""
    on_disk = context.layout.version_numbers()  # listed first: a version that is retired in between is then only found twice
    with context.catalog.read() as connection:
        states = {row.number: row.state for row in versions.all_of(connection, context.id)}
    for number in on_disk:
        if number not in states:
            _LOGGER.warning(
                "version %d of store %r is left alone: the catalog does not know it; was an older one restored?", number, context.name
            )
    return [number for number in on_disk if states.get(number) in OVER]


def _end_dead_pushes(context: StoreContext) -> None:
    now_us = context.clock.now_us()
    with context.catalog.write() as connection:
        for push in pushes.at_work(connection, context.id):
            state = VersionState.KILLED if push.kill_requested else VersionState.FAILED
            message = f"process {push.pid} ended before the push did"
            pushes.update(
                connection,
                context.id,
                push.version,
                state=state,
                finished_us=now_us,
                error_class="ProcessDied",
                error_message=message,
                blame="system",
            )
            versions.update(connection, context.id, push.version, state=state)
