"""Guard: stands between the launcher and the job, so that no end of either leaves processes of the job behind.

`python -I -S guard.py LAUNCHER_PID STATUS_FD COMMAND...` starts the command and waits for it. It is the leader of the job's process group,
and its kernel hands it every orphan among the job's descendants (PR_SET_CHILD_SUBREAPER), those with a session of their own included, as
torchrun's workers have. When the command has ended, however that came, what is left of its descendants is told to end (SIGTERM), and
killed GRACE_S later. When the launcher has ended (PR_SET_PDEATHSIG), be it by `kill -9`, the same is done with all of the job. And when
the guard itself is killed, the kernel kills the command.

Signals that the launcher passes on go to the whole group. A second SIGINT, SIGTERM or SIGHUP within AGAIN_S of one kills the job.
Signals of the terminal have reached the job without us, and stay its own affair.

What is written to STATUS_FD, one line each: `pid N` once it runs, `error ERRNO` if it could not be started, `end STATUS` (as waitpid says
it) when everything is gone. Only the standard library, and little of it: it starts in some 20 ms, which every job waits for.
Source: prctl(2), sigaction(2) (si_code), waitpid(2). One thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

GRACE_S = 5.0
AGAIN_S = 30.0
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
PASSED_ON = ENDING | {signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ORPHANED = signal.SIGRTMAX  # no job is told anything by it
_SI_KERNEL = 0x80


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code of the guard, which says nothing: see STATUS_FD."""
    launcher, status_fd, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    os.set_inheritable(status_fd, False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD, _ORPHANED})
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, _ORPHANED)
    job, failed = _start(command, before)
    if failed:
        os.write(status_fd, b"error %d\n" % failed)
        return 1
    _tell(status_fd, b"pid %d\n" % job)
    status = _watch(job, launcher)
    _end_rest()
    _tell(status_fd, b"end %d\n" % status)
    return 0


def _start(command: list[str], mask: set[int | signal.Signals]) -> tuple[int, int]:
    """The process's id, and the errno of what went wrong or 0."""
    reading, writing = os.pipe()  # closed by a successful exec, so it brings an errno or nothing
    guard = os.getpid()
    job = os.fork()
    if not job:
        try:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so through exec
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == guard:
                os.execvp(command[0], command)
        except OSError as exc:
            os.write(writing, b"%d" % (exc.errno or 1))
        finally:
            os._exit(127)
    os.close(writing)
    failed = int(os.read(reading, 16) or b"0")
    os.close(reading)
    return job, failed


def _watch(job: int, launcher: int) -> int:
    """Pass signals on until the job has ended; its wait status."""
    asked_at = -AGAIN_S  # when it was last told to end
    killed_at = float("inf")
    group = os.getpgid(0)
    while True:
        while (reaped := _reap()) is not None:
            if reaped[0] == job:
                return reaped[1]
        if os.getppid() != launcher and killed_at == float("inf"):
            _signal_all(signal.SIGTERM)
            killed_at = time.monotonic() + GRACE_S
        wait_s = min(max(killed_at - time.monotonic(), 0.0), 60.0)
        told = signal.sigtimedwait(PASSED_ON | {signal.SIGCHLD, _ORPHANED}, wait_s)
        if time.monotonic() >= killed_at:
            _kill_all()
        if told is None or told.si_signo not in PASSED_ON or told.si_code == _SI_KERNEL or told.si_pid == os.getpid():
            continue
        if told.si_signo in ENDING and time.monotonic() - asked_at < AGAIN_S:
            _say("told to end once more: killing the job")
            killed_at = 0.0
            _kill_all()
            continue
        if told.si_signo in ENDING:
            asked_at = time.monotonic()
            _say(f"passed {signal.Signals(told.si_signo).name} on to the job; once more within {AGAIN_S:.0f} s kills it")
        os.killpg(group, told.si_signo)


def _end_rest() -> None:
    """End what the job has left behind."""
    if not _descendants():
        return
    _signal_all(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while _descendants():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            _kill_all()
            return
        signal.sigtimedwait({signal.SIGCHLD}, min(left_s, 0.05))
        while _reap() is not None:
            pass


def _reap() -> tuple[int, int] | None:
    """A child that has ended, and its status."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _signal_all(number: signal.Signals) -> None:
    for pid in _descendants():
        try:
            os.kill(pid, number)
            if number != signal.SIGKILL:
                os.kill(pid, signal.SIGCONT)  # a stopped process would hear of it when it goes on
        except ProcessLookupError:
            pass


def _kill_all() -> None:
    """Kill every descendant; those that were started meanwhile too. The job's own status is left to be reaped."""
    for _ in range(100):
        alive = _descendants()
        if not alive:
            return
        _signal_all(signal.SIGKILL)
        time.sleep(0.005)


def _descendants() -> list[int]:
    """Every living process that comes from this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    after = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
            except OSError:
                continue
            if after[0] not in (b"Z", b"X"):
                children.setdefault(int(after[1]), []).append(int(name))
    found, waiting = [], [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.append(child)
            waiting.append(child)
    return found


def _prctl(option: int, value: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _tell(status_fd: int, line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # the launcher has ended
        os.write(status_fd, line)


def _say(what: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"fondaco: {what}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
