"""The model of the main job: will a flight leave more than 15 minutes late? Gradient-boosted trees, split by time.

January to September train, October to December test, so nothing that happened in the test months is seen in training. Cancelled flights
have no departure, hence no label: they are left out here, counted in the report, and present in the history features of other flights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.cli.quickstart.data import LATE_MINUTES
from fondaco.core.clock import to_us
from fondaco.core.errors import MissingExtraError

TEST_FROM = datetime(2013, 10, 1, 4, tzinfo=UTC)  # midnight in New York
SCHEDULE = ("hour", "weekday", "distance")  # known from the ticket; comes with the request and not from a view
SEED = 2013

FloatMatrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """One training table as matrices; a null is NaN, which the trees take as a value of its own."""

    columns: tuple[str, ...]
    train_x: FloatMatrix  # float64 [train rows, columns]
    train_y: npt.NDArray[np.bool_]
    test_x: FloatMatrix
    test_y: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Area under the ROC curve on the test months: the group alone, and everything without the group."""

    group: str
    features: int
    auc_alone: float
    auc_without: float


def matrix(table: pa.Table, columns: Sequence[str]) -> FloatMatrix:
    """float64 [rows, columns], nulls as NaN."""
    arrays = [np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64) for name in columns]
    return np.column_stack(arrays)


def split(table: pa.Table, columns: Sequence[str]) -> Split:
    """Separate the months and make matrices of `columns`; rows without a label (cancelled) are left out."""
    delay = table["dep_delay"].to_numpy(zero_copy_only=False)
    departed = ~np.isnan(delay)
    in_test = table["scheduled_at"].cast(pa.int64()).to_numpy() >= to_us(TEST_FROM)
    values, late = matrix(table, columns), delay > LATE_MINUTES
    train, test = departed & ~in_test, departed & in_test
    return Split(tuple(columns), values[train], late[train], values[test], late[test])


class LateModel:
    """A fitted model over named columns."""

    def __init__(self, data: Split, columns: Sequence[str]) -> None:
        # Threads that wait for one another sleep instead of spinning; on two cores that are not all ours this is 2 s a fit instead of 20.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            from sklearn.ensemble import HistGradientBoostingClassifier
        except ImportError as exc:
            raise MissingExtraError("scikit-learn", "quickstart", "training the main job's model") from exc
        self.columns = tuple(columns)
        self._model = HistGradientBoostingClassifier(max_iter=80, learning_rate=0.15, early_stopping=False, random_state=SEED)
        self._model.fit(data.train_x[:, self._positions(data)], data.train_y)

    def _positions(self, data: Split) -> list[int]:
        return [data.columns.index(name) for name in self.columns]

    def auc(self, data: Split) -> float:
        """Area under the ROC curve on the test months."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(data.test_y, self.probability(data.test_x[:, self._positions(data)])))

    def probability(self, values: FloatMatrix) -> npt.NDArray[np.float64]:
        """Probability of a late departure of each row of float64 [rows, columns]."""
        late: npt.NDArray[np.float64] = self._model.predict_proba(values)[:, 1]
        return late


def score_groups(data: Split, groups: dict[str, tuple[str, ...]]) -> Iterator[GroupScore]:
    """Fit each group alone and everything without it; a group comes out as soon as it is done."""
    for group, columns in groups.items():
        others = [name for name in data.columns if name not in columns]
        yield GroupScore(group, len(columns), LateModel(data, columns).auc(data), LateModel(data, others).auc(data))
