"""StoreWriter: real-time writes to one store, buffered, stamped and sent in order.

    with store.writer("clicks-job") as writer:
        position = writer.put(42, {"clicks": 7, ...})
        writer.patch(42, {"clicks": 8}, add={"tags": ["new"]})
        writer.delete(43)
    reader.get(42, min_position=position)

What is promised. A write is *taken* when `put` returns, and *acknowledged* when `flush` returns, its position is asked for, or the writer
was closed without an error: from then on it is as safe as `durability` says ("os": from the end of the process, "disk": from a loss of
power). Writes are sent `linger_ms` after they were taken, or when the buffer is full, whichever comes first. While the log does not
answer or is full, they wait in the buffer and are sent again in their order; when the buffer is full too, `put` waits, and after
`timeout_s` raises the log's error without having taken the write. What was taken and cannot be written is counted by the error of `close`.
A log that failed in a way that trying again does not mend ends the writer.

A write may be in the log twice (the answer to the first sending was lost); the merge makes nothing of that.

Thread rule: any number of threads share a writer; each thread's writes keep their order.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from fondaco.core.errors import DeadlineExceededError, FondacoError, InputError, StateError, UnwrittenError
from fondaco.store.positions import Position, Positions
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writes import WriteBatch, batch_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fondaco.log import Log

    I64Array = npt.NDArray[np.int64]

Durability = Literal["os", "disk"]

LINGER_MS: Final = 5
BUFFER_BYTES: Final = 1 << 20
TIMEOUT_S: Final = 30.0
SETTING_MAX: Final = 4_000_000_000  # of a writer: seconds that no wait exceeds, and bytes
BATCH_BYTES: Final = 1 << 20  # of a table's rows in one append: what comes after waits no longer than this takes
BUFFER_WRITES_MAX: Final = 16_384  # in one append
OVERHEAD_BYTES: Final = 200  # what a buffered write takes beside its bytes
_BACKOFF_S: Final = (0.005, 0.5)  # first, and greatest


class Part(NamedTuple):
    """Writes that are appended at once, all or none.

    Attributes:
        partition: where to; -1: the target knows.
        rows: which writes of the batch these are, int64; None: all.
    """

    partition: int
    rows: I64Array | None
    batch: WriteBatch


class Placed(NamedTuple):
    """Where the writes of a part lie: int64, shape [writes], both."""

    partitions: I64Array
    offsets: I64Array


class WriterTarget(Protocol):
    """Where a writer's batches go. Errors with `retryable` are tried again, all others end the writer. Any thread may call it."""

    @property
    def name(self) -> str:
        """For messages: "store 'members'"."""
        ...

    def split(self, batch: WriteBatch) -> Sequence[Part]:
        """Cut a batch into what is appended at once."""
        ...

    def append(self, part: Part, durability: Durability) -> Placed:
        """Append a part; when this returns its writes are as safe as `durability` says. Doing so twice is harmless."""
        ...

    def sync(self, partitions: Iterable[int]) -> None:
        """Make what was appended with "os" before as safe as "disk" promises."""
        ...


class LogTarget:
    """A store's topic in a log of this process, embedded or Kafka."""

    def __init__(self, log: Log, topic: str, name: str) -> None:
        """
        Raises:
            TopicNotFoundError: the log has no such topic.
        """
        self.name = name
        self._log, self._topic = log, topic
        self._partitions = log.describe_topic(topic).partitions

    def split(self, batch: WriteBatch) -> list[Part]:
        """One part for each partition."""
        from fondaco.log import partition_keys
        from fondaco.store._write_columns import by_partition

        partitions = partition_keys(batch.keys, batch.key_offsets, self._partitions, self._log.partitioner)
        return [Part(*part) for part in by_partition(batch, partitions, self._partitions)]

    def append(self, part: Part, durability: Durability) -> Placed:
        """Append to the part's partition.

        Raises:
            FondacoError: what the log raises.
        """
        import numpy as np

        from fondaco.log import RecordBatch

        batch = part.batch
        records = RecordBatch(batch.keys, batch.key_offsets, batch.values, batch.value_offsets, batch.timestamps_ms, trusted=True)
        offsets = self._log.append(self._topic, part.partition, records, durability=durability)
        return Placed(np.full(len(batch), part.partition, np.int64), np.arange(offsets.start, offsets.stop, offsets.step, dtype=np.int64))

    def sync(self, partitions: Iterable[int]) -> None:
        """Make these partitions durable.

        Raises:
            FondacoError: what the log raises.
        """
        for partition in partitions:
            self._log.sync(self._topic, partition)


