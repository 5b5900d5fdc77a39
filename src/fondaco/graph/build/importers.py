"""Importers: graphs of other libraries as the tables that `platform.build_graph` takes.

    platform.build_graph("karate", **fd.graph.from_networkx(nx.karate_club_graph()))
    platform.build_graph("cora", **fd.graph.from_pyg(data))

Nothing is copied that need not be. The libraries are not imported: their objects are asked for what they hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from fondaco.core.errors import InputError
from fondaco.graph.inputs import Edges, Nodes

if TYPE_CHECKING:
    from fondaco.graph.schema import EdgeKey


class GraphTables(TypedDict):
    """Arguments of `platform.build_graph`: give them with `**`."""

    nodes: dict[str, object]
    edges: dict[EdgeKey, object]
    undirected: bool


def from_networkx(
    graph: Any,
    *,
    node_type: str = "node",
    relation: str = "to",
    weight: str | None = "weight",
    time: str | None = "time",
    node_features: Sequence[str] | None = None,
    edge_features: Sequence[str] | None = None,
) -> GraphTables:
    """Tables of a NetworkX graph: `Graph`, `DiGraph`, `MultiGraph` or `MultiDiGraph`. An undirected graph is built with its mirrors.

    Args:
        graph: its nodes are whole numbers or texts.
        weight, time: edge attributes with this meaning, where they are there. A node's attributes of these names are taken alike.
        node_features, edge_features: attributes that become features; None: every one. What a node does not have is absent.
    Raises:
        InputError: it is no NetworkX graph, or its nodes are other things than numbers and texts.
    """
    if not (callable(getattr(graph, "is_directed", None)) and hasattr(graph, "nodes") and hasattr(graph, "edges")):
        raise InputError(f"{type(graph).__name__} is no NetworkX graph")
    nodes = list(graph.nodes(data=True))
    for node, _ in nodes:
        if isinstance(node, bool) or not isinstance(node, (int, str, np.integer)):
            raise InputError(
                f"the node {node!r} is neither a whole number nor a text; relabel: networkx.convert_node_labels_to_integers(graph)"
            )
    ends = [(src, dst) for src, dst in graph.edges()]
    said = [attributes for _, _, attributes in graph.edges(data=True)]
    edge_columns: dict[str, Any] = {"src": [src for src, _ in ends], "dst": [dst for _, dst in ends]}
    node_columns: dict[str, Any] = {"id": [node for node, _ in nodes]}
    node_attributes = _attributes((attributes for _, attributes in nodes), node_features, (weight, time))
    edge_attributes = _attributes(said, edge_features, (weight, time))
    for name in node_attributes:
        node_columns[_column(name, ("id",))] = [attributes.get(name) for _, attributes in nodes]
    for name in edge_attributes:
        edge_columns[_column(name, ("src", "dst"))] = [attributes.get(name) for attributes in said]
    edge_meanings = _meanings(("src", "dst"), edge_attributes, weight, time)
    return {
        "nodes": {node_type: Nodes(node_columns, "id", **_meanings(("id",), node_attributes, weight, time))},
        "edges": {(node_type, relation, node_type): Edges(edge_columns, "src", "dst", **edge_meanings)},
        "undirected": not graph.is_directed() and bool(ends),
    }


def from_pyg(data: Any, *, node_type: str = "node", relation: str = "to", weight: str = "edge_weight") -> GraphTables:
    """Tables of a PyG `Data` or `HeteroData`. Ids are PyG's own: the positions 0, 1, 2, ... of each node type.

    Every attribute with one entry a node, or an edge, becomes a feature (`x`, `y`, `train_mask`, `edge_attr`, ...); `edge_weight` becomes
    the edges' weight, `time` the time (whole microseconds since 1970). PyG lists both directions of undirected edges itself.

    Raises:
        InputError: no PyG data, or without `edge_index`.
    """
    if hasattr(data, "node_types") and hasattr(data, "edge_types"):
        stores = {str(name): data[name] for name in data.node_types}
        joins = {tuple(map(str, key)): data[key] for key in data.edge_types}
    elif hasattr(data, "edge_index"):
        stores, joins = {node_type: data}, {(node_type, relation, node_type): data}
    else:
        raise InputError(f"{type(data).__name__} is no PyG data: it has neither edge_index nor edge_types")
    nodes: dict[str, object] = {}
    edges: dict[EdgeKey, object] = {}
    homogeneous = not hasattr(data, "node_types")
    for name, store in stores.items():
        count = _node_count(name, store)
        of_nodes = {
            key: values
            for key, values in _tensors(store)
            if key != "edge_index" and not (homogeneous and _is_of_edges(data, key)) and len(values) == count
        }
        nodes[name] = Nodes({"id": np.arange(count, dtype=np.int64), **of_nodes}, "id")
    for edge_key, store in joins.items():
        if getattr(store, "edge_index", None) is None:
            raise InputError(f"edges {'/'.join(edge_key)!r} have no edge_index; make it with torch_geometric.transforms, or from adj_t")
        index = _array(store.edge_index)
        columns: dict[str, Any] = {"src": index[0], "dst": index[1]}
        for key, values in _tensors(store):
            of_edges = _is_of_edges(data, key) if homogeneous else key != "edge_index"
            if key != "edge_index" and of_edges and len(values) == index.shape[1]:
                columns[key] = values.reshape(-1) if key == weight and values.ndim == 2 and values.shape[1] == 1 else values
        edges[edge_key[0], edge_key[1], edge_key[2]] = Edges(columns, "src", "dst", weight if weight in columns else None)
    return {"nodes": nodes, "edges": edges, "undirected": False}


# -- inside -------------------------------------------------------------------------------------------------------------------------


def _attributes(said: Iterable[Mapping[Any, Any]], wanted: Sequence[str] | None, always: Sequence[str | None]) -> list[str]:
    """Names of attributes, in the order in which they first come; those that are wanted."""
    names = dict.fromkeys(name for attributes in said for name in attributes)
    if wanted is None:
        return list(names)
    return [name for name in names if name in wanted or name in always]


def _column(name: object, reserved: Sequence[str]) -> str:
    """An attribute's column; one that is called like a column of ids gets out of its way."""
    return f"{name}_" if name in reserved else str(name)


