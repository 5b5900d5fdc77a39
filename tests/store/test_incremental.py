"""Incremental pushes: puts and patches from tables, the same whenever they are repeated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import ColumnNotFoundError, CorruptFileError, FieldNotFoundError, InputError, RowError
from fondaco.log import EmbeddedLog, TopicConfig
from fondaco.store import _write_kernels
from fondaco.store.basefile import address_of
from fondaco.store.incremental import BATCH_BYTES, IncrementalResult, write_incremental
from fondaco.store.keys import KeyCodec
from fondaco.store.writer import LogTarget
from fondaco.store.writes import Edit, EditKind, Op, decode_patch, encode_envelope, pack_edit, pack_patch, writer_number
from live_rows import live_rows, writes_of

ADDRESS = {"type": "record", "name": "A", "fields": [{"name": "city", "type": "string"}, {"name": "zip", "type": "int", "default": 0}]}
SCHEMA = {
    "type": "record",
    "name": "Member",
    "fields": [
        {"name": "clicks", "type": "long"},
        {"name": "name", "type": ["null", "string"], "default": None},
        {"name": "scores", "type": {"type": "array", "items": "float"}, "default": []},
        {"name": "address", "type": ADDRESS, "default": {"city": "?"}},
        {"name": "home", "type": ["null", "A"], "default": None},
    ],
}
ROW = {"clicks": 1, "name": "n", "scores": [], "address": {"city": "Bern", "zip": 3000}, "home": None}
TOPIC = "members.rt"
AS_OF_MS = 1_700_000_000_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with EmbeddedLog(tmp_path / "log") as log:
        log.create_topic(TOPIC, TopicConfig(partitions=3))
        yield log


def push(log: EmbeddedLog, data: object, key: object = "long", push_id: str = "p1", **changed: Any) -> IncrementalResult:
    settings: dict[str, Any] = {"schema": SCHEMA, "schema_number": 1, "timestamp_ms": AS_OF_MS, "now_ms": AS_OF_MS + 5}
    target = LogTarget(log, TOPIC, "store 'members'")
    return write_incremental(target, data, store="members", key=KeyCodec(key), push_id=push_id, **(settings | changed))


def rows_over(log: EmbeddedLog, bases: Any = None, key: object = "long", schema: Any = SCHEMA) -> dict[Any, Any]:
    rows = live_rows(log, TOPIC, KeyCodec(key), {1: schema}, bases)
    return {
        name: {field: value.tolist() if isinstance(value, np.ndarray) else value for field, value in row.items()}
        for name, row in rows.items()
    }


def test_a_table_with_every_field_becomes_puts(log: EmbeddedLog) -> None:
    address = pa.array([{"city": "x", "zip": 1}] * 2, pa.struct([("city", pa.string()), ("zip", pa.int32())]))
    table = pa.table({"key": [1, 2], "clicks": [5, 6], "name": ["a", None], "scores": [[1.5], []], "address": address, "home": address})
    result = push(log, table)
    assert (result.rows, result.patches) == (2, 0)
    assert sum(offset + 1 for offset in result.positions.values()) == 2
    whole = {"address": {"city": "x", "zip": 1}, "home": {"city": "x", "zip": 1}}
    assert rows_over(log) == {
        1: {"clicks": 5, "name": "a", "scores": [1.5], **whole},
        2: {"clicks": 6, "name": None, "scores": [], **whole},
    }
    assert {write.op for _, write in writes_of(log, TOPIC)} == {Op.PUT}


def test_a_table_that_lacks_fields_becomes_patches_that_leave_them(log: EmbeddedLog) -> None:
    result = push(log, pa.table({"key": [1, 2], "name": ["a", None], "scores": [[1.5, 2.5], []]}))
    assert (result.rows, result.patches) == (2, 2)
    assert rows_over(log, {1: ROW}) == {1: {**ROW, "name": "a", "scores": [1.5, 2.5]}}  # 2 waits for its clicks
    push(log, {"key": [2], "clicks": [7]}, push_id="p2")
    assert rows_over(log)[2] == {"clicks": 7, "name": None, "scores": [], "address": {"city": "?", "zip": 0}, "home": None}


def test_members_of_a_struct_column_that_lack_are_left_too(log: EmbeddedLog) -> None:
    city = pa.struct([("city", pa.string())])
    table = pa.table({"key": [1, 2], "address": pa.array([{"city": "Basel"}] * 2, city), "home": pa.array([{"city": "Chur"}, None], city)})
    assert push(log, table).patches == 2
    basel = {"city": "Basel", "zip": 3000}
    assert rows_over(log, {1: ROW, 2: ROW}) == {
        1: ROW | {"address": basel, "home": {"city": "Chur", "zip": 0}},
        2: ROW | {"address": basel},
    }


def test_rows_given_as_mappings_decide_one_by_one(log: EmbeddedLog) -> None:
    result = push(log, [{"key": 1, **ROW}, {"key": 2, "clicks": 9}, {"key": 1, "address": {"zip": 7}}])
    assert (result.rows, result.patches) == (3, 2)
    assert rows_over(log)[1] == {**ROW, "address": {"city": "Bern", "zip": 7}}
    assert rows_over(log)[2]["clicks"] == 9


def test_a_repeated_push_makes_the_same_writes_and_changes_nothing(log: EmbeddedLog) -> None:
    table = pd.DataFrame({"key": [1, 2, 1], "clicks": [5.0, 6.0, 7.0]})  # pandas makes floats of whole numbers
    first = push(log, table)
    rows, writes = rows_over(log), writes_of(log, TOPIC)
    assert rows[1]["clicks"] == 7, "of several rows of one key the last wins"
    again = push(log, table)
    assert (again.rows, again.bytes) == (first.rows, first.bytes)
    assert rows_over(log) == rows
    assert sorted(writes_of(log, TOPIC)) == sorted(writes * 2)
    assert {write.stamp.writer for _, write in writes} == {writer_number("push:p1")}
    assert sorted(write.stamp.sequence for _, write in writes) == [1, 2, 3]


def test_newer_writes_are_not_undone_by_a_push_that_is_repeated_late(log: EmbeddedLog) -> None:
    push(log, {"key": [1], "clicks": [5]})
    push(log, {"key": [1], "clicks": [6]}, push_id="p2", timestamp_ms=AS_OF_MS + 1)
    push(log, {"key": [1], "clicks": [5]})
    assert rows_over(log)[1]["clicks"] == 6


def test_a_push_asks_for_its_pace_and_can_be_ended(log: EmbeddedLog) -> None:
    count = 3 * BATCH_BYTES // 16
    table = pa.table({"key": np.arange(count), "clicks": np.arange(count)})
    asked, seen = [], []
    push(log, table, pace=lambda: asked.append(1), on_rows=seen.append)
    assert len(asked) == len(seen) >= 3
    assert seen[-1] == count
    assert seen == sorted(seen)

    def stop(rows: int) -> None:
        raise InputError("enough")

    with pytest.raises(InputError, match="enough"):
        push(log, table, push_id="p2", on_rows=stop)


def test_a_log_that_fails_is_told_by_its_own_error_and_the_push_can_be_repeated(log: EmbeddedLog) -> None:
    class Full(LogTarget):
        def append(self, part: Any, durability: Any) -> Any:
            raise CorruptFileError("00000.log", "batch", "checksum differs")

    with pytest.raises(CorruptFileError):
        write_incremental(
            Full(log, TOPIC, "store 'members'"), {"key": [1], "clicks": [5]}, store="members", key=KeyCodec("long"), schema=SCHEMA,
            schema_number=1, push_id="p1", timestamp_ms=AS_OF_MS, now_ms=AS_OF_MS,
        )  # fmt: skip
    push(log, {"key": [1], "clicks": [5]})
    assert rows_over(log)[1]["clicks"] == 5


def test_durability_is_that_of_the_last_flush(log: EmbeddedLog) -> None:
    assert push(log, {"key": [1], "clicks": [5]}, durability="disk").positions


def test_files_are_pushed_by_their_columns(log: EmbeddedLog, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("key,clicks,name\n1,5,a\n")
    result = push(log, str(path))
    assert result.patches == 1
    assert list(result.built_from["files"]) == [str(path)]
    assert rows_over(log)[1]["name"] == "a"


def test_record_keys_and_keys_that_are_fields_are_found(log: EmbeddedLog) -> None:
    key = {"type": "record", "name": "K", "fields": [{"name": "clicks", "type": "long"}, {"name": "day", "type": "string"}]}
    push(log, {"clicks": [1], "day": ["mon"]}, key=key)
    codec = KeyCodec(key)
    found = [(codec.decode(data), decode_patch(write.payload)) for data, write in writes_of(log, TOPIC)]
    assert found == [({"clicks": 1, "day": "mon"}, [Edit(EditKind.SET, "clicks", b"", b"\x02")])]


def test_the_one_column_that_is_no_field_is_the_key(log: EmbeddedLog) -> None:
    push(log, {"member": [4], "clicks": [5]})
    assert list(rows_over(log)) == [4]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"key": [1], "clics": [5]}, FieldNotFoundError, "did you mean 'clicks'"),
        ({"clics": [1], "name": ["a"]}, FieldNotFoundError, "did you mean 'clicks'"),
        ({"key": [1]}, InputError, "no field"),
        ({"clicks": [1]}, ColumnNotFoundError, "key"),
        ({"key": [1, 2], "clicks": [5, None]}, RowError, "row 1, field 'clicks'"),
        ({"key": [1], "clicks": ["x"]}, RowError, "field 'clicks'"),
        ({"key": [None], "clicks": [1]}, RowError, "field 'key'"),
        ([{"key": 1, "clicks": 1}, {"key": 2, "clicks": "many"}], RowError, "row 1, field 'clicks'"),
        ([{"key": 1, "clics": 1}], InputError, "did you mean 'clicks'"),
        ([], InputError, "no rows"),
        (pa.table({"key": pa.array([], pa.int64()), "clicks": pa.array([], pa.int64())}), InputError, "no rows"),
    ],
)
def test_what_does_not_fit_is_named(log: EmbeddedLog, data: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        push(log, data)


def test_a_push_from_the_future_is_refused(log: EmbeddedLog) -> None:
    with pytest.raises(InputError, match="hours from now"):
        push(log, {"key": [1], "clicks": [5]}, timestamp_ms=AS_OF_MS + 2 * 86_400_000)


def test_two_columns_of_one_name_are_refused(log: EmbeddedLog) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([1]), pa.array([2])], ["key", "clicks", "clicks"])
    with pytest.raises(InputError, match="two columns called 'clicks'"):
        push(log, table)


# -- kernel against a plain reference -------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.data())
def test_patches_are_made_from_columns(fields: int, data: Any) -> None:
    names = [f"f{i}".encode() for i in range(fields)]
    rows = data.draw(st.lists(st.lists(st.binary(max_size=6), min_size=fields, max_size=fields), max_size=6))
    heads = [np.frombuffer(pack_edit(EditKind.SET, name, b"", b""), np.uint8) for name in names]
    values = [np.frombuffer(b"".join(row[k] for row in rows) + b"\0", np.uint8) for k in range(fields)]
    offsets = [np.cumsum([0, *(len(row[k]) for row in rows)], dtype=np.int64) for k in range(fields)]
    columns = np.array(
        [(address_of(h), len(h), address_of(v), address_of(o)) for h, v, o in zip(heads, values, offsets, strict=True)], np.int64
    )
    template = np.frombuffer(encode_envelope(Op.PATCH, 3, 5, 0), np.uint8)
    expected = [
        encode_envelope(Op.PATCH, 3, 5, 100 + i, pack_patch([pack_edit(EditKind.SET, name, b"", row[k]) for k, name in enumerate(names)]))
        for i, row in enumerate(rows)
    ]
    out, out_offsets = np.zeros(sum(map(len, expected)) + 1, np.uint8), np.zeros(len(rows) + 1, np.int64)
    _write_kernels.put_patches(address_of(template), columns, len(rows), 100, 1, address_of(out), out_offsets)
    assert out[: out_offsets[-1]].tobytes() == b"".join(expected)
