"""The provisioner of one namespace of one Kubernetes cluster.

Every method asks the server anew and keeps nothing: two of these, in two processes, see the same. Whatever is changed is guarded by what
was seen: an object that is not ours, or of another incarnation, or that was deleted and made again meanwhile (another uid), is left alone.
A method takes 9 seconds at most for all its requests. Any thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from fondaco.adapters.kubernetes.client import (
    EVENTS,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    Client,
    ConflictError,
    Kind,
    RefusedError,
    Requests,
)  # fmt: skip
from fondaco.adapters.kubernetes.credentials import log_in
from fondaco.adapters.kubernetes.drift import differences
from fondaco.adapters.kubernetes.objects import (
    BUDGET,
    SERVICE,
    STATEFUL_SET,
    annotations_of,
    incarnation_of,
    is_ours,
    service_of,
    wanted,
)  # fmt: skip
from fondaco.adapters.kubernetes.place import INCARNATION, INSTANCE, PREFIX, Object, Place, pod_name
from fondaco.adapters.kubernetes.pods import Event, Pod, trouble_of
from fondaco.adapters.kubernetes.standing import Found, asks_events, by_uid, drift_of, observed
from fondaco.adapters.kubernetes.template import CONTAINER, checked_labels
from fondaco.core.errors import FondacoError, InputError, StateError, UnavailableError
from fondaco.services.provisioner import Desired, Observed
from fondaco.services.settings import Volume

_EVENTS_ASKED: Final = 4  # about so many things of one service events are asked: a fault of one is mostly the fault of all
_EVENT_PAGES: Final = 2  # of all services: the newest cannot be asked for, so a crowded namespace may say less
_INSTANCES_LOGGED: Final = 32
_GONE_S: Final = 0.05  # between two looks whether what was deleted is gone
_ATTEMPTS: Final = 5  # of `apply`, where others change the same objects at the same time
_IMMUTABLE: Final = (
    "updates to statefulset spec for fields other than",
    "field is immutable",
    "may not change once set",
    "may not be changed",
)


class KubernetesProvisioner:
    """Runs services as StatefulSets.

    Args:
        cluster: its name in the configuration.
        context: of the kubeconfig; None: the current one, or the service account where it runs inside a cluster and no kubeconfig is named.
        kubeconfig: a file; None: KUBECONFIG, then ~/.kube/config.
        namespace: None: the context's.
        platform: services of platforms that share a namespace are kept apart by it: nothing of another name is seen or touched.
        image: of services that name none. python, directory: what {python} and {directory} stand for.
        volumes: mounted, with `env` and `secrets`, into services that use {directory} or serve a graph or store.
        domain: appended to addresses, as "cluster.local"; None: ".svc" is resolved by the pods' search path.
        log_url: link of an instance's log, with {namespace}, {pod}, {service} and {cluster}.
        patience_s: what is missing (a secret, a claim, an image) counts as failed once a pod has waited so long for it.
        on_request: called with verb and resource for each request, from any thread.
    Raises:
        InputError: the kubeconfig or its context cannot be used. MissingExtraError: lightkube is not installed.
    """

    def __init__(
        self,
        cluster: str,
        *,
        context: str | None = None,
        kubeconfig: str | Path | None = None,
        namespace: str | None = None,
        platform: str = "default",
        image: str | None = None,
        python: str = "python3",
        directory: str = "/var/lib/fondaco",
        volumes: Sequence[Volume | Mapping[str, Any]] = (),
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        domain: str | None = None,
        log_url: str | None = None,
        patience_s: float = 30.0,
        on_request: Callable[[str, str], None] | None = None,
    ) -> None:
        checked_labels({"owner": platform}, f"cluster {cluster!r}: platform")
        config = log_in(cluster, context=context, kubeconfig=kubeconfig)
        self._place = Place(
            cluster,
            namespace or config.namespace,
            platform,
            image,
            python,
            directory,
            _volumes(cluster, volumes),
            dict(env or {}),
            dict(secrets or {}),
            domain,
            log_url,
        )
        self._patience_s = patience_s
        self._drift: dict[str, tuple[object, tuple[str, ...]]] = {}  # by service: of which versions of its objects, and what it was
        self._client = Client(cluster, config, namespace=self._place.namespace, on_request=on_request)

    @property
    def cluster(self) -> str:
        """Its name in the configuration."""
        return self._place.cluster

    @property
    def namespace(self) -> str:
        """Where it makes services."""
        return self._place.namespace

    @property
    def request_counts(self) -> Mapping[tuple[str, str], int]:
        """How many requests it has made, by verb and resource."""
        return dict(self._client.counts)

    def close(self) -> None:
        """Give connections back; services go on."""
        self._client.close()

    # -- check and apply ----------------------------------------------------------------------------------------------------------------

    def check(self, desired: Desired) -> None:
        """As `Provisioner.check`: the server itself is asked, by a dry run, whether it takes the objects."""
        ask = self._client.within()
        found = self._named(ask, desired.service)
        if not desired.incarnation and any(item is not None and is_ours(item, self._place) for item in found.objects):
            return  # another caller makes the same service at this moment, or an old one goes: the catalog decides, not we
        self._guard(found, desired)
        objects = wanted(desired, self._place, policy=ask.budgets().api.removeprefix("/apis/"), before=found.stateful_set).by_kind()
        for kind, item in objects.items():
            try:
                with contextlib.suppress(ConflictError):  # another caller makes it at this moment
                    ask.apply(self._kind(ask, kind), item, dry_run=True)
            except RefusedError as exc:
                if not _is_immutable(exc):
                    raise

    def apply(self, desired: Desired) -> None:
        """As `Provisioner.apply`. The StatefulSet comes first: it is what a server refuses, and then nothing was made."""
        ask = self._client.within()
        for attempt in range(_ATTEMPTS):
            try:
                self._apply(ask, desired)
                break
            except ConflictError:  # an object was made, or made again, after we had looked: look again
                if attempt == _ATTEMPTS - 1 or ask.left_s < 1:
                    raise

    def _apply(self, ask: Requests, desired: Desired) -> None:
        found = self._named(ask, desired.service)
        self._guard(found, desired)
        objects = wanted(desired, self._place, policy=ask.budgets().api.removeprefix("/apis/"), before=found.stateful_set).by_kind()
        live = {STATEFUL_SET: found.stateful_set, SERVICE: found.service, BUDGET: found.budget}
        made: list[tuple[str, Object]] = []
        try:
            for kind, item in objects.items():
                now = live[kind]
                if now is None or not _is_applied(item, now):
                    result = self._applied(ask, kind, item, now)
                    made += [(kind, result)] if now is None else []
        except RefusedError:
            self._undo(made)
            raise
        if BUDGET not in objects and found.budget is not None:
            ask.delete(ask.budgets(), desired.service, found.budget["metadata"]["uid"])
        status = (found.stateful_set or {}).get("status") or {}
        if found.stateful_set is not None and status.get("readyReplicas", 0) < desired.replicas:
            self._try_anew(ask, desired)

    def _try_anew(self, ask: Requests, desired: Desired) -> None:
        """Delete pods that have failed: their successors start at once, where Kubernetes would wait for minutes between two trials."""
        labels = f"{self._place.selector},{INSTANCE}={desired.service},{INCARNATION}={desired.incarnation}"
        for pod in ask.list_all(PODS, Pod, labels=labels):
            if not (pod.is_ready or pod.is_ending or pod.was_ready) and trouble_of(pod, patient=False, warnings=()).lasts:
                with contextlib.suppress(ConflictError):
                    ask.delete(PODS, pod.metadata.name, pod.metadata.uid)

    def _named(self, ask: Requests, service: str) -> Found:
        """What has the service's name, whoever made it."""
        return Found(ask.get(STATEFUL_SETS, service), ask.get(SERVICES, service), ask.get(ask.budgets(), service))

    def _guard(self, found: Found, desired: Desired) -> None:
        """
        Raises:
            StateError: something stands in the way.
        """
        where = f"in namespace {self.namespace!r} of cluster {self.cluster!r}"
        for noun, item in (("StatefulSet", found.stateful_set), ("Service", found.service), ("PodDisruptionBudget", found.budget)):
            if item is None:
                continue
            if not is_ours(item, self._place):
                raise StateError(
                    f"{noun} {desired.service!r} {where} is not of this platform: it was left alone. Take another name, or remove it first"
                )
            if incarnation_of(item) != desired.incarnation:
                raise StateError(
                    f"{noun} {desired.service!r} {where}: incarnation {incarnation_of(item)}, not {desired.incarnation}; remove it first"
                )
            if item["metadata"].get("deletionTimestamp"):
                raise StateError(f"{noun} {desired.service!r} {where} is being removed; try again when it is gone")

    def _applied(self, ask: Requests, kind: str, item: Object, now: Object | None) -> Object:
        """Apply one object; one that cannot be changed in place is made again, and its pods stay where they can."""
        resource = self._kind(ask, kind)
        if now is None:
            return ask.apply(resource, item)
        name, uid = item["metadata"]["name"], now["metadata"]["uid"]
        guarded = item | {"metadata": item["metadata"] | {"uid": uid}}  # only this very object, not one that was made meanwhile
        try:
            return ask.apply(resource, guarded)
        except RefusedError as exc:
            if not _is_immutable(exc):
                raise
        # Somebody made it again by hand, with other names or selectors. Pods that the right one would select are kept for it.
        keeps = kind == STATEFUL_SET and now["spec"].get("selector") == item["spec"]["selector"]
        ask.delete(resource, name, uid, propagation="Orphan" if keeps else "Background")
        while (left := ask.get(resource, name)) is not None and left["metadata"]["uid"] == uid:
            time.sleep(_GONE_S)
            if ask.left_s < 1:
                raise StateError(f"{kind} {name!r} had to be made again, because what was changed in it cannot be changed back; try again")
        return ask.apply(resource, item)

    def _undo(self, made: Sequence[tuple[str, Object]]) -> None:
        """Take back what a refused `apply` has made; what cannot be taken back now, `remove` finds."""
        ask = self._client.within(4.0)
        for kind, item in reversed(made):
            try:
                ask.delete(self._kind(ask, kind), item["metadata"]["name"], item["metadata"]["uid"])
            except FondacoError:
                return

    def _kind(self, ask: Requests, kind: str) -> Kind:
        return {STATEFUL_SET: STATEFUL_SETS, SERVICE: SERVICES}.get(kind) or ask.budgets()

    # -- observe ------------------------------------------------------------------------------------------------------------------------

    def observe(self, service: str) -> Observed:
        """As `Provisioner.observe`; four requests, and up to four more for events where something is not ready."""
        ask = self._client.within()
        named = self._named(ask, service)
        mine = [item if item is not None and is_ours(item, self._place) else None for item in named.objects]
        found = Found(mine[0], mine[1], mine[2])
        found.pods = ask.list_all(PODS, Pod, labels=f"{self._place.selector},{INSTANCE}={service}")
        first = found.first
        if first is not None:
            found.pods = _of_incarnation(found.pods, incarnation_of(first))
        total = _total(found)
        events: list[Event] = []
        for kind, name, _ in asks_events(found, total)[:_EVENTS_ASKED]:
            about = f"involvedObject.kind={kind},involvedObject.name={name},type=Warning"
            events += ask.list_all(EVENTS, Event, fields=about, pages=1)
        found.warnings = dict(by_uid(events))
        return self._observed(ask, service, found)

    def observe_all(self) -> Mapping[str, Observed]:
        """As `Provisioner.observe_all`; one request for every 500 objects of a kind, and at most two for events."""
        ask = self._client.within()
        all_found: dict[str, Found] = {}
        selector = self._place.selector
        for item in ask.list_all(STATEFUL_SETS, dict[str, Any], labels=selector):
            all_found.setdefault(service_of(item), Found()).stateful_set = item
        for item in ask.list_all(SERVICES, dict[str, Any], labels=selector):
            all_found.setdefault(service_of(item), Found()).service = item
        for item in ask.list_all(ask.budgets(), dict[str, Any], labels=selector):
            all_found.setdefault(service_of(item), Found()).budget = item
        for pod in ask.list_all(PODS, Pod, labels=selector):
            all_found.setdefault((pod.metadata.labels or {}).get(INSTANCE, ""), Found()).pods.append(pod)
        for found in all_found.values():
            if found.first is not None:
                found.pods = _of_incarnation(found.pods, incarnation_of(found.first))
        if any(asks_events(found, _total(found)) for found in all_found.values()):
            warnings = by_uid(ask.list_all(EVENTS, Event, fields="type=Warning", pages=_EVENT_PAGES))
            for found in all_found.values():
                uids = {uid for _, _, uid in asks_events(found, _total(found))}
                found.warnings = {uid: warnings[uid] for uid in uids & warnings.keys()}
        for known in list(self._drift):
            if known not in all_found:
                self._drift.pop(known, None)
        return {name: self._observed(ask, name, found) for name, found in all_found.items() if name}

    def _observed(self, ask: Requests, service: str, found: Found) -> Observed:
        policy = ask.budgets().api.removeprefix("/apis/")
        seen = tuple((item["metadata"]["uid"], item["metadata"]["resourceVersion"]) if item else None for item in found.objects)
        known = self._drift.get(service)
        if known is None or known[0] != seen:  # comparing is most of the work of `observe_all`, and most objects did not change
            known = self._drift[service] = seen, drift_of(found, self._place, policy)
        return observed(service, found, self._place, drift=known[1], now=datetime.now(UTC), patience_s=self._patience_s)

    # -- remove and logs ----------------------------------------------------------------------------------------------------------------

    def remove(self, service: str, incarnation: int) -> bool:
        """As `Provisioner.remove`. The StatefulSet stays, marked, until its pods are gone, so nobody takes its name too early."""
        ask = self._client.within()
        named = self._named(ask, service)  # by name: a server looks at every object there is to answer for a label
        left = False
        for kind, item in zip((STATEFUL_SETS, SERVICES, ask.budgets()), named.objects, strict=True):
            if item is None or not is_ours(item, self._place) or incarnation_of(item) != incarnation:
                continue
            left = True
            if not item["metadata"].get("deletionTimestamp"):
                with contextlib.suppress(ConflictError):  # made again meanwhile: not what was meant, or seen by the next call
                    ask.delete(kind, service, item["metadata"]["uid"], propagation="Foreground" if kind == STATEFUL_SETS else "Background")
        return not left and not self._pods_left(ask, service, incarnation)

    def _pods_left(self, ask: Requests, service: str, incarnation: int) -> bool:
        """Whether pods are left whose StatefulSet is gone; those that nobody ends (it was deleted without them) are deleted."""
        pods = ask.list_all(PODS, Pod, labels=f"{self._place.selector},{INSTANCE}={service},{INCARNATION}={incarnation}")
        for pod in pods:
            if not pod.is_ending:
                with contextlib.suppress(ConflictError):
                    ask.delete(PODS, pod.metadata.name, pod.metadata.uid)
        return bool(pods)

    def logs(self, service: str, *, index: int | None = None, lines: int = 100) -> Sequence[str]:
        """As `Provisioner.logs`.

        Raises:
            UnavailableError: also, the node of the one instance that was asked for does not answer.
        """
        ask = self._client.within()
        if index is not None:
            return self._log(ask, pod_name(service, index), lines)
        pods = ask.list_all(PODS, Pod, labels=f"{self._place.selector},{INSTANCE}={service}")
        pods.sort(key=lambda pod: pod.index)
        shown = sorted(sorted(pods, key=lambda pod: pod.is_ready)[:_INSTANCES_LOGGED], key=lambda pod: pod.index)  # those in trouble first
        said: list[str] = []
        for pod in shown:
            try:
                said += [f"{pod.index}: {line}" for line in self._log(ask, pod.metadata.name, lines)]
            except UnavailableError as exc:
                said.append(f"{pod.index}: (no log: {exc.reason})")
        if len(pods) > len(shown):
            said.append(f"({len(pods) - len(shown)} more instances, which are ready; ask for one by its number)")
        return said

    def _log(self, ask: Requests, pod: str, lines: int) -> list[str]:
        now = ask.log(pod, CONTAINER, lines=lines)
        return now or ask.log(pod, CONTAINER, lines=lines, previous=True) or []


def _volumes(cluster: str, volumes: Sequence[Volume | Mapping[str, Any]]) -> tuple[Volume, ...]:
    try:
        return tuple(volume if isinstance(volume, Volume) else msgspec.convert(volume, Volume) for volume in volumes)
    except msgspec.ValidationError as exc:
        raise InputError(f"services.clusters.{cluster}.volumes: {exc}") from exc


def _is_applied(item: Object, live: Object) -> bool:
    """Whether a live object is what `apply` would make it: then nothing is sent."""
    ours = {key for key in annotations_of(live) if key.startswith(PREFIX)}
    return not differences(item, live) and ours <= annotations_of(item).keys()


def _is_immutable(exc: RefusedError) -> bool:
    return any(part in exc.message for part in _IMMUTABLE)


def _of_incarnation(pods: Sequence[Pod], incarnation: int) -> list[Pod]:
    return [pod for pod in pods if (pod.metadata.labels or {}).get(INCARNATION) == str(incarnation)]


def _total(found: Found) -> int:
    first = found.first
    if first is None:
        return 0
    replicas = annotations_of(first).get(PREFIX + "replicas", "")
    return int(replicas) if replicas.isdecimal() else 0
