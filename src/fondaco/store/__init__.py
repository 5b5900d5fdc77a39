"""Store: versioned key-value data sets. Push builds a version, swap makes it current, readers map it into their own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.store.report import PushReport, PushTable, VersionInfo
    from fondaco.store.store import Store

__all__ = ["PushReport", "PushTable", "Store", "VersionInfo"]

_HOMES = {"Store": "store", "PushReport": "report", "PushTable": "report", "VersionInfo": "report"}


def __getattr__(name: str) -> object:
    # lazily, because the modules below bring SQLAlchemy, and some of them numba, which nobody needs who only wants a manifest
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"fondaco.store.{_HOMES[name]}"), name)
