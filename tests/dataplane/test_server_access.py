"""Who may call a server, over what, and how much: tokens, roles, TLS, quotas."""

from __future__ import annotations

import datetime
import http.client
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import fondaco as fd
from data_server import DataServer, Reply, ask
from fondaco.catalog import quotas, tokens
from fondaco.catalog.rows import Role
from fondaco.dataplane import wire
from waiting import wait_for

HOUR_US = 3_600_000_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with fd.open(tmp_path / "p") as platform:
        for name in ("s", "t"):
            store = platform.create_store(name, key="long", value=pa.schema([("v", pa.int64())]), partitions=2)
            store.push(pa.table({"key": range(100), "v": range(100)}), progress=False)
    return tmp_path / "p"


def make_token(directory: Path, name: str, roles: Mapping[str, Role], lives_us: int | None = None) -> str:
    now_us = time.time_ns() // 1000
    with fd.open(directory) as platform, platform.catalog.write() as connection:
        return tokens.create(connection, name, roles, None if lives_us is None else now_us + lives_us, now_us)[1]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def server(directory: Path) -> Iterator[DataServer]:
    (directory / "fondaco.toml").write_text("[server]\nrequire_token = true\n")
    with DataServer(directory) as server:
        yield server


GET = "/v1/stores/s/rows/1"


def test_without_a_token_nothing_but_health_is_answered(server: DataServer) -> None:
    for target in ("/v1/stores", "/v1/stores/s", GET, "/v1/routing", "/v1/stats"):
        for accept in (wire.JSON, wire.AVRO):
            reply = server.ask("GET", target, headers={"Accept": accept})
            assert (reply.status, reply.error) == (401, "AuthenticationError")
    for target in ("rows", "columns", "compute", "writes"):
        assert server.ask("POST", f"/v1/stores/s/{target}", {"keys": [1]}).status == 401
    for target in ("/healthz", "/readyz", "/openapi.json"):
        assert server.ask("GET", target).status == 200


def test_a_token_opens_what_its_roles_say(directory: Path, server: DataServer) -> None:
    reads, writes, admin, other = (
        make_token(directory, name, roles)  # type: ignore[arg-type]
        for name, roles in {
            "reads": {"s": "read"}, "writes": {"s": "write"}, "admin": {"*": "admin"}, "other": {"t": "admin"},
        }.items()
    )  # fmt: skip
    wait_for(lambda: server.ask("GET", GET, headers=bearer(other)).status != 401, "the new tokens are known")

    def status(token: str, method: str, target: str, body: Any = None, **headers: str) -> int:
        return server.ask(method, target, body, {**bearer(token), **headers}).status

    write = {"writes": [{"op": "put", "key": 1, "row": {"v": 1}}]}
    for accept in (wire.JSON, wire.AVRO):
        assert [status(token, "GET", GET, Accept=accept) for token in (reads, writes, admin, other)] == [200, 200, 200, 403]
    assert [status(token, "POST", "/v1/stores/s/writes", write) for token in (reads, writes, admin, other)] == [403, 200, 200, 403]
    assert [status(token, "GET", "/v1/stats") for token in (reads, writes, admin, other)] == [403, 403, 200, 403]
    assert [store["name"] for store in server.ask("GET", "/v1/stores", headers=bearer(reads)).json()["stores"]] == ["s"]
    assert set(server.ask("GET", "/v1/routing", headers=bearer(other)).json()["stores"]) == {"t"}
    nobody = server.ask("GET", "/v1/stores/nope/rows/1", headers=bearer(reads))
    assert nobody.status == 403  # whoever may not read a store is not told whether there is one
    assert server.ask("GET", "/v1/stores/nope/rows/1", headers=bearer(admin)).status == 404


