import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

RUN = [sys.executable, "-c", "from fondaco.cli import main; main()"]


def fondaco(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words, "--dir", "data"], capture_output=True, text=True, cwd=cwd, timeout=60)


def test_a_token_is_made_listed_without_its_secret_and_revoked(tmp_path: Path) -> None:
    made = fondaco("token", "create", "ops", "--role", "*=admin", "--role", "members=read", "--expires", "30d", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("fdc_")
    assert len(secret) == 47
    assert "shown only now" in made.stderr
    assert secret not in made.stderr
    listed = fondaco("token", "list", cwd=tmp_path)
    assert secret not in listed.stdout
    assert "ops   good   *=admin, members=read" in listed.stdout
    again = fondaco("token", "create", "ops", "--role", "*=read", cwd=tmp_path)
    assert again.returncode == 2
    assert "revoke it first" in again.stderr
    assert "token 'ops' is revoked" in fondaco("token", "revoke", "ops", cwd=tmp_path).stdout
    (row,) = json.loads(fondaco("token", "list", "--json", cwd=tmp_path).stdout)
    assert (row["name"], row["state"]) == ("ops", "revoked")
    assert fondaco("token", "create", "ops", "--role", "*=read", "--json", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("token", "create", "x", "--role", "admin"), "--role 'admin' is not of the form STORE=ROLE"),
        (("token", "create", "x", "--role", "*=boss"), "'boss' on '*' is no role; there is: read, write, admin"),
        (("token", "create", "x", "--role", "*=read", "--role", "*=write"), "names '*' twice"),
        (("token", "create", "x", "--role", "*=read", "--expires", "soon"), "'soon' is not a duration"),
        (("token", "create", "a/b", "--role", "*=read"), "'a/b' cannot name a token"),
        (("token", "revoke", "nosuch"), "no token 'nosuch'"),
        (("token", "crate"), "Did you mean 'create'?"),
        (("quota", "set", "nosuch", "--reads", "5"), "no store 'nosuch'"),
        (("quota", "set", "*", "--reads", "-5"), "a quota is a positive number"),
        (("quota", "set", "*", "--reads", "nan"), "a quota is a positive number"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    fondaco("token", "create", "first", "--role", "*=read", cwd=tmp_path)
    done = fondaco(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("token", "list"), ("token", "revoke", "x"), ("quota", "list"), ("quota", "set", "*")])
def test_what_only_looks_or_takes_away_makes_no_platform(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert fondaco(*words, cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_quotas_are_set_listed_and_removed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": [1], "x": [2]}), tmp_path / "rows.parquet")
    fondaco("store", "create", "members", "--value", "rows.parquet", cwd=tmp_path)
    assert fondaco("quota", "set", "members", "--caller", "trainer", "--reads", "500", "--writes", "10", cwd=tmp_path).stdout == (
        "trainer on members: 500 reads/s, 10 writes/s\n"
    )
    fondaco("quota", "set", "*", "--reads", "100", cwd=tmp_path)
    listed = json.loads(fondaco("quota", "list", "--json", cwd=tmp_path).stdout)
    assert listed == [
        {"store": "*", "caller": "*", "reads_per_s": 100.0, "writes_per_s": None},
        {"store": "members", "caller": "trainer", "reads_per_s": 500.0, "writes_per_s": 10.0},
    ]
    assert fondaco("quota", "set", "*", cwd=tmp_path).stdout == "* on *: no quota\n"
    assert len(json.loads(fondaco("quota", "list", "--json", cwd=tmp_path).stdout)) == 1
