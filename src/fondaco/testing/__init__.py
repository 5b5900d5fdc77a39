"""Testing: contract suites, one for each seam. Whoever writes an adapter runs them: subclass, and give the fixture it asks for.

Loaded when first used, because they need pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.testing.catalog import CatalogContract
    from fondaco.testing.graph import GraphContract
    from fondaco.testing.log import LogContract
    from fondaco.testing.provisioner import ProvisionerContract
    from fondaco.testing.reader import StoreReaderContract, StoreReaderWritesContract

__all__ = [
    "CatalogContract",
    "GraphContract",
    "LogContract",
    "ProvisionerContract",
    "StoreReaderContract",
    "StoreReaderWritesContract",
]

_HOMES = {
    "CatalogContract": "catalog",
    "GraphContract": "graph",
    "LogContract": "log",
    "ProvisionerContract": "provisioner",
    "StoreReaderContract": "reader",
    "StoreReaderWritesContract": "reader",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
