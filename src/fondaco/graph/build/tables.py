"""Tables: what a graph is built from, read as chunks of plain columns.

A table is anything that a push to a store takes (`store.inputs`: Arrow, pandas, Polars, DuckDB, mappings, dicts of columns, Parquet, CSV,
Arrow IPC and Avro files), or bare ids (`bare_ids`); and besides, as columns of a dict, matrices of any rank, SciPy's sparse matrices,
`SparseColumn`s and tensors. Which columns mean what, `inputs` says. A `TableReader` checks each row for itself (nulls, weights, times,
dimensions); what only shows between rows, such as an id that comes twice, is the build's affair. The first bad row of a table is the one
that is named, whatever the chunks.

A reader belongs to one thread and reads its table once.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from fondaco.core.clock import EARLIEST_US, LATEST_US
from fondaco.core.errors import ColumnNotFoundError, GraphBuildError, InputError, NaiveTimestampError
from fondaco.graph.build import _kernels as kernels
from fondaco.graph.build.arrow_columns import Problems, as_array, first_null, numbers_of, ragged_bytes
from fondaco.graph.build.bare_ids import columns_of
from fondaco.graph.build.columns import Column
from fondaco.graph.build.feature_columns import DIMENSION, FeatureReader
from fondaco.graph.inputs import Edges, Features, FeatureSource, Nodes, StoreFeature
from fondaco.graph.schema import IdKind
from fondaco.store.inputs import Input, open_input

_MEANINGS = ("id", "weight", "time")  # columns of these names are not taken for ids because they stand first


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """Ids of some rows: int64 [n], or the UTF-8 of texts. `kind` is None for a column that has no type because it has no rows."""

    kind: IdKind | None
    values: Column


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some consecutive rows. `ids`: one column of a node table, two of an edge table; `columns`: weight, time, and parts of features.

    `problems` holds what is wrong with them: whoever takes the chunk adds what else it finds, and raises the first.
    """

    first_row: int
    ids: tuple[Ids, ...]
    columns: dict[str, Column]
    problems: Problems

    def __len__(self) -> int:
        return len(self.ids[0].values) if self.ids else 0


