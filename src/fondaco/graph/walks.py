"""Walks: carry walkers between the shards that hold the nodes where they stand, and, on a shard, walk as far as it leads.

A walker is moved by the shard that holds its node until its next node lies elsewhere; then it goes on there, all walkers that changed shard
in one round. For a second-order step whose previous node lies elsewhere, the shard proposes candidates, the shard of the previous node says
which of them are its neighbours, and the choice follows here. With one shard that is one call of one kernel. Every draw is a function of
(seed, walker, step, attempt), so walks do not depend on how many shards there are. Draws: `_walk_kernels`.

Pure functions; any thread. Importing this imports numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, ProtocolError
from fondaco.graph import _walk_kernels as kernels
from fondaco.graph._draws import SALT_WALK, key_of, mixed
from fondaco.graph.packed import tables_of
from fondaco.graph.queries import ALL, Arrays
from fondaco.graph.routing import nodes_by_shard
from fondaco.graph.sampling import writable
from fondaco.graph.schema import GraphSchema
from fondaco.graph.shards import Find, Hop, ShardRequest, Shards, WalkOn

if TYPE_CHECKING:
    from fondaco.graph.deadlines import Deadline
    from fondaco.graph.opened import OpenGraph

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
U8Array = npt.NDArray[np.uint8]

_STATE: Final = ("step", "phase", "node", "previous", "attempt", "clock")


def check_walk(schema: GraphSchema, query: WalkOn) -> list[str]:
    """The node type that each turn of the path starts from.

    Raises:
        InputError: the steps do not follow each other, lack weights, or ask for what does not go together. EdgeTypeNotFoundError.
    """
    turns: list[tuple[int, int]] = []
    for names in query.steps:
        ends = set()
        for name in names:
            adjacency = schema.adjacency(name, query.direction)
            ends.add((adjacency.from_type, adjacency.to_type))
            if query.weighted and not adjacency.edge.weighted:
                raise InputError(f"edges {adjacency.edge.name!r} have no weights; walk with weighted=False, or build them with a weight")
        if len(ends) != 1:
            raise InputError(f"edge types of one step lead from one node type to one; {', '.join(names) or 'no edge type'} do not")
        turns += ends
    if not turns:
        raise InputError("a walk needs an edge type to go along")
    for turn, (_, to_type) in enumerate(turns):
        following = turns[(turn + 1) % len(turns)][0]
        if to_type != following and (turn + 1 < len(turns) or query.length > len(turns)):
            raise InputError(
                f"step {turn + 1} leads to {schema.nodes[to_type].name!r}, and the next starts at {schema.nodes[following].name!r}; "
                "choose edge types that follow each other"
            )
    second = query.p != 1.0 or query.q != 1.0
    if second and (len(turns) > 1 or turns[0][0] != turns[0][1] or query.temporal):
        raise InputError("p and q go with one step of edges within one node type, and not with temporal=True")
    return [schema.nodes[from_type].name for from_type, _ in turns]


def walk(shards: Shards, query: WalkOn, starts: I32Array, deadline: Deadline, as_of: I64Array | None = None) -> I32Array:
    """Walk from every start.

    Args:
        starts: int32 [n], dense ids; -1 (unknown): no walk. Walker i is keyed by i.
        as_of: int64 [n] or [1]: only edges at or before it.
    Returns:
        int32 [n, length + 1], dense ids of the types along the path, the start first; -1 after a dead end.
    Raises:
        InputError: see `check_walk`.
    """
    from_types = check_walk(shards.schema, query)
    walkers = _Walkers(query, starts, as_of)
    pending = np.flatnonzero((starts >= 0) & (query.length > 0))
    while len(pending):
        deadline.check()
        before = walkers.state["step"][pending] * (kernels.ATTEMPTS_MAX + 1) + walkers.state["attempt"][pending]
        status = _advance(shards, walkers, from_types, pending, deadline)
        _check(shards, walkers, from_types[0], pending[status == kernels.CHECK], deadline)
        moved = status == kernels.ELSEWHERE
        if (status == kernels.SCAN).any():
            alive = _scan(shards, walkers, from_types[0], pending[status == kernels.SCAN], deadline)
            moved[status == kernels.SCAN] = alive
        moved |= status == kernels.CHECK
        after = walkers.state["step"][pending] * (kernels.ATTEMPTS_MAX + 1) + walkers.state["attempt"][pending]
        if (moved & (after <= before)).any():
            raise ProtocolError("a shard of the graph", "it does not hold nodes of the partitions that it says it holds")
        pending = pending[moved & (walkers.state["step"][pending] < query.length)]
    return walkers.out


def answer_walk_on(opened: OpenGraph, query: WalkOn, arrays: Arrays) -> Arrays:
    """A shard's answer to `WalkOn`."""
    check_walk(opened.schema, query)
    names = [name for step in query.steps for name in step]
    tables = tables_of(opened).stack(opened, names, query.direction)
    bounds = np.cumsum([0, *(len(step) for step in query.steps)])
    nodes = np.array(arrays["node"], np.int32)
    n = len(nodes)

    def taken(name: str, dtype: type[np.int32] | type[np.int64], default: int) -> npt.NDArray[Any]:
        given = arrays.get(name)
        return np.full(n, default, dtype) if given is None else np.array(given, dtype)

    step, phase, attempt = taken("step", np.int32, 0), taken("phase", np.int32, 0), taken("attempt", np.int32, 0)
    previous, clock = taken("previous", np.int32, -1), taken("clock", np.int64, kernels.NEVER)
    walker, origin = taken("walker", np.int64, 0), taken("origin", np.int32, 0)
    out = np.full((n, query.length + 1), -1, np.int32)
    status = np.empty(n, np.uint8)
    proposing = (query.p != 1.0 or query.q != 1.0) and not opened.holds_all
    candidates = np.empty((n if proposing else 0, kernels.CANDIDATES), np.int32)
    first = step.copy()
    kernels.walk_on(
        tables, bounds, key_of(query.seed, 0, SALT_WALK), query.length, query.weighted, query.temporal, query.restart, query.p, query.q,
        walker, step, phase, nodes, previous, origin, attempt, clock, _bound(arrays.get("as_of"), n), out, status, candidates,
    )  # fmt: skip
    made = (step - first).astype(np.int64)
    answer: Arrays = {"made": made, "nodes": out[:, 1:].reshape(-1) if made.sum() == n * query.length else out[out >= 0], "status": status}
    if (status != kernels.DONE).any():
        answer |= {"phase": phase, "node": nodes, "previous": previous, "attempt": attempt, "clock": clock}
        answer["candidates"] = candidates[status == kernels.CHECK] if proposing else candidates
    return answer


