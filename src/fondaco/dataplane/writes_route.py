"""Writes: the route that takes real-time writes: checked, counted against the quota, appended with those of other requests.

On the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from fondaco.core.clock import Clock
from fondaco.core.errors import LimitError
from fondaco.dataplane import asked, wire
from fondaco.dataplane.admission import Admission, Reply, within
from fondaco.dataplane.asked import WRITES_BODIES
from fondaco.dataplane.http import Answer, Work
from fondaco.dataplane.limits import WRITE_BATCH_MAX
from fondaco.dataplane.served import ServedStore
from fondaco.dataplane.stats import WRITE
from fondaco.dataplane.writing import Appender, check_batch, encode_writes, positions_of
from fondaco.store.mirror import MirroredSchemas
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writer import Durability, check_durability

_encode: Final = msgspec.json.Encoder().encode
_ENCODERS_MAX: Final = 1000


class Writes:
    """The route that writes."""

    def __init__(
        self, admission: Admission, clock: Clock, durability: Durability, make_appender: Callable[[ServedStore], Appender]
    ) -> None:
        """
        Args:
            durability: of requests that do not say. make_appender: of a store; asked at its first write.
        """
        self._admission, self._clock, self._durability, self._make_appender = admission, clock, durability, make_appender
        self._appenders: dict[int, Appender] = {}
        self._encoders: dict[tuple[int, str, int], WriteEncoder] = {}

    async def drained(self) -> None:
        """Return when all that was taken is in the log."""
        for appender in list(self._appenders.values()):
            await appender.drained()

    def write(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Work:
        """Append writes to the store's real-time topic."""
        reply.kind = WRITE
        request = reply.request
        store = self._admission.admit(reply, "write", request)
        asked.query_of(query, ())
        asked.set_deadline(request)
        schemas = MirroredSchemas(store.layout.directory)
        durability: str | None
        if asked.content_type(request, WRITES_BODIES) == wire.WRITES_BODY:
            batch, durability = wire.unpack_writes(request.body)
            self._check_writes(len(batch))
            check_batch(batch, store.keys, schemas, self._clock)
        else:
            body = asked.json_body(request, asked.WritesBody)
            self._check_writes(len(body.writes))
            batch, durability = encode_writes(body.writes, self._encoder(store, body.writer, schemas)), body.durability
        wanted = self._durability if durability is None else check_durability(durability)
        self._admission.take(reply, "writes", len(batch))
        appender = self._appenders.get(store.id)
        if appender is None:
            appender = self._appenders[store.id] = self._make_appender(store)

        async def append() -> Answer:
            if not len(batch):
                return Answer(200, _encode({"positions": "", "partitions": [], "offsets": []}))
            placed = await within(reply, appender.append(batch, wanted), "the log has not answered; the writes may be in it")
            reply.count(len(batch), 0, 0)
            positions = str(positions_of(placed))
            document = {"positions": positions, "partitions": placed.partitions.tolist(), "offsets": placed.offsets.tolist()}
            return Answer(200, _encode(document), wire.JSON, [b"fondaco-position: %s\r\n" % positions.encode()])

        return append

    @staticmethod
    def _check_writes(count: int) -> None:
        if count > WRITE_BATCH_MAX:
            raise LimitError("writes of one request", count, WRITE_BATCH_MAX, "Send several requests.")

    def _encoder(self, store: ServedStore, writer: str, schemas: MirroredSchemas) -> WriteEncoder:
        """The encoder of a writer, one for all its requests, so that its sequence goes on."""
        known = schemas.all()
        number = max(known)
        name = (store.id, writer, number)
        encoder = self._encoders.get(name)
        if encoder is None:
            if len(self._encoders) >= _ENCODERS_MAX:
                self._encoders.clear()
            encoder = self._encoders[name] = WriteEncoder(store.name, store.keys, known[number], number, writer, clock=self._clock)
        return encoder
