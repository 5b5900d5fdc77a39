"""Arguments are taken in every form that means something, and refused with the value, its place and what would do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fondaco.core.errors import EdgeTypeNotFoundError, InputError, KeyTypeError
from fondaco.graph import _arguments as arguments
from fondaco.graph.answers import BytesColumn, SparseColumn, id_array, pad_ragged
from fondaco.graph.deadlines import Deadline
from fondaco.graph.queries import StringIds
from fondaco.graph.schema import EdgeType, Feature, GraphSchema, NodeType

LONG, TEXT = NodeType("a", "long"), NodeType("b", "string")
SCHEMA = GraphSchema(
    (
        NodeType("a", "long", (Feature("x", "dense", "float32", (2,)),)),
        NodeType("b", "string", (Feature("x", "bytes"), Feature("y", "bytes"))),
    ),
    (EdgeType("a", "likes", "b", features=(Feature("w", "dense", "float32"),)), EdgeType("a", "knows", "a"), EdgeType("b", "knows", "a")),
)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_long_ids_arrive_as_they_are(ids: list[int]) -> None:
    assert arguments.pack_ids(ids, LONG, "seeds").tolist() == ids  # type: ignore[union-attr]
    assert arguments.pack_ids(np.array(ids, np.int64), LONG, "seeds").tolist() == ids  # type: ignore[union-attr]


@given(st.lists(st.text()))
def test_string_ids_arrive_as_they_are(ids: list[str]) -> None:
    for given_as in (ids, np.array(ids, object), pd.Series(ids, dtype=object)):
        packed = arguments.pack_ids(given_as, TEXT, "seeds")
        assert id_array(packed).tolist() == ids


def test_ids_of_other_libraries_are_taken() -> None:
    for ids in (np.array([1, 2], np.uint8), pd.Series([1, 2]), pa.array([1, 2]), range(1, 3), (1, 2), np.array([1, 2], np.uint64)):
        assert arguments.pack_ids(ids, LONG, "seeds").tolist() == [1, 2]  # type: ignore[union-attr]
    torch = pytest.importorskip("torch")
    assert arguments.pack_ids(torch.tensor([1, 2]), LONG, "seeds").tolist() == [1, 2]  # type: ignore[union-attr]
    assert id_array(arguments.pack_ids(pa.array(["x", "y"]).to_numpy(zero_copy_only=False), TEXT, "seeds")).tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        ([1, None], LONG, "None at position 1"),
        (["1"], LONG, "'1' at position 0"),
        ([1.0], LONG, "1.0 at position 0"),
        (np.array([True]), LONG, "True at position 0"),
        (np.array([1 << 63], np.uint64), LONG, "9223372036854775808 at position 0"),
        ([1, 1 << 64], LONG, "18446744073709551616 at position 1"),
        (["x", 1], TEXT, "1 at position 1"),
        (["x", None], TEXT, "None at position 1"),
        ([b"x"], TEXT, "b'x' at position 0"),
        (["x", "\ud800"], TEXT, r"'\\ud800' at position 1"),
    ],
)
def test_ids_of_the_wrong_kind_are_named(ids: Any, kind: NodeType, message: str) -> None:
    with pytest.raises(KeyTypeError, match=f"(long|string) .*in seeds.*{message}"):
        arguments.pack_ids(ids, kind, "seeds")


def test_ids_come_one_after_the_other() -> None:
    with pytest.raises(InputError, match=r"seeds is 7; give a list of ids"):
        arguments.pack_ids(7, LONG, "seeds")
    for single in ("x", b"x"):
        with pytest.raises(InputError, match="give a list of ids"):
            arguments.pack_ids(single, TEXT, "seeds")


MOMENT = datetime(2026, 5, 1, 12, tzinfo=UTC)
US = 1_777_636_800_000_000


@pytest.mark.parametrize(
    "moment",
    [
        MOMENT,
        MOMENT.astimezone(timezone(timedelta(hours=5))),
        "2026-05-01T12:00:00Z",
        US,
        np.int64(US),
        np.datetime64("2026-05-01T12:00", "m"),
        pd.Timestamp(MOMENT),
        [MOMENT] * 3,
        [US, US, US],
        np.array([US] * 3),
        np.array(["2026-05-01T12:00"] * 3, "datetime64[s]"),
        pd.Series([pd.Timestamp(MOMENT)] * 3),
        ["2026-05-01T12:00:00Z"] * 3,
        pa.array([MOMENT] * 3, pa.timestamp("us", "UTC")),
    ],
    ids=lambda moment: type(moment).__name__,
)
def test_moments_are_taken_in_every_form(moment: Any) -> None:
    packed = arguments.pack_as_of(moment, 3)
    assert packed.dtype == np.int64
    assert set(packed.tolist()) == {US}
    assert len(packed) in (1, 3)


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (datetime(2026, 5, 1), "no time zone"),
        ("yesterday", "'yesterday' is no moment"),
        (1.5, "give a datetime"),
        (True, "give a datetime|is no moment"),
        ([US, US], r"shape \(2,\) for 3 seeds"),
        (np.array(["NaT", "2026-01-01", "2026-01-01"], "datetime64[us]"), "no time at position 0"),
        ([MOMENT, None, MOMENT], "None"),
        (pd.NaT, "leave as_of out"),
        (pd.Series(pd.to_datetime(["2026-05-01"] * 3)), "no time zone"),
        (pa.array([MOMENT.replace(tzinfo=None)] * 3, pa.timestamp("us")), "no time zone"),
        (np.array([US * 1000] * 3), "outside the years 1 to 9999"),
        (np.array([(1 << 63) + 5] * 3, np.uint64), "outside the years 1 to 9999"),
        (np.array(["9999999-01-01"] * 3, "datetime64[D]"), "outside the years 1 to 9999 at position 0"),
    ],
)
def test_moments_that_are_none_are_refused(moment: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        arguments.pack_as_of(moment, 3)


def test_moments_of_no_seeds_are_none() -> None:
    assert arguments.pack_as_of([], 0).tolist() == []


@pytest.mark.parametrize(
    ("ids", "kind"), [(3, LONG), ({3}, LONG), (iter([3]), LONG), (None, LONG), ("x", TEXT), ({"x"}, TEXT), (None, TEXT)]
)
def test_ids_without_an_order_or_without_a_list_are_refused(ids: Any, kind: NodeType) -> None:
    with pytest.raises(InputError, match=r"^seeds is .*; give a list"):
        arguments.pack_ids(ids, kind, "seeds")


@pytest.mark.parametrize("seconds", ["5", float("nan"), True, [1]])
def test_a_timeout_is_a_number_of_seconds(seconds: Any) -> None:
    with pytest.raises(InputError, match="timeout_s is a number of seconds"):
        Deadline(seconds)


def test_seeds_are_any_whole_number() -> None:
    assert arguments.pack_seed(5) == 5
    assert arguments.pack_seed(np.int32(5)) == 5
    assert arguments.pack_seed(-1) == (1 << 64) - 1
    assert len({arguments.pack_seed(None) for _ in range(9)}) == 9
    for seed in (1.5, True, "1"):
        with pytest.raises(InputError, match="seed is a whole number"):
            arguments.pack_seed(seed)  # type: ignore[arg-type]


def test_fan_outs_name_edge_types_in_every_form() -> None:
    assert arguments.pack_fan_outs(SCHEMA, [1, {("a", "likes", "b"): 2, "a/knows/a": -1}]) == (1, {"a/likes/b": 2, "a/knows/a": -1})
    assert arguments.pack_fan_outs(SCHEMA, np.array([3, 2])) == (3, 2)
    with pytest.raises(InputError, match="several edge types have the relation 'knows'"):
        arguments.pack_fan_outs(SCHEMA, [{"knows": 1}])
    with pytest.raises(EdgeTypeNotFoundError):
        arguments.pack_fan_outs(SCHEMA, [{"hates": 1}])
    for wrong in ({"likes": 1}, "15", None, 3):
        with pytest.raises(InputError, match="one entry for each hop"):
            arguments.pack_fan_outs(SCHEMA, wrong)


def test_edge_types_are_one_or_several() -> None:
    assert arguments.pack_edges(SCHEMA, None) is None
    assert arguments.pack_edges(SCHEMA, "likes") == ("a/likes/b",)
    assert arguments.pack_edges(SCHEMA, ("a", "knows", "a")) == ("a/knows/a",)
    assert arguments.pack_edges(SCHEMA, [("a", "knows", "a"), "likes", "a/likes/b"]) == ("a/knows/a", "a/likes/b")


def test_features_are_of_every_type_that_has_them_or_of_one() -> None:
    assert arguments.pack_node_features(SCHEMA, ["x"]) == (("a", "x"), ("b", "x"))
    assert arguments.pack_node_features(SCHEMA, "y") == (("b", "y"),)
    assert arguments.pack_node_features(SCHEMA, {"b": ["x", "y", "x"]}) == (("b", "x"), ("b", "y"))
    assert arguments.pack_node_features(SCHEMA, {"b": "x"}) == (("b", "x"),)
    assert arguments.pack_edge_features(SCHEMA, ["w"]) == (("a/likes/b", "w"),)
    assert arguments.pack_edge_features(SCHEMA, {"likes": ["w"]}) == (("a/likes/b", "w"),)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "x", None])
def test_numbers_are_finite_and_within_bounds(value: Any) -> None:
    with pytest.raises(InputError, match="p is a finite number above 0"):
        arguments.number(value, "p", 0.0, open_at_least=True)


# -- answers ----------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8), st.one_of(st.none(), st.integers(0, 6)))
def test_groups_become_a_rectangle(groups: list[list[int]], width: int | None) -> None:
    values = np.array([value for group in groups for value in group], np.int64)
    counts = np.array([len(group) for group in groups], np.int64)
    wide = max(map(len, groups), default=0) if width is None else width
    expected = [(group + [-1] * wide)[:wide] for group in groups]
    assert pad_ragged(values, counts, -1, width).tolist() == expected


def test_columns_of_bytes_are_sequences() -> None:
    column = BytesColumn(np.array([0, 2, 2, 5]), np.frombuffer(b"abcde", np.uint8))
    assert (list(column), column[0], column[-1], column[1:], len(column)) == ([b"ab", b"", b"cde"], b"ab", b"cde", [b"", b"cde"], 3)
    for row in (3, -4):
        with pytest.raises(IndexError):
            column[row]


def test_sparse_columns_become_dense() -> None:
    column = SparseColumn(np.array([0, 2, 2]), np.array([1, 1]), np.array([2.0, 3.0], np.float32), (2, 3))
    assert column.to_dense().tolist() == [[0.0, 5.0, 0.0], [0.0, 0.0, 0.0]]
    assert len(column) == 2


def test_ids_with_empty_and_foreign_letters_are_decoded() -> None:
    for texts in (["", "a", ""], ["é", "", "日本"], []):
        encoded = [text.encode() for text in texts]
        ids = StringIds(np.cumsum([0, *map(len, encoded)]), np.frombuffer(b"".join(encoded), np.uint8))
        assert id_array(ids).tolist() == texts
