"""Push: the act of building a version, from the first row to the swap, with its place in the catalog kept up at every step.

    STARTED    it has a version number; input is opened, columns are checked against the schema
    BUILDING   rows go into base files in building/<push id>/
    VERIFYING  files are read back, counts and checksums compared, the manifest written, the directory renamed to versions/<n>
    READY      committed: complete, and CURRENT in the same transaction if it is to be swapped
    FAILED, KILLED   the building directory is gone; the current version was never touched

Between pieces of work it gives way to reads and real-time writes (`governor`, `tails.handed_over`).

The commit is one transaction, so a crash has one outcome: before it the push failed (and `recovery` clears up), after it the version is
there (and `recovery` mirrors it in the CURRENT cell). One push per store at a time, held by a file lock that dies with its process. The
same push id again returns the report of the push that ended well; after a failure it tries again, with a new number.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fondaco.catalog import RETAINED, PushRow, VersionState, pushes, stores, versions
from fondaco.core import verified
from fondaco.core.errors import CorruptFileError, FondacoError, InputError, LockedError, PushInProgressError, PushKilledError
from fondaco.core.files import FileLock, os_errors, remove_tree, sync_directory
from fondaco.store.basefile import BaseFileSummary, OnDuplicate
from fondaco.store.builder import Steps, VersionBuilder, verify_files
from fondaco.store.context import StoreContext
from fondaco.store.governor import Governor, PlatformRisk
from fondaco.store.keys import KeyCodec
from fondaco.store.manifest import FileEntry, Manifest, read_manifest, write_manifest
from fondaco.store.progress import PushProgress
from fondaco.store.recovery import recover
from fondaco.store.report import PushReport, report_of
from fondaco.store.settings import Compression
from fondaco.store.swap import remove_files, retire_surplus, sync_cell
from fondaco.store.tails import HandOver, handed_over

PULSE_S = 0.1  # a push looks this often, between chunks, whether it is to be killed
PROGRESS_S = 2.0  # and stores this often how far it is
LOCK_PATIENCE_S = 5.0  # a lock that no push holds is held by a recovery, which is short

_PUSH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+=@\-]{0,127}")

Fill = Callable[[VersionBuilder, Callable[[int], None]], dict[str, Any]]
"""Puts all rows into a builder, calling back with the rows so far after each chunk; returns a description of where they came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """What to build, apart from the rows."""

    push_id: str
    as_of_us: int
    swap: bool
    on_duplicate: OnDuplicate
    may_be_empty: bool
    partitions: int
    compression: Compression
    schema_number: int
    value_schema: str
    built_from: dict[str, Any]  # empty: what the rows themselves say


def check_push_id(push_id: str) -> str:
    """Return `push_id` if it can be one (it becomes a folder).

    Raises:
        InputError: it cannot.
    """
    if not isinstance(push_id, str) or not _PUSH_ID.fullmatch(push_id):
        raise InputError(f"{push_id!r} cannot be a push id: use a letter or digit, then letters, digits and _ . : + = @ -, 128 at most")
    return push_id


def find_finished(context: StoreContext, push_id: str) -> PushReport | None:
    """The report of a push of this id that ended well, or None.

    Raises:
        InputError: the id is that of an incremental push, which built no version.
    """
    with context.catalog.read() as connection:
        stores.check_live(connection, context.row)
        push = pushes.find_latest(connection, context.id, push_id)
        if push is not None and push.kind == "incremental":
            raise InputError(f"push id {push_id!r} of store {context.name!r} is that of an incremental push; choose another")
        if push is None or push.state not in (VersionState.READY, VersionState.CURRENT):
            return None
        version = next(row for row in versions.all_of(connection, context.id) if row.number == push.version)
        return report_of(context.name, push, version, versions.current(connection, context.id))


def run_push(context: StoreContext, key: KeyCodec, request: PushRequest, fill: Fill, progress: PushProgress) -> PushReport:
    """Build a version from start to end.

    Args:
        fill: is called with the builder once everything is ready to take rows.
    Raises:
        PushInProgressError: another push holds the store; PushKilledError: somebody asked this one to stop.
        Whatever `fill` raises, and DuplicateKeyError, DiskFullError, ReadOnlyError: the push is FAILED, nothing is left of it.
    """
    finished = find_finished(context, request.push_id)
    if finished is not None:
        return finished
    with push_lock(context):
        recover(context)
        finished = find_finished(context, request.push_id)
        if finished is not None:  # it ended while we waited for the lock
            return finished
        return _Push(context, key, request, progress).run(fill)


def request_kill(context: StoreContext, push_id: str) -> PushRow:
    """Ask a push to stop; returns its row. It stops at its next chunk; one whose process is dead is cleared up by the caller.

    Raises:
        PushNotFoundError: the store never had it.
    """
    from fondaco.core.errors import PushNotFoundError

    with context.catalog.write() as connection:
        push = pushes.find_latest(connection, context.id, push_id)
        if push is None:
            known = list(dict.fromkeys(row.push_id for row in reversed(pushes.all_of(connection, context.id))))
            raise PushNotFoundError(push_id, known, f"store {context.name!r}")
        if push.finished_us is None:
            pushes.update(connection, context.id, push.version, kill_requested=True)
    return push


