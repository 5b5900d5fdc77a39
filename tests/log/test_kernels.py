"""Kernels of the log against plain references: framing, parsing, partitioning; and every flipped byte of a batch is noticed."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.clock import ManualClock
from fondaco.core.errors import InputError
from fondaco.log import EmbeddedLog, Record, RecordBatch, TopicConfig, partition_keys
from fondaco.log import _kernels as kernels
from fondaco.log.records import NO_TIMESTAMP, encode_headers
from fondaco.log.segments import address_of

data = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=8), data), max_size=2).map(tuple)
records = st.lists(
    st.builds(Record, key=data, value=data, timestamp_ms=st.none() | st.integers(0, 2**60), headers=headers), min_size=1, max_size=20
)


def address(array: np.ndarray | None) -> int:
    return 0 if array is None else address_of(array)


def frame(batch: RecordBatch, base_offset: int, appended_ms: int, offsets: np.ndarray | None = None) -> bytes:
    size = kernels.framed_bytes(len(batch), address(batch.key_offsets), address(batch.value_offsets), address(batch.header_offsets))
    out = np.full(size, 0xAA, np.uint8)
    kernels.frame(
        address(out), len(batch), base_offset, address(offsets), appended_ms, address(batch.timestamps_ms),
        address(batch.keys), address(batch.key_offsets), address(batch.key_nulls),
        address(batch.values), address(batch.value_offsets), address(batch.value_nulls),
        address(batch.headers), address(batch.header_offsets),
    )  # fmt: skip
    return out.tobytes()


def reference_frame(given_records: list[Record], offsets: list[int], appended_ms: int) -> bytes:
    """The grammar of log-format.md, word by word."""
    body, timestamps = b"", []
    for record, offset in zip(given_records, offsets, strict=True):
        timestamp = appended_ms if record.timestamp_ms is None else record.timestamp_ms
        timestamps.append(timestamp)
        tail = encode_headers(record.headers)
        lengths = [-1 if part is None else len(part) for part in (record.key, record.value)]
        rest = struct.pack("<qqiiII", offset, timestamp, *lengths, len(tail), 0) + (record.key or b"") + (record.value or b"") + tail
        padding = -(8 + len(rest)) % 8
        body += struct.pack("<II", 8 + len(rest) + padding, xxhash.xxh64_intdigest(rest) & 0xFFFFFFFF) + rest + bytes(padding)
    covered = struct.pack("<qqqqIIQ", offsets[0], offsets[-1], appended_ms, max(timestamps), len(offsets), 0, 0) + body
    return b"FLB1" + struct.pack("<IQ", 16 + len(covered), xxhash.xxh64_intdigest(covered)) + covered


def check(data: bytes, limit: int = 1 << 30) -> tuple[int, list[int]]:
    found = np.array([0, 0, -1, 0, NO_TIMESTAMP], np.int64)
    raw = np.frombuffer(data, np.uint8)
    return int(kernels.check(address(raw), len(raw), limit, found)), found.tolist()


@given(records, st.integers(0, 2**50), st.integers(0, 2**50))
@settings(max_examples=100, deadline=None)
def test_a_framed_batch_is_what_the_grammar_says(given_records, base, appended):
    expected = reference_frame(given_records, list(range(base, base + len(given_records))), appended)
    assert frame(RecordBatch.of(given_records), base, appended) == expected


@given(records, st.data())
@settings(max_examples=60, deadline=None)
def test_offsets_that_are_given_may_have_gaps(given_records, draw):
    steps = draw.draw(st.lists(st.integers(1, 2**40), min_size=len(given_records), max_size=len(given_records)))
    offsets = np.cumsum(steps).astype(np.int64)
    framed = frame(RecordBatch.of(given_records), 0, 5, offsets)
    assert framed == reference_frame(given_records, offsets.tolist(), 5)
    assert check(framed)[0] == kernels.OK


@given(st.lists(records, min_size=1, max_size=4), st.integers(0, 70))
@settings(max_examples=60, deadline=None)
def test_parsing_gives_every_record_from_an_offset_on(batches, start):
    framed, offset, expected = b"", 0, []
    for batch in batches:
        framed += frame(RecordBatch.of(batch), offset, 10 + offset)
        expected += [(offset + i, 10 + offset, record) for i, record in enumerate(batch)]
        offset += len(batch)
    status, found = check(framed)
    assert (status, found[:4]) == (kernels.OK, [len(framed), offset, offset - 1, expected[-1][1]])
    assert found[4] == max(appended if r.timestamp_ms is None else r.timestamp_ms for _, appended, r in expected)
    raw = np.frombuffer(framed, np.uint8)
    columns = np.zeros((kernels.COLUMNS, offset), np.int64)
    count = kernels.parse(address(raw), len(raw), start, columns)
    got = []
    for column in columns[:, :count].T.tolist():
        key, value = (None if length < 0 else framed[at : at + length] for at, length in ((column[3], column[4]), (column[5], column[6])))
        got.append((column[0], column[1], column[2], key, value, framed[column[7] : column[7] + column[8]]))
    assert got == [
        (at, appended if r.timestamp_ms is None else r.timestamp_ms, appended, r.key, r.value, encode_headers(r.headers))
        for at, appended, r in expected
        if at >= start
    ]


def test_every_flipped_bit_of_a_batch_is_noticed():
    framed = frame(RecordBatch.of([Record(b"key", b"value", 5), Record(None, b"", None, [("a", b"b")])]), 7, 9)
    for at in range(len(framed)):
        for bit in range(8):
            damaged = bytearray(framed)
            damaged[at] ^= 1 << bit
            assert check(bytes(damaged))[0] != kernels.OK, (at, bit)


@given(records, st.data())
@settings(max_examples=100, deadline=None)
def test_no_bytes_lead_a_kernel_outside(given_records, draw):
    """Lengths and counts that lie, under a checksum that is right: refused, not followed."""
    framed = bytearray(frame(RecordBatch.of(given_records), 0, 9))
    field = draw.draw(st.integers(16, len(framed) - 4)) & -4
    framed[field : field + 4] = draw.draw(st.binary(min_size=4, max_size=4))
    framed[8:16] = struct.pack("<Q", xxhash.xxh64_intdigest(bytes(framed[16:])))
    status, found = check(bytes(framed))
    if status == kernels.OK:
        columns = np.zeros((kernels.COLUMNS, found[1]), np.int64)
        raw = np.frombuffer(bytes(framed), np.uint8)
        count = kernels.parse(address(raw), found[0], 0, columns)
        ends = columns[[3, 5, 7], :count] + np.maximum(columns[[4, 6, 8], :count], 0)
        assert (ends <= len(framed)).all()


@pytest.mark.parametrize("cut", range(0, 112, 5))
def test_a_batch_that_is_cut_off_is_short_and_what_lies_before_it_is_sound(cut):
    whole = frame(RecordBatch.of([Record(b"a", b"b")]), 0, 9)
    assert len(whole) == 112
    status, found = check(whole + whole[:cut])
    assert (status, found[0]) == (kernels.SHORT if cut else kernels.OK, len(whole))


def test_a_sound_batch_is_found_behind_damage():
    first, second = (frame(RecordBatch.of([Record(b"a", b"b" * size)]), 0, 9) for size in (30, 40))
    raw = np.frombuffer(b"\xff" * 24 + first[:-8] + second, np.uint8)
    assert kernels.find_sound(address(raw), len(raw)) == 24 + len(first) - 8
    assert kernels.find_sound(address(raw), 24 + len(first)) == -1


# -- partitions -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hash_"),
    [  # from the tests of Apache Kafka's own Java client
        (b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829), (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971), (b"abc", 479470107),
    ],
)  # fmt: skip
def test_murmur2_is_that_of_kafkas_clients(key, hash_):
    raw = np.frombuffer(key, np.uint8)
    assert kernels.murmur2(address(raw), len(raw)) == hash_ % 2**32
    assert partition_keys(raw, np.array([0, len(raw)]), 7, "murmur2").tolist() == [(hash_ & 0x7FFFFFFF) % 7]


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 1000))
@settings(max_examples=60, deadline=None)
def test_xxh64_spreads_keys_as_base_files_do(keys, partitions):
    batch = RecordBatch.from_values(keys, keys)
    expected = [((xxhash.xxh64_intdigest(key) >> 32) * partitions) >> 32 for key in keys]
    assert partition_keys(batch.keys, batch.key_offsets, partitions, "xxh64").tolist() == expected


def test_keys_need_a_partition():
    with pytest.raises(InputError, match="over 0 partitions"):
        partition_keys(np.zeros(0, np.uint8), np.zeros(1, np.int64), 0, "xxh64")


# -- the document -----------------------------------------------------------------------------------------------------------------------


def test_the_worked_example_of_the_document_is_what_is_written(tmp_path):
    document = (Path(__file__).parents[2] / "docs" / "internals" / "log-format.md").read_text(encoding="utf-8")
    with EmbeddedLog(tmp_path, clock=ManualClock(1_700_000_000_000_000)) as log:
        log.create_topic("t", TopicConfig(1))
        first = [Record(b"\x54", b"hello", 1_600_000_000_000), Record(b"\x55", None, None, [("source", b"web")])]
        log.append("t", 0, first)
        log.append("t", 0, [Record(None, b"")])
    for name in ("00000000000000000000.log", "00000000000000000000.index"):
        written = (tmp_path / "t" / "0" / name).read_bytes()
        shown = bytearray(len(written))
        example = document.split(f"`{name}`:")[1].split("`0000")[0]
        lines = re.findall(r"^    ([0-9a-f]{8}) ((?: [0-9a-f]{2})+)", example, re.MULTILINE)
        assert lines
        for at, text in lines:
            shown[int(at, 16) : int(at, 16) + 8] = bytes.fromhex(text)
        assert shown == written  # what the document leaves out is zero


def test_the_cells_of_the_document_are_those_of_the_code():
    from fondaco.log import state

    document = (Path(__file__).parents[2] / "docs" / "internals" / "log-format.md").read_text(encoding="utf-8")
    for numbers, names in re.findall(r"^\| ([\d, ]+) \| ([a-z_, ]+) \|", document, re.MULTILINE):
        for number, name in zip(numbers.split(", "), names.split(", "), strict=True):
            assert getattr(state, name.upper()) == int(number), name
