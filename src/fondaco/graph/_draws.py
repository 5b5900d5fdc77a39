"""Draws: random numbers that are a function of what they are for, so no state, thread, shard, replica or retry can change one.

One function, `mix(state, word)`, makes everything: it advances a SplitMix64 state by `word + 1` steps and finalises it. A tree of such
steps gives every frontier node its own stream, `mix(key, node)` with `key = key_of(seed, hop, adjacency)`, and every draw of the node its
own number, `mix(stream, i)`. The rule, what it promises and a worked example: docs/internals/determinism.md; what is written there is a
format, and changing it changes every answer.

Nothing here calls the C library: its logarithm differs between machines by a bit, ours is IEEE additions, products and quotients only.

Sources: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (the mixer and its constant); Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3" (counters instead of states); Lemire 2019, "Fast random integer generation in an interval".
Pure functions; any thread. Importing this imports numba.
"""

# mypy: disable-error-code="no-any-return, untyped-decorator, return-value"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# -- what is drawn: the third word of a key, after seed and hop. Adjacencies have their own numbers, below 2^32; the others follow ---------
SALT_LABOR: Final = 1 << 32  # + number of the neighbours' node type
SALT_WALK: Final = 2 << 32
SALT_NODES: Final = 3 << 32  # + number of the node type: global sampling
SALT_EDGES: Final = 4 << 32  # + number of the edge type
SALT_NEGATIVES: Final = 5 << 32  # + number of the edge type

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB

_U_GOLDEN = np.uint64(_GOLDEN)
_U_MIX_1 = np.uint64(_MIX_1)
_U_MIX_2 = np.uint64(_MIX_2)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_UNIT = 2.0**-53
_LN_2 = 0.6931471805599453
_SQRT_2 = 1.4142135623730951


def mixed(state: int, word: int) -> int:
    """`mix` in plain Python, on whole numbers below 2^64."""
    z = (state + (word + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def key_of(seed: int, *words: int) -> np.uint64:
    """The state that `words` (hop, salt, ...) lead to from `seed`; negative seeds count from 2^64 down. Kernels take it as `key`."""
    state = mixed(0, seed & _MASK)
    for word in words:
        state = mixed(state, word)
    return np.uint64(state)


@njit(nogil=True, cache=True, inline="always")
def mix(state: np.uint64, word: np.uint64) -> np.uint64:
    """The number at `word` of the stream `state`: uniform over all uint64, independent for all practical purposes between words."""
    z = state + (word + _ONE) * _U_GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _U_MIX_1
    z = (z ^ (z >> np.uint64(27))) * _U_MIX_2
    return z ^ (z >> np.uint64(31))


def _multiply_high(typing_context: Any, a: Any, b: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


def _leading_zeros(typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), codegen


multiply_high: Any = intrinsic(_multiply_high)
"""`multiply_high(a, b)`: the upper 64 bits of the product of two uint64."""
leading_zeros: Any = intrinsic(_leading_zeros)
"""`leading_zeros(x)`: how many upper bits of a uint64 are 0; 64 for 0."""


@njit(nogil=True, cache=True)
def _again(x: np.uint64, count: np.uint64) -> int:
    """Lemire's rejection: `x` fell into the part that would favour some results; go on from it until one does not."""
    threshold = (_ZERO - count) % count
    while x * count < threshold:
        x = mix(x, _ZERO)
    return np.int64(multiply_high(x, count))


@njit(nogil=True, cache=True, inline="always")
def below(x: np.uint64, count: int) -> int:
    """A whole number in [0, count), exactly uniform, from the draw `x`; count >= 1."""
    wide = np.uint64(count)
    if x * wide < wide:
        return _again(x, wide)
    return np.int64(multiply_high(x, wide))


@njit(nogil=True, cache=True, inline="always")
def unit(x: np.uint64) -> float:
    """A float64 in [0, 1): the upper 53 bits of `x`."""
    return np.float64(np.int64(x >> np.uint64(11))) * _UNIT


@njit(nogil=True, cache=True)
def exponential(x: np.uint64) -> float:
    """-ln(u) of the u in (0, 1] that `x`'s upper 53 bits say: exponentially distributed with mean 1, below 37.

    ln u = e ln 2 + 2 artanh((m - 1) / (m + 1)) for u = m 2^e and m in [sqrt(1/2), sqrt(2)], by the first eleven terms of the series.
    """
    whole = (x >> np.uint64(11)) + _ONE  # u = whole / 2^53
    zeros = leading_zeros(whole)
    m = np.float64(np.int64(whole << (zeros - np.uint64(10)))) * _UNIT  # in [1, 2), all bits kept
    e = 10 - np.int64(zeros)
    if m > _SQRT_2:
        m *= 0.5
        e += 1
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 1.0 / 19.0 + z * (1.0 / 21.0)
    series = 1.0 / 15.0 + z * (1.0 / 17.0 + z * series)
    series = 1.0 / 11.0 + z * (1.0 / 13.0 + z * series)
    series = 1.0 / 7.0 + z * (1.0 / 9.0 + z * series)
    series = 1.0 / 3.0 + z * (1.0 / 5.0 + z * series)
    return 0.0 - (e * _LN_2 + 2.0 * (s + s * z * series))
