r"""Convert DeepGNN: its EdgeList and JSON text files become Parquet tables that `platform.build_graph` takes.

    platform.build_graph("cora", **fd.graph.from_deepgnn("cora.csv", "tables/"))

EdgeList: a line a node, `id,-1,type,weight,features...`, or an edge, `src,type,dst,weight,features...`; a feature is
`dtype,length,values...`, or `dtype,count/dim,coordinates...,values...` for a sparse one. What `EdgeListFormat` gives as a default is not in
the lines. JSON: an object a line, a node with its edges. (DeepGNN describes both in its graph_engine/snark/decoders.py. Its TSV format is
not read.)

Numbers become names: node type 0 is `node_0`, edge type 1 the relation `edge_1`, feature 2 is `feature_2`; `fondaco.graph.deepgnn` finds
the numbers again. An edge type that joins several node types becomes as many edge types. Here lines may come in any order. A feature has
one type and one length per node or edge type; where DeepGNN lets them differ, the line, or the row of its table, is refused.

Python reads the lines one by one. They wait in batches and go to Parquet, so files may be larger than memory, but for 20 bytes a node.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import GraphBuildError, InputError
from fondaco.core.files import os_errors
from fondaco.graph.build.importers import GraphTables
from fondaco.graph.inputs import Edges, Nodes

if TYPE_CHECKING:
    import pyarrow as pa

    from fondaco.graph.schema import EdgeKey

LINES_PER_BATCH = 65_536
_UNITS_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
_JSON_DTYPES = {"double": "float64", "float": "float32"}

Value: TypeAlias = Any
"""A feature as it was read: (kind, dtype, what `pa.array` takes), or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeListFormat:
    """What the lines of an EdgeList leave out, and how they are written; named as for DeepGNN's `EdgeListDecoder`."""

    default_node_type: int | None = None
    default_edge_type: int | None = None
    default_node_weight: float | None = None
    default_edge_weight: float | None = None
    default_node_feature_types: Sequence[str | None] = ()
    default_edge_feature_types: Sequence[str | None] = ()
    default_node_feature_lens: Sequence[Sequence[int] | None] = ()
    default_edge_feature_lens: Sequence[Sequence[int] | None] = ()
    delimiter: str = ","
    length_delimiter: str = "/"
    binary_escape: str = "\\"
    default_created_at: int | None = None
    default_removed_at: int | None = None
    is_temporal: bool = False


@dataclass(slots=True)
class _Row:
    """A node (dst is None) or an edge."""

    src: int
    dst: int | None
    type: int
    weight: float
    created: int | None
    features: list[Value] = field(default_factory=list)


def from_deepgnn(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    directory: str | os.PathLike[str],
    *,
    format: Literal["edgelist", "json"] | None = None,
    edge_list: EdgeListFormat | None = None,
    time_unit: Literal["s", "ms", "us"] = "s",
    missing: str | None = None,
) -> GraphTables:
    """Convert text files of DeepGNN; returns the tables, which lie in `directory` as Parquet.

    Args:
        source: a file, or several. directory: made if need be; may not hold Parquet files.
        format: None: "json" for files ending in .json or .jsonl, else "edgelist". edge_list: how its lines are written.
        time_unit: of `created_at`, which becomes the time. Data with `removed_at` is refused.
        missing: name of the node type of ids that edges name and no line declares; None: such an edge is refused.
    Raises:
        GraphBuildError: a line that cannot be taken: file, line (from 0) and why. InputError: no such file, or nothing in it.
    """
    files = [os.fspath(source)] if isinstance(source, (str, os.PathLike)) else [os.fspath(file) for file in source]
    if time_unit not in _UNITS_US:
        raise InputError(f'time_unit is "s", "ms" or "us", not {time_unit!r}')
    target = Path(directory)
    with os_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    if any(target.glob("*.parquet")):
        raise InputError(f"{target} holds Parquet files already; give a folder of its own")
    converter = _Converter(target, _UNITS_US[time_unit], missing)
    with converter:
        for file in files:
            if not os.path.isfile(file):
                raise InputError(f"there is no file {file}")
            as_json = format == "json" if format else Path(file).suffix.lower() in (".json", ".jsonl")
            parse = _JsonParser() if as_json else _EdgeListParser(edge_list or EdgeListFormat())
            converter.read(file, parse)
        return converter.tables()


# -- lines --------------------------------------------------------------------------------------------------------------------------


