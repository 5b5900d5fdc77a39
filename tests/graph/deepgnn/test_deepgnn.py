"""DeepGNN's client over a graph: shapes, dtypes and values as deepgnn-ge 0.1.66 gives them, written down from a run on the same graph.

The graph is that of DeepGNN's own tests, nearly: nodes 9 and 7 of type 0, 0 and 5 of type 1; edges of types 0 and 1 with weights.
"""

import json
import pickle
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.errors import InputError, NodeIdError
from fondaco.graph.build.convert_deepgnn import from_deepgnn
from fondaco.graph.deepgnn import (
    Client,
    DeepGNNDataset,
    DistributedClient,
    EdgeSampler,
    FileEdgeSampler,
    FileNodeSampler,
    GEEdgeSampler,
    GENodeSampler,
    MemoryGraph,
    NodeSampler,
    Numbering,
    RangeNodeSampler,
    SamplingStrategy,
    graph_ops,
    multihop,
)

BOTH = np.array([0, 1])
NODES = np.array([9, 0, 7, 42])  # 42 is none


def rows(values, dimension):
    return pa.array(values, pa.list_(pa.float32(), dimension))


def edges(table):
    src, dst, weight, feature = zip(*table, strict=True)
    return pa.table({"src": src, "dst": dst, "weight": pa.array(weight, pa.float32()), "feature_1": rows(feature, 2)})


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    where = tmp_path_factory.mktemp("platform")
    sparse = pa.array(
        [[{"index": 3, "value": 1.5}, {"index": 7, "value": 2.5}], []],
        pa.list_(pa.struct([("index", pa.int64()), ("value", pa.float32())])),
    )
    with fd.open(where) as platform:
        platform.build_graph(
            "small",
            nodes={
                "0": pa.table({
                    "id": [9, 7], "weight": pa.array([1.0, 1.0], pa.float32()), "feature_0": rows([[-0.01, -0.02], [7.0, 8.0]], 2),
                    "feature_1": rows([[-0.03, -0.04, 1.5], None], 3), "feature_2": pa.array([b"abcd", b"xy"]),
                    "feature_3": sparse,
                }),
                "1": pa.table({"id": [0, 5], "weight": pa.array([3.0, 1.0], pa.float32()), "feature_0": rows([[0.1, 0.2], [1.0, 2.0]], 2)}),
            },
            edges={
                ("0", "0", "1"): edges([(9, 0, 0.5, [3, 4])]),
                ("0", "1", "1"): edges([(9, 5, 2.0, [5, 6])]),
                ("0", "1", "0"): edges([(9, 7, 1.0, None)]),
                ("1", "0", "1"): edges([(0, 5, 1.0, None)]),
                ("1", "1", "0"): edges([(5, 9, 1.0, None)]),
            },
            partitions=3,
            progress=False,
        )  # fmt: skip
        src = np.repeat(0, 12)
        weights = np.arange(1, 13, dtype=np.float32)
        times = pa.array(np.arange(12) * 10, pa.timestamp("us", "UTC"))
        platform.build_graph(
            "star",
            nodes={"n": pa.table({"id": np.arange(13)})},
            edges={("n", "e", "n"): pa.table({"src": src, "dst": np.arange(1, 13), "weight": weights, "time": times})},
            progress=False,
        )
    return where


@pytest.fixture(scope="module")
def padding(directory):
    """A client that fills what is unknown, as DeepGNN does."""
    client = Client(str(directory), [0], graph="small", on_unknown="pad")
    yield client
    client.reset()


@pytest.fixture(scope="module")
def strict(directory):
    client = Client(str(directory / "graphs" / "small"), [0])
    yield client
    client.reset()


@pytest.fixture(scope="module")
def star(directory):
    client = Client(directory, graph="star", time_unit="us")
    yield client
    client.reset()


def check(found, *expected):
    assert len(found) == len(expected)
    for array, (dtype, values) in zip(found, expected, strict=True):
        assert array.dtype == dtype
        assert array.shape == np.shape(values)
        np.testing.assert_allclose(array, values, rtol=1e-6)


