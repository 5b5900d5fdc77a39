"""`platform.services` over scripted clusters: ensured, shared, held, changed, removed."""

from __future__ import annotations

import fondaco as fd
from fondaco.services.manager import Services
from services.fake_provisioner import FakePlace


def spec(name: str = "feeder", **more: object) -> fd.ServiceSpec:
    given: dict[str, object] = {"command": ["serve", "{port}"], "ports": ["main"]}
    return fd.ServiceSpec(name, **(given | more))  # type: ignore[arg-type]


def test_a_service_runs_while_it_is_held_and_its_endpoints_are_handed_over(services: Services, place: FakePlace) -> None:
    with services.ensure(spec(replicas=2), "run-17") as lease:
        assert len(lease.endpoints) == 2
        assert lease.env["FONDACO_SERVICE_ENDPOINTS"] == ",".join(lease.endpoints)
        assert lease.env["FONDACO_SERVICE_NAME"] == lease.service == spec(replicas=2).service
        assert [holder.holder for holder in services.status(lease.service).holders] == ["run-17"]
    assert services.status(lease.service).holders == ()
    assert lease.service in place.services
