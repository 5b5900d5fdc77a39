"""Kernels of reads against a plain dictionary: one key or many, packed or as bytes, over the same base and writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.clock import ManualClock
from fondaco.platform import Platform
from fondaco.schema import Codec
from fondaco.store import _overlay_kernels, _read_kernels
from fondaco.store._read_kernels import ALWAYS, ASK, MISSING
from fondaco.store.basefile import address_of

T0_MS = 1_750_000_000_000
REWIND_MS = 3_600_000
VALUE = pa.schema([("v", pa.int64())])
KEYS = st.one_of(st.integers(0, 12), st.sampled_from([-1, 63, 64, -65, 1 << 40, -(1 << 63), (1 << 63) - 1]))
WRITES = st.lists(st.tuples(KEYS, st.sampled_from(["put", "delete", "patch"]), st.integers(-2, 2), st.booleans()), max_size=25)


def kernels_say(serving: Any, key: int, oldest_ms: int) -> Any:
    """What each kernel makes of a key: the bytes of its row, None, or "ask"; they agree."""
    while (answers := _answers(serving, key, oldest_ms)) is None:
        serving._refresh(serving._bound.view)  # the tailer moved on meanwhile
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


def _answers(serving: Any, key: int, oldest_ms: int) -> list[Any] | None:
    """Of one key, of many as bytes, and of many packed; None: the view of the overlay went stale."""
    bound, data = serving._bound, serving.keys.encode(key)
    answers = []
    for where, start, end in (_read_kernels.read_long(key, bound.table, oldest_ms), _read_kernels.read_bytes(data, bound.table, oldest_ms)):
        if start in (MISSING, ASK):
            answers.append(None if start == MISSING else "ask")
        else:
            assert start > 0 <= where
            answers.append(bytes(bound.memories[where][start:end]))
    encoded = serving.keys.encode_many([key])
    wheres, starts, ends, schemas = (np.full(1, -9, np.int64) for _ in range(4))
    flags = np.full(1, 9, np.uint8)
    frames, others, status, _ = _read_kernels.read_many(
        address_of(encoded.data), encoded.offsets, encoded.hashes, bound.table, oldest_ms, wheres, starts, ends, flags, schemas
    )
    if status == ASK and wheres[0] == _overlay_kernels.STALE:
        return None
    assert (frames, status) == (0, 0)
    if others:
        answers.append("ask")
    else:
        place = starts[0] - bound.addresses[wheres[0]]
        answers.append(bytes(bound.memories[wheres[0]][place : place + ends[0] - starts[0]]) if starts[0] else None)
        assert schemas[0] == (1 if starts[0] else 0)
    return answers


@settings(max_examples=30, deadline=None)
@given(base=st.dictionaries(KEYS, st.integers(0, 99), max_size=12), writes=WRITES)
def test_every_kernel_answers_as_a_dictionary_would(tmp_path_factory: pytest.TempPathFactory, base: dict[int, int], writes: Any) -> None:
    clock = ManualClock(T0_MS * 1000)
    with Platform.open(tmp_path_factory.mktemp("kernels") / "p", clock=clock) as platform:
        store = platform.create_store("s", key="long", value=VALUE, partitions=3, rewind="1h")
        table = pa.table({"key": pa.array(list(base), pa.int64()), "v": pa.array(list(base.values()), pa.int64())})
        if base:
            store.push(table, as_of=T0_MS * 1000, progress=False)
        else:
            store.push_empty(as_of=T0_MS * 1000)
        newest: dict[int, tuple[int, str, int]] = {}  # key -> newest write of the window
        with store.writer() as writer, store.reader() as reader:
            for number, (key, op, offset_ms, in_window) in enumerate(writes):
                timestamp_ms = T0_MS - REWIND_MS - 1000 + number if not in_window else T0_MS + 1000 * number + offset_ms
                row = {"v": 100 + number}
                if op == "delete":
                    writer.delete(key, timestamp_ms=timestamp_ms)
                else:
                    (writer.put if op == "put" else writer.patch)(key, row, timestamp_ms=timestamp_ms)
                if in_window:
                    newest[key] = timestamp_ms, op, 100 + number
            reader.get_many([], min_position=writer.flush())
            serving, encode = reader.serving(), Codec(store.value_schema).encode
            patched = {write[0] for write in writes if write[1] == "patch"}  # their rows may lie in merged states for good
            for key in {*base, *(write[0] for write in writes), 999}:
                _, op, value = newest.get(key, (0, "", 0))
                under = encode({"v": base[key]}) if key in base else None
                put = encode({"v": value})
                said, over = kernels_say(serving, key, ALWAYS), kernels_say(serving, key, T0_MS + 10**9)
                if key in patched and said == "ask":
                    continue
                assert said == {"put": put, "delete": None, "": under}[op]
                assert over is None, "puts and the base are over"
            listed = [key.tobytes() for keys in serving.written_keys(64) for key in np.split(keys.data, keys.offsets[1:-1])]
            assert sorted(listed) == sorted(serving.keys.encode(key) for key in newest)
            inside = serving.in_base(serving.keys.encode_many(list(range(14))))
            assert inside.tolist() == [key in base for key in range(14)]


def test_a_table_without_writes_and_without_a_base_finds_nothing() -> None:
    writes = np.zeros(_overlay_kernels.TABLE_WORDS + 1, np.int64)
    writes[0] = address_of(writes) + 8 * _overlay_kernels.TABLE_WORDS
    table = np.array([0, address_of(writes), ALWAYS, 1, 0, 0], np.int64)
    assert _read_kernels.read_long(7, address_of(table), ALWAYS) == (0, MISSING, 0)
    assert _read_kernels.read_bytes(b"\x0e", address_of(table), ALWAYS) == (0, MISSING, 0)
    assert _read_kernels.ask_overlay(b"\x0e", address_of(table))[0] == _overlay_kernels.NONE
