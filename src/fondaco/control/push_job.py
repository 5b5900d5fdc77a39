"""Push job: one push in a process of its own: `python -m fondaco.control.push_job`, started by the control API (`uploads`).

It reads a `PushJob` as JSON from stdin, pushes, and writes a `PushOutcome` as JSON to stdout; what it says besides goes to stderr. A push
takes all the CPU and memory it is given, and may fail in ways that end a process: it must not do so in the one that answers operators.
SIGTERM and SIGINT have the push killed, by the same request that `Store.kill` makes, so it ends between two chunks and clears up. They do
not raise in the middle of it: pyarrow was seen to swallow what a signal handler raised while it imported pandas.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from fondaco.core.errors import FondacoError, InputError, PushNotFoundError
from fondaco.dataplane import wire

if TYPE_CHECKING:
    import pyarrow as pa

    from fondaco.store.store import Store

_LOOK_S = 0.05

Kind = Literal["full", "incremental", "empty", "repush"]


class PushJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to push. `input` is a file with an Arrow IPC stream; `settings` are keyword arguments of the method of `Store`."""

    directory: str
    store: str
    kind: Kind
    input: str | None = None
    settings: dict[str, Any] = {}


class PushOutcome(msgspec.Struct, frozen=True):
    """How it ended: `body` is the report, or, if it did not end well, the body of an error (`dataplane.faults`)."""

    ended_well: bool
    body: msgspec.Raw


def run(job: PushJob, stop: threading.Event) -> object:
    """Push, and return the report; once `stop` is set, kill the push.

    Raises:
        as the method of `Store`.
    """
    import fondaco

    with fondaco.open(job.directory, create=False) as platform:
        store = platform.store(job.store)
        threading.Thread(target=_kill_when, args=(stop, store, job.settings["push_id"]), daemon=True).start()
        match job.kind:
            case "full":
                with _opened(job.input) as batches:
                    return store.push(batches, progress=False, **job.settings)
            case "incremental":
                with _opened(job.input) as batches:
                    return store.push_incremental(batches, **job.settings)
            case "empty":
                return store.push_empty(**job.settings)
            case "repush":
                return store.repush(progress=False, **job.settings)


def _kill_when(stop: threading.Event, store: Store, push_id: str) -> None:
    stop.wait()
    with contextlib.suppress(FondacoError):  # the push is over, and so is the platform
        while True:
            try:
                store.kill(push_id)
                return
            except PushNotFoundError:  # it has not begun
                time.sleep(_LOOK_S)


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[pa.RecordBatchReader]:
    """The batches of the stream in a file.

    Raises:
        InputError: it is none, or a damaged one; found when it is opened, or when its batches are read inside the block.
    """
    import pyarrow as pa

    assert path is not None
    try:
        with pa.memory_map(path) as file, pa.ipc.open_stream(file) as batches:
            yield batches
    except pa.ArrowException as exc:
        raise InputError(f"the request's body is not an Arrow IPC stream, or a damaged one: {exc}") from exc


def main() -> None:
    """Read the job, do it, say how it ended."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whatever a library prints is no outcome
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: stop.set())
        try:
            job = msgspec.json.decode(sys.stdin.buffer.read(), type=PushJob)
            outcome = PushOutcome(True, msgspec.Raw(msgspec.json.encode(run(job, stop), enc_hook=str)))
        except FondacoError as exc:
            outcome = PushOutcome(False, msgspec.Raw(wire.error_body(exc)))
        except Exception as exc:
            traceback.print_exc()
            wrong = FondacoError(f"an error inside the push: {type(exc).__name__}; the log of the control API says more")
            outcome = PushOutcome(False, msgspec.Raw(wire.error_body(wrong)))
        out.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
