"""What does a batch of a GNN cost in process: sampling, features, walks?

The power-law graph (200,000 nodes, 4.16 M edges, 128-d float32 features), batches of 1,024 seeds, fan-outs [15, 10] without replacement,
repeated nodes merged before their features are gathered. Peer: DeepGNN's local client on the same graph in memory, merged the same way.
One and two threads; float16 and int8 features beside float32.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks._graphs import (
    BATCH,
    FAN_OUTS,
    GATHERED,
    GRAPH,
    LENGTH,
    OPERATIONS,
    choose_nodes,
    deepgnn_graph,
    draws,
    fondaco_graph,
    fondaco_worker,
    in_ms,
    path,
)
from benchmarks._harness import Report, Settings, alternate, main, times_higher, times_lower
from benchmarks._peers import DeepgnnWorker, have_deepgnn

NAME = "graph_sample"
QUESTION = "What does a batch of a GNN cost in process: sampling, features, walks?"
GOAL = "sample and features"


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    nodes, rounds = choose_nodes(settings), settings.choose_rounds(full=5)
    batches = 4 if settings.quick else 40
    report.sizes = {"nodes": nodes, "seeds": BATCH, "fan_outs": list(FAN_OUTS), "gathered": GATHERED, "walk": LENGTH}
    report.sizes |= {"batches_per_round": batches, "rounds": rounds}

    def seeds(operation: str) -> Path:
        return draws(settings, nodes, batches=batches, size=GATHERED if operation == "gather" else BATCH)

    with ExitStack() as stack:
        ours = stack.enter_context(fondaco_worker())
        ours.ask("open_embedded", name="local", directory=str(fondaco_graph(settings, nodes)), graph=GRAPH)
        paths = {}
        for threads in (1, 2):
            for operation in OPERATIONS:
                paths[f"Fondaco, {operation}, {threads}"] = path(
                    [ours], seeds(operation), batches=batches, name="local", operation=operation, threads=threads
                )
        for feature in ("x16", "x8"):
            paths[f"Fondaco, {GOAL} {feature}, 1"] = path(
                [ours], seeds(GOAL), batches=batches, name="local", operation=GOAL, feature=feature
            )
        if have_deepgnn(report):
            theirs = stack.enter_context(DeepgnnWorker())
            theirs.ask("open_local", name="local", directory=str(deepgnn_graph(settings, theirs, nodes)), partitions=2)
            for threads in (1, 2):
                for operation in OPERATIONS:
                    paths[f"DeepGNN, {operation}, {threads}"] = path(
                        [theirs], seeds(operation), batches=batches, name="local", operation=operation, threads=threads
                    )
        results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    for threads in (1, 2):
        noun = f"{threads} thread" + "s" * (threads > 1)
        for operation in OPERATIONS:
            mine = results[f"Fondaco, {operation}, {threads}"]
            peer = results.get(f"DeepGNN, {operation}, {threads}")
            if peer is None:
                report.found(f"{operation}, {noun}", in_ms(mine))
                continue
            goal = 4.0 if operation == GOAL and threads == 1 else None
            report.found(f"{operation}, {noun}, CPU", in_ms(mine), in_ms(peer), times_lower(mine, peer, "cpu_ms"), at_least=goal)
            report.found(f"{operation}, {noun}, batches/s", in_ms(mine), in_ms(peer), times_higher(mine, peer, "per_s"))
    plain = results[f"Fondaco, {GOAL}, 1"]
    for feature, dtype in (("x16", "float16"), ("x8", "int8")):
        mine = results[f"Fondaco, {GOAL} {feature}, 1"]
        report.found(f"{GOAL}, {dtype} against float32, CPU", in_ms(mine), in_ms(plain), times_lower(mine, plain, "cpu_ms"))


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
