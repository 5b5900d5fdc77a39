"""Ids: how nodes are ordered, and how a build finds the dense ids of what edge tables name.

A `NodeIndex` answers for all nodes of one type. int64 ids are found by their hashes alone (`_id_kernels`): in memory, through a directory
of the hashes' first bits, if they fit the build's share; otherwise, and always for texts, in the mapped files. Reads only; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fondaco.graph import _id_kernels as kernels
from fondaco.graph.build.columns import Column, I32Array, I64Array, Ragged, plain
from fondaco.graph.layout import nodes_file
from fondaco.graph.schema import IdKind
from fondaco.graph.sections import Sections, address_of, open_sections

U64Array = npt.NDArray[np.uint64]

INDEX_BYTES = 16  # of one node in memory: its hash, and at most two directory entries


def hash_ids(ids: Column) -> U64Array:
    """XXH64 of each id: int64 [n], or texts. uint64 [n]."""
    out = np.empty(len(ids), np.uint64)
    if isinstance(ids, Ragged):
        data = np.ascontiguousarray(ids.data)
        kernels.hash_strings(address_of(data) if len(data) else 0, ids.offsets, out)
    else:
        kernels.hash_longs(np.ascontiguousarray(ids), out)
    return out


def partition_starts(counts: Sequence[int]) -> I64Array:
    """int64 [partitions + 1]: the first dense id of each partition, and how many there are."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def partition_bounds(hashes: U64Array, partitions: int) -> I64Array:
    """Where ascending hashes are to be cut into partitions: int64 [partitions + 1]."""
    numbers = np.empty(len(hashes), np.int32)
    kernels.partitions_of(hashes, partitions, numbers)
    return np.searchsorted(numbers, np.arange(partitions + 1)).astype(np.int64)


class NodeIndex:
    """Dense ids of one node type's nodes. `kind`: of their ids; None where the type has no nodes and nobody said."""

    def __init__(self, directory: Path, node_type: int, kind: IdKind | None, counts: Sequence[int], share_bytes: int) -> None:
        """
        Args:
            directory: holds the type's node files. counts: nodes by partition. share_bytes: what the index may take of memory.
        """
        self.kind, self.count = kind, sum(counts)
        self.starts = partition_starts(counts)
        self._files: list[Sections] = [open_sections(directory / nodes_file(node_type, p)) for p in range(len(counts))]
        self._hashes: U64Array | None = None
        if kind == "long" and self.count * INDEX_BYTES <= share_bytes:
            self._hashes = np.concatenate([file["hashes"] for file in self._files])
            bits = max((self.count - 1).bit_length(), 1) if self.count else 1
            self._shift = 64 - bits
            self._directory = np.empty((1 << bits) + 1, np.int32)
            kernels.fill_directory(self._hashes, self._shift, self._directory)
        self._tables = [self._addresses(name) for name in ("hashes", "id_offsets", "id_bytes")]

    def resolve(self, ids: Column) -> I32Array:
        """Dense ids of int64 ids or of texts; -1 where there is no such node."""
        out = np.empty(len(ids), np.int32)
        if isinstance(ids, Ragged):
            data = np.ascontiguousarray(ids.data)
            kernels.resolve_strings(self.starts, *self._tables, address_of(data) if len(data) else 0, ids.offsets, out)
        elif self._hashes is None:
            kernels.resolve_longs(self.starts, self._tables[0], np.ascontiguousarray(ids), out)
        elif self.count:
            kernels.look_up(self._hashes, self._shift, self._directory, hash_ids(ids), out)
        else:
            out[:] = -1
        return out

    def id_at(self, position: int) -> object:
        """The id of a dense id, for messages."""
        partition = int(np.searchsorted(self.starts, position, "right")) - 1
        row, file = position - int(self.starts[partition]), self._files[partition]
        if "ids" in file:
            return int(file["ids"][row])
        start, end = file["id_offsets"][row : row + 2]
        return bytes(file["id_bytes"][start:end]).decode()

    def _addresses(self, section: str) -> I64Array:
        return np.array([file.address(section) for file in self._files], np.int64)


def show_id(ids: Column, row: int) -> str:
    """An id as messages write it."""
    if isinstance(ids, Ragged):
        return repr(bytes(ids.data[ids.offsets[row] : ids.offsets[row + 1]]).decode("utf-8", "replace"))
    return str(int(plain(ids)[row]))
