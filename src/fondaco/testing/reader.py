"""StoreReaderContract: what every tier of reader must do, embedded, thin and fast.

    class TestThinReader(StoreReaderContract):
        @pytest.fixture
        def platform(self, tmp_path): ...               # where stores are made, pushed and written to: an open embedded platform

        @pytest.fixture
        def open_reader(self, platform): ...            # open_reader(store, **arguments) -> a reader of that store; closed by the fixture

Answers are compared with what was pushed and written, never with another reader. `follows_within_s` is how soon a reader must see a swap
made by another process; `schema=` of `open_reader` is the one argument that every tier takes. Writes come through `store.writer`.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pytest

from fondaco.core.errors import (
    DeadlineExceededError,
    FieldNotFoundError,
    InputError,
    KeyTypeError,
    NoCurrentVersionError,
    StateError,
    StoreNotFoundError,
    VersionNotFoundError,
)
from fondaco.platform import Platform
from fondaco.store.store import Store
from fondaco.store.store_reader import StoreReader

ROW = pa.schema(
    [
        pa.field("clicks", pa.int64(), False),
        pa.field("score", pa.float64()),
        pa.field("city", pa.string()),
        pa.field("tags", pa.list_(pa.field("item", pa.string(), False)), False),
        pa.field("seen", pa.timestamp("ms", "UTC"), False),
        pa.field("emb", pa.list_(pa.field("item", pa.float32(), False), 4), False),
        pa.field("maybe", pa.list_(pa.field("item", pa.float32(), False), 4)),
    ]
)
MISSING = 10**12  # a key that no test pushes


class OpenReader(Protocol):
    """Opens a reader of a store."""

    def __call__(self, store: Store, **arguments: Any) -> Any: ...


def row_of(key: int, generation: int = 0) -> dict[str, Any]:
    """The row that tests push under an integer key."""
    return {
        "clicks": key * 10 + generation,
        "score": None if key % 5 == 0 else key / 4 + generation,
        "city": None if key % 7 == 0 else f"city-{key}-{'é' * (key % 3)}",
        "tags": [f"t{n}" for n in range(key % 4)],
        "seen": 1_700_000_000_000 + key,
        "emb": [float(key), 1.0, -float(key), 0.5 + generation],
        "maybe": None if key % 3 == 0 else [1.0, 2.0, 3.0, float(key)],
    }


def table_of(keys: list[int], generation: int = 0) -> pa.Table:
    """Those rows of several keys."""
    rows = [row_of(key, generation) for key in keys]
    columns = {name: pa.array([row[name] for row in rows], ROW.field(name).type) for name in ROW.names}
    return pa.table({"key": pa.array(keys, pa.int64()), **columns}, schema=pa.schema([pa.field("key", pa.int64(), False), *ROW]))


def plain(value: Any) -> Any:
    """A decoded value as plain Python, so that it can be compared."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "timestamp") and not isinstance(value, (int, float)):
        return round(value.timestamp() * 1000)
    return [plain(item) for item in value] if isinstance(value, list) else value


def plain_row(row: Any) -> dict[str, Any] | None:
    """A row, or none, as plain Python."""
    return None if row is None else {name: plain(value) for name, value in dict(row).items()}


