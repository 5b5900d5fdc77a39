"""Edges and their ends' neighbourhoods as batches: what `LinkNeighborLoader` hands out. As `neighborhoods`, with edges for seeds.

A batch's draws are keyed by (seed, epoch, batch), its negatives too. No state; any thread; picklable if the graph is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, StateError
from fondaco.graph._arguments import pack_as_of, whole
from fondaco.graph.answers import HeteroSubgraph, Subgraph
from fondaco.graph.graph import Edge, Graph
from fondaco.graph.queries import Distribution
from fondaco.graph.schema import EdgeType
from fondaco.graph.torch.batches import batch_of, pinned
from fondaco.graph.torch.counters import mixed
from fondaco.graph.torch.fan_outs import FanOuts
from fondaco.graph.torch.hiding import without_edges
from fondaco.graph.torch.merging import merged
from fondaco.graph.torch.neighborhoods import MakeBatch, check_options, direction_of, seed_of, wanted_features
from fondaco.graph.torch.options import LoaderOptions
from fondaco.graph.torch.plan import EpochPlan, PlannedBatch
from fondaco.graph.torch.ranks import trainer_rank
from fondaco.graph.torch.tensors import absent, array_of, tensor_of

Links: TypeAlias = "npt.ArrayLike | tuple[Edge, Any] | None"
_NODES_AT_ONCE = 1 << 16
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Negatives:
    """Which false edges go with the true ones: `count` for each, drawn as `Graph.negatives` does.

    mode "binary": pairs after the true ones in `edge_label_index`, labelled 0; "triplet": `src_index`, `dst_pos_index`, `dst_neg_index`.
    """

    count: int = 0
    mode: Literal["binary", "triplet"] = "binary"
    distribution: Distribution = "uniform"
    strict: bool = True

    def __post_init__(self) -> None:
        whole(self.count, "negatives (false edges for each true one)", 0)
        if self.distribution not in get_args(Distribution):
            raise InputError(f"negative_distribution is one of {', '.join(map(repr, get_args(Distribution)))}; not {self.distribution!r}")
        if self.mode not in ("binary", "triplet") or (self.mode == "triplet" and not self.count):
            raise InputError(
                f'negatives are at least 0 an edge, in mode "binary", or at least 1 in "triplet"; got {self.count}, {self.mode!r}'
            )


class LinkNeighborhoods:
    """All batches of all epochs over edges."""

    def __init__(
        self,
        graph: Graph,
        edges: Links,
        batch_size: int,
        options: LoaderOptions,
        *,
        edge_type: Edge | None,
        edge_labels: npt.ArrayLike | None,
        negatives: Negatives,
        hide_seed_edges: bool,
    ) -> None:
        check_options(graph, options)
        for name in ("labels", "group"):
            if options.get(name) not in (None, False):
                raise InputError(f"{name}= belongs to seed nodes; the labels of edges are edge_labels=, and edges cannot be grouped")
        schema = graph.schema
        self.graph, self.options = graph, options
        self.edge, self.src, self.dst = _edges_of(graph, edges, edge_type)
        self.direction = direction_of(schema, options.get("direction"))
        self.features = wanted_features(schema, options.get("features"), {})
        self.negatives, self.hide_seed_edges = negatives, hide_seed_edges
        self.labels = None if edge_labels is None else array_of(edge_labels)
        if self.labels is not None and (len(self.labels) != len(self.src) or negatives.mode == "triplet"):
            raise InputError(f"{len(self.labels)} edge_labels for {len(self.src)} edges; give one an edge, and none with triplets")
        as_of = options.get("as_of")
        self.as_of = None if as_of is None else pack_as_of(as_of, len(self.src))
        self.seed = seed_of(options)
        self.plan = EpochPlan(
            len(self.src),
            batch_size,
            trainer_rank(options.get("rank"), options.get("world")),
            options.get("shuffle", False),
            self.seed,
            options.get("drop_last", False),
        )

    def __len__(self) -> int:
        return len(self.plan)

    def epoch(self, number: int, fan_outs: FanOuts) -> MakeBatch:
        """What makes the batch of each round of epoch `number`."""
        order = self.plan.order(number)
        return lambda index: self._batch(number, self.plan.batch(order, index), fan_outs)

    def _batch(self, epoch: int, planned: PlannedBatch, fan_outs: FanOuts) -> Any:
        positions = self._known(planned.positions)
        key = mixed(self.seed, epoch, planned.number)
        src, dst = self.src[positions], self.dst[positions]
        owners, false = self._false_ends(src, key)
        as_of = None if self.as_of is None else np.broadcast_to(self.as_of, len(self.src))[positions]
        far_as_of = None if as_of is None else np.concatenate((as_of, as_of[owners]))
        subgraph, near, far = self._sampled(src, np.concatenate((dst, false)), as_of, far_as_of, fan_outs, key)
        if self.hide_seed_edges:
            subgraph = without_edges(subgraph, self.edge, near, far[: len(near)])
        batch = batch_of(subgraph, self.direction, {}, self.options.get("pyg"))
        part = batch if isinstance(subgraph, Subgraph) else batch[self.edge.key]
        part.input_id = tensor_of(positions)
        if as_of is not None:
            part.seed_time = tensor_of(as_of)
        self._add_pairs(batch, part, near, far, owners, positions)
        return pinned(batch) if self.options.get("pin_memory") else batch

    def _known(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of the edges whose ends the graph has, where those that it lacks are to be left out."""
        if self.options.get("on_unknown") != "pad":
            return positions
        timeout_s = self.options.get("timeout_s")
        known = self.graph.contains(self.src[positions], node_type=self.edge.src, timeout_s=timeout_s)
        return positions[known & self.graph.contains(self.dst[positions], node_type=self.edge.dst, timeout_s=timeout_s)]

    def _false_ends(self, src: npt.NDArray[Any], key: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Targets of edges that are not there, and the position of the edge that each goes with."""
        count = self.negatives.count
        if count == 0:
            return np.empty(0, np.int64), src[:0]
        asked = self.negatives
        drawn = self.graph.negatives(
            src, count, edge_type=self.edge.key, distribution=asked.distribution, strict=asked.strict, seed=key,
            timeout_s=self.options.get("timeout_s"),
        )  # fmt: skip
        drawn = drawn.reshape(-1)
        there = ~absent(drawn)
        owners = np.repeat(np.arange(len(src)), count)
        if not there.all() and asked.mode == "triplet":
            full = src[owners[int((~there).argmax())]]
            raise InputError(f"node {full!r} has an edge to every node there is: no strict negatives for it; pass strict_negatives=False")
        return owners[there], drawn[there]

    def _sampled(
        self, near: npt.NDArray[Any], far: npt.NDArray[Any], near_as_of: Any, far_as_of: Any, fan_outs: FanOuts, key: int
    ) -> tuple[Subgraph | HeteroSubgraph, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The neighbourhood of both ends of all pairs, and where the ends lie in it."""
        if self.edge.src == self.edge.dst:
            as_of = None if near_as_of is None else np.concatenate((near_as_of, far_as_of))
            both: Subgraph | HeteroSubgraph = self._sample(np.concatenate((near, far)), self.edge.src, as_of, fan_outs, key)
            return both, both.seed_index[: len(near)], both.seed_index[len(near) :]
        for _ in range(_TRIES):
            first = self._sample(near, self.edge.src, near_as_of, fan_outs, key)
            second = self._sample(far, self.edge.dst, far_as_of, fan_outs, key)
            if first.version == second.version:
                return merged(first, second)
        raise StateError(f"the graph changed its version {_TRIES} times within one batch; open it at a version to train on it")

    def _sample(self, seeds: npt.NDArray[Any], node_type: str, as_of: Any, fan_outs: FanOuts, key: int) -> Any:
        options = self.options
        return self.graph.sample(
            seeds,
            fan_outs,
            features=self.features,
            edge_features=options.get("edge_features", ()),
            seed=key,
            strategy=options.get("strategy", "uniform"),
            replace=options.get("replace", False),
            as_of=as_of,
            node_type=node_type,
            edge_types=options.get("edge_types"),
            direction=self.direction,
            edge_weights=options.get("edge_weights", False),
            edge_times=options.get("edge_times", False),
            on_unknown=options.get("on_unknown", "error"),
            timeout_s=options.get("timeout_s"),
        )

    def _add_pairs(
        self, batch: Any, part: Any, near: npt.NDArray[np.int64], far: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], positions: Any
    ) -> None:
        count = len(near)
        if self.negatives.mode == "triplet":
            src, dst = (batch, batch) if part is batch else (batch[self.edge.src], batch[self.edge.dst])
            src.src_index, dst.dst_pos_index = tensor_of(near), tensor_of(far[:count])
            dst.dst_neg_index = tensor_of(far[count:].reshape(count, -1)).squeeze(-1)
            return
        part.edge_label_index = tensor_of(np.stack((np.concatenate((near, near[owners])), far)))
        true = np.ones(count, np.float32) if self.labels is None else self.labels[positions]
        part.edge_label = tensor_of(np.concatenate((true, np.zeros((len(owners), *true.shape[1:]), true.dtype))))


