import subprocess
import sys

import pytest

RUN = [sys.executable, "-c", "from fondaco.cli import main; main()"]


def fondaco(*words: str, cwd: object = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words], capture_output=True, text=True, cwd=str(cwd) if cwd else None, timeout=60)


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


def test_an_unknown_store_is_one_message_with_the_near_name(tmp_path: object) -> None:
    fondaco("store", "create", "members", "--value", '{"x":1}', cwd=tmp_path)
    done = fondaco("store", "show", "membrs", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no store 'membrs'" in done.stderr