class _Buffer:
    """Writes on their way: taken, then sent part by part, then placed."""

    __slots__ = ("_left", "_partitions", "_places", "batch", "byte_count", "count", "keys", "placed", "timestamps_ms", "values", "writer")

    def __init__(self, writer: StoreWriter, batch: WriteBatch | None = None) -> None:
        self.writer, self.batch = writer, batch
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.timestamps_ms: list[int] = []
        self.count = 0 if batch is None else len(batch)
        self.byte_count = 0 if batch is None else batch.byte_count + OVERHEAD_BYTES
        self.placed = False
        self._left: deque[Part] | None = None
        self._places: I64Array | None = None
        self._partitions: I64Array | None = None

    def send(self, target: WriterTarget, durability: Durability) -> None:
        """Append what is not appended yet; after an error this can be called again."""
        import numpy as np

        if self._left is None:
            batch = batch_of(self.keys, self.values, self.timestamps_ms) if self.batch is None else self.batch
            self._left = deque(target.split(batch))
            self._partitions, self._places = np.empty(len(batch), np.int64), np.empty(len(batch), np.int64)
        assert self._partitions is not None
        assert self._places is not None
        while self._left:
            part = self._left[0]
            placed = target.append(part, durability)
            rows = slice(None) if part.rows is None else part.rows
            self._partitions[rows], self._places[rows] = placed
            self._left.popleft()
            self.writer._note(placed, durability)
        self.placed, self.batch = True, None
        self.keys, self.values, self.timestamps_ms = [], [], []  # positions keep this object alive, and need no bytes

    @property
    def left(self) -> int:
        """How many writes are not appended."""
        if self.placed:
            return 0
        return self.count if self._left is None else sum(len(part.batch) for part in self._left)

    def resolve(self, index: int) -> tuple[int, int]:
        """Partition and offset of one write; sends it, if it waits."""
        if not self.placed:
            self.writer._place(self)
        assert self._partitions is not None
        assert self._places is not None
        return int(self._partitions[index]), int(self._places[index])


