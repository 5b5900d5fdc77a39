"""A control API at work, for tests: the real process on a free port, in a platform of the test's own."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from pyarrow import compute

from waiting import free_port, wait_for

DEADLINE_S = 60.0
VALUE = {"type": "record", "name": "row", "fields": [{"name": "clicks", "type": "long"}, {"name": "name", "type": "string"}]}
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}


def arrow_stream(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def rows(count: int, *, first: int = 0) -> pa.Table:
    """Rows for a store of VALUE with key long."""
    keys = pa.array(np.arange(first, first + count))
    return pa.table(
        {"key": keys, "clicks": compute.multiply(keys, 7), "name": compute.binary_join_element_wise("n", keys.cast("string"), "")}
    )


class ControlServer:
    """`python -m fondaco.control.serve` at work. Close it, or use it as a context manager."""

    def __init__(self, directory: Path, *arguments: str, scheme: str = "http", verify: Any = True, port: int | None = None) -> None:
        self.directory = directory
        self.port = free_port() if port is None else port
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.log_file = directory.with_name(f"{directory.name}-control.log")
        command = [sys.executable, "-W", "error", "-m", "fondaco.control.serve", str(directory), "--port", str(self.port), *arguments]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=verify, trust_env=False)
        wait_for(self._answers, f"the control API does not answer: {self.log}")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def create_store(self, name: str, **settings: Any) -> None:
        answer = self.http.post("/v1/stores", json={"name": name, "key": "long", "value": VALUE, **settings})
        assert answer.status_code in (200, 201), answer.text

    def push(self, store: str, table: pa.Table, **query: Any) -> httpx.Response:
        return self.http.post(f"/v1/stores/{store}/pushes", params=query, content=arrow_stream(table), headers=ARROW)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        self.http.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of an answer that is an error."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error", "args", "message", "retryable"}
    return body
