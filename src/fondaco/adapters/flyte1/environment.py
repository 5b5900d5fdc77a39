"""Environment: how a task hands a data service's variables to the program that it is.

`environment` is for tasks that come after a `DataServiceTask`, which holds the service. A task without one holds the service itself while
it runs: `with_data_services`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set a data service's variables (its task's output `env`) for a block of a task: `fondaco.graph.connect()` and programs that are
    started there find the service. They are the process's: blocks at the same time must agree on them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
