"""Batches: a sampled neighbourhood as tensors, under the names that PyG's models and examples use.

Where torch_geometric is installed a batch is its `Data` or `HeteroData`, else a `Batch` or `HeteroBatch` with the same fields:

    x, ...             the features asked for, each under its own name: [nodes, ...]
    y                  labels: of all nodes if they are a feature of the graph; of the seeds (as input_id) if they were given as an array
    edge_index         int64 [2, edges]: messages, from the sampled neighbour (row 0) to the node it was drawn for (row 1)
    n_id               ids of the nodes: int64 [nodes] (an object array for string ids). e_id: int64 [edges], edge ids
    input_id           int64 [seeds of the batch]: their positions in the loader's `seeds`
    seed_index         int64 [seeds of the batch]: where each lies among the nodes; out[batch.seed_index] is right even if a seed repeats
    batch_size         how many distinct seeds there are: they are the first nodes, so out[:batch.batch_size] are the seeds' rows
    num_sampled_nodes, num_sampled_edges    how many were new at each hop (torch_geometric.utils.trim_to_layer)
    edge_weight, edge_time, seed_time, as_of    if asked for, or if seeds have times
    seed, version      of the draws, and of the graph that all of it came from

With several types each field lies at its node type, batch["page"].x, or edge type, batch["page", "links", "page"].edge_index; message
types of edges walked along their direction are called as PyG calls reversed edges: ("b", "rev_relation", "a") for ("a", "relation", "b").
Values; a batch belongs to whoever took it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fondaco.graph.answers import HeteroSubgraph, Subgraph
from fondaco.graph.schema import EdgeKey
from fondaco.graph.torch.extras import find_geometric, need_geometric
from fondaco.graph.torch.tensors import Held, feature_of, ids_of, message_index, tensor_of

if TYPE_CHECKING:
    from torch_geometric.data import Data, HeteroData

AnyBatch: TypeAlias = "Data | HeteroData | Batch | HeteroBatch"


class Batch:
    """Named tensors: `batch.x`, `batch.to(device)`, `"y" in batch`."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this batch has no {name!r}; it has {', '.join(self.__dict__) or 'nothing'}")

    def __setitem__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def keys(self) -> list[str]:
        """Names of its fields."""
        return list(self.__dict__)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same with every tensor on `device`."""
        return Batch(**{name: _moved(value, device, non_blocking) for name, value in self.__dict__.items()})

    def pin_memory(self) -> Batch:
        """The same with every tensor in page-locked memory."""
        return Batch(**{name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in self.__dict__.items()})

    def __repr__(self) -> str:
        shown = (f"{name}={list(value.shape) if hasattr(value, 'shape') else value!r}" for name, value in self.__dict__.items())
        return f"Batch({', '.join(shown)})"


class HeteroBatch:
    """Named tensors by node type and edge type: `batch["page"].x`, `batch.x_dict`, `batch["a", "rel", "b"].edge_index`."""

    def __init__(self) -> None:
        self._parts: dict[str | EdgeKey, Batch] = {}

    def __getitem__(self, kind: str | EdgeKey) -> Batch:
        return self._parts.setdefault(kind, Batch())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not name.endswith("_dict"):
            raise AttributeError(
                f"this batch has no {name!r}; what belongs to a type lies there: batch[node type].x, or x_dict of all types"
            )
        field = name.removesuffix("_dict")
        return {kind: part[field] for kind, part in self._parts.items() if field in part}

    def __iter__(self) -> Iterator[str | EdgeKey]:
        return iter(self._parts)

    @property
    def node_types(self) -> list[str]:
        """Node types that it has a part for."""
        return [kind for kind in self._parts if isinstance(kind, str)]

    @property
    def edge_types(self) -> list[EdgeKey]:
        """Message types that it has a part for."""
        return [kind for kind in self._parts if not isinstance(kind, str)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> HeteroBatch:
        """The same with every tensor on `device`."""
        return self._with({kind: part.to(device, non_blocking) for kind, part in self._parts.items()})

    def pin_memory(self) -> HeteroBatch:
        """The same with every tensor in page-locked memory."""
        return self._with({kind: part.pin_memory() for kind, part in self._parts.items()})

    def _with(self, parts: dict[str | EdgeKey, Batch]) -> HeteroBatch:
        other = HeteroBatch()
        other.__dict__.update(self.__dict__, _parts=parts)
        return other

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def message_type(key: EdgeKey, direction: str) -> EdgeKey:
    """The type of the messages that go along edges of type `key`, walked in `direction`: towards the node that was expanded."""
    return (key[2], f"rev_{key[1]}", key[0]) if direction == "out" else key


def new_batch(pyg: bool | None = None) -> Any:
    """An empty batch over one node type. `pyg`: of PyG's kind; None: if it is installed."""
    geometric = _geometric(pyg)
    return Batch() if geometric is None else geometric.data.Data()


