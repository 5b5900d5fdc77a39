"""torch and torch_geometric, asked for once and by name: what is missing says which extra brings it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from types import ModuleType

from fondaco.core.errors import MissingExtraError


def need_torch() -> None:
    """Raise MissingExtraError unless torch can be imported."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "graph", "training on a graph with torch")


@functools.cache
def find_geometric() -> ModuleType | None:
    """The module torch_geometric, or None where it is not installed."""
    if importlib.util.find_spec("torch_geometric") is None:
        return None
    with warnings.catch_warnings():
        # torch_geometric 2.8 compiles some classes with torch.jit.script when imported, which torch 2.13 calls deprecated.
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        return importlib.import_module("torch_geometric")


def need_geometric() -> ModuleType:
    """The module torch_geometric.

    Raises:
        MissingExtraError: it is not installed.
    """
    found = find_geometric()
    if found is None:
        raise MissingExtraError("torch_geometric", "graph", "PyG's stores and samplers over a graph")
    return found
