"""Job: a command that runs in our place: same terminal, same input and output, unchanged; its signals, and how it ended.

The command's process group is not ours, so that a signal meets the job once, from us, and the job's end does not touch a pipeline that we
are part of. As a shell does, we hand the terminal over when the job wants to read from it (SIGTTIN, SIGTTOU), stop when it is stopped
(Ctrl-Z), and let it go on when we do. A job that has taken the terminal gets its Ctrl-C from there.

Between us and the job stands `guard`, a small process that ends what the job leaves behind. Used from one thread; in the main thread
signals are taken from the moment it starts and passed on, in another one they are left alone.
Source: "Job control" in the glibc manual, section 28.5; waitpid(2).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Final

from fondaco.core.errors import InputError
from fondaco.models.guard import PASSED_ON

RUN_VARIABLE: Final = "FONDACO_RUN_ID"  # by which processes of a job are known, wherever they have moved
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit codes, as shells have them
_GUARD: Final = Path(__file__).with_name("guard.py")


class CommandError(InputError):
    """A job's command cannot be started. `exit_code` is what a shell would end with: 127 for none of this name, 126 for no program."""

    def __init__(self, command: str, reason: str, exit_code: int) -> None:
        super().__init__(command, reason, exit_code)
        self.command, self.reason, self.exit_code = command, reason, exit_code

    def __str__(self) -> str:
        return f"{self.command}: {self.reason}; the command is what stands after `--`, a program in PATH or a path as ./train.sh"


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended: its exit code (128 + n if signal n ended it), and that signal."""

    exit_code: int
    signal: int | None = None

    @classmethod
    def of_status(cls, status: int) -> End:
        """From what waitpid says."""
        code = os.waitstatus_to_exitcode(status)
        return cls(code) if code >= 0 else cls(128 - code, -code)


class Job:
    """One running command. Start it by `Job(...)`, then `wait`; as a context manager it is killed if `wait` was left early."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, run_id: str, directory: str | None = None) -> None:
        """
        Args:
            env: its whole environment; RUN_VARIABLE holds `run_id`. directory: where it runs; None: here.
        Raises:
            CommandError: there is no such program, or it cannot be run.
        """
        self.pid = 0
        self.signalled: int | None = None  # the last signal that was passed on
        self._run_id = run_id
        self._ended: End | None = None
        self._rest = b""
        self._closing = contextlib.ExitStack()
        # before it starts: from then on a signal is meant for it
        self._signals = self._closing.enter_context(_Signals()) if current_thread() is main_thread() else None
        reading, writing = os.pipe()
        self._closing.callback(os.close, reading)
        os.set_blocking(reading, False)
        self._status = reading
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), str(writing), *command],
                env=env,
                cwd=directory,
                pass_fds=[writing],
                process_group=0,
            )
        except BaseException:
            self._closing.close()
            raise
        finally:
            os.close(writing)
        self._wait_until_started(command)

    @property
    def group(self) -> int:
        """The process group of the job."""
        return self._guard.pid

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended is None:
            self.kill()
            self.wait()
        self._closing.close()

    def kill(self) -> None:
        """Kill the job and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
        self._sweep()

    def tell(self, number: int) -> None:
        """Pass a signal on to the job's group, and wake it if it is stopped."""
        self.signalled = number
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.group, number)  # the guard, which passes it on and counts
            os.killpg(self.group, signal.SIGCONT)

    def wait(self) -> End:
        """Wait until the job and all that it started have ended, and its guard too."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if self._signals is not None:
            poll.register(self._signals.fd, select.POLLIN)
        while self._ended is None:
            readable = {fd for fd, _ in poll.poll(60_000)}
            if self._signals is not None and self._signals.fd in readable:
                self._act_on(self._signals)
            if self._status in readable:
                self._read_status()
        self._guard.wait()
        return self._ended

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _wait_until_started(self, command: Sequence[str]) -> None:
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        while not self.pid and self._ended is None:
            poll.poll(60_000)
            failed = self._read_status()
            if failed:
                self._guard.wait()
                self._closing.close()
                raise could_not_start(command[0], failed)

    def _read_status(self) -> int:
        """Take what the guard says; the errno of a start that failed, or 0."""
        with contextlib.suppress(BlockingIOError):
            told = os.read(self._status, 4096)
            *lines, self._rest = (self._rest + told).split(b"\n")
            for line in lines:
                word, _, number = line.partition(b" ")
                if word == b"error":
                    return int(number)
                if word == b"pid":
                    self.pid = int(number)
                else:
                    self._ended = End.of_status(int(number))
            if not told and self._ended is None:  # the guard was killed, and the job with it
                self._sweep()
                self._guard.wait()
                self._ended = End(128 + signal.SIGKILL, signal.SIGKILL)
        return 0

    def _act_on(self, signals: _Signals) -> None:
        for number in signals.taken():
            if number == signal.SIGTSTP:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.group, signal.SIGTSTP)
            elif number != signal.SIGCHLD:
                self.tell(number)
            else:
                self._look_if_stopped(signals)

    def _look_if_stopped(self, signals: _Signals) -> None:
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(self._guard.pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if not os.WIFSTOPPED(status):
                self._guard.returncode = os.waitstatus_to_exitcode(status)
                return
            terminal = _Terminal.ours()
            wants_terminal = os.WSTOPSIG(status) in (signal.SIGTTIN, signal.SIGTTOU)
            if wants_terminal and terminal is not None and terminal.owner == os.getpgrp():
                terminal.give(self.group)
            else:
                had_it = terminal is not None and terminal.owner == self.group
                if terminal is not None and had_it:
                    terminal.give(os.getpgrp())
                signals.stop_ourselves()
                if terminal is not None and (had_it or wants_terminal) and terminal.owner == os.getpgrp():
                    terminal.give(self.group)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGCONT)

    def _sweep(self) -> None:
        """Kill every process that has the run's variable: what is left when there was no guard any more to do it."""
        mark = f"{RUN_VARIABLE}={self._run_id}".encode()
        for _ in range(20):  # those that were started while we looked
            found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != os.getpid() and _has(pid, mark)]
            if not found:
                return
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def could_not_start(program: str, number: int) -> CommandError:
    """The error of an errno."""
    if number == 2:
        return CommandError(program, "command not found", NOT_FOUND)
    return CommandError(program, f"cannot be run ({os.strerror(number)})", NOT_EXECUTABLE)


