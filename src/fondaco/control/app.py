"""App: the control API as one Starlette application over an open platform. Whoever made the parts closes them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fondaco.control import routes_access, routes_cluster, routes_pushes, routes_services, routes_state, routes_stores
from fondaco.control.access import Access
from fondaco.control.api import Operation, StatusError, error_response, route_of
from fondaco.control.metrics import Metrics
from fondaco.control.uploads import Uploads
from fondaco.core.errors import NotFoundError
from fondaco.platform import Platform


def build_app(platform: Platform, access: Access, uploads: Uploads, metrics: Metrics, *, data: Sequence[str]) -> Starlette:
    """The application; `data` are the addresses of the data plane, as callers are told."""
    operations: list[Operation] = [
        *routes_state.operations(platform, data, metrics),
        *routes_stores.operations(platform),
        *routes_pushes.operations(platform, uploads),
        *routes_access.operations(platform),
        *routes_cluster.operations(platform),
        *routes_services.operations(platform),
    ]
    operations.append(routes_state.api_document(operations))

    async def no_such_route(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        path = request.url.path
        if exc.status_code == 404:
            return error_response(NotFoundError(path, sorted({operation.path for operation in operations}), "the control API"))
        allowed = sorted({operation.method for operation in operations if _matches(operation.path, path)})
        message = f"{request.method} is not a method of {path}; it takes {', '.join(allowed)}"
        return error_response(StatusError(exc.status_code, message, {"Allow": ", ".join(allowed)}))

    app = Starlette(
        routes=[route_of(operation, platform, access) for operation in operations], exception_handlers={HTTPException: no_such_route}
    )
    app.router.redirect_slashes = False  # a path is what it is; a redirect would lose bodies and tokens
    return app


def _matches(template: str, path: str) -> bool:
    ours, theirs = template.split("/"), path.split("/")
    return len(ours) == len(theirs) and all(part.startswith("{") or part == other for part, other in zip(ours, theirs, strict=True))
