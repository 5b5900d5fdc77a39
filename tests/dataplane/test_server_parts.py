"""The parts of the server that need no server: quotas, tokens, statistics, JSON of rows, keys of requests."""

from __future__ import annotations

import hashlib
import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.catalog.rows import QuotaRow, TokenRow
from fondaco.core.errors import AuthenticationError, InputError, KeyTypeError, PermissionDeniedError, QuotaExceededError
from fondaco.dataplane import stats, wire
from fondaco.dataplane._key_kernels import GOOD, first_bad_blob, first_bad_integer
from fondaco.dataplane.auth import Access
from fondaco.dataplane.json_rows import from_json, to_json
from fondaco.dataplane.keys import checked, key_of_path, packed_keys
from fondaco.dataplane.quotas import Bucket, Quotas
from fondaco.schema import Codec, vector
from fondaco.store.keys import KeyCodec

# -- quotas -------------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 300)), max_size=60), st.floats(1, 200))
@settings(max_examples=60)
def test_a_bucket_lets_no_more_through_than_its_rate_and_one_request(requests: list[tuple[float, int]], rate: float) -> None:
    bucket, now, passed, largest = Bucket(rate, 0.0), 0.0, 0, 0
    for pause, units in requests:
        now += pause
        wait_s = bucket.take(units, now)
        if wait_s == 0.0:
            passed, largest = passed + units, max(largest, units)
        else:
            assert bucket.take(units, now + wait_s + 1e-6) == 0.0  # whoever waits as long as told is served
            now, passed, largest = now + wait_s + 1e-6, passed + units, max(largest, units)
        assert passed <= rate * now + rate + largest + 1e-6


def test_the_most_particular_quota_counts_and_a_change_keeps_what_is_used() -> None:
    quotas = Quotas()
    quotas.replace([QuotaRow("*", "*", 1.0, None), QuotaRow("s", "trainer", 5.0, None)])
    for _ in range(5):
        quotas.take("s", "trainer", "reads", 1, 0.0)
    with pytest.raises(QuotaExceededError, match="5 reads a second"):
        quotas.take("s", "trainer", "reads", 1, 0.0)
    quotas.take("s", "trainer", "writes", 1000, 0.0)
    quotas.take("t", "trainer", "reads", 1, 0.0)
    with pytest.raises(QuotaExceededError):
        quotas.take("t", "trainer", "reads", 1, 0.0)
    quotas.replace([QuotaRow("*", "*", 1000.0, None), QuotaRow("s", "trainer", 5.0, None)])
    quotas.take("t", "trainer", "reads", 1, 0.0)
    with pytest.raises(QuotaExceededError):
        quotas.take("s", "trainer", "reads", 1, 0.0)


# -- tokens -------------------------------------------------------------------------------------------------------------------------------


def token(name: str, secret: str, **more: int | None) -> TokenRow:
    return TokenRow(name, hashlib.sha256(secret.encode()).hexdigest(), {"s": "write"}, 0, more.get("expires"), more.get("revoked"))


def test_a_caller_is_who_has_the_secret() -> None:
    access = Access([token("a", "x"), token("b", "y", expires=1), token("c", "z", revoked=1)], required=True)
    caller = access.caller(b"Bearer x")
    assert caller.name == "a"
    assert caller.may("read", "s")
    assert not caller.may("admin", "s")
    with pytest.raises(PermissionDeniedError):
        caller.check("read", "t")
    for header, reason in {
        None: "no token",
        b"Bearer y": "expired",
        b"Bearer z": "revoked",
        b"Bearer w": "not known",
        b"x": "form",
    }.items():
        with pytest.raises(AuthenticationError, match=reason):
            access.caller(header)


