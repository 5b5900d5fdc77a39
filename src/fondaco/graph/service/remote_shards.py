"""Remote shards: all parts of a graph version for the server that answers a whole query: its own from files, others' by asking.

Requests to several shards are all sent before the first answer is awaited, and this server's own are answered meanwhile. Each shard is
asked of one of its replicas, and of the next if that one is gone (`failover`); a shard that nobody holds is an error that names its
partitions. Every part is of one version, which stands in each request. Any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import UnavailableError
from fondaco.graph.deadlines import Deadline
from fondaco.graph.opened import shard_partitions
from fondaco.graph.queries import Arrays
from fondaco.graph.schema import Direction, GraphSchema
from fondaco.graph.service.failover import Asking
from fondaco.graph.service.frames import Kind
from fondaco.graph.service.peer import Asked, Peer
from fondaco.graph.service.peer_map import PeerMap
from fondaco.graph.shards import Allocator, EdgeFeature, NodeFeature, ShardQuery, ShardRequest, encode_shard_query

if TYPE_CHECKING:
    from fondaco.graph.service.versions import ServedVersion

I64Array = npt.NDArray[np.int64]
_SINKS: Final = ("values", "ids")  # what `ShardRequest.out` may be written with
_SHOWN: Final = 8


class RemoteShards:
    """All shards of one version, for one server: its `Shards`. Shards that hold no partition are left out of the numbering."""

    def __init__(self, version: ServedVersion, peers: PeerMap, gathered: Callable[[int], None]) -> None:
        """
        Args:
            gathered: told how many rows of features were gathered here.
        """
        self._version, self._peers, self._gathered = version, peers, gathered
        opened = version.opened
        self.schema: GraphSchema = opened.schema
        self.version, self.partitions = opened.version, opened.partitions
        self.anchor: object = opened
        count = peers.me.shards
        held = [shard_partitions(self.partitions, shard, count) for shard in range(count)]
        self._held = [partitions for partitions in held if partitions]
        self._shards = [shard for shard, partitions in enumerate(held) if partitions]  # their numbers among the servers
        self.shard_count = len(self._shards)
        self.owners: I64Array = np.repeat(np.arange(self.shard_count), [len(partitions) for partitions in self._held])

    def starts(self, node_type: str) -> I64Array:
        """As `Shards.starts`."""
        return self._version.opened.node_table(node_type).starts

    def edge_starts(self, edge_type: str, direction: Direction) -> I64Array:
        """As `Shards.edge_starts`."""
        return self._version.opened.adjacency_tables[self._version.answers.number(edge_type, direction)].edge_starts

    def ask(self, requests: Sequence[ShardRequest], deadline: Deadline) -> list[Arrays]:
        """As `Shards.ask`."""
        if len(requests) == 1 and self._is_mine(requests[0]):
            return [self._answer(requests[0], deadline)]
        under_way: dict[int, _Part] = {}
        try:
            for number, request in enumerate(requests):
                if not self._is_mine(request):
                    under_way[number] = self._send(request, deadline)
            answers = {number: self._answer(request, deadline) for number, request in enumerate(requests) if number not in under_way}
            for number in tuple(under_way):
                answers[number] = under_way[number].finish()
                del under_way[number]
            return [answers[number] for number in range(len(requests))]
        finally:
            for part in under_way.values():
                part.cancel()

    def _is_mine(self, request: ShardRequest) -> bool:
        return self._shards[request.shard] == self._peers.me.shard

    def _answer(self, request: ShardRequest, deadline: Deadline) -> Arrays:
        if isinstance(request.query, (NodeFeature, EdgeFeature)):
            self._gathered(len(request.arrays["rows"]))
        out = request.out if request.into is None else request.into
        if out is None:
            out = feature_memory(self.schema, request.query, request.arrays, self._peers.pool.take)
        return self._version.answers.answer(request.query, request.arrays, out, deadline)

    def _send(self, request: ShardRequest, deadline: Deadline) -> _Part:
        out = request.out
        asked = Asked(
            Kind.SHARD,
            encode_shard_query(request.query),
            {name: np.ascontiguousarray(array) for name, array in request.arrays.items()},
            self.version,
            type(request.query).__name__,
            None if out is None else dict.fromkeys(_SINKS, out),
        )
        part = _Part(self._peers, self._shards[request.shard], self._what(request.shard), asked, deadline)
        part.begin()
        return part

    def _what(self, shard: int) -> str:
        held = self._held[shard]
        shown = ", ".join(map(str, held[:_SHOWN])) + (", ..." if len(held) > _SHOWN else "")
        noun = "partition" if len(held) == 1 else "partitions"
        name, count = self._version.info.graph, self._peers.me.shards
        return f"{noun} {shown} of graph {name!r} (shard {self._shards[shard]}/{count})"


def feature_memory(schema: GraphSchema, query: ShardQuery, arrays: Arrays, allocate: Allocator) -> npt.NDArray[Any] | None:
    """Where the rows of a dense feature go: [rows, *shape]; None: it is none."""
    if not isinstance(query, (NodeFeature, EdgeFeature)) or "rows" not in arrays:
        return None
    owner = schema.node(query.node_type) if isinstance(query, NodeFeature) else schema.edge(query.edge_type)
    feature = owner.feature(query.name)
    if feature.kind != "dense":
        return None
    count = len(arrays["rows"])
    return allocate(count * feature.row_bytes).view(feature.numpy_dtype).reshape(count, *feature.shape)


class _Part:
    """One request to one foreign shard."""

    def __init__(self, peers: PeerMap, shard: int, what: str, asked: Asked, deadline: Deadline) -> None:
        self._peers, self._shard, self._what, self._asked, self._deadline = peers, shard, what, asked, deadline
        self._tried: list[Peer] = []
        self._asking: Asking | None = None

    def begin(self) -> None:
        replicas = self._peers.replicas(self._shard)
        if not replicas:
            self._peers.refresh()
            replicas = self._peers.replicas(self._shard)
        if not replicas:
            raise UnavailableError(self._what, "no server that is known holds it")
        self._ask(replicas)

    def finish(self) -> Arrays:
        while True:
            assert self._asking is not None
            try:
                return dict(self._asking.finish().arrays)
            except UnavailableError as error:
                self._try_others(error)

    def cancel(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self, replicas: list[Peer]) -> None:
        self._tried += replicas
        self._asking = Asking(replicas, self._asked, self._deadline, self._what)
        try:
            self._asking.begin()
        except UnavailableError as error:
            self._try_others(error)

    def _try_others(self, error: UnavailableError) -> None:
        """Go on with replicas that have come meanwhile; without any, the error stands."""
        self._peers.refresh()
        others = [peer for peer in self._peers.replicas(self._shard) if peer not in self._tried]
        if not others:
            raise error
        self._ask(others)
