"""Build: node and edge tables become the files of one graph version, in bounded memory.

The caller (`platform.build_graph`) owns the directory, the catalog and the swap; this module only writes files into an empty directory. If
it raises, whatever lies there is debris. One thread at a time per directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fondaco.graph.schema import EdgeKey, GraphSchema

MEMORY_BYTES = 1 << 30

OnStep: TypeAlias = Callable[[str, int], None]
"""Called after each piece of work with what is done ("rows of edges person/knows/person", "files written") and how much; it may raise to
stop the build, and it may take its time."""
StoreField: TypeAlias = Callable[[str, str], tuple[str, tuple[int, ...]]]
"""(store, field) -> dtype and shape of the field's vectors; raises StoreNotFoundError or FieldNotFoundError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltGraph:
    """What a build wrote: everything that a manifest says of a version but its number and the checksums of its files."""

    schema: GraphSchema
    partitions: int
    node_counts: tuple[tuple[int, ...], ...]  # by node type, by partition
    edge_counts: tuple[tuple[int, ...], ...]  # by adjacency, by partition
    files: tuple[str, ...]  # names, sorted
    linked: tuple[str, ...] = ()  # those of them that are hard links to files of the version that an update began with
    built_from: dict[str, Any] = field(default_factory=dict)  # JSON values; an update of this version reads them: keep them whole
    steps: Mapping[str, float] = field(default_factory=dict)  # seconds by step


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateBase:
    """The version that an update begins with, as its manifest says."""

    directory: Path
    schema: GraphSchema
    partitions: int
    node_counts: tuple[tuple[int, ...], ...]
    edge_counts: tuple[tuple[int, ...], ...]
    built_from: dict[str, Any]


def build_graph_version(
    directory: Path,
    *,
    nodes: Mapping[str, object] | None = None,
    edges: Mapping[EdgeKey, object] | None = None,
    partitions: int = 1,
    directions: Literal["out", "in", "both"] = "out",
    undirected: bool = False,
    memory: int | str = MEMORY_BYTES,
    on_step: OnStep | None = None,
    store_field: StoreField | None = None,
) -> BuiltGraph:
    """Write all files of a graph version (sections, no manifest) into `directory`.

    Args:
        nodes: by node type: a table, or `Nodes(table, ...)`. A type that only edges name gets their endpoints as its nodes.
        edges: by (source type, relation, target type): a table, or `Edges(table, ...)`.
        directions: which adjacencies are stored. undirected: add each edge's mirror, where its two types are one.
        memory: bytes for buffers and sorting, as a number or "512MiB"; what is larger goes through temporary files in `directory`.
        store_field: looks up what a `StoreFeature` names.
    Raises:
        GraphBuildError: a row that cannot be taken: table, row, column and why. InputError, SchemaError: tables that cannot be read or
            understood. DiskFullError.
    """
    raise NotImplementedError


def update_graph_version(
    directory: Path,
    base: UpdateBase,
    *,
    add_nodes: Mapping[str, object] | None = None,
    remove_nodes: Mapping[str, object] | None = None,
    add_edges: Mapping[EdgeKey, object] | None = None,
    remove_edges: Mapping[EdgeKey, object] | None = None,
    memory: int | str = MEMORY_BYTES,
    on_step: OnStep | None = None,
) -> BuiltGraph:
    """Write the files of the version that `base` and the changes make; files that do not change are hard links.

    Removals come first: a node that is removed and added is replaced, and keeps its edges. Removing a node removes its edges.

    Raises:
        GraphBuildError: as for a build; or a row removes what is not there.
    """
    raise NotImplementedError
