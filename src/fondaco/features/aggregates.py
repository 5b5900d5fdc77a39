"""Aggregates: each as an algebra, so that one definition is folded row by row in a stream, merged from tiles, or left to an engine.

`init() -> state`, `update(state, value) -> state`, `merge(a, b) -> state`, `finalise(state) -> value`, and, where a value can be taken
out again, `inverse(state, value) -> state` (`invertible` says so; it is what makes a sliding window cheap). States are plain tuples of
numbers or lists: they can be stored. Nulls are left out before `update`, except for first and last without `skip_null`.

The oracle folds with these; `sql` prints the same meaning. `update` of first and last takes `(order, value)` pairs, where `order` is the
row's place in the total order of its key (event time, then known time, then all value columns).
Source of the merge of variances: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from fondaco.core.errors import DefinitionError
from fondaco.features.kinds import BOOL, FLOAT, INT, Kind, list_of

State = Any  # a tuple of numbers, or a list: each algebra knows its own


class Algebra:
    """What an aggregate is. Without values, `finalise(init())` is its answer for an empty window."""

    invertible: ClassVar[bool] = False

    def init(self) -> State:
        """The state of no rows."""
        return None

    def update(self, state: State, value: Any) -> State:
        """The state with one more value."""
        raise NotImplementedError

    def merge(self, state: State, other: State) -> State:
        """The state of both."""
        raise NotImplementedError

    def inverse(self, state: State, value: Any) -> State:
        """The state without a value that was put in before."""
        raise NotImplementedError(f"{type(self).__name__} cannot take a value out again")

    def finalise(self, state: State) -> Any:
        """The answer."""
        return state


class Count(Algebra):
    """How many values; state int."""

    invertible = True

    def init(self) -> int:
        return 0

    def update(self, state: int, value: object) -> int:
        return state + 1

    def merge(self, state: int, other: int) -> int:
        return state + other

    def inverse(self, state: int, value: object) -> int:
        return state - 1


class Moments(Algebra):
    """Sum, mean and sample standard deviation over one state: (count, mean, sum of squared deviations, sum, nan, +inf, -inf).

    What is not finite is counted apart, so that it can be taken out again. Integers are summed exactly.
    """

    invertible = True

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def init(self) -> tuple[Any, ...]:
        return (0, 0.0, 0.0, 0, 0, 0, 0)

    def update(self, state: tuple[Any, ...], value: float) -> tuple[Any, ...]:
        return self._step(state, value, 1)

    def inverse(self, state: tuple[Any, ...], value: float) -> tuple[Any, ...]:
        return self._step(state, value, -1)

    @staticmethod
    def _step(state: tuple[Any, ...], value: float, sign: int) -> tuple[Any, ...]:
        count, mean, squares, total, nans, highs, lows = state
        if isinstance(value, float) and not math.isfinite(value):
            nan, high = math.isnan(value), value == math.inf
            return (count, mean, squares, total, nans + sign * nan, highs + sign * high, lows + sign * (not nan and not high))
        after = count + sign
        if after == 0:
            return (0, 0.0, 0.0, 0, nans, highs, lows)
        moved = mean + sign * (value - mean) / after
        spread = squares + sign * (value - mean) * (value - moved)
        return (after, moved, spread, total + sign * value, nans, highs, lows)

    def merge(self, state: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        rest = tuple(a + b for a, b in zip(state[3:], other[3:], strict=True))
        count = state[0] + other[0]
        if count == 0:
            return (0, 0.0, 0.0, *rest)
        gap = other[1] - state[1]
        mean = state[1] + gap * other[0] / count
        return (count, mean, state[2] + other[2] + gap * gap * state[0] * other[0] / count, *rest)

    def finalise(self, state: tuple[Any, ...]) -> float | int | None:
        count, _, squares, total, nans, highs, lows = state
        everything = count + nans + highs + lows
        if everything == 0 or (self.answer == "stddev" and everything < 2):
            return None
        if nans or (highs and lows) or (self.answer == "stddev" and (highs or lows)):
            return math.nan
        if highs or lows:
            return math.inf if highs else -math.inf
        if self.answer == "sum":
            return total  # type: ignore[no-any-return]
        return total / count if self.answer == "mean" else math.sqrt(max(squares, 0.0) / (count - 1))


class Extreme(Algebra):
    """The least (sign -1) or greatest (sign 1) value; NaN is greater than every number. State: the value, None for none."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def update(self, state: Any, value: Any) -> Any:
        if state is None:
            return value
        greater = _nan(value) or (not _nan(state) and value > state)
        return value if (greater if self.sign > 0 else not greater and not (_nan(value) and _nan(state))) else state

    def merge(self, state: Any, other: Any) -> Any:
        return state if other is None else self.update(state, other)


def _nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


class Ends(Algebra):
    """The first (sign -1) or last (sign 1) `count` values by order. State: a list of (order, value), the wanted end first."""

    def __init__(self, sign: int, count: int | None = None) -> None:
        self.sign, self.count = sign, count

    def init(self) -> list[tuple[Any, Any]]:
        return []

    def update(self, state: list[tuple[Any, Any]], value: tuple[Any, Any]) -> list[tuple[Any, Any]]:
        return self.merge(state, [value])

    def merge(self, state: list[tuple[Any, Any]], other: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        ordered = sorted([*state, *other], key=lambda pair: pair[0], reverse=self.sign > 0)
        return ordered[: self.count or 1]

    def finalise(self, state: list[tuple[Any, Any]]) -> Any:
        if not state:
            return None
        return state[0][1] if self.count is None else [value for _, value in state]


AGGREGATES: Final = ("count", "sum", "mean", "min", "max", "stddev", "first", "last")
INVERTIBLE: Final = frozenset(("count", "sum", "mean", "stddev"))
ORDERED: Final = frozenset(("first", "last", "latest"))  # those that need the total order of rows


def algebra(op: str, k: int | None = None) -> Algebra:
    """The algebra of an aggregate of the plan."""
    if op == "count":
        return Count()
    if op in ("sum", "mean", "stddev"):
        return Moments(op)
    if op in ("min", "max"):
        return Extreme(1 if op == "max" else -1)
    return Ends(-1 if op == "first" else 1, k)


def aggregate_kind(op: str, kinds: Sequence[Kind], k: int | None) -> Kind:
    """The kind of the answer, for a value of kind `kinds[0]` (none for count).

    Raises:
        DefinitionError: the aggregate does not take such values.
    """
    if op == "count":
        return INT
    (kind,) = kinds
    if op in ("sum", "mean", "stddev"):
        if not kind.numeric and kind != BOOL:
            raise DefinitionError(f"{op} of {kind}: expected numbers")
        return FLOAT if op != "sum" or kind == FLOAT else INT
    if op in ("min", "max"):
        if not kind.ordered:
            raise DefinitionError(f"{op} of {kind}: expected numbers, strings or timestamps")
        return kind
    if k is not None:
        if kind.name == "list":
            raise DefinitionError(f"{op}({k}) of {kind}: a list of lists is not supported; expected single values")
        return list_of(kind)
    return kind