class _Walkers:
    """Where walkers stand. `state`: by name, all [n]; `out`: int32 [n, length + 1], steps made so far."""

    def __init__(self, query: WalkOn, starts: I32Array, as_of: I64Array | None) -> None:
        n = len(starts)
        self.query = query
        self.key = key_of(query.seed, 0, SALT_WALK)
        self.number = np.arange(n, dtype=np.int64)
        self.origin = writable(starts, np.int32)
        self.as_of = None if as_of is None else np.broadcast_to(as_of, n)
        self.out = np.full((n, query.length + 1), -1, np.int32)
        self.out[:, 0] = starts
        self.candidates: I32Array = np.empty((0, kernels.CANDIDATES), np.int32)
        self.state: Arrays = {
            "step": np.zeros(n, np.int32),
            "phase": np.zeros(n, np.int32),
            "node": self.origin.copy(),
            "previous": np.full(n, -1, np.int32),
            "attempt": np.zeros(n, np.int32),
            "clock": np.full(n, kernels.NEVER, np.int64),
        }

    def request(self, rows: I64Array) -> Arrays:
        """The arrays of `WalkOn` for some walkers; those that say nothing are left out."""
        query = self.query
        names = ["step", "node"]
        names += ["phase"] if len(query.steps) > 1 else []
        names += ["previous", "attempt"] if query.p != 1.0 or query.q != 1.0 else []
        names += ["clock"] if query.temporal else []
        arrays: Arrays = {name: self.state[name][rows] for name in names}
        arrays["walker"] = self.number[rows]
        if query.restart > 0.0:
            arrays["origin"] = self.origin[rows]
        if self.as_of is not None:
            arrays["as_of"] = self.as_of[rows]
        return arrays

    def take(self, rows: I64Array, answer: Arrays) -> U8Array:
        """Put a shard's answer in its place; the status of each of `rows`."""
        made, nodes, step = answer["made"], answer["nodes"], self.state["step"]
        if len(nodes) == len(self.out) * self.query.length:
            self.out[:, 1:] = nodes.reshape(len(rows), -1)
        else:
            begin = np.repeat(np.cumsum(made) - made, made)
            column = np.repeat(step[rows], made) + 1 + (np.arange(len(nodes)) - begin)
            self.out[np.repeat(rows, made), column] = nodes
        step[rows] += made.astype(np.int32)
        for name in _STATE[1:]:
            if name in answer:
                self.state[name][rows] = answer[name]
        return answer["status"]

    def move(self, rows: I64Array, to: I32Array) -> None:
        """Second-order steps that were chosen here."""
        state = self.state
        state["step"][rows] += 1
        self.out[rows, state["step"][rows]] = to
        state["phase"][rows] += 1
        state["previous"][rows] = state["node"][rows]
        state["node"][rows] = to
        state["attempt"][rows] = 0


def _bound(as_of: npt.NDArray[np.int64] | None, count: int) -> I64Array:
    """as_of as kernels take it: one entry a row, or none."""
    return np.empty(0, np.int64) if as_of is None else np.array(np.broadcast_to(as_of, count), np.int64)


