"""Answers: what a graph gives back, as NumPy arrays with names.

Ids of nodes are int64 arrays, or object arrays of str for types with string ids. Local indices (`edge_index`, `seed_index`) point into the
node arrays of the same answer. Nothing here copies: arrays are those that the answer came with, and may be views of shared memory, which
lives as long as any of them. Values; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from fondaco.graph.queries import Arrays, Ids, StringIds

I64Array: TypeAlias = npt.NDArray[np.int64]
IdArray: TypeAlias = npt.NDArray[Any]
EdgeKey: TypeAlias = tuple[str, str, str]


_SHOWN_MAX = 12  # numbers of an array that are written out; of a longer one, its type and shape


def _in_words(value: object) -> str:
    """An answer as it is printed: its parts with their types and shapes, without what it does not have."""
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and len(value) <= _SHOWN_MAX and value.dtype.kind in "iuf":
            return str(value.tolist())
        return f"{'str' if value.dtype == object else value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_in_words(part)}" for name, part in value.items()) + "}"
    if not isinstance(value, _Answer):
        return repr(value)
    parts = ((part.name, getattr(value, part.name)) for part in fields(value))
    there = [f"{name}={_in_words(part)}" for name, part in parts if part is not None and not (isinstance(part, Mapping) and not part)]
    return f"{type(value).__name__}({', '.join(there)})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Answer:
    def __repr__(self) -> str:
        return _in_words(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SparseColumn(_Answer):
    """Rows of a sparse feature: numbers `values[indptr[i]:indptr[i + 1]]` of row i stand at `indices[...]`; the rest of `shape[1]` is 0."""

    indptr: I64Array
    indices: I64Array
    values: npt.NDArray[Any]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def to_dense(self) -> npt.NDArray[Any]:
        """As one array of `shape`; an index that stands twice in a row is summed."""
        dense = np.zeros(self.shape, self.values.dtype)
        np.add.at(dense, (np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)), self.indices), self.values)
        return dense


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BytesColumn(_Answer, Sequence[bytes]):
    """Rows of a bytes feature, decoded one by one when touched; `data[offsets[i]:offsets[i + 1]]` are those of row i."""

    offsets: I64Array
    data: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> list[bytes]: ...
    def __getitem__(self, row: int | slice) -> bytes | list[bytes]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data, ends = self.data.tobytes(), self.offsets.tolist()
        return (data[ends[i] : ends[i + 1]] for i in range(len(self)))

    def tolist(self) -> list[bytes]:
        """All rows."""
        return list(self)


FeatureColumn: TypeAlias = npt.NDArray[Any] | SparseColumn | BytesColumn


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Subgraph(_Answer):
    """A sampled neighbourhood in a graph of one node type and one edge type: every node once, in the order in which it was found.

    `nodes`: ids; first the seeds (each once), then those found at the first hop, ...: `hop_offsets` int64 [hops + 2] says where each hop
    begins and the last ends, so `nodes[hop_offsets[h]:hop_offsets[h + 1]]` are new at hop h (hop 0: the seeds). `seed_index` int64 [seeds]:
    where each seed as it was given lies in `nodes` (-1: unknown, with on_unknown="pad").
    `edge_index` int64 [2, edges]: row 0 is the source, row 1 the target of the edge as built, as positions in `nodes`. Edges of hop h:
    `edge_hop_offsets[h]` to `[h + 1]`, grouped by the node they were drawn for.
    `edge_ids`, `weights`, `times` (microseconds): one entry an edge, None unless asked for. `features`, `edge_features`: by name, one row a
    node or an edge. `present`, `edge_present`: bool masks of the features that some rows have not (their values are zeros).
    `as_of` int64 [nodes]: the bound each node was reached with, where seeds were given different ones; then a node appears once for each.
    """

    nodes: IdArray
    edge_index: I64Array
    hop_offsets: I64Array
    edge_hop_offsets: I64Array
    seed_index: I64Array
    features: Mapping[str, FeatureColumn]
    version: int
    seed: int
    edge_features: Mapping[str, FeatureColumn] = field(default_factory=dict)
    edge_ids: I64Array | None = None
    weights: npt.NDArray[np.float32] | None = None
    times: I64Array | None = None
    as_of: I64Array | None = None
    present: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    edge_present: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def node_count(self) -> int:
        """Nodes of the subgraph."""
        return len(self.nodes)

    @property
    def edge_count(self) -> int:
        """Edges of the subgraph."""
        return int(self.edge_index.shape[1])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HeteroSubgraph(_Answer):
    """A sampled neighbourhood over several types: as `Subgraph`, each part by node type name or by edge key (source, relation, target).

    Every node type and every edge type that the plan could reach has its entry, if an empty one. `edge_index[key]` row 0 points into
    `nodes[key[0]]`, row 1 into `nodes[key[2]]`. `seed_index` points into `nodes[seed_type]`.
    """

    nodes: Mapping[str, IdArray]
    edge_index: Mapping[EdgeKey, I64Array]
    hop_offsets: Mapping[str, I64Array]
    edge_hop_offsets: Mapping[EdgeKey, I64Array]
    seed_type: str
    seed_index: I64Array
    features: Mapping[str, Mapping[str, FeatureColumn]]
    version: int
    seed: int
    edge_features: Mapping[EdgeKey, Mapping[str, FeatureColumn]] = field(default_factory=dict)
    edge_ids: Mapping[EdgeKey, I64Array] = field(default_factory=dict)
    weights: Mapping[EdgeKey, npt.NDArray[np.float32]] = field(default_factory=dict)
    times: Mapping[EdgeKey, I64Array] = field(default_factory=dict)
    as_of: Mapping[str, I64Array] = field(default_factory=dict)
    present: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]] = field(default_factory=dict)
    edge_present: Mapping[EdgeKey, Mapping[str, npt.NDArray[np.bool_]]] = field(default_factory=dict)

    @property
    def node_count(self) -> int:
        """Nodes of all types."""
        return sum(len(ids) for ids in self.nodes.values())

    @property
    def edge_count(self) -> int:
        """Edges of all types."""
        return sum(int(index.shape[1]) for index in self.edge_index.values())


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Neighbors(_Answer):
    """Neighbours of several nodes, grouped: those of node i are `ids[indptr[i]:indptr[i + 1]]`, `counts[i]` of them."""

    counts: I64Array
    ids: IdArray
    version: int
    seed: int
    edge_ids: I64Array | None = None
    weights: npt.NDArray[np.float32] | None = None
    times: I64Array | None = None

    @property
    def indptr(self) -> I64Array:
        """int64 [n + 1]: where each node's neighbours begin."""
        ends = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=ends[1:])
        return ends

    def padded(self, fill: Any = -1, width: int | None = None) -> IdArray:
        """ids as [n, width] (default: the longest list), the rest `fill`; longer lists are cut."""
        return pad_ragged(self.ids, self.counts, fill, width)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ranked(_Answer):
    """The highest-ranked nodes for each of several nodes, best first: those of node i are `ids[indptr[i]:indptr[i + 1]]`."""

    counts: I64Array
    ids: IdArray
    scores: npt.NDArray[np.float32]
    version: int

    @property
    def indptr(self) -> I64Array:
        """int64 [n + 1]: where each node's list begins."""
        ends = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=ends[1:])
        return ends


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EdgeSample(_Answer):
    """Edges drawn from all of a type: entry i is the edge `edge_ids[i]` from `src[i]` to `dst[i]`; `weights`, if edges have them."""

    src: IdArray
    dst: IdArray
    edge_ids: I64Array
    version: int
    seed: int
    weights: npt.NDArray[np.float32] | None = None


