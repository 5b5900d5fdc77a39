"""Wire: the names that server and clients must agree on: paths, headers, media types, and the text forms of keys.

The bodies are in `bodies` (bytes) and `json_rows` (JSON), errors in `faults`; the public names of `bodies` and `faults` are here as well:
a client needs one import. None of these modules does I/O, and none imports numba, uvloop or httptools: the thin client stands on them.
The whole protocol, with a worked example: docs/internals/data-plane.md. Pure functions; safe from any thread.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.dataplane.bodies import (
    Block,
    BlockFlag,
    BlockSplitter,
    ColumnsBlock,
    RowsBlock,
    ScoresBlock,
    TopK,
    WireColumn,
    pack_columns,
    pack_error,
    pack_key_list,
    pack_keys,
    pack_rows,
    pack_scores,
    pack_top_k,
    pack_writes,
    unpack_columns,
    unpack_keys,
    unpack_rows,
    unpack_scores,
    unpack_writes,
)
from fondaco.dataplane.faults import error_body, error_from, error_of, retry_after, status_of

__all__ = [
    "Block",
    "BlockFlag",
    "BlockSplitter",
    "ColumnsBlock",
    "RowsBlock",
    "ScoresBlock",
    "TopK",
    "WireColumn",
    "compute_path",
    "decode_avro_key",
    "decode_vector",
    "error_body",
    "error_from",
    "error_of",
    "key_query",
    "pack_columns",
    "pack_error",
    "pack_key_list",
    "pack_keys",
    "pack_rows",
    "pack_scores",
    "pack_top_k",
    "pack_writes",
    "retry_after",
    "row_path",
    "row_path_of_bytes",
    "status_of",
    "store_path",
    "unpack_columns",
    "unpack_keys",
    "unpack_rows",
    "unpack_scores",
    "unpack_writes",
]

DEFAULT_PORT: Final = 7071

# -- paths ----------------------------------------------------------------------------------------------------------------------------

STORES: Final = "/v1/stores"
ROUTING: Final = "/v1/routing"
STATS: Final = "/v1/stats"
OPENAPI: Final = "/openapi.json"
HEALTHY: Final = "/healthz"
READY: Final = "/readyz"

ROWS: Final = "rows"
COLUMNS: Final = "columns"
COMPUTE: Final = "compute"
WRITES: Final = "writes"


def store_path(store: str, what: str | None = None, *, fields: Sequence[str] | None = None) -> str:
    """The path of a store, or of `what` (`ROWS`, `COLUMNS`, `COMPUTE`, `WRITES`) under it; `fields` as its query."""
    path = f"{STORES}/{quote(store, safe='')}"
    if what is not None:
        path = f"{path}/{what}"
    return path if fields is None else f"{path}?fields={','.join(quote(field, safe='') for field in fields)}"


def row_path(store: str, key: int | str) -> str:
    """The path of one row by an integer or text key."""
    if isinstance(key, str) and key in ("", ".", ".."):  # URL libraries and proxies take these segments away
        return f"{store_path(store, ROWS)}?{key_query(key)}"
    return f"{STORES}/{quote(store, safe='')}/rows/{quote(str(key), safe='')}"


def row_path_of_bytes(store: str, key: bytes) -> str:
    """The path of one row by its Avro key bytes, whatever the key's type."""
    return f"{store_path(store, ROWS)}?avro={base64.urlsafe_b64encode(key).rstrip(b'=').decode()}"


def key_query(key: Any) -> str:
    """`key=...` of any key that JSON can say: a record as an object or an array, bytes in base64."""
    return f"key={quote(json.dumps(key, separators=(',', ':'), ensure_ascii=False), safe='')}"


def compute_path(store: str, operation: str, field: str, vector: npt.ArrayLike, *, top_k: int | None = None) -> str:
    """The path of a computation whose body is packed keys (`KEYS_BODY`): `vector` goes into the query, as float64, little-endian, base64.

    Raises:
        InputError: the vector is not one row of numbers.
    """
    try:
        numbers = np.asarray(vector).astype("<f8")
    except (TypeError, ValueError) as exc:
        raise InputError(f"the vector is one row of numbers, not {type(vector).__name__}: {exc}") from None
    if numbers.ndim != 1:
        raise InputError(f"the vector is one row of numbers, not an array of shape {numbers.shape}")
    text = base64.urlsafe_b64encode(numbers.tobytes()).rstrip(b"=").decode()
    last = "" if top_k is None else f"&top_k={top_k}"
    return f"{store_path(store, COMPUTE)}?operation={quote(operation, safe='')}&field={quote(field, safe='')}&vector={text}{last}"


def decode_vector(text: str) -> npt.NDArray[np.float64]:
    """The vector of the value of `vector=`.

    Raises:
        InputError: not base64 of float64 numbers.
    """
    data = _decode_base64("vector", text)
    if len(data) % 8:
        raise InputError(f"vector= holds {len(data)} bytes, which are no float64 numbers of 8 bytes each")
    return np.frombuffer(data, "<f8")


def decode_avro_key(text: str | bytes) -> bytes:
    """Key bytes of the value of `avro=`, percent-decoded already or not, padded or not.

    Raises:
        InputError: not base64 in the URL alphabet.
    """
    return _decode_base64("avro", text)


def _decode_base64(name: str, text: str | bytes) -> bytes:
    raw = unquote_to_bytes(text).rstrip(b"=")
    try:
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InputError(f"{name}={raw[:80].decode(errors='replace')!r} is not base64 in the URL alphabet: {exc}") from None


# -- headers: names in the case of HTTP, compared without it ------------------------------------------------------------------------------

AUTHORIZATION: Final = "Authorization"
VERSION: Final = "Fondaco-Version"  # request: read this version; answer: the version that was read
DEADLINE_MS: Final = "Fondaco-Deadline-Ms"  # request: milliseconds that are left, counted from when the server has read the head
MIN_POSITION: Final = "Fondaco-Min-Position"  # request: "0:17,3:1812"; the read waits until the overlay has applied these offsets
REQUEST_ID: Final = "Fondaco-Request-Id"  # request: up to 128 visible characters, given back in the answer
POSITION: Final = "Fondaco-Position"  # request, any value: say the position; answer: what the overlay has applied, as "0:17,3:1812"
SCHEMA: Final = "Fondaco-Schema"  # answer with one Avro row: the number of the value schema that wrote it
RETRY_AFTER: Final = "Retry-After"

# -- media types ----------------------------------------------------------------------------------------------------------------------

JSON: Final = "application/json"
AVRO: Final = "application/avro"  # one row, Avro binary
ARROW: Final = "application/vnd.apache.arrow.stream"
KEYS_BODY: Final = "application/vnd.fondaco.keys"
ROWS_BODY: Final = "application/vnd.fondaco.rows"
COLUMNS_BODY: Final = "application/vnd.fondaco.columns"
SCORES_BODY: Final = "application/vnd.fondaco.scores"
WRITES_BODY: Final = "application/vnd.fondaco.writes"

FOUND_COLUMN: Final = "fondaco.found"  # first column of an Arrow answer: whether the row exists. No field can be called so.
