"""Partitioning: which partition a key belongs to. The two ways there are: our own by XXH64, and that of Kafka's clients.

Pure functions; any thread. Importing this imports numba.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.log._kernels import partitions_murmur2, partitions_xxh64
from fondaco.log.log import Partitioner


def partition_keys(
    keys: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], partitions: int, partitioner: Partitioner
) -> npt.NDArray[np.int64]:
    """The partition of each key `keys[offsets[i]:offsets[i + 1]]`, int64 [n].

    xxh64: `((XXH64(key) >> 32) * partitions) >> 32`, as base files are partitioned. murmur2: `(murmur2(key) & 0x7fffffff) % partitions`,
    as Kafka's Java clients do.

    Raises:
        InputError: no partitions.
    """
    if partitions < 1:
        raise InputError(f"keys cannot be spread over {partitions} partitions; a topic has at least one")
    out = np.empty(len(offsets) - 1, np.int64)
    match partitioner:
        case "xxh64":
            partitions_xxh64(keys.ctypes.data, offsets, partitions, out)
        case "murmur2":
            partitions_murmur2(keys.ctypes.data, offsets, partitions, out)
        case _:
            assert_never(partitioner)
    return out
