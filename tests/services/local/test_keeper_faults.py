"""What a keeper does when things break: killed, stopped, files damaged, a disk that is full, programs that crash or hang, stolen ports."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fondaco.core.errors import DiskFullError
from fondaco.services.local import tree
from fondaco.services.local.files import Place
from fondaco.services.local.provisioner import LocalProvisioner
from fondaco.services.provisioner import Observed, Phase
from services.local.conftest import of_service
from services.local.programs import INCARNATION, ask, desired, is_gone, pids, server, shell, start, until
from waiting import free_port, wait_for


def keeper(directory: Path, service: str = "web") -> int:
    pid = Place(directory / "services", service).keeper()
    assert pid
    return pid


def kill_keeper(directory: Path, service: str = "web") -> None:
    os.kill(keeper(directory, service), signal.SIGKILL)
    wait_for(lambda: Place(directory / "services", service).keeper() is None, "the keeper holds its lock")


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


def ready_again(local: LocalProvisioner) -> Observed:
    local.apply(desired(server()))
    return until(local, "web", Phase.READY)


# -- the keeper -----------------------------------------------------------------------------------------------------------------------


def test_a_killed_keeper_takes_its_instances_along_and_the_next_apply_brings_all_back(local: LocalProvisioner, directory: Path) -> None:
    first = start(local, server(replicas=2))
    before, old = pids(directory, "web"), keeper(directory)
    kill_keeper(directory)
    wait_for(lambda: all(is_gone(pid) for pid in before.values()), "instances outlive their keeper")
    seen = local.observe("web")
    assert (seen.phase, seen.ready, seen.drift) == (Phase.DEGRADED, 0, ("no keeper runs",))
    assert seen.reason == f"0/2 ready; its keeper (process {old}) has ended, and its instances with it; apply starts it again"
    local.apply(desired(server(replicas=2)))
    again = until(local, "web", Phase.READY)
    assert again.endpoints == first.endpoints
    assert ask(again.endpoints["http"][1])


@pytest.mark.parametrize("apply_or_remove", ["apply", "remove"])
def test_daemons_that_outlive_a_killed_keeper_are_found_by_their_marker(
    local: LocalProvisioner, directory: Path, tmp_path: Path, apply_or_remove: str
) -> None:
    daemon = tmp_path / "daemon"
    spec = server(env={"DAEMON": str(daemon)})
    start(local, spec)
    wait_for(lambda: daemon.exists() and daemon.read_text(), "no daemon")
    pid = int(daemon.read_text())
    kill_keeper(directory)
    assert not is_gone(pid)
    daemon.unlink()
    if apply_or_remove == "apply":
        start(local, spec)
    else:
        assert local.remove("web", INCARNATION)
    assert is_gone(pid)


def test_a_bystander_with_a_marker_of_another_service_is_left_alone(local: LocalProvisioner, directory: Path) -> None:
    start(local, shell("exec sleep 1000", "one"))
    start(local, shell("exec sleep 1000", "one-more"))
    before = pids(directory, "one-more")
    kill_keeper(directory, "one")
    assert local.remove("one", INCARNATION)
    assert pids(directory, "one-more") == before
    assert not is_gone(before[0])


def test_a_service_that_was_begun_from_within_another_outlives_it(local: LocalProvisioner, directory: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from services.local.programs import *; start(LocalProvisioner(sys.argv[1]), server('inner')); time.sleep(1000)"
    )
    path = os.pathsep.join(path for path in sys.path if path)
    outer = server("outer", ports=(), readiness=None, command=["{python}", "-c", program, str(directory)], env={"PYTHONPATH": path})
    local.apply(desired(outer))
    until(local, "inner", Phase.READY)
    wait_for(lambda: local.remove("outer", INCARNATION), "it is not removed")
    assert ask(local.observe("inner").endpoints["http"][0])


def test_a_keeper_that_gets_sigterm_stops_its_instances_in_order(local: LocalProvisioner, directory: Path) -> None:
    start(local, server())
    pid = pids(directory, "web")[0]
    os.kill(keeper(directory), signal.SIGTERM)
    wait_for(lambda: Place(directory / "services", "web").keeper() is None, "it does not end")
    assert is_gone(pid)
    assert local.logs("web", index=0, lines=1) == ["goodbye"]
    assert local.observe("web").drift == ("no keeper runs",)
    assert ready_again(local)


def test_a_stopped_keeper_is_named_and_goes_on_at_the_next_apply(local: LocalProvisioner, directory: Path) -> None:
    start(local, server())
    pid = keeper(directory)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: local.observe("web").drift, "it is not seen")
    seen = local.observe("web")
    assert seen.drift == (f"its keeper (process {pid}) is stopped by a signal",)
    local.apply(desired(server()))
    wait_for(lambda: not local.observe("web").drift, "it does not go on")
    assert keeper(directory) == pid


def test_a_removal_lets_a_stopped_keeper_go_on(local: LocalProvisioner, directory: Path) -> None:
    start(local, server())
    os.kill(keeper(directory), signal.SIGSTOP)
    wait_for(lambda: local.remove("web", INCARNATION), "it is not removed")


def test_a_removal_that_was_cut_off_is_finished_by_the_next(local: LocalProvisioner, directory: Path) -> None:
    start(local, server(env={"DEAF": "1"}))
    pid = pids(directory, "web")[0]
    assert not local.remove("web", INCARNATION)
    kill_keeper(directory)
    seen = local.observe("web")
    assert (seen.phase, seen.incarnation) == (Phase.REMOVING, INCARNATION)
    assert local.remove("web", INCARNATION)
    assert is_gone(pid)
    assert local.observe("web").phase is Phase.ABSENT


def test_without_its_directory_a_keeper_ends(local: LocalProvisioner, directory: Path) -> None:
    start(local, server())
    pid = pids(directory, "web")[0]
    shutil.rmtree(directory / "services")
    wait_for(lambda: is_gone(pid), "it runs on")
    wait_for(lambda: not of_service(directory, "web"), "the keeper runs on")
    assert local.observe("web").phase is Phase.ABSENT


def test_two_keepers_cannot_be(local: LocalProvisioner, directory: Path) -> None:
    start(local, server())
    second = subprocess.run(
        [sys.executable, "-m", "fondaco.services.local.keeper", str(directory), "web"], cwd=directory, timeout=60, capture_output=True
    )
    assert (second.returncode, second.stdout, second.stderr) == (0, b"", b"")
    assert local.observe("web").phase is Phase.READY


def test_children_that_a_keeper_has_adopted_do_not_stay_as_zombies(local: LocalProvisioner, directory: Path) -> None:
    start(local, shell("while true; do (sleep 0.01 &) ; sleep 0.05; done"))
    root = keeper(directory)

    def zombies() -> int:
        found = [tree.see(int(name)) for name in os.listdir("/proc") if name.isdigit()]
        return sum(seen is not None and seen.parent == root and seen.state == "Z" for seen in found)

    most = 0

    def have_gone() -> bool:
        nonlocal most
        now = zombies()
        most = max(most, now)
        return most > 20 and now < most / 2

    wait_for(have_gone, "zombies stay")


# -- files ----------------------------------------------------------------------------------------------------------------------------


def test_a_damaged_desired_file_is_named_and_repaired_and_nothing_is_restarted(local: LocalProvisioner, directory: Path) -> None:
    first = start(local, server())
    before = pids(directory, "web")
    flip_a_byte(directory / "services" / "web" / "desired.json")
    seen = local.observe("web")
    assert (seen.incarnation, seen.desired) == (INCARNATION, None)
    assert "desired.json cannot be read" in seen.reason
    assert seen.drift == ("desired.json cannot be read: the checksum does not match",)
    again = ready_again(local)
    assert (again.endpoints, again.drift) == (first.endpoints, ())
    assert pids(directory, "web") == before


def test_a_damaged_desired_file_without_a_keeper_is_repaired_with_the_same_ports(local: LocalProvisioner, directory: Path) -> None:
    first = start(local, server())
    kill_keeper(directory)
    flip_a_byte(directory / "services" / "web" / "desired.json")
    assert local.observe("web").incarnation == INCARNATION
    assert ready_again(local).endpoints == first.endpoints


def test_a_damaged_state_file_is_written_again(local: LocalProvisioner, directory: Path) -> None:
    first = start(local, server())
    flip_a_byte(directory / "services" / "web" / "state.json")
    assert local.observe("web") == first


def test_a_state_file_that_was_deleted_is_written_again(local: LocalProvisioner, directory: Path) -> None:
    start(local, server())
    (directory / "services" / "web" / "state.json").unlink()
    until(local, "web", Phase.READY)


def test_with_both_files_damaged_it_can_be_applied_or_removed(local: LocalProvisioner, directory: Path) -> None:
    for repair in (True, False):
        start(local, server())
        kill_keeper(directory)
        for name in ("desired.json", "state.json"):
            flip_a_byte(directory / "services" / "web" / name)
        seen = local.observe("web")
        assert "desired.json cannot be read" in seen.reason
        assert "web" in local.observe_all()
        if repair:
            ready_again(local)
        else:
            assert local.remove("web", INCARNATION)
            assert local.observe("web").phase is Phase.ABSENT


@contextlib.contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """Every write of the process to a file fails, as on a full disk."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_a_keeper_goes_on_with_a_full_disk(local: LocalProvisioner, directory: Path) -> None:
    seen = start(local, server())
    with full_disk(keeper(directory)):
        pid = pids(directory, "web")[0]
        os.kill(pid, signal.SIGKILL)

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return int(ask(seen.endpoints["http"][0])["pid"]) != pid
            return False

        wait_for(answers, "it is not started again")
        assert local.observe("web").phase is not Phase.FAILED
    wait_for(lambda: local.observe("web").phase is Phase.READY, "the state is not written after all")
    assert local.observe("web").instances[0].restarts == 1


