"""Scripts that know nothing of Fondaco but an environment variable run under `fondaco train`, as a user starts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from examples.pages import build, made_up_pages

from train_process import removing_services, train

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("examples")  # one after the other: each has servers of its own
KINDS = 3


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("pages") / "platform"
    build(directory, made_up_pages(240, kinds=KINDS, dim=8))
    with removing_services(directory):
        yield directory


def accuracy(output: str) -> float:
    return float(output.splitlines()[-1].removeprefix("validation accuracy "))


def test_a_pyg_script_finds_its_graph_in_the_environment(platform: Path) -> None:
    command = ["python", "-m", "examples.unchanged_pyg", "--epochs", "4", "--batch-size", "48"]
    ended = train(platform, "--graph", "pages", "--", *command, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert accuracy(ended.stdout) > 0.8


def test_the_same_script_is_trained_by_two_processes_over_two_shards(platform: Path) -> None:
    command = ["python", "-m", "examples.unchanged_pyg", "--epochs", "4", "--batch-size", "24"]
    ended = train(platform, "--graph", "pages", "--shards", "2", "--nproc", "2", "--", *command, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 3: loss") == 1  # of one of the two
    assert accuracy(ended.stdout) > 0.8


def test_a_deepgnn_script_finds_its_servers_under_the_name_that_it_knows(platform: Path) -> None:
    sizes = ["--dim", "8", "--classes", str(KINDS), "--epochs", "12", "--batch-size", "48"]
    command = ["python", "-m", "examples.unchanged_deepgnn", *sizes]
    ended = train(platform, "--graph", "pages", "--deepgnn", "--", *command, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert accuracy(ended.stdout) > 0.7
