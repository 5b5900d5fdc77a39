"""Processes that build or delete a graph and stop at a chosen moment, for tests that kill them there.

Started once, it forks one process for each line of its stdin, [directory, moment, seed]: so they begin without importing anything. It
prints the process's id, then the moment's name when it has come (or "done", if the process was not stopped), and "ended" after its end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import fondaco as fd
from fondaco.catalog import graphs
from fondaco.graph import building, registry
from fondaco.graph.building import run_build
from graph.hand_built import write_version


def _stop(moment: str) -> None:
    print(moment, flush=True)
    time.sleep(600)


def _before(module: Any, name: str, moment: str) -> None:
    setattr(module, name, lambda *_, **__: _stop(moment))


def _after(module: Any, name: str, moment: str) -> None:
    original = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        _stop(moment)

    setattr(module, name, call)


def main(directory: str, moment: str, seed: int) -> None:
    """Build (or delete, for moments that begin with "delete") the graph "g"."""
    with fd.open(directory) as platform:
        match moment:
            case "before the manifest":
                _before(building, "write_manifest", moment)
            case "before the rename":
                _after(building, "write_manifest", moment)
            case "inside the commit":
                _after(graphs.GENERATIONS, "promote", moment)
            case "before the cell":
                _before(building, "sync_cell", moment)
            case "before old files go":
                _before(building, "remove_files", moment)
            case "delete: inside the commit":
                _after(registry.os, "rename", moment)
            case "delete: before the cell":
                _before(registry, "write_cell", moment)
            case "delete: before the files go":
                _before(registry, "remove_tree", moment)
        if moment.startswith("delete"):
            platform.delete_graph("g")
            print("done", flush=True)
            return

        def fill(into: Path) -> Any:
            if moment == "before any file":
                _stop(moment)
            made = write_version(into, seed=seed)
            if moment == "between files":
                for path in list(into.iterdir())[::2]:
                    path.unlink()
                _stop(moment)
            return made.built

        platform._graphs.build("g", None, lambda context: run_build(context, fill))
        print("done", flush=True)


def serve() -> None:
    """Fork for each line."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            print(os.getpid(), flush=True)
            main(*json.loads(line))
            os._exit(0)
        os.waitpid(pid, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    serve()
