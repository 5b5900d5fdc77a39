"""What a push can read: every kind of input gives the same rows, in chunks of bounded size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import csv, dataset, parquet

from fondaco.core.errors import DataError, InputError, RowError
from fondaco.store.inputs import ROWS_PER_CHUNK, Input, open_input

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
    "struct array": lambda: TABLE.to_struct_array(),
    "dataset": lambda: dataset.dataset(TABLE),
    "scanner": lambda: dataset.dataset(TABLE).scanner(),
    "structured array": lambda: np.array([(i, f"n{i}") for i in range(1000)], [("key", "i8"), ("name", "U8")]),
    "Polars categories": lambda: pl.from_arrow(TABLE).with_columns(pl.col("name").cast(pl.Categorical)),
    "Polars categories in parts": lambda: [pl.from_arrow(part).with_columns(pl.col("name").cast(pl.Categorical)) for part in _batches()],
    "DuckDB relation": lambda: duckdb.from_arrow(TABLE),
    "DuckDB result": lambda: duckdb.connect().execute("SELECT i AS key, 'n' || i AS name FROM range(1000) AS r(i)"),
}


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


def test_an_index_that_counts_is_a_column_if_it_has_a_name() -> None:
    frame = pd.DataFrame({"key": [0, 1], "x": [5, 6]})
    assert _rows(_open(frame.set_index("key"))) == [{"x": 5, "key": 0}, {"x": 6, "key": 1}]
    assert _rows(_open(frame.set_index(pd.RangeIndex(2, name="key"))[["x"]])) == [{"x": 5, "key": 0}, {"x": 6, "key": 1}]
    assert _rows(_open(frame)) == [{"key": 0, "x": 5}, {"key": 1, "x": 6}]


def test_a_column_of_pandas_that_has_no_one_type_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot make columns of this DataFrame.*astype"):
        _open(pd.DataFrame({"key": [1, "a", b"b"]}))


def test_bfloat16_arrays_become_vectors_of_what_the_store_holds() -> None:
    numbers = np.array([[1, -2.5], [0.5, 3]], ml_dtypes.bfloat16)
    bits = _open({"emb": numbers}, columns=pa.schema([("emb", pa.list_(pa.uint16(), 2))]))
    assert [row["emb"] for row in _rows(bits)] == numbers.view(np.uint16).tolist()
    floats = _open({"emb": numbers}, columns=pa.schema([("emb", pa.list_(pa.float32(), 2))]))
    assert [row["emb"] for row in _rows(floats)] == [[1, -2.5], [0.5, 3]]


def test_mappings_are_cut_by_their_bytes() -> None:
    rows = ({"key": i, "blob": bytes(1 << 15), "tags": ["x" * 100] * 10, "emb": np.zeros(8)} for i in range(20))
    assert [len(chunk) for chunk in _open(rows).chunks] == [1] * 20
    assert [len(chunk) for chunk in _open(({"key": i} for i in range(2500)), 1 << 20).chunks] == [ROWS_PER_CHUNK] * 2 + [500]


def test_long_rows_that_lie_together_are_cut_apart() -> None:
    table = pa.table({"key": range(10_000), "blob": [b""] * 9_900 + [bytes(1 << 14)] * 100})
    sizes = [chunk.nbytes for chunk in _open(table).chunks]
    assert max(sizes) <= 2 * BATCH_BYTES


def test_text_in_a_dictionary_counts_as_often_as_it_comes() -> None:
    text = pa.array(["x" * 10_000] * 100).dictionary_encode()
    assert max(chunk.num_rows for chunk in _open(pa.table({"key": range(100), "text": text})).chunks) <= 2 * BATCH_BYTES // 10_000


def test_batches_of_parquet_follow_what_the_rows_take_in_memory(tmp_path: Path) -> None:
    texts = ["a"] * 5_000 + ["x" * 10_000] * 1_000 + ["b"] * 5_000
    parquet.write_table(pa.table({"key": range(11_000), "text": texts}), tmp_path / "t.parquet")
    assert os.path.getsize(tmp_path / "t.parquet") < 100_000
    opened = _open(tmp_path / "t.parquet")
    assert [row["text"] for row in _rows(opened)] == texts


def test_a_parquet_file_that_is_open_and_a_file_address_and_a_home_directory_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my file.parquet"
    parquet.write_table(TABLE, path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for data in (parquet.ParquetFile(path), path.as_uri(), "~/my file.parquet", dataset.dataset(path)):
        assert _rows(_open(data)) == TABLE.to_pylist()


def test_csv_columns_take_the_types_of_the_store_and_only_an_empty_cell_is_null(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('key,zip,note\n1,01234,NA\n2,,""\n3,04,\n')
    columns = pa.schema([("key", pa.int64()), ("zip", pa.string()), ("note", pa.string())])
    rows = _rows(_open(path, columns=columns))
    assert [row["zip"] for row in rows] == ["01234", None, "04"]
    assert [row["note"] for row in rows] == ["NA", "", None]


@pytest.mark.parametrize("rows_before", [1, 5_000])
def test_a_csv_cell_of_the_wrong_type_is_refused_by_row_and_column(tmp_path: Path, rows_before: int) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,key\n" + "".join(f"a,{i}\n" for i in range(rows_before)) + "b, seven\nc,eight\n")
    with pytest.raises(RowError, match=rf"row {rows_before}, field 'key': expected a cell that reads as int64, got ' ?seven'"):
        _rows(_open(path, batch_bytes=4096, columns=pa.schema([("key", pa.int64())])))


def test_rows_of_several_csv_files_are_counted_on(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key\n1\n2\n")
    (tmp_path / "b.csv").write_text("key\n3\nfour\n")
    with pytest.raises(RowError, match="row 3, field 'key'"):
        _rows(_open(str(tmp_path / "*.csv"), columns=pa.schema([("key", pa.int64())])))


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
        ({1: {"x": 2}, 2: {"x": 3}}, r"list of rows: \[\{'key': key, \*\*row\}"),
        ([(1, 2)], "rows are dicts"),
        (pa.array([1, 2]), "array of int64"),
        ("s3://bucket/t.parquet", "pyarrow.dataset"),
        ([b"line"], "give the path"),
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
    assert _rows(_open({})) == []
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
