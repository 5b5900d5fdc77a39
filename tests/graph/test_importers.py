"""Graphs of NetworkX, PyG and DeepGNN come in with their nodes, edges, weights, times and features."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch

from fondaco.core.errors import GraphBuildError, InputError
from fondaco.graph.build.convert_deepgnn import EdgeListFormat, from_deepgnn
from fondaco.graph.build.importers import from_networkx, from_pyg
from fondaco.graph.sections import open_sections
from graph.test_build import Built, build_in

with warnings.catch_warnings():  # PyG uses what torch 2.13 deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.data import Data, HeteroData

TO = ("node", "to", "node")


def _rows(graph: Built, feature: str, node_type: str = "node") -> dict[Any, Any]:
    return dict(zip(graph.ids(node_type), graph.feature(feature), strict=True))


# -- NetworkX ----------------------------------------------------------------------------------------------------------------------------


def test_an_undirected_networkx_graph_is_built_with_its_mirrors(tmp_path: Path) -> None:
    karate = networkx.karate_club_graph()
    graph = build_in(tmp_path / "g", **from_networkx(karate), partitions=2)
    lists = graph.lists(TO, sections=("indices", "weights"))
    assert {node: sorted(row) for node, row in lists.items()} == {
        node: sorted((other, float(karate[node][other]["weight"])) for other in karate[node]) for node in karate
    }
    clubs = [open_sections(file) for file in sorted((tmp_path / "g").glob("feature-00-*"))]
    assert b"".join(bytes(file["data"]) for file in clubs).count(b"Mr. Hi") == 17


def test_a_networkx_multigraph_keeps_parallel_edges_attributes_and_lonely_nodes(tmp_path: Path) -> None:
    source: Any = networkx.MultiDiGraph()
    source.add_node("lonely", age=3)
    source.add_edge("a", "b", time=5, src="x", kind=1)
    source.add_edge("a", "b", time=4, src="y", kind=2)
    graph = build_in(tmp_path / "g", **from_networkx(source, edge_features=["kind"]))
    assert graph.lists(TO, sections=("indices", "times")) == {"a": [("b", 4), ("b", 5)], "b": [], "lonely": []}
    assert graph.feature("kind") == [2, 1]
    assert _rows(graph, "age")["lonely"] == 3
    assert dict(zip(graph.ids("node"), graph.feature("age", "present"), strict=True)) == {"a": 0, "b": 0, "lonely": 1}
    assert [f.name for f in build_in(tmp_path / "h", **from_networkx(source)).schema.edges[0].features] == ["src", "kind"]


def test_networkx_nodes_that_are_no_ids_are_refused() -> None:
    with pytest.raises(InputError, match="relabel"):
        from_networkx(networkx.grid_2d_graph(2, 2))
    with pytest.raises(InputError, match="no NetworkX graph"):
        from_networkx([(1, 2)])


# -- PyG ---------------------------------------------------------------------------------------------------------------------------------


def test_pyg_data_comes_with_its_features_labels_masks_and_weights(tmp_path: Path) -> None:
    data = Data(
        x=torch.arange(8.0).reshape(4, 2),
        y=torch.tensor([3, 1, 2, 0]),
        train_mask=torch.tensor([True, False, True, False]),
        edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]),
        edge_weight=torch.tensor([0.5, 1.5, 2.5]),
        edge_attr=torch.tensor([[1], [2], [3]], dtype=torch.int8),
    )
    graph = build_in(tmp_path / "g", **from_pyg(data), partitions=2)
    assert graph.lists(TO, sections=("indices", "weights")) == {0: [(1, 0.5)], 1: [(2, 1.5)], 2: [(0, 2.5)], 3: []}
    assert _rows(graph, "x") == {i: [2 * i, 2 * i + 1] for i in range(4)}
    assert _rows(graph, "y") == {0: 3, 1: 1, 2: 2, 3: 0}
    assert _rows(graph, "train_mask") == {0: True, 1: False, 2: True, 3: False}
    assert sorted(map(tuple, graph.feature("edge_attr"))) == [(1,), (2,), (3,)]


def test_pyg_data_of_which_nobody_knows_the_nodes_is_refused() -> None:
    with pytest.raises(InputError, match="how many nodes 'node' has; set num_nodes"):
        from_pyg(Data())


def test_pyg_heterodata_comes_with_its_types(tmp_path: Path) -> None:
    data = HeteroData()
    data["author"].x = torch.ones(3, 4)
    data["paper"].num_nodes = 2
    data["author", "writes", "paper"].edge_index = torch.tensor([[0, 2], [1, 0]])
    data["author", "writes", "paper"].time = torch.tensor([5, 6])
    graph = build_in(tmp_path / "g", **from_pyg(data), directions="both")
    writes = ("author", "writes", "paper")
    assert graph.lists(writes, sections=("indices", "times")) == {0: [(1, 5)], 1: [], 2: [(0, 6)]}
    assert graph.lists(writes, "in") == {0: [2], 1: [0]}
    with pytest.raises(InputError, match="no PyG data"):
        from_pyg({"x": 1})


# -- DeepGNN ----------------------------------------------------------------------------------------------------------------------------

EDGE_LIST = """\
0,-1,1,.5,int32,3,1,1,1,float32,2,1.1,1.1,binary,1,a\\,b
0,0,1,.5,uint8,3/0,0,4,10,1,2,3
1,-1,1,.25,int32,3,1,2,3,float32,0,binary,1,
1,0,0,.5,uint8,1/0,7,9
1,1,5,2

