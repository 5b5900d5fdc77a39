"""NeighborLoader: seeds in, batches out, made ahead in threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, Unpack

from fondaco.graph._arguments import whole
from fondaco.graph.graph import Graph
from fondaco.graph.prefetching import in_order
from fondaco.graph.schema import Direction
from fondaco.graph.torch.fan_outs import AnyFanOuts, FanOuts, GrowingFanOuts, hops_of
from fondaco.graph.torch.neighborhoods import MakeBatch, Neighborhoods, Seeds
from fondaco.graph.torch.options import LoaderOptions
from fondaco.graph.torch.plan import EpochPlan


class Source(Protocol):
    """Batches by epoch and round: `Neighborhoods` or `Links`."""

    graph: Graph
    direction: Direction
    plan: EpochPlan
    seed: int

    def __len__(self) -> int: ...

    def epoch(self, number: int, fan_outs: FanOuts) -> MakeBatch: ...


class EpochLoader:
    """What loaders share: passing over a source, epoch by epoch. Not for several threads at once; its own threads end with each pass."""

    def __init__(self, source: Source, fan_outs: AnyFanOuts, prefetch: int, threads: int) -> None:
        self.source, self.fan_outs = source, fan_outs
        self.prefetch, self.threads = whole(prefetch, "prefetch (batches made ahead)", 0), whole(threads, "threads", 1)
        self.epoch = 0
        check_fan_outs(source, fan_outs)

    @property
    def seed(self) -> int:
        """What the orders and draws are keyed by; given again it gives the same batches."""
        return self.source.seed

    def __len__(self) -> int:
        """Batches of an epoch, for this trainer."""
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """The number of the next pass; each pass adds one. To resume a training, or to repeat an epoch."""
        self.epoch = whole(epoch, "epoch", 0)

    def __iter__(self) -> Iterator[Any]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        make = self.source.epoch(epoch, fan_outs_of(self.source, self.fan_outs))
        return in_order(make, range(len(self)), depth=self.prefetch, threads=self.threads)


class NeighborLoader(EpochLoader):
    """Mini-batches of seeds with their sampled neighbourhoods, for training on a `Graph`, embedded or served.

        loader = fd.graph.torch.NeighborLoader(graph, train_ids, fan_outs=[15, 10], batch_size=1024, labels="y", shuffle=True)
        for batch in loader:
            out = model(batch.x, batch.edge_index)[: batch.batch_size]
            loss = cross_entropy(out, batch.y[: batch.batch_size])

    What is in a batch: `fondaco.graph.torch.batches`. Batch n of epoch e is a function of (graph version, seeds, options, e, n): the same
    embedded or served, for any `prefetch` and `threads`, and for any number of trainers but in an epoch's last round (`plan`).

    Args:
        seeds: ids; (node type, ids); a node type or None: all nodes. They may repeat, and may have a time each (`as_of`).
        fan_outs: neighbours a node at each hop (-1: all): numbers, or {edge type: number}; or {edge type: numbers}; or `GrowingFanOuts`.
        batch_size: seeds in a batch of one trainer.
        prefetch: batches made ahead at most; 0: made when taken. threads: that make them.
        options: `LoaderOptions`: features, labels, shuffle, seed, as_of, strategy, rank and world, ...
    Raises:
        InputError, NodeTypeNotFoundError, FeatureNotFoundError: at once. What `Graph.sample` raises: when the batch is taken.
    """

    def __init__(
        self,
        graph: Graph,
        seeds: Seeds = None,
        fan_outs: AnyFanOuts = (15, 10),
        batch_size: int = 1024,
        prefetch: int = 2,
        *,
        threads: int = 2,
        node_type: str | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(Neighborhoods(graph, seeds, batch_size, options, node_type), fan_outs, prefetch, threads)


def fan_outs_of(source: Source, fan_outs: AnyFanOuts) -> FanOuts:
    """The fan-outs to use now, one entry a hop."""
    return hops_of(source.graph.schema, source.direction, fan_outs.current if isinstance(fan_outs, GrowingFanOuts) else fan_outs)


def check_fan_outs(source: Source, fan_outs: AnyFanOuts) -> None:
    """Refuse fan-outs that cannot be, before any batch is made.

    Raises:
        InputError, EdgeTypeNotFoundError.
    """
    for each in fan_outs.levels if isinstance(fan_outs, GrowingFanOuts) else (fan_outs,):
        hops_of(source.graph.schema, source.direction, each)
