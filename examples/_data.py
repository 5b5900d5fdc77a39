"""Data of the examples, brought by you: Cora and Citeseer as Planetoid files, the Facebook page graph as MUSAE's files.

`--data DIR` or the environment variable FONDACO_EXAMPLES_DATA names the folder that holds `planetoid/` and `facebook_pages/`; the
product ships neither. Planetoid: Yang, Cohen, Salakhutdinov 2016 (github.com/kimiyoung/planetoid). Facebook pages: Rozemberczki, Allen,
Sarkar 2019 (github.com/benedekrozemberczki/MUSAE). The Planetoid files are pickles of arrays and sparse matrices; a pickle can say to run
anything, so only those few classes are let through.
"""

from __future__ import annotations

import json
import os
import pickle
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

VARIABLE = "FONDACO_EXAMPLES_DATA"
TRAIN, VALIDATION, TEST, REST = 0, 1, 2, 3  # the feature `part` of a node


@dataclass(frozen=True, slots=True)
class GraphTables:
    """A graph with one node type and one edge type, undirected: tables that `platform.build_graph` takes."""

    nodes: pa.Table  # id, features, `label` int64, `part` int8
    edges: pa.Table  # src, dst, each edge once
    classes: int
    dim: int  # of the feature `x`


def data_folder(asked: Path | None) -> Path:
    """The folder asked for, or the one that the environment names.

    Raises:
        SystemExit: neither is there; says how to name it.
    """
    folder = asked or Path(os.environ.get(VARIABLE, ""))
    if not (folder / "planetoid").is_dir() and not (folder / "facebook_pages").is_dir():
        raise SystemExit(f"no graphs in {str(folder)!r}: name the folder of planetoid/ and facebook_pages/ by --data or {VARIABLE}")
    return folder


def vectors(matrix: npt.NDArray[Any]) -> pa.Array:
    """Rows of a matrix as a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


class _Csr:
    """What a pickled scipy.sparse.csr_matrix carries; scipy itself is not needed to read it."""

    data: npt.NDArray[Any]
    indices: npt.NDArray[Any]
    indptr: npt.NDArray[Any]
    _shape: tuple[int, int]

    def toarray(self) -> npt.NDArray[np.float32]:
        """The matrix with its zeros."""
        whole = np.zeros(self._shape, np.float32)
        whole[np.repeat(np.arange(self._shape[0]), np.diff(self.indptr)), self.indices] = self.data
        return whole


_ALLOWED: Final[dict[tuple[str, str], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("scipy.sparse.csr", "csr_matrix"): _Csr,
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "list"): list,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only what the Planetoid files are made of."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a Planetoid file; take the files from their source")
        return _ALLOWED[module, name]


def read_planetoid(folder: Path, name: str) -> GraphTables:
    """Cora or Citeseer with the public split: 20 nodes a class train, 500 validate, 1,000 test.

    Features are rows of word counts that sum to 1; `degree` float32 counts a node's neighbours, which normalised convolutions need.
    Citeseer's 15 isolated test nodes have neither words nor edges.
    """
    parts: dict[str, Any] = {}
    for part in ("x", "y", "tx", "ty", "allx", "ally", "graph"):
        with open(folder / "planetoid" / f"ind.{name}.{part}", "rb") as file:
            found = _Unpickler(file, encoding="latin1").load()
        parts[part] = found.toarray() if isinstance(found, _Csr) else found
    test = np.loadtxt(folder / "planetoid" / f"ind.{name}.test.index", dtype=np.int64)
    count = int(test.max()) + 1
    known = parts["allx"].shape[0]
    words, classes = np.zeros((count, parts["allx"].shape[1]), np.float32), parts["ally"].shape[1]
    labels = np.zeros((count, classes), np.int64)
    words[:known], labels[:known] = parts["allx"], parts["ally"]
    words[test], labels[test] = parts["tx"], parts["ty"]
    words /= np.maximum(words.sum(1, keepdims=True), 1)
    part = np.full(count, REST, np.int8)
    train = parts["x"].shape[0]
    part[:train], part[train : train + 500], part[test] = TRAIN, VALIDATION, TEST
    ends = np.array([(node, other) for node, others in parts["graph"].items() for other in others], np.int64)
    ends = np.unique(np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1), axis=0)
    degree = np.bincount(ends.ravel(), minlength=count).astype(np.float32)
    nodes = pa.table({"id": np.arange(count), "x": vectors(words), "label": labels.argmax(1), "part": part, "degree": degree})
    return GraphTables(nodes, pa.table({"src": ends[:, 0], "dst": ends[:, 1]}), classes, words.shape[1])


def read_facebook_pages(folder: Path, *, seed: int = 0, dim: int = 128) -> GraphTables:
    """22,470 pages and the likes between them; `x`: the words of a page's description, projected at random to `dim` numbers of length 1.

    The projection is Gaussian, with a seed of its own. 60 % of the pages train, 20 % validate, 20 % test, drawn with `seed`.
    """
    targets = pyarrow.csv.read_csv(folder / "facebook_pages" / "targets.csv")
    ids = targets["id"].to_numpy()
    kinds, labels = np.unique(targets["page_type"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    words = {int(page): np.asarray(found) for page, found in json.loads((folder / "facebook_pages" / "features.json").read_text()).items()}
    bag = np.random.default_rng(2019).standard_normal((max(int(found.max()) for found in words.values()) + 1, dim)).astype(np.float32)
    x = np.stack([bag[words[page]].sum(0) for page in ids.tolist()])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    part = np.random.default_rng(seed).choice([TRAIN, VALIDATION, TEST], len(ids), p=[0.6, 0.2, 0.2]).astype(np.int8)
    likes = pyarrow.csv.read_csv(folder / "facebook_pages" / "edges.csv")
    ends = np.column_stack([likes["id_1"].to_numpy(), likes["id_2"].to_numpy()])
    ends = np.unique(np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1), axis=0)
    nodes = pa.table({"id": ids, "x": vectors(x), "label": labels, "part": part})
    return GraphTables(nodes, pa.table({"src": ends[:, 0], "dst": ends[:, 1]}), len(kinds), dim)
