"""Kernels of similarities: one pass over a flat block of numbers, arithmetic in float64. References in tests/store/test_compute.py."""

# mypy: disable-error-code="untyped-decorator"
# (numba's carry no types)

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

DOT: Final = 0
COSINE: Final = 1
EUCLIDEAN: Final = 2


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # lets LLVM sum in several lanes; NaN and infinity stay what they are
def scores_of(
    numbers: npt.NDArray[Any],
    offsets: npt.NDArray[np.int64],
    valid: npt.NDArray[np.bool_],
    query: npt.NDArray[np.float64],
    code: int,
    out: npt.NDArray[np.float64],
    undefined: npt.NDArray[np.bool_],
) -> None:
    """Score `numbers[offsets[i]:offsets[i + 1]]` of every valid row i against `query`.

    Every valid row is as long as the query (checked by the caller). `undefined[i]` is set where a cosine does not exist.
    """
    norm = 0.0
    for k in range(query.size):
        norm += query[k] * query[k]
    for i in range(valid.size):
        if not valid[i]:
            continue
        first = offsets[i]
        total = 0.0
        if code == EUCLIDEAN:
            for k in range(query.size):
                difference = np.float64(numbers[first + k]) - query[k]
                total += difference * difference
            out[i] = np.sqrt(total)
        elif code == DOT:
            for k in range(query.size):
                total += np.float64(numbers[first + k]) * query[k]
            out[i] = total
        else:
            own = 0.0
            for k in range(query.size):
                value = np.float64(numbers[first + k])
                total += value * query[k]
                own += value * value
            if own == 0.0:
                undefined[i] = True
            else:
                cosine = total / (np.sqrt(own) * np.sqrt(norm))
                if cosine > 1.0:  # by rounding only; a NaN passes both tests and stays a NaN
                    cosine = 1.0
                elif cosine < -1.0:
                    cosine = -1.0
                out[i] = cosine


@njit(nogil=True, cache=True)
def products_of(
    numbers: npt.NDArray[Any],
    offsets: npt.NDArray[np.int64],
    valid: npt.NDArray[np.bool_],
    query: npt.NDArray[np.float64],
    out: npt.NDArray[np.float64],
) -> None:
    """Multiply `numbers[offsets[i]:offsets[i + 1]]` of every valid row i with `query`, number by number, into `out[i]`.

    Every valid row is as long as the query (checked by the caller); `out` is [rows, query.size].
    """
    for i in range(valid.size):
        if valid[i]:
            first = offsets[i]
            for k in range(query.size):
                out[i, k] = np.float64(numbers[first + k]) * query[k]
