"""GraphIterableDataset: the same batches through torch's DataLoader, made by its worker processes.

Worker w of W makes rounds w, w + W, ... and the DataLoader takes from its workers in turn, so the batches come in the order in which one
process would make them. Processes, unlike a loader's threads, cost a start and a copy of every batch between them: for work on the batches
that holds the GIL (`transform`). Workers cannot count epochs for each other, so say `set_epoch` before each pass; the number lies in memory
that workers share, even those that were started before (persistent_workers). Fork and spawn: the graph is opened again where it arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Unpack

import torch
from torch.utils.data import IterableDataset, get_worker_info

from fondaco.graph._arguments import whole
from fondaco.graph.graph import Graph
from fondaco.graph.torch.fan_outs import AnyFanOuts, GrowingFanOuts, hops_of
from fondaco.graph.torch.neighbor_loader import check_fan_outs
from fondaco.graph.torch.neighborhoods import Neighborhoods, Seeds
from fondaco.graph.torch.options import LoaderOptions


class GraphIterableDataset(IterableDataset):  # type: ignore[misc]  # torch's classes are not typed here
    """Batches of seeds with their neighbourhoods; `DataLoader(dataset, batch_size=None, num_workers=2)` hands them out.

    Arguments as of `NeighborLoader`; `transform` is applied to each batch where it is made.
    """

    def __init__(
        self,
        graph: Graph,
        seeds: Seeds = None,
        fan_outs: AnyFanOuts = (15, 10),
        batch_size: int = 1024,
        *,
        node_type: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__()
        self.source = Neighborhoods(graph, seeds, batch_size, options, node_type)
        self.fan_outs, self.transform = fan_outs, transform
        check_fan_outs(self.source, fan_outs)
        self._now = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, level of growing fan-outs

    def __len__(self) -> int:
        return len(self.source)

    @property
    def epoch(self) -> int:
        """The number of the next pass."""
        return int(self._now[0])

    def set_epoch(self, epoch: int) -> None:
        """The number of the next pass, for all workers; growing fan-outs pass on the level that they have reached."""
        self._now[0] = whole(epoch, "epoch", 0)
        if isinstance(self.fan_outs, GrowingFanOuts):
            self._now[1] = self.fan_outs.level

    def __iter__(self) -> Iterator[Any]:
        said = self.fan_outs.levels[int(self._now[1])] if isinstance(self.fan_outs, GrowingFanOuts) else self.fan_outs
        make = self.source.epoch(self.epoch, hops_of(self.source.graph.schema, self.source.direction, said))
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, len(self), step):
            batch = make(index)
            yield batch if self.transform is None else self.transform(batch)
