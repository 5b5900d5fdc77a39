"""Specs for tests of services."""

from __future__ import annotations

from collections.abc import Callable

import fondaco as fd
from fondaco.services.manager import Services

OpenServices = Callable[[], Services]


def feeder(name: str = "feeder", **more: object) -> fd.ServiceSpec:
    """A service of one instance with one port."""
    given: dict[str, object] = {"command": ["serve", "{port}"], "ports": ["main"]}
    return fd.ServiceSpec(name, **(given | more))  # type: ignore[arg-type]
