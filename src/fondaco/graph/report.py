"""Report: what building a version of a graph made of its tables, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fondaco.core.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """One build that ended well. Counts are exact; `seconds` is wall time, `steps` its parts."""

    graph: str
    version: int
    current: bool  # whether readers were moved to it
    nodes: Mapping[str, int]  # by node type
    edges: Mapping[str, int]  # by edge type, "source/relation/target"
    partitions: int
    bytes: int
    seconds: float
    steps: Mapping[str, float] = field(default_factory=dict)

    @property
    def node_count(self) -> int:
        """Nodes of all types."""
        return sum(self.nodes.values())

    @property
    def edge_count(self) -> int:
        """Edges of all types, each counted once."""
        return sum(self.edges.values())

    def __str__(self) -> str:
        state = f"v{self.version} is current" if self.current else f"v{self.version} is READY"
        return (
            f"built {self.graph} v{self.version}: {self.node_count:,} nodes, {self.edge_count:,} edges, {self.partitions} "
            f"partition{'s' if self.partitions != 1 else ''}, {format_bytes(self.bytes)} in {self.seconds:.1f} s; {state}"
        )
