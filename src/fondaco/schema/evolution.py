"""Evolution: which schemas may follow one another in a store, and the one schema that can hold the rows of all of them.

Value schemas are numbered and never forgotten, and rows of any of them may meet a reader of any other. So a new schema must be compatible
in full: each side reads every row of the other. In practice: a field that is added or dropped has a default, a type stays as it is, an
enum may gain symbols only if it has a default. The *superset* schema has every field that any of them ever had; nothing is dropped from it.

Thread rule: pure functions. Source: Apache Avro 1.12.0 specification, "Schema Resolution"; the superset follows Venice's rule that fields
are never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fondaco.core.errors import SchemaError, SchemaResolutionError
from fondaco.schema.canonical import full_form
from fondaco.schema.declared import as_type
from fondaco.schema.parse import branch_name, named_types, parse
from fondaco.schema.resolution import ReadArray, ReadEnum, ReadMap, ReadRecord, ReadUnion, Refuse, Step, WrapUnion, resolve
from fondaco.schema.types import Array, Enum, Field, Fixed, Map, Named, Primitive, Record, Type, Union

_WIDER = {
    ("string", "bytes"),
    ("int", "long"),
    ("int", "float"),
    ("int", "double"),
    ("long", "float"),
    ("long", "double"),
    ("float", "double"),
}


# -- compatibility ------------------------------------------------------------------------------------------------------------------


def check_compatible(old: object, new: object) -> None:
    """Refuse two schemas unless each can read every row of the other.

    Args:
        old, new: Avro schemas (dict, JSON text), `pyarrow.Schema` or `Type`.
    Raises:
        SchemaResolutionError: names the place, which of the two cannot read the other's rows, and why.
    """
    before, after = as_type(old), as_type(new)
    _check_readable(before, after, "rows written before could not be read with the new schema")
    _check_readable(after, before, "rows of the new schema could not be read by those who have the earlier one")


def check_evolution(known: Sequence[object], new: object) -> None:
    """Refuse `new` as the next of the numbered schemas `known` (1, 2, ...), each of which may still have rows and readers.

    Raises:
        SchemaResolutionError: as `check_compatible`; names the number of the schema that `new` conflicts with.
    """
    after = as_type(new)
    for number, schema in enumerate(known, start=1):
        try:
            check_compatible(schema, after)
        except SchemaResolutionError as exc:
            raise SchemaResolutionError(exc.path, f"schema {number}: {exc.reason}") from exc
    superset([*known, after])


def _check_readable(writer: Type, reader: Type, consequence: str) -> None:
    try:
        step = resolve(writer, reader)
    except SchemaResolutionError as exc:
        raise SchemaResolutionError(exc.path, f"{exc.reason} ({consequence})") from exc
    refusal = _first_refusal(step, "$", set())
    if refusal is not None:
        raise SchemaResolutionError(refusal.path, f"{refusal.reason} ({consequence})")


def _first_refusal(step: Step, path: str, seen: set[int]) -> Refuse | None:
    """Some value of the writer that the reader has no place for."""
    if id(step) in seen:
        return None
    seen.add(id(step))
    match step:
        case Refuse():
            return step
        case ReadEnum() if -1 in step.index_map:
            return Refuse(
                f"enum {step.target.fullname!r} has lost or not yet known symbol {step.index_map.index(-1)} of the writer's; "
                "give the enum a default",
                path,
            )
        case ReadArray():
            return _first_refusal(step.item, f"{path}.items", seen)
        case ReadMap():
            return _first_refusal(step.value, f"{path}.values", seen)
        case WrapUnion():
            return _first_refusal(step.inner, path, seen)
        case ReadUnion():
            places = [(branch, f"{path}[{index}]") for index, branch in enumerate(step.branches)]
        case ReadRecord():
            places = [(member.step, f"{path}.{member.name}") for member in step.members if member.reader_index is not None]
        case _:
            return None
    return next((found for part, place in places if (found := _first_refusal(part, place, seen)) is not None), None)


# -- superset -----------------------------------------------------------------------------------------------------------------------


def superset(schemas: Sequence[object]) -> Type:
    """The schema that holds every row of `schemas` (oldest first): all fields, all enum symbols, all branches, the wider of two numbers.

    Fields keep the order in which they first appeared; defaults, docs and aliases are those of the newest schema that has the field.

    Raises:
        SchemaError: two of them give one field types that no type holds; names the place.
    """
    if isinstance(schemas, str | Mapping):
        raise SchemaError("$", "a superset is made of a list of schemas, not of one")
    if not schemas:
        raise SchemaError("$", "a superset needs at least one schema")
    merged = as_type(schemas[0])
    for schema in schemas[1:]:
        new = as_type(schema)
        merged = parse(full_form(_Merger(merged, new).merge(merged, new, "$")))  # through text: one object a name, every rule checked again
    return merged


class _Merger:
    """Merges two schemas. A named type that both have is merged once, and stands wherever either refers to its name."""

    def __init__(self, old: Type, new: Type) -> None:
        self._old, self._new = named_types(old), named_types(new)
        self._made: dict[str, Named] = {}

    def merge(self, old: Type, new: Type, path: str) -> Type:
        if isinstance(old, Union) or isinstance(new, Union):
            return self._unions(old, new, path)
        match old, new:
            case Primitive(), Primitive():
                return _primitives(old, new, path)
            case (Fixed() | Enum() | Record(), Fixed() | Enum() | Record()) if type(old) is type(new):
                return self._named(old, new, path)
            case Array(), Array():
                return Array(self.merge(old.items, new.items, f"{path}.items"), dict(new.properties))
            case Map(), Map():
                return Map(self.merge(old.values, new.values, f"{path}.values"), dict(new.properties))
        raise SchemaError(path, f"{branch_name(old)!r} and {branch_name(new)!r} have no type in common; name the changed field differently")

    def _keep(self, kind: Type, path: str) -> Type:
        """A type that only one of the two has, with the merged versions of the types that it refers to."""
        match kind:
            case Array():
                return Array(self._keep(kind.items, path), dict(kind.properties))
            case Map():
                return Map(self._keep(kind.values, path), dict(kind.properties))
            case Union():
                return Union(tuple(self._keep(branch, path) for branch in kind.branches))
            case Primitive():
                return kind
            case Fixed() | Enum() | Record():
                return self._named(self._old.get(kind.fullname, kind), self._new.get(kind.fullname, kind), path)

    def _named(self, old: Named, new: Named, path: str) -> Named:
        if new.fullname in self._made:
            return self._made[new.fullname]
        match old, new:
            case Fixed(), Fixed():
                _check_same(old.size, new.size, path, f"fixed {new.fullname!r} changes its size")
                _check_same(old.logical, new.logical, path, f"fixed {new.fullname!r} changes its logical type")
                self._made[new.fullname] = new
            case Enum(), Enum():
                symbols = (*old.symbols, *(symbol for symbol in new.symbols if symbol not in old.symbols))
                self._made[new.fullname] = Enum(
                    new.fullname, symbols, new.default or old.default, new.aliases, new.doc, dict(new.properties)
                )
            case Record(), Record():
                merged = self._made[new.fullname] = Record(new.fullname, (), new.aliases, new.doc, dict(new.properties))
                merged.fields = self._fields(old, new, path)
            case _:
                raise SchemaError(path, f"type {new.fullname!r} was {type(old).__name__.lower()} and becomes {type(new).__name__.lower()}")
        return self._made[new.fullname]

    def _fields(self, old: Record, new: Record, path: str) -> tuple[Field, ...]:
        later = {member.name: member for member in new.fields}
        renamed = {alias: member.name for member in new.fields for alias in member.aliases}
        fields = []
        for member in old.fields:
            successor = later.pop(member.name, None) or later.pop(renamed.get(member.name, ""), None)
            place = f"{path}.{member.name}"
            if successor is None:
                fields.append(replace(member, type=self._keep(member.type, place)))
                continue
            fields.append(
                replace(
                    successor,
                    type=self.merge(member.type, successor.type, place),
                    default=successor.default if successor.has_default else member.default,
                    aliases=tuple(dict.fromkeys((*successor.aliases, *member.aliases))),
                    doc=successor.doc or member.doc,
                )
            )
        fields.extend(replace(member, type=self._keep(member.type, f"{path}.{member.name}")) for member in later.values())
        return tuple(fields)

    def _unions(self, old: Type, new: Type, path: str) -> Union:
        before = old.branches if isinstance(old, Union) else (old,)
        after = {branch_name(branch): branch for branch in (new.branches if isinstance(new, Union) else (new,))}
        branches = []
        for branch in before:
            successor = after.pop(branch_name(branch), None)
            branches.append(self._keep(branch, path) if successor is None else self.merge(branch, successor, path))
        branches.extend(self._keep(branch, path) for branch in after.values())
        return Union(tuple(branches))


def _primitives(old: Primitive, new: Primitive, path: str) -> Primitive:
    if old.logical is not None and new.logical is not None:
        _check_same(old.logical, new.logical, path, "the logical type changes")
    if old.kind == new.kind or (old.kind, new.kind) in _WIDER:
        return new
    if (new.kind, old.kind) in _WIDER:
        return old
    raise SchemaError(path, f"{old.kind} becomes {new.kind}; no type holds both, name the changed field differently")


def _check_same(old: object, new: object, path: str, reason: str) -> None:
    if old != new:
        raise SchemaError(path, f"{reason} from {old} to {new}; name the changed type differently")
