"""Neighbourhoods without the edges that are to be predicted: a model that gets its answer as a message learns nothing. Pure; any thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fondaco.graph.answers import FeatureColumn, HeteroSubgraph, Subgraph
from fondaco.graph.schema import EdgeType
from fondaco.graph.torch.merging import take_rows

_Index = npt.NDArray[np.int64]
_Values = TypeVar("_Values", bound="npt.NDArray[Any]")


def without_edges(subgraph: Subgraph | HeteroSubgraph, edge: EdgeType, src: _Index, dst: _Index) -> Subgraph | HeteroSubgraph:
    """`subgraph` without the edges of type `edge` that go from src[i] to dst[i] (places in it), nor, within one node type, back."""
    both_ways = edge.src == edge.dst
    if isinstance(subgraph, Subgraph):
        kept = _kept(subgraph.edge_index, src, dst, both_ways)
        return replace(
            subgraph,
            edge_index=np.ascontiguousarray(subgraph.edge_index[:, kept]),
            edge_hop_offsets=_offsets(subgraph.edge_hop_offsets, kept),
            edge_ids=_rows(subgraph.edge_ids, kept),
            weights=_rows(subgraph.weights, kept),
            times=_rows(subgraph.times, kept),
            edge_features=_columns(subgraph.edge_features, kept),
        )
    key = edge.key
    if key not in subgraph.edge_index:
        return subgraph
    kept = _kept(subgraph.edge_index[key], src, dst, both_ways)
    changed: dict[str, Any] = {
        "edge_index": {**subgraph.edge_index, key: np.ascontiguousarray(subgraph.edge_index[key][:, kept])},
        "edge_hop_offsets": {**subgraph.edge_hop_offsets, key: _offsets(subgraph.edge_hop_offsets[key], kept)},
    }
    for name in ("edge_ids", "weights", "times"):
        values = getattr(subgraph, name)
        if key in values:
            changed[name] = {**values, key: values[key][kept]}
    if key in subgraph.edge_features:
        changed["edge_features"] = {**subgraph.edge_features, key: _columns(subgraph.edge_features[key], kept)}
    return replace(subgraph, **changed)


def _kept(index: _Index, src: _Index, dst: _Index, both_ways: bool) -> _Index:
    """Positions of the edges that are none of the pairs."""
    width = int(max(index[1].max(initial=0), src.max(initial=0), dst.max(initial=0))) + 1
    hidden = src * width + dst
    if both_ways:
        hidden = np.concatenate((hidden, dst * width + src))
    return np.flatnonzero(~np.isin(index[0] * width + index[1], hidden))


def _offsets(offsets: _Index, kept: _Index) -> _Index:
    return np.searchsorted(kept, offsets)


def _rows(values: _Values | None, kept: _Index) -> _Values | None:
    return None if values is None else values[kept]  # type: ignore[return-value]


def _columns(columns: Mapping[str, FeatureColumn], kept: _Index) -> dict[str, FeatureColumn]:
    return {name: take_rows([column], kept) for name, column in columns.items()}
