"""Several processes with several threads each ensure the same services on this machine at once; one is killed while it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fondaco as fd
from fondaco.services.provisioner import Phase
from services.ensure_child import sleeper
from waiting import wait_for

CHILD = Path(__file__).with_name("ensure_child.py")


def start(directory: Path, *arguments: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), str(directory), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_many_that_ensure_the_same_at_once_get_the_same_services(tmp_path: Path) -> None:
    with fd.open(tmp_path / "data") as platform:
        services = platform.services
        try:
            children = [start(platform.directory, number, 4, 10, 2) for number in range(3)]
            said = [child.communicate(timeout=200) for child in children]
            assert [child.returncode for child in children] == [0, 0, 0], said
            names = {name for out, _ in said for name in out.split()}
            assert names == {sleeper(0).service, sleeper(1).service}
            there = services.list()
            assert {status.service: len(status.holders) for status in there} == dict.fromkeys(names, 15)
            assert {status.phase for status in there} == {Phase.READY}
            assert sum(status.total for status in there) == 2
        finally:
            for status in services.list():
                services.delete(status.service, force=True)
        assert services.list() == []


def test_what_a_killed_process_has_begun_is_there_for_the_next_one(tmp_path: Path) -> None:
    with fd.open(tmp_path / "data") as platform:
        services = platform.services
        try:
            child = start(platform.directory, 0, 1, 1, 1)
            wait_for(services.list, "the row is entered")
            child.kill()
            child.communicate()
            with services.ensure(sleeper(0), "next", timeout="120s") as lease:
                assert lease.status().phase is Phase.READY
        finally:
            for status in services.list():
                services.delete(status.service, force=True)
