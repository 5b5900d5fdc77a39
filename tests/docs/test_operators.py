"""The operators' page says exactly what is: every setting with its default, every metric, every file of `run/`."""

import re
from pathlib import Path

import msgspec
import pyarrow as pa

import fondaco as fd
from fondaco.control.metrics import Metrics, process_metrics
from fondaco.control.metrics_dataplane import dataplane_metrics
from fondaco.control.metrics_stores import freshness_metrics, governor_metrics, log_metrics, store_metrics
from fondaco.core.config import Config

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")


def _as_written(default: object) -> str:
    if default is None or default == {}:
        return "none"
    return f'"{default}"' if isinstance(default, str) else str(default).lower() if isinstance(default, bool) else str(default)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+?) \|", PAGE, re.MULTILINE)
    documented = {(section, key): default for section, key, default in rows}
    actual = {
        (section.name, key): _as_written(getattr(getattr(Config(), section.name), key))
        for section in msgspec.structs.fields(Config)
        for key in getattr(Config(), section.name).__struct_fields__
    }
    assert documented == actual


def test_every_metric_is_in_the_table_and_nothing_else(tmp_path: Path) -> None:
    with fd.open(tmp_path / "platform") as platform:
        store = platform.create_store("members", key="long", value=pa.schema([("x", pa.int64())]))
        store.push({"key": [1], "x": [1]})
        metrics = Metrics(
            {
                "processes": process_metrics(platform),
                "stores": store_metrics(platform),
                "freshness": freshness_metrics(platform),
                "log": log_metrics(platform),
                "governor": governor_metrics(platform),
                "data plane": dataplane_metrics(platform),
            }
        )
        kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics.text().decode(), re.MULTILINE))
    documented = re.findall(r"`(fondaco_\w+)`", PAGE.partition("| metric |")[2].partition("\n\n")[0])
    assert len(documented) == len(set(documented))
    assert set(documented) == set(kinds)


def test_every_link_of_the_page_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (Path(__file__).resolve().parents[2] / "docs" / target).exists(), target
