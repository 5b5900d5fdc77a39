"""Container files: what fastavro and Apache Avro's own package write is read; damage is named; nothing else is believed."""

from __future__ import annotations

import copy
import io
import zlib
from pathlib import Path
from typing import Any

import avro.datafile
import avro.io
import avro.schema
import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fondaco.core.errors import AvroFileError, InputError, SchemaError, SchemaResolutionError
from fondaco.schema import AvroFile, parse, read_avro_file
from fondaco.schema.canonical import full_form, to_json
from fondaco.schema.container import MAGIC
from fondaco.schema.wire import encode_long
from schema_strategies import for_fastavro, rows, same, schemas

FLIGHT = {
    "type": "record",
    "name": "Flight",
    "namespace": "test",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "carrier", "type": "string"},
        {"name": "delay", "type": ["null", "double"], "default": None},
        {"name": "stops", "type": {"type": "array", "items": "string"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["PASSENGER", "CARGO"]}},
    ],
}


def flights(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": index,
            "carrier": f"C{index % 7}",
            "delay": None if index % 5 == 0 else index / 4,
            "stops": ["JFK", "LAX"][: index % 3],
            "kind": "CARGO" if index % 4 == 0 else "PASSENGER",
        }
        for index in range(count)
    ]


def write_with_fastavro(path: Path, rows: list[Any], schema: Any = FLIGHT, codec: str = "null", sync_interval: int = 1000) -> Path:
    with path.open("wb") as file:
        fastavro.writer(file, copy.deepcopy(schema), rows, codec=codec, sync_interval=sync_interval)
    return path


def write_with_apache(path: Path, rows: list[Any], codec: str = "null") -> Path:
    schema = avro.schema.parse(full_form(parse(FLIGHT)))
    with avro.datafile.DataFileWriter(path.open("wb"), avro.io.DatumWriter(), schema, codec=codec) as writer:
        for index, row in enumerate(rows):
            writer.append(row)
            if index % 50 == 49:
                writer.sync()
    return path


# -- files of others ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_files_of_fastavro_are_read(tmp_path: Path, codec: str) -> None:
    path = write_with_fastavro(tmp_path / "flights.avro", flights(500), codec=codec)
    with AvroFile(path) as file:
        assert file.compression == codec
        assert list(file) == flights(500)
        assert pa.Table.from_batches(file.batches(batch_bytes=2000)).to_pylist() == flights(500)


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "zstandard"])
def test_files_of_apache_avro_are_read(tmp_path: Path, codec: str) -> None:
    path = write_with_apache(tmp_path / "flights.avro", flights(200), codec=codec)
    assert list(read_avro_file(path)) == flights(200)
    with AvroFile(path) as file:
        assert pa.Table.from_batches(file.batches()).to_pylist() == flights(200)


def test_snappy_blocks_are_read_and_their_checksum_is_checked(tmp_path: Path) -> None:
    block = b"".join(encode_long(number) for number in range(1000))
    packed = pa.Codec("snappy").compress(block, asbytes=True)
    good = container(b'"long"', b"snappy", [(1000, packed + zlib.crc32(block).to_bytes(4, "big"))])
    (tmp_path / "good.avro").write_bytes(good)
    assert list(read_avro_file(tmp_path / "good.avro")) == list(range(1000))
    (tmp_path / "bad.avro").write_bytes(container(b'"long"', b"snappy", [(1000, packed + b"\0\0\0\0")]))
    with pytest.raises(AvroFileError, match=r"block 0 does not decompress .*checksum"):
        list(read_avro_file(tmp_path / "bad.avro"))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_schema_and_rows_in_a_file_of_fastavro_are_read(tmp_path: Path, data: st.DataObject) -> None:
    schema = data.draw(schemas(unions=False))
    kind = parse(schema)
    written = data.draw(st.lists(rows(schema), max_size=5))
    path = write_with_fastavro(tmp_path / "any.avro", [for_fastavro(kind, row) for row in written], to_json(kind), sync_interval=20)
    assert same(list(read_avro_file(path)), written)


def test_rows_are_resolved_to_the_readers_schema(tmp_path: Path) -> None:
    path = write_with_fastavro(tmp_path / "flights.avro", flights(30))
    reader = {
        "type": "record",
        "name": "Flight",
        "fields": [{"name": "number", "aliases": ["id"], "type": "double"}, {"name": "origin", "type": "string", "default": "JFK"}],
    }
    with AvroFile(path, reader) as file:
        expected = [{"number": float(index), "origin": "JFK"} for index in range(30)]
        assert list(file) == expected
        assert pa.Table.from_batches(file.batches()).to_pylist() == expected
    with pytest.raises(SchemaResolutionError, match=r"\$\.id"):
        AvroFile(path, {"type": "record", "name": "Flight", "fields": [{"name": "id", "type": "string"}]})


