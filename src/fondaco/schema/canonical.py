"""Canonical forms: one text per schema, for comparing, naming and keeping schemas.

Two forms, for two questions. `parsing_canonical_form` is the specification's: only what is needed to parse bytes, so logical types,
defaults, docs and aliases are gone; its `fingerprint` says whether two writers write the same bytes. `full_form` keeps everything that was
declared, in one order and without white space: two schemas are the same to us when their full forms are equal, and `parse` reads it back.

Thread rule: pure functions. Source: Apache Avro 1.12.0 specification, "Parsing Canonical Form for Schemas", "Schema Fingerprints".
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal

from fondaco.core.errors import InputError
from fondaco.schema.declared import as_type
from fondaco.schema.types import (
    Array,
    Date,
    Decimal,
    Duration,
    Enum,
    Field,
    Fixed,
    Logical,
    Map,
    Named,
    Primitive,
    Record,
    Time,
    Timestamp,
    Type,
    Union,
    Uuid,
    Vector,
)

FingerprintAlgorithm = Literal["CRC-64-AVRO", "MD5", "SHA-256"]

_CRC64_EMPTY: Final = 0xC15D213AA4D7A795


def parsing_canonical_form(schema: object) -> str:
    """The specification's canonical form of an Avro schema (dict, JSON text), a `pyarrow.Schema` or a `Type`, as JSON text."""
    return _dump(_Writer(full=False).of(as_type(schema)))


def full_form(schema: object) -> str:
    """Everything that `schema` (as above) declares, as JSON text; `parse(full_form(schema))` gives the same schema."""
    return _dump(to_json(schema))


def to_json(schema: object) -> Any:
    """As `full_form`, as the value that JSON text stands for: what fastavro and others take as a schema."""
    return _Writer(full=True).of(as_type(schema))


def fingerprint(schema: object, algorithm: FingerprintAlgorithm = "CRC-64-AVRO") -> bytes:
    """Fingerprint of the parsing canonical form: 8 bytes (little-endian, as single-object encoding writes them), 16 or 32.

    Raises:
        InputError: another algorithm. SchemaError: not a schema.
    """
    text = parsing_canonical_form(schema).encode()
    match algorithm:
        case "CRC-64-AVRO":
            return crc64_avro(text).to_bytes(8, "little")
        case "MD5":
            return hashlib.md5(text, usedforsecurity=False).digest()
        case "SHA-256":
            return hashlib.sha256(text).digest()
    raise InputError(f"unknown fingerprint {algorithm!r}; use CRC-64-AVRO, MD5 or SHA-256")


def crc64_avro(data: bytes) -> int:
    """The Rabin fingerprint of the specification, 64 bits."""
    crc = _CRC64_EMPTY
    for byte in data:
        crc = (crc >> 8) ^ _CRC64_TABLE[(crc ^ byte) & 0xFF]
    return crc


def _crc64_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (_CRC64_EMPTY & -(value & 1))
    return value


_CRC64_TABLE: Final = tuple(_crc64_entry(byte) for byte in range(256))


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class _Writer:
    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._seen: set[int] = set()

    def of(self, kind: Type, namespace: str = "") -> Any:
        match kind:
            case Primitive():
                return self._primitive(kind)
            case Array():
                return {"type": "array", "items": self.of(kind.items, namespace)} | self._extra(kind.properties)
            case Map():
                return {"type": "map", "values": self.of(kind.values, namespace)} | self._extra(kind.properties)
            case Union():
                return [self.of(branch, namespace) for branch in kind.branches]
        if id(kind) in self._seen:
            return kind.fullname
        self._seen.add(id(kind))
        return self._named(kind, namespace)

    def _primitive(self, kind: Primitive) -> Any:
        extra = {**(_logical(kind.logical) if self._full else {}), **self._extra(kind.properties)}
        return {"type": kind.kind, **extra} if extra else kind.kind

    def _named(self, kind: Named, namespace: str) -> dict[str, Any]:
        # In the full form a name without dots needs its empty namespace said aloud, or it would join the enclosing one.
        space = kind.fullname.rpartition(".")[0]
        head: dict[str, Any] = {"name": kind.fullname}
        if self._full and namespace and not space:
            head["namespace"] = ""
        match kind:
            case Fixed():
                body = {**head, "type": "fixed", "size": kind.size, **(_logical(kind.logical) if self._full else {})}
            case Enum():
                body = {**head, "type": "enum", "symbols": list(kind.symbols)}
                if self._full and kind.default is not None:
                    body["default"] = kind.default
            case Record():
                body = {**head, "type": "record", "fields": [self._field(member, space) for member in kind.fields]}
        if self._full:
            if kind.aliases:
                body["aliases"] = list(kind.aliases)
            if not isinstance(kind, Fixed) and kind.doc is not None:
                body["doc"] = kind.doc
        return body | self._extra(kind.properties)

    def _field(self, member: Field, namespace: str) -> dict[str, Any]:
        body: dict[str, Any] = {"name": member.name, "type": self.of(member.type, namespace)}
        if not self._full:
            return body
        if member.has_default:
            body["default"] = member.default
        if member.order != "ascending":
            body["order"] = member.order
        if member.aliases:
            body["aliases"] = list(member.aliases)
        if member.doc is not None:
            body["doc"] = member.doc
        return body | self._extra(member.properties)

    def _extra(self, properties: dict[str, object]) -> dict[str, Any]:
        return dict(sorted(properties.items())) if self._full else {}


def _logical(logical: Logical | None) -> dict[str, Any]:
    match logical:
        case Decimal(precision, scale):
            return {"logicalType": "decimal", "precision": precision, "scale": scale}
        case Uuid():
            return {"logicalType": "uuid"}
        case Date():
            return {"logicalType": "date"}
        case Time(unit):
            return {"logicalType": f"time-{unit}"}
        case Timestamp(unit, local):
            return {"logicalType": f"{'local-' if local else ''}timestamp-{unit}"}
        case Duration():
            return {"logicalType": "duration"}
        case Vector(dim, dtype):
            return {"logicalType": "vector", "dim": dim, "dtype": dtype}
    return {}
