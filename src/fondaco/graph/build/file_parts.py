"""File parts: section files whose sections grow side by side.

A section file is written section by section; a build learns all of them together, slice by slice. So parts wait, in memory, or in one
temporary file a section where the build is larger than memory, and are put together at the end. The bytes of the section file do not
depend on how they waited. Belongs to one thread; leaving the `with` block removes temporary files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fondaco.core.files import os_errors
from fondaco.graph.build.columns import Array, Ragged
from fondaco.graph.manifest import FileEntry
from fondaco.graph.sections import SectionWriter


@dataclass(slots=True)
class _Section:
    name: str
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    parts: list[Array] = field(default_factory=list)
    rows: int = 0


class FileParts:
    """One section file in the making. Sections lie in it in the order in which they were declared."""

    def __init__(self, path: Path, *, spilled: bool) -> None:
        self._path, self._spilled = path, spilled
        self._sections: dict[str, _Section] = {}
        self._missing: set[str] = set()

    def __enter__(self) -> FileParts:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        for section in self._sections.values():
            self._temporary(section).unlink(missing_ok=True)
        self._sections = {}

    def declare(self, name: str, dtype: npt.DTypeLike, row_shape: Sequence[int] = ()) -> None:
        """There will be such a section, with or without rows."""
        self._sections[name] = _Section(name, np.dtype(dtype), tuple(row_shape))

    def declare_ragged(self, offsets: str, data: Sequence[tuple[str, npt.DTypeLike]]) -> None:
        """There will be ragged rows: a section of offsets, beginning with 0, and one or more of items that share them."""
        self.declare(offsets, np.int64)
        self.append(offsets, np.zeros(1, np.int64))
        for name, dtype in data:
            self.declare(name, dtype)

    def append(self, name: str, array: Array) -> None:
        """Rows of a section, behind those that are there."""
        section = self._sections[name]
        section.rows += len(array)
        if not self._spilled:
            section.parts.append(array)
        elif len(array):
            with os_errors(self._path), open(self._temporary(section), "ab") as file:
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def append_ragged(self, offsets: str, data: dict[str, Ragged]) -> None:
        """Ragged rows, behind those that are there."""
        first = next(iter(data))
        base = self._sections[first].rows
        for name, column in data.items():
            column = column.from_zero()
            if name == first:
                self.append(offsets, column.offsets[1:] + base)
            self.append(name, column.data)

    def append_present(self, present: Array) -> None:
        """Rows of the section `present`, which is written only if one of them is 0."""
        self.append("present", present)
        if not present.all():
            self._missing.add("present")

    def write(self) -> FileEntry:
        """Put the file together.

        Raises:
            DiskFullError, ReadOnlyError.
        """
        with SectionWriter(self._path) as writer:
            for section in self._sections.values():
                if section.name == "present" and not self._missing:
                    continue
                writer.begin(section.name, section.dtype, section.row_shape)
                if not self._spilled:
                    while section.parts:
                        writer.append(section.parts.pop(0))
                elif section.rows:
                    shape = (section.rows, *section.row_shape)
                    writer.append(np.asarray(np.memmap(self._temporary(section), section.dtype, "r", 0, shape)))
                    self._temporary(section).unlink()
            return writer.close()

    def _temporary(self, section: _Section) -> Path:
        return self._path.with_name(f".{self._path.name}.{section.name}.part")
