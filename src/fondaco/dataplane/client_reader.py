"""Client reader: the reads of `StoreReader` as operations, which the thin and the fast client share, blocking and asyncio alike.

A subclass says where requests go (`_pieces_of`, `_place_of`) and which version they ask for; everything else is here: keys to bytes, bytes
to rows and columns, schemas that were not known yet, one version for all pieces of a call. An answer's errors are those that an embedded
reader raises, made by the server that has one.

Imports neither numba nor SQLAlchemy: rows come from generated Python, columns from Arrow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fondaco.core.errors import (
    DataError,
    FieldNotFoundError,
    FondacoError,
    InputError,
    ProtocolError,
    StateError,
    StoreNotFoundError,
    UnavailableError,
    VersionNotFoundError,
)
from fondaco.core.ids import check_version_number
from fondaco.dataplane import wire
from fondaco.dataplane.client import Caller, deadline_of, together, whole_number
from fondaco.dataplane.client_batches import PIECE_BYTES, PIECE_KEYS, PackedKeys, Piece, PieceAnswer, blocks_of, cut, joined, order_of
from fondaco.dataplane.client_routes import Routes
from fondaco.dataplane.client_store import StoreInfo
from fondaco.dataplane.hedging import LatencyWindow
from fondaco.dataplane.pool import Operation, Peer
from fondaco.dataplane.protocol import Answer, Request
from fondaco.schema.columns import Columns
from fondaco.store.positions import Positions
from fondaco.store.store_reader import Operation as ScoreOperation

if TYPE_CHECKING:
    from fondaco.schema.row import Row
    from fondaco.store.store_reader import MinPosition

AGREEMENTS: Final = 4  # attempts to read all pieces of a call from one version, while versions come and go

T = TypeVar("T")


class Asking(Protocol):
    """How a reader asks, and whom."""

    caller: Caller
    peers: tuple[Peer, ...]
    routes: Routes


class ReaderOperations:
    """Reads of one store. Every method whose name ends in `_operation` is a generator for a transport to run."""

    def __init__(self, asking: Asking, store: str, *, version: int | None, schema: object, timeout_s: float) -> None:
        if not isinstance(store, str) or not store:
            raise InputError(f"a store is named by a text, not by {store!r}")
        deadline_of(timeout_s)
        self._caller, self._peers, self._store = asking.caller, tuple(asking.peers), store
        self._pinned = None if version is None else check_version_number(version)
        self._schema, self._timeout_s = schema, timeout_s
        self._info: StoreInfo | None = None
        self._closed = False

    # -- where ----------------------------------------------------------------------------------------------------------------------------

    def _route_operation(self, deadline: float) -> Operation[None]:
        """Know where to ask."""
        return
        yield

    def _place_of(self, key: bytes) -> Sequence[Peer]:
        """Who has a key."""
        return self._peers

    def _pieces_of(self, keys: PackedKeys, keys_max: int, bytes_max: int) -> list[Piece]:
        """A batch as requests."""
        return cut(keys, self._peers, None, keys_max, bytes_max)

    def _wanted(self) -> int | None:
        """The version to ask for; None: whichever is current where the request arrives."""
        return self._pinned

    def _window(self, key_count: int) -> LatencyWindow | None:
        """What tells when to hedge; None: never."""
        return None

    def _is_stale(self, error: FondacoError, deadline: float) -> Operation[bool]:
        """Whether an error came of what was believed of the cluster, so that another attempt may do better."""
        return False
        yield

    # -- its life -------------------------------------------------------------------------------------------------------------------------

    def open_operation(self) -> Operation[None]:
        """Look the store up, and the version if the reader stays on one."""
        deadline = deadline_of(self._timeout_s)
        yield from self._info_operation(deadline)
        if self._pinned is not None:
            yield from self._nothing("version", deadline)

    def _nothing(self, what: str, deadline: float) -> Operation[tuple[list[Piece], list[int]]]:
        """A batch of no keys: what it raises and which version answers is as for any other read."""
        nothing, target = PackedKeys(np.zeros(1, np.uint8), np.zeros(1, np.int64)), wire.store_path(self._store, wire.ROWS)
        return self._batch(
            what, nothing, deadline, target, wire.ROWS_BODY, (),
            lambda answer, count: whole_number(answer, wire.VERSION, self._peers[0].url),
        )  # fmt: skip

    def info_operation(self) -> Operation[StoreInfo]:
        """What the store is."""
        return self._info_operation(deadline_of(self._timeout_s))

    def check_open(self) -> None:
        """Raises StateError after `close`."""
        if self._closed:
            raise StateError(f"the reader of store {self._store!r} is closed; open another")

    def __repr__(self) -> str:
        pinned = f", v{self._pinned}" if self._pinned is not None else ""
        return f"{type(self).__name__}({self._store!r}, {', '.join(peer.url for peer in self._peers)}{pinned})"

    # -- what the store is ----------------------------------------------------------------------------------------------------------------

    def _info_operation(self, deadline: float, *, again: bool = False) -> Operation[StoreInfo]:
        self.check_open()
        yield from self._route_operation(deadline)
        if self._info is None or again:
            answer = yield from self._describe_operation(deadline)
            self._learn(StoreInfo(bytes(answer.body), self._peers[0].url, self._schema))
        assert self._info is not None
        return self._info

    def _describe_operation(self, deadline: float, *headers: tuple[str, str]) -> Operation[Answer]:
        request = Request("GET", wire.store_path(self._store), (("Accept", wire.JSON), *self._version_header(self._pinned), *headers))
        return self._caller.ask(f"description of store {self._store!r}", request, self._describers(), deadline)

    def _describers(self) -> Sequence[Peer]:
        return self._peers

    def _learn(self, info: StoreInfo) -> None:
        self._info = info

    @staticmethod
    def _version_header(version: int | None) -> tuple[tuple[str, str], ...]:
        return () if version is None else ((wire.VERSION, str(version)),)

    @staticmethod
    def _position_header(min_position: MinPosition) -> tuple[tuple[str, str], ...]:
        if min_position is None:
            return ()
        text = str(Positions.of(min_position))
        return ((wire.MIN_POSITION, text),) if text else ()

    def version_operation(self) -> Operation[int]:
        """The version that a call would read now; 0 for a store that was only written to.

        Raises:
            NoCurrentVersionError; and as `get`.
        """
        deadline = deadline_of(self._timeout_s)
        yield from self._info_operation(deadline)
        if (wanted := self._wanted()) is not None:
            return wanted
        _, versions = yield from self._nothing("version", deadline)
        return versions[0]

    def position_operation(self) -> Operation[Positions]:
        """How far real-time writes are readable at the server that was asked, per partition of the store's topic."""
        deadline = deadline_of(self._timeout_s)
        yield from self._info_operation(deadline)
        answer = yield from self._describe_operation(deadline, (wire.POSITION, "1"))
        return Positions.parse(answer.header(wire.POSITION) or "")

    def describe_operation(self) -> Operation[dict[str, Any]]:
        """The store's description: schemas, settings, limits, as the server gives it."""
        deadline = deadline_of(self._timeout_s)
        info = yield from self._info_operation(deadline, again=True)
        return info.described()

    # -- one row --------------------------------------------------------------------------------------------------------------------------

    def get_operation(self, key: Any, *, min_position: MinPosition = None, timeout_s: float | None = None) -> Operation[Row | None]:
        """The row of `key`, or None; fields are decoded when they are touched.

        Args:
            min_position: a write's position, or several: the answer includes them. timeout_s: for the whole call.
        Raises:
            KeyTypeError, NoCurrentVersionError, StateError: as an embedded reader. DeadlineExceededError: not done in time.
            UnavailableError: no server answers. ProtocolError: what answers is none. QuotaExceededError: never repeated by the client.
            AuthenticationError, PermissionDeniedError.
        """
        deadline = deadline_of(self._timeout_s if timeout_s is None else timeout_s)
        info = yield from self._info_operation(deadline)
        encoded = info.keys.encode(key)
        target = self._row_target(info, key, encoded)
        position = self._position_header(min_position)
        for attempt in range(AGREEMENTS):
            headers = (("Accept", wire.AVRO), *self._version_header(self._wanted()), *position)
            try:
                answer = yield from self._caller.ask(
                    f"get from store {self._store!r}", Request("GET", target, headers), self._place_of(encoded), deadline,
                    window=self._window(1),
                )  # fmt: skip
            except (VersionNotFoundError, StoreNotFoundError, UnavailableError) as exc:
                if attempt + 1 == AGREEMENTS or not (yield from self._is_stale(exc, deadline)):
                    raise
                continue
            break
        return (yield from self._row_operation(info, answer, deadline))

    def _row_operation(self, info: StoreInfo, answer: Answer, deadline: float) -> Operation[Row | None]:
        """The row of an answer."""
        if answer.status == 404:
            return None
        number = whole_number(answer, wire.SCHEMA, self._peers[0].url)
        maker = info.maker(number)
        if maker is None:
            info = yield from self._info_operation(deadline, again=True)
            maker = info.maker(number)
            if maker is None:
                raise ProtocolError(self._peers[0].url, f"a row of value schema {number}, which store {self._store!r} does not have")
        return maker(answer.body)

    def _row_target(self, info: StoreInfo, key: Any, encoded: bytes) -> str:
        if info.keys.kind in ("int", "long"):
            return wire.row_path(self._store, int(key))
        if info.keys.kind == "string":
            return wire.row_path(self._store, str(key))
        return wire.row_path_of_bytes(self._store, encoded)

    # -- many rows ------------------------------------------------------------------------------------------------------------------------

    def get_many_operation(
        self, keys: Any, *, min_position: MinPosition = None, timeout_s: float | None = None
    ) -> Operation[list[Row | None]]:
        """The rows of `keys` in their order, None where there is none. Large batches are asked for in pieces, several at a time, all of one
        version.

        Args, Raises:
            as an embedded reader's `get_many`, and `get`.
        """
        deadline = deadline_of(self._timeout_s if timeout_s is None else timeout_s)
        info = yield from self._info_operation(deadline)
        packed = PackedKeys(*info.keys.pack_many(keys))
        pieces, answers = yield from self._batch(
            "batch get", packed, deadline, wire.store_path(self._store, wire.ROWS), wire.ROWS_BODY, self._position_header(min_position),
            lambda answer, count: _packed_rows(answer, count, self._peers[0].url),
        )  # fmt: skip
        if any(not info.codec_of(number) for answer in answers for number in answer.numbers):
            info = yield from self._info_operation(deadline, again=True)
        return joined(len(packed), pieces, [answer.rows(info, self._store, self._peers[0].url) for answer in answers], self._peers[0].url)

    def get_columns_operation(
        self, keys: Any, fields: Sequence[str] | None = None, *, min_position: MinPosition = None, timeout_s: float | None = None
    ) -> Operation[Columns]:
        """Columns of `fields` (None: all) for `keys`, as an embedded reader gives them: same dtypes, masks and `found`.

        Args, Raises:
            as an embedded reader's `get_columns`, and `get`.
        """
        deadline = deadline_of(self._timeout_s if timeout_s is None else timeout_s)
        info = yield from self._info_operation(deadline)
        packed = PackedKeys(*info.keys.pack_many(keys))
        position = self._position_header(min_position)
        if self._schema is not None:
            return (yield from self._columns_of_rows(info, packed, fields, position, deadline))
        if fields is not None and not isinstance(fields, str) and set(fields) - set(info.codec.fields):
            info = yield from self._info_operation(deadline, again=True)
        names = None if fields is None else _field_names(info, fields)
        path = wire.store_path(self._store, wire.COLUMNS, fields=names)
        problem: FondacoError | None = None
        for _ in range(2):
            raw = Columns.travels_raw(info.codec, names)
            parse = _numbers if raw else _table
            pieces, parts = yield from self._batch(
                "columns", packed, deadline, path, wire.COLUMNS_BODY if raw else wire.ARROW, position,
                lambda answer, count, parse=parse: parse(answer, count, self._peers[0].url),  # type: ignore[misc]
            )  # fmt: skip
            try:
                return _numbers_joined(parts, pieces, info, names) if raw else _table_joined(parts, pieces, info, names)
            except (DataError, FieldNotFoundError) as exc:  # the server knows of a schema that we do not
                problem = exc
                info = yield from self._info_operation(deadline, again=True)
        raise ProtocolError(self._peers[0].url, f"columns that do not fit the store's schemas: {problem}")

    def _columns_of_rows(
        self, info: StoreInfo, packed: PackedKeys, fields: Sequence[str] | None, position: tuple[tuple[str, str], ...], deadline: float
    ) -> Operation[Columns]:
        """Columns in a schema that the server does not know: of rows, decoded and encoded here. The one read that brings in numba."""
        pieces, answers = yield from self._batch(
            "batch get", packed, deadline, wire.store_path(self._store, wire.ROWS), wire.ROWS_BODY, position,
            lambda answer, count: _packed_rows(answer, count, self._peers[0].url),
        )  # fmt: skip
        if any(not info.codec_of(number) for answer in answers for number in answer.numbers):
            info = yield from self._info_operation(deadline, again=True)
        rows = joined(len(packed), pieces, [answer.rows(info, self._store, self._peers[0].url) for answer in answers], self._peers[0].url)
        return _decoded(info, rows, fields)

    def compute_operation(
        self, keys: Any, operation: ScoreOperation, field: str, vector: npt.ArrayLike, *, min_position: MinPosition = None,
        timeout_s: float | None = None,
    ) -> Operation[np.ma.MaskedArray[Any, Any]]:  # fmt: skip
        """Similarity or distance between `vector` and a vector field, computed where the rows are; only numbers travel.

        Args, Raises:
            as an embedded reader's `compute`, and `get`.
        """
        deadline = deadline_of(self._timeout_s if timeout_s is None else timeout_s)
        info = yield from self._info_operation(deadline)
        packed = PackedKeys(*info.keys.pack_many(keys))
        pieces, scores = yield from self._batch(
            "compute", packed, deadline, wire.compute_path(self._store, str(operation), str(field), vector), wire.SCORES_BODY,
            self._position_header(min_position), lambda answer, count: _scores(answer, count, self._peers[0].url),
        )  # fmt: skip
        values = np.concatenate([block.values for block in scores])
        valid = np.concatenate([block.valid for block in scores])
        order = order_of(pieces)
        if order is not None:
            values, valid = values[order], valid[order]
        return np.ma.MaskedArray(values, mask=np.broadcast_to(~valid if values.ndim == 1 else ~valid[:, None], values.shape))

    # -- pieces ---------------------------------------------------------------------------------------------------------------------------

    def _batch(
        self, what: str, packed: PackedKeys, deadline: float, target: str, accept: str, position: tuple[tuple[str, str], ...],
        parse: Callable[[Answer, int], T],
    ) -> Operation[tuple[list[Piece], list[T]]]:  # fmt: skip
        """The answers of all pieces, from one version."""
        what = f"{what} from store {self._store!r}"
        info = self._info
        assert info is not None
        pin = self._wanted()
        failure: FondacoError | None = None
        for _ in range(AGREEMENTS):
            pieces = self._pieces_of(packed, min(PIECE_KEYS, info.batch_keys_max), min(PIECE_BYTES, info.request_bytes_max // 2))
            agreed = [pin]  # of the first answer, if nothing was asked for

            def ask(
                piece: Piece, version: int | None, agreed: list[int | None] = agreed, alone: bool = len(pieces) == 1
            ) -> Operation[PieceAnswer]:
                wanted = agreed[0] if version is None else version
                headers = (("Accept", accept), ("Content-Type", wire.KEYS_BODY), *self._version_header(wanted), *position)
                answer = yield from self._caller.ask(
                    what, Request("POST", target, headers, piece.keys.body()), piece.peers, deadline,
                    window=self._window(len(piece.keys)), alone=alone,
                )  # fmt: skip
                number = whole_number(answer, wire.VERSION, piece.peers[0].url)
                if agreed[0] is None:
                    agreed[0] = number
                return PieceAnswer(number, parse(answer, len(piece.keys)))

            try:
                answers = yield from together([ask(piece, None) for piece in pieces])
                others = [place for place, answer in enumerate(answers) if answer.version != agreed[0]]
                if others:
                    again = yield from together([ask(pieces[place], agreed[0]) for place in others])
                    for place, answer in zip(others, again, strict=True):
                        answers[place] = answer
                if all(answer.version == agreed[0] for answer in answers):
                    return pieces, [answer.value for answer in answers]
                failure = VersionNotFoundError(self._store, agreed[0] or 0, ())
            except (VersionNotFoundError, StoreNotFoundError, UnavailableError) as exc:
                moved_on = pin is None and agreed[0] is not None and isinstance(exc, VersionNotFoundError)  # retired since the first answer
                if self._pinned is not None or not (moved_on or (yield from self._is_stale(exc, deadline))):
                    raise
                failure = exc
            pin = self._wanted()
            if time.monotonic() >= deadline:
                break
        assert failure is not None
        raise failure


# -- answers ------------------------------------------------------------------------------------------------------------------------------


class _PackedRows:
    """Rows of one piece, not made yet."""

    def __init__(self, blocks: list[wire.RowsBlock]) -> None:
        self._blocks = blocks
        self.numbers = {int(number) for block in blocks for number in np.unique(block.schemas)} - {0}

    def rows(self, info: StoreInfo, store: str, peer: str) -> list[Row | None]:
        """The rows, in order.

        Raises:
            ProtocolError: a row of a schema that the store does not have.
        """
        makers: dict[int, Any] = {}
        for number in self.numbers:
            makers[number] = info.maker(number)
            if makers[number] is None:
                raise ProtocolError(peer, f"a row of value schema {number}, which store {store!r} does not have")
        out: list[Row | None] = []
        for block in self._blocks:
            data, places = block.data.tobytes(), block.offsets.tolist()
            numbers = block.schemas.tolist()
            out += [makers[number](data, places[i], places[i + 1]) if number else None for i, number in enumerate(numbers)]
        return out


def _packed_rows(answer: Answer, count: int, peer: str) -> _PackedRows:
    blocks = _blocks(answer, peer, wire.unpack_rows)
    if sum(len(block.schemas) for block in blocks) != count:
        raise ProtocolError(peer, f"{sum(len(block.schemas) for block in blocks)} rows answered for {count} keys")
    return _PackedRows(blocks)


def _scores(answer: Answer, count: int, peer: str) -> wire.ScoresBlock:
    blocks = [block for block in _blocks(answer, peer, wire.unpack_scores) if isinstance(block, wire.ScoresBlock)]
    if sum(len(block.valid) for block in blocks) != count:
        raise ProtocolError(peer, f"{sum(len(block.valid) for block in blocks)} scores answered for {count} keys")
    if len(blocks) == 1:
        return blocks[0]
    return wire.ScoresBlock(np.concatenate([block.values for block in blocks]), np.concatenate([block.valid for block in blocks]))


def _blocks(answer: Answer, peer: str, unpack: Callable[[wire.Block], T]) -> list[T]:
    out = []
    for block in blocks_of(answer.body, peer):
        if (error := block.error) is not None:
            raise error
        try:
            out.append(unpack(block))
        except InputError as exc:
            raise ProtocolError(peer, f"a block that cannot be read ({exc})") from exc
    return out


def _numbers(answer: Answer, count: int, peer: str) -> list[wire.ColumnsBlock]:
    blocks = _blocks(answer, peer, wire.unpack_columns)
    if sum(len(block.found) for block in blocks) != count:
        raise ProtocolError(peer, f"{sum(len(block.found) for block in blocks)} rows answered for {count} keys")
    return blocks


def _numbers_joined(
    parts: Sequence[list[wire.ColumnsBlock]], pieces: Sequence[Piece], info: StoreInfo, names: Sequence[str] | None
) -> Columns:
    blocks, order = [block for part in parts for block in part], order_of(pieces)
    if len({len(block.columns) for block in blocks}) != 1:
        raise DataError("pieces with different columns")
    found = np.concatenate([block.found for block in blocks]) if len(blocks) > 1 else blocks[0].found
    columns = []
    for place in range(len(blocks[0].columns)):
        given = [block.columns[place] for block in blocks]
        values = np.concatenate([column.values for column in given]) if len(given) > 1 else given[0].values
        valid = None
        if any(column.valid is not None for column in given):
            marks = [np.ones(len(column.values), np.bool_) if column.valid is None else column.valid for column in given]
            valid = np.concatenate(marks) if len(marks) > 1 else marks[0]
        columns.append((values, valid) if order is None else (values[order], None if valid is None else valid[order]))
    return Columns.from_numbers(columns, info.codec, names, found if order is None else found[order])


def _table_joined(parts: Sequence[pa.Table], pieces: Sequence[Piece], info: StoreInfo, names: Sequence[str] | None) -> Columns:
    table, order = parts[0] if len(parts) == 1 else pa.concat_tables(parts), order_of(pieces)
    if order is not None:
        table = table.take(pa.array(order))
    return Columns.from_arrow(table, info.codec, names, np.asarray(table.column(0).to_numpy(), np.bool_))


def _table(answer: Answer, count: int, peer: str) -> pa.Table:
    try:
        with pa.ipc.open_stream(pa.py_buffer(answer.body)) as reader:
            table = reader.read_all()
    except (pa.ArrowException, OSError, EOFError) as exc:
        raise ProtocolError(peer, f"columns that are no Arrow stream ({exc})") from exc
    if table.num_rows != count or not table.num_columns or table.schema.names[0] != wire.FOUND_COLUMN:
        raise ProtocolError(peer, f"columns of {table.num_rows} rows answered for {count} keys, or without {wire.FOUND_COLUMN!r}")
    return table


def _field_names(info: StoreInfo, fields: Sequence[str]) -> list[str]:
    if isinstance(fields, str):
        raise InputError(f"fields are a list of names, as [{fields!r}], not one text")
    names = list(fields)
    for name in names:
        if name not in info.codec.fields:
            raise FieldNotFoundError(str(name), info.codec.fields)
    return names


def _decoded(info: StoreInfo, rows: list[Row | None], fields: Sequence[str] | None) -> Columns:
    from fondaco.schema.columns import decode_addresses

    encoded = [None if row is None else info.codec.encode(row.to_dict()) for row in rows]
    data = np.frombuffer(b"".join(row or b"" for row in encoded) + b"\0", np.uint8)
    ends = np.cumsum([len(row or b"") for row in encoded], dtype=np.int64) + data.ctypes.data
    starts = ends - np.array([len(row or b"") for row in encoded], np.int64)
    missing = np.array([row is None for row in encoded], np.bool_)
    starts[missing] = ends[missing] = 0
    return decode_addresses(info.codec.program, starts, ends, fields, info.codec.arrow_schema)
