"""The harness measures what it says: alternation, ratios per round, data built once, children with caps, results merged by benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is a package of the repository, not of the installed distribution

from tests.kubernetes import control_plane  # noqa: E402

from benchmarks import __main__ as runner  # noqa: E402
from benchmarks import _accounts, _child, _harness, _members  # noqa: E402


def test_paths_alternate_and_the_first_of_a_round_rotates():
    order = []
    paths = {name: lambda round_index, name=name: order.append((round_index, name)) or {"seconds": 1.0} for name in "abc"}
    results = _harness.alternate(paths, rounds=3)
    assert order == [(0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a"), (2, "c"), (2, "a"), (2, "b")]
    assert {name: len(figures) for name, figures in results.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_the_median_of_per_round_ratios_and_not_the_ratio_of_medians():
    ours = [{"p99_us": value} for value in (1.0, 10.0, 2.0)]
    theirs = [{"p99_us": value} for value in (8.0, 40.0, 20.0)]
    assert _harness.times_lower(ours, theirs, "p99_us") == _harness.Spread(median=8.0, low=4.0, high=10.0)
    assert _harness.times_higher(theirs, ours, "p99_us") == _harness.Spread(median=8.0, low=4.0, high=10.0)


def test_calls_are_timed_one_by_one_with_the_collector_off():
    import gc

    seen = []
    figures = _harness.time_calls(lambda item: seen.append((item, gc.isenabled())), [1, 2, 3], scale=10)
    assert seen == [(1, False), (2, False), (3, False)]
    assert gc.isenabled()
    assert figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"]
    assert figures["per_s"] == pytest.approx(30 / (figures["mean_us"] * 3 / 1e6))


def test_a_goal_is_reached_by_the_median_and_an_informing_line_is_not_judged():
    report = _harness.Report("name", "question")
    report.found("a", "1", "peer", _harness.Spread(8.0, 4.0, 10.0), at_least=8)
    report.found("b", "1", "peer", _harness.Spread(7.9, 4.0, 10.0), at_least=8)
    report.found("c", "1", "peer", _harness.Spread(7.9, 4.0, 10.0))
    report.found_limit("d", "9 µs", value=9.0, at_most=10.0, unit="µs")
    assert [(finding.goal, finding.reached) for finding in report.findings] == [
        (">= 8x", True),
        (">= 8x", False),
        ("", None),
        ("<= 10 µs", True),
    ]


def test_half_built_data_is_built_again_and_finished_data_is_not(tmp_path):
    built = []

    def fails(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    def build(directory: Path) -> None:
        built.append(sorted(directory.iterdir()))

    with pytest.raises(KeyboardInterrupt):
        _harness.build_once(tmp_path / "data", fails)
    _harness.build_once(tmp_path / "data", build)
    _harness.build_once(tmp_path / "data", build)
    assert built == [[]]


def test_members_follow_from_the_seed_and_have_unique_ascending_ids():
    ids = _members.member_ids(120_000)
    assert (np.diff(ids) > 0).all()
    first, again, other = (next(_members.batches(rows=100, seed=seed)) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
    assert sum(batch.num_rows for batch in _members.batches(rows=60_001, seed=1)) == 60_001


def test_an_account_has_the_same_values_however_many_accounts_there_are(tmp_path):
    import pyarrow.parquet as pq

    _accounts.write_latest(tmp_path / "few", accounts=50, seed=1)
    _accounts.write_latest(tmp_path / "many", accounts=500, seed=1)
    few, many = (pq.read_table(tmp_path / name).sort_by("account").drop_columns(["event_timestamp"]) for name in ("few", "many"))
    assert few.equals(many.slice(0, 50))


def test_a_child_answers_with_its_own_peak_memory():
    answer = _child.call(_child.touch_memory, mebibytes=200)
    assert answer["bytes"] == 200 << 20
    assert 200 << 20 < answer["vm_hwm_bytes"] < 400 << 20


def test_a_child_that_outgrows_its_cap_is_ended_and_the_group_removed():
    why_not = _child.caps_available()
    if why_not is not None:
        pytest.skip(why_not)
    with pytest.raises(RuntimeError, match="ended with status"):
        _child.call(_child.touch_memory, cap_bytes=100 << 20, mebibytes=300)


def test_results_of_a_day_are_merged_by_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    for name, seconds in (("decode", 1), ("push", 2), ("decode", 3)):
        runner._merge({"name": name, "quick": False, "seconds": seconds})
    (file,) = (tmp_path / "benchmarks" / "results").iterdir()
    assert {name: result["seconds"] for name, result in json.loads(file.read_text()).items()} == {"decode": 3, "push": 2}


def test_every_benchmark_file_is_run_by_the_runner():
    files = {path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")}
    assert files == set(runner.NAMES)


@pytest.mark.parametrize("name", runner.NAMES)
def test_the_benchmark_runs_in_quick_mode_and_names_its_peers(name, tmp_path_factory):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["quick"]
    if name == "service_many" and (missing := control_plane.missing()):
        pytest.skip(f"it is about Kubernetes alone, and {', '.join(missing)} are not built (make test-kubernetes)")
    assert result["findings"]
    assert result["machine"]["cores"] >= 1
    assert all(finding["ratio"] is None or finding["peer"] for finding in result["findings"])
