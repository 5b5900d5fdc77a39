"""The graph of the main job: planes, airports and carriers, joined by flights, and an embedding of each node.

Every flight is a timed edge, known from the moment at which its plane left (or was cancelled). Walks follow planes to airports and
carriers and back (a metapath), bounded by the end of the training months, so nothing that happened later can be reached. Nodes that walks
pass close to one another get embeddings near one another: skip-gram with negative sampling (Mikolov et al. 2013) over metapath walks
(metapath2vec, Dong et al. 2017). The embeddings are pushed as versions of a store and are features like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.cli.quickstart.data import Flights
from fondaco.core.errors import MissingExtraError

if TYPE_CHECKING:
    from fondaco.graph import Graph
    from fondaco.platform import Platform
    from fondaco.store.report import PushReport

GRAPH_NAME: Final = "flights"
NODE_KEYS: Final = {"plane": "tailnum", "airport": "dest", "carrier": "carrier"}  # node type -> the column of flights that names it
EDGES: Final = (
    ("plane", "flew_to", "airport"),
    ("airport", "received", "plane"),
    ("plane", "flies_for", "carrier"),
    ("carrier", "operates", "plane"),
)
METAPATH: Final = EDGES  # a round trip: plane, airport, plane, carrier, plane
DIM: Final = 8
WALKS: Final = 8  # from each plane
ROUNDS: Final = 2  # of the metapath in a walk
WINDOW: Final = 2  # nodes of a walk at most so far apart are pairs
NEGATIVES: Final = 4
BATCH: Final = 4096
SEED: Final = 2013


@dataclass(frozen=True, slots=True)
class GraphFigures:
    """What building the graph and training on it took."""

    version: int
    nodes: int
    edges: int
    build_seconds: float
    steps: int  # of walks
    steps_per_second: float
    pairs: int
    train_seconds: float
    embedded: int  # nodes with an embedding
    service_seconds: float  # from asking for a service of the graph to its being ready
    served_steps_per_second: float
    served_equal: bool  # whether its walks were those made in process


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A table per node type: its key column, `embedding` list<float> of DIM."""

    tables: Mapping[str, pa.Table]
    figures: GraphFigures


def embed_flights(platform: Platform, data: Flights, *, until: datetime, say: Callable[[str], None]) -> Embeddings:
    """Build a version of the graph of all flights, and embed the nodes by what was known `until` then.

    Raises:
        MissingExtraError: torch is not installed.
    """
    flights = data.flights.filter(data.flights["tailnum"].is_valid())
    say(f"building the graph of {flights.num_rows:,} flights: planes, airports and carriers, every flight four timed edges")
    edges = {key: _edge_table(flights, key) for key in EDGES}
    began = time.perf_counter()
    built = platform.build_graph(GRAPH_NAME, nodes={}, edges=edges, partitions=2, progress=False)
    build_seconds = time.perf_counter() - began
    with platform.graph(GRAPH_NAME, version=built.version) as graph:
        say(f"walking it, by what was known until {until:%d %B %Y}, and training an embedding of {DIM} numbers for each node")
        began = time.perf_counter()
        walks, sizes = _walk(graph, until)
        walk_seconds = time.perf_counter() - began
        steps = int((walks[:, 1:] >= 0).sum())
        began = time.perf_counter()
        pairs = _pairs(walks)
        matrix = _train(pairs, sum(sizes.values()))
        train_seconds = time.perf_counter() - began
        tables = _tables(graph, matrix, sizes, seen=np.unique(pairs))
    say("asking for a service of it, two processes that hold half each, and walking there")
    service_seconds, served_seconds, served = _walk_served(platform, built.version, until)
    nodes, edge_count = sum(sizes.values()), flights.num_rows * len(EDGES)
    embedded = sum(table.num_rows for table in tables.values())
    figures = GraphFigures(
        version=built.version,
        nodes=nodes,
        edges=edge_count,
        build_seconds=build_seconds,
        steps=steps,
        steps_per_second=steps / walk_seconds,
        pairs=len(pairs),
        train_seconds=train_seconds,
        embedded=embedded,
        service_seconds=service_seconds,
        served_steps_per_second=steps / served_seconds,
        served_equal=np.array_equal(served, walks),
    )
    return Embeddings(tables, figures)


def push_embeddings(platform: Platform, embeddings: Embeddings) -> list[PushReport]:
    """Push the embeddings of each node type as a version of a store of its own."""
    reports = []
    for kind, table in embeddings.tables.items():
        value = pa.schema([table.schema.field("embedding")])
        store = platform.create_store(f"{GRAPH_NAME}.{kind}", key=table.schema.field(NODE_KEYS[kind]), value=value)
        reports.append(store.push(table, progress=False))
    return reports


def flat_names(name: str) -> tuple[str, ...]:
    """The columns of an embedding's numbers, as a model of single numbers reads them."""
    return tuple(f"{name}_{position}" for position in range(DIM))


