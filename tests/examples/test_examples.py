"""The examples, shortened, on the graphs that lie beside the checkout; where those are absent, what needs them is skipped."""

import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from examples._data import REST, TEST, TRAIN, VALIDATION, VARIABLE, GraphTables, read_facebook_pages, read_planetoid, vectors  # noqa: E402
from examples._service import Service, serving  # noqa: E402

import fondaco as fd  # noqa: E402
from examples import facebook_sage, larger_than_trainer, planetoid  # noqa: E402

DATA = Path(os.environ.get(VARIABLE, Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "planetoid").is_dir(), reason=f"no graphs in {DATA}: name their folder by {VARIABLE}")
pytestmark = pytest.mark.xdist_group("examples")  # one after the other: each has servers of its own


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@needs_data
def test_planetoid_graphs_have_their_published_sizes() -> None:
    for name, nodes, directed, classes, dim in (("cora", 2708, 10556, 7, 1433), ("citeseer", 3327, 9104, 6, 3703)):
        tables = read_planetoid(DATA, name)
        assert (tables.nodes.num_rows, 2 * tables.edges.num_rows, tables.classes, tables.dim) == (nodes, directed, classes, dim)
        assert np.bincount(tables.nodes["part"].to_numpy())[1:3].tolist() == [500, 1000]


def test_a_planetoid_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "planetoid").mkdir()
    (tmp_path / "planetoid" / "ind.cora.x").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(pickle.UnpicklingError, match="getcwd does not belong in a Planetoid file"):
        read_planetoid(tmp_path, "cora")


