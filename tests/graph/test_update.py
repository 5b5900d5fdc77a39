"""An update gives what a build from the resulting tables gives, byte for byte, and shares the files that stay."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import EdgeTypeNotFoundError, GraphBuildError, InputError, NodeTypeNotFoundError
from fondaco.graph.build.update import update_graph_version
from fondaco.graph.build.version import UpdateBase
from fondaco.graph.inputs import Edges
from graph.test_build import KNOWS, Built, build_in, files_of

LIKES = ("person", "likes", "tag")


def update(base: Built, directory: Path, **changes: Any) -> Built:
    directory.mkdir()
    made = base.built
    start = UpdateBase(
        directory=base.directory,
        schema=made.schema,
        partitions=made.partitions,
        node_counts=made.node_counts,
        edge_counts=made.edge_counts,
        built_from=made.built_from,
    )
    built = update_graph_version(directory, start, **changes)
    assert sorted(file.name for file in directory.iterdir()) == [entry.name for entry in built.files]
    assert all((directory / entry.name).stat().st_size == entry.bytes for entry in built.files)
    return Built(directory, built)


def same(updated: Built, rebuilt: Built) -> None:
    assert updated.schema == rebuilt.schema
    assert updated.built.node_counts == rebuilt.built.node_counts
    assert updated.built.edge_counts == rebuilt.built.edge_counts
    assert files_of(updated) == files_of(rebuilt)


# -- the property ----------------------------------------------------------------------------------------------------------------------


def _node_table(ids: list[Any], mark: int) -> pa.Table:
    kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    return pa.table(
        {
            "id": pa.array(ids, kind),
            "weight": pa.array([len(str(i)) for i in ids], pa.float32()),
            "x": pa.array([None if len(str(i)) % 3 == 0 else [mark, len(str(i))] for i in ids], pa.list_(pa.float32(), 2)),
            "name": pa.array([str(i) * mark for i in ids], pa.string()),
        }
    )


Edge = tuple[Any, Any, int, float]


def _edge_table(edges: list[Edge], kinds: tuple[Any, Any], *, timed: bool) -> pa.Table:
    columns = {
        "src": pa.array([e[0] for e in edges], kinds[0]),
        "dst": pa.array([e[1] for e in edges], kinds[1]),
        "weight": pa.array([e[3] for e in edges], pa.float32()),
        "label": pa.array([f"{e[0]}>{e[1]}@{e[2] if timed else ''}:{e[3]}" for e in edges], pa.string()),
    }
    return pa.table({**columns, "time": pa.array([e[2] for e in edges], pa.int64())} if timed else columns)


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Tables before, changes, and tables after."""
    texts, timed, implied = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    some_id = st.text("abcdé", max_size=4) if texts else st.integers(-50, 50)
    ids = draw(st.lists(some_id, min_size=3, max_size=16, unique=True))
    split = draw(st.integers(1, len(ids) - 1))
    before, fresh = ids[:split], ids[split:]
    removed = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if not implied else []
    replaced = [id_ for id_ in removed if draw(st.booleans())]
    after = [id_ for id_ in before if id_ not in removed] + replaced + fresh
    one = st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 2.0]))

    def some(among: list[Any], count: int) -> list[Edge]:
        ends = st.tuples(st.sampled_from(among), st.sampled_from(among), one)
        return [(a, b, *rest) for a, b, rest in draw(st.lists(ends, max_size=count))]

    old, new = some(before, 25), some(after, 8) if after else []
    gone = draw(st.lists(st.sampled_from(old), max_size=3)) if old else []
    exact = draw(st.booleans())

    def stays(edge: Edge) -> bool:
        lost = set(removed) - set(replaced)
        meant = any(e[:2] == edge[:2] and (not exact or e[3] == edge[3]) and (not (exact and timed) or e[2] == edge[2]) for e in gone)
        return edge[0] not in lost and edge[1] not in lost and not meant

    remaining = [edge for edge in old if stays(edge)]
    tags = draw(st.lists(st.tuples(st.sampled_from(before), st.sampled_from(["x", "y", "z"])), max_size=6))
    lost = set(removed) - set(replaced)
    kept_tags = [(a, b) for a, b in tags if a not in lost]
    kind = pa.string() if texts else pa.int64()

    def tagged(pairs: list[tuple[Any, str]]) -> pa.Table:
        return pa.table({"src": pa.array([a for a, _ in pairs], kind), "dst": pa.array([b for _, b in pairs], pa.string())})

    def nodes(keep: list[Any], mark_of: Mapping[Any, int]) -> Any:
        return pa.concat_tables([_node_table([i], mark_of.get(i, 1)) for i in keep] or [_node_table(before[:1], 1).slice(0, 0)])

    removal = _edge_table(gone, (kind, kind), timed=timed)
    return {
        "implied": implied,
        "before": {
            "nodes": None if implied else {"person": nodes(before, {})},
            "edges": {KNOWS: _edge_table(old, (kind, kind), timed=timed), LIKES: tagged(tags)},
        },
        "after": {
            "nodes": None if implied else {"person": nodes(after, dict.fromkeys(replaced, 2))},
            "edges": {KNOWS: _edge_table(remaining + new, (kind, kind), timed=timed), LIKES: tagged(kept_tags)},
        },
        "changes": {
            "remove_nodes": {} if implied or not removed else {"person": pa.table({"id": pa.array(removed, kind)})},
            "add_nodes": {} if implied else {"person": nodes(replaced + fresh, dict.fromkeys(replaced, 2))},
            "remove_edges": {KNOWS: removal if exact else removal.select(["src", "dst"])},
            "add_edges": {KNOWS: _edge_table(new, (kind, kind), timed=timed)},
        },
        "ends": before + after,
    }


