"""The cluster that these tests run on."""

from kubernetes_cluster import cluster, kubernetes_run

__all__ = ["cluster", "kubernetes_run"]
