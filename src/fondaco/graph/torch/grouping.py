"""Grouped batches: seeds that share neighbours go into one batch, so that fewer distinct nodes are sampled and gathered.

LiGNN groups the examples of a batch for the same reason (Borisyuk et al. 2024, arXiv:2402.11139); how is ours. Communities are found by
label propagation (Raghavan, Albert, Kumara 2007) on what is cheap to ask for: the seeds, and a sample of each one's neighbours. Seeds and
neighbours adopt in turn the label that most of the others around them have; `ROUNDS` later the seeds are ordered by label, within a label
by the smallest hash among their neighbours, and this order is cut into blocks. An epoch shuffles the blocks, not the seeds.

Larger blocks share more and mix less: gradients of one batch come from fewer corners of the graph. What it saves depends on the graph:
much where it has communities, next to nothing elsewhere (benchmarks/graph_loader.py). O(seeds x NEIGHBORS) memory, a few sorts of it in
time, once. A function of (graph version, seeds) alone.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph.answers import HeteroSubgraph, Subgraph
from fondaco.graph.graph import Graph
from fondaco.graph.schema import Direction
from fondaco.graph.torch.counters import mixed_array
from fondaco.graph.torch.plan import Groups

GROUP_SIZE: Final = 64
NEIGHBORS: Final = 25
ROUNDS: Final = 6
_AT_ONCE: Final = 1 << 15

_Index = npt.NDArray[np.int64]
_EMPTY: Final[_Index] = np.empty(0, np.int64)


def groups_of(graph: Graph, ids: npt.NDArray[Any], node_type: str, direction: Direction, size: int = GROUP_SIZE) -> Groups:
    """The order of the seeds `ids` in which neighbours share neighbours, in blocks of `size`.

    Raises:
        InputError: size below 1. And what the graph raises.
    """
    if size < 1:
        raise InputError(f"a group has at least one seed; group={size}")
    rows, columns, hashes = _neighborhoods(graph, ids, node_type, direction)
    labels = _propagated(rows, columns, len(ids), hashes)
    least = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(least, rows, hashes[columns])
    return Groups(np.lexsort((least, labels)), size)


def _neighborhoods(graph: Graph, ids: npt.NDArray[Any], node_type: str, direction: Direction) -> tuple[_Index, _Index, _Index]:
    """Pairs (seed, node that it has as a sampled neighbour, or that it is): int64 rows and columns; and a hash of each column's node."""
    pairs: dict[str, list[tuple[_Index, npt.NDArray[Any]]]] = {}
    for start in range(0, len(ids), _AT_ONCE):
        chunk = ids[start : start + _AT_ONCE]
        subgraph = graph.sample(chunk, [NEIGHBORS], node_type=node_type, direction=direction, edge_ids=False, on_unknown="pad")
        place = np.full(len(chunk) + 1, len(chunk), np.int64)  # of a seed among the chunk; the first, where it repeats
        np.minimum.at(place, subgraph.seed_index, np.arange(len(chunk)))
        for kind, seeds, neighbors in _sampled(subgraph, node_type, direction):
            pairs.setdefault(kind, []).append((start + place[seeds], neighbors))
        pairs.setdefault(node_type, []).append((np.arange(start, start + len(chunk)), chunk))
    rows, columns, hashes = [_EMPTY], [_EMPTY], [_EMPTY]
    for kind, of_kind in sorted(pairs.items()):
        nodes, inverse = np.unique(np.concatenate([neighbors for _, neighbors in of_kind]), return_inverse=True)
        rows.append(np.concatenate([seeds for seeds, _ in of_kind]))
        columns.append(inverse + sum(map(len, hashes)))
        hashes.append(_hashed(nodes, zlib.crc32(kind.encode())))
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(hashes)


def _sampled(subgraph: Subgraph | HeteroSubgraph, node_type: str, direction: Direction) -> Iterator[tuple[str, _Index, npt.NDArray[Any]]]:
    """Of each edge type: its neighbours' node type, the seeds they were drawn for (local), and the neighbours' ids."""
    near, far = (0, 1) if direction == "out" else (1, 0)
    if isinstance(subgraph, Subgraph):
        yield node_type, subgraph.edge_index[near], subgraph.nodes[subgraph.edge_index[far]]
        return
    for key, index in subgraph.edge_index.items():
        if key[2 * near] == node_type:
            yield key[2 * far], index[near], subgraph.nodes[key[2 * far]][index[far]]


def _propagated(rows: _Index, columns: _Index, row_count: int, tie: _Index) -> _Index:
    """Labels of the rows, after labels went to and fro between rows and columns: int64 [rows]. Of equal numbers the smallest `tie` wins."""
    labels = np.arange(len(tie))
    of_rows = np.zeros(row_count, np.int64)
    for _ in range(ROUNDS):
        of_rows = _majority(rows, labels[columns], row_count, tie)
        labels = _majority(columns, of_rows[rows], len(tie), tie)
    return of_rows


def _majority(owners: _Index, labels: _Index, owner_count: int, tie: _Index) -> _Index:
    """The label that stands most often beside each of `owners`, which all occur: int64 [owner_count]."""
    keys, counts = np.unique(owners * len(tie) + labels, return_counts=True)
    owner, label = np.divmod(keys, len(tie))
    best = np.lexsort((tie[label], -counts, owner))
    winners = np.empty(owner_count, np.int64)
    winners[owner[best][::-1]] = label[best][::-1]  # the last that is written is the first in order
    return winners


def _hashed(nodes: npt.NDArray[Any], salt: int) -> _Index:
    """A hash of each id: int64, at least 0. The same for any set of other ids around it."""
    if nodes.dtype.kind == "O":
        return np.array(
            [int.from_bytes(hashlib.blake2b(node.encode(), digest_size=7).digest(), "little") ^ salt for node in nodes], np.int64
        )
    return (mixed_array(nodes, salt) >> np.uint64(1)).astype(np.int64)
