"""The routing table as a document."""

from __future__ import annotations

import msgspec
import pytest

from fondaco.core.errors import ProtocolError, StoreNotFoundError
from fondaco.dataplane.routing import RoutingTable, StoreRoute, decode_routing, partition_of

ROUTE = StoreRoute(id=3, version=7, partitions=2, replicas=(("http://h:1", "http://h:2"), ("http://h:2",)))
TABLE = RoutingTable(epoch=41, as_of_us=5, stores={"members": ROUTE})


def test_a_table_survives_its_document() -> None:
    assert decode_routing(TABLE.encode(), "n1") == TABLE


def test_the_document_says_in_words_what_other_languages_need() -> None:
    assert msgspec.json.decode(TABLE.encode()) == {
        "format": 1,
        "epoch": 41,
        "as_of_us": 5,
        "ttl_ms": 1000,
        "stores": {
            "members": {
                "id": 3,
                "version": 7,
                "partitions": 2,
                "partitioner": "xxh64-high32-scaled",
                "replicas": [["http://h:1", "http://h:2"], ["http://h:2"]],
            }
        },
    }


def test_a_store_without_a_route_is_named_with_its_nearest_name() -> None:
    with pytest.raises(StoreNotFoundError, match="did you mean 'members'"):
        TABLE.store("member")


def test_the_addresses_of_a_store_are_listed_once() -> None:
    assert ROUTE.addresses == ("http://h:1", "http://h:2")


def test_the_later_of_two_tables_is_the_newer_one() -> None:
    assert RoutingTable(epoch=42, as_of_us=4).is_newer_than(TABLE)
    assert RoutingTable(epoch=41, as_of_us=6).is_newer_than(TABLE)
    assert not TABLE.is_newer_than(TABLE)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"format":2,"epoch":1,"as_of_us":1}',
        TABLE.encode().replace(b'"partitions":2', b'"partitions":3'),
        TABLE.encode().replace(b"xxh64-high32-scaled", b"murmur2"),
    ],
)
def test_what_is_no_table_of_ours_is_refused(document: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^http://h:9 answered something unexpected"):
        decode_routing(document, "http://h:9")


@pytest.mark.parametrize(("hash_", "partition"), [(0, 0), ((1 << 64) - 1, 7), (1 << 63, 4), ((1 << 61) - 1, 0), (1 << 61, 1)])
def test_partitions_are_equal_ranges_of_the_hash(hash_: int, partition: int) -> None:
    assert partition_of(hash_, 8) == partition
