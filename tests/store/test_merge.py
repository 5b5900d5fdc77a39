"""The merge: one state from any order, repetition and grouping of the same writes, judged by a slow reading of the rules."""

from __future__ import annotations

import contextlib
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DecodeError, InputError, SchemaResolutionError
from fondaco.schema import Codec
from fondaco.schema.parse import parse
from fondaco.schema.rows import RowEncoder
from fondaco.schema.types import Array, Map, Record, Type, Union
from fondaco.store._patch import PatchEncoder
from fondaco.store.merge import (
    NOTHING,
    RowCodecs,
    State,
    apply,
    decode_state,
    encode_state,
    merge,
    state_of,
    state_of_write,
    trim,
)
from fondaco.store.writes import Op, Stamp, Write, decode_write, encode_envelope, heartbeat, writer_number

ADDRESS = {
    "type": "record",
    "name": "Address",
    "fields": [{"name": "city", "type": "string", "default": "?"}, {"name": "zip", "type": ["null", "int"], "default": None}],
}
HOME = {
    "type": "record",
    "name": "Home",
    "fields": [{"name": "street", "type": "string"}, {"name": "floor", "type": "int", "default": 1}],
}
FIELDS = [
    {"name": "clicks", "type": "long", "default": 0},
    {"name": "name", "type": ["null", "string"], "default": None},
    {"name": "tags", "type": {"type": "array", "items": "string"}, "default": ["new"]},
    {"name": "sizes", "type": {"type": "array", "items": "int"}, "default": []},
    {"name": "counts", "type": ["null", {"type": "map", "values": "int"}], "default": None},
    {"name": "address", "type": ADDRESS, "default": {"city": "nowhere"}},
    {"name": "home", "type": ["null", HOME], "default": None},
]
FIRST = {"type": "record", "name": "Member", "fields": FIELDS}
SECOND = {  # numbers have become wider, a field has another name, and one is new
    "type": "record",
    "name": "Member",
    "fields": [
        {"name": "clicks", "type": "double", "default": 0},
        {"name": "title", "aliases": ["name"], "type": ["null", "string"], "default": None},
        FIELDS[2],
        {"name": "sizes", "type": {"type": "array", "items": "long"}, "default": []},
        {"name": "counts", "type": ["null", {"type": "map", "values": "long"}], "default": None},
        *FIELDS[5:],
        {"name": "level", "type": "string", "default": "low"},
    ],
}
SCHEMAS = {1: json.dumps(FIRST), 2: json.dumps(SECOND)}
ENCODERS = {number: PatchEncoder(parse(text), "the test") for number, text in SCHEMAS.items()}  # type: ignore[arg-type]
CODECS = RowCodecs(SCHEMAS.__getitem__, SCHEMAS[2])


@dataclass(frozen=True)
class Wish:
    """A write as a person would say it, in the names of the second schema."""

    op: Op
    stamp: Stamp
    number: int = 2
    row: Any = None
    sets: Any = None  # path -> value
    add: Any = None
    remove: Any = None

    def named(self, values: Any) -> Any:
        return {"name" if key == "title" and self.number == 1 else key: value for key, value in values.items()}

    def write(self) -> Write:
        payload = b""
        if self.op is Op.PUT:
            payload = Codec(SCHEMAS[self.number]).encode(self.named(self.row))
        elif self.op is Op.PATCH:
            payload = ENCODERS[self.number].encode(self.named(self.sets), self.add, self.remove)
        return Write(self.op, self.stamp, self.number, payload)

    def state(self) -> State:
        return state_of(self.write())


def merged(wishes: Any) -> State:
    state = NOTHING
    for wish in wishes:
        state = merge(state, wish.state() if isinstance(wish, Wish) else wish)
    return state


def seen(state: State, base: Any = None, since_ms: int = 0) -> Any:
    row = apply(state, base, since_ms=since_ms, codecs=CODECS)
    return None if row is None else plain(row)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


# -- the judge: every rule by sorting and looking, without states ----------------------------------------------------------------------


