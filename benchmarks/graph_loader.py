"""Do grouped batches and smaller fan-outs pay? Distinct nodes and CPU of a loader's batch, with and without.

Three graphs: one of planted communities (20,000 pages in 400 of them, 16 links each, nine in ten inside); the power-law graph, which has
none; and the Facebook page graph, where FONDACO_EXAMPLES_DATA names its folder. 128-d float32 features, fan-outs [15, 10], embedded, one
thread, whole epochs. "Grouped" is `NeighborLoader(group=True)`: blocks of 64 seeds; finding the groups is timed by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

import fondaco as fd
from benchmarks._graphs import vectors
from benchmarks._harness import Figures, Report, Settings, alternate, build_once, main, times_lower
from benchmarks._powerlaw import powerlaw

NAME = "graph_loader"
QUESTION = "Do grouped batches and smaller fan-outs pay in a loader?"
DIM, BATCHES = 128, (256, 1024)
LEVELS = ([5, 3], [10, 5], [15, 10])
_INSIDE = 0.9


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rounds = settings.choose_rounds(full=5)
    seeds = settings.choose_rows(full=20_000, quick=2_000)
    report.sizes = {"seeds": seeds, "rounds": rounds, "batches": list(BATCHES)}
    for name, make in _graphs(settings):
        directory = build_once(settings.workdir / f"{NAME}-{name.replace(' ', '-')}", partial(_build, make))
        with fd.open(directory / "platform") as platform, platform.graph("g") as graph:
            ids = np.sort(graph.node_ids())[:seeds]
            begin = time.process_time()
            _loader(graph, ids, BATCHES[0], [15, 10], group=True)
            report.found(f"{name}: finding the groups, once", f"{time.process_time() - begin:.2f} s CPU")
            for size in BATCHES:
                plain, grouped = f"{name}, {size}", f"{name}, {size}, grouped"
                paths = {plain: _epochs(graph, ids, size, [15, 10]), grouped: _epochs(graph, ids, size, [15, 10], group=True)}
                results = alternate(paths, rounds=rounds)
                report.add_paths(results)
                for figure, unit in (("nodes", "nodes"), ("cpu_ms", "ms CPU")):
                    ours, peer = report.paths[grouped][figure], report.paths[plain][figure]
                    ratio = times_lower(results[grouped], results[plain], figure)
                    report.found(f"{name}: batch of {size}, grouped against not", f"{ours:,.4g} {unit}", f"{peer:,.4g} {unit}", ratio)
            paths = {f"{name}, fan-outs {level}": _epochs(graph, ids, BATCHES[-1], level) for level in LEVELS}
            results = alternate(paths, rounds=rounds)
            report.add_paths(results)
            top = f"{name}, fan-outs {LEVELS[-1]}"
            for level in LEVELS[:-1]:
                path = f"{name}, fan-outs {level}"
                ours, full = (f"{report.paths[each]['cpu_ms']:.3g} ms CPU" for each in (path, top))
                report.found(
                    f"{name}: fan-outs {level} against {LEVELS[-1]}", ours, full, times_lower(results[path], results[top], "cpu_ms")
                )


def _loader(graph: Any, ids: npt.NDArray[np.int64], size: int, fan_outs: list[int], **options: Any) -> Any:
    return fd.graph.torch.NeighborLoader(graph, ids, fan_outs, size, 0, shuffle=True, pyg=False, **options)


def _epochs(graph: Any, ids: npt.NDArray[np.int64], size: int, fan_outs: list[int], **options: Any) -> Callable[[int], Figures]:
    loader = _loader(graph, ids, size, fan_outs, **options)
    next(iter(loader))

    def epoch(number: int) -> Figures:
        loader.set_epoch(number)
        begin, nodes, edges = time.process_time(), 0, 0
        for batch in loader:
            nodes, edges = nodes + batch.num_nodes, edges + batch.edge_index.shape[1]
        spent = time.process_time() - begin
        return {"nodes": nodes / len(loader), "edges": edges / len(loader), "cpu_ms": spent * 1e3 / len(loader)}

    return epoch


def _graphs(settings: Settings) -> Iterator[tuple[str, Callable[[], tuple[npt.NDArray[np.int64], ...]]]]:
    yield "communities", lambda: _communities(2_000 if settings.quick else 20_000)
    yield "power law", lambda: _powerlaw(5_000 if settings.quick else 50_000)
    folder = Path(os.environ.get("FONDACO_EXAMPLES_DATA", "")) / "facebook_pages"
    if (folder / "edges.csv").is_file():
        yield "Facebook pages", lambda: _facebook(folder)


def _communities(nodes: int) -> tuple[npt.NDArray[np.int64], ...]:
    rng = np.random.default_rng(7)
    members = 50
    community = rng.permutation(nodes) % (nodes // members)
    in_order = np.argsort(community, kind="stable")
    src = np.repeat(np.arange(nodes), 16)
    inside = in_order[community[src] * members + rng.integers(0, members, len(src))]
    return src, np.where(rng.random(len(src)) < _INSIDE, inside, rng.integers(0, nodes, len(src)))


def _powerlaw(nodes: int) -> tuple[npt.NDArray[np.int64], ...]:
    graph = powerlaw(nodes, features=1)
    return graph.src, graph.dst


def _facebook(folder: Path) -> tuple[npt.NDArray[np.int64], ...]:
    likes = pyarrow.csv.read_csv(folder / "edges.csv")
    one, two = likes.column(0).to_numpy(), likes.column(1).to_numpy()
    return np.concatenate((one, two)), np.concatenate((two, one))


def _build(make: Callable[[], tuple[npt.NDArray[np.int64], ...]], directory: Path) -> None:
    src, dst = make()
    nodes = int(max(src.max(), dst.max())) + 1
    features = np.random.default_rng(1).normal(size=(nodes, DIM)).astype(np.float32)
    with fd.open(directory / "platform") as platform:
        table = pa.table({"id": np.arange(nodes), "x": vectors(features)})
        links = pa.table({"src": src, "dst": dst})
        platform.build_graph("g", nodes={"page": table}, edges={("page", "links", "page"): links}, progress=False)


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
