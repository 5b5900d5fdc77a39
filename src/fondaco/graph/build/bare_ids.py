"""Bare ids: a list or an array of ids for a node table, of pairs of ids for an edge table, as the columns that they mean.

    nodes={"page": [10, 20, 30]}                             {"id": [10, 20, 30]}
    edges={("page", "links", "page"): [(10, 20), (20, 30)]}  {"src": [10, 20], "dst": [20, 30]}

A list of texts is one of paths if any of them looks like a path. Pure functions; any thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fondaco.core.errors import InputError
from fondaco.store.inputs import FILE_SUFFIXES

_ID_KINDS: Final = "iuOU"


def columns_of(label: str, table: object, names: Sequence[str]) -> object:
    """`table`, or columns of these names (one or two) where it holds bare ids.

    Raises:
        InputError: an array of ids of another shape than [n] or [n, 2].
    """
    if callable(getattr(table, "detach", None)):  # a tensor
        table = table.detach().cpu().numpy()  # type: ignore[attr-defined]
    if isinstance(table, np.ndarray):
        return table if table.dtype.names else _of_array(label, table, names)
    if len(names) == 1:
        if isinstance(table, (pa.Array, pa.ChunkedArray)):
            return table if pa.types.is_struct(table.type) else {names[0]: table}
        is_series = type(table).__module__.startswith(("pandas", "polars")) and not hasattr(table, "columns")
        if is_series or isinstance(table, range) or _is_listed(table):
            return {names[0]: table}
        return table
    if isinstance(table, (list, tuple)) and table and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in table):
        return {name: [pair[side] for pair in table] for side, name in enumerate(names)}
    return table


def _of_array(label: str, ids: np.ndarray[Any, np.dtype[Any]], names: Sequence[str]) -> object:
    shape = "[n]" if len(names) == 1 else "[n, 2]"
    if ids.dtype.kind not in _ID_KINDS or ids.ndim != len(names) or (ids.ndim == 2 and ids.shape[1] != 2) or ids.shape == (2, 2):
        form = ", ".join(f"{name!r}: ..." for name in names)
        raise InputError(
            f"{label}: an array of {ids.dtype} and shape {list(ids.shape)} is no table; give columns, {{{form}}}, or ids of shape {shape}"
        )
    return {names[0]: ids} if len(names) == 1 else {name: np.ascontiguousarray(ids[:, side]) for side, name in enumerate(names)}


def _is_listed(table: object) -> bool:
    if not (isinstance(table, (list, tuple)) and table and isinstance(table[0], (int, np.integer, str))):
        return False
    return not any(isinstance(entry, str) and _is_path(entry) for entry in table)


def _is_path(text: str) -> bool:
    return os.sep in text or "*" in text or text.lower().endswith(FILE_SUFFIXES)
