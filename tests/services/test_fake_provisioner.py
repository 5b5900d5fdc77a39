"""The scripted fake keeps the promises of the real provisioners, so that tests above it say something about them."""

from __future__ import annotations

import pytest

from fondaco.core.errors import UnavailableError
from fondaco.services.provisioner import Desired, Phase, Provisioner
from fondaco.services.spec import ServiceSpec
from fondaco.testing import ProvisionerContract
from fondaco.testing.provisioner import OpenProvisioner
from services.fake_provisioner import FakePlace, FakeProvisioner


class TestFakeProvisioner(ProvisionerContract):
    calm_s = 0.0
    cannot = frozenset({"a_slow_one_is_starting_until_it_is_ready"})  # a script does not change by itself

    @pytest.fixture
    def open_provisioner(self) -> OpenProvisioner:
        return FakePlace().provisioner

    @pytest.fixture(autouse=True)
    def _hurry(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        if "slow_one" in request.node.name:
            monkeypatch.setattr(type(self), "patience_s", 0.1)

    def make_spec(self, kind: str, name: str, **more: object) -> ServiceSpec:
        given: dict[str, object] = {"command": ["serve"], "ports": ["main", "metrics"], "exact_name": True, "env": {"BEHAVE": kind}}
        more["env"] = {"BEHAVE": kind} | (more.get("env") or {})  # type: ignore[operator]
        return ServiceSpec(name, **(given | more))  # type: ignore[arg-type]

    def mark_of(self, provisioner: Provisioner, service: str, index: int) -> object:
        assert isinstance(provisioner, FakeProvisioner)
        return index, provisioner.place.services[service].generation[index]

    def break_something(self, provisioner: Provisioner, service: str) -> bool:
        assert isinstance(provisioner, FakeProvisioner)
        provisioner.place.services[service].drift = "spec.replicas is 1, not 2 (changed by hand)"
        return True

    def apply_half(self, provisioner: Provisioner, desired: Desired) -> bool:
        assert isinstance(provisioner, FakeProvisioner)
        provisioner.place.fail_after["apply"] = [UnavailableError("cluster local", "reset")]
        with pytest.raises(UnavailableError):
            provisioner.apply(desired)
        return provisioner.observe(desired.service).phase is not Phase.ABSENT
