"""Node directory: what a node keeps on its disk; like a platform's, but with the partitions that the node was assigned, and no catalog.

    node.lock                     held (flock) by the node's agent
    routing.json                  the routing table, replaced whole; what `/v1/routing` answers
    log                           symbolic link to the shared log, where there is one on this machine
    stores/<store>/               as a platform's (store/layout.py): store.json, schemas.json, CURRENT, overlay/
        versions/<n>/held.json    which partitions are there, whole and verified (store/partial.py)
        building/<n>/             files on their way (`fetch`); kept over restarts, so that they are resumed

`CURRENT` is the version that routing has adopted; before it has adopted any, the one it will, once its manifest is here. Until then there
is none, and the store cannot be opened here: it must not be taken for one without rows.
Only the agent writes here (and the tailer in overlay/); the serving process reads. Methods may be called from any thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fondaco.catalog import StoreRow, ValueSchemaRow
from fondaco.cluster.state import ReplicaKey
from fondaco.core.errors import CorruptFileError, FondacoError
from fondaco.core.files import FileLock, os_errors, remove_tree, write_atomically
from fondaco.store.layout import CELL_BYTES, StoreLayout, read_cell, write_cell
from fondaco.store.manifest import read_manifest
from fondaco.store.mirror import read_store, write_mirror
from fondaco.store.partial import held_partitions, write_held

LOCK_FILE: Final = "node.lock"
ROUTING_FILE: Final = "routing.json"
LOG_LINK: Final = "log"
_DELETED: Final = ".deleted-"


class NodeDirectory:
    """The directory of one node. Made by the node's agent, which alone changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stores = path / "stores"
        self.lock = FileLock(path / LOCK_FILE)
        self._listing = threading.Lock()  # while a list of held partitions is read, changed and written

    def create(self, log: Path | None) -> None:
        """Make what is missing, and finish removals that a crash left.

        Args:
            log: the directory of the shared log on this machine, if there is one.
        Raises:
            DiskFullError, ReadOnlyError.
        """
        with os_errors(self.path):
            self.stores.mkdir(parents=True, exist_ok=True)
            link = self.path / LOG_LINK
            if log is not None and (not link.is_symlink() or os.readlink(link) != str(log)):
                link.unlink(missing_ok=True)
                link.symlink_to(log)
        for entry in os.listdir(self.stores):
            if entry.startswith(_DELETED):
                remove_tree(self.stores / entry)

    def layout(self, store: str) -> StoreLayout:
        """Paths of one store."""
        return StoreLayout(self.stores / store)

    # -- what is there ----------------------------------------------------------------------------------------------------------------

    def store_ids(self) -> dict[str, int]:
        """Stores that lie here, with the ids they have in the catalog; but for those that cannot be told: being made, or debris."""
        found = {}
        for name in self._names():
            with contextlib.suppress(FondacoError):
                found[name] = read_store(self.stores / name).id
        return found

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self.stores) if not name.startswith(_DELETED)]

    def held(self) -> dict[ReplicaKey, int]:
        """Every replica that is here, whole and verified, with its bytes. A file that went missing takes its replica with it."""
        found: dict[ReplicaKey, int] = {}
        for name, store_id in self.store_ids().items():
            layout = self.layout(name)
            found[ReplicaKey(store_id, 0, 0)] = 0
            for version in layout.version_numbers():
                for partition, size in self._held_of(layout, version).items():
                    found[ReplicaKey(store_id, version, partition)] = size
        return found

    def _held_of(self, layout: StoreLayout, version: int) -> dict[int, int]:
        directory = layout.version(version)
        try:
            manifest, listed = read_manifest(directory), held_partitions(directory) or frozenset()
        except FileNotFoundError:
            return {}
        except CorruptFileError:
            remove_tree(directory)
            return {}
        there = {}
        for partition in sorted(listed):
            entry = manifest.files[partition]
            with contextlib.suppress(FileNotFoundError):
                if (directory / entry.name).stat().st_size == entry.bytes:
                    there[partition] = entry.bytes
        if len(there) != len(listed):
            with self._listing:
                write_held(directory, (held_partitions(directory) or frozenset()) - (listed - there.keys()))
        return there

    # -- changes ----------------------------------------------------------------------------------------------------------------------

    def prepare_store(self, row: StoreRow, schemas: Sequence[ValueSchemaRow]) -> None:
        """Make a store's directory, or bring its mirror of the catalog up to date; one of a deleted store of this name is removed first."""
        layout = self.layout(row.name)
        if layout.directory.exists() and self.store_ids().get(row.name) != row.id:
            self.remove_store(row.name)
        with os_errors(layout.directory):
            layout.building.mkdir(parents=True, exist_ok=True)
            layout.versions.mkdir(exist_ok=True)
        write_mirror(layout.directory, row, schemas)

    def begin(self, store: str, version: int) -> tuple[Path, Path]:
        """Where a version goes, and where its files are built. There it holds nothing, and says so, before it is there at all."""
        layout = self.layout(store)
        directory = layout.version(version)
        with self._listing:
            if held_partitions(directory) is None:
                directory.mkdir(parents=True, exist_ok=True)
                write_held(directory, ())
        return directory, layout.building / str(version)

    def hold(self, store: str, version: int, partition: int) -> None:
        """Say that a partition's file, which is in place, may be read from now on."""
        directory = self.layout(store).version(version)
        with self._listing:
            write_held(directory, (held_partitions(directory) or frozenset()) | {partition})

    def let_go(self, store: str, version: int, partitions: Iterable[int]) -> None:
        """Remove partitions: from the list first, then the files; with the last one the version goes. Readers keep what they mapped."""
        directory, gone = self.layout(store).version(version), set(partitions)
        with self._listing:
            left = (held_partitions(directory) or frozenset()) - gone
            if not left:
                remove_tree(directory)
                remove_tree(self.layout(store).building / str(version))
                return
            write_held(directory, left)
        files = read_manifest(directory).files
        for partition in gone:
            (directory / files[partition].name).unlink(missing_ok=True)

    def set_current(self, store: str, version: int) -> bool:
        """Make readers here follow `version`; whether that is a change."""
        cell = self.layout(store).current_cell
        before = read_cell(cell)
        if before == version:
            return False
        if before is None:
            write_atomically(cell, version.to_bytes(CELL_BYTES, "little"))  # whole from the first moment: nobody reads a 0 in between
        else:
            write_cell(cell, version)
        return True

    def remove_store(self, store: str) -> None:
        """Remove a store that nobody wants here any more; who has it open is told by its cell."""
        trash = self.stores / f"{_DELETED}{store}-{secrets.token_hex(4)}"
        with os_errors(self.stores), contextlib.suppress(FileNotFoundError):
            os.rename(self.stores / store, trash)
            if (trash / "CURRENT").exists():
                write_cell(StoreLayout(trash).current_cell, 0)
        remove_tree(trash)

    def clean(self, wanted: Mapping[str, frozenset[int]]) -> None:
        """Remove what lies here of versions, by store, that are neither held nor wanted: files on their way, a manifest alone; and stores
        that cannot be told."""
        known = self.store_ids()
        for name in self._names():
            if name not in known:
                self.remove_store(name)
        for store in known:
            layout, keep = self.layout(store), wanted.get(store, frozenset())
            for entry in os.listdir(layout.building) if layout.building.is_dir() else ():
                if not entry.isdigit() or int(entry) not in keep:
                    remove_tree(layout.building / entry)
            for version in layout.version_numbers():
                if version not in keep and not held_partitions(layout.version(version)):
                    remove_tree(layout.version(version))

    def write_routing(self, document: bytes) -> None:
        """Replace the routing table that the serving process gives out."""
        write_atomically(self.path / ROUTING_FILE, document)
