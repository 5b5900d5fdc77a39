"""Row: a mapping over bytes that decodes what is touched."""

from __future__ import annotations

import contextlib
import mmap
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DecodeError, FieldNotFoundError, SchemaError
from fondaco.schema import Codec, Row, vector
from fondaco.schema.rows import Getters
from schema_strategies import evolutions, rows, same, schemas


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


MEMBER = record(
    id="long", name="string", score=["null", "double"], active="boolean", emb=vector(4), tags={"type": "array", "items": "string"}
)
ADA = {"id": 1 << 40, "name": "Ada", "score": None, "active": True, "emb": np.array([1, 2, 3, 4], np.float32), "tags": ["a", "b"]}


def ada(codec: Codec | None = None) -> Row:
    codec = codec or Codec(MEMBER)
    return codec.row(Codec(MEMBER).encode(ADA))


@settings(max_examples=60)
@given(data=st.data())
def test_each_field_alone_is_as_in_the_whole_row(data: st.DataObject) -> None:
    writer = data.draw(schemas())
    reader = data.draw(st.one_of(st.none(), evolutions(writer)))
    codec = Codec(writer, reader)
    encoded = codec.encode(data.draw(rows(writer)))
    expected = codec.decode(encoded)
    around = b"\xff" * 7 + encoded + b"\xff" * 300
    for row in (codec.row(encoded), codec.row(memoryview(around), 7, 7 + len(encoded))):
        for name in reversed(list(expected)):
            assert same(row[name], expected[name])
        assert same(dict(row), expected)
        assert same(row.to_dict(), expected)


@settings(max_examples=100)
@given(data=st.data())
def test_a_field_of_damaged_bytes_is_a_value_or_a_typed_error(data: st.DataObject) -> None:
    writer = data.draw(schemas())
    codec = Codec(writer)
    encoded = bytearray(codec.encode(data.draw(rows(writer))))
    for _ in range(data.draw(st.integers(1, 3))):
        if encoded:
            encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    del encoded[len(encoded) - data.draw(st.integers(0, len(encoded))) :]
    around = memoryview(bytes(encoded) + b"\xff" * 100)
    row = codec.row(around, 0, len(encoded))
    for name in codec.fields:
        with contextlib.suppress(DecodeError):
            row[name]


def test_a_vector_is_a_view_of_a_memory_map(tmp_path: Path) -> None:
    codec = Codec(MEMBER)
    encoded = codec.encode(ADA)
    path = tmp_path / "rows"
    path.write_bytes(b"before" + encoded + b"after")
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    row = codec.row(memory, 6, 6 + len(encoded))
    assert np.shares_memory(row["emb"], np.frombuffer(memory, np.uint8))
    assert not row["emb"].flags.writeable
    assert row == ADA


def test_a_row_is_a_read_only_mapping() -> None:
    row = ada()
    assert isinstance(row, Mapping)
    assert isinstance(row, Row)
    assert (list(row), len(row), "name" in row, "nam" in row) == (list(ADA), 6, True, False)
    assert row.get("name") == "Ada"
    assert row.get("nothing", 5) == 5
    assert [name for name, _ in row.items()] == list(ADA)
    assert list(row.values())[:2] == [1 << 40, "Ada"]
    with pytest.raises(TypeError):
        row["name"] = "Eve"  # type: ignore[index]
    with pytest.raises(TypeError):
        hash(row)


def test_an_unknown_field_is_refused_with_the_near_name() -> None:
    with pytest.raises(FieldNotFoundError, match=r"no field 'scor' in record 'R'; did you mean 'score'\?"):
        ada()["scor"]


def test_rows_equal_mappings_of_equal_values() -> None:
    row = ada()
    assert row == ADA
    assert row == ada()
    assert row == {**ADA, "emb": [1, 2, 3, 4], "tags": ("a", "b")}
    assert row != {**ADA, "emb": [1, 2, 3, 5]}
    assert row != {**ADA, "emb": "text"}
    assert row != {name: value for name, value in ADA.items() if name != "id"}
    assert row != 5


