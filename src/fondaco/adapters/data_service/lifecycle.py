"""Lifecycle of a data service task: `create`, `get`, `delete` over a platform's services, as a backend calls them.

What a backend does, and what follows from it (Flyte's webapi plugin machinery, internal/webapi/{launcher,monitor,cache}.go):

- A call has 10 seconds, in some versions 3. `create` never waits until a service is ready, and both it and `get` answer within `answer_s`
  (see `answering_time`) also when a cluster is slow; what was begun goes on, and a repeated call finds it.
- A create that failed is repeated without a delete, so it is apply-style, under a holder that every attempt of the node shares.
- An error of `get` is counted; after five the backend fails the task for good, or, if it had an answer before, never asks again and leaves
  it running. So a catalog or cluster that does not answer is an answer (still running, because ...), for up to an hour; then the attempt
  has failed, and the next one finds the service.
- `delete` is called on abort only, perhaps twice, perhaps beside a `get` that is under way, and drops the task's own lease, never the
  service. A `get` that comes after it does not take the lease again.

Every `get` renews the lease, for longer than a backend waits between two of them; when the service is ready the lease is prolonged to
`Hold`, since nobody calls after that. Functions here block; connectors call them from threads. Any thread, any process.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from fondaco.adapters.data_service.bounded import within
from fondaco.adapters.data_service.config import DataServiceConfig
from fondaco.adapters.data_service.meta import DataServiceMeta
from fondaco.adapters.data_service.state import DataServiceOutputs, TaskPhase, TaskState
from fondaco.core.errors import AlreadyExistsError, DeadlineExceededError, FondacoError, InputError, ServiceNotFoundError
from fondaco.core.units import parse_duration_us
from fondaco.services.context import logged
from fondaco.services.provisioner import Phase
from fondaco.services.spec import ServiceSpec

if TYPE_CHECKING:
    from fondaco.services.manager import Services
    from fondaco.services.status import ServiceStatus

ANSWER_S: Final = 8.0  # a backend's call ends after 10, unless it says otherwise
DEADLINE_SHARE: Final = 0.8  # of what is left of a call's deadline; the rest is for the way back
LEASE: Final = "5m"  # between two polls of a backend lie 30 seconds, or a restart of it
CREATING_S: Final = 60.0  # for a service that a create is still making after its answer
MENDING_S: Final = 5.0  # for one that had failed, and was made again, to show that it lives
SILENT_S: Final = 3600.0  # for a catalog or a cluster that does not answer
_AGAIN: Final = "another attempt makes it again"
_TAIL_LINES: Final = 5
_LINE_MAX: Final = 300


def create(
    services: Services,
    config: DataServiceConfig,
    *,
    holder: str,
    outputs: Collection[str] | None = None,
    lease: str = LEASE,
    answer_s: float = ANSWER_S,
) -> DataServiceMeta:
    """Make sure that the service is there or on its way, and hold a lease on it; answers within `answer_s`.

    Args:
        holder: as `holder_of` names it. outputs: that the task declares; None: not known. lease: how long the service is held until the
            next `get`.
    Raises:
        InputError: what is asked for cannot work. ServiceNotFoundError: ExistingReleaseName is the name of none. AlreadyExistsError: it, or
            the service called Name, means something else, and others hold it. UnavailableError, DeadlineExceededError: the same call may
            succeed later.
    """
    spec = config.to_spec()
    known: list[tuple[DataServiceMeta, ServiceSpec]] = []

    def work() -> DataServiceMeta:
        if config.ExistingReleaseName:
            _check_same(services, config.ExistingReleaseName, spec)
            services.hold(config.ExistingReleaseName, holder, lease=lease)
            return _meta(config, config.ExistingReleaseName, holder, outputs)
        assert spec is not None
        resolved = services.resolve(spec)
        made = _meta(config, resolved.service, holder, outputs)
        known.append((made, resolved))
        _ensure(services, resolved, holder, lease)
        return made

    def note(error: BaseException) -> None:
        """The task was told that it is under way: what came of it is left where `get` finds it, in whichever process."""
        if known and isinstance(error, FondacoError):
            with logged(f"why service {known[0][0].service!r} could not be made is not noted"):
                services.note_refusal(known[0][1], str(error))

    try:
        return within(answer_s, "create of a data service", work, late=note)
    except DeadlineExceededError:
        if known:
            return known[0][0]
        raise


def get(services: Services, meta: DataServiceMeta, *, lease: str = LEASE, answer_s: float = ANSWER_S) -> TaskState:
    """How the task stands, within `answer_s`; renews its lease, and prolongs it to `Hold` once the service is ready."""

    def work() -> TaskState:
        try:
            held = services.renew(meta.service, meta.holder, lease=lease)
            state = _state(services, meta, services.status(meta.service))
            return state if held or state.phase in (TaskPhase.FAILED, TaskPhase.RETRYABLE_FAILED) else _not_held(services, meta, lease)
        except ServiceNotFoundError:
            return _not_there(services, meta)

    try:
        return within(answer_s, f"get of {meta.service}", work)
    except InputError as exc:
        return TaskState(TaskPhase.FAILED, str(exc))
    except FondacoError as exc:
        return _silent(meta, str(exc))


def delete(services: Services, meta: DataServiceMeta, *, answer_s: float = ANSWER_S) -> None:
    """Give the task's lease back; the service stays for its other holders, and for its ttl. Any number of times.

    Raises:
        UnavailableError, DeadlineExceededError: the catalog does not answer now; the lease runs out by itself if nobody calls again.
    """
    within(answer_s, f"delete of {meta.service}", lambda: services.release(meta.service, meta.holder))


def answering_time(left_s: float | None) -> float:
    """How long a call may work for its answer, in seconds.

    Args:
        left_s: of its own deadline; None: it has none.
    """
    return ANSWER_S if left_s is None else max(0.0, min(ANSWER_S, left_s * DEADLINE_SHARE))


# -- create -----------------------------------------------------------------------------------------------------------------------------


def _meta(config: DataServiceConfig, service: str, holder: str, outputs: Collection[str] | None) -> DataServiceMeta:
    return DataServiceMeta(
        service=service,
        holder=holder,
        created_us=time.time_ns() // 1000,
        hold_us=config.hold_us,
        existing=config.ExistingReleaseName is not None,
        exports=tuple((config.Exports or {}).items()),
        outputs=None if outputs is None else tuple(outputs),
    )


def _ensure(services: Services, spec: ServiceSpec, holder: str, lease: str) -> None:
    try:
        services.ensure(spec, holder, wait=False, lease=lease, timeout="1m").leave()
    except AlreadyExistsError as exc:
        if not spec.exact_name:
            raise
        _take_over(services, spec, holder, lease, exc)


def _take_over(services: Services, spec: ServiceSpec, holder: str, lease: str, difference: AlreadyExistsError) -> None:
    """Change a service of this very name to what is asked for now, if nobody else uses it: the corrected attempt after one that failed.

    Raises:
        AlreadyExistsError: others hold it; names them.
    """
    others = [found.holder for found in services.status(spec.service, log_lines=0).holders if found.holder != holder]
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise AlreadyExistsError("service", spec.service, f"{difference.difference}; it is held by {shown}") from difference
    services.update(spec.service, spec)
    services.ensure(spec, holder, wait=False, lease=lease, timeout="1m").leave()


def _check_same(services: Services, name: str, spec: ServiceSpec | None) -> None:
    """Refuse settings beside ExistingReleaseName that do not mean the service of that name.

    Raises:
        ServiceNotFoundError: there is none. AlreadyExistsError: it means something else.
    """
    there = services.status(name, log_lines=0)
    if spec is None:
        return
    resolved = services.resolve(spec)
    if there.identity not in (resolved.identity, resolved.replace(name=name, exact_name=True).identity):
        raise AlreadyExistsError("service", name, "it was made with other settings than those beside ExistingReleaseName; leave these out")


# -- get --------------------------------------------------------------------------------------------------------------------------------


def _state(services: Services, meta: DataServiceMeta, status: ServiceStatus) -> TaskState:
    links = _log_links(status)
    message = _message(status)
    match status.phase:
        case Phase.READY:
            hold = None if meta.hold_us is None else timedelta(microseconds=meta.hold_us)
            services.renew(meta.service, meta.holder, lease=hold, exactly=True)
            env = services.env(meta.service, env=dict(meta.exports)) if meta.exports else dict(status.env)
            outputs = DataServiceOutputs(meta.service, list(status.endpoints), env)
            return TaskState(TaskPhase.SUCCEEDED, message, outputs, links)
        case Phase.FAILED:
            if _seconds_since(meta.created_us) < MENDING_S:
                return TaskState(TaskPhase.INITIALIZING, f"{message}; it is made again", log_links=links)
            services.release(meta.service, meta.holder)  # nobody calls after a failure
            tail = "".join(f"\n    {line[:_LINE_MAX]}" for line in status.log_tail[-_TAIL_LINES:])
            said = f"service {meta.service} failed: {message}" + (f". It said last:{tail}" if tail else "")
            return TaskState(TaskPhase.RETRYABLE_FAILED, said, None, links)  # as often as the task's author wants: `create` tries it anew
        case Phase.REMOVING:
            return TaskState(TaskPhase.RETRYABLE_FAILED, f"service {meta.service} is being removed ({status.note}); {_AGAIN}", None, links)
        case Phase.UNKNOWN:
            return _silent(meta, status.reason)
        case Phase.DEGRADED:
            return TaskState(TaskPhase.RUNNING, message, log_links=links)
        case _:
            return TaskState(TaskPhase.RUNNING if status.ready else TaskPhase.INITIALIZING, message, log_links=links)


def _not_there(services: Services, meta: DataServiceMeta) -> TaskState:
    """The answer where there is no service of this name: it is still being made, or could not be, or was and is gone."""
    gone = services.newest_gone(meta.service)
    why = f": {gone.reason}" if gone is not None else ""
    is_late = meta.existing or _seconds_since(meta.created_us) > CREATING_S
    is_refused = gone is not None and gone.created_us >= meta.created_us and _seconds_since(gone.removed_us or 0) > MENDING_S
    if is_late or is_refused:  # not at once: another cluster may take it yet
        return TaskState(TaskPhase.RETRYABLE_FAILED, f"service {meta.service} is gone{why}; {_AGAIN}")
    return TaskState(TaskPhase.INITIALIZING, f"service {meta.service} is being made" + (f"; the last{why}" if why else ""))


def _not_held(services: Services, meta: DataServiceMeta, lease: str) -> TaskState:
    """The answer where the task has no lease. One that cannot have run out yet was given back, and a question that was under way meanwhile
    (a backend's poll beside its abort) must not take it again. Else nobody has asked for long: it is taken, and the next answer counts."""
    lease_us = parse_duration_us(lease)
    shortest_us = lease_us if meta.hold_us is None else min(lease_us, meta.hold_us)
    if _seconds_since(meta.created_us) < shortest_us / 1e6:
        gone = services.newest_gone(meta.service)
        if gone is not None and gone.created_us >= meta.created_us:  # another of its name is there, which this attempt could not change
            return TaskState(TaskPhase.RETRYABLE_FAILED, f"service {meta.service}: {gone.reason}")
        return TaskState(
            TaskPhase.RETRYABLE_FAILED, f"the task's lease on service {meta.service} was given back; another attempt takes one"
        )
    services.hold(meta.service, meta.holder, lease=lease)
    return TaskState(TaskPhase.RUNNING, f"the task's lease on service {meta.service} had run out, and is taken again")


def _silent(meta: DataServiceMeta, why: str) -> TaskState:
    """The answer while the catalog or the cluster gives none."""
    if _seconds_since(meta.created_us) > SILENT_S:
        return TaskState(TaskPhase.RETRYABLE_FAILED, f"it is not known how service {meta.service} stands: {why}")
    return TaskState(TaskPhase.RUNNING, f"it is not known now how service {meta.service} stands, and it is asked again: {why}")


def _seconds_since(time_us: int) -> float:
    return max(0.0, time.time() - time_us / 1e6)


def _message(status: ServiceStatus) -> str:
    count = f"{status.ready}/{status.total} ready"
    if not status.reason:
        return count
    return status.reason if status.reason.startswith(count) else f"{count}; {status.reason}"


def _log_links(status: ServiceStatus) -> tuple[tuple[str, str], ...]:
    found = []
    for instance in status.instances:
        if instance.log:
            uri = instance.log if "://" in instance.log else f"file://{instance.log}"
            found.append((f"{status.service}-{instance.index}", uri))
    return tuple(found)
