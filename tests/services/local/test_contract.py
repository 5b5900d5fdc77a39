"""The local provisioner keeps what every provisioner promises."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fondaco.services.local.files import Place, locked
from fondaco.services.local.provisioner import LocalProvisioner
from fondaco.services.provisioner import Desired, Provisioner
from fondaco.services.spec import ServiceSpec
from fondaco.testing.provisioner import OpenProvisioner, ProvisionerContract
from services.local.programs import server, shell


class TestLocalProvisioner(ProvisionerContract):
    """Real processes."""

    @pytest.fixture
    def open_provisioner(self, local: LocalProvisioner, directory: Path) -> Iterator[OpenProvisioner]:
        with contextlib.ExitStack() as stack:
            yield lambda: stack.enter_context(contextlib.closing(LocalProvisioner(directory)))

    def make_spec(self, kind: str, name: str, **more: Any) -> ServiceSpec:
        given: dict[str, Any] = {"ports": ["main", "metrics"], "exact_name": False} | more
        if kind == "crashing":
            return shell("echo boom; exit 3", name, **given)
        if kind == "slow":
            given["readiness"] = {"command": ["/bin/sh", "-c", "sleep 2"], "every_s": 0.1}
        elif kind == "never ready":
            given["readiness"] = {"command": ["/bin/false"], "every_s": 0.1}
        return server(name, **given)

    def mark_of(self, provisioner: Provisioner, service: str, index: int) -> object:
        return provisioner.observe(service).instances[index].where  # names the process

    def break_something(self, provisioner: Provisioner, service: str) -> bool:
        assert isinstance(provisioner, LocalProvisioner)
        pid = Place(provisioner.services, service).keeper()
        assert pid
        os.kill(pid, signal.SIGKILL)
        return True

    def apply_half(self, provisioner: Provisioner, desired: Desired) -> bool:
        assert isinstance(provisioner, LocalProvisioner)
        with locked(provisioner.services):
            provisioner.write(Place(provisioner.services, desired.service), desired)  # and then no keeper is begun
        return True
