"""Context: what every part of a graph needs to act on its versions, made by `Platform` and passed down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import Connection

from fondaco.catalog import Catalog, GraphRow, GraphVersionRow, graphs
from fondaco.catalog.generations import Generations
from fondaco.core.clock import Clock
from fondaco.graph.layout import GRAPHS_DIRECTORY, GraphLayout


@dataclass(frozen=True, slots=True)
class GraphContext:
    """One graph of one open platform. `row` is as it was when the graph was looked up; `row.current` is not kept up to date."""

    catalog: Catalog
    row: GraphRow
    layout: GraphLayout
    clock: Clock

    @classmethod
    def of(cls, platform_directory: Path, catalog: Catalog, clock: Clock, row: GraphRow) -> GraphContext:
        """The context of a graph, from its row."""
        return cls(catalog, row, GraphLayout(platform_directory / GRAPHS_DIRECTORY / row.name), clock)

    @property
    def id(self) -> int:
        """The graph's number in the catalog."""
        return self.row.id

    @property
    def name(self) -> str:
        """The graph's name."""
        return self.row.name

    @property
    def keep(self) -> int:
        """How many versions are kept, the current one included."""
        return self.row.keep

    @property
    def generations(self) -> Generations[GraphVersionRow]:
        """The graph's versions in the catalog."""
        return graphs.GENERATIONS

    @property
    def platform_directory(self) -> Path:
        """The platform that the graph is part of."""
        return self.layout.directory.parent.parent

    def check_live(self, connection: Connection) -> None:
        """
        Raises:
            GraphNotFoundError: the graph was deleted.
        """
        graphs.check_live(connection, self.row)

    def looked_up_again(self) -> GraphContext:
        """The same with its row as it is now.

        Raises:
            GraphNotFoundError: the graph was deleted.
        """
        with self.catalog.read() as connection:
            self.check_live(connection)
            row = graphs.find(connection, self.name)
        assert row is not None
        return GraphContext(self.catalog, row, self.layout, self.clock)
