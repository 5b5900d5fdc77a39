"""EmbeddedGraph: a graph answered in this process, from mapped files.

It asks its supplier for the opened version at every call, so it follows what the supplier follows (a platform's CURRENT, or one version).
Big arrays of answers come from a pool of buffers that answers give back when they are gone: fresh memory costs the kernel as much as
filling it does. Thread rule: any thread, several at a time; good in a forked child; pickles if its supplier does.
Importing this imports numba when something is asked, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from fondaco.graph.buffers import BufferPool
from fondaco.graph.deadlines import Deadline
from fondaco.graph.graph import Graph
from fondaco.graph.opened import OpenGraph
from fondaco.graph.queries import Answer, Arrays, GraphInfo, Query

if TYPE_CHECKING:
    from fondaco.graph.local import LocalShards
    from fondaco.graph.store_features import StoreFeatures

Supplier = Callable[[], "OpenGraph | Sequence[OpenGraph]"]


class EmbeddedGraph(Graph):
    """A graph in this process."""

    def __init__(self, supply: Supplier, stores: StoreFeatures | None = None, *, timeout_s: float | None = None) -> None:
        """
        Args:
            supply: gives the version to answer from, or the parts of it that play its shards; called at every question.
            stores: reads features that are bound to stores. Closed with this.
            timeout_s: the default of calls; None: they may take as long as they take.
        """
        self._supply, self._stores, self._timeout_s = supply, stores, timeout_s
        self._pool = BufferPool()

    @property
    def info(self) -> GraphInfo:
        opened = self._supply()
        return graph_info(opened if isinstance(opened, OpenGraph) else opened[0])

    def _ask(self, query: Query, arrays: Arrays, timeout_s: float | None) -> Answer:
        from fondaco.graph.executor import execute

        opened = self._supply()
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s)
        return execute(query, arrays, local_shards(opened), deadline=deadline, allocate=self._pool.take, stores=self._stores)

    def close(self) -> None:
        if self._stores is not None:
            self._stores.close()

    def __reduce__(self) -> tuple[object, ...]:
        return EmbeddedGraph, (self._supply, self._stores)


def graph_info(opened: OpenGraph) -> GraphInfo:
    """What an opened version says of itself (kept with it)."""
    info = _infos.get(opened)
    if info is None:
        edge_counts: dict[str, int] = {}
        for table in opened.adjacency_tables:
            edge_counts.setdefault(table.adjacency.edge.name, table.edge_count)
        info = _infos[opened] = GraphInfo(
            graph=opened.name,
            version=opened.version,
            partitions=opened.partitions,
            schema=opened.schema,
            node_counts={table.type.name: table.count for table in opened.node_tables},
            edge_counts=edge_counts,
        )
    return info


def local_shards(opened: OpenGraph | Sequence[OpenGraph]) -> LocalShards:
    """The shards of an opened version in this process (kept with it)."""
    from fondaco.graph.local import LocalShards, ShardAnswers

    if isinstance(opened, OpenGraph):
        shards = _shards.get(opened)
        if shards is None:
            shards = _shards[opened] = LocalShards([ShardAnswers(opened)])
        return shards
    return LocalShards([ShardAnswers(part) for part in opened])


_infos: WeakKeyDictionary[OpenGraph, GraphInfo] = WeakKeyDictionary()
_shards: WeakKeyDictionary[OpenGraph, LocalShards] = WeakKeyDictionary()
