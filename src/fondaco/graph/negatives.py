"""Negatives: nodes that are not neighbours, to train against; uniform over the target type, or in proportion to in-degree^0.75.

Candidates are drawn here, and strict ones checked by the shards that hold the sources; those that are neighbours are drawn again. An entry
that fails `TRIES` times is drawn from what is outside its source's list directly, so a source with few others is exact as well, and one
that leads to every node gets none. Candidate t of entry (i, j) is a function of (seed, i, j, t): answers do not depend on shards.

The sums of degree^0.75 take 8 bytes a node of the target type; they are made at the first call and kept as long as the version is
open in this process.

Source: Mikolov et al. 2013 (word2vec's noise distribution). Pure functions; any thread. Importing this imports numba.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, LimitError, PartitionNotHeldError
from fondaco.graph import _global_kernels as kernels
from fondaco.graph._draws import SALT_NEGATIVES, key_of
from fondaco.graph.execution import Ask, Execution, seeds_of
from fondaco.graph.queries import ALL, Arrays, Negatives, put_ids
from fondaco.graph.schema import EdgeType
from fondaco.graph.shards import Hop, InDegrees

if TYPE_CHECKING:
    from fondaco.graph.opened import OpenGraph

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]

COUNT_MAX: Final = 1 << 20
NEGATIVES_MAX: Final = 1 << 26  # of one answer: 2 GB while it is made


def negatives(execution: Execution, query: Negatives, arrays: Arrays) -> Arrays:
    """The answer to `Negatives`."""
    edge = execution.schema.edge(query.edge_type)
    sources = execution.resolve(edge.src, seeds_of(arrays), pad=query.pad)
    found = draw_negatives(execution, query, sources)
    alive = found >= 0
    answer: Arrays = {"alive": alive}
    put_ids(answer, "nodes", execution.ids(edge.dst, found[alive]))
    return answer


def draw_negatives(execution: Execution, query: Negatives, sources: I32Array) -> I32Array:
    """Negatives of each source (dense id; -1: unknown, gets none).

    Returns:
        int32 [n, count], dense ids of the target type; -1 where there is none.
    Raises:
        InputError: a distribution that there is not, or a count out of bounds. EdgeTypeNotFoundError.
        LimitError: more than `NEGATIVES_MAX` in all.
    """
    schema = execution.schema
    edge = schema.edge(query.edge_type)
    if query.distribution not in ("uniform", "degree"):
        raise InputError(f'distribution is "uniform" or "degree", not {query.distribution!r}')
    if not 0 <= query.count <= COUNT_MAX:
        raise InputError(f"between 0 and {COUNT_MAX} negatives a source, not {query.count}")
    if len(sources) * query.count > NEGATIVES_MAX:
        raise LimitError("negatives at once", len(sources) * query.count, NEGATIVES_MAX, "Ask for fewer, or for fewer sources at a time.")
    key, columns, total = key_of(query.seed, 0, SALT_NEGATIVES + schema.edge_index(edge)), query.count, execution.node_count(edge.dst)
    sums = _degree_sums(execution, edge) if query.distribution == "degree" else np.empty(0, np.float64)
    out = np.full(len(sources) * columns, -1, np.int32)
    wanted = np.flatnonzero(np.repeat(sources >= 0, columns))
    if total == 0 or (len(sums) and not sums[-1] > 0.0):
        return out.reshape(len(sources), columns)
    for attempt in range(kernels.TRIES):
        if not len(wanted):
            break
        candidates = np.empty(len(wanted), np.int32)
        kernels.propose(key, columns, total, sums, np.full(len(wanted), attempt), wanted, candidates)
        if not query.strict:
            out[wanted] = candidates
            return out.reshape(len(sources), columns)
        refused = _is_neighbour(execution, edge, sources[wanted // columns], candidates)
        out[wanted[~refused]] = candidates[~refused]
        wanted = wanted[refused]
    rows, begins = np.unique(wanted // max(columns, 1), return_index=True)  # entries ascend
    for row, entries in zip(rows, np.split(wanted, begins[1:]), strict=False):
        drawn = np.empty(len(entries), np.int32)
        kernels.draw_outside(key, columns, total, sums, entries, _neighbours(execution, edge, int(sources[row])), drawn)
        out[entries] = drawn
    return out.reshape(len(sources), columns)


def answer(opened: OpenGraph, query: InDegrees, arrays: Arrays) -> Arrays:
    """A shard's answer to `InDegrees`.

    Raises:
        PartitionNotHeldError.
    """
    table = opened.adjacency_table(query.edge_type, query.direction)
    partitions = [int(partition) for partition in arrays["partitions"]]
    for partition in partitions:
        if partition not in opened.held:
            raise PartitionNotHeldError(opened.name, opened.version, partition)
    counts = np.zeros(table.to_count if query.direction == "out" else table.from_count, np.int64)
    for partition in partitions:
        edges = int(table.edge_starts[partition + 1] - table.edge_starts[partition])
        if query.direction == "out":
            kernels.count_targets(int(table.indices[partition]), edges, counts)
        else:
            first, last = int(table.starts[partition]), int(table.starts[partition + 1])
            kernels.take_lengths(int(table.indptr[partition]), counts[first:last])
    return {"counts": counts}


def _is_neighbour(execution: Execution, edge: EdgeType, sources: I32Array, targets: I32Array) -> npt.NDArray[np.bool_]:
    """Whether an edge leads from each source to its target, or they are one node."""
    if "out" in edge.directions:
        found = execution.find_edges(edge.name, "out", sources, targets) >= 0
    else:
        found = execution.find_edges(edge.name, "in", targets, sources) >= 0
    return found | (sources == targets) if edge.src == edge.dst else found


def _neighbours(execution: Execution, edge: EdgeType, source: int) -> I32Array:
    """What a strict negative of `source` must not be: ascending, each once."""
    if "out" in edge.directions:
        hop = Hop(edge_type=edge.name, direction="out", fan_out=ALL, strategy="all")
        ask = Ask(hop, execution.shards.starts(edge.src), "frontier", np.array([source], np.int32))
        parts = execution.ask_rows(ask)
        members = parts.runs(parts.rows("counts", np.int32), "neighbors", np.int32)
    else:  # lists by target only: ask each for the source
        everyone = np.arange(execution.node_count(edge.dst), dtype=np.int32)
        is_member = execution.find_edges(edge.name, "in", everyone, np.full(len(everyone), source, np.int32)) >= 0
        members = everyone[is_member]
    if edge.src == edge.dst:
        members = np.append(members, np.int32(source))
    return np.unique(members).astype(np.int32)


_lock: Final = Lock()
_sums: Final[WeakKeyDictionary[object, dict[str, F64Array]]] = WeakKeyDictionary()


def _degree_sums(execution: Execution, edge: EdgeType) -> F64Array:
    """Inclusive sums of in-degree^0.75 over the nodes of the target type, float64 [nodes]."""
    with _lock:
        kept = _sums.setdefault(execution.shards.anchor, {})
        found = kept.get(edge.name)
    if found is not None:
        return found
    query = InDegrees(edge_type=edge.name, direction="in" if "in" in edge.directions else "out")
    degrees = np.zeros(execution.node_count(edge.dst), np.int64)
    for part in execution.ask_all(query, lambda shard: {"partitions": execution.held(shard)}):
        degrees += part["counts"]
    sums = np.empty(len(degrees), np.float64)
    kernels.sum_powers(degrees, sums)
    with _lock:
        kept[edge.name] = sums
    return sums
