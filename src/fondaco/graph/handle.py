"""Handle: a graph of an open platform: answered in process from the current version, and swapped, rolled back and updated.

`platform.graph(name)` makes it. It follows CURRENT: each call is answered from the version that was current when the call began. Opened at
a version (`platform.graph(name, version=3)`) it stays there. From any thread; it can be pickled, and opens again where it arrives; there
the catalog is opened only if versions are asked about.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fondaco.core.ids import check_name
from fondaco.graph.context import GraphContext
from fondaco.graph.embedded import EmbeddedGraph
from fondaco.graph.layout import GRAPHS_DIRECTORY
from fondaco.graph.pacing import Pacing
from fondaco.graph.source import VersionSource
from fondaco.graph.versions import GraphVersionInfo, GraphVersions

if TYPE_CHECKING:
    from fondaco.store.store_reader import StoreReader

__all__ = ["GraphHandle", "GraphHome", "GraphVersionInfo"]


class GraphHome(Protocol):
    """The platform as a handle needs it. It can be pickled."""

    @property
    def directory(self) -> Path:
        """The platform's."""
        ...

    def graph_context(self, name: str) -> GraphContext:
        """The graph called `name`; raises GraphNotFoundError."""
        ...

    def pacing(self, title: str, shown: bool) -> Pacing:
        """What a build's steps report to."""
        ...

    def open_store(self, name: str) -> StoreReader:
        """A new reader of a store, which features are bound to; raises StoreNotFoundError."""
        ...

    def close(self) -> None:
        """The handle is closed: let go of a platform that was opened for it alone."""
        ...


class GraphHandle(GraphVersions, EmbeddedGraph):
    """One graph of an open platform. Close it, or use it as a context manager; what it answered stays good."""

    def __init__(self, home: GraphHome, name: str, version: int | None = None) -> None:
        """Use `platform.graph`.

        Raises:
            GraphNotFoundError: no graph lies there. VersionNotFoundError: there is no such version (any more).
            CorruptFileError, FormatVersionError: the version cannot be read; names file and section.
        """
        directory = home.directory / GRAPHS_DIRECTORY / check_name("graph", name)
        self._home = home
        self._pinned = version
        GraphVersions.__init__(self, name, directory, lambda: home.graph_context(name), home.pacing)
        self._source = VersionSource(directory, name, version=version)
        EmbeddedGraph.__init__(self, self._source, stores=home.open_store)

    def close(self) -> None:
        """Let go of files and readers. Answers, and calls in flight, keep what they need. Twice is once."""
        self._source.close()
        EmbeddedGraph.close(self)
        self._last = None
        self._home.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return GraphHandle, (self._home, self.name, self._pinned)

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}{'' if self._pinned is None else f' v{self._pinned}'} in {str(self.directory)!r}>"
