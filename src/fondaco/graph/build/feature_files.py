"""Feature files: the features of one partition's nodes or edges, which come in the order of the partition. Belongs to one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from fondaco.graph.build.columns import Rows, plain, ragged
from fondaco.graph.build.file_parts import FileParts
from fondaco.graph.layout import feature_file
from fondaco.graph.manifest import FileEntry
from fondaco.graph.schema import Feature


class FeatureFiles:
    """The feature files of one partition of a node type or an adjacency in the making."""

    def __init__(self, directory: Path, partition: int, features: Sequence[tuple[int, int, Feature]], *, spilled: bool) -> None:
        """
        Args:
            features: (number of the feature's files, its position in the rows, itself). Its parts in the rows are called "position:part".
        """
        self._features = features
        self._files = [FileParts(directory / feature_file(number, partition), spilled=spilled) for number, _, _ in features]
        for file, (_, _, feature) in zip(self._files, features, strict=True):
            if feature.kind == "dense":
                file.declare("values", feature.numpy_dtype, feature.shape)
            elif feature.kind == "sparse":
                file.declare_ragged("indptr", [("indices", np.int64), ("values", feature.numpy_dtype)])
            else:
                file.declare_ragged("offsets", [("data", np.uint8)])
            file.declare("present", np.uint8)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        for file in self._files:
            file.__exit__(kind, value, traceback)

    def add(self, rows: Rows) -> None:
        """The features of the partition's next rows."""
        for file, (_, position, feature) in zip(self._files, self._features, strict=True):
            if feature.kind == "dense":
                file.append("values", plain(rows[f"{position}:values"]))
            elif feature.kind == "sparse":
                parts = {part: ragged(rows[f"{position}:{part}"]) for part in ("indices", "values")}
                file.append_ragged("indptr", parts)
            else:
                file.append_ragged("offsets", {"data": ragged(rows[f"{position}:data"])})
            file.append_present(plain(rows[f"{position}:present"]))

    def write(self, on_file: Callable[[str], None]) -> list[FileEntry]:
        """Put the files together."""
        entries = []
        for file in self._files:
            entries.append(file.write())
            on_file(entries[-1].name)
        return entries
