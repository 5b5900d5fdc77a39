"""Data services: sets of long-running processes that feed jobs: specs, identity, leases, and provisioners that run them.

`platform.services` is a `Services`; `ensure` has a service run and gives a `Lease`. Names are loaded when they are first used: a spec needs
no database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.services.lease import Lease
    from fondaco.services.manager import Services
    from fondaco.services.provisioner import Desired, Instance, Observed, Phase, Provisioner
    from fondaco.services.reaper import ReapReport
    from fondaco.services.settings import Placement, PodSettings, Readiness, Resources, Source, Volume
    from fondaco.services.spec import ServiceSpec
    from fondaco.services.status import Holder, ServiceStatus

__all__ = [
    "Desired",
    "Holder",
    "Instance",
    "Lease",
    "Observed",
    "Phase",
    "Placement",
    "PodSettings",
    "Provisioner",
    "Readiness",
    "ReapReport",
    "Resources",
    "ServiceSpec",
    "ServiceStatus",
    "Services",
    "Source",
    "Volume",
]

_HOMES = {
    "lease": ("Lease",),
    "manager": ("Services",),
    "provisioner": ("Desired", "Instance", "Observed", "Phase", "Provisioner"),
    "reaper": ("ReapReport",),
    "settings": ("Placement", "PodSettings", "Readiness", "Resources", "Source", "Volume"),
    "spec": ("ServiceSpec",),
    "status": ("Holder", "ServiceStatus"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
