"""A process of its own that ensures services on a platform: python ensure_child.py DIRECTORY NUMBER THREADS EACH SPECS."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import fondaco as fd


def sleeper(number: int) -> fd.ServiceSpec:
    """A service of one process that does nothing."""
    return fd.ServiceSpec("sleeper", command=["sleep", "1000"], env={"NUMBER": str(number)}, ttl="0s")


def main(directory: str, number: str, threads: str, each: str, specs: str) -> None:
    with fd.open(directory) as platform, ThreadPoolExecutor(int(threads)) as pool:

        def ensure(index: int) -> str:
            lease = platform.services.ensure(sleeper(index % int(specs)), f"run-{number}-{index}", lease=None, timeout="120s")
            return lease.service

        print(*sorted(pool.map(ensure, range(int(each)))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
