"""The provisioner of one namespace of one Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fondaco.services.spec import Volume


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
        log_url: link of an instance's log, with {namespace}, {pod} and {service}.
        patience_s: what is missing (a secret, a claim, an image) counts as failed once a pod has waited so long for it.
        on_request: called with verb and resource for each request, from any thread.
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
        raise NotImplementedError
