"""`fondaco train` as a process of its own, on pipes or on a terminal of its own; and what is left of its jobs."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import fondaco as fd
from waiting import PATIENCE_S, wait_for

FONDACO = [sys.executable, "-c", "from fondaco.cli import main; main()"]
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup would else have processes that do not hear it


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without what a run around these tests might have set."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FONDACO_RUN", "FONDACO_GRAPH", "FONDACO_DIR"))}
    return {**own, "PATH": f"{Path(sys.executable).parent}:{own['PATH']}", **(more or {})}


def train(directory: Path, *arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run it to its end; `arguments` are options, `--` and the command."""
    return subprocess.run(
        [*FONDACO, "train", "--dir", str(directory), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        env=environment(),
        cwd=cwd,
        check=False,
    )


@contextlib.contextmanager
def training(directory: Path, *arguments: str, log: Path, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """One that runs; its output goes to `log`. Killed at the end, if it still runs then."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*FONDACO, "train", "--dir", str(directory), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            cwd=cwd,
        )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(15)
            process.kill()


@contextlib.contextmanager
def removing_services(directory: Path) -> Iterator[None]:
    """At the end, no service of a platform is left."""
    try:
        yield
    finally:
        with fd.open(directory) as platform:
            for status in platform.services.list():
                platform.services.delete(status.service, force=True)


def marked(mark: str) -> list[int]:
    """The living processes with a text in their command line, but us."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{name}/cmdline").read_bytes()
            state = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[0]
            if mark.encode() in line and state not in (b"Z", b"X") and int(name) != os.getpid():
                found.append(int(name))
    return found


def gone(mark: str) -> None:
    """Wait until no process has a text in its command line."""
    wait_for(lambda: not marked(mark), f"processes with {mark!r} end")


class Terminal:
    """A terminal in which a command runs, as the leader of its session. Close it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._master, self._slave = pty.openpty()
        name = os.ttyname(self._slave)
        # whoever leads a session and opens a terminal gets it as its own: credentials(7), "controlling terminal"
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" < "$0" > "$0" 2>&1', name, *command], start_new_session=True, env=environment({"PS1": "$ "})
        )
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def type(self, text: str) -> None:
        """As on its keyboard."""
        os.write(self._master, text.encode())

    def until(self, pattern: str) -> str:
        """Read until what a regular expression describes is on the screen; returns what came before it."""
        begun = time.monotonic()
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() - begun < PATIENCE_S, f"{pattern!r} does not come; seen: {self.seen!r}"
            if select.select([self._master], [], [], 0.2)[0]:
                self.seen += os.read(self._master, 4096).decode(errors="replace")
        before, self.seen = self.seen[: found.start()], self.seen[found.end() :]
        return before
