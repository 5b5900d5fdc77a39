"""Counters: the small rows of the push benchmark: a 40-bit id, five doubles, two integers and a short string, about 64 bytes in Avro."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks._harness import build_once
from benchmarks._members import CHUNK_ROWS, member_ids, write_arrow

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Counters",
    "fields": [
        *({"name": f"mean_{days}d", "type": "double"} for days in (1, 7, 14, 28, 90)),
        {"name": "clicks", "type": "long"},
        {"name": "updated_ms", "type": "long"},
        {"name": "page", "type": "string"},
    ],
}
ARRAY_SCHEMA = SCHEMA  # no vector here


def arrow_file(workdir: Path, *, rows: int, seed: int) -> Path:
    """An Arrow IPC file of the counters, in key order."""

    def build(directory: Path) -> None:
        write_arrow(directory / "counters.arrow", batches(rows=rows, seed=seed))

    return build_once(workdir / f"counters-arrow-{rows}-{seed}", build) / "counters.arrow"


def batches(*, rows: int, seed: int) -> Iterator[pa.RecordBatch]:
    """The counters in record batches of 50,000, columns `key` and the eight fields."""
    ids = member_ids(rows)
    pages = pa.array([f"page-{number:06d}" for number in range(5_000)])
    for first in range(0, rows, CHUNK_ROWS):
        rng, part = np.random.default_rng([seed, first]), ids[first : first + CHUNK_ROWS]
        count = len(part)
        columns: dict[str, Any] = {"key": pa.array(part)}
        columns |= {f"mean_{days}d": pa.array(rng.standard_normal(count)) for days in (1, 7, 14, 28, 90)}
        columns["clicks"] = pa.array(rng.integers(1 << 20, 1 << 27, count))
        columns["updated_ms"] = pa.array(rng.integers(1_780_000_000_000, 1_790_000_000_000, count))
        columns["page"] = pages.take(pa.array(rng.integers(0, len(pages), count)))
        yield pa.RecordBatch.from_pydict(columns)
