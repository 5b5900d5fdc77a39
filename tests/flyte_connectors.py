"""Connectors as processes, for tests: what `fondaco service connector` runs, on ports of its own, with what it says in a file."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from waiting import PATIENCE_S, wait_for

FONDACO = [sys.executable, "-W", "error", "-c", "from fondaco.cli import main; main()"]


@dataclass
class ConnectorProcess:
    """A connector that runs. address: "host:port". log: what it has said. ends_with: exit codes that are no mistake."""

    process: subprocess.Popen[bytes]
    log_file: Path
    address: str = ""
    metrics_url: str = ""
    ends_with: set[int] = field(default_factory=lambda: {0, -signal.SIGKILL})

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextmanager
def connector(directory: Path, *options: str) -> Iterator[ConnectorProcess]:
    """Run `fondaco service connector` on a platform's directory until the block is left.

    Args:
        options: of the command; ports are free ones unless they say otherwise.
    """
    log_file = directory.parent / f"connector-{time.monotonic_ns()}.log"
    command = [*FONDACO, "service", "connector", "--dir", str(directory), "--port", "0", "--metrics-port", "0", "--drain", "5s", *options]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    running = ConnectorProcess(process, log_file)
    try:
        wait_for(lambda: "connector listens on" in running.log or process.poll() is not None, "a connector to listen", 4 * PATIENCE_S)
        found = re.search(r"connector listens on (\S+) ", running.log)
        assert found is not None, running.log
        running.address = found[1]
        metrics = re.search(r"metrics on (\S+);", running.log)
        running.metrics_url = metrics[1] if metrics else ""
        yield running
    finally:
        if running.stop() not in running.ends_with:
            raise AssertionError(f"the connector ended with {process.returncode}: {running.log}")
