"""Quantities: amounts of CPU, memory and devices as Kubernetes writes them, checked and compared here before any server sees them.

Grammar and suffixes: Kubernetes API reference, resource.Quantity: a decimal number with n, u, m, k, M, G, T, P, E (powers of ten), Ki to
Ei (powers of 1024), or an exponent e3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from fondaco.core.errors import InputError

_SUFFIXES: Final = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6),
    "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20),
    "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([eE][+-]?\d{1,3}|[KMGTPE]i|[numkMGTPE])?")
_WHOLE: Final = frozenset({"cpu", "memory", "ephemeral-storage"})  # what is not a device may be a fraction; devices may not
_NAME = re.compile(
    r"cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMG]i|[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
)


def parse_quantity(text: str, *, path: str = "quantity") -> Decimal:
    """The amount: cores, bytes, or pieces.

    Raises:
        InputError: not a quantity; names `path`.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InputError(f'{path}: {text!r} is no quantity; write for example "500m", "2" (CPU cores), "512Mi", "4Gi" (memory)')
    number, suffix = Decimal(match[1]), match[2] or ""
    return number * (Decimal("1" + suffix) if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei" else _SUFFIXES[suffix])


def amounts(given: Mapping[str, str]) -> dict[str, str]:
    """The amounts by name as plain decimals, one text for each amount: "1000m" and "1.0" are "1".

    Raises:
        InputError: not a quantity.
    """
    return {name: f"{parse_quantity(text).normalize():f}" for name, text in given.items()}


def check_resources(requests: Mapping[str, str], limits: Mapping[str, str]) -> None:
    """Check names and amounts, and that no request is above its limit.

    Raises:
        InputError: names the path, as `resources.limits.memory`.
    """
    for kind, amounts in (("requests", requests), ("limits", limits)):
        for name, text in amounts.items():
            path = f"resources.{kind}.{name}"
            if not _NAME.fullmatch(name):
                raise InputError(f'{path}: resources are "cpu", "memory", "ephemeral-storage", or devices as "nvidia.com/gpu"')
            amount = parse_quantity(text, path=path)
            if amount < 0:
                raise InputError(f"{path}: {text!r} is negative")
            if name not in _WHOLE and not name.startswith("hugepages-") and amount != amount.to_integral_value():
                raise InputError(f"{path}: {text!r} must be a whole number of devices")
    for name, text in requests.items():
        if name not in limits:
            continue
        if parse_quantity(text) > parse_quantity(limits[name]):
            raise InputError(f"resources.requests.{name}: {text} is more than the limit, {limits[name]}")
        if name not in _WHOLE and parse_quantity(text) != parse_quantity(limits[name]):
            raise InputError(f"resources.requests.{name}: {text} is not the limit, {limits[name]}: nobody can have a part of it on demand")
    given = requests.keys() | limits.keys()
    if any(name.startswith("hugepages-") for name in given) and given.isdisjoint({"cpu", "memory"}):
        raise InputError("resources: huge pages are given only together with cpu or memory: say how much of these, too")
