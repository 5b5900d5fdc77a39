"""Writing: writes from requests, checked and appended to the store's topic, many requests in one append.

A write is checked before it is taken: its key, its time, its envelope, and that its row or patch can be read in the value schema it names.
What is in the topic later is read by every reader of the store, so a bad write is refused here, with its position in the request.

Group commit: while an append is under way (a worker thread does it, because a sync of the disk takes milliseconds), the batches of other
requests gather, and are appended together as the next. If one of them asks for durability "disk", all of that group get it. A request is
answered when its writes are in the log and as safe as it asked.

On the event loop's thread, but for `open_target` and what `_Group.append` does in a worker thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from fondaco.core.clock import Clock
from fondaco.core.errors import DecodeError, FondacoError, InputError, LimitError, UnavailableError
from fondaco.dataplane.asked import WriteBody
from fondaco.dataplane.json_rows import from_json
from fondaco.dataplane.keys import checked, json_key
from fondaco.schema import Codec
from fondaco.schema.columns import decode_addresses
from fondaco.schema.types import Array, Map, Record, Type, Union
from fondaco.store.basefile import address_of
from fondaco.store.keys import KeyCodec
from fondaco.store.merge import RowCodecs
from fondaco.store.positions import Positions
from fondaco.store.write_encoder import WRITE_BYTES_MAX, EncodedWrite, WriteEncoder
from fondaco.store.writer import Durability, Placed, WriterTarget
from fondaco.store.writes import ENVELOPE_BYTES, FORMAT, Op, WriteBatch, batch_of, check_timestamp, decode_write

GROUP_BYTES: Final = 16 << 20  # of requests appended at once
WAITING_BYTES: Final = 256 << 20  # of requests that wait for their turn; beyond it new ones are refused
_HEADER: Final = np.dtype([("format", "u1"), ("op", "u1"), ("flags", "<u2"), ("schema", "<u4"), ("writer", "<u8"), ("sequence", "<u8")])


class Schemas(Protocol):
    """Value schemas by number, as Avro JSON text; asked again when one is not known."""

    def __call__(self, number: int) -> str: ...


# -- checking -----------------------------------------------------------------------------------------------------------------------------


def check_batch(batch: WriteBatch, keys: KeyCodec, schemas: Schemas, clock: Clock) -> None:
    """Refuse writes of which one could not be read again.

    Raises:
        KeyTypeError: bytes that are no key of the store. InputError: a time that cannot be, or a heartbeat. DecodeError: an envelope or a
        payload that is none, or of a value schema that the store does not have; names the position. LimitError: one write is too long.
    """
    count = len(batch)
    if not count:
        return
    checked(keys, batch.keys, batch.key_offsets, strict=True)
    now_ms = clock.now_us() // 1000
    for worst in (int(batch.timestamps_ms.min()), int(batch.timestamps_ms.max())):
        check_timestamp(worst, now_ms)
    lengths = np.diff(batch.value_offsets)
    _refuse_first(lengths < ENVELOPE_BYTES, "a write without an envelope", f"it has {ENVELOPE_BYTES} bytes at least")
    if int(lengths.max()) > WRITE_BYTES_MAX:
        raise LimitError("one write, in bytes", int(lengths.max()), WRITE_BYTES_MAX, "Keep large objects in files and store their names.")
    starts = batch.value_offsets[:-1]
    header = batch.values[starts[:, None] + np.arange(ENVELOPE_BYTES)].view(_HEADER)[:, 0]
    _refuse_first((header["format"] != FORMAT) | (header["flags"] != 0), "a write of another format", f"this Fondaco knows format {FORMAT}")
    ops = header["op"]
    _refuse_first((ops < Op.PUT) | (ops > Op.PATCH), "a write that is no put, delete or patch", "those are operations 1, 2 and 3")
    _refuse_first((ops == Op.DELETE) & (lengths != ENVELOPE_BYTES), "a delete with a payload", "a delete has none")
    for number in np.unique(header["schema"][ops != Op.DELETE]).tolist():
        _check_payloads(batch, header, number, schemas)


def _refuse_first(wrong: npt.NDArray[np.bool_], what: str, rule: str) -> None:
    if wrong.any():
        raise DecodeError(0, f"{what}; {rule}", int(wrong.argmax()))


def _check_payloads(batch: WriteBatch, header: Any, number: int, schemas: Schemas) -> None:
    try:
        codec = Codec(schemas(number))
    except FondacoError:
        at = int((header["schema"] == number).argmax())
        raise DecodeError(4, f"a write under value schema {number}, which this store does not have", at) from None
    puts = np.flatnonzero((header["schema"] == number) & (header["op"] == Op.PUT))
    if len(puts):
        base = address_of(batch.values)
        starts, ends = base + batch.value_offsets[puts] + ENVELOPE_BYTES, base + batch.value_offsets[puts + 1]
        try:
            decode_addresses(codec.program, starts, ends)
        except DecodeError as exc:
            row = None if exc.row is None else int(puts[exc.row])
            raise DecodeError(exc.position, exc.reason, row, exc.field) from None
    codecs = RowCodecs(schemas, codec.schema)
    for at in np.flatnonzero((header["schema"] == number) & (header["op"] == Op.PATCH)).tolist():
        value = batch.values[batch.value_offsets[at] : batch.value_offsets[at + 1]].tobytes()
        try:
            codecs.check(decode_write(value, int(batch.timestamps_ms[at])))
        except DecodeError as exc:
            raise DecodeError(exc.position, exc.reason, at, exc.field) from None


# -- JSON ---------------------------------------------------------------------------------------------------------------------------------


def encode_writes(writes: Sequence[WriteBody], encoder: WriteEncoder) -> WriteBatch:
    """Writes of a JSON body, encoded in the newest value schema.

    Raises:
        InputError: an operation that there is none of, or with what it does not take, a key or value that does not fit; names the place.
    """
    encoded = []
    for i, write in enumerate(writes):
        try:
            encoded.append(_encode(write, encoder, f"$.writes[{i}]"))
        except InputError as exc:
            place = f"$.writes[{i}]"
            raise InputError(str(exc) if place in str(exc) else f"{place}: {exc}") from exc
    return batch_of(*map(list, zip(*encoded, strict=True))) if encoded else batch_of([], [], [])


def _encode(write: WriteBody, encoder: WriteEncoder, path: str) -> EncodedWrite:
    key = json_key(encoder.key, write.key, f"{path}.key")
    given = {name for name in ("row", "fields", "add", "remove") if getattr(write, name) is not None}
    allowed = _ALLOWED.get(write.op)
    if allowed is None:
        raise InputError(f"{path}.op is one of {', '.join(_ALLOWED)}, not {write.op!r}")
    if given - allowed:
        raise InputError(f"{path}: a {write.op} takes no {min(given - allowed)!r}")
    schema = encoder.codec.writer
    if write.op == "put":
        if write.row is None:
            raise InputError(f"{path}: a put needs 'row'")
        return encoder.put(key, from_json(schema, write.row, f"{path}.row"), write.timestamp_ms)
    if write.op == "delete":
        return encoder.delete(key, write.timestamp_ms)
    fields = {name: from_json(_field(schema, name), value, f"{path}.fields.{name}") for name, value in (write.fields or {}).items()}
    add, remove = (_elements(schema, getattr(write, name), f"{path}.{name}", removed=name == "remove") for name in ("add", "remove"))
    return encoder.patch(key, fields, write.timestamp_ms, add=add, remove=remove)


_ALLOWED: Final = {"put": {"row"}, "patch": {"fields", "add", "remove"}, "delete": set[str]()}


def _elements(schema: Type, given: dict[str, Any] | None, path: str, *, removed: bool) -> dict[str, Any] | None:
    if given is None:
        return None
    out = {}
    for name, value in given.items():
        kind = _field(schema, name)
        out[name] = value if removed and isinstance(kind, Map) else from_json(kind, value, f"{path}.{name}")
    return out


def _field(schema: Type, path: str) -> Type:
    """The type of a field, by its path; the schema itself if there is none (the encoder then says so)."""
    kind = schema
    for name in path.split("."):
        if isinstance(kind, Union):
            kind = next((branch for branch in kind.branches if isinstance(branch, (Record, Array, Map))), kind)
        members = {member.name: member.type for member in kind.fields} if isinstance(kind, Record) else {}
        if name not in members:
            return _UNKNOWN
        kind = members[name]
    if isinstance(kind, Union):
        branches = [branch for branch in kind.branches if isinstance(branch, (Array, Map))]
        return branches[0] if len(branches) == 1 else kind
    return kind


_UNKNOWN: Final = Union(())


# -- appending ----------------------------------------------------------------------------------------------------------------------------


class Appender:
    """Appends the batches of many requests to one store's topic."""

    def __init__(self, opener: Callable[[], WriterTarget], workers: Executor) -> None:
        """
        Args:
            opener: finds the topic, and makes it if there is none; called in a worker thread, at the first write.
        """
        self._opener, self._workers = opener, workers
        self._target: WriterTarget | None = None
        self._waiting: list[_Asked] = []
        self._waiting_bytes = 0
        self._running: asyncio.Task[None] | None = None

    async def append(self, batch: WriteBatch, durability: Durability) -> Placed:
        """Append; returns where each write lies, in the batch's order.

        Raises:
            UnavailableError: too much waits already; nothing was taken. FondacoError: what the log raises.
        """
        size = batch.byte_count
        if self._waiting_bytes + size > WAITING_BYTES:
            raise UnavailableError("this server", f"{self._waiting_bytes} bytes of writes wait for the log already")
        asked = _Asked(batch, durability, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._waiting_bytes += size
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
        # What was taken is appended whether the client still waits or not: the others of its group do
        return await asyncio.shield(asked.placed)

    async def drained(self) -> None:
        """Return when nothing waits or is being appended."""
        while self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group: list[_Asked] = []
                size = 0
                while self._waiting and (not group or size + self._waiting[0].batch.byte_count <= GROUP_BYTES):
                    group.append(self._waiting.pop(0))
                    size += group[-1].batch.byte_count
                try:
                    places: Sequence[Placed] | BaseException = await loop.run_in_executor(self._workers, self._append, group)
                except Exception as exc:
                    places = exc
                self._waiting_bytes -= size
                _tell(group, places)
        finally:
            self._running = None

    def _append(self, group: Sequence[_Asked]) -> list[Placed]:
        if self._target is None:
            self._target = self._opener()
        batch = _joined([asked.batch for asked in group])
        durability: Durability = "disk" if any(asked.durability == "disk" for asked in group) else "os"
        partitions, offsets = np.empty(len(batch), np.int64), np.empty(len(batch), np.int64)
        for part in self._target.split(batch):
            rows = slice(None) if part.rows is None else part.rows
            partitions[rows], offsets[rows] = self._target.append(part, durability)
        ends = np.cumsum([len(asked.batch) for asked in group])[:-1]
        return [Placed(*pair) for pair in zip(np.split(partitions, ends), np.split(offsets, ends), strict=True)]


class _Asked:
    """One request's writes, and who waits for them."""

    __slots__ = ("batch", "durability", "placed")

    def __init__(self, batch: WriteBatch, durability: Durability, placed: asyncio.Future[Placed]) -> None:
        self.batch, self.durability, self.placed = batch, durability, placed
        placed.add_done_callback(lambda done: done.cancelled() or done.exception())  # the client may have gone: then nobody asks


def _tell(group: Sequence[_Asked], places: Sequence[Placed] | BaseException) -> None:
    for i, asked in enumerate(group):
        if asked.placed.done():
            continue
        if isinstance(places, BaseException):
            asked.placed.set_exception(places)
        else:
            asked.placed.set_result(places[i])


def _joined(batches: Sequence[WriteBatch]) -> WriteBatch:
    if len(batches) == 1:
        return batches[0]
    keys, key_offsets = _concatenated([(batch.keys, batch.key_offsets) for batch in batches])
    values, value_offsets = _concatenated([(batch.values, batch.value_offsets) for batch in batches])
    return WriteBatch(keys, key_offsets, values, value_offsets, np.concatenate([batch.timestamps_ms for batch in batches]))


def _concatenated(columns: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]) -> tuple[Any, Any]:
    data = np.concatenate([data[offsets[0] : offsets[-1]] for data, offsets in columns])
    lengths = np.concatenate([np.diff(offsets) for _, offsets in columns])
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return data, offsets


def positions_of(placed: Placed) -> Positions:
    """The greatest offset of each partition."""
    positions: dict[int, int] = {}
    for partition in np.unique(placed.partitions).tolist():
        positions[partition] = int(placed.offsets[placed.partitions == partition].max())
    return Positions(positions)
