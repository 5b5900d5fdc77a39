"""Upload: whatever a push takes, as an Arrow IPC stream that is made batch by batch while it is sent. One thread, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from fondaco.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from fondaco.store.keys import KeyCodec

BATCH_BYTES: Final = 16 << 20  # of rows in flight at once


def ipc_parts(data: object, value_schema: object, key: KeyCodec) -> Iterator[bytes]:
    """Whatever a push takes, as an Arrow IPC stream, batch by batch.

    Raises:
        InputError, RowError: it cannot be read.
    """
    import pyarrow as pa

    from fondaco.schema import Codec
    from fondaco.store.inputs import open_input
    from fondaco.store.values import columns_of

    codec = Codec(value_schema)
    opened = open_input(data, batch_bytes=BATCH_BYTES, columns=lambda: columns_of(codec, key))
    sink, writer = _Parts(), None
    first_row = 0
    for chunk in opened.chunks:
        batch = chunk if isinstance(chunk, pa.RecordBatch) else _of_mappings(chunk, codec, key, first_row)
        if writer is None:
            writer = pa.ipc.new_stream(pa.PythonFile(sink, "w"), batch.schema)
        writer.write_batch(batch)
        first_row += batch.num_rows
        yield sink.take()
    opened.check_unchanged()
    if writer is None:
        raise InputError("there are no rows to push; push_empty() makes a version without rows")
    writer.close()
    yield sink.take()


def _of_mappings(rows: list[Mapping[str, Any]], codec: Any, key: KeyCodec, first_row: int) -> pa.RecordBatch:
    """Rows given as mappings, as the columns of their types."""
    import pyarrow as pa

    from fondaco.store.values import columns_of

    wanted = columns_of(codec, key)
    names = [name for name in wanted.names if any(name in row for row in rows)]
    unknown = sorted({name for row in rows for name in row} - set(wanted.names))
    arrays = []
    for name in names:
        try:
            arrays.append(pa.array([row.get(name) for row in rows], wanted.field(name).type))
        except (pa.ArrowException, TypeError, ValueError) as exc:
            raise InputError(f"column {name!r} of rows {first_row} to {first_row + len(rows) - 1}: {exc}") from exc
    arrays += [pa.nulls(len(rows)) for _ in unknown]  # the push names them, as it would for a table
    return pa.RecordBatch.from_arrays(arrays, names=[*names, *unknown])


class _Parts:
    """Where Arrow writes; gives away what it holds."""

    closed = False

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: Any) -> int:
        self._held += memoryview(data)
        return len(data)

    def flush(self) -> None:
        """Nothing to do."""

    def take(self) -> bytes:
        """What was written since the last time."""
        held, self._held = bytes(self._held), bytearray()
        return held
