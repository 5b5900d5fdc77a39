"""The embedded reader: what it answers, how it follows swaps, and what faults do to it. Real files, threads and processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core import verified
from fondaco.core.errors import (
    CorruptFileError,
    FieldNotFoundError,
    FormatVersionError,
    InputError,
    KeyTypeError,
    NoCurrentVersionError,
    SchemaError,
    SchemaResolutionError,
    StateError,
    StoreNotFoundError,
    VersionNotFoundError,
)
from fondaco.schema import Codec, vector
from fondaco.store import reader
from fondaco.store.basefile import BaseFileWriter, partition_rows
from fondaco.store.compression import Compressor, choose
from fondaco.store.keys import KeyCodec
from fondaco.store.layout import StoreLayout, write_cell
from fondaco.store.manifest import MANIFEST_FILE, CompressionReport, FileEntry, Manifest, write_manifest
from fondaco.store.reader import EmbeddedReader

DIM = 4
MEMBER = {
    "type": "record",
    "name": "Member",
    "fields": [
        {"name": "clicks", "type": "long"},
        {"name": "title", "type": ["null", "string"]},
        {"name": "emb", "type": vector(DIM)},
    ],
}
ROUTE = {"type": "record", "name": "Route", "fields": [{"name": "origin", "type": "string"}, {"name": "number", "type": "int"}]}


def member(key: object, version: int = 1) -> dict[str, object]:
    number = abs(hash(str(key))) % 1000 if not isinstance(key, int) else key
    title = None if number % 3 == 0 else f"title {number} " * 5
    return {"clicks": number * 10 + version, "title": title, "emb": np.arange(DIM, dtype=np.float32) + number}


def same(row: object, expected: dict[str, object]) -> bool:
    assert row is not None
    return (row["clicks"], row["title"]) == (expected["clicks"], expected["title"]) and bool((row["emb"] == expected["emb"]).all())  # type: ignore[index]


class Versions:
    """Writes versions of a store as a push does, without a catalog."""

    def __init__(self, directory: Path, key: object = "long", value: object = MEMBER) -> None:
        self.layout = StoreLayout(directory)
        self.layout.create()
        self.key, self.codec, self.value = KeyCodec(key), Codec(value), value

    def write(
        self, version: int, rows: dict, *, partitions: int = 3, compressor: Compressor | None = None, stamp: bool = False, schema: int = 1
    ) -> Path:
        directory = self.layout.version(version)
        directory.mkdir()
        keys = self.key.encode_many(list(rows))
        encoded = [self.codec.encode(row) for row in rows.values()]
        values, offsets = np.frombuffer(b"".join(encoded), np.uint8), np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in encoded], out=offsets[1:])
        flags = None
        if compressor is not None:
            values, offsets, flags = compressor.compress(values, offsets)
        order, bounds = partition_rows(keys.hashes, partitions)
        files = []
        for p in range(partitions):
            path = directory / f"part-{p:05d}.base"
            with BaseFileWriter(path, dictionary=compressor.dictionary if compressor else b"") as writer:
                writer.append(keys.data, keys.offsets, values, offsets, compressed=flags, select=order[bounds[p] : bounds[p + 1]])
                done = writer.seal()
            files.append(FileEntry(done.name, done.bytes, done.records, done.checksum))
        report = CompressionReport(requested="auto", chosen="zstd" if compressor else "none", sample_rows=0, sample_bytes=0)
        write_manifest(
            directory,
            Manifest(
                store="members", version=version, push_id=f"push-{version}", created_us=0, as_of_us=0, key_schema=self.key.to_json(),
                value_schema_id=schema, value_schema=self._value_json(), partition_count=partitions, records=len(rows),
                bytes=sum(file.bytes for file in files), compression=report, files=tuple(files),
            ),
        )  # fmt: skip
        if stamp:
            verified.write_stamps(directory, [file.name for file in files])
        return directory

    def _value_json(self) -> str:
        from fondaco.schema import full_form

        return full_form(self.codec.writer)

    def swap(self, version: int) -> None:
        write_cell(self.layout.current_cell, version)

    def reader(self, **options) -> EmbeddedReader:
        return EmbeddedReader.open(self.layout.directory, "members", **options)


@pytest.fixture
def versions(tmp_path) -> Versions:
    return Versions(tmp_path / "members")


@pytest.fixture
def store(versions) -> Versions:
    """Version 1 of keys 0 to 99, current."""
    versions.write(1, {key: member(key) for key in range(100)})
    versions.swap(1)
    return versions


# -- answers ------------------------------------------------------------------------------------------------------------------------

KEYS = {
    "long": [0, 1, -1, 63, 64, -65, 10**6, 2**62, -(2**63), 2**63 - 1],
    "int": [0, 1, -1, 2**31 - 1, -(2**31), 12345],
    "string": ["", "a", "ünï", "x" * 3000, "JFK"],
    "bytes": [b"", b"a", b"\xff" * 700, b"\x00"],
    "route": [{"origin": "JFK", "number": 1}, {"origin": "", "number": -7}, {"origin": "LGA" * 50, "number": 0}],
}
ABSENT = {"long": 77, "int": 77, "string": "absent", "bytes": b"absent", "route": {"origin": "absent", "number": 1}}


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "zstd"])
@pytest.mark.parametrize("partitions", [1, 3, 16])
@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_is_found_one_by_one_and_in_batches(tmp_path, kind, partitions, compressed):
    versions = Versions(tmp_path / "members", ROUTE if kind == "route" else kind)
    keys, absent = KEYS[kind], ABSENT[kind]
    rows = [member(i) for i in range(len(keys))]
    encoded = versions.key.encode_many(keys)
    by_key = dict(zip([str(key) for key in keys], rows, strict=True))
    assert len(encoded) == len(by_key)
    compressor = choose(np.zeros(0, np.uint8), np.zeros(1, np.int64)).compressor if not compressed else Compressor()
    if kind == "route":
        versions.key.encode_many([tuple(key.values()) for key in keys])
    write_rows(versions, keys, rows, partitions, compressor)
    versions.swap(1)
    with versions.reader() as r:
        assert all(same(r.get(key), row) for key, row in zip(keys, rows, strict=True))
        assert r.get(absent) is None
        asked = [keys[2], absent, keys[0], keys[2], *keys]
        expected = [rows[2], None, rows[0], rows[2], *rows]
        got = r.get_many(asked)
        assert [row is None for row in got] == [row is None for row in expected]
        assert all(same(row, want) for row, want in zip(got, expected, strict=True) if want is not None)
        columns = r.get_columns(asked)
        assert columns.found.tolist() == [row is not None for row in expected]
        for i, want in enumerate(expected):
            if want is not None:
                assert (columns["clicks"][i], columns["emb"][i].tolist()) == (want["clicks"], want["emb"].tolist())
                assert (None if np.ma.getmaskarray(columns["title"])[i] else columns["title"][i]) == want["title"]
            else:
                assert columns["clicks"].mask[i]
        packed = r.get_packed(asked)
        data = packed.data.tobytes()
        for i, want in enumerate(expected):
            value = data[packed.offsets[i] : packed.offsets[i + 1]]
            assert (packed.found[i], value) == ((False, b"") if want is None else (True, versions.codec.encode(want)))


def write_rows(versions: Versions, keys: list, rows: list, partitions: int, compressor: Compressor | None) -> None:
    class Pairs(dict):  # record keys are mappings, which a dict cannot have as keys
        def __iter__(self):
            return iter(keys)

        def __len__(self):
            return len(keys)

        def values(self):
            return rows

    versions.write(1, Pairs(), partitions=partitions, compressor=compressor)


def test_record_keys_may_be_tuples(tmp_path):
    versions = Versions(tmp_path / "members", ROUTE)
    write_rows(versions, [("JFK", 1), ("LGA", 2)], [member(1), member(2)], 2, None)
    versions.swap(1)
    with versions.reader() as r:
        assert same(r.get(("LGA", 2)), member(2))
        assert same(r.get({"number": 1, "origin": "JFK"}), member(1))
        assert r.get_columns([("LGA", 2), ("LGA", 3)]).found.tolist() == [True, False]


@given(st.sets(st.integers(-(1 << 63), (1 << 63) - 1), max_size=60), st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=40))
@settings(max_examples=30, deadline=None)
def test_random_keys_are_found_if_and_only_if_they_are_there(tmp_path_factory, present, asked):
    versions = Versions(
        tmp_path_factory.mktemp("store") / "members", value={"type": "record", "name": "V", "fields": [{"name": "k", "type": "long"}]}
    )
    versions.write(1, {key: {"k": key} for key in present}, partitions=5)
    versions.swap(1)
    asked = [*asked, *present]
    with versions.reader() as r:
        expected = [key if key in present else None for key in asked]
        assert [None if row is None else row["k"] for row in map(r.get, asked)] == expected
        assert [None if row is None else row["k"] for row in r.get_many(asked)] == expected
        assert r.get_columns(asked)["k"].tolist() == expected


def test_an_empty_version_and_no_keys_are_answered(versions):
    versions.write(1, {})
    versions.swap(1)
    with versions.reader() as r:
        assert r.get(1) is None
        assert r.get_many([]) == []
        assert r.get_many([1, 2]) == [None, None]
        assert r.get_columns([1]).found.tolist() == [False]
        assert r.get_columns([])["clicks"].shape == (0,)
        assert r.get_packed([]).offsets.tolist() == [0]


def test_a_vector_is_a_view_of_the_mapped_file_and_outlives_the_reader(store):
    with store.reader() as r:
        emb = r.get(7)["emb"]
        rows = r.get_many([8, 9])
        columns = r.get_columns([10])
    assert not emb.flags.writeable
    assert not emb.flags.owndata
    shutil.rmtree(store.layout.directory)
    assert emb.tolist() == member(7)["emb"].tolist()
    assert same(rows[1], member(9))
    assert columns["clicks"].tolist() == [member(10)["clicks"]]


def test_integers_of_numpy_are_keys_and_other_types_are_refused(store):
    with store.reader() as r:
        assert same(r.get(np.int32(7)), member(7))
        assert same(r.get(np.uint64(7)), member(7))
        for wrong in (True, 7.0, "7", None, 2**63, b"7", [7]):
            with pytest.raises(KeyTypeError, match="long"):
                r.get(wrong)
        with pytest.raises(KeyTypeError, match="position 1"):
            r.get_columns([1, "2"])


def test_an_unknown_field_is_refused_with_the_near_name(store):
    with store.reader() as r:
        with pytest.raises(FieldNotFoundError, match="'clicks'"):
            r.get_columns([1], ["click"])
        with pytest.raises(FieldNotFoundError, match="'clicks'"):
            r.get(1)["click"]


def test_compute_equals_the_computation_on_fetched_rows(store):
    query = np.array([1, -2, 0.5, 3], np.float32)
    with store.reader() as r:
        keys = [5, 500, 0, 99]
        dot = r.compute(keys, "dot", field="emb", vector=query)
        assert dot.tolist() == [None if row is None else pytest.approx(float(row["emb"] @ query)) for row in r.get_many(keys)]
        assert r.compute(keys, "euclidean", field="emb", vector=query).mask.tolist() == [False, True, False, False]
        assert r.compute(keys, "cosine", field="emb", vector=query).mask.tolist() == [False, True, False, False]
        with pytest.raises(InputError, match=r"4 numbers.* 3"):
            r.compute(keys, "dot", field="emb", vector=query[:3])
        assert r.compute(keys, "dot", "emb", query).tolist() == dot.tolist()


def test_a_reader_schema_resolves_old_rows(store):
    wanted = {
        "type": "record",
        "name": "Member",
        "fields": [{"name": "clicks", "type": "double"}, {"name": "score", "type": "float", "default": 0.5}],
    }
    with store.reader(schema=wanted) as r:
        assert dict(r.get(3)) == {"clicks": float(member(3)["clicks"]), "score": 0.5}
        assert r.get_columns([3, 4])["clicks"].tolist() == [float(member(k)["clicks"]) for k in (3, 4)]
        assert list(r.get_columns([3])) == ["clicks", "score"]
    with pytest.raises(SchemaResolutionError):
        store.reader(schema={"type": "record", "name": "Member", "fields": [{"name": "clicks", "type": "string"}]})


RATED = {**MEMBER, "fields": [*MEMBER["fields"], {"name": "rating", "type": "int", "default": 7}]}


def rated(store: Versions) -> Versions:
    """Version 2, not current, of schema 2, which adds `rating`."""
    later = Versions(store.layout.directory, value=RATED)
    later.write(2, {key: {**member(key, 2), "rating": 9} for key in range(100)}, schema=2)
    return later


def test_a_field_that_a_later_schema_added_is_still_there_after_a_rollback(store):
    rated(store)
    with store.reader() as r:
        assert list(r.get(1)) == ["clicks", "title", "emb"]
        store.swap(2)
        assert (r.get(1)["rating"], r.get_columns([1, 500], ["rating"])["rating"].tolist()) == (9, [9, None])
        store.swap(1)
        assert (r.get(1)["rating"], r.get_columns([1, 500], ["rating"])["rating"].tolist()) == (7, [7, None])
        assert (r.at(1).get(1)["rating"], r.at(2).get(1)["rating"]) == (7, 9)
        assert pickle.loads(pickle.dumps(r)).get(1)["rating"] == 7


def test_schemas_that_a_reader_is_told_of_are_there_from_the_first_read(store):
    rated(store)
    for known in ([MEMBER, RATED], {2: RATED}):
        with store.reader(known_schemas=known) as r:
            assert (r.version, r.get(1)["rating"]) == (1, 7)
        with store.reader(known_schemas=known, version=1) as pinned:
            assert pinned.get_columns([1])["rating"].tolist() == [7]


def test_a_version_opened_by_number_tells_the_reader_its_fields(store):
    rated(store)
    with store.reader() as r:
        assert r.at(2).get(1)["rating"] == 9
        assert r.at(1).get(1)["rating"] == 7


def test_a_field_that_a_later_schema_renamed_is_read_from_rows_of_either(store):
    first, *others = MEMBER["fields"]
    renamed = {**MEMBER, "fields": [{**first, "name": "touches", "aliases": ["clicks"]}, *others]}
    Versions(store.layout.directory, value=renamed).write(2, {1: {"touches": 5, "title": None, "emb": [0, 0, 0, 0]}}, schema=2)
    store.swap(2)
    with store.reader() as r:  # meets the newer schema first
        assert r.get(1)["touches"] == 5
        store.swap(1)
        assert r.get(1)["touches"] == member(1)["clicks"]


def test_a_reader_asked_for_a_schema_keeps_to_it_whatever_others_add(store):
    rated(store)
    with store.reader(schema=MEMBER, known_schemas=[MEMBER, RATED]) as r:
        store.swap(2)
        assert list(r.get(1)) == list(r.at(1).get(1)) == ["clicks", "title", "emb"]


def test_a_store_made_again_under_its_name_owes_nothing_to_the_fields_of_the_old_one(store):
    other = {"type": "record", "name": "Member", "fields": [{"name": "clicks", "type": "string"}]}
    with store.reader() as r:
        assert r.get(1) is not None
        shutil.rmtree(store.layout.version(1))
        Versions(store.layout.directory, value=other).write(2, {1: {"clicks": "a"}})
        store.swap(2)
        assert dict(r.get(1)) == {"clicks": "a"}


def test_a_recursive_schema_has_rows_and_no_columns(tmp_path):
    tree = {"type": "record", "name": "Tree", "fields": [{"name": "label", "type": "string"}, {"name": "child", "type": ["null", "Tree"]}]}
    versions = Versions(tmp_path / "members", value=tree)
    versions.write(1, {1: {"label": "a", "child": {"label": "b", "child": None}}})
    versions.swap(1)
    with versions.reader() as r:
        assert r.get(1)["child"]["label"] == "b"
        with pytest.raises(SchemaError):
            r.get_columns([1])


# -- versions -----------------------------------------------------------------------------------------------------------------------


def test_a_swap_and_a_rollback_are_seen_by_the_next_call(store):
    store.write(2, {key: member(key, 2) for key in range(50, 150)})
    with store.reader() as r:
        get = r.get  # bound once: it follows too
        assert (r.version, get(60)["clicks"]) == (1, member(60, 1)["clicks"])
        store.swap(2)
        assert (get(60)["clicks"], get(0), r.version) == (member(60, 2)["clicks"], None, 2)
        assert r.get_columns([60, 0]).found.tolist() == [True, False]
        store.swap(1)
        assert (r.get_many([60])[0]["clicks"], r.version) == (member(60, 1)["clicks"], 1)


def test_a_pinned_reader_stays_and_closes_on_its_own(store):
    store.write(2, {key: member(key, 2) for key in range(100)})
    with store.reader() as r:
        one = r.at(1)
        store.swap(2)
        assert (r.get(5)["clicks"], one.get(5)["clicks"], one.version) == (member(5, 2)["clicks"], member(5, 1)["clicks"], 1)
        assert r.at(2).get(5)["clicks"] == member(5, 2)["clicks"]
        assert one.at(2).version == 2
        one.close()
        assert r.get(5) is not None
    assert store.reader(version=1).get(5)["clicks"] == member(5, 1)["clicks"]


def test_a_version_that_is_not_there_is_named_with_those_that_are(store):
    store.write(4, {1: member(1)})
    with store.reader() as r:
        for wanted in (2, 0, -1, 10**30):
            with pytest.raises(VersionNotFoundError) as caught:
                r.at(wanted)
            assert caught.value.available_versions == (1, 4)
        for wrong in ("1", True, 1.0, None):
            with pytest.raises(InputError):
                r.at(wrong)


def test_rows_of_a_retired_version_stay_readable_to_those_who_hold_them(store):
    store.write(2, {1: member(1, 2)})
    with store.reader() as r:
        old, row = r.at(1), r.get(1)
        store.swap(2)
        shutil.rmtree(store.layout.version(1))
        assert r.get(1)["clicks"] == member(1, 2)["clicks"]
        assert same(row, member(1))
        assert same(old.get(99), member(99))
        assert old.get_columns(range(100)).found.all()
        with pytest.raises(VersionNotFoundError):
            store.reader(version=1)


def test_a_store_without_a_version_says_so_until_it_has_one(versions):
    with versions.reader() as r:
        for call in (lambda: r.get(1), lambda: r.get_many([1]), lambda: r.get_columns([1]), lambda: r.version):
            with pytest.raises(NoCurrentVersionError, match="'members'"):
                call()
        versions.write(1, {1: member(1)})
        versions.swap(1)
        assert same(r.get(1), member(1))
        versions.swap(0)
        with pytest.raises(NoCurrentVersionError):
            r.get(1)


def test_a_directory_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreNotFoundError, match="members"):
        EmbeddedReader(tmp_path, "members")
    with pytest.raises(StoreNotFoundError):
        EmbeddedReader(tmp_path / "nowhere", "members", version=3)


def test_a_closed_reader_refuses_every_call(store):
    r = store.reader()
    pinned = r.at(1)
    for closed in (r, pinned):
        closed.close()
        closed.close()
        for call in (lambda c=closed: c.get(1), lambda c=closed: c.get_columns([1]), lambda c=closed: c.version, lambda c=closed: c.at(1)):
            with pytest.raises(StateError, match="closed"):
                call()


def test_a_pickled_reader_opens_again(store):
    with store.reader() as r:
        copy = pickle.loads(pickle.dumps(r))
        pinned = pickle.loads(pickle.dumps(r.at(1)))
    assert same(copy.get(3), member(3))
    assert "pinned" in repr(pinned)
    copy.close()
    assert "closed" in repr(copy)


# -- adoption that fails ------------------------------------------------------------------------------------------------------------


def flip(path: Path, position: int = -100) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_damaged_version_is_not_adopted_and_reads_go_on(store, caplog, monkeypatch):
    monkeypatch.setattr(reader, "RETRY_SECONDS", 0.0)
    directory = store.write(2, {key: member(key, 2) for key in range(100)})
    pristine = {path: path.read_bytes() for path in directory.iterdir()}
    flip(directory / "part-00001.base")
    with store.reader() as r, caplog.at_level(logging.WARNING, "fondaco.store.reader"):
        store.swap(2)
        for _ in range(3):
            assert r.get(5)["clicks"] == member(5, 1)["clicks"]
        assert r.version == 1
        assert isinstance(r.adoption_error, CorruptFileError)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "part-00001.base" in caplog.text
        for path, data in pristine.items():
            path.write_bytes(data)
        assert r.get(5)["clicks"] == member(5, 2)["clicks"]
        assert r.adoption_error is None


def test_a_failed_adoption_is_not_tried_on_every_call(store, monkeypatch):
    attempts = []
    store.write(2, {1: member(1, 2)})
    with store.reader() as r:
        monkeypatch.setattr(
            reader, "OpenVersion", lambda *args: attempts.append(args) or (_ for _ in ()).throw(OSError("too many open files"))
        )
        store.swap(2)
        for _ in range(100):
            assert r.get(1) is not None
        assert len(attempts) == 1


def test_a_version_retired_while_it_was_opened_is_skipped(store, monkeypatch):
    """The cell says 2, which is gone before it can be opened; by then the cell says 3."""
    store.write(3, {1: member(1, 3)})
    with store.reader() as r:
        real = reader.read_manifest

        def opening(directory):
            if directory.name == "2":
                store.swap(3)
            return real(directory)

        monkeypatch.setattr(reader, "read_manifest", opening)
        store.swap(2)
        assert (r.get(1)["clicks"], r.version, r.adoption_error) == (member(1, 3)["clicks"], 3, None)


def test_a_current_version_whose_files_are_gone_is_reported_as_damage(store):
    (store.layout.version(1) / "part-00002.base").unlink()
    with pytest.raises(CorruptFileError, match=r"part-00002.base is missing"):
        store.reader()


# -- damage -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stamped", [False, True], ids=["first open", "stamped"])
@pytest.mark.parametrize("section", ["header", "dictionary", "heap", "index", "footer"])
def test_a_flipped_byte_in_any_section_is_refused_by_name_even_after_a_stamp(versions, section, stamped):
    directory = versions.write(1, {key: member(key) for key in range(100)}, compressor=Compressor(b"any dictionary " * 20), stamp=stamped)
    versions.swap(1)
    path = directory / "part-00001.base"
    heap, index, footer = (struct.unpack_from("<Q", path.read_bytes(), at)[0] for at in (40, 56, 64))
    flip(path, {"header": 20, "dictionary": 200, "heap": heap + 50, "index": index + 9, "footer": footer + 30}[section])
    with pytest.raises(CorruptFileError) as caught:
        versions.reader()
    assert (caught.value.section, caught.value.path) == (section, str(path))


def test_the_heap_is_read_whole_once_and_then_trusted_while_nobody_writes(store, monkeypatch):
    from fondaco.store import partial

    checks = []
    real = partial.BaseFile.open
    monkeypatch.setattr(partial.BaseFile, "open", lambda path, check_heap: checks.append(check_heap) or real(path, check_heap=check_heap))
    store.reader().close()
    store.reader().close()
    assert checks == [True] * 3 + [False] * 3
    os.utime(store.layout.version(1) / "part-00001.base")
    store.reader().close()
    assert checks[6:] == [False, True, False]


def test_stamps_that_cannot_be_read_or_written_cost_time_only(store):
    stamps = store.layout.version(1) / verified.VERIFIED_FILE
    for damage in (b"", b"{]", b'{"part-00000.base": 7}'):
        stamps.write_bytes(damage)
        with store.reader() as r:
            assert same(r.get(1), member(1))
    stamps.unlink()
    stamps.mkdir()
    with store.reader() as r:
        assert same(r.get(1), member(1))


def test_a_file_of_another_version_is_refused_although_it_is_sound(store):
    other = store.write(2, {key: member(key, 2) for key in range(100)})
    shutil.copy(other / "part-00000.base", store.layout.version(1) / "part-00000.base")
    with pytest.raises(CorruptFileError, match="not the file that the manifest names"):
        store.reader()


def test_a_damaged_manifest_is_refused(store):
    flip(store.layout.version(1) / MANIFEST_FILE, 200)
    with pytest.raises(CorruptFileError) as caught:
        store.reader()
    assert caught.value.section == "manifest"


def test_a_cell_that_was_cut_off_is_refused(store):
    store.layout.current_cell.write_bytes(b"\1\0")
    with pytest.raises(CorruptFileError, match="CURRENT"):
        store.reader()


def test_a_file_of_a_newer_format_is_refused_as_such(store):
    path = store.layout.version(1) / "part-00002.base"
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 8, 9)
    struct.pack_into("<Q", data, 120, xxhash.xxh64_intdigest(bytes(data[:120])))
    path.write_bytes(data)
    with pytest.raises(FormatVersionError):
        store.reader()


# -- threads and processes ----------------------------------------------------------------------------------------------------------


def test_threads_that_read_throughout_swaps_see_whole_versions_only(versions):
    for version in (1, 2, 3):
        versions.write(version, {key: member(key, version) for key in range(40)})
    versions.swap(1)
    keys, done, failures = list(range(40)), threading.Event(), []

    def read(r: EmbeddedReader) -> None:
        while not done.is_set():
            columns = r.get_columns(keys)["clicks"] - 10 * np.arange(40)
            rows = [row["clicks"] - 10 * key for key, row in enumerate(r.get_many(keys))]
            one = r.get(7)["clicks"] - 70
            if len(set(columns.tolist())) != 1 or len(set(rows)) != 1 or one not in (1, 2, 3):
                failures.append((columns, rows, one))

    with versions.reader() as r:
        threads = [threading.Thread(target=read, args=(r,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(60):
            versions.swap(i % 3 + 1)
            assert r.version == i % 3 + 1
        done.set()
        for thread in threads:
            thread.join()
    assert not failures


def read_in_another_process(r: EmbeddedReader, orders, answers) -> None:
    with r:
        for key in iter(orders.get, None):
            row = r.get(key)
            answers.put((r.version, None if row is None else row["clicks"]))


def test_processes_share_a_store_and_both_follow_its_swaps(store):
    store.write(2, {key: member(key, 2) for key in range(100)})
    context = multiprocessing.get_context("spawn")
    orders, answers = context.Queue(), context.Queue()
    with store.reader() as r:
        process = context.Process(target=read_in_another_process, args=(r, orders, answers))
        process.start()
        for version in (1, 2, 1):
            store.swap(version)
            orders.put(42)
            expected = (version, member(42, version)["clicks"])
            assert answers.get(timeout=60) == expected
            assert (r.version, r.get(42)["clicks"]) == expected
        orders.put(None)
        process.join(60)
        assert process.exitcode == 0
