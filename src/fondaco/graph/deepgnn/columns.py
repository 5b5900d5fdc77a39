"""Feature columns laid out as DeepGNN lays them out: dense side by side, sparse as coordinates, bytes one after the other. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph.answers import BytesColumn, FeatureColumn, SparseColumn
from fondaco.graph.deepgnn.lists import I64
from fondaco.graph.schema import Feature


def dense_names(
    known: Sequence[Feature], names: Mapping[int, str], features: npt.NDArray[np.int32], where: str, strict: bool
) -> dict[int, str]:
    """Names by position in `features` of those that this type has."""
    by_name = {feature.name: feature for feature in known}
    wanted: dict[int, str] = {}
    for position, (number, dimension) in enumerate(features.tolist()):
        feature = by_name.get(names.get(number, ""))
        if feature is None:
            continue
        size = int(np.prod(feature.shape, dtype=np.int64))
        if feature.kind in ("sparse", "bytes"):
            raise InputError(f"feature {number} ({feature.name!r}) of {where} is {feature.kind}; ask for it by the method of that kind")
        if strict and feature.kind == "dense" and dimension > size:
            raise InputError(f"feature {number} ({feature.name!r}) of {where} has {size} numbers, and {dimension} were asked for")
        wanted[position] = feature.name
    return wanted


def lay_out(
    values: npt.NDArray[Any], rows: I64, features: npt.NDArray[np.int32], wanted: Mapping[int, str], found: Mapping[str, FeatureColumn]
) -> None:
    """Write dense columns into `rows` of `values`, each at its place among `features`; cut, or followed by zeros, to the
    dimension asked for."""
    ends = np.cumsum(features[:, 1])
    for position, name in wanted.items():
        size = int(features[position, 1])
        column = found[name]
        if not isinstance(column, np.ndarray):
            raise InputError(f"feature {int(features[position, 0])} ({name!r}) is not dense; ask for it by the method of its kind")
        found_size = min(size, math.prod(column.shape[1:]))
        start = ends[position] - size
        values[rows, start : start + found_size] = column.reshape(len(rows), -1)[:, :found_size]


def sparse_parts(parts: Iterator[tuple[I64, FeatureColumn]], dtype: npt.DTypeLike) -> tuple[I64, npt.NDArray[Any], int]:
    """A sparse feature in DeepGNN's form: (row, index) of each number [nnz, 2], the numbers, and the dimension (0: no row has any)."""
    coordinates, values, dimension = [np.empty((0, 2), np.int64)], [np.empty(0, dtype)], 0
    for rows, column in parts:
        if not isinstance(column, SparseColumn):
            raise InputError("this feature is not sparse; ask for it by the method of its kind")
        dimension = column.shape[1]
        coordinates.append(np.stack((np.repeat(rows, np.diff(column.indptr)), column.indices), axis=1))
        values.append(column.values.astype(dtype, copy=False))
    pairs, numbers = np.concatenate(coordinates), np.concatenate(values)
    order = np.argsort(pairs[:, 0], kind="stable")
    return pairs[order], numbers[order], dimension


def bytes_by_row(parts: Iterator[tuple[I64, FeatureColumn]], count: int) -> list[bytes]:
    """A bytes feature of `count` rows; b"" where a row has none."""
    found = [b""] * count
    for rows, column in parts:
        if not isinstance(column, BytesColumn):
            raise InputError("this feature does not hold bytes; ask for it by the method of its kind")
        for row, value in zip(rows.tolist(), column, strict=True):
            found[row] = value
    return found
