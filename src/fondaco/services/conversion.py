"""Conversion: what users give for the settings of a spec, as they like to write it, to the values that a spec holds.

Every fault is an InputError that names the path of the value (`resources.limits.cpu`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

import msgspec

from fondaco.core.errors import InputError
from fondaco.core.units import parse_duration_us
from fondaco.services.settings import PortNumber, Resources

DURATION_MAX_US: Final = 10 * 366 * 86_400_000_000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def converted(path: str, value: object, kind: Any) -> Any:
    """A value as a type of `settings`, or as one of Python's."""
    try:
        return msgspec.convert(value, kind, from_attributes=False)
    except (msgspec.ValidationError, RecursionError) as exc:
        what, where = _fault(exc)
        if "[...]" in where:
            where = _with_keys(value, kind, where)
        got = f", not {value!r}" if not where else ""
        raise InputError(f"{path}{where}: {what[:1].lower() + what[1:]}{got}") from None


def _fault(exc: Exception) -> tuple[str, str]:
    """What is wrong, and where below the value, as ".limits[...]"."""
    what, _, where = str(exc).partition(" - at `")
    return what, where.partition("$")[2].rstrip("`")


def _with_keys(value: object, kind: Any, where: str) -> str:
    """The path of a fault with the keys that msgspec writes as `[...]`: those of the entries that are at fault alone, too."""
    steps = re.findall(r"\.\w+|\[\d+\]|\[\.\.\.\]", where)
    found = ""
    for position, step in enumerate(steps):
        if step != "[...]":
            found += step
            continue
        inside = steps[:position]
        for key, item in _at(value, inside).items():
            try:
                msgspec.convert(_with(value, inside, {key: item}), kind, from_attributes=False)
            except msgspec.ValidationError:
                found += f".{key}"
                value = _with(value, inside, {key: item})
                steps[position] = f".{key}"
                break
    return found


def _at(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        value = value[int(step[1:-1])] if step.startswith("[") else value[step[1:]]
    return value


def _with(value: Any, steps: Sequence[str], inner: object) -> Any:
    """A copy of nested mappings and lists with something else at a place."""
    if not steps:
        return inner
    key = int(steps[0][1:-1]) if steps[0].startswith("[") else steps[0][1:]
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[key] = _with(value[key], steps[1:], inner)  # type: ignore[index]
    return copy


def as_list(path: str, given: object) -> list[Any]:
    """Any iterable but a text or a mapping."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InputError(f"{path}: expected a list, not {given!r}")
    return list(given)


def as_mapping(path: str, given: object) -> dict[Any, Any]:
    """A mapping; None is an empty one."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{path}: expected a mapping, as {{'NAME': 'value'}}, not {given!r}")
    return dict(given)


def as_env(given: object, path: str = "env") -> dict[str, str]:
    """Variables; a whole number is the text of it."""
    values = {key: str(value) if type(value) is int else value for key, value in as_mapping(path, given).items()}
    return converted(path, values, dict[str, str])  # type: ignore[no-any-return]


def as_resources(given: object) -> Resources:
    """Amounts may be numbers: `cpu=2` is "2", and 0.5 is "0.5"."""
    if given is None or isinstance(given, Resources):
        return given or Resources()
    document = as_mapping("resources", given)
    for kind, amounts in document.items():
        if isinstance(amounts, Mapping):
            document[kind] = {name: str(amount) if type(amount) in (int, float) else amount for name, amount in amounts.items()}
    return converted("resources", document, Resources)  # type: ignore[no-any-return]


def as_ttl_us(ttl: object, ttl_us: object) -> int:
    """A duration, in text or as timedelta, or (`ttl_us`) in microseconds."""
    if ttl_us is not None:
        return converted("ttl_us", ttl_us, Annotated[int, msgspec.Meta(ge=0, le=DURATION_MAX_US)])  # type: ignore[no-any-return]
    return as_duration_us("ttl", ttl, example="10m", instead="; a lease without an end keeps a service for as long as you like")


def as_duration_us(path: str, given: object, *, example: str = "60s", instead: str = "") -> int:
    """A duration in microseconds, ten years at most; `instead` ends the message of one that is longer."""
    if not isinstance(given, (str, timedelta)):
        raise InputError(f'{path}: expected a duration, as "{example}", not {given!r}')
    try:
        us = parse_duration_us(given)
    except (InputError, OverflowError) as exc:
        raise InputError(f"{path}: {exc}") from None
    if us > DURATION_MAX_US:
        raise InputError(f"{path}: {given!r} is longer than ten years{instead}")
    return us


def as_ports(given: object) -> dict[str, int | None]:
    """Ports by name: a number, a name, a list of names, or names to numbers."""
    if isinstance(given, (int, str)) and not isinstance(given, bool):
        given = {"main": given} if isinstance(given, int) else {given: None}
    elif not isinstance(given, Mapping):
        named = as_list("ports", given)
        for index, name in enumerate(named):
            if not isinstance(name, str):
                raise InputError(f"ports[{index}]: {name!r} is no name; write ports={{'main': 8080}} for a number, or names in a list")
        given = dict.fromkeys(named)
    ports: dict[str, int | None] = converted("ports", dict(given), dict[str, PortNumber | None])
    taken: dict[int, str] = {}
    for name, number in ports.items():
        if number is not None and taken.setdefault(number, name) != name:
            raise InputError(f"ports.{name}: {number} is the number of port {taken[number]!r} already")
    return ports


def checked_variables(path: str, given: object) -> dict[str, str]:
    """Variables that a program can be given, as whoever uses a service states them; a whole number is the text of it.

    Raises:
        InputError: names the path.
    """
    variables = as_env(given, path)
    for variable, text in variables.items():
        check_variable(path, variable)
        check_text(f"{path}.{variable}", text)
    return variables


def check_variable(path: str, name: str) -> None:
    """A variable's name is one that programs and shells can use."""
    if not _VARIABLE.fullmatch(name):
        raise InputError(f"{path}.{name}: a variable's name is letters, digits and '_', no digit first")


def check_text(path: str, text: str) -> None:
    """A text is one that a program can be given."""
    if not text.isascii() and _is_torn(text):
        raise InputError(f"{path}: {text!r} holds half a character (a surrogate), which UTF-8 cannot")
    if "\0" in text:
        raise InputError(f"{path}: a program's arguments and variables cannot hold a NUL byte")


def _is_torn(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
