"""Sweep: a look for services of this machine whose time is over, where no reaper is at work: `python -m fondaco.services.local.sweep DIR`.

Every look of a reaper, whoever's, leaves its time on a file beside the services (`note_look`). Keepers read that time every few seconds;
the first to find it older than a minute begins a sweep. So an embedded user who never starts a reaper, and whose process may be killed at
any moment, leaves nothing behind: as long as a service runs its keeper does, and a keeper sees to it that somebody looks.

A sweep ends leases, removes and adopts, in the clusters of this machine only; it repairs nothing, so that a process which nobody has asked
for never starts one. It opens a catalog that is there and up to date, and neither makes nor changes one.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fondaco.core.errors import FondacoError

if TYPE_CHECKING:
    from fondaco.services.reaper import ReapReport

OVERDUE_S: Final = 60.0
_HANGS_S: Final = 300.0  # a sweep waits at most a minute for the catalog's lock; a server that is cut off may not answer for hours
_LOOKED_FILE: Final = ".reaped"


def note_look(services: Path) -> None:
    """Leave the time of a look, in the folder of a platform's local services; nothing if there is none, or it cannot be written."""
    with contextlib.suppress(OSError):
        (services / _LOOKED_FILE).touch(mode=0o644)


def is_overdue(services: Path) -> bool:
    """Whether no reaper has looked for a minute; where none ever has, the minute begins now. A time in the future (the clock was set back)
    says nothing and counts as long ago."""
    try:
        looked = (services / _LOOKED_FILE).stat().st_mtime
    except OSError:
        note_look(services)
        return not (services / _LOOKED_FILE).exists()  # a full disk keeps nobody from removing
    return abs(time.time() - looked) > OVERDUE_S


class Sweeps:
    """The sweeps that one keeper begins, one at a time. One thread."""

    def __init__(self, platform: Path, services: Path) -> None:
        self._platform, self._services = platform, services
        self._process: subprocess.Popen[bytes] | None = None
        self._begun: float | None = None

    def see_to(self) -> None:
        """Begin one if it is time. It is no part of the keeper's service and goes on when that ends (`tree.descendants`).

        Raises:
            OSError: it cannot be started.
        """
        now = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            if self._begun is not None and now - self._begun > _HANGS_S:
                self._process.kill()
            return
        if (self._begun is not None and now - self._begun < OVERDUE_S) or not is_overdue(self._services):
            return
        note_look(self._services)  # so that no other keeper begins one as well
        self._begun = now
        argv = [sys.executable, "-P", "-m", "fondaco.services.local.sweep", str(self._platform)]
        self._process = subprocess.Popen(argv, cwd=self._platform, stdin=subprocess.DEVNULL, stdout=2, stderr=2, start_new_session=True)


def sweep(directory: Path) -> ReapReport:
    """One look at a platform's services on this machine.

    Raises:
        as `Catalog.open`; ReadOnlyError also where an older Fondaco has made the catalog.
    """
    from fondaco.catalog import Catalog
    from fondaco.core.clock import SystemClock
    from fondaco.core.config import load_config
    from fondaco.services.local.provisioner import LocalProvisioner
    from fondaco.services.manager import Services
    from fondaco.services.places import configured

    config = load_config(directory)
    url = config.catalog.url
    Catalog.open(directory, url=url, read_only=True, must_exist=True).close()  # refuses to bring an older one up to date
    with contextlib.closing(Catalog.open(directory, url=url, must_exist=True)) as catalog:
        here = [name for name, cluster in configured(config.services).items() if cluster.kind == "local"]
        openers = {name: functools.partial(LocalProvisioner, directory, cluster=name) for name in here}
        with contextlib.closing(Services(catalog, config.services, SystemClock(), openers)) as services:
            return services.reap(repair=False)


def main(arguments: Sequence[str]) -> int:
    """Sweep once; what it did goes to stderr, which is the log of the keeper that began it."""
    try:
        report = sweep(Path(arguments[0]))
    except (FondacoError, OSError) as exc:
        print(f"sweep: {exc}", file=sys.stderr)
        return 1
    for what in ("expired", "adopted", "removed", "errors"):
        if said := getattr(report, what):
            print(f"sweep: {what}: {', '.join(said)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
