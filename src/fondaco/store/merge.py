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

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fondaco.core.errors import DecodeError
from fondaco.store._rows import RowCodecs
from fondaco.store.writes import EditKind, Op, Stamp, Write, ancestors, decode_patch

__all__ = [
    "NOTHING",
    "Element",
    "Elements",
    "RowCodecs",
    "State",
    "Value",
    "apply",
    "decode_state",
    "encode_state",
    "merge",
    "state_of",
    "state_of_write",
    "trim",
]

STATE_FORMAT: Final = 1
_DELETED: Final = 1
_PUT: Final = 2
_HEAD: Final = struct.Struct("<BBHII")  # format, flags, zero, fields, elements
_STAMP: Final = struct.Struct("<qQQ")  # timestamp_ms, writer, sequence
_ROW: Final = struct.Struct("<qQQII")  # stamp, schema number, data bytes
_FIELD: Final = struct.Struct("<qQQIIHH")  # stamp, schema number, data bytes, path bytes, zero
_ELEMENT: Final = struct.Struct("<qQQIIIHBB")  # stamp, schema number, item bytes, data bytes, path bytes, removed, zero
_NEVER: Final = Stamp(-(1 << 63), 0, 0)


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


# -- making and joining -------------------------------------------------------------------------------------------------------------


def state_of(write: Write) -> State:
    """`state_of_write` of a decoded write."""
    return state_of_write(write.op, write.stamp, write.schema_number, write.payload)


def state_of_write(op: Op, stamp: Stamp, schema_number: int, payload: bytes) -> State:
    """What one write makes known; a heartbeat makes nothing known.

    Raises:
        DecodeError: a patch whose payload is none.
    """
    if op == Op.PUT:
        return State(None, Value(stamp, payload, schema_number))
    if op == Op.DELETE:
        return State(stamp)
    if op != Op.PATCH:
        return NOTHING
    fields: dict[str, Value] = {}
    elements: dict[str, dict[tuple[bytes, int], Element]] = {}
    for kind, path, item, data in decode_patch(payload):
        if kind is EditKind.SET:
            value = Value(stamp, data, schema_number)
            if path not in fields or fields[path] < value:
                fields[path] = value
        else:
            element = Element(stamp, kind is EditKind.REMOVE, b"" if kind is EditKind.REMOVE else data)
            known = elements.setdefault(path, {})
            if (item, schema_number) not in known or known[item, schema_number] < element:
                known[item, schema_number] = element
    return _without_void(None, None, fields, elements)


def merge(a: State, b: State) -> State:
    """What both together make known."""
    deleted, put = a.deleted, a.put
    if b.deleted is not None and (deleted is None or deleted < b.deleted):
        deleted = b.deleted
    if b.put is not None and (put is None or put < b.put):
        put = b.put
    if put is not None and deleted is not None:
        if deleted < put.stamp:
            deleted = None
        else:
            put = None
    if a.is_patch_free and b.is_patch_free:
        return State(deleted, put)
    fields = dict(a.fields)
    for path, value in b.fields.items():
        if path not in fields or fields[path] < value:
            fields[path] = value
    elements = dict(a.elements)
    for path, changes in b.elements.items():
        known = elements.get(path)
        elements[path] = changes if known is None else _joined(known, changes)
    return _without_void(deleted, put, fields, elements)


def _joined(a: Elements, b: Elements) -> Elements:
    joined = dict(a)
    for key, element in b.items():
        if key not in joined or joined[key] < element:
            joined[key] = element
    return joined


def _without_void(deleted: Stamp | None, put: Value | None, fields: Mapping[str, Value], elements: Mapping[str, Elements]) -> State:
    """The state without what others make void: a delete, or a field set as a whole, what is not newer; a put, what is older."""
    # One past the stamp of a delete: stamps are whole numbers, so "newer than the delete" and "not older than the put" become one question.
    floor = _NEVER if put is None else put.stamp
    if deleted is not None:
        floor = Stamp(deleted.timestamp_ms, deleted.writer, deleted.sequence + 1)
    kept = {
        path: value for path, value in fields.items() if value.stamp >= floor and not ("." in path and _is_void(path, value.stamp, fields))
    }
    changed: dict[str, Elements] = {}
    for path, changes in elements.items():
        whole = fields.get(path)
        left = {
            key: element
            for key, element in changes.items()
            if element.stamp >= floor
            and (whole is None or element.stamp > whole.stamp)
            and not ("." in path and _is_void(path, element.stamp, fields))
        }
        if left:
            changed[path] = left
    return State(deleted, put, kept, changed)


def _is_void(path: str, stamp: Stamp, fields: Mapping[str, Value]) -> bool:
    """Whether a record around the field was set as a whole at `stamp` or later."""
    return any(above in fields and stamp <= fields[above].stamp for above in ancestors(path))


