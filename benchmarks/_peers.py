"""Peers: which are installed, and those that are servers or live in an environment of their own.

A benchmark runs without a peer that is missing, and says so. `benchmarks/install_peers.sh` installs Redis, Feast, DeepGNN and LinkedIn's
Flyte plugin; the others come with `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks._harness import Report
from benchmarks._machine import ROOT

_FEAST_PYTHON = ROOT / ".venv-feast" / "bin" / "python"
_DEEPGNN_PYTHON = ROOT / ".venv-deepgnn" / "bin" / "python"
_DEEPGNN_SCRIPT = Path(__file__).with_name("_deepgnn_worker.py")
_PLUGIN_PYTHON = ROOT / ".venv-flyteplugin" / "bin" / "python"
_START_S = 10.0


def have(report: Report, *modules: str) -> bool:
    """Whether these Python packages are installed; if not, the report says which peer is left out."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        report.note(f"ran without a peer: {', '.join(missing)} not installed (pip install -e '.[bench]')")
    return not missing


def have_redis(report: Report) -> bool:
    """Whether redis-server and its client are installed."""
    if shutil.which("redis-server") is None:
        report.note("ran without Redis: no redis-server on PATH (benchmarks/install_peers.sh)")
        return False
    return have(report, "redis", "hiredis")


def have_feast(report: Report) -> bool:
    """Whether Feast's own environment exists."""
    if not _FEAST_PYTHON.exists():
        report.note("ran without Feast: no .venv-feast (benchmarks/install_peers.sh)")
        return False
    return True


def have_deepgnn(report: Report) -> bool:
    """Whether DeepGNN's own environment exists."""
    if not _DEEPGNN_PYTHON.exists():
        report.note("ran without DeepGNN: no .venv-deepgnn (benchmarks/install_peers.sh)")
        return False
    return True


def have_plugin(report: Report) -> bool:
    """Whether the environment of LinkedIn's Flyte plugin exists."""
    if not _PLUGIN_PYTHON.exists():
        report.note("ran without the Flyte plugin: no .venv-flyteplugin (benchmarks/install_peers.sh)")
        return False
    return True


class RedisServer:
    """A redis-server of our own on 127.0.0.1 with a free port and no persistence, stopped by its process id at the end."""

    def __enter__(self) -> Self:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._directory = tempfile.TemporaryDirectory(prefix="fondaco-bench-redis-")
        arguments = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._directory.name]
        arguments += ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        self._process = subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL, stderr=sys.stderr)
        self._wait_until_ready()
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._stop()
                raise RuntimeError(f"redis-server did not start on port {self.port} (status {self._process.poll()})")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def client(self) -> Any:
        """A redis-py client on one TCP connection, with hiredis as its parser (redis-py takes it when installed)."""
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop()


class Worker:
    """A process that answers one JSON request a line with one JSON answer a line, until its input ends.

    It idles between requests, so that paths can alternate with others; one thread asks at a time.
    """

    def __init__(self, noun: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._noun, self._command, self._env = noun, list(command), {**os.environ, **(env or {})}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._env, cwd=ROOT)
        return self

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for the answer.

        Raises:
            RuntimeError: the worker failed; its traceback is the message.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"request": request, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self._noun} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._noun}: {answer['error']}")
        return answer

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # the end of its input ends the worker
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class FeastWorker(Worker):
    """A process in Feast's environment that runs `_feast_worker.py`."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("_feast_worker.py")
        super().__init__("Feast", [str(_FEAST_PYTHON), str(script)], {"FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"})


class DeepgnnWorker(Worker):
    """A process in DeepGNN's environment that runs `_deepgnn_worker.py`: converter and clients."""

    def __init__(self) -> None:
        super().__init__("DeepGNN", [str(_DEEPGNN_PYTHON), str(_DEEPGNN_SCRIPT)])


class PluginWorker(Worker):
    """A process in the environment of LinkedIn's Flyte plugin that runs `_plugin_worker.py`."""

    def __init__(self) -> None:
        super().__init__("the Flyte plugin", [str(_PLUGIN_PYTHON), str(Path(__file__).with_name("_plugin_worker.py"))])


class DeepgnnServer:
    """One of DeepGNN's gRPC servers on 127.0.0.1 and a free port, with its share of the partitions of a folder."""

    def __init__(self, directory: Path, index: int, count: int) -> None:
        self._arguments = [str(directory), str(index), str(count)]

    def __enter__(self) -> Self:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        directory, index, count = self._arguments
        command = [str(_DEEPGNN_PYTHON), str(_DEEPGNN_SCRIPT), "serve", directory, str(port), index, count]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"DeepGNN's server did not start (status {self._process.wait()})")
        self.address = f"127.0.0.1:{port}"
        return self

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
