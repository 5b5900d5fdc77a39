"""Several graph servers in one process, each with its own sockets: `python tests/graph/serving_child.py DIR SHARDS GRAPH...`.

What a machine with many small servers does, without a process for each; for tests that need many servers and kill none. Prints
"graph address" for each once all are ready, and ends when its stdin does.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from fondaco.graph.serve import GraphServing, Options


def main(directory: str, shards: str, *graphs: str) -> None:
    ready = threading.Barrier(len(graphs) * int(shards) + 1)
    servings = [
        GraphServing(Options(Path(directory), graph, (shard, int(shards)), port=0)) for graph in graphs for shard in range(int(shards))
    ]
    threads = [threading.Thread(target=serving.run, args=(lambda _: ready.wait(120.0),)) for serving in servings]
    for thread in threads:
        thread.start()
    ready.wait(120.0)
    for serving in servings:
        print(serving.options.graph, serving.info.address, flush=True)
    print("ready", flush=True)
    sys.stdin.read()
    for serving in servings:
        serving.stop()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
