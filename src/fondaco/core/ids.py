"""Ids: names that people give and numbers that we give, with the rules they follow."""

from __future__ import annotations

import re
import secrets
from typing import NewType

from fondaco.core.errors import InputError

VersionNumber = NewType("VersionNumber", int)
SchemaId = NewType("SchemaId", int)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,127}")


def check_name(noun: str, name: str) -> str:
    """Return `name` if it can name a `noun`: a letter, then up to 127 letters, digits, `_`, `-` or `.` (it becomes a folder and a URL).

    Raises:
        InputError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a {noun}: use a letter, then letters, digits, '_', '-' or '.', 128 at most")
    return name


def new_push_id() -> str:
    """A push id for a caller that did not choose one: 64 random bits as hex."""
    return f"push-{secrets.token_hex(8)}"
