"""Numbers for names: DeepGNN calls node types, edge types and features 0, 1, 2...; a graph here calls them by name.

If all names of a kind end in a number of their own (as "0", "type_1" or "feature_2"), these are the numbers; else positions in the schema
are. Edge types are numbered by their relation: one number stands for all edge types of a relation, whatever types of node they join.
`Numbering` says which, and may be made by hand. Immutable; any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fondaco.core.errors import InputError
from fondaco.graph.schema import EdgeType, Feature, GraphSchema

_NUMBERED: Final = re.compile(r"(?:.*\D)?(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Numbering:
    """Which number stands for what. `nodes`: node type by number. `relations`: relation by number. `features`: feature names by number, for
    each node type by its name and for each relation by its name."""

    nodes: Mapping[int, str]
    relations: Mapping[int, str]
    node_features: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    edge_features: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    @staticmethod
    def of(schema: GraphSchema) -> Numbering:
        """The numbers that a graph's own names give."""
        relations = list(dict.fromkeys(edge.relation for edge in schema.edges))
        of_relation = {name: _features(edge.features for edge in schema.edges if edge.relation == name) for name in relations}
        return Numbering(
            nodes=_numbered([node.name for node in schema.nodes]),
            relations=_numbered(relations),
            node_features={node.name: _numbered([feature.name for feature in node.features]) for node in schema.nodes},
            edge_features={name: _numbered(names) for name, names in of_relation.items()},
        )

    def node_number(self, name: str) -> int:
        """The number of a node type."""
        return next(number for number, known in self.nodes.items() if known == name)

    def edges(self, schema: GraphSchema, numbers: Sequence[int]) -> list[tuple[int, EdgeType]]:
        """Edge types of these numbers, ascending; numbers that no edge type has are passed over, as DeepGNN does."""
        return [
            (number, edge)
            for number in sorted(set(numbers))
            if number in self.relations
            for edge in schema.edges
            if edge.relation == self.relations[number]
        ]


def checked(numbering: Numbering, schema: GraphSchema) -> Numbering:
    """`numbering`, if it numbers every type.

    Raises:
        InputError: a type without a number; NodeTypeNotFoundError, EdgeTypeNotFoundError: a number for a type that is not there.
    """
    for name in numbering.nodes.values():
        schema.node(name)
    missing = {node.name for node in schema.nodes} - set(numbering.nodes.values())
    missing |= {edge.relation for edge in schema.edges} - set(numbering.relations.values())
    if missing:
        raise InputError(f"no number stands for {', '.join(map(repr, sorted(missing)))}; number every node type and every relation")
    return numbering


def _numbered(names: Sequence[str]) -> dict[int, str]:
    found = [_NUMBERED.fullmatch(name) for name in names]
    numbers = [int(match[1]) for match in found if match is not None]
    if len(numbers) == len(names) == len(set(numbers)):
        return dict(sorted(zip(numbers, names, strict=True)))
    return dict(enumerate(names))


def _features(groups: object) -> list[str]:
    names: dict[str, None] = {}
    for group in groups:  # type: ignore[attr-defined]
        names |= dict.fromkeys(feature.name for feature in group if isinstance(feature, Feature))
    return list(names)
