"""The tailing of a node: it follows what lies in the node's directory, and only that; and takes nothing away that the agent is making."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.catalog import StoreRow, stores
from fondaco.cluster.directory import NodeDirectory
from fondaco.cluster.tailing import NodeTailing
from fondaco.store.log_handle import LOG_DIRECTORY
from fondaco.store.overlay import Overlay


class Node:
    """A platform with store "s", and a node's directory over its log."""

    def __init__(self, directory: Path) -> None:
        self.platform = fd.open(directory / "platform")
        self.store = self.platform.create_store("s", value=pa.schema([("v", pa.int64())]), partitions=1)
        self.directory = NodeDirectory(directory / "node")
        self.directory.create(self.platform.directory / LOG_DIRECTORY)

    @property
    def row(self) -> StoreRow:
        with self.platform.catalog.read() as connection:
            return stores.get(connection, "s")

    def prepare(self) -> None:
        with self.platform.catalog.read() as connection:
            self.directory.prepare_store(self.row, stores.value_schemas(connection, self.row.id))

    def write(self, value: int) -> dict[int, int]:
        with self.store.writer("test") as writer:
            writer.put(1, {"v": value})
            return dict(writer.flush().items())

    def overlay(self) -> Overlay:
        return Overlay.open(self.directory.layout("s").overlay, self.directory.path / "log", "s.rt")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = Node(tmp_path)
    yield opened
    opened.platform.close()


def until(tailing: NodeTailing, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the tailing did not get there"
        tailing.round()
        tailing.wait()


def test_writes_are_applied_on_a_node_that_came_before_there_was_a_topic(node: Node) -> None:
    node.prepare()
    tailing = NodeTailing(node.directory)
    try:
        tailing.round()
        position = node.write(1)
        with node.overlay() as overlay:
            until(tailing, lambda: overlay.positions() == position)
    finally:
        tailing.close()


def test_a_store_that_went_and_came_back_between_two_looks_is_followed(node: Node) -> None:
    node.prepare()
    tailing = NodeTailing(node.directory)
    try:
        first = node.write(1)
        with node.overlay() as overlay:
            until(tailing, lambda: overlay.positions() == first)
        node.directory.remove_store("s")
        node.prepare()
        second = node.write(2)
        with node.overlay() as overlay:
            until(tailing, lambda: overlay.positions() == second)
    finally:
        tailing.close()


def test_a_store_that_is_being_prepared_is_left_alone(node: Node) -> None:
    node.directory.layout("s").building.mkdir(parents=True)  # the agent has come so far
    tailing = NodeTailing(node.directory)
    try:
        tailing.round()
        assert node.directory.layout("s").building.exists()
        assert node.directory.store_ids() == {}
    finally:
        tailing.close()
    node.directory.clean({})  # what the agent does when it has no part in it
    assert not node.directory.layout("s").directory.exists()