def pad_ragged(values: npt.NDArray[Any], counts: I64Array, fill: Any, width: int | None = None) -> npt.NDArray[Any]:
    """Grouped `values` as one row a group, cut or filled to `width` (default: the longest)."""
    width = int(counts.max(initial=0)) if width is None else width
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.full((len(counts), width), fill, values.dtype)
    kept = columns < width
    padded[rows[kept], columns[kept]] = values[kept]
    return padded


def id_array(ids: Ids) -> IdArray:
    """Ids as users see them: int64, or an object array of str."""
    if not isinstance(ids, StringIds):
        return ids
    data, ends = ids.data.tobytes(), ids.offsets.tolist()
    array = np.empty(len(ends) - 1, object)
    text = data.decode()
    if len(text) == len(data):  # ASCII: positions in bytes are positions in text
        array[:] = [text[start:end] for start, end in pairwise(ends)]
    else:
        array[:] = [data[start:end].decode() for start, end in pairwise(ends)]
    return array


def find_feature(arrays: Arrays, name: str, dimension: int | None) -> FeatureColumn | None:
    """The column called `name` of an answer's arrays, whatever its kind; None if it has none. `dimension`: of a sparse feature."""
    values = arrays.get(name)
    if values is not None:
        return values
    indptr = arrays.get(name + ".indptr")
    if indptr is not None:
        return SparseColumn(indptr, arrays[name + ".indices"], arrays[name + ".values"], (len(indptr) - 1, dimension or 0))
    offsets = arrays.get(name + ".offsets")
    return None if offsets is None else BytesColumn(offsets, arrays[name + ".data"])
