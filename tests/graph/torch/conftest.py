"""Graphs to load batches from, built once a session, small."""

import pytest
import torch

import fondaco as fd
from graph.torch.loader_graphs import page_tables, shop_tables


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def platform(tmp_path_factory):
    with fd.open(tmp_path_factory.mktemp("platform")) as opened:
        nodes, edges = page_tables()
        opened.build_graph(
            "pages", nodes={"page": nodes}, edges={("page", "links", "page"): edges}, partitions=3, directions="both", progress=False
        )
        nodes, edges = shop_tables()
        opened.build_graph("shop", nodes=nodes, edges=edges, partitions=2, directions="both", progress=False)
        yield opened


@pytest.fixture(scope="session")
def pages(platform):
    with platform.graph("pages") as graph:
        yield graph


@pytest.fixture(scope="session")
def shop(platform):
    with platform.graph("shop") as graph:
        yield graph
