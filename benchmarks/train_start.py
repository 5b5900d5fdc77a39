"""How much later does a job start under `fondaco train`?

`fondaco train --graph G -- true` on a graph service that runs already, against `true` alone: whole commands, from start to exit. Modules
are compiled, as pip leaves them; a checkout under PYTHONDONTWRITEBYTECODE compiles ours anew each time, 0.1 s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa

import fondaco as fd
from benchmarks._harness import Figures, Report, Settings, alternate, main, median_of

NAME = "train_start"
QUESTION = "How much later does a job start under `fondaco train`?"
GOAL_S = 1.0


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rounds = settings.choose_rounds(full=15, quick=2)
    directory = settings.workdir / "train-start"
    shutil.rmtree(directory, ignore_errors=True)
    report.sizes = {"rounds": rounds}
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled["PYTHONPYCACHEPREFIX"] = str(directory / "compiled")
    with fd.open(directory) as platform:
        edges = pa.table({"src": list(range(100)), "dst": [(node + 1) % 100 for node in range(100)]})
        platform.build_graph("ring", nodes={}, edges={("node", "to", "node"): edges}, progress=False)
        fondaco = str(Path(sys.executable).with_name("fondaco"))
        train = [fondaco, "train", "--dir", str(directory), "--graph", "ring", "--", "true"]
        _timed(train, compiled)  # the service starts; files are cached
        results = alternate(
            {
                "fondaco train, reused service": lambda _: _timed(train, compiled),
                "the job alone": lambda _: _timed(["true"], compiled),
                "fondaco --version": lambda _: _timed([fondaco, "--version"], compiled),
            },
            rounds=rounds,
        )
        for service in platform.services.list():
            platform.services.delete(service.service, force=True)
    shutil.rmtree(directory)
    report.add_paths(results)
    more = median_of(results["fondaco train, reused service"], "seconds") - median_of(results["the job alone"], "seconds")
    report.found_limit("start of a job later by, on a reused service", f"{more:.2f} s", value=more, at_most=GOAL_S, unit="s")
    report.note(f"of which the command line itself: {median_of(results['fondaco --version'], 'seconds'):.2f} s")


def _timed(command: list[str], env: dict[str, str]) -> Figures:
    began = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
