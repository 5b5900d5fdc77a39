"""A Kubernetes cluster for benchmarks: the tests' control plane (a real API server, nodes by script), and a platform that knows it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from benchmarks._harness import Report

CLUSTER = "bench"
IMAGE = "example/none"  # nodes by script run nothing


@contextlib.contextmanager
def kubernetes(report: Report, directory: Path) -> Iterator[Path | None]:
    """The kubeconfig of a control plane of our own; None, and a note in the report, where its programs are not built."""
    from tests.kubernetes import control_plane

    if missing := control_plane.missing():
        report.note(f"ran without Kubernetes: {', '.join(missing)} not built (tests/kubernetes/build_control_plane.sh)")
        yield None
        return
    with control_plane.borrowed(directory) as kubeconfig:
        yield kubeconfig


def namespace(kubeconfig: Path) -> str:
    """A namespace of its own, made now; it goes with the control plane."""
    from tests.kubernetes.api import Api

    name = f"bench-{secrets.token_hex(4)}"
    with Api(kubeconfig, "main") as api:
        api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def configure(directory: Path, kubeconfig: Path) -> None:
    """Write the configuration of a new platform directory: one cluster, in a namespace of its own."""
    directory.mkdir(parents=True)
    (directory / "fondaco.toml").write_text(
        f'[services.clusters.{CLUSTER}]\nkind = "kubernetes"\nkubeconfig = "{kubeconfig}"\ncontext = "main"\n'
        f'namespace = "{namespace(kubeconfig)}"\nimage = "{IMAGE}"\n'
    )
