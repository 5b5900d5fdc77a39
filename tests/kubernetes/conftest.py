"""The cluster that these tests run on: what one of yours needs is said in tests/kubernetes_cluster.py."""

import pytest

from kubernetes_cluster import cluster, kubernetes_run

__all__ = ["cluster", "kubernetes_run"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_pods: needs containers that run; tests/kubernetes/real_pods.sh runs these tests")
    config.addinivalue_line("markers", "any_server: the pods that it asks for need not run, so it is for a user's cluster, too")
