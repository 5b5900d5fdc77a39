"""GraphContract: what every graph promises, whoever answers: in process, one server, several shards with replicas.

    class TestEmbeddedGraph(GraphContract):
        @pytest.fixture(scope="class")
        @classmethod
        def open_graph(cls) -> OpenGraph:
            return lambda platform, name: platform.graph(name)

The suite builds three graphs once a class: "pages" (one type, weights, times, features of every kind), "shop" (several types, string ids,
edges both ways) and "plain" (nothing but edges). What is asked is compared with plain references made from the tables, and with what the
platform's own graph answers in process, bit for bit. Fail-over and versions that change under way are tested beside the servers.
"""

from __future__ import annotations

import dataclasses
import pickle
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pytest

from fondaco.core.errors import (
    DeadlineExceededError,
    EdgeTypeNotFoundError,
    FeatureNotFoundError,
    InputError,
    KeyTypeError,
    NodeIdError,
    NodeTypeNotFoundError,
)
from fondaco.graph.answers import BytesColumn, HeteroSubgraph, SparseColumn, Subgraph
from fondaco.graph.graph import Graph
from fondaco.graph.inputs import Edges, Nodes, StoreFeature
from fondaco.platform import Platform

OpenGraph: TypeAlias = Callable[[Platform, str], Graph]

PAGE, LINK = "page", ("page", "links", "page")
USER, ITEM, TAG = "user", "item", "tag"
BOUGHT, TAGGED, FOLLOWS = (USER, "bought", ITEM), (ITEM, "tagged", TAG), (USER, "follows", USER)
DAY_US = 86_400_000_000
EPOCH_US = 1_700_000_000_000_000
VECTOR = pa.list_(pa.float32(), 8)
SPARSE = pa.list_(pa.struct([("index", pa.int64()), ("value", pa.float32())]))


# -- plain references -------------------------------------------------------------------------------------------------------------------


@dataclass
class PlainEdges:
    """The edges of one type as lists, and their rows in the table that they were built from."""

    src: list[Any]
    dst: list[Any]
    weight: list[float] | None = None
    time: list[int] | None = None
    rows_of: dict[Any, list[int]] = field(default_factory=lambda: defaultdict(list))
    into: dict[Any, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for row, (src, dst) in enumerate(zip(self.src, self.dst, strict=True)):
            self.rows_of[src].append(row)
            self.into[dst].append(row)

    def neighbours(self, node: Any, rank: Mapping[Any, int], *, direction: str = "out", as_of: int | None = None) -> list[int]:
        """Rows of the table in the order of the node's list: by time, then by the other end's place among all nodes, then by weight."""
        ends, rows = (self.dst, self.rows_of[node]) if direction == "out" else (self.src, self.into[node])
        seen = [row for row in rows if as_of is None or self.time is None or self.time[row] <= as_of]
        return sorted(seen, key=lambda row: (self.time[row] if self.time else 0, rank[ends[row]], self.weight[row] if self.weight else 0.0))

    def other(self, row: int, direction: str) -> Any:
        return self.dst[row] if direction == "out" else self.src[row]


def rank_of(graph: Graph, node_type: str) -> dict[Any, int]:
    """Every node's place in the graph's own order."""
    return {node: place for place, node in enumerate(graph.node_ids(node_type).tolist())}


def same(a: Any, b: Any) -> bool:
    """Whether two answers are equal to the last bit, with dtypes and shapes."""
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, part.name), getattr(b, part.name)) for part in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def _bits(array: np.ndarray[Any, Any]) -> Any:
    return array.tolist() if array.dtype == object else array.tobytes()


# -- the graphs -------------------------------------------------------------------------------------------------------------------------

PAGES = [int(number) * 1_000_003 - 50_000_000 for number in range(300)]
LONELY = PAGES[7]  # leads nowhere, and nothing leads to it
HUB = PAGES[3]  # leads to most pages
UNKNOWN = 987_654_321


def _pages() -> tuple[pa.Table, pa.Table, PlainEdges]:
    draws = np.random.default_rng(11)
    others = [page for page in PAGES if page != LONELY]
    src = [HUB] * 200 + draws.choice(others, 2400).tolist()
    dst = draws.choice(others, 200, replace=False).tolist() + draws.choice(others[:150], 2400).tolist()
    weight = (draws.random(2600, dtype=np.float32) + np.float32(0.01)).astype(np.float32)
    weight[5] = 0.0
    moment = EPOCH_US + draws.integers(0, 100, 2600) * DAY_US
    shuffled = draws.permutation(2600)
    src, dst = [src[row] for row in shuffled], [dst[row] for row in shuffled]
    weight, moment = weight[shuffled], moment[shuffled]
    count = len(PAGES)
    nodes = pa.table(
        {
            "id": pa.array(PAGES, pa.int64()),
            "weight": pa.array(np.where(np.arange(count) % 10 == 0, 0, np.arange(count) % 7 + 1).astype(np.float32)),
            "x": pa.array([[float(row * 8 + place) for place in range(8)] for row in range(count)], VECTOR),
            "half": pa.array([[np.float16(row), np.float16(-row)] for row in range(count)], pa.list_(pa.float16(), 2)),
            "label": pa.array(range(count), pa.int64()),
            "maybe": pa.array([None if row % 4 == 0 else float(row) for row in range(count)], pa.float32()),
            "words": pa.array(
                [[{"index": (row * 7 + k) % 50, "value": float(row + k)} for k in range(row % 4)] for row in range(count)], SPARSE
            ),
            "text": pa.array([f"page {row} é" * (row % 3) for row in range(count)], pa.string()),
        }
    )
    edges = pa.table(
        {
            "src": pa.array(src, pa.int64()),
            "dst": pa.array(dst, pa.int64()),
            "weight": pa.array(weight),
            "time": pa.array(moment, pa.timestamp("us", "UTC")),
            "kind": pa.array([row % 5 for row in range(2600)], pa.int32()),
            "note": pa.array([f"edge {row}" for row in range(2600)], pa.string()),
        }
    )
    return nodes, edges, PlainEdges(src, dst, weight.tolist(), moment.tolist())


USERS = list(range(1000, 1120))
ITEMS = [f"item-{number}" + ("é" if number % 9 == 0 else "") for number in range(80)]
TAGS = [f"#{number}" for number in range(12)]


def _shop() -> tuple[dict[str, Any], dict[tuple[str, str, str], Any], dict[tuple[str, str, str], PlainEdges]]:
    draws = np.random.default_rng(5)
    bought = PlainEdges(
        draws.choice(USERS[:-5], 700).tolist(),
        draws.choice(ITEMS[:-3], 700).tolist(),
        time=(EPOCH_US + draws.integers(0, 50, 700) * DAY_US).tolist(),
    )
    tagged = PlainEdges(draws.choice(ITEMS, 160).tolist(), draws.choice(TAGS, 160).tolist())
    follows = PlainEdges(draws.choice(USERS, 300).tolist(), draws.choice(USERS, 300).tolist(), weight=[float(k % 6) for k in range(300)])
    nodes = {
        USER: Nodes(
            pa.table({"id": USERS, "age": pa.array([row % 90 for row in range(len(USERS))], pa.int16())}),
            id="id",
            features={"age": "age", "emb": StoreFeature("embeddings", "vector"), "city": StoreFeature("embeddings", "city")},
        ),
        ITEM: pa.table({"id": ITEMS, "x": pa.array([[float(row), 1.0] for row in range(len(ITEMS))], pa.list_(pa.float64(), 2))}),
    }
    edges = {
        BOUGHT: pa.table(
            {"src": bought.src, "dst": bought.dst, "time": pa.array(bought.time, pa.timestamp("us", "UTC")), "price": [1.5] * 700}
        ),
        TAGGED: Edges(pa.table({"thing": tagged.src, "label": tagged.dst}), src="thing", dst="label"),
        FOLLOWS: pa.table({"src": follows.src, "dst": follows.dst, "weight": pa.array(follows.weight, pa.float32())}),
    }
    return nodes, edges, {BOUGHT: bought, TAGGED: tagged, FOLLOWS: follows}


