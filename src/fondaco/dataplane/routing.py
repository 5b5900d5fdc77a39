"""Routing table: which node answers for which partition of which store; the JSON document of `GET /v1/routing`.

    {"format": 1, "epoch": 41, "as_of_us": 1763766534000000, "ttl_ms": 1000, "stores": {
        "members": {"id": 3, "version": 7, "partitions": 2, "partitioner": "xxh64-high32-scaled",
                    "replicas": [["http://10.0.0.1:7071", "http://10.0.0.2:7071"], ["http://10.0.0.2:7071"]]}}}

`replicas[p]` are the addresses that hold partition p of `version` ready, the preferred ones first; empty: nobody does now. A client puts a
key into a partition with the partition count *of this table*, and asks for this version (`Fondaco-Version`), so that an answer that comes
from several nodes is of one version. A version appears here only once every one of its partitions has a ready replica; until then the one
before it is routed. Nodes keep a version for some time after it left the table, so a client may use a table until it has the next one.

`epoch` grows with the catalog's changes and `as_of_us` with time: of two tables the one with the greater (epoch, as_of_us) is newer. Ask
again after `ttl_ms`, and at once (not more often than every 100 ms) after an UnavailableError. Made by `fondaco.cluster.routing`; a server
that is no node of a cluster makes one that names itself. Pure values, no I/O; imports neither numba nor SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from fondaco.core.errors import ProtocolError, StoreNotFoundError

ROUTING_FORMAT: Final = 1
XXH64_SCALED: Final = "xxh64-high32-scaled"  # partition = ((XXH64(Avro key bytes, seed 0) >> 32) * partition_count) >> 32
TTL_MS: Final = 1000


class StoreRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Where one store is read. `id` tells it from a store of the same name that was deleted; `version` 0: only real-time writes."""

    id: int
    version: int
    partitions: int
    partitioner: str = XXH64_SCALED
    replicas: tuple[tuple[str, ...], ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address that holds a part of it, in order."""
        return tuple(dict.fromkeys(address for partition in self.replicas for address in partition))


class RoutingTable(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    format: int = ROUTING_FORMAT
    epoch: int
    as_of_us: int
    ttl_ms: int = TTL_MS
    stores: Mapping[str, StoreRoute] = {}

    def store(self, name: str) -> StoreRoute:
        """The route of a store.

        Raises:
            StoreNotFoundError: it has none; suggests the nearest name.
        """
        try:
            return self.stores[name]
        except KeyError:
            raise StoreNotFoundError(name, sorted(self.stores), "the routing table") from None

    def is_newer_than(self, other: RoutingTable) -> bool:
        """Whether it should replace `other`."""
        return (self.epoch, self.as_of_us) > (other.epoch, other.as_of_us)

    def encode(self) -> bytes:
        """The JSON document."""
        return msgspec.json.encode(self)


def decode_routing(document: bytes, peer: str) -> RoutingTable:
    """Read the document that `peer` answered.

    Raises:
        ProtocolError: it is none, or one of a newer Fondaco.
    """
    try:
        table = msgspec.json.decode(document, type=RoutingTable)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ProtocolError(peer, f"its routing table cannot be read ({exc})") from exc
    if table.format > ROUTING_FORMAT:
        raise ProtocolError(peer, f"its routing table has format {table.format}, this Fondaco reads {ROUTING_FORMAT}")
    for name, route in table.stores.items():
        if route.partitions != len(route.replicas) or route.partitioner != XXH64_SCALED:
            raise ProtocolError(peer, f"its route of store {name!r} contradicts itself, or places keys by {route.partitioner!r}")
    return table


def partition_of(hash_: int, partitions: int) -> int:
    """The partition of a key whose Avro bytes have this XXH64."""
    return ((hash_ >> 32) * partitions) >> 32
