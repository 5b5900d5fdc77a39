"""Literals: a data service task's outputs as Flyte 1 carries them, made directly and so of the declared types also when a list is empty."""

from __future__ import annotations

from collections.abc import Mapping

from flytekit.models.literals import Literal, LiteralCollection, LiteralMap, Primitive, Scalar

Value = str | list[str] | dict[str, str]


def literal_map(values: Mapping[str, Value]) -> LiteralMap:
    """Texts, lists of texts and mappings to texts as literals."""
    return LiteralMap({name: _literal(value) for name, value in values.items()})


def _literal(value: Value) -> Literal:
    if isinstance(value, str):
        return Literal(scalar=Scalar(primitive=Primitive(string_value=value)))
    if isinstance(value, list):
        return Literal(collection=LiteralCollection([_literal(part) for part in value]))
    return Literal(map=LiteralMap({name: _literal(part) for name, part in value.items()}))
