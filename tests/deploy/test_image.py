"""The Dockerfile names what is there, and agrees with the manifests. (It is built where Docker is.)"""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest

from deploy_manifests import ROOT, containers_of, objects_of, pod_of

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
TEXT = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip()]
WORKLOADS = [document for folder in ("base", "nodes") for document in objects_of(folder) if pod_of(document)]


def _all(instruction):
    return [rest for word, rest in LINES if word == instruction]


def test_what_it_copies_is_in_the_repository_and_not_ignored():
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    sources = [source for line in _all("COPY") if not line.startswith("--from") for source in line.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


def test_the_extras_that_it_installs_are_extras():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (given,) = [line.removeprefix("EXTRAS=") for line in _all("ARG") if line.startswith("EXTRAS=")]
    assert set(given.split(",")) <= extras.keys()
    assert {"kubernetes", "postgres", "flyte1", "flyte2"} <= set(given.split(","))  # what the manifests' commands need


def test_its_user_is_the_one_that_the_manifests_name():
    (user,) = _all("USER")
    for document in WORKLOADS:
        context = pod_of(document)["securityContext"]
        assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_its_ports_are_those_of_the_manifests():
    named = {
        str(port["containerPort"]) for document in WORKLOADS for container in containers_of(document) for port in container.get("ports", ())
    }
    (exposed,) = _all("EXPOSE")
    assert set(exposed.split()) == named


def test_compiled_kernels_are_looked_for_by_a_class_that_exists():
    (classes,) = re.findall(r"NUMBA_CACHE_LOCATOR_CLASSES=(\S+)", TEXT)
    for path in classes.split(","):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module or "numba.core.caching"), name)


def test_every_machine_that_it_is_built_for_has_kernels_of_its_kind():
    stages = [line.split(" AS ")[1] for line in _all("FROM") if " AS machine-" in line]
    assert stages == ["machine-amd64", "machine-arm64"]
    assert sum("NUMBA_CPU_NAME" in line for line in _all("ENV")) == len(stages)


@pytest.mark.parametrize("folder", ["/var/lib/fondaco", "/tmp"])
def test_folders_that_it_writes_are_mounted_wherever_the_root_is_read_only(folder):
    for document in WORKLOADS:
        for container in containers_of(document):
            if container["command"][0] == "fondaco" or "fondaco token" in str(container["command"]):
                assert folder in [mount["mountPath"] for mount in container["volumeMounts"]], container["name"]
