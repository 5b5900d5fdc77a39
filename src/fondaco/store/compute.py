"""Similarity: dot product, cosine, Euclidean distance and element-wise product of one vector and a vector field of many rows.

The field's numbers are taken from decoded columns as one flat block, in their own dtype (bfloat16 and float16 widened to float32, int8 by
the row's scale), and summed in float64 by one kernel without the GIL. A row without a vector is masked, never 0; so is a cosine with a
stored vector of norm zero, which has no direction. Pure functions; safe from any thread.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.core.errors import InputError, near_name
from fondaco.schema.columns import Columns
from fondaco.store._score_kernels import COSINE, DOT, EUCLIDEAN, products_of, scores_of
from fondaco.store.store_reader import Operation

_HADAMARD: Final = -1  # has a kernel of its own
_CODES: Final = {"dot": DOT, "cosine": COSINE, "euclidean": EUCLIDEAN, "hadamard": _HADAMARD}


def compute_scores(columns: Columns, operation: Operation, field: str, vector: npt.ArrayLike) -> np.ma.MaskedArray[Any, Any]:
    """Score every row of `columns[field]` against `vector`.

    Returns:
        float64 [rows], or [rows, dim] for "hadamard": masked where the row is missing, its field null, or (cosine) its vector of norm zero.
    Raises:
        InputError: see `EmbeddedReader.compute`.
    """
    code = _CODES.get(operation)
    if code is None:
        near = near_name(str(operation), _CODES)
        raise InputError(f"no operation {operation!r}; " + (f"did you mean {near!r}?" if near else f"there is: {', '.join(_CODES)}"))
    query = _query(vector, field)
    if code == COSINE and not query.any():
        raise InputError("the vector has norm zero, so it has no cosine with anything")
    column = columns.arrow(field)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    valid = np.asarray(columns.valid(field), np.bool_)
    numbers, offsets = _block(column, field)
    lengths = np.diff(offsets)
    wrong = np.flatnonzero(valid & (lengths != len(query)))
    if len(wrong):
        where = f" in row {wrong[0]}" if pa.types.is_list(column.type) else ""
        raise InputError(f"field {field!r} has {lengths[wrong[0]]} numbers{where}, the vector has {len(query)}")
    if code == _HADAMARD:
        products = np.zeros((len(valid), len(query)))
        products_of(numbers, offsets, valid, query, products)
        return np.ma.MaskedArray(products, mask=np.broadcast_to(~valid[:, None], products.shape))
    out, undefined = np.zeros(len(valid)), np.zeros(len(valid), np.bool_)
    scores_of(numbers, offsets, valid, query, code, out, undefined)
    return np.ma.MaskedArray(out, mask=~valid | undefined)


def best_of(scores: np.ma.MaskedArray[Any, Any], operation: Operation, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The best of many scores, best first: the greatest dot products and cosines, the smallest distances; equal ones in their order.

    Args:
        scores: float64 [rows], as `compute_scores` gives them.
    Returns:
        positions, int64, and scores, float64: [min(count, rows with a score)]. Masked rows and NaN have none.
    Raises:
        InputError: `count` is no positive whole number, or the operation gives no one score a row.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise InputError(f"top_k counts the rows to give, so it is 1 or more, not {count!r}")
    if scores.ndim != 1:
        raise InputError(f"{operation!r} gives a vector a row, and vectors have no order; top_k goes with dot, cosine or euclidean")
    values = np.ma.getdata(scores)
    there = np.flatnonzero(~(np.ma.getmaskarray(scores) | np.isnan(values)))
    keys = values[there] if operation == "euclidean" else -values[there]
    if count < len(there):  # those that cannot be among the best are not sorted; equal ones of the last place stay in
        there, keys = (array[keys <= np.partition(keys, count - 1)[count - 1]] for array in (there, keys))
    order = np.argsort(keys, kind="stable")[:count]
    return there[order], values[there[order]]


def _query(vector: npt.ArrayLike, field: str) -> npt.NDArray[np.float64]:
    query = np.asarray(vector)
    if query.ndim != 1 or (query.dtype.kind not in "fiu" and query.dtype.name != "bfloat16"):
        raise InputError(f"the vector to compare with {field!r} is one row of numbers, not {query.dtype} of shape {query.shape}")
    return np.ascontiguousarray(query, np.float64)


def _block(column: pa.Array, field: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """(numbers, offsets int64 [rows + 1]) of a column of vectors."""
    kind, scales = column.type, None
    if pa.types.is_struct(kind) and {member.name for member in kind} == {"scale", "values"}:  # int8: value = int8 * scale
        scales, column = _numbers(column.field("scale")), column.field("values")
        kind = column.type
    if pa.types.is_fixed_size_list(kind):
        offsets = np.arange(column.offset, column.offset + len(column) + 1, dtype=np.int64) * kind.list_size
    elif pa.types.is_list(kind):
        offsets = np.asarray(column.offsets, np.int64)
    else:
        raise _no_vector(field, kind)
    values = column.values
    if values.null_count or not (pa.types.is_floating(values.type) or values.type in (pa.uint16(), pa.int8())):
        raise _no_vector(field, kind)
    numbers = _numbers(values)
    if values.type == pa.uint16():  # bfloat16: the upper half of a float32
        numbers = (numbers.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif scales is not None:  # rounded to float32, as a fetched row's is
        numbers = numbers.astype(np.float32) * np.repeat(scales, kind.list_size)
    elif numbers.dtype == np.float16:
        numbers = numbers.astype(np.float32)
    return np.ascontiguousarray(numbers), offsets


def _numbers(values: pa.Array) -> npt.NDArray[Any]:
    """Arrow numbers as NumPy's, whatever the slots of nulls hold."""
    dtype = np.dtype(values.type.to_pandas_dtype())
    buffer = values.buffers()[1]
    if buffer is None:
        return np.zeros(len(values), dtype)
    return np.frombuffer(buffer, dtype, count=len(values) + values.offset)[values.offset :]


def _no_vector(field: str, kind: pa.DataType) -> InputError:
    return InputError(f"field {field!r} holds {kind}; compute needs a vector, an array<float> or an array<double>")