class StoreWriter:
    """Writes to one store. Close it, or use it as a context manager."""

    def __init__(
        self,
        target: WriterTarget,
        encoder: WriteEncoder,
        *,
        durability: Durability = "os",
        linger_ms: float = LINGER_MS,
        buffer_bytes: int = BUFFER_BYTES,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """
        Args:
            linger_ms: how long a write waits for company.
            buffer_bytes: what may wait in memory; one write, or one batch of a table, may go beyond it.
            timeout_s: how long `put`, `flush` and `close` wait for a log that does not take writes.
        Raises:
            InputError: a setting that cannot be.
        """
        self._durability = check_durability(durability)
        for name, value in (("linger_ms", linger_ms), ("buffer_bytes", buffer_bytes), ("timeout_s", timeout_s)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= SETTING_MAX:
                raise InputError(f"{name} is a number from 0 to {SETTING_MAX:,}, not {value!r}")
        self._target, self._encoder = target, encoder
        self._encode_put, self._encode_patch, self._encode_delete = encoder.put, encoder.patch, encoder.delete
        self._linger_s, self._buffer_bytes, self._timeout_s = linger_ms / 1000, buffer_bytes, timeout_s
        self._lock = threading.Lock()  # of the buffers; held for a moment
        self._sending = threading.Lock()  # held while batches are sent, so that they go in order
        self._filling = _Buffer(self)
        self._queue: deque[_Buffer] = deque()
        self._waiting_bytes = 0
        self._written: dict[int, int] = {}
        self._unsynced: set[int] = set()
        self._failure: FondacoError | None = None
        self._trouble: FondacoError | None = None  # the last error of the log, until it takes writes again
        self._closed = False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._linger, name=f"fondaco writer of {target.name}", daemon=True)
        self._thread.start()

    # -- writes ---------------------------------------------------------------------------------------------------------------------

    def put(self, key: Any, row: Any, timestamp_ms: int | None = None) -> Position:
        """Write the whole row of a key.

        Args:
            row: a mapping with the fields of the newest value schema; those that have a default may be missing.
            timestamp_ms: when it happened, ms since 1970; None: now. Writes are merged by it: the newest wins, whenever it arrives.
        Raises:
            KeyTypeError, RowError: names what does not fit. InputError: a time before 1970 or more than a day ahead.
            FondacoError: the log takes no writes and the buffer is full (the log's error). In any case nothing was taken.
        """
        return self._take(*self._encode_put(key, row, timestamp_ms))

    def patch(
        self,
        key: Any,
        fields: Any = None,
        timestamp_ms: int | None = None,
        *,
        add: Any = None,
        remove: Any = None,
    ) -> Position:
        """Change some fields of a row and leave the others, as they are and as they will be when older writes come late.

        Args:
            fields: new values by field. A mapping for a record changes the members that it names; "address.city" names one too.
            add: by field, items to add to an array (at its end, if they are not in it), or entries to put into a map.
            remove: by field, items to remove from an array, or keys to remove from a map.
        Raises:
            FieldNotFoundError: no such field; suggests the nearest. Otherwise as `put`.
        """
        return self._take(*self._encode_patch(key, {} if fields is None else fields, timestamp_ms, add=add, remove=remove))

    def delete(self, key: Any, timestamp_ms: int | None = None) -> Position:
        """Write that a key has no row.

        Raises:
            KeyTypeError: no key of this store; otherwise as `put`.
        """
        return self._take(*self._encode_delete(key, timestamp_ms))

    def put_many(self, data: object, timestamp_ms: Any = None) -> Positions:
        """Put all rows of a table, and flush.

        Args:
            data: whatever a push takes, with the key's columns and the fields. The last of several rows of one key wins, if they are not
                given times of their own.
            timestamp_ms: one time for all rows, or one for each; None: now.
        Raises:
            ColumnNotFoundError, RowError, InputError, DataError: as a push; rows before the wrong one may have been written.
            FondacoError: the log's error; rows may have been written. Putting them again is harmless, given times of their own.
        """
        for batch in self._encoder.columns(data, timestamp_ms, batch_bytes=BATCH_BYTES):
            self.put_batch(batch)
        return self.flush()

    def put_batch(self, batch: WriteBatch) -> None:
        """Take writes that are encoded already; they wait and are sent as one.

        Raises:
            FondacoError: the log takes no writes and the buffer is full; nothing was taken.
        """
        if self._waiting_bytes >= self._buffer_bytes:
            self._make_room()
        with self._lock:
            self._check_open()
            self._seal()
            buffer = _Buffer(self, batch)
            self._queue.append(buffer)
            self._waiting_bytes += buffer.byte_count
        self._wake.set()

    def _take(self, key: bytes, value: bytes, timestamp_ms: int) -> Position:
        if self._waiting_bytes >= self._buffer_bytes or self._filling.count >= BUFFER_WRITES_MAX:
            self._make_room()
        with self._lock:
            if self._closed or self._failure is not None:
                self._check_open()
            buffer = self._filling
            index = buffer.count
            buffer.keys.append(key)
            buffer.values.append(value)
            buffer.timestamps_ms.append(timestamp_ms)
            buffer.count = index + 1
            size = len(key) + len(value) + OVERHEAD_BYTES
            buffer.byte_count += size
            self._waiting_bytes += size
        if not index:
            self._wake.set()
        return Position.pending(buffer.resolve, index)

    # -- sending --------------------------------------------------------------------------------------------------------------------

    def flush(self, durability: Durability | None = None, *, timeout_s: float | None = None) -> Positions:
        """Send all writes taken so far and wait until the log has them.

        Args:
            durability: as safe as this; None: as the writer's. "disk" covers also what was written before.
            timeout_s: None: the writer's.
        Returns:
            the last position of each partition that this writer wrote to: a read with it as `min_position` sees all its writes.
        Raises:
            FondacoError: the log's error, when it did not take them in time. They wait on, and are tried again.
        """
        wanted = self._durability if durability is None else check_durability(durability)
        with self._lock:
            self._check_open()
        self._send_until(None, wanted, timeout_s)
        if wanted == "disk":
            with self._sending:
                self._target.sync(sorted(self._unsynced))
                self._unsynced.clear()
        with self._lock:
            return Positions(self._written)

    @property
    def waiting(self) -> int:
        """How many writes wait to be sent."""
        with self._lock:
            return self._filling.count + sum(buffer.left for buffer in self._queue)

    def _make_room(self) -> None:
        with self._lock:
            self._check_open()
        self._retry(
            lambda deadline: self._send(self._durability, deadline), lambda: self._waiting_bytes < self._buffer_bytes, self._timeout_s
        )

    def _place(self, buffer: _Buffer) -> None:
        """Have a buffer sent, for a position in it.

        Raises:
            FondacoError: as `flush`.
        """
        if not self._closed:
            self._send_until(buffer)
            return
        with self._sending:  # `close` may be at it
            if not buffer.placed:
                raise UnwrittenError(self._target.name, buffer.left, "their writer was closed while the log did not take them")

    def _send_until(self, buffer: _Buffer | None, durability: Durability | None = None, timeout_s: float | None = None) -> None:
        """Send what is there now, at least up to and with `buffer`.

        Raises:
            FondacoError: the log did not take it in time. UnwrittenError: it never will.
        """
        self._retry(
            lambda deadline: self._send(durability or self._durability, deadline),
            lambda: buffer is not None and buffer.placed,
            self._timeout_s if timeout_s is None else timeout_s,
        )

    def _retry(self, send: Any, is_done: Any, timeout_s: float) -> None:
        """Send until it is done or sending has succeeded, for `timeout_s`."""
        deadline, pause = time.monotonic() + min(timeout_s, SETTING_MAX), _BACKOFF_S[0]
        while True:
            try:
                send(deadline)
            except FondacoError as exc:
                if is_done():  # by another thread
                    return
                left = deadline - time.monotonic()
                if not exc.retryable or left <= 0:
                    raise
                self._closing.wait(min(pause, left)) if not self._closed else time.sleep(min(pause, left))
                pause = min(2 * pause, _BACKOFF_S[1])
            else:
                return

    def _send(self, durability: Durability, deadline: float | None = None) -> None:
        """Send once all that has been taken, in order; one thread at a time."""
        if not self._sending.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise self._trouble or DeadlineExceededError(f"writing to {self._target.name}", self._timeout_s, "another thread is at it")
        try:
            self._check_alive()
            with self._lock:
                self._seal()
                queue = list(self._queue)
            for buffer in queue:
                buffer.send(self._target, durability)
                with self._lock:
                    self._queue.popleft()
                    self._waiting_bytes -= buffer.byte_count
            self._trouble = None
        except FondacoError as exc:
            self._trouble = exc
            if not exc.retryable and self._failure is None:
                self._failure = exc
            raise
        except BaseException as exc:  # what is none of ours: a bug, or the end of the process; what waits must not be sent out of order
            if isinstance(exc, Exception) and self._failure is None:
                self._failure = StateError(f"{type(exc).__name__}: {exc}")
            raise
        finally:
            self._sending.release()

    def _seal(self) -> None:
        """Queue the buffer that is being filled. Under the lock."""
        if self._filling.count:
            self._queue.append(self._filling)
            self._filling = _Buffer(self)

    def _note(self, placed: Placed, durability: Durability) -> None:
        """Remember how far the log is. While sending."""
        partitions = set(placed.partitions.tolist())
        with self._lock:
            for partition in partitions:
                last = int(placed.offsets[placed.partitions == partition].max())
                self._written[partition] = max(last, self._written.get(partition, 0))
        if durability == "os":
            self._unsynced |= partitions

    def _linger(self) -> None:
        """The thread that sends what has waited long enough."""
        pause = _BACKOFF_S[0]
        while True:
            self._wake.wait()
            if self._closing.wait(self._linger_s):
                return
            self._wake.clear()
            if self._closing.is_set():  # `close` may have set both just before the clear, and would then wait for us for ever
                return
            try:
                self._send(self._durability)
                pause = _BACKOFF_S[0]
            except Exception:  # kept in `_trouble` or `_failure`, for the next call to raise
                if self._failure is not None or self._closing.wait(pause):
                    return
                pause = min(2 * pause, _BACKOFF_S[1])
                self._wake.set()

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._unwritten() from self._failure

    def _check_open(self) -> None:
        """Under the lock."""
        if self._closed:
            raise StateError(f"this writer to {self._target.name} is closed; open another")
        self._check_alive()

    def _unwritten(self) -> UnwrittenError:
        reason = str(self._failure or self._trouble or "the log did not take them in time")
        return UnwrittenError(self._target.name, self._filling.count + sum(buffer.left for buffer in self._queue), reason.rstrip("."))

    # -- end ------------------------------------------------------------------------------------------------------------------------

    def close(self, *, timeout_s: float | None = None) -> None:
        """Send what waits, and end. Closing twice is fine.

        Raises:
            UnwrittenError: some of what was taken could not be written; says how many writes, and why.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._closing.set()
        self._wake.set()
        try:
            with contextlib.suppress(FondacoError):
                self._send_until(None, timeout_s=timeout_s)
        finally:
            self._thread.join(min(self._timeout_s if timeout_s is None else timeout_s, SETTING_MAX))  # longer if an append hangs
        with self._lock:
            if self._filling.count or self._queue:
                raise self._unwritten() from (self._failure or self._trouble)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"StoreWriter({self._target.name}{', closed' if self._closed else ''})"


def check_durability(durability: object) -> Durability:
    """`durability`, if it is one.

    Raises:
        InputError: it is none.
    """
    if durability not in ("os", "disk"):
        raise InputError(f'durability is "os" or "disk", not {durability!r}')
    return durability
