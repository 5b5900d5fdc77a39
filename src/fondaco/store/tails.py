"""Tails: the threads of this process that follow stores' topics, shared by the readers and writers that want them followed.

A store is tailed by one process at a time. Every process with an embedded reader or a writer runs a `TailerThread`, which becomes the one
who tails when nobody else is; it ends with the last reader or writer. Pickling a reader takes the `TailSource` along, so that where it
arrives the log is followed too.

A build keeps both cores and the interpreter busy, and a tailer beside it in the same process would be late. So while a push is at work
(`handed_over`) and lasts, a process of its own (`python -m fondaco.store.tailing`) takes over what this process tails.

A store that nobody wrote to has no topic, and most stores never have one: for them no thread runs, but one for all that looks once a second
whether a topic has come (`ensure` looks at once).

Any thread. A forked child begins with none of its parent's threads, and so with no tails.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from fondaco.core.clock import Clock
from fondaco.core.errors import FondacoError, StoreNotFoundError
from fondaco.store.governor import own_priority
from fondaco.store.layout import StoreLayout
from fondaco.store.log_handle import LogHandle, topic_of
from fondaco.store.tailer import TailedLog, TailerThread

HAND_OVER_AFTER_S: Final = 0.25  # a push that is over sooner disturbs no longer than a process takes to start
HAND_OVER_TIMEOUT_S: Final = 30.0
TOPIC_SECONDS: Final = 1.0  # between looks for topics that were not there

_Key = tuple[str, int, int]  # path of the store's directory, and which directory that is


@dataclass(frozen=True, slots=True)
class TailSource:
    """How to follow the topic of one store from this process. Picklable. `is_local`: the log's own files are those of this machine, so
    whether there is a topic can be seen in its directory."""

    directory: Path
    store: str
    log: LogHandle
    clock: Clock
    is_local: bool = True

    def acquire(self) -> Tail:
        """Have the topic followed until the tail is released.

        Raises:
            StoreNotFoundError: it was deleted.
        """
        try:
            status = os.stat(self.directory)
        except FileNotFoundError:
            raise StoreNotFoundError(self.store, where=str(self.directory.parent)) from None
        key = (str(self.directory), status.st_dev, status.st_ino)
        with _LOCK:
            shared = _SHARED.get(key)
            if shared is None:
                shared = _SHARED[key] = _Shared(self)
            shared.holders += 1
        return Tail(key, shared)


class Tail:
    """One holder's part in a store's tailer thread; gives it back when released, at the latest when it is forgotten."""

    def __init__(self, key: _Key, shared: _Shared) -> None:
        self._shared = shared
        self._release = weakref.finalize(self, _let_go, key, shared)

    def release(self) -> None:
        """Let go; with the last holder the thread ends. Twice is fine."""
        self._release()

    def ensure(self) -> None:
        """Follow the topic from now on, if there is one."""
        self._shared.start()

    def written(self) -> dict[int, int]:
        """The last offset of each partition of the topic that holds one; none if it cannot be asked at once, or nobody may tail it here."""
        return self._shared.written()

    @property
    def tailing(self) -> bool:
        """Whether it is this process that tails the store now."""
        return self._shared.tailing


class _Shared:
    """The thread of one store, and the log it follows, which it opens for itself: it may outlive the platform that made it."""

    def __init__(self, source: TailSource) -> None:
        self.holders = 0
        self.platform = source.directory.parent.parent
        self._source = source
        self._log = source.log.copy()
        self._lock = threading.Lock()
        self._thread: TailerThread | None = None
        self._paused = False
        self.start()

    def start(self) -> None:
        """Tail whenever nobody else does, once there is a topic."""
        source = self._source
        if self._thread is not None:
            return
        if not self.has_topic():
            _WATCH.add(self)
            return
        with self._lock:
            if self._thread is None and not self._paused:
                self._thread = TailerThread(
                    StoreLayout(source.directory).overlay, source.log.directory, topic_of(source.store), self._open_log, clock=source.clock
                ).start()

    def has_topic(self) -> bool:
        """Whether anybody wrote to the store, as far as that can be seen from here."""
        return not self._source.is_local or (self._source.log.directory / topic_of(self._source.store)).exists()

    def pause(self) -> None:
        """Let others tail, until `resume`."""
        with self._lock:
            self._paused = True
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def resume(self) -> None:
        """Tail again."""
        with self._lock:
            self._paused = False
        self.start()

    def close(self) -> None:
        """Stop for good."""
        self.pause()
        self._log.close()

    @property
    def tailing(self) -> bool:
        """Whether this process is the one who tails."""
        thread = self._thread
        return thread is not None and thread.tailing

    def written(self) -> dict[int, int]:
        """See `Tail.written`."""
        source = self._source
        if not source.is_local or not self.has_topic() or not os.access(source.directory, os.W_OK, effective_ids=True):
            return {}
        log, topic = self._log.open(), topic_of(source.store)
        try:
            ends = {partition: log.high_watermark(topic, partition) for partition in range(log.describe_topic(topic).partitions)}
        except FondacoError:  # it was deleted meanwhile, or is damaged, of which its tailer speaks
            return {}
        return {partition: end - 1 for partition, end in ends.items() if end > 0}

    def _open_log(self) -> TailedLog:
        return cast("TailedLog", self._log.open())


class _Watch:
    """The thread that looks for the topics of stores that have none yet; ends when there is nothing to look for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[_Shared] = set()
        self._thread: threading.Thread | None = None

    def add(self, shared: _Shared) -> None:
        """Start it when its topic has come."""
        with self._lock:
            self._waiting.add(shared)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fondaco topics", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(TOPIC_SECONDS)
            with self._lock:
                self._waiting = {shared for shared in self._waiting if shared.holders}
                if not self._waiting:
                    self._thread = None
                    return
                waiting = list(self._waiting)
            for shared in waiting:
                if shared.has_topic():
                    with self._lock:
                        self._waiting.discard(shared)
                    shared.start()