def test_rows_and_batches_may_be_read_side_by_side(tmp_path: Path) -> None:
    path = write_with_fastavro(tmp_path / "flights.avro", flights(300))
    with AvroFile(path) as file:
        pairs = list(zip(file, file, strict=True))
        assert pairs == [(row, row) for row in flights(300)]
        assert sum(batch.num_rows for batch in file.batches(batch_bytes=1)) == 300


def test_an_empty_file_has_no_rows_and_keeps_its_schema(tmp_path: Path) -> None:
    path = write_with_fastavro(tmp_path / "none.avro", [])
    with AvroFile(path) as file:
        assert list(file) == []
        assert list(file.batches()) == []
        assert file.arrow_schema.names == ["id", "carrier", "delay", "stops", "kind"]


def test_a_recursive_schema_has_rows_but_no_batches(tmp_path: Path) -> None:
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    path = write_with_fastavro(tmp_path / "nodes.avro", [{"next": {"next": None}}], node)
    with AvroFile(path) as file:
        assert list(file) == [{"next": {"next": None}}]
        with pytest.raises(SchemaError, match="contains itself"):
            next(file.batches())


# -- damage -------------------------------------------------------------------------------------------------------------------------


def container(schema: bytes, codec: bytes, blocks: list[tuple[int, bytes]]) -> bytes:
    sync = bytes(range(16))
    out = io.BytesIO()
    out.write(MAGIC + encode_long(2))
    for key, value in [(b"avro.schema", schema), (b"avro.codec", codec)]:
        out.write(encode_long(len(key)) + key + encode_long(len(value)) + value)
    out.write(b"\0" + sync)
    for count, data in blocks:
        out.write(encode_long(count) + encode_long(len(data)) + data + sync)
    return out.getvalue()


def test_a_missing_file_and_a_foreign_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        AvroFile(tmp_path / "none.avro")
    (tmp_path / "foreign.avro").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(AvroFileError, match="not an Avro container file"):
        AvroFile(tmp_path / "foreign.avro")


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    (tmp_path / "lzo.avro").write_bytes(container(b'"long"', b"lzo", []))
    with pytest.raises(InputError, match="compressed with 'lzo'; known are null, deflate"):
        AvroFile(tmp_path / "lzo.avro")


def test_damage_is_named_with_its_block_and_row(tmp_path: Path) -> None:
    def rows_of(data: bytes) -> list[Any]:
        (tmp_path / "damaged.avro").write_bytes(data)
        return list(read_avro_file(tmp_path / "damaged.avro"))

    good = container(b'"string"', b"null", [(2, b"\x02a\x02b"), (1, b"\x02c")])
    assert rows_of(good) == ["a", "b", "c"]
    with pytest.raises(AvroFileError, match="the marker after block 0 is missing"):
        rows_of(good.replace(b"\x02b" + bytes(range(16)), b"\x02b" + bytes(16)))
    with pytest.raises(AvroFileError, match="block 1, row 0, byte 0: a string of 4 bytes, 1 are left"):
        rows_of(good.replace(b"\x02c", b"\x08c"))
    with pytest.raises(AvroFileError, match="block 0, byte 2: 2 bytes left over after 1 rows"):
        rows_of(container(b'"string"', b"null", [(1, b"\x02a\x02b")]))
    with pytest.raises(AvroFileError, match="block 0 does not decompress"):
        rows_of(container(b'"string"', b"deflate", [(1, b"\xff\xff")]))
    with pytest.raises(AvroFileError, match="a block of -1 rows"):
        rows_of(container(b'"string"', b"null", [(-1, b"")]))


def test_damage_in_batches_is_named_like_damage_in_rows(tmp_path: Path) -> None:
    schema = b'{"type": "record", "name": "R", "fields": [{"name": "s", "type": "string"}]}'
    (tmp_path / "damaged.avro").write_bytes(container(schema, b"null", [(2, b"\x02a\x02b"), (2, b"\x02c\x07d")]))
    with AvroFile(tmp_path / "damaged.avro") as file, pytest.raises(AvroFileError, match=r"block 1, row 1, byte 0 \(field 's'\): negative"):
        list(file.batches())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cut_or_flipped_file_gives_rows_or_a_typed_error(tmp_path: Path, data: st.DataObject) -> None:
    path = write_with_fastavro(tmp_path / "flights.avro", flights(20), sync_interval=200)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    for read in (list, lambda file: list(file.batches())):
        try:
            with AvroFile(path) as file:
                read(file)
        except InputError:
            pass
