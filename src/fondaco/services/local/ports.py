"""Ports: which service has which port of this machine: taken once, kept over restarts, never given to two services of a platform.

A claim is a symbolic link `.ports/<number>` to the service's name, made and removed under the lock of all services. Free ones are
looked for among those that the kernel does not hand out to clients (`server_ports`), so that nobody gets one of ours by chance while its
process is down; whether somebody listens there is tried by binding. Another platform of the same machine begins to look elsewhere.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fondaco.core.errors import InputError, UnavailableError
from fondaco.core.files import os_errors
from fondaco.core.ports import server_ports
from fondaco.services.local.tree import listener


def claim(
    services: Path, owner: str, wanted: Mapping[str, int | None], *, replicas: int, have: Sequence[Mapping[str, int]], host: str
) -> tuple[dict[str, int], ...]:
    """The ports of each instance: those it has, and for the rest new ones. Under the lock of all services.

    Args:
        owner: the service. wanted: by name; a number is instance 0's, and instance i's is that plus i.
        have: as they were; of an instance whose names or numbers have changed, only what still fits is kept.
    Raises:
        InputError: a number that was asked for is another service's. UnavailableError: none is free. DiskFullError, ReadOnlyError.
            What was taken is given back.
    """
    directory = services / ".ports"
    with os_errors(directory):
        directory.mkdir(exist_ok=True)
    fixed = {number + index for number in wanted.values() if number is not None for index in range(replicas)}
    free = _free(directory, host, fixed)
    taken: list[int] = []
    result: list[dict[str, int]] = []
    try:
        for index in range(replicas):
            before = have[index] if index < len(have) else {}
            ports = {}
            for name, number in wanted.items():
                if number is not None:
                    ports[name] = number + index
                elif name in before and before[name] not in fixed and holder(services, before[name]) in (owner, None):
                    ports[name] = before[name]
                else:
                    ports[name] = next(free)
                if _take(services, directory, ports[name], owner, f"ports.{name}"):
                    taken.append(ports[name])
            result.append(ports)
    except BaseException:
        for port in taken:
            (directory / str(port)).unlink(missing_ok=True)
        raise
    more = [dict(ports) for ports in have[replicas:] if ports.keys() == wanted.keys()]  # who is scaled up again gets these back
    return (*result, *more)


def give_back(services: Path, owner: str) -> None:
    """End all claims of an owner. Under the lock of all services."""
    directory = services / ".ports"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        if _owner(directory / name) == owner:
            (directory / name).unlink(missing_ok=True)


def check_fixed(wanted: Mapping[str, int | None], *, replicas: int) -> None:
    """Check that numbers that are asked for are ports, for all instances, and that no two meet.

    Raises:
        InputError: names the path.
    """
    seen: dict[int, str] = {}
    for name, number in wanted.items():
        if number is None:
            continue
        if number + replicas - 1 > 65_535:
            raise InputError(f"ports.{name}: instance {replicas - 1} would listen on {number + replicas - 1}; ports end at 65535")
        for each in range(number, number + replicas):
            if each in seen:
                raise InputError(f"ports.{name}: instances of {name!r} and {seen[each]!r} would both listen on {each}; move them apart")
            seen[each] = name


def holder(services: Path, port: int) -> str | None:
    """The service that has a port, or None. A claim whose service is gone is none."""
    owner = _owner(services / ".ports" / str(port))
    return owner if owner is not None and (services / owner).is_dir() else None


def obstacle(host: str, port: int) -> str | None:
    """Who listens on a port, in words, or None if it is free."""
    if can_bind(host, port):
        return None
    found = listener(port)
    who = f"process {found[0]} ({found[1]})" if found is not None else "another process"
    return f"port {port} is taken by {who}"


def can_bind(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are no obstacle
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise UnavailableError(f"address {host}", str(exc)) from exc
    return True


def _free(directory: Path, host: str, fixed: set[int]) -> Iterator[int]:
    claimed = {int(name) for name in os.listdir(directory) if name.isdigit()}
    candidates = server_ports()
    for port in candidates:
        if port not in fixed and (port not in claimed or _is_stale(directory, port)) and can_bind(host, port):
            yield port
    raise UnavailableError(f"address {host}", f"none of {len(candidates)} ports is free for a service")


def _take(services: Path, directory: Path, port: int, owner: str, path: str) -> bool:
    """Claim a port; returns whether that is new."""
    link = directory / str(port)
    for _ in range(2):
        try:
            with os_errors(directory):
                os.symlink(owner, link)
            return True
        except FileExistsError:
            has = holder(services, port)
            if has == owner:
                return False
            if has is not None:
                raise InputError(f"{path}: port {port} belongs to service {has!r}; choose another number, or none") from None
            link.unlink(missing_ok=True)  # of a service that is gone
    raise UnavailableError(f"port {port}", "it is claimed again and again")


def _is_stale(directory: Path, port: int) -> bool:
    return holder(directory.parent, port) is None


def _owner(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None