def test_a_token_that_is_good_until_later_is_good_now() -> None:
    access = Access([token("a", "x", expires=time.time_ns() // 1000 + 60_000_000)], required=False)
    assert access.caller(b"bearer  x").name == "a"
    assert access.caller(None).may("admin", "*")


# -- statistics ---------------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 200_000_000_000))
@settings(max_examples=200)
def test_a_duration_lies_below_the_end_of_its_bucket_and_not_far(ns: int) -> None:
    bucket = stats.bucket_of(ns)
    upper = stats.upper_us(bucket) * 1000
    if bucket < stats.BUCKETS - 1:
        assert ns < upper
        assert bucket == 0 or upper <= max(ns * 1.26, 1280)


def test_a_percentile_is_at_most_a_bucket_off() -> None:
    counts = [0] * stats.BUCKETS
    durations = sorted(int(random.Random(3).lognormvariate(11, 1)) for _ in range(10_000))
    for ns in durations:
        counts[stats.bucket_of(ns)] += 1
    for share in (0.5, 0.99):
        exact = durations[int(share * len(durations)) - 1] / 1000
        found = stats.percentile_us(counts, share)
        assert found is not None
        assert exact <= found <= exact * 1.26
    assert stats.percentile_us([0] * stats.BUCKETS, 0.99) is None


def test_a_recent_percentile_forgets_what_was_asked_before() -> None:
    store, recent = stats.StoreStats(), stats.RecentPercentile()
    for _ in range(100):
        store.answered(stats.GET, 1, 0, 9, 1_000_000)
    slow, count = recent.take_us([store.get_latencies])
    store.answered(stats.GET, 1, 0, 9, 2_000)
    quick, total = recent.take_us([store.get_latencies])
    assert slow is not None
    assert quick is not None
    assert slow > 900 > 3 > quick
    assert (count, total) == (100, 101)
    assert recent.take_us([store.get_latencies])[0] is None


# -- JSON ---------------------------------------------------------------------------------------------------------------------------------

FLOATS = st.floats(width=32, allow_nan=False) | st.just(math.nan)  # of the many NaNs JSON knows one
TYPES = {
    "boolean": (st.booleans(), "boolean"),
    "long": (st.integers(-(1 << 63), (1 << 63) - 1), "long"),
    "double": (st.floats(allow_nan=False) | st.just(math.nan), "double"),
    "string": (st.text(st.characters(exclude_categories=["Cs"]), max_size=8), "string"),
    "bytes": (st.binary(max_size=8), "bytes"),
    "fixed": (st.binary(min_size=3, max_size=3), {"type": "fixed", "name": "F", "size": 3}),
    "enum": (st.sampled_from("AB"), {"type": "enum", "name": "E", "symbols": ["A", "B"]}),
    "date": (st.dates(), {"type": "int", "logicalType": "date"}),
    "time": (st.times(), {"type": "long", "logicalType": "time-micros"}),
    "at": (st.datetimes(timezones=st.just(__import__("datetime").UTC)), {"type": "long", "logicalType": "timestamp-micros"}),
    "local": (st.datetimes(), {"type": "long", "logicalType": "local-timestamp-micros"}),
    "uuid": (st.uuids(), {"type": "string", "logicalType": "uuid"}),
    "decimal": (st.decimals(-999, 999, places=2), {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
    "array": (st.lists(st.integers(-5, 5), max_size=4), {"type": "array", "items": "int"}),
    "floats": (st.lists(FLOATS, max_size=4), {"type": "array", "items": "float"}),
    "map": (st.dictionaries(st.text("ab", max_size=3), st.booleans(), max_size=3), {"type": "map", "values": "boolean"}),
    "maybe": (st.none() | st.binary(max_size=4), ["null", "bytes"]),
    "union": (
        st.none() | st.integers(-9, 9) | st.lists(st.integers(0, 3), max_size=3),
        ["null", "long", {"type": "array", "items": "int"}],
    ),
    "vector": (st.lists(FLOATS, min_size=3, max_size=3), vector(3, "float32", "V3")),
    "bfloat16": (st.lists(st.sampled_from([0.5, -2.0, math.nan]), min_size=2, max_size=2), vector(2, "bfloat16", "V2")),
    "record": (
        st.fixed_dictionaries({"x": st.binary(max_size=3)}),
        {"type": "record", "name": "R", "fields": [{"name": "x", "type": "bytes"}]},
    ),
}


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_value_of_any_type_goes_through_json_unchanged(name: str, data: st.DataObject) -> None:
    import msgspec

    values, kind = TYPES[name]
    codec = Codec({"type": "record", "name": "Row", "fields": [{"name": "f", "type": kind}]})
    encoded = codec.encode({"f": data.draw(values)})
    text = msgspec.json.encode(to_json(codec.decode(encoded)))
    assert codec.encode(from_json(codec.schema, msgspec.json.decode(text))) == encoded


def test_a_mean_value_is_named_by_its_path() -> None:
    schema = {"type": "record", "name": "Row", "fields": [{"name": "days", "type": {"type": "array", "items": TYPES["date"][1]}}]}
    with pytest.raises(InputError, match=r"expected a date as text.*'21.11.2026' at \$\.days\[1\]"):
        from_json(Codec(schema).schema, {"days": ["2026-11-21", "21.11.2026"]})


# -- keys ---------------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=12), max_size=8), st.sampled_from(["int", "long", "string", "bytes"]))
@settings(max_examples=200, deadline=None)
def test_the_kernels_take_exactly_what_the_codec_makes(keys: list[bytes], kind: str) -> None:
    codec = KeyCodec(kind)
    data = np.frombuffer(b"".join(keys) or b"\0", np.uint8)
    offsets = np.cumsum([0, *map(len, keys)])
    found = first_bad_integer(data, offsets, 32 if kind == "int" else 64) if kind in ("int", "long") else first_bad_blob(data, offsets)
    assert found == next((i for i, key in enumerate(keys) if not made_by(codec, key)), GOOD)


def made_by(codec: KeyCodec, key: bytes) -> bool:
    try:
        if codec.kind == "string":
            codec = KeyCodec("bytes")  # the kernels do not look whether text is UTF-8
        return codec.encode(codec.decode(key)) == key
    except InputError:
        return False


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=20))
@settings(max_examples=60, deadline=None)
def test_packed_keys_hash_as_the_codec_hashes_them(values: list[int]) -> None:
    codec = KeyCodec("long")
    expected = codec.encode_many(values)
    got = packed_keys(codec, wire.pack_keys(expected.data, expected.offsets))
    assert got.hashes.tolist() == expected.hashes.tolist()


def test_text_that_is_written_must_be_utf_8() -> None:
    codec, data = KeyCodec("string"), np.frombuffer(b"\x02\xff", np.uint8)
    offsets = np.array([0, 2])
    checked(codec, data, offsets)
    with pytest.raises(KeyTypeError, match="0x02ff"):
        checked(codec, data, offsets, strict=True)


def test_an_integer_in_a_path_may_be_percent_encoded() -> None:
    assert key_of_path(KeyCodec("long"), b"%2D%31%37") == -17
    with pytest.raises(KeyTypeError, match="'%31'"):
        key_of_path(KeyCodec("long"), b"%2531")


@given(st.text(max_size=12))
@settings(max_examples=100)
def test_a_path_names_an_integer_only_in_its_plain_form(text: str) -> None:
    codec = KeyCodec("long")
    plain = text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() and len(text) <= 20
    try:
        assert key_of_path(codec, text.encode()) == int(text)
        assert plain
    except KeyTypeError:
        assert not plain