def test_applying_with_a_full_disk_leaves_nothing_or_what_was(local: LocalProvisioner, directory: Path) -> None:
    first = start(local, server())
    with full_disk(os.getpid()):
        with pytest.raises(DiskFullError):
            local.apply(desired(server("other")))
        with pytest.raises(DiskFullError):
            local.apply(desired(server(replicas=2)))
    assert local.observe("other").phase is Phase.ABSENT
    assert local.observe("web") == first
    assert [name for name in os.listdir(directory / "services") if name.startswith(".making")] == []


def test_a_service_can_be_removed_with_a_full_disk(local: LocalProvisioner, directory: Path) -> None:
    start(local, server())
    with full_disk(keeper(directory)), full_disk(os.getpid()):
        wait_for(lambda: local.remove("web", INCARNATION), "it is not removed")


# -- programs -------------------------------------------------------------------------------------------------------------------------


def test_a_program_that_is_not_there_is_named(local: LocalProvisioner) -> None:
    local.apply(desired(server(command=["/no/such/program"])))
    seen = until(local, "web", Phase.FAILED)
    assert seen.reason.startswith("0/1 ready; instance 0: could not be started: there is no program '/no/such/program'")


def test_one_that_ends_at_once_is_a_crash_loop_after_five_times_and_is_tried_on(local: LocalProvisioner, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    local.apply(desired(shell(f"echo trying; test -e {mended} && exec sleep 1000; exit 3")))
    seen = until(local, "web", Phase.FAILED)
    assert seen.reason.startswith("0/1 ready; instance 0: CrashLoop: ended with exit code 3 after 0.")
    assert seen.reason.endswith(" s, 5 times in a row, 5 restarts")
    assert local.logs("web") == ["0 trying"] * 5
    mended.touch()
    seen = until(local, "web", Phase.READY)
    assert seen.instances[0].restarts >= 5


def test_the_pauses_between_starts_double(local: LocalProvisioner, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    program = f"import time; print(time.monotonic(), file=open({str(starts)!r}, 'a')); raise SystemExit(3)"
    local.apply(desired(server(command=["{python}", "-S", "-c", program])))
    wait_for(lambda: starts.exists() and len(starts.read_text().splitlines()) >= 5, "it is not started again")
    times = [float(line) for line in starts.read_text().splitlines()]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)][:4]
    assert all(pause >= at_least for pause, at_least in zip(pauses, (0.2, 0.4, 0.8, 1.6), strict=True)), pauses