def judge(wishes: Any, base: Any, since_ms: int) -> Any:
    live = [wish for wish in wishes if wish.stamp.timestamp_ms >= since_ms]
    deletes = sorted(wish.stamp for wish in live if wish.op is Op.DELETE)
    puts = sorted(((w.stamp, w.write().payload, w.number, w.row) for w in live if w.op is Op.PUT), key=lambda put: put[:3])
    deleted = deletes[-1] if deletes else None
    put = puts[-1] if puts and (deleted is None or puts[-1][0] > deleted) else None
    under = base
    if put is not None:
        under = Codec(SCHEMAS[put[2]], SCHEMAS[2]).decode(puts[-1][1])
    elif deleted is not None:
        under = None
    patches = [w for w in live if w.op is Op.PATCH and (deleted is None or w.stamp > deleted) and (put is None or w.stamp >= put[0])]
    if not patches:
        return under
    schema = parse(SCHEMAS[2])
    assert isinstance(schema, Record)
    row = _judge_record(schema, "", under, patches, None)
    return under if row is _ABSENT else row


_ABSENT = object()


def _judge_record(record: Record, prefix: str, under: Any, patches: Any, floor: Any) -> Any:
    row = {}
    for field in record.fields:
        fresh = under is None or under is _ABSENT
        value = under[field.name] if not fresh else _default(field) if field.has_default else _ABSENT
        value = _judge_field(field.type, prefix + field.name, value, patches, floor)
        if value is _ABSENT:
            return _ABSENT
        row[field.name] = value
    return row


def _default(field: Any) -> Any:
    from fondaco.schema.defaults import field_default

    return field_default(field)


def _judge_field(kind: Type, path: str, value: Any, patches: Any, floor: Any) -> Any:
    whole = sorted(
        ((w.stamp, _bytes_of(w.number, path, w.sets[path]), w.number, w.sets[path]) for w in patches if path in w.sets),
        key=lambda change: change[:3],
    )
    if whole and (floor is None or whole[-1][0] > floor):
        floor, _, _, value = whole[-1]
    inner = kind.optional if isinstance(kind, Union) else kind
    newer = [w for w in patches if floor is None or w.stamp > floor]
    if isinstance(inner, Array | Map):
        changes: dict[Any, Any] = {}
        for w in newer:
            added = (w.add or {}).get(path, ())
            for item in added:
                data = _bytes(inner.values, added[item]) if isinstance(inner, Map) else b""
                changes.setdefault(item, []).append((w.stamp, False, data, added[item] if isinstance(inner, Map) else None))
            for item in (w.remove or {}).get(path, ()):
                changes.setdefault(item, []).append((w.stamp, True, b"", None))
        last = {item: max(ops) for item, ops in changes.items()}
        added = {item: op for item, op in last.items() if not op[1]}
        if last and (added or value is not None):
            if isinstance(inner, Map):
                value = {key: item for key, item in (value or {}).items() if key not in last}
                return value | {key: op[3] for key, op in added.items()}
            held = list(value or [])
            value = [item for item in held if item not in last or item in added]
            new = [item for item in added if item not in held]
            value += sorted(new, key=lambda item: (added[item][0], _bytes(inner.items, item)))
        return value
    if isinstance(inner, Record) and any(key.startswith(f"{path}.") for w in newer for key in w.sets):
        built = _judge_record(inner, f"{path}.", value, newer, floor)
        return value if built is _ABSENT else built
    return value


def _bytes(kind: Type, value: Any) -> bytes:
    return RowEncoder(kind).encode(value)


def _bytes_of(number: int, path: str, value: Any) -> bytes:
    kind: Any = parse(SCHEMAS[number])
    for name in path.split("."):
        record = kind.optional if isinstance(kind, Union) else kind
        kind = next(f.type for f in record.fields if f.name == name or (name == "title" and f.name == "name"))
    return _bytes(kind, value)


# -- strategies -----------------------------------------------------------------------------------------------------------------------

BASE_MS = 1_000
stamps = st.builds(Stamp, st.integers(BASE_MS, BASE_MS + 4), st.integers(1, 2), st.integers(0, 1))
words = st.sampled_from(["a", "b", "c"])
numbers = st.integers(0, 2)
homes = st.none() | st.fixed_dictionaries({"street": words, "floor": numbers})
rows_of_first = {
    "clicks": numbers,
    "title": st.none() | words,
    "tags": st.lists(words, max_size=3),
    "sizes": st.lists(numbers, max_size=3),
    "counts": st.none() | st.dictionaries(words, numbers, max_size=2),
    "address": st.fixed_dictionaries({"city": words, "zip": st.none() | numbers}),
    "home": homes,
}
leaves = {
    "clicks": numbers,
    "title": st.none() | words,
    "tags": st.lists(words, max_size=3),
    "sizes": st.lists(numbers, max_size=3),
    "counts": st.none() | st.dictionaries(words, numbers, max_size=2),
    "address.city": words,
    "address.zip": st.none() | numbers,
    "home.street": words,
    "home.floor": numbers,
    "home": st.none(),
}


