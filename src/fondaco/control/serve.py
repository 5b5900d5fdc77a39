"""Serve: the control API as a process: `python -m fondaco.control.serve DIR`, started by `fondaco up` or by hand.

Starlette on granian's embedded server: one event loop in the main thread, so processes that it starts die with it (see `launch`), and a
pool of worker threads for what blocks. SIGTERM and SIGINT: no new connection, pushes at work are taken back, what is being answered is
answered, then it ends with 0. A mistake in how it was called ends with 2. Beside the API, a thread looks after the data services.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from fondaco.control.access import Access, has_good_token
from fondaco.control.app import build_app
from fondaco.control.metrics import Metrics, process_metrics
from fondaco.control.metrics_dataplane import dataplane_metrics
from fondaco.control.metrics_services import reaper_metrics, service_metrics
from fondaco.control.metrics_stores import freshness_metrics, governor_metrics, log_metrics, store_metrics
from fondaco.control.reaping import Reaping
from fondaco.control.uploads import Uploads
from fondaco.core.program import end_process, run_program
from fondaco.dataplane.binding import check_binding, check_port_free, check_tls, url_of
from fondaco.platform import Platform


def serve(directory: Path, *, host: str | None = None, port: int | None = None, data: Sequence[str] = ()) -> None:
    """Serve the control API of a platform until a signal; from the main thread.

    Args:
        host, port: default: as configured.
        data: addresses of the data plane that callers are told; default: as configured.
    Raises:
        InputError: it may not or cannot listen there.
    """
    with Platform.open(directory, create=False) as platform:
        config = platform.config.server
        host = config.host if host is None else host
        port = check_port_free(host, config.control_port if port is None else port, "--control-port")
        access = Access(platform, required=check_binding(host, config, has_tokens=has_good_token(platform)))
        uploads = Uploads(platform.directory, bytes_max=config.push_bytes_max)
        uploads.open()
        addresses = list(data) or [url_of(config.host, config.port, tls=config.certificate is not None)]
        reaping = Reaping(platform, every_s=platform.config.services.reap_s)
        metrics = Metrics(
            {
                "processes": process_metrics(platform),
                "stores": store_metrics(platform),
                "freshness": freshness_metrics(platform),
                "log": log_metrics(platform),
                "governor": governor_metrics(platform),
                "data plane": dataplane_metrics(platform),
                "services": service_metrics(platform),
                "reaper": reaper_metrics(reaping),
            }
        )
        app = build_app(platform, access, uploads, metrics, data=addresses)
        certificate, key = check_tls(config) or (None, None)
        server = Server(
            app,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=int(config.header_s * 1000)),
            websockets=False,
            log_level=LogLevels.error,
            ssl_cert=certificate,
            ssl_key=key,
            ssl_protocol_min=SSLProtocols.tls12,
        )
        with reaping:
            asyncio.run(_run(server, uploads))


async def _run(server: Server, uploads: Uploads) -> None:
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []

    def stop() -> None:
        if not closing:
            server.stop()
            closing.append(loop.create_task(uploads.close()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve()
    await asyncio.gather(*closing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fondaco.control.serve", description="The control API of one platform directory.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--data", action="append", default=[], metavar="URL", help="an address of the data plane, as callers are told")
    given = parser.parse_args(arguments)
    return run_program(lambda: serve(given.directory, host=given.host, port=given.port, data=given.data))


if __name__ == "__main__":
    end_process(main())
