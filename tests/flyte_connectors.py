"""Connectors as processes, for tests: what `fondaco service connector` runs, on ports of its own, with what it says in a file."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from waiting import PATIENCE_S, wait_for

_CHILD = """
import sys
from pathlib import Path
from fondaco.adapters.connector import ConnectorOptions, run_connector
from fondaco.core.program import run_program
from fondaco.platform import Platform

def work():
    options = ConnectorOptions(**eval(sys.argv[2]))
    with Platform.open(sys.argv[1], create=False) as platform:
        run_connector(platform.services, options)

sys.exit(run_program(work))
"""


@dataclass
class ConnectorProcess:
    """A connector that runs. address: "host:port". log: what it has said."""

    process: subprocess.Popen[bytes]
    log_file: Path
    address: str = ""
    metrics_url: str = ""

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
def connector(directory: Path, **options: object) -> Iterator[ConnectorProcess]:
    """Run a connector on a platform's directory until the block is left.

    Args:
        options: of ConnectorOptions; ports default to free ones.
    """
    given = {"port": 0, "metrics_port": 0, "drain_s": 5.0} | options
    log_file = directory.parent / f"connector-{time.monotonic_ns()}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _CHILD, str(directory), repr(given)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    running = ConnectorProcess(process, log_file)
    try:
        wait_for(lambda: "connector listens on" in running.log or process.poll() is not None, f"a connector; it said: {running.log}")
        found = re.search(r"connector listens on (\S+) .*?(?:metrics on (\S+);|;)", running.log)
        assert found is not None, running.log
        running.address, running.metrics_url = found[1], found[2] or ""
        yield running
    finally:
        if running.stop() != 0 and process.returncode != -signal.SIGKILL:
            raise AssertionError(f"the connector ended with {process.returncode}: {running.log}")
