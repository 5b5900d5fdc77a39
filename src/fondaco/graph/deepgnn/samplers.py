"""Where DeepGNN's batches of inputs come from: the graph, files of ids, ranges (`deepgnn.graph_engine.samplers` there).

A sampler is iterated for arrays of `batch_size` inputs; the last may be filled up with `backfill_id`. `data_parallel_index` of
`data_parallel_num` trainers takes every so many-th batch. Orders come from NumPy's global generator, as there: np.random.seed repeats them.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph.deepgnn.client import Graph
from fondaco.graph.deepgnn.strategies import SamplingStrategy

INVALID_NODE_ID: Final = -1


class BaseSampler:
    """What samplers have in common; a sampler of one's own gives `__iter__` and `__len__`."""

    def __init__(
        self,
        batch_size: int,
        epochs: int,
        shuffle: bool,
        sample_num: int = -1,
        prefetch_size: int = 4,
        data_parallel_num: int = 1,
        data_parallel_index: int = 0,
    ) -> None:
        self.batch_size, self.epochs, self.shuffle = batch_size, epochs, shuffle
        self.sample_num, self.prefetch_size = sample_num, prefetch_size
        self.data_parallel_num, self.data_parallel_index = data_parallel_num, data_parallel_index

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def reset(self) -> None:
        """There is nothing to free."""


class _Draws(BaseSampler):
    """Batches drawn from the graph, `epochs` times as many as there are to draw from."""

    def __init__(
        self, graph: Graph, counted: int, batch_size: int, epochs: int, num_workers: int, strategy: SamplingStrategy, **trainers: int
    ) -> None:
        super().__init__(batch_size, epochs, True, counted, **trainers)
        self.graph, self.strategy = graph, strategy
        self.count = math.ceil(epochs * counted / (batch_size * num_workers * self.data_parallel_num))

    def __len__(self) -> int:
        return self.count


class GENodeSampler(_Draws):
    """Nodes drawn from the graph, `epochs` times as many as there are."""

    def __init__(
        self,
        graph: Graph,
        node_types: Any,
        batch_size: int,
        epochs: int,
        sample_num: int = -1,
        num_workers: int = 1,
        strategy: SamplingStrategy = SamplingStrategy.Weighted,
        data_parallel_num: int = 1,
        data_parallel_index: int = 0,
    ) -> None:
        counted = graph.node_count(node_types) if sample_num == -1 else sample_num
        super().__init__(
            graph, counted, batch_size, epochs, num_workers, strategy,
            data_parallel_num=data_parallel_num, data_parallel_index=data_parallel_index,
        )  # fmt: skip
        self.node_types = node_types

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for _ in range(self.count):
            drawn = self.graph.sample_nodes(self.batch_size, self.node_types, strategy=self.strategy)
            yield drawn[0] if isinstance(drawn, tuple) else drawn


class GEEdgeSampler(_Draws):
    """Edges drawn from the graph, [batch_size, 3], `epochs` times as many as there are."""

    def __init__(
        self,
        graph: Graph,
        edge_types: Any,
        batch_size: int,
        epochs: int,
        sample_num: int = -1,
        num_workers: int = 1,
        strategy: SamplingStrategy = SamplingStrategy.Weighted,
        data_parallel_num: int = 1,
        data_parallel_index: int = 0,
    ) -> None:
        counted = graph.edge_count(edge_types) if sample_num == -1 else sample_num
        super().__init__(
            graph, counted, batch_size, epochs, num_workers, strategy,
            data_parallel_num=data_parallel_num, data_parallel_index=data_parallel_index,
        )  # fmt: skip
        self.edge_types = edge_types

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for _ in range(self.count):
            yield self.graph.sample_edges(self.batch_size, self.edge_types, strategy=self.strategy)


class _Rows(BaseSampler):
    """Rows of an array, epoch after epoch."""

    def __init__(
        self, rows: npt.NDArray[Any], backfill: Any, drop_last: bool, batch_size: int, epochs: int, shuffle: bool, **trainers: int
    ) -> None:
        super().__init__(batch_size, epochs, shuffle, **trainers)
        self.rows, self.backfill, self.drop_last = rows, backfill, drop_last

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        count = len(self.rows)
        orders = [np.random.permutation(count) if self.shuffle else np.arange(count) for _ in range(self.epochs)]
        order = np.concatenate(orders) if orders else np.empty(0, np.int64)
        step = self.batch_size * self.data_parallel_num
        for start in range(self.data_parallel_index * self.batch_size, len(order), step):
            taken = self.rows[order[start : start + self.batch_size]]
            if len(taken) < self.batch_size:
                if self.drop_last:
                    return
                short = np.empty((self.batch_size, *taken.shape[1:]), taken.dtype)
                short[:] = self.backfill
                short[: len(taken)] = taken
                taken = short
            yield taken

    def __len__(self) -> int:
        batches = len(self.rows) * self.epochs / (self.batch_size * self.data_parallel_num)
        return math.floor(batches) if self.drop_last else math.ceil(batches)


