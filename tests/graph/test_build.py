"""Building a graph version: the files say what the tables said, whatever the order, the batches, the memory and the partitions."""

from __future__ import annotations

import collections
import datetime
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import ColumnNotFoundError, GraphBuildError, InputError, NaiveTimestampError
from fondaco.graph.build.version import MEMORY_BYTES, MEMORY_BYTES_MIN, BuiltGraph, build_graph_version
from fondaco.graph.inputs import Edges, Nodes, StoreFeature
from fondaco.graph.layout import edges_file, feature_file, nodes_file
from fondaco.graph.schema import Feature
from fondaco.graph.sections import open_sections

KNOWS = ("person", "knows", "person")


class Built:
    """A version that was built, read back into plain Python."""

    def __init__(self, directory: Path, built: BuiltGraph) -> None:
        self.directory, self.built, self.schema = directory, built, built.schema

    def joined(self, file: Any, number: int, section: str) -> list[Any]:
        """A section over all partitions."""
        return [x for p in range(self.built.partitions) for x in open_sections(self.directory / file(number, p))[section].tolist()]

    def ids(self, node_type: str) -> list[Any]:
        """All ids, by dense id."""
        number = self.schema.node_index(node_type)
        if self.schema.node(node_type).id == "long":
            return self.joined(nodes_file, number, "ids")
        found: list[Any] = []
        for p in range(self.built.partitions):
            sections = open_sections(self.directory / nodes_file(number, p))
            offsets, data = sections["id_offsets"], bytes(sections["id_bytes"])
            found += [data[a:b].decode() for a, b in itertools.pairwise(offsets)]
        return found

    def lists(self, key: Any = KNOWS, direction: str = "out", sections: Sequence[str] = ("indices",)) -> dict[Any, list[Any]]:
        """By id of the from-node: its entries, in order, with ids for `indices`."""
        adjacency = self.schema.adjacency(key, direction)  # type: ignore[arg-type]
        sources, targets = (self.ids(self.schema.nodes[t].name) for t in (adjacency.from_type, adjacency.to_type))
        found: dict[Any, list[Any]] = {}
        row = 0
        for p in range(self.built.partitions):
            file = open_sections(self.directory / edges_file(adjacency.number, p))
            columns = [[targets[i] for i in file[s].tolist()] if s == "indices" else file[s].tolist() for s in sections]
            entries = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
            indptr = file["indptr"]
            for start, end in itertools.pairwise(indptr):
                found[sources[row]] = entries[start:end]
                row += 1
        return found

    def feature(self, name: str, section: str = "values") -> list[Any]:
        """A section of a feature's files."""
        number = next(file.number for file in self.schema.feature_files() if file.feature.name == name)
        return self.joined(feature_file, number, section)


@pytest.fixture
def build(tmp_path: Path) -> Any:
    """Builds into a fresh directory; afterwards only the version's files lie there."""
    numbers = iter(range(1000))

    def run(**options: Any) -> Built:
        return build_in(tmp_path / f"g{next(numbers)}", **options)

    return run


def build_in(directory: Path, **options: Any) -> Built:
    directory.mkdir()
    built = build_graph_version(directory, **options)
    assert sorted(file.name for file in directory.iterdir()) == [entry.name for entry in built.files]
    assert all((directory / entry.name).stat().st_size == entry.bytes for entry in built.files)
    return Built(directory, built)


def files_of(built: Built) -> dict[str, bytes]:
    return {entry.name: (built.directory / entry.name).read_bytes() for entry in built.built.files}


def hash_of(id_: Any) -> int:
    return xxhash.xxh64_intdigest(id_.encode() if isinstance(id_, str) else id_.to_bytes(8, "little", signed=True))


# -- what is written -----------------------------------------------------------------------------------------------------------------


