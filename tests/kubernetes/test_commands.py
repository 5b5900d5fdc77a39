"""What a container starts, run by the shell of this machine, after Kubernetes' own reading of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fondaco.adapters.kubernetes.commands import POD, Start, endpoints_of, port_numbers, probe_of, start_of
from fondaco.adapters.kubernetes.place import Place
from fondaco.core.errors import InputError
from fondaco.services.provisioner import Desired
from fondaco.services.spec import ServiceSpec

PLACE = Place("texas", "teams")
TELL = [sys.executable, "-S", "-c", "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"]
_READ = re.compile(r"\$(\$|\([^)]*\))", re.DOTALL)


def desired(spec: ServiceSpec) -> Desired:
    return Desired("svc", 3, spec, spec.replicas)


def braces_kept(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def as_kubernetes_reads(text: str, variables: dict[str, str]) -> str:
    """What the kubelet makes of a text: $$ is $, $(NAME) is the variable where there is one (third_party/forked/golang/expansion)."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1][1:-1]
        return "$" if match[1] == "$" else variables.get(name, match[0])

    return _READ.sub(replaced, text)


def started(start: Start, pod: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and variables of the program, as a pod of this name starts it."""
    variables = {POD: pod}
    for name, value in start.variables.items():
        variables[name] = as_kubernetes_reads(value, variables)
    command = [as_kubernetes_reads(text, variables) for text in start.command]
    told = subprocess.run(command, env=variables | {"PATH": os.environ["PATH"]}, capture_output=True, check=True, timeout=60).stdout
    arguments, environment = json.loads(told)
    return arguments, environment


HOSTILE = [
    "'",
    "''; exit 3 #",
    '"$(exit 4)"',
    "`exit 5`",
    "$1",
    "$$",
    "$(FONDACO_POD)",
    "$(X",
    "\\",
    "\\'",
    "a\nb",
    "-n",
    "*",
    "~",
    "é\u2028",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("through_shell", [True, False])
def test_hostile_arguments_and_variables_arrive_as_they_are(text: str, through_shell: bool) -> None:
    number = ["{index}"] if through_shell else []
    env = {"GIVEN": braces_kept(text)} | ({"OWN": braces_kept(text) + "{index}" + braces_kept(text)} if through_shell else {})
    spec = ServiceSpec("s", command=[*TELL, braces_kept(text), *number, "end"], env=env)
    arguments, variables = started(start_of(desired(spec), PLACE), "svc-12")
    assert arguments == [text, *(["12"] if through_shell else []), "end"]
    assert variables["GIVEN"] == text
    assert not through_shell or variables["OWN"] == text + "12" + text


@settings(max_examples=40, deadline=None)
@example(arguments=["$", "'$"], index=7)
@given(
    arguments=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20), max_size=4),
    index=st.integers(0, 4095),
)
def test_any_text_survives_the_shell_and_kubernetes(arguments: list[str], index: int) -> None:
    spec = ServiceSpec("s", command=[*TELL, *map(braces_kept, arguments), "{index}"], replicas=4)
    assert started(start_of(desired(spec), PLACE), f"svc-{index}")[0] == [*arguments, str(index)]


def test_each_pod_knows_its_number_shard_and_address() -> None:
    spec = ServiceSpec(
        "s",
        command=[*TELL, "{index}", "{shard}/{shards}", "{address}", "{address.metrics}", "{replicas}"],
        ports=["graph", "metrics"],
        shards=3,
        replicas=6,
        env={"ME": "{name}:{index}"},
    )
    arguments, variables = started(start_of(desired(spec), PLACE), "my-svc-4")
    assert arguments == ["4", "1/3", "my-svc-4.svc.teams.svc:7080", "my-svc-4.svc.teams.svc:7081", "6"]
    assert variables["ME"] == "svc:4"


def test_no_shell_is_needed_for_what_kubernetes_can_write_itself() -> None:
    spec = ServiceSpec(
        "s", command=["serve", "--advertise", "{address}", "--peers", "{endpoints}"], ports=9000, replicas=2, env={"A": "{address}"}
    )
    start = start_of(desired(spec), PLACE)
    assert start.command == [
        "serve",
        "--advertise",
        "$(FONDACO_POD).svc.teams.svc:9000",
        "--peers",
        "svc-0.svc.teams.svc:9000,svc-1.svc.teams.svc:9000",
    ]
    assert start.variables == {"A": "$(FONDACO_POD).svc.teams.svc:9000"}


def test_a_probe_gets_its_address_through_the_shell() -> None:
    """Kubernetes writes into a probe's command only variables that are stated, and FONDACO_POD is not: it would be empty."""
    spec = ServiceSpec("s", command=["serve"], ports=9000, readiness={"command": [*TELL, "{address}", "{shard}"]}, shards=2, replicas=2)
    arguments, _ = started(Start(probe_of(desired(spec), PLACE), {}), "svc-1")
    assert arguments == ["svc-1.svc.teams.svc:9000", "1"]


def test_a_variable_that_needs_the_shell_needs_a_command() -> None:
    spec = ServiceSpec("s", image="busybox", env={"SHARD": "{shard}"})
    with pytest.raises(InputError, match=r"env.SHARD: '\{shard\}' .*command"):
        start_of(desired(spec), PLACE)


def test_ports_without_a_number_get_the_next_free_ones() -> None:
    assert port_numbers(ServiceSpec("s", command=["x"], ports={"a": None, "b": 7080, "c": None})) == {"a": 7081, "b": 7080, "c": 7082}


def test_endpoints_have_the_configured_domain() -> None:
    spec = ServiceSpec("s", command=["x"], ports=1234)
    assert endpoints_of("svc", spec, 1, Place("texas", "teams", domain="cluster.local")) == {
        "main": ("svc-0.svc.teams.svc.cluster.local:1234",)
    }


def test_more_endpoints_than_an_argument_can_hold_are_refused() -> None:
    few = ServiceSpec("s", command=["serve", "{endpoints}"], ports=80, replicas=1000)
    start_of(desired(few), PLACE)
    many = ServiceSpec("s", command=["serve", "{endpoints}"], ports=80, replicas=4096)
    with pytest.raises(InputError, match=r"command: \d+ bytes, filled in, are more than Linux takes in one argument"):
        start_of(Desired("a-rather-long-name-of-a-service", 3, many, 4096), PLACE)
    with pytest.raises(InputError, match=r"env: \d+ bytes"):
        start_of(Desired("a-rather-long-name-of-a-service", 3, many.replace(command=["x"], env={"ALL": "{endpoints}"}), 4096), PLACE)
