"""Retry: when a request that failed is asked again, and after how long. Pure decisions; no clock, no socket.

Everything these clients send may be sent twice: reads change nothing, and a write carries its stamp, so applying it again changes nothing
either. What decides is therefore the error: a peer that does not answer, or says that it cannot now, is asked again, or another in its
place. Never after 429: who has used up a share only makes it worse. Never after an answer that would be the same.

Delays grow by doubling and are drawn from the whole range below ("full jitter"), so that clients that failed together do not come back
together. Source: M. Brooker, "Exponential Backoff And Jitter" (2015).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from fondaco.core.errors import FondacoError, ProtocolError, UnavailableError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts` in all; before attempt n (from 1) a pause of up to `base_s * 2 ** (n - 1)`, at most `cap_s`."""

    attempts: int = 4
    base_s: float = 0.02
    cap_s: float = 1.0

    def again(self, error: FondacoError, attempts_made: int) -> bool:
        """Whether to ask again after `attempts_made` that ended in `error`."""
        return attempts_made < self.attempts and is_passing(error)

    def pause_s(self, attempts_made: int, rng: random.Random) -> float:
        """Seconds to wait before the next attempt."""
        return rng.uniform(0.0, min(self.cap_s, self.base_s * 2 ** (attempts_made - 1)))


def is_passing(error: FondacoError) -> bool:
    """Whether another attempt, or another peer, may do better. A ProtocolError is not: what answers is no server of ours."""
    return isinstance(error, UnavailableError) and not isinstance(error, ProtocolError)
