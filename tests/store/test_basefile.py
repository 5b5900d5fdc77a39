"""Base files: what goes in comes out, whatever happens to the file is noticed, and the documented layout is the real one."""

from __future__ import annotations

import errno
import os
import re
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import CorruptFileError, DataError, DiskFullError, DuplicateKeyError, FormatVersionError, ReadOnlyError, StateError
from fondaco.store import basefile
from fondaco.store.basefile import BaseFile, BaseFileWriter, OnDuplicate

Records = list[tuple[bytes, bytes]]
SECTIONS = ("header", "dictionary", "heap", "index", "footer")


def packed(parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def append(writer: BaseFileWriter, records: Records, **options) -> None:
    writer.append(*packed([key for key, _ in records]), *packed([value for _, value in records]), **options)


def write(path: Path, records: Records, *, on_duplicate=OnDuplicate.FAIL, chunk: int = 1000, **options):
    with BaseFileWriter(path, **options) as writer:
        for first in range(0, len(records), chunk):
            append(writer, records[first : first + chunk], first_row=first)
        return writer.seal(on_duplicate)


def read(file: BaseFile, key: bytes) -> bytes | None:
    found = file.find(key)
    return None if found is None else bytes(file.memory[found[0] : found[1]])


def scan(file: BaseFile, **options) -> Records:
    records: Records = []
    for batch in file.scan(**options):
        for i in range(len(batch.compressed)):
            key = batch.keys[batch.key_offsets[i] : batch.key_offsets[i + 1]].tobytes()
            records.append((key, batch.values[batch.value_offsets[i] : batch.value_offsets[i + 1]].tobytes()))
    return records


def bounds(path: Path) -> dict[str, tuple[int, int]]:
    """Where each section lies, read from the header as the document draws it."""
    raw = path.read_bytes()
    heap, index, footer, size = (struct.unpack_from("<Q", raw, at)[0] for at in (40, 56, 64, 72))
    return {"header": (0, 128), "dictionary": (128, heap), "heap": (heap, index), "index": (index, footer), "footer": (footer, size)}


def some_records(count: int, seed: int = 1) -> Records:
    rng = np.random.default_rng(seed)
    return [(b"key-%d" % i, rng.bytes(int(rng.integers(0, 90)))) for i in range(count)]


# -- what goes in comes out ---------------------------------------------------------------------------------------------------------


@given(records=st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=9000), max_size=40), chunk=st.integers(1, 10))
@settings(max_examples=60, deadline=None)
def test_every_record_is_found_and_nothing_else(tmp_path_factory, records, chunk):
    path = tmp_path_factory.mktemp("base") / "part.base"
    summary = write(path, list(records.items()), chunk=chunk, buffer_bytes=4096)
    file = BaseFile.open(path)
    assert {key: read(file, key) for key in records} == records
    assert scan(file, batch_records=7, batch_bytes=5000) == list(records.items())
    assert read(file, b"absent" * 8) is None
    assert (summary.records, summary.bytes, summary.repeated) == (len(records), path.stat().st_size, 0)
    assert summary.checksum == file.checksum


def test_a_file_without_records_is_valid_and_empty(tmp_path):
    assert write(tmp_path / "a", []).records == 0
    file = BaseFile.open(tmp_path / "a")
    assert (file.records, file.find(b"x"), list(file.scan())) == (0, None, [])


def test_the_dictionary_and_the_compressed_flags_come_back(tmp_path):
    with BaseFileWriter(tmp_path / "a", dictionary=b"d" * 5000) as writer:
        append(writer, [(b"a", b"1"), (b"b", b"2")], compressed=np.array([0, 1], np.uint8))
        writer.seal()
    file = BaseFile.open(tmp_path / "a")
    assert file.dictionary == b"d" * 5000
    assert [file.find(key)[2] for key in (b"a", b"b")] == [False, True]
    assert [batch.compressed.tolist() for batch in file.scan()] == [[0, 1]]


def test_selected_rows_are_written_in_the_order_of_the_selection(tmp_path):
    with BaseFileWriter(tmp_path / "a") as writer:
        append(writer, some_records(10), select=np.array([7, 2, 2 + 3]))
        writer.seal()
    assert [key for key, _ in scan(BaseFile.open(tmp_path / "a"))] == [b"key-7", b"key-2", b"key-5"]


