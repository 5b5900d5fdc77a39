"""Recovery: putting a graph's directory in order after a process died in it. The rules are those of stores (store/recovery.py).

The catalog is the truth, the directory follows. With the build lock held by us nobody else builds, so a version that the catalog has at
work is one whose builder died: it becomes FAILED. What lies in `building/` is debris, and so is the directory of a version that the catalog
says is over. A version that is READY or CURRENT in the catalog has happened; only the cell may lag, and is written again. A graph whose
first version never became ready is taken back whole (`registry`). Runs when a platform opens and before each build.
"""

from __future__ import annotations

import logging
import os

from sqlalchemy.engine import Connection

from fondaco.catalog import OVER, RETAINED, VersionState, graphs
from fondaco.core.errors import GraphNotFoundError, LockedError
from fondaco.core.files import FileLock, remove_tree
from fondaco.graph.context import GraphContext
from fondaco.store.layout import read_cell
from fondaco.store.swap import remove_files, sync_cell

_LOGGER = logging.getLogger(__name__)


def recover_if_needed(context: GraphContext) -> bool:
    """Recover the graph unless all is well or somebody builds a version of it; returns whether anything was done."""
    if not _needed(context):
        return False
    try:
        with FileLock(context.layout.build_lock):
            return recover(context)
    except (LockedError, GraphNotFoundError, FileNotFoundError):
        return False  # a build is at work, and what looked like debris is its own; or there is nothing left to recover


def recover(context: GraphContext) -> bool:
    """Put the graph in order; the caller holds the build lock. Returns whether anything was done.

    Raises:
        GraphNotFoundError: the graph was deleted since it was looked up.
    """
    with context.catalog.read() as connection:
        context.check_live(connection)  # else the directory is that of another graph of this name
    if not _needed(context):
        return False
    with context.catalog.write() as connection:
        for version in graphs.at_work(connection, context.id):
            fail(connection, context, version.number, "ProcessDied", f"process {version.pid} ended before the build did")
    if context.layout.building.is_dir():
        for entry in os.listdir(context.layout.building):
            remove_tree(context.layout.building / entry)
    with context.catalog.write() as connection:
        lost = graphs.GENERATIONS.demote_lost(connection, context.id)
    if lost:
        _LOGGER.warning("version %d of graph %r was current and is gone; the newest backup is current instead", lost, context.name)
    remove_files(context, _stray_versions(context))
    sync_cell(context)
    return True


def fail(connection: Connection, context: GraphContext, number: int, error_class: str, message: str) -> None:
    """Enter that a version will never be ready."""
    values = {"state": VersionState.FAILED, "error_class": error_class, "error_message": message}
    graphs.GENERATIONS.update(connection, context.id, number, **values)


def _needed(context: GraphContext) -> bool:
    layout = context.layout
    if not layout.directory.is_dir():
        return False  # the graph was deleted since it was looked up
    if layout.building.is_dir() and os.listdir(layout.building):
        return True
    with context.catalog.read() as connection:
        current = graphs.GENERATIONS.current(connection, context.id)
        if graphs.at_work(connection, context.id) or current != read_cell(layout.current_cell):
            return True
        version = graphs.GENERATIONS.find(connection, context.id, current)
    return (current > 0 and (version is None or version.state not in RETAINED)) or bool(_stray_versions(context))


def _stray_versions(context: GraphContext) -> list[int]:
    """Versions whose files are debris: the catalog knows them, and knows that they are over."""
    on_disk = context.layout.version_numbers()  # listed first: a version that is retired in between is then only found twice
    with context.catalog.read() as connection:
        states = {row.number: row.state for row in graphs.GENERATIONS.all_of(connection, context.id)}
    for number in on_disk:
        if number not in states:
            _LOGGER.warning(
                "version %d of graph %r is left alone: the catalog does not know it; was an older one restored?", number, context.name
            )
    return [number for number in on_disk if states.get(number) in OVER]