def test_neighbors_counts_and_types(padding):
    check(
        padding.neighbors(NODES, BOTH),
        (np.int64, [0, 5, 7, 5]), (np.float32, [0.5, 2, 1, 1]), (np.int32, [0, 1, 1, 0]), (np.uint64, [3, 1, 0, 0]),
    )  # fmt: skip
    check(padding.neighbors(NODES, 1), (np.int64, [5, 7]), (np.float32, [2, 1]), (np.int32, [1, 1]), (np.uint64, [2, 0, 0, 0]))
    none = padding.neighbors(NODES, -1)
    assert [len(array) for array in none] == [0, 0, 0, 4]
    check([padding.neighbor_count(NODES, BOTH)], (np.uint64, [3, 1, 0, 0]))
    check([padding.node_types(NODES)], (np.int32, [0, 1, 0, -1]))
    assert [padding.node_count(types) for types in (0, 1, -1, 9, BOTH)] == [2, 2, 0, 0, 4]
    assert [padding.edge_count(types) for types in (0, 1, -1)] == [2, 3, 0]


def test_dense_features(padding):
    wanted = np.array([[0, 2], [1, 3]])
    values = [[-0.01, -0.02, -0.03, -0.04, 1.5], [0.1, 0.2, 0, 0, 0], [7, 8, 0, 0, 0], [0, 0, 0, 0, 0]]
    check([padding.node_features(NODES, wanted, np.float32)], (np.float32, values))
    wide = [[-0.01, -0.02, 0], [0.1, 0.2, 0], [7, 8, 0], [0, 0, 0]]
    check([padding.node_features(NODES, np.array([[0, 3]]), np.float32)], (np.float32, wide))
    ends = np.array([[9, 0, 0], [9, 5, 1], [9, 7, 1], [1, 2, 3]])
    check([padding.edge_features(ends, np.array([[1, 2]]), np.float32)], (np.float32, [[3, 4], [5, 6], [0, 0], [0, 0]]))


def test_sparse_and_string_features(padding):
    graph = padding.graph
    (coordinates,), (values,), dimensions = graph.node_sparse_features(np.array([7, 9, 9]), np.array([3]), np.float32)
    assert coordinates.tolist() == [[1, 3], [1, 7], [2, 3], [2, 7]]
    assert values.tolist() == [1.5, 2.5, 1.5, 2.5]
    assert dimensions.tolist() == [1]
    letters, sizes = graph.node_string_features(np.array([9, 0, 7]), np.array([2]), np.uint8)
    assert letters.tobytes() == b"abcdxy"
    assert sizes.tolist() == [[4], [0], [2]]


def test_draws_have_the_shapes_and_padding_of_deepgnn(padding):
    shape = (4, 4)
    for strategy in ("byweight", "random", "randomwithoutreplacement"):
        ids, weights, types, times = padding.sample_neighbors(NODES, BOTH, 4, strategy)
        assert [array.shape for array in (ids, weights, types, times)] == [shape] * 4
        assert [array.dtype for array in (ids, weights, types, times)] == [np.int64, np.float32, np.int32, np.int64]
        assert (times == -1).all()
        assert (ids[2:] == -1).all() and (weights[2:] == 0).all() and (types[2:] == -1).all()  # noqa: PT018
        if strategy != "randomwithoutreplacement":
            assert (ids[1] == 5).all() and set(ids[0].tolist()) <= {0, 5, 7}  # noqa: PT018
            kinds = {0: (0, 0.5), 5: (1, 2.0), 7: (1, 1.0)}
            assert [(kind, weight) for kind, weight in zip(types[0].tolist(), weights[0].tolist(), strict=True)] == [
                kinds[each] for each in ids[0].tolist()
            ]
    ids, weights, types, _ = padding.sample_neighbors(NODES, BOTH, 4, "randomwithoutreplacement")
    assert ids.tolist() == [[0, 5, 7, -1], [5, -1, -1, -1], [-1] * 4, [-1] * 4]
    assert types.tolist() == [[0, 1, 1, -1], [0, -1, -1, -1], [-1] * 4, [-1] * 4]
    ids, weights, types, _ = padding.sample_neighbors(
        np.array([7]), 0, 2, "byweight", default_node=3, default_weight=0.25, default_edge_type=8
    )
    assert (ids.tolist(), weights.tolist(), types.tolist()) == ([[3, 3]], [[0.25, 0.25]], [[8, 8]])


