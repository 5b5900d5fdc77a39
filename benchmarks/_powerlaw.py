"""The power-law graph of the graph benchmarks: deterministic, 200,000 nodes and 4.16 million edges as it is, any size on request.

Out-degrees are Pareto distributed (shape 1.6) with a cap; destinations are a power of a uniform number, permuted, so a node's popularity
says nothing about its own degree; parallel edges are removed. Everything follows from (nodes, seed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NODES = 200_000
FEATURES = 128
_DEGREE_MAX = 5_000
_DEGREE_SCALE = 12.6
_DEGREE_SHAPE = 1.6
_POPULARITY = 2.2


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """src, dst: int64 [edges], dense ids, sorted by (src, dst); weights: float32 [edges], in [0.05, 1.05); features: float32 [nodes, d]."""

    src: npt.NDArray[np.int64]
    dst: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


def powerlaw(nodes: int = NODES, *, features: int = FEATURES, seed: int = 7) -> PowerLaw:
    """The graph of `nodes` nodes, about 21 edges each."""
    rng = np.random.default_rng(seed)
    degrees = np.minimum(np.floor(_DEGREE_SCALE * rng.pareto(_DEGREE_SHAPE, nodes) + 1), min(_DEGREE_MAX, nodes)).astype(np.int64)
    src = np.repeat(np.arange(nodes, dtype=np.int64), degrees)
    popular = rng.permutation(nodes)
    dst = popular[np.floor(nodes * rng.random(len(src)) ** _POPULARITY).astype(np.int64)]
    edges = np.unique(src * nodes + dst)
    weights = (rng.random(len(edges)) + 0.05).astype(np.float32)
    return PowerLaw(edges // nodes, edges % nodes, weights, rng.standard_normal((nodes, features), dtype=np.float32))
