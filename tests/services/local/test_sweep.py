"""Where no reaper is at work: keepers see to it that somebody looks, and what nobody holds any more goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fondaco as fd
from fondaco.core.errors import CorruptFileError
from fondaco.services.local import sweep
from fondaco.services.local.files import Place
from fondaco.services.provisioner import Phase
from services.local.conftest import of_service
from services.local.programs import server
from waiting import wait_for

# Ensures a service, says so, and is killed.
_CHILD = """
import sys, time
import fondaco as fd
platform = fd.open(sys.argv[1])
spec = fd.ServiceSpec.from_dict(__import__("json").loads(sys.argv[2]))
lease = platform.services.ensure(spec, "killed", lease="0.5s")
print("ready", flush=True)
time.sleep(1000)
"""


def long_ago(directory: Path) -> None:
    """Nobody has looked for an hour."""
    sweep.note_look(directory / "services")
    then = time.time() - 3600
    os.utime(directory / "services" / ".reaped", (then, then))


def test_nothing_stays_of_a_service_whose_only_user_was_killed_and_which_no_reaper_looks_after(
    platform: fd.Platform, directory: Path
) -> None:
    specs = [server(f"web{number}", ttl="0s") for number in (1, 2)]  # the sweep outlives the keeper that began it
    lease = platform.services.ensure(specs[1], "me", lease="0.5s")
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(directory), json.dumps(specs[0].to_dict())], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
    lease.release()
    wait_for(lambda: not any(status.holders for status in platform.services.list()), "a lease does not run out")
    assert [status.phase for status in platform.services.list()] == [Phase.READY, Phase.READY]
    long_ago(directory)
    wait_for(lambda: not platform.services.list(), "nobody has removed the services")
    wait_for(lambda: not any(of_service(directory, spec.service) for spec in specs), "processes are left")


def test_who_holds_a_service_keeps_it_through_a_sweep_and_a_sweep_begins_nothing(platform: fd.Platform, directory: Path) -> None:
    with platform.services.ensure(server("held", ttl="0s"), "me") as lease:
        keeper = Place(directory / "services", "held").keeper()
        assert keeper
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: not of_service(directory, "held"), "instances outlive their keeper")
        assert not sweep.sweep(directory)
        assert not of_service(directory, "held")
        assert lease.status().drift == ("no keeper runs",)
        assert platform.services.reap().repaired == ("held",)
        wait_for(lambda: lease.status().phase is Phase.READY, "it does not come back")


def test_a_minute_after_the_last_look_of_any_reaper_it_is_time_for_a_sweep(platform: fd.Platform, directory: Path) -> None:
    services = directory / "services"
    services.mkdir(exist_ok=True)
    assert not sweep.is_overdue(services)  # nobody ever has: the minute begins
    assert (services / ".reaped").exists()
    for away_s in (-3600, 3600):  # also where the clock was set back
        os.utime(services / ".reaped", (time.time() + away_s,) * 2)
        assert sweep.is_overdue(services)
        platform.services.reap()
        assert not sweep.is_overdue(services)


def test_a_keeper_begins_one_sweep_and_not_again_at_once(platform: fd.Platform, directory: Path) -> None:
    (directory / "services").mkdir(exist_ok=True)
    sweeps = sweep.Sweeps(directory, directory / "services")
    sweeps.see_to()
    assert sweeps._process is None
    long_ago(directory)
    sweeps.see_to()
    first = sweeps._process
    assert first is not None
    long_ago(directory)
    sweeps.see_to()
    assert first.wait(60) == 0
    sweeps.see_to()
    assert sweeps._process is first
    assert not platform.services.list()


def test_a_sweep_makes_no_catalog_where_there_is_none(directory: Path) -> None:
    with pytest.raises(CorruptFileError, match="missing"):
        sweep.sweep(directory)
    assert list(directory.iterdir()) == []
