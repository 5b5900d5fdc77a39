"""Draws: the mixing function is the written one, bounded and exponential numbers have their exact distributions, streams are independent.

Statistical tests have fixed seeds, so each either always passes or never does; their level is 1e-6.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.stats import chi2

from fondaco.graph import _draws
from graph import reference

LEVEL = 1e-6
WORDS = st.integers(0, (1 << 64) - 1)
DOCUMENT = Path(__file__).parents[2] / "docs/internals/determinism.md"


@njit
def _below_many(key: Any, count: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = _draws.below(_draws.mix(key, np.uint64(i)), count)


@njit
def _exponential_many(key: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = _draws.exponential(_draws.mix(key, np.uint64(i)))


def chi_squared_passes(observed: Any, expected: Any, freedom: int | None = None) -> bool:
    observed, expected = np.asarray(observed, float).ravel(), np.broadcast_to(expected, np.shape(observed)).ravel()
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    return statistic < chi2.isf(LEVEL, freedom or len(observed) - 1)


@given(state=WORDS, word=WORDS)
@settings(deadline=None)
def test_the_kernel_mixes_as_plain_python_and_the_reference_do(state: int, word: int) -> None:
    expected = reference.mix(state, word)
    assert _draws.mixed(state, word) == expected
    assert int(_draws.mix(np.uint64(state), np.uint64(word))) == expected


@given(seed=st.integers(-(1 << 63), (1 << 64) - 1), hop=st.integers(0, 9), salt=st.integers(0, 1 << 40))
@settings(deadline=None)
def test_a_key_is_the_path_from_the_seed(seed: int, hop: int, salt: int) -> None:
    key = _draws.key_of(seed, hop, salt)
    assert key.dtype == np.uint64
    assert reference.mix(int(key), 5) == reference.stream_of(seed, hop, salt, 5)


@given(x=WORDS, count=st.one_of(st.integers(1, 50), st.integers(1, (1 << 63) - 1), st.just(3 << 61)))
@example(x=0, count=3 << 61)  # rejected
@example(x=(1 << 64) - 1, count=1)
@settings(deadline=None)
def test_bounded_numbers_equal_the_reference(x: int, count: int) -> None:
    drawn = _draws.below(np.uint64(x), count)
    assert drawn == reference.below(x, count)
    assert 0 <= drawn < count


@given(x=WORDS)
@example(x=0)
@example(x=(1 << 64) - 1)
@example(x=(1 << 64) - 1 - (1 << 11))
@settings(max_examples=300, deadline=None)
def test_exponential_numbers_equal_the_reference_bit_for_bit_and_the_logarithm_to_its_last_digits(x: int) -> None:
    drawn = _draws.exponential(np.uint64(x))
    assert drawn == reference.exponential(x)
    assert drawn == pytest.approx(-math.log(((x >> 11) + 1) / 2**53), rel=1e-15, abs=0)
    assert drawn >= 0
    assert math.copysign(1, drawn) == 1


@pytest.mark.parametrize("count", [7, 1000])
def test_bounded_numbers_are_uniform(count: int) -> None:
    out = np.empty(200_000, np.int64)
    _below_many(_draws.key_of(1, count), count, out)
    assert chi_squared_passes(np.bincount(out, minlength=count), len(out) / count)


def test_bounded_numbers_are_uniform_where_a_quarter_is_rejected() -> None:
    out = np.empty(200_000, np.int64)
    _below_many(_draws.key_of(2), 3 << 61, out)
    assert chi_squared_passes(np.bincount(out >> 58, minlength=24), len(out) / 24)


def test_exponential_numbers_have_the_exponential_distribution() -> None:
    out = np.empty(200_000)
    _exponential_many(_draws.key_of(3), out)
    cells = np.minimum((-np.expm1(-out) * 100).astype(int), 99)  # the distribution function maps them to [0, 1)
    assert chi_squared_passes(np.bincount(cells, minlength=100), len(out) / 100)


@pytest.mark.parametrize("step", ["seed", "hop", "salt", "node", "draw"])
def test_neighbouring_streams_are_independent(step: str) -> None:
    words = {"seed": 0, "hop": 1, "salt": 2, "node": 3, "draw": 4}
    table = np.zeros((8, 8), int)
    for i in range(20_000):
        here = [9, 1, 1, i, 0]
        there = list(here)
        there[words[step]] += 1
        pair = [reference.mix(reference.stream_of(*path[:4]), path[4]) >> 61 for path in (here, there)]
        table[pair[0], pair[1]] += 1
    assert chi_squared_passes(table, 20_000 / 64)


def test_the_worked_example_of_the_document_is_what_the_kernels_do() -> None:
    text = DOCUMENT.read_text()
    numbers = {name: int(value, 16) for name, value in re.findall(r"^ {4}(\w+) .*= (0x[0-9a-f]{16})$", text, re.MULTILINE)}
    state = 0
    for name, word in (("s1", 7), ("s2", 1), ("s3", 2), ("stream", 42)):
        state = _draws.mixed(state, word)
        assert numbers[name] == state
    assert int(_draws.mix(_draws.key_of(7, 1, 2), np.uint64(42))) == numbers["stream"]
    draws = [_draws.mixed(state, i) for i in range(3)]
    assert draws == [numbers["x0"], numbers["x1"], numbers["x2"]]
    assert f"Floyd picks {reference.uniform(10, 3, state)}" in text
    assert f"with replacement picks {reference.uniform_again(10, 3, state)}" in text
    assert f"-ln u = {_draws.exponential(np.uint64(draws[0]))!r}" in text
