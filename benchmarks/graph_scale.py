"""Does a graph ten times the size work from disk, with memory capped?

2,000,000 nodes, 41.6 M edges and 1 GB of features; building it, and then sampling with features, each in a process under a memory
control group of about a third of the graph's bytes on disk, page cache included. The same without a cap is the peer: what the disk costs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import fondaco as fd
from benchmarks._child import call, caps_available
from benchmarks._graphs import BATCH, FAN_OUTS, GRAPH, graph_arrays, vectors
from benchmarks._harness import Report, Settings, main

NAME = "graph_scale"
QUESTION = "Does a graph ten times the size work from disk, with memory capped?"
PIECE = 1 << 20  # edges a batch of the input
ROWS = 1 << 14  # nodes a batch of the input


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    nodes = settings.choose_rows(full=2_000_000, quick=20_000)
    batches = 4 if settings.quick else 100
    arrays, directory = graph_arrays(settings, nodes), settings.workdir / f"graph-scale-{nodes}"
    input_bytes = sum(file.stat().st_size for file in arrays.glob("*.npy"))
    cap = max(input_bytes // 3, 600 << 20)
    reason = caps_available()
    if reason is not None:
        report.note(f"ran without caps: {reason}")
    capped = None if reason is not None else cap
    report.sizes = {"nodes": nodes, "input_bytes": input_bytes, "cap_bytes": cap, "batches": batches, "seeds": BATCH}
    built = call(build, cap_bytes=capped, arrays=str(arrays), directory=str(directory), memory=cap // 3)
    report.paths["build, capped"] = {"seconds": built["seconds"], "per_s": built["edges"] / built["seconds"], "bytes": built["bytes"]}
    report.found(
        f"build under a cap of {cap >> 20} MiB",
        f"{built['edges'] / 1e6:.1f} M edges and {nodes / 1e6:.1f} M x 128 features, {built['bytes'] >> 20} MiB on disk, "
        f"in {built['seconds']:.0f} s: {built['edges'] / built['seconds'] / 1e6:.2f} M edges/s; peak {built['vm_hwm_bytes'] >> 20} MiB",
    )
    rates = {}
    for name, limit in (("capped", capped), ("not capped", None)):
        done = call(sample, cap_bytes=limit, directory=str(directory), nodes=nodes, batches=batches, seed=settings.seed)
        rates[name] = done["per_s"]
        report.paths[f"sample and features, {name}"] = {key: done[key] for key in ("per_s", "cpu_ms", "p50_ms", "p99_ms")}
        report.found(
            f"sample and features, {name}",
            f"{done['per_s']:.3g} batches/s, {done['cpu_ms']:.3g} ms CPU, p50 {done['p50_ms']:.3g} ms, p99 {done['p99_ms']:.3g} ms; "
            f"peak {done['vm_hwm_bytes'] >> 20} MiB",
        )
    report.found("capped against not capped, batches/s", f"{rates['capped'] / rates['not capped']:.2f}x")


def build(*, arrays: str, directory: str, memory: int) -> dict[str, Any]:
    """In a child: build the graph from mapped files, batch by batch."""
    folder = Path(arrays)
    src, dst, weights, features = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("src", "dst", "weights", "features"))
    with fd.open(directory) as platform:
        began = time.perf_counter()
        report = platform.build_graph(
            GRAPH,
            nodes={"node": pa.RecordBatchReader.from_batches(_node_schema(features.shape[1]), _node_batches(features))},
            edges={("node", "to", "node"): pa.RecordBatchReader.from_batches(_EDGES, _edge_batches(src, dst, weights))},
            partitions=8,
            memory=memory,
            progress=False,
        )
        return {"seconds": time.perf_counter() - began, "edges": len(src), "bytes": report.bytes}


_EDGES = pa.schema([("src", pa.int64()), ("dst", pa.int64()), ("weight", pa.float32())])


def _node_schema(dim: int) -> pa.Schema:
    return pa.schema([("id", pa.int64()), ("x", pa.list_(pa.float32(), dim))])


def _node_batches(features: np.ndarray) -> Any:
    for begin in range(0, len(features), ROWS):
        rows = np.array(features[begin : begin + ROWS])
        yield pa.record_batch([pa.array(np.arange(begin, begin + len(rows))), vectors(rows)], schema=_node_schema(features.shape[1]))


def _edge_batches(*columns: np.ndarray) -> Any:
    for begin in range(0, len(columns[0]), PIECE):
        yield pa.record_batch([pa.array(np.array(column[begin : begin + PIECE])) for column in columns], schema=_EDGES)


def sample(*, directory: str, nodes: int, batches: int, seed: int) -> dict[str, Any]:
    """In a child: sample with features, one batch after the other."""
    seeds = np.random.default_rng(seed).integers(0, nodes, (batches, BATCH))
    taken = []
    with fd.open(directory, create=False) as platform, platform.graph(GRAPH) as graph:
        graph.sample(seeds[0], FAN_OUTS, features=["x"], seed=0)
        cpu = time.process_time()
        for index, batch in enumerate(seeds):
            began = time.perf_counter()
            graph.sample(batch, FAN_OUTS, features=["x"], seed=index)
            taken.append(time.perf_counter() - began)
    p50, p99 = np.percentile(taken, [50, 99]) * 1e3
    return {"per_s": batches / sum(taken), "cpu_ms": (time.process_time() - cpu) / batches * 1e3, "p50_ms": p50, "p99_ms": p99}


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