def test_one_that_is_never_ready_has_failed_and_is_started_again(local: LocalProvisioner, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spec = server(env={"GATE": str(gate)}, readiness={"http": "/ready", "every_s": 0.1, "start_s": 1.0})
    local.apply(desired(spec))
    seen = until(local, "web", Phase.FAILED)
    assert "was not ready after 1 s and was killed (GET http://127.0.0.1:" in seen.reason
    assert "was answered with 503: 3/8 partitions loaded" in seen.reason
    gate.touch()
    until(local, "web", Phase.READY)


def test_one_that_was_ready_and_crashes_is_degraded_and_not_failed(local: LocalProvisioner, tmp_path: Path) -> None:
    once, end = tmp_path / "once", tmp_path / "end"
    start(local, shell(f"test -e {once} && exit 4; touch {once}; until test -e {end}; do sleep 0.05; done; exit 4"))
    end.touch()
    wait_for(lambda: local.observe("web").instances[0].restarts >= 6, "it is not started again")
    seen = local.observe("web")
    assert seen.phase is Phase.DEGRADED
    assert "CrashLoop: ended with exit code 4" in seen.reason


def test_one_that_hangs_is_degraded_and_then_killed_and_started_again(local: LocalProvisioner, directory: Path) -> None:
    spec = server(readiness={"http": "/ready", "every_s": 0.1, "timeout_s": 0.2, "hang_s": 3.0})
    start(local, spec)
    pid = pids(directory, "web")[0]
    os.kill(pid, signal.SIGSTOP)
    seen = until(local, "web", Phase.DEGRADED)
    assert "does not answer: GET http://127.0.0.1:" in seen.reason
    wait_for(lambda: local.observe("web").phase is Phase.READY and pids(directory, "web")[0] != pid, "it hangs on")
    assert "did not answer for 3 s and was killed" in (directory / "services" / "web" / "keeper.log").read_text()


def test_one_that_answers_again_in_time_is_ready_again_and_not_killed(local: LocalProvisioner, directory: Path) -> None:
    spec = server(readiness={"http": "/ready", "every_s": 0.1, "timeout_s": 0.2, "hang_s": None})
    start(local, spec)
    pid = pids(directory, "web")[0]
    os.kill(pid, signal.SIGSTOP)
    until(local, "web", Phase.DEGRADED)
    os.kill(pid, signal.SIGCONT)
    until(local, "web", Phase.READY)
    assert pids(directory, "web")[0] == pid


def test_a_stranger_at_the_port_is_named_and_its_answers_are_not_believed(local: LocalProvisioner, directory: Path) -> None:
    port = free_port()
    start(local, server(ports=port))
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kill_keeper(directory)
        wait_for(lambda: _listens(stranger, port), "the port is not free")
        local.apply(desired(server(ports=port)))
        seen = until(local, "web", Phase.FAILED)
        name = f"process {os.getpid()} ("
        assert f"could not be started: port {port} is taken by {name}" in seen.reason
    until(local, "web", Phase.READY)


def test_a_stranger_who_takes_the_port_after_the_start_is_not_taken_for_the_instance(local: LocalProvisioner, tmp_path: Path) -> None:
    port = free_port()
    local.apply(desired(shell("exec sleep 1000", ports=port, readiness={"tcp": True, "every_s": 0.1})))
    wait_for(lambda: "connection refused" in local.observe("web").reason, "it is not asked")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        wait_for(lambda: f"is answered by process {os.getpid()}" in local.observe("web").reason, "the stranger is believed")
        assert local.observe("web").phase is Phase.STARTING


def _listens(server_socket: socket.socket, port: int) -> bool:
    try:
        server_socket.bind(("127.0.0.1", port))
    except OSError:
        return False
    server_socket.listen()
    return True


def test_an_idle_keeper_costs_next_to_nothing(local: LocalProvisioner, directory: Path) -> None:
    start(local, server(replicas=2, readiness={"http": "/ready"}))
    pid = keeper(directory)

    def used_s() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, begun = used_s(), time.monotonic()
    wait_for(lambda: time.monotonic() - begun > 3, "time stands still")
    assert used_s() - before <= 0.06  # two clock ticks are 20 ms; 0.2 % of a core would be 6 ms


def test_a_change_of_mind_is_heard_while_many_are_still_being_started(local: LocalProvisioner, directory: Path) -> None:
    spec = shell("exec sleep 1000", replicas=64)
    local.apply(desired(spec))
    wait_for(lambda: local.observe("web").instances[0].where, "nothing is started")
    assert start(local, shell("exec sleep 1000", replicas=2)).total == 2
    wait_for(lambda: len(of_service(directory, "web")) == 3, "the others run on")
