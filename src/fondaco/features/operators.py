"""Operators: every function of row expressions, with the types it takes and gives. One rule each, the same in every engine.

The rules that engines disagree about, chosen once:

- null in, null out, except for `is_null`, `coalesce`, `least`, `greatest` (which skip nulls), and `and`/`or` (three-valued logic);
- integers are 64-bit and an overflow is an error; `/` is always a float; `//` and `%` round down, as Python's do;
- division by zero, the logarithm of what is not positive, the root of a negative number, and a cast that cannot be done give null;
- a float that grows too large becomes an infinity; NaN is a value and not a null: equal to itself and greater than every number;
- `round` goes half away from zero; a float becomes an integer by cutting off its fraction;
- weekdays count from Monday = 0; date parts are of UTC unless a zone is given; `substring` counts from 0;
- strings compare by code point; `length` counts code points; `trim` removes spaces.

`sql.PRINTERS` and `oracle.EVALUATORS` hold the other two thirds of each operator; a test checks that the three tables agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fondaco.core.errors import DefinitionError
from fondaco.features.kinds import BOOL, FLOAT, INT, NULL, STRING, TIMESTAMP, Kind

Signature = Callable[[str, Sequence[Kind]], Kind]


def _refuse(op: str, kinds: Sequence[Kind], expected: str) -> DefinitionError:
    return DefinitionError(f"{op} of {', '.join(map(str, kinds))}: expected {expected}")


def unify(op: str, kinds: Sequence[Kind]) -> Kind:
    """The kind that can hold every one of `kinds`: equal ones, int with float (float), anything with null.

    Raises:
        DefinitionError: there is none.
    """
    found = [kind for kind in dict.fromkeys(kinds) if kind != NULL]
    if not found:
        return NULL
    if len(found) == 1:
        return found[0]
    if all(kind.numeric for kind in found):
        return FLOAT
    raise _refuse(op, kinds, "values of one type (cast one of them)")


def _arithmetic(op: str, kinds: Sequence[Kind]) -> Kind:
    if not all(kind.numeric or kind == NULL for kind in kinds):
        hint = " (a string is turned into a number by .cast(Int64) or .cast(Float64))" if STRING in kinds else ""
        raise _refuse(op, kinds, f"numbers{hint}")
    return FLOAT if FLOAT in kinds else INT


def _add(op: str, kinds: Sequence[Kind]) -> Kind:
    if all(kind in (STRING, NULL) for kind in kinds):
        return STRING
    return _arithmetic(op, kinds)


def _float(op: str, kinds: Sequence[Kind]) -> Kind:
    _arithmetic(op, kinds)
    return FLOAT


def _rounding(op: str, kinds: Sequence[Kind]) -> Kind:
    return _arithmetic(op, kinds[:1])


def _compare(op: str, kinds: Sequence[Kind]) -> Kind:
    kind = unify(op, kinds)
    if op not in ("eq", "ne", "in") and not (kind.ordered or kind == NULL):
        raise _refuse(op, kinds, "numbers, strings or timestamps")
    if kind.name == "list":
        raise _refuse(op, kinds, "single values")
    return BOOL


def _logic(op: str, kinds: Sequence[Kind]) -> Kind:
    if not all(kind in (BOOL, NULL) for kind in kinds):
        raise _refuse(op, kinds, "booleans (comparisons bind weaker than & and |: write (a > 1) & (b < 2))")
    return BOOL


def _extreme(op: str, kinds: Sequence[Kind]) -> Kind:
    kind = unify(op, kinds)
    if not (kind.ordered or kind == NULL):
        raise _refuse(op, kinds, "numbers, strings or timestamps")
    return kind


def _case(op: str, kinds: Sequence[Kind]) -> Kind:
    _logic("when", kinds[:-1:2])
    return unify("the values of when", [*kinds[1:-1:2], kinds[-1]])


def _takes(*expected: Kind, gives: Kind) -> Signature:
    """Arguments of these kinds (the last repeats), or null."""

    def infer(op: str, kinds: Sequence[Kind]) -> Kind:
        for position, kind in enumerate(kinds):
            if kind not in (expected[min(position, len(expected) - 1)], NULL):
                raise _refuse(op, kinds, f"{expected[min(position, len(expected) - 1)]}")
        return gives

    return infer


def _any(gives: Kind) -> Signature:
    return lambda op, kinds: gives


def _length(op: str, kinds: Sequence[Kind]) -> Kind:
    if kinds[0] not in (STRING, NULL) and kinds[0].name != "list":
        raise _refuse(op, kinds, "a string or a list")
    return INT


def _cast(target: Kind, *sources: Kind) -> Signature:
    def infer(op: str, kinds: Sequence[Kind]) -> Kind:
        if kinds[0] not in (*sources, target, NULL):
            raise DefinitionError(f"{kinds[0]} cannot be cast to {target}; from {', '.join(map(str, sources))} it can")
        return target

    return infer


def _is_nan(op: str, kinds: Sequence[Kind]) -> Kind:
    _arithmetic(op, kinds)
    return BOOL


_PART: Final = _takes(TIMESTAMP, STRING, gives=INT)

OPERATORS: Final[dict[str, Signature]] = {
    **dict.fromkeys(("sub", "mul", "floordiv", "mod"), _arithmetic),
    "add": _add,
    "div": _float,
    "neg": _arithmetic,
    "abs": _arithmetic,
    **dict.fromkeys(("round", "floor", "ceil"), _rounding),
    **dict.fromkeys(("log", "exp", "sqrt"), _float),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "in", "between"), _compare),
    **dict.fromkeys(("and", "or", "not"), _logic),
    "is_null": _any(BOOL),
    "is_nan": _is_nan,
    "coalesce": unify,
    **dict.fromkeys(("least", "greatest"), _extreme),
    "case": _case,
    **dict.fromkeys(("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year"), _PART),
    "seconds_between": _takes(TIMESTAMP, gives=FLOAT),
    "shift": _takes(TIMESTAMP, INT, gives=TIMESTAMP),
    **dict.fromkeys(("lower", "upper", "trim"), _takes(STRING, gives=STRING)),
    **dict.fromkeys(("contains", "starts_with", "ends_with"), _takes(STRING, gives=BOOL)),
    "substring": _takes(STRING, INT, gives=STRING),
    "length": _length,
    "cast_float": _cast(FLOAT, INT, BOOL, STRING),
    "cast_int": _cast(INT, FLOAT, BOOL, STRING),
    "cast_string": _cast(STRING, INT, BOOL),
    "cast_bool": _cast(BOOL, INT),
}
