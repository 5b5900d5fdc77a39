"""Variables: a data service's variables in the process that a task is. Imports neither SDK; both adapters export it.

`environment` is for tasks that come after a `DataServiceTask`, which holds the service. A task without one holds the service itself while
it runs: `attached`.

`os.environ` belongs to the process, and in local runs several tasks run in one: tasks within each other may set a variable anew, tasks
beside each other may only agree on it (`StateError`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final

from fondaco.core.errors import StateError

OF_EACH: Final = frozenset({"FONDACO_SERVICE_NAME", "FONDACO_SERVICE_ENDPOINTS"})  # of several services, the first one's


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set a data service's variables (its task's output `env`) for a block of a task: `fondaco.graph.connect()` and programs that are
    started there find the service. They are the process's: blocks at the same time must agree on them.

    Raises:
        StateError: another task of this process has set one of them to another value.
    """
    with _ENVIRONMENT.layer(variables):
        yield


class _Environment:
    """`os.environ` with layers on it: the newest that sets a variable wins, and what was there before comes back with the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._layers: list[tuple[object, Mapping[str, str]]] = []
        self._before: dict[str, str | None] = {}
        self._within: ContextVar[tuple[object, ...]] = ContextVar("layers", default=())

    @contextmanager
    def layer(self, env: Mapping[str, str]) -> Iterator[None]:
        """Set variables until the block is left.

        Raises:
            StateError: a block that is not around this one has set one of them to another value.
        """
        mark = object()
        with self._lock:
            around = self._within.get()
            for other, there in self._layers:
                different = [name for name in env if name not in OF_EACH and there.get(name, env[name]) != env[name]]
                if other not in around and different:
                    raise StateError(
                        f"another task of this process has set {different[0]} to {there[different[0]]!r}, and this one needs "
                        f"{env[different[0]]!r}; run them one after the other, or give one of them another name by Exports"
                    )
            self._layers.append((mark, env))
            self._show(env)
        token = self._within.set((*around, mark))
        try:
            yield
        finally:
            with self._lock:
                self._layers = [layer for layer in self._layers if layer[0] is not mark]
                self._show(env)
            with suppress(ValueError):  # a generator may be closed in another context, which has nothing to set back
                self._within.reset(token)

    def _show(self, names: Sequence[str] | Mapping[str, str]) -> None:
        """Have variables of the process say what the layers do."""
        for name in names:
            self._before.setdefault(name, os.environ.get(name))
            value = next((there[name] for _, there in reversed(self._layers) if name in there), None)
            if value is None:
                value = self._before.pop(name)
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_ENVIRONMENT: Final = _Environment()  # one for the process: another would put back what a block still needs
