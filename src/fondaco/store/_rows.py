"""Rows as readers see them: what was written under any value schema of a store, laid over a row of the reader's schema.

Fields are found by the resolution that rows follow (promotions, aliases, defaults), so a patch made under an old schema changes the field
that its name has become. What the reader's schema lacks is left out.

Thread rule: immutable but for caches, which threads may fill at once; any thread. Imports no numba.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from fondaco.core.errors import DecodeError, FondacoError, InputError
from fondaco.schema import Codec
from fondaco.schema.declared import as_type, is_arrow
from fondaco.schema.defaults import field_default, float_array_dtype
from fondaco.schema.resolution import ReadArray, ReadMap, ReadRecord, ReadUnion, Refuse, Step, WrapUnion, resolve
from fondaco.schema.rows import RowDecoder, RowEncoder
from fondaco.schema.types import Array, Map, Record, Type, Union
from fondaco.store.writes import Edit, EditKind, Op, Stamp, Write, decode_patch

if TYPE_CHECKING:
    from fondaco.store.merge import Element, Elements, Value

_MISSING: Final = object()
_NEVER: Final = Stamp(-(1 << 63), 0, 0)


@dataclass(frozen=True, slots=True)
class Collection:
    """How the elements of an array or map are read, as the reader's. Of an array, `key` gives an item's identity: its Avro bytes."""

    is_map: bool
    decode: Callable[[bytes], Any]
    key: Callable[[Any], bytes]
    dtype: str | None  # of an array of floats, which readers see as NumPy arrays


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path of a writer's schema leads in the reader's row, and how its value is read."""

    names: tuple[str, ...]
    decode: Callable[[bytes], Any]
    collection: Collection | None


class RowCodecs:
    """Reads the rows and fields of every value schema of a store as those of one reader's schema."""

    def __init__(self, schemas: Callable[[int], object], reader: object) -> None:
        """
        Args:
            schemas: value schema by number: Avro JSON text, or what `Codec` takes. Asked once for each.
            reader: the schema of the rows that `merge.apply` gives.
        Raises:
            SchemaError: `reader` is no record.
        """
        self._schemas, self._given = schemas, reader
        self.reader = as_type(reader)
        if not isinstance(self.reader, Record):
            raise InputError("rows are merged as records; the reader's schema is none")
        self._of: dict[int, _SchemaReader] = {}

    def row(self, number: int, data: bytes) -> dict[str, Any]:
        """A row that was put under value schema `number`.

        Raises:
            DecodeError: no such schema, or bytes that are not a row of it.
        """
        return cast("dict[str, Any]", self._reader_of(number).decode(data))

    def place(self, number: int, path: str) -> Place | None:
        """Where a field that was patched under value schema `number` is in the reader's row; None: the reader does not have it.

        Raises:
            DecodeError: no such schema, or no such field in it.
        """
        return self._reader_of(number).place(path)

    def _reader_of(self, number: int) -> _SchemaReader:
        found = self._of.get(number)
        if found is None:
            found = self._of[number] = _SchemaReader(number, self._schema(number), self._given)
        return found

    def _schema(self, number: int) -> object:
        try:
            return self._schemas(number)
        except (LookupError, FondacoError) as exc:
            raise DecodeError(4, f"a write under value schema {number}, which this store does not have") from exc

    def check(self, write: Write) -> None:
        """Refuse a write of somebody else's making that no reader could read.

        Raises:
            DecodeError: it is no row or patch of its schema.
        """
        if write.op is Op.PUT:
            self.row(write.schema_number, write.payload)
        elif write.op is Op.PATCH:
            for edit in decode_patch(write.payload):
                self._check_edit(write.schema_number, edit)

    def _check_edit(self, number: int, edit: Edit) -> None:
        place = self.place(number, edit.path)
        if place is None:
            return
        if edit.kind is EditKind.SET:
            place.decode(edit.data)
        elif place.collection is None:
            raise DecodeError(0, "elements for a field that is no array and no map", None, edit.path)
        elif not place.collection.is_map:
            place.collection.decode(edit.item)
        else:
            map_key(edit.item)
            if edit.kind is EditKind.ADD:
                place.collection.decode(edit.data)

    def overlay(
        self, under: Mapping[str, Any] | None, fields: Mapping[str, Value], elements: Mapping[str, Elements]
    ) -> dict[str, Any] | None:
        """The row `under` with the fields and elements of a state laid over it.

        Args:
            under: in the reader's schema; None: there is no row. Not changed, but shared in parts.
        Returns:
            the row; without one under it, the fields that nobody gave have their defaults. None: one of them has no default.
        Raises:
            DecodeError: as `row` and `place`.
        """
        root = _Node()
        for path, value in fields.items():
            if (place := self.place(value.schema_number, path)) is not None:
                root.at(place.names).set(value.stamp, value.data, value.schema_number, place)
        for path, ops in elements.items():
            for (item, number), element in ops.items():
                if (place := self.place(number, path)) is not None:
                    root.at(place.names).change(item, element, place)
        row = _record(cast(Record, self.reader), root, _MISSING if under is None else under, _NEVER)
        return None if row is _MISSING else row


