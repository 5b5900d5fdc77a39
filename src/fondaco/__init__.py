"""Fondaco: an AI/ML data platform in one package.

`fondaco.open(path)` opens a platform directory; everything else hangs on it. Names are loaded when they are first used, so that importing
the package takes milliseconds and brings in neither numba nor DuckDB nor SQLAlchemy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco import features, schema
    from fondaco.core import errors
    from fondaco.platform import Platform
    from fondaco.store import PushReport, Store

__version__ = "0.1.0"

__all__ = ["Platform", "PushReport", "Store", "__version__", "errors", "features", "open", "schema"]

_HOMES = {
    "Platform": ("fondaco.platform", "Platform"),
    "PushReport": ("fondaco.store.report", "PushReport"),
    "Store": ("fondaco.store.store", "Store"),
    "errors": ("fondaco.core.errors", None),
    "features": ("fondaco.features", None),
    "schema": ("fondaco.schema", None),
}


def open(path: str | os.PathLike[str], *, create: bool = True) -> Platform:
    """Open the platform in a directory; an empty or new directory becomes one, unless `create` is False. See `Platform.open`.

    Raises:
        NotAPlatformError: the directory holds something else, or (not `create`) nothing. FormatVersionError: a newer Fondaco made it.
    """
    from fondaco.platform import Platform

    return Platform.open(path, create=create)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    found = importlib.import_module(module)
    return found if attribute is None else getattr(found, attribute)


def __dir__() -> list[str]:
    return __all__
