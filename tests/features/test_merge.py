"""The merge in memory: the newest row for every label, as a plain search finds it; and when it refuses."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from fondaco import features as ft
from fondaco.features.merge import TiesError, newest_rows

SEED = 20261121


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("members", [1, 2])
def test_it_finds_what_a_plain_search_finds(strict: bool, members: int) -> None:
    draw = np.random.default_rng([SEED, members, strict])
    places = draw.choice(4**members * 50, 60, replace=False)
    keys = [places // 50 // 4**member % 4 - 2 for member in range(members)]
    events = places % 50 - 25
    wanted = [draw.integers(-4, 4, 300) for _ in range(members)]
    moments = draw.integers(-40, 40, 300)
    moments[:2] = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    usable = draw.random(300) < 0.9
    found = newest_rows(keys, events, wanted, moments, usable, strict=strict)
    assert found is not None
    for label in range(300):
        rows = [
            (event, row)
            for row, event in enumerate(events)
            if all(key[row] == want[label] for key, want in zip(keys, wanted, strict=True))
            and (event < moments[label] if strict else event <= moments[label])
        ]
        assert found[label] == (max(rows)[1] if rows and usable[label] else -1)


def test_rows_that_tie_and_ranges_beyond_64_bits_are_left_to_the_join() -> None:
    one, usable = np.array([1]), np.array([True])
    with pytest.raises(TiesError):
        newest_rows([np.array([1, 1])], np.array([5, 5]), [one], one, usable, strict=False)
    wide = np.array([-(1 << 62), 1 << 62])
    assert newest_rows([wide], np.array([5, 6]), [one], one, usable, strict=False) is None
    assert newest_rows([np.array([1, 1])], wide, [one], one, usable, strict=False) is None


class Numbered(ft.Entity):
    """Known by a number."""

    thing: int


class Named(ft.Entity):
    """Known by a name."""

    thing: str


@pytest.mark.parametrize(
    ("entity", "keys", "strategy"),
    [(Numbered, [1, 1, 2], "merge"), (Numbered, [1, 1, 1 << 62], "merge"), (Named, ["a", "a", "b"], "lookup")],
)
def test_merge_and_join_agree(entity: type[ft.Entity], keys: list[object], strategy: str) -> None:
    times = pa.array([10, 20, 15], pa.timestamp("us", tz="UTC"))
    rows = pa.table({"thing": keys, "at": times, "x": pa.array([1.5, None, 3.5]), "n": pa.array([1, 2, None], pa.int32())})
    table = ft.Table(rows, name="rows", time="at", key=entity)

    class Values(ft.View[entity], source=table):  # type: ignore[valid-type]
        x: ft.Float64 = table.c.x
        n: ft.Int32 = table.c.n

    labels = pa.table({"thing": [*keys, None], "when": pa.array([12, 25, 15, 30], pa.timestamp("us", tz="UTC"))})
    training = ft.training_set(None, ft.FeatureSet("things", [Values]), labels, at="when")
    assert f": {strategy}" in training.explain()
    assert training.to_arrow().select(["x", "n"]).to_pydict() == {"x": [1.5, None, 3.5, None], "n": [1, 2, None, None]}
