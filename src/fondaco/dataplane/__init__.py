"""Data plane: reads and writes over HTTP/1.1: the server (`python -m fondaco.dataplane.serve`), and the thin and fast clients.

A platform's own way to them is `fondaco.connect(url).store(name).reader(tier="fast")`; by themselves:

    with ThinReader("http://127.0.0.1:7071", "members") as reader:
        reader.get(42)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.dataplane.fast import AsyncFastReader, FastReader
    from fondaco.dataplane.thin import AsyncThinReader, ThinReader

__all__ = ["AsyncFastReader", "AsyncThinReader", "FastReader", "ThinReader"]

_HOMES = {"AsyncFastReader": "fast", "AsyncThinReader": "thin", "FastReader": "fast", "ThinReader": "thin"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
