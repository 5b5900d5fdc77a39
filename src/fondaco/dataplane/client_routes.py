"""Client routes: the routing table as a client uses it: peers by address, stores' replicas by partition, and how old it all is.

A table is used until the next one is there, and asked for again after its time to live, or at once (not more often than every 100 ms) when
a node did not answer. Partitions come from XXH64 of the key bytes (`routing.partition_of`), for batches in NumPy, a length of keys at a
time, so that a fast client needs no numba either. Any thread; tables are immutable and replaced as a whole.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.dataplane.hedging import Latencies
from fondaco.dataplane.pool import Peer
from fondaco.dataplane.routing import RoutingTable, StoreRoute, partition_of
from fondaco.store.writes import xxh64

REFRESH_MIN_S: Final = 0.1
USABLE_S: Final = 60.0  # a table that cannot be replaced is believed so long

U64Array = npt.NDArray[np.uint64]


class Route:
    """A store's replicas as peers."""

    def __init__(self, route: StoreRoute, replicas: Sequence[tuple[Peer, ...]]) -> None:
        self.given, self.version, self.partitions = route, route.version, route.partitions
        self.replicas = tuple(replicas)
        same = all(frozenset(peers) == frozenset(self.replicas[0]) for peers in self.replicas)
        self.everywhere = self.replicas[0] if same and self.replicas else None  # who has all of it, if that are all who have any

    def of(self, key: bytes) -> tuple[Peer, ...]:
        """Who has a key."""
        return self.everywhere if self.everywhere is not None else self.replicas[partition_of(xxh64(key), self.partitions)]

    def partitions_of(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The partition of each key; int64 [n]."""
        high = hashes_of(data, offsets) >> np.uint64(32)
        return ((high * np.uint64(self.partitions)) >> np.uint64(32)).astype(np.int64)


class Routes:
    """The newest table, and what was made of it."""

    def __init__(self, seeds: Sequence[Peer], token: str | None, tls: ssl.SSLContext | None) -> None:
        self._token, self._tls, self._given = token, tls, tuple(seeds)
        self._peers = {peer.url: peer for peer in seeds}
        self._table: RoutingTable | None = None
        self._stores: dict[str, Route] = {}
        self._asked_at = self._got_at = -float("inf")
        self._suspect = False
        self._latencies: dict[str, Latencies] = {}

    def latencies(self, store: str) -> Latencies:
        """How long requests to a store take."""
        return self._latencies.setdefault(store, Latencies())

    def is_due(self, now: float) -> bool:
        """Whether to ask for the next table."""
        if self._table is None:
            return True
        return now - self._asked_at >= (REFRESH_MIN_S if self._suspect else self._table.ttl_ms / 1000)

    def is_usable(self, now: float) -> bool:
        """Whether one can go on without another."""
        return self._table is not None and now - self._got_at < USABLE_S

    def asking(self, now: float) -> None:
        """The next table is being asked for."""
        self._asked_at = now

    def suspect(self, peer: Peer) -> None:
        """A node did not answer: the table may be out of date."""
        self._suspect = True

    def take(self, table: RoutingTable) -> None:
        """What a server answered; kept if it is newer."""
        self._suspect, self._got_at = False, time.monotonic()
        if self._table is None or table.is_newer_than(self._table):
            kept = {name: route for name, route in self._stores.items() if table.stores.get(name) == route.given}
            self._table, self._stores = table, kept

    def store(self, name: str) -> Route:
        """The route of a store.

        Raises:
            StoreNotFoundError.
        """
        route = self._stores.get(name)
        if route is None:
            assert self._table is not None
            found = self._table.store(name)
            replicas = [tuple(self._peer(address) for address in partition) for partition in found.replicas]
            route = self._stores[name] = Route(found, replicas)
        return route

    def seeds(self, now: float) -> tuple[Peer, ...]:
        """Who to ask for a table: those that were given; while all of them fail, every node that is known."""
        return self._given if any(peer.avoided_until <= now for peer in self._given) else tuple(self._peers.values())

    def _peer(self, address: str) -> Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers.setdefault(address, Peer(address, self._token, self._tls))
        return peer


# -- hashes -------------------------------------------------------------------------------------------------------------------------------

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(number) for number in (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
)


def hashes_of(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> U64Array:
    """XXH64 of each key, key i being `data[offsets[i]:offsets[i + 1]]`; uint64 [n]. Source: XXH64 specification 0.1.1, seed 0."""
    lengths = np.diff(offsets)
    out = np.empty(len(lengths), np.uint64)
    with np.errstate(over="ignore"):  # of the scalar parts; arrays wrap without a word
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            out[rows] = _hashes(data[offsets[rows][:, None] + np.arange(length)], length)
    return out


def _hashes(keys: npt.NDArray[np.uint8], length: int) -> U64Array:
    """Of keys of one length, uint8 [n, length]."""
    count, at = len(keys), 0
    hash_: U64Array
    if length >= 32:
        lanes = [np.full(count, start, np.uint64) for start in (_P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1)]
        while at + 32 <= length:
            lanes = [_round(lane, _lane(keys, at + 8 * i, 8)) for i, lane in enumerate(lanes)]
            at += 32
        hash_ = _rotate(lanes[0], 1) + _rotate(lanes[1], 7) + _rotate(lanes[2], 12) + _rotate(lanes[3], 18)
        for lane in lanes:
            hash_ = (hash_ ^ _round(np.zeros(count, np.uint64), lane)) * _P1 + _P4
    else:
        hash_ = np.full(count, _P5, np.uint64)
    hash_ = hash_ + np.uint64(length)
    while at + 8 <= length:
        hash_ = _rotate(hash_ ^ _round(np.zeros(count, np.uint64), _lane(keys, at, 8)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= length:
        hash_ = _rotate(hash_ ^ (_lane(keys, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    for place in range(at, length):
        hash_ = _rotate(hash_ ^ (keys[:, place].astype(np.uint64) * _P5), 11) * _P1
    hash_ = (hash_ ^ (hash_ >> np.uint64(33))) * _P2
    hash_ = (hash_ ^ (hash_ >> np.uint64(29))) * _P3
    return hash_ ^ (hash_ >> np.uint64(32))


def _lane(keys: npt.NDArray[np.uint8], at: int, width: int) -> U64Array:
    words: U64Array = np.ascontiguousarray(keys[:, at : at + width]).view(f"<u{width}").astype(np.uint64)[:, 0]
    return words


def _rotate(values: U64Array, count: int) -> U64Array:
    return (values << np.uint64(count)) | (values >> np.uint64(64 - count))


def _round(accumulator: U64Array, lane: U64Array) -> U64Array:
    return _rotate(accumulator + lane * _P2, 31) * _P1
