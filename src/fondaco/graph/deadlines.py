"""Deadlines: the moment by which a whole answer is wanted, passed down through every step."""

from __future__ import annotations

import time

from fondaco.core.errors import DeadlineExceededError, InputError


class Deadline:
    """A moment of the monotonic clock; `None` seconds: never. Immutable; any thread."""

    __slots__ = ("at", "seconds", "what")

    def __init__(self, seconds: float | None = None, what: str = "the graph's answer") -> None:
        """
        Raises:
            InputError: no number of seconds.
        """
        if seconds is not None and (isinstance(seconds, (str, bool)) or not hasattr(seconds, "__float__") or seconds != seconds):
            raise InputError(f"timeout_s is a number of seconds, or None: no limit; not {seconds!r}")
        self.seconds = seconds
        self.what = what
        self.at = None if seconds is None else time.monotonic() + seconds

    def left_s(self) -> float | None:
        """Seconds left, not below 0; None: no limit."""
        return None if self.at is None else max(self.at - time.monotonic(), 0.0)

    def check(self) -> None:
        """Raise DeadlineExceededError if the moment has passed."""
        if self.at is not None and time.monotonic() >= self.at:
            raise DeadlineExceededError(self.what, self.seconds or 0.0)
