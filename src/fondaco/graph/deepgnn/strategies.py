"""Names of DeepGNN that are values: sampling strategies and storage types."""

from __future__ import annotations

from enum import IntEnum


class SamplingStrategy(IntEnum):
    """How nodes and edges are drawn."""

    Weighted = 1
    Random = 2
    RandomWithoutReplacement = 3
    TopK = 4
    PPRGo = 5
    LastN = 6


class PartitionStorageType(IntEnum):
    """Taken and passed over: a graph is mapped from its files, and the system keeps in memory what is used."""

    memory = 0
    disk = 1
