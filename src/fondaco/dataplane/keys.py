"""Keys as requests carry them: text in a path, JSON, or packed Avro bytes; made into what a reader takes, or refused with the place.

Packed key bytes are checked before they are looked up: bytes that the store's codec would not have made name no key, and a caller who
sends them has a mistake to hear of. Integers, text and bytes are checked by kernels; keys of other types by decoding and encoding them.
Text is checked to be UTF-8 where it is written, not where it is read: there it is simply not found. Pure functions; any thread.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from fondaco.core.errors import DataError, InputError, KeyTypeError
from fondaco.dataplane import wire
from fondaco.dataplane._key_kernels import GOOD, first_bad_blob, first_bad_integer
from fondaco.dataplane.json_rows import from_json
from fondaco.store import _kernels
from fondaco.store.basefile import address_of
from fondaco.store.keys import EncodedKeys, KeyCodec


def key_of_path(codec: KeyCodec, text: bytes) -> Any:
    """The key of a path's last part, percent-encoded as it came.

    Raises:
        KeyTypeError: it is none of this store's.
    """
    if codec.kind in ("int", "long"):
        plain = unquote_to_bytes(text)
        digits = plain[1:] if plain[:1] == b"-" else plain
        if digits.isdigit() and len(digits) <= 20:
            return int(plain)
        raise KeyTypeError(repr(plain[:80].decode(errors="replace")), codec.expected)
    if codec.kind == "string":
        try:
            return unquote_to_bytes(text).decode() if b"%" in text else text.decode()
        except UnicodeDecodeError:
            raise KeyTypeError(f"{text[:80]!r}, which is not UTF-8", codec.expected) from None
    raise KeyTypeError(f"{text[:80].decode('latin-1')!r} in a path (send ?key=<JSON> or ?avro=<base64url>)", codec.expected)


def key_of_json(codec: KeyCodec, text: str) -> Any:
    """The key of `?key=<JSON>`.

    Raises:
        InputError: not JSON, or not a key of this store.
    """
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"?key={text[:80]!r} is not JSON: {exc}") from None
    return json_key(codec, value, "?key")


def json_key(codec: KeyCodec, value: Any, path: str) -> Any:
    """A key of a JSON document.

    Raises:
        InputError: text that is not what the key's type is written as; names the path.
    """
    return value if codec.kind in ("int", "long", "string") else from_json(codec.schema, value, path)


def json_keys(codec: KeyCodec, values: list[Any]) -> EncodedKeys:
    """The keys of a JSON list.

    Raises:
        KeyTypeError: names the position. InputError: names the path.
    """
    if codec.kind not in ("int", "long", "string"):
        values = [json_key(codec, value, f"$.keys[{i}]") for i, value in enumerate(values)]
    return codec.encode_many(values)


def packed_keys(codec: KeyCodec, body: bytes | bytearray | memoryview) -> EncodedKeys:
    """The keys of a body of key bytes.

    Raises:
        InputError: it breaks the grammar. KeyTypeError: bytes that are no key of this store; names the position.
    """
    data, offsets = wire.unpack_keys(body)
    return checked(codec, data, offsets)


def avro_key(codec: KeyCodec, text: str) -> EncodedKeys:
    """The key of `?avro=<base64url>`, as a batch of one. Raises as `packed_keys`."""
    data = wire.decode_avro_key(text)
    return checked(codec, np.frombuffer(data, np.uint8), np.array([0, len(data)], np.int64))


def checked(
    codec: KeyCodec, data: np.ndarray[Any, np.dtype[np.uint8]], offsets: np.ndarray[Any, np.dtype[np.int64]], *, strict: bool = False
) -> EncodedKeys:
    """Key bytes, hashed, if all of them are keys of the store.

    Args:
        strict: text must be UTF-8 as well (for what is written).
    Raises:
        KeyTypeError: names the position of the first that is none.
    """
    if not len(data):
        data = np.zeros(1, np.uint8)  # an address to point at
    bad = _first_bad(codec, data, offsets, strict)
    if bad != GOOD:
        shown = data[offsets[bad] : offsets[bad + 1]].tobytes()[:40].hex()
        raise KeyTypeError(f"the bytes 0x{shown} (position {bad})", f"{codec.expected}, encoded in Avro")
    hashes = np.empty(len(offsets) - 1, np.uint64)
    _kernels.hash_many(address_of(data), offsets, hashes)
    return EncodedKeys(data, offsets, hashes)


def _first_bad(codec: KeyCodec, data: Any, offsets: Any, strict: bool) -> int:
    if codec.kind in ("int", "long"):
        return int(first_bad_integer(data, offsets, 32 if codec.kind == "int" else 64))
    if codec.kind == "bytes" or (codec.kind == "string" and not strict):
        return int(first_bad_blob(data, offsets))
    for i in range(len(offsets) - 1):
        key = data[offsets[i] : offsets[i + 1]].tobytes()
        try:
            if codec.encode(codec.decode(key)) != key:
                return i
        except (DataError, UnicodeDecodeError):
            return i
    return GOOD


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
