"""Versions of which a directory holds some partitions: their rows are read, and no key of the others is taken for missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.errors import CorruptFileError, PartitionNotHeldError
from fondaco.core.files import write_atomically
from fondaco.core.verified import read_stamps, stamp_of
from fondaco.store._version import OpenVersion
from fondaco.store.keys import KeyCodec
from fondaco.store.layout import partition_name
from fondaco.store.manifest import read_manifest
from fondaco.store.partial import HELD_FILE, adopt_file, held_partitions, write_held
from fondaco.store.reader import EmbeddedReader

KEYS = {"long": list(range(200)), "string": [f"k{number}" for number in range(200)]}


def _pushed(tmp_path: Path, key: str, compression: str = "none") -> Path:
    with fd.open(tmp_path / "p") as platform:
        store = platform.create_store("s", key=key, value=pa.schema([("v", pa.int64())]), partitions=4, compression=compression)
        store.push(pa.table({"key": KEYS[key], "v": list(range(200))}))
    return tmp_path / "p" / "stores" / "s" / "versions" / "1"


def _keep(directory: Path, partitions: list[int]) -> None:
    for partition in set(range(4)) - set(partitions):
        (directory / partition_name(partition)).unlink()
    write_held(directory, partitions)


@pytest.mark.parametrize("key", ["long", "string"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_keys_of_partitions_that_are_held_are_read_and_of_the_others_refused(tmp_path: Path, key: str, compression: str) -> None:
    directory = _pushed(tmp_path, key, compression)
    _keep(directory, [1, 3])
    version = EmbeddedReader(directory.parent.parent, "s", version=1)
    partitions = (KeyCodec(key).encode_many(KEYS[key]).hashes >> 32).astype(int) * 4 >> 32
    for at, (one, partition) in enumerate(zip(KEYS[key], partitions, strict=True)):
        if partition in (1, 3):
            row = version.get(one)
            assert row is not None
            assert row["v"] == at
        else:
            with pytest.raises(PartitionNotHeldError, match=rf"does not hold partition {partition} of version 1 of store 's'"):
                version.get(one)
    held = [one for one, partition in zip(KEYS[key], partitions, strict=True) if partition in (1, 3)]
    assert version.get_columns(held, ["v"]).found.all()
    with pytest.raises(PartitionNotHeldError):
        version.get_columns(KEYS[key], ["v"])


def test_a_version_of_which_nothing_is_held_refuses_every_key(tmp_path: Path) -> None:
    directory = _pushed(tmp_path, "long")
    _keep(directory, [])
    version = EmbeddedReader(directory.parent.parent, "s", version=1)
    with pytest.raises(PartitionNotHeldError):
        version.get(1)


def test_a_version_without_a_list_must_be_whole(tmp_path: Path) -> None:
    directory = _pushed(tmp_path, "long")
    assert held_partitions(directory) is None
    (directory / partition_name(2)).unlink()
    with pytest.raises(FileNotFoundError):
        OpenVersion(directory)


def test_a_list_that_cannot_be_read_is_called_damaged(tmp_path: Path) -> None:
    directory = _pushed(tmp_path, "long")
    write_atomically(directory / HELD_FILE, b'{"0": 1')
    with pytest.raises(CorruptFileError, match="section 'held'"):
        OpenVersion(directory)


def test_a_file_is_adopted_once_every_byte_was_checked_and_not_read_again_after(tmp_path: Path) -> None:
    directory = _pushed(tmp_path, "long")
    entry = read_manifest(directory).files[2]
    arrived = tmp_path / "arrived"
    shutil.copy(directory / entry.name, arrived)
    _keep(directory, [0, 1, 3])
    adopt_file(arrived, directory, entry)
    assert not arrived.exists()
    assert read_stamps(directory)[entry.name] == stamp_of((directory / entry.name).stat())


@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_a_file_that_is_not_what_the_manifest_names_is_not_adopted(tmp_path: Path, damage: str) -> None:
    directory = _pushed(tmp_path, "long")
    files = read_manifest(directory).files
    data = bytearray((directory / files[3 if damage == "other" else 2].name).read_bytes())
    if damage == "flip":
        data[5000] ^= 1
    elif damage == "cut":
        del data[-1]
    _keep(directory, [0, 1, 3])
    arrived = tmp_path / "arrived"
    arrived.write_bytes(data)
    with pytest.raises(CorruptFileError):
        adopt_file(arrived, directory, files[2])
    assert arrived.exists()
    assert not (directory / files[2].name).exists()
