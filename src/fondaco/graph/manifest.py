"""Manifests of graph versions: schema, counts, files with checksums, and what it was built from. `manifest.json` in its directory.

Written once, last, never changed; a directory without it is no version. No catalog is needed to read one. This module does without numba,
so that the command line may import it. The file is JSON for people too: `{"format": 1, "checksum": <SHA-256 of "fondaco-graph <format>\\n"
and the bytes of the manifest's own object>, "manifest": {...}}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from fondaco.core.errors import CorruptFileError
from fondaco.core.sealed import read_sealed, write_sealed
from fondaco.graph.layout import file_names
from fondaco.graph.schema import GraphSchema

MANIFEST_FILE: Final = "manifest.json"
MANIFEST_FORMAT: Final = 1
_KIND: Final = "fondaco-graph"
NODES_MAX: Final = 2**31 - 1  # of one type: a dense id is an int32


class FileEntry(msgspec.Struct, frozen=True):
    """One section file. `checksum` (16 hex digits) is the one in its header, of header and table; they hold those of all its sections."""

    name: str
    bytes: int
    checksum: str


class GraphManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a graph. Times are microseconds since the epoch, UTC.

    `nodes[t][p]` counts the nodes of type t in partition p, `edges[a][p]` the entries of adjacency a (`schema.adjacencies()`) there.
    """

    graph: str
    version: int
    created_us: int
    partitions: int
    schema: GraphSchema
    nodes: tuple[tuple[int, ...], ...]
    edges: tuple[tuple[int, ...], ...]
    files: tuple[FileEntry, ...]
    built_from: dict[str, Any] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all section files."""
        return sum(file.bytes for file in self.files)

    def node_counts(self) -> dict[str, int]:
        """Nodes by type."""
        return {node.name: sum(counts) for node, counts in zip(self.schema.nodes, self.nodes, strict=True)}

    def edge_counts(self) -> dict[str, int]:
        """Edges by type ("source/relation/target"), each counted once however many directions are stored."""
        return {adjacency.edge.name: sum(self.edges[adjacency.number]) for adjacency in self.schema.adjacencies()}


def write_manifest(directory: Path, manifest: GraphManifest) -> None:
    """Write `manifest.json` into a version's directory, durably and all at once.

    Raises:
        DiskFullError, ReadOnlyError.
    """
    write_sealed(directory / MANIFEST_FILE, manifest, kind=_KIND, format_=MANIFEST_FORMAT)


def read_manifest(directory: Path) -> GraphManifest:
    """Read and check the manifest of a version.

    Raises:
        FileNotFoundError: there is none; the directory is no complete version.
        CorruptFileError: section "manifest". FormatVersionError: written by a newer Fondaco.
    """
    path = directory / MANIFEST_FILE
    manifest = read_sealed(path, GraphManifest, kind=_KIND, format_=MANIFEST_FORMAT)
    if not _holds_together(manifest):
        raise CorruptFileError(str(path), "manifest", "its counts and files contradict its schema")
    return manifest


def _holds_together(manifest: GraphManifest) -> bool:
    schema, partitions = manifest.schema, manifest.partitions
    counted = (*manifest.nodes, *manifest.edges)
    return (
        partitions > 0
        and len(manifest.nodes) == len(schema.nodes)
        and len(manifest.edges) == len(schema.adjacencies())
        and all(len(counts) == partitions and min(counts) >= 0 for counts in counted)
        and all(sum(counts) <= NODES_MAX for counts in manifest.nodes)
        and sorted(file.name for file in manifest.files) == sorted(file_names(schema, partitions))
    )
