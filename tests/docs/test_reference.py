"""Every public name has a docstring, and docs/reference.md says what the code says."""

import importlib
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()


@pytest.mark.parametrize("package", GENERATOR.PACKAGES)
def test_every_public_name_and_member_has_a_docstring(package: str) -> None:
    module = importlib.import_module(package)
    silent = []
    for name in module.__all__:
        item = getattr(module, name)
        if not inspect.isclass(item) and not inspect.isfunction(item):
            continue
        silent += [name] if not item.__doc__ else []
        if inspect.isclass(item):
            silent += [f"{name}.{member}" for member, value in GENERATOR.public_members(item) if not value.__doc__]
    assert silent == []


def test_the_reference_page_is_what_the_docstrings_say() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == GENERATOR.reference(), "run: python docs/make_reference.py"