def new_hetero_batch(pyg: bool | None = None) -> Any:
    """An empty batch over several types."""
    geometric = _geometric(pyg)
    return HeteroBatch() if geometric is None else geometric.data.HeteroData()


def batch_of(subgraph: Subgraph | HeteroSubgraph, direction: str, renamed: Mapping[str, str] | None = None, pyg: bool | None = None) -> Any:
    """A subgraph as a batch. `renamed`: what features of the seeds' type are called in the batch, where it is not their own name."""
    if isinstance(subgraph, Subgraph):
        batch = _homogeneous(new_batch(pyg), subgraph, direction, renamed or {})
    else:
        batch = _hetero(new_hetero_batch(pyg), subgraph, direction, renamed or {})
    batch.seed, batch.version = subgraph.seed, subgraph.version
    return batch


def pinned(batch: Any) -> Any:
    """The batch in page-locked memory (torch keeps such memory and uses it again); as it is where there is no CUDA device."""
    return batch.pin_memory() if torch.cuda.is_available() else batch


def seed_part(batch: Any, subgraph: Subgraph | HeteroSubgraph) -> Any:
    """Where what belongs to the seeds stands: the batch, or its part for their node type."""
    return batch if isinstance(subgraph, Subgraph) else batch[subgraph.seed_type]


def seed_count(subgraph: Subgraph | HeteroSubgraph) -> int:
    """How many of the nodes are seeds."""
    return int((subgraph.hop_offsets if isinstance(subgraph, Subgraph) else subgraph.hop_offsets[subgraph.seed_type])[1])


def _geometric(pyg: bool | None) -> Any:
    return None if pyg is False else find_geometric() if pyg is None else need_geometric()


def _homogeneous(batch: Any, subgraph: Subgraph, direction: str, renamed: Mapping[str, str]) -> Any:
    nodes: dict[str, Held] = {renamed.get(name, name): feature_of(column) for name, column in subgraph.features.items()}
    _put_nodes(batch, subgraph.nodes, subgraph.hop_offsets, nodes, subgraph.as_of)
    edges = {name if name not in nodes else f"edge_{name}": feature_of(column) for name, column in subgraph.edge_features.items()}
    index = subgraph.edge_index, subgraph.edge_hop_offsets
    _put_edges(batch, *index, direction, edges, subgraph.edge_ids, subgraph.weights, subgraph.times)
    return batch


def _hetero(batch: Any, subgraph: HeteroSubgraph, direction: str, renamed: Mapping[str, str]) -> Any:
    for kind, ids in subgraph.nodes.items():
        names = renamed if kind == subgraph.seed_type else {}
        nodes = {names.get(name, name): feature_of(column) for name, column in subgraph.features.get(kind, {}).items()}
        _put_nodes(batch[kind], ids, subgraph.hop_offsets[kind], nodes, subgraph.as_of.get(kind))
    for key, index in subgraph.edge_index.items():
        edges = {name: feature_of(column) for name, column in subgraph.edge_features.get(key, {}).items()}
        of_edges = subgraph.edge_ids.get(key), subgraph.weights.get(key), subgraph.times.get(key)
        _put_edges(batch[message_type(key, direction)], index, subgraph.edge_hop_offsets[key], direction, edges, *of_edges)
    return batch


def _put_nodes(
    part: Any, ids: npt.NDArray[Any], hops: npt.NDArray[np.int64], features: Mapping[str, Held], as_of: npt.NDArray[np.int64] | None
) -> None:
    part.num_nodes, part.n_id = len(ids), ids_of(ids)
    for name, values in features.items():
        part[name] = values
    if as_of is not None:
        part.as_of = tensor_of(as_of)
    part.num_sampled_nodes = np.diff(hops).tolist()


def _put_edges(
    part: Any,
    index: npt.NDArray[np.int64],
    hops: npt.NDArray[np.int64],
    direction: str,
    features: Mapping[str, Held],
    edge_ids: npt.NDArray[np.int64] | None,
    weights: npt.NDArray[np.float32] | None,
    times: npt.NDArray[np.int64] | None,
) -> None:
    part.edge_index = message_index(index, direction)
    for name, values in features.items():
        part[name] = values
    for name, values in (("e_id", edge_ids), ("edge_weight", weights), ("edge_time", times)):
        if values is not None:
            part[name] = tensor_of(values)
    part.num_sampled_edges = np.diff(hops).tolist()


def _moved(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    return value.to(device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