@pytest.mark.parametrize("strategy", ["byweight", "random", "randomwithoutreplacement"])
def test_draws_over_several_edge_types_are_exact(padding, strategy):
    """4000 draws of two neighbours of node 9; chi-squared below 13.8 (2 degrees of freedom, p = 0.001)."""
    weight = {0: 0.5, 5: 2.0, 7: 1.0} if strategy == "byweight" else dict.fromkeys((0, 5, 7), 1.0)
    found = Counter()
    for seed in range(4000):
        random.seed(seed)
        ids = padding.sample_neighbors(np.array([9]), BOTH, 2, strategy)[0][0].tolist()
        found.update(ids)
        assert strategy != "randomwithoutreplacement" or len(set(ids)) == 2
    total = sum(weight.values())
    expected = {node: 8000 * share / total for node, share in weight.items()}
    assert sum((found[node] - count) ** 2 / count for node, count in expected.items()) < 13.8


def test_personalised_pagerank_agrees_best_first(padding):
    ids, scores, types, times = padding.sample_neighbors(np.array([9, 0]), BOTH, 4, "ppr-go", alpha=0.15, eps=1e-6)
    expected = [{7: 0.07665, 0: 0.07665, 5: 0.14180, 9: 0.27053}, {7: 0.05538, 9: 0.19546, 0: 0.20538, 5: 0.22995}]
    for row, wanted in enumerate(expected):
        np.testing.assert_allclose([wanted[node] for node in ids[row].tolist()], scores[row], atol=1e-5)
        assert scores[row].tolist() == sorted(scores[row].tolist(), reverse=True)
    assert types.shape == (0,)
    assert times.shape == (2, 4)
    ids, scores, _, _ = padding.sample_neighbors(np.array([7, 42]), BOTH, 2, "ppr-go")
    assert (ids.tolist(), scores.tolist()) == ([[7, -1], [-1, -1]], [[0.5, 0.0], [0.0, 0.0]])


def test_pagerank_of_one_edge_type_agrees_with_the_pushes_of_the_client(star):
    on_servers = star.sample_neighbors(np.array([0, 3]), 0, 5, "ppr-go")
    at_a_time = star.sample_neighbors(np.array([0, 3]), 0, 5, "ppr-go", timestamps=np.array([10**9, 10**9]))
    np.testing.assert_allclose(on_servers[1], at_a_time[1], atol=1e-4)
    assert on_servers[0][1].tolist() == [3, -1, -1, -1, -1]
    assert star.sample_neighbors(np.array([0]), 0, 9, "ppr-go", timestamps=np.array([35]))[0][0].tolist().count(-1) == 4


def test_walks_follow_edges_by_weight_and_end_in_dead_ends(padding):
    random.seed(1)
    walks = padding.random_walk(np.full(4000, 9), BOTH, 3, 1.0, 1.0, default_node=-3)
    assert walks.shape == (4000, 4)
    assert walks.dtype == np.int64
    first = Counter(walks[:, 1].tolist())
    assert sum((first[node] - 4000 * share / 3.5) ** 2 / (4000 * share / 3.5) for node, share in {0: 0.5, 5: 2.0, 7: 1.0}.items()) < 13.8
    assert set(walks[walks[:, 1] == 7][:, 2:].ravel().tolist()) == {-3}
    assert set(walks[walks[:, 1] == 0][:, 2].tolist()) == {5}
    assert padding.random_walk(np.array([42, 7]), BOTH, 2, 1.0, 1.0).tolist() == [[42, -1, -1], [7, -1, -1]]
    back = padding.random_walk(np.full(300, 9), BOTH, 2, 1e-6, 1.0)
    assert set(back[back[:, 1] == 5][:, 2].tolist()) == {9}


