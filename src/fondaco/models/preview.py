"""Preview: the variables that a job would get, before anything of it is there: for manifests that are printed, not run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from fondaco.models import variables
from fondaco.models.request import Request, RunPlatform, resolve
from fondaco.models.variables import Facts
from fondaco.services.resolution import environment
from fondaco.services.spec import ServiceSpec


def previewed(
    platform: RunPlatform, request: Request, directory: str, endpoints: Callable[[ServiceSpec], Mapping[str, tuple[str, ...]]]
) -> tuple[Facts, dict[str, str]]:
    """What a run would be told, and its variables; the run's id is a new one.

    Args:
        directory: of the platform, as the job sees it. endpoints: where a service will answer, by port.
    Raises:
        as `resolve`.
    """
    from fondaco.catalog import runs

    resolved = resolve(platform, request)
    served = []
    for spec, known in zip(resolved.specs, resolved.served, strict=True):
        ports = dict(endpoints(spec))
        exports = environment(spec, spec.service, ports)
        served.append(dataclasses.replace(known, endpoints=next(iter(ports.values()), ()), exports=exports))
    run_id = runs.new_id()
    facts = Facts(run_id, request.name or run_id, directory, tuple(served), resolved.features)
    given = variables.variables(facts, deepgnn=request.deepgnn) | variables.filled(request.env, variables.words(facts))
    return facts, given