def test_nodes_lie_in_the_order_of_hash_and_id_whatever_the_partitions(build: Any) -> None:
    ids = np.random.default_rng(3).integers(-(2**63), 2**63 - 1, 500).tolist()
    expected = sorted(ids, key=lambda id_: (hash_of(id_), id_))
    for partitions in (1, 2, 7):
        graph = build(nodes={"person": pa.table({"id": ids})}, partitions=partitions)
        assert graph.ids("person") == expected
        assert graph.joined(nodes_file, 0, "hashes") == [hash_of(id_) for id_ in expected]
        counts = collections.Counter((hash_of(id_) >> 32) * partitions >> 32 for id_ in ids)
        assert graph.built.node_counts == (tuple(counts[p] for p in range(partitions)),)


def test_ids_may_be_texts(build: Any) -> None:
    names = ["", "ada", "Zürich", "x" * 100, *(f"n{i}" for i in range(50))]
    graph = build(nodes={"person": {"id": names}}, edges={KNOWS: {"src": ["ada", "", "ada"], "dst": ["Zürich", "ada", ""]}}, partitions=3)
    assert graph.ids("person") == sorted(names, key=hash_of)
    assert sorted(graph.lists()["ada"]) == ["", "Zürich"]
    assert graph.schema.node("person").id == "string"


def test_texts_of_one_hash_are_two_nodes(build: Any) -> None:
    a, b = _collision()
    assert a != b
    assert hash_of(a) == hash_of(b)
    graph = build(nodes={"person": {"id": [b, "c", a]}}, edges={KNOWS: {"src": [a, b, "c"], "dst": ["c", a, b]}}, partitions=2)
    assert graph.lists() == {a: ["c"], b: [a], "c": [b]}
    assert graph.ids("person").index(b) + 1 == graph.ids("person").index(a)  # by their bytes
    implied = build(edges={KNOWS: {"src": [a, b, "c"], "dst": ["c", a, b]}})
    assert implied.lists() == graph.lists()
    with pytest.raises(GraphBuildError, match="row 2"):
        build(nodes={"person": {"id": [b, a, a]}})


def test_neighbours_ascend_by_time_then_dense_id_then_weight(build: Any) -> None:
    table = {
        "src": [1, 1, 1, 1, 1, 2],
        "dst": [3, 2, 3, 3, 2, 1],
        "time": [20, 10, 10, 10, 30, 5],
        "weight": [1.0, 1.0, 2.0, 0.5, 0.0, 1.0],
    }
    graph = build(edges={KNOWS: table})
    dense = {id_: i for i, id_ in enumerate(graph.ids("person"))}
    rows = sorted(zip(table["time"], [dense[d] for d in table["dst"]], table["weight"], table["dst"], strict=True))[1:]
    first = [(d, t, w) for t, _, w, d in rows]
    assert graph.lists(sections=("indices", "times", "weights"))[1] == first
    assert graph.lists(sections=("cumulative", "times"))[1] == list(
        zip(np.cumsum([w for _, _, w in first]), [t for _, t, _ in first], strict=True)
    )
    assert graph.lists()[3] == []


def test_sums_of_weights_begin_anew_in_each_row_and_are_float64(build: Any) -> None:
    rng = np.random.default_rng(1)
    src, dst, weight = rng.integers(0, 9, 3000), rng.integers(0, 9, 3000), rng.random(3000).astype(np.float32)
    graph = build(edges={KNOWS: {"src": src, "dst": dst, "weight": weight}}, partitions=2)
    for row in graph.lists(sections=("weights", "cumulative")).values():
        total = 0.0
        for one, cumulative in row:
            total += one
            assert cumulative == total


