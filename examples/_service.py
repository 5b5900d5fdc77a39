"""A graph service on this machine for as long as a block lasts: `shards` x `replicas` server processes on 127.0.0.1.

What an operator does with `fondaco graph serve NAME --shard i/n`, in a script. Clients find it by the variable FONDACO_GRAPH_ENDPOINTS.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READY_S = 120.0


@dataclass(frozen=True, slots=True)
class Service:
    """What runs."""

    endpoints: list[str]
    processes: list[subprocess.Popen[bytes]]  # in the order of `endpoints`: all shards of the first replica, then the next


@contextlib.contextmanager
def serving(directory: Path, graph: str, *, shards: int = 1, replicas: int = 1) -> Iterator[Service]:
    """Serve a graph of a platform directory; FONDACO_GRAPH_ENDPOINTS says where, for this process and its children, until the end.

    Raises:
        RuntimeError: a server did not become ready.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fondaco-example-")))
        started = [
            stack.enter_context(_server(directory, graph, f"{shard}/{shards}", folder / f"{replica}-{shard}"))
            for replica in range(replicas)
            for shard in range(shards)
        ]
        endpoints = [_address(process, folder / f"{index // shards}-{index % shards}") for index, process in enumerate(started)]
        before = os.environ.get("FONDACO_GRAPH_ENDPOINTS")
        os.environ["FONDACO_GRAPH_ENDPOINTS"] = ",".join(endpoints)
        try:
            yield Service(endpoints, started)
        finally:
            if before is None:
                del os.environ["FONDACO_GRAPH_ENDPOINTS"]
            else:
                os.environ["FONDACO_GRAPH_ENDPOINTS"] = before


@contextlib.contextmanager
def _server(directory: Path, graph: str, shard: str, ready: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "fondaco.graph.serve", str(directory), graph, "--shard", shard, "--port", "0"]
    with subprocess.Popen([*command, "--ready-file", str(ready)]) as process:
        try:
            yield process
        finally:
            process.terminate()


def _address(process: subprocess.Popen[bytes], ready: Path) -> str:
    """What the server writes into its ready file once it answers."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if address := ready.read_text().strip():
                return address
        time.sleep(0.02)
    raise RuntimeError(f"a graph server did not become ready (status {process.poll()})")