def test_one_edge_type_is_walked_by_the_graph_itself(star):
    walks = star.random_walk(np.zeros(3000, int), 0, 2, 1.0, 1.0)
    first = Counter(walks[:, 1].tolist())
    expected = {node: 3000 * node / 78 for node in range(1, 13)}
    assert sum((first[node] - count) ** 2 / count for node, count in expected.items()) < 31.3  # 11 degrees of freedom, p = 0.001
    assert set(walks[:, 2].tolist()) == {-1}
    early = star.random_walk(np.zeros(200, int), 0, 1, 1.0, 1.0, timestamps=np.full(200, 25))
    assert set(early[:, 1].tolist()) == {1, 2, 3}
    assert set(star.random_walk(np.zeros(9, int), 0, 1, 0.5, 2.0)[:, 1].tolist()) <= set(range(1, 13))


def test_the_newest_and_the_heaviest_come_first(star):
    at = np.array([55, 5])
    ids, weights, types = star.sample_neighbors(np.array([0, 0]), 0, 3, "lastn", timestamps=at)
    assert (ids.tolist(), weights.tolist(), types.tolist()) == ([[6, 5, 4], [1, -1, -1]], [[6, 5, 4], [1, 0, 0]], [[0, 0, 0], [0, -1, -1]])
    times = star.sample_neighbors(np.array([0]), 0, 2, "lastn", timestamps=at[:1], return_edge_created_ts=True)[3]
    assert times.tolist() == [[50, 40]]
    assert star.sample_neighbors(np.array([0]), 0, 2, "topk")[0].tolist() == [[12, 11]]
    assert star.neighbors(np.array([0, 5]), 0, timestamps=np.array([15, 15]), return_edge_created_ts=True)[4].tolist() == [0, 10]
    with pytest.raises(InputError, match='"lastn" needs timestamps'):
        star.sample_neighbors(np.array([0]), 0, 2, "lastn")


def test_timestamps_count_the_unit_that_was_said(directory):
    client = Client(directory, graph="star", time_unit="ms")
    with pytest.raises(InputError, match='"s", "ms" or "us"'):
        Client(directory, graph="star", time_unit="h")
    ids, _, _, counts, times = client.neighbors(np.array([0, 0]), 0, timestamps=np.array([0, 2**62]), return_edge_created_ts=True)
    assert counts.tolist() == [1, 12]  # the last edge is made at 110 microseconds
    assert times.tolist() == [0] * 13
    assert ids[0] == 1
    client.reset()


def test_a_converted_graph_answers_as_deepgnn_does(tmp_path):
    """From DeepGNN's own JSON, by its numbers."""

    def line(node, kind, feature, *edges):
        links = [{"src_id": node, "dst_id": dst, "edge_type": of, "weight": weight, "created_at": at} for dst, of, weight, at in edges]
        features = {} if feature is None else {"0": feature}
        return json.dumps({"node_id": node, "node_type": kind, "node_weight": 1.0, "edge": links, "float_feature": features})

    lines = [line(9, 0, [1.0, 2.0], (0, 0, 0.5, 10), (5, 1, 2.0, 20)), line(0, 1, [3.0, 4.0]), line(5, 1, None, (9, 1, 1.0, 30))]
    (tmp_path / "graph.json").write_text("\n".join(lines))
    tables = from_deepgnn(tmp_path / "graph.json", tmp_path / "tables")
    with fd.open(tmp_path / "platform") as platform:
        platform.build_graph("g", **tables, progress=False)
    client = Client(tmp_path / "platform" / "graphs" / "g", [0])
    nodes = np.array([9, 0, 5])
    assert client.node_types(nodes).tolist() == [0, 1, 1]
    found = client.neighbors(nodes, BOTH, return_edge_created_ts=True)
    assert [array.tolist() for array in found] == [[0, 5, 9], [0.5, 2.0, 1.0], [0, 1, 1], [2, 0, 1], [10, 20, 30]]
    assert client.neighbor_count(nodes, BOTH, timestamps=[15, 15, 30]).tolist() == [1, 0, 1]
    assert client.node_features(nodes, np.array([[0, 2]]), np.float32).tolist() == [[1, 2], [3, 4], [0, 0]]
    assert client.sample_neighbors(nodes, BOTH, 1, "lastn", timestamps=[19, 20, 29])[0].tolist() == [[0], [-1], [-1]]
    client.reset()


