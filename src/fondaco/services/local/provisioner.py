"""LocalProvisioner: services as processes of this machine. `apply` writes down what shall be and sees that a keeper runs; the rest is the
keeper's (`keeper`), and how it stands is read from what that writes (`observing`).

Nothing is held in the object: any number of processes may have one for the same platform, and those who apply and remove wait for each
other for milliseconds (`files.locked`). Any thread. Linux.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from fondaco.core.errors import CorruptFileError, InputError, PermissionDeniedError, StateError, UnavailableError
from fondaco.core.files import os_errors
from fondaco.services.local import ports, tree
from fondaco.services.local.checks import check_program, check_secrets_here, check_shape
from fondaco.services.local.files import SERVICES_DIRECTORY, Kept, Place, State, locked, places
from fondaco.services.local.keeper import end_strays, take_away
from fondaco.services.local.limits import check as check_limits
from fondaco.services.local.logfile import tail
from fondaco.services.local.observing import observe, same
from fondaco.services.local.plan import inherited
from fondaco.services.provisioner import Desired, Observed, Phase
from fondaco.services.settings import Volume
from fondaco.services.spec import ServiceSpec

HOST: Final = "127.0.0.1"
_SOON_S: Final = 2.0  # a removal waits so long for processes that obey at once, so that one call is enough for most


class LocalProvisioner:
    """Runs the services of one platform directory on this machine; see `Provisioner`.

    Args:
        directory: the platform's. host: the address that instances listen on and are reached at.
    Attributes:
        services: the folder of all its services.
    """

    def __init__(self, directory: Path | str, *, cluster: str = "local", host: str = HOST) -> None:
        self._platform = Path(directory).resolve()  # its name is in markers: one spelling for all
        self.services = self._platform / SERVICES_DIRECTORY
        self._cluster, self._host = cluster, host

    @property
    def cluster(self) -> str:
        return self._cluster

    def check(self, desired: Desired) -> None:
        """As `Provisioner.check`: image without command, other kinds of volumes and secrets, programs that are not there, ports that are
        taken, more CPUs or memory or devices than the machine has."""
        spec = desired.spec
        check_shape(spec, desired.replicas)
        check_secrets_here(spec)
        check_limits(spec.resources)
        check_program(spec, desired, self._platform, self._host)
        if not Place(self.services, desired.service).exists():
            self._check_ports(desired)

    def apply(self, desired: Desired) -> None:
        """As `Provisioner.apply`."""
        check_shape(desired.spec, desired.replicas)
        place = Place(self.services, desired.service)
        with locked(self.services):
            self.write(place, desired)
        self._see_to_keeper(place)

    def observe(self, service: str) -> Observed:
        return observe(Place(self.services, service))

    def observe_all(self) -> Mapping[str, Observed]:
        """As `Provisioner.observe_all`; services of other users of the machine, which cannot be read, are left out."""
        result = {}
        for place in places(self.services):
            with contextlib.suppress(PermissionDeniedError):
                seen = observe(place)
                if seen.phase is not Phase.ABSENT:
                    result[place.service] = seen
        return result

    def remove(self, service: str, incarnation: int) -> bool:
        """As `Provisioner.remove`. One whose files say nothing of an incarnation any more is taken to carry the one that is asked for."""
        place = Place(self.services, service)
        deadline = time.monotonic() + _SOON_S
        while True:
            with locked(self.services):
                if not place.exists() or _incarnation(place, incarnation) != incarnation:
                    return True
                place.mark_removed(incarnation)
                if place.keeper() is None:
                    end_strays(place.path)
                    take_away(place)
                    return True
            place.wake()
            _let_go_on(place)
            while place.keeper() is not None:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)

    def logs(self, service: str, *, index: int | None = None, lines: int = 100) -> Sequence[str]:
        place = Place(self.services, service)
        directory = place.path / "log"
        if index is not None:
            return tail(directory / f"{index}.log", lines)
        numbers = sorted(int(path.stem) for path in directory.glob("*.log") if path.stem.isdigit())
        return [f"{number} {line}" for number in numbers for line in tail(directory / f"{number}.log", lines)]

    def close(self) -> None:
        """Nothing is held."""

    # -- what shall be ----------------------------------------------------------------------------------------------------------------

    def write(self, place: Place, desired: Desired) -> None:
        """Bring desired.json up to date. Under the lock."""
        before = _kept_before(place, desired)
        spec = desired.spec
        secrets = _secrets_now(place, spec)
        have = before.ports if before is not None else _ports_of_state(place)
        claimed = ports.claim(self.services, place.service, spec.ports, replicas=desired.replicas, have=have, host=self._host)
        try:
            kept = Kept(
                place.service,
                desired.incarnation,
                before.sequence + 1 if before is not None else time.time_ns() // 1000,
                spec.to_dict(),
                desired.replicas,
                dict(desired.annotations),
                self._host,
                claimed if spec.ports else (),
                before.environment if before is not None else inherited(os.environ),
                before.made if before is not None else (),
            )
            kept = msgspec.structs.replace(kept, made=tuple(dict.fromkeys([*kept.made, *_make_volumes(spec.volumes)])))
            if before is not None and same(before, kept) and not _has_failed(place):
                if dict(before.annotations) == kept.annotations:
                    return
                kept = msgspec.structs.replace(kept, sequence=before.sequence)
            place.write_kept(kept, secrets=secrets)
        except BaseException:
            if before is None and not place.exists():
                ports.give_back(self.services, place.service)
            raise

    def _see_to_keeper(self, place: Place) -> None:
        """Have the keeper look; start one if there is none."""
        if place.keeper() is not None:
            place.wake()
            _let_go_on(place)
            return
        environment = inherited(os.environ) | {tree.KEEPER: str(place.path)}
        argv = [sys.executable, "-P", "-m", "fondaco.services.local.keeper", str(self._platform), place.service]
        # The shell ends at once, so that the keeper is nobody's child: neither does it wait for us, nor have we to take leave of it.
        script = '"$@" </dev/null >>keeper.log 2>&1 &'
        try:
            started = subprocess.run(
                ["/bin/sh", "-c", script, "sh", *argv],
                cwd=place.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                check=False,
            )
        except FileNotFoundError:
            if place.exists():
                raise
            return  # removed by somebody else meanwhile
        except OSError as exc:
            raise UnavailableError("this machine", f"a keeper for {place.service} could not be started: {exc}") from exc
        if started.returncode:
            said = started.stderr.decode(errors="replace").strip()
            raise UnavailableError("this machine", f"a keeper for {place.service} could not be started: {said}")

    def _check_ports(self, desired: Desired) -> None:
        for name, number in desired.spec.ports.items():
            for each in range(number, number + desired.replicas) if number is not None else ():
                owner = ports.holder(self.services, each)
                if owner is not None and owner != desired.service:
                    raise InputError(f"ports.{name}: port {each} belongs to service {owner!r}; choose another number, or none")
                if (obstacle := ports.obstacle(self._host, each)) is not None:
                    raise InputError(f"ports.{name}: {obstacle}; choose another number, or none")


def _let_go_on(place: Place) -> None:
    """Wake a keeper that was stopped by a signal."""
    keeper = place.keeper()
    if keeper and (seen := tree.see(keeper)) is not None and seen.state == "T":
        tree.end(seen, signal.SIGCONT)


def _kept_before(place: Place, desired: Desired) -> Kept | None:
    """What was applied before, or None if it is not there or cannot be read.

    Raises:
        StateError: another incarnation is in the way, or this one is being removed.
    """
    if not place.exists():
        return None
    removing = place.removing()
    if removing is not None:
        raise StateError(
            f"service {place.service} (incarnation {removing}) is being removed; remove it again until nothing is left, then apply"
        )
    incarnation = _incarnation(place, desired.incarnation)
    if incarnation != desired.incarnation:
        raise StateError(f"service {place.service} is there as incarnation {incarnation}, not {desired.incarnation}; remove that one first")
    try:
        return place.read_kept()
    except CorruptFileError:
        return None


def _incarnation(place: Place, otherwise: int) -> int:
    """Whose the directory is, as far as any of its files can be read."""
    try:
        kept = place.read_kept()
    except CorruptFileError:
        kept = None
    if kept is not None:
        return kept.incarnation
    state = _state_before(place)
    return state.incarnation if state is not None else otherwise


def _state_before(place: Place) -> State | None:
    try:
        return place.read_state()
    except CorruptFileError:
        return None


def _has_failed(place: Place) -> bool:
    state = _state_before(place)
    return state is not None and any(one.phase is Phase.FAILED for one in state.instances)


def _ports_of_state(place: Place) -> tuple[dict[str, int], ...]:
    """The ports that a service whose desired.json is lost has, from what its keeper wrote."""
    state = _state_before(place)
    if state is None:
        return ()
    by_index = {one.index: one.ports for one in state.instances}
    return tuple(by_index.get(index, {}) for index in range(max(by_index, default=-1) + 1))


def _secrets_now(place: Place, spec: ServiceSpec) -> dict[str, str]:
    """Values of secrets from the caller's environment: those that are kept already stay, so that no second caller changes what runs.

    Raises:
        InputError: a variable is not set, and was not before.
    """
    wanted = {reference: name for name, reference in spec.secrets.items() if reference.startswith("env:")}
    kept = place.read_secrets() if wanted else {}
    result = {}
    for reference, name in wanted.items():
        variable = reference.removeprefix("env:")
        if reference in kept:
            result[reference] = kept[reference]
        elif variable in os.environ:
            result[reference] = os.environ[variable]
        else:
            raise InputError(f"secrets.{name}: the variable {variable} is not set")
    return result


def _make_volumes(volumes: Sequence[Volume]) -> list[str]:
    """Make the folders of `empty` volumes; returns those that were not there."""
    made = []
    for index, volume in enumerate(volumes):
        if volume.empty and not os.path.isdir(volume.path):
            try:
                with os_errors(volume.path):
                    os.makedirs(volume.path)
            except FileExistsError:
                raise InputError(f"volumes[{index}]: {volume.path} is there, and no folder") from None
            made.append(volume.path)
    return made
