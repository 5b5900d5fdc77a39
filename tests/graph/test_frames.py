"""Frames: what is packed is read back; what is anything else is refused before memory is taken for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import LimitError, ProtocolError
from fondaco.graph.schema import DTYPES, numpy_dtype
from fondaco.graph.service import frames
from fondaco.graph.service.frames import (
    ANSWER_LIMITS,
    HEADER_BYTES,
    REQUEST_LIMITS,
    Entry,
    Header,
    Kind,
    Limits,
    Place,
    arrays_of,
    frame,
    pack_header,
    parse_header,
    parse_table,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "internals" / "graph-wire.md"
headers = st.builds(
    Header,
    kind=st.sampled_from([int(kind) for kind in Kind]),
    request=st.integers(0, 2**64 - 1),
    deadline_ms=st.integers(0, 2**32 - 1),
    meta_bytes=st.integers(0, REQUEST_LIMITS.meta_bytes),
    table_bytes=st.integers(0, REQUEST_LIMITS.table_bytes),
    arrays=st.integers(0, REQUEST_LIMITS.arrays),
    payload_bytes=st.integers(0, REQUEST_LIMITS.payload_bytes),
    slot=st.integers(0, 2**32 - 1),
    room=st.integers(0, 2**64 - 1),
    graph_version=st.integers(0, 2**64 - 1),
)


@st.composite
def array_maps(draw: Any) -> dict[str, Any]:
    found = {}
    for name in draw(st.lists(st.text(max_size=12), max_size=5, unique=True)):
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        dtype = numpy_dtype(draw(st.sampled_from(DTYPES)))
        values = np.frombuffer(draw(st.binary(min_size=64 * 8, max_size=64 * 8)), np.uint8)
        found[name] = (values[: int(np.prod(shape, dtype=int))] % 2).astype(dtype).reshape(shape)
    return found


def read(data: bytes, region: Any = None) -> tuple[Header, bytes, dict[str, Any]]:
    header = parse_header(data[:HEADER_BYTES], REQUEST_LIMITS, "peer")
    table = data[HEADER_BYTES + header.meta_bytes : HEADER_BYTES + header.head_bytes]
    payload = np.frombuffer(data[HEADER_BYTES + header.head_bytes :], np.uint8)
    assert len(payload) == header.payload_bytes
    entries = parse_table(table, header, "peer")
    return header, data[HEADER_BYTES : HEADER_BYTES + header.meta_bytes], arrays_of(entries, payload, region, "peer")


@given(headers)
@settings(max_examples=100)
def test_a_header_is_read_back_as_it_was_packed(header: Header) -> None:
    data = pack_header(header)
    assert len(data) == HEADER_BYTES
    assert parse_header(data, REQUEST_LIMITS, "peer") == header


@given(meta=st.binary(max_size=40), arrays=array_maps())
@settings(max_examples=100)
def test_a_frame_is_read_back_as_it_was_packed(meta: bytes, arrays: dict[str, Any]) -> None:
    data = b"".join(frame(Kind.QUERY, 9, meta, arrays, deadline_ms=250, graph_version=3))
    header, meta_read, arrays_read = read(data)
    assert (header.kind, header.request, header.deadline_ms, header.graph_version) == (Kind.QUERY, 9, 250, 3)
    assert meta_read == meta
    assert list(arrays_read) == list(arrays)
    for name, array in arrays.items():
        assert arrays_read[name].dtype == array.dtype
        assert arrays_read[name].shape == array.shape
        assert arrays_read[name].tobytes() == array.tobytes()


def test_every_dtype_of_a_feature_travels() -> None:
    arrays = {name: np.ones(3, numpy_dtype(name)) for name in DTYPES}
    assert arrays["bfloat16"].dtype == ml_dtypes.bfloat16
    _, _, read_back = read(b"".join(frame(Kind.QUERY, 1, b"", arrays)))
    assert {name: array.dtype for name, array in read_back.items()} == {name: array.dtype for name, array in arrays.items()}


def test_an_array_in_a_slot_leaves_the_payload_to_the_others() -> None:
    region = np.zeros(256, np.uint8)
    region[64:72].view(np.int64)[0] = 41
    arrays = {"here": np.arange(3), "there": region[64:72].view(np.int64)}
    data = b"".join(frame(Kind.ANSWER, 1, b"", arrays, placed={"there": 64}, slot=1, room=128))
    header, _, found = read(data, region)
    assert header.payload_bytes == 64
    assert found["there"].tolist() == [41]
    assert found["here"].tolist() == [0, 1, 2]


@given(at=st.integers(0, HEADER_BYTES - 1), flip=st.integers(1, 255), header=headers)
@settings(max_examples=100)
def test_a_header_with_any_byte_changed_is_refused(at: int, flip: int, header: Header) -> None:
    data = bytearray(pack_header(header))
    data[at] ^= flip
    with pytest.raises(ProtocolError):
        parse_header(data, REQUEST_LIMITS, "peer")


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
@settings(max_examples=100)
def test_bytes_that_are_no_header_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_header(data, REQUEST_LIMITS, "peer")


@pytest.mark.parametrize("field", ["meta_bytes", "table_bytes", "arrays", "payload_bytes"])
def test_a_header_that_announces_more_than_a_limit_is_refused_with_the_limit(field: str) -> None:
    limits = Limits()
    header = Header(Kind.QUERY, 1)._replace(**{field: getattr(limits, field) + 1})
    with pytest.raises(LimitError, match=str(getattr(limits, field))):
        parse_header(pack_header(header), limits, "peer")
    assert parse_header(pack_header(header), ANSWER_LIMITS, "peer") == header


entries_of_any_kind = st.tuples(
    st.text(max_size=4),
    st.sampled_from([*DTYPES, "object", "float128", ""]),
    st.lists(st.integers(-5, 2**63), max_size=10),
    st.integers(-1, 3),
    st.integers(-64, 2**63),
)


@given(st.lists(entries_of_any_kind, max_size=4))
@settings(max_examples=100)
def test_a_table_names_nothing_that_is_not_there(entries: list[tuple[str, str, list[int], int, int]]) -> None:
    table = msgspec.msgpack.encode(entries)
    header = Header(Kind.ANSWER, 1, table_bytes=len(table), arrays=len(entries), payload_bytes=512, slot=1)
    payload, region = np.zeros(512, np.uint8), np.zeros(256, np.uint8)
    try:
        parsed = parse_table(table, header, "peer")
        found = arrays_of(parsed, payload, region, "peer")
    except ProtocolError:
        return
    for entry in parsed:
        holder = payload if entry.place == Place.PAYLOAD else region
        assert found[entry.name].nbytes + entry.offset <= holder.nbytes


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_bytes_that_are_no_table_are_refused(data: bytes) -> None:
    header = Header(Kind.ANSWER, 1, table_bytes=len(data), arrays=1, payload_bytes=64)
    try:
        entries = parse_table(data, header, "peer")
    except ProtocolError:
        return
    assert len(entries) == 1


def test_a_table_with_one_name_twice_is_refused() -> None:
    entries = [Entry("a", "int64", (1,), 0, 0), Entry("a", "int64", (1,), 0, 0)]
    table = msgspec.msgpack.encode(entries)
    with pytest.raises(ProtocolError, match="twice"):
        parse_table(table, Header(Kind.ANSWER, 1, table_bytes=len(table), arrays=2, payload_bytes=64), "peer")


def test_what_does_not_travel_is_our_own_mistake() -> None:
    for array in (np.array([object()]), np.arange(10)[::2], np.array(["text"])):
        with pytest.raises(TypeError, match="does not travel"):
            frame(Kind.QUERY, 1, b"", {"x": array})


def test_the_example_of_the_document_is_what_is_sent() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    block = re.search(r"<!-- example -->\s*```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    hexadecimal = "".join(line.split("|")[0] for line in block[1].splitlines())
    sent = b"".join(
        frame(Kind.QUERY, 7, b"\x81\xa4type\xa8Contains", {"seeds": np.array([3, 5], np.int64)}, deadline_ms=1000, graph_version=2)
    )
    assert bytes.fromhex(hexadecimal) == sent
    for name, value in vars(Kind).items():
        if isinstance(value, Kind):
            assert f"| {int(value)} | {name} |" in text, name
    assert frames.PROTOCOL == 1
