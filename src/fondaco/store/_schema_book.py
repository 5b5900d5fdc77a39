"""SchemaBook: the value schemas that a reader knows, and what it reads rows as.

Unless it was asked for one schema, a reader reads rows with the superset of all schemas it knows, so that a field that was there once is
still there after a rollback. A schema that it meets for the first time, in a version or in a write, makes another book: `Outgrown` says so
to whoever holds the reader. A book never changes; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from fondaco.schema import Codec, full_form, superset
from fondaco.schema.declared import is_arrow
from fondaco.store.mirror import MirroredSchemas


class Outgrown(Exception):  # noqa: N818 (no error: the reader learns the schema and reads again)
    """A row was written in a schema that the book does not have."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class SchemaBook:
    """Schemas by number.

    Attributes:
        given: what the reader was asked to read rows as; None: the superset of what is known.
        known: the schemas known, in their full form.
    """

    def __init__(self, given: object, known: Mapping[int, object], mirror: MirroredSchemas) -> None:
        self.given = given
        self.known = {number: full_form(value) for number, value in known.items()}
        self._mirror = mirror

    @cached_property
    def reader(self) -> object:
        """What rows are read as. With a `given` one that, else JSON text."""
        return self.given if self.given is not None else self._superset(self.known)

    @staticmethod
    def _superset(known: Mapping[int, str]) -> str:
        return full_form(superset([known[number] for number in sorted(known)]))

    @property
    def superset(self) -> str | None:
        """As `reader`, as text; None if the reader's schema is given, or nothing is known yet."""
        return None if self.given is not None or not self.known else str(self.reader)

    @property
    def reader_is_arrow(self) -> bool:
        """Whether names of records do not count, because the reader's schema has none."""
        return is_arrow(self.given)

    @property
    def newest(self) -> int:
        """The greatest number known; 0: none."""
        return max(self.known, default=0)

    def text(self, number: int) -> str:
        """A value schema.

        Raises:
            Outgrown: it is not known here, and would change what rows are read as. CorruptFileError: the store does not have it.
        """
        text = self.known.get(number)
        if text is None:
            text = full_form(self._mirror(number))
            if self.given is None:
                raise Outgrown(number)
            self.known[number] = text  # rows are read as before, so this is the same book
        return text

    def codec(self, number: int) -> Codec:
        """From rows of a value schema to the reader's.

        Raises:
            as `text`; SchemaResolutionError: rows of it cannot be read so.
        """
        return Codec(self.text(number), self.reader)

    def with_schema(self, number: int, written: object) -> SchemaBook:
        """The book that knows this schema too.

        A schema never changes under its number: if it did, the store is another of the same name, and what was known is not its own.
        """
        text = full_form(written)
        if self.known.get(number) == text:
            return self
        known = {number: text} if number in self.known else {**self.known, number: text}
        return SchemaBook(self.given, known, self._mirror)

    def with_all(self) -> SchemaBook:
        """The book that knows every schema that the store has now."""
        book = self
        for number, text in self._mirror.all().items():
            book = book.with_schema(number, text)
        return book
