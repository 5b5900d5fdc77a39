"""What a loader can be told, once for all loaders: which neighbours, which columns, which order, for which trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy.typing as npt

from fondaco.graph.graph import AsOf, Edge, EdgeFeatureNames, FeatureNames, OnUnknown
from fondaco.graph.queries import Strategy
from fondaco.graph.schema import Direction


class LoaderOptions(TypedDict, total=False):
    """Options of `NeighborLoader`, `LinkNeighborLoader` and `GraphIterableDataset`.

    What is sampled:
        strategy, replace, direction, edge_types: as in `Graph.sample`. direction: "out" (default, unless only "in" is stored), or "in".
        as_of: no edge later than this is seen: a datetime or microseconds, one for all or one a seed.
        on_unknown: "error" (default), or "pad": unknown seeds are left out of their batch (input_id says which are in it).

    What a batch holds:
        features: names, or {node type: names}; default: every feature but bytes (and but the labels).
        edge_features: names, or {edge type: names}; default: none. edge_weights, edge_times: as `edge_weight`, `edge_time`.
        labels: the name of a feature of the seeds, that becomes `y`; or one label a seed, in the order of the seeds.
        pyg: False: `Batch`es even where torch_geometric is installed.

    The order:
        shuffle: another order of the seeds in every epoch. seed: of the order and of the draws; None: a random one, see `loader.seed`.
        drop_last: leave out a last round that is not full. group: seeds that share neighbours go into one batch (`grouping`).
        rank, world: which of how many trainers this is; default: what torch.distributed or torchrun's environment says.

    The way here:
        pin_memory: batches lie in page-locked memory, ready for non_blocking copies to a device. timeout_s: for each request.
    """

    strategy: Strategy
    replace: bool
    direction: Direction | None
    edge_types: Sequence[Edge] | None
    as_of: AsOf
    on_unknown: OnUnknown
    features: FeatureNames | None
    edge_features: EdgeFeatureNames
    edge_weights: bool
    edge_times: bool
    labels: str | npt.NDArray[Any] | None
    pyg: bool | None
    shuffle: bool
    seed: int | None
    drop_last: bool
    group: bool | int
    rank: int | None
    world: int | None
    pin_memory: bool
    timeout_s: float | None