@st.composite
def wishes(draw: Any) -> Wish:
    op = draw(st.sampled_from([Op.PUT, Op.DELETE, Op.PATCH, Op.PATCH, Op.PATCH]))
    stamp, number = draw(stamps), draw(st.integers(1, 2))
    if op is Op.DELETE:
        return Wish(op, stamp)
    if op is Op.PUT:
        more = {"level": words} if number == 2 else {}
        return Wish(op, stamp, number, row=draw(st.fixed_dictionaries(rows_of_first | more)))
    sets = draw(st.fixed_dictionaries({}, optional=leaves))
    if "home" in sets:
        sets = {path: value for path, value in sets.items() if not path.startswith("home.")}
    if number == 2 and draw(st.booleans()):
        sets["level"] = draw(words)
    free = [path for path in ("tags", "sizes", "counts") if path not in sets]
    add: dict[str, Any] = {}
    remove: dict[str, Any] = {}
    for path in free:
        if draw(st.booleans()):
            items = draw(st.lists(words if path != "sizes" else numbers, max_size=3, unique=True))
            cut = draw(st.integers(0, len(items)))
            added, removed = items[:cut], items[cut:]
            if added:
                add[path] = {key: draw(numbers) for key in added} if path == "counts" else added
            if removed:
                remove[path] = removed
    if not (sets or add or remove):
        sets = {"clicks": draw(numbers)}
    return Wish(op, stamp, number, sets=sets, add=add, remove=remove)


bases = st.none() | st.fixed_dictionaries(rows_of_first | {"level": words})
many = st.lists(wishes(), max_size=7)


# -- properties -----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(many, st.integers(0, 1 << 30), bases)
def test_any_order_repetition_and_grouping_ends_in_one_state_and_one_row(given_wishes: Any, seed: int, base: Any) -> None:
    rng = random.Random(seed)
    expected = merged(given_wishes)
    shuffled = [wish for wish in given_wishes for _ in range(rng.randint(1, 2))]
    rng.shuffle(shuffled)
    groups: list[State] = [wish.state() for wish in shuffled]
    while len(groups) > 1:  # join any two, until one is left
        a, b = groups.pop(rng.randrange(len(groups))), groups.pop(rng.randrange(len(groups)))
        groups.append(merge(a, b))
    found = groups[0] if groups else NOTHING
    assert found == expected
    assert encode_state(found) == encode_state(expected)
    assert seen(found, base) == seen(expected, base)


@settings(max_examples=100, deadline=None)
@given(many, many, many)
def test_merging_is_commutative_associative_and_idempotent(first: Any, second: Any, third: Any) -> None:
    a, b, c = merged(first), merged(second), merged(third)
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    assert merge(a, NOTHING) == a


@settings(max_examples=300, deadline=None)
@given(many, bases, st.integers(BASE_MS - 1, BASE_MS + 5))
def test_the_row_is_the_one_that_sorting_the_writes_gives(given_wishes: Any, base: Any, since_ms: int) -> None:
    assert seen(merged(given_wishes), base, since_ms) == judge(given_wishes, base, since_ms)


@settings(max_examples=150, deadline=None)
@given(many, bases, st.integers(BASE_MS - 1, BASE_MS + 5))
def test_a_window_shows_what_merging_its_writes_alone_shows(given_wishes: Any, base: Any, since_ms: int) -> None:
    state = merged(given_wishes)
    inside = merged(wish for wish in given_wishes if wish.stamp.timestamp_ms >= since_ms)
    assert trim(state, since_ms) == inside
    assert seen(state, base, since_ms) == seen(inside, base, since_ms)
    assert seen(inside, base, 0) == seen(inside, base, since_ms)


@settings(max_examples=100, deadline=None)
@given(many)
def test_a_state_survives_its_bytes(given_wishes: Any) -> None:
    state = merged(given_wishes)
    assert decode_state(encode_state(state)) == state
    assert encode_state(decode_state(memoryview(encode_state(state)))) == encode_state(state)


