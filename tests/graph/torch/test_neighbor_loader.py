"""NeighborLoader: batches are what was asked for, the same however they are made, and models learn from them."""

import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

import fondaco as fd
from fondaco.core.errors import FondacoError, InputError, NodeIdError
from fondaco.graph.torch import Batch, GrowingFanOuts, HeteroBatch, NeighborLoader
from graph.graph_servers import GraphServerProcess
from graph.torch.loader_graphs import COMMUNITIES, PAGES, page_id, page_tables

IDS = page_id(np.arange(PAGES))


def everything(batch):
    """All tensors of a batch, by name and part."""
    parts = [("", batch)] if not hasattr(batch, "node_types") else [(kind, batch[kind]) for kind in [*batch.node_types, *batch.edge_types]]
    found = {}
    for kind, part in parts:
        names = list(part.keys())
        found |= {(str(kind), name): part[name].tolist() if hasattr(part[name], "tolist") else part[name] for name in names}
    return found


def same(left, right):
    return [everything(batch) for batch in left] == [everything(batch) for batch in right]


def test_a_batch_holds_seeds_first_their_rows_and_messages_towards_them(pages):
    loader = NeighborLoader(pages, IDS[:50], [5, 3], 20, labels="y")
    _, edges = page_tables()
    links = set(zip(edges["src"].to_pylist(), edges["dst"].to_pylist(), strict=True))
    seen = []
    for batch in loader:
        assert batch.n_id[: batch.batch_size].tolist() == IDS[batch.input_id].tolist()
        assert batch.seed_index.tolist() == list(range(batch.batch_size))
        number = (batch.n_id - 100) // 7
        assert batch.x[:, 0].tolist() == number.tolist()
        assert batch.y.tolist() == (number % COMMUNITIES).tolist()
        assert set(batch.keys()) == {
            "num_nodes", "n_id", "x", "y", "num_sampled_nodes", "edge_index", "e_id", "num_sampled_edges", "seed", "version", "input_id",
            "seed_index", "batch_size",
        }  # fmt: skip
        senders, receivers = batch.n_id[batch.edge_index[0]].tolist(), batch.n_id[batch.edge_index[1]].tolist()
        assert all((receiver, sender) in links for sender, receiver in zip(senders, receivers, strict=True))  # sampled along the edges
        assert sum(batch.num_sampled_nodes) == batch.num_nodes == len(batch.n_id)
        assert sum(batch.num_sampled_edges) == batch.edge_index.shape[1]
        first = batch.edge_index[:, : batch.num_sampled_edges[0]]
        assert first[1].max() < batch.batch_size
        seen += batch.input_id.tolist()
    assert seen == list(range(50))
    assert len(loader) == 3


def test_sampled_against_the_edges_messages_go_along_them(pages):
    _, edges = page_tables()
    links = set(zip(edges["src"].to_pylist(), edges["dst"].to_pylist(), strict=True))
    for batch in NeighborLoader(pages, IDS[:50], [4, 4], 25, direction="in"):
        ends = zip(batch.n_id[batch.edge_index[0]].tolist(), batch.n_id[batch.edge_index[1]].tolist(), strict=True)
        assert set(ends) <= links


def test_batches_are_the_same_for_any_prefetch_and_threads_and_served(pages, platform):
    options = {"batch_size": 64, "shuffle": True, "seed": 11, "labels": "y", "edge_weights": True}
    one = list(NeighborLoader(pages, IDS, [4, 3], prefetch=0, **options))
    assert same(one, NeighborLoader(pages, IDS, [4, 3], prefetch=5, threads=3, **options))
    server = GraphServerProcess(platform.directory, "pages").wait_until_ready()
    try:
        from fondaco.graph import connect

        with connect(server.address, graph="pages") as served:
            assert same(one, NeighborLoader(served, IDS, [4, 3], **options))
    finally:
        server.stop()


def test_each_pass_is_the_next_epoch_and_set_epoch_repeats_one(pages):
    loader = NeighborLoader(pages, IDS[:100], [3], 40, shuffle=True)
    first, second = list(loader), list(loader)
    assert loader.epoch == 2
    assert not same(first, second)
    loader.set_epoch(1)
    assert same(second, loader)
    unshuffled = NeighborLoader(pages, IDS[:100], [2], 100)
    (one,), (two,) = list(unshuffled), list(unshuffled)
    assert one.input_id.tolist() == two.input_id.tolist()
    assert one.edge_index.tolist() != two.edge_index.tolist()  # draws are of the epoch


