"""Runner: has a job run as a TrainJob, and waits for it.

The TrainJob is named by the run's id and written by server-side apply, so that doing it again after half an answer changes nothing. It is
looked at every few seconds; a server that does not answer for a while, or refuses to, ends nothing. When this process is told to end, the
TrainJob is deleted, and its pods with it. When this process is killed, the TrainJob goes on, and so do its services for as long as their
lease lasts, an hour unless one says otherwise: nobody renews it then. A TrainJob that has ended is left there, for its logs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fondaco.adapters.kubeflow.manifest import GROUP, RUNTIME, VERSION, RuntimeKind, standing, train_job
from fondaco.adapters.kubernetes.client import Client, Kind, RefusedError
from fondaco.adapters.kubernetes.commands import endpoints_of
from fondaco.adapters.kubernetes.credentials import log_in
from fondaco.adapters.kubernetes.place import Place
from fondaco.core.errors import FondacoError, InputError, PermissionDeniedError, UnavailableError
from fondaco.models.job import End
from fondaco.models.runner import Outcome
from fondaco.models.variables import Facts

if TYPE_CHECKING:
    from fondaco.core.config import ClusterConfig, ServicesConfig
    from fondaco.services.spec import ServiceSpec

TRAIN_JOBS: Final = Kind(GROUP, VERSION, "trainjobs")
_NO_SUCH_KIND: Final = ("could not find the requested resource", "404 page not found")  # of this version, of this group
EVERY_S: Final = (0.5, 5.0)  # between two looks: at first, and at most
CREATE_S: Final = 60.0  # so long a TrainJob is tried to be made by a server that does not answer: its services may have taken minutes


class TrainJobs:
    """Runs jobs as TrainJobs in the namespace of one configured cluster."""

    lease: Final = "1h"
    takes_signals: Final = False

    def __init__(
        self,
        cluster: str,
        config: ClusterConfig,
        *,
        image: str | None = None,
        runtime: str = RUNTIME,
        runtime_kind: RuntimeKind = "ClusterTrainingRuntime",
        nodes: int | None = None,
        nproc: int | str | None = None,
        resources: Mapping[str, str] | None = None,
        deadline_s: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            cluster: its name in the configuration. The others are those of `train_job`.
            nproc: also has the command run under torchrun, which is in the images of PyTorch's runtimes.
        """
        self.cluster, self.namespace = cluster, config.namespace
        self.directory = f"{cluster}/{config.namespace}"
        self.platform_directory = config.directory
        self._config, self._say = config, say
        self._options: dict[str, Any] = {
            "image": image, "runtime": runtime, "runtime_kind": runtime_kind, "nodes": nodes, "nproc": nproc, "resources": resources,
            "deadline_s": deadline_s,
        }  # fmt: skip

    def prepare(self, command: Sequence[str]) -> list[str]:
        """The command as a node runs it.

        Raises:
            InputError: as `train_job`. MissingExtraError: lightkube is not installed.
        """
        line = [*(("torchrun", "--no-python") if self._options["nproc"] is not None and command else ()), *command]
        train_job("checked", line, **self._options)
        self._login()
        return line

    def describe(self, line: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """Where it runs; what is installed is the image's affair."""
        told = {"runner": "kubeflow", "cluster": self.cluster, "namespace": self.namespace}
        return told | {name: str(self._options[name]) for name in ("image", "runtime", "nodes") if self._options[name] is not None}, ()

    def manifest(self, line: Sequence[str], given: Mapping[str, str], facts: Facts) -> dict[str, Any]:
        """The TrainJob of a run."""
        return train_job(facts.run_id, line, env=given, run_name=facts.run_name, **self._options)

    def endpoints(self, spec: ServiceSpec) -> dict[str, tuple[str, ...]]:
        """Where a service will answer in this cluster, by port, before it is there."""
        place = Place(self.cluster, self.namespace, domain=self._config.domain)
        return endpoints_of(spec.service, spec, spec.replicas, place)

    def run(self, line: Sequence[str], given: Mapping[str, str], facts: Facts, on_start: Callable[[], None]) -> Outcome:
        """Have it run, and wait until it has ended. Left by an exception (a signal), the TrainJob is deleted."""
        manifest, name = self.manifest(line, given, facts), facts.run_id
        with contextlib.closing(Client(self.cluster, self._login(), namespace=self.namespace)) as client:
            try:
                self._create(client, manifest)
                on_start()
                self._say(f"TrainJob {name} runs in namespace {self.namespace} of cluster {self.cluster}")
                return self._wait(client, name)
            except BaseException:
                self._delete(client, name)
                raise

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _login(self) -> Any:
        return log_in(self.cluster, context=self._config.context, kubeconfig=self._config.kubeconfig)

    def _create(self, client: Client, manifest: dict[str, Any]) -> None:
        begun, silent = time.monotonic(), False
        while True:
            try:
                client.within().apply(TRAIN_JOBS, manifest)
                return
            except UnavailableError as exc:  # it may have made it nevertheless: to apply it again changes nothing
                if time.monotonic() - begun > CREATE_S:
                    raise
                if not silent:
                    self._say(f"{exc} Trying again, for {CREATE_S:.0f} s.")
                silent = True
            except RefusedError as exc:
                if not any(said in exc.message for said in _NO_SUCH_KIND):
                    raise
                raise InputError(
                    f"cluster {self.cluster!r} has no TrainJobs ({GROUP}/{VERSION}): "
                    "install Kubeflow Trainer 2 there, or name another cluster"
                ) from exc
            time.sleep(EVERY_S[0])

    def _wait(self, client: Client, name: str) -> Outcome:
        pause, told, silent = EVERY_S[0], "", False
        while True:
            try:
                job = client.within().get(TRAIN_JOBS, name)
            except (UnavailableError, PermissionDeniedError) as exc:  # also a login that is over: its services are not taken from it
                if not silent:
                    self._say(f"{exc} The job is not ended for that; looking again.")
                silent = True
            else:
                silent = False
                if job is None:
                    return Outcome(End(1), stopped=True, message=f"TrainJob {name} was deleted")
                found = standing(job)
                if found.reason != told:
                    self._say(f"TrainJob {name}: {found.reason}")
                    told = found.reason
                if found.ended:
                    return Outcome(End(0 if found.succeeded else 1), message=found.reason)
            time.sleep(pause)
            pause = min(pause * 1.3, EVERY_S[1])

    def _delete(self, client: Client, name: str) -> None:
        try:
            within = client.within()
            job = within.get(TRAIN_JOBS, name)
            if job is not None:
                within.delete(TRAIN_JOBS, name, job["metadata"]["uid"], propagation="Foreground")
                self._say(f"TrainJob {name} is deleted")
        except FondacoError as exc:
            self._say(f"TrainJob {name} could not be deleted ({exc}); do it with: kubectl delete trainjob {name} -n {self.namespace}")


def kubernetes_cluster(config: ServicesConfig, name: str | None) -> tuple[str, ClusterConfig]:
    """The configured cluster of this name; None: the default one, or else the only one that is Kubernetes.

    Raises:
        InputError: there is none, or it is not clear which.
    """
    there_are = {cluster: settings for cluster, settings in config.clusters.items() if settings.kind == "kubernetes"}
    if name is None:
        name = config.default if config.default in there_are or len(there_are) != 1 else next(iter(there_are))
    if name not in there_are:
        listed = f"there are: {', '.join(there_are)}" if there_are else "fondaco.toml has none ([services.clusters.NAME] kind)"
        raise InputError(f"a TrainJob needs a Kubernetes cluster, and {name!r} is none; {listed}; say which with --cluster")
    return name, there_are[name]
