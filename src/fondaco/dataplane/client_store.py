"""Client store: what a client knows of a store: its key type, its value schemas by number, and how rows and columns of them are read.

Learnt from `GET /v1/stores/{store}` once, and again when an answer has a schema that is not known yet: schemas never change, they only
become more. Rows are read with the superset of all, as by an embedded reader, or with the one schema that was asked for. Immutable; any
thread. Imports neither numba nor SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from fondaco.core.errors import ProtocolError
from fondaco.schema import Codec, full_form, superset
from fondaco.store.keys import KeyCodec

if TYPE_CHECKING:
    from fondaco.schema.row import Row


class _Limits(msgspec.Struct):
    batch_keys_max: int = 10_000
    request_bytes_max: int = 8 << 20


class _Described(msgspec.Struct):
    """What a client needs of a store's description."""

    name: str
    key_schema: Any
    value_schemas: dict[str, Any]
    version: int | None = None
    limits: _Limits = msgspec.field(default_factory=_Limits)


class StoreInfo:
    """One store, as a server described it."""

    def __init__(self, document: bytes, peer: str, schema: object = None) -> None:
        """
        Args:
            document: the answer. peer: who gave it. schema: read rows with exactly this one; None: with the superset.
        Raises:
            ProtocolError: it is no description of a store. SchemaResolutionError: rows cannot be read with `schema`.
        """
        try:
            described = msgspec.json.decode(document, type=_Described)
            schemas = {int(number): _text(value) for number, value in described.value_schemas.items()}
            self.keys = KeyCodec(described.key_schema)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as exc:
            raise ProtocolError(peer, f"its description of a store cannot be read ({exc})") from exc
        if not schemas:
            raise ProtocolError(peer, "its description of a store names no value schema")
        self.name, self.document = described.name, document
        self.batch_keys_max = max(1, described.limits.batch_keys_max)
        self.request_bytes_max = max(1 << 10, described.limits.request_bytes_max)
        self.schemas: Mapping[int, str] = schemas
        self.asked = schema
        self.reader_schema: object = schema if schema is not None else full_form(superset([schemas[number] for number in sorted(schemas)]))
        self._codecs = {number: Codec(text, self.reader_schema) for number, text in schemas.items()}
        self._makers: dict[int, type[Row]] = {}
        self.codec = Codec(self.reader_schema)  # of columns, which the server has resolved already

    def codec_of(self, number: int) -> Codec | None:
        """The codec that reads rows of value schema `number`; None if it is not known here."""
        return self._codecs.get(number)

    def maker(self, number: int) -> type[Row] | None:
        """`maker(number)(data, start, end)` is a row of value schema `number`; None if that is not known here."""
        made = self._makers.get(number)
        if made is None and number in self._codecs:
            made = self._makers[number] = self._codecs[number].row
        return made

    def described(self) -> dict[str, Any]:
        """The whole description."""
        document: dict[str, Any] = msgspec.json.decode(self.document)
        return document


def _text(schema: Any) -> str:
    return schema if isinstance(schema, str) and schema[:1] in "{[" else msgspec.json.encode(schema).decode()
