"""Kernels of relabelling: the index of every node in order of first appearance, found again by a marker array or a hash table.

A set of nodes is `nodes` (int32, by index; with `groups`, int32, where a node counts once per as-of group) and one of two ways back from a
node to its index: `marker`, int32 by dense id, -1 for none; or `table`, uint64 open addressing, slot = tag << 32 | index + 1, 0 empty, at
most half full, a power of two long. The tag is the dense id itself, or with groups 32 bits of a hash, and then the arrays decide.
The other of the two is empty. Which is used never shows in an answer. References: tests/graph/reference.py. No GIL; one thread per set.
"""

# mypy: disable-error-code="assignment, no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.graph._draws import mix

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_HIGH = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True, inline="always")
def _spread(node: int) -> np.uint64:
    """A quick hash: the product's upper bits, where all bits of the id have arrived (Fibonacci hashing)."""
    return (np.uint64(node) * _SPREAD) >> _HIGH


@njit(nogil=True, cache=True, inline="always")
def _tag(node: int, group: int) -> np.uint64:
    return mix(np.uint64(node), np.uint64(group)) & _LOW


@njit(nogil=True, cache=True, inline="always")
def find_one(marker: I32Array, table: U64Array, nodes: I32Array, groups: I32Array, node: int, group: int) -> int:
    """The index of `node` (in `group`, if the set has groups: `groups` is not empty) in the set; -1: it is not there."""
    if marker.size > 0:
        return np.int64(marker[node])
    mask = np.uint64(table.size - 1)
    grouped = groups.size > 0
    tag = _tag(node, group) if grouped else np.uint64(node)
    at = (tag if grouped else _spread(node)) & mask
    while table[at] != _ZERO:
        slot = table[at]
        if slot >> _HIGH == tag:
            index = np.int64(slot & _LOW) - 1
            if not grouped or (nodes[index] == node and groups[index] == group):
                return index
        at = (at + _ONE) & mask
    return -1


@njit(nogil=True, cache=True)
def find_many(
    marker: I32Array, table: U64Array, nodes: I32Array, groups: I32Array, wanted: I32Array, wanted_groups: I32Array, local: I32Array
) -> None:
    """Indexes of nodes, -1 for those not in the set and for negative ids."""
    grouped = groups.size > 0
    for i in range(wanted.size):
        node = np.int64(wanted[i])
        group = np.int64(wanted_groups[i]) if grouped else 0
        local[i] = find_one(marker, table, nodes, groups, node, group) if node >= 0 else -1


@njit(nogil=True, cache=True)
def add_marked(marker: I32Array, nodes: I32Array, count: int, wanted: I32Array, local: I32Array) -> int:
    """Indexes of nodes, adding the new ones; -1 for negative ids. `nodes` has room for all. Returns the new count."""
    for i in range(wanted.size):
        node = np.int64(wanted[i])
        if node < 0:
            local[i] = -1
            continue
        index = np.int64(marker[node])
        # no branch: whether a node is new cannot be predicted. nodes[count] is overwritten by the next one if this is not
        new = index < 0
        index = count if new else index
        marker[node] = index
        nodes[count] = node
        local[i] = index
        count += np.int64(new)
    return count


@njit(nogil=True, cache=True)
def add_hashed(table: U64Array, nodes: I32Array, count: int, wanted: I32Array, first: int, local: I32Array) -> tuple[int, int]:
    """As `add_marked`, by the table, from `first` on and until it is half full. Returns how far it came, and the new count."""
    mask = np.uint64(table.size - 1)
    most = table.size >> 1
    i = first
    while i < wanted.size and count < most:
        node = np.int64(wanted[i])
        if node < 0:
            local[i] = -1
            i += 1
            continue
        tag = np.uint64(node)
        at = _spread(node) & mask
        while table[at] != _ZERO and table[at] >> _HIGH != tag:
            at = (at + _ONE) & mask
        if table[at] == _ZERO:
            nodes[count] = node
            count += 1
            table[at] = tag << _HIGH | np.uint64(count)
        local[i] = np.int64(table[at] & _LOW) - 1
        i += 1
    return i, count


@njit(nogil=True, cache=True)
def add_grouped(
    table: U64Array,
    nodes: I32Array,
    groups: I32Array,
    count: int,
    wanted: I32Array,
    wanted_groups: I32Array,
    first: int,
    local: I32Array,
) -> tuple[int, int]:
    """As `add_hashed`, of (node, group) pairs."""
    mask = np.uint64(table.size - 1)
    most = table.size >> 1
    i = first
    while i < wanted.size and count < most:
        node = np.int64(wanted[i])
        if node < 0:
            local[i] = -1
            i += 1
            continue
        group = np.int64(wanted_groups[i])
        tag = _tag(node, group)
        at = tag & mask
        index = -1
        while table[at] != _ZERO:
            if table[at] >> _HIGH == tag:
                index = np.int64(table[at] & _LOW) - 1
                if nodes[index] == node and groups[index] == group:
                    break
                index = -1
            at = (at + _ONE) & mask
        if index < 0:
            nodes[count] = node
            groups[count] = group
            index = count
            count += 1
            table[at] = tag << _HIGH | np.uint64(count)
        local[i] = index
        i += 1
    return i, count


@njit(nogil=True, cache=True)
def fill_table(table: U64Array, nodes: I32Array, groups: I32Array, count: int) -> None:
    """Enter the first `count` nodes into an empty table."""
    mask = np.uint64(table.size - 1)
    grouped = groups.size > 0
    for index in range(count):
        node = np.int64(nodes[index])
        tag = _tag(node, np.int64(groups[index])) if grouped else np.uint64(node)
        at = (tag if grouped else _spread(node)) & mask
        while table[at] != _ZERO:
            at = (at + _ONE) & mask
        table[at] = tag << _HIGH | np.uint64(index + 1)


@njit(nogil=True, cache=True)
def unmark(marker: I32Array, nodes: I32Array, count: int) -> None:
    """Make the marker array empty again, at the cost of the set, not of the graph."""
    for index in range(count):
        marker[nodes[index]] = -1
