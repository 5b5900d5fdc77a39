"""Errors: one tree, so that a caller can catch as widely or as narrowly as it can act.

    FondacoError
    ├── InputError                    what was asked cannot be done as asked; the same call again fails again
    │   ├── NotFoundError             a name that nothing has; carries the names that exist and suggests the nearest
    │   │   ├── StoreNotFoundError, VersionNotFoundError, FieldNotFoundError, ColumnNotFoundError, FeatureNotFoundError,
    │   │   ├── PushNotFoundError, TopicNotFoundError, NodeNotFoundError, TokenNotFoundError,
    │   │   ├── GraphNotFoundError, NodeTypeNotFoundError, EdgeTypeNotFoundError,
    │   │   └── FeatureSetNotFoundError, ServiceNotFoundError, RunNotFoundError
    │   ├── NodeIdError               ids that the graph has no nodes for; names the type, the first few, and how many
    │   ├── AlreadyExistsError        a name that is taken by something different
    │   ├── SchemaError               a schema that cannot be parsed, mapped or resolved; names the path in the schema
    │   │   └── SchemaResolutionError a writer's rows cannot be read with this reader schema
    │   ├── DataError                 data that does not fit its schema
    │   │   ├── RowError              one value of one row: row, field path, value, expectation
    │   │   ├── KeyTypeError          a key that the store's key schema cannot hold
    │   │   ├── DuplicateKeyError     two different values for one key in one push
    │   │   ├── DecodeError           bytes that are not a row of the schema: byte position and reason
    │   │   ├── AvroFileError         a file that is not an Avro container file, or a damaged one: byte position and reason
    │   │   └── GraphBuildError       a node or edge table that makes no graph: table, row, column, and why
    │   ├── DefinitionError           a feature definition that cannot work; found before anything runs
    │   │   └── NaiveTimestampError   times without a zone, where the source does not say tz=
    │   ├── MissingExtraError         an optional dependency is not installed; names the extra
    │   ├── OffsetOutOfRangeError     an offset that the log does not hold (any more)
    │   ├── LimitError                a request larger than a stated limit: nothing of it was done, nothing is cut off
    │   ├── AuthenticationError       no token, or one that is unknown, revoked or expired
    │   └── PermissionDeniedError     the token is good, and may not do this
    ├── StateError                    right call, wrong moment; the message says what to wait for or to do first
    │   ├── NoCurrentVersionError     a store that has no version to read yet
    │   ├── PushInProgressError       another push is at work on this store (retry later)
    │   ├── PushKilledError           the push was killed on request
    │   ├── BuildInProgressError      another process builds a version of this graph (retry later)
    │   ├── ServiceFailedError        a data service that will not become ready without a change; carries the end of its log
    │   ├── DeadlineExceededError     the answer did not come in the time given (retry later)
    │   ├── UnwrittenError            a writer could not put into the log what it had taken; says how many writes
    │   ├── QuotaExceededError        the caller's share for this moment is used up (retry after the time it names)
    │   └── LockedError               another process holds this lock (retry later)
    ├── UnavailableError              a node, a broker or a database that does not answer (retry later)
    │   ├── PartitionNotHeldError     this node does not hold the partition; another does (ask there, with a new routing table)
    │   └── ProtocolError             it answered something that is not our protocol
    └── StorageError                  the disk or what lies on it
        ├── NotAPlatformError         a directory that is not Fondaco's
        ├── FormatVersionError        written by a newer Fondaco
        ├── CorruptFileError          a checksum or structure is wrong; names file and section
        ├── ReadOnlyError             the directory cannot be written
        └── DiskFullError             no space left (retry after making room)

`retryable` says whether the same call may succeed later without a change. `blame` is `"user"` or `"system"`: push reports count the
two apart. Every error is rebuilt from `args`, so it survives pickling between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal


def near_name(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, or None when none is similar enough to be a slip of the fingers."""
    by_folded = {str(candidate).casefold(): candidate for candidate in candidates}  # a slip may be a number
    found = difflib.get_close_matches(str(name).casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


class FondacoError(Exception):
    """Root of everything this package raises on purpose."""

    retryable: ClassVar[bool] = False
    blame: ClassVar[Literal["user", "system"]] = "system"


# -- what was asked -----------------------------------------------------------------------------------------------------------------


class InputError(FondacoError):
    """What was asked cannot be done as asked."""

    blame = "user"


class NotFoundError(InputError):
    """Nothing has this name. `available` lists the names that exist; the message suggests the nearest."""

    noun: ClassVar[str] = "name"

    def __init__(self, name: str, available: Sequence[str] = (), where: str = "") -> None:
        super().__init__(name, tuple(available), where)
        self.name, self.available, self.where = name, tuple(available), where

    def __str__(self) -> str:
        place = f" in {self.where}" if self.where else ""
        near = near_name(self.name, self.available)
        if near is not None:
            hint = f"did you mean {near!r}?"
        elif self.available:
            shown = ", ".join(map(str, self.available[:12])) + (", ..." if len(self.available) > 12 else "")
            hint = f"there is: {shown}"
        else:
            hint = "there is none yet"
        return f"no {self.noun} {self.name!r}{place}; {hint}"


class StoreNotFoundError(NotFoundError):
    """The platform has no store of this name."""

    noun = "store"


class PushNotFoundError(NotFoundError):
    """The store never had a push of this id."""

    noun = "push"


class TopicNotFoundError(NotFoundError):
    """No such topic in the log."""

    noun = "topic"


class NodeNotFoundError(NotFoundError):
    """No such node in the catalog."""

    noun = "node"


class TokenNotFoundError(NotFoundError):
    """No good token of this name in the catalog."""

    noun = "token"


class FieldNotFoundError(NotFoundError):
    """The value schema has no field of this name."""

    noun = "field"


class ColumnNotFoundError(NotFoundError):
    """The table has no column of this name."""

    noun = "column"


class FeatureNotFoundError(NotFoundError):
    """The view or set has no feature of this name."""

    noun = "feature"


class FeatureSetNotFoundError(NotFoundError):
    """No feature set of this name was published here."""

    noun = "published feature set"


class GraphNotFoundError(NotFoundError):
    """The platform has no graph of this name."""

    noun = "graph"


class NodeTypeNotFoundError(NotFoundError):
    """The graph has no node type of this name."""

    noun = "node type"


class EdgeTypeNotFoundError(NotFoundError):
    """The graph has no edge type of this name; edge types are named `source/relation/target`, or by a relation that only one has."""

    noun = "edge type"


class ServiceNotFoundError(NotFoundError):
    """The platform has no data service of this name."""

    noun = "service"


class RunNotFoundError(NotFoundError):
    """The platform never had a run of this id."""

    noun = "run"


class VersionNotFoundError(NotFoundError):
    """The store (or the graph: `kind`) exists but does not hold the requested version."""

    noun = "version"

    def __init__(self, store: str, version: int, available: Sequence[int], kind: str = "store") -> None:
        InputError.__init__(self, store, version, tuple(available), *([] if kind == "store" else [kind]))
        self.store, self.version, self.available_versions, self.kind = store, version, tuple(available), kind
        self.name, self.available, self.where = str(version), tuple(map(str, available)), f"{kind} {store!r}"

    def __str__(self) -> str:
        held = f"available: {', '.join(map(str, self.available_versions))}" if self.available_versions else "it holds none yet"
        return f"{self.kind} {self.store!r} has no version {self.version}; {held}"


class NodeIdError(InputError):
    """Ids that no node of the type has. `unknown` holds the first few of them, `count` says how many there are."""

    def __init__(self, node_type: str, unknown: Sequence[int | str], count: int) -> None:
        super().__init__(node_type, tuple(unknown), count)
        self.node_type, self.unknown, self.count = node_type, tuple(unknown), count

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.unknown)) + (", ..." if self.count > len(self.unknown) else "")
        ids = "1 id is" if self.count == 1 else f"{self.count} ids are"
        return (
            f"{ids} not among the nodes of type {self.node_type!r}: {shown}. Ask for nodes that the graph has, "
            'or say on_unknown="pad" where unknown ones may be left empty.'
        )


