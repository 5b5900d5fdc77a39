"""The data plane as a process of its own, for tests of clients: started on a free port, stopped by its pid."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

START_S = 90.0


class LiveProcess:
    """A process that says a line when it is ready, and ends at SIGTERM."""

    def __init__(self, *command: str) -> None:
        self._command = [sys.executable, "-m", *command]

    def _start(self) -> str:
        """Start it; returns the line."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        assert self._process.stdout is not None
        deadline, said = time.monotonic() + START_S, b""
        while b"\n" not in said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not piece:
                self._stop()
                raise AssertionError(f"{self._command} did not start (exit status {self._process.returncode})")
            said += piece
        return said.decode()

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._process.stdout.close()
        self._process.stdin.close()

    def __exit__(self, *exc: object) -> None:
        self._stop()


class TailingProcess(LiveProcess):
    """`python -m fondaco.store.tailing` on a platform directory while the block lasts."""

    def __init__(self, directory: Path) -> None:
        super().__init__("fondaco.store.tailing", str(directory), "--until-stdin-closes")

    def __enter__(self) -> TailingProcess:
        self._start()
        return self


class DataPlaneProcess(LiveProcess):
    """`python -m fondaco.dataplane.serve` on a platform directory while the block lasts."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        super().__init__("fondaco.dataplane.serve", str(directory), "--port", "0", *arguments)
        self.url = ""

    def __enter__(self) -> DataPlaneProcess:
        self.url = self._start().split()[-1]
        return self

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def freeze(self) -> None:
        """Hang the server: it holds its connections and says nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._process.pid, signal.SIGCONT)
