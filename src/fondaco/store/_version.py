"""One version, opened: its files mapped and its schemas compiled.

An `OpenVersion` never changes. Its maps live as long as anything refers to them (the version, a row, a vector that views a row): nothing is
ever unmapped under a reader, and a version whose files were retired meanwhile stays readable to those who hold it. How rows are found in
it, under the writes that came since: `_serving`. Safe from any thread.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fondaco.schema import Codec
from fondaco.store.compression import Decompressor
from fondaco.store.keys import KeyCodec
from fondaco.store.manifest import Manifest, read_manifest
from fondaco.store.partial import open_files

I64Array = npt.NDArray[np.int64]


class OpenVersion:
    """A version of a store, readable.

    Attributes:
        files: one per partition, of those that are not held (`partial`) a stand-in. entries: int64, shape [files, ENTRY]: where each lies,
            for kernels.
        codec: from the schema that rows were written in to the reader's.
    """

    def __init__(self, directory: Path, schema: object = None) -> None:
        """
        Args:
            directory: `versions/<n>` of a store.
            schema: the reader's schema, which rows are resolved to; None: the schema they were written in.
        Raises:
            FileNotFoundError: the version, or one of its files, is not there (any more).
            CorruptFileError, FormatVersionError: it cannot be trusted, or not be read by this Fondaco.
            SchemaResolutionError: rows cannot be read with `schema`.
        """
        self.manifest: Manifest = read_manifest(directory)
        self.number = self.manifest.version
        self.keys = KeyCodec(self.manifest.key_schema)
        self.codec = Codec(self.manifest.value_schema, schema)
        self.files = open_files(directory, self.manifest)
        self.entries = np.array([file.entry() for file in self.files], np.int64)
        held = next((file for file in self.files if file.memory), None)  # each has the dictionary
        self.decompressor = Decompressor(held.dictionary, str(directory)) if held is not None else None
