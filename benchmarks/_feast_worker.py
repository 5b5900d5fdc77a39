"""Feast's side, run by Feast's own interpreter (`.venv-feast`): one JSON request a line on stdin, one JSON answer a line on stdout.

Feast 0.67 at its best among what runs on one machine: the duckdb offline store (its default loses rows), columnar entity rows, a
feature service, a cached registry, hiredis. Imports are not timed. Imports nothing of this repository: its interpreter does not have
it.
"""

from __future__ import annotations

import datetime
import gc
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import pandas as pd  # noqa: E402
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType  # noqa: E402
from feast.types import Float64, Int64  # noqa: E402

_TYPES = {"double": Float64, "int64": Int64}
_stores: dict[str, FeatureStore] = {}


def open_repo(*, name: str, directory: str, views: list[dict[str, Any]], online: dict[str, Any]) -> dict[str, Any]:
    """Define one feature view per Parquet file and apply. `views`: name, path, features {name: double|int64}."""
    home = Path(directory)
    home.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(home / "registry.db"),
        offline_store={"type": "duckdb"},
        online_store=online,
        entity_key_serialization_version=3,
    )
    account = Entity(name="account", join_keys=["account"], value_type=ValueType.INT64)
    made = []
    for view in views:
        source = FileSource(name=f"{view['name']}_source", path=view["path"], timestamp_field="event_timestamp")
        fields = [Field(name=feature, dtype=_TYPES[kind]) for feature, kind in view["features"].items()]
        made.append(FeatureView(name=view["name"], entities=[account], ttl=datetime.timedelta(0), schema=fields, source=source))
    store = FeatureStore(config=config)
    store.apply([account, *made, FeatureService(name="bench", features=made)])
    _stores[name] = store
    return {}


def historical(*, name: str, labels: str, columns: list[str], target: str) -> dict[str, Any]:
    """Point-in-time join of a labels Parquet file into an Arrow table; writes it to `target` afterwards, for checking."""
    store = _stores[name]
    begin = time.perf_counter()
    table = store.get_historical_features(pd.read_parquet(labels), store.get_feature_service("bench")).to_arrow()
    seconds = time.perf_counter() - begin
    peak = _vm_hwm_bytes()
    table.select(["label_id", *columns]).to_pandas().to_parquet(target)
    return {"seconds": seconds, "rows": table.num_rows, "vm_hwm_bytes": peak}


def materialize(*, name: str, start: str, end: str) -> dict[str, Any]:
    """Write the latest values into the online store."""
    begin = time.perf_counter()
    _stores[name].materialize(datetime.datetime.fromisoformat(start), datetime.datetime.fromisoformat(end))
    return {"seconds": time.perf_counter() - begin, "vm_hwm_bytes": _vm_hwm_bytes()}


def online(*, name: str, requests: list[list[int]], answer: bool = False) -> dict[str, Any]:
    """Read features of several lists of entities, one request after the other, into a dict of lists each; times in nanoseconds."""
    store = _stores[name]
    service = store.get_feature_service("bench")
    elapsed, last = [], {}
    gc.collect()
    gc.disable()
    for keys in requests:
        begin = time.perf_counter_ns()
        last = store.get_online_features(service, {"account": keys}).to_dict()
        elapsed.append(time.perf_counter_ns() - begin)
    gc.enable()
    return {"elapsed_ns": elapsed, "last": last if answer else None}


def _vm_hwm_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


_REQUESTS = {"open_repo": open_repo, "historical": historical, "materialize": materialize, "online": online}


def main() -> None:
    """Answer requests until stdin ends. Feast prints its progress to stdout; that goes to stderr, so that answers stay alone."""
    warnings.simplefilter("ignore")  # once more: imports set filters of their own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _REQUESTS[request.pop("request")](**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


main()
