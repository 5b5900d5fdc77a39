"""Walks: carry walkers between the shards that hold the nodes where they stand, and, on a shard, walk as far as it leads.

A walker is moved by the shard that holds its node until its next node lies elsewhere; then it goes on there, all walkers that changed shard
in one round. For a second-order step whose previous node lies elsewhere, the shard proposes candidates, the shard of the previous node says
which of them are its neighbours, and the choice follows here. With one shard that is one call of one kernel. Every draw is a function of
(seed, walker, step, attempt), so walks do not depend on how many shards there are. Draws: `_walk_kernels`.

Pure functions; any thread. Importing this imports numba.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, LimitError, ProtocolError
from fondaco.graph import _walk_kernels as kernels
from fondaco.graph._draws import SALT_WALK, key_of, mixed
from fondaco.graph.execution import Ask, Execution, seeds_of
from fondaco.graph.packed import tables_of
from fondaco.graph.queries import ALL, Arrays, Node2Vec, RandomWalk, put_ids
from fondaco.graph.sampling import writable
from fondaco.graph.schema import GraphSchema
from fondaco.graph.shards import Find, Hop, WalkOn

if TYPE_CHECKING:
    from fondaco.graph.opened import OpenGraph

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
U8Array = npt.NDArray[np.uint8]

LENGTH_MAX: Final = 1 << 20
NODES_MAX: Final = 1 << 28  # of all walks of one answer: 1 GB, and 2 GB as ids
STEPS_MAX: Final = 1 << 22  # of one call of a kernel, about 0.2 s: more walkers walk in blocks, and the deadline is looked at between them
_STATE: Final = {"phase": np.int32, "node": np.int32, "previous": np.int32, "attempt": np.int32, "clock": np.int64}


def random_walk(execution: Execution, query: RandomWalk, arrays: Arrays) -> Arrays:
    """The answer to `RandomWalk`."""
    steps = tuple(names_of(names) for names in query.edge_types)
    plan = WalkOn(
        steps=steps, direction=query.direction, length=query.length, weighted=query.weighted, temporal=query.temporal,
        restart=query.restart, seed=query.seed,
    )  # fmt: skip
    return _answer(execution, plan, query.node_type, arrays, pad=query.pad)


def node2vec(execution: Execution, query: Node2Vec, arrays: Arrays) -> Arrays:
    """The answer to `Node2Vec`."""
    plan = WalkOn(
        steps=(names_of(query.edge_type),), direction=query.direction, length=query.length, weighted=query.weighted, p=query.p, q=query.q,
        seed=query.seed,
    )  # fmt: skip
    return _answer(execution, plan, query.node_type, arrays, pad=query.pad)


def names_of(edge_types: str | tuple[str, ...]) -> tuple[str, ...]:
    """One edge type or several, as several."""
    return (edge_types,) if isinstance(edge_types, str) else tuple(edge_types)


def _answer(execution: Execution, plan: WalkOn, node_type: str, arrays: Arrays, *, pad: bool) -> Arrays:
    turns = check_walk(execution.schema, plan)
    if turns[0][0] != node_type:
        raise InputError(f"the first step starts at nodes of type {turns[0][0]!r}, not at {node_type!r}")
    starts = execution.resolve(node_type, seeds_of(arrays), pad=pad)
    as_of = check_as_of(execution.schema, [name for step in plan.steps for name in step], arrays, len(starts))
    walks = walk(execution, plan, starts, as_of)
    alive = walks >= 0
    answer: Arrays = {"alive": alive}
    columns = [node_type, *(turns[step % len(turns)][1] for step in range(plan.length))]
    for owner in dict.fromkeys(columns):
        among = np.array([column == owner for column in columns])
        mask = alive if among.all() else alive & among
        dense = walks.reshape(-1) if mask.all() else walks[mask]
        put_ids(answer, f"walks/{owner}", execution.ids(owner, dense))
    return answer


def check_walk(schema: GraphSchema, query: WalkOn) -> list[tuple[str, str]]:
    """The node types that each turn of the path leads from and to.

    Raises:
        InputError: the steps do not follow each other, lack weights, or ask for what does not go together. EdgeTypeNotFoundError.
    """
    if not 0 <= query.length <= LENGTH_MAX:
        raise InputError(f"a walk has 0 to {LENGTH_MAX} steps, not {query.length}")
    if not 0.0 <= query.restart <= 1.0:
        raise InputError(f"restart is a chance between 0 and 1, not {query.restart}")
    if not (0.0 < query.p < math.inf and 0.0 < query.q < math.inf):
        raise InputError(f"p and q are numbers above 0, not {query.p} and {query.q}")
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
    return [(schema.nodes[from_type].name, schema.nodes[to_type].name) for from_type, to_type in turns]


def check_as_of(schema: GraphSchema, edge_types: Sequence[str], arrays: Arrays, count: int) -> I64Array | None:
    """The query's as_of, int64 [1] or [count]; or None.

    Raises:
        InputError: neither one moment nor one a seed, or no edge type has times.
    """
    as_of = arrays.get("as_of")
    if as_of is None:
        return None
    if as_of.shape not in ((1,), (count,)):
        raise InputError(f"as_of has shape {as_of.shape} for {count} nodes; give one moment, or one for each")
    if not any(schema.edge(name).timed for name in edge_types):
        raise InputError(f"as_of needs edges with times, and {', '.join(edge_types)} have none; build them with a time, or leave as_of out")
    return as_of


def walk(execution: Execution, query: WalkOn, starts: I32Array, as_of: I64Array | None = None) -> I32Array:
    """Walk from every start.

    Args:
        starts: int32 [n], dense ids; -1 (unknown): no walk. Walker i is keyed by i.
        as_of: int64 [n] or [1]: only edges at or before it.
    Returns:
        int32 [n, length + 1], dense ids of the types along the path, the start first; -1 after a dead end.
    Raises:
        InputError: see `check_walk`. LimitError: walks of more than `NODES_MAX` nodes in all.
    """
    from_types = [from_type for from_type, _ in check_walk(execution.schema, query)]
    if len(starts) * (query.length + 1) > NODES_MAX:
        raise LimitError("nodes of all walks", len(starts) * (query.length + 1), NODES_MAX, "Walk shorter, or from fewer nodes at a time.")
    block = max(STEPS_MAX // (query.length + 1), 1)
    if len(starts) <= block:
        return _walk(execution, query, from_types, _Walkers(query, starts, as_of, 0))
    bounds = None if as_of is None else np.broadcast_to(as_of, len(starts))
    out = np.empty((len(starts), query.length + 1), np.int32)
    for first in range(0, len(starts), block):
        rows = slice(first, first + block)
        out[rows] = _walk(execution, query, from_types, _Walkers(query, starts[rows], None if bounds is None else bounds[rows], first))
    return out


def _walk(execution: Execution, query: WalkOn, from_types: list[str], walkers: _Walkers) -> I32Array:
    starts = walkers.origin
    pending = np.flatnonzero((starts >= 0) & (query.length > 0))
    while len(pending):
        before = walkers.progress(pending)
        status = np.empty(len(pending), np.uint8)
        turns = walkers.state["phase"][pending] % len(from_types)
        for node_type in dict.fromkeys(from_types):
            among = np.flatnonzero(np.array([name == node_type for name in from_types])[turns])
            status[among] = _advance(execution, walkers, node_type, pending[among])
        moved = status != kernels.DONE
        if (status == kernels.CHECK).any():
            _check(execution, walkers, from_types[0], pending[status == kernels.CHECK])
        if (status == kernels.SCAN).any():
            moved[status == kernels.SCAN] = _scan(execution, walkers, from_types[0], pending[status == kernels.SCAN])
        if (moved & (walkers.progress(pending) <= before)).any():
            raise ProtocolError("a shard of the graph", "it does not hold nodes of the partitions that it says it holds")
        pending = pending[moved & (walkers.state["step"][pending] < query.length)]
    return walkers.out


def answer(opened: OpenGraph, query: WalkOn, arrays: Arrays) -> Arrays:
    """A shard's answer to `WalkOn`.

    Raises:
        InputError: see `check_walk`; nodes outside the graph.
    """
    turns = check_walk(opened.schema, query)
    names = [name for step in query.steps for name in step]
    tables = tables_of(opened).stack(opened, names, query.direction)
    bounds = np.cumsum([0, *(len(step) for step in query.steps)])
    n = len(arrays["node"])

    def taken(name: str, dtype: type[np.int32] | type[np.int64], default: int) -> npt.NDArray[Any]:
        given = arrays.get(name)
        if given is None or given.shape == (1,):
            return np.full(n, default if given is None else given[0], dtype)
        if given.shape != (n,) or given.dtype.kind != "i":
            raise InputError(f"{name} of {n} walkers is a whole number for each, not {given.dtype} of shape {given.shape}")
        return given.astype(dtype)  # a copy: kernels write to it

    node, step, phase, attempt = (taken(name, np.int32, 0) for name in ("node", "step", "phase", "attempt"))
    previous, clock = taken("previous", np.int32, -1), taken("clock", np.int64, kernels.NEVER)
    walker, origin = taken("walker", np.int64, 0), taken("origin", np.int32, 0)
    as_of = taken("as_of", np.int64, 0) if "as_of" in arrays else np.empty(0, np.int64)
    counts = np.array([opened.node_table(from_type).count for from_type, _ in turns])
    if not kernels.are_sound(step, phase, node, previous, origin, attempt, query.length, counts):
        raise InputError("walkers stand outside the graph, or have made more steps than they were to make")
    out = np.full((n, query.length + 1), -1, np.int32)
    status = np.empty(n, np.uint8)
    proposing = (query.p != 1.0 or query.q != 1.0) and not opened.holds_all
    candidates = np.empty((n if proposing else 0, kernels.CANDIDATES), np.int32)
    first = step.copy()
    kernels.walk_on(
        tables, bounds, key_of(query.seed, 0, SALT_WALK), query.length, query.weighted, query.temporal, query.restart, query.p, query.q,
        walker, step, phase, node, previous, origin, attempt, clock, as_of, out, status, candidates,
    )  # fmt: skip
    made = (step - first).astype(np.int64)
    nodes = out[:, 1:].reshape(-1) if made.sum() == n * query.length else out[out >= 0]
    found: Arrays = {"made": made, "nodes": nodes, "status": status}
    if not opened.holds_all:
        state = {"node": node, "phase": phase, "previous": previous, "attempt": attempt, "clock": clock}
        found |= {name: state[name] for name in _state_of(query)}
        if proposing:
            found["candidates"] = candidates[status == kernels.CHECK].reshape(-1)
    return found


def _state_of(query: WalkOn) -> list[str]:
    """What says where a walker of such a walk stands, besides its number and its steps."""
    names = ["node"]
    names += ["phase"] if len(query.steps) > 1 else []
    names += ["previous", "attempt"] if query.p != 1.0 or query.q != 1.0 else []
    names += ["clock"] if query.temporal else []
    return names


class _Walkers:
    """Where walkers stand. `state`: by name, each [n]; `out`: int32 [n, length + 1], steps made so far."""

    def __init__(self, query: WalkOn, starts: I32Array, as_of: I64Array | None, first: int) -> None:
        """`first`: the number of the first walker."""
        n = len(starts)
        self.query = query
        self.key = key_of(query.seed, 0, SALT_WALK)
        self.number = np.arange(first, first + n, dtype=np.int64)
        self.origin = writable(starts, np.int32)
        self.as_of = None if as_of is None else np.broadcast_to(as_of, n)
        self.out = np.full((n, query.length + 1), -1, np.int32)
        self.out[:, 0] = starts
        self.candidates = np.empty((n, kernels.CANDIDATES), np.int32) if query.p != 1.0 or query.q != 1.0 else None
        self.state: Arrays = {
            "step": np.zeros(n, np.int32),
            "phase": np.zeros(n, np.int32),
            "node": self.origin.copy(),
            "previous": np.full(n, -1, np.int32),
            "attempt": np.zeros(n, np.int32),
            "clock": np.full(n, kernels.NEVER, np.int64),
        }

    def request(self, rows: I64Array) -> Arrays:
        """The arrays of `WalkOn` for some walkers, besides `node`; those that say nothing are left out."""
        arrays: Arrays = {name: self.state[name][rows] for name in ("step", *_state_of(self.query)) if name != "node"}
        arrays["walker"] = self.number[rows]
        if self.query.restart > 0.0:
            arrays["origin"] = self.origin[rows]
        if self.as_of is not None:
            arrays["as_of"] = self.as_of[rows]
        return arrays

    def put(self, rows: I64Array, made: I64Array, nodes: I32Array) -> None:
        """Steps that a shard made."""
        step = self.state["step"]
        if nodes.size == self.out.size - len(self.out):
            self.out[:, 1:] = nodes.reshape(len(rows), -1)
        else:
            begin = np.repeat(np.cumsum(made) - made, made)
            self.out[np.repeat(rows, made), np.repeat(step[rows], made) + 1 + (np.arange(len(nodes)) - begin)] = nodes
        step[rows] += made.astype(np.int32)

    def move(self, rows: I64Array, to: I32Array) -> None:
        """Second-order steps that were chosen here."""
        state = self.state
        state["step"][rows] += 1
        self.out[rows, state["step"][rows]] = to
        state["phase"][rows] += 1
        state["previous"][rows] = state["node"][rows]
        state["node"][rows] = to
        state["attempt"][rows] = 0

    def progress(self, rows: I64Array) -> I64Array:
        """A number that grows with every step and attempt of a walker."""
        return self.state["step"][rows].astype(np.int64) * (kernels.ATTEMPTS_MAX + 1) + self.state["attempt"][rows]


def _advance(execution: Execution, walkers: _Walkers, node_type: str, rows: I64Array) -> U8Array:
    """Let walkers that stand on nodes of one type be moved by the shards of these nodes. Returns their status."""
    if not len(rows):
        return np.empty(0, np.uint8)
    ask = Ask(walkers.query, execution.shards.starts(node_type), "node", walkers.state["node"][rows], walkers.request(rows))
    parts = execution.ask_rows(ask)
    status, made = parts.rows("status", np.uint8), parts.rows("made", np.int64)
    walkers.put(rows, made, parts.runs(made, "nodes", np.int32))
    if (status != kernels.DONE).any():
        for name in _state_of(walkers.query):
            walkers.state[name][rows] = parts.rows(name, _STATE[name])
    if walkers.candidates is not None and (status == kernels.CHECK).any():
        checked = status == kernels.CHECK
        candidates = parts.runs(np.where(checked, kernels.CANDIDATES, 0), "candidates", np.int32)
        walkers.candidates[rows[checked]] = candidates.reshape(-1, kernels.CANDIDATES)
    return status


def _check(execution: Execution, walkers: _Walkers, node_type: str, rows: I64Array) -> None:
    """Decide over the candidates of second-order steps: ask the shards of the previous nodes which are their neighbours."""
    assert walkers.candidates is not None
    query, state, candidates = walkers.query, walkers.state, walkers.candidates[rows]
    previous = state["previous"][rows]
    as_of = None if walkers.as_of is None else np.repeat(walkers.as_of[rows], kernels.CANDIDATES)
    known = _neighbours(execution, query, node_type, np.repeat(previous, kernels.CANDIDATES), candidates.reshape(-1), as_of)
    attempts, chosen = state["attempt"][rows], np.empty(len(rows), np.int32)
    kernels.settle(
        walkers.key,
        query.p,
        query.q,
        walkers.number[rows],
        state["step"][rows],
        previous,
        attempts,
        candidates,
        known.reshape(candidates.shape),
        chosen,
    )
    state["attempt"][rows] = attempts
    taken = chosen >= 0
    walkers.move(rows[taken], chosen[taken])


def _neighbours(execution: Execution, query: WalkOn, node_type: str, nodes: I32Array, targets: I32Array, as_of: I64Array | None) -> U8Array:
    """uint8 [n]: whether an edge of the walk's types leads from nodes[i] to targets[i]."""
    by_row: Arrays = {"to": targets} if as_of is None else {"to": targets, "as_of": as_of}
    starts = execution.shards.starts(node_type)
    asks = [Ask(Find(edge_type=name, direction=query.direction), starts, "frontier", nodes, by_row) for name in query.steps[0]]
    known = np.zeros(len(nodes), np.uint8)
    for parts in execution.ask_many(asks):
        known |= parts.rows("edge_ids", np.int64) >= 0
    return known


