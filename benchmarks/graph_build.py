"""How fast is a graph built from tables?

The power-law graph with shuffled edges and arbitrary 64-bit ids (dense ones multiplied by an odd number, so that they are spread and
shuffled), weights and 128-d features, from Arrow tables to a version that can be read. Peer: DeepGNN's converter, given arrays sorted by
node so that it parses no text. Edges a second of processor time, and again of wall time.
"""

from __future__ import annotations

import resource
import shutil
import time

import numpy as np
import pyarrow as pa

import fondaco as fd
from benchmarks._graphs import choose_nodes, graph_arrays, vectors
from benchmarks._harness import Figures, Report, Settings, alternate, in_rate, main, times_higher
from benchmarks._peers import DeepgnnWorker, have_deepgnn

NAME = "graph_build"
QUESTION = "How fast is a graph built from tables?"
SPREAD = 0x9E3779B97F4A7C15
GOAL_PER_S = 0.7e6


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    nodes, rounds = choose_nodes(settings), settings.choose_rounds(full=3)
    arrays = graph_arrays(settings, nodes)
    src, dst, weights, features = (np.load(arrays / f"{name}.npy") for name in ("src", "dst", "weights", "features"))
    order = np.random.default_rng(settings.seed).permutation(len(src))
    spread = (np.arange(nodes).astype(np.uint64) * np.uint64(SPREAD)).astype(np.int64)
    edges = pa.table({"src": spread[src[order]], "dst": spread[dst[order]], "weight": weights[order]})
    table = pa.table({"id": spread, "x": vectors(features)})
    report.sizes = {"nodes": nodes, "edges": len(src), "dim": features.shape[1], "rounds": rounds}

    def ours(_: int) -> Figures:
        directory = settings.workdir / "graph-build"
        shutil.rmtree(directory, ignore_errors=True)
        with fd.open(directory) as platform:
            began, cpu = time.perf_counter(), time.process_time()
            platform.build_graph("built", nodes={"node": table}, edges={("node", "to", "node"): edges}, partitions=2, progress=False)
            wall, used = time.perf_counter() - began, time.process_time() - cpu
        shutil.rmtree(directory)
        return {"per_s": len(src) / wall, "per_cpu_s": len(src) / used, "seconds": wall, "cpu_s": used}

    paths = {"Fondaco": ours}
    worker = DeepgnnWorker() if have_deepgnn(report) else None
    if worker is not None:

        def theirs(_: int) -> Figures:
            directory = settings.workdir / "graph-build-deepgnn"
            shutil.rmtree(directory, ignore_errors=True)
            assert worker is not None
            answer = worker.ask("convert", arrays=str(arrays), directory=str(directory), partitions=2)
            shutil.rmtree(directory)
            wall, used = answer["seconds"], answer["cpu_s"]
            return {"per_s": len(src) / wall, "per_cpu_s": len(src) / used, "seconds": wall, "cpu_s": used}

        paths["DeepGNN converter"] = theirs
        with worker:
            results = alternate(paths, rounds=rounds)
    else:
        results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    mine = results["Fondaco"]
    rate = float(np.median([round_["per_cpu_s"] for round_ in mine]))
    report.found_floor(
        "edges a second of one core, arbitrary ids, features included",
        in_rate(mine, "edges", "per_cpu_s"),
        value=rate,
        at_least=GOAL_PER_S,
        unit="edges/s",
    )
    report.note(f"peak memory of this process, its input tables included: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    if worker is not None:
        peer = results["DeepGNN converter"]
        for question, figure in (("a second of processor time", "per_cpu_s"), ("a second", "per_s")):
            report.found(
                f"edges {question}", in_rate(mine, "edges", figure), in_rate(peer, "edges", figure), times_higher(mine, peer, figure)
            )


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
