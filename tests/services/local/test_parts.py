"""Parts of the local provisioner alone: logs, limits, ports, processes as /proc shows them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fondaco.core.errors import InputError
from fondaco.services.local import limits, ports, tree
from fondaco.services.local.limits import Limits
from fondaco.services.local.logfile import LogFile, older, tail
from fondaco.services.local.plan import inherited
from fondaco.services.settings import Resources
from services.local.programs import is_gone
from waiting import free_port, wait_for

# -- logs -----------------------------------------------------------------------------------------------------------------------------


def test_a_log_keeps_its_newest_bytes_in_two_files(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "0.log", bytes_max=1000)
    for number in range(500):
        log.write(b"line %03d\n" % number)
    log.close()
    assert log.path.stat().st_size <= 1000
    assert older(log.path).stat().st_size <= 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.log", "0.log.1"]
    newest = tail(log.path, 150)
    assert newest[-1] == "line 499"
    assert newest == [f"line {number:03}" for number in range(500 - len(newest), 500)]
    assert len(newest) > 111  # more than one file holds


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(path, 3) == []
    path.write_bytes(b"one\ntwo\r\n\xff three\nhalf")
    assert tail(path, 3) == ["two", "\ufffd three", "half"]
    assert tail(path, 100) == ["one", "two", "\ufffd three", "half"]
    assert tail(path, 0) == []
    path.write_bytes(b"\n\n")
    assert tail(path, 5) == ["", ""]
    path.write_bytes(b"x" * 10_000_000)
    assert len(tail(path, 1)[0]) <= 5 << 20


def test_what_a_full_disk_does_not_take_is_counted(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    log.write(b"before\n")
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size, was[1]))
    try:
        log.write(b"lost\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
    log.write(b"after\n")
    log.close()
    assert log.path.read_text() == "before\n\n[5 bytes that were said here could not be written]\nafter\n"


def test_a_log_takes_a_stream_to_its_end(tmp_path: Path) -> None:
    async def take() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(b"a\nb")
        stream.feed_eof()
        await log.take(stream)

    log = LogFile(tmp_path / "log")
    asyncio.run(take())
    log.close()
    assert tail(log.path, 10) == ["a", "b"]


# -- limits ---------------------------------------------------------------------------------------------------------------------------


def run_limited(limited: Limits, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], preexec_fn=limited.enter, capture_output=True, text=True, timeout=60)


def test_memory_is_limited_by_rlimit_where_no_cgroup_can_be_made(tmp_path: Path) -> None:
    limited = Limits(Resources(limits={"memory": "256Mi"}), 0, root=tmp_path)
    assert limited.words == "memory 256Mi by RLIMIT_DATA"
    done = run_limited(limited, "print(len(bytearray(64 << 20))); bytearray(1 << 30)")
    assert (done.stdout, done.returncode) == (f"{64 << 20}\n", 1)
    assert "MemoryError" in done.stderr
    limited.remove()


def test_cpu_is_limited_by_affinity_where_no_cgroup_can_be_made(tmp_path: Path) -> None:
    own = os.sched_getaffinity(0)
    limited = Limits(Resources(limits={"cpu": "500m"}), 1, root=tmp_path)
    assert limited.words == f"cpu 500m by affinity (1 of {len(own)} CPUs)"
    done = run_limited(limited, "import os; print(len(os.sched_getaffinity(0)))")
    assert done.stdout == "1\n"
    limited.remove()


def test_without_limits_nothing_is_limited_or_said() -> None:
    limited = Limits(Resources(requests={"memory": "1Mi"}), 0)
    assert limited.words == ""
    assert run_limited(limited, "print(len(bytearray(64 << 20)))").returncode == 0


def test_a_cgroup_takes_whoever_enters_and_says_when_it_has_killed() -> None:
    limited = Limits(Resources(limits={"memory": "64Mi", "cpu": "1"}), 0)
    try:
        if "memory 64Mi by cgroup" not in limited.words:
            pytest.skip("no cgroup of ours can be made here")
        assert limited.broken() == ""
        assert run_limited(limited, "print(1)").returncode == 0
        done = run_limited(limited, "x = bytearray(512 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1")
        assert done.returncode == -signal.SIGKILL
        assert limited.broken() == "it wanted more memory than its limit"
        assert limited.broken() == ""
    finally:
        limited.remove()


def test_a_cgroup_of_version_2_gets_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in a folder stand for the kernel's: what is written where."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    made = Path.mkdir

    def mkdir(path: Path, *arguments: object) -> None:
        made(path)
        for name in ("memory.max", "cpu.max", "cgroup.procs"):
            (path / name).touch()

    monkeypatch.setattr(limits, "_own", lambda root: (tmp_path, {}))
    monkeypatch.setattr(Path, "mkdir", mkdir)
    limited = Limits(Resources(limits={"memory": "1Gi", "cpu": "1500m"}), 0, root=tmp_path)
    assert limited.words == "memory 1Gi by cgroup, cpu 1500m by cgroup"
    group = next(path for path in tmp_path.iterdir() if path.name.startswith(f"fondaco-{os.getpid()}-"))
    assert ((group / "memory.max").read_text(), (group / "cpu.max").read_text()) == (str(1 << 30), "150000 100000")
    limited.enter()
    assert (group / "cgroup.procs").read_text() == "0"
    (group / "memory.events").write_text("low 0\noom_kill 2\n")
    assert limited.broken()


def test_requests_are_compared_with_the_machine() -> None:
    limits.check(Resources(requests={"cpu": "100m", "memory": "1Mi"}))
    with pytest.raises(InputError, match=r"resources\.requests\.cpu: 10000 is more than this machine has, \d+ CPUs"):
        limits.check(Resources(requests={"cpu": "10000"}))


# -- ports ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def services(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_ports_are_kept_and_never_given_twice(services: Path) -> None:
    first = ports.claim(services, "one", {"a": None, "b": None}, replicas=2, have=(), host="127.0.0.1")
    other = ports.claim(services, "two", {"a": None}, replicas=50, have=(), host="127.0.0.1")
    every = [port for each in (*first, *other) for port in each.values()]
    assert len(set(every)) == len(every) == 54
    assert ports.claim(services, "one", {"a": None, "b": None}, replicas=2, have=first, host="127.0.0.1") == first
    assert {ports.holder(services, port) for port in first[0].values()} == {"one"}
    ports.give_back(services, "one")
    assert ports.holder(services, first[0]["a"]) is None
    assert ports.holder(services, other[0]["a"]) == "two"


def test_ports_of_a_service_that_is_gone_are_free(services: Path) -> None:
    number = free_port()
    ports.claim(services, "one", {"a": number}, replicas=1, have=(), host="127.0.0.1")
    with pytest.raises(InputError, match=f"ports.a: port {number} belongs to service 'one'"):
        ports.claim(services, "two", {"b": None, "a": number}, replicas=1, have=(), host="127.0.0.1")
    assert os.listdir(services / ".ports") == [str(number)]  # what the failed call took is given back
    (services / "one").rmdir()
    assert ports.claim(services, "two", {"a": number}, replicas=1, have=(), host="127.0.0.1") == ({"a": number},)


def test_ports_lie_outside_the_range_that_clients_get(services: Path) -> None:
    low, high = (int(word) for word in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    given = ports.claim(services, "one", {"a": None}, replicas=20, have=(), host="127.0.0.1")
    if high - low < 40_000:
        assert not [each for each in given if low <= each["a"] <= high]


def test_a_lost_list_of_ports_does_not_give_away_those_of_others(services: Path) -> None:
    (first,) = ports.claim(services, "one", {"a": None}, replicas=1, have=(), host="127.0.0.1")
    (second,) = ports.claim(services, "two", {"a": None}, replicas=1, have=(first,), host="127.0.0.1")
    assert second != first


# -- processes ------------------------------------------------------------------------------------------------------------------------


def test_a_process_is_seen_with_its_name_whatever_that_holds() -> None:
    name = ") R 1 (x"
    program = f"import ctypes, sys; ctypes.CDLL(None).prctl(15, {name!r}.encode(), 0, 0, 0); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seen = tree.see(process.pid)
        assert seen is not None
        assert (seen.name, seen.parent, seen.pid) == (name, os.getpid(), process.pid)
        process.communicate()
    assert tree.see(process.pid) is None


def test_a_number_that_another_process_has_by_now_is_not_killed() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        seen = tree.see(process.pid)
        assert seen is not None
        assert not tree.end(seen._replace(started=seen.started - 1), signal.SIGKILL)
        assert process.poll() is None
        assert tree.end(seen, signal.SIGKILL)


def test_all_that_is_forked_while_it_is_killed_is_found(tmp_path: Path) -> None:
    beginning = tree.marker(tmp_path, 1)
    env = {**os.environ, tree.MARKER: tree.marker(tmp_path, 1, 0)}
    script = "for i in 1 2 3 4 5; do (while true; do (exec sleep 0.01); done) & done; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], env=env, start_new_session=True) as process:
        wait_for(lambda: len(tree.marked(beginning, tree.see_all())) > 5, "they do not start")
        assert tree.end_all(lambda: tree.marked(beginning, tree.see_all())) > 5
    assert tree.marked(beginning, tree.see_all()) == []
    assert is_gone(process.pid)


def test_only_a_small_part_of_an_environment_is_inherited() -> None:
    given = {
        "PATH": "p",
        "PYTHONPATH": "x",
        "LC_ALL": "C",
        "NUMBA_NUM_THREADS": "1",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "FONDACO_TOKEN": "hush",
    }
    assert inherited(given) == {"PATH": "p", "PYTHONPATH": "x", "LC_ALL": "C", "NUMBA_NUM_THREADS": "1"}