class AlreadyExistsError(InputError):
    """The name is taken by something that differs from what was asked for."""

    def __init__(self, noun: str, name: str, difference: str) -> None:
        super().__init__(noun, name, difference)
        self.noun, self.name, self.difference = noun, name, difference

    def __str__(self) -> str:
        return f"{self.noun} {self.name!r} exists already and differs: {self.difference}"


class SchemaError(InputError):
    """A schema that cannot be parsed or mapped. `path` leads to the place, as in `$.address.zip`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"schema at {self.path}: {self.reason}"


class SchemaResolutionError(SchemaError):
    """Rows of the writer schema cannot be read with the reader schema (Avro 1.12, "Schema Resolution")."""

    def __str__(self) -> str:
        return f"writer and reader schema do not resolve at {self.path}: {self.reason}"


class DataError(InputError):
    """Data that does not fit its schema."""


class RowError(DataError):
    """One value does not fit. `row` is the 0-based position in the input (None: a single row), `field` the path of the value."""

    def __init__(self, row: int | None, field: str, value: str, expected: str) -> None:
        super().__init__(row, field, value, expected)
        self.row, self.field, self.value, self.expected = row, field, value, expected

    def __str__(self) -> str:
        where = f"row {self.row}, " if self.row is not None else ""
        return f"{where}field {self.field!r}: expected {self.expected}, got {self.value}"


class KeyTypeError(DataError):
    """A key that the store's key schema cannot hold."""

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(key, expected)
        self.key, self.expected = key, expected

    def __str__(self) -> str:
        return f"expected a key of type {self.expected}, got {self.key}"


