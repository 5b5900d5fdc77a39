"""Cluster: nodes, which stores they hold, how version files reach them, and where a reader finds a partition."""