class TableReader:
    """One node or edge table, opened.

    Attributes:
        label: how messages call it. id_columns: one or two names (none if the table has no columns, and no rows).
        features: of the columns that are features, in their order; their dimensions are known once rows were read.
        store_features: by name. source: for the manifest.
    """

    def __init__(self, label: str, given: Nodes | Edges, batch_bytes: int, *, ids_only: bool = False) -> None:
        """
        Args:
            ids_only: no other column means anything.
        Raises:
            ColumnNotFoundError, GraphBuildError, InputError: columns that are not there, or that can be no feature; nothing to read.
        """
        self.label = label
        self._given = given
        wanted = (given.id,) if isinstance(given, Nodes) else (given.src, given.dst)
        usual = ("id",) if isinstance(given, Nodes) else ("src", "dst")
        named = [name or common for name, common in zip(wanted, usual, strict=True)]
        self._input = _open(label, columns_of(label, given.table, named), batch_bytes)
        self.source = self._input.described()
        schema, self._chunks = _with_schema(label, self._input)
        self._schema = schema
        twice = [name for name, times in Counter(schema.names).items() if times > 1]
        if twice:
            raise GraphBuildError(label, None, twice[0], "there are two columns of this name; rename one, or leave it out")
        self.id_columns = _id_columns(label, schema, wanted, usual)
        self._check_header((*wanted, *usual))
        self.features: list[FeatureReader] = []
        self.store_features: dict[str, StoreFeature] = {}
        self.weight: str | None = None
        self.time: str | None = None
        if ids_only:
            return
        claimed = _claimed(label, schema, given.features)
        taken = {*self.id_columns, *claimed}
        self.weight = _optional(label, schema, given.weight, "weight", taken)
        self.time = _optional(label, schema, given.time, "time", taken)
        self._read_features(given.features)

    @property
    def is_weighted(self) -> bool:
        """Whether rows have weights."""
        return self.weight is not None

    @property
    def is_timed(self) -> bool:
        """Whether rows have times."""
        return self.time is not None

    @property
    def id_kinds(self) -> tuple[IdKind | None, ...]:
        """What the types of the id columns say of ids, should there be no rows; None: nothing."""
        return tuple(_kind_of(self._schema.field(name).type) for name in self.id_columns)

    def chunks(self) -> Iterator[Chunk]:
        """All rows, chunk by chunk; once.

        Raises:
            GraphBuildError: a column that cannot be taken at all. InputError, DataError: a file that cannot be read, or changed meanwhile.
        """
        first_row = 0
        for batch in self._chunks:
            if not batch.num_rows:
                continue
            problems = Problems(self.label, first_row)
            ids = tuple(_read_ids(self.label, batch, name, problems) for name in self.id_columns)
            columns: dict[str, Column] = {}
            if self.weight is not None:
                columns["weight"] = _read_weights(self.label, batch, self.weight, problems)
            if self.time is not None:
                columns["time"] = _read_times(self.label, batch, self.time, self._given.tz, problems)
            for number, feature in enumerate(self.features):
                for part, column in feature.read(batch, problems).items():
                    columns[f"{number}:{part}"] = column
            yield Chunk(first_row, ids, columns, problems)
            first_row += batch.num_rows
        self._input.check_unchanged()

    def _check_header(self, said: Sequence[str | None]) -> None:
        """
        Raises:
            GraphBuildError: the names of a CSV file's first columns are ids.
        """
        numbers = [name for name in self.id_columns if name not in said and name.strip().lstrip("-").isdigit()]
        if numbers and any(path.lower().endswith(".csv") for path in self._input.files):
            reason = f"its first line, with {numbers[0]!r}, is a row; a line with the names of the columns has to stand before it"
            raise GraphBuildError(self.label, None, None, reason)

    def _read_features(self, features: Features) -> None:
        if features is None:
            meant = {*self.id_columns, self.weight, self.time}
            if isinstance(self._given, Edges):
                meant.add("id")
            sources: Mapping[str, FeatureSource] = {name: name for name in self._schema.names if name not in meant}
        elif isinstance(features, Mapping):
            sources = features
        else:
            sources = {name: name for name in features}
        for name, source in sources.items():
            if isinstance(source, StoreFeature):
                if isinstance(self._given, Edges):
                    raise InputError(f"feature {name!r} of {self.label}: only features of nodes may lie in a store, which has keys")
                self.store_features[name] = source
            else:
                columns = [source] if isinstance(source, str) else list(source)
                self.features.append(FeatureReader(self.label, name, self._schema, columns))


# -- opening ------------------------------------------------------------------------------------------------------------------------


def _open(label: str, table: object, batch_bytes: int) -> Input:
    if isinstance(table, (str, os.PathLike)) and os.path.isdir(os.fspath(table)):
        table = _folder(os.fspath(table))
    if isinstance(table, Mapping) and not all(isinstance(row, Mapping) for row in table.values()):
        table = _table_of_columns(label, table)
    try:
        return open_input(table, batch_bytes=batch_bytes)
    except InputError:
        for name in getattr(table, "columns", ()) if type(table).__module__.startswith("pandas") else ():
            _check_one_kind(label, str(name), table[name])  # type: ignore[index]  # a DataFrame
        raise


def _folder(path: str) -> object:
    """A folder of Parquet files, or of CSV files."""
    if any(Path(path).rglob("*.parquet")):
        return path
    found = sorted(glob.glob(os.path.join(glob.escape(path), "**", "*.csv"), recursive=True))
    if not found:
        raise InputError(f"{path} is a folder without .parquet or .csv files")
    return found


def _with_schema(label: str, opened: Input) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The input's columns and its batches; of mappings, the first ones say what the columns are."""
    if opened.schema is not None:
        return opened.schema, opened.chunks  # they are batches where there is a schema
    first = next(opened.chunks, None)
    if first is None:
        return pa.schema([]), iter(())
    head = _batch_of_mappings(label, first, None)

    def batches() -> Iterator[pa.RecordBatch]:
        yield head
        for chunk in opened.chunks:
            yield _batch_of_mappings(label, chunk, head.schema)

    return head.schema, batches()


def _batch_of_mappings(label: str, rows: Any, schema: pa.Schema | None) -> pa.RecordBatch:
    rows = [dict(row) for row in rows]
    try:
        return pa.RecordBatch.from_pylist(rows, schema)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        for name in schema.names if schema is not None else dict.fromkeys(itertools.chain.from_iterable(rows)):
            _check_one_kind(label, name, [row.get(name) for row in rows])
        raise GraphBuildError(label, None, None, f"its rows do not make columns: {exc}") from exc


