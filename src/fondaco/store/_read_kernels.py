"""Kernels of reads: real-time writes first, then the base, in one call. Plain reference: tests/store/test_read_kernels.py.

Both halves have their own kernels (`_overlay_kernels`, `_kernels`); here they are one, because entering a kernel costs as much as finding a
key in it. They take the address of a *serving table* and never keep it; whoever calls keeps what it leads to alive.

    serving table, int64 words: [0] base partitions (0: there is no base)    [1] address of the overlay's table
                                [2] since_ms: older writes do not count     [3] number of the value schema that rows can be given out in
                                [4] number of the overlay's first memory in the joint list: base files, then the overlay's memories
                                [5] as_of_ms of the base
    then, from word HEAD_WORDS on, the entries of the base's partitions as in `_kernels`.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba widens integers as its kernels need; the annotations are for readers)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import load_i64, prefetch
from fondaco.core.xxh64 import xxh64
from fondaco.store import _kernels as base
from fondaco.store import _overlay_kernels as overlay
from fondaco.store._memory import bytes_address

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]

HEAD_WORDS = 6
ALWAYS = -(1 << 63)  # `oldest_ms` of stores whose rows stay

# -- what `start` says when it is no position ----------------------------------------------------------------------------------------
MISSING = 0
BROKEN = -1  # the base's index leads outside the heap
ASK = -2  # the overlay has to be asked in another way: stale, damaged, a merge, another schema

# -- flags of many keys --------------------------------------------------------------------------------------------------------------
PLAIN = 0  # the value lies at starts, ends; or starts is 0: there is none
FRAME = 1  # it lies there compressed
OTHER_SCHEMA = 2  # it lies there, in the value schema `schemas`
MERGED = 3  # it must be made

_find = overlay.find
_find_packed = overlay.find_packed
_pack_long = base._pack_long
_hash_packed = base._hash_packed
_equal_packed = base._equal_packed
_probe = base._probe
_record = base._record
_first_slot = base._first_slot
_tag = base._tag
partition_of = base.partition_of
memory_base = overlay.memory_base
topic_partition = overlay.topic_partition
_PUT = overlay.PUT
_DELETE = overlay.DELETE
_NONE = overlay.NONE
_ENTRY_BYTES = 8 * base.ENTRY
_HEAD_BYTES = 8 * HEAD_WORDS
_TABLE_BYTES = 8 * overlay.TABLE_WORDS
_PARTITION_BYTES = 8 * overlay.PARTITION_WORDS
_PREFETCH_BYTES = base._PREFETCH_BYTES
_POSITION = base._POSITION
_ZERO = np.uint64(0)
_load64 = base.load64


@njit(nogil=True, cache=True)
def _overlay_base(address: int, length: int, hash_: np.uint64, table: int, memory: int) -> int:
    """Where the overlay's memory begins that a key was found in."""
    partition = topic_partition(address, length, hash_, load_i64(table + 16), load_i64(table + 24))
    return memory_base(table + _TABLE_BYTES + _PARTITION_BYTES * partition, memory)
