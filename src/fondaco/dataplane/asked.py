"""Asked: what a request asks for, read from its target, headers and body, or refused with the place that is wrong.

Pure functions of a request; nothing is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from fondaco.core.errors import FondacoError, InputError, near_name
from fondaco.dataplane import wire
from fondaco.dataplane.http import Request
from fondaco.dataplane.limits import REQUEST_ID_MAX, WAIT_S, WAIT_S_MAX
from fondaco.store.positions import Positions

_Body = TypeVar("_Body")
_DEADLINE_MS_MAX: Final = 86_400_000
_REMEMBERED: Final = 1000


class HttpError(Exception):
    """An error whose status its class does not say: an unknown route, a wrong method or media type."""

    def __init__(self, status: int, error: FondacoError, headers: Sequence[bytes] = ()) -> None:
        super().__init__(status, error)
        self.status, self.error, self.headers = status, error, headers


@dataclass(frozen=True, slots=True)
class Options:
    """What the headers of a read say.

    Attributes:
        version: to read, None: the current one. min_position: what must have been applied. wants_position: whether to say what was.
    """

    version: int | None
    min_position: Positions | None
    wants_position: bool


def options_of(request: Request) -> Options:
    """The options of a read; sets the request's deadline.

    Raises:
        InputError: a header that is not what it should be; names it.
    """
    headers = request.headers
    version = headers.get(b"fondaco-version")
    position = headers.get(b"fondaco-min-position")
    set_deadline(request)
    wanted = None if position is None else positions_of(position)
    return Options(
        None if version is None else _number(wire.VERSION, version, 1 << 62), wanted, wanted is not None or b"fondaco-position" in headers
    )


def set_deadline(request: Request) -> None:
    """Note until when the client waits. Raises as `options_of`."""
    left = request.headers.get(b"fondaco-deadline-ms")
    if left is not None:
        request.deadline = request.arrived + _number(wire.DEADLINE_MS, left, _DEADLINE_MS_MAX) / 1000


def wait_until(request: Request) -> float:
    """Until when to wait for a position, on the loop's clock."""
    return min(request.deadline, request.arrived + (WAIT_S if request.deadline == _FOREVER else WAIT_S_MAX))


_FOREVER: Final = float("inf")


def positions_of(text: bytes) -> Positions:
    """The positions of a header."""
    try:
        return Positions.parse(text.decode("latin-1"))
    except InputError as exc:
        raise InputError(f"{wire.MIN_POSITION}: {exc}") from None


def _number(name: str, text: bytes, greatest: int) -> int:
    if text.isdigit() and len(text) < 20 and int(text) <= greatest:
        return int(text)
    raise InputError(f"{name} is a whole number up to {greatest}, not {text[:40].decode('latin-1')!r}")


def check_request_id(request: Request) -> None:
    """Raises InputError: an id that is too long or cannot be given back."""
    number = request.headers.get(b"fondaco-request-id")
    if number is not None and not (len(number) <= REQUEST_ID_MAX and number.isascii() and number.decode("ascii").isprintable()):
        request.headers = {name: value for name, value in request.headers.items() if name != b"fondaco-request-id"}
        raise InputError(f"{wire.REQUEST_ID} is up to {REQUEST_ID_MAX} visible ASCII characters")


# -- target -----------------------------------------------------------------------------------------------------------------------------


def split_target(target: bytes) -> tuple[list[bytes], bytes]:
    """(parts of the path, percent-encoded, without the empty one before the first slash; query)."""
    path, _, query = target.partition(b"?")
    if path[:1] != b"/":
        raise HttpError(404, InputError(f"the target is a path, as /v1/stores, not {target[:80].decode('latin-1')!r}"))
    return path[1:].split(b"/"), query


