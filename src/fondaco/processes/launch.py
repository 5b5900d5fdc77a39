"""Launch: the first thing in every process of ours that a supervisor, a node's agent or the control API starts.

`python -m fondaco.processes.launch PID MODULE ...` asks the kernel to kill this process when the one that started it (PID) ends, however
that happens, and then becomes MODULE with the arguments that follow. So not even `kill -9` of the keeper leaves an orphan. It is done
here and not between fork and exec, where Python code may run only in a process without threads.
Source: prctl(2), PR_SET_PDEATHSIG; the signal follows the *thread* that started the process, so processes are started by main threads.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command line that runs a module as a child that does not outlive the calling process."""
    return (sys.executable, "-m", "fondaco.processes.launch", str(os.getpid()), module, *arguments)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, ends; end now if it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Become the module that the arguments name."""
    die_with_parent(int(arguments[0]))
    sys.argv = list(arguments[1:])
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