def test_the_same_records_give_the_same_bytes_whatever_the_chunks(tmp_path):
    records = some_records(3000)
    write(tmp_path / "a", records, chunk=3000)
    write(tmp_path / "b", records, chunk=7, buffer_bytes=4096)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_record_larger_than_the_buffer_is_written_across_it(tmp_path):
    records = [(b"small", b"1"), (b"large", os.urandom(50_000)), (b"k" * 9000, b"long key"), (b"after", b"2")]
    write(tmp_path / "a", records, buffer_bytes=4096)
    assert scan(BaseFile.open(tmp_path / "a")) == records


# -- pages --------------------------------------------------------------------------------------------------------------------------


def places(path: Path) -> list[tuple[int, int]]:
    """(start, end) in the heap of every record, by the document: a zero where a record would begin leads to the next page."""
    raw = path.read_bytes()
    heap, length = (struct.unpack_from("<Q", raw, at)[0] for at in (40, 48))

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (raw[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if raw[at - 1] < 128:
                return value, at

    found, position = [], 0
    while position < length:
        key_bytes, at = varint(heap + position)
        if not key_bytes:
            empty = -position % 4096
            assert raw[heap + position : heap + position + empty] == bytes(empty)
            position += empty
            continue
        word, at = varint(at)
        found.append((position, at + key_bytes + (word >> 1) - heap))
        position = found[-1][1]
    return found


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=60) | st.lists(st.integers(0, 700), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_a_record_crosses_no_page_unless_more_than_a_tenth_of_one_would_stay_empty(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("base") / "part.base"
    records = [(b"%d" % i, b"v" * size) for i, size in enumerate(sizes)]
    summary = write(path, records, chunk=13, buffer_bytes=8192)
    before = 0
    for start, end in places(path):
        rest = -before % 4096
        moved = rest < end - start <= 4096 and rest <= 409
        assert start == before + (rest if moved else 0)
        before = end
    assert (summary.records, summary.heap_bytes) == (len(sizes), before)
    assert scan(BaseFile.open(path), batch_records=5, batch_bytes=3000) == records


def test_rows_of_half_a_kibibyte_never_cross_a_page(tmp_path):
    """The rows of an embedding of 128 floats: each costs one page fault where memory is short, for a twentieth more space."""
    rng = np.random.default_rng(6)
    records = [(b"%d" % i, rng.bytes(int(rng.integers(540, 580)))) for i in range(3000)]
    summary = write(tmp_path / "a", records)
    assert all(start // 4096 == (end - 1) // 4096 for start, end in places(tmp_path / "a"))
    assert summary.heap_bytes < 1.06 * sum(end - start for start, end in places(tmp_path / "a"))


def test_rows_named_in_errors_are_right_behind_empty_ends_of_pages(tmp_path):
    records = [(b"%d" % i, b"v" * 556) for i in range(500)]
    records[400] = (b"123", b"another")
    with pytest.raises(DuplicateKeyError) as caught:
        write(tmp_path / "a", records, chunk=50)
    assert (caught.value.first_row, caught.value.second_row) == (123, 400)


@given(sizes=st.lists(st.integers(0, 1500), max_size=80), seed=st.integers(0, 1000), buffer_pages=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_dropping_records_leaves_the_pages_of_a_file_that_never_saw_them(tmp_path_factory, sizes, seed, buffer_pages):
    directory = tmp_path_factory.mktemp("base")
    rng = np.random.default_rng(seed)
    # the row number makes every value different: of equal records the first stays, of different ones the last
    records = [(b"%d" % rng.integers(0, 25), rng.bytes(size) + b"%d" % row) for row, size in enumerate(sizes)]
    write(directory / "a", records, on_duplicate=OnDuplicate.KEEP_LAST, buffer_bytes=4096 * buffer_pages)
    last = {key: row for row, (key, _) in enumerate(records)}
    write(directory / "b", [records[row] for row in sorted(last.values())])
    assert (directory / "a").read_bytes() == (directory / "b").read_bytes()


def test_a_key_without_bytes_is_refused(tmp_path):
    with BaseFileWriter(tmp_path / "a") as writer, pytest.raises(DataError, match="no bytes"):
        append(writer, [(b"a", b"1"), (b"", b"2")])


# -- repeated keys ------------------------------------------------------------------------------------------------------------------


def test_equal_records_collapse_and_are_counted(tmp_path):
    summary = write(tmp_path / "a", some_records(50) * 3)
    assert (summary.records, summary.repeated) == (50, 100)
    assert scan(BaseFile.open(tmp_path / "a")) == some_records(50)
    write(tmp_path / "b", some_records(50))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_two_values_for_one_key_fail_with_the_key_and_both_rows(tmp_path):
    records = some_records(5000)
    records[4321] = (records[17][0], b"another value")
    with pytest.raises(DuplicateKeyError) as caught:
        write(tmp_path / "a", records, chunk=100)
    assert (caught.value.key, caught.value.first_row, caught.value.second_row) == (repr(b"key-17"), 17, 4321)
    assert not list(tmp_path.iterdir())


def test_rows_of_a_selection_are_named_by_their_place_in_the_input(tmp_path):
    with BaseFileWriter(tmp_path / "a") as writer:
        append(writer, some_records(10), select=np.array([3, 9]), first_row=1_000)
        append(writer, [(b"other", b""), (b"key-9", b"not the same")], select=np.array([1]), first_row=5_000_000_000)
        with pytest.raises(DuplicateKeyError) as caught:
            writer.seal(show_key=lambda key: key.decode().upper())
    assert caught.value.args == ("KEY-9", 1_009, 5_000_000_001)


def test_a_flag_that_differs_makes_records_differ(tmp_path):
    with BaseFileWriter(tmp_path / "a") as writer:
        append(writer, [(b"a", b"1"), (b"a", b"1")], compressed=np.array([0, 1], np.uint8))
        with pytest.raises(DuplicateKeyError):
            writer.seal()


@given(keys=st.lists(st.integers(0, 30), max_size=120), keep=st.sampled_from([OnDuplicate.KEEP_FIRST, OnDuplicate.KEEP_LAST]))
@settings(max_examples=60, deadline=None)
def test_keep_rules_keep_the_first_or_the_last_and_leave_no_trace_of_the_others(tmp_path_factory, keys, keep):
    directory = tmp_path_factory.mktemp("base")
    records = [(b"%d" % key, b"value %d" % row * (row % 70 + 1)) for row, key in enumerate(keys)]
    summary = write(directory / "a", records, on_duplicate=keep, chunk=9, buffer_bytes=4096)
    positions = {key: row for row, (key, _) in (enumerate(records) if keep is OnDuplicate.KEEP_LAST else reversed([*enumerate(records)]))}
    expected = [records[row] for row in sorted(positions.values())]
    assert scan(BaseFile.open(directory / "a")) == expected
    assert (summary.records, summary.repeated) == (len(expected), len(records) - len(expected))
    write(directory / "b", expected)
    assert (directory / "a").read_bytes() == (directory / "b").read_bytes()


def test_keep_last_moves_records_larger_than_the_buffer(tmp_path):
    large = [os.urandom(30_000), os.urandom(9_000), os.urandom(70_000)]
    records = [(b"a", b"old"), (b"b", large[0]), (b"a", large[1]), (b"c", large[2]), (b"b", b"new")]
    write(tmp_path / "a", records, on_duplicate=OnDuplicate.KEEP_LAST, buffer_bytes=4096)
    assert scan(BaseFile.open(tmp_path / "a")) == [(b"a", large[1]), (b"c", large[2]), (b"b", b"new")]


# -- damage -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_a_flipped_bit_anywhere_is_refused_by_section(tmp_path, section):
    path = tmp_path / "a"
    write(path, some_records(200), dictionary=os.urandom(3000))
    start, end = bounds(path)[section]
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(5)
    for position in [start, end - 1, *rng.integers(start, end, 60).tolist()]:
        bit = 1 << int(rng.integers(8))
        data[position] ^= bit
        path.write_bytes(data)
        with pytest.raises(CorruptFileError) as caught:
            BaseFile.open(path)
        assert caught.value.section == section, position
        assert str(path) in str(caught.value)
        data[position] ^= bit
    path.write_bytes(data)
    BaseFile.open(path)


def test_every_single_byte_of_the_header_and_the_footer_counts(tmp_path):
    path = tmp_path / "a"
    write(path, some_records(3))
    data = bytearray(path.read_bytes())
    for section in ("header", "footer"):
        for position in range(*bounds(path)[section]):
            data[position] ^= 0xFF
            path.write_bytes(data)
            with pytest.raises(CorruptFileError) as caught:
                BaseFile.open(path)
            assert caught.value.section == section
            data[position] ^= 0xFF
            path.write_bytes(data)


def test_verify_finds_damage_that_opening_without_the_heap_check_leaves(tmp_path):
    path = tmp_path / "a"
    write(path, some_records(200))
    position = bounds(path)["heap"][0] + 30
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    file = BaseFile.open(path, check_heap=False)
    with pytest.raises(CorruptFileError) as caught:
        file.verify()
    assert caught.value.section == "heap"


def test_verify_notices_another_file_in_its_place(tmp_path):
    write(tmp_path / "a", some_records(20))
    write(tmp_path / "b", some_records(21))
    file = BaseFile.open(tmp_path / "a")
    file.verify()
    os.replace(tmp_path / "b", tmp_path / "a")
    with pytest.raises(CorruptFileError):
        file.verify()


@pytest.mark.parametrize("keep", [0, 1, 127, 191, 192, 5000, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "a"
    write(path, some_records(200))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFileError) as caught:
        BaseFile.open(path)
    assert caught.value.section == "header"


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"PAR1" + os.urandom(5000))
    with pytest.raises(CorruptFileError, match="begins with"):
        BaseFile.open(tmp_path / "a")


def test_a_file_whose_writer_died_is_refused(tmp_path):
    writer = BaseFileWriter(tmp_path / "a", buffer_bytes=4096)
    append(writer, some_records(500))
    with pytest.raises(CorruptFileError, match="never sealed"):
        BaseFile.open(tmp_path / "a")
    writer.abort()


def test_a_newer_format_is_told_apart_from_damage(tmp_path):
    path = tmp_path / "a"
    write(path, some_records(5))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 8, 2)
    struct.pack_into("<Q", data, 120, xxhash.xxh64_intdigest(bytes(data[:120])))
    path.write_bytes(data)
    with pytest.raises(FormatVersionError) as caught:
        BaseFile.open(path)
    assert (caught.value.found, caught.value.supported) == (2, 1)


def test_an_index_that_leads_outside_the_heap_is_reported_not_followed(tmp_path):
    """A file with right checksums and wrong contents: made on purpose, or by a bug. No read leaves the heap."""
    path = tmp_path / "a"
    write(path, [(b"only", b"value")])
    places = bounds(path)
    data = bytearray(path.read_bytes())
    for at in range(*places["index"], 8):
        slot = struct.unpack_from("<Q", data, at)[0]
        if slot:
            struct.pack_into("<Q", data, at, slot | (1 << 39))
    start, end = places["index"]
    struct.pack_into("<Q", data, places["footer"][0] + 32, xxhash.xxh64_intdigest(bytes(data[start:end])))
    footer = places["footer"][0]
    struct.pack_into("<Q", data, footer + 56, xxhash.xxh64_intdigest(bytes(data[footer : footer + 56])))
    path.write_bytes(data)
    file = BaseFile.open(path)
    with pytest.raises(CorruptFileError) as caught:
        file.find(b"only")
    assert caught.value.section == "index"


def test_a_record_that_claims_more_than_the_heap_is_reported_not_read(tmp_path):
    path = tmp_path / "a"
    write(path, [(b"only", b"value")])
    places = bounds(path)
    data = bytearray(path.read_bytes())
    heap, index = places["heap"]
    data[heap + 1] = 127  # 63 bytes of value where 5 are
    footer = places["footer"][0]
    struct.pack_into("<Q", data, footer + 24, xxhash.xxh64_intdigest(bytes(data[heap:index])))
    struct.pack_into("<Q", data, footer + 56, xxhash.xxh64_intdigest(bytes(data[footer : footer + 56])))
    path.write_bytes(data)
    file = BaseFile.open(path)
    with pytest.raises(CorruptFileError):
        file.find(b"only")
    with pytest.raises(CorruptFileError):
        list(file.scan())


def test_a_mapped_file_stays_readable_after_its_name_is_gone(tmp_path):
    write(tmp_path / "a", some_records(100))
    file = BaseFile.open(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert read(file, b"key-99") == some_records(100)[99][1]


# -- writers that cannot go on ------------------------------------------------------------------------------------------------------


def test_leaving_a_writer_without_seal_removes_its_files(tmp_path):
    with BaseFileWriter(tmp_path / "a") as writer:
        append(writer, some_records(5), first_row=0)
        assert len(list(tmp_path.iterdir())) == 2  # the file, and its row numbers
    assert not list(tmp_path.iterdir())


def test_a_sealed_writer_takes_nothing_more(tmp_path):
    with BaseFileWriter(tmp_path / "a") as writer:
        writer.seal()
        with pytest.raises(StateError, match="sealed"):
            append(writer, some_records(1))
        with pytest.raises(StateError):
            writer.seal()


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        BaseFileWriter(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_record_over_the_limit_is_named_by_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(basefile, "RECORD_BYTES_MAX", 1000)
    with BaseFileWriter(tmp_path / "a") as writer, pytest.raises(DataError, match=r"row 12 takes 1001 bytes.*limit is 1000"):
        append(writer, [(b"a", b""), (b"b", b"x" * 999), (b"c", b"x" * 1000)], first_row=10)


def test_a_heap_over_the_limit_asks_for_more_partitions(tmp_path, monkeypatch):
    monkeypatch.setattr(basefile, "HEAP_BYTES_MAX", 1000)
    with BaseFileWriter(tmp_path / "a") as writer, pytest.raises(DataError, match="more partitions"):
        append(writer, some_records(500))


def test_a_full_disk_is_a_typed_error_and_leaves_nothing(tmp_path):
    """A file-size limit of the process: the kernel refuses the write as it does on a full disk."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with BaseFileWriter(tmp_path / "a", buffer_bytes=4096) as writer, pytest.raises(DiskFullError) as caught:
            append(writer, [(b"%d" % i, os.urandom(1000)) for i in range(500)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.access("/sys", os.W_OK) and os.geteuid() != 0, reason="needs a place where nobody can write")
def test_a_directory_that_cannot_be_written_is_a_typed_error():
    with pytest.raises(ReadOnlyError, match="cannot be written"):
        BaseFileWriter("/sys/part.base")


# -- the document -------------------------------------------------------------------------------------------------------------------


def test_the_worked_example_of_the_document_is_what_is_written(tmp_path):
    document = Path(__file__).parents[2] / "docs" / "internals" / "base-file.md"
    lines = re.findall(r"^    ([0-9a-f]{8}) ((?: [0-9a-f]{2})+)", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert lines
    with BaseFileWriter(tmp_path / "a", dictionary=b"abc") as writer:
        append(writer, [(b"\x54", b"hello"), (b"\x55", b"\x01\x02")], compressed=np.array([0, 1], np.uint8))
        writer.seal()
    data = (tmp_path / "a").read_bytes()
    covered = bytearray(len(data))
    for offset, text in lines:
        shown = bytes.fromhex(text)
        assert data[int(offset, 16) : int(offset, 16) + len(shown)] == shown, offset
        covered[int(offset, 16) : int(offset, 16) + len(shown)] = shown
    assert covered == data  # what the document leaves out is zero


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of a process's maps")
@pytest.mark.parametrize("check_heap", [False, True])
def test_the_heap_and_only_the_heap_is_advised_random(tmp_path, check_heap):
    """Without the advice, data three times the memory is read a hundred times slower; with it on the index, a probe would be."""
    path = tmp_path / "a"
    write(path, some_records(3000))
    file = BaseFile.open(path, check_heap=check_heap)
    random, at = {}, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            at = int(line.split()[2], 16) if line.endswith(str(path)) else -1
        elif line.startswith("VmFlags:") and at >= 0:
            random[at] = " rr" in line
    heap, index = bounds(path)["heap"]
    assert random == {0: False, heap: True, index: False}
    assert file.records == 3000
