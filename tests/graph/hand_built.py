"""A small graph version, written section by section with NumPy and another package's XXH64: a judge that shares no code with the build.

Two node types: person (long ids, weighted, timed; dense `x` float32 [4] with absences, sparse `tags`) and page (string ids; bytes `text`);
person/likes/page (weighted, timed, edge feature `stars` int8) stored both ways, and person/knows/person (plain).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fondaco.graph.build.version import BuiltGraph
from fondaco.graph.layout import edges_file, feature_file, nodes_file
from fondaco.graph.manifest import FileEntry
from fondaco.graph.schema import EdgeType, Feature, GraphSchema, NodeType
from fondaco.graph.sections import SectionWriter

SCHEMA = GraphSchema(
    (
        NodeType(
            "person",
            "long",
            (Feature("x", "dense", "float32", (4,)), Feature("tags", "sparse", "float32", (100,))),
            weighted=True,
            timed=True,
        ),
        NodeType("page", "string", (Feature("text", "bytes"),)),
    ),
    (
        EdgeType("person", "likes", "page", True, True, (Feature("stars", "dense", "int8", ()),), ("out", "in")),
        EdgeType("person", "knows", "person"),
    ),
)


@dataclass
class HandBuilt:
    """What was written, in canonical order: ids and partition starts by type; each adjacency's rows, lists of (to, weight, time, stars)."""

    partitions: int
    ids: list[list[Any]] = field(default_factory=list)
    starts: list[np.ndarray] = field(default_factory=list)
    rows: list[list[list[tuple[int, float, int, int]]]] = field(default_factory=list)
    files: list[FileEntry] = field(default_factory=list)
    built: BuiltGraph | None = None


def hash_of(node_id: int | str) -> int:
    """The hash that places a node."""
    return xxhash.xxh64_intdigest(node_id.encode() if isinstance(node_id, str) else int(node_id).to_bytes(8, "little", signed=True))


