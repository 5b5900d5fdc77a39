"""`fondaco graph`: what it prints, what it refuses, and with which exit code. In process; `main` is what the command runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fondaco.cli import main

Run = Callable[..., tuple[int, str, str]]
NODES, EDGES = "airport=nodes.csv", "airport/flies/airport=edges.csv"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `fondaco graph ...` on a directory with two tables; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Path("nodes.csv").write_text("id,x\nJFK,1.5\nLAX,2.5\nSEA,\n")
    Path("edges.csv").write_text("src,dst,weight\nJFK,LAX,1\nLAX,SEA,2\n")
    Path("more.csv").write_text("src,dst,weight\nSEA,JFK,3\n")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fondaco", "graph", *words, "--dir", "data"])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def _json(answer: tuple[int, str, str]) -> Any:
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


def test_a_graph_is_built_listed_shown_sampled_and_deleted(run: Run) -> None:
    code, out, _ = run("build", "routes", "--nodes", NODES, "--edges", EDGES, "--partitions", "2")
    assert code == 0
    assert "built routes v1: 3 nodes, 2 edges, 2 partitions, " in out
    assert "v1 is current" in out
    assert [(graph["name"], graph["current"], graph["edges"]) for graph in _json(run("list", "--json"))] == [
        ("routes", 1, {"airport/flies/airport": 2})
    ]
    assert "routes  1        3      2 " in run("list")[1]
    shown = run("show", "routes")[1]
    assert "routes: v1, 2 partitions, " in shown
    assert "x float64" in shown
    assert "weighted" in shown
    assert _json(run("sample", "routes", "JFK", "--fan-outs", "1,-1", "--json")) == [
        {"edge_type": "airport/flies/airport", "src": "JFK", "dst": "LAX"},
        {"edge_type": "airport/flies/airport", "src": "LAX", "dst": "SEA"},
    ]
    assert run("delete", "routes", "--yes")[1] == "routes: deleted\n"
    assert _json(run("list", "--json")) == []


def test_versions_are_swapped_and_rolled_back(run: Run) -> None:
    for extra in ([], [], ["--no-swap", "--keep", "3"]):
        assert run("build", "routes", "--nodes", NODES, "--edges", EDGES, *extra)[0] == 0
    assert [(v["version"], v["state"]) for v in _json(run("versions", "routes", "--json"))] == [(1, "BACKUP"), (2, "CURRENT"), (3, "READY")]
    assert run("rollback", "routes")[1] == "routes: current is v1, was v2\n"
    assert run("swap", "routes", "3")[1] == "routes: current is v3, was v1\n"
    code, _, err = run("swap", "routes", "9")
    assert (code, err) == (2, "fondaco: graph 'routes' has no version 9; available: 1, 3\n")


def test_what_asks_for_versions_only_loads_no_engine(run: Run) -> None:
    assert run("build", "routes", "--nodes", NODES, "--edges", EDGES)[0] == 0
    program = (
        "import sys\n"
        "from fondaco.cli import cli\n"
        "for words in (['list'], ['show', 'routes'], ['versions', 'routes'], ['swap', 'routes', '1'], ['delete', 'routes', '--yes']):\n"
        "    cli.main(['graph', *words, '--dir', 'data'], standalone_mode=False)\n"
        "print('loaded', sorted({'numba', 'numpy', 'pyarrow'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("routes: deleted\nloaded []\n")


def test_several_tables_of_one_type_are_one_table(run: Run) -> None:
    run("build", "routes", "--nodes", NODES, "--edges", EDGES, "--edges", "airport/flies/airport=more.csv")
    assert _json(run("show", "routes", "--json"))["edges"] == {"airport/flies/airport": 3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build", "g", "--edges", "a/b=edges.csv"], "an edge type is SRC/RELATION/DST"),
        (["build", "g", "--edges", "a/to/b"], "--edges wants SRC/RELATION/DST=PATH"),
        (["build", "g", "--edges", "a/to/b=none.csv"], "there is no file none.csv"),
        (["build", "g", "--nodes", "airport=more.csv", "--edges", EDGES], "row 0, column 'src': there is no node 'JFK' of type 'airport'"),
        (["show", "rutes"], "no graph 'rutes'; did you mean 'routes'?"),
        (["sample", "routes", "XXX"], "1 id is not among the nodes of type 'airport': 'XXX'"),
        (["sample", "routes", "JFK", "--fan-outs", "a"], "--fan-outs wants numbers as 15,10, not 'a'"),
        (["sample", "routes", "JFK", "--node-type", "port"], "no node type 'port'; did you mean 'airport'?"),
        (["rollback", "routes"], "no backup to roll back to"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(run: Run, words: list[str], message: str) -> None:
    assert run("build", "routes", "--nodes", NODES, "--edges", EDGES)[0] == 0
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "verb", [["list"], ["show", "g"], ["versions", "g"], ["sample", "g", "1"], ["rollback", "g"], ["delete", "g", "--yes"]]
)
def test_a_command_that_only_looks_makes_no_platform(run: Run, verb: list[str]) -> None:
    code, _, err = run(*verb)
    assert code == 2
    assert "data is not a Fondaco directory: it does not exist" in err
    assert not Path("data").exists()
