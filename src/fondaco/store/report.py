"""Report: what a push did, what it cost, how it ended; and what is known of each version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fondaco.catalog import PushRow, VersionRow, VersionState
from fondaco.core.clock import from_us
from fondaco.core.units import format_bytes

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class PushReport:
    """One push. `str()` gives one line for people.

    `records` are in the version, `input_rows` were read, `duplicates` of them were repeated keys. `bytes` is the size of the base files,
    `raw_bytes` of the encoded values before compression. `seconds` is wall time of the whole push, `steps` of its parts. `compression` is
    what was chosen; `compression_sample` maps each candidate to what it gave on the sample. `state` is the state the push
    left its version in (CURRENT, or READY if it was not to be swapped), `current` the current version right after.
    """

    store: str
    push_id: str
    version: int
    state: VersionState
    records: int
    input_rows: int
    duplicates: int
    bytes: int
    raw_bytes: int
    partitions: int
    seconds: float
    steps: Mapping[str, float]
    compression: str
    compression_sample: Mapping[str, Any]
    as_of: datetime
    swapped: bool
    current: int

    def __str__(self) -> str:
        what = f"{self.records:,} records, {self.partitions} partitions, {format_bytes(self.bytes)} in {self.seconds:.1f} s"
        dropped = f", {self.duplicates:,} repeated rows dropped" if self.duplicates else ""
        if self.swapped:
            where = f"current is v{self.current}"
        else:
            where = f"current is still v{self.current}" if self.current else "no version is current yet"
        return f"pushed {self.store} v{self.version}: {what}{dropped}; {where}"


def report_of(store: str, push: PushRow, version: VersionRow, current: int) -> PushReport:
    """The report of a push that ended well, from its rows."""
    return PushReport(
        store=store,
        push_id=push.push_id,
        version=push.version,
        state=push.state,
        records=push.records,
        input_rows=push.input_rows,
        duplicates=push.duplicates,
        bytes=push.bytes,
        raw_bytes=push.raw_bytes,
        partitions=push.partitions,
        seconds=((push.finished_us or push.started_us) - push.started_us) / 1e6,
        steps=push.steps or {},
        compression=push.compression or "none",
        compression_sample=push.compression_sample or {},
        as_of=from_us(version.as_of_us),
        swapped=push.state is VersionState.CURRENT,
        current=current,
    )


@dataclass(frozen=True, slots=True)
class IncrementalReport:
    """One incremental push. `str()` gives one line for people.

    Of its `rows`, each one write, `patches` changed some fields and the others were put whole. `bytes` are those of keys, rows and their
    frames. `positions` is the last position in each partition ("0:17,3:1812"): a read with it as `min_position` sees the whole push.
    `as_of` is the timestamp of the writes.
    """

    store: str
    push_id: str
    rows: int
    patches: int
    bytes: int
    seconds: float
    durability: str
    as_of: datetime
    positions: str

    def __str__(self) -> str:
        patched = f" ({self.patches:,} of them patches)" if self.patches else ""
        return f"wrote {self.rows:,} rows{patched} to {self.store}, {format_bytes(self.bytes)} in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of a store. `rolled_back`: a rollback left it, and no rollback returns to it; `swap` does."""

    version: int
    state: VersionState
    push_id: str
    records: int
    bytes: int
    partitions: int
    compression: str
    schema_number: int
    as_of: datetime
    created: datetime
    rolled_back: bool

    @classmethod
    def of(cls, row: VersionRow) -> VersionInfo:
        """From its row in the catalog."""
        return cls(
            row.number,
            row.state,
            row.push_id,
            row.records,
            row.bytes,
            row.partitions,
            row.compression,
            row.schema_number,
            from_us(row.as_of_us),
            from_us(row.created_us),
            row.rolled_back_us is not None,
        )


class PushTable(list[PushRow]):
    """The push report table of a store, oldest first: a list of rows that is also an Arrow table."""

    def to_arrow(self) -> pa.Table:
        """One row per push; times are UTC microseconds, documents (`steps`, `compression_sample`, `built_from`) are JSON text."""
        import msgspec
        import pyarrow as pa

        time = pa.timestamp("us", tz="UTC")
        columns: list[tuple[str, pa.DataType]] = [
            ("push_id", pa.string()), ("version", pa.int64()), ("state", pa.string()), ("pid", pa.int64()),
            ("started_us", time), ("finished_us", time), ("kill_requested", pa.bool_()), ("progress_rows", pa.int64()),
            ("progress_us", time), ("input_rows", pa.int64()), ("records", pa.int64()), ("duplicates", pa.int64()),
            ("bytes", pa.int64()), ("raw_bytes", pa.int64()), ("partitions", pa.int32()), ("compression", pa.string()),
            ("compression_sample", pa.string()), ("steps", pa.string()), ("built_from", pa.string()),
            ("error_class", pa.string()), ("error_message", pa.string()), ("blame", pa.string()),
        ]  # fmt: skip
        rows = [asdict(row) for row in self]
        for row in rows:
            for name in ("compression_sample", "steps", "built_from"):
                row[name] = None if row[name] is None else msgspec.json.encode(row[name]).decode()
        schema = pa.schema([(name.removesuffix("_us") if kind is time else name, kind) for name, kind in columns])
        return pa.Table.from_arrays([pa.array([row[name] for row in rows], kind) for name, kind in columns], schema=schema)
