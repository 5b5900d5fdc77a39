"""The document of the control API describes what the server does: checked from outside, by schemathesis, in bounded time."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fondaco as fd
from control_server import ControlServer, rows
from leftover_services import end_services

# positive_data_acceptance: a request may fit its JSON schema and still be refused, such as a value that is no Avro schema.
CHECKS = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
REPUSH = "post_stores_store_repush"  # each starts a process that builds a version
UPLOAD = "post_stores_store_pushes"  # its body is an Arrow stream, which schemathesis cannot make
SCALE = "post_services_service_scale"  # to dozens of processes
DELETIONS = ["delete_stores_store", "delete_services_service"]
NAMES = '[parameters]\n"path.store" = "members"\n"path.token" = "ops"\n"path.service" = "members-web"\n'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    fd.open(tmp_path / "platform").close()
    with ControlServer(tmp_path / "platform") as running:
        running.create_store("members")
        running.push("members", rows(10))
        web = {"store": "members", "name": "members-web", "exact_name": True}
        assert running.http.post("/v1/services", json={"spec": web, "holder": "test"}).status_code == 200
        yield running
        assert "Traceback" not in running.log
    end_services(tmp_path)


@pytest.mark.parametrize(
    ("configuration", "excluded"),
    [("", [UPLOAD, SCALE]), (NAMES, [UPLOAD, REPUSH, SCALE, *DELETIONS])],
    ids=["any-names", "names-that-exist"],
)
def test_every_answer_is_as_the_document_says(server: ControlServer, tmp_path: Path, configuration: str, excluded: list[str]) -> None:
    (tmp_path / "schemathesis.toml").write_text(configuration)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", f"{server.url}/openapi.json"]
    bounds = ["--max-examples", "6", "--request-timeout", "30", "--seed", "7", "--suppress-health-check", "all", "--no-color"]
    exclusions = [word for operation in excluded for word in ("--exclude-operation-id", operation)]
    done = subprocess.run([*command, *CHECKS, *bounds, *exclusions], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{40 - len(excluded)} selected / 40 total" in done.stdout  # it leaves the document's own route out


def test_the_document_names_every_route_once_with_the_role_it_needs(server: ControlServer) -> None:
    document = server.http.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 41
    swap = document["paths"]["/v1/stores/{store}/swap"]["post"]
    assert swap["description"] == "Where tokens are required, this needs a token with the role 'admin' on the store."
    assert swap["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/VersionChoice"}
    assert "security" not in document["paths"]["/healthz"]["get"]