@settings(max_examples=25, deadline=None)
@given(case=changes(), partitions=st.integers(1, 4), directions=st.sampled_from(["out", "in", "both"]))
def test_an_update_is_a_build_from_the_resulting_tables(
    tmp_path_factory: pytest.TempPathFactory, case: dict[str, Any], partitions: int, directions: str
) -> None:
    root = tmp_path_factory.mktemp("update")
    common = {"partitions": partitions, "directions": directions}
    base = build_in(root / "base", **case["before"], **common)
    before = files_of(base)
    rebuilt = build_in(root / "rebuilt", **case["after"], **common)
    updated = update(base, root / "updated", **case["changes"])
    assert files_of(updated) == files_of(rebuilt)
    assert updated.built.node_counts == rebuilt.built.node_counts
    assert updated.built.edge_counts == rebuilt.built.edge_counts
    assert files_of(base) == before


@settings(max_examples=20, deadline=None)
@given(
    old=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=15),
    new=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=6),
    take=st.integers(0, 3),
    directions=st.sampled_from(["out", "both"]),
)
def test_an_update_of_an_undirected_graph_removes_both_ways(
    tmp_path_factory: pytest.TempPathFactory, old: list[tuple[int, int]], new: list[tuple[int, int]], take: int, directions: str
) -> None:
    root = tmp_path_factory.mktemp("undirected")
    gone = [edge[::-1] for edge in old[:take]]
    left = [edge for edge in old if edge not in gone and edge[::-1] not in gone]

    def table(edges: list[tuple[int, int]]) -> pa.Table:
        weights = [float(a + b) for a, b in edges]
        ends = [pa.array([edge[side] for edge in edges], pa.int64()) for side in (0, 1)]
        return pa.table({"src": ends[0], "dst": ends[1], "weight": pa.array(weights, pa.float32())})

    common = {"partitions": 3, "undirected": True, "directions": directions}
    base = build_in(root / "base", edges={KNOWS: table(old)}, **common)
    updated = update(base, root / "updated", remove_edges={KNOWS: table(gone).select(["src", "dst"])}, add_edges={KNOWS: table(new)})
    same(updated, build_in(root / "rebuilt", edges={KNOWS: table(left + new)}, **common))


