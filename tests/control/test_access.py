"""Who may call the control API, where tokens are required, over TLS and on addresses that others can reach."""

import ipaddress
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

import fondaco as fd
from control_server import ControlServer, error_of, rows
from fondaco.catalog import tokens
from fondaco.control.access import NewToken, create_token, list_tokens, revoke_token
from fondaco.core.errors import PermissionDeniedError
from fondaco.remote import RemotePlatform


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlServer, dict[str, str]]]:
    """A control API that requires tokens, and the secrets of some."""
    directory = tmp_path_factory.mktemp("access") / "platform"
    made = {}
    with fd.open(directory) as platform:
        for name, roles in (
            ("ops", {"*": "admin"}),
            ("owner", {"members": "admin"}),
            ("reader", {"members": "read"}),
            ("everywhere", {"*": "read"}),
            ("brief", {"*": "admin"}),
        ):
            made[name] = create_token(platform, NewToken(name, roles))[1]  # type: ignore[arg-type]  # the dict's values are roles
        revoke_token(platform, "brief")
    (directory / "fondaco.toml").write_text("[server]\nrequire_token = true\n")
    with ControlServer(directory) as server:
        ops = as_(made, "ops")
        for store in ("members", "jobs"):
            value = {"type": "record", "name": "r", "fields": [{"name": "x", "type": "long"}]}
            assert server.http.post("/v1/stores", json={"name": store, "value": value}, headers=ops).status_code == 201
        yield server, made


def as_(made: dict[str, str], name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {made[name]}"}


def test_health_and_the_document_need_no_token_and_everything_else_does(secrets: tuple[ControlServer, dict[str, str]]) -> None:
    server, _ = secrets
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert server.http.get(path).status_code == 200
        assert server.http.get(path, headers={"Authorization": "Bearer fdc_of_yesterday"}).status_code == 200
    for path in ("/v1/endpoints", "/v1/stores", "/v1/stores/members", "/v1/routing", "/v1/tokens", "/v1/nodes", "/metrics"):
        answer = server.http.get(path)
        assert error_of(answer, 401)["error"] == "AuthenticationError"
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Basic dXNlcjpwYXNz", "not of the form"),
        ("Bearer", "not of the form"),
        ("Bearer fdc_no", "not known"),
        ("Bearer \xff", "not known"),
    ],
)
def test_a_header_that_is_no_good_token_is_refused_with_the_reason(
    secrets: tuple[ControlServer, dict[str, str]], header: str, message: str
) -> None:
    answer = secrets[0].http.get("/v1/stores", headers={"Authorization": header.encode("latin-1")})  # type: ignore[dict-item]  # httpx takes bytes
    assert message in error_of(answer, 401)["message"]


def test_a_revoked_token_is_refused_at_once(secrets: tuple[ControlServer, dict[str, str]]) -> None:
    server, made = secrets
    assert "'brief' was revoked" in error_of(server.http.get("/v1/stores", headers=as_(made, "brief")), 401)["message"]
    answer = server.http.post("/v1/tokens", json={"name": "passing", "roles": {"*": "read"}}, headers=as_(made, "ops"))
    passing = {"Authorization": f"Bearer {answer.json()['secret']}"}
    assert server.http.get("/v1/stores", headers=passing).status_code == 200
    assert server.http.delete("/v1/tokens/passing", headers=as_(made, "ops")).status_code == 200
    assert server.http.get("/v1/stores", headers=passing).status_code == 401


@pytest.mark.parametrize(
    ("name", "method", "path", "status"),
    [
        ("reader", "GET", "/v1/endpoints", 200),
        ("reader", "GET", "/v1/stores/members", 200),
        ("reader", "GET", "/v1/stores/members/versions", 200),
        ("reader", "GET", "/v1/stores/jobs", 403),
        ("reader", "POST", "/v1/stores/members/rollback", 403),
        ("reader", "POST", "/v1/stores/members/pushes", 403),
        ("reader", "DELETE", "/v1/stores/members", 403),
        ("reader", "GET", "/metrics", 403),
        ("everywhere", "GET", "/metrics", 200),
        ("everywhere", "GET", "/v1/stores/jobs", 200),
        ("everywhere", "POST", "/v1/stores/jobs/rollback", 403),
        ("owner", "POST", "/v1/stores/members/rollback", 409),
        ("owner", "POST", "/v1/stores/jobs/rollback", 403),
        ("owner", "GET", "/v1/tokens", 403),
        ("owner", "GET", "/v1/nodes", 403),
        ("owner", "DELETE", "/v1/placements/members", 403),
        ("ops", "GET", "/v1/tokens", 200),
        ("ops", "DELETE", "/v1/placements/members", 200),
    ],
)
def test_a_role_opens_what_it_names_and_nothing_else(
    secrets: tuple[ControlServer, dict[str, str]], name: str, method: str, path: str, status: int
) -> None:
    server, made = secrets
    answer = server.http.request(method, path, headers=as_(made, name))
    assert answer.status_code == status, answer.text
    if status == 403:
        assert error_of(answer, 403)["args"][0] == name


