"""The digest of an environment tells two apart, and is that of the interpreter which the job uses."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fondaco.models.environment import describe, installed, interpreter_of


def record(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)


def test_packages_are_read_from_the_names_of_their_records(tmp_path: Path) -> None:
    for name in ("Torch_Geometric-2.6.1.dist-info", "torch-2.13.0+cpu.dist-info", "old-1.0-py3.11.egg-info", "torch", "x.pth"):
        record(tmp_path, name)
    other = tmp_path / "other"
    record(other, "torch-1.0.dist-info")
    assert installed([tmp_path, other, tmp_path / "gone"]) == ("old==1.0", "torch-geometric==2.6.1", "torch==2.13.0+cpu")


def test_our_own_are_those_that_the_import_system_finds() -> None:
    found = describe([sys.executable, "x.py"], Path("/"))
    names = {re.sub(r"[-_.]+", "-", one.name).lower() for one in importlib.metadata.distributions() if one.name}
    assert {line.partition("==")[0] for line in found.packages} == names
    assert found.digest == hashlib.sha256("".join(f"{line}\n" for line in found.packages).encode()).hexdigest()
    assert found.to_dict()["version"] == ".".join(map(str, sys.version_info[:3]))


def make_environment(folder: Path, package: str) -> Path:
    """A virtual environment, as far as its files tell of it."""
    record(folder / "lib" / "python3.12" / "site-packages", package)
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.12.1\n")
    python = folder / "bin" / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return python


def test_the_packages_are_those_of_the_interpreter_that_the_command_names(tmp_path: Path) -> None:
    one, other = (make_environment(tmp_path / name, f"torch-{name}.dist-info") for name in ("1.0", "2.0"))
    found = describe([str(one), "train.py"], tmp_path)
    assert (found.python, found.version, found.packages) == (str(one), "3.12.1", ("torch==1.0",))
    assert describe([str(other), "train.py"], tmp_path).digest != found.digest


def test_a_script_uses_the_interpreter_of_its_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = make_environment(tmp_path / "venv", "torch-1.0.dist-info")
    monkeypatch.setenv("PATH", str(python.parent), prepend=":")
    for first in (f"#!{python}", "#!/usr/bin/env python"):
        script = tmp_path / "train"
        script.write_text(first + "\n")
        script.chmod(0o755)
        assert interpreter_of([str(script)]) == str(python)
    assert interpreter_of(["sh", "-c", "true"]) == sys.executable


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_directory_and_changes_are_told(tmp_path: Path) -> None:
    inside = tmp_path / "work" / "inside"
    inside.mkdir(parents=True)
    assert describe(["true"], inside).commit is None
    git(tmp_path / "work", "init", "-q")
    assert describe(["true"], inside).commit is None  # there is none yet
    (inside / "train.py").write_text("1")
    git(tmp_path / "work", "add", ".")
    git(tmp_path / "work", "commit", "-q", "-m", "first")
    found = describe(["true"], inside)
    assert (found.commit, found.changed) == (git(inside, "rev-parse", "HEAD"), False)
    (inside / "train.py").write_text("2")
    assert describe(["true"], inside).to_dict()["changed"] == "yes"