def test_updates_follow_each_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    edges = [(int(a), int(b)) for a, b in rng.integers(0, 300, (1200, 2))]

    def table(some: list[tuple[int, int]]) -> dict[str, Any]:
        return {"src": [a for a, _ in some], "dst": [b for _, b in some]}

    graph = build_in(tmp_path / "0", edges={KNOWS: table(edges)}, partitions=4)
    for number in range(1, 5):
        gone, fresh = set(edges[:50]), [(int(a), int(b)) for a, b in rng.integers(0, 300 + number, (40, 2))]
        edges = [edge for edge in edges if edge not in gone] + fresh
        graph = update(graph, tmp_path / str(number), remove_edges={KNOWS: table(sorted(gone))}, add_edges={KNOWS: table(fresh)})
    same(graph, build_in(tmp_path / "again", edges={KNOWS: table(edges)}, partitions=4))


def test_files_that_stay_are_shared(tmp_path: Path) -> None:
    ids = list(range(400))
    base = build_in(tmp_path / "base", nodes={"person": {"id": ids}}, edges={KNOWS: {"src": ids, "dst": ids[::-1]}}, partitions=8)
    updated = update(base, tmp_path / "updated", add_edges={KNOWS: {"src": [5], "dst": [6]}})
    fresh = [entry.name for entry in updated.built.files if entry.name not in updated.built.linked]
    assert len(fresh) == 1
    assert fresh[0].startswith("edges-00-")
    for name in updated.built.linked:
        assert (base.directory / name).stat().st_ino == (updated.directory / name).stat().st_ino
    counted = collections.Counter(map(sum, [updated.built.edge_counts[0]]))
    assert counted == {401: 1}


def test_a_node_that_is_replaced_keeps_its_edges_and_one_that_goes_takes_them_along(tmp_path: Path) -> None:
    nodes = {"person": {"id": [1, 2, 3], "age": [10, 20, 30]}}
    base = build_in(tmp_path / "base", nodes=nodes, edges={KNOWS: {"src": [1, 2, 3], "dst": [2, 3, 1]}}, directions="both")
    updated = update(base, tmp_path / "new", remove_nodes={"person": {"id": [1, 3]}}, add_nodes={"person": {"id": [1, 4], "age": [11, 40]}})
    assert updated.lists() == {1: [2], 2: [], 4: []}
    assert dict(zip(updated.ids("person"), updated.feature("age"), strict=True)) == {1: 11, 2: 20, 4: 40}


def test_an_empty_graph_can_grow(tmp_path: Path) -> None:
    base = build_in(tmp_path / "base", nodes={"person": []}, edges={KNOWS: []}, partitions=2)
    grown = update(base, tmp_path / "a", add_nodes={"person": {"id": ["a", "b"]}}, add_edges={KNOWS: {"src": ["a"], "dst": ["b"]}})
    assert grown.lists() == {"a": ["b"], "b": []}
    ends = update(build_in(tmp_path / "b", edges={KNOWS: []}), tmp_path / "c", add_edges={KNOWS: {"src": ["a"], "dst": ["b"]}})
    assert ends.lists() == {"a": ["b"], "b": []}


# -- refusals --------------------------------------------------------------------------------------------------------------------------

