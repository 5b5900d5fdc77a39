"""Tiers: the blocking reader of a tier by the tier's name, for those who open stores: a platform, and the one over the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fondaco.core.errors import InputError
from fondaco.dataplane.fast import FastReader
from fondaco.dataplane.thin import ThinReader


def open_reader(tier: str, endpoints: str | Sequence[str], store: str, **settings: Any) -> ThinReader | FastReader:
    """A reader of a store through servers; endpoints and settings as of `ThinReader`.

    Raises:
        InputError: no such tier. Otherwise as the reader.
    """
    if tier == "fast":
        return FastReader(endpoints, store, **settings)
    if tier == "thin":
        return ThinReader(endpoints, store, **settings)
    raise InputError(f'the tier of a remote reader is "fast" or "thin", not {tier!r}')