def flatten(table: pa.Table) -> pa.Table:
    """The table with each column of embeddings as DIM columns of numbers; a null is null in all of them."""
    for position, field in reversed(list(enumerate(table.schema))):
        if not pa.types.is_list(field.type):
            continue
        lists = table[field.name].combine_chunks()
        numbers = np.full((len(lists), DIM), np.nan, np.float32)
        numbers[lists.is_valid().to_numpy(zero_copy_only=False)] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, DIM)
        table = table.remove_column(position)
        for offset, name in enumerate(flat_names(field.name)):
            table = table.add_column(position + offset, name, pa.array(numbers[:, offset].copy(), from_pandas=True))
    return table


def _edge_table(flights: pa.Table, key: tuple[str, str, str]) -> pa.Table:
    src, _, dst = key
    return pa.table({"src": flights[NODE_KEYS[src]], "dst": flights[NODE_KEYS[dst]], "time": flights["known_at"]})


def _walk(graph: Graph, until: datetime) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Walks from every plane as int64 [walks, steps + 1], nodes numbered through all types, -1 after a dead end; and nodes per type."""
    sizes = {kind: graph.node_count(kind) for kind in NODE_KEYS}
    numbers, first = {}, 0
    for kind, size in sizes.items():
        numbers[kind] = {name: first + position for position, name in enumerate(graph.node_ids(kind))}
        first += size
    starts = np.repeat(graph.node_ids("plane"), WALKS)
    walked = graph.random_walk(starts, ROUNDS * len(METAPATH), metapath=METAPATH, as_of=until, seed=SEED)
    kinds = ["plane", *(dst for _, _, dst in METAPATH * ROUNDS)]
    columns = [[numbers[kind].get(name, -1) for name in walked[:, step]] for step, kind in enumerate(kinds)]
    return np.array(columns, np.int64).T, sizes


def _walk_served(platform: Platform, version: int, until: datetime) -> tuple[float, float, npt.NDArray[np.int64]]:
    """The same walks from a data service: seconds until it was ready, seconds of walking, the walks."""
    import fondaco as fd

    spec = fd.ServiceSpec.graph(GRAPH_NAME, version=version, shards=2, ttl="0s")
    began = time.perf_counter()
    with platform.services.ensure(spec, holder="quickstart") as lease, fd.graph.connect(lease.endpoints) as graph:
        ready = time.perf_counter()
        walks, _ = _walk(graph, until)
        walked = time.perf_counter()
    platform.services.delete(lease.service)
    return ready - began, walked - ready, walks


def _pairs(walks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Nodes at most WINDOW apart on a walk, int64 [pairs, 2], both ways round."""
    found = []
    for apart in range(1, WINDOW + 1):
        pairs = np.stack([walks[:, :-apart].ravel(), walks[:, apart:].ravel()], axis=1)
        pairs = pairs[(pairs >= 0).all(axis=1) & (pairs[:, 0] != pairs[:, 1])]
        found += [pairs, pairs[:, ::-1]]
    return np.concatenate(found)


def _train(pairs: npt.NDArray[np.int64], nodes: int) -> npt.NDArray[np.float32]:
    """Skip-gram with negative samples drawn by frequency^0.75; float32 [nodes, DIM]."""
    try:
        import torch
    except ImportError as exc:
        raise MissingExtraError("torch", "quickstart", "training the embeddings of the main job's graph") from exc
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps are so small that a second thread only waits
    try:
        return _skip_gram(torch, pairs, nodes)
    finally:
        torch.set_num_threads(threads)


def _skip_gram(torch: Any, pairs: npt.NDArray[np.int64], nodes: int) -> npt.NDArray[np.float32]:
    generator = torch.Generator().manual_seed(SEED)
    centre = torch.nn.Parameter(torch.randn(nodes, DIM, generator=generator) / DIM**0.5)
    context = torch.nn.Parameter(torch.zeros(nodes, DIM))
    optimiser = torch.optim.Adam([centre, context], lr=0.02)
    frequency = torch.bincount(torch.from_numpy(pairs[:, 1]), minlength=nodes).double() ** 0.75
    order = torch.randperm(len(pairs), generator=generator)
    rows = torch.from_numpy(pairs)[order]
    for batch in rows.split(BATCH):
        negatives = torch.multinomial(frequency, len(batch) * NEGATIVES, replacement=True, generator=generator).view(-1, NEGATIVES)
        near = centre[batch[:, 0]]
        real = (near * context[batch[:, 1]]).sum(1)
        drawn = torch.einsum("bd,bnd->bn", near, context[negatives])
        loss = -torch.nn.functional.logsigmoid(real).mean() - torch.nn.functional.logsigmoid(-drawn).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learned: npt.NDArray[np.float32] = centre.detach().numpy()
    return learned


def _tables(graph: Graph, matrix: npt.NDArray[np.float32], sizes: Mapping[str, int], *, seen: npt.NDArray[np.int64]) -> dict[str, pa.Table]:
    """The rows of nodes that walks met, by node type."""
    met = np.zeros(len(matrix), bool)
    met[seen] = True
    tables, first = {}, 0
    for kind, size in sizes.items():
        rows = slice(first, first + size)
        names = pa.array(list(graph.node_ids(kind)), pa.string())
        column = pa.FixedSizeListArray.from_arrays(pa.array(matrix[rows].ravel()), DIM).cast(pa.list_(pa.float32()))
        tables[kind] = pa.table({NODE_KEYS[kind]: names, "embedding": column}).filter(pa.array(met[rows]))
        first += size
    return tables
