"""What CI does about Kubernetes where the control plane is built, cannot be built, and was built before: it never stays out silently."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "kubernetes"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
KEPT = ("PATH", "LANG", "TMPDIR")  # neither the user's cache nor a cluster of theirs


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home where nothing is built, and programs in front of the true ones: nothing can be fetched, and what `make` was told is kept."""
    _program(tmp_path / "programs" / "apt-get", "echo no mirror answers >&2; exit 100")
    _program(tmp_path / "programs" / "make", f'echo "$@" >{tmp_path}/made; exit ${{MAKE_ENDS_WITH:-0}}')
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path / 'programs'}:{os.environ['PATH']}"}


def _program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _ran(script: str, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPTS / script, *arguments], env=env, capture_output=True, text=True, timeout=60)


def _build(env: dict[str, str]) -> Path:
    """As the true build leaves it behind, without its 12 minutes; where it is kept."""
    home = Path(_ran("build_control_plane.sh", "--home", env=env).stdout.strip())
    for name in PROGRAMS:
        _program(home / "bin" / name, "exit 1")
    assert _ran("build_control_plane.sh", env=env).returncode == 0
    return home


def test_where_it_is_built_the_tests_run_and_their_end_is_the_end(environment: dict[str, str], tmp_path: Path) -> None:
    _build(environment)
    assert _ran("ci.sh", env=environment).returncode == 0
    assert (tmp_path / "made").read_text() == "test-kubernetes\n"
    assert _ran("ci.sh", env=environment | {"MAKE_ENDS_WITH": "2"}).returncode == 2


def test_where_it_never_could_be_built_that_is_said(environment: dict[str, str], tmp_path: Path) -> None:
    ended = _ran("ci.sh", env=environment)
    assert ended.returncode == 0
    assert "NOT TESTED ON KUBERNETES" in ended.stderr
    assert "no mirror answers" in ended.stderr
    assert not (tmp_path / "made").exists()
    assert _ran("ci.sh", env=environment).returncode == 0, "a build that failed was taken for one that was there"


@pytest.mark.parametrize("variable", [None, "XDG_CACHE_HOME", "FONDACO_CONTROL_PLANE"])
def test_where_it_was_built_and_cannot_be_mended_ci_fails(environment: dict[str, str], tmp_path: Path, variable: str | None) -> None:
    if variable:
        environment[variable] = str(tmp_path / "elsewhere")
    home = _build(environment)
    assert home.is_relative_to(tmp_path / ("elsewhere" if variable else "home/.cache/fondaco"))
    (home / "bin" / "kube-apiserver").unlink()
    ended = _ran("ci.sh", env=environment)
    assert ended.returncode == 1
    assert "was built before" in ended.stderr
    assert not (tmp_path / "made").exists()
