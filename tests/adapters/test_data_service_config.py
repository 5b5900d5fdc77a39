"""DataServiceConfig: what a person writes, what a protobuf Struct makes of it, and what it means."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.adapters.data_service import DataServiceConfig
from fondaco.core.errors import InputError
from fondaco.services.spec import ServiceSpec


def through_a_struct(custom: dict[str, Any]) -> dict[str, Any]:
    """What a connector gets of a task's `custom`: every number is a double."""
    struct = Struct()
    struct.update(custom)
    return json_format.MessageToDict(Struct.FromString(struct.SerializeToString()))


names = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0{}"), max_size=20)
variables = st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True), texts, max_size=3)
cpu = st.one_of(st.integers(1, 64), st.sampled_from(["500m", "2", 0.5, 1.5]))
memory = st.one_of(st.integers(1 << 20, 1 << 40), st.sampled_from(["512Mi", "4Gi", "10G"]))
resources = st.fixed_dictionaries({}, optional={"cpu": cpu, "mem": memory, "gpu": st.integers(1, 8), "ephemeral_storage": memory})
durations = st.sampled_from(["90s", "10m", "6h", "1h30m", "7d"])
common: dict[str, Any] = {
    "Name": names, "Port": st.integers(1, 60_000), "Replicas": st.integers(1, 40), "Limits": resources, "Cluster": names,
    "Env": variables, "Exports": variables, "Readiness": st.sampled_from(["/ready", "tcp", "process", {"tcp": True, "every_s": 2}]),
    "Ttl": durations, "Hold": durations, "Labels": variables, "Image": texts.filter(bool),
}  # fmt: skip
programs = st.fixed_dictionaries({"Command": st.lists(texts, min_size=1, max_size=4)}, optional=common)
graphs = st.fixed_dictionaries(
    {"Graph": texts.filter(lambda text: any(one.isascii() and one.isalpha() for one in text))},
    optional={"Version": st.integers(1, 1 << 40), "Shards": st.integers(1, 8), **common},
)


def fits(given: dict[str, Any]) -> bool:
    try:
        DataServiceConfig(**given)
    except InputError:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(given=st.one_of(programs, graphs).filter(fits))
def test_settings_mean_the_same_after_the_journey_through_a_struct(given: dict[str, Any]) -> None:
    config = DataServiceConfig(**given)
    arrived = DataServiceConfig.from_custom(through_a_struct(config.to_custom()))
    assert arrived == config
    spec, there = config.to_spec(), arrived.to_spec()
    assert spec is not None
    assert there is not None
    assert there.identity == spec.identity
    assert there.exports == spec.exports
    assert there.ports == spec.ports


@settings(max_examples=60, deadline=None)
@given(
    given=programs.filter(fits), unset=st.sets(st.sampled_from(["Name", "Port", "Replicas", "Limits", "Requests", "ExistingReleaseName"]))
)
def test_nulls_of_older_registrations_are_what_was_not_set(given: dict[str, Any], unset: set[str]) -> None:
    nulls = {name: None for name in unset if name not in given}
    assert DataServiceConfig.from_custom(through_a_struct(given | nulls)) == DataServiceConfig(**given)


def test_numbers_arrive_as_numbers() -> None:
    config = DataServiceConfig.from_custom(through_a_struct({"Image": "graph:1", "Port": 40000, "Replicas": 8, "Requests": {"cpu": 2}}))
    spec = config.to_spec()
    assert spec is not None
    assert spec.ports == {"main": 40000}
    assert type(spec.ports["main"]) is int
    assert (spec.replicas, spec.resources.requests) == (8, {"cpu": "2"})


def test_a_service_of_an_image_has_the_documented_defaults_of_the_plugin() -> None:
    spec = DataServiceConfig(Name="k8s-dataservice", Image="graph-engine:7").to_spec()
    assert spec is not None
    assert spec.service == "k8s-dataservice"
    assert spec.ports == {"main": 40_000}
    assert spec.replicas == 1
    assert spec.env == {"SERVER_PORT": "{port}", "GE_BASE_PORT": "{port}", "GE_COUNT": "{replicas}"}
    assert spec.readiness.tcp


