"""Inputs: whatever a push is given becomes a stream of chunks of bounded size.

A chunk is a `pa.RecordBatch` of at most `batch_bytes` (a single larger row excepted), or, where the input is Python mappings, a list of
at most `ROWS_PER_CHUNK` of them that weigh about as much. Taken: Arrow tables, batches, readers, struct arrays, datasets and scanners;
anything with `__arrow_c_stream__` (Polars, DuckDB relations, pandas); DuckDB connections with a result; a dict of arrays; a list or
iterator of mappings, of tables or of batches; an opened `ParquetFile`; paths or `file://` addresses (one, or a list) of Parquet, CSV,
Arrow IPC and Avro files, of a directory of Parquet files, or with wildcards.

Nothing is read ahead: of a file, one batch and the pages it comes from are in memory. Parquet says how many rows follow and not how long
they are, so its batches begin short and at most double, by what the ones before took. A file that changes while it is read fails the push.
One thread reads one input, once.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
from pyarrow import compute

from fondaco.core.errors import DataError, InputError, RowError, SchemaError

Chunk: TypeAlias = pa.RecordBatch | list[Mapping[str, Any]]
Columns: TypeAlias = Callable[[], pa.Schema]

ROWS_PER_CHUNK = 1000
OBJECT_BYTES = 48  # of a small Python object
SAMPLE_PARTS = 64
JOINED_BYTES = 1 << 20  # chunks are joined up to this size; joining larger ones costs more in copies than it saves in calls
PARQUET_ROWS_MAX = 131_072
PARQUET_ROWS_FIRST = 64  # of text that a dictionary holds: each row may be as long as the whole dictionary
PARQUET_BUFFER_BYTES = 1 << 20  # without it pyarrow reads a column's whole share of a row group at once
FILE_SUFFIXES = (".parquet", ".csv", ".arrow", ".arrows", ".ipc", ".feather", ".avro")


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
        return _of_reader("Arrow batches", data, batch_bytes)
    if isinstance(data, (pa.Array, pa.ChunkedArray)):
        return _of_table("Arrow structs", _struct_table(data), batch_bytes)
    if type(data).__module__.partition(".")[0] == "pandas":
        return _open_pandas(data, batch_bytes)
    if hasattr(data, "__arrow_c_stream__"):
        length = len(data) if hasattr(data, "__len__") and type(data).__module__.partition(".")[0] == "polars" else None
        return _of_reader(type(data).__name__, pa.RecordBatchReader.from_stream(data), batch_bytes, length)
    for name in ("to_arrow_reader", "fetch_record_batch"):  # a DuckDB connection, old or new, holds the result of its last statement
        if callable(getattr(data, name, None)):
            with warnings.catch_warnings():  # DuckDB advises con.sql() to those who call this themselves; a push's caller did not
                warnings.filterwarnings("ignore", "Arrow output on a DB-API result")
                reader = getattr(data, name)(65_536)
            return _of_reader("DuckDB result", reader, batch_bytes)
    kind = type(data).__module__.partition(".")[0], type(data).__name__
    if kind == ("pyarrow", "ParquetFile"):
        return _of_parquet("ParquetFile", data, batch_bytes)
    if kind[0] == "pyarrow" and (kind[1].endswith("Dataset") or kind[1] == "Scanner"):
        return _open_dataset(data, batch_bytes)
    if isinstance(data, np.ndarray) and data.dtype.names:
        data = {name: data[name] for name in data.dtype.names}
    if isinstance(data, Mapping):
        if data and all(isinstance(row, Mapping) for row in data.values()):
            raise InputError(
                "cannot tell a dict of keys and rows from a dict of columns; push a list of rows: [{'key': key, **row} for key, row in "
                "rows.items()]"
            )
        return _of_table("columns", _table(data, columns), batch_bytes) if data else Input("nothing", None, 0, iter(()))
    if isinstance(data, Iterable):
        return _open_iterable(data, batch_bytes, columns)
    raise _not_readable(data)


def _not_readable(data: object) -> InputError:
    name = f"{type(data).__module__}.{type(data).__qualname__}"
    hint = ""
    if callable(getattr(data, "collect", None)):
        hint = " (collect() a lazy frame first, or sink_parquet() it and push the file)"
    elif isinstance(data, bytes) or callable(getattr(data, "read", None)):
        hint = " (of an opened file give the path)"
    elif isinstance(data, (tuple, list)):
        hint = " (rows are dicts: their columns need names)"
    return InputError(
        f"cannot read rows from a {name}{hint}; give an Arrow, pandas or Polars table, a DuckDB relation, batches, a list of dicts, "
        f"a dict of columns, or the path of a {', '.join(FILE_SUFFIXES)} file"
    )


# -- in memory ----------------------------------------------------------------------------------------------------------------------


def _of_table(source: str, table: pa.Table, batch_bytes: int) -> Input:
    def sample(sample_bytes: int) -> Iterator[Chunk]:
        rows = table.num_rows * sample_bytes // max(sum(map(_size, table.to_batches())), 1)
        if rows >= table.num_rows:
            yield from _sliced(table.to_batches(), batch_bytes)
            return
        parts = min(SAMPLE_PARTS, max(rows, 1))
        taken = 0
        for part in range(parts):  # data often lies in order: its head alone may be of one kind
            if taken > sample_bytes:  # these parts have longer rows than the others
                return
            for chunk in _sliced(table.slice(part * table.num_rows // parts, max(rows // parts, 1)).to_batches(), batch_bytes):
                taken += _size(chunk)
                yield chunk

    return Input(source, _plain_schema(table.schema), table.num_rows, _sliced(table.to_batches(), batch_bytes), sample=sample)


def _of_reader(source: str, reader: pa.RecordBatchReader, batch_bytes: int, row_count: int | None = None) -> Input:
    return Input(source, _plain_schema(reader.schema), row_count, _sliced(reader, batch_bytes))


def _struct_table(data: pa.Array | pa.ChunkedArray) -> pa.Table:
    if not pa.types.is_struct(data.type):
        raise InputError(f"cannot read rows from an Arrow array of {data.type}; only one of structs has columns")
    if data.null_count:
        raise InputError(f"{data.null_count} of the structs are null; a row is never null: drop_null() first")
    chunks = data.chunks if isinstance(data, pa.ChunkedArray) else [data]
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(chunk) for chunk in chunks], pa.schema(list(data.type)))


def _open_dataset(data: Any, batch_bytes: int) -> Input:
    if hasattr(data, "scanner"):  # a dataset's own reader takes 131,072 rows at a time and 16 such batches ahead, whatever they weigh
        data = data.scanner(batch_size=min(PARQUET_ROWS_MAX, max(batch_bytes // 1024, 1)), batch_readahead=1, fragment_readahead=1)
    return _of_reader("Arrow dataset", data.to_reader(), batch_bytes)


def _open_pandas(data: Any, batch_bytes: int) -> Input:
    if not hasattr(data, "columns"):
        raise _not_readable(data)
    try:
        # preserve_index: an index that counts, such as that of set_index("key") over 0, 1, 2, would else be metadata only
        table = pa.Table.from_pandas(data, preserve_index=True)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InputError(f"cannot make columns of this DataFrame: {exc}; give each column one type, with astype()") from exc
    # An index that has a name may be a key; one without is only pandas' row labels.
    table = table.select([name for name in table.schema.names if not name.startswith("__index_level_")])
    return _of_table("pandas DataFrame", table.replace_schema_metadata(), batch_bytes)


def _table(data: Mapping[Any, Any], columns: Columns | None) -> pa.Table:
    expected = columns() if columns is not None and any(map(_is_bfloat16, data.values())) else pa.schema([])
    try:
        return pa.table({str(name): _column(values, _type_of(expected, str(name))) for name, values in data.items()})
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InputError(f"cannot make a table of this dict of columns: {exc}") from exc


def _is_bfloat16(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.name == "bfloat16"


def _column(values: Any, expected: str | None) -> Any:
    if _is_bfloat16(values):  # Arrow has no such type: the store's vectors take the bits as uint16, anything else the numbers
        values = values.view(np.uint16) if expected is not None and "uint16" in expected else values.astype(np.float32)
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
        return Input("mappings", None, length, _row_chunks(rest, batch_bytes))
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


def _row_chunks(rows: Iterable[Any], batch_bytes: int) -> Iterator[Chunk]:
    chunk: list[Any] = []
    chunk_bytes = 0
    for row in rows:
        row_bytes = _weight(row)
        if chunk and (chunk_bytes + row_bytes > batch_bytes or len(chunk) == ROWS_PER_CHUNK):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append(row)
        chunk_bytes += row_bytes
        del row
    if chunk:
        yield chunk


_SMALL = frozenset({int, float, bool, type(None)})


def _weight(value: Any) -> int:
    """Bytes of a Python value, roughly: what can be long is measured, anything else counts as an object."""
    kind = type(value)
    if kind in _SMALL:  # asked first, and by the exact type: this runs for every value of every row
        return OBJECT_BYTES
    if kind is str or isinstance(value, (str, bytes, bytearray)):
        return OBJECT_BYTES + len(value)
    if kind is dict or isinstance(value, Mapping):
        return OBJECT_BYTES + sum(map(_weight, value.values())) + OBJECT_BYTES * len(value)
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], (int, float)):  # a vector: 1,000 numbers one by one would cost as much as to encode them
            return OBJECT_BYTES * (1 + len(value))
        return OBJECT_BYTES + sum(map(_weight, value))
    return OBJECT_BYTES + int(getattr(value, "nbytes", 0))


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
        rows = 0
        for number, file in enumerate(files):
            rows_before = rows
            try:
                opened = head if number == 0 else open_one(file)
                _check_same_schema(head.schema, opened.schema, file)
                for chunk in opened.chunks:
                    rows += len(chunk)
                    yield chunk
                    del chunk
            except RowError as exc:
                raise RowError(rows_before + (exc.row or 0), exc.field, exc.value, exc.expected) from exc
            except (pa.ArrowInvalid, OSError) as exc:
                raise DataError(f"{file} cannot be read: {exc}") from exc

    row_count = head.row_count if len(files) == 1 else None
    source = files[0] if len(files) == 1 else f"{len(files)} files from {files[0]} to {files[-1]}"
    return Input(source, head.schema, row_count, chunks(), fingerprints)


def _files(path: str) -> list[str]:
    scheme, separator, _ = path.partition("://")
    if separator and not os.path.exists(path):
        if scheme != "file":
            raise InputError(f"{path}: only files of this machine are opened by name; push pyarrow.dataset.dataset({path!r}) instead")
        path = unquote(urlsplit(path).path)
    path = os.path.expanduser(path)
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
        if Path(file).suffix.lower() not in FILE_SUFFIXES:
            raise InputError(f"{file}: the ending says what a file holds; known are {', '.join(FILE_SUFFIXES)}")
    return found


def _fingerprint(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def _open_parquet(path: str, batch_bytes: int, columns: Columns | None) -> Input:
    from pyarrow import parquet

    return _of_parquet(path, parquet.ParquetFile(path, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False), batch_bytes)


def _of_parquet(source: str, file: Any, batch_bytes: int) -> Input:
    def chunks() -> Iterator[Chunk]:
        with contextlib.closing(file):
            yield from _sliced(_parquet_batches(file, batch_bytes), batch_bytes)

    return Input(source, file.schema_arrow.remove_metadata(), file.metadata.num_rows, chunks())


def _parquet_batches(file: Any, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """Batches of about `batch_bytes` in Arrow memory.

    What a file says of its sizes is how columns are stored. A text that a dictionary holds once may come a thousand times: 600 rows of one
    1 MiB text are 1 MiB in the file and 600 MiB in Arrow. So the rows of a batch follow from what the batch before it took.
    """
    metadata = file.metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=1)
    rows_max = min(max(batch_bytes // max(widest, 1), 1), PARQUET_ROWS_MAX)
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    dictionary_bytes = max((c.total_uncompressed_size for c in columns if _in_dictionary(c)), default=0)
    rows = rows_max if dictionary_bytes == 0 else min(rows_max, max(1, min(batch_bytes // dictionary_bytes, PARQUET_ROWS_FIRST)))
    for batch in file.iter_batches(batch_size=rows):
        wide = _size(batch) // max(batch.num_rows, 1)
        yield batch
        del batch
        rows = max(1, min(2 * rows, rows_max, batch_bytes // max(wide, 1)))
        file.reader.set_batch_size(rows)  # the reader asks for it before each batch


def _in_dictionary(column: Any) -> bool:
    return column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") and bool(
        {"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & {*column.encodings}
    )


def _open_csv(path: str, batch_bytes: int, columns: Columns | None) -> Input:
    from pyarrow import csv

    known = columns() if columns is not None else pa.schema([])
    expected = {name: kind for name, kind in zip(known.names, known.types, strict=True) if _in_csv(kind)}
    read_options = csv.ReadOptions(block_size=min(batch_bytes, 4 << 20))

    def open_with(types: Mapping[str, pa.DataType]) -> Any:
        # Only an empty cell is a null. "NA" is also a country, an airline and a word; in a column of numbers it is refused by name.
        convert_options = csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        return csv.open_csv(path, read_options=read_options, convert_options=convert_options)

    @contextlib.contextmanager
    def cells_named() -> Iterator[None]:
        try:
            yield
        except pa.ArrowInvalid as exc:
            found = _WRONG_CELL.search(str(exc))
            if found is None:
                raise
            raise _wrong_cell(open_with, int(found[1]), found[2], found[3], expected) from exc

    with cells_named():
        reader = open_with(expected)

    def chunks() -> Iterator[Chunk]:
        with reader, cells_named():
            yield from _sliced(reader, batch_bytes)

    return Input(path, reader.schema, None, chunks())


_WRONG_CELL = re.compile(r"In CSV column #(\d+): .*CSV conversion error to ([^:]+): invalid value '(.*)'", re.DOTALL)


def _wrong_cell(
    open_with: Callable[[Mapping[str, pa.DataType]], Any], column: int, kind: str, value: str, expected: Mapping[str, Any]
) -> RowError:
    """Where the cell is: Arrow names a column by number and no row, so the file is read once more as text, up to that cell."""
    row = 0
    with open_with({}) as reader:
        names = reader.schema.names
    name = names[column]
    with open_with(dict.fromkeys([*names, *expected], pa.string())) as reader:
        for batch in reader:
            cells = batch.column(column).to_pylist()
            near = next(
                (at for at, cell in enumerate(cells) if cell is not None and (cell == value or cell.strip() == value.strip())), None
            )
            if near is not None:
                row += near
                break
            row += batch.num_rows
    return RowError(row, name, repr(value), f"a cell that reads as {kind}")


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
        return Input(path, _plain_schema(stream.schema), None, _closing(source, _sliced(stream, batch_bytes)))
    batches = (file.get_batch(index) for index in range(file.num_record_batches))
    return Input(path, _plain_schema(file.schema), None, _closing(source, _sliced(batches, batch_bytes)))


def _open_avro(path: str, batch_bytes: int, columns: Columns | None) -> Input:
    from fondaco.schema.container import AvroFile

    file = AvroFile(path)
    try:
        schema = file.arrow_schema
    except SchemaError:  # rows that Arrow has no columns for: a record inside itself
        return Input(path, None, None, _closing(file, _row_chunks(file, batch_bytes)))
    return Input(path, schema, None, _closing(file, _sliced(file.batches(batch_bytes // 2), batch_bytes)))


def _closing(source: Any, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    with contextlib.closing(source):
        yield from chunks


# -- sizes --------------------------------------------------------------------------------------------------------------------------


def _size(batch: pa.RecordBatch) -> int:
    """Bytes of a batch in Arrow memory; text in dictionaries counts as often as it comes, because it is encoded so."""
    try:
        size = int(batch.nbytes)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):  # string views and the like: what the buffers hold, an upper bound
        size = int(batch.get_total_buffer_size())
    return size + sum(_unpacked_bytes(column) for column in batch.columns if pa.types.is_dictionary(column.type))


def _unpacked_bytes(column: pa.DictionaryArray) -> int:
    if not (_is_text_like(column.type.value_type) and len(column.dictionary)):
        return 0
    lengths = compute.cast(compute.binary_length(column.dictionary), pa.int64())
    return int(compute.sum(lengths.take(column.indices)).as_py() or 0)


def _is_text_like(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary))


def _sliced(batches: Iterable[pa.RecordBatch], batch_bytes: int) -> Iterator[pa.RecordBatch]:
    for given in batches:
        batch = _plain_batch(given)
        rows = max(1, batch.num_rows * batch_bytes // max(_size(batch), 1))
        for start in range(0, batch.num_rows, rows):
            yield from _halved(batch.slice(start, rows), batch_bytes)
        del batch, given  # before the next one is read


def _halved(batch: pa.RecordBatch, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """The batch, cut as long as its parts are far above the bound: long rows often lie together."""
    if batch.num_rows == 1 or _size(batch) <= 2 * batch_bytes:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from _halved(batch.slice(0, middle), batch_bytes)
    yield from _halved(batch.slice(middle), batch_bytes)


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with dictionaries of views (Polars' categories) as dictionaries of text, which Arrow can join and convert."""
    for index, member in enumerate(schema):
        if pa.types.is_dictionary(member.type) and member.type.value_type in (pa.string_view(), pa.binary_view()):
            large = pa.large_string() if member.type.value_type == pa.string_view() else pa.large_binary()
            schema = schema.set(index, pa.field(member.name, pa.dictionary(member.type.index_type, large), member.nullable))
    return schema


def _plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = _plain_schema(batch.schema)
    if schema is batch.schema or schema == batch.schema:
        return batch
    arrays = [
        array if array.type == kind else pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(kind.value_type))
        for array, kind in zip(batch.columns, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _merged(chunks: Iterator[Chunk], batch_bytes: int) -> Iterator[Chunk]:
    """Join chunks far below the bound: each costs some 0.2 ms in kernels and writes, however few rows it has."""
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    for chunk in chunks:
        if isinstance(chunk, list):
            yield chunk
            del chunk
            continue
        size = _size(chunk)
        if waiting and (waiting_bytes + size > batch_bytes or not chunk.schema.equals(waiting[0].schema)):
            yield _joined(waiting)
            waiting, waiting_bytes = [], 0
        waiting.append(chunk)
        waiting_bytes += size
        del chunk
        if waiting_bytes >= min(batch_bytes // 4, JOINED_BYTES):
            yield _joined(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]
