"""Routes: what the data plane answers: from a request to an answer, with caller, quota, version, position and deadline in between.

A single get of the current version is answered on the spot, by `get_now`, in one straight story without an object more than it needs: it
is most of what a server does. Everything else goes through `_dispatch`. A batch that one kernel call answers is answered on the spot too;
a larger one is streamed, piece by piece, with the loop's other work in between, all from one version.

Every error of the tree becomes its status and JSON object; anything else is a fault of ours: logged, and answered with 500 without a word
of what it was. On the event loop's thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from fondaco.catalog.rows import EVERY, Role
from fondaco.core.clock import Clock
from fondaco.core.errors import (
    DeadlineExceededError,
    FondacoError,
    InputError,
    LimitError,
    NotFoundError,
    UnavailableError,
    near_name,
)
from fondaco.dataplane import asked, batches, wire
from fondaco.dataplane.asked import HttpError, Options
from fondaco.dataplane.auth import Access, Caller
from fondaco.dataplane.http import Answer, HttpServer, Piece, Request, Work, refusal
from fondaco.dataplane.json_rows import to_json
from fondaco.dataplane.keys import avro_key, json_keys, key_of_json, key_of_path, packed_keys
from fondaco.dataplane.limits import WRITE_BATCH_MAX, Limits
from fondaco.dataplane.quotas import Quotas, Use
from fondaco.dataplane.routing import RoutingTable, StoreRoute
from fondaco.dataplane.served import Opened, ServedStore, StoreSet
from fondaco.dataplane.stats import BATCH, COMPUTE, GET, KEYS, MISSING, REQUESTS, WRITE, bucket_of
from fondaco.dataplane.writing import Appender, check_batch, encode_writes, positions_of
from fondaco.schema.row import Row
from fondaco.store.keys import EncodedKeys
from fondaco.store.mirror import MirroredSchemas
from fondaco.store.positions import Positions
from fondaco.store.reader import EmbeddedReader
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writer import Durability, check_durability

_LOGGER = logging.getLogger(__name__)
_encode: Final = msgspec.json.Encoder().encode
_NOT_FOUND: Final = b'{"found":false}'
_POLL_S: Final = 0.001  # between looks at how far the overlay is
_perf: Final = time.perf_counter_ns
_monotonic: Final = time.monotonic

ROUTES: Final[tuple[tuple[tuple[str | None, ...], dict[bytes, str]], ...]] = (  # path, None = a name; method -> handler
    (("healthz",), {b"GET": "healthy"}),
    (("readyz",), {b"GET": "ready"}),
    (("openapi.json",), {b"GET": "openapi"}),
    (("v1", "stores"), {b"GET": "list_stores"}),
    (("v1", "routing"), {b"GET": "routing"}),
    (("v1", "stats"), {b"GET": "stats"}),
    (("v1", "stores", None), {b"GET": "describe"}),
    (("v1", "stores", None, "rows"), {b"GET": "get_by_query", b"POST": "get_rows"}),
    (("v1", "stores", None, "rows", None), {b"GET": "get_by_path"}),
    (("v1", "stores", None, "columns"), {b"POST": "get_columns"}),
    (("v1", "stores", None, "compute"), {b"POST": "compute"}),
    (("v1", "stores", None, "writes"), {b"POST": "write"}),
)


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


class _Reply:
    """One request on its way through: who asks, of which store, and since when."""

    __slots__ = ("caller", "kind", "request", "started", "store")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.caller: Caller | None = None
        self.store: ServedStore | None = None
        self.kind = GET
        self.started = _perf()

    def count(self, keys: int, missing: int) -> None:
        assert self.store is not None
        self.store.stats.answered(self.kind, keys, missing, _perf() - self.started)


class DataPlane:
    """The application of the server's connections."""

    def __init__(
        self, stores: StoreSet, access: Access, quotas: Quotas, limits: Limits, info: Info, clock: Clock, *,
        readers: Executor, appender: Callable[[ServedStore], Appender],
    ) -> None:  # fmt: skip
        """
        Args:
            readers: threads that open versions. appender: of a store; asked at its first write.
        """
        self.stores, self.access, self.quotas, self.limits, self.info, self.clock = stores, access, quotas, limits, info, clock
        self._readers, self._make_appender = readers, appender
        self.appenders: dict[int, Appender] = {}
        self._encoders: dict[tuple[int, str, int], WriteEncoder] = {}
        self._heads: dict[tuple[int, type[Row]], bytes] = {}
        self._table = {(len(path), *(part.encode() for part in path if part is not None)): methods for path, methods in ROUTES}

    def __call__(self, request: Request) -> bytes | Answer | Work:
        if request.method == b"GET" and request.plain and self.is_usual(request.headers):
            answer = self.get_now(request.target, request.headers.get(b"authorization"))
            if answer is not None:
                return answer
        reply = _Reply(request)
        try:
            result = self._dispatch(reply)
        except Exception as exc:
            return self._refused(reply, exc)
        if isinstance(result, Answer):
            return result
        return functools.partial(self._guarded, reply, result)

    async def _guarded(self, reply: _Reply, work: Work) -> Answer:
        try:
            return await work()
        except Exception as exc:
            return self._refused(reply, exc)

    def _refused(self, reply: _Reply, exc: Exception) -> Answer:
        match exc:
            case HttpError():
                answer = refusal(exc.error, exc.status, headers=exc.headers)
            case FondacoError():
                answer = refusal(exc)
            case MemoryError():
                answer = refusal(UnavailableError("this server", "it has no memory left for this request"))
            case _:
                _LOGGER.error("%s %s failed", reply.request.method.decode(), reply.request.target[:200].decode("latin-1"), exc_info=exc)
                answer = refusal(FondacoError("the server failed at this request; its log says how"))
        if answer.status == 401:
            answer.headers = [*answer.headers, b"www-authenticate: Bearer\r\n"]
        if reply.store is not None:
            reply.store.stats.refused(reply.kind, answer.status)
        return answer

    def refuse_head(self, request: Request) -> Answer | None:
        """What can be refused of a request whose body is not there yet: its route, its caller, its content type."""
        reply = _Reply(request)
        try:
            _, name, _ = self._route(request)
            if name in _ROLES:
                self._admit(reply, _ROLES[name], request)
                asked.content_type(request, _BODIES[name])
        except (HttpError, FondacoError) as exc:
            return self._refused(reply, exc)
        return None

    # -- a single get -------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def is_usual(headers: Mapping[bytes, bytes]) -> bool:
        """Whether `get_now` may answer a GET with such headers."""
        return headers.get(b"accept") == b"application/avro" and _UNUSUAL.isdisjoint(headers)

    def get_now(self, target: bytes, authorization: bytes | None) -> bytes | None:
        """The whole response to a get of an Avro row of the current version; None: something is unusual, and it takes the long way."""
        started = _perf()
        parts = target.split(b"/", 6)
        if len(parts) != 6 or parts[4] != b"rows" or parts[2] != b"stores" or parts[1] != b"v1":
            return None
        store = self.stores.by_name.get(parts[3])
        if store is None or (opened := store.current) is None:
            return None
        key_text = parts[5]
        try:
            caller = self.access.caller(authorization)
            if not caller.may("read", store.name):
                return None
            if store.integers and key_text.isdigit() and len(key_text) < 19:
                key = int(key_text)
            elif b"?" in key_text:
                return None
            else:
                key = key_of_path(store.keys, key_text)
            if self.quotas.any:
                self.quotas.take(store.name, caller.name, "reads", 1, _monotonic())
            row = opened.reader.get(key)
        except Exception:
            return None  # said again, and counted, on the long way
        counters = store.stats.get_counters
        counters[REQUESTS] += 1
        counters[KEYS] += 1
        date = self.info.server.date  # type: ignore[union-attr]  # set before the first connection
        if row is None:
            counters[MISSING] += 1
            response = b"".join((_MISSING % (opened.number,), date, _MISSING_END))
        else:
            head = self._heads.get((opened.number, type(row)))
            if head is None:
                head = self._avro_head(store, opened, row)
                if head is None:
                    counters[REQUESTS] -= 1
                    counters[KEYS] -= 1
                    return None
            body = row.to_bytes()
            response = b"".join((head, date, b"content-length: %d\r\n\r\n" % len(body), body))
        store.stats.get_latencies[bucket_of(_perf() - started)] += 1
        return response

    def _avro_head(self, store: ServedStore, opened: Opened, row: Row) -> bytes | None:
        number = store.schema_number(row)
        if number is None:
            return None
        if len(self._heads) > 1000:
            self._heads.clear()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/avro\r\nfondaco-version: %d\r\nfondaco-schema: %d\r\n" % (
            opened.number,
            number,
        )
        self._heads[opened.number, type(row)] = head
        return head

    def get_by_path(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """One row, by an integer or text key in the path."""
        asked.query_of(query, ())
        store = self._admit(reply, "read", reply.request)
        return self._get(reply, key_of_path(store.keys, parts[4]))

    def get_by_query(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """One row, by any key: `?key=<JSON>` or `?avro=<base64url>`."""
        store = self._admit(reply, "read", reply.request)
        given = asked.query_of(query, ("key", "avro"))
        if len(given) != 1:
            raise InputError("a get by query needs key=<JSON> or avro=<base64url>; a batch of keys is POSTed")
        if "key" in given:
            return self._get(reply, key_of_json(store.keys, given["key"]))
        encoded = avro_key(store.keys, given["avro"])
        return self._get(reply, store.keys.decode(encoded.data[: int(encoded.offsets[-1])].tobytes()))

    def _get(self, reply: _Reply, key: Any) -> Answer | Work:
        assert reply.store is not None
        store, options = reply.store, asked.options_of(reply.request)
        media = asked.accept(reply.request, (wire.JSON, wire.AVRO))
        store.keys.encode(key)  # refuses what is no key before anything is taken for it
        self._take(reply, "reads", 1)

        def answer(opened: Opened) -> Answer:
            row = opened.reader.get(key)
            lines = self._lines(opened, options)
            reply.count(1, row is None)
            if row is None:
                return Answer(404, _NOT_FOUND, wire.JSON, lines)
            if media == wire.JSON:
                return Answer(200, _encode(to_json(row.to_dict())), wire.JSON, lines)
            number, body = store.schema_number(row), row.to_bytes()
            if number is None:  # made of several writes: written anew, in a schema that has a number
                packed = opened.reader.get_packed(store.keys.encode_many([key]))
                number, body = int(packed.schemas[0]), packed.data[: int(packed.offsets[-1])].tobytes()
            return Answer(200, body, wire.AVRO, [*lines, b"fondaco-schema: %d\r\n" % number])

        return self._read(reply, options, answer)

    # -- batches ------------------------------------------------------------------------------------------------------------------------

    def get_rows(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """Rows of many keys."""
        reply.kind = BATCH
        store = self._admit(reply, "read", reply.request)
        media = asked.accept(reply.request, (wire.JSON, wire.ROWS_BODY))
        keys, fields = self._keys_and_fields(reply, store, query)
        if fields is not None and media != wire.JSON:
            raise InputError("fields= picks columns; rows in Avro are whole. Ask for columns, or for JSON")

        def make(reader: EmbeddedReader) -> batches.Batch:
            return batches.JsonRows(reader, fields) if media == wire.JSON else batches.PackedRows(reader)

        return self._batch(reply, keys, media, make)

    def get_columns(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """Columns of many keys."""
        reply.kind = BATCH
        store = self._admit(reply, "read", reply.request)
        media = asked.accept(reply.request, (wire.JSON, wire.ARROW, wire.COLUMNS_BODY))
        keys, fields = self._keys_and_fields(reply, store, query)
        kinds: dict[str, Callable[[EmbeddedReader, Sequence[str] | None], batches.Batch]] = {
            wire.JSON: batches.JsonColumns, wire.ARROW: batches.ArrowColumns, wire.COLUMNS_BODY: batches.RawColumns,
        }  # fmt: skip
        return self._batch(reply, keys, media, lambda reader: kinds[media](reader, fields))

    def compute(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """Similarities of many keys' vectors with one."""
        reply.kind = COMPUTE
        store = self._admit(reply, "read", reply.request)
        media = asked.accept(reply.request, (wire.JSON, wire.SCORES_BODY))
        if asked.content_type(reply.request, _BODIES["compute"]) == wire.KEYS_BODY:
            given = asked.query_of(query, ("operation", "field", "vector", "top_k"))
            for name in ("operation", "field", "vector"):
                if name not in given:
                    raise InputError(f"a computation on packed keys needs {name}= in its query")
            top_k = given.get("top_k")
            if top_k is not None and not (top_k.isascii() and top_k.isdigit() and len(top_k) < 19):
                raise InputError(f"top_k counts the rows to give, so it is a whole number, not {top_k[:40]!r}")
            operation, name, vector = given["operation"], given["field"], wire.decode_vector(given["vector"])
            keys, count = packed_keys(store.keys, reply.request.body), None if top_k is None else int(top_k)
        else:
            asked.query_of(query, ())
            body = asked.json_body(reply.request, asked.ComputeBody)
            self._check_count(len(body.keys))
            keys, operation, name, vector, count = (
                json_keys(store.keys, body.keys),
                body.operation,
                body.field,
                np.asarray(body.vector),
                body.top_k,
            )
        return self._batch(
            reply, keys, media, lambda reader: batches.Scores(reader, operation, name, vector, count, raw=media == wire.SCORES_BODY)
        )

    def _keys_and_fields(self, reply: _Reply, store: ServedStore, query: bytes) -> tuple[EncodedKeys, list[str] | None]:
        """Keys and fields of a batch, from a JSON body, or from packed keys and the query."""
        if asked.content_type(reply.request, _BODIES["get_rows"]) == wire.KEYS_BODY:
            fields = asked.fields_of(asked.query_of(query, ("fields",)).get("fields"))
            keys = packed_keys(store.keys, reply.request.body)
        else:
            asked.query_of(query, ())
            body = asked.json_body(reply.request, asked.RowsBody)
            self._check_count(len(body.keys))
            keys, fields = json_keys(store.keys, body.keys), body.fields
        batches.check_fields(fields)
        return keys, fields

    def _check_count(self, count: int) -> None:
        if count > self.limits.batch_keys_max:
            raise LimitError("keys of one batch", count, self.limits.batch_keys_max, "Ask in several batches.")

    def _batch(self, reply: _Reply, keys: EncodedKeys, media: str, make: Callable[[EmbeddedReader], batches.Batch]) -> Answer | Work:
        options = asked.options_of(reply.request)
        self._check_count(len(keys))
        self._take(reply, "reads", len(keys))

        def answer(opened: Opened) -> Answer:
            batch, lines = make(opened.reader), self._lines(opened, options)
            if len(keys) <= opened.piece_keys:
                pieces = batch.piece(keys, last=True)
                reply.count(len(keys), batch.missing)
                return Answer(200, pieces, media, lines)
            first = batch.piece(
                batches.slice_keys(keys, 0, opened.piece_keys), last=False
            )  # what is wrong is said before the answer begins
            return Answer(200, self._stream(reply, batch, keys, opened.piece_keys, first), media, lines)

        return self._read(reply, options, answer)

    async def _stream(
        self, reply: _Reply, batch: batches.Batch, keys: EncodedKeys, step: int, first: Sequence[Piece]
    ) -> AsyncIterator[Sequence[Piece]]:
        """The pieces of a large answer; the connection waits for its reader between them."""
        yield first
        try:
            for start, end in batches.ranges(len(keys), step):
                if start:
                    self._check_deadline(reply, f"{start} of {len(keys)} keys are answered")
                    yield batch.piece(batches.slice_keys(keys, start, end), last=end == len(keys))
        except FondacoError as exc:
            assert reply.store is not None
            reply.store.stats.refused(reply.kind, wire.status_of(exc))
            if not batch.framed:
                raise  # the connection breaks off: no other way to say that the answer is not whole
            yield wire.pack_error(exc)
            return
        reply.count(len(keys), batch.missing)

    # -- reading ------------------------------------------------------------------------------------------------------------------------

    def _read(self, reply: _Reply, options: Options, answer: Callable[[Opened], Answer]) -> Answer | Work:
        """Answer from the version asked for: now, if it is open and its position is reached; else after waiting for that."""
        store = reply.store
        assert store is not None
        opened = store.current if options.version is None else store.pinned(options.version)
        if opened is not None and (options.min_position is None or _covers(opened, options.min_position)):
            self._check_deadline(reply, "it waited for its turn")
            return answer(opened)

        async def wait() -> Answer:
            found = await self._within(reply, self._opened(store, options), "opening the version")
            if options.min_position is not None:
                await self._reach(reply, found, options.min_position)
            self._check_deadline(reply, "it waited for its turn")
            return answer(found)

        return wait

    async def _opened(self, store: ServedStore, options: Options) -> Opened:
        if options.version is None:
            return await store.adopted(self._readers)
        return await store.at(options.version, self._readers)

    async def _within(self, reply: _Reply, work: Awaitable[Any], what: str) -> Any:
        left = reply.request.deadline - asyncio.get_running_loop().time()
        try:
            return await asyncio.wait_for(work, None if left == float("inf") else max(left, 0.0))
        except TimeoutError:
            raise self._too_late(reply, what) from None

    async def _reach(self, reply: _Reply, opened: Opened, wanted: Positions) -> None:
        """Return when the overlay has applied `wanted`.

        Raises:
            DeadlineExceededError: it did not in time; says how far it is.
        """
        until, loop = asked.wait_until(reply.request), asyncio.get_running_loop()
        while not _covers(opened, wanted):
            if loop.time() >= until:
                raise DeadlineExceededError(
                    f"reading position {wanted}",
                    round(until - reply.request.arrived, 3),
                    f"applied is {opened.reader.position or 'nothing'}",
                )
            await asyncio.sleep(_POLL_S)

    def _check_deadline(self, reply: _Reply, state: str) -> None:
        if reply.request.deadline != float("inf") and asyncio.get_running_loop().time() > reply.request.deadline:
            raise self._too_late(reply, state)

    @staticmethod
    def _too_late(reply: _Reply, state: str) -> DeadlineExceededError:
        return DeadlineExceededError("the request", round(reply.request.deadline - reply.request.arrived, 3), state)

    @staticmethod
    def _lines(opened: Opened, options: Options) -> list[bytes]:
        lines = [b"fondaco-version: %d\r\n" % opened.number]
        if options.wants_position:
            lines.append(b"fondaco-position: %s\r\n" % str(opened.reader.position).encode())
        return lines

    # -- writes -------------------------------------------------------------------------------------------------------------------------

    def write(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Work:
        """Append writes to the store's real-time topic."""
        reply.kind = WRITE
        request = reply.request
        store = self._admit(reply, "write", request)
        asked.query_of(query, ())
        asked.set_deadline(request)
        schemas = MirroredSchemas(store.layout.directory)
        durability: str | None
        if asked.content_type(request, _BODIES["write"]) == wire.WRITES_BODY:
            batch, durability = wire.unpack_writes(request.body)
            self._check_writes(len(batch))
            check_batch(batch, store.keys, schemas, self.clock)
        else:
            body = asked.json_body(request, asked.WritesBody)
            self._check_writes(len(body.writes))
            batch, durability = encode_writes(body.writes, self._encoder(store, body.writer, schemas)), body.durability
        wanted = self.info.durability if durability is None else check_durability(durability)
        self._take(reply, "writes", len(batch))
        appender = self.appenders.get(store.id)
        if appender is None:
            appender = self.appenders[store.id] = self._make_appender(store)

        async def append() -> Answer:
            if not len(batch):
                return Answer(200, _encode({"positions": "", "partitions": [], "offsets": []}))
            placed = await self._within(reply, appender.append(batch, wanted), "the log has not answered; the writes may be in it")
            reply.count(len(batch), 0)
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
            if len(self._encoders) >= 1000:
                self._encoders.clear()
            encoder = self._encoders[name] = WriteEncoder(store.name, store.keys, known[number], number, writer, clock=self.clock)
        return encoder

    # -- what there is --------------------------------------------------------------------------------------------------------------------

    def healthy(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """Whether the loop turns."""
        return Answer(200, b'{"healthy":true}')

    def ready(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """Whether requests are answered at their usual speed."""
        closing = self.info.server is not None and self.info.server.closing
        good = self.info.ready and not closing
        return Answer(200 if good else 503, _encode({"ready": good, "stores": len(self.stores.by_name)}))

    def openapi(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """The description of this interface."""
        return Answer(200, self.info.openapi)

    def list_stores(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """Names and current versions of the stores that the caller may read."""
        caller = self._caller(reply)
        asked.query_of(query, ())
        listed = [
            {"name": store.name, "version": None if store.is_blank else store.version_and_partitions[0]}
            for store in sorted(self.stores, key=lambda store: store.name)
            if caller.may("read", store.name)
        ]
        return Answer(200, _encode({"stores": listed}))

    def describe(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """Everything a client needs to know of a store."""
        store = self._admit(reply, "read", reply.request)
        asked.query_of(query, ())
        options = asked.options_of(reply.request)
        if options.version is None and store.is_blank:
            return self._described(store, None, options)
        return self._read(reply, options, lambda opened: self._described(store, opened, options))

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
                "batch_keys_max": self.limits.batch_keys_max,
                "request_bytes_max": self.limits.request_bytes_max,
                "writes_max": WRITE_BATCH_MAX,
            },
        }
        return Answer(200, _encode(document), wire.JSON, [] if opened is None else self._lines(opened, options))

    def routing(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """Which node answers for which partition of which store."""
        caller = self._caller(reply)
        asked.query_of(query, ())
        if self.info.routing is not None:
            return Answer(200, self.info.routing())
        routes = {
            store.name: StoreRoute(id=store.id, version=number, partitions=count, replicas=((self.info.address,),) * count)
            for store in self.stores
            if caller.may("read", store.name)
            for number, count in (store.version_and_partitions,)
        }
        now_us = self.clock.now_us()
        return Answer(200, _encode(RoutingTable(epoch=self.stores.epoch, as_of_us=now_us, stores=routes)))

    def stats(self, reply: _Reply, parts: Sequence[bytes], query: bytes) -> Answer:
        """What was counted since the server started."""
        self._caller(reply).check("admin", EVERY)
        asked.query_of(query, ())
        server = self.info.server
        assert server is not None
        document = {
            "node": self.info.node,
            "started_us": self.info.started_us,
            "connections": {"open": len(server.connections), "accepted": server.accepted, "timed_out": server.timeouts},
            "requests": server.requests,
            "malformed": server.malformed,
            "body_bytes": server.body_bytes,
            "stores": {store.name: store.stats.document() for store in self.stores},
        }
        return Answer(200, _encode(document))

    # -- before anything ----------------------------------------------------------------------------------------------------------------

    def _dispatch(self, reply: _Reply) -> Answer | Work:
        parts, name, query = self._route(reply.request)
        asked.check_request_id(reply.request)
        result: Answer | Work = getattr(self, name)(reply, parts, query)
        return result

    def _route(self, request: Request) -> tuple[Sequence[bytes], str, bytes]:
        """(parts of the path, handler, query).

        Raises:
            HttpError: 404, no such path; 405, not with this method.
        """
        parts, query = asked.split_target(request.target)
        methods = self._table.get((len(parts), *parts[:2], *parts[3:4]))
        if methods is None:
            path, known = (
                b"/".join((b"", *parts)).decode("latin-1"),
                ["/" + "/".join(part or "{}" for part in pattern) for pattern, _ in ROUTES],
            )
            near = near_name(path[:200], known)
            hint = f"did you mean {near}?" if near else "/openapi.json lists them"
            raise HttpError(404, InputError(f"no route {request.target[:200].decode('latin-1')!r}; {hint}"))
        method = b"GET" if request.method == b"HEAD" else request.method
        name = methods.get(method)
        if name is None:
            allowed = ", ".join(sorted(known.decode() for known in {*methods, *([b"HEAD"] if b"GET" in methods else [])}))
            error = InputError(f"{request.target[:200].decode('latin-1')} takes {allowed}, not {request.method.decode('latin-1')}")
            raise HttpError(405, error, [f"allow: {allowed}\r\n".encode()])
        return parts, name, query

    def _caller(self, reply: _Reply) -> Caller:
        reply.caller = self.access.caller(reply.request.headers.get(b"authorization"))
        return reply.caller

    def _admit(self, reply: _Reply, role: Role, request: Request) -> ServedStore:
        """The store that a request names, if the caller has the role on it; whoever has not is not told whether there is such a store."""
        caller = self._caller(reply)
        name = asked.text_of(request.target.partition(b"?")[0].split(b"/")[3])
        caller.check(role, name)
        try:
            reply.store = self.stores.get(name)
        except NotFoundError as exc:
            visible = [other for other in exc.available if caller.may("read", str(other))]
            raise type(exc)(name, visible) from None
        return reply.store

    def _take(self, reply: _Reply, use: Use, units: int) -> None:
        if self.quotas.any:
            assert reply.store is not None
            assert reply.caller is not None
            self.quotas.take(reply.store.name, reply.caller.name, use, units, _monotonic())


def _covers(opened: Opened, wanted: Positions) -> bool:
    applied = opened.reader.position
    return all(applied.get(partition, -1) >= offset for partition, offset in wanted.items())


_UNUSUAL: Final = frozenset((b"fondaco-version", b"fondaco-min-position", b"fondaco-position", b"fondaco-request-id"))
_MISSING: Final = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\nfondaco-version: %d\r\n"
_MISSING_END: Final = b"content-length: %d\r\n\r\n%s" % (len(_NOT_FOUND), _NOT_FOUND)
_ROLES: Final[dict[str, Role]] = {"get_rows": "read", "get_columns": "read", "compute": "read", "write": "write"}
_BODIES: Final = {
    "get_rows": (wire.JSON, wire.KEYS_BODY), "get_columns": (wire.JSON, wire.KEYS_BODY), "compute": (wire.JSON, wire.KEYS_BODY),
    "write": (wire.JSON, wire.WRITES_BODY),
}  # fmt: skip
