"""What a build can read: every kind of table and file gives the same graph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from pyarrow import csv, parquet

from fondaco.core.errors import GraphBuildError, InputError
from fondaco.graph.answers import SparseColumn
from fondaco.graph.inputs import Nodes
from fondaco.graph.schema import Feature
from fondaco.graph.sections import open_sections
from graph.test_build import KNOWS, build_in, files_of

RNG = np.random.default_rng(4)
NODES = pa.table({"id": RNG.permutation(300) * 17, "age": RNG.integers(0, 90, 300), "name": [f"n{i}" for i in range(300)]})
EDGES = pa.table(
    {
        "src": RNG.choice(NODES["id"].to_numpy(), 900),
        "dst": RNG.choice(NODES["id"].to_numpy(), 900),
        "weight": RNG.random(900).round(3),
        "time": pa.array(RNG.integers(0, 10**12, 900), pa.timestamp("us", "UTC")),
    }
)


def _written(write: Callable[[pa.Table, Path], None], suffix: str, parts: int = 1) -> Callable[[pa.Table, Path], object]:
    def give(table: pa.Table, folder: Path) -> object:
        folder.mkdir()
        size = -(-len(table) // parts)
        for part in range(parts):
            write(table.slice(part * size, size), folder / f"part-{part}{suffix}")
        return folder if parts > 1 else str(folder / f"part-0{suffix}")

    return give


KINDS: dict[str, Callable[[pa.Table, Path], object]] = {
    "batches": lambda table, _: iter(table.to_batches(max_chunksize=70)),
    "reader": lambda table, _: table.to_reader(max_chunksize=64),
    "pandas": lambda table, _: table.to_pandas(),
    "Polars": lambda table, _: pl.from_arrow(table),
    "mappings": lambda table, _: table.to_pylist(),
    "columns": lambda table, _: {name: table[name].to_pylist() for name in table.column_names},
    "Parquet": _written(parquet.write_table, ".parquet"),
    "folder of Parquet": _written(parquet.write_table, ".parquet", 3),
    "CSV": _written(lambda table, path: csv.write_csv(table, path), ".csv"),
    "folder of CSV": _written(lambda table, path: csv.write_csv(table, path), ".csv", 3),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("expected") / "g"
    return files_of(build_in(directory, nodes={"person": NODES}, edges={KNOWS: EDGES}, partitions=2))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_gives_the_same_graph(tmp_path: Path, expected: dict[str, bytes], kind: str) -> None:
    nodes, edges = KINDS[kind](NODES, tmp_path / "nodes"), KINDS[kind](EDGES, tmp_path / "edges")
    assert files_of(build_in(tmp_path / "g", nodes={"person": nodes}, edges={KNOWS: edges}, partitions=2)) == expected


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"without \.parquet or \.csv"):
        build_in(tmp_path / "g", edges={KNOWS: tmp_path / "empty"})


SPARSE = scipy.sparse.random(20, 50, 0.2, "csr", np.float32, rng=np.random.default_rng(1))


@pytest.mark.parametrize("kind", ["SciPy", "SparseColumn", "map"])
def test_sparse_columns_keep_their_dimension(tmp_path: Path, kind: str) -> None:
    column: Any = SPARSE
    if kind == "SparseColumn":
        column = SparseColumn(SPARSE.indptr.astype(np.int64), SPARSE.indices.astype(np.int64), SPARSE.data, (20, 50))
    if kind == "map":
        rows = [list(zip(row.indices.tolist(), row.data.tolist(), strict=True)) for row in SPARSE]
        column = pa.array([*rows[:-1], [*rows[-1], (49, 0.0)]], pa.map_(pa.int32(), pa.float32()))
    graph = build_in(tmp_path / "g", nodes={"person": {"id": range(20), "x": column}}, partitions=2)
    assert graph.schema.nodes[0].features == (Feature("x", "sparse", "float32", (50,)),)
    found = np.zeros((20, 50), np.float32)
    order, row = graph.ids("person"), 0
    for p in range(2):
        file = open_sections(graph.directory / f"feature-00-0000{p}.fgs")
        for a, b in zip(file["indptr"][:-1], file["indptr"][1:], strict=True):
            found[order[row], file["indices"][a:b]] = file["values"][a:b]
            row += 1
    assert (found == SPARSE.toarray()).all()


@pytest.mark.parametrize("shape", [(30,), (30, 4), (30, 2, 3)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "bool"])
def test_matrices_and_tensors_become_dense_features(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = np.random.default_rng(2).integers(0, 2, shape).astype(dtype)
    for number, column in enumerate((values, torch.from_numpy(values))):
        graph = build_in(tmp_path / str(number), nodes={"person": {"id": range(30), "x": column}})
        assert graph.schema.nodes[0].features == (Feature("x", "dense", dtype, shape[1:]),)
        assert graph.feature("x") == [values[i].tolist() for i in graph.ids("person")]


def test_rows_after_a_slice_and_null_lists_over_numbers_are_read_right(tmp_path: Path) -> None:
    values = pa.array(np.arange(24.0))
    fixed = pa.FixedSizeListArray.from_arrays(values, 2, mask=pa.array([i % 5 == 1 for i in range(12)]))
    free = pa.ListArray.from_arrays(pa.array(range(0, 26, 2), pa.int32()), values, mask=pa.array([i % 5 == 1 for i in range(12)]))
    table = pa.table({"id": range(12), "a": fixed, "b": free}).slice(3, 7)
    graph = build_in(tmp_path / "g", nodes={"person": table})
    expected = [[0, 0] if i % 5 == 1 else [2 * i, 2 * i + 1] for i in graph.ids("person")]
    assert graph.feature("a") == graph.feature("b") == expected
    assert graph.feature("a", "present") == graph.feature("b", "present") == [int(i % 5 != 1) for i in graph.ids("person")]


def test_text_columns_in_dictionaries_and_views_are_texts(tmp_path: Path) -> None:
    names = ["b", "a", None, "a"]
    columns = {
        "id": pa.array(["w", "x", "y", "z"], pa.string_view()),
        "d": pa.array(names).dictionary_encode(),
        "v": pa.array(names, pa.string_view()),
    }
    graph = build_in(tmp_path / "g", nodes={"person": pa.table(columns)})
    assert graph.schema.nodes[0].features == (Feature("d", "bytes"), Feature("v", "bytes"))
    assert graph.feature("d", "data") == graph.feature("v", "data")


def test_pandas_says_which_row_mixes_types(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": pd.Series([1, 2, "x"], dtype=object)})
    with pytest.raises(GraphBuildError, match="mixed") as caught:
        build_in(tmp_path / "g", nodes={"person": Nodes(frame)})
    assert (caught.value.row, caught.value.column) == (2, "id")


def test_naming_columns_needs_neither_arrow_nor_numba() -> None:
    code = (
        "import sys; from fondaco.graph import Edges, Nodes, StoreFeature, from_networkx, from_pyg, from_deepgnn; "
        "print(sorted({'numba', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_bare_ids_are_the_columns_that_they_mean(tmp_path: Path) -> None:
    pairs = [(3, 1), (2, 3), (3, 3)]
    plain = build_in(tmp_path / "plain", nodes={"person": {"id": [1, 2, 3]}}, edges={KNOWS: {"src": [3, 2, 3], "dst": [1, 3, 3]}})
    ids: tuple[Any, ...] = (
        [1, 2, 3],
        (3, 1, 2),
        range(1, 4),
        np.arange(1, 4),
        pd.Series([1, 2, 3]),
        pl.Series([1, 2, 3]),
        pa.array([2, 1, 3]),
    )
    for number, nodes in enumerate((*ids, torch.arange(1, 4), {"id": [1, 2, 3]}, [{"id": 1}, {"id": 2}, {"id": 3}])):
        for form, edges in enumerate((pairs, [list(pair) for pair in pairs], np.array(pairs), torch.tensor(pairs))):
            graph = build_in(tmp_path / f"{number}-{form}", nodes={"person": nodes}, edges={KNOWS: edges})
            assert files_of(graph) == files_of(plain)
    texts = build_in(tmp_path / "texts", nodes={"person": ["b", "a"]}, edges={KNOWS: [("a", "b")]})
    assert sorted(texts.ids("person")) == ["a", "b"]
    with pytest.raises(InputError, match="no file"):
        build_in(tmp_path / "paths", nodes={"person": ["b", "a.csv"]})


@pytest.mark.parametrize("table", [np.zeros((2, 5), int), np.zeros((2, 2), int), np.zeros((5, 3), int), np.zeros(5, int), np.zeros((5, 2))])
def test_an_array_that_may_mean_something_else_is_refused(tmp_path: Path, table: Any) -> None:
    with pytest.raises(InputError, match=r"edges 'person/knows/person': an array of .* is no table; give columns, .*'src'.*'dst'"):
        build_in(tmp_path / "g", edges={KNOWS: table})


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (["id", "from", "to"], "no column 'src'.*Say which"),
        (["weight", "from", "to"], "no column 'src'"),
        (["id", "src", "target"], "no column 'dst'; it has 'id', 'src', 'target'. Say which it is: .*dst="),
        (["source", "dst"], "no column 'src'"),
    ],
)
def test_columns_are_not_guessed_from_their_place_where_names_say_otherwise(tmp_path: Path, columns: list[str], says: str) -> None:
    with pytest.raises(GraphBuildError, match=says):
        build_in(tmp_path / "g", edges={KNOWS: pa.table([[1, 2]] * len(columns), names=columns)})


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphBuildError, match="column 'src': there are two columns of this name"):
        build_in(tmp_path / "g", edges={KNOWS: pa.table([[1], [2], [3]], names=["src", "dst", "src"])})


def test_a_csv_file_without_names_of_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "edges.csv"
    file.write_text("1,2\n2,3\n")
    with pytest.raises(GraphBuildError, match="first line, with '1', is a row"):
        build_in(tmp_path / "g", edges={KNOWS: str(file)})
    file.write_text("a,b\n2,3\n")
    assert build_in(tmp_path / "h", edges={KNOWS: str(file)}).ids("person") != []


def test_times_that_no_calendar_has_are_refused_with_the_row(tmp_path: Path) -> None:
    nanoseconds = pa.array([1_700_000_000_000_000, 1_700_000_000_000_000_000])
    with pytest.raises(GraphBuildError, match=r"row 1, column 'time': 1700000000000000000 microseconds .* outside the years 1 to 9999"):
        build_in(tmp_path / "g", edges={KNOWS: {"src": [1, 2], "dst": [2, 1], "time": nanoseconds}})


def test_sparse_values_that_are_all_null_are_refused_with_the_row(tmp_path: Path) -> None:
    with pytest.raises(GraphBuildError, match="row 1, column 'x': an index or a value is null"):
        build_in(tmp_path / "g", nodes={"person": {"id": [1, 2], "x": [[], [{"index": 3, "value": None}]]}})


@pytest.mark.parametrize("tables", [{"edges": pa.table({"src": [1]})}, {"nodes": [1, 2]}, {"nodes": pd.DataFrame({"id": [1]})}])
def test_tables_without_types_are_refused(tmp_path: Path, tables: Any) -> None:
    with pytest.raises(InputError, match="says the table of each type"):
        build_in(tmp_path / "g", **tables)


def test_an_edge_type_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    table = {"src": [1], "dst": [2]}
    with pytest.raises(InputError, match="name one edge type"):
        build_in(tmp_path / "g", edges={KNOWS: table, "/".join(KNOWS): table})
