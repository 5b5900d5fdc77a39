"""Units: durations and sizes as people write them (`"24h"`, `"90s"`, `"64MiB"`), and as they read them."""

from __future__ import annotations

import re
from datetime import timedelta

from fondaco.core.errors import InputError

_DURATION_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", re.IGNORECASE)
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d|w)\s*")


def parse_duration_us(text: str | int | timedelta) -> int:
    """Microseconds of `"90s"`, `"1h30m"`, `"7d"` or a timedelta; an int is taken as microseconds.

    Raises:
        InputError: not a duration, or a negative one.
    """
    if isinstance(text, timedelta):
        us = (text.days * 86_400 + text.seconds) * 1_000_000 + text.microseconds
    elif isinstance(text, int):
        us = text
    else:
        position, us = 0, 0
        while position < len(text):
            match = _DURATION.match(text, position)
            if match is None:
                break
            us += round(float(match[1]) * _DURATION_US[match[2]])
            position = match.end()
        if position < len(text) or not text.strip():
            raise InputError(f'{text!r} is not a duration; write for example "90s", "1h30m" or "7d" (units: {", ".join(_DURATION_US)})')
    if us < 0:
        raise InputError(f"a duration cannot be negative: {text!r}")
    return us


def format_duration(us: int) -> str:
    """The shortest exact text that `parse_duration_us` reads back, such as `7d` or `1h30m`."""
    if us == 0:
        return "0s"
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, us = divmod(us, _DURATION_US[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_bytes(text: str | int) -> int:
    """Bytes of `"512MiB"`, `"1.5GB"` or `"64 MB"`; an int is taken as bytes. KB, MB, GB are powers of 1000, KiB, MiB, GiB of 1024.

    Raises:
        InputError: not a size, or a negative one.
    """
    if isinstance(text, str):
        match = _BYTES.fullmatch(text.strip())
        if match is None:
            raise InputError(f'{text!r} is not a size; write for example "64MB", "512MiB" or "1.5GB"')
        prefix, binary = match[2].upper(), bool(match[3])
        power = " KMGT".index(prefix or " ")
        return round(float(match[1]) * float((1024 if binary else 1000) ** power))
    if isinstance(text, bool) or not isinstance(text, int) or text < 0:
        raise InputError(f"a size is a whole number of bytes, or a text as '512MiB', not {text!r}")
    return text


def format_bytes(count: int) -> str:
    """A byte count for people, in binary units: `412 MiB`."""
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
