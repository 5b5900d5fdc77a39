"""OpenAPI: the document of the control API, made from its operations; version 3.1, so the schemas of requests are JSON Schema as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from fondaco.control.api import NoQuery, Operation
from fondaco.core.version import VERSION
from fondaco.dataplane import wire

_REF: Final = "#/components/schemas/{name}"
_NAME: Final = r"^[A-Za-z][A-Za-z0-9_.\-]{0,127}$"
_PARTS: Final[Mapping[str, dict[str, Any]]] = {
    "store": {"type": "string", "pattern": _NAME},
    "node": {"type": "string", "pattern": _NAME},
    "token": {"type": "string", "pattern": _NAME},
    "service": {"type": "string", "pattern": r"^[a-z][a-z0-9\-]{0,62}$"},
    "push_id": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:+=@\-]{0,127}$"},
}
_ERROR: Final = {
    "type": "object",
    "description": "An error; `error` is its class, `args` rebuild it, `retryable` says whether the same call may succeed later.",
    "required": ["error", "args", "message", "retryable"],
    "properties": {
        "error": {"type": "string"},
        "args": {"type": "array"},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
    },
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI document, as JSON-like values."""
    bodies = [operation.body for operation in operations if operation.body is not None]
    answers = [operation.answer for operation in operations if _is_struct(operation.answer)]
    queries = [operation.query for operation in operations if operation.query is not NoQuery]
    _, schemas = msgspec.json.schema_components([*bodies, *answers, *queries], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, schemas)
    used = {name: schema for name, schema in schemas.items() if name not in {query.__name__ for query in queries}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fondaco control API",
            "version": VERSION,
            "description": "Steers stores and shows what goes on. Rows are read and written at the addresses of `GET /v1/endpoints`.",
        },
        "paths": paths,
        "components": {
            "schemas": {**used, "Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    parts = [part.strip("{}") for part in operation.path.split("/") if part.startswith("{")]
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [{"name": part, "in": "path", "required": True, "schema": _PARTS[part]} for part in parts],
        "responses": _responses(operation),
    }
    if operation.query is not NoQuery:
        described["parameters"] += _query_parameters(schemas[operation.query.__name__])
    if operation.body is not None:
        schema = {"$ref": _REF.format(name=operation.body.__name__)}
        described["requestBody"] = {"required": _needs_body(schemas[operation.body.__name__]), "content": {wire.JSON: {"schema": schema}}}
    if operation.upload:
        described["requestBody"] = {"required": False, "content": {wire.ARROW: {"schema": {"type": "string", "format": "binary"}}}}
    if operation.role is not None:
        scope = "the store" if f"{{{operation.scope}}}" in operation.path else "every store"
        needed = "a good token" if operation.role == "any" else f"a token with the role {operation.role!r} on {scope}"
        described["description"] = f"Where tokens are required, this needs {needed}."
        described["security"] = [{}, {"token": []}]
    return described


def _needs_body(schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("required"))


def _query_parameters(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    parameters = []
    for name, described in schema["properties"].items():
        plain = dict(described)
        plain.pop("default", None)
        if "anyOf" in plain:  # a parameter that is left out is None; "null" cannot be said in a query
            others = [kind for kind in plain["anyOf"] if kind != {"type": "null"}]
            plain = others[0] if len(others) == 1 else {"anyOf": others}
        if "enum" in plain:
            plain["enum"] = [value for value in plain["enum"] if value is not None]
        parameters.append({"name": name, "in": "query", "required": False, "schema": plain})
    return parameters


def _responses(operation: Operation) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if _is_struct(operation.answer):
        schema = {"$ref": _REF.format(name=operation.answer.__name__)}
    elif operation.media_type != wire.JSON:
        schema = {"type": "string"}
    done = {"content": {operation.media_type: {"schema": schema}}}
    responses: dict[str, Any] = {str(operation.status): {"description": operation.summary, **done}}
    for status, why in operation.other_status.items():
        responses[str(status)] = {"description": why, **done}
    for status, why in _refusals(operation).items():
        responses[str(status)] = {
            "description": why,
            "content": {wire.JSON: {"schema": {"$ref": _REF.format(name="Error")}}},
        }
    return responses


def _refusals(operation: Operation) -> dict[int, str]:
    refusals = {400: "What was asked cannot be done as asked.", 500: "The disk, or an error inside.", 503: "Not now; try again."}
    if operation.role is not None:
        refusals |= {401: "No token, or one that is not good now.", 403: "The token lacks the role."}
    if "{" in operation.path:
        refusals |= {404: "Nothing has this name."}
    if operation.method != "GET":
        refusals |= {
            404: "Nothing has this name.",
            409: "The name is taken, or the moment is wrong.",
            504: "The body stood still.",
            413: "Too large.",
            507: "The disk is full.",
        }
    if operation.body is not None or operation.upload:
        refusals |= {415: "The body is of another type."}
    return dict(sorted(refusals.items()))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
