"""Plan: what a node should do next, as a pure function of the state of the cluster and of what lies in its directory.

Level-based: a plan is made anew in each pass and trusts no event. Carrying it out twice does no harm, and carrying out half of it leaves a
state from which the next pass goes on. Replicas come before they are reported, and are out of the reports before they go.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from fondaco.catalog import ReplicaRow, ReplicaState
from fondaco.cluster.routing import Router
from fondaco.cluster.state import ReplicaKey


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Steps of one pass, in the order in which they are taken."""

    report: list[ReplicaKey] = field(default_factory=list)  # held and not said so (any more): ready
    fetch: list[ReplicaKey] = field(default_factory=list)  # the most urgent first
    drain: list[ReplicaKey] = field(default_factory=list)  # held, not wanted here, and no reader needs it
    forget: list[ReplicaKey] = field(default_factory=list)  # drained long enough, or said to be held and not: the row goes
    remove: list[ReplicaKey] = field(default_factory=list)  # held, and no row says so: the file goes


def make_plan(router: Router, node: str, held: Set[ReplicaKey], *, drain_s: float) -> NodePlan:
    """What `node`, in whose directory `held` lies, should do.

    Args:
        drain_s: how long a replica stays after routing left it: longer than readers use an old table.
    """
    plan, rows = NodePlan(), router.state.of_node(node)
    wanted = _wanted(router, node)
    for key in wanted:
        row = rows.get(key)
        if key not in held:
            plan.fetch.append(key)
        elif row is None or row.state is not ReplicaState.READY:
            plan.report.append(key)
    for key in sorted(held - set(wanted)):
        row = rows.get(key)
        if row is None or row.state is ReplicaState.FETCHING:
            plan.remove.append(key)  # came as it was no longer wanted, or its row went in an earlier pass
            if row is not None:
                plan.forget.append(key)
        elif not _may_go(router, key):
            if row.state is not ReplicaState.READY:
                plan.report.append(key)
        elif row.state is ReplicaState.READY:
            plan.drain.append(key)
        elif _drained(row, router.now_us, drain_s):
            plan.forget.append(key)
            plan.remove.append(key)
    for key, row in rows.items():
        if key not in held and (key not in wanted or row.state is not ReplicaState.FETCHING):
            plan.forget.append(key)  # the file is gone, or was never there
    return plan


def _wanted(router: Router, node: str) -> dict[ReplicaKey, None]:
    """What the node should hold, the most urgent first."""
    wanted: dict[ReplicaKey, None] = {}
    for store in router.state.stores.values():
        for version in store.wanted():
            for partition in range(store.partitions(version)):
                key = ReplicaKey(store.row.id, version, partition)
                if node in router.assigned(key):
                    wanted[key] = None
    return wanted


def _may_go(router: Router, key: ReplicaKey) -> bool:
    """Whether readers can do without this node's replica: nobody wants the version any more, or all that should have it do."""
    store = router.state.stores.get(key.store_id)
    return store is None or key.version not in store.wanted() or router.is_settled(key)


def _drained(row: ReplicaRow, now_us: int, drain_s: float) -> bool:
    return now_us - row.updated_us >= drain_s * 1e6
