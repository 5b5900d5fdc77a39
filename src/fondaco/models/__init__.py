"""Models: what trains them. A job is run with the data services that it needs, unchanged, and leaves a record.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.models.here import Here
    from fondaco.models.job import CommandError
    from fondaco.models.launcher import RunResult, launch
    from fondaco.models.request import Request

__all__ = ["CommandError", "Here", "Request", "RunResult", "launch"]

_HOMES = {"CommandError": "job", "Here": "here", "Request": "request", "RunResult": "launcher", "launch": "launcher"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"fondaco.models.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
