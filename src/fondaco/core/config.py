"""Configuration: `fondaco.toml` in the platform's directory, a dozen settings with defaults that were measured or argued for.

A key that is not known, or a value of the wrong type, is refused with its path: a misspelt setting must not be a silent default.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from fondaco.core.errors import InputError

CONFIG_FILE = "fondaco.toml"


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[store]`: defaults of new stores and bounds of pushes."""

    partitions: int = 8
    compression: str = "auto"
    rewind: str = "24h"
    keep: int = 2
    batch_bytes: int = 16 << 20  # rows of a push in flight at once; the memory bound of store/builder.py counts it
    sample_bytes: int = 32 << 20  # head of a push, kept to train the dictionary and to choose the compression


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    store: StoreConfig = msgspec.field(default_factory=StoreConfig)


def load_config(directory: Path) -> Config:
    """Read `fondaco.toml` of a platform directory; an absent file means defaults.

    Raises:
        InputError: not TOML, an unknown key, or a value of the wrong type; the message names the path.
    """
    path = directory / CONFIG_FILE
    if not path.exists():
        return Config()
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Config)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise InputError(f"{path}: {exc}") from exc
