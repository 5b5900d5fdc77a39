"""Writes docs/reference.md from the docstrings of every public name: `python docs/make_reference.py`. A test compares the two."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

PACKAGES = [
    "fondaco",
    "fondaco.schema",
    "fondaco.store",
    "fondaco.dataplane",
    "fondaco.log",
    "fondaco.adapters.kafka",
    "fondaco.features",
    "fondaco.graph",
    "fondaco.graph.torch",
    "fondaco.graph.pyg",
    "fondaco.graph.deepgnn",
    "fondaco.services",
    "fondaco.adapters.kubernetes",
    "fondaco.models",
    "fondaco.adapters.kubeflow",
    "fondaco.adapters.flyte1",
    "fondaco.adapters.flyte2",
]
HEAD = """# Reference

Every public name with its docstring, written from the code by `python docs/make_reference.py`. Errors are drawn as a tree at the end.
"""


def public_members(owner: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties that a class of ours defines itself, in the order of the code."""
    for name, member in vars(owner).items():
        is_member = inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod))
        if is_member and not name.startswith("_"):
            yield name, member


def signature(item: object) -> str:
    """The signature in one line, without the annotations' module names; empty where there is none."""
    function = item.__func__ if isinstance(item, (classmethod, staticmethod)) else item
    try:
        return str(inspect.signature(function)).replace("'", "")  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""


def document(name: str, item: object, level: int) -> Iterator[str]:
    """Heading, signature and docstring of one name, then of its public members."""
    doc = inspect.cleandoc(item.__doc__ or "").rstrip()
    yield f"{'#' * level} `{name}`\n"
    if callable(item) and not (inspect.isclass(item) and issubclass(item, BaseException)):
        text = signature(item)
        if text and len(text) < 400 and " at 0x" not in text:
            yield f"```text\n{name.rsplit('.', 1)[-1]}{text}\n```\n"
    if doc:
        yield f"```text\n{doc}\n```\n"
    if inspect.isclass(item) and not issubclass(item, BaseException):
        for member_name, member in public_members(item):
            yield from document(f"{name.rsplit('.', 1)[-1]}.{member_name}", member, level + 1)


def reference() -> str:
    """The whole page."""
    lines = [HEAD]
    for package in PACKAGES:
        module = importlib.import_module(package)
        lines.append(f"## {package}\n")
        lines.append(f"```text\n{inspect.cleandoc(module.__doc__ or '')}\n```\n")
        for name in sorted(module.__all__, key=str.casefold):
            item = getattr(module, name)
            if not inspect.ismodule(item) and not isinstance(item, str):
                lines.extend(document(name, item, 3))
    errors = importlib.import_module("fondaco.core.errors")
    lines.append(f"## fondaco.errors\n\n```text\n{inspect.cleandoc(errors.__doc__ or '')}\n```\n")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(reference(), encoding="utf-8")
