"""OpenAPI: the description of the data plane that `GET /openapi.json` answers, version 3.1. A test checks a running server against it.

What is the same for every read (headers, errors) is written once; the bodies in raw bytes are described in words, and exactly in
docs/internals/data-plane.md.
"""

from __future__ import annotations

from typing import Any, Final

from fondaco.core.version import VERSION
from fondaco.dataplane import wire
from fondaco.dataplane.limits import REQUEST_ID_MAX

_NAME: Final = r"^[A-Za-z][A-Za-z0-9_.\-]{0,127}$"
_POSITIONS: Final = r"^([0-9]{1,4}:[0-9]{1,18}(,[0-9]{1,4}:[0-9]{1,18})*)?$"
_ERRORS: Final = {
    400: "The request cannot be done as asked.",
    401: "No token, or none that is good now.",
    403: "The token may not do this.",
    404: "No such store, version or field.",
    405: "Not with this method.",
    406: "No offered media type is accepted.",
    408: "The request did not become complete in time; the connection is closed.",
    409: "Right call, wrong moment: the store has no version yet.",
    413: "More than a stated limit; nothing of it was done.",
    414: "The request line is too long.",
    415: "The body's media type is none of those taken.",
    417: "What was expected cannot be.",
    429: "The caller's quota is used up for now.",
    431: "The headers are too long.",
    500: "The server or its files are at fault.",
    503: "Not now: starting, stopping, or full.",
    504: "The deadline or the wait for a position was over.",
    507: "No space left for writes.",
}