class DuplicateKeyError(DataError):
    """One key with two different values in one push. Identical rows are no error: they collapse."""

    def __init__(self, key: str, first_row: int, second_row: int) -> None:
        super().__init__(key, first_row, second_row)
        self.key, self.first_row, self.second_row = key, first_row, second_row

    def __str__(self) -> str:
        return (
            f"key {self.key} has different values in rows {self.first_row} and {self.second_row}. "
            'Push with on_duplicate="keep_last" or "keep_first" to choose one.'
        )


class DecodeError(DataError):
    """Bytes that are not a row of the schema. `position` is the byte offset inside the row, `row` its index in a batch."""

    def __init__(self, position: int, reason: str, row: int | None = None, field: str | None = None) -> None:
        super().__init__(position, reason, row, field)
        self.position, self.reason, self.row, self.field = position, reason, row, field

    def __str__(self) -> str:
        row = f"row {self.row}, " if self.row is not None else ""
        field = f" (field {self.field!r})" if self.field else ""
        return f"{row}byte {self.position}{field}: {self.reason}"


class AvroFileError(DataError):
    """A file that is not an Avro object container file, or a damaged one. `position` is the byte offset in the file."""

    def __init__(self, path: str, position: int, reason: str) -> None:
        super().__init__(path, position, reason)
        self.path, self.position, self.reason = path, position, reason

    def __str__(self) -> str:
        return f"{self.path}, byte {self.position}: {self.reason}"


class GraphBuildError(DataError):
    """A node or edge table that makes no graph. `row` is the 0-based position in the table (None: the table as a whole)."""

    def __init__(self, table: str, row: int | None, column: str | None, reason: str) -> None:
        super().__init__(table, row, column, reason)
        self.table, self.row, self.column, self.reason = table, row, column, reason

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row is not None else ""
        column = f", column {self.column!r}" if self.column else ""
        return f"{self.table}{row}{column}: {self.reason}"


class DefinitionError(InputError):
    """A feature definition that cannot work; raised before anything runs."""


class NaiveTimestampError(DefinitionError):
    """Times without a zone. Say what they mean once, where the source is declared."""

    def __init__(self, column: str, where: str) -> None:
        super().__init__(column, where)
        self.column, self.where = column, where

    def __str__(self) -> str:
        remedy = 'declare tz="UTC" (or the zone it was written in), or store it with one'
        return f"column {self.column!r} of {self.where} has no time zone; {remedy}"


class OffsetOutOfRangeError(InputError):
    """The log does not hold this offset: it was deleted, or not written yet."""

    def __init__(self, topic: str, partition: int, offset: int, low: int, high: int) -> None:
        super().__init__(topic, partition, offset, low, high)
        self.topic, self.partition, self.offset, self.low, self.high = topic, partition, offset, low, high

    def __str__(self) -> str:
        return (
            f"topic {self.topic!r}, partition {self.partition} has no offset {self.offset}: it holds {self.low} up to, not including, "
            f"{self.high}. Start at one of these; what was deleted does not come back."
        )