class StoreReaderContract:
    """Subclass it, name it `Test...`, and give the fixture `open_reader`."""

    follows_within_s: ClassVar[float] = 0.0

    @pytest.fixture
    def platform(self, tmp_path: Path) -> Iterator[Platform]:
        with Platform.open(tmp_path / "platform") as platform:
            yield platform

    @pytest.fixture
    def store(self, platform: Platform) -> Store:
        store = platform.create_store("members", key="long", value=ROW, partitions=3)
        store.push(table_of(list(range(-20, 100))), progress=False)
        return store

    @pytest.fixture
    def reader(self, store: Store, open_reader: OpenReader) -> Any:
        return open_reader(store)

    def soon(self, condition: Callable[[], bool], what: str) -> None:
        """Wait as long as this tier may lag."""
        deadline = time.monotonic() + self.follows_within_s
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.005)

    # -- single gets --------------------------------------------------------------------------------------------------------------------

    def test_get_gives_the_row_that_was_pushed(self, reader: StoreReader) -> None:
        for key in (-20, -1, 0, 1, 7, 99):
            assert plain_row(reader.get(key)) == row_of(key)

    def test_get_takes_integers_of_any_kind(self, reader: StoreReader) -> None:
        assert plain_row(reader.get(np.int32(7))) == row_of(7)

    def test_get_of_a_missing_key_is_none(self, reader: StoreReader) -> None:
        assert reader.get(MISSING) is None
        assert reader.get(-(1 << 63)) is None
        assert reader.get((1 << 63) - 1) is None

    def test_a_row_decodes_what_is_touched(self, reader: StoreReader) -> None:
        row = reader.get(8)
        assert row is not None
        assert (row["clicks"], row.get("city"), row.get("no such field")) == (80, "city-8-éé", None)
        assert row["emb"].dtype == np.float32
        assert list(row) == ROW.names
        with pytest.raises(FieldNotFoundError, match=r"no field 'clikcs'.*did you mean 'clicks'"):
            row["clikcs"]

    @pytest.mark.parametrize("key", ["7", 7.0, True, None, 1 << 63, b"7", [7]])
    def test_a_key_of_another_type_is_refused(self, reader: StoreReader, key: Any) -> None:
        with pytest.raises(KeyTypeError, match="expected a key of type long"):
            reader.get(key)
        with pytest.raises(KeyTypeError, match=r"position 1"):
            reader.get_many([1, key])

    # -- batches ------------------------------------------------------------------------------------------------------------------------

    def test_a_batch_is_the_union_of_single_gets_in_order(self, reader: StoreReader) -> None:
        keys = [5, MISSING, -20, 5, 99, 0, MISSING + 1]
        assert [plain_row(row) for row in reader.get_many(keys)] == [plain_row(reader.get(key)) for key in keys]

    @pytest.mark.parametrize("kind", [list, tuple, np.array, pa.array, iter])
    def test_a_batch_takes_keys_in_any_container(self, reader: StoreReader, kind: Any) -> None:
        assert [plain_row(row) for row in reader.get_many(kind([3, 4]))] == [row_of(3), row_of(4)]

    def test_a_batch_of_no_keys_is_empty(self, reader: StoreReader) -> None:
        assert reader.get_many([]) == []
        columns = reader.get_columns([], ["clicks"])
        assert (columns.row_count, columns["clicks"].dtype, len(columns["clicks"])) == (0, np.int64, 0)

    def test_a_large_batch_holds_every_row(self, platform: Platform, open_reader: OpenReader) -> None:
        store = platform.create_store("numbers", key="long", value=pa.schema([pa.field("n", pa.int64(), False)]))
        keys = np.arange(60_000)
        schema = pa.schema([pa.field("key", pa.int64(), False), pa.field("n", pa.int64(), False)])
        store.push(pa.table({"key": keys, "n": keys * 3}, schema=schema), progress=False)
        reader = open_reader(store)
        asked = np.random.default_rng(5).permutation(np.arange(-1000, 61_000))
        columns = reader.get_columns(asked)
        there = (asked >= 0) & (asked < 60_000)
        assert (columns.found == there).all()
        assert (np.ma.getmaskarray(columns["n"]) == ~there).all()
        assert (columns["n"][there] == asked[there] * 3).all()
        rows = reader.get_many(asked[:25_000])
        assert [None if row is None else row["n"] for row in rows] == [n * 3 if 0 <= n < 60_000 else None for n in asked[:25_000].tolist()]

    # -- columns ------------------------------------------------------------------------------------------------------------------------

    def test_columns_hold_what_the_rows_hold(self, reader: StoreReader) -> None:
        keys = [*range(-20, 40), MISSING, 3]
        columns = reader.get_columns(keys)
        assert list(columns) == ROW.names
        assert columns.found.tolist() == [key != MISSING for key in keys]
        for name in ROW.names:
            expected = [None if key == MISSING else row_of(key)[name] for key in keys]
            if name == "seen":
                got = [None if value is None else round(value.timestamp() * 1000) for value in columns.arrow(name).to_pylist()]
            else:
                got = columns.arrow(name).to_pylist()
            assert got == expected, name
        assert columns.to_arrow().schema.field("emb").type == ROW.field("emb").type

    def test_columns_are_arrays_masked_where_nothing_is(self, reader: StoreReader) -> None:
        columns = reader.get_columns([5, MISSING, 6], ["clicks", "score", "emb", "maybe", "city", "seen"])
        assert columns["clicks"].tolist() == [50, None, 60]
        assert columns["score"].tolist() == [None, None, 1.5]
        assert (columns["emb"].dtype, columns["emb"].shape) == (np.float32, (3, 4))
        assert columns["emb"][0].tolist() == [5.0, 1.0, -5.0, 0.5]
        assert np.ma.getmaskarray(columns["emb"])[:, 0].tolist() == [False, True, False]
        assert np.ma.getmaskarray(columns["maybe"])[:, 0].tolist() == [False, True, True]
        assert columns["city"].tolist() == ["city-5-éé", None, "city-6-"]
        assert columns["seen"].dtype == np.dtype("<M8[ms]")
        assert columns.valid("score").tolist() == [False, False, True]
        plain_column = reader.get_columns([5, 6], ["clicks"])["clicks"]
        assert not isinstance(plain_column, np.ma.MaskedArray)
        assert plain_column.dtype == np.int64

    def test_no_fields_ask_which_keys_are_there(self, reader: StoreReader) -> None:
        columns = reader.get_columns([1, MISSING, 2], [])
        assert columns.found.tolist() == [True, False, True]

    def test_columns_come_in_the_order_asked_for(self, reader: StoreReader) -> None:
        assert list(reader.get_columns([1], ["tags", "clicks"])) == ["tags", "clicks"]

    def test_an_unknown_field_is_refused_with_the_near_name(self, reader: StoreReader) -> None:
        with pytest.raises(FieldNotFoundError, match="no field 'clikcs'; did you mean 'clicks'"):
            reader.get_columns([1], ["clikcs"])

    # -- compute ------------------------------------------------------------------------------------------------------------------------

    def test_compute_is_the_same_computation_on_fetched_rows(self, reader: StoreReader) -> None:
        keys = [*range(1, 30), MISSING]
        vector = np.array([0.25, -1.0, 2.0, 0.5])
        stored = np.array([row_of(key)["emb"] for key in keys[:-1]])
        expected = {
            "dot": stored @ vector,
            "cosine": stored @ vector / np.linalg.norm(stored, axis=1) / np.linalg.norm(vector),
            "euclidean": np.linalg.norm(stored - vector, axis=1),
        }
        for operation, values in expected.items():
            got = reader.compute(keys, operation, "emb", vector)  # type: ignore[arg-type]
            assert (got.dtype, np.ma.getmaskarray(got).tolist()) == (np.float64, [False] * 29 + [True])
            np.testing.assert_allclose(got[:-1], values, rtol=1e-6)

    def test_compute_masks_rows_without_a_vector(self, reader: StoreReader) -> None:
        got = reader.compute([1, 3, MISSING, 4], "dot", "maybe", [1, 1, 1, 1])
        assert np.ma.getmaskarray(got).tolist() == [False, True, True, False]
        assert got[3] == 10.0
        products = reader.compute([1, MISSING], "hadamard", "emb", [1, 1, 1, 1])
        assert products.shape == (2, 4)
        assert np.ma.getmaskarray(products).tolist() == [[False] * 4, [True] * 4]

    def test_compute_refuses_what_cannot_be(self, reader: StoreReader) -> None:
        with pytest.raises(InputError, match="field 'emb' has 4 numbers, the vector has 3"):
            reader.compute([1], "dot", "emb", [1, 2, 3])
        with pytest.raises(InputError, match="no operation 'dott'; did you mean 'dot'"):
            reader.compute([1], "dott", "emb", [1, 2, 3, 4])  # type: ignore[arg-type]
        with pytest.raises(InputError, match="norm zero"):
            reader.compute([1], "cosine", "emb", [0, 0, 0, 0])
        with pytest.raises(InputError, match="one row of numbers"):
            reader.compute([1], "dot", "emb", [[1, 2, 3, 4]])
        with pytest.raises(FieldNotFoundError, match="no field 'embb'; did you mean 'emb'"):
            reader.compute([1], "dot", "embb", [1, 2, 3, 4])
        with pytest.raises(InputError, match="compute needs a vector"):
            reader.compute([1], "dot", "clicks", [1.0])

    # -- keys ---------------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("key", "keys", "absent"),
        [
            ("string", ["", "a", "ä/ö?&=#%", ".", "..", "x" * 500, "two words", "naïve\n"], "not there"),
            ("bytes", [b"", b"\x00\xff", b"plain"], b"not there"),
            ("int", [0, -1, 2**31 - 1, -(2**31)], 77),
            (pa.schema([("origin", pa.string()), ("number", pa.int32())]), [("JFK", 7), ("ÜN", -1), ("", 0)], ("JFK", 8)),
        ],
        ids=["string", "bytes", "int", "record"],
    )
    def test_keys_of_every_kind_are_found(self, platform: Platform, open_reader: OpenReader, key: Any, keys: Any, absent: Any) -> None:
        store = platform.create_store("keyed", key=key, value=pa.schema([pa.field("n", pa.int64(), False)]))
        if isinstance(key, pa.Schema):
            columns = {name: pa.array([item[place] for item in keys], key.field(name).type) for place, name in enumerate(key.names)}
        else:
            columns = {"key": pa.array(keys, {"string": pa.string(), "bytes": pa.binary(), "int": pa.int32()}[key])}
        table = pa.table({**columns, "n": pa.array(range(len(keys)), pa.int64())})
        fields = [field.with_nullable(False) for field in table.schema]
        store.push(table.cast(pa.schema(fields)), progress=False)
        reader = open_reader(store)
        for number, item in enumerate(keys):
            assert plain_row(reader.get(item)) == {"n": number}, item
        assert reader.get(absent) is None
        assert [plain_row(row) for row in reader.get_many([*keys, absent])] == [*({"n": n} for n in range(len(keys))), None]
        assert reader.get_columns([absent, *keys])["n"].tolist() == [None, *range(len(keys))]

    # -- versions -----------------------------------------------------------------------------------------------------------------------

    def test_a_reader_follows_swaps_and_rollbacks(self, store: Store, reader: StoreReader) -> None:
        first = store.current
        assert reader.version == first
        second = store.push(table_of([1, 2], 1), progress=False).version
        self.soon(lambda: reader.version == second, "the second version was not adopted")
        self.soon(lambda: plain_row(reader.get(1)) == row_of(1, 1), "an old row after a swap")
        assert reader.get(50) is None
        assert reader.get_columns([1, 50])["clicks"].tolist() == [11, None]
        assert store.rollback() == first
        self.soon(lambda: reader.version == first, "the rollback was not followed")
        self.soon(lambda: plain_row(reader.get(50)) == row_of(50), "a rolled back row")

    def test_at_stays_on_its_version(self, store: Store, reader: Any) -> None:
        first, second = store.current, store.push(table_of([1], 1), progress=False).version
        with contextlib.closing(reader.at(first)) as old, contextlib.closing(reader.at(second)) as new:
            assert (old.version, new.version) == (first, second)
            assert plain_row(old.get(1)) == row_of(1)
            assert plain_row(new.get(1)) == row_of(1, 1)
            assert [plain_row(row) for row in old.get_many([1, 2])] == [row_of(1), row_of(2)]
            assert new.get_columns([1, 2], ["clicks"])["clicks"].tolist() == [11, None]
            assert old.compute([1], "dot", "emb", [1, 0, 0, 0]).tolist() == [1.0]
            store.rollback()
            assert plain_row(new.get(1)) == row_of(1, 1)

    def test_a_version_that_is_not_there_is_refused_with_those_that_are(self, store: Store, reader: Any) -> None:
        with pytest.raises(VersionNotFoundError, match=f"store 'members' has no version 999; available: {store.current}"):
            reader.at(999)
        with pytest.raises(InputError, match="version"):
            reader.at("1")

    def test_a_store_without_a_version_is_opened_and_not_read(self, platform: Platform, open_reader: OpenReader) -> None:
        store = platform.create_store("empty", key="long", value=ROW)
        reader = open_reader(store)
        reads: list[Callable[[], Any]] = [
            lambda: reader.get(1), lambda: reader.get_many([1]), lambda: reader.get_columns([1]), lambda: reader.version,
        ]  # fmt: skip
        for read in reads:
            with pytest.raises(NoCurrentVersionError, match="store 'empty' has no current version yet"):
                read()
        store.push(table_of([1]), progress=False)
        self.soon(lambda: _can(lambda: reader.get(1)), "the first version was not adopted")
        assert plain_row(reader.get(1)) == row_of(1)

    def test_one_call_never_mixes_versions_while_they_change(self, platform: Platform, open_reader: OpenReader) -> None:
        store = platform.create_store("moving", key="long", value=pa.schema([pa.field("generation", pa.int64(), False)]), keep=3)
        keys = np.arange(24_000)

        def push(generation: int) -> None:
            columns = {"key": keys, "generation": np.full(len(keys), generation)}
            schema = pa.schema([("key", pa.int64()), pa.field("generation", pa.int64(), False)])
            store.push(pa.table(columns, schema=schema), progress=False)

        push(0)
        reader = open_reader(store)
        over = threading.Event()

        def keep_pushing() -> None:
            for generation in range(1, 7):
                push(generation)
            over.set()

        pushing = threading.Thread(target=keep_pushing)
        pushing.start()
        seen = []
        try:
            while not over.is_set():
                columns = reader.get_columns(keys)
                assert columns.found.all()
                assert len(set(columns["generation"].tolist())) == 1
                rows = reader.get_many(keys[:200])
                assert len({row["generation"] for row in rows}) == 1
                seen.append(int(columns["generation"][0]))
        finally:
            pushing.join()
        assert seen == sorted(seen), "a swap stepped back"
        self.soon(lambda: reader.get(0)["generation"] == 6, "the last version was not adopted")

    # -- schemas ------------------------------------------------------------------------------------------------------------------------

    def test_rows_of_older_schemas_have_the_defaults_of_new_fields(self, platform: Platform, open_reader: OpenReader) -> None:
        first = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
        second = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "string", "default": "-"}]}
        store = platform.create_store("growing", key="long", value=first, keep=3)
        store.push({"key": [1], "a": [10]}, progress=False)
        store.add_schema(second)
        newest = store.push({"key": [1, 2], "a": [11, 20], "b": ["x", "y"]}, progress=False).version
        reader = open_reader(store)
        self.soon(lambda: reader.version == newest, "the second version was not adopted")
        assert plain_row(reader.get(1)) == {"a": 11, "b": "x"}
        older = store.rollback()
        self.soon(lambda: reader.version == older, "the rollback was not followed")
        assert plain_row(reader.get(1)) == {"a": 10, "b": "-"}
        assert reader.get_columns([1, 2])["b"].tolist() == ["-", None]

    def test_a_reader_opened_before_a_schema_reads_the_rows_written_in_it(self, platform: Platform, open_reader: OpenReader) -> None:
        first = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
        second = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "string", "default": "-"}]}
        store = platform.create_store("growing", key="long", value=first)
        store.push({"key": [1], "a": [10]}, progress=False)
        reader = open_reader(store)
        assert plain_row(reader.get(1)) == {"a": 10}
        store.add_schema(second)
        newest = store.push({"key": [1], "a": [11], "b": ["x"]}, progress=False).version
        self.soon(lambda: reader.version == newest, "the second version was not adopted")
        self.soon(lambda: _can(lambda: reader.get(1)["b"]), "the new field is not read")
        assert plain_row(reader.get(1)) == {"a": 11, "b": "x"}
        assert [plain_row(row) for row in reader.get_many([1])] == [{"a": 11, "b": "x"}]
        assert reader.get_columns([1])["b"].tolist() == ["x"]
        assert reader.get_columns([1], ["b"])["b"].tolist() == ["x"]

    def test_a_reader_may_ask_for_a_schema_of_its_own(self, store: Store, open_reader: OpenReader) -> None:
        schema = {
            "type": "record",
            "name": "Row",
            "fields": [{"name": "clicks", "type": "double"}, {"name": "new", "type": "int", "default": 7}],
        }
        reader = open_reader(store, schema=schema)
        assert plain_row(reader.get(3)) == {"clicks": 30.0, "new": 7}
        assert [plain_row(row) for row in reader.get_many([3, MISSING])] == [{"clicks": 30.0, "new": 7}, None]
        columns = reader.get_columns([3, MISSING])
        assert (columns["clicks"].dtype, columns["clicks"].tolist(), columns["new"].tolist()) == (np.float64, [30.0, None], [7, None])

    # -- life ---------------------------------------------------------------------------------------------------------------------------

    def test_what_was_handed_out_outlives_the_reader(self, store: Store, open_reader: OpenReader) -> None:
        reader = open_reader(store)
        row, rows, columns = reader.get(5), reader.get_many([6, MISSING]), reader.get_columns([5, 6])
        reader.close()
        assert plain_row(row) == row_of(5)
        assert [plain_row(item) for item in rows] == [row_of(6), None]
        assert columns["clicks"].tolist() == [50, 60]

    def test_a_closed_reader_refuses(self, store: Store, open_reader: OpenReader) -> None:
        reader = open_reader(store)
        other = reader.at(store.current)
        reader.close()
        reader.close()
        reads: list[Callable[[], Any]] = [lambda: reader.get(1), lambda: reader.get_many([1]), lambda: reader.version, lambda: reader.at(1)]
        for read in reads:
            with pytest.raises(StateError, match="reader of store 'members' is closed"):
                read()
        assert plain_row(other.get(1)) == row_of(1)
        other.close()

    def test_a_reader_is_a_context_manager(self, store: Store, open_reader: OpenReader) -> None:
        with open_reader(store) as reader:
            assert reader.get(1) is not None
        with pytest.raises(StateError):
            reader.get(1)

    def test_a_reader_reads_where_it_was_pickled_to(self, store: Store, reader: Any) -> None:
        with contextlib.closing(reader.at(store.current)) as pinned:
            pickled = pickle.dumps((reader, pinned))
        copy, pinned = pickle.loads(pickled)
        with contextlib.closing(copy), contextlib.closing(pinned):
            assert plain_row(copy.get(5)) == row_of(5)
            assert pinned.version == store.current

    def test_threads_share_a_reader(self, reader: StoreReader) -> None:
        wrong: list[Any] = []

        def read(seed: int) -> None:
            try:
                for key in np.random.default_rng(seed).integers(-30, 110, 60).tolist():
                    expected = row_of(key) if -20 <= key < 100 else None
                    if plain_row(reader.get(key)) != expected or plain_row(reader.get_many([key, 1])[0]) != expected:
                        wrong.append(key)
            except BaseException as exc:
                wrong.append(exc)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_store_that_is_not_there_is_not_opened(self, platform: Platform, open_reader: OpenReader) -> None:
        store = platform.create_store("gone", key="long", value=ROW)
        platform.delete_store("gone")
        with pytest.raises(StoreNotFoundError, match="no store 'gone'"):
            open_reader(store)


