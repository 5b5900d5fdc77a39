"""Governor: a build gives way while reads or real-time writes are at risk.

Work on a store has an order: reads, then the overlay of the current version, then incremental pushes, then builds of future versions.
Whoever builds calls `pace()` between chunks. It looks, ten times a second at most, at what every store of the platform publishes in small
mapped cells: how far behind its freshness is (the tailer writes that), and the p99 of served reads (each server writes that). While one of
them misses its target the build's share of time is halved, down to `slowest`; when all are well it grows back by a quarter at a time. The
share is kept by sleeping in proportion to the time the chunk took, so it needs no knowledge of the machine.

While something serves, the building threads also ask the kernel for less: SCHED_BATCH, a nice value of 10 where that can be taken back
afterwards (it needs the right to), and the lowest best-effort priority of I/O. All of it is per thread, and undone at the end.

A governor belongs to one thread; `lower_helper` gives other threads of that build the same priority. `ServingCell` belongs to one server
process.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform as _machine
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from fondaco.core.clock import Clock
from fondaco.core.config import GovernorConfig
from fondaco.core.errors import FondacoError
from fondaco.core.files import os_errors
from fondaco.store.freshness import Freshness
from fondaco.store.layout import StoreLayout
from fondaco.store.mirror import read_store

LOOK_S: Final = 0.1  # between looks at the cells
STORES_S: Final = 2.0  # between looks for stores
NAP_S: Final = 0.1  # a long pause is slept in pieces of this, with a look between them
PAUSE_S_MAX: Final = 5.0  # in one call, whatever the chunk took
NICE: Final = 10
SERVING_DIRECTORY: Final = "serving"  # <platform>/serving/<server>: cells of the servers that read from this directory
SERVING_AGE_MS: Final = 5_000  # a cell that was not written for so long is of a server that is gone
_CELLS: Final = 4  # int64: written (ms since the epoch), read p99 (us), reads since the start, reserved

_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}.get(_machine.machine())
_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_BEST_EFFORT_LOWEST: Final = 2 << 13 | 7
_IOPRIO_NONE: Final = 0
_CAP_SYS_NICE: Final = 23


class ServingCell:
    """Where one server says how its reads do. Close it when the server stops."""

    def __init__(self, platform: Path, name: str) -> None:
        """
        Args:
            name: of the server, such as its node's name or port: one live server per name.
        Raises:
            ReadOnlyError, DiskFullError.
        """
        self._path = platform / SERVING_DIRECTORY / name
        with os_errors(self._path):
            self._path.parent.mkdir(exist_ok=True)
            with open(self._path, "w+b") as file:
                file.truncate(8 * _CELLS)
                self._map = mmap.mmap(file.fileno(), 8 * _CELLS)
        self._cells = memoryview(self._map).cast("q")

    def publish(self, *, read_p99_us: int, reads: int, now_ms: int | None = None) -> None:
        """Say what the p99 of single gets of the last seconds was, and how many reads there were since the start. Once a second will do."""
        self._cells[1], self._cells[2] = read_p99_us, reads
        self._cells[0] = time.time_ns() // 1_000_000 if now_ms is None else now_ms

    def close(self) -> None:
        """Take the cell away."""
        self._cells.release()
        self._map.close()
        self._path.unlink(missing_ok=True)


def served_p99_ms(platform: Path, now_ms: int) -> float | None:
    """The worst read p99 of the servers that are alive, in ms; None: nobody serves."""
    worst: float | None = None
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(platform / SERVING_DIRECTORY):
            with contextlib.suppress(OSError):
                raw = Path(entry.path).read_bytes()
                if len(raw) == 8 * _CELLS:
                    cells = memoryview(raw).cast("q")
                    if now_ms - cells[0] <= SERVING_AGE_MS:
                        worst = max(worst or 0.0, cells[1] / 1000)
    return worst


class Risk:
    """What a look found: whether anything is served or tailed at all, and what is at risk (text for reports; empty: nothing)."""

    __slots__ = ("reason", "serves")

    def __init__(self, serves: bool, reason: str = "") -> None:
        self.serves, self.reason = serves, reason


class PlatformRisk:
    """A look at every store and server of a platform. Belongs to one build."""

    def __init__(self, platform: Path, config: GovernorConfig, clock: Clock) -> None:
        self._platform, self._config, self._clock = platform, config, clock
        self._stores: dict[Path, Freshness | None] = {}  # overlay's directory -> as it was at the look before; None: not yet
        self._targets: dict[Path, int] = {}
        self._listed_s = -STORES_S

    def __call__(self) -> Risk:
        now_ms = self._clock.now_us() // 1000
        p99_ms = served_p99_ms(self._platform, now_ms)
        serves = p99_ms is not None
        if p99_ms is not None and p99_ms > self._config.read_p99_ms:
            return Risk(serves, f"served reads take {p99_ms:.1f} ms at p99, and {self._config.read_p99_ms:g} ms are the target")
        reason = ""
        for directory, before in self._written():
            now = Freshness.of(directory, target_ms=self._targets[directory])
            self._stores[directory] = now
            serves = serves or now.tailing
            if before is not None:  # the histogram is of the overlay's whole life: what counts is what came since the last look
                reason = reason or now.since(before).at_risk
        return Risk(serves, reason)

    def _written(self) -> list[tuple[Path, Freshness | None]]:
        """The overlays of stores that somebody wrote to."""
        now_s = time.monotonic()
        if now_s - self._listed_s >= STORES_S:
            self._listed_s = now_s
            found: dict[Path, Freshness | None] = {}
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(self._platform / "log"):
                    store = self._platform / "stores" / entry.name.removesuffix(".rt")
                    with contextlib.suppress(FondacoError):  # a topic that is no store's, or a store that is deleted right now
                        directory = StoreLayout(store).overlay
                        if directory not in self._targets:
                            self._targets[directory] = read_store(store).settings.freshness_ms
                        found[directory] = self._stores.get(directory)
            self._stores = found
        return list(self._stores.items())


class Governor:
    """Paces one build. Use as a context manager around it, in the building thread."""

    def __init__(self, config: GovernorConfig, look: Callable[[], Risk], *, now_s: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            look: says what is at risk now (`PlatformRisk`).
            now_s: monotonic seconds; tests choose it.
        """
        self.share = 1.0
        self.slowest_share = 1.0  # so far: for the report
        self.reasons: set[str] = set()
        self.paused_s = 0.0
        self._config, self._look, self._now_s = config, look, now_s
        self._looked_at = -LOOK_S
        self._worked_since = now_s()
        self._priority = contextlib.ExitStack()
        self._lowered = False

    def __enter__(self) -> Governor:
        self._worked_since = self._now_s()
        if self._config.enabled:
            self._take_look()
        return self

    def __exit__(self, *exc: object) -> None:
        self._priority.close()

    def pace(self, check: Callable[[], object] | None = None, nap: Callable[[float], object] = time.sleep) -> float:
        """Sleep as long as the share asks for, after a chunk of work; return the seconds slept.

        Args:
            check: called between naps; may raise to end the build.
        """
        if not self._config.enabled:
            return 0.0
        now = self._now_s()
        worked = now - self._worked_since
        if now - self._looked_at >= LOOK_S:
            self._take_look()
        owed = min(worked * (1 / self.share - 1), PAUSE_S_MAX)
        slept = 0.0
        while slept < owed:
            piece = min(NAP_S, owed - slept)
            nap(piece)
            slept += piece
            if check is not None:
                check()
        self.paused_s += slept
        self._worked_since = self._now_s()
        return slept

    def _take_look(self) -> None:
        self._looked_at = self._now_s()
        risk = self._look()
        if risk.serves and not self._lowered:
            self._lowered = True
            self._priority.enter_context(lowered_priority())
        if risk.reason:
            self.share = max(self._config.slowest, self.share / 2)
            self.slowest_share = min(self.slowest_share, self.share)
            self.reasons.add(risk.reason)
        else:
            self.share = min(1.0, self.share * 1.25)

    def lower_helper(self) -> None:
        """Give the calling thread, which helps this build and ends with it, the lower priority for good, if something serves."""
        if self._config.enabled and self._lowered:
            _lower(threading.get_native_id(), nice=True)


