"""View: the files of one partition as a reader that maps them itself needs them (the overlay is an index over them).

Map a segment's file up to what `cells[HIGH_POSITION]` covers; what lies beyond may be half written or go away. A sealed segment never
changes; its file may be unlinked, which leaves maps of it alone. When `cells[GENERATION]` or `cells[ACTIVE_BASE]` has changed, ask for
the segments again, and when the view `is_stale`, for another view. Cells: `fondaco.log.state`. Layout: docs/internals/log-format.md. Any
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fondaco.log.state import HIGH_OFFSET, LOW_OFFSET


class SegmentFile(NamedTuple):
    """One file: the first offset that it may hold, the position of its first byte, and where it is."""

    base_offset: int
    base_position: int
    path: Path


@dataclass(frozen=True, slots=True)
class PartitionView:
    """`cells` is a memoryview of int64, live: other processes change it; `is_stale` says when it is that no more."""

    cells: memoryview
    list_segments: Callable[[], Sequence[SegmentFile]]
    has_other_cells: Callable[[], bool] = lambda: False

    @property
    def is_stale(self) -> bool:
        """Whether the partition has other cells by now, so that the log is to be asked for another view. Only to who may not write to the
        log, and came before anybody had written to the partition, or had since the machine started."""
        return self.has_other_cells()

    def segments(self) -> list[SegmentFile]:
        """All segments, oldest first; the last is the one that is appended to. Empty before the first append."""
        return list(self.list_segments())

    @property
    def low(self) -> int:
        """Low watermark."""
        return int(self.cells[LOW_OFFSET])

    @property
    def high(self) -> int:
        """High watermark."""
        return int(self.cells[HIGH_OFFSET])