@contextlib.contextmanager
def push_lock(context: StoreContext) -> Iterator[None]:
    """Hold the store against every other push, and against being deleted.

    Raises:
        PushInProgressError: somebody pushes; names the push. StoreNotFoundError: the store was deleted.
    """
    lock = FileLock(context.layout.push_lock)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            lock.acquire()
            break
        except FileNotFoundError:
            with context.catalog.read() as connection:
                stores.check_live(connection, context.row)
            raise  # the catalog knows the store, and its directory is gone
        except LockedError as exc:
            with context.catalog.read() as connection:
                at_work = pushes.at_work(connection, context.id)
            if any(push.pid == exc.pid for push in at_work) or time.monotonic() > deadline:
                raise PushInProgressError(context.name, at_work[-1].push_id if at_work else "?", exc.pid) from None
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.release()


class _Push:
    """One push at work, with the lock held."""

    def __init__(self, context: StoreContext, key: KeyCodec, request: PushRequest, progress: PushProgress) -> None:
        self._context = context
        self._key = key
        self._request = request
        self._progress = progress
        self._directory = context.layout.building / request.push_id
        self._steps = Steps()
        self._builder: VersionBuilder | None = None
        self._built_from = request.built_from
        self._pulse_at = self._progress_at = time.monotonic()
        self._number = 0
        self._created_us = 0
        self._governor = Governor(context.governor, PlatformRisk(context.platform_directory, context.governor, context.clock))
        self._hand_over: HandOver | None = None

    def run(self, fill: Fill) -> PushReport:
        try:
            self._start()
            with self._progress, self._governor, handed_over(self._context.platform_directory) as self._hand_over:
                self._build_and_commit(fill)
        except BaseException as exc:
            if self._number:
                self._clear_up(exc)
            raise
        report = find_finished(self._context, self._request.push_id)
        assert report is not None
        return report

    # -- steps ----------------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        context, request = self._context, self._request
        self._created_us = context.clock.now_us()
        on_disk = context.layout.version_numbers()
        with context.catalog.write() as connection:
            self._number = versions.allocate(
                connection,
                context.id,
                push_id=request.push_id,
                schema_number=request.schema_number,
                partitions=request.partitions,
                as_of_us=request.as_of_us,
                now_us=self._created_us,
                at_least=max(on_disk, default=0) + 1,  # files that an older catalog, put in place by somebody, does not know
            )
            pushes.insert(
                connection,
                context.id,
                push_id=request.push_id,
                version=self._number,
                pid=os.getpid(),
                partitions=request.partitions,
                built_from=request.built_from,
                now_us=self._created_us,
            )

    def _build_and_commit(self, fill: Fill) -> None:
        request = self._request
        with os_errors(self._directory):
            self._directory.mkdir(parents=True)
        self._enter(VersionState.BUILDING)
        with VersionBuilder(
            self._directory,
            self._key,
            partitions=request.partitions,
            requested=request.compression,
            sample_bytes=self._context.config.sample_bytes,
            on_duplicate=request.on_duplicate,
            on_thread=self._governor.lower_helper,
        ) as builder:
            self._steps, self._builder = builder.steps, builder
            described = fill(builder, self._on_rows)
            self._built_from = request.built_from or described
            if builder.input_rows == 0 and not request.may_be_empty:
                raise InputError(
                    f"nothing to push to store {self._context.name!r}: the input has no rows. If that is meant, use push_empty()."
                )
            self._check_killed()
            summaries = builder.seal(lambda done: self._on_file("sealed", done))
        self._enter(VersionState.VERIFYING)
        with self._steps.timed("verify"):
            verify_files(self._directory, summaries, lambda done: self._on_file("verified", done), self._governor.lower_helper)
            manifest = self._manifest(builder, summaries)
            write_manifest(self._directory, manifest)
            if read_manifest(self._directory) != manifest:
                raise CorruptFileError(str(self._directory), "manifest", "it reads back as another one than was written")
            verified.write_stamps(self._directory, [summary.name for summary in summaries])
        self._commit(builder, manifest)

    def _manifest(self, builder: VersionBuilder, summaries: list[BaseFileSummary]) -> Manifest:
        request = self._request
        assert builder.choice is not None
        records, repeated = sum(file.records for file in summaries), sum(file.repeated for file in summaries)
        if records + repeated != builder.input_rows:
            raise CorruptFileError(str(self._directory), "heap", f"{builder.input_rows} rows were read, {records} + {repeated} written")
        return Manifest(
            store=self._context.name,
            version=self._number,
            push_id=request.push_id,
            created_us=self._created_us,
            as_of_us=request.as_of_us,
            key_schema=self._key.to_json(),
            value_schema_id=request.schema_number,
            value_schema=request.value_schema,
            partition_count=request.partitions,
            records=records,
            repeated=repeated,
            bytes=sum(file.bytes for file in summaries),
            compression=builder.choice.report,
            dictionary_checksum=builder.choice.dictionary_checksum,
            files=tuple(FileEntry(file.name, file.bytes, file.records, file.checksum) for file in summaries),
            built_from=self._built_from,
        )

    def _commit(self, builder: VersionBuilder, manifest: Manifest) -> None:
        context, layout = self._context, self._context.layout
        with self._steps.timed("publish"), os_errors(layout.versions):
            sync_directory(self._directory)
            os.rename(self._directory, layout.version(self._number))
            sync_directory(layout.versions)
        state = VersionState.CURRENT if self._request.swap else VersionState.READY
        with context.catalog.write() as connection:
            if pushes.kill_requested(connection, context.id, self._number):
                raise PushKilledError(context.name, self._request.push_id)
            now_us = context.clock.now_us()
            compression = manifest.compression
            versions.update(
                connection,
                context.id,
                self._number,
                state=VersionState.READY,
                ready_us=now_us,
                records=manifest.records,
                bytes=manifest.bytes,
                compression=compression.chosen,
            )
            if self._request.swap:
                versions.promote(connection, context.id, self._number, now_us=now_us)
            pushes.update(
                connection,
                context.id,
                self._number,
                state=state,
                finished_us=now_us,
                progress_rows=builder.input_rows,
                progress_us=now_us,
                input_rows=builder.input_rows,
                records=manifest.records,
                duplicates=manifest.repeated,
                bytes=manifest.bytes,
                raw_bytes=builder.raw_bytes,
                compression=compression.chosen,
                compression_sample=compression,
                built_from=self._built_from,
                steps=self._steps.seconds,
            )
            surplus = retire_surplus(context, connection)
        sync_cell(context)
        remove_files(context, surplus)

    def _clear_up(self, exc: BaseException) -> None:
        """Take the push back, unless it has happened: Ctrl-C may come right after the commit, and only the catalog knows on which side.

        Where the catalog cannot be asked, nothing is removed: `recovery` will ask it.
        """
        with contextlib.suppress(FondacoError):
            with self._context.catalog.read() as connection:
                version = versions.find(connection, self._context.id, self._number)
            if version is not None and version.state in RETAINED:
                recover(self._context)  # the cell, and the files of what the commit retired
            else:
                self._give_up(exc)

    def _give_up(self, exc: BaseException) -> None:
        """Leave nothing on disk, then say in the catalog why: in this order, because a full disk needs the room to say it."""
        context = self._context
        remove_tree(self._directory)
        remove_files(context, [self._number])
        state = VersionState.KILLED if isinstance(exc, PushKilledError) else VersionState.FAILED
        # an exception out of the pushed iterator is its owner's, as is Ctrl-C
        theirs = isinstance(exc, KeyboardInterrupt) or (self._builder is not None and self._builder.reading)
        blame = exc.blame if isinstance(exc, FondacoError) else "user" if theirs else "system"
        with context.catalog.write() as connection:  # `recovery` says it where we cannot
            pushes.update(
                connection,
                context.id,
                self._number,
                state=state,
                finished_us=context.clock.now_us(),
                error_class=type(exc).__name__,
                error_message=str(exc),
                blame=blame,
                steps=self._steps.seconds,
            )
            versions.update(connection, context.id, self._number, state=state)

    # -- while it works -------------------------------------------------------------------------------------------------------------

    def _enter(self, state: VersionState) -> None:
        with self._context.catalog.write() as connection:
            pushes.update(connection, self._context.id, self._number, state=state)
            versions.update(connection, self._context.id, self._number, state=state)

    def _on_rows(self, rows: int) -> None:
        self._progress.rows(rows)
        self._give_way()
        if self._pulse() and time.monotonic() >= self._progress_at + PROGRESS_S:
            self._progress_at = time.monotonic()
            with self._context.catalog.write() as connection:
                values = {"progress_rows": rows, "progress_us": self._context.clock.now_us()}
                pushes.update(connection, self._context.id, self._number, **values)

    def _on_file(self, verb: str, done: int) -> None:
        self._progress.files(verb, done, self._request.partitions)
        self._give_way()
        self._pulse()

    def _give_way(self) -> None:
        """After a piece of work: let those go first who read and who write in real time."""
        if self._hand_over is not None:
            self._hand_over.tick()
        paused_s = self._governor.pace(self._pulse)
        if paused_s:
            self._steps.add("paused", paused_s)

    def _pulse(self) -> bool:
        """Now and then: stop if somebody asked for it. Returns whether it was time to look."""
        now = time.monotonic()
        if now < self._pulse_at + PULSE_S:
            return False
        self._pulse_at = now
        self._check_killed()
        return True

    def _check_killed(self) -> None:
        with self._context.catalog.read() as connection:
            if pushes.kill_requested(connection, self._context.id, self._number):
                raise PushKilledError(self._context.name, self._request.push_id)