5,-1,0,1
"""


def test_an_edge_list_of_deepgnn_becomes_tables(tmp_path: Path) -> None:
    (tmp_path / "graph.csv").write_text(EDGE_LIST)
    graph = build_in(tmp_path / "g", **from_deepgnn(tmp_path / "graph.csv", tmp_path / "tables"))
    assert [node.name for node in graph.schema.nodes] == ["node_0", "node_1"]
    same = ("node_1", "edge_0", "node_1")
    assert graph.lists(same, sections=("indices", "weights")) == {0: [(1, 0.5)], 1: [(0, 0.5)]}
    assert graph.lists(("node_1", "edge_1", "node_0"), sections=("indices", "weights")) == {0: [], 1: [(5, 2.0)]}
    order = graph.ids("node_1")
    assert graph.feature("feature_0")  # of node_1: int32 [3]
    node_1 = graph.schema.node("node_1")
    assert [(f.kind, f.dtype, f.shape) for f in node_1.features] == [
        ("dense", "int32", (3,)), ("dense", "float32", (2,)), ("bytes", "", ()),
    ]  # fmt: skip
    assert dict(zip(order, graph.feature("feature_1", "present"), strict=True)) == {0: 1, 1: 0}
    assert graph.joined(lambda *_: "nodes-01-00000.fgs", 0, "weights") == [0.5 if i == 0 else 0.25 for i in order]
    assert graph.schema.edge(same).features[0].kind == "sparse"
    assert graph.schema.edge(same).features[0].shape == (11,)
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == [
        "node_0.parquet", "node_1-edge_0-node_1.parquet", "node_1-edge_1-node_0.parquet", "node_1.parquet",
    ]  # fmt: skip


def test_what_an_edge_list_leaves_out_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "graph.csv").write_text("0;-1;100;1;2\n0;1;200;3;4\n1;-1;300;5;6\n")
    given = EdgeListFormat(
        default_node_type=0,
        default_edge_type=2,
        default_node_weight=1.0,
        default_edge_weight=0.5,
        default_node_feature_types=["float16"],
        default_node_feature_lens=[[2]],
        default_edge_feature_types=["int64"],
        default_edge_feature_lens=[[2]],
        delimiter=";",
        is_temporal=True,
        default_removed_at=-1,
    )
    tables = from_deepgnn(tmp_path / "graph.csv", tmp_path / "tables", edge_list=given, time_unit="ms")
    graph = build_in(tmp_path / "g", **tables)
    key = ("node_0", "edge_2", "node_0")
    assert graph.lists(key, sections=("indices", "times", "weights")) == {0: [(1, 200_000, 0.5)], 1: []}
    assert dict(zip(graph.ids("node_0"), graph.joined(lambda *_: "feature-00-00000.fgs", 0, "values"), strict=True)) == {
        0: [1, 2],
        1: [5, 6],
    }


JSON = (
    '{"node_id": 0, "node_type": 1, "node_weight": 1, "float_feature": {"0": [1], "1": [-0.5, 2]}, "binary_feature": {"2": "hi"}, '
    '"edge": [{"src_id": 0, "dst_id": 5, "edge_type": 1, "weight": 3, "uint64_feature": {"0": [7]}, '
    '"sparse_double_feature": {"1": {"coordinates": [2], "values": [0.5]}}}]}\n'
    '{"node_id": 5, "node_type": 1, "node_weight": 1, "float_feature": {"0": [2]}, "edge": []}\n'
)


def test_json_of_deepgnn_becomes_tables(tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(JSON)
    graph = build_in(tmp_path / "g", **from_deepgnn([tmp_path / "graph.json"], tmp_path / "tables"))
    assert graph.lists(("node_1", "edge_1", "node_1"), sections=("indices", "weights")) == {0: [(5, 3.0)], 5: []}
    assert [(f.name, f.kind, f.dtype) for f in graph.schema.nodes[0].features] == [
        ("feature_0", "dense", "float32"), ("feature_1", "dense", "float32"), ("feature_2", "bytes", ""),
    ]  # fmt: skip
    assert [(f.name, f.kind, f.dtype) for f in graph.schema.edges[0].features] == [
        ("feature_0", "dense", "uint64"), ("feature_1", "sparse", "float64"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("0,-1,0,1\n0,0,9,1\n", 1, "no line for node 9"),
        ("0,-1,0,1\nx,0,9,1\n", 1, "invalid literal"),
        ("0,-1,0\n", 0, "ends early"),
        ("0,-1,0,1,float32,3,1,2\n", 0, "1 values too early"),
        ("0,-1,0,1,float32,1,1\n1,-1,0,1,int32,1,1\n", 1, "feature 0 is dense int32, and was dense float32"),
        ("0,-1,0,1,uint8,1/2,1,1,1\n", 0, "2 coordinates"),
    ],
)
def test_a_line_of_deepgnn_that_cannot_be_taken_is_named(tmp_path: Path, text: str, line: int, reason: str) -> None:
    (tmp_path / "graph.csv").write_text(text)
    with pytest.raises(GraphBuildError, match=reason) as caught:
        from_deepgnn(tmp_path / "graph.csv", tmp_path / "tables")
    assert (caught.value.table, caught.value.row) == (str(tmp_path / "graph.csv"), line)
    assert not list((tmp_path / "tables").iterdir())


@pytest.mark.parametrize("text", ["[1, 2]", "7", '{"node_id": 0, "node_type": 0, "node_weight": 1, "edge": [3]}', '{"node_id": 0,'])
def test_json_of_deepgnn_that_is_no_node_is_refused_with_the_row(tmp_path: Path, text: str) -> None:
    good = '{"node_id": 0, "node_type": 0, "node_weight": 1}'
    (tmp_path / "graph.json").write_text(f"{good}\n{text}\n")
    with pytest.raises(GraphBuildError, match=r"graph.json, row 1: (a line is one JSON object|Expecting)"):
        from_deepgnn(tmp_path / "graph.json", tmp_path / "tables")


def test_nodes_that_no_line_declares_can_be_a_type(tmp_path: Path) -> None:
    (tmp_path / "graph.csv").write_text("0,-1,0,1\n0,0,9,1\n0,0,0,2\n")
    graph = build_in(tmp_path / "g", **from_deepgnn(tmp_path / "graph.csv", tmp_path / "tables", missing="other"))
    assert graph.ids("other") == [9]
    assert graph.lists(("node_0", "edge_0", "other")) == {0: [9]}
    assert graph.lists(("node_0", "edge_0", "node_0")) == {0: [0]}


def test_removed_at_and_folders_that_are_full_are_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.csv").write_text("0,-1,0,1,5,9\n")
    with pytest.raises(GraphBuildError, match="removed_at=9"):
        from_deepgnn(tmp_path / "graph.csv", tmp_path / "a", edge_list=EdgeListFormat(is_temporal=True))
    (tmp_path / "x.parquet").touch()
    with pytest.raises(InputError, match="folder of its own"):
        from_deepgnn(tmp_path / "graph.csv", tmp_path)
    with pytest.raises(InputError, match="no file"):
        from_deepgnn(tmp_path / "none.csv", tmp_path / "b")


def test_a_long_edge_list_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fondaco.graph.build.convert_deepgnn.LINES_PER_BATCH", 100)
    rng = np.random.default_rng(2)
    edges = sorted({(int(a), int(b)) for a, b in rng.integers(0, 300, (900, 2))})
    lines = [f"{i},-1,{i % 2},1,float32,1,{i}" if i % 3 else f"{i},-1,{i % 2},1" for i in range(300)]
    (tmp_path / "graph.csv").write_text("\n".join([*lines[150:], *(f"{a},0,{b},1" for a, b in edges), *lines[:150]]))
    graph = build_in(tmp_path / "g", **from_deepgnn(tmp_path / "graph.csv", tmp_path / "tables"), partitions=2)
    found = [(a, b) for edge in graph.schema.edges for a, row in graph.lists(edge.key).items() for b in row]
    assert sorted(found) == edges
