"""Specs: what they accept, what they refuse and where they say the mistake is, what they mean, and as documents."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fondaco as fd
from fondaco.core.errors import InputError
from fondaco.services.settings import Readiness, Source
from fondaco.services.spec import NAME_MAX
from fondaco.services.words import filled, words_of
from services.specs import feeder

MISTAKES = [
    ({"resources": {"limits": {"cpu": [2]}}}, "resources.limits.cpu: expected `str`, got `array`"),
    ({"resources": {"limits": {"cpu": "1", "memory": True}}}, "resources.limits.memory: expected `str`, got `bool`"),
    ({"resources": {"limits": {"cpu": float("nan")}}}, "resources.limits.cpu: 'nan' is no quantity"),
    ({"resources": {"requests": {"cpu": 3}, "limits": {"cpu": 2}}}, "resources.requests.cpu: 3 is more than the limit, 2"),
    ({"resources": {"limit": {}}}, "resources: object contains unknown field `limit`"),
    ({"resources": 3}, "resources: expected a mapping"),
    ({"command": ["x", 3]}, "command[1]: expected `str`, got `int`"),
    ({"command": None}, "command: expected a list"),
    ({"command": []}, "command: a service needs a command to run, or an image"),
    ({"command": ["{prot}"]}, "command[0]: '{prot}' names {prot}, which is none of"),
    ({"command": ["{"]}, "command[0]: '{': "),
    ({"command": ["a\0b"]}, "command[0]: a program's arguments and variables cannot hold a NUL byte"),
    ({"command": ["\ud800"]}, "command[0]: '\\ud800' holds half a character"),
    ({"command": ["{port.metrics}"]}, "command[0]: '{port.metrics}' names port 'metrics'; there is: main"),
    ({"ports": [], "command": ["{port}"]}, "command[0]: '{port}' names a port, and the service has none"),
    ({"ports": [1, 2]}, "ports[0]: 1 is no name"),
    ({"ports": {"main": "80"}}, "ports.main: expected `int | null`, got `str`"),
    ({"ports": 80_000}, "ports.main: expected `int` <= 65535"),
    ({"ports": {"main": 80, "more": 80}}, "ports.more: 80 is the number of port 'main' already"),
    ({"ports": {"Main": 80}, "command": ["x"]}, "ports.Main: a port's name is"),
    ({"env": {"A": 2.0}}, "env.A: expected `str`, got `float`"),
    ({"env": {"1A": "x"}}, "env.1A: a variable's name is"),
    ({"env": 3}, "env: expected a mapping"),
    ({"secrets": {"TOKEN": "mine"}}, "secrets.TOKEN: 'mine' must say where the value is"),
    ({"secrets": {"TOKEN": "env:T"}, "env": {"TOKEN": "x"}}, "secrets.TOKEN: this variable is in env already"),
    ({"exports": {"A": "{index}"}}, "exports.A: '{index}' names {index}, which is none of"),
    ({"labels": {"a": 3}}, "labels.a: expected `str`, got `int`"),
    ({"volumes": 3}, "volumes: expected a list"),
    ({"volumes": [{"path": "/a", "claim": 3}]}, "volumes[0].claim: expected `str | null`, got `int`"),
    ({"volumes": [{"path": "/a"}]}, "volumes[0]: /a needs one of claim, host, secret, config, empty, and has 0"),
    ({"volumes": [{"path": "a", "empty": True}]}, "volumes[0].path: 'a' is not absolute"),
    ({"volumes": [{"path": "/a", "empty": True}] * 2}, "volumes[1].path: '/a' is used twice"),
    ({"readiness": {"htp": "/"}}, "readiness: object contains unknown field `htp`"),
    ({"readiness": {"http": "ready"}}, "readiness.http: 'ready' is a path"),
    ({"readiness": {"http": "/", "tcp": True}}, "readiness: http and tcp: an instance is asked in one way"),
    ({"readiness": {"tcp": True, "port": "more"}}, "readiness.port: 'more' is no port of the service"),
    ({"readiness": {"command": ["{x}"]}}, "readiness.command[0]: '{x}' names {x}"),
    ({"pod": {"labels": {"b": 1}}}, "pod.labels.b: expected `str`, got `int`"),
    ({"replicas": 0}, "replicas: expected `int` >= 1, not 0"),
    ({"replicas": 2.0}, "replicas: expected `int`, got `float`, not 2.0"),
    ({"replicas": 3, "shards": 2}, "replicas: 3 is not a multiple of shards, 2"),
    ({"ttl": "soon"}, "ttl: 'soon' is not a duration"),
    ({"ttl": None}, "ttl: expected a duration"),
    ({"ttl": "9999w"}, "ttl: '9999w' is longer than ten years"),
    ({"ttl_us": -1}, "ttl_us: expected `int` >= 0, not -1"),
    ({"name": "Feeder"}, "name: 'Feeder' must be a letter"),
    ({"name": "f" * (NAME_MAX + 1)}, f"{NAME_MAX} at most"),
    ({"name": 3}, "name: expected `str`, got `int`"),
    ({"placement": 3}, "placement: expected `object`"),
]


@pytest.mark.parametrize(("more", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_is_named_with_its_path(more: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        feeder(**({"name": "feeder"} | more))  # type: ignore[arg-type]


def test_numbers_are_accepted_where_a_number_is_meant() -> None:
    spec = feeder(resources={"requests": {"cpu": 0.5}, "limits": {"cpu": 2, "memory": "1Gi"}}, env={"SEED": 7})
    assert (spec.resources.requests["cpu"], spec.resources.limits["cpu"], spec.env["SEED"]) == ("0.5", "2", "7")
    assert (
        spec.identity == feeder(resources={"requests": {"cpu": "0.5"}, "limits": {"cpu": "2", "memory": "1Gi"}}, env={"SEED": "7"}).identity
    )


def test_short_forms_mean_what_the_long_ones_mean() -> None:
    assert feeder(ports=8080).ports == {"main": 8080}
    assert feeder(ports="main") == feeder(ports=["main"]) == feeder(ports={"main": None})
    assert feeder(placement="texas") == feeder(placement={"cluster": "texas"})
    assert feeder(ttl=timedelta(minutes=1)).ttl_us == feeder(ttl="60s").ttl_us == 60_000_000
    assert feeder(readiness=Readiness(tcp=True)) == feeder(readiness={"tcp": True})


def test_what_does_not_change_what_runs_does_not_change_the_identity() -> None:
    same = [feeder(), feeder(ttl="1h"), feeder(exports={"A": "{name}"}), feeder(labels={"team": "x"})]
    assert len({spec.identity for spec in same}) == len({spec.service for spec in same}) == 1
    different = [feeder(env={"A": "1"}), feeder(replicas=2), feeder(placement="texas"), feeder(image="x"), feeder(ports=80)]
    assert len({spec.identity for spec in [*same[:1], *different]}) == 6


def test_what_runs_counts_and_not_how_it_was_written() -> None:
    def limited(requests: dict[str, object], limits: dict[str, object]) -> str:
        return feeder(resources={"requests": requests, "limits": limits}).identity

    gpu = "nvidia.com/gpu"
    assert limited({}, {"cpu": "1000m", "memory": "1Gi"}) == limited({}, {"cpu": 1.0, "memory": "1024Mi"})
    assert limited({}, {gpu: 1, "cpu": 2}) == limited({gpu: 1, "cpu": "2"}, {gpu: "1", "cpu": "2e0"})
    assert len({limited({}, {}), limited({}, {"cpu": 1}), limited({"cpu": 1}, {}), limited({"cpu": "500m"}, {"cpu": 1})}) == 4
    assert feeder().identity == feeder(resources={}).identity == limited({}, {})
    two = ["data", "metrics"]
    asking = [feeder(ports=two, readiness={"tcp": True, **port}).identity for port in ({}, {"port": "data"}, {"port": "metrics"})]
    assert asking[0] == asking[1] != asking[2]


def test_the_order_of_ports_counts_because_the_first_is_that_of_the_endpoints() -> None:
    assert feeder(ports=["data", "metrics"]).identity != feeder(ports=["metrics", "data"]).identity


def test_a_service_is_named_by_its_meaning_or_exactly() -> None:
    assert feeder().service == f"feeder-{feeder().identity[:10]}"
    assert feeder(exact_name=True).service == "feeder"
    assert len(feeder("f" * NAME_MAX).service) <= 63


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}\0"), max_size=8)
SPECS = st.builds(
    feeder,
    st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True),
    command=st.lists(TEXTS, min_size=1, max_size=3),
    env=st.dictionaries(st.from_regex(r"[A-Z]{1,4}", fullmatch=True), TEXTS, max_size=3),
    labels=st.dictionaries(TEXTS, TEXTS, max_size=2),
    replicas=st.sampled_from([2, 4]),
    shards=st.sampled_from([1, 2]),
    image=st.none() | TEXTS,
    ttl_us=st.integers(0, 10**12),
    ports=st.lists(st.sampled_from(["main", "more", "third"]), unique=True, max_size=3),
    resources=st.fixed_dictionaries({"limits": st.fixed_dictionaries({"cpu": st.integers(1, 64)})}),
    exact_name=st.booleans(),
    source=st.none() | st.builds(Source, st.just("graph"), TEXTS, st.none() | st.integers(1, 9)),
)


@given(SPECS)
@settings(max_examples=80, deadline=None)
def test_a_spec_survives_as_a_document(spec: fd.ServiceSpec) -> None:
    document = json.loads(json.dumps(spec.to_dict()))
    assert document == spec.to_dict()
    again = fd.ServiceSpec.from_dict(document)
    assert (again, again.identity) == (spec, spec.identity)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec.replace() == spec


def test_a_file_names_itself_in_what_it_complains_of(tmp_path: Path) -> None:
    path = tmp_path / "feeder.toml"
    path.write_text('[service]\nname = "feeder"\ncommand = ["serve"]\nreplica = 2\n')
    with pytest.raises(InputError, match=r"feeder\.toml: 'replica' is no setting of a service; did you mean 'replicas'"):
        fd.ServiceSpec.from_toml(path)
    path.write_text("[service\n")
    with pytest.raises(InputError, match=r"feeder\.toml"):
        fd.ServiceSpec.from_toml(path)
    with pytest.raises(InputError, match=r"nothing\.toml: No such file or directory; a spec is a TOML file$"):
        fd.ServiceSpec.from_toml(tmp_path / "nothing.toml")
    path.write_text('graph = "routes"\nshards = 2\nttl = "1h"\n')
    assert fd.ServiceSpec.from_toml(path) == fd.ServiceSpec.graph("routes", shards=2, ttl="1h")


def test_the_service_of_a_graph_is_ready_made() -> None:
    spec = fd.ServiceSpec.graph("Air_Routes", shards=2, replicas=3, version=7)
    assert (spec.name, spec.replicas, spec.shards, list(spec.ports)) == ("graph-air-routes", 6, 2, ["graph", "metrics"])
    assert spec.exports["FONDACO_GRAPH_NAME"] == "Air_Routes"
    for each in (spec, fd.ServiceSpec.graph("routes")):  # a single server, too, says where it is reached, and meets others when it grows
        assert each.command[-4:] == ("--advertise", "{address}", "--peers", "{endpoints}")
    for more, message in (({"follow": True}, "follow: "), ({"shards": 0}, "shards: "), ({"version": "x"}, "source.version: ")):
        with pytest.raises(InputError, match=message):
            fd.ServiceSpec.graph("routes", **({"version": 7} | more))  # type: ignore[arg-type]
    for make in (fd.ServiceSpec.graph, fd.ServiceSpec.store):
        with pytest.raises(InputError, match="cannot name a"):
            make("no name")


def test_the_service_of_a_store_is_what_connect_finds() -> None:
    assert fd.ServiceSpec.store("members").exports["FONDACO_URL"] == "http://{host}:{port}"
    with pytest.raises(InputError, match="a graph or a store, not both"):
        fd.ServiceSpec.from_dict({"graph": "a", "store": "b"})


def test_connect_without_a_url_asks_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FONDACO_URL", raising=False)
    with pytest.raises(InputError, match="FONDACO_URL"):
        fd.connect()


def test_words_in_braces_are_filled_in_and_doubled_braces_stay() -> None:
    assert words_of("{{x}} {name}:{port.main}", path="p", inside=True) == {"name", "port.main"}
    assert filled("{{x}} {name}:{port.main}", {"name": "a", "port.main": 7}) == "{x} a:7"


def test_a_spec_needs_no_database_and_no_cluster() -> None:
    program = """if True:
        import sys, fondaco, fondaco.services
        fondaco.ServiceSpec.graph("routes").identity
        [getattr(fondaco.services, name) for name in fondaco.services.__all__]
        print([name for name in ("sqlalchemy", "numba", "numpy", "lightkube", "grpc", "duckdb") if name in sys.modules])"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
