"""flyte imports `flyte.io` with the first value that it carries, and pydantic deprecates how a class there is configured: once, here."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import flyte.io  # noqa: F401
