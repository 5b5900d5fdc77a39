"""Columns of writes: tables as batches of puts, and batches in order of their partitions.

Thread rule: pure functions. Importing this imports numba.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import DataError
from fondaco.schema import Codec
from fondaco.store import _write_kernels
from fondaco.store.basefile import address_of
from fondaco.store.encoder import Encoded, RowEncoder
from fondaco.store.inputs import open_input
from fondaco.store.keys import KeyCodec
from fondaco.store.values import columns_of
from fondaco.store.write_encoder import WRITE_BYTES_MAX
from fondaco.store.writes import ENVELOPE, FORMAT, Op, WriteBatch

I64Array = npt.NDArray[np.int64]


def encoded_chunks(store: str, key: KeyCodec, value: Codec, data: object, batch_bytes: int) -> Iterator[Encoded]:
    """The rows of anything that a push takes, as bytes."""
    opened = open_input(data, batch_bytes=batch_bytes, columns=lambda: columns_of(value, key))
    encoder = RowEncoder(store, key, value, opened.schema)
    first_row = 0
    for chunk in opened.chunks:
        encoded = encoder.encode(chunk, first_row)
        refuse_long(np.diff(encoded.offsets), first_row)
        first_row += len(encoded)
        yield encoded
    opened.check_unchanged()


def refuse_long(sizes: I64Array, first_row: int) -> None:
    """Refuse payloads that are too long for one write.

    Raises:
        DataError: names the row.
    """
    if len(sizes) and sizes.max() > WRITE_BYTES_MAX:
        row = int(sizes.argmax())
        raise DataError(
            f"row {first_row + row} takes {int(sizes[row])} bytes; the limit of a write is {WRITE_BYTES_MAX}. "
            "Keep large objects in files and store their names."
        )


def envelope_template(op: Op, schema_number: int, writer: int) -> npt.NDArray[np.uint8]:
    """An envelope without its sequence: uint8 [24]."""
    return np.frombuffer(ENVELOPE.pack(FORMAT, op, 0, schema_number, writer, 0), np.uint8)


def put_batch(encoded: Encoded, timestamps_ms: I64Array, schema_number: int, writer: int, first_sequence: int, *, step: int) -> WriteBatch:
    """Encoded rows as puts with sequences `first_sequence`, `first_sequence + step`, ..."""
    values = np.ascontiguousarray(encoded.values)
    out = np.empty(encoded.value_bytes + ENVELOPE.size * len(encoded), np.uint8)
    out_offsets = np.empty(len(encoded) + 1, np.int64)
    template = envelope_template(Op.PUT, schema_number, writer)
    _write_kernels.put_envelopes(
        address_of(template), address_of(values), encoded.offsets, first_sequence, step, address_of(out), out_offsets
    )
    return WriteBatch(encoded.keys.data, encoded.keys.offsets, out, out_offsets, timestamps_ms)


def by_partition(batch: WriteBatch, partitions: I64Array, count: int) -> list[tuple[int, I64Array | None, WriteBatch]]:
    """The batch cut by partition: (partition, rows of the batch in it (None: all), those writes in their order)."""
    if not len(batch):
        return []
    first = int(partitions[0])
    if count == 1 or (partitions == first).all():
        return [(first, None, batch)]
    bounds, order = np.zeros(count + 1, np.int64), np.empty(len(batch), np.int64)
    _write_kernels.order_by_partition(partitions, bounds, order)
    keys, key_offsets = _taken(batch.keys, batch.key_offsets, order)
    values, value_offsets = _taken(batch.values, batch.value_offsets, order)
    timestamps_ms = batch.timestamps_ms[order]
    parts: list[tuple[int, I64Array | None, WriteBatch]] = []
    for partition in np.flatnonzero(np.diff(bounds)).tolist():
        low, high = int(bounds[partition]), int(bounds[partition + 1])
        part = WriteBatch(keys, key_offsets[low : high + 1], values, value_offsets[low : high + 1], timestamps_ms[low:high])
        parts.append((partition, order[low:high], part))
    return parts


def _taken(data: npt.NDArray[np.uint8], offsets: I64Array, rows: I64Array) -> tuple[npt.NDArray[np.uint8], I64Array]:
    out, out_offsets = np.empty(int(offsets[-1] - offsets[0]), np.uint8), np.empty(len(rows) + 1, np.int64)
    _write_kernels.take(address_of(data), offsets, rows, address_of(out), out_offsets)
    return out, out_offsets
