"""LinkNeighborLoader: pairs point at their ends, false ones are false, and what is to be predicted is no message."""

import numpy as np
import pytest
import torch

from fondaco.core.errors import InputError
from fondaco.graph.torch import LinkNeighborLoader
from graph.torch.loader_graphs import COMMUNITIES, PAGES, page_id, page_tables, shop_tables


def links():
    _, edges = page_tables()
    return np.stack((edges["src"].to_numpy(), edges["dst"].to_numpy()))


def pairs(batch, kind=None):
    part = batch if kind is None else batch[kind]
    src, dst = (batch, batch) if kind is None else (batch[kind[0]], batch[kind[2]])
    near, far = part.edge_label_index
    of = (lambda nodes, index: nodes[index].tolist()) if kind is None else (lambda nodes, index: np.asarray(nodes)[index.numpy()].tolist())
    return list(zip(of(src.n_id, near), of(dst.n_id, far), strict=True))


def test_pairs_are_the_edges_then_false_ones_from_the_same_sources(pages):
    edges = links()[:, :200]
    there = set(zip(*links().tolist(), strict=True))
    seen = []
    for batch in LinkNeighborLoader(pages, edges, [3, 2], 64, negatives=2, shuffle=True):
        count = len(batch.input_id)
        found = pairs(batch)
        assert found[:count] == list(zip(*edges[:, batch.input_id].tolist(), strict=True))
        assert batch.edge_label.tolist() == [1.0] * count + [0.0] * (2 * count)
        assert not set(found[count:]) & there
        assert [source for source, _ in found[count:]] == np.repeat(edges[0, batch.input_id], 2).tolist()
        assert batch.x[:, 0].tolist() == ((batch.n_id - 100) // 7).tolist()
        seen += batch.input_id.tolist()
    assert sorted(seen) == list(range(200))


def test_batches_repeat_whoever_makes_them(pages):
    options = {"batch_size": 50, "negatives": 1, "shuffle": True, "seed": 4}
    one = [(pairs(batch), batch.edge_index.tolist()) for batch in LinkNeighborLoader(pages, links()[:, :120], [2], prefetch=0, **options)]
    two = [(pairs(batch), batch.edge_index.tolist()) for batch in LinkNeighborLoader(pages, links()[:, :120], [2], prefetch=3, **options)]
    assert one == two


def test_all_edges_of_a_type_are_the_seeds_unless_some_are_given(pages):
    found = [pair for batch in LinkNeighborLoader(pages, None, [1], 1000) for pair in pairs(batch)]
    assert sorted(found) == sorted(zip(*links().tolist(), strict=True))


def test_hidden_edges_carry_no_messages_either_way(pages):
    edges = links()[:, :300]
    hidden = open_ = 0
    for hide in (True, False):
        for batch in LinkNeighborLoader(pages, edges, [-1], 100, hide_seed_edges=hide):
            wanted = set(zip(*batch.edge_label_index.tolist(), strict=True))
            messages = list(zip(*batch.edge_index.tolist(), strict=True))
            leaks = sum((sender, receiver) in wanted or (receiver, sender) in wanted for sender, receiver in messages)
            assert sum(batch.num_sampled_edges) == len(messages) == len(batch.e_id)
            hidden, open_ = (hidden + leaks, open_) if hide else (hidden, open_ + leaks)
    assert hidden == 0
    assert open_ >= 300


def test_triplets_index_sources_true_and_false_targets(pages):
    there = set(zip(*links().tolist(), strict=True))
    for batch in LinkNeighborLoader(pages, links()[:, :90], [2], 30, negatives=3, negative_mode="triplet", negative_distribution="degree"):
        src, true, false = batch.n_id[batch.src_index], batch.n_id[batch.dst_pos_index], batch.n_id[batch.dst_neg_index]
        assert set(zip(src.tolist(), true.tolist(), strict=True)) <= there
        assert false.shape == (30, 3)
        assert not {(source, each) for source, row in zip(src.tolist(), false.tolist(), strict=True) for each in row} & there
        assert "edge_label_index" not in batch


def test_ends_of_two_types_share_one_neighbourhood(shop):
    _, edges = shop_tables()
    bought = edges["user", "bought", "item"]
    table = np.array([bought["src"].to_pylist(), bought["dst"].to_pylist()], object)
    kind = ("user", "bought", "item")
    loader = LinkNeighborLoader(shop, (kind, (table[0], table[1].astype(np.int64))), [3, 2], 40, negatives=1, hide_seed_edges=True)
    for batch in loader:
        count = len(batch[kind].input_id)
        index = batch[kind].input_id.numpy()
        assert pairs(batch, kind)[:count] == list(zip(table[0][index].tolist(), table[1][index].tolist(), strict=True))
        assert len(set(batch["user"].n_id.tolist())) == batch["user"].num_nodes
        assert len(set(batch["item"].n_id.tolist())) == batch["item"].num_nodes
        assert batch["item"].x[:, 0].tolist() == [2.0 * each for each in batch["item"].n_id.tolist()]
        assert batch["user"].age.tolist() == [float(each[1:]) for each in batch["user"].n_id.tolist()]
        messages = batch["item", "rev_bought", "user"]
        assert len(set(messages.e_id.tolist())) == len(messages.e_id)
        wanted = set(zip(*batch[kind].edge_label_index[:, :count].tolist(), strict=True))
        assert not {(receiver, sender) for sender, receiver in zip(*messages.edge_index.tolist(), strict=True)} & wanted
        assert sum(messages.num_sampled_edges) == messages.edge_index.shape[1]
        assert sum(batch["item"].num_sampled_nodes) == batch["item"].num_nodes


def test_edges_have_times_and_labels_of_their_own(shop):
    _, edges = shop_tables()
    bought = edges["user", "bought", "item"]
    src, dst, when = np.array(bought["src"].to_pylist(), object), bought["dst"].to_numpy(), np.arange(200) * 1_000_000
    loader = LinkNeighborLoader(
        shop, ("bought", (src, dst)), [-1], 50, as_of=when - 1, edge_labels=np.arange(200) % 3 + 1, edge_times=True, negatives=1
    )
    for batch in loader:
        part, messages = batch["user", "bought", "item"], batch["item", "rev_bought", "user"]
        count = len(part.input_id)
        assert part.edge_label.tolist() == [*(part.input_id % 3 + 1).tolist(), *[0] * count]
        assert (messages.edge_time <= batch["user"].as_of[messages.edge_index[1]]).all()
        own = batch["user"].as_of[part.edge_label_index[0, :count]]
        assert own.tolist() == part.seed_time.tolist() == (when[part.input_id] - 1).tolist()


def test_edges_with_an_unknown_end_are_left_out_where_that_is_said(pages):
    src, dst = links()[:, :6].copy()
    src[1], dst[4] = 5, 6
    (batch,) = LinkNeighborLoader(pages, (src, dst), [2], negatives=1, on_unknown="pad", edge_labels=np.arange(6.0))
    assert batch.input_id.tolist() == [0, 2, 3, 5]
    assert batch.edge_label.tolist() == [0, 2, 3, 5, 0, 0, 0, 0]
    assert pairs(batch)[:4] == [(src[each], dst[each]) for each in (0, 2, 3, 5)]


def test_edges_may_be_a_table(pages):
    table = page_tables()[1].slice(0, 50)
    wanted = [pairs(batch) for batch in LinkNeighborLoader(pages, links()[:, :50], [2], 20)]
    assert [pairs(batch) for batch in LinkNeighborLoader(pages, table, [2], 20)] == wanted
    assert [pairs(batch) for batch in LinkNeighborLoader(pages, table.to_pandas(), [2], 20)] == wanted


def test_what_cannot_be_is_refused(pages, shop):
    with pytest.raises(InputError, match=r"\.T makes that of it"):
        LinkNeighborLoader(pages, links().T)
    with pytest.raises(InputError, match="negative_distribution is one of"):
        LinkNeighborLoader(pages, negatives=1, negative_distribution="zipf")
    with pytest.raises(InputError, match=r"give sources and targets: \[2, n\]"):
        LinkNeighborLoader(pages, np.zeros((3, 4), np.int64))
    with pytest.raises(InputError, match="say edge_type="):
        LinkNeighborLoader(shop, np.zeros((2, 4), np.int64))
    with pytest.raises(InputError, match="belongs to seed nodes"):
        LinkNeighborLoader(pages, labels="y")
    with pytest.raises(InputError, match="at least 1 in"):
        LinkNeighborLoader(pages, negative_mode="triplet")


def test_a_model_ranks_true_edges_above_false_ones(pages):
    from torch_geometric.nn import SAGEConv

    torch.manual_seed(1)
    layer = SAGEConv(COMMUNITIES, 16)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    order = np.random.default_rng(0).permutation(PAGES * 8)
    train, test = links()[:, order[:3000]], links()[:, order[3000:4000]]

    def scores(batch):
        hidden = layer(batch.x[:, 1:], batch.edge_index)
        hidden = hidden - hidden.mean(0)
        return (hidden[batch.edge_label_index[0]] * hidden[batch.edge_label_index[1]]).sum(-1)

    loader = LinkNeighborLoader(pages, train, [4], 500, negatives=1, hide_seed_edges=True, shuffle=True)
    for _ in range(5):
        for batch in loader:
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(scores(batch), batch.edge_label).backward()
            optimizer.step()
    with torch.no_grad():
        (batch,) = LinkNeighborLoader(pages, test, [4], 1000, negatives=1, hide_seed_edges=True)
        found = scores(batch)
    assert (found[:1000, None] > found[None, 1000:]).float().mean() > 0.65


def test_ids_of_the_pages_are_what_the_tests_think(pages):
    assert sorted(pages.node_ids().tolist()) == page_id(np.arange(PAGES)).tolist()
