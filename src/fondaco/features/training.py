"""Training sets: labels in, the same rows with feature columns out, each as it was known at the label's time.

A `TrainingSet` is lazy: the checks run when it is made, the join when its rows or its record are first asked for, once. Labels are held
in memory (as the result will be); sources are streamed by DuckDB within `memory_limit`. Not for several threads at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from fondaco.core.clock import SystemClock, from_us
from fondaco.features.engine import Engine, Options
from fondaco.features.featureset import FeatureSet, check_set
from fondaco.features.labels import check_labels, read_labels
from fondaco.features.plan import SetPlan, canonical_json
from fondaco.features.record import RecordKeeper, TrainingRecord, arrow_hash, fingerprints, keep
from fondaco.features.wording import describe_set

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import polars as pl


@dataclass
class _Result:
    table: pa.Table
    record: TrainingRecord


class TrainingSet:
    """Labels with their features, lazily. Made by `training_set`."""

    def __init__(self, feature_set: FeatureSet, labels: pa.Table, at: str, options: Options) -> None:
        self._set, self._labels, self._at, self._options = feature_set, labels, at, options
        self._plan = check_set(feature_set).plan()
        self._tables = [definition.table for definition in feature_set.definitions]
        check_labels(self._plan, labels, at, options.tz)
        self._result: _Result | None = None

    def __len__(self) -> int:
        return int(self._labels.num_rows)

    def __repr__(self) -> str:
        state = "computed" if self._result is not None else "not computed yet"
        return f"<training set of {self._set.name!r}: {len(self)} rows, {len(self._set)} features, {state}>"

    @property
    def plan(self) -> SetPlan:
        """What it computes."""
        return self._plan

    def to_arrow(self) -> pa.Table:
        """One row per label row, in the labels' order: the label's columns, then the features in the order of the set.

        Raises:
            DataError: a value that cannot be computed, such as an integer overflow; the message is DuckDB's.
        """
        return self._computed().table

    def to_polars(self) -> pl.DataFrame:
        """The same as a Polars frame."""
        import polars

        frame = polars.from_arrow(self.to_arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas frame; nulls become NaN or None, as pandas does."""
        return self.to_arrow().to_pandas()

    @property
    def record(self) -> TrainingRecord:
        """What it was made from: plan hash, source fingerprints, label hash, row counts, null rates."""
        return self._computed().record

    def explain(self) -> str:
        """The plan in words, then the SQL of every statement."""
        with Engine(self._tables, self._plan, self._labels, self._at, self._options) as engine:
            lines = [describe_set(self._plan), ""]
            for unit in engine.units():
                for statement in engine.statements(unit):
                    lines += [
                        f"-- {unit.view.name} by {', '.join(unit.binding.columns)}: {statement.strategy}",
                        f"{statement.text(pretty=True)};",
                        "",
                    ]
        return "\n".join(lines)

    def _computed(self) -> _Result:
        if self._result is None:
            started = time.perf_counter()
            with Engine(self._tables, self._plan, self._labels, self._at, self._options) as engine:
                columns = engine.run()
            table = self._labels
            for chosen in self._plan.selections:
                table = table.append_column(chosen.output, columns[chosen.output])
            record = self._make_record(table, time.perf_counter() - started)
            self._result = _Result(table, record)
            if self._options.platform is not None:
                keep(self._options.platform, record)
        return self._result

    def _make_record(self, table: pa.Table, seconds: float) -> TrainingRecord:
        import duckdb

        rows = table.num_rows
        return TrainingRecord(
            feature_set=self._set.name,
            plan_hash=self._plan.version,
            plan=canonical_json(self._plan),
            sources=fingerprints(self._tables),
            label_hash=arrow_hash(self._labels),
            at=self._at,
            rows=rows,
            null_rates={s.output: table[s.output].null_count / rows if rows else 0.0 for s in self._plan.selections},
            created=from_us(self._options.clock.now_us()).isoformat(),
            seconds=round(seconds, 6),
            engine=f"duckdb {duckdb.__version__}",
        )


def training_set(
    platform: RecordKeeper | None,
    feature_set: FeatureSet,
    labels: object,
    *,
    at: str,
    tz: str | None = None,
    memory_limit: str | None = None,
    threads: int | None = None,
) -> TrainingSet:
    """Join features to labels as of each label's time. Checked now, computed when first asked for.

    Args:
        platform: keeps the record of the training set in its catalog; None keeps it nowhere but in the result.
        labels: Arrow, pandas or Polars table, a list of dicts, or paths of Parquet or CSV files; its key columns are named like the
            entities' fields, or as `on(...)` says. Rows may repeat, be in any order, and have null keys (their features are null).
        at: the label's time column. tz: its zone, if it has none.
        memory_limit: of DuckDB, such as "1GB"; beyond it, it spills to a temporary directory.
    Raises:
        ColumnNotFoundError, NaiveTimestampError, DefinitionError: found before anything runs.
    """
    table = read_labels(labels)
    clock = platform.clock if platform is not None else SystemClock()
    return TrainingSet(feature_set, table, at, Options(tz, memory_limit, threads, platform, clock))
