"""Merged rows: the rows that patches make, kept as bytes once they are made, by where the state of their key lies.

Making one decodes the base's row, lays the patches over it and encodes the result: 25 us. A state is appended to a file and never changes
there, and neither does the version under it; so its row may be kept for as long as the file stays mapped, and be found again in 0.2 us. A
key that is written to again gets a state at another place, and the row at the old one is not asked for any more: the oldest go first.

One object belongs to one version and one view of the writes over it. Any thread; two may make the same row at once, which costs time only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from fondaco.schema import Codec
from fondaco.store._rows import RowCodecs

BYTES_MAX: Final = 16 << 20  # about 30,000 rows with an embedding
_OVERHEAD: Final = 200  # bytes of the objects around a row


@dataclass(frozen=True, slots=True)
class RowMaker:
    """What merged rows are made as: fields read by `codecs`, rows written by `codec`, which is value schema `number`."""

    codecs: RowCodecs
    codec: Codec
    number: int


class MergedRow(NamedTuple):
    """A row (None: the patches wait for a put), and the timestamp of the newest write in it."""

    newest_ms: int
    data: bytes | None


class MergedRows:
    """Rows by the address of the state in mapped memory."""

    __slots__ = ("_bytes", "_bytes_max", "_rows", "get")

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._rows: dict[int, MergedRow] = {}
        self._bytes, self._bytes_max = 0, bytes_max
        self.get = self._rows.get  # (address) -> MergedRow | None

    def __len__(self) -> int:
        return len(self._rows)

    def keep(self, address: int, row: MergedRow) -> None:
        """Keep the row that the state at `address` makes; the oldest make room for it."""
        rows = self._rows
        if rows.setdefault(address, row) is not row:
            return
        self._bytes += _size(row)
        while self._bytes > self._bytes_max:
            try:
                gone = rows.pop(next(iter(rows)))
            except (StopIteration, KeyError, RuntimeError):  # another thread was at it
                break
            self._bytes -= _size(gone)


def _size(row: MergedRow) -> int:
    return _OVERHEAD + len(row.data or b"")
