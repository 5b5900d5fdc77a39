"""Local runs of workflows: the platform in FONDACO_DIR, and leases that last as long as the process that runs the workflow.

Flyte has no notion of "the workflow has ended" in a local run, so what a data service task has got is held until the process ends: a
thread renews it, leaving the interpreter gives it back, and after a kill -9 it expires within a minute. Nothing else differs from what a
connector does. A forked child neither renews nor gives back what its parent holds.
"""

from __future__ import annotations

import atexit
import getpass
import importlib
import logging
import os
import platform as machine
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fondaco.adapters.data_service.config import DataServiceConfig
from fondaco.adapters.data_service.holders import PREFIX
from fondaco.adapters.data_service.lifecycle import create, delete, get
from fondaco.adapters.data_service.meta import DataServiceMeta
from fondaco.adapters.data_service.state import TaskPhase, TaskState
from fondaco.core.errors import DeadlineExceededError, FondacoError, InputError, StateError

if TYPE_CHECKING:
    from fondaco.services.manager import Services

VARIABLE: Final = "FONDACO_DIR"
LEASE_S: Final = 60.0
LEASE: Final = "60s"
_PAUSES_S: Final = (0.05, 1.0)  # between two looks at a service that starts: at first, at last
_LOGGER = logging.getLogger(__name__)


class _Process:
    """What this process has opened and holds. One object per process: a fork begins with an empty one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.platforms: dict[str, Any] = {}
        self.held: dict[DataServiceMeta, Services] = {}
        self.stop = threading.Event()
        self.renewing: threading.Thread | None = None
        atexit.register(self.close)

    def close(self) -> None:
        """Give back what is held, and close what was opened."""
        if os.getpid() != self.pid:
            return
        self.stop.set()
        with self.lock:
            held, self.held = self.held, {}
            platforms, self.platforms = self.platforms, {}
        if self.renewing is not None:
            self.renewing.join()
        for meta, services in held.items():
            give_back(services, meta)
        for opened in platforms.values():
            opened.close()

    def hold(self, services: Services, meta: DataServiceMeta) -> None:
        """Renew a lease until the process ends."""
        with self.lock:
            self.held[meta] = services
            if self.renewing is None:
                self.renewing = threading.Thread(target=self._renew, name="fondaco leases", daemon=True)
                self.renewing.start()

    def _renew(self) -> None:
        while not self.stop.wait(LEASE_S / 3):
            with self.lock:
                held = dict(self.held)
            for meta, services in held.items():
                try:
                    state = get(services, meta, lease=LEASE)
                except FondacoError as exc:
                    _LOGGER.warning("the lease on %s could not be renewed: %s", meta.service, exc)
                else:
                    if state.phase is not TaskPhase.SUCCEEDED:
                        _LOGGER.warning("data service %s: %s", meta.service, state.message)


_process: _Process | None = None
_process_lock = threading.Lock()


def _this_process() -> _Process:
    global _process
    with _process_lock:
        if _process is None or _process.pid != os.getpid():
            _process = _Process()
        return _process


def close() -> None:
    """Give back what local runs in this process hold, and close the platform; what follows opens it again. Leaving the interpreter does
    the same."""
    global _process
    with _process_lock:
        process, _process = _process, None
    if process is not None:
        atexit.unregister(process.close)
        process.close()


def platform_services() -> Services:
    """The services of the platform in FONDACO_DIR, opened once in a process.

    Raises:
        InputError: the variable is not set. NotAPlatformError: there is no platform.
    """
    directory = os.environ.get(VARIABLE)
    if not directory:
        raise InputError(
            f"a data service task in a local run needs a platform: set {VARIABLE} to its directory, as in {VARIABLE}=data pyflyte run ..."
        )
    process = _this_process()
    with process.lock:
        if directory not in process.platforms:
            # by name: this package lies below the platform, and opens it only for a process that has none
            process.platforms[directory] = importlib.import_module("fondaco").open(directory, create=False)
        services: Services = process.platforms[directory].services
        return services


def local_holder(task: str = "") -> str:
    """In whose name tasks of this process hold their leases; without a task, what all of them begin with."""
    return f"{PREFIX}local/{getpass.getuser()}@{machine.node()}/{os.getpid()}/{task}"


def run_here(config: DataServiceConfig, *, task: str, timeout: timedelta | None) -> TaskState:
    """Make sure of a service, wait until it is ready, and hold it until this process ends; with policy "keep", until it is deleted.

    Raises:
        InputError, UnavailableError: as `data_service.create`. StateError: the service failed; says why.
        DeadlineExceededError: it was not ready in the task's time. In each of these cases the lease is given back.
    """
    services = platform_services()
    timeout_s = timeout.total_seconds() if timeout else None
    meta, state = run_ready(services, config, holder=local_holder(task), timeout_s=timeout_s, keep=True)
    if meta.hold_us is not None:
        hold_here(services, meta)
    return state


def run_ready(
    services: Services,
    config: DataServiceConfig,
    *,
    holder: str,
    timeout_s: float | None,
    keep: bool = False,
    given_up: threading.Event | None = None,
) -> tuple[DataServiceMeta, TaskState]:
    """Make sure of a service and wait until it is ready; held for `LEASE_S` from then on, by the caller to be renewed (`hold_here`).

    Args:
        timeout_s: seconds to become ready; None: no bound. keep: policy "keep" counts: held until it is deleted.
        given_up: set by who does not want it any more.
    Raises:
        as `run_here`. StateError: it was given up.
    """
    meta = create(services, config, holder=holder, lease=LEASE)
    if meta.hold_us is not None or not keep:
        meta = msgspec.structs.replace(meta, hold_us=int(LEASE_S * 1e6))
    try:
        return meta, _ready(services, meta, timeout_s, given_up or threading.Event())
    except BaseException:
        give_back(services, meta)
        raise


def hold_here(services: Services, meta: DataServiceMeta) -> None:
    """Renew a task's lease until this process ends, and give it back then."""
    _this_process().hold(services, meta)


def forget(service: str, holder: str) -> None:
    """Renew a lease no more: somebody has given it back."""
    process = _this_process()
    with process.lock:
        for meta in [meta for meta in process.held if meta.service == service and meta.holder == holder]:
            del process.held[meta]


def _ready(services: Services, meta: DataServiceMeta, timeout_s: float | None, given_up: threading.Event) -> TaskState:
    said, begun = "", time.monotonic()
    pause, longest = _PAUSES_S
    while True:
        state = get(services, meta, lease=LEASE)
        if state.message != said:
            said = state.message
            _LOGGER.info("data service %s: %s", meta.service, said)
        if state.phase is TaskPhase.SUCCEEDED:
            return state
        if state.phase.is_terminal:
            raise StateError(f"data service {meta.service}: {state.message}")
        if timeout_s and time.monotonic() - begun > timeout_s:
            raise DeadlineExceededError(f"data service {meta.service}", timeout_s, state.message)
        if given_up.wait(pause):
            raise StateError(f"data service {meta.service}: given up while it started")
        pause = min(pause * 1.5, longest)


def give_back(services: Services, meta: DataServiceMeta) -> None:
    """Give a lease back on the way out; if that fails, it expires."""
    try:
        delete(services, meta)
    except FondacoError as exc:
        _LOGGER.warning("the lease on %s could not be given back, and expires: %s", meta.service, exc)
