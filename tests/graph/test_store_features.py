"""Features bound to a store are what the store says, when it is asked; and a graph without its stores says so."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fondaco.core.errors import DeadlineExceededError, InputError, StateError, StoreNotFoundError
from fondaco.graph.deadlines import Deadline
from fondaco.graph.embedded import EmbeddedGraph
from fondaco.graph.execution import StoreColumns
from fondaco.graph.inputs import Nodes, StoreFeature
from fondaco.graph.layout import GraphLayout
from fondaco.graph.opened import open_version
from fondaco.graph.queries import StringIds
from fondaco.graph.store_features import StoreFeatures
from fondaco.platform import Platform

ROW = pa.schema(
    [
        pa.field("vector", pa.list_(pa.float32(), 2), False),
        pa.field("maybe", pa.int32()),
        pa.field("flag", pa.bool_(), False),
        pa.field("seen", pa.timestamp("us", "UTC"), False),
        pa.field("text", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
    ]
)
KEYS = list(range(10))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(tmp_path / "platform") as platform:
        store = platform.create_store("rows", key="long", value=ROW, partitions=2)
        rows = [
            {
                "key": key,
                "vector": [key, -key],
                "maybe": None if key % 2 else key,
                "flag": key % 3 == 0,
                "seen": key * 1_000_000,
                "text": None if key == 4 else f"text {key} é",
                "tags": [],
            }
            for key in KEYS
        ]
        store.push(pa.Table.from_pylist(rows, pa.schema([pa.field("key", pa.int64(), False), *ROW])), progress=False)
        yield platform


@pytest.fixture
def features(platform: Platform) -> Iterator[StoreFeatures]:
    features = StoreFeatures(lambda name: platform.store(name).reader())
    yield features
    features.close()


def test_values_come_by_key_with_what_is_missing_marked(features: StoreFeatures) -> None:
    columns: StoreColumns = features
    ids = np.array([3, 99, 4, 3])
    vector, found = columns.columns("rows", "vector", ids, Deadline())
    assert vector.tolist() == [[3.0, -3.0], [0.0, 0.0], [4.0, -4.0], [3.0, -3.0]]
    assert (vector.dtype, found.tolist()) == (np.float32, [True, False, True, True])
    maybe, found = columns.columns("rows", "maybe", ids, Deadline())
    assert (maybe.tolist(), found.tolist()) == ([0, 0, 4, 0], [False, False, True, False])
    flags, _ = columns.columns("rows", "flag", ids, Deadline())
    assert (flags.dtype, flags.tolist()) == (np.bool_, [True, False, False, True])
    seen, _ = columns.columns("rows", "seen", ids, Deadline())
    assert (seen.dtype, seen.tolist()) == (np.int64, [3_000_000, 0, 4_000_000, 3_000_000])
    (offsets, data), found = columns.columns("rows", "text", ids, Deadline())
    assert [data[a:b].tobytes().decode() for a, b in pairwise(offsets)] == ["text 3 é", "", "", "text 3 é"]
    assert found.tolist() == [True, False, False, True]


def test_fields_that_are_no_features_are_refused(features: StoreFeatures) -> None:
    with pytest.raises(InputError, match="field 'tags' of store 'rows' holds list values"):
        features.columns("rows", "tags", np.array([1]), Deadline())
    with pytest.raises(StoreNotFoundError):
        features.columns("row", "vector", np.array([1]), Deadline())
    with pytest.raises(DeadlineExceededError):
        features.columns("rows", "vector", np.array([1]), Deadline(0))


def test_string_ids_are_looked_up_too(platform: Platform, features: StoreFeatures) -> None:
    store = platform.create_store("names", key="string", value=pa.schema([pa.field("size", pa.int64(), False)]))
    store.push(pa.table({"key": ["x", "yé"], "size": [1, 2]}), progress=False)
    texts = "yé", "z"
    ids = StringIds(np.array([0, 3, 4]), np.frombuffer("".join(texts).encode(), np.uint8))
    sizes, found = features.columns("names", "size", ids, Deadline())
    assert (sizes.tolist(), found.tolist()) == ([2, 0], [True, False])


def test_closed_features_say_so(features: StoreFeatures) -> None:
    features.close()
    features.close()
    with pytest.raises(StateError, match="was closed"):
        features.columns("rows", "vector", np.array([1]), Deadline())


def test_a_write_shows_in_the_next_answer(platform: Platform) -> None:
    nodes = Nodes(pa.table({"id": [*KEYS, 50]}), id="id", features={"v": StoreFeature("rows", "vector"), "t": StoreFeature("rows", "text")})
    platform.build_graph("g", nodes={"n": nodes}, edges={("n", "e", "n"): pa.table({"src": KEYS, "dst": [50] * 10})}, progress=False)
    with platform.graph("g") as graph:
        before = graph.sample([2, 50], [1], features=["v", "t"])
        assert before.features["v"].tolist() == [[2.0, -2.0], [0.0, 0.0]]
        assert list(before.features["t"]) == ["text 2 é".encode(), b""]
        assert {name: mask.tolist() for name, mask in before.present.items()} == {"v": [True, False], "t": [True, False]}
        with platform.store("rows").writer("job") as writer:
            position = writer.patch(2, {"vector": [7.0, 8.0]})
            writer.flush()
        with platform.store("rows").reader() as reader:
            reader.get(2, min_position=position)
        assert graph.features([2], ["v"])["v"].tolist() == [[7.0, 8.0]]  # type: ignore[union-attr]
        assert graph.features([99, 3], ["v"], on_unknown="pad")["v"].tolist() == [[0.0, 0.0], [3.0, -3.0]]  # type: ignore[union-attr]
        empty = graph.sample([], [1], features=["v", "t"])
        assert empty.features["v"].shape == (0, 2)


def test_a_graph_without_its_stores_says_so(platform: Platform) -> None:
    nodes = Nodes(pa.table({"id": KEYS}), id="id", features={"v": StoreFeature("rows", "vector")})
    platform.build_graph("g", nodes={"n": nodes}, edges={("n", "e", "n"): pa.table({"src": [1], "dst": [2]})}, progress=False)
    opened = open_version(GraphLayout(platform.directory / "graphs" / "g"), 1)
    with (
        EmbeddedGraph(lambda: opened) as graph,
        pytest.raises(StateError, match="lies in the store 'rows', which is not reachable from here"),
    ):
        graph.features([1], ["v"])