class StoreReaderWritesContract(StoreReaderContract):
    """And what it must do with real-time writes."""

    def test_a_write_is_read_by_whoever_names_its_position(self, store: Store, reader: StoreReader) -> None:
        with store.writer("test") as writer:
            for key in (1, 500):
                position = writer.put(key, row_of(key, 3))
                assert plain_row(reader.get(key, min_position=position)) == row_of(key, 3)
            position = writer.patch(2, {"clicks": 7})
            row = reader.get_many([2], min_position=position)[0]
            assert row is not None
            assert (row["clicks"], row["city"]) == (7, row_of(2)["city"])
            position = writer.delete(3)
            columns = reader.get_columns([1, 2, 3, 500], ["clicks"], min_position=str(position))
            assert columns["clicks"].tolist() == [13, 7, None, 5003]
            position = writer.put(4, {**row_of(4), "emb": [9.0, 0, 0, 0]})
            assert reader.compute([4], "dot", "emb", [1, 0, 0, 0], min_position=position).tolist() == [9.0]

    def test_a_position_that_is_not_reached_ends_with_the_deadline(self, store: Store, reader: StoreReader) -> None:
        with store.writer("test") as writer:
            position = writer.put(1, row_of(1))
            beyond = f"{position.partition}:{position.offset + 1000}"
        for read in (
            lambda: reader.get(1, min_position=beyond, timeout_s=0.2),
            lambda: reader.get_many([1], min_position=beyond, timeout_s=0.2),
            lambda: reader.get_columns([1], min_position=beyond, timeout_s=0.2),
        ):
            began = time.monotonic()
            with pytest.raises(DeadlineExceededError, match="not done within"):
                read()
            assert time.monotonic() - began < 2.0

    def test_a_position_that_is_none_is_refused(self, reader: StoreReader) -> None:
        with pytest.raises(InputError, match="'nonsense' is no position"):
            reader.get(1, min_position="nonsense")

    def test_position_says_what_is_readable(self, store: Store, reader: StoreReader) -> None:
        with store.writer("test") as writer:
            position = writer.put(1, row_of(1, 2))
            reader.get(1, min_position=position)
        assert reader.position[position.partition] >= position.offset

    def test_a_rollback_and_a_swap_keep_real_time_writes(self, store: Store, reader: StoreReader) -> None:
        second = store.push(table_of([1, 2], 1), progress=False).version
        with store.writer("test") as writer:
            position = writer.put(1, row_of(1, 5))
        assert plain_row(reader.get(1, min_position=position)) == row_of(1, 5)
        first = store.rollback()
        self.soon(lambda: reader.version == first, "the rollback was not followed")
        assert plain_row(reader.get(1)) == row_of(1, 5)
        with contextlib.closing(reader.at(second)) as other:
            assert plain_row(other.get(1)) == row_of(1, 5)

    def test_a_store_that_was_only_written_to_is_read(self, platform: Platform, open_reader: OpenReader) -> None:
        store = platform.create_store("written", key="long", value=ROW)
        with store.writer("test") as writer:
            position = writer.put(1, row_of(1))
            positions = writer.flush()
        reader = open_reader(store)
        assert plain_row(reader.get(1, min_position=position)) == row_of(1)
        assert [plain_row(row) for row in reader.get_many([1, 2], min_position=positions)] == [row_of(1), None]
        assert reader.version == 0


def _can(read: Callable[[], Any]) -> bool:
    """Whether a read works by now."""
    try:
        read()
    except (NoCurrentVersionError, FieldNotFoundError):
        return False
    return True