def test_both_directions_hold_the_same_edges(build: Any) -> None:
    nodes = {"person": {"id": [1, 2, 3]}, "city": {"id": ["a", "b"]}}
    lives = ("person", "lives_in", "city")
    table = {"src": [1, 2, 2, 3], "dst": ["b", "a", "b", "b"], "since": [7, 8, 9, 10]}
    graph = build(nodes=nodes, edges={lives: table}, directions="both", partitions=2)
    given = sorted(zip(table["src"], table["dst"], strict=True))
    assert sorted((s, d) for s, row in graph.lists(lives).items() for d in row) == given
    assert sorted((s, d) for d, row in graph.lists(lives, "in").items() for s in row) == given
    features = {file.owner: file.number for file in graph.schema.feature_files()}
    by_direction = {
        direction: {
            ((a, b) if direction == "out" else (b, a)): value
            for (a, b), value in zip(
                [(a, b) for a, row in graph.lists(lives, direction).items() for b in row],
                graph.joined(feature_file, features[graph.schema.adjacency(lives, direction).number], "values"),
                strict=True,
            )
        }
        for direction in ("out", "in")
    }
    assert by_direction["out"] == by_direction["in"] == {(1, "b"): 7, (2, "a"): 8, (2, "b"): 9, (3, "b"): 10}


def test_loops_parallel_edges_lonely_nodes_and_hubs_are_kept(build: Any) -> None:
    hub = [(0, i % 50) for i in range(5000)] + [(i % 50, 0) for i in range(3000)]
    src, dst = zip(*hub, strict=True)
    graph = build(nodes={"person": {"id": range(60)}}, edges={KNOWS: {"src": src, "dst": dst}}, partitions=3, memory=MEMORY_BYTES_MIN)
    lists = graph.lists()
    assert collections.Counter(lists[0]) == collections.Counter(d for s, d in hub if s == 0)
    assert lists[7] == [0] * 60
    assert lists[55] == []


@pytest.mark.parametrize("partitions", [1, 3])
def test_empty_tables_make_an_empty_graph(build: Any, partitions: int) -> None:
    ids, ends = pa.table({"id": pa.array([], pa.string())}), pa.table({"src": pa.array([], pa.string()), "dst": pa.array([], pa.string())})
    graph = build(nodes={"person": ids}, edges={KNOWS: ends}, partitions=partitions, directions="both")
    assert graph.ids("person") == []
    assert graph.lists() == {}
    assert graph.schema.node("person").id == "string"
    assert build(nodes={"person": []}, edges={KNOWS: []}).lists() == {}
    assert build(edges={KNOWS: {"src": [], "dst": []}}).lists() == {}
    assert build(nodes={"person": {"id": [1]}}, edges={KNOWS: {"src": [], "dst": []}}).lists() == {1: []}


def test_types_without_a_table_get_the_ends_of_their_edges(build: Any) -> None:
    likes = ("person", "likes", "tag")
    graph = build(
        nodes={"person": {"id": [1, 2, 9]}, "tag": None},
        edges={likes: {"src": [1, 2, 1], "dst": ["x", "y", "y"]}, ("tag", "near", "tag"): {"src": ["y"], "dst": ["z"]}},
    )
    assert sorted(graph.ids("tag")) == ["x", "y", "z"]
    assert graph.built.built_from["endpoints"] == ["tag"]
    assert [node.name for node in graph.schema.nodes] == ["person", "tag"]


# -- undirected ------------------------------------------------------------------------------------------------------------------------