def test_equal_settings_share_a_service_and_only_a_name_makes_it_exact() -> None:
    one = DataServiceConfig(Graph="routes", Replicas=2).to_spec()
    other = DataServiceConfig(Graph="routes", Replicas=2, Exports={"GE": "{endpoints}"}, Hold="1h", Ttl="1h").to_spec()
    named = DataServiceConfig(Graph="routes", Name="my-routes").to_spec()
    assert one is not None
    assert other is not None
    assert named is not None
    assert one.service == other.service == ServiceSpec.graph("routes", replicas=2).service
    assert named.service == "my-routes"


def test_exports_come_beside_those_of_a_ready_made_service() -> None:
    spec = DataServiceConfig(Graph="routes", Exports={"GE_ENDPOINTS": "{endpoints}"}).to_spec()
    assert spec is not None
    assert set(spec.exports) == {"FONDACO_GRAPH_ENDPOINTS", "FONDACO_GRAPH_NAME", "GE_ENDPOINTS"}


def test_shell_variables_and_json_in_a_command_stay_as_they_are() -> None:
    command = ["sh", "-c", "serve --port ${SERVER_PORT} --of {port} {{x}}", '{"a": {"b": 1}}']
    spec = DataServiceConfig(Command=command).to_spec()
    assert spec is not None
    from fondaco.services.words import filled

    values = {"port": 7}
    assert [filled(text, values) for text in spec.command] == [
        "sh", "-c", "serve --port ${SERVER_PORT} --of 7 {x}", '{"a": {"b": 1}}',
    ]  # fmt: skip


def test_resources_of_both_sdks_are_read_by_their_fields() -> None:
    flyte = pytest.importorskip("flyte")
    flytekit = pytest.importorskip("flytekit")
    both = [
        DataServiceConfig(Image="i", Requests=flytekit.Resources(cpu="2", mem="4Gi"), Limits=flytekit.Resources(gpu=1, mem="8Gi")),
        DataServiceConfig(Image="i", Requests=flyte.Resources(cpu=2, memory="4Gi"), Limits=flyte.Resources(gpu=1, memory="8Gi")),
        DataServiceConfig(Image="i", Requests=flyte.Resources(cpu=2, memory=("4Gi", "8Gi")), Limits=None),
    ]
    specs = [config.to_spec() for config in both]
    assert specs[0] is not None
    assert specs[1] is not None
    assert specs[2] is not None
    assert specs[0].resources == specs[1].resources
    assert specs[0].resources.limits == {"nvidia.com/gpu": "1", "memory": "8Gi"}
    assert (specs[2].resources.requests, specs[2].resources.limits) == ({"cpu": "2", "memory": "4Gi"}, {"memory": "8Gi"})


def test_everything_else_is_said_in_spec_as_a_mapping_or_as_toml() -> None:
    toml = 'graph = "routes"\nshards = 2\n[pod]\npriority_class = "high"\n[[pod.tolerations]]\nkey = "gpu"\n'
    table = {"graph": "routes", "shards": 2, "pod": {"priority_class": "high", "tolerations": [{"key": "gpu"}]}}
    specs = [
        DataServiceConfig(Spec=given, Replicas=2).to_spec()
        for given in (toml, "[service]\n" + toml.replace("[pod", "[service.pod").replace("[[pod", "[[service.pod"), table)
    ]
    assert specs[0] == specs[1] == specs[2]
    assert specs[0] is not None
    assert specs[0].replicas == 4
    assert specs[0].pod.priority_class == "high"


