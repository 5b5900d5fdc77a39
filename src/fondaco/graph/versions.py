"""Versions of one graph, as its owner sees them: which there are, which is current, and making the next one from changes.

This needs the platform's catalog and no kernel, so that the command line may import it. Reading a graph is `handle`'s affair. From any
thread; processes that build or swap the same graph at once wait for each other, or are told.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fondaco.catalog import GraphVersionRow, VersionState
from fondaco.core.clock import from_us
from fondaco.core.errors import NoCurrentVersionError, StateError
from fondaco.core.ids import check_version_number
from fondaco.graph.building import run_build
from fondaco.graph.context import GraphContext
from fondaco.graph.manifest import GraphManifest, read_manifest
from fondaco.graph.pacing import Pacing
from fondaco.graph.report import BuildReport
from fondaco.store import swap as _swap

if TYPE_CHECKING:
    from fondaco.graph.build.version import BuiltGraph
    from fondaco.graph.schema import EdgeKey, GraphSchema


@dataclass(frozen=True, slots=True)
class GraphVersionInfo:
    """One version of a graph. `rolled_back`: a rollback left it, and no rollback returns to it; `swap` does. `error` says why it failed."""

    version: int
    state: VersionState
    nodes: int
    edges: int
    partitions: int
    bytes: int
    created: datetime
    rolled_back: bool
    error: str | None = None

    @classmethod
    def of(cls, row: GraphVersionRow) -> GraphVersionInfo:
        """From its row in the catalog."""
        error = None if row.error_class is None else f"{row.error_class}: {row.error_message}"
        rolled_back = row.rolled_back_us is not None
        created = from_us(row.created_us)
        return cls(row.number, row.state, row.nodes, row.edges, row.partitions, row.bytes, created, rolled_back, error)


class GraphVersions:
    """The versions of one graph of an open platform. `platform.graph_versions` makes it."""

    def __init__(self, name: str, directory: Path, open_context: Callable[[], GraphContext], pacing: Callable[[str, bool], Pacing]) -> None:
        """
        Args:
            directory: where the graph's files lie. open_context: looks the graph up, when it is needed.
            pacing: (title, shown) -> what a build's steps report to.
        """
        self.name, self.directory = name, directory
        self._open_context, self._pacing = open_context, pacing

    @functools.cached_property
    def _context(self) -> GraphContext:
        return self._open_context()

    @property
    def current(self) -> int | None:
        """Number of the current version, None when there is none."""
        context = self._context
        with context.catalog.read() as connection:
            context.check_live(connection)
            return context.generations.current(connection, context.id) or None

    def versions(self, *, all: bool = False) -> list[GraphVersionInfo]:
        """The versions one can read, oldest first; with `all`, also those that failed, are at work, or were retired."""
        context = self._context
        with context.catalog.read() as connection:
            context.check_live(connection)
            listed = (context.generations.all_of if all else context.generations.retained)(connection, context.id)
        return [GraphVersionInfo.of(row) for row in listed]

    def swap(self, version: int) -> None:
        """Make a version current; readers and servers move to it with their next call.

        Raises:
            VersionNotFoundError: there is no such version (any more). ReadOnlyError.
        """
        _swap.swap_to(self._context.looked_up_again(), check_version_number(version))

    def rollback(self) -> int:
        """Return to the newest older version that was current and was not rolled back itself; returns its number. Nothing is removed.

        Raises:
            StateError: there is none. ReadOnlyError.
        """
        return _swap.roll_back(self._context)

    def retire(self, version: int) -> None:
        """Remove the files of a version that is not current. Those who have it open read on.

        Raises:
            VersionNotFoundError; StateError: it is current. ReadOnlyError.
        """
        _swap.retire(self._context, check_version_number(version))

    def manifest(self, version: int | None = None) -> GraphManifest:
        """What a version (None: the current one) says of itself: schema, counts, files, and what it was built from.

        Raises:
            VersionNotFoundError, NoCurrentVersionError; CorruptFileError, FormatVersionError.
        """
        context = self._context
        number = (self.current or 0) if version is None else int(check_version_number(version))
        if not number:
            raise NoCurrentVersionError(self.name, "graph")
        with context.catalog.read() as connection:
            context.generations.get_retained(connection, context.id, self.name, number)
        return read_manifest(context.layout.version(number))

    def update(
        self,
        *,
        add_nodes: Mapping[str, object] | None = None,
        remove_nodes: Mapping[str, object] | None = None,
        add_edges: Mapping[EdgeKey, object] | None = None,
        remove_edges: Mapping[EdgeKey, object] | None = None,
        swap: bool = True,
        memory: int | str | None = None,
        progress: bool | None = None,
    ) -> BuildReport:
        """Build the next version from the current one and changes. It is what building everything anew would give, bit for bit.

        Removals come first: a node that is removed and added is replaced, and keeps its edges. Removing a node removes its edges.
        Files that do not change are shared with the version before.

        Args:
            add_nodes, add_edges: tables by type, as for `platform.build_graph`. remove_nodes: tables of ids; remove_edges: of ends.
            memory: bytes for buffers and sorting, as "1GB".
            progress: False: say nothing on stderr.
        Raises:
            GraphBuildError: a row that cannot be taken, or that removes what is not there. NoCurrentVersionError, BuildInProgressError.
            StateError: another version became current meanwhile. DiskFullError, ReadOnlyError.
        """
        from fondaco.graph.build.update import update_graph_version
        from fondaco.graph.build.version import MEMORY_BYTES, UpdateBase

        number = self.current
        if number is None:
            raise NoCurrentVersionError(self.name, "graph")
        with self._pacing(f"update {self.name}", progress is not False) as pacing:

            def fill(directory: Path) -> BuiltGraph:
                if self.current != number:
                    raise StateError(
                        f"v{self.current} of graph {self.name!r} became current while an update of v{number} began; update again"
                    )
                path = self._context.layout.version(number)
                manifest = read_manifest(path)
                base = UpdateBase(
                    directory=path,
                    schema=manifest.schema,
                    partitions=manifest.partitions,
                    node_counts=manifest.nodes,
                    edge_counts=manifest.edges,
                    built_from=manifest.built_from,
                )
                return update_graph_version(
                    directory,
                    base,
                    add_nodes=add_nodes,
                    remove_nodes=remove_nodes,
                    add_edges=add_edges,
                    remove_edges=remove_edges,
                    memory=MEMORY_BYTES if memory is None else memory,
                    on_step=pacing.step,
                )

            return run_build(self._context.looked_up_again(), fill, swap=swap)

    def describe(self) -> dict[str, Any]:
        """Name, versions, and the current version's schema and counts, as JSON-like values."""
        import msgspec

        number = self.current
        manifest = None if number is None else self.manifest(number)
        schema: GraphSchema | None = None if manifest is None else manifest.schema
        return {
            "name": self.name,
            "current": number,
            "keep": self._context.looked_up_again().keep,
            "versions": [info.version for info in self.versions()],
            "partitions": None if manifest is None else manifest.partitions,
            "nodes": {} if manifest is None else manifest.node_counts(),
            "edges": {} if manifest is None else manifest.edge_counts(),
            "bytes": 0 if manifest is None else manifest.bytes,
            "schema": msgspec.to_builtins(schema),
        }