def _table_of_columns(label: str, columns: Mapping[Any, Any]) -> pa.Table:
    arrays, fields = [], []
    for key, values in columns.items():
        array, dimension = _arrow_column(label, str(key), values)
        arrays.append(array)
        metadata = None if dimension is None else {DIMENSION: str(dimension).encode()}
        fields.append(pa.field(str(key), array.type, metadata=metadata))
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        told = ", ".join(f"{field.name!r} has {len(array)}" for field, array in zip(fields, arrays, strict=True))
        raise GraphBuildError(label, None, None, f"its columns have different lengths: {told}")
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _arrow_column(label: str, name: str, values: Any) -> tuple[Any, int | None]:
    """A column of a dict as Arrow, and its dimension if it is sparse."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values, None
    if callable(getattr(values, "detach", None)):  # a tensor
        values = values.detach().cpu().numpy()
    if callable(getattr(values, "tocsr", None)):  # of SciPy
        csr = values.tocsr()
        return _sparse_array(csr.indptr, csr.indices, csr.data), int(csr.shape[1])
    if hasattr(values, "indptr") and hasattr(values, "indices"):  # a SparseColumn
        return _sparse_array(values.indptr, values.indices, values.values), int(values.shape[1])
    try:
        if isinstance(values, np.ndarray) and values.ndim > 1 and values.dtype.kind in "iufb":
            array = pa.array(np.ascontiguousarray(values).reshape(-1))
            for length in reversed(values.shape[1:]):
                array = pa.FixedSizeListArray.from_arrays(array, length)
            return array, None
        if isinstance(values, np.ndarray) and values.dtype.name == "bfloat16":
            values = values.astype(np.float32)
        return pa.array(values), None
    except (pa.ArrowException, TypeError, ValueError) as exc:
        _check_one_kind(label, name, values)
        raise GraphBuildError(label, None, name, f"its values do not make a column: {exc}") from exc


def _sparse_array(indptr: Any, indices: Any, values: Any) -> pa.Array:
    entries = pa.StructArray.from_arrays([pa.array(np.asarray(indices, np.int64)), pa.array(np.asarray(values))], ["index", "value"])
    return pa.LargeListArray.from_arrays(pa.array(np.asarray(indptr, np.int64)), entries)


def _check_one_kind(label: str, name: str, values: Iterable[Any]) -> None:
    """
    Raises:
        GraphBuildError: some values are numbers and some are texts; names the first that differs from the first.
    """
    first: tuple[type, Any] | None = None
    for row, value in enumerate(values):
        kind = str if isinstance(value, str) else int if isinstance(value, (int, np.integer)) else None
        if kind is None:
            continue
        if first is None:
            first = (kind, value)
        elif first[0] is not kind:
            raise GraphBuildError(
                label, row, name, f"mixed types: {value!r} after {first[1]!r}; ids of one type are all whole numbers or all texts"
            )


def _kind_of(kind: Any) -> IdKind | None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return "long"
    texts = kind == pa.string_view() or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return "string" if texts else None


# -- which column is which ------------------------------------------------------------------------------------------------------------


def _id_columns(label: str, schema: pa.Schema, wanted: Sequence[str | None], usual: Sequence[str]) -> tuple[str, ...]:
    if not schema.names and not any(wanted):
        return ()
    found = []
    by_position = not any(wanted) and not any(name in schema.names for name in usual)
    for position, (name, common) in enumerate(zip(wanted, usual, strict=True)):
        if name is None:
            name = schema.names[position] if by_position and len(schema.names) > position else common
            if name not in schema.names or (by_position and name in _MEANINGS):
                raise GraphBuildError(
                    label, None, None,
                    f"it has no column {common!r}; it has {', '.join(map(repr, schema.names))}. Say which it is: "
                    + ("Nodes(table, id=...)" if len(usual) == 1 else f"Edges(table, {common}=...)"),
                )  # fmt: skip
        elif name not in schema.names:
            raise ColumnNotFoundError(name, schema.names, label)
        found.append(name)
    return tuple(found)


def _optional(label: str, schema: pa.Schema, wanted: str | None, usual: str, taken: set[str]) -> str | None:
    if wanted is not None:
        if wanted not in schema.names:
            raise ColumnNotFoundError(wanted, schema.names, label)
        return wanted
    return usual if usual in schema.names and usual not in taken else None


def _claimed(label: str, schema: pa.Schema, features: Features) -> set[str]:
    """Columns that were said to be features: a column `weight` among them is no weight."""
    if features is None:
        return set()
    if isinstance(features, str) or not isinstance(features, (Mapping, Sequence)):
        raise InputError(f"features of {label} are a list of columns, or a mapping from names to columns; not {features!r}")
    sources = list(features.values()) if isinstance(features, Mapping) else list(features)
    columns: set[str] = set()
    for source in sources:
        if not isinstance(source, StoreFeature):
            columns |= {source} if isinstance(source, str) else set(source)
    for name in sorted(columns):
        if name not in schema.names and schema.names:
            raise ColumnNotFoundError(name, schema.names, label)
    return columns


# -- reading --------------------------------------------------------------------------------------------------------------------------


def _read_ids(label: str, batch: pa.RecordBatch, name: str, problems: Problems) -> Ids:
    array = as_array(batch.column(batch.schema.get_field_index(name)))
    kind = array.type
    if array.null_count:
        problems.note(first_null(array), name, "the id is null; every row needs one")
    if pa.types.is_null(kind):
        return Ids(None, np.zeros(len(array), np.int64))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Ids("string", ragged_bytes(array))
    if not pa.types.is_integer(kind):
        hint = "; a column of whole numbers with gaps becomes one of floats in pandas: drop the gaps, then astype('int64')"
        raise GraphBuildError(
            label, None, name, f"ids are whole numbers or texts, not {kind}{hint if pa.types.is_floating(kind) else '; cast the column'}"
        )
    values = numbers_of(array)
    if kind == pa.uint64():
        large = np.flatnonzero(values > np.uint64(np.iinfo(np.int64).max))
        if len(large):
            problems.note(int(large[0]), name, f"the id {values[large[0]]} does not fit an int64; make a text of it")
    return Ids("long", values.astype(np.int64, copy=False))


def _read_weights(label: str, batch: pa.RecordBatch, name: str, problems: Problems) -> Column:
    array = as_array(batch.column(batch.schema.get_field_index(name)))
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        raise GraphBuildError(label, None, name, f"weights are numbers, not {kind}")
    if array.null_count:
        problems.note(first_null(array), name, "the weight is null; every row needs one (0 is never drawn)")
        array = array.cast(pa.float64()).fill_null(0.0)
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    with np.errstate(over="ignore"):
        weights = numbers_of(array).astype(np.float32)
    bad = kernels.first_bad_weight(weights)
    if bad >= 0:
        problems.note(bad, name, f"a weight is a number of 0 or more that fits a float32, not {array[bad].as_py()!r}")
    return weights


def _read_times(label: str, batch: pa.RecordBatch, name: str, tz: str | None, problems: Problems) -> Column:
    array = as_array(batch.column(batch.schema.get_field_index(name)))
    kind = array.type
    if array.null_count:
        problems.note(first_null(array), name, "the time is null; every row needs one")
    if pa.types.is_integer(kind):
        return _within_years(array, problems, name)
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("us"))
    elif pa.types.is_null(kind):
        return np.zeros(len(array), np.int64)
    elif not pa.types.is_timestamp(kind):
        raise GraphBuildError(label, None, name, f"times are timestamps, or whole microseconds since 1970, not {kind}")
    if array.type.tz is None:
        if tz is None:
            raise NaiveTimestampError(name, label)
        try:  # a time that a zone has twice, or never, is the one before its clocks are changed
            array = compute.assume_timezone(array, tz, ambiguous="earliest", nonexistent="earliest")
        except pa.ArrowInvalid as exc:
            raise InputError(f'tz={tz!r} of {label} is no time zone; write for example "UTC" or "America/New_York"') from exc
    try:
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    except pa.ArrowInvalid as exc:
        raise GraphBuildError(label, None, name, f"its times do not fit microseconds: {exc}") from exc
    return _within_years(array.cast(pa.int64()), problems, name)


def _within_years(array: pa.Array, problems: Problems, name: str) -> Column:
    """Microseconds; those that are none, as nanoseconds are, are noted."""
    given = numbers_of(array)
    far = (given < EARLIEST_US) | (given > LATEST_US)
    if array.null_count:
        far &= array.is_valid().to_numpy(zero_copy_only=False)
    if far.any():
        row = int(far.argmax())
        problems.note(row, name, f"{given[row]} microseconds since 1970 lie outside the years 1 to 9999")
    return given.astype(np.int64)
