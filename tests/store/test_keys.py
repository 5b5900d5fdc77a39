"""Keys: one and many give the same bytes, Avro's; and nothing of another type gets through."""

from __future__ import annotations

import io
import uuid
from datetime import date

import fastavro
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import ColumnNotFoundError, KeyTypeError, SchemaError
from fondaco.store.keys import EncodedKeys, KeyCodec

ROUTE = {
    "type": "record",
    "name": "Route",
    "fields": [{"name": "origin", "type": "string"}, {"name": "number", "type": "int"}],
}
ROUTES = [{"origin": "JFK", "number": 7}, {"origin": "Ünal", "number": -1}, {"origin": "", "number": 2**31 - 1}]


def slices(keys: EncodedKeys) -> list[bytes]:
    data = keys.data.tobytes()
    return [data[start:end] for start, end in zip(keys.offsets[:-1].tolist(), keys.offsets[1:].tolist(), strict=True)]


def packed(codec: KeyCodec, keys: object) -> list[bytes]:
    data, offsets = codec.pack_many(keys)
    return slices(EncodedKeys(data, offsets, np.empty(0, np.uint64)))


def by_fastavro(schema: object, key: object) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), key)
    return out.getvalue()


@given(
    case=st.one_of(
        st.tuples(st.just("long"), st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=8)),
        st.tuples(st.just("int"), st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=8)),
        st.tuples(st.just("string"), st.lists(st.text(max_size=80), max_size=8)),
        st.tuples(st.just("bytes"), st.lists(st.binary(max_size=80), max_size=8)),
    )
)
@settings(max_examples=100, deadline=None)
def test_keys_are_avro_bytes_hashed_by_xxh64_and_decode_to_themselves(case):
    kind, keys = case
    codec = KeyCodec(kind)
    expected = [by_fastavro(kind, key) for key in keys]
    many = codec.encode_many(keys)
    assert slices(many) == [codec.encode(key) for key in keys] == expected
    assert [int(hash_) for hash_ in many.hashes] == [xxhash.xxh64_intdigest(key) for key in expected]
    assert [codec.decode(key) for key in expected] == keys
    assert packed(codec, keys) == expected


@pytest.mark.parametrize(
    "keys",
    [
        [5, -3, 2**31 - 1],
        (5, -3, 2**31 - 1),
        iter([5, -3, 2**31 - 1]),
        {5: "a", -3: "b", 2**31 - 1: "c"}.keys(),
        [np.int64(5), np.int8(-3), 2**31 - 1],
        np.array([5, -3, 2**31 - 1]),
        np.array([5, -3, 2**31 - 1], np.int32)[:],
        np.array([5, 0, -3, 0, 2**31 - 1, 0])[::2],
        np.array([5, -3, 2**31 - 1], object),
        pa.array([5, -3, 2**31 - 1]),
        pa.array([9, 5, -3, 2**31 - 1], pa.int32())[1:],
        pa.chunked_array([[5], [], [-3, 2**31 - 1]]),
        pa.table({"other": [0, 0, 0], "key": [5, -3, 2**31 - 1]}),
        pd.Series([5, -3, 2**31 - 1]),
        pl.Series([5, -3, 2**31 - 1]),
    ],
    ids=lambda keys: type(keys).__module__ + "." + type(keys).__name__,
)
@pytest.mark.parametrize("kind", ["long", "int"])
def test_integers_come_in_any_container(kind, keys):
    if not isinstance(keys, (list, tuple, np.ndarray, pa.Array, pa.ChunkedArray, pa.Table)) and kind == "int":
        keys = [5, -3, 2**31 - 1]  # an iterator is used up by the first kind
    assert slices(KeyCodec(kind).encode_many(keys)) == [by_fastavro("long", key) for key in (5, -3, 2**31 - 1)]


def test_texts_come_in_any_container():
    texts = ["a", "", "ünï", "b" * 500]
    expected = [by_fastavro("string", text) for text in texts]
    large = pa.array(["zzz", *texts], pa.large_string())[1:]
    containers = [texts, np.array(texts), np.array(texts, object), pa.array(texts), large, large.cast(pa.string_view())]
    containers += [pa.array(texts).dictionary_encode(), pa.chunked_array([texts[:1], texts[1:]]), pd.Series(texts), pl.Series(texts)]
    containers += [pa.chunked_array([pa.array(texts).dictionary_encode()])]
    for container in containers:
        assert slices(KeyCodec("string").encode_many(container)) == expected, type(container)


def test_bytes_come_in_any_container():
    keys = [b"a", b"", b"\xff" * 300]
    expected = [by_fastavro("bytes", key) for key in keys]
    for container in (keys, [bytearray(b"a"), memoryview(b""), keys[2]], pa.array(keys), pa.array([b"-", *keys], pa.large_binary())[1:]):
        assert slices(KeyCodec("bytes").encode_many(container)) == expected
    fixed = pa.array([b"abc", b"def"], pa.binary(3))
    assert slices(KeyCodec("bytes").encode_many(fixed)) == [by_fastavro("bytes", key) for key in (b"abc", b"def")]


