"""DeepGNNDataset: a sampler's inputs, put through a query function (`deepgnn.graph_engine.graph_dataset` there)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from fondaco.core.errors import InputError
from fondaco.graph.deepgnn.client import Graph
from fondaco.graph.deepgnn.samplers import BaseSampler
from fondaco.graph.prefetching import in_order


class Backend(Protocol):
    """Whatever holds a graph: `dataset.backend.graph`."""

    @property
    def graph(self) -> Graph: ...


class DeepGNNDataset:
    """Iterates over `query_fn(graph, inputs)` for the inputs of `sampler_class(...)`.

    The sampler gets those of its parameters that it asks for by name: from `kwargs`, from this dataset's own, and the graph where a
    parameter is called `graph` or annotated with `Graph`. The graph: `backend.graph`, or `graph=`. With `enable_prefetch`,
    `prefetch_worker_size` threads (default 2) work ahead by `prefetch_queue_size` (default 10) results, which come in order, unlike
    DeepGNN's.
    """

    def __init__(
        self,
        sampler_class: type[BaseSampler],
        query_fn: Callable[[Any, Any], Any],
        backend: Backend | None = None,
        num_workers: int = 1,
        worker_index: int = 0,
        batch_size: int = 1,
        epochs: int = 1,
        enable_prefetch: bool = False,
        collate_fn: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.sampler_class, self.query_fn, self.backend, self.kwargs = sampler_class, query_fn, backend, kwargs
        self.num_workers, self.worker_index, self.batch_size, self.epochs = num_workers, worker_index, batch_size, epochs
        self.collate_fn, self.enable_prefetch = collate_fn, enable_prefetch
        self.graph: Any = kwargs.pop("graph", None)
        self.prefetch_queue_size = kwargs.pop("prefetch_queue_size", 10)
        self.prefetch_worker_size = kwargs.pop("prefetch_worker_size", 2)
        self.init_graph_client()
        self.init_sampler()

    def init_graph_client(self) -> None:
        """Set `graph`; for classes that have a way of their own."""
        if self.backend is not None:
            self.graph = self.backend.graph

    def init_sampler(self) -> None:
        """Set `sampler`; for classes that have a way of their own.

        Raises:
            InputError: the sampler draws from a graph, and there is none.
        """
        given: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.sampler_class).parameters.items():
            if name == "graph" or parameter.annotation in (Graph, "Graph"):
                if self.graph is None:
                    raise InputError(f"{self.sampler_class.__name__} draws from a graph: give the dataset backend= or graph=")
                given[name] = self.graph
            elif name in self.kwargs:
                given[name] = self.kwargs[name]
            elif hasattr(self, name):
                given[name] = getattr(self, name)
        self.sampler: BaseSampler = self.sampler_class(**given)

    def __iter__(self) -> Iterator[Any]:
        if not self.enable_prefetch:
            return (self.query_fn(self.graph, inputs) for inputs in self.sampler)
        return in_order(
            lambda inputs: self.query_fn(self.graph, inputs),
            self.sampler,
            depth=self.prefetch_queue_size,
            threads=self.prefetch_worker_size,
        )

    def __len__(self) -> int:
        return len(self.sampler)