def test_null_in_a_spec_table_is_a_value() -> None:
    config = DataServiceConfig(Spec={"name": "web", "command": ["serve"], "ports": {"http": None, "metrics": 9090}})
    arrived = DataServiceConfig.from_custom(through_a_struct(config.to_custom())).to_spec()
    assert arrived is not None
    assert arrived.ports == {"http": None, "metrics": 9090}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "needs to know what runs"),
        ({"Grap": "routes"}, "did you mean 'Graph'"),
        ({"Graph": "a", "Store": "b"}, "Graph and Store"),
        ({"Graph": "a", "Command": ["x"]}, "Graph and Command"),
        ({"Store": "a", "Version": 3}, "Store and Version"),
        ({"Command": ["x"], "Version": 3}, "Version: 3 of what?"),
        ({"Graph": "a", "Replicas": 0}, "Replicas: expected 1 or more"),
        ({"Graph": "a", "Replicas": 2.5}, "Replicas: expected a whole number, not 2.5"),
        ({"Graph": "a", "Replicas": True}, "Replicas: expected a whole number"),
        ({"Image": "a", "Port": 70_000}, "Port"),
        ({"Image": "a", "Command": "serve --all"}, "Command: expected a list"),
        ({"Image": "a", "Requests": {"cpu": "abc"}}, "Requests.cpu: 'abc' is no quantity"),
        ({"Image": "a", "Requests": {"cpus": "1"}}, "Requests.cpus: no such resource; did you mean 'cpu'?"),
        ({"Image": "a", "Requests": {"cpu": [1, 2]}, "Limits": {"cpu": 2}}, "says request and limit"),
        ({"Image": "a", "Requests": {"mem": "8Gi"}, "Limits": {"mem": "4Gi"}}, "Requests.memory: 8Gi is more than the limit"),
        ({"Image": "a", "Limits": {"gpu": "A100:2"}}, "Limits.gpu: expected a number of devices"),
        ({"Image": "a", "Env": {"A": True}}, "Env.A: expected a text"),
        ({"Image": "a", "Env": {"A-B": "x"}}, "Env.A-B"),
        ({"Image": "a", "Env": {"A": "{prot}"}}, "Env.A: '{prot}' names {prot}"),
        ({"Image": "a", "Ttl": "soon"}, "Ttl: 'soon' is not a duration"),
        ({"Image": "a", "Hold": 6}, "Hold: expected a duration"),
        ({"Image": "a", "Policy": "hold"}, 'Policy: expected "release" or "keep"'),
        ({"Image": "a", "Policy": "keep", "Hold": "6h"}, "Hold: '6h' has no meaning"),
        ({"Image": "a", "Readiness": "ready"}, "Readiness: expected a path"),
        ({"Image": "a", "Readiness": {"http": "/", "tcp": True}}, "Readiness: http and tcp"),
        ({"Image": "a", "Cluster": "texas", "Placement": {"region": "east"}}, "Cluster and Placement"),
        ({"Image": "a", "Replicas": 2, "Spec": {"replicas": 3}}, "Replicas: said twice"),
        ({"Spec": {"graph": "a", "replica": 3}}, "did you mean 'replicas'"),
        ({"Spec": "graph = "}, "Spec: not TOML"),
        ({"Spec": {"graph": "a", "placement": "texas"}, "Placement": {"region": "east"}}, "placement: 'texas' in Spec"),
        ({"Image": "a", "Name": "Graph_Service"}, "Name: 'Graph_Service'"),
        ({"ExistingReleaseName": "a", "Name": "b"}, "Name: 'b' is not ExistingReleaseName"),
        ({"Image": "a", "Spec": {"env": {"A": b"x"}}}, "Spec.env.A"),
    ],
)
def test_settings_that_cannot_work_are_refused_where_they_are_written(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        DataServiceConfig.from_custom(given)
    assert says in str(caught.value)


def test_an_existing_service_needs_no_settings_and_takes_empty_texts_for_unset() -> None:
    config = DataServiceConfig.from_custom({"ExistingReleaseName": "routes-1", "Name": "", "Exports": {"GE": "{endpoints}"}})
    assert config.to_spec() is None
    assert config.ExistingReleaseName == "routes-1"
    described = DataServiceConfig(ExistingReleaseName="routes-1", Graph="routes").to_spec()
    assert described == ServiceSpec.graph("routes")


def test_neither_sdk_is_imported() -> None:
    program = "import sys, fondaco.adapters.data_service, fondaco.adapters.data_service.attached; print([n for n in sys.modules if n.split('.')[0] in ('flyte', 'flytekit', 'grpc', 'numba', 'sqlalchemy', 'google')])"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
