"""Canonical forms and fingerprints: the specification's own, and those of fastavro and Apache Avro's package."""

from __future__ import annotations

import hashlib
from typing import Any

import avro.schema
import fastavro.schema
import pytest
from hypothesis import given, settings

from fondaco.core.errors import InputError
from fondaco.schema import fingerprint, full_form, parse, parsing_canonical_form
from fondaco.schema.canonical import crc64_avro, to_json
from schema_strategies import schemas


def test_the_canonical_form_drops_what_parsing_bytes_does_not_need() -> None:
    kind = parse(
        {
            "namespace": "x.y",
            "name": "R",
            "doc": "d",
            "type": "record",
            "aliases": ["Q"],
            "fields": [
                {"doc": "d", "default": 1, "type": {"type": "int", "logicalType": "date"}, "name": "a", "order": "ignore"},
                {"name": "b", "type": ["null", {"size": 12, "type": "fixed", "name": "F"}]},
                {"name": "c", "type": {"type": "enum", "symbols": ["A", "B"], "name": "z.E", "default": "A"}},
                {"name": "d", "type": {"values": {"items": "F", "type": "array"}, "type": "map"}},
            ],
        }
    )
    assert parsing_canonical_form(kind) == (
        '{"name":"x.y.R","type":"record","fields":[{"name":"a","type":"int"},'
        '{"name":"b","type":["null",{"name":"x.y.F","type":"fixed","size":12}]},'
        '{"name":"c","type":{"name":"z.E","type":"enum","symbols":["A","B"]}},'
        '{"name":"d","type":{"type":"map","values":{"type":"array","items":"x.y.F"}}}]}'
    )


@pytest.mark.parametrize(
    ("schema", "crc"),
    [  # Avro's own test vectors (share/test/data/schema-tests.txt)
        ('"null"', 7195948357588979594),
        ('{"type":"null"}', 7195948357588979594),
        ('"boolean"', -6970731678124411036),
        ('"int"', 8247732601305521295),
        ('"long"', -3434872931120570953),
        ('"float"', 5583340709985441680),
        ('"double"', -8181574048448539266),
        ('"bytes"', 5746618253357095269),
        ('"string"', -8142146995180207161),
        ('["int"]', -5232228896498058493),
        ('{"fields":[], "type":"record", "name":"foo"}', -4824392279771201922),
    ],
)
def test_crc_64_is_that_of_the_specification(schema: str, crc: int) -> None:
    assert int.from_bytes(fingerprint(parse(schema)), "little", signed=True) == crc


def test_the_crc_of_nothing_is_the_specified_constant() -> None:
    assert crc64_avro(b"") == 0xC15D213AA4D7A795


@settings(max_examples=60)
@given(schema=schemas(root="any"))
def test_form_and_fingerprints_are_those_of_fastavro(schema: Any) -> None:
    kind = parse(schema)
    form = fastavro.schema.to_parsing_canonical_form(to_json(kind))
    assert parsing_canonical_form(kind) == form
    assert fingerprint(kind).hex() == fastavro.schema.fingerprint(form, "CRC-64-AVRO")
    assert fingerprint(kind, "MD5").hex() == fastavro.schema.fingerprint(form, "md5")
    assert fingerprint(kind, "SHA-256") == hashlib.sha256(form.encode()).digest()


@settings(max_examples=40)
@given(schema=schemas())
def test_fingerprints_are_those_of_apache_avro(schema: Any) -> None:
    kind = parse(schema)
    theirs = avro.schema.parse(parsing_canonical_form(kind))
    assert theirs.fingerprint("CRC-64-AVRO").hex() == fingerprint(kind).hex()


def test_an_unknown_fingerprint_is_refused() -> None:
    with pytest.raises(InputError, match="use CRC-64-AVRO, MD5 or SHA-256"):
        fingerprint(parse("int"), "sha1")  # type: ignore[arg-type]


def test_the_full_form_keeps_everything_and_does_not_depend_on_spelling() -> None:
    one = parse({"type": "record", "name": "a.R", "fields": [{"name": "x", "type": {"type": "int"}, "default": 1, "b": 1, "a": [2]}]})
    two = parse(
        '{"fields": [{"a": [2], "b": 1, "default": 1, "type": "int", "name": "x", "order": "ascending"}],'
        ' "name": "R", "namespace": "a", "type": "record"}'
    )
    assert full_form(one) == full_form(two)
    assert full_form(one) == '{"name":"a.R","type":"record","fields":[{"name":"x","type":"int","default":1,"a":[2],"b":1}]}'
    assert full_form(one) != full_form(parse({"type": "record", "name": "a.R", "fields": [{"name": "x", "type": "int"}]}))