def write_version(
    directory: Path, *, partitions: int = 2, seed: int = 1, persons: int = 40, pages: int = 25, likes: int = 200
) -> HandBuilt:
    """Write all section files of one version into `directory`."""
    chance = np.random.default_rng(seed)
    made = HandBuilt(partitions)
    for ids in ([int(i) for i in chance.integers(-(2**62), 2**62, persons)], [f"page-{i}-{seed}" for i in range(pages)]):
        ordered = sorted(ids, key=lambda node_id: (hash_of(node_id), node_id))
        owners = [((hash_of(node_id) >> 32) * partitions) >> 32 for node_id in ordered]
        made.ids.append(ordered)
        made.starts.append(np.searchsorted(owners, np.arange(partitions + 1)))
    counts = [persons, pages]
    liked = [
        (int(chance.integers(persons)), int(chance.integers(pages)), float(np.float32(chance.random() + 0.1)), int(t), int(t % 5))
        for t in chance.integers(0, 10**15, likes)
    ]
    known = [(int(chance.integers(persons)), int(chance.integers(persons)), 0.0, 0, 0) for _ in range(likes // 2)]
    for adjacency in SCHEMA.adjacencies():
        edges = liked if adjacency.edge.relation == "likes" else known
        rows: list[list[tuple[int, float, int, int]]] = [[] for _ in range(counts[adjacency.from_type])]
        for src, dst, weight, time, stars in edges:
            row, to = (src, dst) if adjacency.direction == "out" else (dst, src)
            rows[row].append((to, weight, time, stars))
        for row_list in rows:
            row_list.sort(key=lambda edge: (edge[2], edge[0], edge[1]))
        made.rows.append(rows)
    for partition in range(partitions):
        _write_partition(directory, made, partition)
    made.built = BuiltGraph(
        schema=SCHEMA,
        partitions=partitions,
        node_counts=tuple(tuple(int(n) for n in np.diff(starts)) for starts in made.starts),
        edge_counts=tuple(
            tuple(sum(map(len, rows[lo:hi])) for lo, hi in itertools.pairwise(made.starts[adjacency.from_type]))
            for adjacency, rows in zip(SCHEMA.adjacencies(), made.rows, strict=True)
        ),
        files=tuple(made.files),
        built_from={"seed": seed},
    )  # fmt: skip
    return made


def feature_x(node_id: int) -> tuple[list[float], bool]:
    """The dense feature of a person, and whether it has one."""
    return ([0.0] * 4, False) if node_id % 7 == 0 else ([float(node_id % (97 + i)) for i in range(4)], True)


@contextlib.contextmanager
def _writer(made: HandBuilt, path: Path) -> Iterator[SectionWriter]:
    with SectionWriter(path) as writer:
        yield writer
        made.files.append(writer.close())


def _write_partition(directory: Path, made: HandBuilt, partition: int) -> None:
    bounds = [(int(starts[partition]), int(starts[partition + 1])) for starts in made.starts]
    for index, kind in enumerate(SCHEMA.nodes):
        lo, hi = bounds[index]
        ids = made.ids[index][lo:hi]
        with _writer(made, directory / nodes_file(index, partition)) as writer:
            writer.add("hashes", np.array([hash_of(node_id) for node_id in ids], np.uint64))
            if kind.id == "long":
                writer.add("ids", np.array(ids, np.int64))
            else:
                encoded = [node_id.encode() for node_id in ids]
                writer.add("id_offsets", np.cumsum([0, *map(len, encoded)]).astype(np.int64))
                writer.add("id_bytes", np.frombuffer(b"".join(encoded), np.uint8))
            if kind.weighted:
                weights = np.arange(1, hi - lo + 1, dtype=np.float32)
                writer.add("weights", weights)
                writer.add("sampling_cumulative", np.cumsum(weights, dtype=np.float64))
            if kind.timed:
                writer.add("times", np.arange(lo, hi, dtype=np.int64))
    for adjacency in SCHEMA.adjacencies():
        lo, hi = bounds[adjacency.from_type]
        rows = made.rows[adjacency.number][lo:hi]
        flat = [edge for row in rows for edge in row]
        with _writer(made, directory / edges_file(adjacency.number, partition)) as writer:
            writer.add("indptr", np.cumsum([0, *map(len, rows)]).astype(np.int64))
            writer.add("indices", np.array([edge[0] for edge in flat], np.int32))
            if adjacency.edge.weighted:
                writer.add("weights", np.array([edge[1] for edge in flat], np.float32))
                sums = [np.cumsum([edge[1] for edge in row], dtype=np.float64) for row in rows]
                writer.add("cumulative", np.concatenate([*sums, np.empty(0)]))
            if adjacency.edge.timed:
                writer.add("times", np.array([edge[2] for edge in flat], np.int64))
    for file in SCHEMA.feature_files():
        with _writer(made, directory / feature_file(file.number, partition)) as writer:
            if file.of == "edges":
                lo, hi = bounds[SCHEMA.adjacencies()[file.owner].from_type]
                writer.add("values", np.array([edge[3] for row in made.rows[file.owner][lo:hi] for edge in row], np.int8))
                continue
            lo, hi = bounds[file.owner]
            ids = made.ids[file.owner][lo:hi]
            if file.feature.name == "x":
                values = [feature_x(node_id) for node_id in ids]
                writer.add("values", np.array([value for value, _ in values], np.float32).reshape(-1, 4))
                writer.add("present", np.array([there for _, there in values], np.uint8))
            elif file.feature.name == "tags":
                writer.add("indptr", np.arange(0, 2 * (hi - lo) + 1, 2, dtype=np.int64))
                writer.add("indices", np.array([[node_id % 50, 50 + node_id % 50] for node_id in ids], np.int64).reshape(-1))
                writer.add("values", np.ones(2 * (hi - lo), np.float32))
            else:
                texts = [f"text of {node_id}".encode() for node_id in ids]
                writer.add("offsets", np.cumsum([0, *map(len, texts)]).astype(np.int64))
                writer.add("data", np.frombuffer(b"".join(texts), np.uint8))
