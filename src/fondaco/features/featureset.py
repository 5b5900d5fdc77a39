"""Feature sets: what one model reads. A name, and features in order; it pins their definitions by the hash of its plan.

    late = ft.FeatureSet("late_departure", [PlaneHistory, PlaneFacts.seats, WeatherAt.on({"code": "origin"}, prefix="origin_")])

Immutable; any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from fondaco.core.errors import DefinitionError, FeatureNotFoundError
from fondaco.core.ids import check_name
from fondaco.features.entity import Entity, entity_fields
from fondaco.features.feature import Feature
from fondaco.features.plan import Binding, Selection, SetPlan
from fondaco.features.plan import diff as plan_diff
from fondaco.features.view import Definition, ViewSelection, ViewType, definition_of, features_of

Member: TypeAlias = Feature[Any] | ViewSelection | ViewType


class FeatureSet:
    """Features of one or several entities, for one model.

    Args:
        name: names its stores and records.
        features: views (all their features), features, `View.on(...)`, `feature.alias(...)`, `feature.on(...)`; several, or one.
    Raises:
        DefinitionError: two features with one output name (rename one with `.alias`), or something that is no feature.
    """

    def __init__(self, name: str, features: Sequence[Member] | Member) -> None:
        self.name = check_name("feature set", name)
        if not isinstance(features, Iterable) or isinstance(features, (str, ViewType)):
            features = [features]
        self.features: dict[str, Feature[Any]] = {}
        for member in features:
            for feature in _expand(member):
                self._add(feature)
        if not self.features:
            raise DefinitionError(f"feature set {name!r} has no feature")
        self._entities_must_differ()

    def __repr__(self) -> str:
        return f"<feature set {self.name!r}: {', '.join(self.features)}>"

    def __iter__(self) -> Iterator[Feature[Any]]:
        return iter(self.features.values())

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, name: str) -> Feature[Any]:
        """The feature of this output name.

        Raises:
            FeatureNotFoundError: with the near name.
        """
        if name not in self.features:
            raise FeatureNotFoundError(name, list(self.features), f"feature set {self.name!r}")
        return self.features[name]

    @property
    def entities(self) -> list[type[Entity]]:
        """The entities that the features describe, in order of first use."""
        return list(dict.fromkeys(definition_of(feature.view).entity for feature in self))

    @property
    def definitions(self) -> list[Definition]:
        """The views, in order of first use: number i is `plan().views[i]`."""
        return [definition_of(view) for view in dict.fromkeys(feature.view for feature in self)]

    def plan(self) -> SetPlan:
        """The checked plan; it reads the schemas of the sources, never their rows.

        Raises:
            DefinitionError and its kin: a definition does not fit its source.
        """
        views = list(dict.fromkeys(feature.view for feature in self))
        chosen: dict[Any, dict[str, None]] = {view: {} for view in views}
        selections = []
        for output, feature in self.features.items():
            chosen[feature.view][feature.name] = None
            entity = definition_of(feature.view).entity
            columns = tuple(column for _, column in feature.columns) or tuple(entity_fields(entity))
            selections.append(Selection(views.index(feature.view), feature.name, output, Binding(entity.__name__, columns)))
        plans = tuple(definition_of(view).plan(tuple(name for name in definition_of(view).nodes if name in chosen[view])) for view in views)
        return SetPlan(self.name, plans, tuple(selections))

    def check(self) -> None:
        """Refuse what cannot work, before anything runs; the same checks that `training_set` and `publish` begin with."""
        self.plan()

    @property
    def version(self) -> str:
        """The hash of the plan: 64 hex digits; equal for sets that mean the same."""
        return self.plan().version

    def diff(self, other: FeatureSet) -> list[str]:
        """What differs in `other`, one line each; empty if the two mean the same."""
        return plan_diff(self.plan(), other.plan())

    def _add(self, feature: Feature[Any]) -> None:
        taken = self.features.get(feature.output)
        if taken is not None:
            raise DefinitionError(
                f"feature set {self.name!r} has two features named {feature.output!r}: {taken!r} and {feature!r}; "
                f'rename one, as in {feature.view.__name__}.{feature.name}.alias("...")'
            )
        self.features[feature.output] = feature

    def _entities_must_differ(self) -> None:
        names: dict[str, type[Entity]] = {}
        for entity in self.entities:
            if names.setdefault(entity.__name__, entity) is not entity:
                raise DefinitionError(
                    f"feature set {self.name!r} uses two entities named {entity.__name__}; stores are named after them: rename one"
                )


def check_set(value: object) -> FeatureSet:
    """The value, which a caller gave for a feature set.

    Raises:
        DefinitionError: it is something else.
    """
    if isinstance(value, FeatureSet):
        return value
    raise DefinitionError(f'{value!r} is no feature set; name what the model reads: ft.FeatureSet("name", [View, View.feature, ...])')


def _expand(member: object) -> list[Feature[Any]]:
    if isinstance(member, ViewType):
        return list(features_of(member).values())
    if isinstance(member, ViewSelection):
        return member.features
    if isinstance(member, Feature):
        return [member]
    raise DefinitionError(f"{member!r} is no feature; give views, View.feature, View.on(...) or feature.alias(...)")
