"""StoreReader: the interface that every tier of reader answers: embedded, fast and thin.

`fondaco.testing.StoreReaderContract` says in tests what is said here in words. Importing this brings neither numba nor SQLAlchemy, so that
thin clients can state what they are.

One call never mixes two versions. Every read takes `min_position`: a write's position (or several, or their text), which the answer must
include; it waits for that up to `timeout_s` seconds and raises DeadlineExceededError when the position was not reached. Without one, a
read answers at once from what has been applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fondaco.schema.columns import Columns
    from fondaco.schema.row import Row
    from fondaco.store.positions import Position, Positions

    MinPosition: TypeAlias = Position | Positions | Mapping[int, int] | str | None

Operation = Literal["dot", "cosine", "euclidean", "hadamard"]

TIMEOUT_S = 5.0  # for a position to be reached, by default


class StoreReader(Protocol):
    """What every tier of reader answers. Keys are of the store's key type; a missing key is None, False in `found`, or masked: never 0."""

    @property
    def version(self) -> int:
        """The version that a call would read now; 0 for a store that was only written to."""
        ...

    @property
    def position(self) -> Positions:
        """How far real-time writes are readable here: what a call made now includes, per partition of the store's topic."""
        ...

    def get(self, key: Any, *, min_position: MinPosition = None, timeout_s: float = TIMEOUT_S) -> Row | None:
        """The row of `key`, or None."""
        ...

    def get_many(self, keys: Any, *, min_position: MinPosition = None, timeout_s: float = TIMEOUT_S) -> list[Row | None]:
        """The rows of `keys`, in their order; None where there is none. Repeats are fine."""
        ...

    def get_columns(
        self, keys: Any, fields: Sequence[str] | None = None, *, min_position: MinPosition = None, timeout_s: float = TIMEOUT_S
    ) -> Columns:
        """Columns of `fields` (None: all), one entry per key in order; `.found` is bool [n]."""
        ...

    def compute(
        self,
        keys: Any,
        operation: Operation,
        field: str,
        vector: npt.ArrayLike,
        *,
        min_position: MinPosition = None,
        timeout_s: float = TIMEOUT_S,
    ) -> np.ma.MaskedArray[Any, Any]:
        """ "dot", "cosine" or "euclidean" of `vector` and each row's vector `field`: float64 [n], masked where there is none.

        "hadamard", the products of their numbers, is float64 [n, dim].
        """
        ...

    def at(self, version: int) -> StoreReader:
        """A reader of one version, whatever becomes current, with the real-time writes that apply to it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None: ...

    def close(self) -> None:
        """Let go of the files. Rows and columns handed out stay valid."""
        ...