def test_undirected_edges_are_mirrored_unless_the_other_way_is_given(build: Any) -> None:
    table = {"src": [1, 2, 2, 3, 4, 4], "dst": [2, 1, 3, 3, 1, 1], "weight": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    for direction in ("out", "in"):
        graph = build(edges={KNOWS: table}, undirected=True, directions=direction)
        mine = {a: sorted(row) for a, row in graph.lists(direction=direction, sections=("indices", "weights")).items()}
        expected = {1: [(2, 1.0), (4, 5.0), (4, 6.0)], 2: [(1, 2.0), (3, 3.0)], 3: [(2, 3.0), (3, 4.0)], 4: [(1, 5.0), (1, 6.0)]}
        if direction == "in":
            expected[1][0], expected[2][0] = (2, 2.0), (1, 1.0)
        assert mine == expected


def test_mirrors_of_timed_edges_look_at_the_time(build: Any) -> None:
    graph = build(edges={KNOWS: {"src": [1, 2, 2], "dst": [2, 1, 1], "time": [10, 10, 20]}}, undirected=True)
    assert graph.lists(sections=("indices", "times")) == {1: [(2, 10), (2, 20)], 2: [(1, 10), (1, 20)]}


def test_undirected_needs_edges_between_nodes_of_one_type(build: Any) -> None:
    with pytest.raises(InputError, match="one type"):
        build(edges={("a", "to", "b"): {"src": [1], "dst": [2]}}, undirected=True)


# -- features --------------------------------------------------------------------------------------------------------------------------


def test_features_keep_their_numbers_shapes_and_absences(build: Any) -> None:
    ids = list(range(40))
    table = pa.table(
        {
            "id": ids,
            "age": pa.array([None if i % 7 == 0 else i for i in ids], pa.int16()),
            "x": pa.array([None if i == 3 else [i, i + 0.5] for i in ids], pa.list_(pa.float32(), 2)),
            "free": pa.array([[i, 1, 2] for i in ids], pa.list_(pa.int8())),
            "grid": pa.array([[[i, 1], [2, 3], [4, 5]] for i in ids], pa.list_(pa.list_(pa.float64(), 2), 3)),
            "half": pa.array(np.arange(40, dtype=np.float16)),
            "flag": [i % 2 == 0 for i in ids],
            "name": [None if i == 5 else f"n{i}" * (i % 3) for i in ids],
            "words": pa.array(
                [None if i == 6 else [{"index": j, "value": j / 2} for j in range(i % 4)] for i in ids],
                pa.list_(pa.struct([("index", pa.int32()), ("value", pa.float32())])),
            ),
        }
    )
    graph = build(nodes={"person": Nodes(table.slice(1, 38))}, partitions=2)
    order = graph.ids("person")
    assert sorted(order) == ids[1:39]
    assert graph.schema.node("person").features == (
        Feature("age", "dense", "int16"), Feature("x", "dense", "float32", (2,)), Feature("free", "dense", "int8", (3,)),
        Feature("grid", "dense", "float64", (3, 2)), Feature("half", "dense", "float16"), Feature("flag", "dense", "bool"),
        Feature("name", "bytes"), Feature("words", "sparse", "float32", (3,)),
    )  # fmt: skip
    assert graph.feature("age") == [0 if i % 7 == 0 else i for i in order]
    assert graph.feature("age", "present") == [int(i % 7 != 0) for i in order]
    assert graph.feature("x") == [[0, 0] if i == 3 else [i, i + 0.5] for i in order]
    assert graph.feature("free") == [[i, 1, 2] for i in order]
    assert graph.feature("grid") == [[[i, 1], [2, 3], [4, 5]] for i in order]
    assert graph.feature("half") == order
    assert graph.feature("flag") == [i % 2 == 0 for i in order]
    texts, words = [], []
    for p in range(2):
        file = open_sections(graph.directory / feature_file(6, p))
        texts += [bytes(file["data"][a:b]).decode() for a, b in zip(file["offsets"][:-1], file["offsets"][1:], strict=True)]
        file = open_sections(graph.directory / feature_file(7, p))
        for a, b in zip(file["indptr"][:-1], file["indptr"][1:], strict=True):
            words.append(list(zip(file["indices"][a:b].tolist(), file["values"][a:b].tolist(), strict=True)))
    assert texts == ["" if i == 5 else f"n{i}" * (i % 3) for i in order]
    assert words == [[] if i == 6 else [(j, j / 2) for j in range(i % 4)] for i in order]


def test_columns_can_be_joined_renamed_bound_to_stores_and_left_out(build: Any) -> None:
    table = {"page": [5, 6], "a": [1, 2], "b": [0.5, 1.5], "weight": [7, 8], "name": ["x", "y"], "w": [1.0, 2.0], "rest": [0, 0]}
    features = {"ab": ["a", "b"], "weight": "weight", "emb": StoreFeature("emb", "vector")}
    graph = build(
        nodes={"page": Nodes(table, id="page", weight="w", features=features)},
        store_field=lambda store, field: ("float32", (len(store) + len(field),)),
    )
    assert graph.schema.node("page").features == (
        Feature("ab", "dense", "float64", (2,)),
        Feature("weight", "dense", "int64"),
        Feature("emb", "store", "float32", (9,), "emb", "vector"),
    )
    order = graph.ids("page")
    assert graph.feature("ab") == [[1, 0.5] if i == 5 else [2, 1.5] for i in order]
    assert graph.joined(nodes_file, 0, "weights") == [1.0 if i == 5 else 2.0 for i in order]
    assert graph.joined(nodes_file, 0, "sampling_cumulative") == np.cumsum([1.0 if i == 5 else 2.0 for i in order]).tolist()


def test_times_are_microseconds_of_utc(build: Any) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    us = 1767323045000006
    zoned = {"src": [1], "dst": [2], "time": pa.array([moment], pa.timestamp("ns", "America/New_York"))}
    assert build(edges={KNOWS: zoned}).lists(sections=("times",))[1] == [us]
    naive = {"src": [1], "dst": [2], "time": [moment.replace(tzinfo=None)]}
    assert build(edges={KNOWS: Edges(naive, tz="UTC")}).lists(sections=("times",))[1] == [us]
    with pytest.raises(NaiveTimestampError, match="'time' of edges 'person/knows/person'"):
        build(edges={KNOWS: naive})
    with pytest.raises(InputError, match="no time zone"):
        build(edges={KNOWS: Edges(naive, tz="Utopia")})


# -- refusals --------------------------------------------------------------------------------------------------------------------------

_NODES = {"person": {"id": [1, 2, 3]}}
_X = {"src": [1, 2], "dst": [2, 1]}
REFUSED: dict[str, tuple[dict[str, Any], int | None, str | None, str]] = {
    "unknown source": ({"nodes": _NODES, "edges": {KNOWS: {"src": [1, 7, 8], "dst": [2, 2, 2]}}}, 1, "src", "no node 7"),
    "unknown target": ({"nodes": _NODES, "edges": {KNOWS: {"src": [1, 1], "dst": [2, 7]}}}, 1, "dst", "type 'person'"),
    "unknown text": ({"nodes": {"person": {"id": ["a"]}}, "edges": {KNOWS: {"src": ["a"], "dst": ["b"]}}}, 0, "dst", "no node 'b'"),
    "duplicate node": ({"nodes": {"person": {"id": [4, 5, 6, 5, 4]}}}, 3, "id", "row 1"),
    "duplicate text": ({"nodes": {"person": {"name": ["a", "b", "a"]}}}, 2, "name", "'a' is that of row 0"),
    "null id": ({"nodes": {"person": {"id": [4, None]}}}, 1, "id", "null"),
    "null end": ({"edges": {KNOWS: {"src": [4, 5], "dst": [1, None]}}}, 1, "dst", "null"),
    "NaN weight": ({"edges": {KNOWS: {**_X, "weight": [1.0, float("nan")]}}}, 1, "weight", "nan"),
    "negative weight": ({"edges": {KNOWS: {**_X, "weight": [1.0, -0.5]}}}, 1, "weight", "-0.5"),
    "infinite weight": ({"edges": {KNOWS: {**_X, "weight": [float("inf"), 1.0]}}}, 0, "weight", "inf"),
    "too large a weight": ({"edges": {KNOWS: {**_X, "weight": [1.0, 1e39]}}}, 1, "weight", "1e\\+39"),
    "null weight": ({"edges": {KNOWS: {**_X, "weight": [1.0, None]}}}, 1, "weight", "null"),
    "text weight": ({"edges": {KNOWS: {**_X, "weight": ["a", "b"]}}}, None, "weight", "string"),
    "node weight": ({"nodes": {"person": {"id": [1], "weight": [-1]}}}, 0, "weight", "-1"),
    "null time": ({"edges": {KNOWS: {**_X, "time": [5, None]}}}, 1, "time", "null"),
    "text time": ({"edges": {KNOWS: {**_X, "time": ["a", "b"]}}}, None, "time", "timestamps"),
    "shorter vector": ({"nodes": {"person": {"id": [1, 2, 3], "x": [[1.0, 2.0], [1.0, 2.0], [1.0]]}}}, 2, "x", "1 numbers.* 2"),
    "hole in a vector": (
        {"nodes": {"person": {"id": [1, 2], "x": pa.array([[1.0, 2.0], [1.0, None]], pa.list_(pa.float32(), 2))}}}, 1, "x", "null",
    ),
    "edge vector": ({"edges": {KNOWS: {**_X, "x": [[1, 2], [1, 2, 3]]}}}, 1, "x", "3 numbers"),
    "negative index": ({"nodes": {"person": {"id": [1], "x": [[{"index": -1, "value": 1.0}]]}}}, 0, "x", "-1"),
    "feature of structs": ({"nodes": {"person": {"id": [1], "x": [{"a": 1}]}}}, None, "x", "cannot be struct"),
    "mixed column": ({"nodes": {"person": {"id": [1, 2, "c"]}}}, 2, "id", "mixed"),
    "mixed rows": ({"nodes": {"person": [{"id": "a"}, {"id": 4}]}}, 1, "id", "mixed"),
    "mixed tables": ({"nodes": _NODES, "edges": {KNOWS: {"src": ["1"], "dst": ["2"]}}}, None, "src", "mixed"),
    "mixed ends": ({"edges": {KNOWS: {"src": [1], "dst": ["b"]}}}, None, "dst", "mixed"),
    "float ids": ({"nodes": {"person": {"id": [1.0, 2.0]}}}, None, "id", "double"),
    "huge id": ({"nodes": {"person": {"id": np.array([1, 2**64 - 1], np.uint64)}}}, 1, "id", "18446744073709551615"),
    "unknown type": ({"nodes": _NODES, "edges": {("person", "likes", "persn"): _X}}, None, None, "did you mean 'person'"),
    "lengths": ({"nodes": {"person": {"id": [1, 2], "x": [1]}}}, None, None, "lengths"),
    "one column": ({"edges": {KNOWS: {"src": [1]}}}, None, None, "no column 'dst'"),
    "first of two": ({"nodes": _NODES, "edges": {KNOWS: {"src": [1, 9], "dst": [2, 2], "weight": [1.0, 1.0]}}}, 1, "src", "9"),
    "first of two, again": ({"nodes": _NODES, "edges": {KNOWS: {"src": [1, 9], "dst": [2, 2], "weight": [-1, 1.0]}}}, 0, "weight", "-1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_graph_is_refused_with_table_row_and_column(build: Any, case: str) -> None:
    options, row, column, reason = REFUSED[case]
    with pytest.raises(GraphBuildError, match=reason) as caught:
        build(**options)
    assert (caught.value.row, caught.value.column) == (row, column)
    assert caught.value.table.startswith(("nodes 'person'", "edges 'person/"))


def test_the_row_is_counted_over_batches_and_runs(build: Any) -> None:
    ids = np.arange(100_000)
    ids[77_777] = ids[5]
    batches = pa.table({"id": ids}).to_batches(max_chunksize=1000)
    with pytest.raises(GraphBuildError) as caught:
        build(nodes={"person": batches}, memory=MEMORY_BYTES_MIN)
    assert caught.value.row == 77_777
    src = np.arange(100_000) % 50
    src[60_001] = 50
    with pytest.raises(GraphBuildError) as caught:
        build(nodes={"person": {"id": range(50)}}, edges={KNOWS: pa.table({"src": src, "dst": src})}, memory=MEMORY_BYTES_MIN)
    assert (caught.value.row, caught.value.column) == (60_001, "src")


def test_options_that_cannot_be_are_refused(build: Any) -> None:
    for wrong in ({"partitions": 0}, {"partitions": True}, {"directions": "up"}, {"memory": 1000}, {"memory": "much"}):
        with pytest.raises(InputError):
            build(nodes=_NODES, **wrong)
    with pytest.raises(InputError, match="named by"):
        build(edges={("person", "knows"): _X})
    with pytest.raises(InputError, match="at least one node type"):
        build()
    with pytest.raises(ColumnNotFoundError, match="did you mean 'dst'"):
        build(edges={KNOWS: Edges(_X, src="src", dst="dts")})
    with pytest.raises(ColumnNotFoundError, match="nodes 'person'"):
        build(nodes={"person": Nodes({"id": [1]}, features=["x"])})
    with pytest.raises(InputError, match="only features of nodes"):
        build(edges={KNOWS: Edges(_X, features={"x": StoreFeature("s", "f")})})


# -- properties ------------------------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Tables of a small graph without parallel edges that differ in what is not sorted."""
    texts = draw(st.booleans())
    count = draw(st.integers(1, 30))
    ids = draw(st.lists(st.text(max_size=5) if texts else st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count, unique=True))
    ends = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=120))
    kind = pa.string() if texts else pa.int64()
    edges = {"src": pa.array([ids[a] for a, _ in ends], kind), "dst": pa.array([ids[b] for _, b in ends], kind)}
    if draw(st.booleans()):
        edges["weight"] = pa.array(draw(st.lists(st.floats(0, 4, width=32), min_size=len(ends), max_size=len(ends))), pa.float32())
    if draw(st.booleans()):
        edges["time"] = pa.array(draw(st.lists(st.integers(-5, 5), min_size=len(ends), max_size=len(ends))), pa.int64())
    # a function of what edges are sorted by, so that it cannot tell their order
    edges["mark"] = pa.array([hash(tuple(str(column[i]) for column in edges.values())) % 251 for i in range(len(ends))], pa.int64())
    nodes = {"id": pa.array(ids, kind), "x": pa.array([[len(str(i)), 1.5] for i in ids], pa.list_(pa.float32(), 2))}
    return {"nodes": pa.table(nodes), "edges": pa.table(edges)}


def _shuffled(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    return table.take(pa.array(rng.permutation(table.num_rows)))


def _options(tables: Mapping[str, pa.Table], *, implied: bool) -> dict[str, Any]:
    return {"nodes": None if implied else {"person": tables["nodes"]}, "edges": {KNOWS: tables["edges"]}}


@settings(max_examples=20, deadline=None)
@given(tables=graphs(), seed=st.integers(0, 2**32), undirected=st.booleans(), implied=st.booleans(), partitions=st.integers(1, 5))
def test_the_files_do_not_depend_on_order_batches_or_memory(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, pa.Table], seed: int, undirected: bool, implied: bool, partitions: int
) -> None:
    rng, root = np.random.default_rng(seed), tmp_path_factory.mktemp("order")
    common = {"partitions": partitions, "directions": "both", "undirected": undirected}
    one = build_in(root / "a", **_options(tables, implied=implied), **common)
    shuffled = {name: _shuffled(table, rng) for name, table in tables.items()}
    parts = {name: _batches(table, int(rng.integers(1, 9))) for name, table in shuffled.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fondaco.graph.build.version.MEMORY_BYTES_MIN", 1)
        other = build_in(root / "b", **_options(parts, implied=implied), **common, memory=int(rng.integers(16, 4000)))
    assert files_of(one) == files_of(other)


def _batches(table: pa.Table, rows: int) -> Any:
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=rows))


