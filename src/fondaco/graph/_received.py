"""Received: from the arrays that an answer came as (`queries`) to the values that callers get (`answers`).

Light and pure: NumPy only; any thread. What each query's arrays are called is written at its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fondaco.graph import queries
from fondaco.graph.answers import FeatureColumn, HeteroSubgraph, IdArray, Subgraph, find_feature, id_array
from fondaco.graph.queries import Answer, Arrays
from fondaco.graph.schema import Feature, GraphSchema


def ids_of(arrays: Arrays, name: str) -> IdArray:
    ids = queries.find_ids(arrays, name)
    assert ids is not None
    return id_array(ids)


def features_of(
    arrays: Arrays, prefix: str, wanted: Mapping[str, Feature]
) -> tuple[dict[str, FeatureColumn], dict[str, npt.NDArray[np.bool_]]]:
    columns: dict[str, FeatureColumn] = {}
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for name, feature in wanted.items():
        column = find_feature(arrays, prefix + name, feature.shape[0] if feature.kind == "sparse" else None)
        assert column is not None
        columns[name] = column
        present = arrays.get(f"{prefix}{name}.present")
        if present is not None:
            masks[name] = present.view(np.bool_)
    return columns, masks


def subgraph_of(
    schema: GraphSchema, query: queries.Sample | queries.InducedSubgraph, hops: int, answer: Answer
) -> Subgraph | HeteroSubgraph:
    arrays, meta = answer.arrays, answer.meta
    if schema.is_homogeneous:
        node, edge = schema.nodes[0], schema.edges[0]
        x, present = features_of(arrays, f"x/{node.name}/", {name: node.feature(name) for _, name in query.features})
        has_edges = f"edge_index/{edge.name}" in arrays
        edge_x, edge_present = (
            features_of(arrays, f"edge_x/{edge.name}/", {name: edge.feature(name) for _, name in query.edge_features})
            if has_edges
            else ({}, {})
        )
        return Subgraph(
            nodes=ids_of(arrays, f"nodes/{node.name}"),
            edge_index=arrays[f"edge_index/{edge.name}"] if has_edges else np.zeros((2, 0), np.int64),
            hop_offsets=arrays[f"hops/{node.name}"],
            edge_hop_offsets=arrays[f"edge_hops/{edge.name}"] if has_edges else np.zeros(hops + 1, np.int64),
            seed_index=arrays["seed_index"],
            features=x,
            version=meta.version,
            seed=meta.seed,
            edge_features=edge_x,
            edge_ids=arrays.get(f"edge_ids/{edge.name}"),
            weights=arrays.get(f"weights/{edge.name}"),
            times=arrays.get(f"times/{edge.name}"),
            as_of=arrays.get(f"as_of/{node.name}"),
            present=present,
            edge_present=edge_present,
        )
    nodes = [node for node in schema.nodes if f"hops/{node.name}" in arrays]
    edges = [edge for edge in schema.edges if f"edge_index/{edge.name}" in arrays]
    x_of = {
        node.name: features_of(
            arrays, f"x/{node.name}/", {name: node.feature(name) for owner, name in query.features if owner == node.name}
        )
        for node in nodes
    }
    edge_x_of = {
        edge.key: features_of(
            arrays, f"edge_x/{edge.name}/", {name: edge.feature(name) for owner, name in query.edge_features if owner == edge.name}
        )
        for edge in edges
    }
    return HeteroSubgraph(
        nodes={node.name: ids_of(arrays, f"nodes/{node.name}") for node in nodes},
        edge_index={edge.key: arrays[f"edge_index/{edge.name}"] for edge in edges},
        hop_offsets={node.name: arrays[f"hops/{node.name}"] for node in nodes},
        edge_hop_offsets={edge.key: arrays[f"edge_hops/{edge.name}"] for edge in edges},
        seed_type=query.node_type,
        seed_index=arrays["seed_index"],
        features={name: columns for name, (columns, _) in x_of.items() if columns},
        version=meta.version,
        seed=meta.seed,
        edge_features={key: columns for key, (columns, _) in edge_x_of.items() if columns},
        edge_ids={edge.key: arrays[f"edge_ids/{edge.name}"] for edge in edges if f"edge_ids/{edge.name}" in arrays},
        weights={edge.key: arrays[f"weights/{edge.name}"] for edge in edges if f"weights/{edge.name}" in arrays},
        times={edge.key: arrays[f"times/{edge.name}"] for edge in edges if f"times/{edge.name}" in arrays},
        as_of={node.name: arrays[f"as_of/{node.name}"] for node in nodes if f"as_of/{node.name}" in arrays},
        present={name: masks for name, (_, masks) in x_of.items() if masks},
        edge_present={key: masks for key, (_, masks) in edge_x_of.items() if masks},
    )


def grid_of(schema: GraphSchema, columns: Sequence[str], arrays: Arrays, name: str) -> IdArray:
    """[n, columns] ids from those of alive entries, by node type (or, of one type, under `name` alone)."""
    alive = arrays["alive"].view(np.bool_).reshape(-1, len(columns))
    types = dict.fromkeys(columns)
    is_text = any(schema.node(owner).id == "string" for owner in types)
    grid = np.full(alive.shape, None if is_text else -1, object if is_text else np.int64)
    for owner in types:
        ids = queries.find_ids(arrays, f"{name}/{owner}")
        if ids is None:
            ids = queries.find_ids(arrays, name)
        assert ids is not None
        mask = alive if len(types) == 1 else alive & np.array([column == owner for column in columns])[None, :]
        grid[mask] = id_array(ids)
    return grid