class FileNodeSampler(_Rows):
    """Ids of nodes from text files, one a line; `sample_files` is a pattern."""

    def __init__(
        self,
        sample_files: str,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        backfill_id: int = INVALID_NODE_ID,
        worker_index: int = 0,
        num_workers: int = 1,
        data_parallel_num: int = 1,
        data_parallel_index: int = 0,
    ) -> None:
        names = get_files(sample_files, worker_index, num_workers)
        nodes = np.concatenate([np.atleast_1d(np.loadtxt(name, np.int64, ndmin=1)) for name in names])
        super().__init__(
            nodes, backfill_id, drop_last, batch_size, epochs, shuffle,
            data_parallel_num=data_parallel_num, data_parallel_index=data_parallel_index,
        )  # fmt: skip


class FileEdgeSampler(_Rows):
    """Edges from text files, "source<tab>target" a line, as [batch_size, 3] with `edge_type`; `sample_files` is a pattern.

    With `feature_dim` numbers after the target in each line: lists of two arrays, the edges and [batch_size, feature_dim] `feature_type`.
    """

    def __init__(
        self,
        edge_type: int,
        sample_files: str,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool = False,
        delimeter: str = "\t",
        feature_dim: int = 0,
        feature_type: npt.DTypeLike = np.float32,
        drop_last: bool = False,
        backfill_id: int = INVALID_NODE_ID,
        worker_index: int = 0,
        num_workers: int = 1,
        data_parallel_num: int = 1,
        data_parallel_index: int = 0,
    ) -> None:
        names = get_files(sample_files, worker_index, num_workers)
        ends = np.concatenate([np.loadtxt(name, np.int64, delimiter=delimeter, usecols=(0, 1), ndmin=2) for name in names])
        edges = np.concatenate((ends, np.full((len(ends), 1), edge_type)), axis=1)
        self.edges = np.concatenate((edges, [[backfill_id, backfill_id, edge_type]]))  # the last row fills up the last batch
        self.features = None
        if feature_dim:
            columns = range(2, 2 + feature_dim)
            read = [np.loadtxt(name, feature_type, delimiter=delimeter, usecols=columns, ndmin=2) for name in names]
            self.features = np.concatenate((*read, np.zeros((1, feature_dim), feature_type)))
        super().__init__(
            np.arange(len(ends)), -1, drop_last, batch_size, epochs, shuffle,
            data_parallel_num=data_parallel_num, data_parallel_index=data_parallel_index,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        for rows in super().__iter__():
            yield self.edges[rows] if self.features is None else [self.edges[rows], self.features[rows]]


class RangeNodeSampler(BaseSampler):
    """The ids from `first` to before `last`: workers take every so many-th batch, trainers every so many-th id."""

    def __init__(
        self,
        first: int,
        last: int,
        batch_size: int,
        worker_index: int,
        num_workers: int,
        backfill_id: int,
        data_parallel_num: int = 1,
        data_parallel_index: int = 0,
    ) -> None:
        super().__init__(batch_size, 1, False, last - first, data_parallel_num=data_parallel_num, data_parallel_index=data_parallel_index)
        self.start_id, self.last = first + worker_index * batch_size, last
        self.num_workers, self.backfill_id = num_workers, backfill_id

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        step = self.data_parallel_num
        start = self.start_id + self.data_parallel_index
        for each in range(start, self.last, self.num_workers * self.batch_size * step):
            ids = each + step * np.arange(self.batch_size)
            yield np.where(ids < self.last, ids, self.backfill_id)

    def __len__(self) -> int:
        return math.ceil((self.last - self.start_id) / (self.batch_size * self.num_workers * self.data_parallel_num))


def get_files(filenames: str, worker_index: int, num_workers: int) -> list[str]:
    """The files of a pattern that are this worker's.

    Raises:
        InputError: fewer files than workers.
    """
    files = sorted(glob.glob(filenames))
    if len(files) < num_workers:
        raise InputError(f"{filenames!r} matches {len(files)} files for {num_workers} workers; each needs one")
    return files[worker_index::num_workers]