def _scan(execution: Execution, walkers: _Walkers, node_type: str, rows: I64Array) -> npt.NDArray[np.bool_]:
    """Choose by the exact probabilities over whole lists; returns which of `rows` moved. Rare: no attempt succeeded."""
    query, state = walkers.query, walkers.state
    starts, nodes = execution.shards.starts(node_type), state["node"][rows]
    by_row = None if walkers.as_of is None else {"as_of": walkers.as_of[rows]}
    hops = [Hop(edge_type=name, direction=query.direction, fan_out=ALL, strategy="all", weights=query.weighted) for name in query.steps[0]]
    to_parts: list[list[I32Array]] = [[] for _ in rows]
    weight_parts: list[list[npt.NDArray[np.float32]]] = [[] for _ in rows]
    for parts in execution.ask_many([Ask(hop, starts, "frontier", nodes, by_row) for hop in hops]):
        counts = parts.rows("counts", np.int32)
        ends = np.cumsum(counts)[:-1]
        for i, to in enumerate(np.split(parts.runs(counts, "neighbors", np.int32), ends)):
            to_parts[i].append(to)
        if query.weighted:
            for i, weights in enumerate(np.split(parts.runs(counts, "weights", np.float32), ends)):
                weight_parts[i].append(weights)
    alive = np.zeros(len(rows), np.bool_)
    for i, row in enumerate(rows):
        to = writable(np.concatenate(to_parts[i]), np.int32)
        weights = writable(np.concatenate([np.empty(0, np.float32), *weight_parts[i]]), np.float32)
        previous = int(state["previous"][row])
        as_of = None if walkers.as_of is None else np.full(len(to), walkers.as_of[row])
        known = _neighbours(execution, query, node_type, np.full(len(to), previous, np.int32), to, as_of)
        x = mixed(mixed(mixed(int(walkers.key), int(walkers.number[row])), int(state["step"][row])), 1)
        chosen = kernels.weigh(to, weights, known, previous, query.p, query.q, np.uint64(x))
        if chosen >= 0:
            alive[i] = True
            walkers.move(rows[i : i + 1], to[chosen : chosen + 1])
    return alive
