"""The examples, shortened, on the graphs that lie beside the checkout; where those are absent, what needs them is skipped."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from examples._data import VARIABLE, GraphTables, read_facebook_pages, read_planetoid  # noqa: E402
from examples._service import Service, serving  # noqa: E402

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


@needs_data
@pytest.mark.parametrize(("model", "epochs"), [("gcn", 80), ("gat", 40)])
def test_cora_is_learned_through_the_service(model: str, epochs: int) -> None:
    arguments = ["--data", str(DATA), "--dataset", "cora", "--model", model, "--seeds", "1", "--epochs", str(epochs)]
    found = planetoid.main(arguments)[f"{model} cora"]
    assert found["test_accuracy_mean"] > 78.0


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphTables, np.ndarray]:
    """The page graph without a tenth of its edges, and those."""
    tables, held_out = facebook_sage.split_edges(read_facebook_pages(DATA))
    directory = tmp_path_factory.mktemp("pages") / "platform"
    facebook_sage.build(directory, tables, partitions=4)
    return directory, tables, held_out


@needs_data
def test_kinds_of_pages_are_learned_and_a_replica_killed_in_mid_epoch_changes_nothing(
    pages: tuple[Path, GraphTables, np.ndarray],
) -> None:
    directory, tables, _ = pages
    options = facebook_sage.Options("nodes", tables.dim, tables.classes, epochs=2)
    with serving(directory, facebook_sage.GRAPH, shards=2, replicas=2) as service:
        undisturbed = facebook_sage.train(options)
        disturbed = facebook_sage.train(options, on_batch=lambda index: _kill_one_replica(service) if index == 10 else None)
    assert undisturbed.score > 0.8
    assert disturbed.losses == undisturbed.losses  # to the last bit
    assert disturbed.score == undisturbed.score


def _kill_one_replica(service: Service) -> None:
    for process in service.processes[:2]:  # both shards of the first replica
        process.send_signal(signal.SIGKILL)
        process.wait()


@needs_data
def test_likes_are_predicted_by_two_trainers_that_share_their_gradients(pages: tuple[Path, GraphTables, np.ndarray]) -> None:
    directory, tables, held_out = pages
    options = facebook_sage.Options("links", tables.dim, tables.classes, epochs=1, batch_size=2048, processes=2)
    with serving(directory, facebook_sage.GRAPH, shards=2):
        results = facebook_sage.train_together(options, held_out)
    assert len(results) == 2
    assert results[0].batches == results[1].batches
    assert results[0].score == results[1].score > 0.8  # the same model in both


def test_the_trainer_stays_smaller_than_its_graph(capfd: pytest.CaptureFixture[str]) -> None:
    larger_than_trainer.main(["--nodes", "100000", "--batches", "20"])
    told = capfd.readouterr().out
    graph_mib = int(told.split("a graph of ")[1].split()[0])
    grown_mib = int(told.split("grew by ")[1].split()[0])
    assert graph_mib > 100
    assert grown_mib < graph_mib
