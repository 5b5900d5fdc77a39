"""Every error this package raises, at a short address: `from fondaco.errors import RowError`. The tree is drawn in `core.errors`."""

from fondaco.core.errors import *  # noqa: F403
