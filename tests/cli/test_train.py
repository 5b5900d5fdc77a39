"""`fondaco train` and `fondaco run` on the command line; how jobs run and end is tested in tests/models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

import fondaco as fd
from fondaco.cli import cli
from fondaco.core.errors import InputError, RunNotFoundError
from train_process import environment, train


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "platform"
    fd.open(found).close()
    return found


def run(*arguments: str) -> str:
    """What a command prints on stdout."""
    ended = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_runs_are_listed_and_shown(directory: Path) -> None:
    assert train(directory, "--name", "first", "--", "sh", "-c", "exit 3").returncode == 3
    assert train(directory, "--env", "SECRET=abc", "--", "true").returncode == 0
    last, first = json.loads(run("run", "list", "--dir", str(directory), "--json"))
    assert (first["name"], first["state"], first["exit_code"]) == ("first", "FAILED", 3)
    assert (last["state"], last["variables"]["SECRET"]) == ("SUCCEEDED", "")
    listed = run("run", "list", "--dir", str(directory))
    assert listed.index(last["id"]) < listed.index(first["id"])  # newest first
    assert "sh -c 'exit 3'" in listed
    shown = run("run", "show", first["id"], "--packages", "--dir", str(directory))
    assert shown.startswith(f"{first['id']} first: FAILED, exit code 3")
    assert f"package    pytest=={pytest.__version__}" in shown
    assert "SECRET (not recorded)" in run("run", "show", last["id"], "--dir", str(directory))
    with pytest.raises(RunNotFoundError, match=first["id"]):
        run("run", "show", first["id"][:-1], "--dir", str(directory))


def test_options_after_the_command_are_the_commands(directory: Path) -> None:
    for dashes in (["--"], []):
        ended = train(directory, *dashes, "echo", "--json", "--graph", "x")
        assert ended.stdout == "--json --graph x\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "A", "--", "true"], "NAME=TEXT"),
        (["--image", "x", "--", "true"], "--on kubeflow"),
        (["--print-manifest", "--", "true"], "--on kubeflow"),
        (["--on", "kubeflow", "--resource", "gpu", "--", "true"], "nvidia.com/gpu=1"),
        (["--on", "kubeflow", "--", "true"], r"\[services\.clusters\.NAME\]"),
        (["--nproc", "0", "--", "true"], "--nproc"),
        (["--timeout", "soon", "--", "true"], "is not a duration"),
        (["--lease", "0s", "--", "true"], "--lease 0s: a lease of a job lasts a second or more"),
        ([], "after `--`"),
    ],
)
def test_mistakes_are_one_message(directory: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run("train", "--dir", str(directory), *arguments)
    assert json.loads(run("run", "list", "--dir", str(directory), "--json")) == []


def test_a_directory_that_is_no_platform_is_not_made_one(tmp_path: Path) -> None:
    ended = train(tmp_path / "none", "--", "true")
    assert ended.returncode == 2
    assert "is not a Fondaco directory" in ended.stderr
    assert not (tmp_path / "none").exists()


def test_the_launching_process_loads_no_engine(directory: Path) -> None:
    with fd.open(directory) as platform:  # what is there is looked at when a platform is opened
        platform.build_graph("ring", edges={("n", "to", "n"): pa.table({"src": [1, 2], "dst": [2, 1]})}, progress=False)
        platform.create_store("s", value=pa.schema([("x", pa.int64())])).push(pa.table({"key": [1], "x": [1]}))
    program = (
        "import sys, fondaco as fd\n"
        "from fondaco.models import launch\n"
        "with fd.open(sys.argv[1]) as platform: platform.services.list(), launch(platform, ['true'])\n"
        "engines = {'numpy', 'numba', 'duckdb', 'torch', 'pyarrow', 'lightkube', 'rich', 'alembic'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & engines))\n"
    )
    command = [sys.executable, "-c", program, str(directory)]
    assert subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout == "[]\n"
