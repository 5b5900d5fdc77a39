"""What a push can read: every kind of input gives the same rows, in chunks of bounded size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from fondaco.core.errors import DataError, InputError
from fondaco.store.inputs import Input, open_input

BATCH_BYTES = 1 << 16
TABLE = pa.table({"key": pa.array(range(1000), pa.int64()), "name": [f"n{i}" for i in range(1000)]})


def _rows(opened: Input) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for chunk in opened.chunks:
        found += chunk if isinstance(chunk, list) else chunk.to_pylist()
    return found


def _open(data: object, batch_bytes: int = BATCH_BYTES, columns: pa.Schema | None = None) -> Input:
    return open_input(data, batch_bytes=batch_bytes, columns=None if columns is None else lambda: columns)


def _batches() -> Iterator[pa.RecordBatch]:
    yield from TABLE.to_batches(max_chunksize=100)


IN_MEMORY = {
    "table": lambda: TABLE,
    "batch": lambda: TABLE.to_batches()[0],
    "reader": TABLE.to_reader,
    "list of batches": lambda: list(_batches()),
    "generator of batches": _batches,
    "iterator of tables": lambda: iter([TABLE.slice(0, 10), TABLE.slice(10)]),
    "mappings": TABLE.to_pylist,
    "generator of mappings": lambda: (row for row in TABLE.to_pylist()),
    "columns": TABLE.to_pydict,
    "NumPy columns": lambda: {"key": np.arange(1000), "name": np.array([f"n{i}" for i in range(1000)])},
    "pandas": TABLE.to_pandas,
    "Polars": lambda: pl.from_arrow(TABLE),
    "list of Polars": lambda: [pl.from_arrow(TABLE)],
    "DuckDB relation": lambda: duckdb.from_arrow(TABLE),
    "DuckDB result": lambda: duckdb.connect().execute("SELECT i AS key, 'n' || i AS name FROM range(1000) AS r(i)"),
}


@pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")  # DuckDB's advice to use a relation
@pytest.mark.parametrize("kind", IN_MEMORY)
def test_the_same_rows_come_out_of_every_kind_of_table(kind: str) -> None:
    assert _rows(_open(IN_MEMORY[kind]())) == TABLE.to_pylist()


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.arrow", "t.arrows", "t.avro"])
def test_the_same_rows_come_out_of_every_kind_of_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(TABLE, path, row_group_size=300)
    elif name.endswith("csv"):
        csv.write_csv(TABLE, path)
    elif name.endswith("avro"):
        fields = [{"name": "key", "type": "long"}, {"name": "name", "type": "string"}]
        with path.open("wb") as file:
            fastavro.writer(file, {"type": "record", "name": "Row", "fields": fields}, TABLE.to_pylist())
    else:
        maker = pa.ipc.new_file if name.endswith("arrow") else pa.ipc.new_stream
        with maker(str(path), TABLE.schema) as writer:
            writer.write_table(TABLE)
    opened = _open(path)
    assert _rows(opened) == TABLE.to_pylist()
    opened.check_unchanged()
    assert opened.described()["files"].keys() == {str(path)}


def test_rows_of_an_avro_file_that_have_no_columns_are_read_one_by_one(tmp_path: Path) -> None:
    chain = {"type": "record", "name": "Chain", "fields": [{"name": "key", "type": "long"}, {"name": "next", "type": ["null", "Chain"]}]}
    rows = [{"key": 1, "next": {"key": 2, "next": None}}, {"key": 3, "next": None}]
    with (tmp_path / "t.avro").open("wb") as file:
        fastavro.writer(file, chain, rows)
    opened = _open(tmp_path / "t.avro")
    assert opened.schema is None
    assert _rows(opened) == rows


def test_a_directory_a_pattern_and_a_list_of_files_are_read_in_order_of_their_names(tmp_path: Path) -> None:
    for part in (1, 0):
        parquet.write_table(TABLE.slice(part * 500, 500), tmp_path / f"part-{part}.parquet")
    for data in (tmp_path, str(tmp_path / "*.parquet"), [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"]):
        assert _rows(_open(data)) == TABLE.to_pylist()


def test_no_chunk_is_larger_than_the_bound_and_small_batches_are_joined() -> None:
    wide = pa.table({"key": range(4096), "blob": [bytes(1000)] * 4096})
    sizes = [chunk.nbytes for chunk in _open(wide).chunks]
    assert max(sizes) <= BATCH_BYTES
    joined = [chunk.num_rows for chunk in _open(TABLE.to_batches(max_chunksize=1), batch_bytes=1 << 20).chunks]
    assert joined == [1000]


def test_a_single_row_larger_than_the_bound_is_a_chunk_of_its_own() -> None:
    table = pa.table({"key": [1, 2, 3], "blob": [b"", bytes(1 << 20), b""]})
    assert [chunk.num_rows for chunk in _open(table).chunks if chunk.nbytes > BATCH_BYTES] in ([1], [2])
    assert sum(chunk.num_rows for chunk in _open(table).chunks) == 3


def test_two_dimensional_arrays_become_vectors() -> None:
    embeddings = np.arange(12, dtype=np.float32).reshape(3, 4)
    opened = _open({"key": [1, 2, 3], "emb": embeddings})
    assert opened.schema is not None
    assert opened.schema.field("emb").type == pa.list_(pa.float32(), 4)
    assert [row["emb"] for row in _rows(opened)] == embeddings.tolist()


def test_a_named_pandas_index_is_a_column_and_row_labels_are_not() -> None:
    frame = pd.DataFrame({"x": [1, 2]}, index=pd.Index([7, 8], name="key"))
    assert _rows(_open(frame)) == [{"x": 1, "key": 7}, {"x": 2, "key": 8}]
    assert _rows(_open(pd.DataFrame({"x": [1, 2]}, index=[7, 8]))) == [{"x": 1}, {"x": 2}]


def test_csv_columns_take_the_types_of_the_store_and_only_an_empty_cell_is_null(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('key,zip,note\n1,01234,NA\n2,,""\n3,04,\n')
    columns = pa.schema([("key", pa.int64()), ("zip", pa.string()), ("note", pa.string())])
    rows = _rows(_open(path, columns=columns))
    assert [row["zip"] for row in rows] == ["01234", None, "04"]
    assert [row["note"] for row in rows] == ["NA", "", None]


def test_a_csv_cell_of_the_wrong_type_is_refused_with_its_value(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("key\n1\nseven\n")
    with pytest.raises(DataError, match="seven"):
        _rows(_open(path, columns=pa.schema([("key", pa.int64())])))


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(TABLE, path)
    opened = _open(path)
    list(opened.chunks)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="changed while it was read"):
        opened.check_unchanged()


def test_a_file_that_vanishes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(TABLE, path)
    opened = _open(path)
    list(opened.chunks)
    os.unlink(path)
    with pytest.raises(InputError, match="changed"):
        opened.check_unchanged()


def test_files_with_other_columns_are_refused_by_column_and_file(tmp_path: Path) -> None:
    parquet.write_table(TABLE, tmp_path / "a.parquet")
    parquet.write_table(TABLE.drop_columns("name"), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"column 'name' is missing in .*b\.parquet, but string before it"):
        _rows(_open(tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere.parquet", "there is no file nowhere.parquet"),
        ("*.nothing-like-this", "no file matches"),
        (42, "cannot read rows from a builtins.int"),
        ([1, 2], "cannot read rows from a builtins.int"),
        (pl.LazyFrame({"a": [1]}), "collect"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _open(data)


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no parquet at all, but long enough to look at")
    with pytest.raises(DataError, match="cannot be read"):
        _rows(_open(tmp_path / "t.parquet"))
    (tmp_path / "t.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match="known are"):
        _open(tmp_path / "t.xlsx")


def test_nothing_is_an_input_without_rows(tmp_path: Path) -> None:
    assert _rows(_open([])) == []
    assert _rows(_open(TABLE.slice(0, 0))) == []


def test_a_table_is_sampled_over_its_whole_length_without_being_consumed() -> None:
    table = pa.table({"key": range(100_000)})
    opened = _open(table)
    assert opened.sample is not None
    keys = [key for chunk in opened.sample(8_000) for key in chunk.column("key").to_pylist()]
    assert 500 <= len(keys) <= 2000
    assert min(keys) == 0
    assert max(keys) > 95_000
    assert sum(chunk.num_rows for chunk in opened.chunks) == 100_000
