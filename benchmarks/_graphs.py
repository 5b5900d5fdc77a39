"""The power-law graph of `_powerlaw.py` as a Fondaco graph, as DeepGNN's files, and the servers of both; shared by the graph benchmarks.

Clients and servers are processes of their own. CPU of a batch is that of the client and all servers together, which a busy machine
distorts least; the kernel counts it in hundredths of a second, so a round has to last for a second or so.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

import fondaco as fd
from benchmarks._harness import Figures, Settings, build_once
from benchmarks._peers import DeepgnnServer, DeepgnnWorker, Worker
from benchmarks._powerlaw import powerlaw

GRAPH = "power-law"
BATCH, FAN_OUTS, GATHERED, LENGTH, DIM = 1024, (15, 10), 100_000, 20, 128
OPERATIONS = ("sample", "sample and features", "gather", "walk", "node2vec")
_READY_S = 120.0


def choose_nodes(settings: Settings) -> int:
    """How many nodes: 200,000 with 4.16 M edges, as in the published prototype's figures."""
    return settings.choose_rows(full=200_000, quick=5_000)


def vectors(matrix: np.ndarray) -> pa.Array:
    """Rows of a matrix as an Arrow column of fixed-size lists; nothing is copied."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def fondaco_graph(settings: Settings, nodes: int, *, partitions: int = 2) -> Path:
    """A platform directory with the graph: weighted edges; feature `x` float32 [128], `x16` and `x8` the same as float16 and int8."""

    def build(directory: Path) -> None:
        graph = powerlaw(nodes)
        table = pa.table(
            {
                "id": np.arange(nodes),
                "x": vectors(graph.features),
                "x16": vectors(graph.features.astype(np.float16)),
                "x8": vectors(np.clip(graph.features * 32, -127, 127).astype(np.int8)),
            }
        )
        edges = pa.table({"src": graph.src, "dst": graph.dst, "weight": graph.weights})
        with fd.open(directory / "platform") as platform:
            platform.build_graph(GRAPH, nodes={"node": table}, edges={("node", "to", "node"): edges}, partitions=partitions, progress=False)

    return build_once(settings.workdir / f"graph-{nodes}-{partitions}", build) / "platform"


def graph_arrays(settings: Settings, nodes: int) -> Path:
    """A folder with the graph as .npy files, for the peer."""

    def build(directory: Path) -> None:
        graph = powerlaw(nodes)
        for name in ("src", "dst", "weights", "features"):
            np.save(directory / f"{name}.npy", getattr(graph, name))

    return build_once(settings.workdir / f"graph-arrays-{nodes}", build)


def deepgnn_graph(settings: Settings, worker: DeepgnnWorker, nodes: int, *, partitions: int = 2) -> Path:
    """DeepGNN's files of the same graph."""
    arrays = graph_arrays(settings, nodes)

    def build(directory: Path) -> None:
        worker.ask("convert", arrays=str(arrays), directory=str(directory / "data"), partitions=partitions)

    return build_once(settings.workdir / f"graph-deepgnn-{nodes}-{partitions}", build) / "data"


def draws(settings: Settings, nodes: int, *, batches: int, size: int) -> Path:
    """A file of seed nodes, int64 [batches, size], drawn uniformly."""
    path = settings.workdir / f"graph-draws-{nodes}-{batches}-{size}.npy"
    if not path.exists():
        np.save(path, np.random.default_rng(settings.seed).integers(0, nodes, (batches, size)))
    return path


def fondaco_worker() -> Worker:
    """A process with our clients."""
    return Worker("Fondaco", [sys.executable, "-m", "benchmarks._graph_worker"])


@contextlib.contextmanager
def fondaco_servers(directory: Path, *, shards: int) -> Iterator[tuple[list[str], list[int]]]:
    """One server a shard on 127.0.0.1: their endpoints and process ids."""
    with contextlib.ExitStack() as stack:
        endpoints, pids = [], []
        for shard in range(shards):
            ready = directory.with_name(f"shard-{shard}.ready")
            ready.unlink(missing_ok=True)
            command = [sys.executable, "-m", "fondaco.graph.serve", str(directory), GRAPH, "--shard", f"{shard}/{shards}"]
            command += ["--port", "0", "--ready-file", str(ready)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr))
            stack.callback(process.terminate)
            pids.append(process.pid)
            deadline = time.monotonic() + _READY_S
            while not ready.exists() or not ready.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server of shard {shard} did not become ready (status {process.poll()})")
                time.sleep(0.02)
            endpoints.append(ready.read_text().strip())
        yield endpoints, pids


@contextlib.contextmanager
def deepgnn_servers(directory: Path, *, shards: int) -> Iterator[tuple[list[str], list[int]]]:
    """DeepGNN's servers: their addresses and process ids."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(DeepgnnServer(directory, index, shards)) for index in range(shards)]
        yield [server.address for server in servers], [server.pid for server in servers]


def path(
    workers: Sequence[Worker], seeds: Path, *, batches: int, servers: Sequence[int] = (), **arguments: Any
) -> Callable[[int], Figures]:
    """A path of the harness: every worker does all batches at once; figures a batch, of clients and servers together."""

    def run(_: int) -> Figures:
        answers: list[dict[str, Any]] = [{}] * len(workers)

        def ask(index: int) -> None:
            answers[index] = workers[index].ask("run", draws=str(seeds), **arguments)

        before = cpu_s(servers)
        asking = [threading.Thread(target=ask, args=(index,)) for index in range(1, len(workers))]
        began = time.perf_counter()
        for thread in asking:
            thread.start()
        ask(0)
        for thread in asking:
            thread.join()
        asked_s = time.perf_counter() - began
        total = batches * len(workers)
        wall_s = answers[0]["wall_s"] if len(workers) == 1 else min(asked_s, max(answer["wall_s"] for answer in answers))
        used = sum(answer["cpu_s"] for answer in answers) + cpu_s(servers) - before
        return {"cpu_ms": used / total * 1e3, "wall_ms": wall_s / total * 1e3, "per_s": total / wall_s}

    return run


def cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds that processes have used so far, user and system."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(time_.user + time_.system for time_ in times)


def in_ms(figures: Sequence[Figures]) -> str:
    """`12.3 ms CPU a batch, 65 batches/s`, medians of the rounds."""
    cpu, rate = (float(np.median([round_[key] for round_ in figures])) for key in ("cpu_ms", "per_s"))
    return f"{cpu:.3g} ms CPU a batch, {rate:.3g} batches/s"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
