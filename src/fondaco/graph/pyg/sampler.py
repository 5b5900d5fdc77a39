"""NeighborSampler: PyG's BaseSampler over a graph, so that PyG's NodeLoader and LinkLoader draw from it, embedded or served.

Draws are keyed by (seed, epoch, the batch's seeds): whichever worker process of a loader asks, a batch has the same neighbourhood, and the
next epoch (`set_epoch`, seen by running workers too) or another shuffle draws others. Any thread.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch_geometric.sampler import (
    BaseSampler,
    EdgeSamplerInput,
    HeteroSamplerOutput,
    NegativeSampling,
    NodeSamplerInput,
    NumNeighbors,
    SamplerOutput,
)

from fondaco.core.errors import InputError, StateError
from fondaco.graph.answers import HeteroSubgraph, Subgraph
from fondaco.graph.graph import Edge, Graph
from fondaco.graph.pyg.indexing import NodeIndex
from fondaco.graph.queries import Distribution, Strategy
from fondaco.graph.schema import Direction, EdgeType
from fondaco.graph.torch.batches import message_type
from fondaco.graph.torch.counters import mixed
from fondaco.graph.torch.fan_outs import FanOuts, hops_of
from fondaco.graph.torch.merging import merged
from fondaco.graph.torch.tensors import absent, array_of, message_index, tensor_of

AnyFanOuts: TypeAlias = "Sequence[int | Mapping[Edge, int]] | Mapping[Edge, Sequence[int]] | NumNeighbors"
_Index = npt.NDArray[np.int64]
_TRIES = 5


class NeighborSampler(BaseSampler):  # type: ignore[misc]  # PyG's classes are not typed here
    """Samples neighbourhoods for PyG's loaders.

    Args:
        fan_outs: PyG's num_neighbors: [15, 10], {edge type: [15, 10]} or NumNeighbors; or one entry a hop, as `Graph.sample` takes it.
        direction: "in": neighbours that send messages along edges, as PyG has it; "out": along edges, messages go back.
        strategy, replace, edge_types, timeout_s: as in `Graph.sample`. A loader's input_time (microseconds) is `as_of`.
        strict_negatives, negative_distribution: for LinkLoader's neg_sampling: other targets for the batch's sources.
    """

    def __init__(
        self,
        graph: Graph,
        fan_outs: AnyFanOuts,
        *,
        index: NodeIndex | None = None,
        direction: Direction | None = None,
        seed: int = 0,
        strategy: Strategy = "uniform",
        replace: bool = False,
        edge_types: Sequence[Edge] | None = None,
        strict_negatives: bool = True,
        negative_distribution: Distribution = "uniform",
        timeout_s: float | None = None,
    ) -> None:
        self.graph, self.index = graph, index or NodeIndex(graph)
        self.direction = pyg_direction(graph, direction)
        self.fan_outs = _by_hop(graph, fan_outs, self.direction)
        self.seed, self.strategy, self.replace, self.edge_types = seed, strategy, replace, edge_types
        self.strict_negatives, self.negative_distribution = strict_negatives, negative_distribution
        self.timeout_s = timeout_s
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw other neighbours from now on, even for the same batches: `epoch` is part of the key."""
        self._epoch[0] = epoch

    def sample_from_nodes(self, inputs: NodeSamplerInput) -> SamplerOutput | HeteroSamplerOutput:
        """The neighbourhood of `inputs.node`, which are indexes (`NodeIndex`)."""
        node_type = self._node_type(inputs.input_type)
        indexes, times = array_of(inputs.node), None if inputs.time is None else array_of(inputs.time)
        ids = self.index.ids(node_type, indexes)
        subgraph = self._sample(ids, node_type, times, self._key(indexes))
        output = self._output(subgraph, homogeneous=inputs.input_type is None)
        output.metadata = (inputs.input_id, inputs.time)
        return output

    def sample_from_edges(
        self, inputs: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None
    ) -> SamplerOutput | HeteroSamplerOutput:
        """The neighbourhoods of both ends of edges, and of false ends. `row` and `col` are indexes."""
        edge = self._edge(inputs.input_type)
        near, far = array_of(inputs.row), array_of(inputs.col)
        times = None if inputs.time is None else array_of(inputs.time)
        key = self._key(np.concatenate((near, far)))
        src, dst = self.index.ids(edge.src, near), self.index.ids(edge.dst, far)
        owners, false = self._false_ends(edge, src, neg_sampling, key)
        far_ids = np.concatenate((dst, false))
        far_times = None if times is None else np.concatenate((times, times[owners]))
        triplet = neg_sampling is not None and neg_sampling.is_triplet()
        subgraph, near_places, far_places = self._sample_ends(edge, src, far_ids, times, far_times, key)
        output = self._output(subgraph, homogeneous=inputs.input_type is None)
        count = len(src)
        if triplet:
            negatives = tensor_of(far_places[count:].reshape(count, -1)).squeeze(-1)
            output.metadata = (inputs.input_id, tensor_of(near_places), tensor_of(far_places[:count]), negatives, inputs.time)
            return output
        pairs = np.stack((np.concatenate((near_places, near_places[owners])), far_places))
        label = inputs.label
        if len(owners) or neg_sampling is not None:
            label = torch.ones(count) if label is None else label
            label = torch.cat((label, label.new_zeros((len(owners), *label.shape[1:]))))
        label_times = None if far_times is None else tensor_of(far_times)
        output.metadata = (inputs.input_id, tensor_of(pairs), label, label_times)
        return output

    # -- parts ----------------------------------------------------------------------------------------------------------------------

    def _sample(self, ids: npt.NDArray[Any], node_type: str, times: Any, key: int) -> Any:
        return self.graph.sample(
            ids, self.fan_outs, seed=key, strategy=self.strategy, replace=self.replace, as_of=times, node_type=node_type,
            edge_types=self.edge_types, direction=self.direction, timeout_s=self.timeout_s,
        )  # fmt: skip

    def _sample_ends(
        self, edge: EdgeType, src: npt.NDArray[Any], far: npt.NDArray[Any], times: Any, far_times: Any, key: int
    ) -> tuple[Subgraph | HeteroSubgraph, _Index, _Index]:
        if edge.src == edge.dst:
            both_times = None if times is None else np.concatenate((times, far_times))
            both: Subgraph | HeteroSubgraph = self._sample(np.concatenate((src, far)), edge.src, both_times, key)
            return both, both.seed_index[: len(src)], both.seed_index[len(src) :]
        for _ in range(_TRIES):
            first, second = self._sample(src, edge.src, times, key), self._sample(far, edge.dst, far_times, key)
            if first.version == second.version:
                return merged(first, second)
        raise StateError(f"the graph changed its version {_TRIES} times within one batch; open it at a version to train on it")

    def _false_ends(
        self, edge: EdgeType, src: npt.NDArray[Any], asked: NegativeSampling | None, key: int
    ) -> tuple[_Index, npt.NDArray[Any]]:
        """Ids of `amount` false targets an edge, and the edge that each goes with."""
        if asked is None or not len(src):
            return np.empty(0, np.int64), src[:0]
        total = math.ceil(len(src) * asked.amount)
        if asked.dst_weight is not None:
            drawn = self.index.ids(edge.dst, array_of(asked.sample(total, "dst", self.graph.node_count(edge.dst))))
            return np.arange(total) % len(src) if asked.is_binary() else np.arange(total) // int(asked.amount), drawn
        each = -(-total // len(src))
        grid = self.graph.negatives(
            src, each, edge_type=edge.key, distribution=self.negative_distribution, strict=self.strict_negatives, seed=key,
            timeout_s=self.timeout_s,
        )  # fmt: skip
        missing = absent(grid)
        if missing.any():  # a source that leads everywhere: PyG wants as many as it asked for, so any node will have to do
            rows = np.flatnonzero(missing.any(axis=1))
            anything = self.graph.negatives(src[rows], each, edge_type=edge.key, strict=False, seed=key, timeout_s=self.timeout_s)
            grid = grid.copy()
            grid[rows] = np.where(missing[rows], anything, grid[rows])
        owners = np.tile(np.arange(len(src)), each)[:total] if asked.is_binary() else np.repeat(np.arange(len(src)), each)
        drawn = grid.T.reshape(-1)[:total] if asked.is_binary() else grid.reshape(-1)
        return owners, drawn

    def _output(self, subgraph: Subgraph | HeteroSubgraph, *, homogeneous: bool) -> SamplerOutput | HeteroSamplerOutput:
        if isinstance(subgraph, Subgraph):
            node, edge = self.graph.schema.nodes[0].name, self.graph.schema.edges[0].key
            subgraph = HeteroSubgraph(
                nodes={node: subgraph.nodes}, edge_index={edge: subgraph.edge_index}, hop_offsets={node: subgraph.hop_offsets},
                edge_hop_offsets={edge: subgraph.edge_hop_offsets}, seed_type=node, seed_index=subgraph.seed_index, features={},
                version=subgraph.version, seed=subgraph.seed, edge_ids={} if subgraph.edge_ids is None else {edge: subgraph.edge_ids},
            )  # fmt: skip
        elif homogeneous:
            raise InputError("the graph has several types; say of which the loader's nodes are: input_nodes=(node type, indexes)")
        nodes = {kind: tensor_of(self.index.indexes(kind, ids)) for kind, ids in subgraph.nodes.items()}
        messages = {key: message_index(index, self.direction) for key, index in subgraph.edge_index.items()}
        named = {key: message_type(key, self.direction) for key in messages}
        found = HeteroSamplerOutput(
            node=nodes,
            row={named[key]: index[0] for key, index in messages.items()},
            col={named[key]: index[1] for key, index in messages.items()},
            edge={named[key]: tensor_of(ids) for key, ids in subgraph.edge_ids.items()},
            num_sampled_nodes={kind: np.diff(offsets).tolist() for kind, offsets in subgraph.hop_offsets.items()},
            num_sampled_edges={named[key]: np.diff(offsets).tolist() for key, offsets in subgraph.edge_hop_offsets.items()},
        )
        if not homogeneous:
            return found
        (node,), (key,) = found.node, found.row
        return SamplerOutput(
            node=found.node[node],
            row=found.row[key],
            col=found.col[key],
            edge=found.edge.get(key),
            num_sampled_nodes=found.num_sampled_nodes[node],
            num_sampled_edges=found.num_sampled_edges[key],
        )

    def _key(self, indexes: _Index) -> int:
        digest = hashlib.blake2b(np.ascontiguousarray(indexes).tobytes(), digest_size=8).digest()
        return mixed(self.seed, int(self._epoch[0]), int.from_bytes(digest, "little"))

    def _node_type(self, said: str | None) -> str:
        nodes = self.graph.schema.nodes
        if said is None and len(nodes) != 1:
            raise InputError(f"the graph has several node types; say of which the nodes are: input_nodes=({nodes[0].name!r}, indexes)")
        return nodes[0].name if said is None else self.graph.schema.node(said).name

    def _edge(self, said: Any) -> EdgeType:
        edges = self.graph.schema.edges
        if said is None:
            if len(edges) != 1:
                raise InputError(
                    f"the graph has several edge types; say of which the edges are: edge_label_index=({edges[0].key!r}, index)"
                )
            return edges[0]
        return self.graph.schema.edge(tuple(said))


def pyg_direction(graph: Graph, said: Direction | None = None) -> Direction:
    """The direction said; else "in", PyG's own, where all edge types store it, and "out" elsewhere."""
    return said or ("in" if all("in" in edge.directions for edge in graph.schema.edges) else "out")


def _by_hop(graph: Graph, fan_outs: AnyFanOuts, direction: Direction) -> FanOuts:
    """Fan-outs, one entry a hop."""
    values: Any = fan_outs
    if isinstance(values, NumNeighbors):
        types = [message_type(edge.key, direction) for edge in graph.schema.edges]
        values = values.get_values(types) if isinstance(values.values, dict) and values.default is not None else values.get_values()
    return hops_of(graph.schema, direction, values)
