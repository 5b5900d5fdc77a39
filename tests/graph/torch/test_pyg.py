"""PyG's own loaders and models over a graph: stores, sampler, indexes."""

import numpy as np
import pytest
import torch

import fondaco as fd
from fondaco.core.errors import FeatureNotFoundError, InputError, StateError
from graph.torch.loader_graphs import COMMUNITIES, PAGES, page_id, page_tables, shop_tables

pyg = fd.graph.pyg

from torch_geometric.loader import LinkLoader, NodeLoader  # noqa: E402  (after ours, which knows of PyG's warnings at import)
from torch_geometric.sampler import NegativeSampling  # noqa: E402

IDS = page_id(np.arange(PAGES))
LINK = ("page", "links", "page")


def arrays(batch):
    return batch.n_id.tolist(), batch.edge_index.tolist(), batch.x.tolist(), batch.input_id.tolist()


def test_a_node_loader_makes_homogeneous_batches(pages):
    data = pyg.stores(pages)
    sampler = pyg.NeighborSampler(pages, [5, 3])
    loader = NodeLoader(data, sampler, input_nodes=torch.arange(100), batch_size=40)
    _, edges = page_tables()
    there = set(zip(edges["src"].to_pylist(), edges["dst"].to_pylist(), strict=True))
    seen = []
    for batch in loader:
        assert batch.x[:, 0].tolist() == batch.n_id.tolist()  # the rank of an id is the page's number
        assert batch.y.tolist() == (batch.n_id % COMMUNITIES).tolist()
        assert batch.n_id[: batch.batch_size].tolist() == batch.input_id.tolist()
        sender, receiver = (
            data[0].index.ids("page", batch.n_id[batch.edge_index[0]]),
            data[0].index.ids("page", batch.n_id[batch.edge_index[1]]),
        )
        assert set(zip(sender.tolist(), receiver.tolist(), strict=True)) <= there  # PyG samples against the edges
        assert sum(batch.num_sampled_nodes) == batch.num_nodes
        seen += batch.input_id.tolist()
    assert seen == list(range(100))


def test_a_node_loader_makes_batches_of_one_type_by_name(pages):
    loader = NodeLoader(pyg.stores(pages), pyg.NeighborSampler(pages, {LINK: [4]}), input_nodes="page", batch_size=200)
    batches = list(loader)
    assert sum(batch["page"].batch_size for batch in batches) == PAGES
    assert batches[0][LINK].edge_index.shape[1] == sum(batches[0][LINK].num_sampled_edges)


def test_workers_make_the_same_batches_and_epochs_differ(pages):
    data, sampler = pyg.stores(pages), pyg.NeighborSampler(pages, [3, 2], seed=4)
    one = [arrays(batch) for batch in NodeLoader(data, sampler, input_nodes=torch.arange(120), batch_size=30)]
    loader = NodeLoader(data, sampler, input_nodes=torch.arange(120), batch_size=30, num_workers=2, multiprocessing_context="fork")
    assert [arrays(batch) for batch in loader] == one
    sampler.set_epoch(1)
    assert [arrays(batch) for batch in loader] != one


def test_several_types_and_times(shop):
    data = pyg.stores(shop, features=["x", "age"])
    sampler = pyg.NeighborSampler(shop, [-1, 2])
    times = torch.arange(20) * 10_000_000
    loader = NodeLoader(data, sampler, input_nodes=("item", torch.arange(20)), input_time=times, batch_size=8)
    for batch in loader:
        assert batch["item"].x.tolist() == [[2.0 * each, 2.0 * each + 1] for each in batch["item"].n_id.tolist()]
        users = data[0].index.ids("user", batch["user"].n_id)
        assert batch["user"].age.tolist() == [float(each[1:]) for each in users.tolist()]
        assert batch["item"].seed_time.tolist() == times[batch["item"].input_id].tolist()
        bought = batch["user", "bought", "item"]
        when = shop.edge_features_by_id(bought.e_id.numpy(), ["price"], "bought", direction="in")["price"] * 1_000_000
        first = bought.num_sampled_edges[0]
        assert (when[:first] <= batch["item"].seed_time[bought.edge_index[1, :first]].numpy()).all()
    with pytest.raises(InputError, match="several node types"):
        next(iter(NodeLoader(data, sampler, input_nodes=torch.arange(3))))


