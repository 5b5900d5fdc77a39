"""The graph of pages that `facebook_sage`, `unchanged_pyg` and `unchanged_deepgnn` train on, built on a platform that stays.

    python -m examples.pages --dir data
    fondaco train --dir data --graph pages -- python -m examples.unchanged_pyg

With `--data FOLDER` (or FONDACO_EXAMPLES_DATA) it is Facebook's, 22,470 pages of four kinds; without, a made-up one of 4,000.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

import fondaco as fd
from examples._data import TRAIN, VALIDATION, VARIABLE, GraphTables, data_folder, read_facebook_pages, vectors

GRAPH = "pages"


def build(directory: Path, tables: GraphTables, *, partitions: int = 2) -> None:
    """Build the graph of pages; each like leads both ways."""
    with fd.open(directory) as platform:
        platform.build_graph(
            GRAPH,
            nodes={"page": tables.nodes},
            edges={("page", "likes", "page"): tables.edges},
            undirected=True,
            partitions=partitions,
            progress=False,
        )


def made_up_pages(count: int = 4_000, *, kinds: int = 4, dim: int = 128, seed: int = 5) -> GraphTables:
    """Pages of some kinds that like their own kind; their features say a little of it. Of five pages, one validates."""
    rng = np.random.default_rng(seed)
    ids = np.arange(count)
    label = ids % kinds
    x = (rng.standard_normal((count, dim)) + 1.5 * np.eye(kinds, dim)[label]).astype(np.float32)
    src = np.repeat(ids, 6)
    dst = (rng.integers(0, count // kinds, len(src)) * kinds + label[src]) % count
    part = np.where(ids % 5 == 0, VALIDATION, TRAIN).astype(np.int8)
    nodes = pa.table({"id": ids * 11, "x": vectors(x), "label": label, "part": part})
    return GraphTables(nodes, pa.table({"src": src * 11, "dst": dst * 11}), kinds, dim)


def main() -> None:
    """Build it and say what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path(os.environ.get("FONDACO_DIR", ".")), help="the platform's directory")
    parser.add_argument("--data", type=Path, help="folder of facebook_pages/; without: made-up pages")
    asked = parser.parse_args()
    brought = asked.data is not None or VARIABLE in os.environ
    tables = read_facebook_pages(data_folder(asked.data)) if brought else made_up_pages()
    build(asked.dir, tables)
    print(f"graph {GRAPH} in {asked.dir}: {len(tables.nodes):,} {'' if brought else 'made-up '}pages, {len(tables.edges):,} likes")


if __name__ == "__main__":
    main()
