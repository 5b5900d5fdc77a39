"""Seeds and their neighbourhoods as batches: what `NeighborLoader` and `GraphIterableDataset` hand out, without the order of calls.

`Neighborhoods.epoch(number, fan_outs)` gives a function from a round to its batch. That function has no state: the same for any thread,
worker process or machine, because the order of seeds is keyed by (seed, epoch) and a batch's draws by (seed, epoch, batch). Picklable if
the graph is. Any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, near_name
from fondaco.graph._arguments import pack_as_of, pack_edge_features, pack_node_features, pack_seed
from fondaco.graph.answers import HeteroSubgraph, Subgraph
from fondaco.graph.graph import FeatureNames, Graph
from fondaco.graph.schema import Direction, GraphSchema, NodeType
from fondaco.graph.torch.batches import batch_of, pinned, seed_count, seed_part
from fondaco.graph.torch.counters import mixed
from fondaco.graph.torch.fan_outs import FanOuts
from fondaco.graph.torch.grouping import GROUP_SIZE, groups_of
from fondaco.graph.torch.options import LoaderOptions
from fondaco.graph.torch.plan import EpochPlan, PlannedBatch
from fondaco.graph.torch.ranks import trainer_rank
from fondaco.graph.torch.tensors import array_of, tensor_of

Seeds: TypeAlias = "npt.ArrayLike | Sequence[str] | str | tuple[str, Any] | None"
MakeBatch: TypeAlias = Callable[[int], Any]


class Neighborhoods:
    """All batches of all epochs over `seeds`."""

    def __init__(self, graph: Graph, seeds: Seeds, batch_size: int, options: LoaderOptions, node_type: str | None = None) -> None:
        check_options(graph, options)
        schema = graph.schema
        self.graph, self.options = graph, options
        self.node_type, ids = seeds_of(graph, seeds, node_type)
        self.ids = ids
        self.seed = seed_of(options)
        self.direction = direction_of(schema, options.get("direction"))
        self.labels, label = self._labels(options.get("labels"), schema.node(self.node_type))
        self.features = wanted_features(schema, options.get("features"), {self.node_type: label} if label else {})
        self._renamed = {label: "y"} if label else {}
        as_of = options.get("as_of")
        self.as_of = None if as_of is None else pack_as_of(as_of, len(ids))
        group = options.get("group", False)
        self.plan = EpochPlan(
            len(ids),
            batch_size,
            trainer_rank(options.get("rank"), options.get("world")),
            options.get("shuffle", False),
            self.seed,
            options.get("drop_last", False),
            groups_of(graph, ids, self.node_type, self.direction, GROUP_SIZE if group is True else int(group)) if group else None,
        )

    def __len__(self) -> int:
        return len(self.plan)

    def epoch(self, number: int, fan_outs: FanOuts) -> MakeBatch:
        """What makes the batch of each round of epoch `number`."""
        order = self.plan.order(number)
        return lambda index: self._batch(number, self.plan.batch(order, index), fan_outs)

    def _batch(self, epoch: int, planned: PlannedBatch, fan_outs: FanOuts) -> Any:
        positions = planned.positions
        options = self.options
        subgraph = self.graph.sample(
            self.ids[positions],
            fan_outs,
            features=self.features,
            edge_features=options.get("edge_features", ()),
            seed=mixed(self.seed, epoch, planned.number),
            strategy=options.get("strategy", "uniform"),
            replace=options.get("replace", False),
            as_of=self._as_of_of(positions),
            node_type=self.node_type,
            edge_types=options.get("edge_types"),
            direction=self.direction,
            edge_weights=options.get("edge_weights", False),
            edge_times=options.get("edge_times", False),
            on_unknown=options.get("on_unknown", "error"),
            timeout_s=options.get("timeout_s"),
        )
        batch = batch_of(subgraph, self.direction, self._renamed, options.get("pyg"))
        self._add_seeds(batch, subgraph, positions)
        return pinned(batch) if options.get("pin_memory") else batch

    def _add_seeds(self, batch: Any, subgraph: Subgraph | HeteroSubgraph, positions: npt.NDArray[np.int64]) -> None:
        part, seed_index = seed_part(batch, subgraph), subgraph.seed_index
        if self.options.get("on_unknown") == "pad":
            positions, seed_index = positions[seed_index >= 0], seed_index[seed_index >= 0]
        part.input_id, part.seed_index = tensor_of(positions), tensor_of(seed_index)
        part.batch_size = seed_count(subgraph)
        if self.labels is not None:
            part.y = tensor_of(self.labels[positions])
        if self.as_of is not None:
            part.seed_time = tensor_of(np.broadcast_to(self.as_of, len(self.ids))[positions])

    def _as_of_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | int | None:
        if self.as_of is None:
            return None
        return int(self.as_of[0]) if len(self.as_of) == 1 else self.as_of[positions]

    def _labels(self, labels: Any, of: NodeType) -> tuple[npt.NDArray[Any] | None, str]:
        """Labels given one by one, or the name of the feature that holds them."""
        if labels is None:
            return None, ""
        if isinstance(labels, str):
            of.feature(labels)
            return None, labels
        array = array_of(labels)
        if len(array) != len(self.ids):
            raise InputError(f"there are {len(array)} labels for {len(self.ids)} seeds; give one a seed, in the order of the seeds")
        return array, ""


def seed_of(options: LoaderOptions) -> int:
    """The seed of orders and draws: the one said (default 0), or a random one for None."""
    said = options.get("seed", 0)
    return pack_seed(said)


def seeds_of(graph: Graph, seeds: Seeds, node_type: str | None) -> tuple[str, npt.NDArray[Any]]:
    """The seeds' node type and ids: given as ids, (node type, ids), a node type (all its nodes), or None (all nodes).

    Raises:
        InputError: several node types, and none said. NodeTypeNotFoundError.
    """
    if isinstance(seeds, str):
        seeds = (seeds, None)
    if isinstance(seeds, tuple) and len(seeds) == 2 and isinstance(seeds[0], str) and not isinstance(seeds[1], (str, int)):
        if node_type is not None and node_type != seeds[0]:
            raise InputError(f"the seeds are said to be {seeds[0]!r} nodes, and node_type is {node_type!r}")
        node_type, seeds = seeds
    types = graph.schema.nodes
    if node_type is None and len(types) > 1:
        names = ", ".join(repr(each.name) for each in types)
        raise InputError(f"the graph has several node types: {names}; give the seeds as ({types[0].name!r}, ids)")
    found = graph.schema.node(types[0].name if node_type is None else node_type)
    if seeds is None:
        return found.name, graph.node_ids(found.name)
    ids = array_of(seeds)
    if ids.dtype == bool:
        raise InputError("seeds are ids, not a mask; give ids[mask]")
    if ids.ndim != 1:
        raise InputError(f"seeds have shape {ids.shape}; give one id after the other: shape [n]")
    return found.name, ids.astype(object) if ids.dtype.kind == "U" else ids.astype(np.int64) if ids.size == 0 else ids


def direction_of(schema: GraphSchema, said: Direction | None) -> Direction:
    """The direction to sample in: the one said, else "out", else (where only that is stored) "in"."""
    if said is not None:
        return said
    return "in" if schema.edges and not any("out" in edge.directions for edge in schema.edges) else "out"


def wanted_features(schema: GraphSchema, said: FeatureNames | None, labels: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of the features to fetch by node type: those said (all but bytes by default), and labels, {node type: name}.

    Raises:
        InputError: a feature is called like something else that batches hold, or "y" where another one is the label.
        FeatureNotFoundError, NodeTypeNotFoundError.
    """
    wanted: dict[str, list[str]] = {}
    if said is None:
        for node in schema.nodes:
            wanted[node.name] = [each.name for each in node.features if each.kind != "bytes"]
    else:
        for node_type, name in pack_node_features(schema, said):
            wanted.setdefault(node_type, []).append(name)
    for node_type, names in wanted.items():
        _refuse_reserved(names, f"feature of node type {node_type!r}", "features")
    for node_type, name in labels.items():
        names = wanted.setdefault(node_type, [])
        if name != "y" and "y" in names:
            if said is not None:
                raise InputError(f"features= asks for 'y', and labels={name!r} becomes y; leave one of them out")
            names.remove("y")
        if name not in names:
            names.append(name)
    return {node_type: names for node_type, names in wanted.items() if names}


