"""Tree: the processes of this machine as /proc shows them: whose child, since when, of which service; and the end of those left behind.

Every process of a service inherits a variable that names the service's directory, incarnation and instance (`MARKER`), whatever it forks,
detaches or executes, unless it starts something with an environment of its own. A keeper also is the subreaper of all it started: what
detaches itself becomes its child and not init's. A number is never trusted alone: between looking and killing, a process is held by a
descriptor (pidfd) and its start time is compared, so that a number that was used again is not hit.
Source: proc(5), pidfd_open(2), prctl(2) PR_SET_CHILD_SUBREAPER.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

MARKER: Final = "FONDACO_SERVICE_MARKER"
KEEPER: Final = "FONDACO_SERVICE_KEEPER"  # in the keeper's own environment: the directory of its service
_ROUNDS_MAX: Final = 50  # of looking for what was forked while we killed
_LISTENING: Final = "0A"


class Seen(NamedTuple):
    """A process: its number, its parent's, its group's, when it started (clock ticks since boot), its state letter and short name."""

    pid: int
    parent: int
    group: int
    started: int
    state: str
    name: str


def marker(directory: Path, incarnation: int, index: int | None = None) -> str:
    """What `MARKER` holds in the processes of an instance, or the beginning of it in those of any instance."""
    return f"{directory}#{incarnation}#" + ("" if index is None else f"{index}#")


def see(pid: int) -> Seen | None:
    """One process, or None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (OSError, ValueError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(") ")  # a name may hold blanks and parentheses
    fields = rest.split()
    return Seen(pid, int(fields[1]), int(fields[2]), int(fields[19]), fields[0], name)


def see_all() -> dict[int, Seen]:
    """All processes that can be seen, without those that have ended and wait for their parent."""
    found = (see(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {seen.pid: seen for seen in found if seen is not None and seen.state not in "ZX"}


def descendants(root: int, seen: Mapping[int, Seen]) -> list[Seen]:
    """What a process started, and what that started. Keepers of other services, and what is below them, are not counted."""
    children: dict[int, list[Seen]] = {}
    for one in seen.values():
        children.setdefault(one.parent, []).append(one)
    result: list[Seen] = []
    waiting = list(children.get(root, ()))
    while waiting:
        one = waiting.pop()
        if variable(one.pid, KEEPER) is None:
            result.append(one)
            waiting += children.get(one.pid, ())
    return result


def marked(beginning: str, seen: Mapping[int, Seen]) -> list[Seen]:
    """Those whose marker begins so; other users' processes cannot be read and are none of ours."""
    return [one for one in seen.values() if (variable(one.pid, MARKER) or "").startswith(beginning)]


def variable(pid: int, name: str) -> str | None:
    """A variable in the environment that a process was started with, or None."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    for each in environ.split(b"\0"):
        key, _, value = each.partition(b"=")
        if key == name.encode():
            return os.fsdecode(value)
    return None


def end_all(find: Callable[[], list[Seen]]) -> int:
    """Kill what `find` finds until it finds nothing more; returns how many that were."""
    ended: set[tuple[int, int]] = set()
    for round_ in range(_ROUNDS_MAX):
        found = find()
        if not found:
            break
        time.sleep(0.001 * round_)  # what was killed in the round before may need a moment to go
        for one in found:
            if end(one, signal.SIGKILL):
                ended.add((one.pid, one.started))
    return len(ended)


def end(one: Seen, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; returns whether it still was there."""
    try:
        descriptor = os.pidfd_open(one.pid)
    except OSError:
        return False
    try:
        now = see(one.pid)
        if now is None or now.started != one.started:
            return False  # another one has its number
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(descriptor, number)
        return True
    finally:
        os.close(descriptor)


def listener(port: int, *, likely: int | None = None) -> tuple[int, str] | None:
    """The process that listens on a TCP port, and its name; None if nobody does or it cannot be seen.

    Args:
        likely: the process that is looked at first: to look at all takes a tenth of a second where there are many.
    """
    nodes = set(_listening(port))
    if not nodes:
        return None
    links = {f"socket:[{node}]" for node in nodes}
    first = [] if likely is None else [str(likely)]
    for name in [*first, *os.listdir("/proc")]:
        if name.isdigit() and _has_open(name, links):
            seen = see(int(name))
            return (int(name), seen.name) if seen is not None else None
    return None


def _listening(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _has_open(pid: str, links: set[str]) -> bool:
    try:
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(descriptor.path) in links:
                    return True
    except OSError:
        pass
    return False
