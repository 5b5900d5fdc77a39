"""Routes of pushing: rows as an Arrow IPC stream become a version, or (`kind=incremental`) real-time writes; and the repush.

The answer is the push's report, when it is over; a push takes as long as it takes. Give a push id: if the connection breaks, the same
request again gives the report of the push that ended well, or says that it is still at work.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from fondaco.control.api import Answer, Call, Operation, arriving, check_content_type, discard
from fondaco.control.push_job import PushJob
from fondaco.control.uploads import Uploads
from fondaco.core.clock import to_us
from fondaco.core.errors import FondacoError, InputError
from fondaco.core.ids import new_push_id
from fondaco.dataplane import wire
from fondaco.platform import Platform


class PushQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to push. `as_of` is ISO 8601 with a zone; `built_from` a JSON object for the manifest; `durability` is for incremental pushes."""

    push_id: str | None = None
    as_of: str | None = None
    swap: bool = True
    on_duplicate: Literal["fail", "keep_first", "keep_last"] = "fail"
    kind: Literal["full", "incremental", "empty"] = "full"
    durability: Literal["os", "disk"] | None = None
    built_from: str | None = None


class Repush(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to build the current version again; what is left out stays as it is. `fold`: with the real-time writes in it."""

    push_id: str | None = None
    partitions: int | None = None
    compression: Literal["auto", "none", "zstd"] | None = None
    swap: bool = True
    fold: bool = False


def operations(platform: Platform, uploads: Uploads) -> list[Operation]:
    """The operations that push."""

    async def push(request: Request, call: Call) -> Answer:
        query: PushQuery = call.query
        try:
            async with uploads.slot():
                return await _push(request, call, query)
        except ClientDisconnect:
            raise
        except FondacoError:
            await discard(request)
            raise

    async def _push(request: Request, call: Call, query: PushQuery) -> Answer:
        settings = _settings(query)
        name = (await run_in_threadpool(platform.store, call.name("store"))).name
        if query.kind == "empty":
            job = PushJob(directory=str(platform.directory), store=name, kind="empty", settings=settings)
            return Answer(await uploads.push(job))
        check_content_type(request, wire.ARROW)
        announced = request.headers.get("content-length", "")
        parts = arriving(request, platform.config.server.idle_s)
        async with uploads.spooled(parts, int(announced) if announced.isdigit() else None) as (path, size):
            if size == 0:
                raise InputError("the request has no body; send an Arrow IPC stream, or say kind=empty for a version without rows")
            if query.kind == "full" and "built_from" not in settings:
                settings["built_from"] = {"source": "upload", "bytes": size, "by": call.caller.name if call.caller else None}
            job = PushJob(directory=str(platform.directory), store=name, kind=query.kind, input=str(path), settings=settings)
            return Answer(await uploads.push(job))

    async def repush(request: Request, call: Call) -> Answer:
        given: Repush = call.body
        name = (await run_in_threadpool(platform.store, call.name("store"))).name
        settings: dict[str, Any] = {"push_id": given.push_id or new_push_id(), "swap": given.swap}
        optional = {"partitions": given.partitions, "compression": given.compression, "fold": given.fold or None}
        settings.update({setting: value for setting, value in optional.items() if value is not None})
        async with uploads.slot():
            return Answer(await uploads.push(PushJob(directory=str(platform.directory), store=name, kind="repush", settings=settings)))

    return [
        Operation(
            method="POST", path="/v1/stores/{store}/pushes", summary="Push an Arrow IPC stream; the answer is the report", run_async=push,
            query=PushQuery, upload=True, tag="pushes",
        ),
        Operation(
            method="POST", path="/v1/stores/{store}/repush", summary="Build the current version again", run_async=repush, body=Repush,
            tag="pushes",
        ),
    ]  # fmt: skip


def _settings(query: PushQuery) -> dict[str, Any]:
    """Keyword arguments of the method of `Store`.

    Raises:
        InputError: one that the kind of push does not take, or that is not what it should be.
    """
    settings: dict[str, Any] = {"push_id": query.push_id or new_push_id()}
    if query.as_of is not None:
        try:
            settings["as_of"] = to_us(query.as_of)
        except ValueError as exc:
            raise InputError(f"as_of: {exc}") from None
    if query.durability is not None:
        if query.kind != "incremental":
            raise InputError(f"durability is for kind=incremental; a push of kind {query.kind!r} is always synced to disk")
        settings["durability"] = query.durability
    if query.kind != "incremental":
        settings["swap"] = query.swap
    elif not query.swap:
        raise InputError("an incremental push builds no version, so there is nothing to swap; leave swap out")
    if query.kind == "full":
        settings["on_duplicate"] = query.on_duplicate
        if query.built_from is not None:
            settings["built_from"] = _object(query.built_from)
    return settings


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise InputError(f"built_from is a JSON object, as {{'job': 'nightly'}}: {exc}") from None
