"""Graph: the face of a graph version, the same whether it is answered in process or by servers.

`EmbeddedGraph` and `RemoteGraph` give `info` and `_ask`; everything else stands here once, so their answers cannot differ. Every call is
answered from one version, whole. What is drawn depends on the graph version, the seed and the arguments only: not on partitions, shards,
replicas, threads or retries (docs/internals/determinism.md). `seed=None` draws a random seed and reports it in the answer.

Ids are what the graph was built from: int64, or str. An id that the graph has not is NodeIdError, which names it; with on_unknown="pad" it
gets nothing instead (-1, no neighbours, absent features) and is marked as such. Where a graph has several node types, `node_type` says of
which the ids are. An edge type is named by its key ("a", "likes", "b"), as "a/likes/b", or by its relation if only one has it; `direction`
is "out" (along the edges, from their source) or "in" (against them).

Every method takes `timeout_s` (None: the graph's own default) and raises DeadlineExceededError after it; of a served graph UnavailableError
where no replica answers. Thread rule: any thread, several at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, StateError
from fondaco.graph import _arguments as arguments
from fondaco.graph import queries
from fondaco.graph._received import features_of, grid_of, ids_of, subgraph_of
from fondaco.graph.answers import EdgeSample, FeatureColumn, IdArray, Neighbors, Ranked
from fondaco.graph.queries import Answer, Arrays, Distribution, GraphInfo, Query, Strategy
from fondaco.graph.schema import Direction, EdgeKey, EdgeType, Feature, GraphSchema, NodeType

NodeIds: TypeAlias = "npt.ArrayLike | Sequence[int] | Sequence[str]"
Edge: TypeAlias = "EdgeKey | EdgeType | str"
AsOf: TypeAlias = "datetime | str | int | npt.ArrayLike | None"
OnUnknown = Literal["error", "pad"]
FeatureNames: TypeAlias = "Sequence[str] | Mapping[str, Sequence[str]]"
EdgeFeatureNames: TypeAlias = "Sequence[str] | Mapping[Edge, Sequence[str]]"

NODE_IDS_AT_ONCE = 1 << 20  # of an iteration over all nodes: 8 MB of ids a call


class Graph(ABC):
    """One graph, to be asked."""

    # -- what the two kinds give ----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def info(self) -> GraphInfo:
        """The version that a call would be answered from now: its number, schema, partitions and counts."""

    @abstractmethod
    def _ask(self, query: Query, arrays: Arrays, timeout_s: float | None) -> Answer:
        """Have `query` answered."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections. Answers handed out stay valid. Twice is once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    # -- what it is -----------------------------------------------------------------------------------------------------------------

    @property
    def schema(self) -> GraphSchema:
        """Node types, edge types and their features."""
        return self.info.schema

    @property
    def version(self) -> int:
        """The number of the version that a call would be answered from now."""
        return self.info.version

    @property
    def partitions(self) -> int:
        """Into how many partitions the version is divided. No answer depends on it."""
        return self.info.partitions

    def node_count(self, node_type: str | None = None) -> int:
        """How many nodes a type has; without one, how many there are."""
        info = self.info
        return sum(info.node_counts.values()) if node_type is None else info.node_counts[info.schema.node(node_type).name]

    def edge_count(self, edge_type: Edge | None = None) -> int:
        """How many edges a type has; without one, how many there are. An edge stored in both directions counts once."""
        info = self.info
        return sum(info.edge_counts.values()) if edge_type is None else info.edge_counts[info.schema.edge(edge_type).name]

    # -- neighbourhoods ---------------------------------------------------------------------------------------------------------------

    def sample(
        self,
        seeds: NodeIds,
        fan_outs: Sequence[int | Mapping[Edge, int]],
        *,
        features: FeatureNames = (),
        edge_features: EdgeFeatureNames = (),
        seed: int | None = 0,
        strategy: Strategy = "uniform",
        replace: bool = False,
        as_of: AsOf = None,
        node_type: str | None = None,
        edge_types: Sequence[Edge] | None = None,
        direction: Direction = "out",
        edges: bool = True,
        edge_ids: bool = True,
        edge_weights: bool = False,
        edge_times: bool = False,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> Any:
        """Draw the neighbourhood of `seeds`, hop by hop, merged, relabelled, with each node's features once.

        At each hop the nodes that the one before found first are asked for neighbours: up to `fan_outs[hop]` of each, per edge type; all of
        them for -1, none for 0. A node found again is the same node: it is neither drawn for twice nor listed twice. Seeds may repeat.

        Args:
            fan_outs: one entry a hop; a number for every edge type, or {edge type: number} (those not named: 0).
            features: names of node features, of every type that has one, or {node type: names}. Stored ones are gathered; those bound to a
                store are read from it now.
            edge_features: names, or {edge type: names}.
            strategy: "uniform"; "weighted" (chances go as edge weights); "top_k" (heaviest); "last" (newest); "all"; "labor" (see
                `layer_sample`). Ties go by the order of the list: by time, then by the neighbour's hash.
            replace: draw with replacement: exactly `fan_out` draws for each node that has neighbours ("uniform" and "weighted").
            as_of: edges of timed types are seen only up to this moment (inclusive): one for all seeds, or one for each; it goes down with
                the hops. Seeds with different moments do not share nodes: see `Subgraph.as_of`. Edge types without times are always seen.
            edges: False leaves out everything about edges: nodes and features only.
            edge_ids, edge_weights, edge_times: what to return of each edge besides its ends. Types without weights or times have none.
        Returns:
            Subgraph of a graph with one node type and one edge type; HeteroSubgraph otherwise.
        Raises:
            NodeIdError: seeds that the graph has not. NodeTypeNotFoundError, EdgeTypeNotFoundError, FeatureNotFoundError.
            InputError: an argument out of range, weights or times that an edge type does not have, a direction that is not stored.
        Source: Hamilton et al. 2017 (GraphSAGE), Algorithm 2, without padding small neighbourhoods by drawing again.
        """
        schema = self.schema
        query = queries.Sample(
            node_type=self._node_type(schema, node_type).name,
            fan_outs=arguments.pack_fan_outs(schema, fan_outs),
            edge_types=arguments.pack_edges(schema, edge_types),
            direction=arguments.pack_direction(direction),
            strategy=arguments.pack_strategy(strategy, replace),
            replace=bool(replace),
            seed=arguments.pack_seed(seed),
            features=arguments.pack_node_features(schema, features) if features else (),
            edge_features=arguments.pack_edge_features(schema, edge_features) if edge_features else (),
            edges=bool(edges),
            edge_ids=bool(edge_ids),
            edge_weights=bool(edge_weights),
            edge_times=bool(edge_times),
            pad=arguments.pack_pad(on_unknown),
        )
        arrays = self._seeds(schema, query.node_type, seeds, "seeds", as_of)
        return subgraph_of(schema, query, len(query.fan_outs), self._answer(schema, query, arrays, timeout_s))

    def layer_sample(
        self,
        seeds: NodeIds,
        fan_outs: Sequence[int | Mapping[Edge, int]],
        *,
        features: FeatureNames = (),
        edge_features: EdgeFeatureNames = (),
        seed: int | None = 0,
        node_type: str | None = None,
        edge_types: Sequence[Edge] | None = None,
        direction: Direction = "out",
        as_of: AsOf = None,
        edge_ids: bool = True,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> Any:
        """`sample` with one random number for each neighbour and hop, shared by the whole layer, so that fewer distinct nodes are drawn.

        Each node expects `fan_out` neighbours (all, if it has no more), but their number varies.

        Source: Balin and Catalyurek 2023 (Layer-Neighbor Sampling), LABOR-0.
        """
        return self.sample(
            seeds, fan_outs, features=features, edge_features=edge_features, seed=seed, strategy="labor", as_of=as_of, node_type=node_type,
            edge_types=edge_types, direction=direction, edge_ids=edge_ids, on_unknown=on_unknown, timeout_s=timeout_s,
        )  # fmt: skip

    def subgraph(
        self,
        seeds: NodeIds,
        hops: int = 0,
        *,
        features: FeatureNames = (),
        edge_features: EdgeFeatureNames = (),
        as_of: AsOf = None,
        node_type: str | None = None,
        edge_types: Sequence[Edge] | None = None,
        direction: Direction = "out",
        edge_ids: bool = True,
        edge_weights: bool = False,
        edge_times: bool = False,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> Any:
        """All nodes within `hops` steps of `seeds`, with every edge of `edge_types` between any two of them (the induced subgraph).

        Nodes are ordered as by `sample` with fan-outs of -1; edges by the node whose list they are in, then as that list. `as_of` is one
        moment for all seeds.
        """
        schema = self.schema
        query = queries.InducedSubgraph(
            node_type=self._node_type(schema, node_type).name,
            hops=arguments.whole(hops, "hops", 0, 64),
            edge_types=arguments.pack_edges(schema, edge_types),
            direction=arguments.pack_direction(direction),
            features=arguments.pack_node_features(schema, features) if features else (),
            edge_features=arguments.pack_edge_features(schema, edge_features) if edge_features else (),
            edge_ids=bool(edge_ids),
            edge_weights=bool(edge_weights),
            edge_times=bool(edge_times),
            pad=arguments.pack_pad(on_unknown),
        )
        arrays = self._seeds(schema, query.node_type, seeds, "seeds", as_of)
        if arrays.get("as_of") is not None and len(arrays["as_of"]) != 1:
            raise InputError("as_of of an induced subgraph is one moment for all seeds; give a single one, or ask for each seed by itself")
        return subgraph_of(schema, query, query.hops, self._answer(schema, query, arrays, timeout_s))

    # -- neighbours -------------------------------------------------------------------------------------------------------------------

    def sample_neighbors(
        self,
        nodes: NodeIds,
        fan_out: int,
        *,
        edge_type: Edge | None = None,
        direction: Direction = "out",
        strategy: Strategy = "uniform",
        replace: bool = False,
        seed: int | None = 0,
        as_of: AsOf = None,
        edge_ids: bool = False,
        weights: bool = False,
        times: bool = False,
        node_type: str | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> Neighbors:
        """Up to `fan_out` neighbours of each of `nodes` along one edge type, not merged: what `sample`'s first hop would draw.

        A node that stands twice gets the same neighbours twice. Arguments as for `sample`.
        """
        schema = self.schema
        edge, start = self._edge_and_start(schema, edge_type, direction, node_type)
        query = queries.SampleNeighbors(
            node_type=start.name,
            edge_type=edge.name,
            fan_out=arguments.whole(fan_out, "fan_out (-1: all neighbours)", -1),
            direction=direction,
            strategy=arguments.pack_strategy(strategy, replace),
            replace=bool(replace),
            seed=arguments.pack_seed(seed),
            edge_ids=bool(edge_ids),
            weights=bool(weights),
            times=bool(times),
            pad=arguments.pack_pad(on_unknown),
        )
        answer = self._answer(schema, query, self._seeds(schema, start.name, nodes, "nodes", as_of), timeout_s)
        arrays = answer.arrays
        return Neighbors(
            arrays["counts"],
            ids_of(arrays, "neighbors"),
            answer.meta.version,
            query.seed,
            arrays.get("edge_ids"),
            arrays.get("weights"),
            arrays.get("times"),
        )

    def neighbors(
        self,
        nodes: NodeIds,
        *,
        edge_type: Edge | None = None,
        direction: Direction = "out",
        as_of: AsOf = None,
        edge_ids: bool = False,
        weights: bool = False,
        times: bool = False,
        node_type: str | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> Neighbors:
        """All neighbours of each of `nodes` along one edge type, as the graph keeps them: by time if edges have one, then by hash."""
        return self.sample_neighbors(
            nodes, queries.ALL, edge_type=edge_type, direction=direction, strategy="all", as_of=as_of, edge_ids=edge_ids, weights=weights,
            times=times, node_type=node_type, on_unknown=on_unknown, timeout_s=timeout_s,
        )  # fmt: skip

    def neighbor_counts(
        self,
        nodes: NodeIds,
        *,
        edge_type: Edge | None = None,
        direction: Direction = "out",
        as_of: AsOf = None,
        node_type: str | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> npt.NDArray[np.int64]:
        """How many neighbours each of `nodes` has along one edge type, parallel edges counted: int64 [n]."""
        schema = self.schema
        edge, start = self._edge_and_start(schema, edge_type, direction, node_type)
        query = queries.CountNeighbors(node_type=start.name, edge_type=edge.name, direction=direction, pad=arguments.pack_pad(on_unknown))
        counts: npt.NDArray[np.int64] = self._answer(
            schema, query, self._seeds(schema, start.name, nodes, "nodes", as_of), timeout_s
        ).arrays["counts"]
        return counts

    def find_edges(
        self,
        src: NodeIds,
        dst: NodeIds,
        edge_type: Edge | None = None,
        *,
        direction: Direction = "out",
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> npt.NDArray[np.int64]:
        """The id of the edge from each of `src` to the same entry of `dst`: int64 [n], -1 where there is none.

        Of parallel edges the last in the list: the newest, if edges have times.

        Edge ids are those of one direction: an edge that is stored both ways has one in each.
        """
        schema = self.schema
        edge = self._edge(schema, edge_type)
        query = queries.FindEdges(edge_type=edge.name, direction=arguments.pack_direction(direction), pad=arguments.pack_pad(on_unknown))
        found: npt.NDArray[np.int64] = self._answer(schema, query, self._pairs(schema, edge, src, dst), timeout_s).arrays["edge_ids"]
        return found

    def has_edges(
        self,
        src: NodeIds,
        dst: NodeIds,
        edge_type: Edge | None = None,
        *,
        direction: Direction | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Whether there is an edge from each of `src` to the same entry of `dst`: bool [n]. `direction`: which lists to look in."""
        edge = self._edge(self.schema, edge_type)
        where = direction if direction is not None else edge.directions[0]
        found: npt.NDArray[np.bool_] = self.find_edges(src, dst, edge.key, direction=where, on_unknown=on_unknown, timeout_s=timeout_s) >= 0
        return found

    # -- features ---------------------------------------------------------------------------------------------------------------------

    def features(
        self,
        nodes: NodeIds,
        names: Sequence[str],
        *,
        node_type: str | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> dict[str, FeatureColumn]:
        """Features of `nodes`, one row each in their order: dense arrays [n, *shape], SparseColumn, BytesColumn.

        A node that has no such feature (or, with on_unknown="pad", does not exist) has zeros; `features_and_masks` tells.
        """
        return self.features_and_masks(nodes, names, node_type=node_type, on_unknown=on_unknown, timeout_s=timeout_s)[0]

    def features_and_masks(
        self,
        nodes: NodeIds,
        names: Sequence[str],
        *,
        node_type: str | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> tuple[dict[str, FeatureColumn], dict[str, npt.NDArray[np.bool_]]]:
        """`features`, and for those that some of the rows may not have a mask: bool [n], True where the node has it."""
        schema = self.schema
        owner = self._node_type(schema, node_type)
        wanted = (names,) if isinstance(names, str) else tuple(names)
        stored = {name: owner.feature(name) for name in wanted}
        query = queries.NodeFeatures(node_type=owner.name, names=tuple(stored), pad=arguments.pack_pad(on_unknown))
        arrays = self._answer(schema, query, self._seeds(schema, owner.name, nodes, "nodes", None), timeout_s).arrays
        return features_of(arrays, "", stored)

    def edge_features(
        self,
        src: NodeIds,
        dst: NodeIds,
        names: Sequence[str],
        edge_type: Edge | None = None,
        *,
        direction: Direction = "out",
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> dict[str, FeatureColumn]:
        """Features of the edges from each of `src` to the same entry of `dst` (of parallel ones as `find_edges`), one row each.

        Raises:
            InputError: there is no such edge; names the first. With on_unknown="pad" its row is zeros.
        """
        schema = self.schema
        edge = self._edge(schema, edge_type)
        stored, query = self._edge_feature_query(edge, names, direction, on_unknown)
        return features_of(self._answer(schema, query, self._pairs(schema, edge, src, dst), timeout_s).arrays, "", stored)[0]

    def edge_features_by_id(
        self,
        edge_ids: npt.ArrayLike,
        names: Sequence[str],
        edge_type: Edge | None = None,
        *,
        direction: Direction = "out",
        timeout_s: float | None = None,
    ) -> dict[str, FeatureColumn]:
        """Features of edges by the ids that an answer about the same direction gave, one row each.

        Raises:
            InputError: an id outside [0, edges of the type).
        """
        schema = self.schema
        stored, query = self._edge_feature_query(self._edge(schema, edge_type), names, direction, "error")
        rows = np.ascontiguousarray(edge_ids)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise InputError(f"edge_ids are int64 of shape [n], not {rows.dtype} of shape {rows.shape}")
        return features_of(self._answer(schema, query, {"edge_ids": rows.astype(np.int64, copy=False)}, timeout_s).arrays, "", stored)[0]

    # -- which nodes ------------------------------------------------------------------------------------------------------------------

    def contains(self, nodes: NodeIds, *, node_type: str | None = None, timeout_s: float | None = None) -> npt.NDArray[np.bool_]:
        """Which of `nodes` the graph has, as nodes of the type: bool [n]."""
        schema = self.schema
        owner = self._node_type(schema, node_type).name
        arrays = self._answer(schema, queries.Contains(node_type=owner), self._seeds(schema, owner, nodes, "nodes", None), timeout_s).arrays
        found: npt.NDArray[np.bool_] = arrays["found"].astype(bool, copy=False)
        return found

    def node_types(self, nodes: NodeIds, *, timeout_s: float | None = None) -> npt.NDArray[np.int32]:
        """The type of each of `nodes`, as its position in `schema.nodes`: int32 [n]; the first type that has the id, -1 where none has.

        All ids are of one kind, int64 or str; types with ids of the other kind are passed over.
        """
        schema = self.schema
        is_text = _is_text(nodes)
        kind = NodeType("any node type", "string" if is_text else "long")
        arrays: Arrays = {}
        queries.put_ids(arrays, "seeds", arguments.pack_ids(nodes, kind, "nodes"))
        types: npt.NDArray[np.int32] = self._answer(schema, queries.NodeTypes(), arrays, timeout_s).arrays["types"]
        return types

    def node_ids(self, node_type: str | None = None, *, shard: tuple[int, int] = (0, 1), timeout_s: float | None = None) -> IdArray:
        """Ids of all nodes of a type, in the graph's own order; `shard=(rank, world)`: one of `world` nearly equal parts of them."""
        parts = list(self.iterate_node_ids(node_type, shard=shard, timeout_s=timeout_s))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def iterate_node_ids(
        self,
        node_type: str | None = None,
        *,
        shard: tuple[int, int] = (0, 1),
        batch: int = NODE_IDS_AT_ONCE,
        timeout_s: float | None = None,
    ) -> Iterator[IdArray]:
        """`node_ids`, up to `batch` at a time. At least one array comes, if an empty one.

        Raises:
            StateError: another version became current meanwhile: it may have other nodes.
        """
        schema = self.schema
        owner = self._node_type(schema, node_type).name
        rank, world = shard
        arguments.whole(world, "the number of shards", 1)
        arguments.whole(rank, "the rank", 0, world - 1)
        arguments.whole(batch, "batch", 1)
        info = self.info
        count = info.node_counts[owner]
        start, stop = count * rank // world, count * (rank + 1) // world
        for first in range(start, max(stop, start + 1), batch):
            query = queries.NodeRange(node_type=owner, start=first, stop=min(first + batch, stop))
            answer = self._answer(schema, query, {}, timeout_s)
            if answer.meta.version != info.version:
                raise StateError(
                    f"the graph went from version {info.version} to {answer.meta.version} while its nodes were listed; "
                    "list them again, or open the graph at one version"
                )
            yield ids_of(answer.arrays, "nodes")

    def sample_nodes(
        self,
        count: int,
        node_type: str | None = None,
        *,
        weighted: bool = False,
        replace: bool = False,
        seed: int | None = 0,
        timeout_s: float | None = None,
    ) -> IdArray:
        """`count` nodes of a type, drawn from all of them: uniformly, or by their weights. Without `replace` all are different.

        Raises:
            InputError: more than there are (without `replace`), or a type without weights.
        """
        schema = self.schema
        owner = self._node_type(schema, node_type).name
        query = queries.SampleNodes(
            node_type=owner,
            count=arguments.whole(count, "count", 0),
            weighted=bool(weighted),
            replace=bool(replace),
            seed=arguments.pack_seed(seed),
        )
        return ids_of(self._answer(schema, query, {}, timeout_s).arrays, "nodes")

    def sample_edges(
        self,
        count: int,
        edge_type: Edge | None = None,
        *,
        weighted: bool = False,
        replace: bool = False,
        direction: Direction | None = None,
        seed: int | None = 0,
        timeout_s: float | None = None,
    ) -> EdgeSample:
        """`count` edges of a type, drawn from all of them: uniformly, or by their weights. Without `replace` all are different.

        `direction`: whose edge ids to give; the stored one by default.
        """
        schema = self.schema
        edge = self._edge(schema, edge_type)
        query = queries.SampleEdges(
            edge_type=edge.name,
            count=arguments.whole(count, "count", 0),
            direction=arguments.pack_direction(direction if direction is not None else edge.directions[0]),
            weighted=bool(weighted),
            replace=bool(replace),
            seed=arguments.pack_seed(seed),
        )
        answer = self._answer(schema, query, {}, timeout_s)
        arrays = answer.arrays
        return EdgeSample(
            ids_of(arrays, "src"), ids_of(arrays, "dst"), arrays["edge_ids"], answer.meta.version, query.seed, arrays.get("weights")
        )

    def total_weight(
        self,
        node_type: str | None = None,
        edge_type: Edge | None = None,
        *,
        direction: Direction | None = None,
        timeout_s: float | None = None,
    ) -> float:
        """The sum of the weights of all nodes of a type, or of all edges of one.

        Raises:
            InputError: the type has no weights, or not one of the two is named.
        """
        schema = self.schema
        if (node_type is None) == (edge_type is None):
            raise InputError("say node_type= or edge_type=: whose weights are to be added")
        query = queries.TotalWeight(node_type=None if node_type is None else schema.node(node_type).name)
        if edge_type is not None:
            edge = schema.edge(edge_type)
            way = arguments.pack_direction(direction if direction is not None else edge.directions[0])
            query = queries.TotalWeight(edge_type=edge.name, direction=way)
        return float(self._ask(query, {}, timeout_s).arrays["weight"][0])

    # -- walks, ranks, negatives --------------------------------------------------------------------------------------------------------

    def random_walk(
        self,
        nodes: NodeIds,
        length: int | None = None,
        *,
        metapath: Sequence[Edge | list[Edge]] | None = None,
        edge_type: Edge | list[Edge] | None = None,
        direction: Direction = "out",
        weighted: bool = False,
        temporal: bool = False,
        as_of: AsOf = None,
        restart: float = 0.0,
        seed: int | None = 0,
        node_type: str | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> IdArray:
        """A walk of `length` steps from each of `nodes`: ids [n, length + 1], the start first.

        After a dead end the rest of the row is -1 (None in rows of strings). `metapath`: the edge type of each step; it is repeated if
        `length` is longer, and gone once without a `length`. A list of edge types, for one step or as `edge_type`: the step chooses among
        a node's edges of all of them. `restart`: before each step, the chance to go back to the start; only where the path stays within
        one node type. `weighted`: steps go as edge weights. `as_of`: no edge after it (one moment, or one a walk); `temporal`: none older
        than the edge before it, so that times ascend along the walk. Walk i is keyed by (seed, i): a node that stands twice walks twice.
        """
        schema = self.schema
        if isinstance(metapath, str):
            raise InputError(f"metapath has one entry for each step; not {metapath!r}: [{metapath!r}]")
        if metapath is not None and edge_type is not None:
            raise InputError("say metapath= or edge_type=, not both: the path names the edge types of all steps")
        path = [self._among(schema, edges) for edges in metapath] if metapath else [self._among(schema, edge_type)]
        if length is None:
            if not metapath:
                raise InputError("say the length of the walk: its steps")
            length = len(path)
        steps = arguments.whole(length, "length", 0, 1 << 20)
        ends = [_ends(edges[0], arguments.pack_direction(direction)) for edges in path]
        start = self._start(schema, ends[0][0], node_type)
        for position, (before, after) in enumerate(zip(ends, ends[1:] + ends[:1], strict=True)):
            if before[1] != after[0] and (position + 1 < len(path) or steps > len(path)):
                follows = path[(position + 1) % len(path)][0].name
                raise InputError(
                    f"metapath cannot go on after step {position + 1}: {path[position][0].name!r} leads to {before[1]!r}, "
                    f"and {follows!r} starts at {after[0]!r}"
                )
        chance = arguments.number(restart, "restart", 0.0, 1.0)
        if chance and {name for pair in ends for name in pair} != {start.name}:
            raise InputError("restart needs a path within one node type; leave it out, or walk along edges of one node type")
        query = queries.RandomWalk(
            node_type=start.name,
            length=steps,
            edge_types=tuple(_names(edges) for edges in path),
            direction=direction,
            weighted=bool(weighted),
            temporal=bool(temporal),
            restart=chance,
            seed=arguments.pack_seed(seed),
            pad=arguments.pack_pad(on_unknown),
        )
        columns = [start.name, *(ends[step % len(ends)][1] for step in range(steps))]
        answer = self._answer(schema, query, self._seeds(schema, start.name, nodes, "nodes", as_of), timeout_s)
        return grid_of(schema, columns, answer.arrays, "walks")

    def node2vec(
        self,
        nodes: NodeIds,
        length: int,
        p: float = 1.0,
        q: float = 1.0,
        *,
        edge_type: Edge | list[Edge] | None = None,
        direction: Direction = "out",
        weighted: bool = False,
        as_of: AsOf = None,
        seed: int | None = 0,
        node_type: str | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> IdArray:
        """Second-order walks: going back weighs 1/p, going to a neighbour of the node before 1, elsewhere 1/q. Shape as `random_walk`'s.

        A neighbour of the node before is one that an edge leads to from there. Exact for any `p` and `q`. `edge_type`: one, or a list to
        choose among; `weighted`, `as_of` as for `random_walk`.

        Source: Grover and Leskovec 2016 (node2vec).
        """
        schema = self.schema
        edges, start = self._within_one_type("node2vec", schema, edge_type, direction, node_type)
        query = queries.Node2Vec(
            node_type=start.name,
            length=arguments.whole(length, "length", 0, 1 << 20),
            edge_type=_names(edges),
            direction=direction,
            weighted=bool(weighted),
            p=arguments.number(p, "p", 0.0, open_at_least=True),
            q=arguments.number(q, "q", 0.0, open_at_least=True),
            seed=arguments.pack_seed(seed),
            pad=arguments.pack_pad(on_unknown),
        )
        answer = self._answer(schema, query, self._seeds(schema, start.name, nodes, "nodes", as_of), timeout_s)
        return grid_of(schema, [start.name] * (query.length + 1), answer.arrays, "walks")

    def ppr(
        self,
        nodes: NodeIds,
        top_k: int,
        *,
        alpha: float = 0.15,
        eps: float = 1e-4,
        edge_type: Edge | list[Edge] | None = None,
        direction: Direction = "out",
        weighted: bool = False,
        as_of: AsOf = None,
        node_type: str | None = None,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> Ranked:
        """The `top_k` nodes of highest personalised PageRank of each of `nodes`, best first; ties by the graph's own order.

        A score is the probability that a walk from the node stops there: before each step with chance `alpha`, and where no edge leads
        on. `eps`: mass is spread on from a node while that is at least `eps` times its degree, so scores are too low, by at most `eps`
        times the node's degree where edges go both ways. Work: up to 1 / (alpha eps) edges for each of `nodes`. `edge_type`: one, or a list
        whose edges are taken together; `weighted`, `as_of` as for `random_walk`.

        Source: Andersen, Chung, Lang 2006 (Local Graph Partitioning using PageRank Vectors).
        """
        schema = self.schema
        edges, start = self._within_one_type("ppr", schema, edge_type, direction, node_type)
        query = queries.PageRank(
            node_type=start.name,
            edge_type=_names(edges),
            top_k=arguments.whole(top_k, "top_k", 1),
            direction=direction,
            weighted=bool(weighted),
            alpha=arguments.number(alpha, "alpha", 0.0, 1.0, open_at_least=True),
            eps=arguments.number(eps, "eps", 0.0, open_at_least=True),
            pad=arguments.pack_pad(on_unknown),
        )
        answer = self._answer(schema, query, self._seeds(schema, start.name, nodes, "nodes", as_of), timeout_s)
        return Ranked(answer.arrays["counts"], ids_of(answer.arrays, "nodes"), answer.arrays["scores"], answer.meta.version)

    def negatives(
        self,
        src: NodeIds,
        count: int,
        *,
        edge_type: Edge | None = None,
        distribution: Distribution = "uniform",
        strict: bool = True,
        seed: int | None = 0,
        on_unknown: OnUnknown = "error",
        timeout_s: float | None = None,
    ) -> IdArray:
        """`count` nodes of the edge type's target type for each of `src`: ids [n, count], drawn independently.

        Args:
            distribution: "uniform", or "degree": by in-degree to the power 0.75 (word2vec's noise).
            strict: never one that an edge of the type leads to from there, nor the node itself. Where none is left, -1 (None).
        """
        if distribution not in ("uniform", "degree"):
            raise InputError(f'distribution is "uniform" or "degree" (in-degree to the power 0.75), not {distribution!r}')
        schema = self.schema
        edge = self._edge(schema, edge_type)
        query = queries.Negatives(
            edge_type=edge.name,
            count=arguments.whole(count, "count", 0),
            distribution=distribution,
            strict=bool(strict),
            seed=arguments.pack_seed(seed),
            pad=arguments.pack_pad(on_unknown),
        )
        arrays = self._answer(schema, query, self._seeds(schema, edge.src, src, "src", None), timeout_s).arrays
        return grid_of(schema, [edge.dst] * query.count, arrays, "nodes")

    def _answer(self, schema: GraphSchema, query: Query, arrays: Arrays, timeout_s: float | None) -> Answer:
        """Have a query that was made for `schema` answered."""
        answer = self._ask(query, arrays, timeout_s)
        now = self.info
        if now.schema is not schema and now.schema != schema:
            raise StateError(f"version {now.version} of the graph, which came while it was asked, has another schema; ask again")
        return answer

    # -- arguments --------------------------------------------------------------------------------------------------------------------

    def _node_type(self, schema: GraphSchema, name: str | None) -> NodeType:
        if name is not None:
            return schema.node(name)
        if len(schema.nodes) != 1:
            names = ", ".join(repr(node.name) for node in schema.nodes)
            raise InputError(f"the graph has several node types: {names}; say node_type=, for example node_type={schema.nodes[0].name!r}")
        return schema.nodes[0]

    def _edge(self, schema: GraphSchema, key: Edge | None) -> EdgeType:
        if key is not None:
            return schema.edge(key)
        if len(schema.edges) != 1:
            names = ", ".join(repr(edge.name) for edge in schema.edges)
            example = f", for example edge_type={schema.edges[0].name!r}" if schema.edges else ""
            raise InputError(f"the graph has {len(schema.edges)} edge types ({names}); say edge_type={example}")
        return schema.edges[0]

    def _edge_and_start(
        self, schema: GraphSchema, key: Edge | None, direction: Direction, node_type: str | None
    ) -> tuple[EdgeType, NodeType]:
        """The edge type, and the node type that its lists belong to. Without a key, `node_type` may tell the one that starts there."""
        arguments.pack_direction(direction)
        if key is None and node_type is not None:
            from_there = [edge for edge in schema.edges if _ends(edge, direction)[0] == schema.node(node_type).name]
            edge = from_there[0] if len(from_there) == 1 else self._edge(schema, None)
        else:
            edge = self._edge(schema, key)
        return edge, self._start(schema, _ends(edge, direction)[0], node_type)

    def _among(self, schema: GraphSchema, edges: Edge | list[Edge] | None) -> list[EdgeType]:
        """The edge types that a step chooses among."""
        if not isinstance(edges, list):
            return [self._edge(schema, edges)]
        if not edges:
            raise InputError("a step needs an edge type to go along; give one or several, not an empty list")
        return list(dict.fromkeys(self._edge(schema, edge) for edge in edges))

    def _within_one_type(
        self, what: str, schema: GraphSchema, edge_type: Edge | list[Edge] | None, direction: Direction, node_type: str | None
    ) -> tuple[list[EdgeType], NodeType]:
        if isinstance(edge_type, list):
            edges = self._among(schema, edge_type)
            start = self._start(schema, _ends(edges[0], arguments.pack_direction(direction))[0], node_type)
        else:
            edge, start = self._edge_and_start(schema, edge_type, direction, node_type)
            edges = [edge]
        for edge in edges:
            if not edge.src == edge.dst == start.name:
                raise InputError(f"{what} needs edges within one node type; {edge.name!r} leads from {edge.src!r} to {edge.dst!r}")
        return edges, start

    def _start(self, schema: GraphSchema, start: str, node_type: str | None) -> NodeType:
        if node_type is not None and schema.node(node_type).name != start:
            raise InputError(
                f"node_type is {node_type!r}, and the edges asked for start at {start!r}; leave node_type out, or choose others"
            )
        return schema.node(start)

    def _seeds(self, schema: GraphSchema, node_type: str, ids: NodeIds, what: str, as_of: AsOf) -> Arrays:
        arrays: Arrays = {}
        packed = arguments.pack_ids(ids, schema.node(node_type), what)
        queries.put_ids(arrays, "seeds", packed)
        if as_of is not None:
            arrays["as_of"] = arguments.pack_as_of(as_of, queries.id_count(packed))
        return arrays

    def _pairs(self, schema: GraphSchema, edge: EdgeType, src: NodeIds, dst: NodeIds) -> Arrays:
        arrays: Arrays = {}
        sources = arguments.pack_ids(src, schema.node(edge.src), "src")
        targets = arguments.pack_ids(dst, schema.node(edge.dst), "dst")
        if queries.id_count(sources) != queries.id_count(targets):
            raise InputError(f"src has {queries.id_count(sources)} ids and dst {queries.id_count(targets)}; give one pair an edge")
        queries.put_ids(arrays, "src", sources)
        queries.put_ids(arrays, "dst", targets)
        return arrays

    def _edge_feature_query(
        self, edge: EdgeType, names: Sequence[str], direction: Direction, on_unknown: str
    ) -> tuple[dict[str, Feature], queries.EdgeFeatures]:
        wanted = (names,) if isinstance(names, str) else tuple(names)
        stored = {name: edge.feature(name) for name in wanted}
        return stored, queries.EdgeFeatures(
            edge_type=edge.name, names=tuple(stored), direction=arguments.pack_direction(direction), pad=arguments.pack_pad(on_unknown)
        )


def _names(edges: Sequence[EdgeType]) -> str | tuple[str, ...]:
    """One edge type's name, or those of several."""
    return edges[0].name if len(edges) == 1 else tuple(edge.name for edge in edges)


def _ends(edge: EdgeType, direction: Direction) -> tuple[str, str]:
    """Node types at which a step along the edge type starts and ends."""
    return (edge.src, edge.dst) if direction == "out" else (edge.dst, edge.src)


def _is_text(ids: Any) -> bool:
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iub":
        return False
    first = next(iter(ids), None)
    return isinstance(first, str)