def test_a_token_that_expires_or_is_revoked_is_refused_soon(directory: Path, server: DataServer) -> None:
    short, revoked = make_token(directory, "short", {"*": "read"}, 4_000_000), make_token(directory, "gone", {"*": "read"})
    with server.connection() as connection:
        wait_for(lambda: ask(connection, "GET", GET, headers=bearer(revoked)).status == 200, "the token is known")
        with fd.open(directory) as platform, platform.catalog.write() as write:
            tokens.revoke(write, "gone", now_us=time.time_ns() // 1000)
        begun = time.monotonic()
        wait_for(lambda: ask(connection, "GET", GET, headers=bearer(revoked)).status == 401, "the revoked token is refused")
        assert time.monotonic() - begun < 20
        assert "revoked" in ask(connection, "GET", GET, headers=bearer(revoked)).json()["message"]
        wait_for(lambda: ask(connection, "GET", GET, headers=bearer(short)).status == 401, "the expired token is refused")
        assert "expired" in ask(connection, "GET", GET, headers=bearer(short)).json()["message"]


def test_the_run_file_holds_a_secret_for_statistics_that_others_cannot_read(directory: Path, server: DataServer) -> None:
    path = directory / "run" / f"served-{server.port}.json"
    assert path.stat().st_mode & 0o077 == 0
    secret = json.loads(path.read_text())["secret"]
    assert server.ask("GET", "/v1/stats", headers=bearer(secret)).status == 200


# -- quotas -------------------------------------------------------------------------------------------------------------------------------


def test_a_caller_beyond_its_quota_is_told_when_to_come_back_and_others_are_served(directory: Path) -> None:
    with fd.open(directory) as platform, platform.catalog.write() as connection:
        quotas.set_quota(connection, "s", "anonymous", 10.0, 2.0)
    with DataServer(directory) as server, server.connection() as connection:

        def read(accept: str = wire.AVRO) -> Reply:
            return ask(connection, "GET", GET, headers={"Accept": accept})

        assert ask(connection, "POST", "/v1/stores/s/rows", {"keys": list(range(30))}).status == 200  # more than a second's worth
        for accept in (wire.AVRO, wire.JSON):
            refused = read(accept)
            assert (refused.status, refused.error) == (429, "QuotaExceededError")
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["retryable"] is True
        assert ask(connection, "GET", "/v1/stores/t/rows/1").status == 200
        wait_for(lambda: read().status == 200, "the quota has filled up again")
        write = {"writes": [{"op": "put", "key": key, "row": {"v": 1}} for key in range(3)]}
        assert ask(connection, "POST", "/v1/stores/s/writes", write).status == 200
        assert ask(connection, "POST", "/v1/stores/s/writes", write).status == 429
        with fd.open(directory) as platform, platform.catalog.write() as change:
            quotas.set_quota(change, "s", "anonymous", None, None)
        wait_for(lambda: all(read().status == 200 for _ in range(30)), "the quota is gone")
        stats = ask(connection, "GET", "/v1/stats").json()["stores"]["s"]
        assert stats["get"]["quota_refusals"] >= 2


# -- TLS ----------------------------------------------------------------------------------------------------------------------------------


def make_certificate(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fondaco test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def test_tls_is_spoken_and_plain_text_is_not(directory: Path, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    (directory / "fondaco.toml").write_text(
        f'[server]\ncertificate = "{tmp_path / "cert.pem"}"\nprivate_key = "{tmp_path / "key.pem"}"\nheader_s = 1.0\n'
    )
    with DataServer(directory) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=20)
        assert ask(connection, "GET", GET).json() == {"v": 1}
        large = ask(connection, "POST", "/v1/stores/s/rows", {"keys": list(range(100)) * 90})
        assert len(large.json()["rows"]) == 9000
        connection.close()
        with pytest.raises((http.client.HTTPException, OSError)):
            server.ask("GET", GET)
        with server.raw() as silent:
            silent.settimeout(20)
            assert silent.recv(1) == b""  # a handshake that does not come is not waited for
        assert server.stop() == 0


@pytest.mark.parametrize("protected", [False, True])
def test_an_address_that_others_reach_needs_protection(directory: Path, protected: bool) -> None:
    if not protected:
        command = [sys.executable, "-m", "fondaco.dataplane.serve", str(directory), "--host", "0.0.0.0", "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert "neither a token nor TLS" in done.stderr
        return
    token = make_token(directory, "reader", {"*": "read"})
    with DataServer(directory, "--host", "0.0.0.0") as server:
        assert server.ask("GET", GET).status == 401
        assert server.ask("GET", GET, headers=bearer(token)).status == 200
