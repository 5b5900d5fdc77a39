"""Shards: the parts of a graph version, each answering simple questions about the partitions that it holds.

A `ShardQuery` is one step of a plan over dense ids: look ids up, one hop, gather a feature. The executor puts several of them, to different
shards, into one `Shards.ask`, which sends all before it waits for any. `local.ShardAnswers` answers them with kernels from mapped files;
`remote_shards` carries the same structs and arrays to a server that holds the partition. A shard answers in the order of the request, and
what it answers depends on nothing but the graph version and the query: any replica, asked any number of times, answers the same.

Arrays of a request and of its answer are written at each class. Dense ids are int32, edge ids (positions) int64, times and `as_of` int64
microseconds. `as_of` is absent, or has one entry per row, or one for all. Strings: `.offsets`/`.data` as in `queries`. `pad` does not
exist here: whoever asks removes unknown ids (-1) first, and sends a row only to the shard that holds it.

Importing this is light: NumPy and msgspec. Thread rule: a `Shards` may be asked from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from fondaco.graph.queries import Arrays, Strategy
from fondaco.graph.schema import Direction

if TYPE_CHECKING:
    from fondaco.graph.deadlines import Deadline
    from fondaco.graph.schema import GraphSchema

Allocator: TypeAlias = Callable[[int], npt.NDArray[np.uint8]]
"""Writable memory of exactly so many bytes, aligned to 64: where big arrays of an answer are to lie (shared memory, pinned memory)."""


class ShardQuery(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One step, asked of one shard."""


class Resolve(ShardQuery, frozen=True, kw_only=True, tag=True):
    """ids (or ids.offsets, ids.data) of one node type -> dense int32 [n]; -1: this shard has no such node."""

    node_type: str


class NodeIds(ShardQuery, frozen=True, kw_only=True, tag=True):
    """dense int32 [n] -> ids int64 [n], or ids.offsets, ids.data."""

    node_type: str


class Hop(ShardQuery, frozen=True, kw_only=True, tag=True):
    """frontier int32 [n], as_of -> counts int32 [n], neighbors int32 [e]; as asked edge_ids int64, weights float32, times int64, all [e].

    `hop` and the adjacency's number key the draws, besides the seed and the node. fan_out -1 or strategy "all": whole lists.
    """

    edge_type: str
    direction: Direction
    fan_out: int
    strategy: Strategy = "uniform"
    replace: bool = False
    seed: int = 0
    hop: int = 0
    edge_ids: bool = False
    weights: bool = False
    times: bool = False


class Counts(ShardQuery, frozen=True, kw_only=True, tag=True):
    """frontier int32 [n], as_of -> counts int64 [n]: lengths of their lists."""

    edge_type: str
    direction: Direction


class Find(ShardQuery, frozen=True, kw_only=True, tag=True):
    """frontier int32 [n] (rows of the adjacency), to int32 [n], as_of -> edge_ids int64 [n]: last edge of the row to there, or -1."""

    edge_type: str
    direction: Direction


class EdgesAt(ShardQuery, frozen=True, kw_only=True, tag=True):
    """edge_ids int64 [n] -> from int32 [n] (rows), to int32 [n], and as asked weights float32 [n], times int64 [n]."""

    edge_type: str
    direction: Direction
    weights: bool = False
    times: bool = False


class NodeFeature(ShardQuery, frozen=True, kw_only=True, tag=True):
    """rows int32 [n] dense ids -> values [n, *shape], or indptr, indices int64 and values, or offsets int64 and data uint8.

    And present uint8 [n] where some nodes of the type have none; their values are zeros.
    """

    node_type: str
    name: str


class EdgeFeature(ShardQuery, frozen=True, kw_only=True, tag=True):
    """rows int64 [n] edge ids -> as NodeFeature."""

    edge_type: str
    direction: Direction
    name: str


class Induced(ShardQuery, frozen=True, kw_only=True, tag=True):
    """frontier int32 [n] rows, members int32 [m] all different, as_of -> counts int32 [n], members int32 [e], edge_ids int64 [e].

    Edges of the rows that lead to a member, in list order; members: positions in the request's.
    """

    edge_type: str
    direction: Direction


# -- walks, ranks, negatives, global draws: see walks, ppr, negatives, global_sampling; answered by the `answer` of each -----------------


