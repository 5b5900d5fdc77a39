"""Trimming: giving up real-time writes that no version of a store can show any more.

A version shows writes from `as_of - rewind` on. So what is older than the oldest such moment, over all versions whose files exist and all
that are being built, is dead, and the log's segments that hold nothing else can go. A store without a current version shows all its
writes, also while its first version is being built or waits to be swapped: nothing of it is trimmed. `[log] retention` keeps writes
longer, never shorter (a shorter one is refused when the store is created).

Nothing is given up that was not applied, so a tailer never finds a hole. Free functions; any thread, any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from fondaco.catalog.rows import OVER, VersionRow, VersionState

if TYPE_CHECKING:
    from fondaco.log import Log


def window_start_ms(versions: Iterable[VersionRow], *, rewind_ms: int, retention_ms: int | None, now_ms: int) -> int | None:
    """The moment (ms since the epoch) before which nobody can see a write; None: everything can be seen.

    Args:
        versions: of the store, in whatever state.
        retention_ms: how long the log keeps writes in any case; None: as long as a version needs them.
    """
    standing = [version for version in versions if version.state not in OVER]
    if not any(version.state is VersionState.CURRENT for version in standing):
        return None
    moments = [version.as_of_us // 1000 for version in standing]
    # A push that begins now is as of now: without the bound a version as of tomorrow would take its writes away
    start = min(min(moments), now_ms) - rewind_ms
    return start if retention_ms is None else min(start, now_ms - retention_ms)


def trim(log: Log, topic: str, start_ms: int, applied: Callable[[int], int]) -> dict[int, int]:
    """Give up what is older than `start_ms` in every partition; returns the new low watermarks of those that changed.

    Args:
        applied: per partition the offset up to which the overlay has everything.
    Raises:
        TopicNotFoundError, and what the log raises when its disk fails.
    """
    changed = {}
    for partition in range(log.describe_topic(topic).partitions):
        low, high = log.low_watermark(topic, partition), log.high_watermark(topic, partition)
        if low == high:
            continue
        first = log.offset_for_time(topic, partition, start_ms)
        offset = min(high if first is None else first, applied(partition))
        if offset > low:
            changed[partition] = log.delete_before(topic, partition, offset)
    return changed
