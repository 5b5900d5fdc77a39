"""Warming: what a server asks itself before it is ready."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from fondaco.graph import queries
from fondaco.graph.embedded import EmbeddedGraph
from fondaco.graph.execution import Execution
from fondaco.graph.layout import GraphLayout
from fondaco.graph.opened import open_version
from fondaco.graph.service import warming
from fondaco.graph.service.versions import ServedVersion
from graph.divided import social


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> GraphLayout:
    path = tmp_path_factory.mktemp("warming")
    social(path, directions="both")
    return GraphLayout(path / "graphs" / "g")


@pytest.mark.parametrize("shard", [(0, 1), (0, 2), (1, 2), (1, 3), (15, 16)])
def test_a_shard_asks_itself_every_kind_of_question_whatever_it_holds(
    layout: GraphLayout, shard: tuple[int, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answered: set[str] = set()
    execute = warming.execute

    def counted(query: queries.Query, *arguments: object, **options: object) -> object:
        answer = execute(query, *arguments, **options)  # type: ignore[arg-type]
        answered.add(type(query).__name__)
        return answer

    monkeypatch.setattr(warming, "execute", counted)
    version = ServedVersion(open_version(layout, 1, shard=shard))
    with caplog.at_level(logging.DEBUG, logger=warming.__name__):
        warming.warm(version)
    if not version.opened.held:
        assert not answered
        return
    assert answered >= {"Sample", "RandomWalk", "Node2Vec", "PageRank", "Negatives", "SampleNodes", "SampleEdges"}
    assert not caplog.messages


def test_what_puts_parts_together_is_called_before_a_shard_is_ready(layout: GraphLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    divided: list[int] = []
    ask_many = Execution.ask_many

    def counted(self: Execution, asks: object) -> object:
        parts = ask_many(self, asks)  # type: ignore[arg-type]
        divided.extend(len(part.orders) for part in parts)
        return parts

    monkeypatch.setattr(Execution, "ask_many", counted)
    warming.warm(ServedVersion(open_version(layout, 1, shard=(0, 2))))
    assert max(divided) == 2


def test_nothing_of_it_stays(layout: GraphLayout) -> None:
    halves = [ServedVersion(open_version(layout, 1, shard=(half, 2))) for half in range(2)]
    for half in halves:
        warming.warm(half)
    seeds = np.arange(20) * 7 - 50
    with (
        EmbeddedGraph(lambda: [half.opened for half in halves]) as warmed,
        EmbeddedGraph(lambda: [open_version(layout, 1)]) as fresh,
    ):
        for graph in (warmed, fresh):
            assert graph.version == 1
        here, there = (graph.sample_edges(30, "met", weighted=True, seed=4) for graph in (warmed, fresh))
        assert np.array_equal(here.edge_ids, there.edge_ids)
        negatives = [graph.negatives(seeds, 3, edge_type="knows", distribution="degree", seed=1) for graph in (warmed, fresh)]
        assert np.array_equal(negatives[0], negatives[1])