class _EdgeListParser:
    def __init__(self, given: EdgeListFormat) -> None:
        self._given = given

    def __call__(self, line: str) -> Iterator[_Row]:
        given = self._given
        fields = line.split(given.delimiter)
        is_node = int(fields[1]) == -1
        at = 2
        kind = given.default_node_type if is_node else given.default_edge_type
        dst: int | None = None if is_node else int(fields[1])
        if kind is None:
            if is_node:
                kind = int(fields[2])
            else:
                kind, dst = int(fields[1]), int(fields[2])
            at = 3
        weight = given.default_node_weight if is_node else given.default_edge_weight
        if weight is None:
            weight, at = float(fields[at]), at + 1
        created: int | None = given.default_created_at
        if given.is_temporal:
            removed = given.default_removed_at
            if created is None:
                created, at = int(fields[at]), at + 1
            if removed is None:
                removed, at = int(fields[at]), at + 1
            _check_not_removed(removed)
        row = _Row(int(fields[0]), dst, kind, weight, created)
        types = given.default_node_feature_types if is_node else given.default_edge_feature_types
        lengths = given.default_node_feature_lens if is_node else given.default_edge_feature_lens
        while True:
            number = len(row.features)
            dtype = types[number] if number < len(types) else None
            if dtype is None:
                if at >= len(fields) or not fields[at].strip():
                    break
                dtype, at = fields[at].strip(), at + 1
            length = lengths[number] if number < len(lengths) else None
            if length is None:
                length, at = [int(part) for part in fields[at].split(given.length_delimiter)], at + 1
            value, at = self._feature(dtype, length, fields, at)
            row.features.append(value)
        yield row

    def _feature(self, dtype: str, length: Sequence[int], fields: list[str], at: int) -> tuple[Value, int]:
        count = length[0]
        if not count:
            return None, at
        if len(length) > 1:
            if length[1] > 1:
                raise ValueError(f"a sparse feature with {length[1]} coordinates a value; only one is stored")
            indices, values = fields[at : at + count], fields[at + count : at + 2 * count]
            return _sparse(dtype, indices, _cells(values, count)), at + 2 * count
        if dtype == "binary" and count == 1:
            text, at = fields[at], at + 1
            escape = self._given.binary_escape
            while text.replace(escape + escape, "").endswith(escape) and at < len(fields):
                text, at = text[: -len(escape)] + self._given.delimiter + fields[at], at + 1
            return ("binary", "", text.encode()), at
        return _dense(dtype, _cells(fields[at : at + count], count)), at + count


class _JsonParser:
    def __call__(self, line: str) -> Iterator[_Row]:
        node = json.loads(line)
        if not isinstance(node, Mapping) or not all(isinstance(edge, Mapping) for edge in node.get("edge") or ()):
            raise ValueError("a line is one JSON object, a node, and so is each of its edges")
        _check_not_removed(node.get("removed_at"))
        created = node.get("created_at")
        yield _Row(int(node["node_id"]), None, int(node["node_type"]), float(node["node_weight"]), created, self._features(node))
        for edge in node.get("edge") or ():
            _check_not_removed(edge.get("removed_at"))
            ends = int(edge["src_id"]), int(edge["dst_id"])
            when = edge.get("created_at", created)
            yield _Row(*ends, int(edge["edge_type"]), float(edge["weight"]), when, self._features(edge))

    def _features(self, item: Mapping[str, Any]) -> list[Value]:
        found: list[Value] = []
        for key, values in item.items():
            if values is None or not key.endswith("_feature"):
                continue
            name = key.removesuffix("_feature").removeprefix("sparse_")
            dtype = _JSON_DTYPES.get(name, name)
            for number, value in values.items():
                found += [None] * (int(number) + 1 - len(found))
                if isinstance(value, list) and value and isinstance(value[0], dict):
                    raise ValueError(f"feature {number} changes with time; only its value now can be stored")
                if key.startswith("sparse_"):
                    found[int(number)] = _sparse(dtype, np.ravel(value["coordinates"]), value["values"])
                elif name == "binary":
                    found[int(number)] = ("binary", "", str(value).encode())
                elif value:
                    found[int(number)] = _dense(dtype, value)
        return found


def _cells(cells: list[str], count: int) -> list[str]:
    if len(cells) < count:
        raise ValueError(f"the line ends {count - len(cells)} values too early")
    return cells


def _dense(dtype: str, values: Sequence[Any]) -> Value:
    return "dense", dtype, _numbers(dtype, values)


