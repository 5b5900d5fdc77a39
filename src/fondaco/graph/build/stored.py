"""Stored: rows of a version that exists, as a build takes them: nodes and edges of one partition, batch by batch. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fondaco.graph.build.columns import Column, I32Array, I64Array, Ragged, plain, take, take_rows
from fondaco.graph.layout import edges_file, feature_file, nodes_file
from fondaco.graph.schema import Adjacency, EdgeType, Feature, GraphSchema, NodeType
from fondaco.graph.sections import Sections, open_sections

NumberedFeature = tuple[int, int, Feature]
"""(number of the feature's files, its position in the rows, itself)."""


def node_features(schema: GraphSchema, node_type: int) -> list[NumberedFeature]:
    """The features of a node type that lie in files."""
    files = [file for file in schema.feature_files() if file.of == "nodes" and file.owner == node_type]
    return [(file.number, position, file.feature) for position, file in enumerate(files)]


def edge_features(schema: GraphSchema, adjacency: int) -> list[NumberedFeature]:
    """The features of an adjacency."""
    files = [file for file in schema.feature_files() if file.of == "edges" and file.owner == adjacency]
    return [(file.number, position, file.feature) for position, file in enumerate(files)]


def stored_ids(directory: Path, node_type: int, kind: NodeType, partition: int) -> Column:
    """The ids of one partition, in order of dense ids."""
    file = open_sections(directory / nodes_file(node_type, partition))
    return file["ids"] if kind.id == "long" else Ragged(file["id_offsets"], file["id_bytes"])


def stored_nodes(
    directory: Path, node_type: int, kind: NodeType, features: Sequence[NumberedFeature], partition: int, rows_max: int
) -> Iterator[tuple[int, Column, dict[str, Column]]]:
    """(position in the partition, ids, columns) of its nodes, in order."""
    file = open_sections(directory / nodes_file(node_type, partition))
    ids = stored_ids(directory, node_type, kind, partition)
    columns: dict[str, Column] = {}
    if kind.weighted:
        columns["weight"] = file["weights"]
    if kind.timed:
        columns["time"] = file["times"]
    parts = [(position, feature, open_sections(directory / feature_file(number, partition))) for number, position, feature in features]
    for start in range(0, len(ids), rows_max):
        stop = min(start + rows_max, len(ids))
        rows = {name: _copied(column, start, stop) for name, column in columns.items()}
        for position, feature, sections in parts:
            rows.update(_feature_rows(position, feature, sections, start, stop))
        yield start, _copied(ids, start, stop), rows


def stored_edges(
    directory: Path,
    adjacency: Adjacency,
    features: Sequence[NumberedFeature],
    partition: int,
    first: int,
    rows_max: int,
    *,
    given_only: bool,
) -> Iterator[tuple[I32Array, I32Array, dict[str, Column]]]:
    """(from, to, columns) of the edges of a partition, in order.

    Args:
        first: dense id of the partition's first from-node. given_only: leave out mirrors.
    """
    edge: EdgeType = adjacency.edge
    file = open_sections(directory / edges_file(adjacency.number, partition))
    indptr: I64Array = file["indptr"]
    sections = {"to": "indices"}
    if edge.weighted:
        sections["weight"] = "weights"
    if edge.timed:
        sections["time"] = "times"
    parts = [(position, feature, open_sections(directory / feature_file(number, partition))) for number, position, feature in features]
    count = int(indptr[-1])
    for start in range(0, count, rows_max):
        stop = min(start + rows_max, count)
        rows: dict[str, Column] = {name: np.array(file[section][start:stop]) for name, section in sections.items()}
        for position, feature, opened in parts:
            rows.update(_feature_rows(position, feature, opened, start, stop))
        sources = _rows_of(indptr, start, stop, first)
        if given_only and file["mirrored"][start:stop].any():
            given = np.flatnonzero(file["mirrored"][start:stop] == 0).astype(np.int32)
            rows, sources = take_rows(rows, given), plain(take(sources, given))
        targets = plain(rows.pop("to"))
        yield sources, targets, rows


def _rows_of(indptr: I64Array, start: int, stop: int, first: int) -> I32Array:
    """The from-nodes of the entries start to stop."""
    low, high = int(np.searchsorted(indptr, start, "right")) - 1, int(np.searchsorted(indptr, stop, "left"))
    bounds = np.clip(indptr[low : high + 1], start, stop)
    return np.repeat(np.arange(first + low, first + high, dtype=np.int32), np.diff(bounds))


def _feature_rows(position: int, feature: Feature, sections: Sections, start: int, stop: int) -> dict[str, Column]:
    present = sections["present"][start:stop] if "present" in sections else np.ones(stop - start, np.uint8)
    rows: dict[str, Column] = {f"{position}:present": np.array(present)}
    if feature.kind == "dense":
        rows[f"{position}:values"] = np.array(sections["values"][start:stop])
    elif feature.kind == "sparse":
        for part in ("indices", "values"):
            rows[f"{position}:{part}"] = _copied(Ragged(sections["indptr"], sections[part]), start, stop)
    else:
        rows[f"{position}:data"] = _copied(Ragged(sections["offsets"], sections["data"]), start, stop)
    return rows


def _copied(column: Column, start: int, stop: int) -> Column:
    """Some rows in memory of their own, so that the file's pages can go."""
    if isinstance(column, Ragged):
        offsets = np.array(column.offsets[start : stop + 1])
        return Ragged(offsets - offsets[0], np.array(column.data[offsets[0] : offsets[-1]]))
    return np.array(column[start:stop])
