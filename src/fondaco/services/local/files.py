"""Files: what lies in `<platform>/services/`, who writes it, and how it is read so that damage and races are seen and not believed.

    .lock                    held (flock) while a service is made, changed or taken away: milliseconds
    .ports/<number>          a symbolic link to <service>: the port is that service's, whether it runs or not
    .reaped                  its time of change is when a reaper has last looked (`sweep`)
    <service>/desired.json   what shall be: sealed; written by `apply`, read by the keeper
    <service>/state.json     how it stands: sealed, not synced (after a power loss nothing of it runs); written by the keeper
    <service>/secrets.json   values of secrets that came from the caller's environment; mode 0600
    <service>/removed        a symbolic link to the incarnation that is on its way out (a link needs no space on a full disk)
    <service>/keeper.lock    held by the keeper for as long as it lives
    <service>/keeper.log     what the keeper says        <service>/wake   a pipe: a byte in it makes the keeper look
    <service>/log/<i>.log    what instance i says; older in <i>.log.1
    <service>/work           working directories, by instance

A service's directory has mode 0700. It appears at once with its desired.json (made aside and renamed), and disappears at once.
Any thread, any process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import msgspec

from fondaco.core.errors import CorruptFileError, LockedError, PermissionDeniedError, UnavailableError
from fondaco.core.files import FileLock, os_errors, remove_tree, write_atomically
from fondaco.core.sealed import read_sealed, sealed, write_sealed
from fondaco.services.provisioner import Phase

SERVICES_DIRECTORY: Final = "services"
_FORMAT: Final = 1
_LOCK_WAIT_S: Final = 8.0


class Kept(msgspec.Struct, frozen=True):
    """desired.json.

    Attributes:
        sequence: grows with each change that concerns the processes, and when what has failed shall be tried again.
        spec: as `ServiceSpec.to_dict`. environment: what the processes get of the environment of whoever ensured the service first.
        ports: of each instance, by name; may be longer than `replicas`: who is scaled down and up again comes back to its ports.
        made: folders that were made for volumes, and go with the service.
    """

    service: str
    incarnation: int
    sequence: int
    spec: dict[str, Any]
    replicas: int
    annotations: dict[str, str]
    host: str
    ports: tuple[dict[str, int], ...]
    environment: dict[str, str]
    made: tuple[str, ...] = ()


class KeptInstance(msgspec.Struct, frozen=True):
    """How one instance stands. `current`: it runs what desired.json says. `was_ready`: it was, since it runs that."""

    index: int
    phase: Phase
    pid: int | None
    restarts: int
    reason: str
    where: str
    current: bool
    was_ready: bool
    ports: dict[str, int]


class State(msgspec.Struct, frozen=True):
    """state.json. `sequence`: of the desired.json that has been taken up."""

    service: str
    incarnation: int
    sequence: int
    keeper: int
    instances: tuple[KeptInstance, ...]
    reason: str = ""


class Place:
    """The directory of one service, whether it is there or not."""

    def __init__(self, services: Path, service: str) -> None:
        self.services = services
        self.service = service
        self.path = services / service

    # -- what shall be ----------------------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        return self.path.is_dir()

    def read_kept(self) -> Kept | None:
        """desired.json, or None if there is none.

        Raises:
            CorruptFileError. FormatVersionError. PermissionDeniedError: the service is another user's.
        """
        try:
            with _permitted(self.path):
                kept = read_sealed(self.path / "desired.json", Kept, kind="service desired", format_=_FORMAT)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if kept.service != self.service:
            raise CorruptFileError(str(self.path / "desired.json"), "manifest", f"it is of service {kept.service!r}")
        return kept

    def write_kept(self, kept: Kept, *, secrets: Mapping[str, str]) -> None:
        """Replace desired.json and secrets.json, or make the directory with them in one step.

        Raises:
            DiskFullError, ReadOnlyError: all is as before.
        """
        if self.exists():
            self._write_secrets(self.path, secrets)
            write_sealed(self.path / "desired.json", kept, kind="service desired", format_=_FORMAT)
            return
        aside = self.services / f".making-{self.service}-{token_hex(4)}"
        try:
            with os_errors(self.path):
                aside.mkdir(mode=0o700)
                (aside / "log").mkdir()
                (aside / "work").mkdir()
                os.mkfifo(aside / "wake", 0o600)
                self._write_secrets(aside, secrets)
                write_sealed(aside / "desired.json", kept, kind="service desired", format_=_FORMAT)
                os.rename(aside, self.path)
        except BaseException:
            remove_tree(aside)
            raise

    def _write_secrets(self, directory: Path, values: Mapping[str, str]) -> None:
        if values and (directory != self.path or values != self.read_secrets()):
            write_atomically(directory / "secrets.json", msgspec.json.encode(dict(values)), mode=0o600)

    def read_secrets(self) -> dict[str, str]:
        """The values that were kept, by reference ("env:NAME"); those that cannot be read are not there."""
        try:
            return msgspec.json.decode((self.path / "secrets.json").read_bytes(), type=dict[str, str])
        except (OSError, msgspec.MsgspecError):
            return {}

    # -- how it stands ----------------------------------------------------------------------------------------------------------------

    def read_state(self) -> State | None:
        """state.json, or None if there is none.

        Raises:
            CorruptFileError. FormatVersionError. PermissionDeniedError.
        """
        try:
            with _permitted(self.path):
                return read_sealed(self.path / "state.json", State, kind="service state", format_=_FORMAT)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_state(self, state: State) -> None:
        """Replace state.json. On a full disk the old one goes first: its space usually is enough, and no state is better than a wrong one.

        Raises:
            OSError.
        """
        path, data = self.path / "state.json", sealed(state, kind="service state", format_=_FORMAT)
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_bytes(data)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            path.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
            temporary.write_bytes(data)
        os.replace(temporary, path)

    def keeper(self) -> int | None:
        """The process that keeps the service now, or None: decided by the lock, which dies with it. (0: it has not written its id yet.)"""
        try:
            with _permitted(self.path):
                descriptor = os.open(self.path / "keeper.lock", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            # Shared: those who look do not disturb each other, and a keeper that starts just now tries again.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(descriptor, 32, 0).strip()
            return int(text) if text.isdigit() else 0
        finally:
            os.close(descriptor)
        return None

    def wake(self) -> None:
        """Have the keeper look; nothing if there is none."""
        try:
            descriptor = os.open(self.path / "wake", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        with contextlib.suppress(OSError):  # full: it will look anyway
            os.write(descriptor, b"!")
        os.close(descriptor)

    # -- its end ----------------------------------------------------------------------------------------------------------------------

    def removing(self) -> int | None:
        """The incarnation that is on its way out, or None."""
        try:
            with _permitted(self.path):
                return int(os.readlink(self.path / "removed"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def mark_removed(self, incarnation: int) -> None:
        """Note that it goes."""
        with contextlib.suppress(FileExistsError, FileNotFoundError), os_errors(self.path):
            os.symlink(str(incarnation), self.path / "removed")

    def take_away(self) -> None:
        """Remove the directory, at once for others. Under the lock of all services."""
        aside = self.services / f".removing-{self.service}-{token_hex(4)}"
        with contextlib.suppress(FileNotFoundError), os_errors(self.path):
            os.rename(self.path, aside)
        for left in self.services.glob(f".removing-{self.service}-*"):  # also of one who died at this point
            remove_tree(left)


def places(services: Path) -> list[Place]:
    """Those that are there, by name."""
    try:
        with _permitted(services):
            names = sorted(entry.name for entry in os.scandir(services) if not entry.name.startswith(".") and entry.is_dir())
    except FileNotFoundError:
        return []
    return [Place(services, name) for name in names]


@contextlib.contextmanager
def locked(services: Path) -> Iterator[None]:
    """Hold the lock of all services of a platform.

    Raises:
        UnavailableError: another held it too long. ReadOnlyError.
    """
    with os_errors(services):
        services.mkdir(exist_ok=True)
    lock = FileLock(services / ".lock")
    deadline, pause = time.monotonic() + _LOCK_WAIT_S, 0.001
    while True:
        try:
            lock.acquire()
            break
        except LockedError as exc:
            if time.monotonic() > deadline:
                raise UnavailableError("the services of this machine", str(exc)) from exc
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _permitted(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as exc:
        raise PermissionDeniedError(f"user {os.getuid()}", "owner", str(path)) from exc
