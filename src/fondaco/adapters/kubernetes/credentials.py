"""Credentials: how one cluster is logged in to: a context of a kubeconfig, or the service account of the pod that we run in.

lightkube reads the file and logs in (tokens, certificates; for programs that fetch tokens see `login_program`). Here: which file, which
context, and errors that say what there is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fondaco.core.errors import InputError, MissingExtraError, NotFoundError

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig

_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class ContextNotFoundError(NotFoundError):
    """The kubeconfig has no context of this name."""

    noun = "context"


def log_in(cluster: str, *, context: str | None, kubeconfig: str | Path | None, environ: Mapping[str, str] = os.environ) -> SingleConfig:
    """How to reach a cluster, and as whom; asks nobody yet.

    Raises:
        InputError: no such file, no such context, or it cannot be read; names the file.
        MissingExtraError: lightkube is not installed.
    """
    try:
        import yaml  # type: ignore[import-untyped]
        from lightkube.config.kubeconfig import KubeConfig
        from lightkube.core.exceptions import ConfigError
    except ImportError as exc:
        raise MissingExtraError("lightkube", "kubernetes", f"cluster {cluster!r}") from exc
    inside = "KUBERNETES_SERVICE_HOST" in environ and _TOKEN.exists()
    if inside and context is None and kubeconfig is None and not environ.get("KUBECONFIG"):
        return _completed(KubeConfig.from_service_account().get())
    path = _file(cluster, kubeconfig, environ)
    try:
        config = KubeConfig.from_file(path)
        if context is not None and context not in config.contexts:
            raise ContextNotFoundError(context, sorted(config.contexts), f"{path} (cluster {cluster!r})")
        return _completed(config.get(context))
    except (ConfigError, yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError) as exc:
        said = f"it has no {exc}" if isinstance(exc, KeyError) else str(exc)
        raise InputError(f"cluster {cluster!r}: {path} is no kubeconfig that can be used: {said}") from exc


def _file(cluster: str, kubeconfig: str | Path | None, environ: Mapping[str, str]) -> Path:
    if kubeconfig is not None:
        candidates = [str(kubeconfig)]
    elif environ.get("KUBECONFIG"):
        candidates = [part for part in environ["KUBECONFIG"].split(os.pathsep) if part]  # of several, the first that is there
    else:
        candidates = ["~/.kube/config"]
    for candidate in candidates:
        if (path := Path(candidate).expanduser()).is_file():
            return path
    raise InputError(
        f"cluster {cluster!r}: there is no kubeconfig at {', '.join(candidates)}; "
        f"name one in [services.clusters.{cluster}] kubeconfig, or in KUBECONFIG"
    )


def _completed(config: SingleConfig | None) -> SingleConfig:
    from lightkube.config.models import User

    assert config is not None
    return config._replace(user=config.user or User())
