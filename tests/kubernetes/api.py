"""Api: what tests ask a Kubernetes API server directly, as JSON: no model of objects stands between a test and what the server says.

Credentials are those of a kubeconfig context, by the same library that the provisioner uses, so whatever logs in a person also logs in a
test. Any thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightkube.config.client_adapter import Client, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig

STRATEGIC, MERGE, APPLY = "strategic-merge-patch", "merge-patch", "apply-patch"


class ApiError(AssertionError):
    """The server refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"


class Api:
    """Requests to one API server as one user."""

    def __init__(self, kubeconfig: Path, context: str | None = None, *, impersonate: str = "", timeout_s: float = 30) -> None:
        config = KubeConfig.from_file(kubeconfig).get(context)
        assert config is not None
        import httpx2  # the library's own; named here only for the timeout

        self._client = Client(config, ConnectionParams(timeout=httpx2.Timeout(timeout_s), trust_env=False))
        if impersonate:
            self._client.headers["Impersonate-User"] = impersonate

    def request(self, method: str, path: str, body: Any = None, *, kind: str = "json", **query: Any) -> Any:
        """Send one request; answers JSON as Python values, other text as str.

        Args:
            kind: "json", or of a patch STRATEGIC, MERGE or APPLY. query: parameters; `_` in a name stays.
        Raises:
            ApiError: any status from 400 on.
        """
        content_type = "application/json" if kind == "json" else f"application/{kind}+{'yaml' if kind == APPLY else 'json'}"
        answer = self._client.request(method, path, json=body, params=query or None, headers={"Content-Type": content_type})
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        if answer.status_code >= 400:
            raise ApiError(answer.status_code, str(answer.json().get("message", "")) if is_json else answer.text)
        return answer.json() if is_json else answer.text

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", path, **query)

    def find(self, path: str, **query: Any) -> Any:
        """As get; None where there is nothing."""
        try:
            return self.request("GET", path, **query)
        except ApiError as exc:
            if exc.status == 404:
                return None
            raise

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """The items of a list."""
        found: list[dict[str, Any]] = self.request("GET", path, **query)["items"]
        return found

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def patch(self, path: str, body: Any, kind: str = MERGE, **query: Any) -> Any:
        return self.request("PATCH", path, body, kind=kind, **query)

    def apply(self, path: str, body: Any, *, manager: str = "tests", force: bool = True) -> Any:
        """Server-side apply of one object to its own path."""
        return self.request("PATCH", path, body, kind=APPLY, fieldManager=manager, force=str(force).lower())

    def delete(self, path: str, **options: Any) -> Any:
        return self.request("DELETE", path, options or None)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