@settings(max_examples=150, deadline=None)
@given(many, st.data())
def test_damaged_bytes_of_a_state_give_a_state_or_a_decode_error(given_wishes: Any, data: Any) -> None:
    encoded = bytearray(encode_state(merged(given_wishes)))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    for damaged in (bytes(encoded), bytes(encoded[:cut])):
        with contextlib.suppress(DecodeError):
            decode_state(damaged)


@settings(max_examples=100, deadline=None)
@given(wishes().filter(lambda wish: wish.op is Op.PATCH), st.data())
def test_a_damaged_patch_gives_a_row_or_a_decode_error(wish: Wish, data: Any) -> None:
    payload = bytearray(wish.write().payload)
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        seen(state_of_write(Op.PATCH, wish.stamp, wish.number, bytes(payload)))


# -- the rules, one by one ------------------------------------------------------------------------------------------------------------

ROW = {"clicks": 1.0, "title": "t", "tags": ["a", "b", "a"], "sizes": [], "counts": None, "level": "low"}
ROW |= {"address": {"city": "Bern", "zip": 3000}, "home": None}


def put(at: int, writer: int = 1, **changed: Any) -> Wish:
    return Wish(Op.PUT, Stamp(at, writer, 0), row=ROW | changed)


def delete(at: int, writer: int = 1) -> Wish:
    return Wish(Op.DELETE, Stamp(at, writer, 0))


def patch(at: int, sets: Any = None, writer: int = 1, number: int = 2, **elements: Any) -> Wish:
    return Wish(Op.PATCH, Stamp(at, writer, 0), number, sets=sets or {}, **elements)


def test_the_newest_put_wins_and_the_writer_breaks_a_tie() -> None:
    assert seen(merged([put(2, clicks=2.0), put(1, clicks=1.0)]))["clicks"] == 2
    assert seen(merged([put(1, writer=9, clicks=9.0), put(1, writer=8, clicks=8.0)]))["clicks"] == 9


def test_of_two_puts_with_one_stamp_the_greater_bytes_win() -> None:
    a, b = put(1, title="a"), put(1, title="b")
    assert seen(merged([a, b])) == seen(merged([b, a])) == ROW | {"title": "b"}


def test_a_delete_wins_a_full_tie_and_a_patch_wins_one_over_a_put() -> None:
    assert seen(merged([delete(5), put(5)]), ROW) is None
    assert seen(merged([delete(5), patch(5, {"clicks": 7})]), ROW) is None
    assert seen(merged([patch(5, {"clicks": 7}), put(5)])) == ROW | {"clicks": 7}
    assert seen(merged([patch(5, add={"tags": ["z"]}), put(5)]))["tags"] == ["a", "b", "a", "z"]


def test_a_late_patch_older_than_a_delete_does_not_bring_the_row_back() -> None:
    assert seen(merged([delete(5), patch(4, {"clicks": 7}), patch(3, add={"tags": ["z"]})]), ROW) is None


def test_a_patch_newer_than_a_delete_makes_a_row_of_defaults() -> None:
    row = seen(merged([delete(5), patch(6, {"clicks": 7})]), ROW)
    home = {"address": {"city": "nowhere", "zip": None}, "home": None}
    assert row == {"clicks": 7, "title": None, "tags": ["new"], "sizes": [], "counts": None, "level": "low", **home}


def test_a_patch_without_a_row_waits_for_a_put_where_a_field_has_no_default() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "int"}]}
    codecs = RowCodecs(lambda number: schema, schema)
    encoder = PatchEncoder(parse(schema), "the test")  # type: ignore[arg-type]
    first = state_of_write(Op.PATCH, Stamp(5, 1, 0), 1, encoder.encode({"a": 7}))
    assert apply(first, None, since_ms=0, codecs=codecs) is None
    late = state_of_write(Op.PUT, Stamp(1, 1, 0), 1, Codec(schema).encode({"a": 1, "b": 2}))
    assert apply(merge(first, late), None, since_ms=0, codecs=codecs) == {"a": 7, "b": 2}
    both = state_of_write(Op.PATCH, Stamp(6, 1, 0), 1, encoder.encode({"b": 3}))
    assert apply(merge(first, both), None, since_ms=0, codecs=codecs) == {"a": 7, "b": 3}


