"""Ids: names that people give and numbers that we give, with the rules they follow."""

from __future__ import annotations

import contextlib
import operator
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
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a {noun}: use a letter, then letters, digits, '_', '-' or '.', 128 at most")
    return name


def check_version_number(version: object) -> VersionNumber:
    """Return `version` as an int if it is a whole number, a NumPy one included.

    Raises:
        InputError: it is not.
    """
    if not isinstance(version, bool):
        with contextlib.suppress(TypeError):
            return VersionNumber(operator.index(version))  # type: ignore[arg-type]  # what is no number is what we ask for
    raise InputError(f"a version is a whole number, as 3, not {version!r}")


def new_push_id() -> str:
    """A push id for a caller that did not choose one: 64 random bits as hex."""
    return f"push-{secrets.token_hex(8)}"