def test_trainers_share_the_seeds_and_make_the_batches_of_one(pages):
    options = {"batch_size": 50, "shuffle": True, "seed": 3}
    alone = {batch.seed: everything(batch) for batch in NeighborLoader(pages, IDS, [3], **options)}
    seen = []
    for rank in range(2):
        for batch in NeighborLoader(pages, IDS, [3], rank=rank, world=2, **options):
            seen += batch.input_id.tolist()
            assert everything(batch) == alone[batch.seed]
    assert sorted(seen) == list(range(PAGES))


def test_a_failure_in_a_thread_comes_to_who_takes_that_batch(pages):
    seeds = IDS[:60].copy()
    seeds[45] = 5
    batches = iter(NeighborLoader(pages, seeds, [2], 20, prefetch=3))
    assert [next(batches).input_id.tolist() for _ in range(2)] == [list(range(20)), list(range(20, 40))]
    with pytest.raises(NodeIdError, match=": 5"):
        next(batches)
    padded = list(NeighborLoader(pages, seeds, [2], 20, on_unknown="pad"))
    assert padded[2].input_id.tolist() == [each for each in range(40, 60) if each != 45]
    assert padded[2].n_id[padded[2].seed_index].tolist() == seeds[padded[2].input_id].tolist()


def test_leaving_early_leaves_no_thread_behind(pages):
    before = threading.active_count()
    loader = NeighborLoader(pages, IDS, [3, 2], 10, prefetch=4, threads=4)
    for _ in loader:
        break
    assert threading.active_count() == before
    iterator = iter(loader)
    next(iterator)
    iterator.close()
    assert threading.active_count() == before


def test_memory_is_used_again_once_a_batch_is_gone_and_never_before(pages):
    loader = NeighborLoader(pages, IDS, [15, 10], 64, prefetch=2)
    kept = [(batch.x, batch.x.clone()) for batch in loader]
    assert all(torch.equal(now, then) for now, then in kept)


def test_labels_may_be_given_one_by_one_and_seeds_may_repeat(pages):
    seeds = IDS[[4, 4, 7, 9]]
    (batch,) = NeighborLoader(pages, seeds, [2], labels=np.array([1, 0, 2, 3]))
    assert batch.y.tolist() == [1, 0, 2, 3]
    assert batch.batch_size == 3
    assert batch.seed_index.tolist() == [0, 0, 1, 2]
    with pytest.raises(InputError, match="3 labels for 4 seeds"):
        NeighborLoader(pages, seeds, labels=[1, 2, 3])


def test_all_nodes_are_the_seeds_unless_some_are_given(pages):
    seen = torch.cat([batch.n_id[batch.seed_index] for batch in NeighborLoader(pages, fan_outs=[1], batch_size=256)])
    assert sorted(seen.tolist()) == IDS.tolist()