def ring(count: int, classes: int = 3) -> GraphTables:
    """Nodes in a ring, each also bound to some others; two of three train."""
    rng = np.random.default_rng(3)
    ids = np.arange(count)
    pairs = np.concatenate([np.stack([ids, (ids + 1) % count]), rng.integers(0, count, (2, 2 * count))], axis=1)
    pairs = np.unique(np.sort(pairs[:, pairs[0] != pairs[1]], axis=0), axis=1)
    degree = np.bincount(pairs.ravel(), minlength=count).astype(np.float32)
    x = rng.standard_normal((count, 8)).astype(np.float32)
    part = np.where(ids % 3 == 0, np.array([VALIDATION, TEST, REST])[ids // 3 % 3], TRAIN).astype(np.int8)
    nodes = pa.table({"id": ids * 7, "x": vectors(x), "label": ids % classes, "part": part, "degree": degree})
    return GraphTables(nodes, pa.table({"src": pairs[0] * 7, "dst": pairs[1] * 7}), classes, 8)


@pytest.fixture(scope="module")
def ring_platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ring") / "platform"
    facebook_sage.build(directory, ring(180), partitions=3)
    return directory


@pytest.mark.parametrize("name", ["gcn", "gat"])
def test_a_batch_gives_its_seeds_what_the_whole_graph_gives_them(ring_platform: Path, name: str) -> None:
    from torch_geometric.nn import GCNConv

    tables = ring(180)
    torch.manual_seed(1)
    model = planetoid.MODELS[name][0](tables.dim, tables.classes).eval()
    x = torch.from_numpy(tables.nodes["x"].combine_chunks().flatten().to_numpy().reshape(-1, tables.dim).copy())
    ends = torch.from_numpy(np.stack([tables.edges["src"].to_numpy(), tables.edges["dst"].to_numpy()]) // 7)
    both_ways = torch.cat([ends, ends.flip(0)], 1)
    with torch.no_grad(), fd.open(ring_platform) as platform, platform.graph(facebook_sage.GRAPH) as graph:
        if name == "gcn":  # PyG's own normalisation of the whole graph
            first, second = GCNConv(tables.dim, 16), GCNConv(16, tables.classes)
            first.load_state_dict(model.first.state_dict())
            second.load_state_dict(model.second.state_dict())
            whole = second(first(x, both_ways).relu(), both_ways)
        else:
            whole = model(x, both_ways, torch.zeros(len(x)))
        seeds = np.arange(0, 180, 9) * 7
        (batch,) = fd.graph.torch.NeighborLoader(graph, seeds, fan_outs=[-1, -1], batch_size=len(seeds), features=["x", "degree"])
        assert len(batch.x) < 180
        found = model(batch.x, batch.edge_index, batch.degree)[: batch.batch_size]
    assert torch.allclose(found, whole[torch.from_numpy(seeds // 7)], atol=1e-6)


def test_two_trainers_learn_what_one_learns_from_batches_twice_as_large(ring_platform: Path) -> None:
    options = facebook_sage.Options("nodes", 8, 3, epochs=2, batch_size=40, fan_outs=(-1, -1), dropout=0.0)
    with serving(ring_platform, facebook_sage.GRAPH):
        alone = facebook_sage.train(options)
        together = facebook_sage.train_together(replace(options, batch_size=20, processes=2))
    assert [result.batches for result in together] == [alone.batches] * 2 == [6, 6]
    assert together[0].losses != together[1].losses  # each has its own half
    assert np.allclose(np.mean([result.losses for result in together], axis=0), alone.losses, atol=1e-5)
    assert [result.score for result in together] == [alone.score] * 2


@needs_data
@pytest.mark.parametrize(("model", "epochs"), [("gcn", 80), ("gat", 40)])
def test_cora_is_learned_through_the_service(model: str, epochs: int) -> None:
    arguments = ["--data", str(DATA), "--dataset", "cora", "--model", model, "--seeds", "1", "--epochs", str(epochs)]
    found = planetoid.main(arguments)[f"{model} cora"]
    assert found["test_accuracy_mean"] > 78.0


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphTables, facebook_sage.LinkSplit]:
    """The page graph without the edges that are held out."""
    tables, links = facebook_sage.split_edges(read_facebook_pages(DATA), validation=0.005, test=0.01)
    directory = tmp_path_factory.mktemp("pages") / "platform"
    facebook_sage.build(directory, tables, partitions=4)
    return directory, tables, links


@needs_data
def test_kinds_of_pages_are_learned_and_a_replica_killed_in_mid_epoch_changes_nothing(
    pages: tuple[Path, GraphTables, facebook_sage.LinkSplit],
) -> None:
    directory, tables, _ = pages
    options = facebook_sage.Options("nodes", tables.dim, tables.classes, epochs=1)
    with serving(directory, facebook_sage.GRAPH, shards=2, replicas=2) as service:
        undisturbed = facebook_sage.train(options)
        used = _processor_seconds(service)
        disturbed = facebook_sage.train(options, on_batch=lambda index: _kill_the_busier(service, used) if index == 10 else None)
    assert undisturbed.score > 0.75
    assert disturbed.losses == undisturbed.losses  # to the last bit
    assert disturbed.validation == undisturbed.validation
    assert disturbed.score == undisturbed.score


def _processor_seconds(service: Service) -> list[float]:
    return [sum(psutil.Process(pid).cpu_times()[:2]) for pid in service.pids]


def _kill_the_busier(service: Service, used: list[float]) -> None:
    """Of each shard the replica that has answered this run, so far."""
    busy = np.reshape(np.subtract(_processor_seconds(service), used), (2, 2))  # [replica, shard]
    for shard, replica in enumerate(busy.argmax(axis=0)):
        assert busy[replica, shard] > 0
        process = psutil.Process(service.pids[2 * replica + shard])
        process.kill()
        process.wait()


@needs_data
def test_likes_are_predicted_by_two_trainers_that_share_their_gradients(pages: tuple[Path, GraphTables, facebook_sage.LinkSplit]) -> None:
    directory, tables, links = pages
    options = facebook_sage.Options("links", tables.dim, tables.classes, epochs=1, batch_size=256, fan_outs=(10, 5), batches=6, processes=2)
    with serving(directory, facebook_sage.GRAPH, shards=2):
        results = facebook_sage.train_together(options, links)
    assert [result.batches for result in results] == [6, 6]
    assert results[0].losses != results[1].losses
    assert results[0].score == results[1].score > 0.8  # the same model in both


def test_edges_held_out_are_in_no_other_part_and_false_ones_in_none() -> None:
    tables = ring(180)
    left, links = facebook_sage.split_edges(tables, validation=0.2, test=0.2)
    parts = [{tuple(sorted(pair)) for pair in ends.T.tolist()} for ends in (links.train, links.validation.true, links.test.true)]
    assert left.edges.num_rows == len(parts[0])
    assert sum(map(len, parts)) == len(set.union(*parts)) == tables.edges.num_rows
    for pairs in (links.validation, links.test):
        assert pairs.false.shape == pairs.true.shape
        assert (pairs.false[0] == pairs.true[0]).all()
        assert not {tuple(sorted(pair)) for pair in pairs.false.T.tolist()} & set.union(*parts)
        assert (pairs.false[0] != pairs.false[1]).all()


def test_the_area_under_the_curve_is_the_chance_to_rank_a_true_pair_higher() -> None:
    assert facebook_sage.area_under_roc(np.array([2.0, 1.0]), np.array([1.0, 0.0])) == (1 + 1 + 0.5 + 1) / 4


def test_the_trainer_stays_much_smaller_than_its_graph(capfd: pytest.CaptureFixture[str]) -> None:
    larger_than_trainer.main(["--nodes", "120000", "--batches", "40", "--batch-size", "64"])
    told = capfd.readouterr().out
    graph_mib = int(told.split("a graph of ")[1].split()[0])
    grown_mib = int(told.split("grew by ")[1].split()[0])
    assert graph_mib > 120
    assert grown_mib < graph_mib / 2