def test_nodes_and_edges_of_the_whole_graph(padding):
    random.seed(2)
    nodes = padding.sample_nodes(3000, 1, SamplingStrategy.Weighted)
    assert nodes.dtype == np.int64
    assert abs(Counter(nodes.tolist())[0] - 2250) < 3.3 * (3000 * 0.75 * 0.25) ** 0.5
    nodes, types = padding.sample_nodes(4000, BOTH, SamplingStrategy.Random)
    assert types.dtype == np.int32
    assert [{9: 0, 7: 0, 0: 1, 5: 1}[node] for node in nodes.tolist()] == types.tolist()
    assert sum((count - 1000) ** 2 / 1000 for count in Counter(nodes.tolist()).values()) < 16.3  # 3 degrees of freedom, p = 0.001
    assert sorted(padding.sample_nodes(4, BOTH, SamplingStrategy.RandomWithoutReplacement)[0].tolist()) == [0, 5, 7, 9]
    found = padding.sample_edges(5, BOTH, SamplingStrategy.RandomWithoutReplacement)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == [[0, 5, 0], [5, 9, 1], [9, 0, 0], [9, 5, 1], [9, 7, 1]]
    with pytest.raises(InputError, match="5 different nodes of 4"):
        padding.sample_nodes(5, BOTH, SamplingStrategy.RandomWithoutReplacement)
    found = Counter(padding.sample_nodes(6000, BOTH, SamplingStrategy.Weighted)[0].tolist())
    assert sum((found[node] - 1000 * weight) ** 2 / (1000 * weight) for node, weight in {9: 1, 7: 1, 0: 3, 5: 1}.items()) < 16.3
    found = Counter(map(tuple, padding.sample_edges(5500, BOTH, SamplingStrategy.Weighted).tolist()))
    weights = {(9, 0, 0): 500, (9, 5, 1): 2000, (9, 7, 1): 1000, (0, 5, 0): 1000, (5, 9, 1): 1000}
    assert sum((found[edge] - weight) ** 2 / weight for edge, weight in weights.items()) < 18.5  # 4 degrees of freedom, p = 0.001
    with pytest.raises(InputError, match="no nodes of types"):
        padding.sample_nodes(1, 8, SamplingStrategy.Random)


def test_unknown_ids_are_errors_and_padding_goes_through_further_hops(strict):
    with pytest.raises(NodeIdError, match="42"):
        strict.neighbors(NODES, BOTH)
    with pytest.raises(InputError, match="no edge from 9 to 9"):
        strict.edge_features(np.array([[9, 9, 1]]), np.array([[1, 2]]), np.float32)
    with pytest.raises(InputError, match="has 2 numbers, and 3 were asked for"):
        strict.node_features(np.array([9]), np.array([[0, 3]]), np.float32)
    levels, weights, types = multihop.sample_fanout(strict, np.array([9, 7]), [BOTH, BOTH, BOTH], [3, 2, 2], -9, "randomwithoutreplacement")
    assert [len(level) for level in levels] == [2, 6, 12, 24]
    assert levels[1].tolist() == [0, 5, 7, -9, -9, -9]
    assert levels[2].tolist()[:6] == [5, -9, 9, -9, -9, -9]
    assert [len(each) for each in weights] == [len(each) for each in types] == [6, 12, 24]
    assert strict.node_features(levels[1], np.array([[0, 2]]), np.float32)[3:].tolist() == [[0, 0]] * 3
    assert strict.node_types(NODES).tolist() == [0, 1, 0, -1]


