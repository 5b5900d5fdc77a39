"""Source text of generated functions: lines with indentation, names for constants, and `exec`.

Shared by the decoder and the encoder generators. Generated text is built from indices and constants bound by name, never from text of a
schema, so a hostile name cannot become code (names of fields enter as `repr` literals).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

INDENT_MAX: Final = 12  # Python allows 20 nested loops and 100 levels of indentation: deeper parts become functions of their own


class Source:
    """One module of generated functions."""

    def __init__(self, **names: Any) -> None:
        self.names: dict[str, Any] = dict(names)  # globals of the generated functions
        self._constants: dict[int, str] = {}
        self._finished: list[str] = []
        self._lines: list[str] = []
        self._indent = 0
        self._serial = 0

    def fresh(self, prefix: str) -> str:
        """A name that nothing has yet."""
        self._serial += 1
        return f"{prefix}{self._serial}"

    def constant(self, value: Any, prefix: str = "K") -> str:
        """The name under which generated code finds `value`; the same object gets the same name."""
        name = self._constants.get(id(value))
        if name is None:
            name = self._constants[id(value)] = self.fresh(prefix)
            self.names[name] = value  # keeps the object alive, so its id stays its own
        return name

    def line(self, text: str) -> None:
        """Add one line at the current indentation."""
        self._lines.append("    " * self._indent + text)

    @property
    def deep(self) -> bool:
        """Whether the next nested part should become a function of its own."""
        return self._indent >= INDENT_MAX

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """`head` and, indented below it, what is added inside."""
        self.line(head)
        self._indent += 1
        before = len(self._lines)
        yield
        if len(self._lines) == before:
            self.line("pass")
        self._indent -= 1

    @contextmanager
    def function(self, head: str) -> Iterator[None]:
        """A function beside the one at work."""
        outer = self._lines, self._indent
        self._lines, self._indent = [], 0
        with self.block(head):
            yield
        self._finished.extend(self._lines)
        self._lines, self._indent = outer

    def text(self) -> str:
        """All functions, for reading."""
        return "\n".join(self._finished) + "\n"

    def build(self, name: str, title: str) -> Any:
        """Compile everything and return the function `name`."""
        exec(compile(self.text(), f"<fondaco {title}>", "exec"), self.names)
        return self.names[name]