@settings(max_examples=10, deadline=None)
@given(tables=graphs(), undirected=st.booleans())
def test_ids_lists_and_edge_ids_do_not_depend_on_partitions(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, pa.Table], undirected: bool
) -> None:
    root = tmp_path_factory.mktemp("partitions")
    found = []
    for partitions in (1, 2, 5):
        graph = build_in(root / str(partitions), **_options(tables, implied=False), partitions=partitions, undirected=undirected)
        sections = [s for s in ("indices", "weights", "times") if s in open_sections(graph.directory / edges_file(0, 0))]
        found.append((graph.ids("person"), list(graph.lists(sections=sections).items()), graph.feature("mark"), graph.feature("x")))
    assert found[0] == found[1] == found[2]


@settings(max_examples=20, deadline=None)
@given(tables=graphs())
def test_the_lists_are_those_of_a_plain_dictionary(tmp_path_factory: pytest.TempPathFactory, tables: dict[str, pa.Table]) -> None:
    graph = build_in(tmp_path_factory.mktemp("plain") / "g", **_options(tables, implied=False), partitions=2)
    order = sorted(tables["nodes"]["id"].to_pylist(), key=lambda id_: (hash_of(id_), id_))
    dense = {id_: i for i, id_ in enumerate(order)}
    expected: dict[Any, list[Any]] = {id_: [] for id_ in order}
    for row in tables["edges"].to_pylist():
        expected[row["src"]].append((row.get("time", 0), dense[row["dst"]], row.get("weight", 0)))
    assert {id_: [dense[d] for d in row] for id_, row in graph.lists().items()} == {
        id_: [d for _, d, _ in sorted(row)] for id_, row in expected.items()
    }