def _meanings(reserved: Sequence[str], names: Sequence[str], weight: str | None, time: str | None) -> dict[str, Any]:
    """weight=, time= and features= of a table with attributes as columns."""
    features = {str(name): _column(name, reserved) for name in names if name not in (weight, time)}
    return {"weight": weight if weight in names else None, "time": time if time in names else None, "features": features}


def _array(values: Any) -> np.ndarray[Any, np.dtype[Any]]:
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def _node_count(name: str, store: Any) -> int:
    with warnings.catch_warnings():  # PyG's guess that fails is said below
        warnings.simplefilter("ignore", UserWarning)
        count = store.num_nodes
    if count is None:
        raise InputError(f"nobody can tell how many nodes {name!r} has; set num_nodes, or give them features")
    return int(count)


def _tensors(store: Any) -> Iterable[tuple[str, np.ndarray[Any, np.dtype[Any]]]]:
    """The store's attributes that are arrays with rows."""
    for key, values in store.items() if hasattr(store, "items") else store.to_dict().items():
        if getattr(values, "is_sparse", False) or not (hasattr(values, "detach") or isinstance(values, np.ndarray)):
            continue
        array = _array(values.float() if str(getattr(values, "dtype", "")) == "torch.bfloat16" else values)
        if array.ndim and array.dtype.kind in "iufb":
            yield str(key), array


def _is_of_edges(data: Any, key: str) -> bool:
    """Whether an attribute of a homogeneous `Data` has one entry an edge."""
    asked = getattr(data, "is_edge_attr", None)
    return bool(asked(key)) if callable(asked) else key.startswith("edge_")
