"""GraphIterableDataset: the loader's batches through torch's DataLoader, for any number of worker processes."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fondaco.graph import connect
from fondaco.graph.torch import GraphIterableDataset, GrowingFanOuts, NeighborLoader
from graph.graph_servers import GraphServerProcess
from graph.torch.loader_graphs import PAGES, page_id

IDS = page_id(np.arange(PAGES))
# Python warns of forking with threads (numba and torch have some); a worker starts none of them again before it opens the graph anew.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def summary(batches):
    return [(batch.input_id.tolist(), batch.n_id.tolist(), batch.edge_index.tolist(), batch.x.tolist()) for batch in batches]


def keep_ids(batch):
    return batch.input_id


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (1, "spawn")])
def test_worker_processes_make_the_batches_of_one_process_in_its_order(pages, workers, method):
    dataset = GraphIterableDataset(pages, IDS[:200], [3, 2], 30, shuffle=True, seed=5)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=method)
    assert len(loader) == 7
    assert summary(loader) == summary(NeighborLoader(pages, IDS[:200], [3, 2], 30, shuffle=True, seed=5))


def test_workers_use_a_served_graph(platform, pages):
    server = GraphServerProcess(platform.directory, "pages").wait_until_ready()
    try:
        with connect(server.address, graph="pages") as served:
            dataset = GraphIterableDataset(served, IDS[:120], [3], 30)
            list(dataset)  # a connection that a forked worker must not use
            found = summary(DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork"))
        assert found == summary(NeighborLoader(pages, IDS[:120], [3], 30))
    finally:
        server.stop()


def test_running_workers_see_the_epoch_and_the_level_of_fan_outs(pages):
    fan_outs = GrowingFanOuts([[1], [6]])
    dataset = GraphIterableDataset(pages, IDS[:64], fan_outs, 32, shuffle=True, rank=0, world=1)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    first = [batch.edge_index.shape[1] for batch in loader]
    order = [batch.input_id.tolist() for batch in loader]
    fan_outs.report(1.0), fan_outs.report(1.0)
    dataset.set_epoch(1)
    batches = list(loader)
    assert dataset.epoch == 1
    assert first == [32, 32]
    assert min(batch.edge_index.shape[1] for batch in batches) > 100
    assert [batch.input_id.tolist() for batch in batches] != order


def test_a_transform_is_applied_where_the_batch_is_made(pages):
    dataset = GraphIterableDataset(pages, IDS[:50], [1], 25, transform=keep_ids)
    assert torch.cat(list(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork"))).tolist() == list(range(50))
