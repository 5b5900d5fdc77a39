"""Words: what stands in braces in the texts of a spec.

A spec says nothing of one machine or cluster: words in braces stand for what only the provisioner knows. In `command`, `env` and the
command of a readiness check:

    {python} {directory}            an interpreter that has Fondaco; the platform's directory as the process sees it
    {name} {index} {replicas}       the service's name, this instance's number (from 0), how many there are
    {shard} {shards}                index modulo shards; shards
    {host} {port} {port.NAME}       the address to listen on; the first port, or the named one
    {address} {address.NAME}        "host:port" by which others reach this instance at the first port, or the named one
    {endpoints} {endpoints.NAME}    "host:port,host:port" of all instances, in order, at the first port, or the named one

and in `exports`, the variables that jobs get: {name}, {endpoints}, {endpoints.NAME}, {host}, {port} (of instance 0). `{{` is a brace.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Final

from fondaco.core.errors import InputError

_INSIDE: Final = frozenset({"python", "directory", "name", "index", "replicas", "shard", "shards", "host", "port", "address", "endpoints"})
_OUTSIDE: Final = frozenset({"name", "host", "port", "endpoints"})


def words_of(text: str, *, path: str, inside: bool) -> set[str]:
    """The words in braces of a text.

    Raises:
        InputError: braces do not match, or a word is unknown.
    """
    known = _INSIDE if inside else _OUTSIDE
    found = set(words_in(text, where=f"{path}: {text!r}"))
    for word in found:
        head, dot, _ = word.partition(".")
        if head not in known or (dot and head not in ("port", "endpoints", "address")):
            there_are = ", ".join(f"{{{name}}}" for name in sorted(known))
            raise InputError(f"{path}: {text!r} names {{{word}}}, which is none of {there_are}; write {{{{ and }}}} for braces")
    return found


def words_in(text: str, *, where: str) -> Iterator[str]:
    """The words in braces of a text, in order, whatever they are; `where` begins the messages.

    Raises:
        InputError: braces do not match, or more than a word is in them.
    """
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError as exc:
        raise InputError(f"{where}: {exc}; write {{{{ and }}}} for braces") from None
    for _, word, format_, conversion in fields:
        if format_ or conversion:
            raise InputError(f"{where}: a word in braces stands as it is, without ':' and '!'; write {{{{ and }}}} for braces")
        if word is not None:
            yield word


def pieces(text: str) -> Iterator[tuple[str, str | None]]:
    """A checked text in pieces: plain text, and the word in braces after it; None after the last."""
    return ((before, word) for before, word, _, _ in string.Formatter().parse(text))


def filled(text: str, values: Mapping[str, object]) -> str:
    """A checked text with its words in braces replaced; `values` has all of them, "port.metrics" too."""
    return "".join(before + ("" if word is None else str(values[word])) for before, word in pieces(text))