def test_features_are_those_asked_for(pages):
    (batch,) = NeighborLoader(pages, IDS[:3], [1], features=["text"])
    assert batch.text == [b"p%d" % ((each - 100) // 7) for each in batch.n_id.tolist()]
    assert "x" not in batch
    (batch,) = NeighborLoader(pages, IDS[:3], [1], features=[])
    assert "x" not in batch


def test_without_pyg_a_batch_has_the_same_fields(pages, shop):
    (plain,) = NeighborLoader(pages, IDS[:9], [3], labels="y", pyg=False)
    (of_pyg,) = NeighborLoader(pages, IDS[:9], [3], labels="y")
    assert isinstance(plain, Batch)
    assert everything(plain) == everything(of_pyg)
    assert plain.to("cpu").x.tolist() == of_pyg.x.tolist()
    with pytest.raises(AttributeError, match="has no 'z'; it has"):
        _ = plain.z
    (hetero,) = NeighborLoader(shop, ("user", ["u1", "u2"]), [3], pyg=False)
    (of_pyg,) = NeighborLoader(shop, ("user", ["u1", "u2"]), [3])
    assert isinstance(hetero, HeteroBatch)
    assert everything(hetero) == everything(of_pyg)
    assert set(hetero.x_dict) == {"item"}
    assert hetero.to("cpu")["item"].x.tolist() == of_pyg["item"].x.tolist()


def test_types_have_parts_and_messages_against_the_edges_are_called_reversed(shop):
    (batch,) = NeighborLoader(shop, ("user", ["u3", "u5"]), [4, 4], edge_features=["price"], edge_times=True)
    assert batch["user"].n_id[: batch["user"].batch_size].tolist() == ["u3", "u5"]
    assert batch["user"].age[:2].tolist() == [3.0, 5.0]
    assert batch["item"].x.tolist() == [[2.0 * each, 2.0 * each + 1] for each in batch["item"].n_id.tolist()]
    assert set(batch.edge_types) == {("item", "rev_bought", "user"), ("item", "rev_like", "item")}
    bought = batch["item", "rev_bought", "user"]
    assert bought.edge_index[1].max() < 2
    assert bought.edge_index[0].max() < batch["item"].num_nodes
    assert bought.edge_time.tolist() == [int(price) * 1_000_000 for price in bought.price.tolist()]


def test_nothing_later_than_a_seeds_time_is_seen(shop):
    users = [f"u{each % 20}" for each in range(40)]
    times = np.arange(40) * 5_000_000
    for batch in NeighborLoader(shop, ("user", users), [-1, 2], 16, as_of=times, edge_times=True):
        bought, user = batch["item", "rev_bought", "user"], batch["user"]
        assert user.seed_time.tolist() == times[user.input_id].tolist()
        assert user.as_of[user.seed_index].tolist() == user.seed_time.tolist()
        assert (bought.edge_time <= user.as_of[bought.edge_index[1]]).all()
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=50)
    (batch,) = NeighborLoader(shop, "user", [-1], as_of=moment, edge_times=True)
    assert batch["item", "rev_bought", "user"].edge_time.max() <= 50_000_000


def test_fan_outs_grow_when_validation_stalls(pages):
    fan_outs = GrowingFanOuts([[2], [4], [8]], patience=2, min_delta=0.01)
    loader = NeighborLoader(pages, IDS[:100], fan_outs, 100)
    sizes = []
    for metric in (0.5, 0.6, 0.605, 0.6, float("nan"), 0.6, 0.6, 0.6):
        (batch,) = loader
        sizes.append(batch.edge_index.shape[1])
        fan_outs.report(metric)
    assert sizes == [200, 200, 200, 200, 400, 400, 800, 800]
    lower = GrowingFanOuts([[1], [2]], better="lower")
    assert [lower.report(loss) for loss in (3.0, 2.0, 2.5, 9.0)] == [False, False, True, False]
    with pytest.raises(InputError, match="levels"):
        GrowingFanOuts([[1], [2, 3]])


def test_grouped_batches_hold_the_same_seeds_and_fewer_distinct_nodes(pages):
    rng = np.random.default_rng(1)
    seeds = rng.permutation(IDS)
    sizes = {}
    for group in (False, 16):
        loader = NeighborLoader(pages, seeds, [4, 4], 48, shuffle=True, group=group)
        batches = list(loader)
        assert sorted(each for batch in batches for each in batch.input_id.tolist()) == list(range(PAGES))
        sizes[group] = sum(batch.num_nodes for batch in batches)
    assert sizes[16] < 0.75 * sizes[False]
    assert same(NeighborLoader(pages, seeds, [3], 48, group=True), NeighborLoader(pages, seeds, [3], 48, group=True, prefetch=0))


def test_grouping_works_across_types(shop):
    loader = NeighborLoader(shop, "user", [3], 5, group=2)
    assert sorted(each for batch in loader for each in batch["user"].input_id.tolist()) == list(range(20))


def test_wrong_options_are_refused_at_once(pages, shop):
    with pytest.raises(InputError, match="no option 'shufle'; did you mean 'shuffle'"):
        NeighborLoader(pages, shufle=True)
    with pytest.raises(InputError, match="several node types"):
        NeighborLoader(shop, ["u1"])
    with pytest.raises(InputError, match="prefetch"):
        NeighborLoader(pages, prefetch=-1)
    with pytest.raises(InputError, match="a group has at least one seed"):
        NeighborLoader(pages, group=-3)
    with pytest.raises(InputError, match="shape"):
        NeighborLoader(pages, [[1, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fan_outs": 5}, "one entry for each hop"),
        ({"fan_outs": [3, 2.5]}, r"fan_outs\[1\] .* not 2.5"),
        ({"fan_outs": GrowingFanOuts([[3], [-2]])}, "not -2"),
        ({"fan_outs": {"links": 5}}, "lists with one entry for each hop"),
        ({"batch_size": 2.5}, "batch_size .* not 2.5"),
        ({"prefetch": None}, "prefetch .* not None"),
        ({"seed": "7"}, "seed is a whole number or None"),
        ({"seeds": np.ones(PAGES, bool)}, r"not a mask; give ids\[mask\]"),
        ({"num_neighbors": [3]}, "did you mean 'fan_outs'"),
        ({"edge_features": ["speed"]}, "no feature 'speed'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_batch(pages, options, message):
    with pytest.raises(FondacoError, match=message):
        NeighborLoader(pages, **options)
    with pytest.raises(InputError, match=r"platform.graph\(name\)"):
        NeighborLoader("data/")


def test_fan_outs_may_be_named_by_edge_or_message_type_as_pyg_does(pages):
    edge, message = ("page", "links", "page"), ("page", "rev_links", "page")
    wanted = everything(next(iter(NeighborLoader(pages, IDS, [4, 2], 20))))
    for named in ({edge: [4, 2]}, {message: [4, 2]}, {"links": [4, 2]}):
        assert everything(next(iter(NeighborLoader(pages, IDS, named, 20)))) == wanted


def test_labels_of_unknown_seeds_are_left_out_with_them(pages):
    seeds = np.array([5, IDS[3], 6, IDS[4]])
    (batch,) = NeighborLoader(pages, seeds, [2], on_unknown="pad", labels=[10, 11, 12, 13])
    assert batch.input_id.tolist() == [1, 3]
    assert batch.y.tolist() == [11, 13]
    assert batch.n_id[: batch.batch_size].tolist() == seeds[[1, 3]].tolist()


def test_features_called_like_something_else_in_a_batch_do_not_take_its_place(tmp_path):
    import pandas

    nodes = pandas.DataFrame({"id": [1, 2], "label": [7, 8], "y": [0.5, 0.25], "version": [3, 4]})
    edges = pandas.DataFrame({"src": [1], "dst": [2]})
    with fd.open(tmp_path) as platform:
        platform.build_graph("g", nodes={"a": nodes}, edges={("a", "to", "a"): edges}, progress=False)
        graph = platform.graph("g")
        with pytest.raises(InputError, match="'version' is called like something else"):
            NeighborLoader(graph)
        with pytest.raises(InputError, match="leave one of them out"):
            NeighborLoader(graph, features=["y"], labels="label")
        (batch,) = NeighborLoader(graph, [1], [1], features=[], labels="label")
        assert batch.y.tolist() == [7, 8]


def test_a_model_learns_communities_from_the_loader(pages):
    from torch_geometric.nn import SAGEConv

    torch.manual_seed(0)
    convolutions = torch.nn.ModuleList([SAGEConv(COMMUNITIES, 32), SAGEConv(32, COMMUNITIES)])
    optimizer = torch.optim.Adam(convolutions.parameters(), lr=0.02)

    def scores(batch):
        hidden = convolutions[0](batch.x[:, 1:], batch.edge_index).relu()
        return convolutions[1](hidden, batch.edge_index)[: batch.batch_size]

    train, test = IDS[:300], IDS[300:]
    loader = NeighborLoader(pages, train, [8, 4], 100, labels="y", shuffle=True)
    for _ in range(12):
        for batch in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(scores(batch), batch.y[: batch.batch_size]).backward()
            optimizer.step()
    with torch.no_grad():
        (batch,) = NeighborLoader(pages, test, [-1, 4], len(test), labels="y")
        accuracy = (scores(batch).argmax(-1) == batch.y[: batch.batch_size]).float().mean()
    assert accuracy > 0.8
