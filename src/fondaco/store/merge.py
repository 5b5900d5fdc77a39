"""Merge: what all writes to one key come to, whatever their order, their repetitions and their grouping.

`State` is what is known about a key. `state_of_write` makes one of one write, `merge` joins two, `apply` reads a row through one. Merging
is commutative, associative and idempotent: a state is a set of writes without those that others made void. So every replica, from any
order of the same log records, any number of times, reaches the same state and the same bytes of it. Rules, byte layout and a worked
example: docs/internals/merge.md.

A write makes void only what has a stamp as old or older. Therefore looking at a state through a window (only what was written at or after a
moment) gives what merging the writes of that window alone would have given.

Thread rule: pure functions and values that are never changed; any thread. Imports no numba.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fondaco.core.errors import DecodeError
from fondaco.store.writes import Edit, EditKind, Op, Stamp, Write, decode_patch

if TYPE_CHECKING:
    from fondaco.store._fields import RowCodecs

STATE_FORMAT: Final = 1


class Value(NamedTuple):
    """A whole row, or one field of it, as it was written. Of two, the greater tuple wins: stamp, then bytes, then schema number."""

    stamp: Stamp
    data: bytes
    schema_number: int


class Element(NamedTuple):
    """The last thing done to one element of an array or map. Of two, the greater tuple wins: stamp, then remove over add, then bytes."""

    stamp: Stamp
    removed: bool
    data: bytes  # of a map: Avro bytes of what the key was set to


Elements = Mapping[tuple[bytes, int], Element]
"""(item, schema number) -> what was done; the item is an array's item as Avro bytes or a map's key, as in `writes.Edit`."""


class State(NamedTuple):
    """What is known about a key. At most one of `deleted` and `put` is there; only what is newer than it is kept beside it.

    (A named tuple, as the stamps and values in it: the tailer makes a few for each patch, and a frozen dataclass takes four times as long.)
    """

    deleted: Stamp | None = None
    put: Value | None = None
    fields: Mapping[str, Value] = {}  # never changed
    elements: Mapping[str, Elements] = {}

    @property
    def is_patch_free(self) -> bool:
        """Whether it is a put or a delete alone."""
        return not (self.fields or self.elements)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return self.deleted is None and self.put is None and self.is_patch_free

    @property
    def newest_ms(self) -> int:
        """Timestamp of the newest write in it; -1 if there is none."""
        stamps = [self.deleted] if self.deleted else []
        stamps += [value.stamp for value in ([self.put] if self.put else [])] + [value.stamp for value in self.fields.values()]
        stamps += [element.stamp for elements in self.elements.values() for element in elements.values()]
        return max(stamps).timestamp_ms if stamps else -1


NOTHING: Final = State()


def state_of(write: Write) -> State:
    """`state_of_write` of a decoded write."""
    return state_of_write(write.op, write.stamp, write.schema_number, write.payload)


def state_of_write(op: Op, stamp: Stamp, schema_number: int, payload: bytes) -> State:
    """What one write makes known; a heartbeat makes nothing known.

    Raises:
        DecodeError: a patch whose payload is none.
    """
    raise NotImplementedError


def merge(a: State, b: State) -> State:
    """What both together make known."""
    raise NotImplementedError


def trim(state: State, since_ms: int) -> State:
    """What was written at or after `since_ms`."""
    raise NotImplementedError


def encode_state(state: State) -> bytes:
    """The bytes of a state; equal states have equal bytes."""
    raise NotImplementedError


def decode_state(data: bytes | memoryview) -> State:
    """The state that `encode_state` wrote.

    Raises:
        DecodeError: bytes that are no state.
    """
    raise NotImplementedError


def apply(state: State, base: Mapping[str, Any] | None, *, since_ms: int, codecs: RowCodecs) -> dict[str, Any] | None:
    """The row that a reader sees.

    Args:
        base: the row of the version under it, in the reader's schema; older than every write. Not changed, but shared in parts.
        since_ms: writes before it do not count.
        codecs: how rows and fields of each value schema are read (`RowCodecs(schemas, reader)`).
    Returns:
        the row in the reader's schema; None where there is none.
    Raises:
        DecodeError: a write whose bytes are no row or field of its schema.
    """
    raise NotImplementedError