class LimitError(InputError):
    """A request exceeds a limit; nothing of it was done."""

    def __init__(self, what: str, size: int, limit: int, remedy: str = "Send less at a time.") -> None:
        super().__init__(what, size, limit, remedy)
        self.what, self.size, self.limit, self.remedy = what, size, limit, remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.size} is more than the limit of {self.limit}. {self.remedy}"


class AuthenticationError(InputError):
    """Who asks is not known: no token, or not one that is good now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not authenticated: {self.reason}. Send a token: `Authorization: Bearer ...`; an operator makes one."


class PermissionDeniedError(InputError):
    """The caller is known and lacks the role."""

    def __init__(self, caller: str, role: str, what: str) -> None:
        super().__init__(caller, role, what)
        self.caller, self.role, self.what = caller, role, what

    def __str__(self) -> str:
        return f"{self.caller!r} may not do this: it needs the role {self.role!r} on {self.what}"


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        super().__init__(module, extra, purpose)
        self.module, self.extra, self.purpose = module, extra, purpose

    def __str__(self) -> str:
        return f"{self.purpose} needs {self.module!r}: pip install 'fondaco[{self.extra}]'"


# -- the moment ---------------------------------------------------------------------------------------------------------------------


class StateError(FondacoError):
    """The call is right and the moment is not."""

    blame = "user"


class NoCurrentVersionError(StateError):
    """The store (or the graph: `kind`) has no current version to read."""

    def __init__(self, store: str, kind: str = "store") -> None:
        super().__init__(store, *([] if kind == "store" else [kind]))
        self.store, self.kind = store, kind

    def __str__(self) -> str:
        make = "build" if self.kind == "graph" else "push"
        return f"{self.kind} {self.store!r} has no current version yet; {make} one, or swap to a version that is READY"


class PushInProgressError(StateError):
    """Another push is at work on the store."""

    retryable = True

    def __init__(self, store: str, push_id: str, pid: int | None = None) -> None:
        super().__init__(store, push_id, pid)
        self.store, self.push_id, self.pid = store, push_id, pid

    def __str__(self) -> str:
        by = f" (process {self.pid})" if self.pid else ""
        return f"store {self.store!r} is being pushed to by push {self.push_id!r}{by}; wait for it, or kill it"


class PushKilledError(StateError):
    """The push was killed on request; the current version is untouched."""

    def __init__(self, store: str, push_id: str) -> None:
        super().__init__(store, push_id)
        self.store, self.push_id = store, push_id

    def __str__(self) -> str:
        return f"push {self.push_id!r} of store {self.store!r} was killed; the current version is untouched"


class BuildInProgressError(StateError):
    """Another process (or thread) builds a version of the graph."""

    retryable = True

    def __init__(self, graph: str, pid: int | None = None) -> None:
        super().__init__(graph, pid)
        self.graph, self.pid = graph, pid

    def __str__(self) -> str:
        by = f" by process {self.pid}" if self.pid else ""
        return f"a version of graph {self.graph!r} is being built{by}; wait for it to end, or stop it"


class ServiceFailedError(StateError):
    """A data service will not become ready without a change. `reason` says why in words, `log_tail` holds the newest lines it said."""

    def __init__(self, service: str, reason: str, log_tail: Sequence[str] = ()) -> None:
        super().__init__(service, reason, tuple(log_tail))
        self.service, self.reason, self.log_tail = service, reason, tuple(log_tail)

    def __str__(self) -> str:
        said = "".join(f"\n    {line}" for line in self.log_tail[-10:])
        return f"service {self.service!r} failed: {self.reason}. Change what it names, then ensure it again." + (
            f" It said last:{said}" if said else ""
        )


class DeadlineExceededError(StateError):
    """The time given was over before the answer was there. Whether a write happened is not known; it may be sent again."""

    retryable = True

    def __init__(self, what: str, seconds: float, state: str = "") -> None:
        super().__init__(what, seconds, state)
        self.what, self.seconds, self.state = what, seconds, state

    def __str__(self) -> str:
        return f"{self.what}: not done within {self.seconds} s{'; ' + self.state if self.state else ''}. Try again, or allow more time."


class UnwrittenError(StateError):
    """A writer holds writes that the log did not take. They were not acknowledged by any `flush`; those before them were written."""

    def __init__(self, where: str, count: int, reason: str) -> None:
        super().__init__(where, count, reason)
        self.where, self.count, self.reason = where, count, reason

    def __str__(self) -> str:
        writes = "1 write" if self.count == 1 else f"{self.count} writes"
        return f"{writes} to {self.where} could not be written: {self.reason}. Write again with a new writer once that is mended."


class QuotaExceededError(StateError):
    """The caller's share is used up for now; wait `retry_after_s` and ask again."""

    retryable = True
    blame = "user"

    def __init__(self, caller: str, what: str, rate: str, retry_after_s: float) -> None:
        super().__init__(caller, what, rate, retry_after_s)
        self.caller, self.what, self.rate, self.retry_after_s = caller, what, rate, retry_after_s

    def __str__(self) -> str:
        return f"{self.caller!r} has used up its quota of {self.rate} on {self.what}; try again in {self.retry_after_s} s"


