"""Hedging: when a second replica is asked the same, which one is asked first, and how much extra load that may be. Pure decisions.

A request that has waited longer than the 95th percentile of its kind is sent to another replica too, and the first answer wins. One in
twenty requests would do so in calm times; a budget keeps the extra requests at a tenth of all even when everything is slow, which is when
hedging would hurt. Percentiles are of the last requests of the same store and size, so batches are not measured by single gets.

All of it is guarded by the GIL: lost updates between threads cost a sample, never an error.
Source: J. Dean, L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Final, TypeVar

SAMPLES_KEPT: Final = 512
SAMPLES_MIN: Final = 20  # before, the delay is `FIRST_DELAY_S`
REFRESH_EVERY: Final = 32  # samples between two looks at the percentile
FIRST_DELAY_S: Final = 0.010
DELAY_MIN_S: Final = 0.001  # below, a second request costs more than the wait
PERCENTILE: Final = 0.95
SHARE: Final = 0.1
BURST: Final = 10.0  # extra requests saved up at most
AVOID_S: Final = 1.0  # first pause of a peer that failed; doubles while it goes on failing
AVOID_MAX_S: Final = 30.0

P = TypeVar("P", bound="PeerLoad")


class LatencyWindow:
    """The last latencies of one kind of request, and their 95th percentile, looked at every now and then."""

    __slots__ = ("_percentile", "_samples", "_seen")

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._seen = 0
        self._percentile: float | None = None

    def add(self, seconds: float) -> None:
        """Note how long one took; for one that was given up, how long it had taken until then."""
        samples = self._samples
        if len(samples) < SAMPLES_KEPT:
            samples.append(seconds)
        else:
            samples[self._seen % SAMPLES_KEPT] = seconds
        self._seen += 1
        if self._seen >= SAMPLES_MIN and (self._percentile is None or self._seen % REFRESH_EVERY == 0):
            ordered = sorted(samples)
            self._percentile = ordered[min(len(ordered) - 1, int(PERCENTILE * len(ordered)))]

    @property
    def delay_s(self) -> float:
        """How long to wait for an answer before another replica is asked."""
        return FIRST_DELAY_S if self._percentile is None else max(DELAY_MIN_S, self._percentile)


class Latencies:
    """Windows by size of the request: single gets, and batches by powers of four."""

    __slots__ = ("_windows",)

    def __init__(self) -> None:
        self._windows: dict[int, LatencyWindow] = {}

    def of(self, key_count: int) -> LatencyWindow:
        """The window of requests of about `key_count` keys."""
        bucket = (key_count.bit_length() + 1) // 2
        window = self._windows.get(bucket)
        if window is None:
            window = self._windows.setdefault(bucket, LatencyWindow())
        return window


class Budget:
    """Extra requests allowed: a tenth of those sent, of which ten may be saved up."""

    __slots__ = ("_share", "_tokens", "extra", "sent")

    def __init__(self, share: float = SHARE, saved: float = 0.0) -> None:
        self._share, self._tokens = share, saved
        self.sent = self.extra = 0

    def earn(self) -> None:
        """One first request was sent."""
        self.sent += 1
        self._tokens = min(BURST, self._tokens + self._share)

    def spend(self) -> bool:
        """Whether one more may be sent; if so, it counts."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        self.extra += 1
        return True


class PeerLoad:
    """What is known of a peer: requests under way, and until when it is avoided because it failed."""

    __slots__ = ("_failures", "avoided_until", "pending")

    def __init__(self) -> None:
        self.pending = 0
        self.avoided_until = 0.0
        self._failures = 0

    def failed(self, now: float) -> None:
        """It did not answer, or hung until another was faster twice over: avoid it for a while, longer each time."""
        self.avoided_until = now + min(AVOID_MAX_S, AVOID_S * 2 ** min(self._failures, 10))
        self._failures += 1

    def answered(self) -> None:
        """It answered: it is as good as any."""
        if self._failures:
            self._failures = 0
            self.avoided_until = 0.0


def choose(peers: Sequence[P], without: Collection[P], now: float, rng: random.Random) -> P | None:
    """The peer to ask: of two drawn at random the one with less under way; avoided ones only if there is no other.

    Two draws spread load nearly as well as knowing all of them, and do not send everybody to the same idle one.
    Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """
    able = [peer for peer in peers if peer not in without]
    good = [peer for peer in able if peer.avoided_until <= now] or able
    if len(good) < 2:
        return good[0] if good else None
    one, other = rng.sample(good, 2)
    return one if one.pending <= other.pending else other