def test_null_is_a_value_and_not_the_absence_of_one() -> None:
    state = merged([put(1), patch(2, {"title": None})])
    assert seen(state)["title"] is None
    assert seen(merge(state, patch(1, {"title": "late"}).state()))["title"] is None


def test_members_of_a_record_are_patched_one_by_one() -> None:
    state = merged([put(1), patch(3, {"address.city": "Basel"}), patch(2, {"address": {"city": "Late", "zip": 4000}})])
    assert seen(state)["address"] == {"city": "Basel", "zip": 4000}


def test_a_nullable_record_comes_into_being_by_a_patch_that_completes_it_and_stays_null_otherwise() -> None:
    assert seen(merged([put(1), patch(2, {"home.floor": 3})]))["home"] is None
    assert seen(merged([put(1), patch(2, {"home.floor": 3}), patch(2, {"home": {"street": "Elm"}})]))["home"] == {
        "street": "Elm",
        "floor": 3,
    }
    gone = merged([put(1), patch(2, {"home": {"street": "Elm"}}), patch(3, {"home": None})])
    assert seen(gone)["home"] is None
    assert seen(merge(gone, patch(2, {"home.floor": 9}).state()))["home"] is None
    assert seen(merge(gone, patch(4, {"home.street": "Oak"}).state()))["home"] == {"street": "Oak", "floor": 1}


def test_elements_are_a_set_that_keeps_its_order() -> None:
    assert seen(merged([put(1), patch(2, add={"tags": ["z", "b"]})]))["tags"] == ["a", "b", "a", "z"]
    assert seen(merged([put(1), patch(2, remove={"tags": ["a", "y"]})]))["tags"] == ["b"]
    assert seen(merged([put(1), patch(3, add={"tags": ["y"]}), patch(2, add={"tags": ["z"]})]))["tags"] == ["a", "b", "a", "z", "y"]
    assert seen(merged([put(1), patch(2, add={"tags": ["z"]}), patch(2, remove={"tags": ["z"]})]))["tags"] == ["a", "b", "a"]
    assert seen(merged([patch(2, add={"tags": ["z"]}), patch(3, {"tags": ["x"]}), patch(4, remove={"tags": ["x"]})]), ROW)["tags"] == []


def test_entries_of_a_map_are_put_and_removed_by_key() -> None:
    state = merged(
        [put(1), patch(2, add={"counts": {"a": 1, "b": 2}}), patch(3, remove={"counts": ["a"]}), patch(3, add={"counts": {"b": 5}})]
    )
    assert seen(state)["counts"] == {"b": 5}
    assert seen(merged([put(1), patch(2, remove={"counts": ["a"]})]))["counts"] is None


def test_removed_elements_stay_removed_when_an_older_add_comes_late() -> None:
    state = merged([put(1, tags=[]), patch(5, remove={"tags": ["z"]}), patch(4, add={"tags": ["z"]})])
    assert seen(state)["tags"] == []


def test_writes_of_an_older_schema_change_the_fields_that_theirs_have_become() -> None:
    assert seen(merged([patch(2, {"title": "old", "clicks": 3}, number=1)]), ROW) == ROW | {"title": "old", "clicks": 3.0}
    both = [patch(3, {"title": "new"}), patch(2, {"title": "old"}, number=1)]
    assert seen(merged(both), ROW)["title"] == seen(merged(both[::-1]), ROW)["title"] == "new"
    sizes = [patch(2, add={"sizes": [7]}, number=1), patch(3, remove={"sizes": [7]}), patch(4, add={"sizes": [8]}, number=1)]
    assert seen(merged(sizes), ROW | {"sizes": [7, 9]})["sizes"] == [9, 8]


def test_a_reader_that_lacks_a_field_does_not_see_its_patches() -> None:
    codecs = RowCodecs(SCHEMAS.__getitem__, {"type": "record", "name": "Member", "fields": [FIELDS[0]]})
    state = state_of_write(Op.PATCH, Stamp(2, 1, 0), 1, ENCODERS[1].encode({"clicks": 9, "name": "x"}, {"tags": ["z"]}))
    assert apply(state, {"clicks": 1}, since_ms=0, codecs=codecs) == {"clicks": 9}


def test_a_schema_that_the_reader_cannot_read_is_refused_and_not_guessed() -> None:
    codecs = RowCodecs(SCHEMAS.__getitem__, {"type": "record", "name": "Member", "fields": [FIELDS[0]]})
    with pytest.raises(SchemaResolutionError, match="clicks"):
        apply(merged([put(1)]), None, since_ms=0, codecs=codecs)  # a double is no long


