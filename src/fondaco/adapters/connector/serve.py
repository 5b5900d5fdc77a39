"""Serve: the process behind `fondaco service connector`: the connectors of Flyte 1 and Flyte 2 on one port of one gRPC server.

    port          both protocols, and gRPC's health service (`grpc.health.v1`)
    metrics port  Prometheus, /metrics

It keeps nothing in memory that a call needs: a second process on the same platform answers for the first, and kill -9 loses nothing. It
runs the loop that ends expired leases and removes what nobody holds, as `fondaco up` does; any number of processes may.

SIGTERM and SIGINT: health says NOT_SERVING, no new call is taken, calls at work get `drain_s` to end; then it ends with 0. If a thread
still hangs in a call long after that, the process ends all the same: what the call had begun is found again when it is repeated.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fondaco.adapters.connector.metrics import ConnectorMetrics
from fondaco.adapters.connector.options import ConnectorOptions
from fondaco.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from fondaco.services.manager import Services

GRACE_S: Final = 15.0  # provisioners give up on a call after about 10 s, so a thread that outlives this hangs
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """A connector that answers now. task_types: by protocol, "Flyte 1" or "Flyte 2"; missing: those that are not served, and why."""

    address: str
    metrics_url: str | None
    task_types: Mapping[str, tuple[str, ...]]
    missing: Mapping[str, str]
    tls: bool

    def __str__(self) -> str:
        what = "; ".join(f"{protocol}: {', '.join(types)}" for protocol, types in self.task_types.items())
        metrics = f", metrics on {self.metrics_url}" if self.metrics_url else ""
        without = "".join(f"; {protocol} is not served: {why}" for protocol, why in self.missing.items())
        return f"connector listens on {self.address} ({'TLS' if self.tls else 'plain gRPC'}){metrics}; {what}{without}"


def run_connector(services: Services, options: ConnectorOptions, *, talk: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; from the main thread.

    Args:
        services: of the platform; the caller closes it. talk: gets what people should read; None: lines on stderr.
    Raises:
        MissingExtraError: neither SDK is installed. InputError: an address cannot be listened on, or a file of TLS is wrong.
    """
    say = talk or (lambda text: print(f"fondaco: {text}", file=sys.stderr, flush=True))
    pool = ThreadPoolExecutor(options.threads, thread_name_prefix="connector")
    overdue = threading.Timer(options.drain_s + GRACE_S, _end_overdue, (say,))
    overdue.daemon = True
    try:
        asyncio.run(_run(services, options, pool, overdue, say))  # waits for the pool's threads, however long they hang: hence the timer
    finally:
        overdue.cancel()
        pool.shutdown()


async def _run(
    services: Services, options: ConnectorOptions, pool: ThreadPoolExecutor, overdue: threading.Timer, say: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(services, options, pool) as running:
        if options.warning:
            say(f"warning: {options.warning}")
        say(str(running))
        await stop.wait()
        overdue.start()
        say(f"connector ends; calls at work get {options.drain_s:g} s")


@asynccontextmanager
async def serving(services: Services, options: ConnectorOptions, pool: ThreadPoolExecutor) -> AsyncIterator[Serving]:
    """Serve in this loop until the block is left; then take no new call, and wait up to `drain_s` for those at work.

    Args:
        pool: for what blocks; becomes the loop's own.
    """
    asyncio.get_running_loop().set_default_executor(pool)
    metrics = ConnectorMetrics()
    server = grpc.aio.server(
        maximum_concurrent_rpcs=options.calls_max,
        options=[("grpc.so_reuseport", 0)],  # else a second connector on the same port shares its calls without a word
    )
    names, task_types, missing = _add_protocols(server, services, metrics)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    with ExitStack() as stack:
        port = _bind(server, options)
        url = None
        if options.metrics_port is not None:
            metrics_port = stack.enter_context(metrics.served(options.host, options.metrics_port))
            url = f"http://{_bracketed(options.host)}:{metrics_port}/metrics"
        if options.reap:
            stack.enter_context(_Reaping(services))
        await server.start()
        try:
            for name in ("", health.SERVICE_NAME, *names):
                await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
            address = f"{_bracketed(options.host)}:{port}"
            yield Serving(address, url, task_types, missing, tls=options.certificate is not None)
        finally:
            await checks.enter_graceful_shutdown()
            await server.stop(options.drain_s)


def _add_protocols(
    server: grpc.aio.Server, services: Services, metrics: ConnectorMetrics
) -> tuple[list[str], dict[str, tuple[str, ...]], dict[str, str]]:
    """Add what can be served here; returns services' names, task types and what is missing, by protocol.

    Raises:
        MissingExtraError: neither SDK is installed.
    """
    names: list[str] = []
    task_types: dict[str, tuple[str, ...]] = {}
    missing: dict[str, str] = {}
    if importlib.util.find_spec("flytekit") is None:
        missing["Flyte 1"] = str(MissingExtraError("flytekit", "flyte1", "serving it"))
    else:
        from fondaco.adapters.connector.flyte1 import add_flyte1
        from fondaco.adapters.flyte1 import connectors as connectors1

        found1 = connectors1(services)
        names += add_flyte1(server, found1, metrics)
        task_types["Flyte 1"] = tuple(connector.task_category.name for connector in found1)
    if importlib.util.find_spec("flyte") is None:
        missing["Flyte 2"] = str(MissingExtraError("flyte", "flyte2", "serving it"))
    else:
        from fondaco.adapters.connector.flyte2 import add_flyte2
        from fondaco.adapters.flyte2 import connectors as connectors2

        found2 = connectors2(services)
        names += add_flyte2(server, found2, metrics)
        task_types["Flyte 2"] = tuple(connector.task_type_name for connector in found2)
    if not task_types:
        raise MissingExtraError("flytekit", "flyte1", "a connector")
    return names, task_types, missing


def _bind(server: grpc.aio.Server, options: ConnectorOptions) -> int:
    """Have the server listen; returns the port."""
    address = f"{_bracketed(options.host)}:{options.port}"
    try:
        if options.certificate is None or options.private_key is None:
            port = server.add_insecure_port(address)
        else:
            authority = options.client_ca.read_bytes() if options.client_ca is not None else None
            pair = (options.private_key.read_bytes(), options.certificate.read_bytes())
            credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
            port = server.add_secure_port(address, credentials)
    except RuntimeError as exc:
        tls = "; or certificate and key do not fit" if options.certificate is not None else ""
        raise InputError(f"{address} cannot be listened on; choose another with --port or --host, or stop who is there{tls}") from exc
    return int(port)


class _Reaping:
    """The reap loop of the platform's services, in a thread, while the block runs."""

    def __init__(self, services: Services) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=services.reap_loop, args=(self._stop,), name="reaper", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(GRACE_S)


def _end_overdue(say: Callable[[str], None]) -> None:
    say("a call hangs; the process ends without it, and what it began is found again when it is repeated")
    os._exit(1)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
