"""Routes of what is: where to read, which node has what, health, metrics, and the document of the API itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from fondaco.control.api import Answer, Call, Operation
from fondaco.control.metrics import CONTENT_TYPE, Metrics
from fondaco.control.openapi import document
from fondaco.control.routing import routing_table
from fondaco.core.runfile import find_run_file
from fondaco.core.version import VERSION
from fondaco.dataplane import wire
from fondaco.platform import Platform

_ANY_ADDRESS = ("0.0.0.0", "::", "")


class Endpoints(msgspec.Struct, frozen=True):
    """Where rows are read and written, where this API is, and the version of Fondaco."""

    data: list[str]
    control: str
    version: str


class Health(msgspec.Struct, frozen=True):
    """`status` is "ok"; `processes` maps those of `fondaco up` to their state."""

    status: str
    processes: dict[str, str] = {}


def operations(platform: Platform, data: Sequence[str], metrics: Metrics) -> list[Operation]:
    """The operations that only look. `data` are the addresses of the data plane."""

    async def endpoints(request: Request, call: Call) -> Endpoints:
        return Endpoints(_reachable_all(data, request), _here(request), VERSION)

    async def table(request: Request, call: Call) -> Answer:
        return Answer((await run_in_threadpool(routing_table, platform, _reachable_all(data, request))).encode())

    def healthy(call: Call) -> Health:
        return Health("ok")

    def ready(call: Call) -> Health:
        platform.catalog.change_counter()  # it answers, or raises
        run = find_run_file(platform.directory)
        return Health("ok", {process.name: process.state for process in run.processes} if run is not None else {})

    def measured(call: Call) -> Answer:
        return Answer(metrics.text(), media_type=CONTENT_TYPE)

    def operation(path: str, summary: str, **more: Any) -> Operation:
        return Operation(method="GET", path=path, summary=summary, tag="state", **more)

    return [
        operation("/v1/endpoints", "Where rows are read and written", run_async=endpoints, role="any", answer=Endpoints),
        operation(wire.ROUTING, "Which node answers for which partition", run_async=table, role="any"),
        operation("/metrics", "Metrics for Prometheus", run=measured, role="read", media_type=CONTENT_TYPE),
        operation(wire.HEALTHY, "Whether this process answers", run=healthy, role=None, answer=Health),
        operation(wire.READY, "Whether it can do its work", run=ready, role=None, answer=Health),
    ]


def api_document(operations: Sequence[Operation]) -> Operation:
    """The operation that gives the document of all others, and of itself."""
    made: list[bytes] = []

    def give(call: Call) -> Answer:
        if not made:
            made.append(msgspec.json.encode(document([*operations, described])))
        return Answer(made[0])

    described = Operation(method="GET", path=wire.OPENAPI, summary="This document", run=give, role=None, tag="state")
    return described


def _here(request: Request) -> str:
    return f"{request.url.scheme}://{request.headers.get('host') or request.url.netloc}"


def _reachable_all(data: Sequence[str], request: Request) -> list[str]:
    return [_reachable(address, _here(request)) for address in data]


def _reachable(address: str, here: str) -> str:
    """An address as the caller can use it: where the data plane listens on every interface, it is the host that the caller came to."""
    parts = urlsplit(address)
    if (parts.hostname or "") not in _ANY_ADDRESS:
        return address
    host = urlsplit(here).hostname or "127.0.0.1"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}"
