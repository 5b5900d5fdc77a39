"""What every provisioner promises, as a suite: processes, Kubernetes and the scripted fake pass it alike.

Subclass `ProvisionerContract` and give

    open_provisioner    a fixture: a function that opens one more provisioner object on the same place, as another process would; the
                        fixture closes them, and takes away whatever is left on the place
    make_spec           a spec that behaves as asked there
    mark_of             what is another value after an instance was started anew: a process id, a pod's uid

and, where the place can do it, `break_something` and `apply_half`. What a provisioner cannot do is listed in `cannot` and must then fail:
a suite that passes for the wrong reason is noticed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from fondaco.core.errors import StateError
from fondaco.services.provisioner import Desired, Observed, Phase, Provisioner
from fondaco.services.spec import ServiceSpec

OpenProvisioner = Callable[[], Provisioner]
_INCARNATIONS = itertools.count(time.time_ns() // 1_000_000)


class ProvisionerContract:
    """See the module."""

    cannot: ClassVar[frozenset[str]] = frozenset()
    patience_s: ClassVar[float] = 60.0  # how long something that must happen may take
    calm_s: ClassVar[float] = 1.0  # how long something that must not happen is watched for
    crash_word: ClassVar[str] = "boom"  # what a crashing program says before it ends

    # -- to be given by the subclass ------------------------------------------------------------------------------------------------------

    @pytest.fixture
    def open_provisioner(self) -> OpenProvisioner:
        raise NotImplementedError("a subclass of ProvisionerContract gives the fixture `open_provisioner`")

    def make_spec(self, kind: str, name: str, **more: Any) -> ServiceSpec:
        """A spec with ports "main" and "metrics" (unless `more` says otherwise) that behaves so:

        "ready": ready at once; "slow": ready after about two seconds; "crashing": says `crash_word` and ends with exit code 3, again and
        again; "never ready": runs, and its readiness check fails, with a `start_s` longer than any test.
        """
        raise NotImplementedError

    def mark_of(self, provisioner: Provisioner, service: str, index: int) -> object:
        """Another value after the instance was started anew."""
        raise NotImplementedError

    def break_something(self, provisioner: Provisioner, service: str) -> bool:
        """Change by hand what was applied, as somebody with kubectl would; False if that cannot be done here."""
        return False

    def apply_half(self, provisioner: Provisioner, desired: Desired) -> bool:
        """Begin to apply, and die in the middle; False if that cannot be done here."""
        return False

    # -- used by the tests ----------------------------------------------------------------------------------------------------------------

    @classmethod
    def expectations(cls) -> list[str]:
        """Names of all expectations, as `cannot` lists them."""
        return sorted(name.removeprefix("test_") for name in dir(ProvisionerContract) if name.startswith("test_"))

    @pytest.fixture(autouse=True)
    def _expect_failure(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname.removeprefix("test_")
        if name in self.cannot:
            request.node.add_marker(pytest.mark.xfail(strict=True, reason=f"this provisioner cannot: {name}"))

    @pytest.fixture
    def provisioner(self, open_provisioner: OpenProvisioner) -> Provisioner:
        return open_provisioner()

    def desired(self, kind: str, name: str, *, annotations: Mapping[str, str] | None = None, **more: Any) -> Desired:
        """What shall be: a new incarnation of such a spec."""
        spec = self.make_spec(kind, name, **more)
        return Desired(spec.service, next(_INCARNATIONS), spec, spec.replicas, annotations or {"holders": "run-17", "ttl-us": "600000000"})

    def until(self, provisioner: Provisioner, service: str, is_so: Callable[[Observed], object], what: str) -> Observed:
        """Observe until something is so."""
        give_up = time.monotonic() + self.patience_s
        while not is_so(seen := provisioner.observe(service)):
            assert time.monotonic() < give_up, f"still waiting after {self.patience_s:g} s: {what}; last seen: {seen}"
            time.sleep(0.05)
        return seen

    def until_ready(self, provisioner: Provisioner, desired: Desired) -> Observed:
        return self.until(
            provisioner, desired.service, lambda seen: seen.phase is Phase.READY and seen.ready == desired.replicas, "it is ready"
        )

    def run(self, provisioner: Provisioner, kind: str, name: str, **more: Any) -> tuple[Desired, Observed]:
        """A service that is applied and ready."""
        desired = self.desired(kind, name, **more)
        provisioner.check(desired)
        provisioner.apply(desired)
        return desired, self.until_ready(provisioner, desired)

    def take_away(self, provisioner: Provisioner, desired: Desired) -> None:
        """Remove it until nothing is left."""
        give_up = time.monotonic() + self.patience_s
        while not provisioner.remove(desired.service, desired.incarnation):
            assert time.monotonic() < give_up, f"still not removed: {provisioner.observe(desired.service)}"
            time.sleep(0.05)

    def marks(self, provisioner: Provisioner, desired: Desired) -> list[object]:
        return [self.mark_of(provisioner, desired.service, index) for index in range(desired.replicas)]

    # -- nothing --------------------------------------------------------------------------------------------------------------------------

    def test_only_expectations_are_listed_as_impossible(self) -> None:
        assert set(self.cannot) <= set(self.expectations())

    def test_what_was_never_applied_is_absent_and_its_removal_is_done(self, provisioner: Provisioner) -> None:
        seen = provisioner.observe("nobody-0123456789")
        assert (seen.phase, seen.ready, seen.total, seen.desired) == (Phase.ABSENT, 0, 0, None)
        assert "nobody-0123456789" not in provisioner.observe_all()
        assert provisioner.remove("nobody-0123456789", 7)
        assert list(provisioner.logs("nobody-0123456789")) == []

    # -- making ---------------------------------------------------------------------------------------------------------------------------

    def test_what_is_applied_becomes_ready_and_says_where_it_is(self, provisioner: Provisioner) -> None:
        desired, seen = self.run(provisioner, "ready", "plain", replicas=2)
        assert (seen.service, seen.incarnation, seen.total) == (desired.service, desired.incarnation, 2)
        assert set(seen.endpoints) == {"main", "metrics"}
        addresses = [address for addresses in seen.endpoints.values() for address in addresses]
        assert len(addresses) == 4
        assert all(address.rpartition(":")[2].isdigit() and address.rpartition(":")[0] for address in addresses)
        assert len(set(addresses)) == 4
        assert [instance.index for instance in seen.instances] == [0, 1]
        assert [instance.address for instance in seen.instances] == list(seen.endpoints["main"])
        assert {instance.phase for instance in seen.instances} == {Phase.READY}
        assert seen.drift == ()

    def test_a_check_changes_nothing(self, provisioner: Provisioner) -> None:
        desired = self.desired("ready", "checked")
        provisioner.check(desired)
        assert provisioner.observe(desired.service).phase is Phase.ABSENT

    def test_all_at_once_says_the_same_as_one_by_one(self, provisioner: Provisioner) -> None:
        one, first = self.run(provisioner, "ready", "one")
        other, second = self.run(provisioner, "ready", "other", replicas=2)
        everything = provisioner.observe_all()
        for desired, seen in ((one, first), (other, second)):
            found = everything[desired.service]
            assert (found.incarnation, found.phase, found.ready, found.total) == (desired.incarnation, Phase.READY, seen.ready, seen.total)
            assert (dict(found.endpoints), found.desired) == (dict(seen.endpoints), desired)

    def test_what_was_asked_is_read_back_by_others(self, provisioner: Provisioner, open_provisioner: OpenProvisioner) -> None:
        more = {"env": {"LANG": 'C "quoted" {{braces}} \n ä'}, "labels": {"team": "feed"}, "exports": {"GE": "{endpoints}"}, "ttl": "1h"}
        desired, _ = self.run(
            provisioner, "ready", "asked", annotations={"holders": "a b,ä:7/x", "ttl-us": "1", "kept": '{"a": null}'}, **more
        )  # fmt: skip
        seen = open_provisioner().observe(desired.service)
        assert seen.desired == desired
        assert seen.desired is not None
        assert seen.desired.spec.identity == desired.spec.identity

    def test_a_slow_one_is_starting_until_it_is_ready(self, provisioner: Provisioner) -> None:
        desired = self.desired("slow", "slow")
        provisioner.apply(desired)
        assert provisioner.observe(desired.service).phase is Phase.STARTING
        self.until_ready(provisioner, desired)

    def test_one_that_is_never_ready_goes_on_starting_and_says_why(self, provisioner: Provisioner) -> None:
        desired = self.desired("never ready", "never")
        provisioner.apply(desired)
        seen = self.until(provisioner, desired.service, lambda seen: seen.phase is Phase.STARTING and seen.reason, "it says why")
        assert "0/1" in seen.reason
        quiet = time.monotonic() + self.calm_s
        while time.monotonic() < quiet:
            assert provisioner.observe(desired.service).phase is Phase.STARTING
            time.sleep(0.1)

    def test_a_crashing_one_fails_and_says_what_happened(self, provisioner: Provisioner) -> None:
        desired = self.desired("crashing", "crashing")
        provisioner.apply(desired)
        seen = self.until(provisioner, desired.service, lambda seen: seen.phase is Phase.FAILED, "it has failed")
        assert seen.ready == 0
        assert "3" in seen.reason
        assert seen.instances[0].reason

    def test_the_last_words_of_a_crashing_one_can_be_read(self, provisioner: Provisioner) -> None:
        desired = self.desired("crashing", "last-words")
        provisioner.apply(desired)
        self.until(provisioner, desired.service, lambda seen: seen.phase is Phase.FAILED, "it has failed")
        for index in (0, None):
            assert any(self.crash_word in line for line in provisioner.logs(desired.service, index=index)), index
        assert len(provisioner.logs(desired.service, index=0, lines=1)) == 1

    # -- again ----------------------------------------------------------------------------------------------------------------------------

    def test_applying_it_again_restarts_nothing(self, provisioner: Provisioner, open_provisioner: OpenProvisioner) -> None:
        desired, seen = self.run(provisioner, "ready", "again", replicas=2)
        before = self.marks(provisioner, desired)
        for each in (provisioner, open_provisioner()):
            each.apply(desired)
        after = self.until_ready(provisioner, desired)
        assert (self.marks(provisioner, desired), dict(after.endpoints)) == (before, dict(seen.endpoints))

    def test_other_annotations_are_kept_and_restart_nothing(self, provisioner: Provisioner) -> None:
        desired, _ = self.run(provisioner, "ready", "annotated")
        before = self.marks(provisioner, desired)
        changed = Desired(desired.service, desired.incarnation, desired.spec, 1, {"holders": "run-17,run-18", "more": "x"})
        provisioner.apply(changed)
        seen = self.until_ready(provisioner, changed)
        assert seen.desired == changed
        assert self.marks(provisioner, desired) == before

    def test_two_that_apply_at_once_make_one_service(self, open_provisioner: OpenProvisioner) -> None:
        plans = [self.desired("ready", f"crowd-{index}") for index in range(3)]
        each = [(open_provisioner(), desired) for desired in plans * 3]
        with ThreadPoolExecutor(len(each)) as pool:
            list(pool.map(lambda pair: pair[0].apply(pair[1]), each))
        provisioner = open_provisioner()
        for desired in plans:
            assert self.until_ready(provisioner, desired).total == 1

    def test_half_a_call_is_finished_by_the_next_one(self, provisioner: Provisioner, open_provisioner: OpenProvisioner) -> None:
        desired = self.desired("ready", "half", replicas=2)
        if not self.apply_half(provisioner, desired):
            pytest.skip("nothing dies half-way here")
        other = open_provisioner()
        other.apply(desired)
        assert self.until_ready(other, desired).drift == ()

    def test_half_a_call_is_taken_away_by_a_removal(self, provisioner: Provisioner, open_provisioner: OpenProvisioner) -> None:
        desired = self.desired("ready", "half-gone", replicas=2)
        if not self.apply_half(provisioner, desired):
            pytest.skip("nothing dies half-way here")
        other = open_provisioner()
        self.take_away(other, desired)
        assert other.observe(desired.service).phase is Phase.ABSENT

    # -- changed --------------------------------------------------------------------------------------------------------------------------

    def test_it_can_be_made_larger_and_smaller_without_touching_those_that_stay(self, provisioner: Provisioner) -> None:
        desired, seen = self.run(provisioner, "ready", "scaled")
        before = self.mark_of(provisioner, desired.service, 0)
        larger = Desired(desired.service, desired.incarnation, desired.spec, 3, desired.annotations)
        provisioner.apply(larger)
        grown = provisioner.observe(desired.service)
        assert grown.phase is not Phase.READY or (grown.ready, grown.total) == (3, 3), "READY was said of what was there before"
        grown = self.until_ready(provisioner, larger)
        assert grown.endpoints["main"][0] == seen.endpoints["main"][0]
        assert len(set(grown.endpoints["main"])) == 3
        provisioner.apply(desired)
        shrunk = self.until(
            provisioner, desired.service, lambda s: s.phase is Phase.READY and len(s.instances) == s.total == 1, "the others are gone"
        )
        assert dict(shrunk.endpoints) == dict(seen.endpoints)
        assert self.mark_of(provisioner, desired.service, 0) == before

    def test_a_changed_program_is_rolled_out_at_the_same_addresses(self, provisioner: Provisioner) -> None:
        desired, seen = self.run(provisioner, "ready", "changed", replicas=2)
        before = self.marks(provisioner, desired)
        spec = desired.spec.replace(env=desired.spec.env | {"GREETING": "hello"})
        changed = Desired(desired.service, desired.incarnation, spec, 2, desired.annotations)
        provisioner.apply(changed)
        now = provisioner.observe(desired.service)
        if now.phase is Phase.READY:
            assert not set(before) & set(self.marks(provisioner, desired)), "READY was said of what was there before"
        after = self.until_ready(provisioner, changed)
        assert not set(before) & set(self.marks(provisioner, desired))
        assert (dict(after.endpoints), after.desired) == (dict(seen.endpoints), changed)

    def test_one_that_has_failed_runs_after_it_was_changed(self, provisioner: Provisioner) -> None:
        failing = self.desired("crashing", "mended")
        provisioner.apply(failing)
        self.until(provisioner, failing.service, lambda seen: seen.phase is Phase.FAILED, "it has failed")
        mended = Desired(failing.service, failing.incarnation, self.make_spec("ready", "mended"), 1, failing.annotations)
        provisioner.apply(mended)
        self.until_ready(provisioner, mended)

    def test_what_somebody_else_changes_is_shown_and_repaired(self, provisioner: Provisioner) -> None:
        desired, seen = self.run(provisioner, "ready", "drifting", replicas=2)
        if not self.break_something(provisioner, desired.service):
            pytest.skip("nobody else can change anything here")
        drifted = self.until(provisioner, desired.service, lambda seen: seen.drift, "drift is shown")
        assert provisioner.observe_all()[desired.service].drift == drifted.drift
        provisioner.apply(desired)
        repaired = self.until(
            provisioner, desired.service, lambda s: s.phase is Phase.READY and s.ready == 2 and not s.drift, "drift is repaired"
        )
        assert dict(repaired.endpoints) == dict(seen.endpoints)

    # -- gone -----------------------------------------------------------------------------------------------------------------------------

    def test_what_is_removed_is_gone_for_everybody(self, provisioner: Provisioner, open_provisioner: OpenProvisioner) -> None:
        desired, _ = self.run(provisioner, "ready", "removed", replicas=2)
        other = open_provisioner()
        self.take_away(other, desired)
        for each in (provisioner, other):
            assert each.observe(desired.service).phase is Phase.ABSENT
            assert desired.service not in each.observe_all()
            assert each.remove(desired.service, desired.incarnation)

    def test_a_removal_of_another_incarnation_takes_nothing(self, provisioner: Provisioner) -> None:
        desired, _ = self.run(provisioner, "ready", "guarded")
        before = self.marks(provisioner, desired)
        for other in (desired.incarnation - 1, desired.incarnation + 1):
            assert provisioner.remove(desired.service, other)
        assert self.until_ready(provisioner, desired).incarnation == desired.incarnation
        assert self.marks(provisioner, desired) == before

    def test_another_incarnation_cannot_be_made_over_one_that_is_there(self, provisioner: Provisioner) -> None:
        desired, seen = self.run(provisioner, "ready", "taken")
        for other in (desired.incarnation - 1, desired.incarnation + 1):
            with pytest.raises(StateError, match=str(desired.incarnation)):
                provisioner.apply(Desired(desired.service, other, desired.spec, 1, {}))
        after = self.until_ready(provisioner, desired)
        assert (after.incarnation, dict(after.endpoints), after.desired) == (desired.incarnation, dict(seen.endpoints), desired)

    def test_a_name_can_be_used_again_after_a_removal(self, provisioner: Provisioner) -> None:
        first, _ = self.run(provisioner, "ready", "reused")
        self.take_away(provisioner, first)
        second, seen = self.run(provisioner, "ready", "reused")
        assert second.service == first.service
        assert seen.incarnation == second.incarnation
        assert provisioner.remove(first.service, first.incarnation)
        assert provisioner.observe(second.service).phase is Phase.READY

    def test_one_that_never_got_ready_can_be_removed(self, provisioner: Provisioner) -> None:
        for kind in ("never ready", "crashing"):
            desired = self.desired(kind, "hopeless")
            provisioner.apply(desired)
            self.take_away(provisioner, desired)
            assert provisioner.observe(desired.service).phase is Phase.ABSENT

    def test_services_go_on_when_a_provisioner_is_closed(self, provisioner: Provisioner, open_provisioner: OpenProvisioner) -> None:
        desired, _ = self.run(provisioner, "ready", "going-on")
        before = self.marks(provisioner, desired)
        provisioner.close()
        other = open_provisioner()
        assert self.until_ready(other, desired).incarnation == desired.incarnation
        assert self.marks(other, desired) == before
