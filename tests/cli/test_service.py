"""`fondaco service`: what it prints, leaves behind and refuses. Real processes of this machine serve; nothing outlives a test."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fondaco as fd
from fondaco.cli import main
from fondaco.cli.service import new_lines
from fondaco.services.reaper import ReapReport
from leftover_services import end_services
from waiting import wait_for

Run = Callable[..., tuple[int, str, str]]
FONDACO = [sys.executable, "-W", "error", "-c", "from fondaco.cli import main; main()"]
WEB = """
name = "web"
command = ["{python}", "-u", "-m", "http.server", "{port}", "--bind", "{host}"]
ports = ["http"]
ttl = "1h"
readiness = {tcp = true, every_s = 0.1}
exports = {WEB_URL = "http://{host}:{port}/a b"}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run `fondaco service ...` on a platform with a file `web.toml`; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Path("web.toml").write_text(WEB)
    fd.open("data").close()

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fondaco", "service", *words, "--dir", "data"])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    yield run
    end_services(tmp_path)


def _json(answer: tuple[int, str, str]) -> Any:
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


def _reaches(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except ConnectionError:
        return False
    return True


def test_ensure_prints_what_a_shell_takes_in_and_leaves_a_lease(run: Run) -> None:
    code, out, err = run("ensure", "web.toml", "--holder", "ana")
    assert code == 0, err
    assert all(line.startswith("export ") for line in out.splitlines())
    shell = f'{out}\nprintf \'%s\\n\' "$FONDACO_SERVICE_NAME" "$FONDACO_SERVICE_ENDPOINTS" "$WEB_URL"'
    name, endpoints, url = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout.splitlines()
    assert re.fullmatch(r"web-[0-9a-f]{10}", name)
    assert url == f"http://{endpoints}/a b"
    assert _reaches(endpoints)
    assert f"{name} on local: ready, 1/1; after " in err
    assert f"held by ana for 10m; to let it go: fondaco service release {name} --holder ana" in err
    (holder,) = _json(run("status", name, "--json"))["holders"]
    assert holder["holder"] == "ana"
    assert 590e6 < holder["expires_us"] - holder["acquired_us"] < 660e6


def test_a_second_ensure_finds_the_service_of_the_first(run: Run) -> None:
    first = _json(run("ensure", "web.toml", "--holder", "ana", "--json"))
    code, out, err = run("ensure", "web.toml", "--holder", "ben")
    assert (code, f"export FONDACO_SERVICE_NAME={first['service']}" in out, "it ran already" in err) == (0, True, True), err
    (listed,) = _json(run("list", "--json"))["services"]
    assert (listed["service"], [row["holder"] for row in listed["holders"]]) == (first["service"], ["ana", "ben"])
    assert listed["endpoints"] == first["endpoints"] == first["env"]["FONDACO_SERVICE_ENDPOINTS"].split(",")
    assert re.search(rf"{first['service']}  local    ready  1/1    2 ", run("list")[1])


def test_holders_go_one_by_one_and_the_service_after_the_last(run: Run) -> None:
    name = _json(run("ensure", "web.toml", "--holder", "ana", "--json"))["service"]
    run("ensure", "web.toml", "--holder", "ben", "--keep")
    assert "ben     " in run("status", "web")[1]
    assert "it is released" in run("status", "web")[1]
    assert run("release", "web", "--holder", "ana")[1] == f"{name}: released by ana; ready, 1/1\n"
    assert run("release", "web", "--holder", "ana")[1] == f"{name}: ana did not hold it; ready, 1/1\n"
    code, _, err = run("delete", "web")
    assert (code, err.startswith(f"fondaco: service '{name}' is held by ben")) == (2, True), err
    assert re.search(r"released by ben; ready, 1/1; goes in (1h|59m)\n", run("release", "web", "--holder", "ben")[1])
    assert run("delete", "web") == (0, f"{name}: deleted\n", "")
    assert _json(run("list", "--json")) == {"services": []}
    assert run("status", name)[::2] == (2, f"fondaco: no service {name!r}; there is none yet\n")


def test_the_default_holder_is_the_same_for_each_command(run: Run) -> None:
    run("ensure", "web.toml")
    run("ensure", "web.toml")
    assert len(_json(run("status", "web", "--json"))["holders"]) == 1
    assert " released by " in run("release", "web")[1]
    assert _json(run("status", "web", "--json"))["holders"] == []


def test_leases_that_have_run_out_hold_nothing_in_what_is_shown(run: Run) -> None:
    run("ensure", "web.toml", "--hold", "0.2s")
    wait_for(lambda: _json(run("status", "web", "--json"))["holders"] == [], "its only lease is over")
    shown = run("status", "web")[1]
    assert "is held" not in shown
    assert re.search(r"; goes (1h after the next look|in 1h)", shown), shown  # a keeper may have looked already


def test_what_is_over_is_reaped(run: Run) -> None:
    name = _json(run("ensure", "web.toml", "--ttl", "0s", "--hold", "0.2s", "--json"))["service"]
    told: list[str] = []
    wait_for(lambda: told.append(run("reap", "--once")[1]) or not _json(run("list", "--json"))["services"], "it is not removed")
    assert f"removed {name}" in "".join(told)
    assert "lease over: " in "".join(told)
    assert run("reap", "--once") == (0, "nothing to do\n", "")
    assert set(_json(run("reap", "--once", "--json"))) == set(ReapReport.__struct_fields__)


def test_the_reap_loop_removes_what_is_over_until_it_is_told_to_stop(run: Run, tmp_path: Path) -> None:
    name = _json(run("ensure", "web.toml", "--ttl", "0s", "--hold", "0.2s", "--json"))["service"]
    with (tmp_path / "reaper.log").open("w") as log:
        reaper = subprocess.Popen([*FONDACO, "service", "reap", "--every", "100ms", "--dir", "data"], stdout=log, stderr=log)
        try:
            wait_for(lambda: f"removed {name}" in (tmp_path / "reaper.log").read_text(), "the loop removes nothing")
            reaper.send_signal(signal.SIGINT)
            assert reaper.wait(60) == 130
        finally:
            reaper.kill()
            reaper.wait()


def test_a_service_is_scaled_and_changed_under_its_holders(run: Run) -> None:
    run("ensure", "web.toml", "--holder", "ana")
    assert "shall have 2 instances" in run("scale", "web", "2")[1]
    wait_for(lambda: _json(run("status", "web", "--json"))["ready"] == 2, "it is not scaled")
    before = _json(run("status", "web", "--json"))
    assert len(before["endpoints"]) == 2
    assert all(map(_reaches, before["endpoints"]))
    Path("next.toml").write_text(WEB + 'replicas = 2\nenv = {GREETING = "hello"}\n')
    code, out, err = run("update", "web", "next.toml")
    assert (code, "is being changed to next.toml" in out) == (0, True), err

    def is_changed() -> bool:
        now = _json(run("status", "web", "--json"))
        return now["ready"] == 2 and [i["where"] for i in now["instances"]] != [i["where"] for i in before["instances"]]

    wait_for(is_changed, "it is not changed")
    after = _json(run("status", "web", "--json"))
    assert (after["service"], after["endpoints"], after["incarnation"]) == (before["service"], before["endpoints"], before["incarnation"])
    assert [row["holder"] for row in after["holders"]] == ["ana"]


def test_logs_are_of_one_instance_or_of_all_and_are_followed(run: Run, tmp_path: Path) -> None:
    (endpoint,) = _json(run("ensure", "web.toml", "--json"))["endpoints"]
    with (tmp_path / "followed").open("w") as out:
        follower = subprocess.Popen([*FONDACO, "service", "logs", "web", "--follow", "--dir", "data"], stdout=out, stderr=out)
        try:
            wait_for(lambda: "Serving HTTP" in (tmp_path / "followed").read_text(), "nothing is followed")
            for number in range(3):
                host, _, port = endpoint.rpartition(":")
                with socket.create_connection((host, int(port)), timeout=30) as connection:
                    connection.sendall(b"GET /asked-%d HTTP/1.0\r\n\r\n" % number)
                    while connection.recv(4096):
                        pass
                wait_for(lambda number=number: f"asked-{number}" in (tmp_path / "followed").read_text(), "not followed")  # type: ignore[misc]
        finally:
            follower.kill()
            follower.wait()
    followed = (tmp_path / "followed").read_text().splitlines()
    assert [len([line for line in followed if f"asked-{number}" in line]) for number in range(3)] == [1, 1, 1]
    every = _json(run("logs", "web", "--json"))["lines"]
    assert all(line.startswith("0 ") for line in every)
    assert [f"0 {line}" for line in run("logs", "web", "--index", "0")[1].splitlines()] == every
    assert len(run("logs", "web", "--lines", "1")[1].splitlines()) == 1
    assert run("logs", "web", "--index", "1")[0] == 2


def test_what_does_not_come_up_is_told_with_reason_and_log(run: Run) -> None:
    Path("broken.toml").write_text('name = "broken"\ncommand = ["{python}", "-c", "raise SystemExit(\'no model at /models/4\')"]\n')
    code, out, err = run("ensure", "broken.toml", "--timeout", "60s")
    assert (code, out) == (2, "")
    assert "fondaco: service 'broken-" in err
    assert "no model at /models/4" in err
    assert "Traceback" not in err
    assert "failed, 0/1: " in run("status", "broken")[1]
    assert "no model at /models/4" in run("status", "broken")[1]
    assert _json(run("status", "broken", "--json"))["holders"] == []


def test_without_waiting_ensure_answers_while_it_starts(run: Run) -> None:
    Path("slow.toml").write_text('name = "slow"\ncommand = ["sleep", "60"]\nports = ["http"]\nreadiness = {tcp = true}\n')
    answer = _json(run("ensure", "slow.toml", "--no-wait", "--json"))
    assert answer["status"]["phase"] == "starting"
    code, _, err = run("ensure", "slow.toml", "--timeout", "0.3s")
    assert (code, "fondaco: ensure service 'slow-" in err) == (2, True), err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one of SPEC.toml, --graph and --store; given: none"),
        (["web.toml", "--store", "a"], "name one of SPEC.toml, --graph and --store; given: SPEC.toml and --store"),
        (["web.toml", "--shards", "2"], "--shards goes with --graph; write it in web.toml"),
        (["--store", "members", "--version", "1"], "--version goes with --graph"),
        (["web.toml", "--keep", "--hold", "1m"], "--keep leaves a lease without end, and --hold one that ends"),
        (["web.toml", "--hold", "soon"], "'soon' is not a duration"),
        (["web.toml", "--cluster", "locl"], "no cluster 'locl'; did you mean 'local'?"),
        (["absent.toml"], "absent.toml: "),
        (["--graph", "routes"], "no graph 'routes'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Run, words: list[str], message: str) -> None:
    code, out, err = run("ensure", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_wrong_spec_names_the_path_in_its_file(run: Run) -> None:
    Path("wrong.toml").write_text(WEB.replace("tcp", "tpc"))
    code, _, err = run("ensure", "wrong.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "wrong.toml: readiness" in err
    assert "tpc" in err


def test_names_may_leave_out_the_digits_where_one_service_is_meant(run: Run) -> None:
    one = _json(run("ensure", "web.toml", "--json"))["service"]
    Path("other.toml").write_text(WEB + 'env = {A = "1"}\n')
    other = _json(run("ensure", "other.toml", "--json"))["service"]
    code, _, err = run("status", "web")
    assert (code, err) == (2, f"fondaco: 'web' is the name of several services: {', '.join(sorted([one, other]))}; say which\n")
    code, _, err = run("status", one[:-1])
    assert code == 2
    assert f"did you mean '{one}'?" in err


def test_a_command_that_only_looks_makes_no_platform(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fondaco", "service", "list", "--dir", "typo"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 or ended.value.code == 2
    assert not Path("typo").exists()


@given(
    said=st.lists(st.tuples(st.sampled_from("012"), st.sampled_from("ab")), max_size=30), cut=st.integers(0, 30), window=st.integers(30, 40)
)
def test_following_says_each_line_once_while_the_window_holds_what_came(said: list[tuple[str, str]], cut: int, window: int) -> None:
    lines = [f"{instance} {number} {text}" for number, (instance, text) in enumerate(said)]
    before = sorted(lines[:cut][-window:], key=lambda line: line[0])
    now = sorted(lines[-window:], key=lambda line: line[0])
    assert sorted(new_lines(before, now, numbered=True)) == sorted(lines[cut:])


def test_following_goes_on_where_older_lines_have_left_the_window() -> None:
    assert new_lines(["a", "b", "c"], ["b", "c", "d"], numbered=False) == ["d"]
    assert new_lines(["a", "a", "a"], ["a", "a", "b"], numbered=False) == ["b"]
    assert new_lines([], ["a"], numbered=False) == ["a"]
    assert new_lines(["x"], ["a", "b"], numbered=False) == ["a", "b"]


def test_the_help_of_the_noun_loads_no_engine() -> None:
    script = (
        "import sys; from fondaco.cli import cli\n"
        "for words in (['service', '--help'], ['service', 'ensure', '--help'], ['service', 'connector', '--help']):\n"
        "    cli.main(words, standalone_mode=False)\n"
        "found = {'numba', 'sqlalchemy', 'pyarrow', 'lightkube', 'grpc', 'flytekit'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
