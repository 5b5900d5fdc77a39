from __future__ import annotations

import re

import msgspec
import pytest

from fondaco.core.errors import EdgeTypeNotFoundError, FeatureNotFoundError, InputError, NodeTypeNotFoundError
from fondaco.graph.schema import EdgeType, Feature, GraphSchema, NodeType, check_schema

SCHEMA = GraphSchema(
    (NodeType("user", features=(Feature("x", "dense", "float32", (8,)), Feature("emb", "store", store="s", field="v"))), NodeType("page")),
    (
        EdgeType("user", "likes", "page", directions=("out", "in"), features=(Feature("stars", "dense", "int8"),)),
        EdgeType("user", "knows", "user", directions=("in",)),
        EdgeType("page", "likes", "page"),
    ),
)


def test_a_schema_survives_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(SCHEMA), type=GraphSchema) == SCHEMA


def test_adjacencies_are_numbered_by_edge_type_then_direction() -> None:
    found = [(a.number, a.edge.name, a.direction, a.from_type, a.to_type) for a in SCHEMA.adjacencies()]
    assert found == [
        (0, "user/likes/page", "out", 0, 1),
        (1, "user/likes/page", "in", 1, 0),
        (2, "user/knows/user", "in", 0, 0),
        (3, "page/likes/page", "out", 1, 1),
    ]


def test_feature_files_are_numbered_nodes_first_and_skip_those_of_stores() -> None:
    found = [(f.number, f.of, f.owner, f.feature.name) for f in SCHEMA.feature_files()]
    assert found == [(0, "nodes", 0, "x"), (1, "edges", 0, "stars"), (2, "edges", 1, "stars")]


@pytest.mark.parametrize("key", [("user", "knows", "user"), "user/knows/user", "knows", SCHEMA.edges[1], ["user", "knows", "user"]])
def test_an_edge_type_is_found_by_key_text_and_single_relation(key: object) -> None:
    assert SCHEMA.edge(key) is SCHEMA.edges[1]  # type: ignore[arg-type]


def test_what_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(NodeTypeNotFoundError, match=r"no node type 'usr'; did you mean 'user'"):
        SCHEMA.node("usr")
    with pytest.raises(EdgeTypeNotFoundError, match=r"no edge type 'user/like/page'; did you mean 'user/likes/page'"):
        SCHEMA.edge("user/like/page")
    with pytest.raises(InputError, match=r"several edge types have the relation 'likes': 'user/likes/page', 'page/likes/page'"):
        SCHEMA.edge("likes")
    with pytest.raises(FeatureNotFoundError, match="no feature 'y' in node type 'user'"):
        SCHEMA.node("user").feature("y")


def test_a_direction_that_is_not_stored_says_how_to_store_it() -> None:
    assert SCHEMA.adjacency("knows", "in").number == 2
    with pytest.raises(InputError, match=r'not stored in direction "out"; build the graph with directions="both"'):
        SCHEMA.adjacency("knows", "out")
    with pytest.raises(InputError, match="not 'up'"):
        SCHEMA.adjacency("knows", "up")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (GraphSchema((), ()), "at least one node type"),
        (GraphSchema((NodeType("a"), NodeType("a")), ()), "2 node types called 'a'"),
        (GraphSchema((NodeType("a/b"),), ()), "'a/b' cannot name a node type"),
        (GraphSchema((NodeType(""),), ()), "'' cannot name a node type"),
        (GraphSchema((NodeType("a", "uuid"),), ()), "not 'uuid'"),  # type: ignore[arg-type]
        (GraphSchema((NodeType("a"),), (EdgeType("a", "r", "a"),) * 2), "2 edge types called 'a/r/a'"),
        (GraphSchema((NodeType("a"),), (EdgeType("a", "r", "a", directions=()),)), 'direction "out", "in" or both'),
        (GraphSchema((NodeType("a", features=(Feature("x", "dense", "complex64"),)),), ()), "not 'complex64'"),
        (GraphSchema((NodeType("a", features=(Feature("x", "dense", "int8", (0,)),)),), ()), "cannot have the shape (0,)"),
        (GraphSchema((NodeType("a", features=(Feature("x", "sparse", "int8", ()),)),), ()), "cannot have the shape ()"),
        (GraphSchema((NodeType("a", features=(Feature("x", "store"),)),), ()), "say store= and field="),
        (GraphSchema((NodeType("a", features=(Feature("x", "dense", "int8"),) * 2),), ()), "called 'x'"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(schema: GraphSchema, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_schema(schema)


def test_edges_between_types_that_are_not_there_are_refused() -> None:
    with pytest.raises(NodeTypeNotFoundError, match="no node type 'b'"):
        check_schema(GraphSchema((NodeType("a"),), (EdgeType("a", "r", "b"),)))
    assert check_schema(SCHEMA) is SCHEMA
