"""Limits: what one instance may use of this machine, enforced by what the system allows, and said in words which that is.

Memory: a cgroup of the instance where ours can be written (version 2 with the controller, or version 1), else RLIMIT_DATA, which counts
what is reserved rather than what is used. CPU: a cgroup's quota, else as many CPUs as the limit rounded up (a half then is a whole one).
A limit of a device counts devices: NVIDIA's are given out by CUDA_VISIBLE_DEVICES, one instance after the other, around.
Requests reserve nothing here; `check` compares them with what the machine has. Of a keeper that has no threads.
Source: Linux cgroup-v2 and cgroup-v1 documentation, setrlimit(2), sched_setaffinity(2).
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

from fondaco.core.errors import InputError
from fondaco.services.quantities import parse_quantity
from fondaco.services.settings import Resources

_PERIOD_US: Final = 100_000
_GPU: Final = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A group that was made for one instance: its directory, and what it limits."""

    path: Path
    memory: bool
    cpu: bool

    def enter(self) -> None:
        """Put the calling process into it."""
        with open(self.path / "cgroup.procs", "wb", buffering=0) as file:
            file.write(b"0")

    def kills(self) -> int:
        """How often the kernel has killed in it for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                for line in (self.path / name).read_text().splitlines():
                    word, _, count = line.partition(" ")
                    if word == "oom_kill":
                        return int(count)
        return 0

    def remove(self) -> None:
        """Remove it; one that still has processes stays, and goes with them."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


class Limits:
    """The limits of one instance: made, entered by its processes, and removed again."""

    def __init__(self, resources: Resources, index: int, *, root: Path = Path("/sys/fs/cgroup")) -> None:
        limits = resources.limits
        self._memory = int(parse_quantity(limits["memory"])) if "memory" in limits else None
        self._cpu = float(parse_quantity(limits["cpu"])) if "cpu" in limits else None
        self._index = index
        self._groups: list[Cgroup] = []
        self._kills = 0
        self._cpus: set[int] | None = None
        memory, cpu = self._memory, self._cpu
        if memory is not None or cpu is not None:
            self._groups = _make(root, memory, cpu)
        by_group = {"memory": any(group.memory for group in self._groups), "cpu": any(group.cpu for group in self._groups)}
        said = []
        if memory is not None:
            said.append(f"memory {limits['memory']} by {'cgroup' if by_group['memory'] else 'RLIMIT_DATA'}")
        self._by_rlimit = memory is not None and not by_group["memory"]
        if cpu is not None and not by_group["cpu"]:
            own = sorted(os.sched_getaffinity(0))
            count = min(len(own), max(1, ceil(cpu)))
            self._cpus = {own[(index * count + each) % len(own)] for each in range(count)}
            said.append(f"cpu {limits['cpu']} by affinity ({count} of {len(own)} CPUs)")
        elif cpu is not None:
            said.append(f"cpu {limits['cpu']} by cgroup")
        self.words = ", ".join(said)

    def enter(self) -> None:
        """Apply them to the calling process, which is about to become the program."""
        for group in self._groups:
            group.enter()
        if self._by_rlimit and self._memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (self._memory, self._memory))
        if self._cpus is not None:
            os.sched_setaffinity(0, self._cpus)

    def broken(self) -> str:
        """Which limit has ended something in the instance since this was asked last, in words, or ""."""
        kills, before = sum(group.kills() for group in self._groups), self._kills
        self._kills = kills
        return "it wanted more memory than its limit" if kills > before else ""

    def remove(self) -> None:
        for group in self._groups:
            group.remove()
        self._groups = []


def devices(resources: Resources, index: int) -> Mapping[str, str]:
    """Variables by which an instance finds its devices."""
    each = _amount(resources, _GPU)
    count = _gpus()
    if not each or not count:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(str((index * each + number) % count) for number in range(each))}