class _SchemaReader:
    """Reads what was written under one value schema."""

    def __init__(self, number: int, schema: object, reader: object) -> None:
        self._number = number
        codec = Codec(schema, reader)
        self.decode = codec.decode
        self._writer = codec.writer
        self._step = resolve(codec.writer, codec.schema, match_names=not (is_arrow(schema) or is_arrow(reader)))
        self._places: dict[str, Place | None] = {}

    def place(self, path: str) -> Place | None:
        try:
            return self._places[path]
        except KeyError:
            place = self._places[path] = self._find(path)
            return place

    def _find(self, path: str) -> Place | None:
        kind, step = self._writer, self._step
        names: list[str] = []
        for name in path.split("."):
            kind, inner = _inside(kind, step)
            fields = {field.name: index for index, field in enumerate(kind.fields)} if isinstance(kind, Record) else {}
            if name not in fields or not isinstance(inner, ReadRecord | Refuse):
                raise DecodeError(0, f"a patch of a field that value schema {self._number} does not have", None, path)
            if isinstance(inner, Refuse) or inner.members[fields[name]].reader_index is None:
                return None
            assert isinstance(kind, Record)
            member = inner.members[fields[name]]
            names.append(inner.target.fields[cast(int, member.reader_index)].name)
            kind, step = kind.fields[fields[name]].type, member.step
        return Place(tuple(names), RowDecoder(step).decode, _collection(*_inside(kind, step)))


def _inside(kind: Type, step: Step) -> tuple[Type, Step]:
    """What is in a nullable value: its type for the writer, and how to read it."""
    if isinstance(kind, Union) and kind.optional is not None and isinstance(step, ReadUnion):
        step = step.branches[1 - cast(int, kind.null_index)]
        kind = kind.optional
    return kind, step.inner if isinstance(step, WrapUnion) else step


def _collection(kind: Type, step: Step) -> Collection | None:
    match kind, step:
        case Array(), ReadArray():
            return Collection(False, RowDecoder(step.item).decode, RowEncoder(step.target.items).encode, float_array_dtype(step.target))
        case Map(), ReadMap():
            return Collection(True, RowDecoder(step.value).decode, RowEncoder(step.target.values).encode, None)
    return None


def map_key(item: bytes) -> str:
    """The key of a map's element.

    Raises:
        DecodeError: not UTF-8.
    """
    try:
        return item.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError(exc.start, "a map's key that is not UTF-8") from None


# -- laying over --------------------------------------------------------------------------------------------------------------------


