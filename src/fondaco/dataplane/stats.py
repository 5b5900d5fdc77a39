"""Stats: what a server counts, and how long its answers take, in arrays made beforehand.

Counting is part of each request, so it costs one addition a number: a `memoryview` of int64 is the cheapest array that Python can add to.
Latencies go into a histogram with four buckets to each doubling from 1 us to 70 s, so a percentile read from it is at most 19 % off.
On the event loop's thread only; `document` is what `GET /v1/stats` answers, and what the control process makes Prometheus' text from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

KINDS: Final = ("get", "batch", "compute", "write")  # of requests; "batch" is rows and columns of many keys
GET, BATCH, COMPUTE, WRITE = range(4)
COUNTERS: Final = ("requests", "keys", "missing", "answer_bytes", "client_errors", "server_errors", "quota_refusals", "deadlines")
REQUESTS, KEYS, MISSING, ANSWER_BYTES, CLIENT_ERRORS, SERVER_ERRORS, QUOTA_REFUSALS, DEADLINES = range(8)
_SUB: Final = 4
_OCTAVES: Final = 26
BUCKETS: Final = _SUB * _OCTAVES


def bucket_of(ns: int) -> int:
    """The bucket of a duration."""
    units = ns >> 8  # 0.256 us, so that 1 us has its two leading bits
    if units < 4:
        return 0
    octave = units.bit_length() - 3
    bucket = (octave << 2) + ((units >> octave) & 3)
    return bucket if bucket < BUCKETS else BUCKETS - 1


def upper_us(bucket: int) -> float:
    """The duration at which a bucket ends, in us."""
    octave, sub = divmod(bucket, _SUB)
    return (5 + sub) * (1 << octave) * 0.256


def percentile_us(counts: Iterable[int], share: float) -> float | None:
    """The duration below which `share` of a histogram lies, in us; None of an empty one."""
    numbers = list(counts)
    wanted, seen = share * sum(numbers), 0
    for bucket, count in enumerate(numbers):
        seen += count
        if count and seen >= wanted:
            return upper_us(bucket)
    return None


def _cells(count: int) -> memoryview[int]:
    return memoryview(bytearray(8 * count)).cast("q")


class StoreStats:
    """What is counted of one store: for each kind of request its counters and its latencies."""

    __slots__ = ("counters", "get_counters", "get_latencies", "latencies")

    def __init__(self) -> None:
        self.counters = tuple(_cells(len(COUNTERS)) for _ in KINDS)
        self.latencies = tuple(_cells(BUCKETS) for _ in KINDS)
        self.get_counters, self.get_latencies = self.counters[GET], self.latencies[GET]

    def answered(self, kind: int, keys: int, missing: int, answer_bytes: int, ns: int) -> None:
        """Count a request that was answered."""
        counters = self.counters[kind]
        counters[REQUESTS] += 1
        counters[KEYS] += keys
        counters[MISSING] += missing
        counters[ANSWER_BYTES] += answer_bytes
        self.latencies[kind][bucket_of(ns)] += 1

    def refused(self, kind: int, status: int) -> None:
        """Count a request that ended in an error."""
        counters = self.counters[kind]
        counters[REQUESTS] += 1
        counters[SERVER_ERRORS if status >= 500 and status != 504 else CLIENT_ERRORS] += 1
        if status == 429:
            counters[QUOTA_REFUSALS] += 1
        elif status == 504:
            counters[DEADLINES] += 1

    def document(self) -> dict[str, Any]:
        """As `GET /v1/stats` answers it."""
        return {
            kind: {
                **dict(zip(COUNTERS, counters.tolist(), strict=True)),
                "latency_us": {
                    "p50": percentile_us(latencies, 0.5),
                    "p99": percentile_us(latencies, 0.99),
                    "buckets": [[upper_us(bucket), count] for bucket, count in enumerate(latencies.tolist()) if count],
                },
            }
            for kind, counters, latencies in zip(KINDS, self.counters, self.latencies, strict=True)
        }


class RecentPercentile:
    """The p99 of what came since it was asked last, over several histograms."""

    def __init__(self) -> None:
        self._before: list[int] = [0] * BUCKETS

    def take_us(self, histograms: Iterable[memoryview[int]]) -> tuple[float | None, int]:
        """(p99 in us or None, how many there are in all)."""
        now = [sum(counts) for counts in zip(*(histogram.tolist() for histogram in histograms), strict=True)] or [0] * BUCKETS
        recent = [max(0, count - before) for count, before in zip(now, self._before, strict=True)]
        self._before = now
        return percentile_us(recent, 0.99), sum(now)
