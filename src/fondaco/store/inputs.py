"""Inputs: whatever a push is given becomes a stream of chunks of bounded size.

A chunk is a `pa.RecordBatch` of at most `batch_bytes` (a single larger row excepted), or, where the input is Python mappings, a list of
at most `ROWS_PER_CHUNK` of them. Taken: Arrow tables, batches and readers; anything with `__arrow_c_stream__` (Polars, DuckDB relations,
pandas); DuckDB connections with a result; a dict of arrays; a list or iterator of mappings, of tables or of batches; paths (one, or
a list) of Parquet, CSV, Arrow IPC and Avro files, of a directory of Parquet files, or with wildcards.

Nothing is read ahead: of a file, one batch and the pages it comes from are in memory. A file that changes while it is read fails the
push. One thread reads one input, once.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from fondaco.core.errors import DataError, InputError, SchemaError

Chunk: TypeAlias = pa.RecordBatch | list[Mapping[str, Any]]
Columns: TypeAlias = Callable[[], pa.Schema]

ROWS_PER_CHUNK = 1000
SAMPLE_PARTS = 64
JOINED_BYTES = 1 << 20  # chunks are joined up to this size; joining larger ones costs more in copies than it saves in calls
PARQUET_BUFFER_BYTES = 1 << 20  # without it pyarrow reads a column's whole share of a row group at once
_SUFFIXES = (".parquet", ".csv", ".arrow", ".arrows", ".ipc", ".feather", ".avro")


@dataclass(slots=True)
class Input:
    """An opened input. `schema` is None when the chunks are lists of mappings; `row_count` is None when it is not known beforehand.

    `sample(bytes)`, where there is one, gives about so many bytes of rows spread over the whole input, without consuming it.
    """

    source: str
    schema: pa.Schema | None
    row_count: int | None
    chunks: Iterator[Chunk]
    files: dict[str, tuple[int, int]] = field(default_factory=dict)  # path -> size, modification time (ns)
    sample: Callable[[int], Iterable[Chunk]] | None = None

    def described(self) -> dict[str, Any]:
        """What a version built from it says of its origin: the kind of input, and each file with its size and modification time."""
        if not self.files:
            return {"source": self.source}
        return {"source": self.source, "files": {path: {"bytes": size, "modified_ns": when} for path, (size, when) in self.files.items()}}

    def check_unchanged(self) -> None:
        """Compare the files with what they were when they were opened.

        Raises:
            InputError: one was written to while it was read; what was read may be a mixture.
        """
        for path, before in self.files.items():
            if _fingerprint(path) != before:
                raise InputError(f"{path} changed while it was read; push again when nobody writes to it")


def open_input(data: object, *, batch_bytes: int, columns: Columns | None = None) -> Input:
    """Open anything a push accepts.

    Args:
        data: see the module's text.
        batch_bytes: greatest size of a chunk in Arrow memory.
        columns: gives the types that the store expects, by column name. CSV files, which have none, are read with them.
    Raises:
        InputError: nothing that can be read; the message says what can.
    """
    opened = _open(data, batch_bytes, columns)
    opened.chunks = _merged(opened.chunks, batch_bytes)
    return opened


def _open(data: object, batch_bytes: int, columns: Columns | None) -> Input:
    if isinstance(data, (str, os.PathLike)):
        return _open_path(os.fspath(data), batch_bytes, columns)
    if isinstance(data, pa.Table):
        return _of_table("Arrow table", data, batch_bytes)
    if isinstance(data, pa.RecordBatch):
        return _of_table("Arrow batch", pa.Table.from_batches([data]), batch_bytes)
    if isinstance(data, pa.RecordBatchReader):
        return Input("Arrow batches", data.schema, None, _sliced(data, batch_bytes))
    if type(data).__module__.partition(".")[0] == "pandas":
        return _open_pandas(data, batch_bytes)
    if hasattr(data, "__arrow_c_stream__"):
        length = len(data) if hasattr(data, "__len__") and type(data).__module__.partition(".")[0] == "polars" else None
        reader = pa.RecordBatchReader.from_stream(data)
        return Input(type(data).__name__, reader.schema, length, _sliced(reader, batch_bytes))
    for name in ("to_arrow_reader", "fetch_record_batch"):  # a DuckDB connection, old or new, holds the result of its last statement
        if callable(getattr(data, name, None)):
            reader = getattr(data, name)(65_536)
            return Input("DuckDB result", reader.schema, None, _sliced(reader, batch_bytes))
    if isinstance(data, Mapping):
        return _of_table("columns", _table(data), batch_bytes)
    if isinstance(data, Iterable):
        return _open_iterable(data, batch_bytes, columns)
    raise _not_readable(data)


def _not_readable(data: object) -> InputError:
    name = f"{type(data).__module__}.{type(data).__qualname__}"
    hint = " (collect() a lazy frame first)" if callable(getattr(data, "collect", None)) else ""
    return InputError(
        f"cannot read rows from a {name}{hint}; give an Arrow, pandas or Polars table, a DuckDB relation, batches, a list of dicts, "
        f"a dict of columns, or the path of a {', '.join(_SUFFIXES)} file"
    )


# -- in memory ----------------------------------------------------------------------------------------------------------------------


def _of_table(source: str, table: pa.Table, batch_bytes: int) -> Input:
    def sample(sample_bytes: int) -> Iterator[Chunk]:
        rows = table.num_rows * sample_bytes // max(table.nbytes, 1)
        if rows >= table.num_rows:
            yield from _sliced(table.to_batches(), batch_bytes)
            return
        parts = min(SAMPLE_PARTS, max(rows, 1))
        for part in range(parts):  # data often lies in order: its head alone may be of one kind
            yield from _sliced(table.slice(part * table.num_rows // parts, max(rows // parts, 1)).to_batches(), batch_bytes)

    return Input(source, table.schema, table.num_rows, _sliced(table.to_batches(), batch_bytes), sample=sample)


def _open_pandas(data: Any, batch_bytes: int) -> Input:
    if not hasattr(data, "columns"):
        raise _not_readable(data)
    table = pa.Table.from_pandas(data)
    # An index that has a name may be a key; one without is only pandas' row labels.
    table = table.select([name for name in table.schema.names if not name.startswith("__index_level_")])
    return _of_table("pandas DataFrame", table.replace_schema_metadata(), batch_bytes)


def _table(columns: Mapping[Any, Any]) -> pa.Table:
    try:
        return pa.table({str(name): _column(values) for name, values in columns.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as exc:
        raise InputError(f"cannot make a table of this dict of columns: {exc}") from exc


def _column(values: Any) -> Any:
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "iuf":
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
    return values


def _open_iterable(data: Iterable[Any], batch_bytes: int, columns: Columns | None) -> Input:
    items = iter(data)
    first = next(items, None)
    if first is None:
        return Input("nothing", None, 0, iter(()))
    rest = itertools.chain([first], items)
    if isinstance(first, (str, os.PathLike)):
        return _open_files([path for item in rest for path in _files(os.fspath(item))], batch_bytes, columns)
    if isinstance(first, Mapping):
        length = len(data) if isinstance(data, Sequence) else None
        return Input("mappings", None, length, _row_chunks(rest))
    head = _open_item(first, batch_bytes, columns)

    def chunks() -> Iterator[Chunk]:
        yield from head.chunks
        for item in items:
            opened = _open_item(item, batch_bytes, columns)
            _check_same_schema(head.schema, opened.schema, "a later batch")
            yield from opened.chunks

    return Input("batches", head.schema, None, chunks())


def _open_item(item: object, batch_bytes: int, columns: Columns | None) -> Input:
    if isinstance(item, (str, bytes, int, float, Sequence, Mapping)) or item is None:
        raise _not_readable(item)
    return _open(item, batch_bytes, columns)


def _row_chunks(rows: Iterable[Any]) -> Iterator[Chunk]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, ROWS_PER_CHUNK)):
        yield chunk


def _check_same_schema(expected: pa.Schema | None, found: pa.Schema | None, where: str) -> None:
    if expected is None or found is None or found.equals(expected):
        return
    differing = [name for name in {*expected.names, *found.names} if _type_of(expected, name) != _type_of(found, name)]
    if differing:
        name = sorted(differing)[0]
        raise InputError(
            f"column {name!r} is {_type_of(found, name) or 'missing'} in {where}, but {_type_of(expected, name) or 'missing'} before it; "
            "all parts of one push need the same columns"
        )


def _type_of(schema: pa.Schema, name: str) -> str | None:
    index = schema.get_field_index(name)
    return None if index < 0 else str(schema.field(index).type)


# -- files --------------------------------------------------------------------------------------------------------------------------


def _open_path(path: str, batch_bytes: int, columns: Columns | None) -> Input:
    return _open_files(_files(path), batch_bytes, columns)


def _open_files(files: list[str], batch_bytes: int, columns: Columns | None) -> Input:
    openers: dict[str, Callable[[str, int, Columns | None], Input]] = {
        ".parquet": _open_parquet,
        ".csv": _open_csv,
        ".avro": _open_avro,
    }
    fingerprints = {file: _fingerprint(file) for file in files}

    def open_one(file: str) -> Input:
        opener = openers.get(Path(file).suffix.lower(), _open_ipc)
        try:
            return opener(file, batch_bytes, columns)
        except pa.ArrowInvalid as exc:
            raise DataError(f"{file} cannot be read: {exc}") from exc

    head = open_one(files[0])

    def chunks() -> Iterator[Chunk]:
        for number, file in enumerate(files):
            opened = head if number == 0 else open_one(file)
            _check_same_schema(head.schema, opened.schema, file)
            try:
                yield from opened.chunks
            except (pa.ArrowInvalid, OSError) as exc:
                raise DataError(f"{file} cannot be read: {exc}") from exc

    row_count = head.row_count if len(files) == 1 else None
    source = files[0] if len(files) == 1 else f"{len(files)} files from {files[0]} to {files[-1]}"
    return Input(source, head.schema, row_count, chunks(), fingerprints)


def _files(path: str) -> list[str]:
    if os.path.isdir(path):
        found = sorted(map(str, Path(path).rglob("*.parquet")))
        if not found:
            raise InputError(f"{path} is a directory without .parquet files")
    elif glob.has_magic(path) and not os.path.exists(path):
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise InputError(f"no file matches {path}")
    else:
        if not os.path.exists(path):
            raise InputError(f"there is no file {path}")
        found = [path]
    for file in found:
        if Path(file).suffix.lower() not in _SUFFIXES:
            raise InputError(f"{file}: the ending says what a file holds; known are {', '.join(_SUFFIXES)}")
    return found


def _fingerprint(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def _open_parquet(path: str, batch_bytes: int, columns: Columns | None) -> Input:
    from pyarrow import parquet

    file = parquet.ParquetFile(path, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False)
    metadata = file.metadata
    widest = max(
        (metadata.row_group(i).total_byte_size // max(metadata.row_group(i).num_rows, 1) for i in range(metadata.num_row_groups)), default=1
    )
    rows = min(max(batch_bytes // max(widest, 1), 1), 131_072)

    def chunks() -> Iterator[Chunk]:
        with contextlib.closing(file):
            yield from _sliced(file.iter_batches(batch_size=rows), batch_bytes)

    return Input(path, file.schema_arrow.remove_metadata(), metadata.num_rows, chunks())


def _open_csv(path: str, batch_bytes: int, columns: Columns | None) -> Input:
    from pyarrow import csv

    known = columns() if columns is not None else pa.schema([])
    expected = {name: kind for name, kind in zip(known.names, known.types, strict=True) if _in_csv(kind)}
    reader = csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=min(batch_bytes, 4 << 20)),
        # Only an empty cell is a null. "NA" is also a country, an airline and a word; in a column of numbers it is refused by name.
        convert_options=csv.ConvertOptions(
            column_types=expected, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )

    def chunks() -> Iterator[Chunk]:
        with reader:
            yield from _sliced(reader, batch_bytes)

    return Input(path, reader.schema, None, chunks())


def _in_csv(kind: pa.DataType) -> bool:
    is_ = pa.types
    return any(
        test(kind)
        for test in (is_.is_integer, is_.is_floating, is_.is_boolean, is_.is_string, is_.is_large_string, is_.is_binary, is_.is_timestamp,
                     is_.is_date, is_.is_time, is_.is_decimal)
    )  # fmt: skip


def _open_ipc(path: str, batch_bytes: int, columns: Columns | None) -> Input:
    source = pa.memory_map(path)
    try:
        file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return Input(path, stream.schema, None, _closing(source, _sliced(stream, batch_bytes)))
    batches = (file.get_batch(index) for index in range(file.num_record_batches))
    return Input(path, file.schema, None, _closing(source, _sliced(batches, batch_bytes)))


def _open_avro(path: str, batch_bytes: int, columns: Columns | None) -> Input:
    from fondaco.schema.container import AvroFile

    file = AvroFile(path)
    try:
        schema = file.arrow_schema
    except SchemaError:  # rows that Arrow has no columns for: a record inside itself
        return Input(path, None, None, _closing(file, _row_chunks(file)))
    return Input(path, schema, None, _closing(file, _sliced(file.batches(batch_bytes // 2), batch_bytes)))


def _closing(source: Any, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    with contextlib.closing(source):
        yield from chunks


# -- sizes --------------------------------------------------------------------------------------------------------------------------


def _size(batch: pa.RecordBatch) -> int:
    try:
        return int(batch.nbytes)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):  # string views and the like: what the buffers hold, an upper bound
        return int(batch.get_total_buffer_size())


def _sliced(batches: Iterable[pa.RecordBatch], batch_bytes: int) -> Iterator[Chunk]:
    for batch in batches:
        rows = max(1, batch.num_rows * batch_bytes // max(_size(batch), 1))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _merged(chunks: Iterator[Chunk], batch_bytes: int) -> Iterator[Chunk]:
    """Join chunks far below the bound: each costs some 0.2 ms in kernels and writes, however few rows it has."""
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    for chunk in chunks:
        if isinstance(chunk, list):
            yield chunk
            continue
        size = _size(chunk)
        if waiting and (waiting_bytes + size > batch_bytes or not chunk.schema.equals(waiting[0].schema)):
            yield _joined(waiting)
            waiting, waiting_bytes = [], 0
        waiting.append(chunk)
        waiting_bytes += size
        if waiting_bytes >= min(batch_bytes // 4, JOINED_BYTES):
            yield _joined(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]
