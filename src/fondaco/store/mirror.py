"""Mirror: what the catalog knows of a store, in two small files of its directory, for processes that open no catalog.

    store.json      {"id", "name", "key", "settings"}: written when the store is made, never changed
    schemas.json    {"1": {...}, "2": {...}}: the value schemas by number; the next one is added, none is ever changed

A tailer needs the schemas to merge patches, a reader the key's schema to read a store that was only written to. Both files are replaced
whole, so a reader of them sees one state or the next. The catalog is the truth: a platform that opens writes what is missing or behind.
Any thread; written under the catalog's write lock, so that two writers of schemas cannot overtake each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from fondaco.catalog import StoreRow, ValueSchemaRow
from fondaco.core.errors import CorruptFileError, StoreNotFoundError
from fondaco.core.files import write_atomically
from fondaco.store.settings import StoreSettings

STORE_FILE: Final = "store.json"
SCHEMAS_FILE: Final = "schemas.json"


class StoreMirror(msgspec.Struct, frozen=True):
    """What never changes of a store. `key` is `KeyCodec.to_json()`, parsed."""

    id: int
    name: str
    key: Any
    settings: StoreSettings

    @property
    def key_schema(self) -> str:
        """The key's schema as text, for `KeyCodec`."""
        return msgspec.json.encode(self.key).decode()


def write_mirror(directory: Path, row: StoreRow, schemas: Sequence[ValueSchemaRow]) -> None:
    """Bring both files in line with the catalog; those that are need no writing.

    Raises:
        DiskFullError, ReadOnlyError.
    """
    settings = msgspec.convert(row.settings, StoreSettings)
    store = StoreMirror(row.id, row.name, msgspec.json.decode(row.key_schema), settings)
    _replace(directory / STORE_FILE, msgspec.json.encode(store))
    _replace(directory / SCHEMAS_FILE, msgspec.json.encode({str(row.number): msgspec.Raw(row.schema.encode()) for row in schemas}))


def _replace(path: Path, data: bytes) -> None:
    data = msgspec.json.format(data, indent=2) + b"\n"
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    write_atomically(path, data)


def read_store(directory: Path) -> StoreMirror:
    """The store of a directory.

    Raises:
        StoreNotFoundError: there is none. CorruptFileError: the file is not what we wrote.
    """
    path = directory / STORE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=StoreMirror)
    except FileNotFoundError:
        raise StoreNotFoundError(directory.name, where=str(directory.parent)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise CorruptFileError(str(path), "store", str(exc)) from exc


def read_schemas(directory: Path) -> dict[int, str]:
    """The value schemas of a store by number, each as Avro JSON text; empty if the file is not there.

    Raises:
        CorruptFileError: the file is not what we wrote.
    """
    path = directory / SCHEMAS_FILE
    try:
        found: Mapping[str, msgspec.Raw] = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
        return {int(number): bytes(text).decode() for number, text in found.items()}
    except FileNotFoundError:
        return {}
    except (msgspec.MsgspecError, ValueError) as exc:
        raise CorruptFileError(str(path), "schemas", str(exc)) from exc


class MirroredSchemas:
    """`schemas(number)`: the text of a value schema; a number not seen before reads the file again. Any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[int, str] = {}

    def __call__(self, number: int) -> str:
        """The schema as Avro JSON text.

        Raises:
            CorruptFileError: no such schema is known of the store, or the file is damaged.
        """
        text = self._known.get(number)
        if text is None:
            self._known = read_schemas(self._directory)
            text = self._known.get(number)
        if text is None:
            have = ", ".join(map(str, self._known)) or "none"
            raise CorruptFileError(str(self._directory / SCHEMAS_FILE), "schemas", f"it has no schema {number}; it has {have}")
        return text

    def all(self) -> dict[int, str]:
        """All of them, as the file says now."""
        self._known = read_schemas(self._directory)
        return dict(self._known)
