"""Queries: what one can ask a graph, as it goes from a client to whoever answers.

A query is a small tagged struct (names and numbers) beside named NumPy arrays (ids, times, positions), so that nothing big is ever encoded.
The same pair is answered in process (`embedded`) and by a server (`server`), by the same `executor`, hence with the same answer. Names, not
numbers, stand for types, edges and features: client and server may have opened different versions.

Arrays of a query: `seeds` (or `src`, `dst`), ids of nodes: int64 [n] under that name, or for string ids `<name>.offsets` int64 [n + 1] and
`<name>.data` uint8 (UTF-8); `as_of` int64 [1] or [n], microseconds; `edge_ids` int64 [n]. What an answer holds is written at each class:
`T` stands for a node type's name, `E` for an edge type's text "src/relation/dst", `ids(name)` for ids in either form as above, and
`feature(name)` for a feature: `name` alone if dense, `name.indptr/.indices/.values` if sparse, `name.offsets/.data` if bytes, and
`name.present` uint8 [n] where some rows may have none. Absent means: not asked for, or not stored.

Importing this is light: NumPy and msgspec. Everything here is immutable; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from fondaco.graph.schema import Direction, GraphSchema

Strategy = Literal["uniform", "weighted", "top_k", "last", "all", "labor"]
Distribution = Literal["uniform", "degree"]
Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

STRATEGIES: Final = ("uniform", "weighted", "top_k", "last", "all", "labor")
ALL: Final = -1  # a fan-out: every neighbour


class Query(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One question. `pad`: unknown ids get an empty answer (-1, 0, absent) instead of NodeIdError."""


class Sample(Query, frozen=True, kw_only=True, tag=True):
    """The neighbourhood of `seeds`, hop by hop, merged and relabelled; with features of its nodes and edges.

    `fan_outs`: one entry a hop: a number for every edge type, or {E: number}; -1 is all, 0 none. `features`: (T, name) pairs,
    `edge_features`: (E, name) pairs. `hops` says where nodes found first at each hop begin.

    Answer: seed_index int64 [seeds]; per T: ids(nodes/T), hops/T int64 [hops + 2], as_of/T int64 [nodes] where seeds differ in it,
    feature(x/T/name); per E: edge_index/E int64 [2, edges] (rows of nodes/src, nodes/dst), edge_hops/E int64 [hops + 1],
    edge_ids/E int64, weights/E float32, times/E int64, feature(edge_x/E/name).
    """

    node_type: str
    fan_outs: tuple[int | dict[str, int], ...]
    edge_types: tuple[str, ...] | None = None
    direction: Direction = "out"
    strategy: Strategy = "uniform"
    replace: bool = False
    seed: int = 0
    features: tuple[tuple[str, str], ...] = ()
    edge_features: tuple[tuple[str, str], ...] = ()
    edges: bool = True
    edge_ids: bool = True
    edge_weights: bool = False
    edge_times: bool = False
    pad: bool = False


class InducedSubgraph(Query, frozen=True, kw_only=True, tag=True):
    """All nodes within `hops` steps of `seeds`, and every edge of the edge types between them.

    Answer: as `Sample`'s; edges in one block, ordered by their node that has the row, then as its list.
    """

    node_type: str
    hops: int
    edge_types: tuple[str, ...] | None = None
    direction: Direction = "out"
    features: tuple[tuple[str, str], ...] = ()
    edge_features: tuple[tuple[str, str], ...] = ()
    edge_ids: bool = True
    edge_weights: bool = False
    edge_times: bool = False
    pad: bool = False


class SampleNeighbors(Query, frozen=True, kw_only=True, tag=True):
    """One hop, not merged: neighbours of each of `seeds` along one edge type. `fan_out` -1 is all.

    Answer: counts int64 [n]; ids(neighbors), edge_ids int64, weights float32, times int64, all [sum of counts], grouped by seed.
    """

    node_type: str
    edge_type: str
    fan_out: int = ALL
    direction: Direction = "out"
    strategy: Strategy = "uniform"
    replace: bool = False
    seed: int = 0
    edge_ids: bool = False
    weights: bool = False
    times: bool = False
    pad: bool = False


class CountNeighbors(Query, frozen=True, kw_only=True, tag=True):
    """How many neighbours each of `seeds` has. Answer: counts int64 [n]."""

    node_type: str
    edge_type: str
    direction: Direction = "out"
    pad: bool = False


class FindEdges(Query, frozen=True, kw_only=True, tag=True):
    """The edge from each of `src` to the same entry of `dst`. Answer: edge_ids int64 [n]: the last of parallel ones; -1: there is none."""

    edge_type: str
    direction: Direction = "out"
    pad: bool = False


class NodeFeatures(Query, frozen=True, kw_only=True, tag=True):
    """Features of `seeds`, in their order. Answer: feature(name)."""

    node_type: str
    names: tuple[str, ...]
    pad: bool = False


class EdgeFeatures(Query, frozen=True, kw_only=True, tag=True):
    """Features of the edges `edge_ids`, or of those from `src` to `dst`. Answer: feature(name), found bool [n] with `src` and `dst`."""

    edge_type: str
    names: tuple[str, ...]
    direction: Direction = "out"
    pad: bool = False


class NodeTypes(Query, frozen=True, kw_only=True, tag=True):
    """Which node type has each of `seeds`. Answer: types int32 [n], position in `schema.nodes`, the first that has it; -1: none."""


class Contains(Query, frozen=True, kw_only=True, tag=True):
    """Which of `seeds` are nodes of the type. Answer: found bool [n]."""

    node_type: str


