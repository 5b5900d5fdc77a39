"""Store: versioned key-value data sets. Push builds a version, swap makes it current, readers map it into their own process; writers change
single rows in real time, and readers see them over every version."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.store.freshness import Freshness
    from fondaco.store.positions import Position, Positions
    from fondaco.store.reader import EmbeddedReader
    from fondaco.store.report import IncrementalReport, PushReport, PushTable, VersionInfo
    from fondaco.store.store import Store
    from fondaco.store.store_reader import StoreReader
    from fondaco.store.writer import StoreWriter

__all__ = [
    "EmbeddedReader",
    "Freshness",
    "IncrementalReport",
    "Position",
    "Positions",
    "PushReport",
    "PushTable",
    "Store",
    "StoreReader",
    "StoreWriter",
    "VersionInfo",
]

_HOMES = {
    "EmbeddedReader": "reader",
    "Freshness": "freshness",
    "IncrementalReport": "report",
    "Position": "positions",
    "Positions": "positions",
    "PushReport": "report",
    "PushTable": "report",
    "Store": "store",
    "StoreReader": "store_reader",
    "StoreWriter": "writer",
    "VersionInfo": "report",
}


def __getattr__(name: str) -> object:
    # lazily, because the modules below bring SQLAlchemy, and some of them numba, which nobody needs who only wants a manifest
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"fondaco.store.{_HOMES[name]}"), name)
