"""Logical values: what the ints, bytes and text of Avro mean in Python, in both directions and without loss.

| logical type | Python value | also accepted when writing |
|---|---|---|
| decimal | `decimal.Decimal` | int; any Decimal that the scale holds exactly |
| uuid | `uuid.UUID` | its text |
| date | `datetime.date` | days since the epoch |
| time-millis, time-micros | `datetime.time` | units since midnight |
| timestamp-millis, -micros | aware `datetime` in UTC | any aware datetime, `datetime64`, units since the epoch |
| timestamp-nanos | `numpy.datetime64[ns]` (Python's datetime has no nanoseconds) | as above |
| local-timestamp-... | the same without a zone | naive datetime, `datetime64`, units |
| duration | `Interval` | a plain tuple (months, days, milliseconds) |
| vector | NumPy view, or `QuantizedVector` for int8 | any sequence of numbers (see `vectors`) |

Nothing is rounded: a value with microseconds does not fit a timestamp in milliseconds, and is refused. So are dates and times that Python
cannot hold (`time_range`), by rows and columns alike, when they are written and when others' bytes are read.

Converters raise ValueError or OverflowError with the reason; the callers know the place and turn it into a typed error.
Thread rule: pure functions. Source: Apache Avro 1.12.0 specification, "Logical Types".
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import MAX_PREC, Context, Inexact, InvalidOperation
from decimal import Decimal as PyDecimal
from operator import index as as_index
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np

from fondaco.schema.types import Date, Decimal, Duration, Fixed, Primitive, Time, Timestamp, TimeUnit, Uuid, Vector

UNITS_PER_SECOND: Final[dict[TimeUnit, int]] = {"millis": 1_000, "micros": 1_000_000, "nanos": 1_000_000_000}
NUMPY_UNIT: Final[dict[TimeUnit, str]] = {"millis": "ms", "micros": "us", "nanos": "ns"}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_LOCAL = datetime(1970, 1, 1)
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EXACT = Context(prec=MAX_PREC, traps=[Inexact, InvalidOperation])
_DURATION = struct.Struct("<III")
_DAY_RANGE: Final = (date.min.toordinal() - _EPOCH_ORDINAL, date.max.toordinal() - _EPOCH_ORDINAL)
_SECONDS_RANGE: Final = (_DAY_RANGE[0] * 86_400, (_DAY_RANGE[1] + 1) * 86_400)  # the second is past the end
_NANOS_RANGE: Final = (-(1 << 63) + 1, (1 << 63) - 1)  # NumPy's NaT is the number left out


class Interval(NamedTuple):
    """Value of a `duration`: three counts that do not convert into one another. Each is 0 to 2**32 - 1."""

    months: int
    days: int
    milliseconds: int


def from_base(kind: Primitive | Fixed) -> Callable[[Any], Any] | None:
    """The function from the int, bytes or text in the row to the Python value; None when they are the same."""
    match kind.logical:
        case Decimal(precision, scale):
            return _decimal_reader(precision, scale)
        case Uuid():
            return _uuid_from_bytes if isinstance(kind, Fixed) else _uuid_from_text
        case Date():
            return date_from_days
        case Time(unit):
            return _time_reader(unit)
        case Timestamp(unit, local):
            return _timestamp_reader(unit, local)
        case Duration():
            return _duration_from_bytes
        case Vector() as vector:
            from fondaco.schema.vectors import view_vector

            return lambda data: view_vector(vector, data)
    return None


def to_base(kind: Primitive | Fixed) -> Callable[[Any], Any] | None:
    """The inverse of `from_base`: checks the Python value and gives the int, bytes or text to write; None without a logical type."""
    match kind.logical:
        case Decimal(precision, scale):
            return _decimal_writer(precision, scale, kind.size if isinstance(kind, Fixed) else None)
        case Uuid():
            return _uuid_to_bytes if isinstance(kind, Fixed) else _uuid_to_text
        case Date():
            return _date_to_days
        case Time(unit):
            return _whole_seconds(kind, _time_writer(unit))
        case Timestamp(unit, local):
            return _whole_seconds(kind, _timestamp_writer(unit, local))
        case Duration():
            return _duration_to_bytes
        case Vector() as vector:
            from fondaco.schema.vectors import vector_writer

            return vector_writer(vector)
    return None


def time_range(kind: Primitive | Fixed) -> tuple[int, int] | None:
    """Least and greatest stored number of a date, time or timestamp; None for any other type.

    Dates and timestamps are of the years 1 to 9999, timestamp-nanos of what 64 bits hold (1677 to 2262).
    """
    match kind.logical:
        case Date():
            return _DAY_RANGE
        case Time(unit):
            return 0, 86_400 * UNITS_PER_SECOND[unit] - 1
        case Timestamp("nanos"):
            return _NANOS_RANGE
        case Timestamp(unit):
            return _SECONDS_RANGE[0] * UNITS_PER_SECOND[unit], _SECONDS_RANGE[1] * UNITS_PER_SECOND[unit] - 1
    return None


def timestamp_range_text(unit: TimeUnit) -> str:
    """`time_range` of a timestamp in words."""
    return "from 1677-09-21 to 2262-04-11" if unit == "nanos" else "in the years 1 to 9999"


# -- decimal ------------------------------------------------------------------------------------------------------------------------


def _decimal_reader(precision: int, scale: int) -> Callable[[bytes], PyDecimal]:
    bound, byte_count_max = 10**precision, precision // 2 + 16  # some writers pad with sign bytes

    def decimal_from_bytes(data: bytes) -> PyDecimal:
        if not data:
            raise ValueError("a decimal needs at least one byte")
        if len(data) > byte_count_max and data.strip(data[:1]) and data[:1] not in b"\x00\xff":
            raise ValueError(f"a decimal of {len(data)} bytes does not fit {precision} digits")
        unscaled = int.from_bytes(data, "big", signed=True)
        if not -bound < unscaled < bound:
            raise ValueError(f"a decimal of {len(data)} bytes does not fit {precision} digits")
        return PyDecimal(unscaled).scaleb(-scale, _EXACT)

    return decimal_from_bytes


def _decimal_writer(precision: int, scale: int, size: int | None) -> Callable[[Any], bytes]:
    bound = 10**precision

    def decimal_to_bytes(value: Any) -> bytes:
        if isinstance(value, bool) or not isinstance(value, PyDecimal | int | np.integer):
            raise ValueError("a Decimal or an int")
        number = value if isinstance(value, PyDecimal) else PyDecimal(int(value))
        if not number.is_finite() or number.adjusted() > precision - scale:
            raise ValueError(f"a number of at most {precision - scale} digits before the point")
        try:
            unscaled = int(number.scaleb(scale, _EXACT).to_integral_exact(context=_EXACT))
        except Inexact:
            raise ValueError(f"at most {scale} digits after the point") from None
        if not -bound < unscaled < bound:
            raise ValueError(f"a number of at most {precision - scale} digits before the point")
        length = size if size is not None else (unscaled if unscaled >= 0 else ~unscaled).bit_length() // 8 + 1
        return unscaled.to_bytes(length, "big", signed=True)

    return decimal_to_bytes


# -- uuid ---------------------------------------------------------------------------------------------------------------------------


def _uuid_from_bytes(data: bytes) -> UUID:
    return UUID(bytes=bytes(data))


def _uuid_from_text(text: str) -> UUID:
    if len(text) != 36 or not text[8] == text[13] == text[18] == text[23] == "-":
        raise ValueError("not written as 8-4-4-4-12 digits")
    return UUID(bytes=bytes.fromhex(text.replace("-", "")))  # UUID(text) takes other spellings, and signs and blanks as digits


def _as_uuid(value: Any) -> UUID:
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return _uuid_from_text(value)
    raise ValueError("a UUID or its text, 8-4-4-4-12 hexadecimal digits")


def _uuid_to_bytes(value: Any) -> bytes:
    return _as_uuid(value).bytes


def _uuid_to_text(value: Any) -> str:
    return str(_as_uuid(value))


# -- dates and times ----------------------------------------------------------------------------------------------------------------


def date_from_days(days: int) -> date:
    """The date `days` after 1970-01-01."""
    return date.fromordinal(days + _EPOCH_ORDINAL)


def _date_to_days(value: Any) -> int:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.toordinal() - _EPOCH_ORDINAL
    days = _exact_units(value, "D", "a whole day") if isinstance(value, np.datetime64) else _plain_int(value, "a date")
    if not _DAY_RANGE[0] <= days <= _DAY_RANGE[1]:
        raise ValueError(f"a date in the years 1 to 9999: {_DAY_RANGE[0]} to {_DAY_RANGE[1]} days since 1970-01-01")
    return days


def _time_reader(unit: TimeUnit) -> Callable[[int], time]:
    per_second = UNITS_PER_SECOND[unit]
    micros = 1_000_000 // per_second

    def time_from_units(units: int) -> time:
        if not 0 <= units < 86_400 * per_second:
            raise ValueError(f"{units} {unit} is not a time of day")
        seconds, rest = divmod(units, per_second)
        minutes, second = divmod(seconds, 60)
        return time(minutes // 60, minutes % 60, second, rest * micros)

    return time_from_units


def _time_writer(unit: TimeUnit) -> Callable[[Any], int]:
    per_second = UNITS_PER_SECOND[unit]
    micros = 1_000_000 // per_second

    def time_to_units(value: Any) -> int:
        if isinstance(value, time):
            if value.tzinfo is not None:
                raise ValueError("a time of day without a zone")
            rest, lost = divmod(value.microsecond, micros)
            if lost:
                raise ValueError(f"a time in whole {unit}")
            return ((value.hour * 60 + value.minute) * 60 + value.second) * per_second + rest
        units = _plain_int(value, "a time of day")
        if not 0 <= units < 86_400 * per_second:
            raise ValueError(f"0 to {86_400 * per_second - 1} {unit} since midnight")
        return units

    return time_to_units


def _timestamp_reader(unit: TimeUnit, local: bool) -> Callable[[int], Any]:
    epoch = _EPOCH_LOCAL if local else _EPOCH
    if unit == "micros":
        return lambda units: epoch + timedelta(0, 0, units)
    if unit == "millis":
        return lambda units: epoch + timedelta(0, 0, 0, units)
    return _nanos_from_units


def _nanos_from_units(units: int) -> np.datetime64:
    if units < _NANOS_RANGE[0]:
        raise ValueError("the least number of 64 bits is no time")
    return np.datetime64(units, "ns")


def _timestamp_writer(unit: TimeUnit, local: bool) -> Callable[[Any], int]:
    per_second = UNITS_PER_SECOND[unit]
    epoch = _EPOCH_LOCAL if local else _EPOCH
    numpy_unit = NUMPY_UNIT[unit]
    kind = Primitive("long", Timestamp(unit, local))
    bounds = time_range(kind)
    assert bounds is not None
    least, most = bounds

    def within(units: int) -> int:
        if not least <= units <= most:
            raise ValueError(f"a timestamp {timestamp_range_text(unit)}: {least} to {most} {unit} since 1970-01-01, within 64 bits")
        return units

    def timestamp_to_units(value: Any) -> int:
        if isinstance(value, datetime):
            if (value.tzinfo is None) != local:
                raise ValueError(
                    "a datetime without a zone (local timestamps have none)" if local else "a datetime with a time zone, such as tzinfo=UTC"
                )
            since = value - epoch
            nanos = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000 + int(getattr(value, "nanosecond", 0))
            units, lost = divmod(nanos * per_second, 1_000_000_000)
            if lost:
                raise ValueError(f"a time in whole {unit}")
            return within(units)
        if isinstance(value, np.datetime64):
            return within(_exact_units(value, numpy_unit, f"a time in whole {unit}"))
        return within(_plain_int(value, f"a datetime {'without' if local else 'with'} a time zone"))

    return timestamp_to_units


def _whole_seconds(kind: Primitive | Fixed, write: Callable[[Any], int]) -> Callable[[Any], int]:
    """`write`, for columns whose Arrow type counts seconds, where Avro counts milliseconds."""
    if not str(kind.properties.get("arrow")).startswith(("time32[s", "timestamp[s")):
        return write

    def write_seconds(value: Any) -> int:
        units = write(value)
        if units % 1_000:
            raise ValueError("a time in whole seconds")
        return units

    return write_seconds


def _exact_units(value: np.datetime64, unit: str, expected: str) -> int:
    if np.isnat(value):
        raise ValueError(expected)
    converted = value.astype(f"datetime64[{unit}]")
    if converted != value:  # finer than the unit, or outside 64 bits
        raise ValueError(expected)
    return int(converted.astype(np.int64))


def _plain_int(value: Any, expected: str) -> int:
    if isinstance(value, bool | np.bool_):
        raise ValueError(expected)
    try:
        return as_index(value)
    except TypeError:
        raise ValueError(expected) from None


# -- duration -----------------------------------------------------------------------------------------------------------------------


def _duration_from_bytes(data: bytes) -> Interval:
    return Interval(*_DURATION.unpack(data))


def _duration_to_bytes(value: Any) -> bytes:
    # A struct sequence such as pyarrow's MonthDayNano is a tuple too, but counts nanoseconds: only the exact types are taken.
    if type(value) not in (Interval, tuple) or len(value) != 3:
        raise ValueError("an Interval(months, days, milliseconds)")
    try:
        return _DURATION.pack(*(_plain_int(part, "counts") for part in value))
    except struct.error:
        raise ValueError("months, days and milliseconds from 0 to 4294967295") from None
