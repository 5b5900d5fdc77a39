"""Program: what the processes of ours that serve do around their work: talk on stderr, and an exit code that says whose mistake it was."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from fondaco.core.errors import FondacoError


def run_program(work: Callable[[], None]) -> int:
    """Do `work` and return the exit code: 0; 2 after a mistake of whoever called, which the same call would meet again; 1 after another
    error of ours. An error is one message on stderr, without a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # each request to Kubernetes or a node would else be a line
    try:
        work()
    except FondacoError as exc:
        print(f"fondaco: {exc}", file=sys.stderr)
        return 2 if exc.blame == "user" else 1
    return 0
