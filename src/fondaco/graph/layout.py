"""Layout: where things lie in a graph's directory, and how the files of a version are called.

    CURRENT                   8 bytes, little-endian: the current version, 0 = none, 2^64 - 2 = the graph was deleted (store/layout.py)
    build.lock                held (flock) by the process that builds
    building/<build id>/      files of a build at work; whatever lies here without the lock held is debris
    versions/<n>/             manifest.json, nodes-00-00000.fgs, ...: a version, never changed

The cell is that of stores: readers map it and look at it on each call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fondaco.graph.schema import GraphSchema
from fondaco.store.layout import VersionsLayout

GRAPHS_DIRECTORY = "graphs"


@dataclass(frozen=True, slots=True)
class GraphLayout(VersionsLayout):
    """Paths of one graph."""

    MADE_HERE: ClassVar[frozenset[str]] = frozenset({"CURRENT", "build.lock", "building", "versions"})

    @property
    def build_lock(self) -> Path:
        """The file whose lock a build holds."""
        return self.directory / "build.lock"


def nodes_file(node_type: int, partition: int) -> str:
    """The file of one partition's nodes of one type (its position in the schema)."""
    return f"nodes-{node_type:02d}-{partition:05d}.fgs"


def edges_file(adjacency: int, partition: int) -> str:
    """The file of one partition of one adjacency."""
    return f"edges-{adjacency:02d}-{partition:05d}.fgs"


def feature_file(number: int, partition: int) -> str:
    """The file of one partition of one stored feature (`GraphSchema.feature_files`)."""
    return f"feature-{number:02d}-{partition:05d}.fgs"


def file_names(schema: GraphSchema, partitions: int) -> Iterator[str]:
    """Every section file of a version."""
    for partition in range(partitions):
        yield from partition_files(schema, partition)


def partition_files(schema: GraphSchema, partition: int) -> Iterator[str]:
    """The section files of one partition."""
    for node_type in range(len(schema.nodes)):
        yield nodes_file(node_type, partition)
    for adjacency in schema.adjacencies():
        yield edges_file(adjacency.number, partition)
    for feature in schema.feature_files():
        yield feature_file(feature.number, partition)
