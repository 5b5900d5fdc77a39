import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

RUN = [sys.executable, "-c", "from fondaco.cli import main; main()"]


def fondaco(*words: str, cwd: object = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words], input=stdin, capture_output=True, text=True, cwd=str(cwd) if cwd else None, timeout=60)


def test_help_lists_the_nouns_without_loading_an_engine() -> None:
    script = (
        "import sys; from fondaco.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "assert not {'numba', 'duckdb', 'sqlalchemy', 'pyarrow'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for noun in ("quickstart", "store", "push"):
        assert noun in done.stdout


@pytest.mark.parametrize(("words", "message"), [(["stor"], "store"), (["store", "lst"], "list")])
def test_an_unknown_noun_or_verb_gets_the_near_name_and_exit_code_2(words: list[str], message: str) -> None:
    done = fondaco(*words)
    assert done.returncode == 2
    assert f"Did you mean '{message}'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_store_is_one_message_with_the_near_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": [1], "x": [2]}), tmp_path / "rows.parquet")
    fondaco("store", "create", "members", "--value", "rows.parquet", "--dir", "data", cwd=tmp_path)
    done = fondaco("store", "show", "membrs", "--dir", "data", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no store 'membrs'; did you mean 'members'?" in done.stderr


@pytest.mark.parametrize("verb", [["list"], ["show", "s"], ["versions", "s"], ["pushes", "s"], ["get", "s", "1"], ["rollback", "s"]])
def test_a_command_that_only_looks_makes_no_platform(tmp_path: Path, verb: list[str]) -> None:
    done = fondaco("store", *verb, "--dir", "typo", cwd=tmp_path)
    assert done.returncode == 2
    assert "typo is not a Fondaco directory: it does not exist" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_push_makes_no_platform(tmp_path: Path) -> None:
    done = fondaco("push", "s", "rows.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "it is empty" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_key_column_that_the_file_lacks_is_refused_with_the_near_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": [1], "x": [2]}), tmp_path / "rows.parquet")
    done = fondaco("store", "create", "s", "--value", "rows.parquet", "--key-column", "kez", "--dir", "data", cwd=tmp_path)
    assert done.returncode == 2
    assert "no column 'kez' in rows.parquet; did you mean 'key'?" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_store_is_created_once_and_then_found_pushed_to_as_of_a_moment_and_deleted_only_on_a_yes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": [1], "x": [2]}), tmp_path / "rows.parquet")
    create = ("store", "create", "s", "--value", "rows.parquet", "--dir", "data")
    assert "store 's' is created; next: fondaco push s FILE" in fondaco(*create, cwd=tmp_path).stdout
    assert "store 's' was there already, created alike" in fondaco(*create, cwd=tmp_path).stdout
    assert "--as-of" not in fondaco("push", "s", "rows.parquet", "--as-of", "2026-01-02T00:00:00Z", "--dir", "data", cwd=tmp_path).stderr
    assert "2026-01-02 00:00:00+00:00" in fondaco("store", "versions", "s", "--dir", "data", cwd=tmp_path).stdout
    naive = fondaco("push", "s", "rows.parquet", "--as-of", "2026-01-02", "--dir", "data", cwd=tmp_path)
    assert naive.returncode == 2
    assert "as_of: '2026-01-02' has no time zone" in naive.stderr
    delete = ("store", "delete", "s", "--dir", "data")
    unasked = fondaco(*delete, cwd=tmp_path, stdin="")
    assert unasked.returncode == 2
    assert "nobody answered; add --yes" in unasked.stderr
    refused = fondaco(*delete, cwd=tmp_path, stdin="n\n")
    assert refused.returncode == 1
    assert "nothing was deleted" in refused.stderr
    assert "store 's' is deleted" in fondaco(*delete, cwd=tmp_path, stdin="y\n").stdout