def trim(state: State, since_ms: int) -> State:
    """What was written at or after `since_ms`."""
    deleted = state.deleted if state.deleted is not None and state.deleted.timestamp_ms >= since_ms else None
    put = state.put if state.put is not None and state.put.stamp.timestamp_ms >= since_ms else None
    if state.is_patch_free:
        return State(deleted, put)
    fields = {path: value for path, value in state.fields.items() if value.stamp.timestamp_ms >= since_ms}
    elements = {}
    for path, changes in state.elements.items():
        left = {key: element for key, element in changes.items() if element.stamp.timestamp_ms >= since_ms}
        if left:
            elements[path] = left
    return State(deleted, put, fields, elements)


# -- bytes --------------------------------------------------------------------------------------------------------------------------


def encode_state(state: State) -> bytes:
    """The bytes of a state; equal states have equal bytes."""
    flags = (state.deleted is not None) * _DELETED | (state.put is not None) * _PUT
    parts = [b""]
    if state.deleted is not None:
        parts.append(_STAMP.pack(*state.deleted))
    if state.put is not None:
        stamp, data, number = state.put
        parts += (_ROW.pack(*stamp, number, len(data)), data)
    for path in sorted(state.fields):
        stamp, data, number = state.fields[path]
        name = path.encode()
        parts += (_FIELD.pack(*stamp, number, len(data), len(name), 0), name, data)
    count = 0
    for path in sorted(state.elements):
        changes, name = state.elements[path], path.encode()
        count += len(changes)
        for key in sorted(changes):
            item, number = key
            stamp, removed, data = changes[key]
            parts += (_ELEMENT.pack(*stamp, number, len(item), len(data), len(name), removed, 0), name, item, data)
    parts[0] = _HEAD.pack(STATE_FORMAT, flags, 0, len(state.fields), count)
    return b"".join(parts)


def decode_state(data: bytes | memoryview) -> State:
    """The state that `encode_state` wrote.

    Raises:
        DecodeError: bytes that are no state.
    """
    data = bytes(data)
    try:
        return _decode_state(data)
    except (struct.error, UnicodeDecodeError, IndexError) as exc:
        raise DecodeError(len(data), f"no merged state: {exc}") from None


def _decode_state(data: bytes) -> State:
    form, flags, zero, field_count, element_count = _HEAD.unpack_from(data)
    if form != STATE_FORMAT or zero or flags & ~(_DELETED | _PUT) or flags == _DELETED | _PUT:
        raise DecodeError(0, f"a merged state of format {form}, flags {flags}; this Fondaco knows format {STATE_FORMAT}")
    end, at = len(data), _HEAD.size
    if field_count * _FIELD.size + element_count * _ELEMENT.size > end:
        raise DecodeError(4, f"a merged state of {field_count} fields and {element_count} elements in {end} bytes")
    deleted, put = None, None
    if flags & _DELETED:
        deleted = Stamp(*_STAMP.unpack_from(data, at))
        at += _STAMP.size
    elif flags & _PUT:
        *stamp, number, size = _ROW.unpack_from(data, at)
        at += _ROW.size + size
        put = Value(Stamp(*stamp), data[at - size : at], number)
    fields: dict[str, Value] = {}
    for _ in range(field_count):
        timestamp_ms, writer, sequence, number, size, name_size, zero = _FIELD.unpack_from(data, at)
        start = at + _FIELD.size + name_size
        fields[data[start - name_size : start].decode()] = Value(Stamp(timestamp_ms, writer, sequence), data[start : start + size], number)
        at = start + size
    elements: dict[str, dict[tuple[bytes, int], Element]] = {}
    for _ in range(element_count):
        timestamp_ms, writer, sequence, number, item_size, size, name_size, removed, zero = _ELEMENT.unpack_from(data, at)
        start = at + _ELEMENT.size + name_size
        path, item = data[start - name_size : start].decode(), data[start : start + item_size]
        at = start + item_size + size
        changes = elements.setdefault(path, {})
        changes[item, number] = Element(Stamp(timestamp_ms, writer, sequence), removed != 0, data[at - size : at])
    if at != end:
        raise DecodeError(min(at, end), f"a merged state that should end at byte {at} and has {end}")
    return State(deleted, put, fields, elements)


# -- reading ------------------------------------------------------------------------------------------------------------------------


def apply(state: State, base: Mapping[str, Any] | None, *, since_ms: int, codecs: RowCodecs) -> dict[str, Any] | None:
    """The row that a reader sees.

    Args:
        base: the row of the version under it, in the reader's schema; older than every write. Not changed, but shared in parts.
        since_ms: writes before it do not count.
        codecs: how rows and fields of each value schema are read (`RowCodecs(schemas, reader)`).
    Returns:
        the row in the reader's schema; None where there is none. A patch without a row under it makes one of the schema's defaults, if
        every field has a default or is patched; otherwise it waits for a put.
    Raises:
        DecodeError: a write whose bytes are no row or field of its schema. SchemaResolutionError: the reader cannot read that schema.
    """
    state = trim(state, since_ms)
    under = base
    if state.put is not None:
        under = codecs.row(state.put.schema_number, state.put.data)
    elif state.deleted is not None:
        under = None
    if state.is_patch_free:
        return None if under is None else dict(under)
    return codecs.overlay(under, state.fields, state.elements)
