"""Records: what a training set was made from, so that it can be made again, and so that a difference has a reason.

Plain values; fingerprints read samples of files. Any thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa

from fondaco.core.clock import Clock
from fondaco.features.table import Table

if TYPE_CHECKING:
    from fondaco.catalog import Catalog

_FINGERPRINT_BYTES: Final = 1 << 16


class RecordKeeper(Protocol):
    """A platform: what a training set needs of it."""

    @property
    def catalog(self) -> Catalog:
        """Where records are kept."""
        ...

    @property
    def clock(self) -> Clock:
        """What time it is."""
        ...


@dataclass(frozen=True)
class SourceRecord:
    """A source as it was read: `fingerprint` changes when its content does; `method` says what it covers."""

    name: str
    identity: tuple[str, ...]
    fingerprint: str
    method: str


@dataclass(frozen=True)
class TrainingRecord:
    """What a training set was made from; enough to make it again and to see what changed if it differs.

    `label_hash` covers every column of the labels, those that the features do not read included.
    """

    feature_set: str
    plan_hash: str
    plan: str
    sources: tuple[SourceRecord, ...]
    label_hash: str
    at: str
    rows: int
    null_rates: dict[str, float]
    created: str
    seconds: float
    engine: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        sources = [{"name": s.name, "identity": list(s.identity), "fingerprint": s.fingerprint, "method": s.method} for s in self.sources]
        return {**self.__dict__, "sources": sources}


def keep(platform: RecordKeeper, record: TrainingRecord) -> None:
    """In the catalog, unless its directory cannot be written: reading must work there."""
    from fondaco.catalog import records

    if platform.catalog.read_only:
        return
    with platform.catalog.write() as connection:
        records.record_training_set(
            connection, record.feature_set, plan_hash=record.plan_hash, record=record.to_dict(), now_us=platform.clock.now_us()
        )


def arrow_hash(table: pa.Table) -> str:
    """BLAKE2b of a table's content: of every column its name and its values as Arrow's IPC form has them."""
    digest = hashlib.blake2b(digest_size=16)

    class Sink:
        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    for index in range(table.num_columns):  # one by one: chunks are put together, and that is a copy
        column = table.select([index]).combine_chunks()
        with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), column.schema) as writer:
            writer.write_table(column)
    return digest.hexdigest()


def fingerprints(tables: Iterable[Table]) -> tuple[SourceRecord, ...]:
    """Those of the distinct sources: views may share one."""
    distinct = {id(table): table for table in tables}
    return tuple(dict.fromkeys(fingerprint(table) for table in distinct.values()))


def fingerprint(table: Table) -> SourceRecord:
    """What identifies the content of a source as it is now; files are sampled, so that this stays milliseconds for any size."""
    identity = table.scan().source
    digest = hashlib.blake2b(digest_size=16)
    if table.memory is not None:
        return SourceRecord(table.name, identity, arrow_hash(table.memory), "arrow content")
    if table.sql is not None:
        digest.update(table.sql.query.encode())
        for name, content in sorted(table.sql.tables.items()):
            digest.update(f"{name}:{arrow_hash(content)}".encode())
        return SourceRecord(table.name, identity, digest.hexdigest(), "query text and its tables in memory")
    for name in table.files():
        path = Path(name)
        status = path.stat()
        digest.update(f"{name}:{status.st_size}:{status.st_mtime_ns}".encode())
        with path.open("rb") as file:
            for share in range(17):
                file.seek(max(0, (status.st_size - _FINGERPRINT_BYTES) * share // 16))
                digest.update(file.read(_FINGERPRINT_BYTES))
    return SourceRecord(table.name, identity, digest.hexdigest(), "path, size, modification time, 17 samples of 64 KiB")