def _edges_of(graph: Graph, edges: Links, edge_type: Edge | None) -> tuple[EdgeType, npt.NDArray[Any], npt.NDArray[Any]]:
    """The edges' type, sources and targets: given as [2, n], (edge type, [2, n]), an edge type, or None: all edges of the type."""
    schema = graph.schema
    if isinstance(edges, tuple) and len(edges) == 2 and isinstance(edges[0], (str, tuple)) and not isinstance(edges[1], str):
        edge_type, edges = edges
    elif isinstance(edges, str) or (isinstance(edges, tuple) and len(edges) == 3 and all(isinstance(name, str) for name in edges)):
        edge_type, edges = edges, None
    if edge_type is None and len(schema.edges) != 1:
        names = ", ".join(repr(each.name) for each in schema.edges)
        raise InputError(
            f"the graph has {len(schema.edges)} edge types ({names}); say edge_type=, or give the edges as (edge type, [2, n])"
        )
    edge = schema.edges[0] if edge_type is None else schema.edge(edge_type)
    if edges is None:
        return edge, *all_edges(graph, edge)
    return edge, *_ends_of(edges)


def _ends_of(edges: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Sources and targets out of [2, n], or of the columns src and dst of a table."""
    names = getattr(edges, "column_names", getattr(edges, "columns", ()))
    if "src" in names and "dst" in names:
        edges = (edges["src"], edges["dst"])
    ends = edges if isinstance(edges, (tuple, list)) and len(edges) == 2 else array_of(edges)
    if isinstance(ends, np.ndarray) and (ends.ndim == 0 or len(ends) != 2):
        turned = "; .T makes that of it" if ends.ndim == 2 and ends.shape[1] == 2 else ", or a table with columns src and dst"
        raise InputError(f"edges have shape {ends.shape}; give sources and targets: [2, n]{turned}")
    src, dst = array_of(ends[0]), array_of(ends[1])
    if src.ndim != 1 or src.shape != dst.shape:
        raise InputError(f"sources have shape {src.shape} and targets {dst.shape}; give [n] of both")
    return src, dst


def all_edges(graph: Graph, edge: EdgeType) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Sources and targets of every edge of a type, list by list of the direction that is stored."""
    direction = edge.directions[0]
    near, far = [], []
    for ids in graph.iterate_node_ids(edge.src if direction == "out" else edge.dst, batch=_NODES_AT_ONCE):
        neighbors = graph.neighbors(ids, edge_type=edge.key, direction=direction)
        near.append(np.repeat(ids, neighbors.counts))
        far.append(neighbors.ids)
    ends = np.concatenate(near), np.concatenate(far)
    return ends if direction == "out" else ends[::-1]
