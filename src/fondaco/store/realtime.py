"""Real-time side of a store: its topic, the writers to it, and incremental pushes with their place in the catalog.

The topic is made at the first write, with as many partitions as the store's settings say, and keeps them for its life: positions name
them. It is never compacted: an index over it finds the newest write of a key, and the tailer's process gives up what no version shows.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from fondaco.catalog import PushRow, VersionState, pushes, stores
from fondaco.core.clock import from_us
from fondaco.core.errors import FondacoError, InputError, PushInProgressError
from fondaco.core.units import parse_duration_us
from fondaco.log import TopicConfig
from fondaco.store.context import StoreContext
from fondaco.store.freshness import Freshness
from fondaco.store.report import IncrementalReport
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writer import Durability, LogTarget, StoreWriter, check_durability

if TYPE_CHECKING:
    from fondaco.store.keys import KeyCodec
    from fondaco.store.tails import Tail, TailSource

BEHIND_MAX: Final = 5_000  # records that an incremental push may be ahead of the tailer after a batch: 0.15 s of patches
FOLLOW_S_MAX: Final = 5.0  # that it waits after a batch: others may write more than the tailer can follow


def ensure_topic(context: StoreContext) -> None:
    """Make the store's topic unless it is there.

    Raises:
        StoreNotFoundError: the store was deleted. ReadOnlyError, DiskFullError, UnavailableError: it cannot be made.
    """
    config = context.log_config
    retention_ms = None if config.retention is None else parse_duration_us(config.retention) // 1000
    with context.catalog.read() as connection:
        stores.check_live(connection, context.row)
    if not context.has_topic():
        context.log.open().create_topic(
            context.topic, TopicConfig(context.settings.partitions, retention_ms=retention_ms, segment_bytes=config.segment_bytes)
        )


def log_target(context: StoreContext) -> LogTarget:
    """Where the writes of a store go; its topic is made if need be.

    Raises:
        as `ensure_topic`.
    """
    ensure_topic(context)
    return LogTarget(context.log.open(), context.topic, f"store {context.name!r}")


class TailedWriter(StoreWriter):
    """A writer in whose process the log is followed while it is open, unless another process does."""

    def __init__(self, target: LogTarget, encoder: WriteEncoder, tail: Tail | None, **options: Any) -> None:
        self._tail = tail
        try:
            super().__init__(target, encoder, **options)
        except BaseException:
            self._let_go()
            raise

    def close(self, *, timeout_s: float | None = None) -> None:
        """As `StoreWriter.close`; what was written is then followed by whoever else does."""
        try:
            super().close(timeout_s=timeout_s)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.release()


def newest_schema(context: StoreContext) -> tuple[int, str]:
    """Number and text of the value schema that writes are encoded in.

    Raises:
        StoreNotFoundError: the store was deleted.
    """
    with context.catalog.read() as connection:
        stores.check_live(connection, context.row)
        newest = stores.value_schemas(connection, context.id)[-1]
    return newest.number, newest.schema


def open_writer(
    context: StoreContext, key: KeyCodec, writer_id: str, *, durability: Durability | None, tail: TailSource | None, **options: Any
) -> TailedWriter:
    """A writer to the store's topic.

    Args:
        durability: None: the platform's `[log] durability`. tail: how to follow the log while the writer is open; None: others do.
    Raises:
        as `ensure_topic`; InputError: an option that cannot be.
    """
    number, schema = newest_schema(context)
    encoder = WriteEncoder(context.name, key, schema, number, writer_id, clock=context.clock)
    chosen = check_durability(context.log_config.durability if durability is None else durability)
    target = log_target(context)
    return TailedWriter(target, encoder, None if tail is None else tail.acquire(), durability=chosen, **options)


# -- incremental pushes -----------------------------------------------------------------------------------------------------------------


def push_incremental(
    context: StoreContext,
    key: KeyCodec,
    data: object,
    *,
    push_id: str,
    as_of_us: int | None,
    durability: Durability,
    pace: Callable[[Callable[[], object]], object],
    progress: Callable[[int], object],
) -> IncrementalReport:
    """Write the rows of a table as real-time writes, and keep the push's place in the catalog.

    Args:
        as_of_us: the time of the writes; None: that of the push's first attempt.
        pace: called after each batch; sleeps as long as live traffic asks for, and calls its argument meanwhile.
    Raises:
        PushInProgressError: a push of this id is at work. PushKilledError: somebody asked it to stop; what was written stays.
        as `write_incremental`.
    """
    from fondaco.store.incremental import write_incremental

    finished, first = _attempts(context, push_id)
    if finished is not None:
        return _report(context, finished)
    target = log_target(context)
    number, schema = newest_schema(context)
    now_us = context.clock.now_us()
    moment_us = as_of_us if as_of_us is not None else (first.started_us if first is not None else now_us)
    with context.catalog.write() as connection:
        entry = pushes.insert(
            connection,
            context.id,
            push_id=push_id,
            version=None,
            pid=os.getpid(),
            partitions=context.settings.partitions,
            built_from={},
            now_us=now_us,
            kind="incremental",
        )
        pushes.update_by_id(connection, entry, state=VersionState.BUILDING)

    def check_killed() -> None:
        with context.catalog.read() as connection:
            row = pushes.find_latest(connection, context.id, push_id)
        if row is not None and row.kill_requested:
            from fondaco.core.errors import PushKilledError

            raise PushKilledError(context.name, push_id)

    def on_rows(rows: int) -> None:
        progress(rows)

    def between_batches() -> None:
        check_killed()
        pace(check_killed)
        _let_tailer_follow(context, check_killed)

    try:
        result = write_incremental(
            target, data, store=context.name, key=key, schema=schema, schema_number=number, push_id=push_id,
            timestamp_ms=moment_us // 1000, now_ms=context.clock.now_us() // 1000, durability=durability, pace=between_batches,
            on_rows=on_rows,
        )  # fmt: skip
    except BaseException as exc:
        _record_failure(context, entry, exc)
        raise
    with context.catalog.write() as connection:
        pushes.update_by_id(
            connection, entry, state=VersionState.CURRENT, finished_us=context.clock.now_us(), input_rows=result.rows,
            records=result.rows, bytes=result.bytes, progress_rows=result.rows,
            built_from={
                "source": dict(result.built_from), "positions": str(result.positions), "patches": result.patches,
                "as_of_us": moment_us, "durability": durability,
            },
        )  # fmt: skip
    finished, _ = _attempts(context, push_id)
    assert finished is not None
    return _report(context, finished)


def _let_tailer_follow(context: StoreContext, check: Callable[[], object]) -> None:
    """Wait until what was pushed can be read, but for the last of it: live writes lie behind it in the log, and patches take the tailer
    longer than the push. Without a tailer at work nobody waits for anything."""
    if not context.governor.enabled:
        return
    log, deadline, checked_at = context.log.open(), time.monotonic() + FOLLOW_S_MAX, time.monotonic()
    while (now_s := time.monotonic()) < deadline:
        fresh = Freshness.of(context.layout.overlay, target_ms=context.settings.freshness_ms)
        behind = sum(max(0, log.high_watermark(context.topic, partition) - applied) for partition, applied in enumerate(fresh.applied))
        if not fresh.tailing or fresh.stalled or behind <= BEHIND_MAX:
            return
        if now_s - checked_at >= 0.1:
            check()
            checked_at = now_s
        time.sleep(0.01)


def _attempts(context: StoreContext, push_id: str) -> tuple[PushRow | None, PushRow | None]:
    """The attempt under this push id that ended well, and the first one.

    Raises:
        InputError: a push of this id built a version. PushInProgressError: one is at work, in a process that lives.
    """
    with context.catalog.read() as connection:
        stores.check_live(connection, context.row)
        attempts = [row for row in pushes.all_of(connection, context.id) if row.push_id == push_id]
    for row in attempts:
        if row.kind != "incremental":
            raise InputError(f"push id {push_id!r} of store {context.name!r} is that of a push that built a version; choose another")
        if row.finished_us is None and _lives(row.pid) and row.pid != os.getpid():
            raise PushInProgressError(context.name, push_id, row.pid)
    finished = next((row for row in attempts if row.state is VersionState.CURRENT), None)
    return finished, attempts[0] if attempts else None


def _lives(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        return True
    return False


def _record_failure(context: StoreContext, entry: int, exc: BaseException) -> None:
    from fondaco.core.errors import PushKilledError

    state = VersionState.KILLED if isinstance(exc, PushKilledError) else VersionState.FAILED
    blame = exc.blame if isinstance(exc, FondacoError) else "user" if isinstance(exc, KeyboardInterrupt) else "system"
    with contextlib.suppress(FondacoError), context.catalog.write() as connection:
        pushes.update_by_id(
            connection, entry, state=state, finished_us=context.clock.now_us(), error_class=type(exc).__name__, error_message=str(exc),
            blame=blame,
        )  # fmt: skip


def _report(context: StoreContext, row: PushRow) -> IncrementalReport:
    kept = row.built_from
    return IncrementalReport(
        store=context.name,
        push_id=row.push_id,
        rows=row.input_rows,
        patches=kept["patches"],
        bytes=row.bytes,
        seconds=((row.finished_us or row.started_us) - row.started_us) / 1e6,
        durability=kept["durability"],
        as_of=from_us(kept["as_of_us"]),
        positions=kept["positions"],
    )