def check(resources: Resources) -> None:
    """Check that one instance could have here what it asks for.

    Raises:
        InputError: it asks for more than the machine has; names the path.
    """
    machine: list[tuple[str, float, Callable[[float], str]]] = [
        ("cpu", float(len(os.sched_getaffinity(0))), lambda has: f"{has:g} CPUs"),
        ("memory", float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")), lambda has: f"{has / 2**30:.1f} GiB of memory"),
    ]
    for name, has, words in machine:
        if name in resources.requests and float(parse_quantity(resources.requests[name])) > has:
            raise InputError(f"resources.requests.{name}: {resources.requests[name]} is more than this machine has, {words(has)}")
    for kind, amounts in (("requests", resources.requests), ("limits", resources.limits)):
        for name in amounts.keys() - {"cpu", "memory", "ephemeral-storage"}:
            has_gpus = _gpus() if name == _GPU else 0
            if _amount(resources, name) > has_gpus:
                raise InputError(f"resources.{kind}.{name}: {amounts[name]} asked for, and this machine has {has_gpus}")


def _amount(resources: Resources, name: str) -> int:
    text = resources.limits.get(name) or resources.requests.get(name)
    return int(parse_quantity(text)) if text else 0


def _gpus() -> int:
    return sum(name.removeprefix("nvidia").isdigit() for name in os.listdir("/dev") if name.startswith("nvidia"))


# -- cgroups ------------------------------------------------------------------------------------------------------------------------


def _make(root: Path, memory: int | None, cpu: float | None) -> list[Cgroup]:
    """Groups for what can be limited by them; none where none can be made."""
    name = f"fondaco-{os.getpid()}-{secrets.token_hex(4)}"
    unified, by_controller = _own(root)
    if unified is not None:
        group = _version_2(unified / name, memory, cpu)
        if group is not None:
            return [group]
    groups = []
    if memory is not None and "memory" in by_controller:
        files = [("memory.limit_in_bytes", str(memory))]
        if _filled(by_controller["memory"] / name, files):
            with contextlib.suppress(OSError):  # without swap accounting there is none of these
                (by_controller["memory"] / name / "memory.memsw.limit_in_bytes").write_text(str(memory))
            groups.append(Cgroup(by_controller["memory"] / name, memory=True, cpu=False))
    if cpu is not None and "cpu" in by_controller:
        files = [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", _quota(cpu))]
        if _filled(by_controller["cpu"] / name, files):
            groups.append(Cgroup(by_controller["cpu"] / name, memory=False, cpu=True))
    return groups


def _version_2(path: Path, memory: int | None, cpu: float | None) -> Cgroup | None:
    files = []
    if memory is not None:
        files += [("memory.max", str(memory))]
    if cpu is not None:
        files += [("cpu.max", f"{_quota(cpu)} {_PERIOD_US}")]
    for controller in ("memory", "cpu"):  # refused where processes live in our own group; then they are there already, or not at all
        with contextlib.suppress(OSError):
            (path.parent / "cgroup.subtree_control").write_text(f"+{controller}")
    if not _filled(path, files):
        return None
    with contextlib.suppress(OSError):
        (path / "memory.swap.max").write_text("0")
    return Cgroup(path, memory=memory is not None, cpu=cpu is not None)


def _quota(cpu: float) -> str:
    return str(max(1000, round(cpu * _PERIOD_US)))  # the kernel takes no less than a millisecond


def _filled(path: Path, files: list[tuple[str, str]]) -> bool:
    """Make a group and write its files; leave nothing if that cannot be."""
    _sweep(path.parent)
    try:
        path.mkdir()
    except OSError:
        return False
    try:
        for name, value in files:
            with open(path / name, "r+") as file:  # a controller that is not there has no file, and none is made
                file.write(value)
    except OSError:
        with contextlib.suppress(OSError):
            path.rmdir()
        return False
    return True


def _sweep(parent: Path) -> None:
    """Remove the empty groups of keepers that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith("fondaco-") and not os.path.exists(f"/proc/{name.split('-')[1]}"):
                with contextlib.suppress(OSError):
                    (parent / name).rmdir()


def _own(root: Path) -> tuple[Path | None, dict[str, Path]]:
    """The group that this process is in: of version 2, and of version 1 by controller."""
    unified, by_controller = None, {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                unified = next(
                    (base / path.lstrip("/") for base in (root, root / "unified") if (base / "cgroup.controllers").exists()), None
                )
            for controller in controllers.split(","):
                if (root / controller).is_dir():
                    by_controller[controller] = root / controller / path.lstrip("/")
    return unified, by_controller