def check_options(graph: object, options: LoaderOptions) -> None:
    """Refuse options that no loader has, and what is no graph.

    Raises:
        InputError: names the nearest that there is. FeatureNotFoundError.
    """
    if not isinstance(graph, Graph):
        raise InputError(f"a loader takes a graph, as platform.graph(name) or fd.graph.connect() gives; not {graph!r}")
    for name in options:
        if name not in LoaderOptions.__annotations__:
            near = _PYG_NAMES.get(name) or near_name(name, LoaderOptions.__annotations__)
            raise InputError(f"a loader has no option {name!r}" + (f"; did you mean {near!r}?" if near else "; see LoaderOptions"))
    names = [name for _, name in pack_edge_features(graph.schema, options.get("edge_features", ()))]
    _refuse_reserved(names, "edge feature", "edge_features")


_PYG_NAMES: Final = {
    "num_neighbors": "fan_outs",
    "input_nodes": "seeds",
    "input_time": "as_of",
    "time_attr": "as_of",
    "num_workers": "threads",
    "prefetch_factor": "prefetch",
    "edge_label_index": "edges",
    "edge_label": "edge_labels",
    "edge_label_time": "as_of",
    "neg_sampling": "negatives",
    "neg_sampling_ratio": "negatives",
    "world_size": "world",
}

_RESERVED: Final = frozenset({
    *("edge_index", "n_id", "e_id", "input_id", "seed_index", "batch_size", "num_nodes", "num_sampled_nodes", "num_sampled_edges"),
    *("edge_weight", "edge_time", "seed_time", "as_of", "seed", "version", "edge_label", "edge_label_index"),
    *("src_index", "dst_pos_index", "dst_neg_index"),
})  # fmt: skip


def _refuse_reserved(names: Sequence[str], what: str, option: str) -> None:
    """Refuse names that mean something else in a batch: one of the two would be lost."""
    taken = [name for name in names if name in _RESERVED]
    if taken:
        raise InputError(f"{what} {taken[0]!r} is called like something else that batches hold; name the ones to fetch by {option}=")
