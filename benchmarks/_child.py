"""Child: one function in a fresh process, with its peak memory, and if asked under a memory cap.

A fresh process is the only honest way to say "peak memory" (VmHWM never falls) and to start cold. The child gets its arguments as JSON
on stdin and answers with JSON in a file, so that whatever a library prints does no harm. With `cap_bytes` the child joins a memory
control group of its own before Python starts, so interpreter, libraries and page cache all count. Works as root with cgroup v2 or v1.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks._machine import ROOT

_CGROUPS = Path("/sys/fs/cgroup")


def call(function: Callable[..., dict[str, Any]], *, cap_bytes: int | None = None, **arguments: Any) -> dict[str, Any]:
    """Run a module-level function of a benchmark in a new process.

    Returns:
        what it returned (a dict of JSON values), with `vm_hwm_bytes`, its peak resident memory, file pages it had mapped included
        (read where the function called `note_peak`, otherwise at its end).
    Raises:
        RuntimeError: it failed; stderr has been shown.
    """
    target = f"{_module_of(function)}:{function.__name__}"
    with contextlib.ExitStack() as stack:
        answer = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fondaco-bench-child-"))) / "answer.json"
        command = [sys.executable, "-m", "benchmarks._child", target, str(answer)]
        if cap_bytes is not None:
            group = stack.enter_context(_memory_group(cap_bytes))
            command = ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh", *command]
        done = subprocess.run(
            command,
            input=json.dumps(arguments),
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode != 0:
            killed = " (killed: out of memory under the cap?)" if done.returncode in (-9, 137) else ""
            raise RuntimeError(f"{target} ended with status {done.returncode}{killed}")
        return json.loads(answer.read_text())


_peak_bytes: int | None = None


def note_peak() -> None:
    """Called by a child when the measured work is over: what follows (checks) does not count as its peak memory."""
    global _peak_bytes
    _peak_bytes = _vm_hwm_bytes()


def _vm_hwm_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM line")


def _module_of(function: Callable[..., Any]) -> str:
    if function.__module__ != "__main__":
        return function.__module__
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "run benchmarks as `python -m benchmarks.<name>`"
    return spec.name


def touch_memory(*, mebibytes: int) -> dict[str, Any]:
    """In a child: write to so much memory. Shows that peaks and caps are what they say (tests/benchmarks)."""
    block = bytearray(mebibytes << 20)
    block[::4096] = b"\x01" * len(range(0, len(block), 4096))
    return {"bytes": len(block)}


# -- memory caps --------------------------------------------------------------------------------------------------------------------


def caps_available() -> str | None:
    """None if a memory cap can be set here, otherwise why not."""
    try:
        with _memory_group(64 << 20):
            return None
    except OSError as exc:
        return f"no memory control group can be made here ({exc.strerror})"


@contextlib.contextmanager
def _memory_group(cap_bytes: int) -> Iterator[Path]:
    """A memory control group under our own, removed at the end."""
    parent, limit_file = _own_memory_group()
    group = parent / f"fondaco-bench-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        (group / limit_file).write_text(str(cap_bytes))
        with contextlib.suppress(OSError):  # v2 only, absent without swap: the cap must not be dodged by swapping
            (group / "memory.swap.max").write_text("0")
        yield group
    finally:
        _remove_group(group)


def _own_memory_group() -> tuple[Path, str]:
    """Our group's folder and the name of its limit file: v1's `memory` hierarchy if mounted, else the unified one."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") and (_CGROUPS / "memory").is_dir():
            return _CGROUPS / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return _CGROUPS / line[3:].lstrip("/"), "memory.max"
    raise FileNotFoundError(2, "no memory controller is mounted")


def _remove_group(group: Path) -> None:
    """Remove an emptied group; the kernel takes a moment to let the last process go."""
    deadline = time.monotonic() + 10
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def main() -> None:
    """The child's side."""
    module_name, function_name = sys.argv[1].split(":")
    function = getattr(importlib.import_module(module_name), function_name)
    result = function(**json.load(sys.stdin))
    result["vm_hwm_bytes"] = _vm_hwm_bytes() if _peak_bytes is None else _peak_bytes
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    # The module runs as __main__ here, while benchmarks import it by name to call note_peak: answer from that one.
    from benchmarks import _child

    _child.main()
