"""Metrics of the data plane: what its servers counted, asked of each over HTTP with the secret that it left for us in `run/`.

A server that does not answer within two seconds has no metrics but `fondaco_dataplane_up` 0. Latencies come as the servers' own histogram
(four buckets to a doubling), joined here to one bucket a doubling; `_sum` adds up the middles of the buckets, so it is good to about 10 %.
"""

from __future__ import annotations

import bisect
import contextlib
import http.client
import os
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fondaco.control.metrics import Source
from fondaco.core.runfile import run_directory
from fondaco.dataplane import wire
from fondaco.dataplane.stats import BUCKETS, COUNTERS, upper_us
from fondaco.platform import Platform

TIMEOUT_S: Final = 2.0
_BOUNDS_US: Final = [upper_us(bucket) for bucket in range(BUCKETS)]
_SHOWN: Final = range(3, BUCKETS, 4)  # the last of each doubling
_HELP: Final = {
    "requests": "Requests, whatever they ended in.",
    "keys": "Keys asked for or written.",
    "missing": "Keys asked for that the store does not have.",
    "answer_bytes": "Bytes of answers.",
    "client_errors": "Requests refused with a status of 4xx, or 504.",
    "server_errors": "Requests that ended in a status of 5xx.",
    "quota_refusals": "Requests over a quota (429).",
    "deadlines": "Requests whose deadline was over (504).",
}


class Served(msgspec.Struct, frozen=True):
    """What a server says of itself in `run/served-<port>.json`."""

    pid: int
    address: str
    secret: str
    node: str | None = None


def servers(directory: Path) -> list[Served]:
    """The servers of a platform directory whose processes live."""
    found = []
    for path in sorted(run_directory(directory).glob("served-*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            served = msgspec.json.decode(path.read_bytes(), type=Served)
            os.kill(served.pid, 0)  # a file that a killed server left is of nobody
            found.append(served)
    return found


def statistics(served: Served) -> dict[str, Any] | None:
    """What a server counted, or None if it does not answer."""
    parts = urlsplit(served.address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname or "", parts.hostname or "")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is on this machine, and proved itself by the file
        connection = http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", wire.STATS, headers={wire.AUTHORIZATION: f"Bearer {served.secret}"})
            answer = connection.getresponse()
            return msgspec.json.decode(answer.read(), type=dict[str, Any]) if answer.status == 200 else None
        except (OSError, http.client.HTTPException, msgspec.MsgspecError):
            return None


def dataplane_metrics(platform: Platform) -> Source:
    """Requests, errors and latencies of the servers that run over a platform's directory."""

    def collect() -> Iterator[Metric]:
        up = GaugeMetricFamily("fondaco_dataplane_up", "1 if the server answered this scrape.", labels=["server"])
        connections = GaugeMetricFamily("fondaco_dataplane_connections", "Open connections.", labels=["server"])
        accepted = CounterMetricFamily("fondaco_dataplane_connections_accepted", "Connections taken.", labels=["server"])
        timed_out = CounterMetricFamily("fondaco_dataplane_connections_timed_out", "Connections closed for being slow.", labels=["server"])
        malformed = CounterMetricFamily("fondaco_dataplane_malformed_requests", "Requests that are no HTTP.", labels=["server"])
        labels = ["server", "store", "kind"]
        counters = {name: CounterMetricFamily(f"fondaco_dataplane_{name}", _HELP[name], labels=labels) for name in COUNTERS}
        latency = HistogramMetricFamily("fondaco_dataplane_request_seconds", "Time from request to answer, in the server.", labels=labels)
        for served in servers(platform.directory):
            name = served.node or str(urlsplit(served.address).port)
            document = statistics(served)
            up.add_metric([name], document is not None)
            if document is None:
                continue
            connections.add_metric([name], document["connections"]["open"])
            accepted.add_metric([name], document["connections"]["accepted"])
            timed_out.add_metric([name], document["connections"]["timed_out"])
            malformed.add_metric([name], document["malformed"])
            for store, kinds in document["stores"].items():
                for kind, counted in kinds.items():
                    for counter, family in counters.items():
                        family.add_metric([name, store, kind], counted[counter])
                    buckets, total_s = histogram(counted["latency_us"]["buckets"])
                    if buckets[-1][1]:
                        latency.add_metric([name, store, kind], buckets, total_s)
        yield from (up, connections, accepted, timed_out, malformed, *counters.values(), latency)

    return collect


def histogram(counted: Sequence[tuple[float, int]]) -> tuple[list[tuple[str, float]], float]:
    """A server's histogram, [(bucket's end in us, count), ...], as Prometheus' cumulative buckets in seconds, and the sum of seconds."""
    counts, total_us = [0] * BUCKETS, 0.0
    for end_us, count in counted:
        bucket = min(bisect.bisect_left(_BOUNDS_US, end_us * (1 - 1e-9)), BUCKETS - 1)
        counts[bucket] += count
        begin_us = _BOUNDS_US[bucket - 1] if bucket else 0.0
        total_us += count * (begin_us + _BOUNDS_US[bucket]) / 2
    buckets = [(repr(_BOUNDS_US[last] / 1e6), float(sum(counts[: last + 1]))) for last in _SHOWN]
    return [*buckets, ("+Inf", float(sum(counts)))], total_us / 1e6
