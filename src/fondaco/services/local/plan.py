"""Plan: what one instance is, once the words in braces are filled: program, variables, directory, how it is asked. Pure.

The environment of a program is small and known: of the environment of whoever ensured the service first, only what finds programs and
libraries and sets language, time zone and threads (`INHERITED`), so that nobody's tokens leak into a service; then the spec's variables,
its secrets, and who the instance is.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fondaco.core.errors import InputError
from fondaco.services.local import tree
from fondaco.services.local.files import Kept
from fondaco.services.local.limits import devices
from fondaco.services.settings import Readiness, Resources
from fondaco.services.spec import ServiceSpec
from fondaco.services.words import filled

INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
INHERITED_PREFIXES: Final = ("LC_", "PYTHON", "OMP_", "NUMBA_")


@dataclass(frozen=True, slots=True)
class Plan:
    """One instance as it shall run.

    Attributes:
        digest: of all that needs a restart when it changes. secrets: variables to references; the values are read at the start.
    """

    index: int
    argv: tuple[str, ...]
    env: dict[str, str]
    secrets: dict[str, str]
    cwd: Path
    host: str
    ports: dict[str, int]
    readiness: Readiness
    resources: Resources
    grace_s: float
    digest: str

    @property
    def asked_port(self) -> int:
        """The port that readiness is asked at."""
        return self.ports[self.readiness.port] if self.readiness.port is not None else next(iter(self.ports.values()))


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What a service gets of its caller's environment."""
    return {name: value for name, value in sorted(environment.items()) if name in INHERITED or name.startswith(INHERITED_PREFIXES)}


def endpoints(kept: Kept) -> dict[str, tuple[str, ...]]:
    """By name of the port, "host:port" of all instances, in order."""
    names = list(kept.ports[0]) if kept.ports else []
    return {name: tuple(address(kept.host, ports[name]) for ports in kept.ports[: kept.replicas]) for name in names}


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def words(spec: ServiceSpec, kept: Kept, index: int, directory: Path) -> dict[str, object]:
    """What stands for the words in braces at an instance."""
    values: dict[str, object] = {
        "python": sys.executable,
        "directory": directory,
        "name": kept.service,
        "index": index,
        "replicas": kept.replicas,
        "shard": index % spec.shards,
        "shards": spec.shards,
        "host": kept.host,
    }
    every = endpoints(kept)
    for name, port in reversed(kept.ports[index].items() if kept.ports else ()):  # the first port is the one without a name
        for key, value in (("port", port), ("address", address(kept.host, port)), ("endpoints", ",".join(every[name]))):
            values[f"{key}.{name}"] = values[key] = value
    return values


def plan(spec: ServiceSpec, kept: Kept, index: int, *, platform: Path, place: Path) -> Plan:
    """What an instance is."""
    values = words(spec, kept, index, platform)
    argv = tuple(filled(text, values) for text in spec.command)
    readiness = spec.readiness
    if readiness.command:
        asked = tuple(filled(text, values) for text in readiness.command)
        readiness = Readiness(
            command=asked, every_s=readiness.every_s, timeout_s=readiness.timeout_s, start_s=readiness.start_s, hang_s=readiness.hang_s
        )
    env = dict(kept.environment)
    env |= devices(spec.resources, index)
    env |= {name: filled(text, values) for name, text in spec.env.items()}
    env.setdefault("PYTHONUNBUFFERED", "1")  # a log that is behind its program helps nobody
    env |= {"FONDACO_DIR": str(platform), "FONDACO_SERVICE_NAME": kept.service, "FONDACO_SERVICE_INDEX": str(index)}
    env[tree.MARKER] = tree.marker(place, kept.incarnation, index)
    ports = dict(kept.ports[index]) if kept.ports else {}
    meant = [argv, env, spec.secrets, ports, repr(readiness), repr(spec.resources)]
    digest = hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()
    env["FONDACO_SERVICE_REPLICAS"] = str(kept.replicas)  # not in the digest: scaling alone restarts nobody
    return Plan(
        index, argv, env, dict(spec.secrets), place / "work" / str(index), kept.host, ports, readiness, spec.resources,
        float(spec.pod.grace_s), digest,
    )  # fmt: skip


def read_secret(reference: str, kept: Mapping[str, str], *, path: str) -> str:
    """The value behind "env:NAME", as it was when the service was ensured, or "file:PATH", as it is now, without the newline at its end.

    Raises:
        InputError: there is none; names `path`.
    """
    kind, _, rest = reference.partition(":")
    if kind == "env":
        if reference not in kept:
            raise InputError(f"{path}: the value of {rest} is not there any more; ensure the service again where the variable is set")
        return kept[reference]
    try:
        return Path(rest).read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: {rest} cannot be read: {exc}") from exc


def check_secrets(references: Mapping[str, str]) -> None:
    """Check that references are of the kinds that there are here.

    Raises:
        InputError: names the path.
    """
    for name, reference in references.items():
        kind, colon, rest = reference.partition(":")
        if not colon or kind not in ("env", "file") or not rest:
            raise InputError(f'secrets.{name}: {reference!r} is no secret of this machine; write "env:NAME" or "file:/path" here')
        if kind == "file" and not rest.startswith("/"):
            raise InputError(f"secrets.{name}: {rest!r} is not absolute")


def machine() -> str:
    """Where we are."""
    return socket.gethostname()
