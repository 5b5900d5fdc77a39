"""All benchmarks, one after the other, each in a process of its own: `python -m benchmarks [--quick] [--only NAME]...`.

Prints one table at the end and merges the results, benchmark by benchmark, into `benchmarks/results/<date>.json` (quick mode:
`quick-<date>.json`, which git ignores). Data and stores are shared by the benchmarks of one run and removed at its end, unless
`--workdir` keeps them. Full sizes need about 40 GB of disk and 16 GB of memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._harness import add_arguments, log, print_findings, print_paths, workdir_of
from benchmarks._machine import ROOT

NAMES = (
    "decode",
    "embedded_get",
    "batch_get",
    "beyond_memory",
    "push",
    "pit_join",
    "online_read",
    "log_append",
    "store_write",
    "freshness",
    "served_get",
    "served_batch",
    "hedging",
    "graph_build",
    "graph_sample",
    "graph_served",
    "graph_loader",
    "graph_scale",
    "service_start",
    "service_many",
    "train_start",
)


def main() -> int:
    """Run what was asked for; 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks and compare with their peers.")
    add_arguments(parser)
    parser.add_argument(
        "--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}; may be given several times"
    )
    options = parser.parse_args()
    begin, results, failed = time.perf_counter(), [], []
    with workdir_of(options.workdir) as workdir:
        for name in options.only or NAMES:
            result = _run(name, options, workdir)
            if result is None:
                failed.append(name)
                continue
            results.append(result)
            _merge(result)
            if not options.json:
                print_paths(result)
    if options.json:
        print(json.dumps(results, ensure_ascii=False))
    else:
        print_findings(results)
    log.print(f"{len(results)} benchmarks in {time.perf_counter() - begin:.0f} s", style="dim")
    if failed:
        log.print(f"failed: {', '.join(failed)}", style="red")
    return 1 if failed else 0


def _run(name: str, options: argparse.Namespace, workdir: Path) -> dict[str, Any] | None:
    """The result of one benchmark; None if it failed (it has said why on stderr)."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", "--seed", str(options.seed), "--workdir", str(workdir)]
    command += ["--quick"] if options.quick else []
    command += [f"--{option}={value}" for option in ("rows", "rounds") if (value := getattr(options, option)) is not None]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return None
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _merge(result: dict[str, Any]) -> None:
    """Put one benchmark's result in the file of the day, in place of an earlier one of the same day."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = ROOT / "benchmarks" / "results" / f"{'quick-' if result['quick'] else ''}{today}.json"
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[result["name"]] = result
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