def _advance(shards: Shards, walkers: _Walkers, from_types: list[str], pending: I64Array, deadline: Deadline) -> U8Array:
    """Let every walker be moved by the shard of its node. Returns the status of each of `pending`; `walkers.candidates` those to check."""
    status = np.empty(len(pending), np.uint8)
    turns = walkers.state["phase"][pending] % len(from_types)
    parts: list[tuple[int, I64Array]] = []
    for node_type in dict.fromkeys(from_types):
        among = np.flatnonzero(np.array([name == node_type for name in from_types])[turns])
        parts += [(s, among[chosen]) for s, chosen in nodes_by_shard(shards, node_type, walkers.state["node"][pending[among]])]
    requests = [ShardRequest(shard, walkers.query, walkers.request(pending[chosen])) for shard, chosen in parts]
    candidates = np.empty((len(pending), kernels.CANDIDATES), np.int32)
    for (_, chosen), answer in zip(parts, shards.ask(requests, deadline), strict=True):
        status[chosen] = walkers.take(pending[chosen], answer)
        checked = chosen[status[chosen] == kernels.CHECK]
        if len(checked):
            candidates[checked] = answer["candidates"]
    walkers.candidates = candidates[status == kernels.CHECK]
    return status


def _check(shards: Shards, walkers: _Walkers, node_type: str, rows: I64Array, deadline: Deadline) -> None:
    """Decide over the candidates of second-order steps: ask the shards of the previous nodes which are their neighbours."""
    if not len(rows):
        return
    state, candidates = walkers.state, walkers.candidates
    previous = np.ascontiguousarray(state["previous"][rows], np.int32)
    as_of = None if walkers.as_of is None else np.repeat(walkers.as_of[rows], kernels.CANDIDATES)
    known = _neighbours(shards, walkers.query, node_type, np.repeat(previous, kernels.CANDIDATES), candidates.reshape(-1), as_of, deadline)
    steps, attempts = state["step"][rows].astype(np.int32), state["attempt"][rows].astype(np.int32)
    chosen = np.empty(len(rows), np.int32)
    query = walkers.query
    kernels.settle(walkers.key, query.p, query.q, rows, steps, previous, attempts, candidates, known.reshape(candidates.shape), chosen)
    state["attempt"][rows] = attempts
    taken = chosen >= 0
    walkers.move(rows[taken], chosen[taken])


def _neighbours(
    shards: Shards, query: WalkOn, node_type: str, nodes: I32Array, targets: I32Array, as_of: I64Array | None, deadline: Deadline
) -> U8Array:
    """uint8 [n]: whether an edge of the walk's types leads from nodes[i] to targets[i]."""
    requests: list[ShardRequest] = []
    places: list[I64Array] = []
    for shard, chosen in nodes_by_shard(shards, node_type, nodes):
        arrays: Arrays = {"frontier": nodes[chosen], "to": targets[chosen]}
        if as_of is not None:
            arrays["as_of"] = as_of[chosen]
        for name in query.steps[0]:
            requests.append(ShardRequest(shard, Find(edge_type=name, direction=query.direction), arrays))
            places.append(chosen)
    known = np.zeros(len(nodes), np.uint8)
    for chosen, answer in zip(places, shards.ask(requests, deadline), strict=True):
        known[chosen] |= answer["edge_ids"] >= 0
    return known


def _scan(shards: Shards, walkers: _Walkers, node_type: str, rows: I64Array, deadline: Deadline) -> npt.NDArray[np.bool_]:
    """Choose by the exact probabilities over whole lists; returns which of `rows` moved. Rare: no attempt succeeded."""
    query, state = walkers.query, walkers.state
    nodes = np.ascontiguousarray(state["node"][rows], np.int32)
    lists: list[list[tuple[I32Array, npt.NDArray[np.float32]]]] = [[] for _ in rows]
    for name in query.steps[0]:
        hop = Hop(edge_type=name, direction=query.direction, fan_out=ALL, strategy="all", weights=query.weighted)
        parts = nodes_by_shard(shards, node_type, nodes)
        requests = []
        for shard, chosen in parts:
            arrays: Arrays = {"frontier": nodes[chosen]}
            if walkers.as_of is not None:
                arrays["as_of"] = walkers.as_of[rows[chosen]]
            requests.append(ShardRequest(shard, hop, arrays))
        for (_, chosen), answer in zip(parts, shards.ask(requests, deadline), strict=True):
            ends = np.cumsum(answer["counts"])[:-1]
            weights = np.split(answer["weights"], ends) if query.weighted else [np.empty(0, np.float32)] * len(chosen)
            for row, to, share in zip(chosen, np.split(answer["neighbors"], ends), weights, strict=True):
                lists[row].append((to, share))
    alive = np.zeros(len(rows), np.bool_)
    for i, row in enumerate(rows):
        to = writable(np.concatenate([part for part, _ in lists[i]]), np.int32)
        weights_of = writable(np.concatenate([share for _, share in lists[i]]), np.float32)
        previous = int(state["previous"][row])
        as_of = None if walkers.as_of is None else np.full(len(to), walkers.as_of[row])
        known = _neighbours(shards, query, node_type, np.full(len(to), previous, np.int32), to, as_of, deadline)
        x = mixed(mixed(mixed(int(walkers.key), int(row)), int(state["step"][row])), 1)
        chosen = kernels.weigh(to, weights_of, known, previous, query.p, query.q, np.uint64(x))
        if chosen >= 0:
            alive[i] = True
            walkers.move(rows[i : i + 1], to[chosen : chosen + 1])
    return alive