def test_no_keys_are_no_keys():
    for spec in ("long", "int", "string", "bytes", ROUTE):
        for none in ([], np.array([], np.int64), ()):
            if isinstance(none, np.ndarray) and spec not in ("long", "int"):
                continue
            assert len(KeyCodec(spec).encode_many(none)) == 0
    assert len(KeyCodec("string").encode_many(pa.array([], pa.string()))) == 0


WRONG = {
    "long": [True, np.True_, 1.0, np.float64(1), "1", b"1", None, 2**63, -(2**63) - 1, [1], {"key": 1}],
    "int": [True, 1.0, "1", None, 2**31, -(2**31) - 1, np.int64(2**40)],
    "string": [1, b"a", None, "\ud800", ["a"]],
    "bytes": ["a", 1, None, [1]],
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in WRONG.items() for key in keys], ids=repr)
def test_a_key_of_another_type_is_refused_alone_and_among_others(kind, key):
    good = {"long": 1, "int": 1, "string": "a", "bytes": b"a"}[kind]
    with pytest.raises(KeyTypeError, match=kind):
        KeyCodec(kind).encode(key)
    with pytest.raises(KeyTypeError, match=r"position 2") as caught:
        KeyCodec(kind).encode_many([good, good, key])
    assert kind in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        np.array([True, False]),
        np.array([1.0]),
        np.array([2**63], np.uint64),
        np.array(["a"]),
        pa.array([1, None]),
        pa.array([1.0]),
        pa.array([True]),
        pa.array(["a"]),
        pd.Series([1.5]),
        "a text is not many keys",
        b"1",
        {"key": 1},
    ],
)
def test_a_container_of_another_type_is_refused(keys):
    with pytest.raises(KeyTypeError):
        KeyCodec("long").encode_many(keys)


def test_text_from_arrow_that_is_not_utf8_is_refused():
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    with pytest.raises(KeyTypeError, match="UTF-8"):
        KeyCodec("string").encode_many(broken)
    with pytest.raises(KeyTypeError, match="null"):
        KeyCodec("string").encode_many(pa.array(["a", None]))


def test_record_keys_are_mappings_tuples_or_columns():
    codec = KeyCodec(ROUTE)
    expected = [by_fastavro(ROUTE, key) for key in ROUTES]
    table = pa.table({"number": pa.array([7, -1, 2**31 - 1], pa.int32()), "origin": ["JFK", "Ünal", ""], "other": [0, 0, 0]})
    structs = pa.array(ROUTES, pa.struct([("origin", pa.string()), ("number", pa.int32())]))
    tuples = [tuple(key.values()) for key in ROUTES]
    for keys in (ROUTES, tuples, table, table.combine_chunks().to_batches()[0], structs, pa.chunked_array([structs[:1], structs[1:]])):
        assert slices(codec.encode_many(keys)) == expected, type(keys)
    assert [codec.decode(key) for key in expected] == ROUTES
    assert (codec.kind, codec.name, codec.names) == ("record", None, ("origin", "number"))


@pytest.mark.parametrize(
    "key",
    [{"origin": "JFK"}, {"origin": "JFK", "number": 1, "more": 2}, {"origin": 7, "number": 7}, ("JFK",), ("JFK", 1, 2), "JFK", 7, None],
)
def test_a_record_key_that_does_not_fit_is_refused(key):
    codec = KeyCodec(ROUTE)
    with pytest.raises(KeyTypeError, match="origin: string, number: int"):
        codec.encode(key)
    with pytest.raises(KeyTypeError, match="position 1"):
        codec.encode_many([ROUTES[0], key])


def test_any_other_avro_type_can_be_a_key():
    day = KeyCodec({"name": "day", "type": {"type": "int", "logicalType": "date"}})
    assert (day.kind, day.name) == ("other", "day")
    assert day.decode(day.encode(date(2013, 1, 1))) == date(2013, 1, 1)
    assert (
        slices(day.encode_many([date(2013, 1, 1)]))
        == slices(day.encode_many(pa.array([date(2013, 1, 1)])))
        == [day.encode(date(2013, 1, 1))]
    )
    identity = KeyCodec({"name": "id", "type": {"type": "fixed", "name": "Id", "size": 16, "logicalType": "uuid"}})
    key = uuid.UUID(int=7)
    assert identity.encode(key) == key.bytes
    with pytest.raises(KeyTypeError):
        day.encode("2013-01-01 or so")


