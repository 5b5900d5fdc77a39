"""Data services that a test has left running on this machine, ended: their keepers outlive the process that asked for them, on purpose."""

from __future__ import annotations

import functools
from pathlib import Path

from fondaco.services.local.provisioner import LocalProvisioner
from waiting import wait_for


def end_services(directory: Path) -> None:
    """End every local service of the platforms in and below a directory, whoever holds it."""
    for marker in directory.rglob("FONDACO"):
        if not (marker.parent / "services").is_dir():
            continue
        provisioner = LocalProvisioner(marker.parent)
        try:
            for name, seen in provisioner.observe_all().items():
                wait_for(functools.partial(provisioner.remove, name, seen.incarnation), f"service {name} does not end")
        finally:
            provisioner.close()
