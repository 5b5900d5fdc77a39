from __future__ import annotations

import ctypes
import itertools
import os
import pickle
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fondaco.core.errors import CorruptFileError, FormatVersionError, InputError
from fondaco.core.verified import VERIFIED_FILE
from fondaco.graph import manifest as manifest_module
from fondaco.graph.layout import GraphLayout, nodes_file
from fondaco.graph.manifest import MANIFEST_FILE, FileEntry, GraphManifest, read_manifest, write_manifest
from fondaco.graph.opened import OpenGraph, open_version, shard_partitions
from fondaco.graph.sections import SectionWriter, open_sections
from graph.hand_built import SCHEMA, HandBuilt, feature_x, write_version


def _version(tmp_path: Path, partitions: int = 3, **sizes: int) -> tuple[GraphLayout, HandBuilt]:
    layout = GraphLayout(tmp_path / "g")
    layout.create()
    directory = layout.version(1)
    directory.mkdir()
    made = write_version(directory, partitions=partitions, **sizes)
    _write_manifest(directory, made)
    return layout, made


def _write_manifest(directory: Path, made: HandBuilt) -> None:
    assert made.built is not None
    files = [open_sections(directory / entry.name) for entry in made.built.files]
    manifest = GraphManifest(
        graph="g",
        version=1,
        created_us=1,
        partitions=made.partitions,
        schema=SCHEMA,
        nodes=made.built.node_counts,
        edges=made.built.edge_counts,
        files=tuple(FileEntry(file.path.name, file.bytes, file.checksum) for file in files),
    )
    write_manifest(directory, manifest)


def _at(address: int, dtype: type, count: int) -> np.ndarray:
    return np.frombuffer(ctypes.string_at(int(address), np.dtype(dtype).itemsize * count), dtype)


def _rows(opened: OpenGraph, number: int) -> list[list[tuple[int, float, int]]]:
    """Every row of an adjacency, read through its addresses as a kernel does."""
    table, rows = opened.adjacency_tables[number], []
    for partition in range(opened.partitions):
        count = int(table.starts[partition + 1] - table.starts[partition])
        edges = int(table.edge_starts[partition + 1] - table.edge_starts[partition])
        indptr = _at(table.indptr[partition], np.int64, count + 1)
        to = _at(table.indices[partition], np.int32, edges)
        weights = _at(table.weights[partition], np.float32, edges) if table.weights[partition] else np.zeros(edges)
        times = _at(table.times[partition], np.int64, edges) if table.times[partition] else np.zeros(edges, np.int64)
        for lo, hi in itertools.pairwise(indptr):
            rows.append(list(zip(to[lo:hi].tolist(), weights[lo:hi].tolist(), times[lo:hi].tolist(), strict=True)))
    return rows


@pytest.mark.parametrize("partitions", [1, 3, 16])
def test_tables_lead_to_every_node_edge_and_feature(tmp_path: Path, partitions: int) -> None:
    layout, made = _version(tmp_path, partitions)
    opened = open_version(layout, 1)
    person, page = opened.node_tables
    assert (person.count, page.count) == (40, 25)
    ids = np.concatenate([_at(person.ids[p], np.int64, int(np.diff(person.starts)[p])) for p in range(partitions)])
    assert ids.tolist() == made.ids[0]
    assert page.ids.tolist() == [0] * partitions
    names = []
    for p in range(partitions):
        offsets = _at(page.id_offsets[p], np.int64, int(np.diff(page.starts)[p]) + 1)
        raw = ctypes.string_at(int(page.id_bytes[p]), int(offsets[-1]))
        names += [raw[lo:hi].decode() for lo, hi in itertools.pairwise(offsets)]
    assert names == made.ids[1]
    for adjacency in opened.adjacencies:
        expected = [[edge[:3] for edge in row] for row in made.rows[adjacency.number]]
        assert _rows(opened, adjacency.number) == expected
        assert opened.adjacency_tables[adjacency.number].edge_count == sum(map(len, expected))
    x = opened.node_features[0, "x"]
    assert (x.row_bytes, x.dtype) == (16, np.float32)
    values = np.concatenate([_at(x.values[p], np.float32, 4 * int(np.diff(x.starts)[p])) for p in range(partitions)]).reshape(-1, 4)
    present = np.concatenate([_at(x.present[p], np.uint8, int(np.diff(x.starts)[p])) for p in range(partitions)])
    assert values.tolist() == [feature_x(node_id)[0] for node_id in made.ids[0]]
    assert present.tolist() == [feature_x(node_id)[1] for node_id in made.ids[0]]
    assert opened.edge_features.keys() == {(0, "stars"), (1, "stars")}