class RandomWalk(Query, frozen=True, kw_only=True, tag=True):
    """A walk from each of `seeds`; `edge_types` one a step (a metapath), taken in turn and from the first again. Of several for one step,
    the edges of all of them are chosen among.

    `restart`: chance to go back to the start before a step; `temporal`: no edge is older than the one before it. as_of as for `Sample`.

    Answer: alive bool [n, length + 1]: False after a dead end; for each node type T along the path ids(walks/T): those of the alive entries
    in the columns of that type, row by row.
    """

    node_type: str
    length: int
    edge_types: tuple[str | tuple[str, ...], ...]
    direction: Direction = "out"
    weighted: bool = False
    temporal: bool = False
    restart: float = 0.0
    seed: int = 0
    pad: bool = False


class Node2Vec(Query, frozen=True, kw_only=True, tag=True):
    """Second-order walks with return parameter `p` and in-out parameter `q`, along edges of one type or several. as_of as for `Sample`.

    Answer: as `RandomWalk`'s.
    """

    node_type: str
    length: int
    edge_type: str | tuple[str, ...]
    direction: Direction = "out"
    weighted: bool = False
    p: float = 1.0
    q: float = 1.0
    seed: int = 0
    pad: bool = False


class PageRank(Query, frozen=True, kw_only=True, tag=True):
    """The `top_k` nodes of highest personalised PageRank of each of `seeds`, over edges of one type or several. as_of as for `Sample`.

    Answer: counts int64 [n], ids(nodes), scores float32.
    """

    node_type: str
    edge_type: str | tuple[str, ...]
    top_k: int
    direction: Direction = "out"
    weighted: bool = False
    alpha: float = 0.15
    eps: float = 1e-4
    pad: bool = False


class SampleNodes(Query, frozen=True, kw_only=True, tag=True):
    """`count` nodes of a type. Answer: ids(nodes)."""

    node_type: str
    count: int
    weighted: bool = False
    replace: bool = False
    seed: int = 0


class SampleEdges(Query, frozen=True, kw_only=True, tag=True):
    """`count` edges of a type. Answer: ids(src), ids(dst), edge_ids int64, weights float32."""

    edge_type: str
    count: int
    direction: Direction = "out"
    weighted: bool = False
    replace: bool = False
    seed: int = 0


class TotalWeight(Query, frozen=True, kw_only=True, tag=True):
    """The sum of the weights of all nodes of a type, or of all edges of one (node_type None). Answer: weight float64 [1]."""

    node_type: str | None = None
    edge_type: str | None = None
    direction: Direction = "out"


class Negatives(Query, frozen=True, kw_only=True, tag=True):
    """`count` nodes for each of `seeds` that (if `strict`) no edge of the type leads to it from there.

    Answer: ids(nodes) [alive.sum()], row by row; alive bool [n, count]: False where none was found.
    """

    edge_type: str
    count: int
    distribution: Distribution = "uniform"
    strict: bool = True
    seed: int = 0
    pad: bool = False


class NodeRange(Query, frozen=True, kw_only=True, tag=True):
    """Ids of the nodes with dense ids [start, stop). Answer: ids(nodes)."""

    node_type: str
    start: int
    stop: int


AnyQuery: TypeAlias = (
    Sample
    | InducedSubgraph
    | SampleNeighbors
    | CountNeighbors
    | FindEdges
    | NodeFeatures
    | EdgeFeatures
    | NodeTypes
    | Contains
    | RandomWalk
    | Node2Vec
    | PageRank
    | SampleNodes
    | SampleEdges
    | TotalWeight
    | Negatives
    | NodeRange
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(AnyQuery)


def encode_query(query: Query) -> bytes:
    """MessagePack of the struct (its arrays travel beside it)."""
    return _encoder.encode(query)


def decode_query(data: bytes | memoryview) -> AnyQuery:
    """The query of `encode_query`'s bytes.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: they are none; names the path of what is wrong.
    """
    query: AnyQuery = _decoder.decode(data)
    return query


class AnswerMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What is said once of an answer: the graph's version that all of it comes from, and the seed that it was drawn with."""

    version: int
    seed: int = 0


class GraphInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a graph says of itself: one version's number, schema, partitions, and how many nodes and edges each type has (by name)."""

    graph: str
    version: int
    partitions: int
    schema: GraphSchema
    node_counts: dict[str, int]
    edge_counts: dict[str, int]


class Answer(NamedTuple):
    """An answer: `meta` and its arrays."""

    meta: AnswerMeta
    arrays: Arrays


# -- ids of nodes, in either form -----------------------------------------------------------------------------------------------------


class StringIds(NamedTuple):
    """String ids: the UTF-8 of id i is data[offsets[i]:offsets[i + 1]]."""

    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]


Ids: TypeAlias = "npt.NDArray[np.int64] | StringIds"


def put_ids(arrays: Arrays, name: str, ids: Ids) -> None:
    """Add ids under `name`."""
    if isinstance(ids, StringIds):
        arrays[name + ".offsets"], arrays[name + ".data"] = ids
    else:
        arrays[name] = ids


def find_ids(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> Ids | None:
    """The ids under `name`, or None."""
    plain = arrays.get(name)
    if plain is not None:
        return plain
    offsets, data = arrays.get(name + ".offsets"), arrays.get(name + ".data")
    return None if offsets is None or data is None else StringIds(offsets, data)


def id_count(ids: Ids) -> int:
    """How many ids these are."""
    return len(ids.offsets) - 1 if isinstance(ids, StringIds) else len(ids)
