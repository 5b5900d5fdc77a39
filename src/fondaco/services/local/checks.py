"""Checks: what cannot work on this machine, found before anything is made. Changes nothing; any thread."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from fondaco.core.errors import InputError
from fondaco.services.local import ports
from fondaco.services.local.files import Kept
from fondaco.services.local.plan import check_secrets, words
from fondaco.services.provisioner import Desired
from fondaco.services.spec import ServiceSpec
from fondaco.services.words import filled

INSTANCES_MAX: Final = 64  # of one service: each is a process, often of 100 MB; thousands by a slip of the hand take a machine down


def check_shape(spec: ServiceSpec, replicas: int) -> None:
    """What cannot be here at all.

    Raises:
        InputError: names the path.
    """
    if not spec.command:
        raise InputError("command: a service of this machine needs a command; images are for Kubernetes")
    if replicas > INSTANCES_MAX:
        raise InputError(
            f"replicas: {replicas} are more processes than one machine should run; {INSTANCES_MAX} at most here, any number on Kubernetes"
        )
    check_secrets(spec.secrets)
    ports.check_fixed(spec.ports, replicas=replicas)
    for index, volume in enumerate(spec.volumes):
        if volume.host is None and not volume.empty:
            raise InputError(f"volumes[{index}]: {volume.path}: this machine has no claims, secrets or configs; use host or empty")
        if volume.host is not None and volume.host != volume.path:
            raise InputError(f"volumes[{index}]: nothing is mounted on this machine: host must be the same as path, {volume.path!r}")
        if volume.host is not None and not os.path.exists(volume.host):
            raise InputError(f"volumes[{index}]: there is no {volume.host}")


def check_secrets_here(spec: ServiceSpec) -> None:
    """Whether secrets can be read by whoever asks.

    Raises:
        InputError: names the path.
    """
    for name, reference in spec.secrets.items():
        kind, _, rest = reference.partition(":")
        if kind == "env" and rest not in os.environ:
            raise InputError(f"secrets.{name}: the variable {rest} is not set")
        if kind == "file" and not os.access(rest, os.R_OK):
            raise InputError(f"secrets.{name}: {rest} cannot be read")


def check_program(spec: ServiceSpec, desired: Desired, platform: Path, host: str) -> None:
    """Whether the programs are there that would be started.

    Raises:
        InputError: names the path, and where it was looked for.
    """
    some = tuple(dict.fromkeys(spec.ports, 1) for _ in range(desired.replicas)) if spec.ports else ()
    trial = Kept(desired.service, 0, 0, {}, desired.replicas, {}, host, some, {})
    values = words(spec, trial, 0, platform)
    path = filled(spec.env["PATH"], values) if "PATH" in spec.env else os.environ.get("PATH", os.defpath)
    for where, command in (("command", spec.command), ("readiness.command", spec.readiness.command)):
        if not command:
            continue
        program = filled(command[0], values)
        if shutil.which(program, path=path) is None:
            missing = "is not there, or may not be executed" if "/" in program else f"is in none of PATH's folders ({path})"
            raise InputError(f"{where}[0]: the program {program!r} {missing}")