def text_of(part: bytes) -> str:
    """A part of a path, decoded.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise InputError(f"{part[:80].decode('latin-1')!r} in the path is not UTF-8") from None


def query_of(query: bytes, known: Sequence[str]) -> dict[str, str]:
    """The parameters of a query.

    Raises:
        InputError: one that is not known or comes twice, or that is not UTF-8.
    """
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=16)
    except (ValueError, UnicodeDecodeError) as exc:
        raise InputError(f"the query {query[:80].decode('latin-1')!r} is not of the form name=value&...: {exc}") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            near = near_name(name, known)
            hint = f"did you mean {near!r}?" if near else f"there is: {', '.join(known)}" if known else "this route takes none"
            raise InputError(f"no parameter {name!r} of this route; {hint}")
        if name in found:
            raise InputError(f"parameter {name!r} comes twice")
        found[name] = value
    return found


def fields_of(text: str | None) -> list[str] | None:
    """The value of `fields=`; None: all."""
    return None if text is None else [name for name in text.split(",") if name]


# -- media types --------------------------------------------------------------------------------------------------------------------------


def content_type(request: Request, accepted: Sequence[str]) -> str:
    """The media type of the body.

    Raises:
        HttpError: 415, none of `accepted`.
    """
    given = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if given in accepted:
        return given
    shown = repr(given[:80]) if given else "none given"
    raise HttpError(415, InputError(f"Content-Type is {' or '.join(accepted)}, not {shown}"))


KEYS_BODIES: Final = (wire.JSON, wire.KEYS_BODY)
WRITES_BODIES: Final = (wire.JSON, wire.WRITES_BODY)
_chosen: dict[tuple[bytes, tuple[str, ...]], str] = {}


def accept(request: Request, offered: tuple[str, ...]) -> str:
    """The media type of the answer, one of `offered`, the first of which is for those who take anything.

    Raises:
        HttpError: 406, none is accepted.
    """
    header = request.headers.get(b"accept")
    if header is None:
        return offered[0]
    known = _chosen.get((header, offered))
    if known is None:
        known = _choose(header, offered)
        if len(_chosen) < _REMEMBERED:
            _chosen[header, offered] = known
    return known


def _choose(header: bytes, offered: tuple[str, ...]) -> str:
    best, best_rank = None, (0.0, 0)
    for item in header.decode("latin-1").split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        for position, offer in enumerate(offered):
            wild = media == "*/*" or (media.endswith("/*") and offer.startswith(media[:-1]))
            rank = (quality, -position - (100 if wild else 0))
            if (wild or media == offer) and quality > 0 and (best is None or rank > best_rank):
                best, best_rank = offer, rank
    if best is None:
        raise HttpError(406, InputError(f"Accept is {' or '.join(offered)}, not {header[:80].decode('latin-1')!r}"))
    return best


# -- bodies -------------------------------------------------------------------------------------------------------------------------------


class RowsBody(msgspec.Struct, forbid_unknown_fields=True):
    """JSON body of a batch get, of rows or columns."""

    keys: list[Any]
    fields: list[str] | None = None


class ComputeBody(msgspec.Struct, forbid_unknown_fields=True):
    """JSON body of a computation."""

    keys: list[Any]
    operation: str
    field: str
    vector: list[float]
    top_k: int | None = None


class WriteBody(msgspec.Struct, forbid_unknown_fields=True):
    """One write of a JSON body."""

    op: str
    key: Any
    row: dict[str, Any] | None = None
    fields: dict[str, Any] | None = None
    add: dict[str, Any] | None = None
    remove: dict[str, Any] | None = None
    timestamp_ms: int | None = None


class WritesBody(msgspec.Struct, forbid_unknown_fields=True):
    """JSON body of writes."""

    writes: list[WriteBody]
    writer: str = "http"
    durability: str | None = None


_decoders: Mapping[type, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(kind) for kind in (RowsBody, ComputeBody, WritesBody)}


def json_body(request: Request, kind: type[_Body]) -> _Body:
    """The body as JSON of one of the shapes above.

    Raises:
        InputError: not JSON, or not of the shape; names the path.
    """
    try:
        decoded: _Body = _decoders[kind].decode(request.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InputError(f"the body is not what this route takes: {exc}") from None
    return decoded
