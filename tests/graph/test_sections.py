from __future__ import annotations

import contextlib
import os
import pickle
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fondaco.core.errors import CorruptFileError, FormatVersionError, InputError, StateError
from fondaco.graph.schema import DTYPES, numpy_dtype
from fondaco.graph.sections import HEADER_BYTES, SectionWriter, open_sections


def _write(path: Path) -> dict[str, np.ndarray]:
    arrays = {"hashes": np.arange(5, dtype=np.uint64), "x": np.arange(30, dtype=np.float32).reshape(10, 3), "none": np.empty(0, np.int64)}
    with SectionWriter(path) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    return arrays


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_as_it_was_written(tmp_path: Path, dtype: str) -> None:
    array = np.arange(12).reshape(4, 3).astype(numpy_dtype(dtype))
    with SectionWriter(tmp_path / "a.fgs") as writer:
        writer.add("values", array)
    again = open_sections(tmp_path / "a.fgs", verify=True)["values"]
    assert again.dtype == array.dtype
    assert again.tobytes() == array.tobytes()
    assert not again.flags.writeable


def test_bfloat16_is_the_dtype_of_ml_dtypes() -> None:
    assert numpy_dtype("bfloat16") == ml_dtypes.bfloat16


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.integers(0, 300), max_size=12), reserved=st.integers(0, 200))
def test_a_section_written_in_pieces_or_reserved_is_the_same_as_one_written_whole(tmp_path: Path, pieces: list[int], reserved: int) -> None:
    whole = np.arange(sum(pieces), dtype=np.int16)
    room = np.arange(reserved * 3, dtype=np.int64).reshape(reserved, 3)
    entries = []
    for path, at_once in ((tmp_path / "once.fgs", True), (tmp_path / "pieces.fgs", False)):
        path.unlink(missing_ok=True)
        with SectionWriter(path) as writer:
            if at_once:
                writer.add("stream", whole)
                writer.add("room", room)
            else:
                writer.begin("stream", np.int16)
                for end, count in zip(np.cumsum(pieces), pieces, strict=True):
                    writer.append(whole[end - count : end])
                filled = writer.reserve("room", np.int64, (reserved, 3))
                filled[::-1] = room[::-1]
            entry = writer.close()
        entries.append((entry.bytes, entry.checksum))
        open_sections(path).verify()
    assert entries[0] == entries[1]
    assert (tmp_path / "once.fgs").read_bytes() == (tmp_path / "pieces.fgs").read_bytes()


