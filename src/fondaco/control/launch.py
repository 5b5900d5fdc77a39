"""Launch, under the name that the supervisor's processes know it by: see `fondaco.core.launch`."""

from __future__ import annotations

import sys

from fondaco.core.launch import command, die_with_parent, main

__all__ = ["command", "die_with_parent", "main"]

if __name__ == "__main__":
    main(sys.argv[1:])
