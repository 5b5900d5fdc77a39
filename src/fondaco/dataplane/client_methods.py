"""Client methods: how an operation becomes a method, blocking or asyncio: one line each; doc and parameters are the operation's.

class ThinReader(ReaderOperations):
    get_many = blocking(ReaderOperations.get_many_operation)

class AsyncThinReader(ReaderOperations):
    get_many = awaitable(ReaderOperations.get_many_operation)
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from fondaco.dataplane.pool import Operation

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


class Blocking(Protocol):
    """Has a way to run operations on the calling thread."""

    def _run(self, operation: Operation[T]) -> T: ...


class Awaiting(Protocol):
    """Has a way to run operations on the running loop."""

    async def _run(self, operation: Operation[T]) -> T: ...


def blocking(operation: Callable[Concatenate[S, P], Operation[T]]) -> Callable[Concatenate[S, P], T]:
    """The method that runs `operation` to its end."""

    @functools.wraps(operation)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._run(operation(self, *args, **kwargs))
        return result

    _rename(method)
    return method


def awaitable(operation: Callable[Concatenate[S, P], Operation[T]]) -> Callable[Concatenate[S, P], Awaitable[T]]:
    """The coroutine method that runs `operation`."""

    @functools.wraps(operation)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self._run(operation(self, *args, **kwargs))
        return result

    _rename(method)
    return method


def _rename(method: Any) -> None:
    method.__name__ = method.__name__.removesuffix("_operation")
    method.__qualname__ = method.__qualname__.removesuffix("_operation")
    annotations = dict(method.__annotations__)
    if str(annotations.get("return", "")).startswith("Operation["):
        annotations["return"] = annotations["return"].removeprefix("Operation[").removesuffix("]")
        method.__annotations__ = annotations
