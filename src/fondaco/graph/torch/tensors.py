"""NumPy answers as torch tensors: without a copy wherever torch can take the memory as it is.

A tensor keeps the array under it alive, and through it whatever holds the memory: the buffers that an embedded graph uses again, the
regions of shared memory that a served one writes into. They are free when the last tensor over them is gone. torch cannot mark a tensor as
read-only, so a read-only array is copied once: writing into a tensor must never reach a file. Pure; any thread.

What can be computed on arrays is: torch would set its own threads to work on it, which cost more CPU (7 ms a batch, measured, waiting for
each other) than they save here, and whose cores belong to the model.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fondaco.graph.answers import BytesColumn, FeatureColumn, SparseColumn

Held: TypeAlias = "torch.Tensor | list[bytes] | npt.NDArray[Any]"
"""What stands in a batch: a tensor; bytes as a list; ids that are strings as an object array."""


def tensor_of(array: npt.NDArray[Any]) -> torch.Tensor:
    """The numbers of `array` as a tensor of the same dtype and shape (ml_dtypes' bfloat16 becomes torch.bfloat16)."""
    if array.dtype.name == "bfloat16":
        return tensor_of(array.view(np.int16)).view(torch.bfloat16)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def ids_of(ids: npt.NDArray[Any]) -> Held:
    """Ids of nodes: an int64 tensor, or the object array of strings as it is (torch has no strings)."""
    return ids if ids.dtype.kind in "OU" else tensor_of(ids)


def feature_of(column: FeatureColumn) -> Held:
    """A feature's rows: dense and sparse (COO, coalesced) as tensors, bytes as a list."""
    if isinstance(column, SparseColumn):
        return _coo(column)
    return column.tolist() if isinstance(column, BytesColumn) else tensor_of(column)


def array_of(values: object) -> npt.NDArray[Any]:
    """`values` (tensor, array or sequence) as an array, without a copy where there is one."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def absent(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which entries stand for no node: -1, or None among strings."""
    return np.array([each is None for each in ids.ravel()], bool).reshape(ids.shape) if ids.dtype.kind == "O" else ids == -1


def message_index(edge_index: npt.NDArray[np.int64], direction: str) -> torch.Tensor:
    """Edges as messages, int64 [2, edges]: row 0 the sampled neighbour that sends, row 1 the node it was drawn for, that receives.

    Along the edges ("out") the neighbour is the edge's target, so rows change places (one copy); against them ("in") they stay.
    """
    return tensor_of(edge_index[::-1] if direction == "out" else edge_index)


def _coo(column: SparseColumn) -> torch.Tensor:
    rows = np.repeat(np.arange(column.shape[0]), np.diff(column.indptr))
    ascending = bool(np.all((np.diff(column.indices) > 0) | (np.diff(rows) > 0)))
    index = torch.from_numpy(np.stack((rows, column.indices)))
    values = torch.sparse_coo_tensor(index, tensor_of(column.values), column.shape, check_invariants=False, is_coalesced=ascending)
    return values if ascending else values.coalesce()
