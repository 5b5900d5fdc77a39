"""Our side of the graph benchmarks in a process of its own, as the peer's is: one JSON request a line in, one JSON answer a line out.

`run` times one operation over prepared seeds; its figures are of the process, the servers' are read from outside.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fondaco as fd

_opened: list[Any] = []
_graphs: dict[str, Any] = {}


def open_embedded(*, name: str, directory: str, graph: str) -> dict[str, Any]:
    """A graph of a platform directory, in this process."""
    platform = fd.open(directory, create=False)
    _opened.append(platform)
    _graphs[name] = platform.graph(graph)
    return {}


def open_served(*, name: str, endpoints: list[str], graph: str, shared_memory: bool) -> dict[str, Any]:
    """A graph behind servers; without shared memory over TCP alone."""
    _graphs[name] = fd.graph.connect(endpoints, graph=graph, shared_memory=shared_memory, unix=shared_memory)
    return {}


def close(*, name: str) -> dict[str, Any]:
    """Close a graph."""
    _graphs.pop(name).close()
    return {}


def call_of(graph: Any, operation: str, fan_outs: Sequence[int], length: int, feature: str) -> Callable[[np.ndarray, int], Any]:
    """What one batch is, of seeds int64 [n] and a seed of its draws."""
    calls: dict[str, Callable[[np.ndarray, int], Any]] = {
        "sample": lambda seeds, seed: graph.sample(seeds, fan_outs, seed=seed),
        "sample and features": lambda seeds, seed: graph.sample(seeds, fan_outs, features=[feature], seed=seed).features[feature],
        "gather": lambda seeds, seed: graph.features(seeds, [feature])[feature],
        "walk": lambda seeds, seed: graph.random_walk(seeds, length, seed=seed),
        "node2vec": lambda seeds, seed: graph.node2vec(seeds, length, p=0.5, q=2.0, seed=seed),
    }
    return calls[operation]


def run(
    *,
    name: str,
    operation: str,
    draws: str,
    threads: int = 1,
    fan_outs: Sequence[int] = (15, 10),
    length: int = 20,
    feature: str = "x",
) -> dict[str, Any]:
    """Do one operation for every row of seeds in the file `draws`, int64 [batches, seeds], with so many threads."""
    batches, call = np.load(draws), call_of(_graphs[name], operation, fan_outs, length, feature)
    call(batches[0], 0)
    call(batches[1], 1)

    def work(first: int) -> None:
        for index in range(first, len(batches), threads):
            call(batches[index], index)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(1, threads)]
    began, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    work(0)
    for worker in workers:
        worker.join()
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


_REQUESTS = {"open_embedded": open_embedded, "open_served": open_served, "close": close, "run": run}


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _REQUESTS[request.pop("request")](**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for graph in _graphs.values():
        graph.close()
    for platform in _opened:
        platform.close()


if __name__ == "__main__":
    main()
