"""Rows of the catalog as values in memory: what its functions return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal


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
    """One attempt to bring rows in, with what it cost and how it ended. Times in microseconds since the epoch, `steps` in seconds.

    A push of kind "batch" builds `version`; an "incremental" one builds none, and its `version` is 0.
    """

    id: int
    push_id: str
    kind: Literal["batch", "incremental"]
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
class GraphRow:
    """A graph. `current` 0 means that no version is current; `keep` versions are kept, the current one included."""

    id: int
    name: str
    keep: int
    current: int
    created_us: int


@dataclass(frozen=True, slots=True)
class GraphVersionRow:
    """A version of a graph. Counts and bytes are 0 until it is READY; `error_class` says why a build failed."""

    number: int
    state: VersionState
    build_id: str
    pid: int
    partitions: int
    nodes: int
    edges: int
    bytes: int
    created_us: int
    ready_us: int | None
    promoted_us: int | None
    rolled_back_us: int | None
    error_class: str | None
    error_message: str | None


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


Role = Literal["read", "write", "admin"]
ROLES: Final[tuple[Role, ...]] = ("read", "write", "admin")  # each holds those before it
EVERY: Final = "*"  # any store, or any caller


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A bearer token, without its secret. `roles` by store name, or "*" for every store; a role holds the smaller ones."""

    name: str
    secret_hash: str
    roles: Mapping[str, Role]
    created_us: int
    expires_us: int | None
    revoked_us: int | None

    def refusal(self, now_us: int) -> str | None:
        """Why the token is not good now, as text for an AuthenticationError; None if it is good."""
        if self.revoked_us is not None:
            return f"the token {self.name!r} was revoked"
        if self.expires_us is not None and now_us >= self.expires_us:
            return f"the token {self.name!r} expired"
        return None

    def allows(self, role: Role, store: str) -> bool:
        """Whether the token carries `role` on `store` ("*": on every store), or one that holds it."""
        given = (self.roles.get(store), self.roles.get(EVERY))
        return any(held is not None and ROLES.index(held) >= ROLES.index(role) for held in given)


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """How many rows a second a caller may read from and write to a store; None: no bound. "*" is every store, or every caller."""

    store: str
    caller: str
    reads_per_s: float | None
    writes_per_s: float | None


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A serving node. It counts as live until `lease_until_us`; a draining one is given nothing, and gives away what it has. Other nodes
    fetch version files from `files_address`, if it has one (`nodes.files_secret`)."""

    name: str
    address: str
    zone: str
    cluster: str
    lease_until_us: int
    draining: bool
    registered_us: int
    files_address: str | None = None


@dataclass(frozen=True, slots=True)
class PlacementRow:
    """What the operator decided for a store: which cluster, how many replicas of each partition, whether zones must differ; `nodes` not
    empty: only on these. `routed` is the version that readers are sent to: the current one, once all of it is there (0: a
    store that was only written to); None: none yet."""

    store_id: int
    cluster: str
    replicas: int
    zone_spread: bool
    nodes: tuple[str, ...]
    routed: int | None
    updated_us: int


class ReplicaState(StrEnum):
    """Where one node's copy of one partition of one version stands."""

    FETCHING = "fetching"  # on its way, or failed and to be tried again: `error` says why
    READY = "ready"  # complete and verified: may be read
    DRAINING = "draining"  # still readable, no longer routed to; removed once its readers had time to leave


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One node's copy of one partition of one version."""

    store_id: int
    version: int
    partition: int
    node: str
    state: ReplicaState
    bytes: int
    error: str | None
    updated_us: int


class ServiceState(StrEnum):
    """Where a data service stands as far as the catalog decides it; how it runs is what its provisioner observes."""

    LIVE = "LIVE"  # shall run; at most one service of a name is
    REMOVING = "REMOVING"  # shall be gone; `removed_us` says when nothing of it was left


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A data service. `id` is its incarnation; `replicas` is wanted now; `idle_since_us` is None while somebody holds a lease."""

    id: int
    name: str
    identity: str
    spec: dict[str, Any]
    cluster: str
    replicas: int
    state: ServiceState
    ttl_us: int
    created_us: int
    idle_since_us: int | None
    removed_us: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """What keeps a service: a holder, until `expires_us` (None: until it is released)."""

    service_id: int
    holder: str
    acquired_us: int
    expires_us: int | None
    note: str

    def holds(self, now_us: int) -> bool:
        """Whether it counts at this time."""
        return self.expires_us is None or self.expires_us > now_us


class RunState(StrEnum):
    """Where a run of a job stands."""

    PREPARING = "PREPARING"  # its services are on their way
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"  # ended with exit code 0
    FAILED = "FAILED"  # ended with another, by a signal, or never began
    STOPPED = "STOPPED"  # ended because it was told to
    LOST = "LOST"  # its launcher was not heard of any more


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run of a job: what ran, on which versions, and how it ended. `signal` ended it, or None."""

    id: str
    name: str
    command: tuple[str, ...]
    directory: str
    state: RunState
    exit_code: int | None
    signal: int | None
    started_us: int
    ended_us: int | None
    heartbeat_us: int
    holder: str
    pid: int
    host: str
    graphs: dict[str, int]
    features: dict[str, str]
    services: tuple[str, ...]
    environment: dict[str, str]
    variables: dict[str, str]
