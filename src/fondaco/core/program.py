"""Program: what the processes of ours that serve do around their work: talk on stderr, and an exit code that says whose mistake it was."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn

from fondaco.core.errors import FondacoError

LAST_WORK_S: Final = 10.0


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


def end_process(code: int) -> NoReturn:
    """End with `code` when our own threads have ended (10 seconds at most), and leave the interpreter as it is. For programs with threads
    of a native server: one that meets an interpreter which is being taken down aborts the process (PyO3, "panic in a function that cannot
    unwind")."""
    until = time.monotonic() + LAST_WORK_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
