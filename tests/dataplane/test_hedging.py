"""Decisions: delays from percentiles, budgets that hold in any order of events, peers that are avoided and come back, jitter in bounds."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import (
    DeadlineExceededError,
    FondacoError,
    InputError,
    ProtocolError,
    QuotaExceededError,
    UnavailableError,
)
from fondaco.dataplane.hedging import (
    AVOID_MAX_S,
    AVOID_S,
    DELAY_MIN_S,
    FIRST_DELAY_S,
    SAMPLES_KEPT,
    Budget,
    Latencies,
    LatencyWindow,
    PeerLoad,
    choose,
)
from fondaco.dataplane.retry import RetryPolicy


def test_the_delay_is_the_95th_percentile_of_the_last_requests() -> None:
    window = LatencyWindow()
    assert window.delay_s == FIRST_DELAY_S
    for n in range(1, 101):
        window.add(n / 100)
    assert 0.85 <= window.delay_s <= 1.0
    for _ in range(SAMPLES_KEPT):
        window.add(0.002)
    assert window.delay_s == 0.002
    for _ in range(SAMPLES_KEPT):
        window.add(0.00001)
    assert window.delay_s == DELAY_MIN_S


@given(samples=st.lists(st.floats(0.001, 2.0), min_size=20, max_size=200))
@settings(max_examples=50, deadline=None)
def test_the_delay_lies_among_the_samples(samples: list[float]) -> None:
    window = LatencyWindow()
    for sample in samples:
        window.add(sample)
    assert min(samples) <= window.delay_s <= max(samples)


def test_sizes_of_requests_have_windows_of_their_own() -> None:
    latencies = Latencies()
    assert latencies.of(1) is latencies.of(1)
    assert latencies.of(1) is not latencies.of(100)
    assert latencies.of(1000) is latencies.of(900)
    assert latencies.of(0) is not latencies.of(10_000)


@given(wants=st.lists(st.booleans(), max_size=300))
@settings(max_examples=100, deadline=None)
def test_extra_requests_never_exceed_a_tenth_of_those_sent(wants: list[bool]) -> None:
    budget = Budget()
    for want in wants:
        budget.earn()
        if want:
            budget.spend()
        assert budget.extra <= budget.sent / 10 + 1e-6


def test_a_budget_saves_up_no_more_than_a_burst() -> None:
    budget = Budget()
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10


def test_a_peer_that_fails_is_avoided_longer_each_time_and_forgiven_at_once() -> None:
    peer = PeerLoad()
    pauses = []
    for _ in range(12):
        peer.failed(100.0)
        pauses.append(peer.avoided_until - 100.0)
    assert pauses[0] == AVOID_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == AVOID_MAX_S
    peer.answered()
    assert peer.avoided_until == 0.0
    peer.failed(200.0)
    assert peer.avoided_until == 200.0 + AVOID_S


def test_the_less_loaded_of_two_is_asked_and_an_avoided_one_only_at_need() -> None:
    rng = random.Random(1)
    busy, idle, broken = PeerLoad(), PeerLoad(), PeerLoad()
    busy.pending, broken.avoided_until = 5, 50.0
    assert all(choose([busy, idle], (), 0.0, rng) is idle for _ in range(20))
    assert all(choose([busy, broken], (), 0.0, rng) is busy for _ in range(20))
    assert choose([broken], (), 0.0, rng) is broken
    assert choose([busy, idle], (idle,), 0.0, rng) is busy
    assert choose([busy], (busy,), 0.0, rng) is None
    assert choose([], (), 0.0, rng) is None
    assert {choose([busy, broken, idle], (), 51.0, rng) for _ in range(100)} >= {idle, broken}


def test_load_is_spread_over_equal_peers() -> None:
    rng, peers = random.Random(2), [PeerLoad() for _ in range(4)]
    for _ in range(400):
        peer = choose(peers, (), 0.0, rng)
        assert peer is not None
        peer.pending += 1
    assert max(peer.pending for peer in peers) - min(peer.pending for peer in peers) <= 6


@given(made=st.integers(1, 60), seed=st.integers(0, 1000))
def test_pauses_are_drawn_from_the_whole_range_below_the_bound(made: int, seed: int) -> None:
    policy = RetryPolicy(attempts=99, base_s=0.02, cap_s=1.0)
    assert 0.0 <= policy.pause_s(made, random.Random(seed)) <= min(1.0, 0.02 * 2 ** (made - 1))


def test_only_a_peer_that_does_not_answer_is_asked_again() -> None:
    policy = RetryPolicy(attempts=3)
    down = UnavailableError("n", "refused")
    others: list[FondacoError] = [
        QuotaExceededError("a", "b", "c", 1.0), ProtocolError("n", "garbage"), InputError("x"), DeadlineExceededError("x", 1.0),
    ]  # fmt: skip
    assert [policy.again(down, made) for made in (1, 2, 3)] == [True, True, False]
    assert not any(policy.again(error, 1) for error in others)
