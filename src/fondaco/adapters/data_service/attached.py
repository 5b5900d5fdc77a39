"""Attached: a job that holds its data services while it runs: ensured before its first line, in its environment, given back after its last.

`attached` is the block, `with_data_services` the decorator for a task of Flyte 1 or any function, plain or async. The lease is renewed by a
thread; it is given back on return, on an exception and on SIGTERM (where the main thread is in the block), and runs out by itself after a
kill. Who holds is told by the variables that both generations of Flyte set in a task's container; outside Flyte, by user, host and pid.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import inspect
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from fondaco.adapters.data_service.config import DataServiceConfig
from fondaco.adapters.data_service.holders import PREFIX, execution_holder
from fondaco.adapters.data_service.local import forget, give_back, hold_here, platform_services, run_ready
from fondaco.adapters.data_service.variables import OF_EACH, environment
from fondaco.core.errors import InputError
from fondaco.core.units import parse_duration_us

if TYPE_CHECKING:
    from fondaco.services.manager import Services

TIMEOUT: Final = "30m"
RELEASE_S: Final = 5.0  # of the seconds that are left after SIGTERM
_LOGGER = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


@contextmanager
def attached(
    *configs: DataServiceConfig, services: Services | None = None, holder: str | None = None, timeout: str = TIMEOUT
) -> Iterator[dict[str, str]]:
    """Ensure services, wait until they are ready, set their variables in `os.environ`, and hold them until the block is left.

    Args:
        configs: what to ensure, one after the other; `Policy` and `Hold` have no meaning here.
        services: of which platform; None: FONDACO_DIR's. holder: who holds; None: this task. timeout: for each to become ready.
    Returns:
        the variables.
    Raises:
        as `Services.ensure`. InputError: two services export a variable with different values. StateError: a task beside this one does.
    """
    with _leases(configs, services, holder, timeout) as held, _released_on_sigterm(held.releases), environment(held.env):
        yield held.env


async def run_attached(
    function: Callable[[], Awaitable[Result]],
    *configs: DataServiceConfig,
    services: Services | None = None,
    holder: str | None = None,
    timeout: str = TIMEOUT,
) -> Result:
    """Await a coroutine inside `attached(*configs)`, without keeping the loop from its other work while services start."""
    stack, given_up = ExitStack(), threading.Event()
    entering = asyncio.ensure_future(asyncio.to_thread(stack.enter_context, _leases(configs, services, holder, timeout, given_up)))
    try:
        held = await asyncio.shield(entering)
    except asyncio.CancelledError:  # the thread would go on; it ends within seconds, and gives back what it has taken
        given_up.set()
        with suppress(Exception):
            await entering
        await asyncio.to_thread(stack.close)
        raise
    try:
        with _released_on_sigterm(held.releases), environment(held.env):
            return await function()
    finally:
        await asyncio.shield(asyncio.to_thread(stack.close))


def with_data_services(*configs: DataServiceConfig, timeout: str = TIMEOUT) -> Callable[[Function], Function]:
    """A decorator: the function runs inside `attached(*configs)`. Below `@task`: Flyte sees the function's own interface.

    Args:
        timeout: for each service to become ready.
    """

    def decorate(function: Function) -> Function:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                return await run_attached(lambda: function(*args, **kwargs), *configs, timeout=timeout)

            return cast(Function, run_async)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with attached(*configs, timeout=timeout):
                return function(*args, **kwargs)

        return cast(Function, run)

    return decorate


def holder_here() -> str:
    """A holder for this task's own lease; no two calls give the same, so that an attempt that lingers cannot give back another's."""
    execution = os.environ.get("FLYTE_INTERNAL_EXECUTION_ID") or os.environ.get("RUN_NAME")
    unique = uuid.uuid4().hex[:8]
    if execution:
        project, domain = (os.environ.get(f"FLYTE_INTERNAL_EXECUTION_{part}", "") for part in ("PROJECT", "DOMAIN"))
        task = os.environ.get("ACTION_NAME") or os.environ.get("FLYTE_INTERNAL_TASK_NAME") or "task"
        return f"{execution_holder(project, domain, execution)}{task}/{unique}"
    return f"{PREFIX}{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}/{unique}"


@dataclass(frozen=True, slots=True)
class _Held:
    """What a block holds: the variables, and how to give each lease back early."""

    env: dict[str, str]
    releases: list[Callable[[], object]]


@contextmanager
def _leases(
    configs: Sequence[DataServiceConfig],
    services: Services | None,
    holder: str | None,
    timeout: str,
    given_up: threading.Event | None = None,
) -> Iterator[_Held]:
    """Hold services until the block is left."""
    found = services if services is not None else platform_services()
    who = holder if holder is not None else holder_here()
    with ExitStack() as stack:
        held = _Held({}, [])
        for config in configs:
            for name, value in _hold(stack, held, found, config, who, timeout, given_up).items():
                if held.env.setdefault(name, value) != value and name not in OF_EACH:
                    raise InputError(
                        f"two services export {name}, as {held.env[name]!r} and as {value!r}; give one of them another name by Exports"
                    )
        yield held


def _hold(
    stack: ExitStack,
    held: _Held,
    services: Services,
    config: DataServiceConfig,
    holder: str,
    timeout: str,
    given_up: threading.Event | None,
) -> Mapping[str, str]:
    """Hold one service until the stack is closed; its variables."""
    timeout_s = parse_duration_us(timeout) / 1e6
    meta, state = run_ready(services, config, holder=holder, timeout_s=timeout_s, given_up=given_up)
    hold_here(services, meta)

    def release() -> None:
        forget(meta.service, holder)
        give_back(services, meta)

    stack.callback(release)
    held.releases.append(release)
    assert state.outputs is not None
    return state.outputs.env


@contextmanager
def _released_on_sigterm(releases: Sequence[Callable[[], object]]) -> Iterator[None]:
    """Where nobody else handles SIGTERM: give everything back first, then end by the signal as before.

    The handler runs in the main thread, which may hold a lock of the catalog just then: another thread does it, and is not waited for long.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def release_all() -> None:
        for release in releases:
            try:
                release()
            except Exception as exc:
                _LOGGER.warning("a lease could not be given back and runs out by itself: %s", exc)

    def handle(number: int, frame: FrameType | None) -> None:
        thread = threading.Thread(target=release_all, daemon=True)
        thread.start()
        thread.join(RELEASE_S)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