def test_held_partitions_are_mapped_and_others_have_no_address(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path, 4)
    opened = open_version(layout, 1, shard=(1, 2))
    assert opened.held == {2, 3}
    assert not opened.holds_all
    person = opened.node_table("person")
    assert person.count == 40  # the whole graph's
    assert (person.hashes != 0).tolist() == [False, False, True, True]
    assert (opened.adjacency_table("likes").indptr != 0).tolist() == [False, False, True, True]
    with pytest.raises(KeyError):
        opened.sections(nodes_file(0, 0))
    with pytest.raises(InputError, match=r"partitions 0 to 3, not \[4\]"):
        open_version(layout, 1, held=[4])
    with pytest.raises(InputError, match="shard 2/2 does not exist"):
        open_version(layout, 1, shard=(2, 2))


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("partitions", [1, 2, 5, 16])
def test_every_partition_lies_in_exactly_one_shard(partitions: int, shards: int) -> None:
    held = [list(shard_partitions(partitions, shard, shards)) for shard in range(shards)]
    assert list(itertools.chain(*held)) == list(range(partitions))
    assert all(p * shards // partitions == shard for shard, ps in enumerate(held) for p in ps)


def test_empty_partitions_and_a_graph_without_edges_can_be_opened(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path, 8, persons=2, pages=0, likes=0)
    opened = open_version(layout, 1)
    assert [table.count for table in opened.node_tables] == [2, 0]
    assert all(table.edge_count == 0 for table in opened.adjacency_tables)
    assert (opened.node_tables[1].hashes != 0).all()  # no rows, and yet held


def test_files_stay_mapped_as_long_as_somebody_uses_them(tmp_path: Path) -> None:
    layout, made = _version(tmp_path)
    opened = open_version(layout, 1)
    array = opened.sections(nodes_file(0, 0))["ids"]
    for path in layout.version(1).iterdir():
        path.unlink()
    gone = weakref.ref(opened)
    opened.close()
    del opened
    assert gone() is None  # at once, by its reference count: maps of an old version do not wait for the collector of cycles
    assert array.tolist() == made.ids[0][: len(array)]


def test_the_second_open_trusts_the_stamps_of_the_first_and_a_written_file_is_read_again(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path)
    assert not (layout.version(1) / VERIFIED_FILE).exists()
    open_version(layout, 1)
    assert (layout.version(1) / VERIFIED_FILE).exists()
    path = layout.version(1) / nodes_file(0, 1)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptFileError, match=rf"{nodes_file(0, 1)}: section '\w+' is damaged: the checksum does not match"):
        open_version(layout, 1)


def test_a_file_that_is_missing_or_another_ones_is_named(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path)
    directory = layout.version(1)
    path, other = directory / nodes_file(0, 1), directory / nodes_file(0, 2)
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(CorruptFileError, match=rf"{nodes_file(0, 1)}: section 'file' is damaged: it is missing"):
        open_version(layout, 1)
    path.write_bytes(other.read_bytes())
    with pytest.raises(CorruptFileError, match=r"it is not the file that the manifest lists"):
        open_version(layout, 1)
    path.write_bytes(kept)
    open_version(layout, 1).verify()


def test_a_version_that_is_not_there_is_a_missing_file(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_version(layout, 2)


def test_sections_that_contradict_the_schema_are_refused(tmp_path: Path) -> None:
    layout, made = _version(tmp_path, 1)
    directory = layout.version(1)
    sections = {name: array.copy() for name, array in open_sections(directory / nodes_file(0, 0)).items()}
    for change, message in (
        ({"weights": None}, "section 'weights' is damaged: the schema says that it is there"),
        ({"ids": sections["ids"][:-1]}, r"section 'ids' is damaged: expected int64\[40\], found int64\[39\]"),
        ({"hashes": sections["hashes"].astype(np.int64)}, r"expected uint64\[40\], found int64\[40\]"),
    ):
        (directory / nodes_file(0, 0)).unlink()
        with SectionWriter(directory / nodes_file(0, 0)) as writer:
            for name, array in (sections | change).items():
                if array is not None:
                    writer.add(name, array)
        _write_manifest(directory, made)
        with pytest.raises(CorruptFileError, match=message):
            open_version(layout, 1)


def test_a_manifest_with_a_changed_byte_or_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path)
    path = layout.version(1) / MANIFEST_FILE
    text = path.read_text()
    path.write_text(text.replace('"partitions": 3', '"partitions": 4'))
    with pytest.raises(CorruptFileError, match=r"manifest.json: section 'manifest' is damaged: the checksum does not match"):
        open_version(layout, 1)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(CorruptFileError, match="section 'manifest'"):
        open_version(layout, 1)
    path.write_text(text)
    manifest = read_manifest(layout.version(1))
    assert manifest.node_counts() == {"person": 40, "page": 25}
    assert manifest.edge_counts() == {"person/likes/page": 200, "person/knows/person": 100}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_module, "MANIFEST_FORMAT", 2)
        write_manifest(layout.version(1), manifest)
    with pytest.raises(FormatVersionError, match="format 2"):
        open_version(layout, 1)


def test_counts_that_contradict_the_schema_are_refused(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path)
    manifest = read_manifest(layout.version(1))
    for change in ({"nodes": manifest.nodes[:1]}, {"edges": ((1, 2),) * 3}, {"files": manifest.files[1:]}, {"partitions": 0}):
        write_manifest(layout.version(1), msgspec.structs.replace(manifest, **change))
        with pytest.raises(CorruptFileError, match="its counts and files contradict its schema"):
            open_version(layout, 1)


def test_warming_takes_structure_before_features_and_stops_where_there_is_no_room(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path)
    opened = open_version(layout, 1)
    assert opened.warm() == opened.bytes
    assert opened.warm(bytes_max=0) == 0
    structure = sum(size for name, size in _sizes(layout) if not name.startswith("feature"))
    assert opened.warm(bytes_max=structure) == structure


def _sizes(layout: GraphLayout) -> list[tuple[str, int]]:
    return [(name, os.path.getsize(layout.version(1) / name)) for name in os.listdir(layout.version(1)) if name.endswith(".fgs")]


def test_the_schema_of_an_opened_version_can_be_sent(tmp_path: Path) -> None:
    layout, _ = _version(tmp_path)
    assert pickle.loads(pickle.dumps(open_version(layout, 1).schema)) == SCHEMA
