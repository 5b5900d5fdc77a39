"""Manifests: what is written is read, and damage or a newer format is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from fondaco.core.errors import CorruptFileError, FormatVersionError
from fondaco.store.manifest import MANIFEST_FILE, CompressionReport, FileEntry, Manifest, read_manifest, write_manifest


def a_manifest(**changes) -> Manifest:
    settings = {
        "store": "members",
        "version": 3,
        "push_id": "push-1",
        "created_us": 1_700_000_000_000_000,
        "as_of_us": 1_699_999_999_999_999,
        "key_schema": '{"name": "key", "type": "long"}',
        "value_schema_id": 2,
        "value_schema": '{"type": "record", "name": "Ünicode", "fields": []}',
        "partition_count": 2,
        "records": 7,
        "repeated": 1,
        "bytes": 300,
        "compression": CompressionReport(
            requested="auto", chosen="zstd", sample_rows=7, sample_bytes=99, ratio_zstd=2.5, dictionary_bytes=5
        ),
        "dictionary_checksum": "ab" * 32,
        "files": (FileEntry("part-00000.base", 100, 3, "0" * 16), FileEntry("part-00001.base", 200, 4, "f" * 16)),
        "built_from": {"input": "arrow table", "rows": 8, "files": ["a.parquet"]},
    }
    return Manifest(**(settings | changes))


def test_what_is_written_is_read(tmp_path):
    write_manifest(tmp_path, a_manifest())
    assert read_manifest(tmp_path) == a_manifest()


def test_every_flipped_byte_is_refused(tmp_path):
    write_manifest(tmp_path, a_manifest())
    path = tmp_path / MANIFEST_FILE
    data = bytearray(path.read_bytes())
    for position in range(len(data)):
        data[position] ^= 4
        path.write_bytes(data)
        if position in range(2) or data[position] not in b" \n\t\r":  # white space between the envelope's members means nothing
            with pytest.raises(CorruptFileError) as caught:
                read_manifest(tmp_path)
            assert caught.value.section == "manifest"
        data[position] ^= 4


@pytest.mark.parametrize("keep", [0, 1, 50, -2])
def test_a_truncated_manifest_is_refused(tmp_path, keep):
    write_manifest(tmp_path, a_manifest())
    path = tmp_path / MANIFEST_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFileError):
        read_manifest(tmp_path)


def test_a_newer_format_is_told_apart_from_damage(tmp_path):
    raw = b'{"unheard": "of"}'
    checksum = hashlib.sha256(b"fondaco-manifest 2\n" + raw).hexdigest()
    (tmp_path / MANIFEST_FILE).write_bytes(b'{"format": 2, "checksum": "%s", "manifest": %s}' % (checksum.encode(), raw))
    with pytest.raises(FormatVersionError) as caught:
        read_manifest(tmp_path)
    assert (caught.value.found, caught.value.supported) == (2, 1)


def test_counts_that_contradict_each_other_are_refused(tmp_path):
    write_manifest(tmp_path, a_manifest(records=8))
    with pytest.raises(CorruptFileError, match="contradict"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("change", [{"hash": "sip"}, {"partitioner": "murmur2"}, {"partition_count": 0, "files": (), "records": 0}])
def test_keys_that_are_placed_in_another_way_are_refused(tmp_path, change):
    write_manifest(tmp_path, a_manifest(**change))
    with pytest.raises(CorruptFileError):
        read_manifest(tmp_path)


def test_a_manifest_is_json_that_people_can_read(tmp_path):
    write_manifest(tmp_path, a_manifest())
    text = (tmp_path / MANIFEST_FILE).read_text(encoding="utf-8")
    assert json.loads(text)["manifest"]["files"][1]["name"] == "part-00001.base"
    assert len(text.splitlines()) > 20


def test_reading_manifests_does_not_import_numba():
    code = "import sys, fondaco.store.manifest; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
