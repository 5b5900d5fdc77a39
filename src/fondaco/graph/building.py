"""Building: one version of a graph, from its number to the swap, with its place in the catalog kept up at every step.

    STARTED    it has a number
    BUILDING   `fill` writes section files into building/<build id>/
    VERIFYING  every byte is read back and compared with the checksums, the manifest written, the directory renamed to versions/<n>
    READY      committed: complete, and CURRENT in the same transaction if it is to be swapped
    FAILED     the building directory is gone; the current version was never touched

The commit is one transaction, so a crash has one outcome: before it the build failed (and `recovery` clears up), after it the version is
there (and `recovery` mirrors it in the CURRENT cell). One build per graph at a time, held by a file lock that dies with its process. What
the files hold is `build`'s affair.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fondaco.catalog import RETAINED, VersionState, graphs
from fondaco.catalog.rows import AT_WORK
from fondaco.core.errors import BuildInProgressError, CorruptFileError, FondacoError, LockedError
from fondaco.core.files import FileLock, os_errors, remove_tree, sync_directory
from fondaco.core.verified import restamp
from fondaco.graph.context import GraphContext
from fondaco.graph.layout import file_names
from fondaco.graph.manifest import GraphManifest, write_manifest
from fondaco.graph.recovery import fail, recover
from fondaco.graph.report import BuildReport
from fondaco.graph.schema import check_schema
from fondaco.store.swap import remove_files, retire_surplus, sync_cell

if TYPE_CHECKING:
    from fondaco.graph.build.version import BuiltGraph

LOCK_PATIENCE_S: Final = 5.0  # a lock that no build holds is held by a recovery, which is short

Fill = Callable[[Path], "BuiltGraph"]
"""Writes all files of a version into an empty directory; leaves nothing else there. Called with the build lock held."""


def run_build(context: GraphContext, fill: Fill, *, swap: bool = True) -> BuildReport:
    """Build a version from start to end.

    Args:
        swap: make it current, once it is complete.
    Raises:
        BuildInProgressError: another build holds the graph. GraphNotFoundError: it was deleted.
        Whatever `fill` raises, and DiskFullError, ReadOnlyError, CorruptFileError: the version is FAILED, nothing is left of it.
    """
    began = time.monotonic()
    with build_lock(context):
        recover(context)
        return _Build(context, swap=swap, began=began).run(fill)


@contextlib.contextmanager
def build_lock(context: GraphContext) -> Iterator[None]:
    """Hold the graph against every other build, and against being deleted.

    Raises:
        BuildInProgressError: somebody builds. GraphNotFoundError: the graph was deleted.
    """
    lock = FileLock(context.layout.build_lock)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            lock.acquire()
            break
        except FileNotFoundError:
            with context.catalog.read() as connection:
                context.check_live(connection)
            raise  # the catalog knows the graph, and its directory is gone
        except LockedError as exc:
            with context.catalog.read() as connection:
                at_work = graphs.at_work(connection, context.id)
            if any(version.pid == exc.pid for version in at_work) or time.monotonic() > deadline:
                raise BuildInProgressError(context.name, exc.pid) from None
            time.sleep(0.01)
    try:
        with context.catalog.read() as connection:
            context.check_live(connection)  # else the lock is that of a directory on its way out
        yield
    finally:
        lock.release()


class _Build:
    """One build at work, with the lock held."""

    def __init__(self, context: GraphContext, *, swap: bool, began: float) -> None:
        self._context, self._swap, self._began = context, swap, began
        self._build_id = f"build-{secrets.token_hex(8)}"
        self._directory = context.layout.building / self._build_id
        self._steps: dict[str, float] = {}
        self._number = 0
        self._created_us = context.clock.now_us()

    def run(self, fill: Fill) -> BuildReport:
        try:
            self._start()
            with os_errors(self._directory):
                self._directory.mkdir(parents=True)
            self._enter(VersionState.BUILDING)
            with self._timed("build"):
                built = fill(self._directory)
            self._enter(VersionState.VERIFYING)
            with self._timed("verify"):
                manifest = self._manifest(built)
                self._check(manifest)
            self._steps = {**self._steps, **built.steps}
            return self._commit(manifest, built.linked)
        except BaseException as exc:
            if self._number:
                self._clear_up(exc)
            raise

    def _start(self) -> None:
        context = self._context
        on_disk = context.layout.version_numbers()  # files that an older catalog, put in place by somebody, may not know
        with context.catalog.write() as connection:
            self._number = graphs.GENERATIONS.allocate(
                connection,
                context.id,
                at_least=max(on_disk, default=0) + 1,
                build_id=self._build_id,
                pid=os.getpid(),
                created_us=self._created_us,
            )

    def _enter(self, state: VersionState) -> None:
        with self._context.catalog.write() as connection:
            graphs.GENERATIONS.update(connection, self._context.id, self._number, state=state)

    def _manifest(self, built: BuiltGraph) -> GraphManifest:
        left = set(os.listdir(self._directory)) ^ set(file_names(check_schema(built.schema), built.partitions))
        assert not left, f"files left in the directory of a build, or lacking: {sorted(left)}"
        return GraphManifest(
            graph=self._context.name,
            version=self._number,
            created_us=self._created_us,
            partitions=built.partitions,
            schema=built.schema,
            nodes=built.node_counts,
            edges=built.edge_counts,
            files=tuple(sorted(built.files, key=lambda entry: entry.name)),
            built_from=built.built_from,
        )

    def _check(self, manifest: GraphManifest) -> None:
        """Write the manifest, and open the version as its readers will, reading every byte; that also stamps the files as verified."""
        from fondaco.graph.opened import OpenGraph

        write_manifest(self._directory, manifest)
        with OpenGraph(self._directory, verify=True) as opened:
            if opened.manifest != manifest:
                raise CorruptFileError(str(self._directory), "manifest", "it reads back as another one than was written")

    def _commit(self, manifest: GraphManifest, linked: tuple[str, ...]) -> BuildReport:
        context, layout = self._context, self._context.layout
        nodes, edges = manifest.node_counts(), manifest.edge_counts()
        with self._timed("publish"), os_errors(layout.versions):
            sync_directory(self._directory)
            os.rename(self._directory, layout.version(self._number))
            sync_directory(layout.versions)
        with context.catalog.write() as connection:
            context.check_live(connection)
            now_us = context.clock.now_us()
            graphs.GENERATIONS.update(
                connection,
                context.id,
                self._number,
                state=VersionState.READY,
                ready_us=now_us,
                partitions=manifest.partitions,
                nodes=sum(nodes.values()),
                edges=sum(edges.values()),
                bytes=manifest.bytes,
            )
            if self._swap:
                graphs.GENERATIONS.promote(connection, context.id, self._number, now_us=now_us)
            surplus = retire_surplus(context, connection)
        sync_cell(context)
        remove_files(context, surplus)
        if linked:  # else every update would have its readers, and those of the versions before, read whole graphs again
            for number in layout.version_numbers():
                restamp(layout.version(number), linked)
        return BuildReport(
            graph=context.name,
            version=self._number,
            current=self._swap,
            nodes=nodes,
            edges=edges,
            partitions=manifest.partitions,
            bytes=manifest.bytes,
            seconds=time.monotonic() - self._began,
            steps=self._steps,
        )

    def _clear_up(self, exc: BaseException) -> None:
        """Take the build back, unless it has happened: Ctrl-C may come right after the commit, and only the catalog knows on which side.

        Where the catalog cannot be asked, nothing is removed: `recovery` will ask it.
        """
        with contextlib.suppress(FondacoError):
            with self._context.catalog.read() as connection:
                version = graphs.GENERATIONS.find(connection, self._context.id, self._number)
            if version is not None and version.state in RETAINED:
                recover(self._context)  # the cell, and the files of what the commit retired
                return
            remove_tree(self._directory)  # before the catalog is told: a full disk needs the room to say it
            remove_files(self._context, [self._number])
            if version is not None and version.state in AT_WORK:
                with self._context.catalog.write() as connection:
                    fail(connection, self._context, self._number, type(exc).__name__, str(exc))

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._steps[step] = time.monotonic() - began
