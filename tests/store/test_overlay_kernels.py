"""Kernels of the overlay against plain references: placing, probing and ordering, and bytes that nobody should trust."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.xxh64 import xxh64
from fondaco.log import Record
from fondaco.store import _kernels
from fondaco.store import _overlay_files as files_of
from fondaco.store import _overlay_kernels as probes
from fondaco.store import _tailer_kernels as kernels
from fondaco.store.basefile import address_of
from fondaco.store.writes import Op, encode_envelope
from overlay_parts import ALWAYS, Answer, append, both, delete, make_log, model, place, put


def _bytes(data: bytes) -> tuple[np.ndarray, int]:
    array = np.frombuffer(data or b"\0", np.uint8)
    return array, address_of(array)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_what_kafka_gives(key: bytes, expected: int) -> None:
    array, address = _bytes(key)
    assert kernels is not None
    assert probes.murmur2(address, len(key)) == expected & 0x7FFFFFFF
    assert probes.topic_partition(address, len(key), np.uint64(0), 7, 1) == (expected & 0x7FFFFFFF) % 7
    assert len(array)


@settings(deadline=None)
@given(
    bases=st.lists(st.integers(0, 1000), min_size=1, max_size=9, unique=True).map(sorted),
    above=st.integers(0, 1100),
)
def test_the_segment_of_a_position_is_the_last_that_begins_before_it(bases: list[int], above: int) -> None:
    table = np.zeros(probes.SEGMENT_WORDS * len(bases), np.int64)
    table[:: probes.SEGMENT_WORDS] = bases
    position = bases[0] + above
    expected = max(number for number, base in enumerate(bases) if base <= position)
    assert probes.segment_of(address_of(table), len(bases), position) == expected


def _record(key: bytes, value: bytes | None, timestamp_ms: int) -> bytes:
    """A log record as docs/internals/log-format.md has it."""
    body = struct.pack("<qqiiIi", 0, timestamp_ms, len(key), -1 if value is None else len(value), 0, 0) + key + (value or b"")
    array, address = _bytes(body)
    head = struct.pack("<II", (len(body) + 8 + 7) // 8 * 8, int(xxh64(address, len(array))) & 0xFFFFFFFF)
    return (head + body).ljust((len(body) + 15) // 8 * 8, b"\0")


_STAMP = st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 1 << 63, (1 << 64) - 1]), st.sampled_from([0, 1, (1 << 64) - 1]))


@settings(deadline=None)
@given(a=_STAMP, b=_STAMP, null=st.sampled_from([(), (0,), (1,), (0, 1)]))
def test_stamps_have_the_order_of_tuples(a: tuple[int, int, int], b: tuple[int, int, int], null: tuple[int, ...]) -> None:
    stamps = [(stamp[0], 0, 0) if number in null else stamp for number, stamp in enumerate((a, b))]
    records = [
        _record(b"k", None if number in null else encode_envelope(Op.PUT, 1, stamp[1], stamp[2]), stamp[0])
        for number, stamp in enumerate((a, b))
    ]
    (first, at_first), (second, at_second) = map(_bytes, records)
    assert kernels.stamp_order(at_first, at_second) == (stamps[0] > stamps[1]) - (stamps[0] < stamps[1])
    assert probes.sound(at_first, at_first + len(first))
    assert probes.sound(at_second, at_second + len(second))


@settings(deadline=None)
@given(at=st.integers(0, 71), mask=st.integers(1, 255))
def test_a_flipped_byte_makes_a_record_unsound_wherever_it_matters(at: int, mask: int) -> None:
    data = bytearray(_record(b"key", encode_envelope(Op.PUT, 1, 1, 1, b"row"), 7))
    data[at % len(data)] ^= mask
    content = 40 + 3 + 24 + 3
    array, address = _bytes(bytes(data) + bytes(64))
    assert probes.sound(address, address + len(data)) == (at % len(data) >= content or (at % len(data) < 4 and _longer(data, content)))
    assert len(array)


def _longer(data: bytes | bytearray, content: int) -> bool:
    """Whether the size still covers the content and ends inside."""
    return content <= int.from_bytes(data[:4], "little") <= len(data)


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_key_in_memory_and_a_packed_key_find_the_same(tmp_path: Path, partitions: int) -> None:
    overlay_at, log_at = place(tmp_path)
    numbers = [0, 1, -1, 63, 64, -65, 8191, 8192, 1 << 40, -(1 << 62), (1 << 63) - 1]
    keys = [_avro(number) for number in numbers]
    records = [put(key, 10 + i, b"row %d" % i, schema=i) for i, key in enumerate(keys[::2])] + [delete(keys[1], 5)]
    with make_log(log_at, partitions) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records, partitions)
        tailer.run_once()
        overlay.refresh()
        data = np.frombuffer(b"".join(keys), np.uint8)
        offsets = np.cumsum([0, *map(len, keys)])
        hashes = np.empty(len(keys), np.uint64)
        _kernels.hash_many(address_of(data), offsets, hashes)
        found = {}
        for i, number in enumerate(numbers):
            one = probes.find(address_of(data) + offsets[i], len(keys[i]), hashes[i], overlay.view.table, 11)
            low, high, count = _kernels._pack_long(number)
            assert probes.find_packed(np.uint64(low), np.uint64(high), count, hashes[i], overlay.view.table, 11) == one
            found[keys[i]] = one[0]
        assert found == {key: Answer(overlay, key, 11).kind for key in keys}
        assert sorted(found.values()) == [probes.NONE] * 6 + [probes.PUT] * 5


def _avro(number: int) -> bytes:
    from fondaco.store.basefile import varint

    return varint((number << 1) ^ (number >> 63))


def test_probes_of_an_index_full_of_garbage_answer_and_touch_nothing_else(tmp_path: Path) -> None:
    chance = random.Random(5)
    print("seed 5")
    overlay_at, log_at = place(tmp_path)
    records = [put(b"key-%d" % i, i, b"x" * (i % 50)) for i in range(300)]
    with make_log(log_at, segment_bytes=4096) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records)
        append(log, [Record(b"", None, 1)])
        tailer.run_once()
        Answer(overlay, b"x")
        (path,) = overlay_at.glob("*.index")
        allowed = {probes.NONE, probes.PUT, probes.DELETE, probes.MERGE, probes.STALE, probes.DAMAGED}
        for _ in range(20):
            with open(path, "r+b") as file:
                size = path.stat().st_size
                file.seek(files_of.HEADER_BYTES)
                words = np.frombuffer(chance.randbytes(size - files_of.HEADER_BYTES), np.uint64).copy()
                words[:: chance.randrange(2, 9)] = 0
                words &= np.uint64(chance.choice([(1 << 64) - 1, (1 << 14) - 1 | 0xFFFFFF << 40]))  # and such that lead into the log
                file.write(words.tobytes())
            for record in records[:100]:
                assert record.key is not None
                array, address = _bytes(record.key)
                hash_ = np.uint64(xxh64(address, len(array)))
                assert probes.find(address, len(array), hash_, overlay.view.table, ALWAYS)[0] in allowed


def test_a_slot_leads_to_a_key_of_the_same_tag_no_further_than_the_comparison(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        records = [put(b"mine", 1, b"m"), put(b"other", 1, b"o")]
        append(log, records)
        tailer.run_once()
        view = overlay.refresh()
        entry = view.table + 8 * probes.TABLE_WORDS
        slots = np.memmap(next(overlay_at.glob("*.index")), np.uint64, "r+", files_of.HEADER_BYTES)
        array, address = _bytes(b"other")
        hash_ = np.uint64(xxh64(address, len(array)))
        found, i, slot, _ = kernels.seek(entry, address_of(view.words), int(view.words[0]), address, 5, hash_)
        assert found == kernels.FOUND
        mine, at_mine = _bytes(b"mine")
        mine_hash = np.uint64(xxh64(at_mine, len(mine)))
        # the slot of "other" in front of that of "mine", with the tag of "mine"
        home = int(_kernels._first_slot(mine_hash, len(slots)))
        slots[home + 1] = slots[home]
        slots[home] = np.uint64(slot) & np.uint64((1 << 40) - 1) | (mine_hash >> np.uint64(32) & np.uint64(0xFFFFFF)) << np.uint64(40)
        assert Answer(overlay, b"mine").row == b"m"
        assert i >= 0


@settings(max_examples=30, deadline=None)
@given(since=st.integers(0, 12), seed=st.integers(0, 1000))
def test_entries_older_than_the_window_say_nothing(tmp_path_factory: pytest.TempPathFactory, since: int, seed: int) -> None:
    chance = random.Random(seed)
    overlay_at, log_at = place(tmp_path_factory.mktemp("since"))
    records = [chance.choice([put(b"%d" % chance.randrange(6), t, b"x"), delete(b"%d" % chance.randrange(6), t)]) for t in range(12)]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records)
        tailer.run_once()
        for key, state in model(records).items():
            assert (Answer(overlay, key, since).kind == probes.NONE) == (state.newest_ms < since)


def test_the_worked_example_of_the_documentation_is_what_is_written(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, [put(b"k", 1000, b"row")])
        tailer.run_once()
        (index,) = overlay_at.glob("1-0.index")
        written = index.read_bytes()[29312 : 29312 + 8]
        assert written.hex(" ") in (Path(__file__).parents[2] / "docs" / "internals" / "overlay.md").read_text()
        assert int.from_bytes(written, "little") == 0xD319220000000022
        assert (overlay.applied(0), tailer.partitions[0].position) == (1, 200)
