"""The pages of data services say what is: every setting of a spec, every metric, every file in TOML is one that is taken."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

import fondaco as fd
from fondaco.control.metrics import Metrics
from fondaco.control.metrics_services import reaper_metrics, service_metrics
from fondaco.control.reaping import Reaping
from fondaco.core.config import ClusterConfig, Config
from fondaco.services.settings import Placement, PodSettings, Readiness, Resources, Source, Volume
from fondaco.services.spec import ServiceSpec

DOCS = Path(__file__).resolve().parents[2] / "docs"
SPECS = (DOCS / "data-services.md").read_text(encoding="utf-8")
OPERATORS = (DOCS / "data-services-operators.md").read_text(encoding="utf-8")
TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_field_of_a_spec_is_in_the_table_and_in_the_example() -> None:
    fields = [name for name in ServiceSpec("a", command="b").to_dict() if name != "ttl_us"]
    arguments = {
        "name",
        "command",
        "image",
        "replicas",
        "shards",
        "ports",
        "resources",
        "env",
        "secrets",
        "volumes",
        "readiness",
        "placement",
    }
    arguments |= {"pod", "source", "exact_name", "ttl", "exports", "labels"}
    assert set(fields) <= arguments
    documented = re.findall(r"^\| `(\w+)` \|", SPECS.partition("| field | default |")[2].partition("\n\n")[0], re.MULTILINE)
    assert set(documented) == arguments
    said = TOML.findall(SPECS)[0]
    for kind in (Resources, Readiness, Volume, Placement, PodSettings):
        told_once = {"tcp", "command", "host", "secret", "config", "empty"}  # "one of"
        for field in kind.__struct_fields__:
            assert re.search(rf"\b{field}\b", said) or field in told_once, f"{kind.__name__}.{field}"
    assert set(Source.__struct_fields__) == {"kind", "name", "version", "follow"}


@pytest.mark.parametrize("number", range(len(TOML.findall(SPECS))))
def test_every_file_on_the_page_of_specs_is_a_spec(number: int) -> None:
    document = tomllib.loads(TOML.findall(SPECS)[number])
    spec = ServiceSpec.from_dict(document.get("service", document))
    assert ServiceSpec.from_dict(spec.to_dict()) == spec


def test_the_configuration_on_the_page_of_operators_is_one_and_names_every_setting_of_a_cluster() -> None:
    text = TOML.findall(OPERATORS)[0]
    config = msgspec.convert(tomllib.loads(text), Config)
    assert list(config.services.clusters) == ["texas", "virginia"]
    for field in ClusterConfig.__struct_fields__:
        assert re.search(rf"^{field} = ", text, re.MULTILINE)


def test_every_metric_of_services_is_in_the_table_and_nothing_else(tmp_path: Path) -> None:
    with fd.open(tmp_path / "platform") as platform:
        reaping = Reaping(platform, every_s=1.0)
        reaping.look()
        metrics = Metrics({"services": service_metrics(platform), "reaper": reaper_metrics(reaping)})
        kinds = {name for name, _ in re.findall(r"^# TYPE (\w+) (\w+)$", metrics.text().decode(), re.MULTILINE)}
    documented = re.findall(r"`(fondaco_\w+)`", OPERATORS.partition("| metric |")[2].partition("\n\n")[0])
    assert len(documented) == len(set(documented))
    assert set(documented) == kinds - {"fondaco_build_info", "fondaco_scrape_errors"}


@pytest.mark.parametrize("page", ["data-services.md", "data-services-operators.md", "tutorial-data-services.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), target


def test_the_role_on_the_page_is_the_one_that_is_shipped() -> None:
    shipped = (DOCS.parent / "deploy" / "kubernetes" / "provisioner" / "rbac.yaml").read_text(encoding="utf-8")
    rules = re.findall(r"apiGroups: \[(.*?)\]\n\s+resources: \[(.*?)\]\n\s+verbs: \[(.*?)\]", shipped)
    told = re.findall(r"apiGroups: \[(.*?)\], resources: \[(.*?)\], verbs: \[(.*?)\]", OPERATORS)
    assert told == rules
    assert told
