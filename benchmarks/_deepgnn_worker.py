"""DeepGNN's side, run by its own interpreter (`.venv-deepgnn`): one JSON request a line on stdin, one JSON answer a line on stdout.

deepgnn-ge 0.1.66 at its best here: its binary format written from arrays (no text is parsed), everything in memory, its own client
classes called as its `multihop` module does, repeated nodes merged before features are fetched (its own examples fetch them once a slot).
`python _deepgnn_worker.py serve DIRECTORY PORT INDEX COUNT` is one of its servers. Imports nothing of this repository.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from deepgnn import get_logger
from deepgnn.graph_engine.snark.convert import MultiWorkersConverter
from deepgnn.graph_engine.snark.decoders import Decoder
from deepgnn.graph_engine.snark.distributed import Client as DistributedClient
from deepgnn.graph_engine.snark.distributed import Server
from deepgnn.graph_engine.snark.local import Client as LocalClient

get_logger().setLevel(logging.ERROR)
EDGE_TYPES = np.array([0])
_clients: dict[str, Any] = {}


class ArrayDecoder(Decoder):
    """A node by its number: its row of the feature matrix and its edges, from arrays. A "line" of the input is the number."""

    def __init__(self, indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, features: np.ndarray) -> None:
        super().__init__()
        self.indptr, self.indices, self.weights, self.features = indptr, indices, weights, features

    def decode(self, line: str) -> Iterator[tuple[Any, ...]]:
        """The node, then its edges."""
        node = int(line)
        yield node, -1, 0, 1.0, -1, -1, [self.features[node]]
        for position in range(self.indptr[node], self.indptr[node + 1]):
            yield node, int(self.indices[position]), 0, float(self.weights[position]), -1, -1, []


def convert(*, arrays: str, directory: str, partitions: int) -> dict[str, Any]:
    """Write DeepGNN's files. `arrays`: a folder of src, dst, weights, features as .npy, nodes 0..n-1, edges in any order."""
    src, dst, weights, features = (np.load(Path(arrays) / f"{name}.npy") for name in ("src", "dst", "weights", "features"))
    Path(directory).mkdir(parents=True)
    lines = Path(directory) / "nodes.txt"
    lines.write_text("\n".join(map(str, range(len(features)))) + "\n")
    began, cpu = time.perf_counter(), time.process_time()
    order = np.argsort(src, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(src, minlength=len(features)))])
    decoder = ArrayDecoder(indptr, dst[order], weights[order], features)
    MultiWorkersConverter(str(lines), directory, decoder, partition_count=partitions).convert()
    return {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


def open_local(*, name: str, directory: str, partitions: int) -> dict[str, Any]:
    """A client of files, in this process."""
    _clients[name] = LocalClient(directory, list(range(partitions)))
    return {}


def open_remote(*, name: str, servers: list[str]) -> dict[str, Any]:
    """A client of servers, over gRPC."""
    _clients[name] = DistributedClient(servers)
    return {}


def _sample(client: Any, seeds: np.ndarray, fan_outs: list[int]) -> np.ndarray:
    levels = [seeds]
    for fan_out in fan_outs:
        frontier = levels[-1][levels[-1] >= 0]
        levels.append(client.sample_neighbors(frontier, EDGE_TYPES, fan_out, "randomwithoutreplacement")[0].ravel())
    return np.concatenate(levels)


def _sample_features(client: Any, seeds: np.ndarray, fan_outs: list[int], dim: int) -> np.ndarray:
    nodes = np.unique(_sample(client, seeds, fan_outs))
    return client.node_features(nodes[nodes >= 0], np.array([[0, dim]]), np.float32)


def run(
    *, name: str, operation: str, draws: str, threads: int = 1, fan_outs: tuple[int, ...] = (15, 10), dim: int = 128, length: int = 20
) -> dict[str, Any]:
    """Do one operation for every row of seeds in the file `draws`, int64 [batches, seeds], with so many threads."""
    client, batches = _clients[name], np.load(draws)
    calls: dict[str, Callable[[np.ndarray], Any]] = {
        "sample": lambda seeds: _sample(client, seeds, list(fan_outs)),
        "sample and features": lambda seeds: _sample_features(client, seeds, list(fan_outs), dim),
        "gather": lambda seeds: client.node_features(seeds, np.array([[0, dim]]), np.float32),
        "walk": lambda seeds: client.random_walk(seeds, EDGE_TYPES, length, 1.0, 1.0),
        "node2vec": lambda seeds: client.random_walk(seeds, EDGE_TYPES, length, 0.5, 2.0),
    }
    call = calls[operation]
    call(batches[0])

    def work(first: int) -> None:
        for index in range(first, len(batches), threads):
            call(batches[index])

    workers = [threading.Thread(target=work, args=(first,)) for first in range(1, threads)]
    began, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    work(0)
    for worker in workers:
        worker.join()
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


_REQUESTS = {"convert": convert, "open_local": open_local, "open_remote": open_remote, "run": run}


def main() -> None:
    """Answer requests until stdin ends; or serve until stdin ends. DeepGNN prints to stdout; that goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if sys.argv[1:2] == ["serve"]:
        directory, port, index, count = sys.argv[2:]
        server = Server(f"127.0.0.1:{port}", directory, int(index), int(count))
        answers.write("ready\n")
        answers.flush()
        sys.stdin.read()
        server.reset()
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _REQUESTS[request.pop("request")](**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


main()
