"""Envelopes, patches, timestamps and writers' numbers: bytes that never change, and what is refused."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DecodeError, FieldNotFoundError, InputError, RowError
from fondaco.schema.parse import parse
from fondaco.store._patch import PatchEncoder
from fondaco.store.writes import (
    Edit,
    EditKind,
    Op,
    Stamp,
    Write,
    ancestors,
    batch_of,
    check_timestamp,
    decode_patch,
    decode_write,
    encode_envelope,
    heartbeat,
    pack_edit,
    pack_patch,
    writer_number,
    xxh64,
)

SCHEMA = {
    "type": "record",
    "name": "Member",
    "fields": [
        {"name": "clicks", "type": "int"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "map", "values": "int"}},
        {
            "name": "address",
            "type": {
                "type": "record",
                "name": "A",
                "fields": [{"name": "city", "type": "string"}, {"name": "zips", "type": {"type": "array", "items": "int"}}],
            },
        },
        {"name": "home", "type": ["null", "A"]},
        {"name": "odd", "type": ["null", "int", "string"]},
        {"name": "empty", "type": {"type": "record", "name": "E", "fields": []}},
    ],
}
ENCODER = PatchEncoder(parse(SCHEMA), "store 'members'")  # type: ignore[arg-type]


def edits(*args: Any, **kwargs: Any) -> list[Edit]:
    return decode_patch(ENCODER.encode(*args, **kwargs))


# -- envelopes ------------------------------------------------------------------------------------------------------------------------


def test_an_envelope_has_the_layout_of_the_docs() -> None:
    value = encode_envelope(Op.PUT, 3, 0x0102030405060708, 9, b"row")
    assert value.hex() == "01010000" + "03000000" + "0807060504030201" + "0900000000000000" + b"row".hex()
    assert decode_write(value, 77) == Write(Op.PUT, Stamp(77, 0x0102030405060708, 9), 3, b"row")
    assert decode_write(memoryview(value), 77).payload == b"row"


def test_a_record_without_a_value_is_a_delete_by_nobody() -> None:
    assert decode_write(None, 5) == Write(Op.DELETE, Stamp(5, 0, 0), 0, b"")


def test_a_heartbeat_is_an_envelope_without_payload() -> None:
    assert decode_write(heartbeat(), 5) == Write(Op.HEARTBEAT, Stamp(5, 0, 0), 0, b"")


@pytest.mark.parametrize(
    "value", [b"", bytes(23), bytes(24), b"\x02" + heartbeat()[1:], b"\x01\x05" + heartbeat()[2:], b"\x01\x00" + bytes(22)]
)
def test_what_is_no_envelope_of_ours_is_refused(value: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_write(value, 0)


def test_flags_that_are_not_known_are_refused() -> None:
    with pytest.raises(DecodeError, match="flags 256"):
        decode_write(heartbeat()[:2] + b"\x00\x01" + heartbeat()[4:], 0)


def test_a_batch_holds_its_writes_in_columns() -> None:
    batch = batch_of([b"a", b"bc"], [b"", b"xyz"], [1, 2])
    assert len(batch) == 2
    assert batch.key_offsets.tolist() == [0, 1, 3]
    assert batch.values.tobytes() == b"xyz"
    assert batch.byte_count == 6
    assert len(batch_of([], [], [])) == 0


# -- timestamps and writers -----------------------------------------------------------------------------------------------------------


def test_a_timestamp_before_1970_or_more_than_a_day_ahead_is_refused() -> None:
    assert check_timestamp(0, 0) == 0
    assert check_timestamp(86_400_000, 0) == 86_400_000
    with pytest.raises(InputError, match="not negative"):
        check_timestamp(-1, 0)
    with pytest.raises(InputError, match="is it in milliseconds"):
        check_timestamp(1_700_000_000_000_000, 1_700_000_000_000)


@pytest.mark.parametrize("moment", ["5", 5.0, None, True])
def test_a_timestamp_that_is_no_whole_number_is_refused(moment: object) -> None:
    with pytest.raises(InputError, match="whole number of milliseconds"):
        check_timestamp(moment, 0)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=100))
def test_a_writers_number_is_the_xxh64_of_its_id(data: bytes) -> None:
    assert xxh64(data) == xxhash.xxh64_intdigest(data)


def test_a_writer_has_an_id() -> None:
    assert writer_number("clicks-job") == xxhash.xxh64_intdigest(b"clicks-job")
    for wrong in ("", None, 7):
        with pytest.raises(InputError, match="a writer's id"):
            writer_number(wrong)  # type: ignore[arg-type]


# -- patches --------------------------------------------------------------------------------------------------------------------------


def test_a_patch_names_fields_by_their_paths() -> None:
    assert edits({"clicks": 3, "address": {"city": "Bern"}, "home": None}) == [
        Edit(EditKind.SET, "clicks", b"", b"\x06"),
        Edit(EditKind.SET, "address.city", b"", b"\x08Bern"),
        Edit(EditKind.SET, "home", b"", b"\x00"),
    ]
    assert edits({"home": {"city": "x"}}) == edits({"home.city": "x"}) == [Edit(EditKind.SET, "home.city", b"", b"\x02x")]
    assert edits({"odd": "x", "empty": {}})[0] == Edit(EditKind.SET, "odd", b"", b"\x04\x02x")
    assert edits({"counts": {"a": 1}}) == [Edit(EditKind.SET, "counts", b"", b"\x02\x02a\x02\x00")]


def test_elements_are_named_by_item_or_key() -> None:
    assert edits({}, {"tags": ["a"], "counts": {"k": 2}}, {"tags": ["b"], "counts": ["z"]}) == [
        Edit(EditKind.ADD, "tags", b"\x02a", b""),
        Edit(EditKind.ADD, "counts", b"k", b"\x04"),
        Edit(EditKind.REMOVE, "tags", b"\x02b", b""),
        Edit(EditKind.REMOVE, "counts", b"z", b""),
    ]
    assert edits({}, {"address": {"zips": [1]}}) == edits({}, {"address.zips": {1}}) == [Edit(EditKind.ADD, "address.zips", b"\x02", b"")]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (({"clics": 1},), "clicks"),
        (({"address": {"cty": "x"}},), "city"),
        (({"address.cty": "x"},), "city"),
        (({}, {"tag": ["x"]}), "tags"),
    ],
)
def test_an_unknown_field_suggests_the_nearest(arguments: Any, near: str) -> None:
    with pytest.raises(FieldNotFoundError, match=f"store 'members'.*did you mean '{near}'"):
        ENCODER.encode(*arguments)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (({"clicks": "many"},), "clicks", "many"),
        (({"clicks": None},), "clicks", "None"),
        (({"tags": ["a", 5]},), "tags[1]", "5"),
        (({"counts": {"a": "x"}},), "counts['a']", "x"),
        (({"address": {"city": 7}},), "address.city", "7"),
        (({"address": 7},), "address", "7"),
        (({"address": None},), "address", "None"),
        (({}, {"tags": "a"}), "tags", "a"),
        (({}, {"tags": [1]}), "tags[0]", "1"),
        (({}, {"counts": ["a"]}), "counts", "a"),
        (({}, {"counts": {1: 1}}), "counts", "1"),
        (({}, None, {"counts": {"a": 1}}), "counts", "a"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_field(arguments: Any, field: str, value: str) -> None:
    with pytest.raises(RowError) as info:
        ENCODER.encode(*arguments)
    assert info.value.field == field
    assert value in info.value.value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "changes nothing"),
        (({}, {"tags": []}), "changes nothing"),
        ((7,), "takes a mapping"),
        (({}, ["tags"]), "takes a mapping"),
        (({}, {"clicks": [1]}), "neither"),
        (({"tags": ["x"]}, {"tags": ["y"]}), "set and changed"),
        (({}, {"tags": ["y"]}, {"tags": ["y"]}), "named twice"),
        (({"address": {"city": "a"}, "address.city": "b"},), "set twice"),
        (({"home": None, "home.city": "b"},), "as a whole"),
    ],
)
def test_a_patch_that_means_nothing_or_two_things_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ENCODER.encode(*arguments)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80))
def test_bytes_that_are_no_patch_are_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_patch(data)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 255), st.data())
def test_a_patch_with_a_changed_byte_is_another_patch_or_a_decode_error(byte: int, data: Any) -> None:
    payload = bytearray(ENCODER.encode({"clicks": 3}, {"tags": ["a", "b"]}, {"counts": ["z"]}))
    payload[data.draw(st.integers(0, len(payload) - 1))] = byte
    with contextlib.suppress(DecodeError):
        decode_patch(bytes(payload))
    with contextlib.suppress(DecodeError):
        decode_patch(bytes(payload[: data.draw(st.integers(0, len(payload)))]))


def test_the_records_around_a_field_are_its_ancestors() -> None:
    assert list(ancestors("a.b.c")) == ["a.b", "a"]
    assert list(ancestors("a")) == []


def test_a_patch_of_a_record_in_itself_goes_only_so_deep() -> None:
    node = {"type": "record", "name": "Node", "fields": [{"name": "value", "type": "int"}, {"name": "next", "type": ["null", "Node"]}]}
    encoder = PatchEncoder(parse(node), "store 'nodes'")  # type: ignore[arg-type]
    assert decode_patch(encoder.encode({"next": {"next": {"value": 1}}}))[0].path == "next.next.value"
    endless: dict[str, Any] = {}
    endless["next"] = endless
    with pytest.raises(InputError, match="128 records deep"):
        encoder.encode(endless)
    hostile = pack_patch([pack_edit(EditKind.SET, ("next." * 9000 + "value").encode(), b"", b"\x02")])
    with pytest.raises(DecodeError, match="more than 128 names"):
        decode_patch(hostile)


def test_writing_and_merging_bring_in_no_numba() -> None:
    script = (
        "import sys; from fondaco.store import merge, positions, writer; from fondaco.store.keys import KeyCodec;"
        "from fondaco.store.write_encoder import WriteEncoder;"
        "e = WriteEncoder('m', KeyCodec('long'), {'type': 'record', 'name': 'R', 'fields': [{'name': 'a', 'type': 'int'}]}, 1);"
        "e.put(1, {'a': 1}); e.patch(1, {'a': 2}); print([m for m in ('numba', 'sqlalchemy', 'duckdb') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