def test_arrays_of_floats_keep_their_type_when_elements_change() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "v", "type": {"type": "array", "items": "float"}, "default": []}]}
    codecs, encoder = RowCodecs(lambda number: schema, schema), PatchEncoder(parse(schema), "the test")  # type: ignore[arg-type]
    state = state_of_write(Op.PATCH, Stamp(5, 1, 0), 1, encoder.encode({}, {"v": [1.5]}, {"v": [2.0]}))
    row = apply(state, {"v": np.array([2.0, 3.0], np.float32)}, since_ms=0, codecs=codecs)
    assert row is not None
    assert row["v"].dtype == np.float32
    assert row["v"].tolist() == [3.0, 1.5]


def test_the_base_is_not_changed_by_what_is_laid_over_it() -> None:
    base = {**ROW, "address": {"city": "Bern", "zip": 1}, "tags": ["a"]}
    seen(merged([patch(1, {"address.zip": 2}, add={"tags": ["q"]})]), base)
    assert base == {**ROW, "address": {"city": "Bern", "zip": 1}, "tags": ["a"]}


def test_a_heartbeat_changes_nothing() -> None:
    assert state_of_write(Op.HEARTBEAT, Stamp(1, 0, 0), 0, b"") == NOTHING
    assert heartbeat()[1] == Op.HEARTBEAT


def test_a_state_tells_its_newest_write_and_whether_it_is_one_record() -> None:
    assert NOTHING.is_empty
    assert NOTHING.newest_ms == -1
    assert merged([put(3)]).is_patch_free
    state = merged([put(3), patch(9, {"clicks": 1}), patch(7, add={"tags": ["q"]})])
    assert not state.is_patch_free
    assert state.newest_ms == 9
    assert merged([state, put(10)]).is_patch_free


def test_writes_of_unknown_schemas_and_fields_are_decode_errors() -> None:
    unknown = state_of_write(Op.PUT, Stamp(1, 1, 0), 9, b"")
    with pytest.raises(DecodeError, match="value schema 9"):
        seen(unknown)
    strange = state_of_write(Op.PATCH, Stamp(1, 1, 0), 2, ENCODERS[1].encode({"name": "x"}))
    with pytest.raises(DecodeError, match="value schema 2 does not have"):
        seen(strange)


def test_a_reader_of_something_else_than_records_is_refused() -> None:
    with pytest.raises(InputError, match="records"):
        RowCodecs(SCHEMAS.__getitem__, "long")


# -- the document ---------------------------------------------------------------------------------------------------------------------


def test_the_worked_example_of_the_document_is_what_is_written() -> None:
    document = (Path(__file__).parents[2] / "docs" / "internals" / "merge.md").read_text()
    example = document.partition("## Worked example")[2].partition("## Incremental pushes")[0]
    lines = [match[0] for line in example.splitlines() if (match := re.match(r"    ((?:[0-9a-f]{2} ?)+)(?=  |$)", line))]
    shown = [bytes.fromhex("".join(part)) for part in (lines[:2], lines[2:6], lines[6:])]
    schema = {
        "type": "record",
        "name": "Member",
        "fields": [
            {"name": "clicks", "type": "long", "default": 0},
            {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        ],
    }
    writer = writer_number("clicks-job")
    assert f"{writer:#x}" in example
    put_value = encode_envelope(Op.PUT, 1, writer, 0, Codec(schema).encode({"clicks": 1, "tags": ["a"]}))
    patches = PatchEncoder(parse(schema), "the test")  # type: ignore[arg-type]
    patch_value = encode_envelope(Op.PATCH, 1, writer, 0, patches.encode({"clicks": 7}, {"tags": ["b"]}))
    state = merge(state_of(decode_write(patch_value, 2000)), state_of(decode_write(put_value, 1000)))
    assert shown == [put_value, patch_value, encode_state(state)]
    codecs = RowCodecs(lambda number: schema, schema)
    assert apply(state, None, since_ms=0, codecs=codecs) == {"clicks": 7, "tags": ["a", "b"]}
    assert apply(state, {"clicks": 5, "tags": ["z"]}, since_ms=1500, codecs=codecs) == {"clicks": 7, "tags": ["z", "b"]}
