"""The clean-up's connector over a scripted cluster: what a backend gets while the cluster hangs."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

from flyteidl.core.execution_pb2 import TaskExecution

from fondaco.adapters.data_service import DataServiceConfig, create
from fondaco.adapters.flyte1.cleanup import CleanupConnector, CleanupMeta
from fondaco.catalog import Catalog
from fondaco.core.clock import SystemClock
from fondaco.core.config import ServicesConfig
from fondaco.services.manager import Services
from services.fake_provisioner import FakePlace
from waiting import wait_for

EXECUTION = "flyte:graphs/development/f17/"


def test_a_clean_up_answers_while_the_cluster_hangs_and_ends_when_it_answers_again(tmp_path: Path) -> None:
    place, goes_on = FakePlace(), threading.Event()
    with closing(Catalog.open(tmp_path)) as catalog:
        services = Services(catalog, ServicesConfig(), SystemClock(), {"local": place.provisioner})
        made = create(services, DataServiceConfig(Command=["serve", "{port}"]), holder=f"{EXECUTION}n0")
        connector, meta = CleanupConnector(services), CleanupMeta(made.service, EXECUTION)
        place.before["observe"] = lambda: goes_on.wait(60) and None
        got = connector.get(meta, answer_s=0.2)
        assert got.phase == TaskExecution.RUNNING
        assert made.service in got.message
        goes_on.set()
        wait_for(lambda: connector.get(meta).phase == TaskExecution.SUCCEEDED, "the clean-up to end")
        assert services.status(made.service).holders == ()
        services.close()
