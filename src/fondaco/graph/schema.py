"""Schema of a graph version: its node types, its edge types, their features, and which directions of an edge type are stored.

An *adjacency* is one edge type stored in one direction: "out" has a row for each source node, "in" one for each target node. Adjacencies
and feature files are numbered here, once, from the order of the schema; file names and kernels use these numbers. Plain values without
numba: clients read a served graph's schema with it too; and NumPy is imported when a dtype is asked for, since opening a platform that has
graphs comes by here. Immutable; any thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from fondaco.core.errors import EdgeTypeNotFoundError, FeatureNotFoundError, InputError, NodeTypeNotFoundError

if TYPE_CHECKING:
    import numpy as np

Direction = Literal["out", "in"]
EdgeKey = tuple[str, str, str]
FeatureKind = Literal["dense", "sparse", "bytes", "store"]
IdKind = Literal["long", "string"]

DIRECTIONS: Final[tuple[Direction, ...]] = ("out", "in")
DTYPES: Final = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16", "float32", "float64",
)  # fmt: skip
"""What the numbers of a dense or sparse feature may be."""


class Feature(msgspec.Struct, frozen=True):
    """One named feature of a node or edge type.

    "dense": `shape` numbers of `dtype`, () for a single one. "sparse": `shape` is (dimension,), `dtype` that of the values that are not
    zero. "bytes": `dtype` and `shape` say nothing. "store": field `field` of the store `store`, looked up by node id; nothing is copied.
    """

    name: str
    kind: FeatureKind = "dense"
    dtype: str = ""
    shape: tuple[int, ...] = ()
    store: str | None = None
    field: str | None = None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of its numbers (dense and sparse). ml_dtypes is imported for bfloat16 only."""
        return numpy_dtype(self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a dense feature."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize


class NodeType(msgspec.Struct, frozen=True):
    """A node type. `weighted`: nodes have weights (global sampling). `timed`: they have times of creation."""

    name: str
    id: IdKind = "long"
    features: tuple[Feature, ...] = ()
    weighted: bool = False
    timed: bool = False

    def feature(self, name: str) -> Feature:
        """The feature called `name`.

        Raises:
            FeatureNotFoundError.
        """
        return _feature(self.features, name, f"node type {self.name!r}")


class EdgeType(msgspec.Struct, frozen=True):
    """An edge type: `relation` from nodes of type `src` to nodes of type `dst`. `directions` says which adjacencies are stored."""

    src: str
    relation: str
    dst: str
    weighted: bool = False
    timed: bool = False
    features: tuple[Feature, ...] = ()
    directions: tuple[Direction, ...] = ("out",)

    @property
    def key(self) -> EdgeKey:
        """(source type, relation, target type)."""
        return self.src, self.relation, self.dst

    @property
    def name(self) -> str:
        """The key as text: "source/relation/target"."""
        return "/".join(self.key)

    def feature(self, name: str) -> Feature:
        """The feature called `name`.

        Raises:
            FeatureNotFoundError.
        """
        return _feature(self.features, name, f"edge type {self.name!r}")


@dataclass(frozen=True, slots=True)
class Adjacency:
    """One stored direction of an edge type. `from_type` and `to_type` are positions in `GraphSchema.nodes`: rows belong to nodes of
    `from_type`, entries name nodes of `to_type`. So with direction "in", `from_type` is that of the edges' targets."""

    number: int
    edge: EdgeType
    direction: Direction
    from_type: int
    to_type: int


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """One stored feature: of a node type (`owner` is its position) or of an adjacency (`owner` is its number)."""

    number: int
    of: Literal["nodes", "edges"]
    owner: int
    feature: Feature


class GraphSchema(msgspec.Struct, frozen=True):
    """All types of a graph, in the order in which they were given."""

    nodes: tuple[NodeType, ...]
    edges: tuple[EdgeType, ...]

    @property
    def is_homogeneous(self) -> bool:
        """Whether there is one node type and one edge type."""
        return len(self.nodes) == 1 and len(self.edges) == 1

    def node(self, name: str) -> NodeType:
        """The node type called `name`.

        Raises:
            NodeTypeNotFoundError.
        """
        return self.nodes[self.node_index(name)]

    def node_index(self, name: str) -> int:
        """The position of the node type called `name`.

        Raises:
            NodeTypeNotFoundError.
        """
        for index, node in enumerate(self.nodes):
            if node.name == name:
                return index
        raise NodeTypeNotFoundError(str(name), [node.name for node in self.nodes])

    def edge(self, key: EdgeType | EdgeKey | str) -> EdgeType:
        """The edge type of a key, as a tuple, as "source/relation/target", or as a relation that only one edge type has.

        Raises:
            EdgeTypeNotFoundError; InputError: several edge types have this relation.
        """
        return self.edges[self.edge_index(key)]

    def edge_index(self, key: EdgeType | EdgeKey | str) -> int:
        """The position of an edge type, named as for `edge`.

        Raises:
            as `edge`.
        """
        wanted = key.name if isinstance(key, EdgeType) else key if isinstance(key, str) else "/".join(map(str, key))
        found = [index for index, edge in enumerate(self.edges) if edge.name == wanted]
        if not found:
            found = [index for index, edge in enumerate(self.edges) if edge.relation == wanted]
        if len(found) > 1:
            names = ", ".join(repr(self.edges[index].name) for index in found)
            raise InputError(f"several edge types have the relation {wanted!r}: {names}; name one of them whole")
        if not found:
            raise EdgeTypeNotFoundError(wanted, [edge.name for edge in self.edges])
        return found[0]

    def adjacencies(self) -> tuple[Adjacency, ...]:
        """Every stored direction of every edge type: edge types in their order, "out" before "in"."""
        return tuple(self._adjacencies())

    def adjacency(self, key: EdgeType | EdgeKey | str, direction: Direction = "out") -> Adjacency:
        """One direction of an edge type.

        Raises:
            InputError: no such direction, or it is not stored. And as `edge`.
        """
        if direction not in DIRECTIONS:
            raise InputError(f'direction is "out" (along the edges) or "in" (against them), not {direction!r}')
        edge = self.edge(key)
        for adjacency in self._adjacencies():
            if adjacency.edge is edge and adjacency.direction == direction:
                return adjacency
        raise InputError(
            f'edges {edge.name!r} are not stored in direction "{direction}"; build the graph with directions="both" to go both ways'
        )

    def feature_files(self) -> tuple[FeatureFile, ...]:
        """Every feature that lies in files of the version: those of node types, then those of adjacencies; not those bound to stores."""
        owned: list[tuple[Literal["nodes", "edges"], int, Feature]] = []
        for index, node in enumerate(self.nodes):
            owned += [("nodes", index, feature) for feature in node.features]
        for adjacency in self._adjacencies():
            owned += [("edges", adjacency.number, feature) for feature in adjacency.edge.features]
        stored = [entry for entry in owned if entry[2].kind != "store"]
        return tuple(FeatureFile(number, of, owner, feature) for number, (of, owner, feature) in enumerate(stored))

    def _adjacencies(self) -> Iterator[Adjacency]:
        number = 0
        for edge in self.edges:
            src, dst = self.node_index(edge.src), self.node_index(edge.dst)
            for direction in DIRECTIONS:
                if direction in edge.directions:
                    ends = (src, dst) if direction == "out" else (dst, src)
                    yield Adjacency(number, edge, direction, *ends)
                    number += 1


def check_schema(schema: GraphSchema) -> GraphSchema:
    """Return `schema` if it can be one: names that are there once, known dtypes, edges between types that exist.

    Raises:
        InputError, NodeTypeNotFoundError: it cannot; names what is wrong.
    """
    if not schema.nodes:
        raise InputError("a graph has at least one node type")
    for node in schema.nodes:
        _check_type_name("node type", node.name)
        if node.id not in ("long", "string"):
            raise InputError(f'ids of node type {node.name!r} are "long" or "string", not {node.id!r}')
        _check_features(node.features, f"node type {node.name!r}")
    for edge in schema.edges:
        _check_type_name("relation", edge.relation)
        schema.node(edge.src), schema.node(edge.dst)
        if not edge.directions or not set(edge.directions) <= set(DIRECTIONS) or len(set(edge.directions)) != len(edge.directions):
            raise InputError(f'edges {edge.name!r} are stored in direction "out", "in" or both, not {edge.directions!r}')
        _check_features(edge.features, f"edge type {edge.name!r}")
    _check_once("node type", [node.name for node in schema.nodes])
    _check_once("edge type", [edge.name for edge in schema.edges])
    return schema


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of one of `DTYPES`.

    Raises:
        InputError: another name.
    """
    if name not in DTYPES:
        raise InputError(f"a feature's numbers are one of {', '.join(DTYPES)}; not {name!r}")
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def _feature(features: tuple[Feature, ...], name: str, where: str) -> Feature:
    for feature in features:
        if feature.name == name:
            return feature
    raise FeatureNotFoundError(str(name), [feature.name for feature in features], where)


def _check_type_name(noun: str, name: str) -> None:
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable() or len(name.encode()) > 128:
        raise InputError(f"{name!r} cannot name a {noun}: use up to 128 printable characters without '/'")


def _check_features(features: tuple[Feature, ...], where: str) -> None:
    for feature in features:
        if not isinstance(feature.name, str) or not feature.name:
            raise InputError(f"a feature of {where} needs a name, not {feature.name!r}")
        if feature.kind in ("dense", "sparse"):
            numpy_dtype(feature.dtype)
            if any(size < 1 for size in feature.shape) or (feature.kind == "sparse" and len(feature.shape) != 1):
                raise InputError(f"feature {feature.name!r} of {where} cannot have the shape {feature.shape}")
        elif feature.kind == "store":
            if not feature.store or not feature.field:
                raise InputError(f"feature {feature.name!r} of {where} is bound to a store: say store= and field=")
        elif feature.kind != "bytes":
            raise InputError(f'feature {feature.name!r} of {where} is "dense", "sparse", "bytes" or "store", not {feature.kind!r}')
    _check_once(f"feature of {where}", [feature.name for feature in features])


def _check_once(noun: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"there are {names.count(name)} {noun}s called {name!r}; each needs a name of its own")
