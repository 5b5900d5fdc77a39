"""Patches on their way in: from the mappings of a `patch` call to the edits in its bytes.

A path leads through records ("address.city"), also through nullable ones; it never leads into arrays, maps and other unions, whose values
are set as a whole or, for arrays and maps, element by element.

Thread rule: immutable but for caches, which threads may fill at once; any thread. Imports no numba.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from fondaco.core.errors import FieldNotFoundError, InputError, RowError
from fondaco.schema.coerce import as_items
from fondaco.schema.rows import RowEncoder
from fondaco.schema.types import Array, Field, Map, Record, Union
from fondaco.store.writes import PATH_DEPTH_MAX, EditKind, ancestors, pack_edit, pack_patch

Changes = Mapping[str, Any]

_SHORT: Final = reprlib.Repr()  # bounded in depth and length, whatever the value
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 3


class _Member:
    """One field that a patch may name."""

    __slots__ = ("_members", "collection", "encode", "encode_element", "inner", "name", "nullable", "path", "path_bytes")

    def __init__(self, field: Field, path: str) -> None:
        if path.count(".") >= PATH_DEPTH_MAX:
            raise InputError(
                f"a patch reaches {PATH_DEPTH_MAX} records deep at most; set the record {path.split('.')[0]!r} as a whole by a put"
            )
        self.path, self.path_bytes, self.name = path, path.encode(), field.name
        self.encode: Callable[[Any], bytes] = RowEncoder(field.type).encode
        plain = field.type.optional if isinstance(field.type, Union) else field.type
        self.nullable = isinstance(field.type, Union)
        # The record whose members are patched one by one. One without fields has none, and is set.
        self.inner = plain if isinstance(plain, Record) and plain.fields else None
        self.collection = plain if isinstance(plain, Array | Map) else None
        if self.collection is not None:
            parts = self.collection.values if isinstance(self.collection, Map) else self.collection.items
            self.encode_element = RowEncoder(parts).encode
        self._members: Mapping[str, _Member] | None = None

    @property
    def members(self) -> Mapping[str, _Member]:
        """Those of `inner`; made when asked for, because a record may contain itself."""
        if self._members is None:
            assert self.inner is not None
            self._members = _members(self.inner, f"{self.path}.")
        return self._members

    def set_to(self, value: Any) -> bytes:
        """The Avro bytes of a new value.

        Raises:
            RowError: it does not fit.
        """
        try:
            return self.encode(value)
        except RowError as exc:
            raise self._renamed(exc) from exc

    def items(self, elements: Any, kind: EditKind) -> Iterator[tuple[bytes, bytes]]:
        """Item and data of each element to add or to remove.

        Raises:
            RowError: an element that does not fit. InputError: not the kind of field that has elements.
        """
        if self.collection is None:
            verb = "added" if kind is EditKind.ADD else "removed"
            raise InputError(
                f"elements can be {verb} in arrays and maps only, and field {self.path!r} is neither; set it: {self._set_it()}"
            )
        if isinstance(self.collection, Map) and kind is EditKind.ADD:
            if not isinstance(elements, Mapping):
                raise RowError(None, self.path, _shown(elements), "a mapping of the entries to add, as {'a': 1}")
            for key, value in elements.items():
                yield self._key(key), self._element(value, key)
            return
        try:
            given = list(elements) if isinstance(elements, set | frozenset) else as_items(elements)
        except TypeError:
            what = "keys" if isinstance(self.collection, Map) else "items"
            raise RowError(None, self.path, _shown(elements), f"a list of {what}, also for one: [...]") from None
        if isinstance(self.collection, Map):
            for key in given:
                yield self._key(key), b""
            return
        for index, item in enumerate(given):
            yield self._element(item, index), b""

    def _key(self, key: Any) -> bytes:
        try:
            if isinstance(key, str):
                return key.encode()
        except UnicodeEncodeError:
            pass
        raise RowError(None, self.path, _shown(key), "a key that is text")

    def _element(self, value: Any, place: str | int) -> bytes:
        try:
            return self.encode_element(value)
        except RowError as exc:
            raise self._renamed(exc, f"[{place!r}]") from exc

    def _renamed(self, exc: RowError, place: str = "") -> RowError:
        inside = "" if exc.field == "$" else exc.field if exc.field.startswith("[") else f".{exc.field}"
        return RowError(None, f"{self.path}{place}{inside}", exc.value, exc.expected)

    def _set_it(self) -> str:
        return f"patch(key, {{{self.path!r}: ...}})"


def _members(record: Record, prefix: str = "") -> dict[str, _Member]:
    return {field.name: _Member(field, prefix + field.name) for field in record.fields}


class PatchEncoder:
    """Encodes the patches of one value schema."""

    def __init__(self, schema: Record, where: str) -> None:
        """
        Args:
            where: what the fields belong to, for messages, as "store 'members'".
        """
        self._members, self._where = _members(schema), where

    def encode(self, fields: Changes, add: Changes | None = None, remove: Changes | None = None) -> bytes:
        """The payload of a patch.

        Args:
            fields: new values by field. A mapping for a record patches the members that it names and leaves the others; a name may also be
                a path, as "address.city". None makes a nullable field null.
            add, remove: elements by field: items of an array, entries (to add) or keys (to remove) of a map.
        Raises:
            FieldNotFoundError: no such field; suggests the nearest. RowError: a value that does not fit: field, value, expectation.
            InputError: nothing to do, or two things to do with one field at once.
        """
        edits = _Edits()
        self._set(fields, self._members, "", edits)
        if add:
            self._change(add, EditKind.ADD, self._members, "", edits)
        if remove:
            self._change(remove, EditKind.REMOVE, self._members, "", edits)
        return edits.payload()

    def _set(self, fields: Changes, members: Mapping[str, _Member], prefix: str, edits: _Edits) -> None:
        if not isinstance(fields, Mapping):
            raise InputError(f"a patch takes a mapping from field to new value, as {{'clicks': 7}}, not {_shown(fields)}")
        for name, value in fields.items():
            member = members.get(name) or self._find(name, members, prefix)
            if member.inner is None or (value is None and member.nullable):
                edits.set(member, value)
            elif isinstance(value, Mapping):
                self._set(value, member.members, f"{member.path}.", edits)
            else:
                wanted = "a mapping of the members to set" + (", or None" if member.nullable else "")
                raise RowError(None, member.path, _shown(value), wanted)

    def _change(self, changes: Changes, kind: EditKind, members: Mapping[str, _Member], prefix: str, edits: _Edits) -> None:
        if not isinstance(changes, Mapping):
            raise InputError(f"{kind.name.lower()}= takes a mapping from field to elements, as {{'tags': ['new']}}, not {_shown(changes)}")
        for name, elements in changes.items():
            member = members.get(name) or self._find(name, members, prefix)
            if member.inner is not None and isinstance(elements, Mapping):
                self._change(elements, kind, member.members, f"{member.path}.", edits)
            else:
                edits.change(member, kind, elements)

    def _find(self, name: Any, members: Mapping[str, _Member], prefix: str) -> _Member:
        """The member of a name that is a path.

        Raises:
            FieldNotFoundError: it is none.
        """
        first, dot, rest = name.partition(".") if isinstance(name, str) else ("", "", "")
        if dot and (member := members.get(first)) is not None and member.inner is not None:
            return member.members.get(rest) or self._find(rest, member.members, f"{member.path}.")
        raise FieldNotFoundError(str(name), tuple(members), f"{self._where}, field {prefix[:-1]!r}" if prefix else self._where)


class _Edits:
    """The edits of one patch, and what they touch."""

    __slots__ = ("_changed", "_parts", "_set")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._set: set[str] = set()
        self._changed: set[tuple[str, bytes]] = set()

    def set(self, member: _Member, value: Any) -> None:
        if member.path in self._set:
            raise InputError(f"field {member.path!r} is set twice in one patch")
        self._set.add(member.path)
        self._parts.append(pack_edit(EditKind.SET, member.path_bytes, b"", member.set_to(value)))

    def change(self, member: _Member, kind: EditKind, elements: Any) -> None:
        if member.path in self._set:
            raise InputError(f"field {member.path!r} is set and changed by elements in one patch; set it to all that it shall hold")
        for item, data in member.items(elements, kind):
            if (member.path, item) in self._changed:
                raise InputError(f"one element of field {member.path!r} is named twice in one patch")
            self._changed.add((member.path, item))
            self._parts.append(pack_edit(kind, member.path_bytes, item, data))

    def payload(self) -> bytes:
        if not self._parts:
            raise InputError("a patch without a field changes nothing; name one, as patch(key, {'clicks': 7})")
        for path in (*self._set, *(path for path, _ in self._changed)):
            if "." in path and (above := next((above for above in ancestors(path) if above in self._set), None)) is not None:
                raise InputError(f"field {above!r} is set as a whole, and {path!r} in it too, in one patch")
        return pack_patch(self._parts)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {_SHORT.repr(value)}"
