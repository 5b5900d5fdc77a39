"""DataServiceMeta: what a connector gives the backend when a task was created, and all that it gets back with every later question.

The backend may send the next question to another replica of the connector, or to this one after a restart, so nothing else is remembered.
It holds names, durations and the variables that jobs are to get, none of the service's settings and so no secrets; the catalog has those.
Bytes: JSON with a version; a connector reads those of older ones, and refuses newer ones with words.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fondaco.core.errors import FormatVersionError, InputError

VERSION: Final = 1


class DataServiceMeta(msgspec.Struct, frozen=True, kw_only=True):
    """A task's service and lease.

    Attributes:
        service: what the service is called. holder: who holds the lease for the task.
        created_us: when the task was created, microseconds since 1970.
        hold_us: how long the lease lasts after success; None: until it is released.
        existing: the task named a service that existed already.
        exports: variables that the task's jobs get beside those of the service: names and texts.
        outputs: those that the task declares; None: it is not known, and all are delivered.
    """

    service: str
    holder: str
    created_us: int
    hold_us: int | None = None
    existing: bool = False
    exports: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] | None = None
    version: int = VERSION

    def encode(self) -> bytes:
        """The bytes that the backend keeps."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> DataServiceMeta:
        """The meta that these bytes hold.

        Raises:
            InputError: they are no meta of ours. FormatVersionError: a newer connector wrote them.
        """
        try:
            version = msgspec.json.decode(data, type=_Versioned).version
            if version > VERSION:
                raise FormatVersionError("a task's resource meta", version, VERSION)
            return msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as exc:
            raise InputError(f"not the resource meta of a data service task: {exc}") from exc


class _Versioned(msgspec.Struct):
    version: int = 0
