"""Rows of the catalog as values in memory: what its functions return."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class VersionState(StrEnum):
    """Where a version stands. A push is settled in the state its version had when it ended; `Store.pushes` lists the version's of now."""

    STARTED = "STARTED"  # has a number, nothing written
    BUILDING = "BUILDING"  # files are being written
    VERIFYING = "VERIFYING"  # files are read back, counts and checksums compared
    READY = "READY"  # complete, not yet current
    CURRENT = "CURRENT"  # what readers read
    BACKUP = "BACKUP"  # was current; a rollback or swap returns to it at once
    RETIRED = "RETIRED"  # complete once, its files are gone
    FAILED = "FAILED"  # never complete, its files are gone
    KILLED = "KILLED"  # as FAILED, on request


AT_WORK = frozenset({VersionState.STARTED, VersionState.BUILDING, VersionState.VERIFYING})
RETAINED = frozenset({VersionState.READY, VersionState.CURRENT, VersionState.BACKUP})
OVER = frozenset({VersionState.RETIRED, VersionState.FAILED, VersionState.KILLED})


@dataclass(frozen=True, slots=True)
class StoreRow:
    """A store. `current` 0 means that no version is current; `settings` is the JSON object it was created with."""

    id: int
    name: str
    key_schema: str
    settings: dict[str, Any]
    current: int
    created_us: int


@dataclass(frozen=True, slots=True)
class ValueSchemaRow:
    """A numbered value schema of a store, as JSON text."""

    number: int
    schema: str
    created_us: int


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version: the share of its manifest that one asks about often, and its state."""

    number: int
    state: VersionState
    push_id: str
    schema_number: int
    partitions: int
    records: int
    bytes: int
    compression: str
    as_of_us: int
    created_us: int
    ready_us: int | None
    promoted_us: int | None
    rolled_back_us: int | None


@dataclass(frozen=True, slots=True)
class PushRow:
    """One attempt to build a version, with what it cost and how it ended. Times in microseconds since the epoch, `steps` in seconds."""

    push_id: str
    version: int
    state: VersionState
    pid: int
    started_us: int
    finished_us: int | None
    kill_requested: bool
    progress_rows: int
    progress_us: int | None
    input_rows: int
    records: int
    duplicates: int
    bytes: int
    raw_bytes: int
    partitions: int
    compression: str | None
    compression_sample: dict[str, Any] | None
    steps: dict[str, float] | None
    built_from: Any
    error_class: str | None
    error_message: str | None
    blame: str | None


@dataclass(frozen=True, slots=True)
class FeatureSetRow:
    """One published plan of a feature set; the hash is its version."""

    name: str
    plan_hash: str
    plan: dict[str, Any]
    created_us: int


@dataclass(frozen=True, slots=True)
class TrainingSetRow:
    """The record that a training set left."""

    id: int
    name: str
    plan_hash: str
    record: dict[str, Any]
    created_us: int