EMBEDDED_USERS = USERS[:100]  # the others have no row in the store
STORE_ROWS = pa.schema([("vector", pa.list_(pa.float32(), 4)), ("city", pa.string())])


_SOME = [HUB, *PAGES[30:90], LONELY, HUB]
_MOMENTS = [EPOCH_US + (place % 7) * 12 * DAY_US for place in range(len(_SOME))]
_X: Final = ("x", "half", "label", "maybe", "words", "text")

_QUESTIONS: Final[dict[str, tuple[str, Callable[[Graph], object]]]] = {
    "sample": ("pages", lambda g: g.sample(_SOME, [5, 4, 3], features=_X, edge_features=["kind", "note"], seed=7, edge_times=True)),
    "sample, with replacement": ("pages", lambda g: g.sample(_SOME, [5, 4], replace=True, seed=7, edge_weights=True)),
    "sample, weighted": ("pages", lambda g: g.sample(_SOME, [5, 4], strategy="weighted", seed=7)),
    "sample, weighted, with replacement": ("pages", lambda g: g.sample(_SOME, [5, 4], strategy="weighted", replace=True, seed=7)),
    "sample, top-k": ("pages", lambda g: g.sample(_SOME, [5, 4], strategy="top_k", direction="in")),
    "sample, last, as of": ("pages", lambda g: g.sample(_SOME, [5, 4], strategy="last", as_of=EPOCH_US + 50 * DAY_US)),
    "sample, a moment a seed": ("pages", lambda g: g.sample(_SOME, [5, 4], as_of=_MOMENTS, features=["x", "words"], edge_times=True)),
    "sample, padded": ("pages", lambda g: g.sample([UNKNOWN, HUB], [5, -1], on_unknown="pad", features=["text"])),
    "layers": ("pages", lambda g: g.layer_sample(_SOME, [5, 4], seed=3)),
    "subgraph": ("pages", lambda g: g.subgraph(_SOME[:9], 1, features=_X, edge_features=["note"], edge_weights=True, edge_times=True)),
    "neighbors": ("pages", lambda g: g.neighbors(_SOME, weights=True, times=True, edge_ids=True)),
    "sample_neighbors": ("pages", lambda g: g.sample_neighbors(_SOME, 3, seed=5, as_of=_MOMENTS, direction="in")),
    "neighbor_counts": ("pages", lambda g: g.neighbor_counts(_SOME, as_of=_MOMENTS)),
    "find_edges": ("pages", lambda g: g.find_edges(np.repeat(PAGES[:40], 40), np.tile(PAGES[:40], 40))),
    "features": ("pages", lambda g: g.features_and_masks([UNKNOWN, *PAGES], _X, on_unknown="pad")),
    "edge_features_by_id": ("pages", lambda g: g.edge_features_by_id(np.arange(2599, -1, -3), ["kind", "note"], direction="in")),
    "node_ids": ("pages", lambda g: g.node_ids()),
    "contains": ("pages", lambda g: g.contains([UNKNOWN, *PAGES])),
    "random_walk": ("pages", lambda g: g.random_walk(_SOME, 8, seed=2, restart=0.1)),
    "random_walk, weighted, temporal": ("pages", lambda g: g.random_walk(_SOME, 8, seed=2, weighted=True, temporal=True, as_of=_MOMENTS)),
    "node2vec": ("pages", lambda g: g.node2vec(_SOME, 8, 0.3, 3.0, seed=2)),
    "ppr": ("pages", lambda g: g.ppr(_SOME, 7, eps=1e-3)),
    "ppr, weighted, against the edges": ("pages", lambda g: g.ppr(_SOME, 7, weighted=True, direction="in")),
    "sample_nodes": ("pages", lambda g: g.sample_nodes(50, seed=2)),
    "sample_nodes, weighted": ("pages", lambda g: g.sample_nodes(50, weighted=True, seed=2)),
    "sample_nodes, weighted, with replacement": ("pages", lambda g: g.sample_nodes(50, weighted=True, replace=True, seed=2)),
    "sample_edges": ("pages", lambda g: g.sample_edges(50, seed=2)),
    "sample_edges, weighted": ("pages", lambda g: g.sample_edges(50, weighted=True, seed=2, direction="in")),
    "negatives": ("pages", lambda g: g.negatives(_SOME, 5, seed=2)),
    "negatives, by degree": ("pages", lambda g: g.negatives(_SOME, 5, seed=2, distribution="degree")),
    "several types": (
        "shop",
        lambda g: g.sample(USERS, [3, {BOUGHT: 1, TAGGED: -1}, 2], node_type=USER, features=["x", "age"], edge_features=["price"], seed=4),
    ),
    "several types, backwards": ("shop", lambda g: g.sample(TAGS, [2, 2, 2], node_type=TAG, direction="in", seed=4, features=["x", "age"])),
    "several types, as of": (
        "shop",
        lambda g: g.sample(ITEMS, [3, 3], node_type=ITEM, edge_types=[BOUGHT, TAGGED], as_of=EPOCH_US, seed=1),
    ),
    "several types, layers": ("shop", lambda g: g.layer_sample(USERS, [2, 2], node_type=USER)),
    "several types, induced": ("shop", lambda g: g.subgraph(ITEMS[:9], 1, node_type=ITEM, features=["x"])),
    "metapath": ("shop", lambda g: g.random_walk(USERS, 5, metapath=["follows", "follows"], seed=6)),
    "metapath over types": ("shop", lambda g: g.random_walk(USERS, 2, metapath=["bought", "tagged"], seed=6)),
    "string negatives": ("shop", lambda g: g.negatives(USERS, 3, edge_type="bought", seed=6)),
    "string nodes": ("shop", lambda g: (g.sample_nodes(30, ITEM), g.node_ids(ITEM), g.contains([*ITEMS, "x"], node_type=ITEM))),
    "node_types": ("shop", lambda g: (g.node_types([*ITEMS, *TAGS, "x"]), g.node_types([*USERS, -4]))),
}


