"""A served graph passes the contract, over every way and however it is divided: its answers are those of the graph in process."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fondaco.graph.service.endpoints import connect
from fondaco.platform import Platform
from fondaco.testing import GraphContract
from fondaco.testing.graph import OpenGraph
from graph.graph_servers import START_S

CHILD = Path(__file__).parent / "serving_child.py"


class Served:
    """Servers of graphs of one platform, started when the first graph is opened: one process a replica."""

    def __init__(self, shards: int, replicas: int, options: dict[str, Any]) -> None:
        self._shards, self._replicas, self._options = shards, replicas, options
        self._endpoints: dict[str, list[str]] = defaultdict(list)
        self._stack = contextlib.ExitStack()

    def open(self, platform: Platform, name: str) -> Any:
        if not self._endpoints:
            self._start(platform)
        return self._stack.enter_context(connect(self._endpoints[name][:1], **self._options))

    def close(self) -> None:
        self._stack.close()

    def _start(self, platform: Platform) -> None:
        command = [sys.executable, str(CHILD), str(platform.directory), str(self._shards), *platform.graphs()]
        processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(self._replicas)]
        for process in processes:
            self._stack.callback(_end, process)
        for process in processes:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], START_S)[0]
            for line in iter(process.stdout.readline, "ready\n"):
                assert line, f"the servers ended with {process.wait(20)}"
                graph, address = line.split()
                self._endpoints[graph].append(address)


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate(timeout=30)
    assert process.returncode == 0


class ServedContract(GraphContract):
    shards: ClassVar[int] = 1
    replicas: ClassVar[int] = 1
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def open_graph(cls) -> Iterator[OpenGraph]:
        served = Served(cls.shards, cls.replicas, cls.options)
        with contextlib.closing(served):
            yield served.open


@pytest.mark.xdist_group("TestOneServer")
class TestOneServer(ServedContract):
    """Answers in shared memory."""


@pytest.mark.xdist_group("TestOneServerOverTcp")
class TestOneServerOverTcp(ServedContract):
    options: ClassVar[dict[str, Any]] = {"unix": False, "shared_memory": False}


@pytest.mark.xdist_group("TestFourShardsOfTwoReplicas")
class TestFourShardsOfTwoReplicas(ServedContract):
    shards, replicas = 4, 2
