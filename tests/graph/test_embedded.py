"""The embedded graph passes the contract: whole, and divided into shards in this process, each holding some partitions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import pytest

from fondaco.graph.embedded import EmbeddedGraph
from fondaco.graph.graph import Graph
from fondaco.graph.layout import GraphLayout
from fondaco.graph.opened import OpenGraph as OpenVersion
from fondaco.graph.opened import open_version
from fondaco.platform import Platform
from fondaco.testing import GraphContract
from fondaco.testing.graph import OpenGraph


def opened_parts(platform: Platform, name: str, shards: int) -> list[OpenVersion]:
    layout = GraphLayout(platform.directory / "graphs" / name)
    return [open_version(layout, 1, shard=(shard, shards)) for shard in range(shards)]


class TestEmbeddedGraph(GraphContract):
    @pytest.fixture(scope="class")
    @classmethod
    def open_graph(cls) -> OpenGraph:
        return lambda platform, name: platform.graph(name)


class TestEmbeddedGraphInShards(GraphContract):
    """Each shard holds some of the partitions: what a server does, without the network."""

    shards: ClassVar[int] = 3
    is_picklable = False

    @pytest.fixture(scope="class")
    @classmethod
    def open_graph(cls) -> Iterator[OpenGraph]:
        with contextlib.ExitStack() as stack:

            def open_graph(platform: Platform, name: str) -> Graph:
                parts = opened_parts(platform, name, cls.shards)
                return stack.enter_context(EmbeddedGraph(lambda: parts, stores=lambda store: platform.store(store).reader()))

            yield open_graph