@pytest.mark.parametrize("mode", [None, "binary", "triplet"])
def test_a_link_loader_makes_pairs_and_negatives(pages, mode):
    data, sampler = pyg.stores(pages), pyg.NeighborSampler(pages, [3])
    row, col = data[1].get_edge_index(edge_type=LINK, layout="coo")
    asked = None if mode is None else NegativeSampling(mode, 2)
    loader = LinkLoader(data, sampler, edge_label_index=(LINK, torch.stack((row, col))[:, :90]), neg_sampling=asked, batch_size=30)
    there = set(zip(row.tolist(), col.tolist(), strict=True))
    for batch in loader:
        nodes, part = batch["page"].n_id, batch[LINK]
        if mode == "triplet":
            src, true, false = nodes[batch["page"].src_index], nodes[batch["page"].dst_pos_index], nodes[batch["page"].dst_neg_index]
            assert set(zip(src.tolist(), true.tolist(), strict=True)) <= there
            assert false.shape == (30, 2)
            assert not {(one, each) for one, two in zip(src.tolist(), false.tolist(), strict=True) for each in two} & there
            continue
        found = list(zip(*nodes[part.edge_label_index].tolist(), strict=True))
        assert set(found[:30]) <= there
        assert not set(found[30:]) & there
        assert len(found) == (30 if mode is None else 90)
        if mode == "binary":
            assert part.edge_label.tolist() == [1.0] * 30 + [0.0] * 60