_LOCK = threading.Lock()
_SHARED: dict[_Key, _Shared] = {}
_WATCH = _Watch()


def _let_go(key: _Key, shared: _Shared) -> None:
    with _LOCK:
        shared.holders -= 1
        if shared.holders:
            return
        if _SHARED.get(key) is shared:
            del _SHARED[key]
    shared.close()


def _forget_after_fork() -> None:
    global _LOCK, _WATCH
    _LOCK, _WATCH = threading.Lock(), _Watch()
    for shared in _SHARED.values():
        shared.holders = 1 << 30  # the threads are the parent's; nothing here is to be closed
    _SHARED.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


# -- pushes -------------------------------------------------------------------------------------------------------------------------


class HandOver:
    """Gives what this process tails to a process of its own while a push is at work. `tick` is called now and then by the push."""

    def __init__(self, platform: Path) -> None:
        self._platform = platform
        self._began_s = time.monotonic()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped: list[_Shared] = []
        self._done = False

    def tick(self) -> None:
        """Start the other process if the push lasts; let go of the tailing once it is ready."""
        if self._done or time.monotonic() - self._began_s < HAND_OVER_AFTER_S:
            return
        if self._child is None:
            if not self._tailing():
                return
            command = [sys.executable, "-m", "fondaco.store.tailing", str(self._platform), "--until-stdin-closes"]
            with own_priority():  # the build's is the lowest, and this process is there so that nothing waits for the build
                self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert self._child.stdout is not None
            os.set_blocking(self._child.stdout.fileno(), False)
            return
        assert self._child.stdout is not None
        if self._child.stdout.read(1):  # it says when it is ready to take over
            self._stopped = self._tailing()
            for shared in self._stopped:
                shared.pause()
            self._done = True
        elif self._child.poll() is not None or time.monotonic() - self._began_s > HAND_OVER_TIMEOUT_S:
            self._done = True  # it cannot run here; this process goes on by itself

    def _tailing(self) -> list[_Shared]:
        with _LOCK:
            return [shared for shared in _SHARED.values() if shared.platform == self._platform and shared.tailing]

    def close(self) -> None:
        """Take it back."""
        for shared in self._stopped:
            if shared.holders:
                shared.resume()
        child = self._child
        if child is not None:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()


@contextlib.contextmanager
def handed_over(platform: Path) -> Iterator[HandOver]:
    """While the block runs, and calls `tick`, what this process tails of the platform is tailed by another."""
    hand_over = HandOver(platform)
    try:
        yield hand_over
    finally:
        hand_over.close()
