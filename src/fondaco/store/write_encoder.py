"""WriteEncoder: from keys, rows and changes to log records, stamped. What every way into a store's real-time topic shares.

A writer's stamps never go back: if the clock does, its writes keep the last time and their sequence goes on, so that of two writes of one
writer the later wins. A write with a `timestamp_ms` of its own has sequence 0: of two such writes at one time the greater bytes win, in
whatever order they were made, so repeating them is harmless.

Thread rule: any thread. Imports no numba until columns are encoded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fondaco.core.clock import Clock, SystemClock
from fondaco.core.errors import DataError, InputError
from fondaco.schema import Codec
from fondaco.schema.types import Record
from fondaco.store._patch import Changes, PatchEncoder
from fondaco.store.writes import ENVELOPE, FORMAT, FUTURE_MS_MAX, Op, WriteBatch, check_timestamp, writer_number

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fondaco.store.keys import KeyCodec

WRITE_BYTES_MAX: Final = 32 << 20  # of one write: the tailer merges patches in memory, and a batch of the log holds at least one
_PUT, _DELETE, _PATCH = int(Op.PUT), int(Op.DELETE), int(Op.PATCH)


class EncodedWrite(NamedTuple):
    """One write as a log record."""

    key: bytes
    value: bytes
    timestamp_ms: int


class WriteEncoder:
    """Encodes the writes of one writer to one store."""

    def __init__(
        self, store: str, key: KeyCodec, schema: object, schema_number: int, writer_id: str = "default", *, clock: Clock | None = None
    ) -> None:
        """
        Args:
            schema: the newest value schema (Avro dict or JSON), and its number.
            writer_id: the same for the same job: it breaks ties between writes of one moment. Two that write at once need two ids.
        Raises:
            InputError: not a writer's id, or a schema that is no record.
        """
        self.store, self.key = store, key
        self.codec = Codec(schema)
        if not isinstance(self.codec.writer, Record):
            raise InputError(f"the value schema of store {store!r} is no record")
        self.schema_number, self.writer = schema_number, writer_number(writer_id)
        self._clock = SystemClock() if clock is None else clock
        self._patches = PatchEncoder(self.codec.writer, f"store {store!r}")
        self._encode_key, self._encode_row = key.encode, self.codec.encode
        self._lock = threading.Lock()
        self._last_ms = 0
        self._sequence = max(0, self._clock.now_us())  # above that of any writer of this id before, which counted from an earlier moment

    # -- one write ------------------------------------------------------------------------------------------------------------------

    def put(self, key: Any, row: Any, timestamp_ms: int | None = None) -> EncodedWrite:
        """The whole row of a key.

        Raises:
            KeyTypeError, RowError: what does not fit. InputError: a time that cannot be. DataError: too long.
        """
        return self._write(_PUT, self._encode_key(key), self._encode_row(row), timestamp_ms)

    def patch(
        self, key: Any, fields: Changes, timestamp_ms: int | None = None, *, add: Changes | None = None, remove: Changes | None = None
    ) -> EncodedWrite:
        """New values of some fields, elements added to and removed from arrays and maps (`PatchEncoder.encode`).

        Raises:
            FieldNotFoundError: no such field; otherwise as `put`.
        """
        return self._write(_PATCH, self._encode_key(key), self._patches.encode(fields, add, remove), timestamp_ms)

    def delete(self, key: Any, timestamp_ms: int | None = None) -> EncodedWrite:
        """That a key has no row.

        Raises:
            KeyTypeError: no key of this store. InputError: a time that cannot be.
        """
        return self._write(_DELETE, self._encode_key(key), b"", timestamp_ms)

    def _write(self, op: int, key: bytes, payload: bytes, timestamp_ms: int | None) -> EncodedWrite:
        if len(key) + len(payload) > WRITE_BYTES_MAX:
            raise DataError(
                f"a write of {len(key) + len(payload)} bytes for key {self.key.readable(key)}; the limit is {WRITE_BYTES_MAX}. "
                "Keep large objects in files and store their names."
            )
        now_ms = self._clock.now_us() // 1000
        if timestamp_ms is None:
            timestamp_ms, sequence = self._next(now_ms, 1)
        else:
            timestamp_ms, sequence = check_timestamp(timestamp_ms, now_ms), 0
        return EncodedWrite(key, ENVELOPE.pack(FORMAT, op, 0, self.schema_number, self.writer, sequence) + payload, timestamp_ms)

    def _next(self, now_ms: int, count: int) -> tuple[int, int]:
        """The time of `count` writes, and the sequence of the first."""
        with self._lock:
            # A clock put right after having been days ahead is believed; otherwise time stands still until it is reached again.
            if now_ms > self._last_ms or self._last_ms - now_ms > FUTURE_MS_MAX:
                self._last_ms = now_ms
            sequence = self._sequence + 1
            self._sequence += count
            return self._last_ms, sequence

    # -- many writes ----------------------------------------------------------------------------------------------------------------

    def columns(
        self, data: object, timestamp_ms: int | Sequence[int] | npt.NDArray[np.int64] | None = None, *, batch_bytes: int
    ) -> Iterator[WriteBatch]:
        """Puts of all rows of a table, in batches.

        Args:
            data: whatever a push takes: a table, batches, a dict of columns, files, with the key's columns and the fields.
            timestamp_ms: one time for all rows or one for each; None: now.
            batch_bytes: greatest size of a piece of the input in Arrow memory.
        Raises:
            ColumnNotFoundError, RowError, InputError, DataError: as a push. Batches before the wrong row were given out.
        """
        import numpy as np

        from fondaco.store._write_columns import encoded_chunks, put_batch

        times = None if timestamp_ms is None or np.ndim(timestamp_ms) == 0 else self._times(timestamp_ms)
        rows = 0
        for encoded in encoded_chunks(self.store, self.key, self.codec, data, batch_bytes):
            now_ms, count = self._clock.now_us() // 1000, len(encoded)
            if timestamp_ms is None:
                moment, sequence = self._next(now_ms, count)
                moments = np.full(count, moment, np.int64)
            elif times is None:
                sequence, moments = 0, np.full(count, check_timestamp(timestamp_ms, now_ms), np.int64)
            else:
                sequence, moments = 0, times[rows : rows + count]
                if len(moments) != count:
                    raise InputError(f"timestamp_ms holds {len(times)} times and the data more rows; give one for each row, or one for all")
            rows += count
            yield put_batch(encoded, moments, self.schema_number, self.writer, sequence, step=int(timestamp_ms is None))
        if times is not None and rows != len(times):
            raise InputError(f"timestamp_ms holds {len(times)} times for {rows} rows; give one for each row, or one for all")

    def _times(self, timestamps_ms: Any) -> npt.NDArray[np.int64]:
        import numpy as np

        times = np.asarray(timestamps_ms)
        if times.ndim != 1 or (times.dtype.kind not in "iu" and len(times)):
            raise InputError(
                f"timestamp_ms is whole milliseconds since 1970, one or one for each row, not {times.dtype} {list(times.shape)}"
            )
        now_ms = self._clock.now_us() // 1000
        for worst in (times.min(), times.max()) if len(times) else ():
            check_timestamp(int(worst), now_ms)
        return times.astype(np.int64)