def test_checksums_are_xxh64_of_sections_with_their_padding_and_of_the_header(tmp_path: Path) -> None:
    _write(tmp_path / "a.fgs")
    raw, sections = (tmp_path / "a.fgs").read_bytes(), open_sections(tmp_path / "a.fgs")
    for entry in sections.table:
        padded = raw[entry.offset : entry.offset + -(-entry.bytes // 64) * 64]
        assert entry.xxh64 == xxhash.xxh64_hexdigest(padded)
    assert sections.checksum == xxhash.xxh64_hexdigest(raw[:16] + bytes(8) + raw[24:HEADER_BYTES])
    assert int(sections.checksum, 16).to_bytes(8, "little") == raw[16:24]


def test_every_flipped_byte_is_found_and_the_section_named(tmp_path: Path) -> None:
    _write(tmp_path / "a.fgs")
    raw = bytearray((tmp_path / "a.fgs").read_bytes())
    table = {entry.name: entry for entry in open_sections(tmp_path / "a.fgs").table}
    positions = [*range(64), *range(64, HEADER_BYTES, 97), *range(HEADER_BYTES, len(raw))]
    for position in positions:
        bad = raw.copy()
        bad[position] ^= 0x40
        (tmp_path / "bad.fgs").write_bytes(bad)
        with pytest.raises(CorruptFileError, match=r"bad\.fgs") as caught:
            open_sections(tmp_path / "bad.fgs", verify=True)
        named = {name for name, e in table.items() if e.offset <= position < e.offset + -(-e.bytes // 64) * 64}
        assert caught.value.section in ({"header"} if position < HEADER_BYTES else named)


def test_a_file_cut_at_any_length_is_refused_and_the_section_named(tmp_path: Path) -> None:
    _write(tmp_path / "a.fgs")
    raw = (tmp_path / "a.fgs").read_bytes()
    for length in [0, 7, 8, 63, 64, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 63, len(raw) - 1, len(raw) + 64]:
        (tmp_path / "cut.fgs").write_bytes((raw + bytes(64))[:length])
        with pytest.raises(CorruptFileError, match=r"cut\.fgs") as caught:
            open_sections(tmp_path / "cut.fgs")
        section = "header" if length < HEADER_BYTES else "hashes" if length < HEADER_BYTES + 64 else "x" if length < len(raw) else "header"
        assert caught.value.section == section


def test_another_file_and_an_unfinished_one_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text.fgs").write_text("no graph" * 1000)
    with pytest.raises(CorruptFileError, match="it is no section file of a graph"):
        open_sections(tmp_path / "text.fgs")
    writer = SectionWriter(tmp_path / "half.fgs")
    writer.add("x", np.zeros(10_000))
    with pytest.raises(CorruptFileError, match="its writer did not finish it"):
        open_sections(tmp_path / "half.fgs")
    writer.abort()
    assert not (tmp_path / "half.fgs").exists()


def test_a_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    _write(tmp_path / "a.fgs")
    raw = bytearray((tmp_path / "a.fgs").read_bytes())
    raw[8] = 2
    (tmp_path / "a.fgs").write_bytes(raw)
    with pytest.raises(CorruptFileError, match="section 'header'"):  # a damaged file, not a newer one
        open_sections(tmp_path / "a.fgs")
    raw[16:24] = xxhash.xxh64_intdigest(bytes(raw[:16]) + bytes(8) + raw[24:HEADER_BYTES]).to_bytes(8, "little")
    (tmp_path / "a.fgs").write_bytes(raw)
    with pytest.raises(FormatVersionError, match=r"a\.fgs has format 2; this Fondaco reads up to 1"):
        open_sections(tmp_path / "a.fgs")


def test_leaving_by_an_exception_removes_the_file(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), SectionWriter(tmp_path / "a.fgs") as writer:
        writer.add("x", np.zeros(3))
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_misuse_of_a_writer_is_told(tmp_path: Path) -> None:
    with SectionWriter(tmp_path / "a.fgs") as writer:
        with pytest.raises(StateError, match="no section was begun"):
            writer.append(np.zeros(1))
        writer.begin("x", np.int64, (2,))
        with pytest.raises(InputError, match=r"takes int64\[2\], not float64\[2\]"):
            writer.append(np.zeros((1, 2)))
        writer.append(np.zeros((1, 2), np.int64))
        writer.begin("y", np.int64)
        with pytest.raises(InputError, match="has a section 'x' already"):
            writer.add("x", np.zeros(1))
        with pytest.raises(InputError, match="object"):
            writer.add("z", np.array([None]))
    with pytest.raises(StateError, match="written once"):
        writer.add("x", np.zeros(1))


def test_arrays_outlive_the_object_that_they_came_from(tmp_path: Path) -> None:
    arrays = _write(tmp_path / "a.fgs")
    array = open_sections(tmp_path / "a.fgs")["x"]
    (tmp_path / "a.fgs").unlink()
    assert array.tolist() == arrays["x"].tolist()
    assert pickle.loads(pickle.dumps(array)).tolist() == arrays["x"].tolist()


def test_the_worked_example_of_the_document_is_what_is_written(tmp_path: Path) -> None:
    document = Path(__file__).parents[2] / "docs" / "internals" / "graph-format.md"
    shown = re.split(r"^`((?:nodes|edges)-\d+-\d+\.fgs)`:$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert shown[1::2] == ["nodes-00-00000.fgs", "edges-00-00000.fgs"]
    edges = [(10, 20), (10, 30), (30, 10)]
    hashes = {node_id: xxhash.xxh64_intdigest(node_id.to_bytes(8, "little")) for node_id in (10, 20, 30)}
    ids = sorted(hashes, key=lambda node_id: hashes[node_id])
    rows = [sorted(ids.index(dst) for src, dst in edges if src == node_id) for node_id in ids]
    with SectionWriter(tmp_path / "nodes-00-00000.fgs") as writer:
        writer.add("hashes", np.array([hashes[node_id] for node_id in ids], np.uint64))
        writer.add("ids", np.array(ids, np.int64))
    with SectionWriter(tmp_path / "edges-00-00000.fgs") as writer:
        writer.add("indptr", np.cumsum([0, *map(len, rows)]).astype(np.int64))
        writer.add("indices", np.array([to for row in rows for to in row], np.int32))
    for name, text in zip(shown[1::2], shown[2::2], strict=True):
        written = (tmp_path / name).read_bytes()
        covered = bytearray(len(written))
        for offset, line in re.findall(r"^    ([0-9a-f]{8}) ((?: [0-9a-f]{2})+)", text, re.MULTILINE):
            raw = bytes.fromhex(line)
            covered[int(offset, 16) : int(offset, 16) + len(raw)] = raw
        [table] = re.findall(r"^    (\[\{.*\}\])$", text, re.MULTILINE)
        covered[64:HEADER_BYTES] = table.encode().ljust(HEADER_BYTES - 64, b" ")
        assert covered == written
