"""Scripts that know nothing of Fondaco but an environment variable run under `fondaco train`, as a user starts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

import fondaco as fd
from train_process import removing_services, train

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("examples")  # one after the other: each has servers of its own
KINDS, PAGES = 3, 240


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pages of three kinds that mostly like their own kind; their features say a little of it."""
    directory = tmp_path_factory.mktemp("pages") / "platform"
    rng = np.random.default_rng(5)
    ids = np.arange(PAGES)
    kind = ids % KINDS
    x = (rng.standard_normal((PAGES, 8)) + 1.5 * np.eye(KINDS, 8)[kind]).astype(np.float32)
    src = np.repeat(ids, 6)
    dst = (rng.integers(0, PAGES // KINDS, len(src)) * KINDS + kind[src]) % PAGES
    features = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8), "label": kind, "part": (ids % 5 == 0).astype(np.int8)}
    with fd.open(directory) as opened:
        opened.build_graph(
            "pages",
            nodes={"page": pa.table({"id": ids * 11, **features})},
            edges={("page", "likes", "page"): pa.table({"src": src * 11, "dst": dst * 11})},
            undirected=True,
            partitions=2,
            progress=False,
        )
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
