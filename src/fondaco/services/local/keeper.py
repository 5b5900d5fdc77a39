"""Keeper: the process that keeps one service: `python -m fondaco.services.local.keeper PLATFORM SERVICE`, detached from whoever began it.

It reads what shall be from desired.json, runs it, and writes how it stands to state.json. It looks again when a byte comes through `wake`,
when an instance changes, and every few seconds; then it also sees to it that somebody looks whether services are still wanted (`sweep`).
It ends when the service is removed, when its directory is gone, or on SIGTERM; its instances end with it, also after `kill -9` (see
`processes.launch`), and the next keeper ends first what they may have left.

One keeper a service, by a lock that dies with it. One thread and no more: children are set up between fork and exec. It never ends because
of a full disk or a damaged file: it says so and goes on with what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fondaco.core.errors import FondacoError, LockedError
from fondaco.core.files import FileLock, remove_tree
from fondaco.services.local import ports, tree
from fondaco.services.local.files import SERVICES_DIRECTORY, Kept, KeptInstance, Place, State, locked
from fondaco.services.local.instance import RunningInstance
from fondaco.services.local.logfile import older
from fondaco.services.local.plan import Plan, plan
from fondaco.services.local.sweep import Sweeps
from fondaco.services.spec import ServiceSpec

_LOOK_S: Final = 5.0
_SOON_S: Final = 0.01  # changes that come together are written together
_LOCK_TRIES: Final = 20  # those who look at the lock hold it for microseconds
_STARTS_AT_ONCE: Final = 8
_LOG_BYTES_MAX: Final = 1 << 20
_PR_SET_CHILD_SUBREAPER: Final = 36


class Keeper:
    """Keeps one service. `run` returns when it is over."""

    def __init__(self, platform: Path, place: Place, *, is_first: bool) -> None:
        self._platform, self._place, self._is_first = platform, place, is_first
        self._identity = _identity(place.path)
        self._files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # two for each instance
        self._kept: Kept | None = None
        self._read: tuple[int, int, int] | None = None  # which desired.json that was
        self._plans: dict[int, Plan] = {}
        self._instances: dict[int, RunningInstance] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._write_due: asyncio.TimerHandle | None = None
        self._reason = ""
        self._stopping = ""
        self._zombies: set[int] = set()
        self._sweeps, self._sweeps_seen_to = Sweeps(platform, place.services), time.monotonic()

    async def run(self) -> None:
        """Keep it until it is removed or a signal comes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, f"{number.name} came")
        with self._pipe(loop):
            self._look()
            self._end_strays()
            self._write()
            while not self._stopping or self._instances:
                self._step()
                await asyncio.sleep(0)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_S)
                woken = self._wake.is_set()
                self._wake.clear()
                self._look()
                self._see_to_sweeps()
                if not woken:
                    self._reap()
                    shorten_log(self._place.path / "keeper.log")
        self._finish()

    # -- what shall be ----------------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Read desired.json if it is another one, and whether the service goes."""
        if not self._stopping:
            if _identity(self._place.path) != self._identity:
                self._stop("its directory is gone")
            elif self._place.removing() is not None:
                self._stop("the service is removed")
        path = self._place.path / "desired.json"
        try:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_ino, status.st_size)
            if version == self._read:
                return
            kept = self._place.read_kept()
            if kept is None:
                return
            self._read = version
            if self._kept is not None and kept.incarnation != self._kept.incarnation:
                self._stop(f"desired.json is of incarnation {kept.incarnation}")
                return
            spec = ServiceSpec.from_dict(kept.spec)
            self._plans = {
                index: plan(spec, kept, index, platform=self._platform, place=self._place.path) for index in range(kept.replicas)
            }
            self._kept, self._reason = kept, ""
            for instance in self._instances.values():  # whoever has applied again wants to see it tried again
                instance.anew()
            self._changed()
        except (FondacoError, OSError) as exc:
            if str(exc) != self._reason and not self._stopping:
                self._reason = str(exc)
                self._say(f"desired.json: {exc}; going on with what was read before")
                self._changed()

    def _stop(self, why: str) -> None:
        if not self._stopping:
            self._stopping = why
            self._say(f"{why}: stopping")
        self._wake.set()

    def _see_to_sweeps(self) -> None:
        """Have somebody look whether this service, and others, are still wanted."""
        now = time.monotonic()
        if self._stopping or now - self._sweeps_seen_to < _LOOK_S:
            return
        self._sweeps_seen_to = now
        try:
            self._sweeps.see_to()
        except OSError as exc:
            self._say(f"a sweep could not be started: {exc}")

    # -- from one to the other ------------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Do what can be done now towards what shall be; each change wakes us for the next step."""
        if self._stopping:
            for instance in list(self._instances.values()):
                self._end(instance)
            return
        for index in [index for index in self._instances if index not in self._plans]:
            self._end(self._instances[index])
        missing = [index for index in self._plans if index not in self._instances]
        for index in missing[:_STARTS_AT_ONCE]:
            self._start(self._plans[index])
        if len(missing) > _STARTS_AT_ONCE:  # a fork can take long on a busy machine: look between them whether they are still wanted
            self._wake.set()
            return
        stale = [index for index, instance in self._instances.items() if index in self._plans and not self._is_current(index)]
        for index in stale:
            if not self._instances[index].is_ready:  # it serves nobody: nothing is lost by replacing it now
                self._end(self._instances[index])
        stale = [index for index in stale if not self._instances[index].ending]
        settled = all(self._instances[index].is_ready for index in self._plans if index not in stale)
        if stale and settled:
            self._end(self._instances[min(stale)])

    def _is_current(self, index: int) -> bool:
        return index in self._plans and self._instances[index].plan.digest == self._plans[index].digest

    def _start(self, each: Plan) -> None:
        self._instances[each.index] = RunningInstance(
            each,
            secrets=self._place.read_secrets(),
            log=self._place.path / "log" / f"{each.index}.log",
            files=self._files,
            say=self._say,
            changed=self._changed,
        )
        self._changed()

    def _end(self, instance: RunningInstance) -> None:
        if not instance.ending:
            instance.ending = True
            task = asyncio.create_task(self._ended(instance))
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)

    async def _ended(self, instance: RunningInstance) -> None:
        try:
            await instance.end()
        finally:
            del self._instances[instance.plan.index]
            self._changed()

    # -- how it stands ------------------------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._wake.set()
        if self._write_due is None:
            self._write_due = asyncio.get_running_loop().call_later(_SOON_S, self._write)

    def _write(self) -> None:
        if self._write_due is not None:
            self._write_due.cancel()
            self._write_due = None
        kept = self._kept
        if kept is None and (kept := self._guess()) is None:
            return
        instances = [self._state(index) for index in sorted(self._instances)]
        state = State(kept.service, kept.incarnation, kept.sequence, os.getpid(), tuple(instances), self._reason)
        try:
            self._place.write_state(state)
        except OSError as exc:
            if _identity(self._place.path) == self._identity:
                self._say(f"state.json could not be written: {exc}")
                self._write_due = asyncio.get_running_loop().call_later(_LOOK_S, self._write)

    def _state(self, index: int) -> KeptInstance:
        return self._instances[index].state(current=self._is_current(index))

    def _guess(self) -> Kept | None:
        """desired.json cannot be read, and never was: what the last keeper wrote says whose this is."""
        with contextlib.suppress(FondacoError, OSError):
            if (state := self._place.read_state()) is not None:
                return Kept(state.service, state.incarnation, 0, {}, 0, {}, "", (), {})
        return None

    def _say(self, what: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {what}\n".encode())

    # -- what was left ------------------------------------------------------------------------------------------------------------------

    def _end_strays(self) -> None:
        """End what an earlier keeper's instances have left. Nothing is looked for where none was: it costs a walk through /proc."""
        if not self._is_first and (count := end_strays(self._place.path)):
            self._say(f"{count} processes of an earlier keeper were still running; they were killed")

    def _reap(self) -> None:
        """Take leave of adopted children that have ended: those of which we hear twice; the others are asyncio's."""
        mine = os.getpid()
        ours = {instance.pid for instance in self._instances.values()}
        found = set()
        with contextlib.suppress(ChildProcessError):
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                self._zombies = set()
                return
            found = {int(name) for name in os.listdir("/proc") if name.isdigit() and _is_zombie_of(int(name), mine)} - ours
            for pid in found & self._zombies:
                os.waitpid(pid, os.WNOHANG)
        self._zombies = found

    def _finish(self) -> None:
        """All instances have ended: end what is left of them, and take the directory away if the service goes."""
        root = os.getpid()
        tree.end_all(lambda: tree.descendants(root, tree.see_all()))
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if _identity(self._place.path) != self._identity:
            return
        if self._place.removing() is not None:
            try:
                with locked(self._place.services):
                    take_away(self._place)
            except (FondacoError, OSError) as exc:
                self._say(f"could not be removed: {exc}")
        else:
            self._say("ended")

    @contextlib.contextmanager
    def _pipe(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Listen to `wake`, which is made again if it is not there."""
        path = self._place.path / "wake"
        with contextlib.suppress(OSError):
            os.mkfifo(path, 0o600)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # written by us too: it never ends
        except OSError as exc:
            self._say(f"{path} cannot be opened: {exc}; looking every {_LOOK_S:g} s only")
            yield
            return

        def woken() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 4096)
            self._changed()  # whoever wakes us may have found state.json damaged

        loop.add_reader(descriptor, woken)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def end_strays(place: Path) -> int:
    """Kill what instances of a service have left, of any incarnation; where no keeper runs. Returns how many."""
    return tree.end_all(lambda: tree.marked(f"{place}#", tree.see_all()))


def take_away(place: Place) -> None:
    """Remove a service of which nothing runs: what was made for it, the claims of its ports, its directory. Under the lock."""
    kept = None
    with contextlib.suppress(FondacoError):
        kept = place.read_kept()
    for folder in kept.made if kept is not None else ():
        remove_tree(Path(folder))
    ports.give_back(place.services, place.service)
    place.take_away()


def shorten_log(path: Path) -> None:
    """Begin a new log where stderr goes to one that is long."""
    with contextlib.suppress(OSError):
        if os.fstat(2).st_size > _LOG_BYTES_MAX and path.exists():
            os.replace(path, older(path))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.close(descriptor)


def _is_zombie_of(pid: int, parent: int) -> bool:
    seen = tree.see(pid)
    return seen is not None and seen.parent == parent and seen.state == "Z"


def _identity(path: Path) -> tuple[int, int] | None:
    """Which directory that is now: another one of this name is not ours."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _acquire(place: Place, lock: FileLock) -> bool:
    """Become the one that keeps it, unless there is one. Under the lock of all services: nobody takes the directory away meanwhile."""
    with locked(place.services):
        if not place.exists():
            return False
        for _ in range(_LOCK_TRIES):
            with contextlib.suppress(LockedError):
                lock.acquire()
                return True
            time.sleep(0.001)
    return False


def main(arguments: Sequence[str]) -> int:
    """Be the keeper of a service."""
    platform, service = Path(arguments[0]), arguments[1]
    place = Place(platform / SERVICES_DIRECTORY, service)
    for number in (signal.SIGINT, signal.SIGQUIT):  # a shell that starts us in the background has them ignored
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    lock = FileLock(place.path / "keeper.lock")
    is_first = not lock.path.exists()
    try:
        if not _acquire(place, lock):
            return 0  # another one keeps it, or it is gone
    except (FondacoError, OSError) as exc:
        print(f"the keeper could not begin: {exc}", file=sys.stderr)
        return 1
    if sys.version_info < (3, 12):  # later ones do so by themselves; the default before is a thread for each child
        asyncio.get_event_loop_policy().set_child_watcher(asyncio.PidfdChildWatcher())
    try:
        asyncio.run(Keeper(platform, place, is_first=is_first).run())
    finally:
        lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