def test_repr_shows_the_values() -> None:
    assert repr(ada()).startswith("Row({'id': 1099511627776, 'name': 'Ada', 'score': None, 'active': True, 'emb': array(")


def test_dict_of_a_row_decodes_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ada()
    made: list[str] = []
    original = Getters.__missing__

    def counting(self: Getters, name: str) -> Any:
        made.append(name)
        return original(self, name)

    monkeypatch.setattr(Getters, "__missing__", counting)
    fresh = Codec(record(**{field["name"]: field["type"] for field in MEMBER["fields"]} | {"last": "int"}))
    whole = fresh.row(fresh.encode({**ADA, "last": 5}))
    assert same(dict(whole), {**ADA, "last": 5})
    assert made == []  # no field was decoded by itself
    assert whole["last"] == 5
    assert made == ["last"]
    assert same(dict(row), ADA)


def test_values_are_not_shared_between_readings() -> None:
    row = ada()
    first, second = dict(row), dict(row)
    first["tags"].append("c")
    assert second["tags"] == row["tags"] == dict(row)["tags"] == ["a", "b"]
    row.keys()
    assert row["tags"] is not row["tags"]


def test_a_row_may_be_read_by_several_threads_at_once() -> None:
    row = ada()
    wrong: list[Any] = []

    def read() -> None:
        wrong.extend(n for n in range(300) if not same(dict(row), ADA) or row["name"] != "Ada")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_damaged_row_tells_at_the_field_that_is_reached() -> None:
    codec = Codec(record(a="long", b="string", c="long"))
    row = codec.row(b"\x02\x09ab\x04")
    assert row["a"] == 1
    for name in ("b", "c"):
        with pytest.raises(DecodeError, match=r"byte 1 \(field 'b'\): negative length"):
            row[name]
    with pytest.raises(DecodeError, match="negative length"):
        dict(row)
    assert row["a"] == 1


def test_a_field_is_not_read_from_beyond_the_row() -> None:
    codec = Codec(record(a="long", b="string", f="double"))
    data = codec.encode({"a": 1, "b": "abc", "f": 1.0}) + b"more"
    for end in range(len(data) - 4):
        row = codec.row(data, 0, end)
        with pytest.raises(DecodeError):
            row["f"]


def test_fields_that_the_writer_lacks_are_defaults() -> None:
    reader = {
        **MEMBER,
        "fields": [
            {"name": "name", "type": "string"},
            {"name": "level", "type": "int", "default": 7},
            {"name": "langs", "type": {"type": "map", "values": "int"}, "default": {"en": 1}},
        ],
    }
    row = ada(Codec(MEMBER, reader))
    assert (row["level"], row["name"]) == (7, "Ada")
    row["langs"]["fr"] = 2
    assert dict(row) == {"name": "Ada", "level": 7, "langs": {"en": 1}}


def test_a_row_of_arrays_of_bytes_and_of_numpy_is_read() -> None:
    codec = Codec(MEMBER)
    data = np.frombuffer(codec.encode(ADA), np.uint8)
    assert codec.row(data)["id"] == 1 << 40
    assert codec.row(memoryview(data))["name"] == "Ada"
    assert codec.row(bytearray(data.tobytes()))["name"] == "Ada"
    assert codec.row(data).to_bytes() == data.tobytes()


def test_only_records_have_rows() -> None:
    with pytest.raises(SchemaError, match="use decode"):
        Codec("long").row(b"\x02")


def test_a_row_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(ada())) == ADA


def test_a_sealed_row_gives_what_a_row_gives() -> None:
    codec = Codec(record(a="long", b="string", f="double", emb=vector(4), g="boolean"))
    data = b"before" + codec.encode({"a": 300, "b": "abc", "f": 1.5, "emb": [1, 2, 3, 4], "g": True}) + b"after"
    sealed, plain = codec.sealed_row(data, 6, len(data) - 5), codec.row(data, 6, len(data) - 5)
    assert sealed == plain
    assert {name: str(sealed[name]) for name in sealed} == {name: str(plain[name]) for name in plain}
    assert pickle.loads(pickle.dumps(sealed)) == plain