_REFUSED: dict[str, tuple[dict[str, Any], int | None, str | None, str]] = {
    "no such node": ({"remove_nodes": {"person": {"id": [1, 9]}}}, 1, "id", "no node 9"),
    "removed twice": ({"remove_nodes": {"person": {"id": [1, 2, 1]}}}, 2, "id", "earlier row"),
    "no such edge": ({"remove_edges": {KNOWS: {"src": [1, 2], "dst": [2, 1]}}}, 1, "src", "no edge from 2 to 1"),
    "no such weight": ({"remove_edges": {KNOWS: {"src": [1], "dst": [2], "weight": [9.0]}}}, 0, "src", "weight 9"),
    "no such end": ({"remove_edges": {KNOWS: {"src": [1, 9], "dst": [2, 1]}}}, 1, "src", "no node 9"),
    "time without times": ({"remove_edges": {KNOWS: {"src": [1], "dst": [2], "time": [1]}}}, None, "time", "no such thing"),
    "there already": ({"add_nodes": {"person": {"id": [7, 2], "x": [[1.0, 2.0]] * 2}}}, 1, "id", "there already"),
    "twice": ({"add_nodes": {"person": {"id": [7, 8, 7], "x": [[1.0, 2.0]] * 3}}}, 2, "id", "row 0"),
    "feature missing": ({"add_nodes": {"person": {"id": [7]}}}, None, "x", "missing"),
    "feature too many": ({"add_nodes": {"person": {"id": [7], "x": [[1.0, 2.0]], "y": [1]}}}, None, "y", "no such feature"),
    "another dimension": ({"add_nodes": {"person": {"id": [7], "x": [[1.0, 2.0, 3.0]]}}}, 0, "x", "3 numbers"),
    "weight missing": ({"add_edges": {KNOWS: {"src": [1], "dst": [2]}}}, None, "weight", "no weight"),
    "time too many": ({"add_edges": {KNOWS: {"src": [1], "dst": [2], "weight": [1], "time": [5]}}}, None, "time", "has a time"),
    "end unknown": ({"add_edges": {KNOWS: {"src": [1], "dst": [9], "weight": [1.0]}}}, 0, "dst", "no node 9"),
    "end removed": (
        {"remove_nodes": {"person": {"id": [3]}}, "add_edges": {KNOWS: {"src": [1], "dst": [3], "weight": [1.0]}}}, 0, "dst", "no node 3",
    ),
    "another kind": ({"add_nodes": {"person": {"id": ["a"], "x": [[1.0, 2.0]]}}}, None, "id", "mixed"),
}  # fmt: skip


@pytest.mark.parametrize("case", _REFUSED)
def test_what_does_not_fit_the_version_is_refused_with_the_row(tmp_path: Path, case: str) -> None:
    options, row, column, reason = _REFUSED[case]
    nodes = {"person": {"id": [1, 2, 3], "x": [[1.0, 2.0]] * 3}}
    base = build_in(tmp_path / "base", nodes=nodes, edges={KNOWS: {"src": [1], "dst": [2], "weight": [1.0]}}, partitions=2)
    with pytest.raises(GraphBuildError, match=reason) as caught:
        update(base, tmp_path / "new", **options)
    assert (caught.value.row, caught.value.column) == (row, column)


def test_types_that_are_not_there_and_changes_of_nothing_are_refused(tmp_path: Path) -> None:
    base = build_in(tmp_path / "base", edges={KNOWS: {"src": [1], "dst": [2]}})
    with pytest.raises(NodeTypeNotFoundError):
        update(base, tmp_path / "a", add_nodes={"persn": {"id": [1]}})
    with pytest.raises(EdgeTypeNotFoundError):
        update(base, tmp_path / "b", add_edges={LIKES: {"src": [1], "dst": [2]}})
    with pytest.raises(InputError, match="without a change"):
        update(base, tmp_path / "c")
    with pytest.raises(InputError, match="ends of its edges"):
        update(base, tmp_path / "d", add_nodes={"person": {"id": [3]}})


def test_columns_of_changes_can_be_named(tmp_path: Path) -> None:
    base = build_in(tmp_path / "base", edges={KNOWS: Edges({"a": [1, 2], "b": [2, 1], "t": [5, 6]}, src="a", dst="b", time="t")})
    gone = Edges({"b": [2], "a": [1], "junk": ["?"]}, src="a", dst="b")
    updated = update(base, tmp_path / "new", remove_edges={KNOWS: gone})
    assert updated.lists() == {1: [], 2: [1]}
