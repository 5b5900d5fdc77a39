"""What does a batch of a GNN cost through the graph service?

The graph and the batches of `graph_sample`, by clients in processes of their own on the servers' machine: over TCP, and over a Unix
socket with answers in shared memory; one and two clients, one and two shards. Peer: DeepGNN's client and servers over gRPC. CPU is of
clients and servers together.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks._graphs import (
    BATCH,
    FAN_OUTS,
    GATHERED,
    GRAPH,
    LENGTH,
    OPERATIONS,
    choose_nodes,
    deepgnn_graph,
    deepgnn_servers,
    draws,
    fondaco_graph,
    fondaco_servers,
    fondaco_worker,
    in_ms,
    path,
)
from benchmarks._harness import Report, Settings, alternate, main, times_higher, times_lower
from benchmarks._peers import DeepgnnWorker, have_deepgnn

NAME = "graph_served"
QUESTION = "What does a batch of a GNN cost through the graph service?"
GOAL = "sample and features"
REACH = {"TCP": 6.0, "shared memory": 10.0}


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    nodes, rounds = choose_nodes(settings), settings.choose_rounds(full=5)
    batches = 3 if settings.quick else 30
    report.sizes = {"nodes": nodes, "seeds": BATCH, "fan_outs": list(FAN_OUTS), "gathered": GATHERED, "walk": LENGTH}
    report.sizes |= {"batches_per_round": batches, "rounds": rounds}

    def seeds(operation: str) -> Path:
        return draws(settings, nodes, batches=batches, size=GATHERED if operation == "gather" else BATCH)

    def operations(clients: int, shards: int) -> tuple[str, ...]:
        return OPERATIONS if clients == 1 and shards == 1 else (GOAL,)

    with ExitStack() as stack:
        directory = fondaco_graph(settings, nodes)
        ours = [stack.enter_context(fondaco_worker()) for _ in range(2)]
        theirs = [stack.enter_context(DeepgnnWorker()) for _ in range(2)] if have_deepgnn(report) else []
        data = deepgnn_graph(settings, theirs[0], nodes) if theirs else None
        paths: dict[str, Any] = {}
        for shards in (1, 2):
            endpoints, pids = stack.enter_context(fondaco_servers(directory, shards=shards))
            for way in REACH:
                for worker in ours:
                    worker.ask(
                        "open_served", name=f"{way} {shards}", endpoints=endpoints, graph=GRAPH, shared_memory=way == "shared memory"
                    )
                for clients in (1, 2):
                    for operation in operations(clients, shards):
                        paths[f"{way}, {operation}, {clients} x {shards}"] = path(
                            ours[:clients], seeds(operation), batches=batches, servers=pids, name=f"{way} {shards}", operation=operation
                        )
            if data is None:
                continue
            addresses, pids = stack.enter_context(deepgnn_servers(data, shards=shards))
            for worker in theirs:
                worker.ask("open_remote", name=f"gRPC {shards}", servers=addresses)
            for clients in (1, 2):
                for operation in operations(clients, shards):
                    paths[f"gRPC, {operation}, {clients} x {shards}"] = path(
                        theirs[:clients], seeds(operation), batches=batches, servers=pids, name=f"gRPC {shards}", operation=operation
                    )
        results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    for shards in (1, 2):
        for clients in (1, 2):
            for operation in operations(clients, shards):
                case = f"{operation}, {clients} x {shards}"
                what = f"{operation}, {clients} client{'s' * (clients > 1)}, {shards} shard{'s' * (shards > 1)}"
                for way, goal in REACH.items():
                    mine, peer = results[f"{way}, {case}"], results.get(f"gRPC, {case}")
                    if peer is None:
                        report.found(f"{what}, {way}", in_ms(mine))
                        continue
                    wanted = goal if operation == GOAL and clients == shards == 1 else None
                    report.found(f"{what}, {way}, CPU", in_ms(mine), in_ms(peer), times_lower(mine, peer, "cpu_ms"), at_least=wanted)
                    report.found(f"{what}, {way}, batches/s", in_ms(mine), in_ms(peer), times_higher(mine, peer, "per_s"))


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