class WalkOn(ShardQuery, frozen=True, kw_only=True, tag=True):
    """Walk on from where each walker stands, as far as this shard's partitions lead.

    `steps`: the edge types between which each step chooses, taken in turn and from the first again. Arrays, all [n]: walker int64 (number
    that keys the draws), step int32 (steps made), phase int32 (steps made since the start or a restart), node int32, previous int32 (-1:
    none), origin int32, attempt int32, clock int64 (time of the last edge), as_of int64. Answer: made int64 [n] and nodes int32 [sum of
    made], the nodes stepped to; status uint8 [n] as `_walk_kernels` names them; phase, node, previous, attempt, clock as above;
    candidates int32 [walkers with status CHECK, CANDIDATES].
    """

    steps: tuple[tuple[str, ...], ...]
    direction: Direction
    length: int
    weighted: bool = False
    temporal: bool = False
    restart: float = 0.0
    p: float = 1.0
    q: float = 1.0
    seed: int = 0


class Rank(ShardQuery, frozen=True, kw_only=True, tag=True):
    """frontier int32 [n], as_of -> counts int64 [n], nodes int32, scores float64: the best by personalised PageRank. Asked of a shard that
    holds the whole graph; over several, `ppr` fetches lists."""

    edge_types: tuple[str, ...]
    direction: Direction
    top_k: int
    alpha: float = 0.15
    eps: float = 1e-4
    weighted: bool = False


class InDegrees(ShardQuery, frozen=True, kw_only=True, tag=True):
    """partitions int64 [k] -> counts int64 [nodes of the target type]: edges of those partitions' lists ("out": from, "in": of a node) that
    lead to each node along the edge type."""

    edge_type: str
    direction: Direction


class Masses(ShardQuery, frozen=True, kw_only=True, tag=True):
    """partitions int64 [k] -> masses float64 [k]: the sum of the weights of the nodes of a type, or of the edges (node_type None)."""

    node_type: str | None = None
    edge_type: str | None = None
    direction: Direction = "out"


class Pick(ShardQuery, frozen=True, kw_only=True, tag=True):
    """partition int64 [n], mass float64 [n] below the partition's -> positions int64 [n]: the first node or edge (dense id, edge id) of the
    partition up to which, inclusive, the weights add up to more."""

    node_type: str | None = None
    edge_type: str | None = None
    direction: Direction = "out"


class SmallestKeys(ShardQuery, frozen=True, kw_only=True, tag=True):
    """partitions int64 [k] -> keys float64 [m], positions int64 [m], m <= count: the smallest keys (draw / weight), ties by position."""

    count: int
    seed: int
    node_type: str | None = None
    edge_type: str | None = None
    direction: Direction = "out"


AnyShardQuery: TypeAlias = (
    Resolve
    | NodeIds
    | Hop
    | Counts
    | Find
    | EdgesAt
    | NodeFeature
    | EdgeFeature
    | Induced
    | WalkOn
    | Rank
    | InDegrees
    | Masses
    | Pick
    | SmallestKeys
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(AnyShardQuery)


def encode_shard_query(query: ShardQuery) -> bytes:
    """MessagePack of the struct (its arrays travel beside it)."""
    return _encoder.encode(query)


def decode_shard_query(data: bytes | memoryview) -> AnyShardQuery:
    """The query of `encode_shard_query`'s bytes; msgspec's errors where they are none."""
    query: AnyShardQuery = _decoder.decode(data)
    return query


@dataclass(frozen=True, slots=True)
class Into:
    """Rows of an array: row i of what is gathered belongs to array[rows[i]]. rows: int64 [n]."""

    array: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """A query to one shard.

    `out`: where `values` of a dense feature are to be written (then the answer's `values` is `out`). `into`: rows of an array where a shard
    in this process can put them one by one (then `values` is that array); others answer as if it were not there.
    """

    shard: int
    query: ShardQuery
    arrays: Arrays
    out: npt.NDArray[Any] | None = None
    into: Into | None = None


class Shards(Protocol):
    """All shards of one graph version."""

    @property
    def schema(self) -> GraphSchema: ...

    @property
    def version(self) -> int: ...

    @property
    def partitions(self) -> int: ...

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """int64 [partitions]: the number of the shard that holds each partition; ascending."""
        ...

    @property
    def shard_count(self) -> int: ...

    @property
    def anchor(self) -> object:
        """Lives as long as the version is open in this process, one for all `Shards` of it: what is made once is kept with it (weakly)."""
        ...

    def starts(self, node_type: str) -> npt.NDArray[np.int64]:
        """int64 [partitions + 1]: the first dense id of each partition; the last entry is how many nodes there are."""
        ...

    def edge_starts(self, edge_type: str, direction: Direction) -> npt.NDArray[np.int64]:
        """int64 [partitions + 1]: the first edge id of each partition; the last entry is how many edges there are."""
        ...

    def ask(self, requests: Sequence[ShardRequest], deadline: Deadline) -> list[Arrays]:
        """The answers, in the order of the requests. All requests are on their way before any answer is waited for.

        Raises:
            DeadlineExceededError, UnavailableError: no replica of a shard answered.
        """
        ...