def _has(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Terminal:
    """The terminal that we were started from, if standard input still is it."""

    fd: int

    @classmethod
    def ours(cls) -> _Terminal | None:
        try:
            os.tcgetpgrp(0)
        except OSError:
            return None
        return cls(0)

    @property
    def owner(self) -> int:
        """The process group that reads from it."""
        try:
            return os.tcgetpgrp(self.fd)
        except OSError:
            return -1  # it was hung up

    def give(self, group: int) -> None:
        """Let a process group have it."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # who is in the background would be stopped for asking
        try:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self.fd, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Signals:
    """Signals as things to read, while the job runs. What was done with them before is restored."""

    def __init__(self) -> None:
        self._seen: deque[int] = deque()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self.fd, self._writing = os.pipe()
        for end in (self.fd, self._writing):
            os.set_blocking(end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGTSTP, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:  # `nohup` means it
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self.fd)
        os.close(self._writing)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._seen.append(number)

    def taken(self) -> Iterator[int]:
        """The signals that have come, each once."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass
        while self._seen:
            yield self._seen.popleft()

    def stop_ourselves(self) -> None:
        """Be stopped, with whoever is in our group, until somebody lets us go on."""
        if signal.SIGTSTP not in self._before:
            return
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            os.killpg(os.getpgrp(), signal.SIGTSTP)
        finally:
            signal.signal(signal.SIGTSTP, self._take)
