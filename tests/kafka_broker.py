"""A small broker of Kafka's protocol for tests: the binary of the package `noida-db`, on 127.0.0.1, with its own port and directory.

It keeps everything in memory and in one file, so it serves for semantics with little data. What it cannot do is listed where it is used.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from importlib.resources import files
from pathlib import Path

import pytest

from waiting import free_port


class Broker:
    """Start it, stop it, start it again with what it had."""

    def __init__(self, directory: Path) -> None:
        pytest.importorskip("noida_db", reason="the package noida-db is the broker of these tests")
        self._binary = str(files("noida_db").joinpath("noida-db"))
        os.chmod(self._binary, 0o755)
        self._directory, self.port = directory, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [self._binary, "start", "--only", "kafka", "--kafka-port", str(self.port), "--data-dir", str(self._directory)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, "the broker ended"
                assert time.monotonic() < deadline, "the broker did not start"
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None