def test_the_list_of_stores_is_that_of_the_caller(secrets: tuple[ControlServer, dict[str, str]]) -> None:
    server, made = secrets
    listed = {
        name: [s["name"] for s in server.http.get("/v1/stores", headers=as_(made, name)).json()["stores"]]
        for name in made
        if name != "brief"
    }
    assert listed == {"ops": ["jobs", "members"], "owner": ["members"], "reader": ["members"], "everywhere": ["jobs", "members"]}


def test_no_secret_is_kept(secrets: tuple[ControlServer, dict[str, str]]) -> None:
    server, made = secrets
    for file in server.directory.rglob("*"):
        if file.is_file():
            held = file.read_bytes()
            assert [name for name, secret in made.items() if secret.encode() in held] == [], file
    assert [name for name, secret in made.items() if secret in server.log] == []


def test_a_token_expires(tmp_path: Path) -> None:
    from fondaco.core.clock import ManualClock
    from fondaco.platform import Platform

    clock = ManualClock(1_700_000_000_000_000)
    with Platform.open(tmp_path / "platform", clock=clock) as platform:
        row, _ = create_token(platform, NewToken("brief", {"*": "read"}, "90s"))
        assert row.expires_us == clock.now_us() + 90_000_000
        assert [token["state"] for token in list_tokens(platform)] == ["good"]
        clock.advance(us=90_000_000)
        assert [token["state"] for token in list_tokens(platform)] == ["expired"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_can_reach_is_refused_without_a_token_or_tls(tmp_path: Path, host: str) -> None:
    fd.open(tmp_path / "platform").close()
    command = [sys.executable, "-m", "fondaco.control.serve", str(tmp_path / "platform"), "--host", host, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{host} can be reached from other machines, and there is neither a token nor TLS" in done.stderr


def test_an_address_that_others_can_reach_requires_tokens_by_itself(tmp_path: Path) -> None:
    with fd.open(tmp_path / "platform") as platform:
        _, secret = create_token(platform, NewToken("ops", {"*": "admin"}))
    with ControlServer(tmp_path / "platform", "--host", "0.0.0.0", "--data", "http://0.0.0.0:7071") as server:
        assert server.http.get("/v1/stores").status_code == 401
        answer = server.http.get("/v1/endpoints", headers={"Authorization": f"Bearer {secret}"}).json()
        assert answer["data"] == ["http://127.0.0.1:7071"]


def _certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[1].write_bytes(private)
    return files


def test_with_a_certificate_it_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    fd.open(tmp_path / "platform").close()
    (tmp_path / "platform" / "fondaco.toml").write_text(f'[server]\ncertificate = "{certificate}"\nprivate_key = "{key}"\n')
    context = ssl.create_default_context(cafile=str(certificate))
    with ControlServer(tmp_path / "platform", scheme="https", verify=context) as server:
        server.create_store("members")
        assert server.push("members", rows(10)).json()["records"] == 10
        assert server.http.get("/v1/endpoints").json()["control"] == server.url
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{server.port}/healthz", timeout=10, trust_env=False)


def test_a_push_that_may_not_be_is_refused_with_the_reason_over_tls_too(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    with fd.open(tmp_path / "platform") as platform:
        platform.create_store("members", key="long", value=pa.schema([("v", pa.int64())]))
        with platform.catalog.write() as connection:
            secret = tokens.create(connection, "writer", {"members": "write"}, None, platform.clock.now_us())[1]
    (tmp_path / "platform" / "fondaco.toml").write_text(f'[server]\ncertificate = "{certificate}"\nprivate_key = "{key}"\n')
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        ControlServer(tmp_path / "platform", scheme="https", verify=context) as server,
        RemotePlatform(server.url, secret, tls=context) as to,
    ):
        for count in (1, 500_000):
            with pytest.raises(PermissionDeniedError, match="admin"):
                to.store("members").push(pa.table({"key": range(count), "v": range(count)}))


def test_half_a_certificate_is_refused(tmp_path: Path) -> None:
    fd.open(tmp_path / "platform").close()
    (tmp_path / "platform" / "fondaco.toml").write_text('[server]\ncertificate = "nowhere.pem"\n')
    done = subprocess.run(
        [sys.executable, "-m", "fondaco.control.serve", str(tmp_path / "platform")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "both certificate and private_key, or neither" in done.stderr
