"""Kernels that were compiled by another user are used where nothing beside them can be written."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
from numba import njit

@njit(cache=True)
def doubled(x):
    return 2 * x

@njit(cache=True)
def halved(x):
    return x / 2
"""
PROGRAM = "import kernels; print(kernels.{0}({1})); stats = kernels.{0}.stats; print(sum(stats.cache_hits.values()), stats.cache_path)"
LOCATORS = "UserProvidedCacheLocator,fondaco.core.kernel_cache.SeededLocator"


@pytest.fixture
def installed(tmp_path_factory):
    """A folder with a module, whose one kernel was compiled; others can read it, and only root can write it."""
    folder = Path(tmp_path_factory.mktemp("installed"))
    (folder / "kernels.py").write_text(MODULE)
    result, hits, path = _run(folder, PROGRAM.format("doubled", 21))
    assert (result, hits, path) == ("42", "0", str(folder / "__pycache__"))
    for each in (folder, folder / "__pycache__"):
        each.chmod(0o555)
    yield folder
    for each in (folder, folder / "__pycache__"):
        each.chmod(0o755)


def _run(folder, program, *, expect=0, **environment):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "NUMBA_CACHE_LOCATOR_CLASSES": LOCATORS} | environment
    source = str(Path(__file__).parents[2] / "src")
    environment["PYTHONPATH"] += os.pathsep + source
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd="/", preexec_fn=_obey_modes)
    assert done.returncode == expect, done.stderr
    return done.stdout.split() if not expect else done.stderr


def _obey_modes():
    if os.geteuid() == 0:  # whom no mode of a folder stops, until this capability is given up
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def test_shipped_kernels_are_used_and_missing_ones_are_compiled_once(installed, tmp_path):
    cache = str(tmp_path)
    result, hits, path = _run(installed, PROGRAM.format("doubled", 21), XDG_CACHE_HOME=cache)
    assert (result, hits) == ("42", "1")
    assert path.startswith(cache)
    assert _run(installed, PROGRAM.format("halved", 42), XDG_CACHE_HOME=cache)[:2] == ["21.0", "0"]
    assert _run(installed, PROGRAM.format("halved", 42), XDG_CACHE_HOME=cache)[:2] == ["21.0", "1"]


def test_without_a_home_they_lie_in_the_temporary_directory(installed, tmp_path):
    temporary = str(tmp_path)
    result, hits, path = _run(installed, PROGRAM.format("doubled", 21), HOME="/proc/none", TMPDIR=temporary)
    assert (result, hits) == ("42", "1")
    assert path.startswith(temporary)


def test_code_is_not_loaded_from_a_folder_that_others_can_write(installed, tmp_path):
    cache = tmp_path / "cache"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    path = Path(_run(installed, PROGRAM.format("doubled", 21), XDG_CACHE_HOME=str(cache))[2])
    path.chmod(0o777)
    moved = _run(installed, PROGRAM.format("doubled", 21), XDG_CACHE_HOME=str(cache), TMPDIR=str(temporary))
    assert moved[2].startswith(str(temporary))
    shutil.rmtree(temporary)
    temporary.mkdir()
    (temporary / f"fondaco-kernels-{os.geteuid()}").write_text("of somebody else")
    said = _run(installed, PROGRAM.format("doubled", 21), XDG_CACHE_HOME=str(cache), TMPDIR=str(temporary), expect=1, HOME="/proc/none")
    assert "no locator available" in said
