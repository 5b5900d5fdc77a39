"""EmbeddedGraph: a graph answered in this process, from mapped files.

It asks its supplier for the opened version at every call, so it follows what the supplier follows (a platform's CURRENT, or one version).
Big arrays of answers come from a pool of buffers that answers give back when they are gone: fresh memory costs the kernel as much as
filling it does. Thread rule: any thread, several at a time; good in a forked child; pickles if its supplier does.
Importing this imports numba when something is asked, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from fondaco.graph.buffers import BufferPool
from fondaco.graph.deadlines import Deadline
from fondaco.graph.graph import Graph
from fondaco.graph.queries import Answer, Arrays, GraphInfo, Query

if TYPE_CHECKING:
    from fondaco.graph.local import LocalShards
    from fondaco.graph.opened import OpenGraph
    from fondaco.graph.store_features import StoreFeatures
    from fondaco.store.store_reader import StoreReader

Supplier: TypeAlias = "Callable[[], OpenGraph | Sequence[OpenGraph]]"


class EmbeddedGraph(Graph):
    """A graph in this process."""

    def __init__(self, supply: Supplier, stores: Callable[[str], StoreReader] | None = None, *, timeout_s: float | None = None) -> None:
        """
        Args:
            supply: gives the version to answer from, or the parts of it that play its shards; called at every question.
            stores: opens a reader of a store by its name, for features that are bound to one; readers are closed with this.
            timeout_s: the default of calls; None: they may take as long as they take.
        """
        self._supply, self._open_store, self._timeout_s = supply, stores, timeout_s
        self._pool = BufferPool()
        self._stores: StoreFeatures | None = None
        self._last: tuple[object, GraphInfo, LocalShards | None] | None = None  # of the version that was supplied last

    @property
    def info(self) -> GraphInfo:
        return self._opened(self._supply())[1]

    def _ask(self, query: Query, arrays: Arrays, timeout_s: float | None) -> Answer:
        from fondaco.graph.executor import execute

        shards = self._shards(self._supply())
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s)
        return execute(query, arrays, shards, deadline=deadline, allocate=self._pool.take, stores=self._store_features())

    def close(self) -> None:
        if self._stores is not None:
            self._stores.close()

    def __reduce__(self) -> tuple[object, ...]:
        return EmbeddedGraph, (self._supply, self._open_store)

    # Two threads may each make one of these; the last one stays, and both are good.

    def _opened(self, supplied: OpenGraph | Sequence[OpenGraph]) -> tuple[object, GraphInfo, LocalShards | None]:
        last = self._last
        if last is None or last[0] is not supplied:
            last = self._last = (supplied, graph_info(supplied[0] if isinstance(supplied, Sequence) else supplied), None)
        return last

    def _shards(self, supplied: OpenGraph | Sequence[OpenGraph]) -> LocalShards:
        _, info, shards = self._opened(supplied)
        if shards is None:
            from fondaco.graph.local import LocalShards, ShardAnswers

            parts = supplied if isinstance(supplied, Sequence) else [supplied]
            shards = LocalShards([ShardAnswers(part) for part in parts])
            self._last = (supplied, info, shards)
        return shards

    def _store_features(self) -> StoreFeatures | None:
        if self._stores is None and self._open_store is not None:
            from fondaco.graph.store_features import StoreFeatures

            self._stores = StoreFeatures(self._open_store)
        return self._stores


def graph_info(opened: OpenGraph) -> GraphInfo:
    """What an opened version says of itself."""
    return GraphInfo(
        graph=opened.name,
        version=opened.version,
        partitions=opened.partitions,
        schema=opened.schema,
        node_counts=opened.manifest.node_counts(),
        edge_counts=opened.manifest.edge_counts(),
    )