class LockedError(StateError):
    """Another process holds the lock."""

    retryable = True

    def __init__(self, path: str, pid: int | None = None) -> None:
        super().__init__(path, pid)
        self.path, self.pid = path, pid

    def __str__(self) -> str:
        by = f" by process {self.pid}" if self.pid else " by another process"
        return f"{self.path} is locked{by}; wait for it to finish, or stop it"


# -- others that should answer --------------------------------------------------------------------------------------------------------


class UnavailableError(FondacoError):
    """A node, a broker or a database does not answer. `peer` names it."""

    retryable = True

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(peer, reason)
        self.peer, self.reason = peer, reason

    def __str__(self) -> str:
        return f"{self.peer} does not answer: {self.reason}. Check that it runs and can be reached; then try again."


class PartitionNotHeldError(UnavailableError):
    """The node that was asked does not hold this partition of this version; the routing table names one that does."""

    def __init__(self, store: str, version: int, partition: int) -> None:
        FondacoError.__init__(self, store, version, partition)
        self.store, self.version, self.partition = store, version, partition
        self.peer, self.reason = "this node", f"it does not hold partition {partition} of version {version} of store {store!r}"

    def __str__(self) -> str:
        return f"{self.peer} cannot answer: {self.reason}. Ask one that the routing table (/v1/routing) names."


class ProtocolError(UnavailableError):
    """Something answered, and it does not speak our protocol, or broke off in the middle."""

    def __str__(self) -> str:
        return f"{self.peer} answered something unexpected: {self.reason}. Is it a Fondaco server, of this version?"


# -- the disk -----------------------------------------------------------------------------------------------------------------------


class StorageError(FondacoError):
    """The disk, or what lies on it."""


class NotAPlatformError(StorageError):
    """The directory holds something that is not Fondaco's."""

    blame = "user"

    def __init__(self, path: str, reason: str, remedy: str = "Name an empty or a new directory, or one that Fondaco made.") -> None:
        super().__init__(path, reason, remedy)
        self.path, self.reason, self.remedy = path, reason, remedy

    def __str__(self) -> str:
        return f"{self.path} is not a Fondaco directory: {self.reason}. {self.remedy}"


class FormatVersionError(StorageError):
    """Written by a newer Fondaco than this one. Nothing was changed."""

    blame = "user"

    def __init__(self, path: str, found: int, supported: int) -> None:
        super().__init__(path, found, supported)
        self.path, self.found, self.supported = path, found, supported

    def __str__(self) -> str:
        return f"{self.path} has format {self.found}; this Fondaco reads up to {self.supported}. Upgrade Fondaco; nothing was changed."


class CorruptFileError(StorageError):
    """A checksum or the structure of a file is wrong. `section` names which part."""

    def __init__(self, path: str, section: str, reason: str) -> None:
        super().__init__(path, section, reason)
        self.path, self.section, self.reason = path, section, reason

    def __str__(self) -> str:
        if self.section == "catalog":
            remedy = "Nothing was touched; restore it from a backup."
        elif self.section.startswith("batch at "):
            remedy = "Other records of the log can be read; restore the file, or give up what is lost with delete_before."
        else:
            remedy = "Roll back to another version, or push (a graph: build) it again."
        return f"{self.path}: section {self.section!r} is damaged: {self.reason}. {remedy}"


class ReadOnlyError(StorageError):
    """The directory or file system cannot be written."""

    blame = "user"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} cannot be written (read-only, or not yours); reading from it still works"


class DiskFullError(StorageError):
    """No space left on the device, or a quota was reached."""

    retryable = True

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"no space left for {self.path}; make room and try again. Nothing that was there before is lost."