class _Node:
    """What a state says about one field of the reader's row, or about the row."""

    __slots__ = ("changes", "collection", "members", "value")

    def __init__(self) -> None:
        self.value: tuple[Stamp, bytes, int, Place] | None = None
        self.changes: list[tuple[Any, ...]] = []
        self.collection: Collection | None = None
        self.members: dict[str, _Node] = {}

    def at(self, names: tuple[str, ...]) -> _Node:
        node = self
        for name in names:
            found = node.members.get(name)
            if found is None:
                found = node.members[name] = _Node()
            node = found
        return node

    def set(self, stamp: Stamp, data: bytes, number: int, place: Place) -> None:
        # Fields of two names can have become one by an alias; then, as ever, the greater wins.
        if self.value is None or self.value[:3] < (stamp, data, number):
            self.value = (stamp, data, number, place)

    def change(self, item: bytes, element: Element, place: Place) -> None:
        """Note an element as the reader's: (identity, (stamp, removed, bytes of a map's value), value)."""
        collection = self.collection = place.collection
        if collection is None:
            raise DecodeError(0, "elements for a field that is no array and no map", None, ".".join(place.names))
        if not collection.is_map:
            value = collection.decode(item)
            self.changes.append((collection.key(value), (element.stamp, element.removed, b""), value))
            return
        value, data = None, b""
        if not element.removed:
            value = collection.decode(element.data)
            data = collection.key(value)
        self.changes.append((map_key(item), (element.stamp, element.removed, data), value))


def _record(kind: Record, node: _Node, under: Any, floor: Stamp) -> Any:
    """`under` with the members of `node` laid over it. Where it is no record (null, or missing): one of defaults, if that can be made."""
    if isinstance(under, Mapping):
        row = dict(under)
        for member in kind.fields:
            if member.name in node.members:
                row[member.name] = _field(member.type, node.members[member.name], row.get(member.name, _MISSING), floor)
        return row
    row = {}
    for member in kind.fields:
        value = field_default(member) if member.has_default else _MISSING
        if member.name in node.members:
            value = _field(member.type, node.members[member.name], value, floor)
        if value is _MISSING:
            return under
        row[member.name] = value
    return row


def _field(kind: Type, node: _Node, under: Any, floor: Stamp) -> Any:
    """The value of a field: `under`, or what it was set to, with elements and members changed since. What is not after `floor` is void."""
    if node.value is not None and node.value[0] > floor:
        floor, data, _, place = node.value
        under = place.decode(data)
    if node.changes:
        assert node.collection is not None
        changes: dict[Any, tuple[Any, Any]] = {}
        for key, rank, value in node.changes:
            if rank[0] > floor and (key not in changes or changes[key][0] < rank):
                changes[key] = (rank, value)
        if changes:
            under = (_map if node.collection.is_map else _array)(node.collection, under, changes)
    inner = kind.optional if isinstance(kind, Union) else kind
    if isinstance(inner, Record) and node.members and _has_after(node, floor):
        under = _record(inner, node, under, floor)
    return under


def _has_after(node: _Node, floor: Stamp) -> bool:
    """Whether something inside `node` is newer than `floor`; if not, nothing may come into being."""
    return any(
        (member.value is not None and member.value[0] > floor)
        or any(rank[0] > floor for _, rank, _ in member.changes)
        or _has_after(member, floor)
        for member in node.members.values()
    )


def _array(collection: Collection, under: Any, changes: Mapping[Any, tuple[Any, Any]]) -> Any:
    items = [] if under is None or under is _MISSING else list(under)
    keys = [collection.key(item) for item in items]
    added = {key: change for key, change in changes.items() if not change[0][1]}
    if not added and (under is None or under is _MISSING):
        return under  # nothing to remove from
    kept = [item for key, item in zip(keys, items, strict=True) if key not in changes or key in added]
    present = set(keys)
    kept += [value for key, (_, value) in sorted(added.items(), key=lambda entry: (entry[1][0][0], entry[0])) if key not in present]
    return kept if collection.dtype is None else np.array(kept, collection.dtype)


def _map(collection: Collection, under: Any, changes: Mapping[Any, tuple[Any, Any]]) -> Any:
    entries = {} if under is None or under is _MISSING else dict(under)
    added = sorted((rank[0], key) for key, (rank, _) in changes.items() if not rank[1])
    if not added and (under is None or under is _MISSING):
        return under
    for key, (rank, _) in changes.items():
        if rank[1]:
            entries.pop(key, None)
    for _, key in added:
        entries[key] = changes[key][1]
    return entries
