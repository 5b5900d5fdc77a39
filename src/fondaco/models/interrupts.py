"""Interrupts: signals while there is no job to pass them on to. The first leads out, orderly; a second one cuts that short."""

from __future__ import annotations

import signal
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from fondaco.models.guard import ENDING


class Interrupted(BaseException):
    """Somebody wants us to end, by a signal. Not an Exception: nothing on the way shall take it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruptible:
    """While this is entered, SIGINT, SIGTERM and SIGHUP raise Interrupted in the main thread; elsewhere they are left alone.

    Attributes:
        raising: False: the first is only noted, in `caught`; the next one raises.
    """

    def __init__(self) -> None:
        self.raising = True
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruptible:
        if current_thread() is main_thread():
            for number in ENDING:
                if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` means it
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.raising or self.caught is not None:
            self.raising = False
            self.caught = number
            raise Interrupted(number)
        self.caught = number
