"""The wire: what is packed is unpacked, errors come back as they were, and broken bodies are refused with the place."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.test_errors import EXAMPLES
from fondaco.core import errors
from fondaco.core.errors import FondacoError, InputError
from fondaco.dataplane import faults, wire
from fondaco.schema import Codec
from fondaco.store.keys import KeyCodec
from fondaco.store.writes import batch_of

KEYS = st.lists(st.binary(max_size=20), max_size=20)


def joined(pieces: list[bytes | memoryview]) -> bytes:
    return b"".join(pieces)


def blocks_of(data: bytes, cut: int = 1 << 30) -> list[wire.Block]:
    splitter = wire.BlockSplitter()
    found = [block for at in range(0, len(data), cut) for block in splitter.feed(data[at : at + cut])]
    assert splitter.complete
    return found


def test_the_wire_is_imported_without_a_compiler_and_an_event_loop() -> None:
    heavy = "numba", "llvmlite", "uvloop", "httptools", "pyarrow", "sqlalchemy", "duckdb"
    code = f"import sys, fondaco.dataplane.wire; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# -- errors ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_crosses_the_wire_and_is_the_same(error: FondacoError) -> None:
    again = wire.error_from(wire.status_of(error), wire.error_body(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.retryable == error.retryable


def test_every_class_of_the_tree_has_a_status_of_its_family() -> None:
    for kind in faults._CLASSES.values():
        status = wire.status_of(kind.__new__(kind))
        family = 5 if issubclass(kind, (errors.StorageError, errors.UnavailableError, errors.DeadlineExceededError)) else 4
        assert status // 100 == family or kind is FondacoError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InputError("x"), 400),
        (errors.KeyTypeError("'x'", "long"), 400),
        (errors.AuthenticationError("no token"), 401),
        (errors.PermissionDeniedError("a", "read", "b"), 403),
        (errors.FieldNotFoundError("x"), 404),
        (errors.NoCurrentVersionError("m"), 409),
        (errors.LimitError("keys", 3, 2), 413),
        (errors.QuotaExceededError("a", "b", "1/s", 0.2), 429),
        (errors.UnavailableError("a", "b"), 503),
        (errors.DeadlineExceededError("get", 1.0), 504),
        (errors.DiskFullError("d"), 507),
        (errors.CorruptFileError("f", "heap", "x"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_the_status_of_an_error_is_that_of_its_nearest_class(error: FondacoError, status: int) -> None:
    assert wire.status_of(error) == status


def test_an_error_of_a_newer_server_keeps_its_message() -> None:
    error = wire.error_from(400, b'{"error": "MoonError", "args": [1], "message": "the moon is down", "retryable": false}')
    assert "the moon is down" in str(error)
    older = wire.error_from(404, b'{"error": "VersionNotFoundError", "args": [1, 2, 3, 4, 5], "message": "gone", "retryable": false}')
    assert "gone" in str(older)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 1}', b"\xff\xfe"])
def test_an_answer_that_is_not_ours_is_a_protocol_error_or_an_unavailable_peer(body: bytes) -> None:
    assert type(wire.error_from(404, body, "10.0.0.1:80")) is errors.ProtocolError
    assert type(wire.error_from(503, body, "10.0.0.1:80")) is errors.UnavailableError


def test_only_a_quota_says_when_to_come_back() -> None:
    assert wire.retry_after(errors.QuotaExceededError("a", "b", "1/s", 1.2)) == 2
    assert wire.retry_after(errors.LimitError("a", 2, 1)) is None


# -- keys in paths ----------------------------------------------------------------------------------------------------------------------


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.integers()))
@settings(max_examples=80)
def test_a_key_in_a_path_comes_back(key: str | int) -> None:
    parts = urlsplit(wire.row_path("members", key))
    if parts.query:
        assert parse_qs(parts.query)["key"] == [f'"{key}"']
    else:
        assert unquote(parts.path.removeprefix("/v1/stores/members/rows/")) == str(key)
        assert parts.path.count("/") == 5


@given(st.binary(max_size=40))
@settings(max_examples=50)
def test_key_bytes_in_a_query_come_back(key: bytes) -> None:
    (text,) = parse_qs(urlsplit(wire.row_path_of_bytes("m", key)).query, keep_blank_values=True)["avro"]
    assert wire.decode_avro_key(text) == key


@pytest.mark.parametrize("text", ["a", "a b=", "%%%", "ä"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="base64"):
        wire.decode_avro_key(text)


def test_a_vector_in_a_query_comes_back() -> None:
    path = urlsplit(wire.compute_path("m", "dot", "a b", np.float32([1.5, -2.0, np.inf]), top_k=3))
    asked = parse_qs(path.query)
    assert (path.path, asked["operation"], asked["field"], asked["top_k"]) == ("/v1/stores/m/compute", ["dot"], ["a b"], ["3"])
    assert wire.decode_vector(asked["vector"][0]).tolist() == [1.5, -2.0, np.inf]


@pytest.mark.parametrize("vector", [[[1.0]], "abc", [1, "x"], 3.0])
def test_what_is_no_row_of_numbers_is_no_vector(vector: object) -> None:
    with pytest.raises(InputError, match="one row of numbers"):
        wire.compute_path("m", "dot", "f", vector)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="float64"):
        wire.decode_vector("AAAA")


# -- bodies -----------------------------------------------------------------------------------------------------------------------------


@given(KEYS)
@settings(max_examples=60)
def test_keys_come_back(keys: list[bytes]) -> None:
    body = wire.pack_key_list(keys)
    data, offsets = wire.unpack_keys(body)
    assert [data[a:b].tobytes() for a, b in pairwise(offsets)] == keys
    assert wire.pack_keys(data, offsets) == body


@given(KEYS, st.integers(0, 3), st.sampled_from([None, "os", "disk"]))
@settings(max_examples=40)
def test_writes_come_back(keys: list[bytes], extra: int, durability: str | None) -> None:
    sent = batch_of(keys, [key + b"v" * extra for key in keys], range(-5, len(keys) - 5))
    got, asked = wire.unpack_writes(wire.pack_writes(sent, durability))
    assert asked == durability
    for name in ("keys", "key_offsets", "values", "value_offsets", "timestamps_ms"):
        assert (getattr(got, name) == getattr(sent, name)).all()


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=9)), max_size=9), min_size=1, max_size=4), st.integers(1, 50))
@settings(max_examples=60)
def test_rows_come_back_in_blocks_however_the_bytes_arrive(groups: list[list[tuple[int, bytes]]], cut: int) -> None:
    sent = b""
    for number, group in enumerate(groups):
        data = b"".join(row for _, row in group)
        offsets = np.cumsum([0, *(len(row) for _, row in group)])
        sent += joined(wire.pack_rows(np.array([schema for schema, _ in group], np.int32), offsets, data, last=number == len(groups) - 1))
    got = []
    for block in blocks_of(sent, cut):
        rows = wire.unpack_rows(block)
        got.append([(int(s), rows.data[rows.offsets[i] : rows.offsets[i + 1]].tobytes()) for i, s in enumerate(rows.schemas)])
    assert got == groups


@pytest.mark.parametrize(
    "dtype", ["bool", "int32", "int64", "uint8", "float16", "float32", "float64", "M8[D]", "M8[us]", "m8[ns]", ml_dtypes.bfloat16]
)
@pytest.mark.parametrize("dim", [None, 0, 1, 5])
def test_columns_of_numbers_come_back(dtype: object, dim: int | None) -> None:
    shape = (7,) if dim is None else (7, dim)
    values = np.arange(7 * (1 if dim is None else dim)).reshape(shape).astype(np.int64).astype(dtype)
    found = np.arange(7) % 3 > 0
    sent = joined(wire.pack_columns(found, [wire.WireColumn(values, found), wire.WireColumn(values[::-1], None)]))
    (block,) = blocks_of(sent)
    got = wire.unpack_columns(block)
    assert (got.found == found).all()
    first, second = got.columns
    assert first.valid is not None
    assert (first.valid == found).all()
    assert second.valid is None
    for expected, column in ((values, first.values), (values[::-1], second.values)):
        assert column.dtype == expected.dtype
        assert column.shape == expected.shape
        assert (column == expected).all()


def test_a_column_of_objects_does_not_travel_raw() -> None:
    with pytest.raises(InputError, match="Arrow"):
        wire.pack_columns(np.ones(1, np.bool_), [wire.WireColumn(np.array(["a"], object), None)])


@pytest.mark.parametrize("dim", [None, 3])
def test_scores_come_back(dim: int | None) -> None:
    values = np.random.default_rng(1).random((9,) if dim is None else (9, dim))
    valid = np.arange(9) % 2 == 0
    (block,) = blocks_of(joined(wire.pack_scores(values, valid)))
    got = wire.unpack_scores(block)
    assert isinstance(got, wire.ScoresBlock)
    assert (got.values == values).all()
    assert (got.valid == valid).all()


def test_the_best_scores_come_back() -> None:
    (block,) = blocks_of(joined(wire.pack_top_k(wire.TopK(np.array([4, 2]), np.array([0.5, 0.25])))))
    got = wire.unpack_scores(block)
    assert isinstance(got, wire.TopK)
    assert got.positions.tolist() == [4, 2]
    assert got.scores.tolist() == [0.5, 0.25]


def test_an_error_after_the_answer_began_is_raised_where_the_block_is_read() -> None:
    error = errors.DeadlineExceededError("rows", 0.5, "3000 of 9000 keys")
    (block,) = blocks_of(joined(wire.pack_error(error)))
    with pytest.raises(errors.DeadlineExceededError, match="3000 of 9000"):
        wire.unpack_rows(block)


@given(st.binary(max_size=120))
@settings(max_examples=150)
def test_bytes_that_are_no_body_are_refused_with_the_place(body: bytes) -> None:
    for unpack in (wire.unpack_keys, wire.unpack_writes):
        try:
            unpack(body)
        except InputError as error:
            assert "byte" in str(error)  # noqa: PT017  # most random bytes are refused, a few are bodies
    for flags in (wire.BlockFlag.LAST, wire.BlockFlag.LAST | wire.BlockFlag.TOP_K):
        for count in (0, 3, 1 << 31):
            for read in (wire.unpack_rows, wire.unpack_columns, wire.unpack_scores):
                try:
                    read(wire.Block(count, flags, memoryview(body)))
                except InputError as error:
                    assert str(error)  # noqa: PT017


@given(st.binary(min_size=1, max_size=80))
@settings(max_examples=100)
def test_bytes_that_are_no_blocks_are_refused_or_wait_for_more(data: bytes) -> None:
    splitter = wire.BlockSplitter()
    try:
        list(splitter.feed(data))
    except InputError as error:
        assert "block" in str(error)  # noqa: PT017


def test_bytes_after_the_last_block_are_refused() -> None:
    splitter = wire.BlockSplitter()
    best = joined(wire.pack_top_k(wire.TopK(np.array([4]), np.array([0.5]))))
    with pytest.raises(InputError, match="after its last block"):
        list(splitter.feed(best + b"x"))


def example(name: str) -> bytes:
    """The bytes of a worked example in the protocol's document."""
    document = (Path(__file__).parents[2] / "docs/internals/data-plane.md").read_text()
    lines = document.partition(f"<!-- example: {name} -->\n")[2].partition("\n\n")[0].splitlines()
    return bytes.fromhex("".join(line[10:58] for line in lines))


def test_the_worked_examples_are_what_is_packed() -> None:
    encode = KeyCodec("long").encode
    assert example("keys") == wire.pack_key_list([encode(42), encode(7), encode(1000)])
    schema = {"type": "record", "name": "R", "fields": [{"name": "clicks", "type": "long"}, {"name": "name", "type": "string"}]}
    rows = [Codec(schema).encode({"clicks": 3, "name": "n"}), b"", Codec(schema).encode({"clicks": 1000, "name": "az"})]
    offsets = np.cumsum([0, *map(len, rows)])
    assert example("rows") == joined(wire.pack_rows(np.array([1, 0, 1], np.int32), offsets, b"".join(rows)))
    found, vectors = np.array([True, False, True]), np.array([[1, 2], [0, 0], [0.5, -1]], np.float32)
    assert example("columns") == joined(wire.pack_columns(found, [wire.WireColumn(vectors, found)]))
