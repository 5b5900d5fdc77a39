"""Observing: how a service of this machine stands, from its files and its keeper's lock. Reads only; any thread."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from fondaco.core.errors import CorruptFileError, FormatVersionError, InputError
from fondaco.services.local import tree
from fondaco.services.local.files import Kept, KeptInstance, Place, State
from fondaco.services.local.logfile import tail
from fondaco.services.local.plan import address, endpoints
from fondaco.services.provisioner import Desired, Instance, Observed, Phase
from fondaco.services.spec import ServiceSpec

_DAMAGED_TRIES = 20
_DAMAGED_PAUSE_S = 0.025  # the keeper writes a new state.json when it is woken


def observe(place: Place) -> Observed:
    """How it stands.

    Raises:
        PermissionDeniedError: it is another user's.
    """
    if not place.exists():
        return _absent(place)
    removing = place.removing()
    kept, damage = _kept(place)
    keeper = place.keeper()
    state, state_damage = _state(place, keeper)
    if kept is None and state is None and removing is None and not damage and not state_damage:
        return _absent(place)  # it has just gone
    incarnation = kept.incarnation if kept is not None else state.incarnation if state is not None else removing or 0
    instances, known = _instances(place, kept, state, keeper)
    total = kept.replicas if kept is not None else len(instances)
    ready = sum(instance.phase is Phase.READY for instance in instances)
    stopped = bool(keeper) and (seen := tree.see(keeper or 0)) is not None and seen.state == "T"
    drift = _drift(damage, keeper, stopped=stopped)
    if stopped:
        phase, what = Phase.DEGRADED, f"its keeper (process {keeper}) is stopped by a signal; apply lets it go on"
    elif keeper is None:
        phase, what = _without_keeper(place, state)
    else:
        phase, what = _phase(kept, state, known, ready, total)
    if removing is not None:
        phase, what, drift = Phase.REMOVING, "it is being stopped" if keeper is not None else "it is to be removed; nothing keeps it", ()
    elif damage:
        what = f"{damage}; apply repairs it" + (f"; {what}" if what else "")
    reason = ""
    if phase is not Phase.READY or damage:
        reason = f"{ready}/{total} ready" + (f"; {what}" if what else "")
    return Observed(
        place.service,
        incarnation,
        phase,
        ready,
        total,
        reason,
        endpoints(kept) if kept is not None else {},
        tuple(instances),
        drift,
        _desired(kept),
    )


def _absent(place: Place) -> Observed:
    return Observed(place.service, 0, Phase.ABSENT, 0, 0)


def _kept(place: Place) -> tuple[Kept | None, str]:
    try:
        return place.read_kept(), ""
    except CorruptFileError as exc:
        return None, f"desired.json cannot be read: {exc.reason}"
    except FormatVersionError as exc:
        return None, f"desired.json cannot be read: {exc}"


def _state(place: Place, keeper: int | None) -> tuple[State | None, str]:
    """state.json; one that is damaged, or that somebody took away, is written again by the keeper, if there is one."""
    said = ""
    for _ in range(_DAMAGED_TRIES if keeper is not None else 1):
        try:
            state = place.read_state()
            if state is None and keeper is not None:
                place.wake()  # not waited for: a keeper that has just begun has not written it yet
            return state, ""
        except (CorruptFileError, FormatVersionError) as exc:
            said = str(exc)
            if keeper is not None:
                place.wake()
                time.sleep(_DAMAGED_PAUSE_S)
    return None, said


def _desired(kept: Kept | None) -> Desired | None:
    if kept is None:
        return None
    try:
        spec = _spec(msgspec.json.encode(kept.spec))
    except InputError:
        return None  # written by another Fondaco, with settings that we do not know
    return Desired(kept.service, kept.incarnation, spec, kept.replicas, kept.annotations)


@functools.lru_cache(maxsize=4096)
def _spec(document: bytes) -> ServiceSpec:
    """To check a spec costs as much as all else here, and those who look, look again and again at the same."""
    return ServiceSpec.from_dict(msgspec.json.decode(document))


def _instances(place: Place, kept: Kept | None, state: State | None, keeper: int | None) -> tuple[list[Instance], list[KeptInstance]]:
    """All desired instances, in order; and what the keeper that runs now has written about them."""
    known = {one.index: one for one in state.instances} if state is not None and keeper is not None and state.keeper == keeper else {}
    wanted = range(kept.replicas) if kept is not None else sorted(known)
    result = []
    for index in wanted:
        one = known.get(index)
        ports = kept.ports[index] if kept is not None and kept.ports else one.ports if one is not None else {}
        host = kept.host if kept is not None else "127.0.0.1"
        at = address(host, next(iter(ports.values()))) if ports else ""
        log = str(place.path / "log" / f"{index}.log")
        if one is None:
            result.append(Instance(index, Phase.STARTING, at, 0, "" if keeper is not None else "nothing keeps it", log=log))
        else:
            result.append(Instance(index, one.phase, at, one.restarts, one.reason, one.where, log))
    return result, [known[index] for index in wanted if index in known]


def _drift(damage: str, keeper: int | None, *, stopped: bool) -> tuple[str, ...]:
    drift = [damage] if damage else []
    if keeper is None:
        drift.append("no keeper runs")
    elif stopped:
        drift.append(f"its keeper (process {keeper}) is stopped by a signal")
    return tuple(drift)


def _without_keeper(place: Place, state: State | None) -> tuple[Phase, str]:
    if state is None:
        last = tail(place.path / "keeper.log", 1)
        return Phase.STARTING, "its keeper does not run yet" + (f"; the last one said: {last[0]}" if last else "")
    how = f"its keeper (process {state.keeper}) has ended, and its instances with it; apply starts it again"
    return (Phase.DEGRADED if any(one.was_ready for one in state.instances) else Phase.STARTING), how


def _phase(kept: Kept | None, state: State | None, known: Sequence[KeptInstance], ready: int, total: int) -> tuple[Phase, str]:
    """The phase of the whole while its keeper is at work, and why it is not READY."""
    outdated = [one for one in known if not one.current]
    behind = state is None or kept is None or state.sequence != kept.sequence
    if ready == total == len(known) and not behind and not outdated:
        return Phase.READY, ""
    reasons = _reasons(known)
    if kept is not None and state is not None and (behind or outdated):
        changed = f"a change is taken up: {len(known) - len(outdated)} of {total} instances run it" if outdated else "a change is taken up"
        reasons = f"{changed}; {reasons}" if reasons else changed
    if any(one.phase is Phase.FAILED for one in known) and not (behind and kept is not None):
        return Phase.FAILED, reasons  # one that failed before the change is replaced, or tried again
    lost = any(one.phase is Phase.DEGRADED for one in known)
    return (Phase.DEGRADED if lost else Phase.STARTING), reasons


def _reasons(known: Sequence[KeptInstance]) -> str:
    """Why instances are not ready, the worst first; those with the same reason together, and not more than three reasons."""
    order = [Phase.FAILED, Phase.DEGRADED, Phase.STARTING]
    unready = sorted((one for one in known if one.phase is not Phase.READY and one.reason), key=lambda one: order.index(one.phase))
    counted = Counter(one.reason for one in unready)
    said = []
    for reason, count in list(counted.items())[:3]:
        first = next(one for one in unready if one.reason == reason)
        restarts = f", {first.restarts} restart{'s' if first.restarts > 1 else ''}" if first.restarts else ""
        more = f" and {count - 1} more" if count > 1 else ""
        said.append(f"instance {first.index}{more}: {reason}{restarts}")
    if len(counted) > 3:
        said.append(f"and {len(counted) - 3} more")
    return "; ".join(said)


def same(kept: Kept, other: Kept) -> bool:
    """Whether two say the same of processes: all but annotations."""
    return msgspec.structs.replace(kept, annotations={}, sequence=0) == msgspec.structs.replace(other, annotations={}, sequence=0)
