"""The cluster that the manifests are applied to."""

from kubernetes_cluster import cluster, kubernetes_run

__all__ = ["cluster", "kubernetes_run"]
