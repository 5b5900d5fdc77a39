"""Settings of the property tests: no deadline (two shared cores and a first compile are no regression), failing seeds printed."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("schema", deadline=None, print_blob=True)
settings.load_profile("schema")
