"""Answering: what every call of both protocols has in common: it is measured, and an error becomes a status code and one message.

The code says what the caller can do, as our errors do: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED: the same call fails again;
UNAVAILABLE, DEADLINE_EXCEEDED: it may succeed later; INTERNAL: a mistake of ours, whose traceback is in the log and nowhere else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc

from fondaco.adapters.connector.metrics import ConnectorMetrics
from fondaco.adapters.data_service import answering_time
from fondaco.core.errors import (
    DeadlineExceededError,
    FondacoError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    StateError,
)

DETAILS_BYTES_MAX: Final = 2_000  # gRPC refuses trailers above 8 KiB, message and all, and writes a byte that is not ASCII as three
UNKNOWN: Final = "unknown"
_LOGGER = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Desk:
    """Where the calls of one protocol are answered.

    Attributes:
        protocol: "flyte1" or "flyte2". task_types: those that are served; what callers name beside them is counted as unknown.
    """

    protocol: str
    task_types: frozenset[str]
    metrics: ConnectorMetrics

    async def answer(
        self, operation: str, task_type: str, context: grpc.aio.ServicerContext, work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Do the work of one call; an error ends the call with its code and message."""
        counted = task_type if task_type in self.task_types else UNKNOWN
        with self.metrics.call(self.protocol, counted, operation) as code:
            try:
                return await work()
            except FondacoError as exc:
                status, details = status_of(exc), str(exc)
                _LOGGER.warning("%s of a %s: %s: %s", operation, task_type, status.name, details)
            except Exception as exc:
                status, details = grpc.StatusCode.INTERNAL, f"{type(exc).__name__}: {exc}"
                _LOGGER.exception("%s of a %s", operation, task_type)
            code.append(status.name)
            await context.abort(status, shortened(details))
            raise AssertionError("abort raises")


def answer_s(context: grpc.aio.ServicerContext) -> float:
    """How long a call's work may take, by the call's own deadline."""
    left = context.time_remaining()
    return answering_time(left if left is not None and math.isfinite(left) else None)


def status_of(error: FondacoError) -> grpc.StatusCode:
    """The code of gRPC that says the same as one of our errors."""
    match error:
        case NotFoundError():
            return grpc.StatusCode.NOT_FOUND
        case PermissionDeniedError():
            return grpc.StatusCode.PERMISSION_DENIED
        case InputError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case DeadlineExceededError():
            return grpc.StatusCode.DEADLINE_EXCEEDED
        case _ if error.retryable:
            return grpc.StatusCode.UNAVAILABLE
        case StateError():
            return grpc.StatusCode.FAILED_PRECONDITION
        case _:
            return grpc.StatusCode.INTERNAL


def shortened(details: str) -> str:
    """A message that fits into the trailers of an answer: its beginning and its end."""
    data, half = details.encode(errors="replace"), DETAILS_BYTES_MAX // 2
    if len(data) <= DETAILS_BYTES_MAX:
        return data.decode()
    return f"{data[:half].decode(errors='ignore')} ... {data[-half:].decode(errors='ignore')}"