# -- priority of threads --------------------------------------------------------------------------------------------------------------


class _Before(NamedTuple):
    """What a thread had: its nice value, None if that was left alone; and whether its policy was the usual one."""

    nice: int | None
    is_usual: bool


_LOWERED: Final = threading.local()  # .before: a `_Before`, in a thread whose priority is lowered


@contextlib.contextmanager
def lowered_priority() -> Iterator[None]:
    """Run the block's thread at a lower priority of CPU and I/O, as far as it can be taken back afterwards."""
    thread = threading.get_native_id()
    value = os.getpriority(os.PRIO_PROCESS, thread)
    nice = value < NICE and _may_set_nice(value)
    before = _Before(value if nice else None, os.sched_getscheduler(thread) == os.SCHED_OTHER)
    _lower(thread, nice=nice)
    _LOWERED.before = before
    try:
        yield
    finally:
        if threading.get_native_id() == thread:
            _LOWERED.before = None
            _give_back(thread, before)


@contextlib.contextmanager
def own_priority() -> Iterator[None]:
    """Give the block's thread back what `lowered_priority` took, for as long as the block: a process that it starts inherits its priority,
    and need not be a part of the build."""
    thread, before = threading.get_native_id(), getattr(_LOWERED, "before", None)
    if before is None:
        yield
        return
    _give_back(thread, before)
    try:
        yield
    finally:
        _lower(thread, nice=before.nice is not None)


def _give_back(thread: int, before: _Before) -> None:
    with contextlib.suppress(OSError):
        if before.nice is not None:
            os.setpriority(os.PRIO_PROCESS, thread, before.nice)
        if before.is_usual:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
    _set_io_priority(thread, _IOPRIO_NONE)


def _lower(thread: int, *, nice: bool) -> None:
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(thread) == os.SCHED_OTHER:
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        if nice and os.getpriority(os.PRIO_PROCESS, thread) < NICE:
            os.setpriority(os.PRIO_PROCESS, thread, NICE)
    _set_io_priority(thread, _IOPRIO_BEST_EFFORT_LOWEST)


def _may_set_nice(value: int) -> bool:
    """Whether this process may return to a nice value once it has given it up."""
    if resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20 - value:
        return True
    with contextlib.suppress(OSError, ValueError, IndexError):  # being root is not enough: containers take this right away
        effective = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
        return bool(int(effective, 16) >> _CAP_SYS_NICE & 1)
    return False


def _set_io_priority(thread: int, priority: int) -> None:
    if _IOPRIO_SET is not None:
        ctypes.CDLL(None, use_errno=True).syscall(_IOPRIO_SET, _IOPRIO_WHO_PROCESS, thread, priority)  # glibc has no name for it
