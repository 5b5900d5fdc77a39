"""A platform with connectors in front of it, for tests of both Flytes: real processes, and nothing left of them at the end."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import fondaco as fd
from flyte_backend import Backend, Wire
from flyte_connectors import ConnectorProcess, connector
from fondaco.core.errors import NotFoundError
from waiting import wait_for

# A data service that says what it was started with: answers with its environment and arguments, on every path, after a while.
_SERVER = """
import http.server, json, os, sys, time
time.sleep(float(sys.argv[2]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(dict(os.environ, ARGUMENTS=" ".join(sys.argv[1:]))).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def serving_command(*arguments: str, after_s: float = 0.0) -> list[str]:
    """The command of a service that answers with its environment; arguments mark it, so that tests do not share services."""
    return [sys.executable, "-c", _SERVER.replace("{", "{{").replace("}", "}}"), "{port}", str(after_s), *arguments]


def asked(endpoint: str) -> dict[str, str]:
    """What the service at an address answers."""
    with urllib.request.urlopen(f"http://{endpoint}/", timeout=30) as answer:
        found: dict[str, str] = json.load(answer)
    return found


@dataclass
class FlytePlatform:
    """A platform, its services as seen from the test, and connectors in front of it."""

    directory: Path
    platform: fd.Platform
    connectors: Sequence[ConnectorProcess]

    @property
    def services(self) -> Any:
        return self.platform.services

    def backend(self, wire: Wire) -> Backend:
        """A backend that asks the connectors in turn."""
        return Backend(wire, [one.address for one in self.connectors])

    def names(self) -> set[str]:
        """The services that there are."""
        return {status.service for status in self.services.list()}

    def holders(self, service: str) -> set[str]:
        return {row.holder for row in self.services.status(service).holders}

    def processes(self, mark: str = "") -> list[psutil.Process]:
        """What runs on this platform beside this process and the connectors: whatever names its directory in its command.

        Args:
            mark: instead, the last argument of one service's command, which no other process has.
        """
        own, found = {one.process.pid for one in self.connectors} | {psutil.Process().pid}, []
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                is_ours = command[-1:] == [mark] if mark else any(str(self.directory) in text for text in command)
                if is_ours and process.pid not in own and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def remove_all(self) -> None:
        """Remove every service, and see that no process of them is left."""
        for name in self.names():
            with suppress(NotFoundError):  # a connector's reaper may have removed it meanwhile
                self.services.delete(name, force=True)

        def gone() -> bool:
            self.services.reap()
            return not self.names()

        wait_for(gone, "the services to be gone")
        wait_for(lambda: not self.processes(), f"no process to be left, but there is {self.processes()}")


@contextmanager
def flyte_platform(directory: Path, *options: str, replicas: int = 2) -> Iterator[FlytePlatform]:
    """A new platform with `replicas` of a connector; everything ends with the block.

    Args:
        options: of `fondaco service connector`.
    """
    with fd.open(directory) as platform, ExitStack() as stack:
        connectors = [stack.enter_context(connector(directory, *options)) for _ in range(replicas)]
        made = FlytePlatform(directory, platform, connectors)
        try:
            yield made
        finally:
            made.remove_all()
