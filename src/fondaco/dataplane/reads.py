"""Reads: one row, rows, columns and similarities, each request from one version, with the position and deadline it asks for.

A single get of an Avro row of the current version is answered by `get_now`, in one straight story without an object more than it needs: it
is most of what a server does. A batch that one kernel call answers is answered on the spot; a larger one is streamed, piece by piece, with
the loop's other work in between. On the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final

import msgspec
import numpy as np

from fondaco.core.errors import DeadlineExceededError, FondacoError, InputError, LimitError
from fondaco.dataplane import asked, batches, wire
from fondaco.dataplane.admission import Admission, Reply, check_deadline, within
from fondaco.dataplane.asked import KEYS_BODIES, Options
from fondaco.dataplane.http import Answer, Piece, Work
from fondaco.dataplane.json_rows import to_json
from fondaco.dataplane.keys import avro_key, json_keys, key_of_json, key_of_path, packed_keys
from fondaco.dataplane.served import Opened, ServedStore
from fondaco.dataplane.stats import ANSWER_BYTES, BATCH, COMPUTE, KEYS, MISSING, REQUESTS, bucket_of
from fondaco.schema.row import Row
from fondaco.store.keys import EncodedKeys
from fondaco.store.positions import Positions
from fondaco.store.reader import EmbeddedReader

_encode: Final = msgspec.json.Encoder().encode
_perf: Final = time.perf_counter_ns
_POLL_S: Final = 0.001  # between looks at how far the overlay is
_NOT_FOUND: Final = b'{"found":false}'
_MISSING: Final = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\nfondaco-version: %d\r\n"
_MISSING_END: Final = b"content-length: %d\r\n\r\n%s" % (len(_NOT_FOUND), _NOT_FOUND)
_UNUSUAL: Final = frozenset((b"fondaco-version", b"fondaco-min-position", b"fondaco-position", b"fondaco-request-id"))
_HEADS_MAX: Final = 1000


class Reads:
    """The routes that read."""

    def __init__(self, admission: Admission, readers: Executor, date: Callable[[], bytes]) -> None:
        """
        Args:
            readers: threads that open versions. date: the line of the answers' head.
        """
        self._admission, self._readers, self._date = admission, readers, date
        self._heads: dict[tuple[int, int, type[Row], int], bytes] = {}  # by store, version, schema and size of the row
        self._heads_date = b""

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
        store = self._admission.stores.by_name.get(parts[3])
        if store is None or (opened := store.current) is None:
            return None
        key_text = parts[5]
        try:
            caller = self._admission.access.caller(authorization)
            if authorization is not None and not caller.may("read", store.name):  # without a token: anybody, or refused above
                return None
            if store.integers and key_text.isdigit() and len(key_text) < 19:
                key = int(key_text)
            elif b"?" in key_text:
                return None
            else:
                key = key_of_path(store.keys, key_text)
            if self._admission.quotas.any:
                self._admission.quotas.take(store.name, caller.name, "reads", 1, time.monotonic())
            row = opened.reader.get(key)
        except Exception:
            return None  # said again, and counted, on the long way
        counters = store.stats.get_counters
        counters[REQUESTS] += 1
        counters[KEYS] += 1
        if row is None:
            counters[MISSING] += 1
            response = b"".join((_MISSING % (opened.number,), self._date(), _MISSING_END))
        else:
            body = row.to_bytes()
            size, date = len(body), self._date()
            if date is not self._heads_date:
                self._heads.clear()
                self._heads_date = date
            head = self._heads.get((store.id, opened.number, type(row), size))
            if head is None:
                head = self._avro_head(store, opened, row, size)
                if head is None:
                    counters[REQUESTS] -= 1
                    counters[KEYS] -= 1
                    return None
            counters[ANSWER_BYTES] += size
            response = head + body
        store.stats.get_latencies[bucket_of(_perf() - started)] += 1
        return response

    def _avro_head(self, store: ServedStore, opened: Opened, row: Row, size: int) -> bytes | None:
        """The head of an answer with a row of `size` bytes, good until the date changes; None: the row is in no schema of the store."""
        number = store.schema_number(row)
        if number is None:
            return None
        if len(self._heads) > _HEADS_MAX:
            self._heads.clear()
        head = b"".join(
            (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/avro\r\n",
                b"fondaco-version: %d\r\nfondaco-schema: %d\r\n" % (opened.number, number),
                self._heads_date,
                b"content-length: %d\r\n\r\n" % size,
            )
        )
        self._heads[store.id, opened.number, type(row), size] = head
        return head

    def get_by_path(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """One row, by an integer or text key in the path."""
        asked.query_of(query, ())
        store = self._admission.admit(reply, "read", reply.request)
        return self._get(reply, key_of_path(store.keys, parts[4]))

    def get_by_query(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """One row, by any key: `?key=<JSON>` or `?avro=<base64url>`."""
        store = self._admission.admit(reply, "read", reply.request)
        given = asked.query_of(query, ("key", "avro"))
        if len(given) != 1:
            raise InputError("a get by query needs key=<JSON> or avro=<base64url>; a batch of keys is POSTed")
        if "key" in given:
            return self._get(reply, key_of_json(store.keys, given["key"]))
        encoded = avro_key(store.keys, given["avro"])
        return self._get(reply, store.keys.decode(encoded.data[: int(encoded.offsets[-1])].tobytes()))

    def _get(self, reply: Reply, key: Any) -> Answer | Work:
        assert reply.store is not None
        store, options = reply.store, asked.options_of(reply.request)
        media = asked.accept(reply.request, (wire.JSON, wire.AVRO))
        store.keys.encode(key)  # refuses what is no key before anything is taken for it
        self._admission.take(reply, "reads", 1)

        def answer(opened: Opened) -> Answer:
            row = opened.reader.get(key)
            lines = head_lines(opened, options)
            if row is None:
                reply.count(1, 1, 0)
                return Answer(404, _NOT_FOUND, wire.JSON, lines)
            if media == wire.JSON:
                text = _encode(to_json(row.to_dict()))
                reply.count(1, 0, len(text))
                return Answer(200, text, wire.JSON, lines)
            number, body = store.schema_number(row), row.to_bytes()
            if number is None:  # made of several writes: written anew, in a schema that has a number
                packed = opened.reader.get_packed(store.keys.encode_many([key]))
                number, body = int(packed.schemas[0]), packed.data[: int(packed.offsets[-1])].tobytes()
            reply.count(1, 0, len(body))
            return Answer(200, body, wire.AVRO, [*lines, b"fondaco-schema: %d\r\n" % number])

        return self.read(reply, options, answer)

    # -- batches ------------------------------------------------------------------------------------------------------------------------

    def get_rows(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """Rows of many keys."""
        reply.kind = BATCH
        store = self._admission.admit(reply, "read", reply.request)
        media = asked.accept(reply.request, (wire.JSON, wire.ROWS_BODY))
        keys, fields = self._keys_and_fields(reply, store, query)
        if fields is not None and media != wire.JSON:
            raise InputError("fields= picks columns; rows in Avro are whole. Ask for columns, or for JSON")

        def make(reader: EmbeddedReader) -> batches.Batch:
            return batches.JsonRows(reader, fields) if media == wire.JSON else batches.PackedRows(reader)

        return self._batch(reply, keys, media, make)

    def get_columns(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """Columns of many keys."""
        reply.kind = BATCH
        store = self._admission.admit(reply, "read", reply.request)
        media = asked.accept(reply.request, (wire.JSON, wire.ARROW, wire.COLUMNS_BODY))
        keys, fields = self._keys_and_fields(reply, store, query)
        kinds: dict[str, Callable[[EmbeddedReader, Sequence[str] | None], batches.Batch]] = {
            wire.JSON: batches.JsonColumns, wire.ARROW: batches.ArrowColumns, wire.COLUMNS_BODY: batches.RawColumns,
        }  # fmt: skip
        return self._batch(reply, keys, media, lambda reader: kinds[media](reader, fields))

    def compute(self, reply: Reply, parts: Sequence[bytes], query: bytes) -> Answer | Work:
        """Similarities of many keys' vectors with one."""
        reply.kind = COMPUTE
        store = self._admission.admit(reply, "read", reply.request)
        media = asked.accept(reply.request, (wire.JSON, wire.SCORES_BODY))
        if asked.content_type(reply.request, KEYS_BODIES) == wire.KEYS_BODY:
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

    def _keys_and_fields(self, reply: Reply, store: ServedStore, query: bytes) -> tuple[EncodedKeys, list[str] | None]:
        """Keys and fields of a batch, from a JSON body, or from packed keys and the query."""
        if asked.content_type(reply.request, KEYS_BODIES) == wire.KEYS_BODY:
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
        if count > self._admission.limits.batch_keys_max:
            raise LimitError("keys of one batch", count, self._admission.limits.batch_keys_max, "Ask in several batches.")

    def _batch(self, reply: Reply, keys: EncodedKeys, media: str, make: Callable[[EmbeddedReader], batches.Batch]) -> Answer | Work:
        options = asked.options_of(reply.request)
        self._check_count(len(keys))
        self._admission.take(reply, "reads", len(keys))

        def answer(opened: Opened) -> Answer:
            batch, lines = make(opened.reader), head_lines(opened, options)
            if len(keys) <= opened.piece_keys:
                pieces = batch.piece(keys, last=True)
                reply.count(len(keys), batch.missing, sum(map(len, pieces)))
                return Answer(200, pieces, media, lines)
            first = batch.piece(
                batches.slice_keys(keys, 0, opened.piece_keys), last=False
            )  # what is wrong is said before the answer begins
            return Answer(200, self._stream(reply, batch, keys, opened.piece_keys, first), media, lines)

        return self.read(reply, options, answer)

    async def _stream(
        self, reply: Reply, batch: batches.Batch, keys: EncodedKeys, step: int, first: Sequence[Piece]
    ) -> AsyncIterator[Sequence[Piece]]:
        """The pieces of a large answer; the connection waits for its reader between them."""
        yield first
        size = sum(map(len, first))
        try:
            for start, end in batches.ranges(len(keys), step):
                if start:
                    check_deadline(reply, f"{start} of {len(keys)} keys are answered")
                    pieces = batch.piece(batches.slice_keys(keys, start, end), last=end == len(keys))
                    size += sum(map(len, pieces))
                    yield pieces
        except FondacoError as exc:
            assert reply.store is not None
            reply.store.stats.refused(reply.kind, wire.status_of(exc))
            if not batch.framed:
                raise  # the connection breaks off: no other way to say that the answer is not whole
            yield wire.pack_error(exc)
            return
        reply.count(len(keys), batch.missing, size)

    # -- reading ------------------------------------------------------------------------------------------------------------------------

    def read(self, reply: Reply, options: Options, answer: Callable[[Opened], Answer]) -> Answer | Work:
        """Answer from the version asked for: now, if it is open and its position is reached; else after waiting for that."""
        store = reply.store
        assert store is not None
        opened = store.current if options.version is None else store.pinned(options.version)
        if opened is not None and (options.min_position is None or _covers(opened, options.min_position)):
            check_deadline(reply, "it waited for its turn")
            return answer(opened)

        async def wait() -> Answer:
            found = await within(reply, self._opened(store, options), "opening the version")
            if options.min_position is not None:
                await self._reach(reply, found, options.min_position)
            check_deadline(reply, "it waited for its turn")
            return answer(found)

        return wait

    async def _opened(self, store: ServedStore, options: Options) -> Opened:
        if options.version is None:
            return await store.adopted(self._readers)
        return await store.at(options.version, self._readers)

    async def _reach(self, reply: Reply, opened: Opened, wanted: Positions) -> None:
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


def head_lines(opened: Opened, options: Options) -> list[bytes]:
    """The lines that say what was read."""
    lines = [b"fondaco-version: %d\r\n" % opened.number]
    if options.wants_position:
        lines.append(b"fondaco-position: %s\r\n" % str(opened.reader.position).encode())
    return lines


def _covers(opened: Opened, wanted: Positions) -> bool:
    applied = opened.reader.position
    return all(applied.get(partition, -1) >= offset for partition, offset in wanted.items())