def test_multihop_and_graph_ops_give_what_deepgnn_gives(padding):
    nodes, adjacency, sources = graph_ops.sub_graph(padding, np.array([9]), BOTH, num_hops=2)
    assert nodes.tolist() == [0, 5, 7, 9]
    assert adjacency.dtype == np.float32
    assert adjacency.tolist() == [[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert sources.tolist() == [3]
    _, pairs, _ = graph_ops.sub_graph(padding, np.array([9]), BOTH, num_hops=2, return_edges=True)
    assert len(pairs) == 12
    levels, matrices = multihop.get_neighbor(padding, np.array([9, 0]), [BOTH], 3)
    assert levels[1][0].tolist() == [0, 5, 7, 0, 0, 0]
    assert levels[1][1].tolist() == [3]
    assert matrices[0][0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [0, 0], [0, 0]]
    assert matrices[0][1].tolist() == [0.5, 2, 1, 1, 0, 0]
    assert matrices[0][2].tolist() == [2, 3]
    with pytest.raises(InputError, match="raise max_neighbors_per_node"):
        multihop.get_neighbor(padding, np.array([9]), [BOTH], 2)
    ends, features = graph_ops.sample_out_edges(padding, np.array([0, 5]), BOTH, 2, "random", np.array([[1, 2]]))
    assert ends.tolist() == [[0, 5, 0], [0, 5, 0], [5, 9, 1], [5, 9, 1]]
    assert features.shape == (4, 2)
    assert graph_ops.get_skipgrams_size(4, 1, 1) == 6
    assert graph_ops.gen_skipgrams(np.array([[1, 2, 3]]), 1, 1).tolist() == [[1, 2], [2, 1], [2, 3], [3, 2]]


def test_the_lower_face_takes_seeds_and_repeats(directory):
    with MemoryGraph(str(directory), [(str(directory), 0)], graph="small", on_unknown="pad") as graph:
        first = graph.weighted_sample_neighbors(np.array([9] * 3), [1, 0], 5, seed=7)
        assert [array.tolist() for array in first] == [
            array.tolist() for array in graph.weighted_sample_neighbors(np.array([9] * 3), [0, 1], 5, seed=7)
        ]
        assert len(graph.uniform_sample_neighbors(True, NODES, 0, 3, seed=1)) == 2
        assert (graph.meta.node_count, graph.meta.edge_count_per_type, graph.meta.watermark) == (4, [2, 3], -1)
        assert (
            NodeSampler(graph, -1, "uniform").sample(5, seed=3)[0].tolist()
            == NodeSampler(graph, [0, 1], "uniform").sample(5, 3)[0].tolist()
        )
        assert EdgeSampler(graph, 1).sample(4, seed=1)[2].tolist() == [1] * 4


def test_clients_pickle_and_repeat_by_pythons_seed(strict):
    again = pickle.loads(pickle.dumps(strict))
    random.seed(5)
    one = strict.sample_neighbors(np.array([9]), BOTH, 8)[0].tolist()
    random.seed(5)
    assert again.sample_neighbors(np.array([9]), BOTH, 8)[0].tolist() == one
    again.reset()


def test_names_get_numbers_of_their_own_or_those_given(directory):
    with fd.open(directory) as platform, platform.graph("small") as graph:
        numbers = Numbering.of(graph.schema)
        assert numbers.nodes == {0: "0", 1: "1"}
        assert numbers.node_features["0"] == {0: "feature_0", 1: "feature_1", 2: "feature_2", 3: "feature_3"}
        assert numbers.edge_features["1"] == {1: "feature_1"}
        swapped = Client(graph, numbering=Numbering({5: "0", 6: "1"}, {3: "0", 2: "1"}))
        assert swapped.node_types(np.array([9, 0])).tolist() == [5, 6]
        assert swapped.neighbors(np.array([9]), 3)[0].tolist() == [0]
        with pytest.raises(InputError, match="no number stands for '1'"):
            Client(graph, numbering=Numbering({0: "0"}, {0: "0", 1: "1"}))


def test_samplers_and_datasets_iterate_as_deepgnns(strict, tmp_path):
    (tmp_path / "nodes.txt").write_text("9\n0\n7\n5\n9\n")
    (tmp_path / "edges.txt").write_text("9\t0\n0\t5\n")
    sampler = FileNodeSampler(str(tmp_path / "nodes.txt"), 2, epochs=1)
    assert [batch.tolist() for batch in sampler] == [[9, 0], [7, 5], [9, -1]]
    assert len(sampler) == 3
    shared = [list(FileNodeSampler(str(tmp_path / "nodes.txt"), 2, data_parallel_num=2, data_parallel_index=each)) for each in range(2)]
    assert [[batch.tolist() for batch in part] for part in shared] == [[[9, 0], [9, -1]], [[7, 5]]]
    assert [batch.tolist() for batch in FileEdgeSampler(1, str(tmp_path / "edges.txt"), 3)] == [[[9, 0, 1], [0, 5, 1], [-1, -1, 1]]]
    (tmp_path / "features.txt").write_text("9\t0\t0.5\t2\n0\t5\t1.5\t3\n")
    ((edges, features),) = FileEdgeSampler(1, str(tmp_path / "features.txt"), 3, feature_dim=2)
    assert edges.tolist() == [[9, 0, 1], [0, 5, 1], [-1, -1, 1]]
    assert features.dtype == np.float32
    assert features.tolist() == [[0.5, 2], [1.5, 3], [0, 0]]
    assert [batch.tolist() for batch in RangeNodeSampler(0, 5, 2, 0, 1, -1)] == [[0, 1], [2, 3], [4, -1]]
    assert len(list(GENodeSampler(strict, 0, 1, 2))) == 4
    assert [batch.shape for batch in GEEdgeSampler(strict, 1, 2, 1)] == [(2, 3), (2, 3)]

    def query(graph, inputs):
        return graph.node_features(inputs, np.array([[0, 2]]), np.float32)

    plain = DeepGNNDataset(FileNodeSampler, query, graph=strict, batch_size=2, sample_files=str(tmp_path / "nodes.txt"))
    ahead = DeepGNNDataset(
        FileNodeSampler, query, graph=strict, batch_size=2, sample_files=str(tmp_path / "nodes.txt"), enable_prefetch=True
    )
    assert [batch.tolist() for batch in plain] == [batch.tolist() for batch in ahead]
    assert len(plain) == 3
    assert len(list(DeepGNNDataset(GENodeSampler, query, graph=strict, node_types=0, batch_size=2, epochs=3))) == 3

    class Own(DeepGNNDataset):
        def init_graph_client(self):
            self.graph = strict

    assert len(list(Own(GENodeSampler, query, node_types=0, batch_size=2, epochs=3))) == 3


def test_a_served_graph_answers_the_same(directory, strict):
    from graph.graph_servers import GraphServerProcess

    server = GraphServerProcess(directory, "small").wait_until_ready()
    try:
        client = DistributedClient(server.address, graph="small")
        for seed in range(3):
            random.seed(seed)
            one = strict.sample_neighbors(np.array([9, 0]), BOTH, 4, "random")
            random.seed(seed)
            assert [array.tolist() for array in client.sample_neighbors(np.array([9, 0]), BOTH, 4, "random")] == [
                array.tolist() for array in one
            ]
        client.reset()
    finally:
        server.stop()


def test_what_is_no_strategy_or_no_feature_list_is_refused(strict, star):
    with pytest.raises(InputError, match="strategy is one of"):
        strict.sample_neighbors(np.array([9]), 0, 2, "newest")
    with pytest.raises(InputError, match="pairs"):
        strict.node_features(np.array([9]), np.array([0]), np.float32)
    with pytest.raises(InputError, match="is sparse"):
        strict.node_features(np.array([9]), np.array([[3, 2]]), np.float32)
    with pytest.raises(InputError, match="drawn by Weighted, Random, RandomWithoutReplacement"):
        strict.sample_nodes(1, 0, SamplingStrategy.LastN)
    with pytest.raises(InputError, match="no history"):
        strict.node_features(np.array([9]), np.array([[0, 2]]), np.float32, timestamps=[1])
