"""The cluster that these tests run on."""

import pytest

from kubernetes_cluster import cluster, kubernetes_run

__all__ = ["cluster", "kubernetes_run"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_pods: needs containers that run; tests/kubernetes/real_pods.sh runs these tests")
