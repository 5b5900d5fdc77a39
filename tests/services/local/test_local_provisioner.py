"""The local provisioner with real processes: what it starts, tells, keeps, changes and takes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fondaco.core.errors import InputError, StateError
from fondaco.services.local.provisioner import LocalProvisioner
from fondaco.services.provisioner import Phase
from fondaco.services.spec import ServiceSpec
from services.local.conftest import of_service
from services.local.programs import INCARNATION, apply_elsewhere, ask, desired, is_gone, pids, server, shell, start, until
from waiting import free_port, wait_for


def test_what_is_not_there_is_absent(local: LocalProvisioner) -> None:
    seen = local.observe("web")
    assert (seen.phase, seen.ready, seen.total, seen.desired) == (Phase.ABSENT, 0, 0, None)
    assert local.observe_all() == {}
    assert local.remove("web", 1)
    assert local.logs("web") == []


def test_instances_are_reached_at_their_endpoints_in_order(local: LocalProvisioner) -> None:
    want = desired(server(replicas=3), holders="run-17")
    local.check(want)
    local.apply(want)
    seen = until(local, "web", Phase.READY)
    assert (seen.incarnation, seen.ready, seen.total, seen.reason, seen.drift) == (INCARNATION, 3, 3, "", ())
    assert seen.desired == want
    assert [instance.address for instance in seen.instances] == list(seen.endpoints["http"])
    assert [ask(address)["env"]["FONDACO_SERVICE_INDEX"] for address in seen.endpoints["http"]] == ["0", "1", "2"]
    assert local.observe_all() == {"web": seen}


def test_endpoints_are_known_before_anything_is_ready(local: LocalProvisioner, tmp_path: Path) -> None:
    spec = server(env={"GATE": str(tmp_path / "gate")})
    local.apply(desired(spec))
    seen = local.observe("web")
    assert seen.phase is Phase.STARTING
    assert len(seen.endpoints["http"]) == 1
    wait_for(lambda: "3/8 partitions loaded" in local.observe("web").reason, "the program's words are not in the reason")
    assert local.observe("web").reason.startswith("0/1 ready; instance 0: starts; GET http://127.0.0.1:")
    (tmp_path / "gate").touch()
    assert until(local, "web", Phase.READY).endpoints == seen.endpoints


def test_words_in_braces_are_filled(local: LocalProvisioner, directory: Path) -> None:
    spec = server(
        shards=2,
        replicas=2,
        ports=["http", "other"],
        command=["{python}", "-S", *server().command[2:], "{shard}/{shards}", "{port.other}", "{address}", "{endpoints}", "{directory}"],
        env={"WHO": "{name}-{index} of {replicas}"},
    )
    seen = start(local, spec)
    said = ask(seen.endpoints["http"][1])
    assert said["argv"][2:] == [
        "1/2", seen.endpoints["other"][1].partition(":")[2], seen.endpoints["http"][1], ",".join(seen.endpoints["http"]), str(directory),
    ]  # fmt: skip
    assert said["env"]["WHO"] == "web-1 of 2"


def test_a_service_gets_a_small_known_environment_and_nobodys_secrets(
    local: LocalProvisioner, directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hush")
    monkeypatch.setenv("GIVEN_TOKEN", "psst-psst")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (tmp_path / "file").write_text("from a file\n")
    spec = server(env={"OWN": "1"}, secrets={"TOKEN": "env:GIVEN_TOKEN", "OTHER": f"file:{tmp_path / 'file'}"})
    seen = start(local, spec)
    env = ask(seen.endpoints["http"][0])["env"]
    assert "SOME_TOKEN" not in env
    assert "GIVEN_TOKEN" not in env
    assert (env["OWN"], env["TOKEN"], env["OTHER"]) == ("1", "psst-psst", "from a file")
    assert (env["LC_TIME"], env["OMP_NUM_THREADS"]) == ("C", "3")
    assert (env["FONDACO_SERVICE_NAME"], env["FONDACO_SERVICE_REPLICAS"], env["FONDACO_DIR"]) == ("web", "1", str(directory))
    place = directory / "services" / "web"
    assert place.stat().st_mode & 0o777 == 0o700
    holding = [path.name for path in place.rglob("*") if path.is_file() and b"psst-psst" in path.read_bytes()]
    assert holding == ["secrets.json"]
    assert (place / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_a_secret_stays_as_it_was_when_somebody_without_it_applies_again(
    local: LocalProvisioner, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIVEN", "first")
    spec = server(secrets={"TOKEN": "env:GIVEN"})
    seen = start(local, spec)
    before = pids(directory, "web")
    monkeypatch.delenv("GIVEN")
    local.apply(desired(spec))
    assert pids(directory, "web") == before
    assert ask(seen.endpoints["http"][0])["env"]["TOKEN"] == "first"
    with pytest.raises(InputError, match=r"secrets\.TOKEN: the variable GIVEN is not set"):
        local.apply(desired(server("other", secrets={"TOKEN": "env:GIVEN"})))
    assert local.observe("other").phase is Phase.ABSENT


def test_without_a_readiness_check_a_process_that_runs_is_ready(local: LocalProvisioner) -> None:
    seen = start(local, shell("echo up; exec sleep 1000"))
    assert seen.endpoints == {}
    wait_for(lambda: local.logs("web") == ["0 up"], "its line is missing")


def test_readiness_by_tcp(local: LocalProvisioner) -> None:
    spec = server(readiness={"tcp": True, "every_s": 0.1})
    assert ask(start(local, spec).endpoints["http"][0])


def test_readiness_by_a_command_that_sees_the_instances_variables(local: LocalProvisioner, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    check = f'test -e {gate} && test "$FONDACO_SERVICE_INDEX" = 0 && test {{index}} = 0'
    spec = shell("exec sleep 1000", readiness={"command": ["sh", "-c", check], "every_s": 0.1})
    local.apply(desired(spec))
    wait_for(lambda: "ended with exit code 1" in local.observe("web").reason, "it does not say why it is not ready")
    gate.touch()
    until(local, "web", Phase.READY)


def test_a_service_survives_who_asked_for_it(local: LocalProvisioner, directory: Path) -> None:
    program = (
        "import os, sys\nfrom services.local.programs import *\nstart(LocalProvisioner(sys.argv[1]), server())\nos.kill(os.getpid(), 9)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, str(directory)], env=env, start_new_session=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    seen = local.observe("web")
    assert seen.phase is Phase.READY
    assert ask(seen.endpoints["http"][0])


def test_applying_the_same_again_changes_nothing(local: LocalProvisioner, directory: Path) -> None:
    spec = server()
    first = start(local, spec)
    before = pids(directory, "web")
    written = (directory / "services" / "web" / "desired.json").stat()
    for _ in range(5):
        local.apply(desired(spec))
    assert (directory / "services" / "web" / "desired.json").stat().st_ino == written.st_ino
    assert local.observe("web") == first
    local.apply(desired(spec, holders="run-18"))
    seen = local.observe("web")
    assert seen.phase is Phase.READY
    assert seen.desired is not None
    assert seen.desired.annotations == {"holders": "run-18"}
    assert pids(directory, "web") == before


def test_one_that_ends_is_started_again_at_the_same_port(local: LocalProvisioner, directory: Path) -> None:
    first = start(local, server())
    os.kill(pids(directory, "web")[0], signal.SIGKILL)
    wait_for(lambda: (seen := local.observe("web")).phase is Phase.READY and seen.instances[0].restarts == 1, "it is not back")
    seen = local.observe("web")
    assert seen.endpoints == first.endpoints
    assert ask(seen.endpoints["http"][0])


def test_scaling_starts_and_stops_others_and_touches_nobody_else(local: LocalProvisioner, directory: Path) -> None:
    first = start(local, server(replicas=2))
    before = pids(directory, "web")
    grown = start(local, server(replicas=4))
    assert grown.total == 4
    assert grown.endpoints["http"][:2] == first.endpoints["http"]
    assert {index: pid for index, pid in pids(directory, "web").items() if index < 2} == before
    shrunk = start(local, server(replicas=1))
    assert (shrunk.total, shrunk.endpoints["http"]) == (1, first.endpoints["http"][:1])
    wait_for(lambda: pids(directory, "web") == {0: before[0]}, "the others still run")
    assert start(local, server(replicas=4)).endpoints == grown.endpoints


def test_scaling_to_the_ready_state_is_never_said_too_early(local: LocalProvisioner, tmp_path: Path) -> None:
    start(local, server(env={"GATE": str(tmp_path)}))
    local.apply(desired(server(replicas=2, env={"GATE": str(tmp_path / "gate")})))
    assert local.observe("web").phase is not Phase.READY


def test_an_update_goes_from_instance_to_instance_and_never_stops_two(local: LocalProvisioner, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    start(local, server(replicas=3, env={"NOTES": str(notes), "VERSION": "1"}))
    gate = tmp_path / "gate"
    endpoints = local.observe("web").endpoints
    local.apply(desired(server(replicas=3, env={"NOTES": str(notes), "VERSION": "2", "GATE": str(gate)})))
    wait_for(lambda: len(notes.read_text().splitlines()) == 4, "the first is not replaced")
    wait_for(lambda: "3/8 partitions" in local.observe("web").reason, "the reason does not say what is waited for")
    assert [ask(address)["env"]["VERSION"] for address in endpoints["http"]] == ["2", "1", "1"]  # and there it stays until it is ready
    assert local.observe("web").ready == 2
    assert "a change is taken up: 1 of 3 instances run it" in local.observe("web").reason
    gate.touch()
    seen = until(local, "web", Phase.READY)
    assert [ask(address)["env"]["VERSION"] for address in seen.endpoints["http"]] == ["2", "2", "2"]
    assert seen.endpoints == endpoints
    assert [line.split()[0] for line in notes.read_text().splitlines()[3:]] == ["0", "1", "2"]


def test_an_update_of_what_never_worked_does_not_wait_for_it(local: LocalProvisioner) -> None:
    local.apply(desired(shell("exit 3", replicas=2)))
    until(local, "web", Phase.FAILED)
    assert start(local, shell("exec sleep 1000", replicas=2)).ready == 2


def test_a_removed_service_leaves_nothing(local: LocalProvisioner, directory: Path) -> None:
    start(local, server(replicas=2))
    assert len(of_service(directory, "web")) == 3
    wait_for(lambda: local.remove("web", INCARNATION), "it is not removed")
    assert local.observe("web").phase is Phase.ABSENT
    wait_for(lambda: not of_service(directory, "web"), "it has left processes")
    assert sorted(os.listdir(directory / "services")) == [".lock", ".ports"]
    assert os.listdir(directory / "services" / ".ports") == []


def test_a_removal_of_another_incarnation_touches_nothing(local: LocalProvisioner) -> None:
    start(local, server())
    assert local.remove("web", INCARNATION - 1)
    assert local.remove("web", INCARNATION + 1)
    assert local.observe("web").phase is Phase.READY
    with pytest.raises(StateError, match=f"service web is there as incarnation {INCARNATION}, not 8; remove that one first"):
        local.apply(desired(server(), incarnation=8))


def test_who_ignores_sigterm_is_killed_after_its_grace(local: LocalProvisioner) -> None:
    start(local, server(env={"DEAF": "1"}, pod={"grace_s": 3}))
    assert not local.remove("web", INCARNATION)
    seen = local.observe("web")
    assert seen.phase is Phase.REMOVING
    assert seen.drift == ()
    with pytest.raises(StateError, match="is being removed"):
        local.apply(desired(server()))
    wait_for(lambda: local.remove("web", INCARNATION), "it is not removed")
    assert start(local, server(), incarnation=INCARNATION + 1).incarnation == INCARNATION + 1


def test_all_that_it_started_ends_with_an_instance(local: LocalProvisioner, tmp_path: Path) -> None:
    daemon = tmp_path / "daemon"
    start(local, server(env={"DAEMON": str(daemon)}))
    wait_for(lambda: daemon.exists() and daemon.read_text(), "no daemon")
    pid = int(daemon.read_text())
    wait_for(lambda: local.remove("web", INCARNATION), "it is not removed")
    assert is_gone(pid)


def test_a_daemon_without_our_variables_ends_with_the_service(local: LocalProvisioner, tmp_path: Path) -> None:
    daemon = tmp_path / "daemon"
    start(local, server(env={"DAEMON": str(daemon), "BARE": "1"}))
    wait_for(lambda: daemon.exists() and daemon.read_text(), "no daemon")
    pid = int(daemon.read_text())
    wait_for(lambda: local.remove("web", INCARNATION), "it is not removed")
    assert is_gone(pid)


def test_the_newest_lines_of_each_instance(local: LocalProvisioner) -> None:
    spec = shell("for i in 1 2 3 4 5; do echo line $i; done; printf half; exec sleep 1000", replicas=2)
    start(local, spec)
    wait_for(lambda: len(local.logs("web")) == 12, "lines are missing")
    assert local.logs("web", index=1, lines=2) == ["line 5", "half"]
    assert local.logs("web", lines=2) == ["0 line 5", "0 half", "1 line 5", "1 half"]
    assert local.logs("web", index=9) == []


def test_a_program_that_never_stops_talking_does_not_fill_the_disk(local: LocalProvisioner, directory: Path) -> None:
    spec = shell("head -c 100000000 /dev/zero | tr '\\0' x; echo; echo done; exec sleep 1000")
    start(local, spec)
    wait_for(lambda: local.logs("web", index=0, lines=1) == ["done"], "it does not come to an end")
    log = directory / "services" / "web" / "log"
    assert sum(path.stat().st_size for path in log.iterdir()) <= 2 * (8 << 20)


HUNGRY = """
import time
x = bytearray(512 << 20)
for i in range(0, len(x), 4096): x[i] = 1
print("it had them", flush=True)
time.sleep(1000)
"""


def hungry() -> ServiceSpec:
    """A service that uses 512 MiB and may use 64."""
    return ServiceSpec(
        "web",
        command=["{python}", "-S", "-c", HUNGRY],
        readiness={"command": ["/bin/false"]},  # how it ends is of interest, and not that it ran for a moment
        resources={"limits": {"memory": "64Mi"}},
        exact_name=True,
    )


def test_an_instance_that_wants_more_memory_than_its_limit_ends_and_says_so(local: LocalProvisioner) -> None:
    local.apply(desired(hungry()))
    wait_for(lambda: local.observe("web").instances[0].restarts or "0 it had them" in local.logs("web"), "it is not ended")
    assert "0 it had them" not in local.logs("web")
    if "memory 64Mi by cgroup" not in local.observe("web").instances[0].where:
        pytest.skip("no cgroup of ours can be made here")
    wait_for(lambda: "; it wanted more memory than its limit" in local.observe("web").reason, "it does not say why")
    assert local.observe("web").reason.startswith("0/1 ready; instance 0: ")


def test_an_instance_is_refused_memory_beyond_its_limit_where_no_cgroup_can_be_made(local: LocalProvisioner) -> None:
    apply_elsewhere(local, hungry(), "limits._make = lambda *_: []")
    wait_for(lambda: local.observe("web").instances[0].restarts or local.logs("web"), "it is not refused")
    assert ", memory 64Mi by RLIMIT_DATA" in local.observe("web").instances[0].where
    wait_for(lambda: "0 MemoryError" in local.logs("web"), "it was not refused for want of memory")


def test_instances_get_the_devices_that_they_ask_for_one_after_the_other_and_around(local: LocalProvisioner) -> None:
    def seen_by(spec: ServiceSpec) -> list[str | None]:
        apply_elsewhere(local, spec, "limits._gpus = lambda: 2")
        return [ask(address)["env"].get("CUDA_VISIBLE_DEVICES") for address in until(local, spec.service, Phase.READY).endpoints["http"]]

    assert seen_by(server("one", replicas=3, resources={"limits": {"nvidia.com/gpu": "1"}})) == ["0", "1", "0"]
    assert seen_by(server("both", resources={"requests": {"nvidia.com/gpu": "2"}})) == ["0,1"]
    assert seen_by(server("none")) == [None]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ServiceSpec("web", image="registry/image"), "command: a service of this machine needs a command"),
        (ServiceSpec("web", command=["no-such-program"]), r"command\[0\]: the program 'no-such-program' is in none of PATH's folders"),
        (ServiceSpec("web", command=["/no/such"]), r"command\[0\]: the program '/no/such' is not there, or may not be executed"),
        (shell("", replicas=65), "replicas: 65 are more processes than one machine should run; 64 at most here"),
        (shell("", secrets={"TOKEN": "secret/key"}), r"secrets\.TOKEN: 'secret/key' is no secret of this machine; write \"env:NAME\""),
        (shell("", secrets={"TOKEN": "file:relative"}), r"secrets\.TOKEN: 'relative' is not absolute"),
        (shell("", volumes=[{"path": "/data", "claim": "c"}]), r"volumes\[0\]: /data: this machine has no claims"),
        (shell("", volumes=[{"path": "/data", "host": "/other"}]), r"volumes\[0\]: nothing is mounted on this machine"),
        (shell("", volumes=[{"path": "/no/such", "host": "/no/such"}]), r"volumes\[0\]: there is no /no/such"),
        (shell("", ports=65535, replicas=2), r"ports\.main: instance 1 would listen on 65536"),
        (shell("", ports={"a": 9000, "b": 9001}, replicas=2), r"ports\.b: instances of 'b' and 'a' would both listen on 9001"),
        (shell("", resources={"requests": {"memory": "100Ti"}}), r"resources\.requests\.memory: 100Ti is more than this machine has"),
        (shell("", resources={"limits": {"example.com/fpga": "1"}}), r"resources\.limits\.example.com/fpga: 1 asked for, .* has 0"),
    ],
)
def test_what_cannot_work_here_is_found_before_anything_is_made(local: LocalProvisioner, spec: ServiceSpec, message: str) -> None:
    with pytest.raises(InputError, match=message):
        local.check(desired(spec))
    assert local.observe_all() == {}


def test_a_port_that_is_asked_for_and_taken_is_found_before(local: LocalProvisioner) -> None:
    number = free_port()
    start(local, server(ports=number))
    with pytest.raises(InputError, match=f"ports.main: port {number} belongs to service 'web'; choose another number, or none"):
        local.apply(desired(server("other", ports=number)))
    assert local.observe("other").phase is Phase.ABSENT
    with pytest.raises(InputError, match=f"port {number} belongs to service 'web'"):
        local.check(desired(server("other", ports=number)))


def test_an_empty_volume_is_made_and_goes_with_the_service(local: LocalProvisioner, tmp_path: Path) -> None:
    scratch = tmp_path / "a" / "scratch"
    start(local, shell(f"touch {scratch}/$FONDACO_SERVICE_INDEX; exec sleep 1000", volumes=[{"path": str(scratch), "empty": True}]))
    wait_for(lambda: (scratch / "0").exists(), "it is not written to")
    wait_for(lambda: local.remove("web", INCARNATION), "it is not removed")
    assert not scratch.exists()


def test_many_services_at_once_get_ports_of_their_own(local: LocalProvisioner) -> None:
    specs = [shell("exec sleep 1000", f"service-{number}", ports=["a", "b"], replicas=3) for number in range(8)]
    errors: list[BaseException] = []

    def apply(spec: ServiceSpec) -> None:
        try:
            local.apply(desired(spec))
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=apply, args=(spec,)) for spec in specs for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for spec in specs:
        until(local, spec.service, Phase.READY)
    given = [address for seen in local.observe_all().values() for name in ("a", "b") for address in seen.endpoints[name]]
    assert len(set(given)) == len(given) == 8 * 2 * 3


def test_a_working_directory_of_its_own(local: LocalProvisioner, directory: Path) -> None:
    seen = start(local, server())
    assert ask(seen.endpoints["http"][0])["cwd"] == str(directory / "services" / "web" / "work" / "0")


def test_desired_is_json_that_people_can_read(local: LocalProvisioner, directory: Path) -> None:
    start(local, server())
    document = json.loads((directory / "services" / "web" / "desired.json").read_text())
    assert document["manifest"]["spec"]["name"] == "web"