def test_a_graph_larger_than_its_memory_is_the_same_graph(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    ids = rng.permutation(20_000) * 7919
    src, dst = ids[rng.zipf(1.3, 200_000) % 20_000], ids[rng.integers(0, 20_000, 200_000)]
    edges = pa.table(
        {
            "src": src,
            "dst": dst,
            "weight": rng.random(200_000, np.float32),
            "label": [f"e{s % 97}-{d % 89}" for s, d in zip(src, dst, strict=True)],
        }
    )
    nodes = pa.table({"id": ids, "x": pa.FixedSizeListArray.from_arrays(pa.array(rng.random(20_000 * 16, np.float32)), 16)})
    seen: list[str] = []
    options = {"nodes": {"person": nodes}, "edges": {KNOWS: edges}, "partitions": 3, "directions": "both"}
    small = build_in(tmp_path / "small", **options, memory=MEMORY_BYTES_MIN, on_step=lambda what, _: seen.extend(_runs(tmp_path / "small")))
    large = build_in(tmp_path / "large", **options, memory=MEMORY_BYTES)
    assert any(name.endswith(".run") for name in seen)
    assert files_of(small) == files_of(large)


def _runs(directory: Path) -> Iterator[str]:
    yield from (file.name for file in directory.iterdir() if file.name.startswith("."))


def test_nothing_temporary_stays_after_a_refusal(tmp_path: Path) -> None:
    src = np.arange(200_000) % 1000
    src[-1] = 5000
    with pytest.raises(GraphBuildError):
        build_graph_version(
            tmp_path, nodes={"person": {"id": range(1000)}}, edges={KNOWS: {"src": src, "dst": src}}, memory=MEMORY_BYTES_MIN
        )
    assert not list(_runs(tmp_path))


def _collision() -> tuple[str, str]:
    """Two texts of 16 bytes and one hash: the first halves differ freely, and the second one of the other text follows, because each step
    of XXH64 over 8 bytes can be undone. Such halves are rarely UTF-8, so many are tried."""
    mask = 2**64 - 1
    p1, p2, p4, p5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5

    def rotate(value: int, count: int) -> int:
        return ((value << count) | (value >> (64 - count))) & mask

    def spread(lane: int) -> int:
        return rotate(lane * p2 & mask, 31) * p1 & mask

    def absorb(state: int, lane: int) -> int:
        return (rotate(state ^ spread(lane), 27) * p1 + p4) & mask

    def unspread(value: int) -> int:
        return rotate(value * pow(p1, -1, 2**64) & mask, 33) * pow(p2, -1, 2**64) & mask

    first = b"aaaaaaaaaaaaaaaa"
    start = (p5 + 16) & mask
    after = absorb(start, int.from_bytes(first[:8], "little"))
    wanted = after ^ spread(int.from_bytes(first[8:], "little"))  # what goes into the last rotation
    for number in range(10**6):
        head = b"%08d" % number
        tail = unspread(wanted ^ absorb(start, int.from_bytes(head, "little"))).to_bytes(8, "little")
        try:
            return first.decode(), (head + tail).decode()
        except UnicodeDecodeError:
            continue
    raise AssertionError("no pair found")
