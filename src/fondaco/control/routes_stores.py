"""Routes of stores: list, describe, create, delete, schemas, versions, swap, rollback, retire, and the table of pushes."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from fondaco.control.api import Answer, Call, Operation
from fondaco.platform import Platform
from fondaco.store.store import Store

Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]


class NewStore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A store to create; settings that are left out are as configured."""

    name: str
    value: Any
    key: Any = "long"
    partitions: int | None = None
    compression: str | None = None
    rewind: str | None = None
    keep: int | None = None
    ttl: str | None = None
    freshness_ms: int | None = None


class NewSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next value schema, in Avro's JSON."""

    value: Any


class VersionChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version of the store."""

    version: Positive


class VersionsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`all`: also those that failed, are at work, or were retired."""

    all: bool = False


class Current(msgspec.Struct, frozen=True):
    """The version that is current now."""

    current: int


def operations(platform: Platform) -> list[Operation]:
    """The operations on the stores of a platform."""

    def store(call: Call) -> Store:
        return platform.store(call.name("store"))

    def list_stores(call: Call) -> object:
        names = platform.stores()
        return {"stores": [platform.store(name).describe() for name in names if call.caller is None or call.caller.allows("read", name)]}

    def create(call: Call) -> Answer:
        given: NewStore = call.body
        settings = ("partitions", "compression", "rewind", "keep", "ttl", "freshness_ms")
        chosen: dict[str, Any] = {name: getattr(given, name) for name in settings if getattr(given, name) is not None}
        is_new = given.name not in platform.stores()
        created = platform.create_store(given.name, key=given.key, value=given.value, **chosen)
        return Answer(created.describe(), 201 if is_new else 200)

    def describe(call: Call) -> object:
        return store(call).describe()

    def delete(call: Call) -> object:
        platform.delete_store(call.name("store"))
        return {"deleted": call.name("store")}

    def schemas(call: Call) -> object:
        from fondaco.catalog import stores

        found = store(call)
        with platform.catalog.read() as connection:
            rows = stores.value_schemas(connection, stores.get(connection, found.name).id)
        listed = [{"number": row.number, "schema": msgspec.json.decode(row.schema), "created_us": row.created_us} for row in rows]
        return {"schemas": listed}

    def add_schema(call: Call) -> object:
        return {"number": store(call).add_schema(call.body.value)}

    def versions(call: Call) -> object:
        return {"versions": store(call).versions(all=call.query.all)}

    def swap(call: Call) -> Current:
        return Current(store(call).swap(call.body.version))

    def rollback(call: Call) -> Current:
        return Current(store(call).rollback())

    def retire(call: Call) -> object:
        store(call).retire(call.body.version)
        return {"retired": call.body.version}

    def pushes(call: Call) -> object:
        return {"pushes": list(store(call).pushes())}

    def kill(call: Call) -> object:
        store(call).kill(call.name("push_id"))
        return {"killed": call.name("push_id")}

    one = "/v1/stores/{store}"
    listing = Operation(method="GET", path="/v1/stores", summary="The stores that the caller may read", run=list_stores, role="any")
    return [
        listing,
        Operation(
            method="POST", path="/v1/stores", summary="Create a store, or find the one of this name that was created alike", run=create,
            body=NewStore, status=201, other_status={200: "It was there, created alike."},
        ),
        Operation(method="GET", path=one, summary="Schemas, settings and current version of a store", run=describe, role="read"),
        Operation(method="DELETE", path=one, summary="Delete a store and all its versions", run=delete),
        Operation(method="GET", path=f"{one}/schemas", summary="The value schemas of a store", run=schemas, role="read"),
        Operation(method="POST", path=f"{one}/schemas", summary="Register the next value schema", run=add_schema, body=NewSchema),
        Operation(method="GET", path=f"{one}/versions", summary="The versions of a store", run=versions, role="read", query=VersionsQuery),
        Operation(method="POST", path=f"{one}/swap", summary="Make a version current", run=swap, body=VersionChoice, answer=Current),
        Operation(method="POST", path=f"{one}/rollback", summary="Return to the version before", run=rollback, answer=Current),
        Operation(method="POST", path=f"{one}/retire", summary="Remove the files of a version", run=retire, body=VersionChoice),
        Operation(method="GET", path=f"{one}/pushes", summary="Every push and how it ended", run=pushes, role="read", tag="pushes"),
        Operation(method="POST", path=f"{one}/pushes/{{push_id}}/kill", summary="Ask a push to stop", run=kill, tag="pushes"),
    ]  # fmt: skip