def _sparse(dtype: str, indices: Sequence[Any] | npt.NDArray[Any], values: Sequence[Any]) -> Value:
    numbers = _numbers(dtype, values).tolist()
    if len(indices) != len(numbers):
        raise ValueError(f"a sparse feature of {len(indices)} coordinates and {len(numbers)} values")
    return "sparse", dtype, [{"index": int(index), "value": value} for index, value in zip(indices, numbers, strict=True)]


def _numbers(dtype: str, values: Sequence[Any]) -> npt.NDArray[Any]:
    if dtype == "bool":
        return np.array([str(value).strip().lower() in ("1", "true") for value in values])
    if np.dtype(dtype).kind not in "iuf":
        raise ValueError(f"a feature cannot be {dtype!r}")
    return np.array(values).astype(dtype)


def _check_not_removed(removed: int | None) -> None:
    if removed is not None and removed != -1:
        raise ValueError(f"removed_at={removed}: what was removed is not stored; leave the line out, or build a version per moment")


# -- tables -------------------------------------------------------------------------------------------------------------------------


class _Group:
    """Lines of one node type, or of one edge type, in parts."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self.rows: list[_Row] = []
        self.lines: list[int] = []
        self.files: list[int] = []
        self.kinds: dict[int, tuple[str, str]] = {}  # by number of the feature
        self.timed: bool | None = None
        self.parts: list[Path] = []

    def check(self, row: _Row) -> None:
        """Raises ValueError: the row is unlike those before it."""
        for number, value in enumerate(row.features):
            if value is not None and self.kinds.setdefault(number, value[:2]) != value[:2]:
                was, now = (" ".join(kind).strip() for kind in (self.kinds[number], value[:2]))
                raise ValueError(f"feature {number} is {now}, and was {was} before")
        timed = row.created is not None
        if self.timed is None:
            self.timed = timed
        elif self.timed != timed:
            raise ValueError("some lines have created_at, and some have not")

    def flush(self, unit_us: int) -> None:
        """Write the rows that wait as a part."""
        import pyarrow as pa
        from pyarrow import parquet

        if not self.rows:
            return
        columns: dict[str, Any] = {"src": pa.array([row.src for row in self.rows], pa.int64())}
        if self.rows[0].dst is not None:
            columns["dst"] = pa.array([row.dst for row in self.rows], pa.int64())
        columns["weight"] = pa.array([row.weight for row in self.rows], pa.float64())
        if self.timed:
            columns["time"] = pa.array([(row.created or 0) * unit_us for row in self.rows], pa.int64())
        columns["line"], columns["file"] = pa.array(self.lines, pa.int64()), pa.array(self.files, pa.int32())
        for number in sorted(self.kinds):
            values = [row.features[number] if number < len(row.features) else None for row in self.rows]
            columns[f"feature_{number}"] = pa.array([value and value[2] for value in values], _arrow_type(*self.kinds[number]))
        self.parts.append(self._directory / f".{self._name}-{len(self.parts)}.part")
        with os_errors(self.parts[-1]):
            parquet.write_table(pa.table(columns), self.parts[-1], compression="lz4")
        self.rows, self.lines, self.files = [], [], []

    def tables(self) -> Iterator[pa.Table]:
        """The parts, all with the same columns."""
        import pyarrow as pa
        from pyarrow import parquet

        for part in self.parts:
            table = parquet.read_table(part)
            for number in sorted(self.kinds):
                name = f"feature_{number}"
                if name not in table.column_names:
                    table = table.append_column(name, pa.nulls(len(table), _arrow_type(*self.kinds[number])))
            names = [name for name in table.column_names if not name.startswith("feature_")]
            yield table.select([*names, *(f"feature_{number}" for number in sorted(self.kinds))])


class _Converter:
    def __init__(self, directory: Path, unit_us: int, missing: str | None) -> None:
        self._directory, self._unit_us, self._missing = directory, unit_us, missing
        self._nodes: dict[int, _Group] = {}
        self._edges: dict[int, _Group] = {}
        self._files: list[str] = []
        self._waiting = 0

    def __enter__(self) -> _Converter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: object) -> None:
        for group in (*self._nodes.values(), *self._edges.values()):
            for part in group.parts:
                part.unlink(missing_ok=True)
        if kind is not None:
            for file in self._directory.glob("*.parquet"):
                file.unlink()

    def read(self, path: str, parse: _EdgeListParser | _JsonParser) -> None:
        """Take all lines of a file."""
        self._files.append(path)
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                text = line.rstrip("\r\n")
                if not text:
                    continue
                try:
                    for row in parse(text):
                        self._take(row, number)
                except (ValueError, LookupError, TypeError, OverflowError) as exc:
                    reason = (
                        f"no field {exc}" if isinstance(exc, KeyError) else "the line ends early" if isinstance(exc, IndexError) else exc
                    )
                    raise GraphBuildError(path, number, None, f"{reason}, in {text[:80]!r}") from exc
        self._flush()

    def tables(self) -> GraphTables:
        """Write the tables."""
        if not self._nodes:
            raise InputError(f"no nodes in {', '.join(self._files)}")
        nodes: dict[str, object] = {}
        ids, types = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        for number in sorted(self._nodes):
            group, name = self._nodes[number], f"node_{number}"
            path = self._directory / f"{name}.parquet"
            with _Writers() as writers:
                for table in group.tables():
                    ids.append(table["src"].to_numpy())
                    types.append(np.full(len(table), number, np.int32))
                    writers.write(path, table.drop_columns(["line", "file"]).rename_columns({"src": "id"}))
            nodes[name] = Nodes(path, "id")
        if self._missing is not None:
            nodes[self._missing] = None
        known = np.concatenate(ids)
        order = np.argsort(known, kind="stable")
        edges = self._edge_tables(known[order], np.concatenate(types)[order])
        if self._missing is not None and not any(self._missing in key for key in edges):
            del nodes[self._missing]
        return {"nodes": nodes, "edges": edges, "undirected": False}

    def _edge_tables(self, known: npt.NDArray[np.int64], types: npt.NDArray[np.int32]) -> dict[EdgeKey, object]:
        edges: dict[EdgeKey, object] = {}
        with _Writers() as writers:
            for number in sorted(self._edges):
                for table in self._edges[number].tables():
                    ends = [self._type_of(table, side, known, types) for side in ("src", "dst")]
                    for pair in sorted({*zip(ends[0].tolist(), ends[1].tolist(), strict=True)}):
                        key = (self._name(pair[0]), f"edge_{number}", self._name(pair[1]))
                        path = self._directory / f"{'-'.join(key)}.parquet"
                        rows = table.filter((ends[0] == pair[0]) & (ends[1] == pair[1]))
                        writers.write(path, rows.drop_columns(["line", "file"]))
                        edges[key] = Edges(path, "src", "dst")
        return edges

    def _type_of(self, table: pa.Table, side: str, known: npt.NDArray[np.int64], types: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The node type of each end; -1: no line declares the node."""
        ids = table[side].to_numpy()
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        there = known[at] == ids
        if not there.all() and self._missing is None:
            row = int(np.argmin(there))
            file = self._files[table["file"][row].as_py()]
            reason = f"there is no line for node {ids[row]}; add it, or name a type for such nodes: missing='other'"
            raise GraphBuildError(file, table["line"][row].as_py(), side, reason)
        return np.where(there, types[at], -1).astype(np.int32)

    def _name(self, number: int) -> str:
        return f"node_{number}" if number >= 0 else str(self._missing)

    def _take(self, row: _Row, line: int) -> None:
        groups, noun = (self._nodes, "node") if row.dst is None else (self._edges, "edge")
        group = groups.get(row.type)
        if group is None:
            group = groups[row.type] = _Group(self._directory, f"{noun}_{row.type}")
        group.check(row)
        group.rows.append(row)
        group.lines.append(line)
        group.files.append(len(self._files) - 1)
        self._waiting += 1
        if self._waiting >= LINES_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        for group in (*self._nodes.values(), *self._edges.values()):
            group.flush(self._unit_us)
        self._waiting = 0


def _told(exc: Exception) -> str:
    if isinstance(exc, KeyError):
        return f"no field {exc}"
    return "the line ends early" if isinstance(exc, IndexError) else str(exc)


class _Writers(contextlib.ExitStack):
    """Parquet files that are written table by table."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[Path, Any] = {}

    def write(self, path: Path, table: pa.Table) -> None:
        """Put a table behind those that are in the file."""
        from pyarrow import parquet

        with os_errors(path):
            if path not in self._open:
                self._open[path] = self.enter_context(parquet.ParquetWriter(path, table.schema))
            self._open[path].write_table(table)


def _arrow_type(kind: str, dtype: str) -> pa.DataType:
    import pyarrow as pa

    if kind == "binary":
        return pa.binary()
    number = pa.from_numpy_dtype(np.dtype(dtype))
    return pa.list_(number) if kind == "dense" else pa.list_(pa.struct([("index", pa.int64()), ("value", number)]))