@pytest.mark.parametrize(
    ("spec", "kind", "names"),
    [
        ("long", "long", ("key",)),
        ({"type": "long"}, "long", ("key",)),
        ('"string"', "string", ("key",)),
        ({"name": "member_id", "type": "long"}, "long", ("member_id",)),
        ('{"name": "member_id", "type": "bytes"}', "bytes", ("member_id",)),
        (pa.field("tailnum", pa.string()), "string", ("tailnum",)),
        (pa.field("small", pa.int32()), "int", ("small",)),
        (pa.schema([("a", pa.int64()), ("b", pa.string())]), "record", ("a", "b")),
        (ROUTE, "record", ("origin", "number")),
        ({"type": "enum", "name": "Suit", "symbols": ["A", "B"]}, "other", ("key",)),
    ],
)
def test_a_key_schema_comes_in_many_forms_and_survives_json(spec, kind, names):
    codec = KeyCodec(spec)
    assert (codec.kind, codec.names) == (kind, names)
    assert KeyCodec(codec.to_json()) == codec
    assert KeyCodec(codec.to_json()).names == names


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (int, "long"),
        (str, "string"),
        (bytes, "bytes"),
        (pa.int64(), "long"),
        (pa.int32(), "int"),
        (pa.string(), "string"),
        (pa.binary(), "bytes"),
        (pa.date32(), "other"),
        (pa.struct([("a", pa.int64()), ("b", pa.string())]), "record"),
    ],
)
def test_types_of_python_and_arrow_are_key_schemas(spec, kind):
    assert KeyCodec(spec).kind == kind
    assert KeyCodec(spec) == KeyCodec(KeyCodec(spec).to_json())


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("double", "$"),
        ("float", "$"),
        (pa.float64(), "$"),
        ({"type": "map", "values": "long"}, "$"),
        ({"type": "array", "items": "double"}, r"$[]"),
        (pa.schema([("a", pa.int64()), ("b", pa.float32())]), "$.b"),
        ({"type": "record", "name": "K", "fields": [{"name": "a", "type": ["null", {"type": "map", "values": "int"}]}]}, "$.a"),
    ],
)
def test_types_whose_equal_values_have_unequal_bytes_are_no_keys(spec, path):
    with pytest.raises(SchemaError, match="cannot be in a key") as caught:
        KeyCodec(spec)
    assert caught.value.path == path


@pytest.mark.parametrize("keys", [5, None, 1.5, "JFK", {"origin": "JFK", "number": 7}])
def test_one_key_is_not_many(keys):
    for spec in ("long", ROUTE):
        with pytest.raises(KeyTypeError, match=r"got one .*get\(\) takes one key"):
            KeyCodec(spec).encode_many(keys)


def test_record_keys_come_as_lists_and_as_columns_of_any_kind():
    codec = KeyCodec(ROUTE)
    expected = [by_fastavro(ROUTE, key) for key in ROUTES]
    columns = {"number": [7, -1, 2**31 - 1], "origin": ["JFK", "Ünal", ""]}
    lists = [[key["origin"], key["number"]] for key in ROUTES]
    for keys in (
        lists,
        columns,
        pd.DataFrame(columns),
        pl.DataFrame(columns),
        {"number": np.array(columns["number"]), "origin": columns["origin"]},
    ):
        assert slices(codec.encode_many(keys)) == expected, type(keys)
        assert packed(codec, keys) == expected, type(keys)
    assert codec.encode(["JFK", 7]) == expected[0]
    with pytest.raises(ColumnNotFoundError, match="no column 'origin' in the keys"):
        codec.encode_many(pd.DataFrame({"number": [1]}))
    with pytest.raises(KeyTypeError, match=r"null as its field 'number' \(position 1\)"):
        codec.encode_many({"number": [1, None], "origin": ["a", "b"]})


def test_single_keys_come_as_a_column_of_any_table():
    for keys in ({"key": [1, 2]}, pd.DataFrame({"x": [0, 0], "key": [1, 2]}), pl.DataFrame({"key": [1, 2]})):
        assert slices(KeyCodec("long").encode_many(keys)) == slices(KeyCodec("long").encode_many([1, 2]))
    with pytest.raises(ColumnNotFoundError, match="no column 'key'"):
        KeyCodec("long").encode_many(pa.table({"x": [1]}))


def test_an_array_of_two_dimensions_is_not_many_keys():
    with pytest.raises(KeyTypeError, match=r"an array of shape \(2, 2\)"):
        KeyCodec("long").encode_many(np.ones((2, 2), np.int64))


@pytest.mark.parametrize("spec", ["null", ["null", "long"], "longs", {"type": "record", "name": "Empty", "fields": []}, 7, "{"])
def test_what_cannot_be_a_key_schema_is_refused(spec):
    with pytest.raises(SchemaError):
        KeyCodec(spec)


def test_messages_show_keys_and_cut_long_ones():
    assert KeyCodec("long").readable(by_fastavro("long", 42)) == "42"
    assert KeyCodec("string").readable(by_fastavro("string", "JFK")) == "'JFK'"
    assert KeyCodec(ROUTE).readable(by_fastavro(ROUTE, ROUTES[0])) == "{'origin': 'JFK', 'number': 7}"
    assert len(KeyCodec("string").readable(by_fastavro("string", "x" * 10_000))) <= 120
    for broken in (b"", b"\x80", b"\x04a", b"\xff" * 20):
        assert "0x" in KeyCodec("string").readable(broken) or KeyCodec("string").readable(broken) == "''"
