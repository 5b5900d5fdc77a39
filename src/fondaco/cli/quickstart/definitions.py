"""The features of the main job: what is known about a flight at its scheduled departure.

Every window is `closed="left"`: it ends just before the label's time. Without that, a flight that departed early (its delay is known
before its scheduled departure) would find its own delay in its own history; the model would look brilliant and know nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from fondaco import features as ft
from fondaco.cli.quickstart.data import LATE_MINUTES, Flights
from fondaco.cli.quickstart.graph import flat_names

SET_NAME = "late_departure"
LIVE_NAME = "late_departure_live"


class Plane(ft.Entity):
    """An aircraft, by the number on its tail."""

    tailnum: str


class Carrier(ft.Entity):
    """An airline, by its two-letter code."""

    carrier: str


class Route(ft.Entity):
    """A pair of airports: two fields, one key."""

    origin: str
    dest: str


class Airport(ft.Entity):
    """An airport to leave from."""

    origin: str


class Destination(ft.Entity):
    """An airport to fly to."""

    dest: str


@dataclass(frozen=True, slots=True)
class Definitions:
    """The feature set that the model reads, and the columns of its features by group (for the question of what each group is worth); and
    the part of it that a day of events keeps fresh, with stores of its own, because a replay begins before the day that it replays."""

    feature_set: ft.FeatureSet
    live_set: ft.FeatureSet
    groups: dict[str, tuple[str, ...]]


def define_features(data: Flights, embeddings: Mapping[str, pa.Table]) -> Definitions:
    """Define, over the tables, everything the model reads. Nothing is computed here.

    Args:
        embeddings: of the nodes of the graph of flights (`graph`), a table a node type.
    """
    flights = ft.Table(data.flights, name="flights", time="scheduled_at", known_at="known_at", key=[Plane, Carrier, Route])
    weather = ft.Table(data.weather, name="weather", time="observed_at", known_at="known_at", key=Airport)
    planes = ft.Table(data.planes, name="planes", key=Plane)
    f, w, p = flights.c, weather.c, planes.c

    class PlaneHistory(ft.View[Plane], source=flights):
        """What this aircraft has been through lately."""

        plane_last_delay: ft.Float64 = f.dep_delay.last(window="1d", closed="left", skip_null=True)
        plane_mean_delay_7d: ft.Float64 = f.dep_delay.mean(window="7d", closed="left")
        plane_late_1d: ft.Int64 = ft.count(where=f.dep_delay > LATE_MINUTES, window="1d", closed="left")
        plane_flights_1d: ft.Int64 = ft.count(window="1d", closed="left")
        plane_cancelled_7d: ft.Int64 = ft.count(where=f.cancelled, window="7d", closed="left")

    class CarrierDelays(ft.View[Carrier], source=flights):
        """How the airline is doing today and this week."""

        carrier_mean_delay_3h: ft.Float64 = f.dep_delay.mean(window="3h", closed="left")
        carrier_mean_delay_1d: ft.Float64 = f.dep_delay.mean(window="1d", closed="left")
        carrier_mean_delay_7d: ft.Float64 = f.dep_delay.mean(window="7d", closed="left")
        carrier_cancelled_1d: ft.Int64 = ft.count(where=f.cancelled, window="1d", closed="left")

    class RouteDelays(ft.View[Route], source=flights):
        """How flights on this route have been doing."""

        route_mean_delay_1d: ft.Float64 = f.dep_delay.mean(window="1d", closed="left")
        route_mean_delay_7d: ft.Float64 = f.dep_delay.mean(window="7d", closed="left")
        route_worst_delay_1d: ft.Float64 = f.dep_delay.max(window="1d", closed="left")
        route_spread_7d: ft.Float64 = f.dep_delay.stddev(window="7d", closed="left")

    class Weather(ft.View[Airport], source=weather):
        """The last hourly observation at the airport of origin; an hour that began more than three hours ago counts as unknown."""

        temp: ft.Float64 = w.temp.latest(max_age="3h")
        humid: ft.Float64 = w.humid.latest(max_age="3h")
        wind_speed: ft.Float64 = w.wind_speed.latest(max_age="3h")
        precip: ft.Float64 = w.precip.latest(max_age="3h")
        pressure: ft.Float64 = w.pressure.latest(max_age="3h")
        visib: ft.Float64 = w.visib.latest(max_age="3h")

    class PlaneFacts(ft.View[Plane], source=planes):
        """What does not change about an aircraft."""

        seats: ft.Int64 = p.seats
        engines: ft.Int64 = p.engines
        built_year: ft.Int64 = p.built_year

    plane_nodes = ft.Table(embeddings["plane"], name="plane_nodes", key=Plane)
    carrier_nodes = ft.Table(embeddings["carrier"], name="carrier_nodes", key=Carrier)
    airport_nodes = ft.Table(embeddings["airport"], name="airport_nodes", key=Destination)

    class PlaneNode(ft.View[Plane], source=plane_nodes):
        """Where the aircraft stands in the graph of flights."""

        plane_node: ft.List[ft.Float32] = plane_nodes.c.embedding

    class CarrierNode(ft.View[Carrier], source=carrier_nodes):
        """And its airline."""

        carrier_node: ft.List[ft.Float32] = carrier_nodes.c.embedding

    class DestinationNode(ft.View[Destination], source=airport_nodes):
        """And the airport that it flies to."""

        dest_node: ft.List[ft.Float32] = airport_nodes.c.embedding

    views = {"weather": Weather, "plane history": PlaneHistory, "carrier": CarrierDelays, "route": RouteDelays, "plane facts": PlaneFacts}
    groups = {group: [view] for group, view in views.items()} | {"graph": [PlaneNode, CarrierNode, DestinationNode]}
    return Definitions(
        ft.FeatureSet(SET_NAME, [view for members in groups.values() for view in members]),
        ft.FeatureSet(LIVE_NAME, [PlaneHistory, RouteDelays]),
        {group: _columns(ft.FeatureSet("group", members)) for group, members in groups.items()},
    )


def _columns(features: ft.FeatureSet) -> tuple[str, ...]:
    """What the model reads of these features: an embedding is as many columns as it has numbers."""
    named = ((feature.output, feature.dtype.kind.item is not None) for feature in features)
    return tuple(column for name, is_list in named for column in (flat_names(name) if is_list else (name,)))
