"""A platform's directory, with a local provisioner or a whole platform; afterwards nothing of it runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import fondaco as fd
from fondaco.services.local import tree
from fondaco.services.local.provisioner import LocalProvisioner
from leftover_services import end_services
from waiting import wait_for


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "platform"
    made.mkdir()
    return made


@pytest.fixture
def local(directory: Path) -> Iterator[LocalProvisioner]:
    provisioner = LocalProvisioner(directory)
    yield provisioner
    for service, seen in provisioner.observe_all().items():
        for pid in [one.pid for one in of_service(directory, service) if tree.variable(one.pid, tree.KEEPER) is None]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # those who ignore SIGTERM have half a minute, which no test has
        wait_for(lambda service=service, seen=seen: provisioner.remove(service, seen.incarnation), f"{service} is not removed")
        wait_for(lambda service=service: not of_service(directory, service), f"{service} has left processes")


@pytest.fixture
def platform(directory: Path) -> Iterator[fd.Platform]:
    """A whole platform, whose services end after the test."""
    opened = fd.open(directory)
    yield opened
    opened.close()
    end_services(directory)


def of_service(directory: Path, service: str) -> list[tree.Seen]:
    """All processes of a service, its keeper included."""
    place = str(directory / "services" / service)
    seen = tree.see_all()
    return [one for one in seen.values() if tree.variable(one.pid, tree.KEEPER) == place] + tree.marked(f"{place}#", seen)
