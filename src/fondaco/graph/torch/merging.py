"""Two neighbourhoods as one: those of an edge's two ends, where the ends are of different node types and so are asked for separately.

A node that both hold is one node, at the earlier of its two hops; an edge that both drew is one edge. Pure; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from fondaco.graph.answers import BytesColumn, EdgeKey, FeatureColumn, HeteroSubgraph, SparseColumn

Key = TypeVar("Key")
_Index = npt.NDArray[np.int64]


class Merged(NamedTuple):
    """The subgraph, and where the seeds of the first and of the second lie in it (-1 stays -1). `seed_index` is the first's."""

    subgraph: HeteroSubgraph
    first: _Index
    second: _Index


class _Nodes(NamedTuple):
    """Of one node type: rows of both, one after the other, that are kept, in order; hop offsets; new places of the first's and second's."""

    kept: _Index
    offsets: _Index
    places: tuple[_Index, _Index]


def merged(first: HeteroSubgraph, second: HeteroSubgraph) -> Merged:
    """Both in one. They are of one version, drawn with one seed, for as many hops, along the same edge types."""
    both = (first, second)
    nodes = {kind: _merged_nodes(both, kind) for kind in dict.fromkeys([*first.nodes, *second.nodes])}
    edges = {key: _merged_edges(both, key, nodes) for key in dict.fromkeys([*first.edge_index, *second.edge_index])}
    kept = {key: order for key, (_, _, order) in edges.items()}
    whole = HeteroSubgraph(
        nodes={kind: _joined([each.nodes.get(kind) for each in both])[of.kept] for kind, of in nodes.items()},
        edge_index={key: index for key, (index, _, _) in edges.items()},
        hop_offsets={kind: of.offsets for kind, of in nodes.items()},
        edge_hop_offsets={key: offsets for key, (_, offsets, _) in edges.items()},
        seed_type=first.seed_type,
        seed_index=_moved(first.seed_index, nodes[first.seed_type].places[0]),
        features={kind: _columns([each.features.get(kind) for each in both], of.kept) for kind, of in nodes.items()},
        version=first.version,
        seed=first.seed,
        edge_features={key: _columns([each.edge_features.get(key) for each in both], order) for key, order in kept.items()},
        edge_ids=_values([each.edge_ids for each in both], kept),
        weights=_values([each.weights for each in both], kept),
        times=_values([each.times for each in both], kept),
        as_of=_values([each.as_of for each in both], {kind: of.kept for kind, of in nodes.items()}),
    )
    return Merged(whole, whole.seed_index, _moved(second.seed_index, nodes[second.seed_type].places[1]))


def _merged_nodes(both: tuple[HeteroSubgraph, HeteroSubgraph], kind: str) -> _Nodes:
    ids = _joined([each.nodes.get(kind) for each in both])
    codes = np.unique(ids, return_inverse=True)[1]
    times = [each.as_of.get(kind) for each in both]
    if any(each is not None for each in times):
        moments = np.unique(_joined(times), return_inverse=True)[1]
        codes = np.unique(codes * (int(moments.max(initial=0)) + 1) + moments, return_inverse=True)[1]
    counts = [len(each.nodes.get(kind, ())) for each in both]
    hop_count = max(len(each.hop_offsets[kind]) - 1 for each in both if kind in each.hop_offsets)
    hops = _joined([_hops(each.hop_offsets.get(kind)) for each in both])
    found = np.argsort(hops, kind="stable")  # hop by hop, the first's before the second's
    first_row = found[np.unique(codes[found], return_index=True)[1]]  # of each code
    order = np.argsort(np.lexsort((first_row, hops[first_row])), kind="stable")  # of each code, its place
    kept = np.empty(len(first_row), np.int64)
    kept[order] = first_row
    places = order[codes]
    offsets = np.searchsorted(hops[kept], np.arange(hop_count + 1))
    return _Nodes(kept, offsets, (places[: counts[0]], places[counts[0] :]))


def _merged_edges(both: tuple[HeteroSubgraph, HeteroSubgraph], key: EdgeKey, nodes: Mapping[str, _Nodes]) -> tuple[_Index, _Index, _Index]:
    """Ends [2, edges], hop offsets, and which of both's edges, one after the other, are kept."""
    ends = []
    for part, each in enumerate(both):
        if key in each.edge_index:
            index = each.edge_index[key]
            ends.append(np.stack((nodes[key[0]].places[part][index[0]], nodes[key[2]].places[part][index[1]])))
    joined = np.concatenate(ends, axis=1)
    hops = _joined([_hops(each.edge_hop_offsets.get(key)) for each in both])
    hop_count = max(len(each.edge_hop_offsets[key]) - 1 for each in both if key in each.edge_hop_offsets)
    order = np.argsort(hops, kind="stable")
    if any(key in each.edge_ids for each in both):
        names = _joined([each.edge_ids.get(key) for each in both])[order]
        if nodes[key[0]].kept.size and any(each.as_of for each in both):  # one edge may be there for each moment
            names = names * (len(nodes[key[0]].kept) + 1) + joined[0, order]
        order = order[np.sort(np.unique(names, return_index=True)[1])]
    return np.ascontiguousarray(joined[:, order]), np.searchsorted(hops[order], np.arange(hop_count + 1)), order


def _hops(offsets: _Index | None) -> _Index | None:
    return None if offsets is None else np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _joined(parts: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any]:
    return np.concatenate([part for part in parts if part is not None])


def _moved(index: _Index, places: _Index) -> _Index:
    moved = np.full(len(index), -1, np.int64)
    moved[index >= 0] = places[index[index >= 0]]
    return moved


def _values(both: Sequence[Mapping[Key, npt.NDArray[Any]]], kept: Mapping[Key, _Index]) -> dict[Key, npt.NDArray[Any]]:
    return {key: _joined([each.get(key) for each in both])[order] for key, order in kept.items() if any(key in each for each in both)}


def _columns(both: Sequence[Mapping[str, FeatureColumn] | None], rows: _Index) -> dict[str, FeatureColumn]:
    parts = [each for each in both if each]
    return {name: take_rows([part[name] for part in parts], rows) for name in (parts[0] if parts else ())}


def take_rows(parts: Sequence[FeatureColumn], rows: _Index) -> FeatureColumn:
    """Those rows of a column that comes in parts, one after the other."""
    if isinstance(parts[0], SparseColumn):
        sparse = [part for part in parts if isinstance(part, SparseColumn)]
        indptr, (indices, values) = _ragged(
            [part.indptr for part in sparse], [[p.indices for p in sparse], [p.values for p in sparse]], rows
        )
        return SparseColumn(indptr, indices, values, (len(rows), sparse[0].shape[1]))
    if isinstance(parts[0], BytesColumn):
        texts = [part for part in parts if isinstance(part, BytesColumn)]
        offsets, (data,) = _ragged([part.offsets for part in texts], [[part.data for part in texts]], rows)
        return BytesColumn(offsets, data)
    return _joined([part for part in parts if isinstance(part, np.ndarray)])[rows]


def _ragged(ends: Sequence[_Index], columns: Sequence[Sequence[npt.NDArray[Any]]], rows: _Index) -> tuple[_Index, list[npt.NDArray[Any]]]:
    """Offsets and values of `rows` of lists that lie one after the other in each of several columns."""
    counts = np.concatenate([np.diff(each) for each in ends])
    starts = np.cumsum(counts) - counts
    taken = counts[rows]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(taken, out=offsets[1:])
    picked = np.arange(offsets[-1]) + np.repeat(starts[rows] - offsets[:-1], taken)
    return offsets, [np.concatenate(parts)[picked] for parts in columns]
