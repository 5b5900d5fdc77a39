"""Records: what goes into a batch comes out of it, and what cannot be a record is refused with the value named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import InputError
from fondaco.log import LogBatch, LogRecord, Record, RecordBatch
from fondaco.log.records import decode_headers, encode_headers

data = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=8), data), max_size=3).map(tuple)
records = st.lists(st.builds(Record, key=data, value=data, timestamp_ms=st.none() | st.integers(0, 2**60), headers=headers), max_size=30)


@given(records)
@settings(max_examples=100, deadline=None)
def test_a_batch_holds_the_records_it_was_made_of(given_records):
    batch = RecordBatch.of(given_records)
    assert len(batch) == len(given_records)
    assert list(batch.records()) == given_records


@given(records, st.data())
@settings(max_examples=60, deadline=None)
def test_a_slice_of_a_batch_holds_these_records(given_records, draw):
    start = draw.draw(st.integers(0, len(given_records)))
    stop = draw.draw(st.integers(start, len(given_records)))
    assert list(RecordBatch.of(given_records).slice(start, stop).records()) == given_records[start:stop]


@given(records)
@settings(max_examples=60, deadline=None)
def test_single_log_records_become_columns_and_come_back(given_records):
    whole = [LogRecord("t", 3, 2 * i, 7, 9, r.key, r.value, tuple(r.headers)) for i, r in enumerate(given_records)]
    batch = LogBatch.of("t", 3, whole, 100)
    assert list(batch.records()) == whole
    assert batch.keys() == [record.key for record in whole]
    assert batch.values() == [record.value for record in whole]
    assert (batch.next_offset, len(batch)) == (100, len(whole))


@given(headers)
@settings(max_examples=100, deadline=None)
def test_headers_keep_order_duplicates_and_nulls(given_headers):
    assert decode_headers(encode_headers(given_headers)) == given_headers


def test_values_alone_make_records_without_keys():
    assert list(RecordBatch.from_values([b"a", None]).records()) == [Record(None, b"a"), Record(None, None)]


def test_columns_that_are_there_already_are_taken_as_they_are():
    keys, values = np.frombuffer(b"abc", np.uint8), np.frombuffer(b"12345", np.uint8)
    offsets, value_offsets = np.array([0, 1, 3]), np.array([0, 0, 5])
    batch = RecordBatch.from_columns(
        keys, offsets, values, value_offsets, np.array([5, 6]), value_nulls=np.array([True, False])
    )  # fmt: skip
    assert batch.keys is keys
    assert list(batch.records()) == [Record(b"a", None, 5), Record(b"bc", b"12345", 6)]


def test_any_bytes_like_object_can_be_a_value():
    parts = [bytearray(b"a"), memoryview(b"bc"), memoryview(np.arange(2, dtype=np.int32))]
    assert [record.value for record in RecordBatch.from_values(parts).records()] == [b"a", b"bc", np.arange(2, dtype=np.int32).tobytes()]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecordBatch.of([Record("a", b"")]), r"key is bytes or None, not str: 'a'"),
        (lambda: RecordBatch.of([Record(b"a", 7)]), r"value is bytes or None, not int: 7"),
        (lambda: RecordBatch.of([b"abc"]), r"takes fondaco.log.Record"),
        (lambda: RecordBatch.of([Record(b"", b"", -5)]), r"cannot be negative: -5"),
        (lambda: RecordBatch.of([Record(b"", b"", "now")]), r"whole milliseconds"),
        (lambda: RecordBatch.of([Record(b"", b"", 2**63)]), r"whole milliseconds"),
        (lambda: RecordBatch.of([Record(b"", b"", 1, [("a", "b")])]), r"a header is a pair"),
        (lambda: RecordBatch.from_values([b"a"], [b"k", b"l"]), r"2 keys for 1 values"),
    ],
)
def test_what_is_no_record_is_refused_with_its_value(make, message):
    with pytest.raises(InputError, match=message):
        make()


def _columns(**changes):
    columns = {
        "keys": np.zeros(4, np.uint8), "key_offsets": np.array([0, 2, 4]), "values": np.zeros(4, np.uint8),
        "value_offsets": np.array([0, 2, 4]),
    }  # fmt: skip
    return RecordBatch.from_columns(**{**columns, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": np.zeros(4, np.int8)}, "one run of uint8"),
        ({"keys": np.zeros(8, np.uint8)[::2]}, "one run of uint8"),
        ({"key_offsets": np.array([0, 2])}, r"key_offsets: expected int64 \[3\]"),
        ({"key_offsets": np.array([0, 2, 5])}, "stay within the 4 bytes"),
        ({"key_offsets": np.array([0, 3, 2])}, "must not decrease"),
        ({"key_offsets": np.array([-1, 2, 4])}, "must not decrease and stay"),
        ({"value_offsets": np.array([0, 2, 4], np.int32)}, "value_offsets: expected int64"),
        ({"timestamps_ms": np.array([1.0, 2.0])}, "timestamps_ms: expected int64"),
        ({"timestamps_ms": np.array([1, -2])}, "cannot be negative: -2"),
        ({"key_nulls": np.array([0, 1])}, r"key_nulls: expected bool \[2\]"),
    ],
)
def test_columns_that_would_lead_a_kernel_astray_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        _columns(**changes)


def test_records_and_the_interface_come_without_numba():
    code = "import sys; from fondaco.log import Record, RecordBatch, TopicConfig, Log; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
