"""Version of the package; the one place where it is written in code."""

from typing import Final

VERSION: Final = "0.1.0"
