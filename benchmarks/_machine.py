"""Machine: what a figure was measured on, kept beside every result. Says nothing that identifies the host."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("fondaco", "numpy", "numba", "pyarrow", "duckdb", "fastavro", "lmdb", "rocksdict", "redis", "hiredis", "zstandard")
ROOT = Path(__file__).resolve().parent.parent


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, kernel, versions, load, the share of time other guests took, and the commit measured."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "steal_percent_since_boot": _steal_percent(),
        "commit": _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _steal_percent() -> float:
    """Steal time, the 8th field of /proc/stat's first line (proc(5)), as a share of all."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return round(100 * fields[7] / sum(fields), 2)


def _commit() -> str | None:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


if __name__ == "__main__":
    import json

    json.dump(describe_machine(), sys.stdout, indent=2)
