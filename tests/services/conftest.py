"""A platform's catalog, and managers of services on fake clusters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fondaco.catalog import Catalog
from fondaco.core.clock import ManualClock
from fondaco.core.config import ClusterConfig, ServicesConfig
from fondaco.services.manager import Services
from services.fake_provisioner import FakePlace
from services.specs import OpenServices

START_US = 1_800_000_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_US)


@pytest.fixture
def places() -> dict[str, FakePlace]:
    """Three clusters: local, texas and virginia."""
    return {name: FakePlace(name) for name in ("local", "texas", "virginia")}


@pytest.fixture
def place(places: dict[str, FakePlace]) -> FakePlace:
    return places["local"]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(tmp_path)
    yield opened
    opened.close()


CONFIG = ServicesConfig(
    clusters={
        "texas": ClusterConfig(kind="kubernetes", labels={"region": "south", "gpu": "yes"}),
        "virginia": ClusterConfig(kind="kubernetes", labels={"region": "east", "gpu": "yes"}),
    }
)


@pytest.fixture
def open_services(catalog: Catalog, clock: ManualClock, places: dict[str, FakePlace]) -> Iterator[OpenServices]:
    """Opens one more manager on the same catalog and clusters, as another process would."""
    opened: list[Services] = []

    def open_one() -> Services:
        opened.append(Services(catalog, CONFIG, clock, {name: place.provisioner for name, place in places.items()}))
        return opened[-1]

    yield open_one
    for services in opened:
        services.close()


@pytest.fixture
def services(open_services: OpenServices) -> Services:
    return open_services()
