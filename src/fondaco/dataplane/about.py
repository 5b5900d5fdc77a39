"""About: what a server says of itself and of what it has: health, stores, routing, statistics.

On the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from fondaco.catalog.rows import EVERY
from fondaco.core.clock import Clock
from fondaco.dataplane import asked, wire
from fondaco.dataplane.admission import Admission, Reply
from fondaco.dataplane.asked import Options
from fondaco.dataplane.http import Answer, HttpServer, Work
from fondaco.dataplane.limits import WRITE_BATCH_MAX
from fondaco.dataplane.reads import Reads, head_lines
from fondaco.dataplane.routing import RoutingTable, StoreRoute
from fondaco.dataplane.served import Opened, ServedStore
from fondaco.store.writer import Durability

_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Info:
    """What a server says of itself."""

    address: str
    node: str
    started_us: int
    openapi: bytes
    durability: Durability
    ready: bool = False
    routing: Callable[[], bytes] | None = None  # of a node of a cluster; None: this server has everything
    server: HttpServer | None = field(default=None, repr=False)


class About:
    """The routes that say what there is."""

    def __init__(self, admission: Admission, reads: Reads, info: Info, clock: Clock) -> None:
        self._admission, self._reads, self._info, self._clock = admission, reads, info, clock

    def healthy(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """Whether the loop turns."""
        return Answer(200, b'{"healthy":true}')

    def ready(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """Whether requests are answered at their usual speed."""
        closing = self._info.server is not None and self._info.server.closing
        good = self._info.ready and not closing
        return Answer(200 if good else 503, _encode({"ready": good, "stores": len(self._admission.stores.by_name)}))

    def openapi(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """The description of this interface."""
        return Answer(200, self._info.openapi)

    def list_stores(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """Names and current versions of the stores that the caller may read."""
        caller = self._admission.caller(reply)
        asked.query_of(query, ())
        listed = [
            {"name": store.name, "version": None if store.is_blank else store.version_and_partitions[0]}
            for store in sorted(self._admission.stores, key=lambda store: store.name)
            if caller.may("read", store.name)
        ]
        return Answer(200, _encode({"stores": listed}))

    def describe(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """Everything a client needs to know of a store."""
        store = self._admission.admit(reply, "read", reply.request)
        asked.query_of(query, ())
        options = asked.options_of(reply.request)
        if options.version is None and store.is_blank:
            return self._described(store, None, options)
        return self._reads.read(reply, options, lambda opened: self._described(store, opened, options))

    def _described(self, store: ServedStore, opened: Opened | None, options: Options) -> Answer:
        manifest = opened.manifest if opened is not None else None
        document = {
            "id": store.id,
            "name": store.name,
            "key_schema": msgspec.Raw(store.row.key_schema.encode()),
            "value_schemas": {str(number): msgspec.json.decode(text) for number, text in store.read_schemas().items()},
            "version": None if opened is None else opened.number,
            "partitions": None if manifest is None else manifest.partition_count,
            "partitioner": "xxh64-high32-scaled",
            "topic_partitions": store.settings.partitions,
            "records": None if manifest is None else manifest.records,
            "bytes": None if manifest is None else manifest.bytes,
            "compression": None if manifest is None else manifest.compression.chosen,
            "as_of_us": None if manifest is None else manifest.as_of_us,
            "rewind": store.settings.rewind,
            "ttl": store.settings.ttl,
            "freshness_ms": store.settings.freshness_ms,
            "limits": {
                "batch_keys_max": self._admission.limits.batch_keys_max,
                "request_bytes_max": self._admission.limits.request_bytes_max,
                "writes_max": WRITE_BATCH_MAX,
            },
        }
        return Answer(200, _encode(document), wire.JSON, [] if opened is None else head_lines(opened, options))

    def routing(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """Which node answers for which partition of which store."""
        caller = self._admission.caller(reply)
        asked.query_of(query, ())
        if self._info.routing is not None:
            return Answer(200, self._info.routing())
        routes = {
            store.name: StoreRoute(id=store.id, version=number, partitions=count, replicas=((self._info.address,),) * count)
            for store in self._admission.stores
            if caller.may("read", store.name)
            for number, count in (store.version_and_partitions,)
        }
        now_us = self._clock.now_us()
        return Answer(200, _encode(RoutingTable(epoch=self._admission.stores.epoch, as_of_us=now_us, stores=routes)))

    def stats(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """What was counted since the server started."""
        self._admission.caller(reply).check("admin", EVERY)
        asked.query_of(query, ())
        server = self._info.server
        assert server is not None
        document = {
            "node": self._info.node,
            "started_us": self._info.started_us,
            "connections": {"open": len(server.connections), "accepted": server.accepted, "timed_out": server.timeouts},
            "requests": server.requests,
            "malformed": server.malformed,
            "body_bytes": server.body_bytes,
            "stores": {store.name: store.stats.document() for store in self._admission.stores},
        }
        return Answer(200, _encode(document))