def document() -> dict[str, Any]:
    """The document, as JSON-like values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fondaco data plane",
            "version": VERSION,
            "description": "Reads and writes rows of stores. Versions, pushes and settings are steered through the control API.",
        },
        "paths": {
            wire.HEALTHY: {"get": _operation("healthy", "Whether the server turns.", _object("healthy", "boolean"), public=True)},
            wire.READY: {
                "get": _operation(
                    "ready", "Whether it answers at its usual speed.", _object("ready", "boolean"), public=True,
                    also={503: _object("ready", "boolean")},
                )
            },
            wire.OPENAPI: {"get": _operation("openapi", "This document.", {"type": "object"}, public=True)},
            wire.STORES: {"get": _operation("list_stores", "The stores that the caller may read.", _STORES)},
            wire.ROUTING: {"get": _operation("routing", "Which node answers for which partition of which store.", _ROUTING)},
            wire.STATS: {"get": _operation("stats", "What was counted since the start; for administrators.", {"type": "object"})},
            f"{wire.STORES}/{{store}}": {
                "parameters": [_STORE],
                "get": _operation("describe", "Schemas, settings and limits of a store.", _STORE_DESCRIBED, read=True),
            },
            f"{wire.STORES}/{{store}}/rows/{{key}}": {
                "parameters": [_STORE, _KEY],
                "get": _operation("get_by_path", "One row, by an integer or text key.", _ROW, read=True, avro=True),
            },
            f"{wire.STORES}/{{store}}/rows": {
                "parameters": [_STORE],
                "get": _operation(
                    "get_by_query", "One row, by any key; give one of the two.", _ROW, read=True, avro=True, query=_KEY_QUERY
                ),
                "post": _operation(
                    "get_rows", "The rows of many keys, in their order; null where there is none.", _ROWS, read=True,
                    body=_KEYS_BODY, packed=wire.KEYS_BODY, raw=(wire.ROWS_BODY,),
                ),
            },
            f"{wire.STORES}/{{store}}/columns": {
                "parameters": [_STORE],
                "post": _operation(
                    "get_columns", "Columns of many keys. `fields` is in the JSON body, or with packed keys in the query.", _COLUMNS,
                    read=True, body=_KEYS_BODY, packed=wire.KEYS_BODY, raw=(wire.ARROW, wire.COLUMNS_BODY),
                ),
            },
            f"{wire.STORES}/{{store}}/compute": {
                "parameters": [_STORE],
                "post": _operation(
                    "compute", "Similarity of a vector to a vector field of many rows.", _SCORES, read=True,
                    body=_COMPUTE_BODY, packed=wire.KEYS_BODY, raw=(wire.SCORES_BODY,),
                ),
            },
            f"{wire.STORES}/{{store}}/writes": {
                "parameters": [_STORE],
                "post": _operation(
                    "write", "Real-time writes, appended to the store's log.", _PLACED, body=_WRITES_BODY, packed=wire.WRITES_BODY,
                    write=True,
                ),
            },
        },
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def _operation(
    name: str, summary: str, answer: dict[str, Any], *, public: bool = False, read: bool = False, write: bool = False, avro: bool = False,
    body: dict[str, Any] | None = None, packed: str | None = None, raw: tuple[str, ...] = (), query: list[dict[str, Any]] | None = None,
    also: dict[int, dict[str, Any]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    content: dict[str, Any] = {wire.JSON: {"schema": answer}}
    for media in (*((wire.AVRO,) if avro else ()), *raw):
        content[media] = {"schema": {"type": "string", "format": "binary"}}
    headers: dict[str, Any] = {}
    if read:
        headers[wire.VERSION] = {"description": "The version that was read.", "schema": {"type": "integer"}}
    if read or write:
        headers[wire.POSITION] = {"description": "Positions applied, or written.", "schema": {"type": "string"}}
    answers: dict[str, Any] = {"200": {"description": "Done.", "headers": headers, "content": content}}
    for status, what in _ERRORS.items():
        answers[str(status)] = {"description": what, "content": {wire.JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    if avro:  # a missing row is no error
        missing = {"type": "object", "required": ["found"], "properties": {"found": {"const": False}}}
        answers["404"]["content"][wire.JSON]["schema"] = {"anyOf": [missing, {"$ref": "#/components/schemas/Error"}]}
    for status, schema in (also or {}).items():
        answers[str(status)] = {"description": _ERRORS[status], "content": {wire.JSON: {"schema": schema}}}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "parameters": [*(_READ_HEADERS if read else ()), *((_DEADLINE,) if write else ()), _REQUEST_ID, *(query or ())],
        "responses": answers,
        "security": [] if public else [{}, {"token": []}],
    }
    if body is not None:
        taken: dict[str, Any] = {wire.JSON: {"schema": body}}
        if packed is not None:
            taken[packed] = {"schema": {"type": "string", "format": "binary", "description": "See docs/internals/data-plane.md."}}
        operation["requestBody"] = {"required": True, "content": taken}
    return operation


def _object(name: str, kind: str) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: {"type": kind}}}


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


_STORE: Final = {"name": "store", "in": "path", "required": True, "schema": {"type": "string", "pattern": _NAME}}
_KEY: Final = {
    "name": "key", "in": "path", "required": True, "description": "An integer, or text; percent-encoded.",
    "schema": {"type": "string", "minLength": 1},
}  # fmt: skip
_KEY_QUERY: Final = [
    {"name": "key", "in": "query", "required": False, "description": "The key as JSON.", "schema": {"type": "string"}},
    {
        "name": "avro", "in": "query", "required": False, "description": "The key's Avro bytes, base64url.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"},
    },
]  # fmt: skip
_DEADLINE: Final = _header(
    wire.DEADLINE_MS, "Milliseconds that are left; after them nobody waits for the answer.",
    {"type": "integer", "minimum": 0, "maximum": 86_400_000},
)  # fmt: skip
_REQUEST_ID: Final = _header(
    wire.REQUEST_ID, "Given back in the answer.", {"type": "string", "maxLength": REQUEST_ID_MAX, "pattern": r"^[\x21-\x7e]*$"}
)
_READ_HEADERS: Final = (
    _header(wire.VERSION, "Read this version; without it the current one.", {"type": "integer", "minimum": 0, "maximum": 1 << 62}),
    _header(wire.MIN_POSITION, "Wait until these positions are applied.", {"type": "string", "pattern": _POSITIONS}),
    _header(wire.POSITION, "Say what is applied; any value.", {"type": "string", "pattern": "^[a-z0-9]*$"}),
    _DEADLINE,
)
_ERROR: Final = {
    "type": "object",
    "description": "An error; `error` is its class, `args` rebuild it, `retryable` says whether the same call may succeed later.",
    "required": ["error", "args", "message", "retryable"],
    "properties": {
        "error": {"type": "string"}, "args": {"type": "array"}, "message": {"type": "string"}, "retryable": {"type": "boolean"},
    },
}  # fmt: skip
_FIELDS: Final = {"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
_KEYS_BODY: Final = {
    "type": "object", "required": ["keys"], "additionalProperties": False,
    "properties": {"keys": {"type": "array"}, "fields": _FIELDS},
}  # fmt: skip
_COMPUTE_BODY: Final = {
    "type": "object", "required": ["keys", "operation", "field", "vector"], "additionalProperties": False,
    "properties": {
        "keys": {"type": "array"},
        "operation": {"enum": ["dot", "cosine", "euclidean", "hadamard"]},
        "field": {"type": "string"},
        "vector": {"type": "array", "items": {"type": "number"}},
        "top_k": {"type": ["integer", "null"], "minimum": 1, "maximum": 9_000_000_000_000_000_000},
    },
}  # fmt: skip
_CHANGES: Final = {"type": ["object", "null"]}
_WRITES_BODY: Final = {
    "type": "object", "required": ["writes"], "additionalProperties": False,
    "properties": {
        "writes": {
            "type": "array",
            "items": {
                "type": "object", "required": ["op", "key"], "additionalProperties": False,
                "properties": {
                    "op": {"enum": ["put", "patch", "delete"]}, "key": {}, "row": _CHANGES, "fields": _CHANGES, "add": _CHANGES,
                    "remove": _CHANGES, "timestamp_ms": {"type": ["integer", "null"], "minimum": 0, "maximum": 1 << 50},
                },
            },
        },
        "writer": {"type": "string", "minLength": 1},
        "durability": {"enum": ["os", "disk", None]},
    },
}  # fmt: skip
_ROW: Final = {"type": "object", "description": "The row's fields."}
_ROWS: Final = {
    "type": "object", "required": ["rows"],
    "properties": {"rows": {"type": "array", "items": {"type": ["object", "null"]}}},
}  # fmt: skip
_COLUMNS: Final = {
    "type": "object", "required": ["found", "columns"],
    "properties": {
        "found": {"type": "array", "items": {"type": "boolean"}},
        "columns": {"type": "object", "additionalProperties": {"type": "array"}},
    },
}  # fmt: skip
_SCORES: Final = {
    "type": "object",
    "description": "One score a key, null where there is none, or a list for hadamard; with top_k the best and their positions.",
    "required": ["scores"],
    "properties": {"scores": {"type": "array"}, "positions": {"type": "array", "items": {"type": "integer"}}},
}
_PLACED: Final = {
    "type": "object", "required": ["positions", "partitions", "offsets"],
    "properties": {
        "positions": {"type": "string"},
        "partitions": {"type": "array", "items": {"type": "integer"}},
        "offsets": {"type": "array", "items": {"type": "integer"}},
    },
}  # fmt: skip
_STORES: Final = {
    "type": "object", "required": ["stores"],
    "properties": {
        "stores": {
            "type": "array",
            "items": {
                "type": "object", "required": ["name", "version"],
                "properties": {"name": {"type": "string"}, "version": {"type": ["integer", "null"]}},
            },
        },
    },
}  # fmt: skip
_ROUTING: Final = {
    "type": "object", "required": ["format", "epoch", "as_of_us", "ttl_ms", "stores"],
    "properties": {"stores": {"type": "object"}},
}  # fmt: skip
_STORE_DESCRIBED: Final = {
    "type": "object",
    "required": ["id", "name", "key_schema", "value_schemas", "version", "limits"],
    "properties": {
        "id": {"type": "integer"},
        "name": {"type": "string"},
        "value_schemas": {"type": "object"},
        "version": {"type": ["integer", "null"]},
        "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
}
