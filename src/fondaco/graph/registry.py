"""Registry: the graphs of a platform by name: made with their first version, looked up, deleted, and put in order after a crash.

A graph exists as long as it has a version. One whose first build fails, or dies, is taken back whole; so is its name. Version numbers go on
where a deleted graph of the same name left off.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from fondaco.catalog import Catalog, GraphRow, graphs
from fondaco.core.clock import Clock
from fondaco.core.errors import AlreadyExistsError, FondacoError, GraphNotFoundError, InputError
from fondaco.core.files import os_errors, remove_tree
from fondaco.core.ids import check_name
from fondaco.graph.building import build_lock
from fondaco.graph.context import GraphContext
from fondaco.graph.layout import GRAPHS_DIRECTORY, GraphLayout
from fondaco.graph.recovery import recover_if_needed
from fondaco.graph.report import BuildReport
from fondaco.store.layout import DELETED, write_cell
from fondaco.store.names import DELETED_PREFIX, recover_names

KEEP: Final = 2  # versions of a graph that did not say
_ATTEMPTS: Final = 5  # to build in a graph that somebody else deletes meanwhile


class GraphRegistry:
    """The graphs of one open platform. From any thread."""

    def __init__(self, directory: Path, catalog: Catalog, clock: Clock) -> None:
        """
        Args:
            directory: the platform's.
        """
        self._platform, self._catalog, self._clock = directory, catalog, clock
        self._directory = directory / GRAPHS_DIRECTORY

    def names(self) -> list[str]:
        """Names of all graphs, in order."""
        with self._catalog.read() as connection:
            return graphs.names(connection)

    def get(self, name: str) -> GraphContext:
        """The graph called `name`.

        Raises:
            GraphNotFoundError: there is none; suggests the nearest name. InputError: not a name.
        """
        if not isinstance(name, str):
            raise InputError(f"a graph is named by a text, not by {name!r}")
        with self._catalog.read() as connection:
            return self._context(graphs.get(connection, name))

    def build(self, name: str, keep: int | None, build: Callable[[GraphContext], BuildReport]) -> BuildReport:
        """Have `build` make a version of a graph, which is made if there is none of this name.

        Args:
            keep: versions to keep, the current one included; None: as it is (2 for a new graph).
        Raises:
            InputError: not a name, or no such `keep`. AlreadyExistsError: there are versions that the catalog does not know.
            BuildInProgressError. Whatever `build` raises.
        """
        check_name("graph", name)
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or not 1 <= keep <= 1000):
            raise InputError(f"keep is how many versions are kept, from 1 to 1000, not {keep!r}")
        attempt = 0
        while True:
            attempt += 1
            context = self._ensure(name, keep)
            try:
                report = build(context)
            except GraphNotFoundError:
                with self._catalog.read() as connection:
                    row = graphs.find(connection, name)
                gone = row is None or row.id != context.id  # somebody took the graph back before we had its lock
                if not gone or attempt == _ATTEMPTS:
                    self._take_back(context)
                    raise
            except BaseException:
                self._take_back(context)
                raise
            else:
                if keep is not None and keep != context.row.keep:
                    self._set_keep(context, keep)
                return report

    def delete(self, name: str) -> None:
        """Delete a graph and all its versions. Those who have it open read on, and raise NoCurrentVersionError once they look again.

        Raises:
            GraphNotFoundError; BuildInProgressError: a version is being built.
        """
        context = self.get(name)
        with build_lock(context):
            trash = self._delete(context)
        remove_tree(trash)

    def recover(self) -> None:
        """Put in order what a crash left of building, creating or deleting graphs."""
        recover_names(self._catalog, self._directory, GraphLayout, self._live)
        with self._catalog.read() as connection:
            rows = graphs.all_live(connection)
        for row in rows:
            context = self._context(row)
            recover_if_needed(context)
            self._take_back(context)

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _context(self, row: GraphRow) -> GraphContext:
        return GraphContext.of(self._platform, self._catalog, self._clock, row)

    def _live(self) -> dict[str, int]:
        with self._catalog.read() as connection:
            return {row.name: row.id for row in graphs.all_live(connection)}

    def _ensure(self, name: str, keep: int | None) -> GraphContext:
        """The graph of this name, made if there is none; its context already keeps `keep` versions."""
        with self._catalog.read() as connection:
            row = graphs.find(connection, name)
        if row is None:
            with self._catalog.write() as connection:
                row = graphs.find(connection, name)
                if row is None:
                    layout = GraphLayout(self._directory / name)
                    if not layout.is_blank():
                        raise AlreadyExistsError(
                            "graph", name, f"{layout.directory} holds versions that the catalog does not know; move it away"
                        )
                    row = graphs.create(connection, name, keep=KEEP if keep is None else keep, now_us=self._clock.now_us())
                    # inside the transaction, so that whoever finds the name finds the directory; `recover` removes one without a name
                    layout.create()
        return self._context(row if keep is None else replace(row, keep=keep))

    def _set_keep(self, context: GraphContext, keep: int) -> None:
        with self._catalog.write() as connection:
            graphs.set_keep(connection, context.id, keep)

    def _take_back(self, context: GraphContext) -> None:
        """Remove a graph without any version, unless somebody builds one, or its files are not ours to remove."""
        with contextlib.suppress(FondacoError, FileNotFoundError):  # `recover` does it, where we cannot
            if not self._is_empty(context):
                return
            with build_lock(context):
                if not self._is_empty(context):
                    return  # somebody built a version while we waited
                trash = self._delete(context)
            remove_tree(trash)

    def _is_empty(self, context: GraphContext) -> bool:
        with self._catalog.read() as connection:
            row = graphs.find(connection, context.name)
            known = row is not None and row.id == context.id
            return known and not graphs.GENERATIONS.retained(connection, context.id) and not context.layout.version_numbers()

    def _delete(self, context: GraphContext) -> Path:
        """Delete it in the catalog, and move its directory aside; returns where to. With the build lock held."""
        trash = self._directory / f"{DELETED_PREFIX}{context.name}-{context.id}"
        with self._catalog.write() as connection:
            context.check_live(connection)
            graphs.delete(connection, context.id, now_us=self._clock.now_us())
            with os_errors(context.layout.directory):
                os.rename(context.layout.directory, trash)
        write_cell(GraphLayout(trash).current_cell, DELETED)
        return trash
