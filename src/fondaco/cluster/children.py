"""Children: the processes of a node that its agent keeps running: started, watched, started again; none outlives the agent.

A child that ends is started again after a pause that doubles from 0.2 s to 10 s; one that answered once and then does not for `hang_s` is
killed, and started again. `tick` does what is due and never waits; all of it belongs to the agent's main thread (see `processes.launch`).
"""

from __future__ import annotations

import http.client
import logging
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from fondaco.processes.launch import command

_PAUSE_S: Final = (0.2, 10.0)
_SETTLED_S: Final = 30.0  # a child that ran for so long begins again with the first pause
_LOGGER = logging.getLogger(__name__)


class HttpProbe:
    """Whether a server answers `GET /readyz` with 200. Any thread; remembers the last answer for `keep_s`, so that many may ask."""

    def __init__(self, url: str, *, timeout_s: float = 1.0, keep_s: float = 0.2) -> None:
        self._parts, self._timeout_s, self._keep_s = urlsplit(url), timeout_s, keep_s
        self._lock = threading.Lock()
        self._known = (-1e9, False)

    def __call__(self) -> bool:
        with self._lock:
            if time.monotonic() - self._known[0] > self._keep_s:
                answered = self._ask()
                self._known = (time.monotonic(), answered)
            return self._known[1]

    def _ask(self) -> bool:
        host, port = self._parts.hostname or "127.0.0.1", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # our own child, on our own machine: whether it lives
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Child:
    """One process that is kept running."""

    def __init__(self, name: str, module: str, *arguments: str, probe: Callable[[], bool] | None = None, hang_s: float = 10.0) -> None:
        """
        Args:
            probe: whether it answers; None: it is only watched for its end.
        """
        self.name = name
        self._command = command(module, *arguments)
        self._probe, self._hang_s = probe, hang_s
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._start_at = 0.0
        self._answered_at: float | None = None
        self._failures = 0
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process that runs now, or None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def tick(self) -> None:
        """Start, or start again, or kill what hangs; whatever is due."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at:
                self._start(now)
            return
        code = self._process.poll()
        if code is not None:
            self._ended(code, now)
        elif self._probe is not None and self._probe():
            self._answered_at = now
        elif self._answered_at is not None and now - self._answered_at > self._hang_s:
            _LOGGER.warning("the %s process (%d) has not answered for %g s and is killed", self.name, self._process.pid, self._hang_s)
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float) -> None:
        """End it: SIGTERM, and SIGKILL if that takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _LOGGER.warning("the %s process (%d) did not end within %g s and is killed", self.name, self._process.pid, timeout_s)
            self._process.kill()
            self._process.wait()

    def _start(self, now: float) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=2)  # our stdout says where the node is
        self._started_at, self._answered_at = now, None
        self.starts += 1

    def _ended(self, code: int, now: float) -> None:
        self._failures = 0 if now - self._started_at > _SETTLED_S else self._failures + 1
        first, longest = _PAUSE_S
        pause = min(longest, first * 2.0 ** max(0, self._failures - 1))
        _LOGGER.warning("the %s process ended with %d and is started again in %g s", self.name, code, pause)
        self._process, self._start_at = None, now + pause