class GraphContract:
    """Subclass it, name it `Test...`, and give the class-scoped fixture `open_graph`."""

    partitions: ClassVar[int] = 5
    follows_within_s: ClassVar[float] = 5.0
    is_picklable: ClassVar[bool] = True

    # -- what is asked ----------------------------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def platform(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
        with Platform.open(tmp_path_factory.mktemp("graphs") / "platform") as platform:
            nodes, edges, _ = _pages()
            platform.build_graph(
                "pages", nodes={PAGE: nodes}, edges={LINK: edges}, partitions=cls.partitions, directions="both", progress=False
            )
            store = platform.create_store("embeddings", key="long", value=STORE_ROWS, partitions=2)
            rows = {"key": EMBEDDED_USERS, "vector": [[float(user), 1.0, 2.0, 3.0] for user in EMBEDDED_USERS], "city": ["x"] * 100}
            store.push(pa.table(rows, pa.schema([pa.field("key", pa.int64(), False), *STORE_ROWS])), progress=False)
            shop_nodes, shop_edges, _ = _shop()
            platform.build_graph("shop", nodes=shop_nodes, edges=shop_edges, partitions=cls.partitions, directions="both", progress=False)
            plain = pa.table({"src": [1, 2, 3, 3], "dst": [2, 3, 1, 4]})
            platform.build_graph("plain", edges={("n", "to", "n"): plain}, partitions=cls.partitions, progress=False)
            yield platform

    @pytest.fixture(scope="class")
    @classmethod
    def pages(cls, platform: Platform, open_graph: OpenGraph) -> Iterator[Graph]:
        with open_graph(platform, "pages") as graph:
            yield graph

    @pytest.fixture(scope="class")
    @classmethod
    def shop(cls, platform: Platform, open_graph: OpenGraph) -> Iterator[Graph]:
        with open_graph(platform, "shop") as graph:
            yield graph

    @pytest.fixture(scope="class")
    @classmethod
    def plain(cls, platform: Platform, open_graph: OpenGraph) -> Iterator[Graph]:
        with open_graph(platform, "plain") as graph:
            yield graph

    @pytest.fixture(scope="class")
    @classmethod
    def links(cls) -> PlainEdges:
        return _pages()[2]

    # -- what it is -------------------------------------------------------------------------------------------------------------------

    def test_it_says_what_it_is(self, pages: Graph, shop: Graph) -> None:
        assert pages.schema.is_homogeneous
        assert (pages.version, pages.partitions) == (1, self.partitions)
        assert (pages.node_count(), pages.node_count(PAGE), pages.edge_count(), pages.edge_count("links")) == (300, 300, 2600, 2600)
        assert [node.name for node in shop.schema.nodes] == [USER, ITEM, TAG]
        assert (shop.node_count(TAG), shop.edge_count(BOUGHT), shop.edge_count("user/follows/user")) == (len(TAGS), 700, 300)
        with pytest.raises(NodeTypeNotFoundError, match=r"'pag'.*did you mean 'page'"):
            pages.node_count("pag")
        with pytest.raises(EdgeTypeNotFoundError, match="'link'"):
            pages.edge_count("link")

    def test_node_ids_come_once_each_and_divide_among_ranks(self, pages: Graph, shop: Graph) -> None:
        everything = pages.node_ids()
        assert everything.dtype == np.int64
        assert sorted(everything.tolist()) == PAGES
        parts = [pages.node_ids(shard=(rank, 7)) for rank in range(7)]
        assert np.array_equal(np.concatenate(parts), everything)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        batches = list(pages.iterate_node_ids(batch=64))
        assert [len(batch) for batch in batches] == [64] * 4 + [44]
        assert sorted(shop.node_ids(ITEM).tolist()) == sorted(ITEMS)
        assert len(pages.node_ids(shard=(0, 1000))) == 0
        for shard in ((3, 3), (-1, 2), (0, 0)):
            with pytest.raises(InputError, match=r"rank|shards"):
                pages.node_ids(shard=shard)

    def test_contains_and_node_types(self, pages: Graph, shop: Graph) -> None:
        assert pages.contains([PAGES[0], UNKNOWN, PAGES[0]]).tolist() == [True, False, True]
        assert pages.contains([]).tolist() == []
        assert shop.contains(["item-1", "item-0é", "item-0"], node_type=ITEM).tolist() == [True, True, False]
        assert shop.node_types(["item-1", "#3", "nothing"]).tolist() == [1, 2, -1]
        assert shop.node_types([1000, 1]).tolist() == [0, -1]

    # -- neighbours -------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("direction", ["out", "in"])
    @pytest.mark.parametrize("as_of", [None, EPOCH_US + 40 * DAY_US])
    def test_neighbours_are_those_of_the_table_in_order(self, pages: Graph, links: PlainEdges, direction: Any, as_of: int | None) -> None:
        rank = rank_of(pages, PAGE)
        seeds = [*PAGES[:40], LONELY, HUB, HUB]
        found = pages.neighbors(seeds, direction=direction, as_of=as_of, weights=True, times=True, edge_ids=True)
        assert found.weights is not None
        assert found.times is not None
        assert found.edge_ids is not None
        assert links.weight
        assert links.time
        for place, node in enumerate(seeds):
            rows = links.neighbours(node, rank, direction=direction, as_of=as_of)
            part = slice(found.indptr[place], found.indptr[place + 1])
            assert found.ids[part].tolist() == [links.other(row, direction) for row in rows]
            assert found.weights[part].tolist() == [links.weight[row] for row in rows]
            assert found.times[part].tolist() == [links.time[row] for row in rows]
        assert pages.neighbor_counts(seeds, direction=direction, as_of=as_of).tolist() == found.counts.tolist()
        assert found.counts[40] == 0

    def test_neighbours_of_string_ids(self, shop: Graph) -> None:
        edges = _shop()[2][BOUGHT]
        rank = rank_of(shop, ITEM)
        found = shop.neighbors(USERS, edge_type=BOUGHT)
        expected = [[edges.dst[row] for row in edges.neighbours(user, rank)] for user in USERS]
        assert found.ids.tolist() == [item for items in expected for item in items]
        back = shop.neighbors(["item-0é", "item-1"], edge_type="bought", direction="in")
        assert back.ids.tolist() == [
            edges.src[row] for item in ("item-0é", "item-1") for row in edges.neighbours(item, rank_of(shop, USER), direction="in")
        ]

    def test_neighbours_can_be_padded_to_a_rectangle(self, pages: Graph) -> None:
        found = pages.sample_neighbors([LONELY, HUB], 3)
        assert found.counts.tolist() == [0, 3]
        assert found.padded().tolist() == [[-1, -1, -1], found.ids.tolist()]
        assert found.padded(fill=0, width=2).tolist() == [[0, 0], found.ids[:2].tolist()]

    @pytest.mark.parametrize(
        ("strategy", "replace"),
        [("uniform", False), ("uniform", True), ("weighted", False), ("weighted", True), ("top_k", False), ("last", False), ("all", False)],
    )
    def test_sampled_neighbours_are_neighbours(self, pages: Graph, links: PlainEdges, strategy: Any, replace: bool) -> None:
        rank = rank_of(pages, PAGE)
        seeds = [HUB, LONELY, *PAGES[20:60]]
        found = pages.sample_neighbors(seeds, 4, strategy=strategy, replace=replace, seed=3, edge_ids=True, weights=True)
        assert found.weights is not None
        assert links.weight
        assert links.time
        for place, node in enumerate(seeds):
            rows = links.neighbours(node, rank)
            nodes = found.ids[found.indptr[place] : found.indptr[place + 1]].tolist()
            if strategy in ("weighted",):
                rows = [row for row in rows if links.weight[row] > 0]
            if strategy == "all":
                assert nodes == [links.dst[row] for row in rows]
            elif replace:
                assert len(nodes) == (4 if rows else 0)
            else:
                assert len(nodes) == min(4, len(rows))
                assert not Counter(nodes) - Counter(links.dst[row] for row in rows)
            if strategy == "last":
                assert nodes == [links.dst[row] for row in rows[-4:]]
            if strategy == "top_k":
                heaviest = sorted(range(len(rows)), key=lambda at: (-links.weight[rows[at]], at))[:4]  # type: ignore[index]
                assert nodes == [links.dst[rows[at]] for at in heaviest]
            assert set(nodes) <= {links.dst[row] for row in rows}

    # -- edges ------------------------------------------------------------------------------------------------------------------------

    def test_edges_are_found_by_their_ends(self, pages: Graph, shop: Graph, links: PlainEdges) -> None:
        there = list(zip(links.src[:50], links.dst[:50], strict=True))
        known = set(zip(links.src, links.dst, strict=True))
        absent = [(src, dst) for src in PAGES[:10] for dst in PAGES[:10] if (src, dst) not in known][:30]
        src, dst = zip(*there, *absent, strict=True)
        assert pages.has_edges(src, dst).tolist() == [True] * 50 + [False] * len(absent)
        ids = pages.find_edges(src, dst)
        assert (ids[:50] >= 0).all()
        assert (ids[50:] == -1).all()
        assert shop.has_edges(["item-1"], ["#0"], TAGGED).shape == (1,)
        assert pages.has_edges([PAGES[0], UNKNOWN], [UNKNOWN, PAGES[0]], on_unknown="pad").tolist() == [False, False]
        with pytest.raises(InputError, match="src has 2 ids and dst 1"):
            pages.has_edges(PAGES[:2], PAGES[:1])

    def test_edge_features_by_ends_and_by_id(self, pages: Graph, links: PlainEdges) -> None:
        seen = Counter(zip(links.src, links.dst, strict=True))
        rows = [row for row in range(2600) if seen[links.src[row], links.dst[row]] == 1][:60]
        src, dst = [links.src[row] for row in rows], [links.dst[row] for row in rows]
        for direction in ("out", "in"):
            found = pages.edge_features(src, dst, ["kind", "note"], direction=direction)
            assert _array(found["kind"]).tolist() == [row % 5 for row in rows]
            assert _array(found["kind"]).dtype == np.int32
            assert list(_bytes(found["note"])) == [f"edge {row}".encode() for row in rows]
            ids = pages.find_edges(src, dst, direction=direction)
            assert same(pages.edge_features_by_id(ids, ["kind", "note"], direction=direction), found)
        with pytest.raises(InputError, match=f"no edge from {LONELY} to {HUB} of type 'page/links/page'"):
            pages.edge_features([LONELY], [HUB], ["kind"])
        padded = pages.edge_features([LONELY, src[0]], [HUB, dst[0]], ["kind", "note"], on_unknown="pad")
        assert _array(padded["kind"]).tolist() == [0, rows[0] % 5]
        assert list(_bytes(padded["note"])) == [b"", f"edge {rows[0]}".encode()]
        with pytest.raises(InputError, match=r"edge id 2600 at position 1.*has 2600"):
            pages.edge_features_by_id([0, 2600], ["kind"])

    # -- features ---------------------------------------------------------------------------------------------------------------------

    def test_features_of_every_kind(self, pages: Graph) -> None:
        rows = [5, 0, 299, 5, 12, 7]
        found, present = pages.features_and_masks([PAGES[row] for row in rows], ["x", "half", "label", "maybe", "words", "text"])
        assert np.array_equal(_array(found["x"]), np.arange(2400, dtype=np.float32).reshape(300, 8)[rows])
        assert _array(found["half"]).dtype == np.float16
        assert _array(found["half"]).tolist() == [[row, -row] for row in rows]
        assert _array(found["label"]).tolist() == rows
        assert _array(found["maybe"]).tolist() == [0.0 if row % 4 == 0 else row for row in rows]
        assert list(present) == ["maybe"]
        assert present["maybe"].tolist() == [row % 4 != 0 for row in rows]
        words = found["words"]
        assert isinstance(words, SparseColumn)
        assert words.shape == (6, 50)
        dense = np.zeros((6, 50), np.float32)
        for place, row in enumerate(rows):
            for k in range(row % 4):
                dense[place, (row * 7 + k) % 50] = row + k
        assert np.array_equal(words.to_dense(), dense)
        assert _bytes(found["text"]).tolist() == [(f"page {row} é" * (row % 3)).encode() for row in rows]

    def test_features_of_nodes_that_do_not_exist_are_absent(self, pages: Graph) -> None:
        with pytest.raises(NodeIdError, match=f"{UNKNOWN}"):
            pages.features([PAGES[1], UNKNOWN], ["x"])
        found, present = pages.features_and_masks([UNKNOWN, PAGES[1], UNKNOWN], ["x", "words", "text"], on_unknown="pad")
        assert _array(found["x"]).tolist() == [[0.0] * 8, [float(8 + place) for place in range(8)], [0.0] * 8]
        assert all(mask.tolist() == [False, True, False] for mask in present.values())
        assert sorted(present) == ["text", "words", "x"]
        assert _bytes(found["text"]).tolist() == [b"", "page 1 é".encode(), b""]
        with pytest.raises(FeatureNotFoundError, match=r"'labl'.*did you mean 'label'"):
            pages.features([PAGES[1]], ["labl"])

    def test_features_bound_to_a_store_are_as_fresh_as_the_store(self, platform: Platform, shop: Graph) -> None:
        users = [1003, 1119, 1000]
        found, present = shop.features_and_masks(users, ["emb", "city", "age"], node_type=USER)
        assert _array(found["emb"]).tolist() == [[1003.0, 1.0, 2.0, 3.0], [0.0] * 4, [1000.0, 1.0, 2.0, 3.0]]
        assert _bytes(found["city"]).tolist() == [b"x", b"", b"x"]
        assert {name: mask.tolist() for name, mask in present.items()} == {"emb": [True, False, True], "city": [True, False, True]}
        sub = shop.sample(users, [3], node_type=USER, features={USER: ["emb", "age"], ITEM: ["x"]})
        assert np.array_equal(_array(sub.features[USER]["emb"])[: len(users)], _array(found["emb"]))
        rows = {"key": EMBEDDED_USERS, "vector": [[9.0] * 4 for _ in EMBEDDED_USERS], "city": ["y"] * 100}
        platform.store("embeddings").push(pa.table(rows, pa.schema([pa.field("key", pa.int64(), False), *STORE_ROWS])), progress=False)
        deadline = time.monotonic() + self.follows_within_s
        while _array(shop.features(users, ["emb"], node_type=USER)["emb"])[0, 0] != 9.0:
            assert time.monotonic() < deadline, "the store's new version does not show"
            time.sleep(0.01)

    # -- neighbourhoods ---------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("strategy", ["uniform", "weighted", "top_k", "last", "all", "labor"])
    @pytest.mark.parametrize("direction", ["out", "in"])
    def test_a_sample_is_a_subgraph_with_its_features(self, pages: Graph, links: PlainEdges, strategy: Any, direction: Any) -> None:
        seeds = [HUB, *PAGES[30:50], HUB, LONELY]
        sub = pages.sample(
            seeds, [4, 3], features=["x", "label", "words", "text", "maybe"], edge_features=["kind", "note"], strategy=strategy,
            direction=direction, seed=9, edge_weights=True, edge_times=True,
        )  # fmt: skip
        assert isinstance(sub, Subgraph)
        check_subgraph(sub, seeds, 2)
        label = _array(sub.features["label"])
        assert [PAGES[row] for row in label.tolist()] == sub.nodes.tolist()
        assert np.array_equal(_array(sub.features["x"]), np.arange(2400, dtype=np.float32).reshape(300, 8)[label])
        assert _bytes(sub.features["text"]).tolist() == [(f"page {row} é" * (row % 3)).encode() for row in label.tolist()]
        assert sub.present["maybe"].tolist() == [row % 4 != 0 for row in label.tolist()]
        rows = [int(note.split()[1]) for note in _bytes(sub.edge_features["note"])]
        src, dst = sub.nodes[sub.edge_index[0]].tolist(), sub.nodes[sub.edge_index[1]].tolist()
        assert [(links.src[row], links.dst[row]) for row in rows] == list(zip(src, dst, strict=True))
        assert sub.weights is not None
        assert sub.times is not None
        assert links.weight
        assert links.time
        assert sub.weights.tolist() == [links.weight[row] for row in rows]
        assert sub.times.tolist() == [links.time[row] for row in rows]
        assert _array(sub.edge_features["kind"]).tolist() == [row % 5 for row in rows]
        grown_from = sub.edge_index[0 if direction == "out" else 1]
        for hop in range(2):
            edges = slice(sub.edge_hop_offsets[hop], sub.edge_hop_offsets[hop + 1])
            first, end = sub.hop_offsets[hop], sub.hop_offsets[hop + 1]
            assert (np.diff(grown_from[edges]) >= 0).all()
            assert ((grown_from[edges] >= first) & (grown_from[edges] < end)).all()
            if strategy not in ("all", "labor"):
                assert np.bincount(grown_from[edges], minlength=1).max(initial=0) <= (4, 3)[hop]

    def test_the_first_hop_is_what_sample_neighbors_draws(self, pages: Graph) -> None:
        seeds = PAGES[60:100]
        sub, flat = pages.sample(seeds, [5], seed=21), pages.sample_neighbors(seeds, 5, seed=21)
        assert sub.nodes[sub.edge_index[1]].tolist() == flat.ids.tolist()
        assert np.bincount(sub.edge_index[0], minlength=len(seeds)).tolist() == flat.counts.tolist()

    def test_fan_out_zero_draws_nothing_and_minus_one_everything(self, pages: Graph, links: PlainEdges) -> None:
        nothing = pages.sample([HUB, HUB], [0], features=["label"])
        assert (nothing.nodes.tolist(), nothing.edge_index.shape, nothing.seed_index.tolist()) == ([HUB], (2, 0), [0, 0])
        assert nothing.hop_offsets.tolist() == [0, 1, 1]
        assert pages.sample([HUB], []).hop_offsets.tolist() == [0, 1]
        everything = pages.sample([HUB], [-1])
        assert everything.edge_count == len(links.rows_of[HUB])
        assert set(everything.nodes.tolist()) == {HUB} | {links.dst[row] for row in links.rows_of[HUB]}
        stopped = pages.sample([HUB], [0, 5])
        assert stopped.hop_offsets.tolist() == [0, 1, 1, 1]

    def test_no_seeds_give_an_empty_subgraph(self, pages: Graph, shop: Graph) -> None:
        sub = pages.sample([], [3, 2], features=["x", "words", "text"], edge_features=["kind"])
        assert (len(sub.nodes), sub.edge_index.shape, sub.hop_offsets.tolist()) == (0, (2, 0), [0, 0, 0, 0])
        assert _array(sub.features["x"]).shape == (0, 8)
        hetero = shop.sample([], [3], node_type=ITEM, features=["x"])
        assert hetero.nodes[ITEM].tolist() == []
        assert pages.neighbors([]).ids.tolist() == []
        assert pages.features([], ["x"])["x"].shape == (0, 8)  # type: ignore[union-attr]
        assert pages.random_walk([], 3).shape == (0, 4)
        assert pages.negatives([], 2).shape == (0, 2)
        assert pages.subgraph([], 1).node_count == 0

    def test_repeated_seeds_share_their_node(self, pages: Graph) -> None:
        sub = pages.sample([HUB, PAGES[9], HUB, PAGES[9]], [2])
        assert sub.seed_index.tolist() == [0, 1, 0, 1]
        assert same(sub.edge_index, pages.sample([HUB, PAGES[9]], [2]).edge_index)

    def test_all_nodes_at_once(self, pages: Graph, links: PlainEdges) -> None:
        sub = pages.sample(PAGES, [-1], edges=True)
        assert sub.nodes.tolist() == PAGES
        assert sub.edge_count == 2600
        assert Counter(zip(sub.nodes[sub.edge_index[0]].tolist(), sub.nodes[sub.edge_index[1]].tolist(), strict=True)) == Counter(
            zip(links.src, links.dst, strict=True)
        )
        many = pages.sample(PAGES * 40, [3], features=["x"])
        assert len(many.seed_index) == 12_000

    def test_edges_and_what_is_known_of_them_can_be_left_out(self, pages: Graph) -> None:
        whole = pages.sample([HUB], [3, 3], features=["x"], seed=2)
        bare = pages.sample([HUB], [3, 3], features=["x"], seed=2, edges=False)
        assert same(bare.nodes, whole.nodes)
        assert same(bare.features, whole.features)
        assert (bare.edge_index.shape, bare.edge_ids) == ((2, 0), None)
        light = pages.sample([HUB], [3, 3], seed=2, edge_ids=False)
        assert same(light.edge_index, whole.edge_index)
        assert (light.edge_ids, light.weights, light.times) == (None, None, None)

    def test_edge_ids_name_the_edges_again(self, pages: Graph) -> None:
        sub = pages.sample([HUB, *PAGES[80:90]], [4, 4], edge_features=["note"])
        assert sub.edge_ids is not None
        again = pages.edge_features_by_id(sub.edge_ids, ["note"])
        assert _bytes(again["note"]).tolist() == _bytes(sub.edge_features["note"]).tolist()

    # -- time -------------------------------------------------------------------------------------------------------------------------

    def test_nothing_after_as_of_is_seen_at_any_hop(self, pages: Graph) -> None:
        bound = EPOCH_US + 30 * DAY_US
        for as_of in (bound, datetime.fromtimestamp(bound / 1e6, UTC), np.datetime64(bound, "us")):
            sub = pages.sample(PAGES[:60], [-1, -1], as_of=as_of, edge_times=True)
            assert sub.times is not None
            assert len(sub.times)
            assert sub.times.max() <= bound
        before = pages.sample(PAGES, [-1], as_of=EPOCH_US - 1)
        assert before.edge_count == 0

    def test_seeds_with_their_own_moments_do_not_share_nodes(self, pages: Graph) -> None:
        seeds = [HUB, HUB, PAGES[40], HUB]
        as_of = [EPOCH_US + days * DAY_US for days in (80, 10, 80, 80)]
        sub = pages.sample(seeds, [6, 4], as_of=as_of, seed=4, edge_times=True, features=["label"])
        assert sub.as_of is not None
        assert sub.times is not None
        assert sub.seed_index.tolist() == [0, 1, 2, 0]
        assert sub.as_of[:3].tolist() == [as_of[0], as_of[1], as_of[2]]
        assert len(set(zip(sub.nodes.tolist(), sub.as_of.tolist(), strict=True))) == sub.node_count
        assert (sub.as_of[sub.edge_index[0]] == sub.as_of[sub.edge_index[1]]).all()
        assert (sub.times <= sub.as_of[sub.edge_index[0]]).all()
        assert [PAGES[row] for row in _array(sub.features["label"]).tolist()] == sub.nodes.tolist()
        alone = pages.sample([HUB], [6, 4], as_of=as_of[1], seed=4)
        mine = sub.nodes[sub.as_of == as_of[1]].tolist()
        assert mine == alone.nodes.tolist()
        one = pages.sample(seeds, [6, 4], as_of=[as_of[0]] * 4, seed=4)
        assert one.as_of is None
        assert same(one.nodes, pages.sample(seeds, [6, 4], as_of=as_of[0], seed=4).nodes)

    def test_as_of_needs_times_and_one_moment_a_seed(self, pages: Graph, plain: Graph) -> None:
        with pytest.raises(InputError, match="as_of needs edges with times, and 'n/to/n' have none"):
            plain.sample([1], [1], as_of=0)
        with pytest.raises(InputError, match=r"as_of has shape \(2,\) for 3 seeds"):
            pages.sample(PAGES[:3], [1], as_of=[0, 1])
        with pytest.raises(InputError, match="no time zone"):
            pages.sample(PAGES[:3], [1], as_of=datetime(2026, 1, 1))
        with pytest.raises(InputError, match="as_of"):
            pages.sample(PAGES[:3], [1], as_of=1.5)

    # -- several types ----------------------------------------------------------------------------------------------------------------

    def test_a_sample_over_several_types(self, shop: Graph) -> None:
        plain = _shop()[2]
        sub = shop.sample(USERS[:20], [{BOUGHT: 3, "follows": 2}, {TAGGED: 4, BOUGHT: 1}], node_type=USER, features=["x", "age"], seed=8)
        assert isinstance(sub, HeteroSubgraph)
        assert sub.seed_type == USER
        assert list(sub.nodes) == [USER, ITEM, TAG]
        assert list(sub.edge_index) == [BOUGHT, TAGGED, FOLLOWS]
        assert sorted(sub.features) == [ITEM, USER]
        assert sub.nodes[USER][:20].tolist() == USERS[:20]
        for key, index in sub.edge_index.items():
            src, dst = sub.nodes[key[0]][index[0]].tolist(), sub.nodes[key[2]][index[1]].tolist()
            assert not set(zip(src, dst, strict=True)) - set(zip(plain[key].src, plain[key].dst, strict=True))
            assert len(sub.edge_hop_offsets[key]) == 3
        for node_type, nodes in sub.nodes.items():
            assert len(set(nodes.tolist())) == len(nodes)
            assert (sub.hop_offsets[node_type][0], sub.hop_offsets[node_type][-1]) == (0, len(nodes))
        assert sub.edge_hop_offsets[TAGGED][1] == 0
        assert _array(sub.features[ITEM]["x"])[:, 0].tolist() == [ITEMS.index(item) for item in sub.nodes[ITEM].tolist()]
        assert _array(sub.features[USER]["age"]).tolist() == [USERS.index(user) % 90 for user in sub.nodes[USER].tolist()]

    def test_hops_go_against_the_edges_too(self, shop: Graph) -> None:
        edges = _shop()[2][BOUGHT]
        sub = shop.sample(ITEMS[:4], [{"bought": -1}], node_type=ITEM, direction="in")
        index = sub.edge_index[BOUGHT]
        found = Counter(zip(sub.nodes[USER][index[0]].tolist(), sub.nodes[ITEM][index[1]].tolist(), strict=True))
        assert found == Counter((edges.src[row], item) for item in ITEMS[:4] for row in edges.into[item])

    def test_edge_types_can_be_chosen(self, shop: Graph) -> None:
        sub = shop.sample(USERS[:3], [2, 2], node_type=USER, edge_types=["follows"])
        assert list(sub.edge_index) == [FOLLOWS]
        assert list(sub.nodes) == [USER]
        with pytest.raises(InputError, match="edge_types leaves out"):
            shop.sample(USERS[:3], [{"bought": 2}], node_type=USER, edge_types=["follows"])

    def test_types_that_are_not_said_are_asked_for(self, shop: Graph) -> None:
        with pytest.raises(InputError, match="several node types: 'user', 'item', 'tag'; say node_type="):
            shop.sample([1000], [1])
        with pytest.raises(InputError, match="say edge_type="):
            shop.neighbors([1000])
        with pytest.raises(InputError, match="node_type is 'item', and the edges asked for start at 'user'"):
            shop.neighbors(["item-1"], edge_type=BOUGHT, node_type=ITEM)
        with pytest.raises(EdgeTypeNotFoundError, match="did you mean 'user/bought/item'"):
            shop.neighbors([1000], edge_type="user/bought/itm")

    def test_a_direction_that_is_not_stored_is_refused(self, plain: Graph) -> None:
        with pytest.raises(InputError, match='directions="both"'):
            plain.sample([1], [1], direction="in")
        with pytest.raises(InputError, match='directions="both"'):
            plain.neighbors([1], direction="in")
        assert plain.sample([1], [1, 1]).nodes.tolist() == [1, 2, 3]

    # -- induced subgraphs and layers -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("direction", ["out", "in"])
    @pytest.mark.parametrize("hops", [0, 1])
    def test_an_induced_subgraph_has_every_edge_between_its_nodes(self, pages: Graph, links: PlainEdges, hops: int, direction: Any) -> None:
        seeds = PAGES[:30]
        sub = pages.subgraph(seeds, hops, direction=direction, features=["label"], edge_weights=True, edge_features=["note"])
        reached = set(seeds)
        for _ in range(hops):
            rows = links.rows_of if direction == "out" else links.into
            reached |= {links.other(row, direction) for node in set(reached) for row in rows[node]}
        assert set(sub.nodes.tolist()) == reached
        expected = [row for row in range(2600) if links.src[row] in reached and links.dst[row] in reached]
        assert sorted(int(note.split()[1]) for note in _bytes(sub.edge_features["note"])) == expected
        assert (np.diff(sub.edge_index[0 if direction == "out" else 1]) >= 0).all()
        assert sub.edge_hop_offsets.tolist() == [0, len(expected)]
        assert sub.weights is not None
        assert links.weight
        assert sorted(sub.weights.tolist()) == sorted(links.weight[row] for row in expected)
        timed = pages.subgraph(seeds, hops, direction=direction, as_of=EPOCH_US + 9 * DAY_US, edge_times=True)
        assert timed.times is not None
        assert timed.times.max(initial=0) <= EPOCH_US + 9 * DAY_US

    def test_an_induced_subgraph_of_several_types(self, shop: Graph) -> None:
        sub = shop.subgraph(USERS[:10], 2, node_type=USER)
        assert list(sub.edge_index) == [BOUGHT, TAGGED, FOLLOWS]
        plain = _shop()[2]
        for key, index in sub.edge_index.items():
            sources, targets = set(sub.nodes[key[0]].tolist()), set(sub.nodes[key[2]].tolist())
            expected = Counter(
                (src, dst) for src, dst in zip(plain[key].src, plain[key].dst, strict=True) if src in sources and dst in targets
            )
            assert expected == Counter(zip(sub.nodes[key[0]][index[0]].tolist(), sub.nodes[key[2]][index[1]].tolist(), strict=True))

    def test_layers_share_their_draws(self, pages: Graph) -> None:
        layered = [pages.layer_sample(PAGES, [4], seed=seed) for seed in range(10)]
        alone = [pages.sample(PAGES, [4], seed=seed) for seed in range(10)]
        assert sum(sub.edge_count for sub in layered) == pytest.approx(sum(sub.edge_count for sub in alone), rel=0.1)

    # -- walks, ranks, negatives, global draws ----------------------------------------------------------------------------------------

    def test_walks_go_along_edges(self, pages: Graph, links: PlainEdges) -> None:
        known = set(zip(links.src, links.dst, strict=True))
        starts = [HUB, LONELY, *PAGES[50:80], HUB]
        for walks in (
            pages.random_walk(starts, 6, seed=1),
            pages.random_walk(starts, 6, seed=1, weighted=True),
            pages.node2vec(starts, 6, 0.5, 2.0, seed=1),
        ):
            assert walks.shape == (len(starts), 7)
            assert walks[:, 0].tolist() == starts
            for row in walks.tolist():
                ended = row.index(-1) if -1 in row else 7
                assert all(node == -1 for node in row[ended:])
                assert all(step in known for step in pairwise(row[:ended]))
            assert walks[1].tolist() == [LONELY] + [-1] * 6
            assert walks[0].tolist() != walks[-1].tolist()
        assert pages.random_walk([HUB], 0).tolist() == [[HUB]]

    def test_walks_in_time_only_go_forward(self, pages: Graph, links: PlainEdges) -> None:
        bound = EPOCH_US + 50 * DAY_US
        walks = pages.random_walk(PAGES[50:80], 4, as_of=bound)
        early = {(links.src[row], links.dst[row]) for row in range(2600) if links.time and links.time[row] <= bound}
        for row in walks.tolist():
            assert all(step in early for step in pairwise(row) if -1 not in step)

    def test_a_metapath_walks_over_types(self, shop: Graph) -> None:
        plain = _shop()[2]
        walks = shop.random_walk(USERS[:30], 2, metapath=["bought", "tagged"], seed=2)
        bought, tagged = (set(zip(plain[key].src, plain[key].dst, strict=True)) for key in (BOUGHT, TAGGED))
        for user, item, tag in walks.tolist():
            assert item is None or (user, item) in bought
            assert tag is None or (item, tag) in tagged
        assert any(row[2] is not None for row in walks.tolist())
        assert np.array_equal(walks, shop.random_walk(USERS[:30], metapath=["bought", "tagged"], seed=2))
        unclear: dict[str, Any]
        for unclear, says in (
            ({"edge_type": "follows"}, "say the length"),
            ({"metapath": ["bought"], "edge_type": "bought"}, "not both"),
            ({"metapath": "bought"}, r"\['bought'\]"),
        ):
            with pytest.raises(InputError, match=says):
                shop.random_walk(USERS[:2], **unclear)
        with pytest.raises(InputError, match="metapath cannot go on after step 1"):
            shop.random_walk(USERS[:2], 2, metapath=["tagged", "bought"])
        with pytest.raises(InputError, match="restart needs a path within one node type"):
            shop.random_walk(USERS[:2], 2, metapath=["bought", "tagged"], restart=0.5)

    def test_walks_restart(self, pages: Graph) -> None:
        walks = pages.random_walk([HUB] * 50, 5, restart=1.0)
        assert (walks == HUB).all()

    def test_ppr_ranks_the_start_first(self, pages: Graph, links: PlainEdges) -> None:
        starts = [HUB, PAGES[60], LONELY]
        ranked = pages.ppr(starts, 10)
        assert ranked.counts[0] == 10
        for place, start in enumerate(starts):
            part = slice(ranked.indptr[place], ranked.indptr[place + 1])
            assert start in ranked.ids[part].tolist()
            assert (np.diff(ranked.scores[part]) <= 0).all()
        assert ranked.ids[ranked.indptr[2] :].tolist() == [LONELY]

    def test_nodes_are_drawn_from_all(self, pages: Graph, shop: Graph) -> None:
        drawn = pages.sample_nodes(300)
        assert sorted(drawn.tolist()) == PAGES
        assert len(set(pages.sample_nodes(100, seed=5).tolist())) == 100
        assert len(pages.sample_nodes(1000, replace=True)) == 1000
        weighted = pages.sample_nodes(270, weighted=True)
        assert {PAGES.index(page) % 10 for page in weighted.tolist()} == set(range(1, 10))
        assert set(shop.sample_nodes(20, ITEM).tolist()) <= set(ITEMS)
        with pytest.raises(InputError, match="301"):
            pages.sample_nodes(301)
        with pytest.raises(InputError, match="weight"):
            shop.sample_nodes(2, ITEM, weighted=True)

    def test_edges_are_drawn_from_all(self, pages: Graph, links: PlainEdges) -> None:
        known = set(zip(links.src, links.dst, strict=True))
        for drawn in (pages.sample_edges(100), pages.sample_edges(100, weighted=True), pages.sample_edges(3000, replace=True)):
            assert set(zip(drawn.src.tolist(), drawn.dst.tolist(), strict=True)) <= known
        everything = pages.sample_edges(2600, seed=1)
        assert sorted(everything.edge_ids.tolist()) == list(range(2600))
        back = pages.sample_edges(50, direction="in")
        assert set(zip(back.src.tolist(), back.dst.tolist(), strict=True)) <= known

    @pytest.mark.parametrize("distribution", ["uniform", "degree"])
    def test_negatives_are_no_neighbours(self, pages: Graph, links: PlainEdges, distribution: Any) -> None:
        known = set(zip(links.src, links.dst, strict=True))
        found = pages.negatives([HUB, *PAGES[50:80]], 6, distribution=distribution, seed=3)
        assert found.shape == (31, 6)
        assert not {(src, dst) for src, row in zip([HUB, *PAGES[50:80]], found.tolist(), strict=True) for dst in row} & known
        assert pages.negatives([HUB], 4, strict=False).shape == (1, 4)

    # -- unknown ids ------------------------------------------------------------------------------------------------------------------

    def test_unknown_ids_are_named(self, pages: Graph, shop: Graph) -> None:
        bad = [PAGES[0], UNKNOWN, PAGES[1], UNKNOWN + 1]
        asks: list[Callable[[], object]] = [
            lambda: pages.sample(bad, [1]),
            lambda: pages.subgraph(bad, 1),
            lambda: pages.sample_neighbors(bad, 1),
            lambda: pages.neighbor_counts(bad),
            lambda: pages.features(bad, ["x"]),
            lambda: pages.has_edges(bad, PAGES[:4]),
            lambda: pages.has_edges(PAGES[:4], bad),
            lambda: pages.random_walk(bad, 2),
            lambda: pages.node2vec(bad, 2),
            lambda: pages.ppr(bad, 3),
            lambda: pages.negatives(bad, 2),
        ]
        for ask in asks:
            with pytest.raises(NodeIdError, match=f"2 ids are not among the nodes of type 'page': {UNKNOWN}, {UNKNOWN + 1}") as caught:
                ask()
            assert (caught.value.node_type, caught.value.unknown, caught.value.count) == ("page", (UNKNOWN, UNKNOWN + 1), 2)
        with pytest.raises(NodeIdError, match="1 id is not among the nodes of type 'item': 'nothing'"):
            shop.sample(["item-1", "nothing"], [1], node_type=ITEM)

    def test_unknown_ids_can_be_padded(self, pages: Graph) -> None:
        seeds = [UNKNOWN, PAGES[40], UNKNOWN]
        sub = pages.sample(seeds, [2], on_unknown="pad", features=["label"], as_of=[EPOCH_US * 2] * 3)
        assert sub.seed_index.tolist() == [-1, 0, -1]
        assert same(sub.nodes, pages.sample([PAGES[40]], [2]).nodes)
        counts = pages.neighbor_counts(seeds, on_unknown="pad")
        assert counts.tolist() == [0, pages.neighbor_counts([PAGES[40]])[0], 0]
        assert pages.sample_neighbors(seeds, 1, on_unknown="pad").counts.tolist() == [0, 1, 0]
        assert (pages.random_walk(seeds, 3, on_unknown="pad")[[0, 2]] == -1).all()
        assert pages.ppr(seeds, 3, on_unknown="pad").counts.tolist() == [0, 3, 0]
        assert (pages.negatives(seeds, 3, on_unknown="pad")[[0, 2]] == -1).all()

    # -- arguments --------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"seeds": ["1"]}, KeyTypeError, r"of type long \(ids of nodes of type 'page', in seeds\), got '1' at position 0"),
            ({"seeds": [1.5]}, KeyTypeError, r"1.5 at position 0"),
            ({"seeds": [True]}, KeyTypeError, r"True at position 0"),
            ({"seeds": [1 << 63]}, KeyTypeError, "9223372036854775808 at position 0"),
            ({"seeds": [[1]]}, InputError, r"seeds has shape \(1, 1\)"),
            ({"fan_outs": 3}, InputError, "one entry for each hop"),
            ({"fan_outs": [-2]}, InputError, r"fan_outs\[0\].*not -2"),
            ({"fan_outs": [1.5]}, InputError, r"fan_outs\[0\].*not 1.5"),
            ({"fan_outs": [{"nothing": 1}]}, EdgeTypeNotFoundError, "'nothing'"),
            ({"features": ["y"]}, FeatureNotFoundError, "'y'"),
            ({"features": {"page": ["y"]}}, FeatureNotFoundError, "'y'"),
            ({"edge_features": ["y"]}, FeatureNotFoundError, "'y'"),
            ({"strategy": "best"}, InputError, "strategy is one of .*not 'best'"),
            ({"strategy": "top_k", "replace": True}, InputError, "replace=True"),
            ({"direction": "both"}, InputError, "direction is .*not 'both'"),
            ({"on_unknown": "skip"}, InputError, 'on_unknown is "error"'),
            ({"seed": 1.5}, InputError, "seed is a whole number"),
            ({"node_type": "pages"}, NodeTypeNotFoundError, "did you mean 'page'"),
        ],
    )
    def test_arguments_that_mean_nothing_are_refused(
        self, pages: Graph, arguments: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            pages.sample(**{"seeds": [PAGES[0]], "fan_outs": [1]} | arguments)

    def test_strategies_need_what_they_look_at(self, plain: Graph) -> None:
        for strategy, column in (("weighted", "weight"), ("top_k", "weight"), ("last", "time")):
            with pytest.raises(InputError, match=f"build the graph with a `{column}` column"):
                plain.sample([1], [1], strategy=strategy)  # type: ignore[arg-type]
            with pytest.raises(InputError, match=f"build the graph with a `{column}` column"):
                plain.sample_neighbors([1], 1, strategy=strategy)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="restart"):
            plain.random_walk([1], 1, restart=2)
        with pytest.raises(InputError, match="p is a finite number above 0"):
            plain.node2vec([1], 1, p=0)
        with pytest.raises(InputError, match="distribution"):
            plain.negatives([1], 1, distribution="even")  # type: ignore[arg-type]

    def test_strings_are_refused_where_they_cannot_be_ids(self, shop: Graph) -> None:
        with pytest.raises(InputError, match="seeds is 'item-1'; give a list of ids"):
            shop.sample("item-1", [1], node_type=ITEM)
        with pytest.raises(KeyTypeError, match=r"type string .*got 7 at position 1"):
            shop.sample(["item-1", 7], [1], node_type=ITEM)  # type: ignore[arg-type]

    def test_ids_may_be_of_any_integer_kind(self, pages: Graph) -> None:
        expected = pages.sample([0 * 1_000_003 - 50_000_000], [2])
        for kind in (np.int32, np.int64):
            assert same(pages.sample(np.array([-50_000_000], kind), [2]).edge_index, expected.edge_index)
        assert pages.contains(np.array([7, 1 << 63], np.uint64)[:1]).tolist() == [False]

    def test_a_deadline_that_has_passed_is_an_error(self, pages: Graph) -> None:
        with pytest.raises(DeadlineExceededError):
            pages.sample(PAGES, [5, 5], timeout_s=1e-9)

    # -- the same everywhere ------------------------------------------------------------------------------------------------------------

    def test_a_seed_gives_one_answer_and_another_seed_another(self, pages: Graph) -> None:
        one, again, other = (pages.sample(PAGES[:50], [3, 3], seed=seed) for seed in (1, 1, 2))
        assert same(one, again)
        assert not same(one.nodes, other.nodes)
        drawn = pages.sample(PAGES[:50], [3, 3], seed=None)
        assert same(drawn, pages.sample(PAGES[:50], [3, 3], seed=drawn.seed))
        assert pages.sample([HUB], [3], seed=-1).seed == (1 << 64) - 1

    @pytest.mark.parametrize("name", sorted(_QUESTIONS))
    def test_the_answer_is_the_one_in_process_to_the_last_bit(self, platform: Platform, pages: Graph, shop: Graph, name: str) -> None:
        which, ask = _QUESTIONS[name]
        with platform.graph(which) as embedded:
            expected = ask(embedded)
        assert same(ask(pages if which == "pages" else shop), expected)

    def test_threads_get_the_answers_that_one_thread_gets(self, pages: Graph) -> None:
        expected = [pages.sample(PAGES[:80], [4, 3], features=["x"], seed=seed) for seed in range(6)]
        wrong: list[str] = []

        def ask(first: int) -> None:
            try:
                for step in range(12):
                    seed = (first + step) % 6
                    if not same(pages.sample(PAGES[:80], [4, 3], features=["x"], seed=seed), expected[seed]):
                        wrong.append(f"seed {seed}")
            except Exception as error:  # the main thread says it
                wrong.append(repr(error))

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_it_pickles(self, pages: Graph) -> None:
        if not self.is_picklable:
            pytest.skip("this graph is made of parts that cannot be sent")
        with pickle.loads(pickle.dumps(pages)) as arrived:
            assert same(arrived.sample(PAGES[:9], [3], features=["x"]), pages.sample(PAGES[:9], [3], features=["x"]))

    def test_answers_stay_good_when_others_follow(self, pages: Graph) -> None:
        first = pages.sample(PAGES, [5, 5], features=["x"], seed=1)
        kept = np.array(_array(first.features["x"])), first.nodes.copy(), first.edge_index.copy()
        for seed in range(8):
            pages.sample(PAGES, [5, 5], features=["x"], seed=seed)
        assert same((_array(first.features["x"]), first.nodes, first.edge_index), kept)


def check_subgraph(sub: Subgraph, seeds: Sequence[Any], hops: int) -> None:
    """What holds for every subgraph."""
    nodes = sub.nodes.tolist()
    assert len(set(nodes)) == len(nodes)
    assert [nodes[place] for place in sub.seed_index] == list(seeds)
    assert sub.edge_index.dtype == np.int64
    assert sub.edge_index.flags.c_contiguous
    assert sub.hop_offsets.tolist() == sorted(sub.hop_offsets.tolist())
    assert (len(sub.hop_offsets), sub.hop_offsets[0], sub.hop_offsets[-1]) == (hops + 2, 0, len(nodes))
    assert (len(sub.edge_hop_offsets), sub.edge_hop_offsets[0], sub.edge_hop_offsets[-1]) == (hops + 1, 0, sub.edge_count)
    assert sub.edge_index.min(initial=0) >= 0
    assert sub.edge_index.max(initial=-1) < max(len(nodes), 1)


def _array(column: Any) -> np.ndarray[Any, Any]:
    assert isinstance(column, np.ndarray)
    return column


def _bytes(column: Any) -> BytesColumn:
    assert isinstance(column, BytesColumn)
    return column