def test_links_between_two_types(shop):
    data, sampler = pyg.stores(shop), pyg.NeighborSampler(shop, [2, 2])
    kind = ("user", "bought", "item")
    loader = LinkLoader(data, sampler, edge_label_index=(kind, None), neg_sampling=NegativeSampling("binary", 1), batch_size=64)
    _, edges = shop_tables()
    there = set(zip(edges[kind]["src"].to_pylist(), edges[kind]["dst"].to_pylist(), strict=True))
    count = 0
    for batch in loader:
        near, far = batch[kind].edge_label_index
        users, items = data[0].index.ids("user", batch["user"].n_id[near]), batch["item"].n_id[far]
        found = list(zip(users.tolist(), items.tolist(), strict=True))
        true = len(batch[kind].input_id)
        assert set(found[:true]) <= there
        assert not set(found[true:]) & there
        count += true
    assert count == 200


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_the_graph_store_has_whole_edge_indexes_in_every_layout(pages, layout):
    store = pyg.stores(pages)[1]
    _, edges = page_tables()
    expected = sorted(zip(((edges["src"].to_numpy() - 100) // 7).tolist(), ((edges["dst"].to_numpy() - 100) // 7).tolist(), strict=True))
    row, col = store.get_edge_index(edge_type=LINK, layout=layout, is_sorted=layout == "csc")
    if layout == "csr":
        row = torch.repeat_interleave(torch.arange(PAGES), row.diff())
    if layout == "csc":
        col = torch.repeat_interleave(torch.arange(PAGES), col.diff())
    assert sorted(zip(row.tolist(), col.tolist(), strict=True)) == expected
    with pytest.raises(KeyError):
        store.get_edge_index(edge_type=("a", "b", "c"), layout="coo")
    assert list(store.csc()[0]) == [LINK]


def test_sampled_along_edges_messages_have_types_of_their_own(shop):
    data = pyg.stores(shop, direction="out")
    sampler = pyg.NeighborSampler(shop, [3], direction="out")
    batch = next(iter(NodeLoader(data, sampler, input_nodes=("user", torch.arange(5)), batch_size=5)))
    back = ("item", "rev_bought", "user")
    assert batch[back].edge_index[1].max() < 5
    row, col = data[1].get_edge_index(edge_type=back, layout="coo")
    src, dst = data[1].get_edge_index(edge_type=("user", "bought", "item"), layout="coo")
    assert (row.tolist(), col.tolist()) == (dst.tolist(), src.tolist())


def test_the_feature_store_answers_by_index_slice_mask_and_whole(pages, shop):
    store = pyg.stores(pages)[0]
    assert store["page", "x", torch.tensor([5, 3])][:, 0].tolist() == [5.0, 3.0]
    assert store["page", "x", slice(2, 6, 2)][:, 0].tolist() == [2.0, 4.0]
    assert store["page", "y", torch.arange(PAGES) == 14].tolist() == [14 % COMMUNITIES]
    assert store["page", "x", None][:, 0].tolist() == list(range(PAGES))
    assert store.get_tensor("page", "text", np.array([1])) == [b"p1"]
    assert store.get_tensor_size("page", "x") == (PAGES, 13)
    assert store.get_tensor_size("page", "y") == (PAGES,)
    assert {(attr.group_name, attr.attr_name) for attr in pyg.stores(shop)[0].get_all_tensor_attrs()} == {("user", "age"), ("item", "x")}
    with pytest.raises(FeatureNotFoundError):
        store["page", "z", None]
    with pytest.raises(InputError, match="outside"):
        store["page", "x", torch.tensor([PAGES])]
    with pytest.raises(InputError, match="build a new version"):
        store["page", "x", None] = torch.zeros(PAGES)


def test_indexes_are_ranks_of_ids_and_equal_ids_that_count_from_zero(pages, shop):
    index = pyg.NodeIndex(pages)
    assert index.ids("page", [0, 599]).tolist() == [100, 100 + 7 * 599]
    assert index.indexes("page", np.array([107, 100])).tolist() == [1, 0]
    with pytest.raises(StateError, match="have changed"):
        index.indexes("page", np.array([101]))
    of_shop = pyg.NodeIndex(shop)
    assert of_shop.indexes("item", np.array([29, 4])).tolist() == [29, 4]
    assert of_shop.ids("user", [0, 1, 2]).tolist() == ["u0", "u1", "u10"]


def test_a_model_of_pyg_runs_unchanged_and_learns(pages):
    from torch_geometric.nn import GraphSAGE

    torch.manual_seed(0)
    model = GraphSAGE(COMMUNITIES, 32, num_layers=2, out_channels=COMMUNITIES)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    data, sampler = pyg.stores(pages), pyg.NeighborSampler(pages, [6, 4])
    loader = NodeLoader(data, sampler, input_nodes=torch.arange(300), batch_size=100, shuffle=True)
    for epoch in range(8):
        sampler.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            scores = model(batch.x[:, 1:], batch.edge_index)[: batch.batch_size]
            torch.nn.functional.cross_entropy(scores, batch.y[: batch.batch_size]).backward()
            optimizer.step()
    batch = next(iter(NodeLoader(data, sampler, input_nodes=torch.arange(300, 600), batch_size=300)))
    found = model(batch.x[:, 1:], batch.edge_index)[:300].argmax(-1)
    assert (found == batch.y[:300]).float().mean() > 0.8


def test_pygs_neighbor_loader_runs_with_the_sampler_given(pages):
    from torch_geometric.loader import NeighborLoader

    number, sampler = torch.arange(40), pyg.NeighborSampler(pages, [4, 2])
    loader = NeighborLoader(pyg.stores(pages), [4, 2], neighbor_sampler=sampler, input_nodes=("page", number), batch_size=20)
    batches = list(loader)
    assert [each for batch in batches for each in batch["page"].input_id.tolist()] == number.tolist()
    assert all((batch["page"].x[:, 0] == batch["page"].n_id).all() for batch in batches)
    assert all(batch["page", "links", "page"].edge_index.shape[1] > 20 for batch in batches)


def test_stores_offer_only_features_that_there_are(pages):
    feature_store, _ = pyg.stores(pages, features="text")
    assert [attr.attr_name for attr in feature_store.get_all_tensor_attrs()] == ["text"]
    with pytest.raises(FeatureNotFoundError, match="no feature 'xx'"):
        pyg.stores(pages, features=["xx"])
    with pytest.raises(InputError, match=r"platform.graph\(name\)"):
        pyg.stores("data/")
