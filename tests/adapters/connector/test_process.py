"""The connector's process: what it says, what it counts, who may call, and how it ends."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

import fondaco as fd
from flyte_backend import Backend, Execution, Flyte1, template_of
from flyte_connectors import FONDACO, ConnectorProcess, connector
from flyte_platform import flyte_platform, serving_command
from fondaco.adapters.connector import ConnectorOptions
from fondaco.adapters.flyte1 import DataServiceConfig, DataServiceTask
from fondaco.core.errors import InputError
from waiting import free_port, wait_for

BOTH = {("dataservicetask", 0), ("dataservicecleanup", 0)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    fd.open(tmp_path / "data").close()
    return tmp_path / "data"


def task(mark: str) -> object:
    config = DataServiceConfig(Command=serving_command(mark), Readiness="/", Ttl="0.2s")
    return template_of(DataServiceTask(name="echo", task_config=config))


def health(channel: grpc.Channel, service: str = "") -> int:
    return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def refused(address: str) -> bool:
    """Whether a call that comes now is not taken."""
    try:
        with grpc.insecure_channel(address) as channel:
            health(channel)
    except grpc.RpcError as exc:
        return exc.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return False


def counted(one: ConnectorProcess) -> dict[str, float]:
    with urllib.request.urlopen(one.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line and not line.startswith("#")}


def test_it_says_where_it_listens_and_for_what_and_counts_what_it_answers(tmp_path: Path) -> None:
    with flyte_platform(tmp_path / "data", replicas=1) as here, here.backend(Flyte1()) as backend:
        (one,) = here.connectors
        assert one.address.startswith("127.0.0.1:"), "nobody else can reach it unless told so"
        assert "Flyte 1: dataservicetask, dataservicecleanup; Flyte 2: dataservicetask" in one.log
        assert "warning" not in one.log
        with grpc.insecure_channel(one.address) as channel:
            assert Flyte1().task_types(channel) == BOTH
            names = ["", "flyteidl.service.AsyncAgentService", "flyteidl2.connector.AsyncConnectorService"]
            assert {name: health(channel, name) for name in names} == dict.fromkeys(names, health_pb2.HealthCheckResponse.SERVING)
        backend.abort(backend.create(task("counted"), Execution("one")))
        found = counted(one)
        labels = 'code="OK",operation="{}",protocol="flyte1",task_type="dataservicetask"'
        assert found[f"fondaco_connector_requests_total{{{labels.format('create')}}}"] == 1
        assert found[f"fondaco_connector_requests_total{{{labels.format('delete')}}}"] == 2
        assert found['fondaco_connector_requests_in_flight{protocol="flyte1"}'] == 0
        assert all(name.startswith("fondaco_") for name in found)


def test_a_port_that_is_taken_is_an_error_and_never_shared(directory: Path) -> None:
    with connector(directory) as one:
        port = one.address.rpartition(":")[2]
        for options, remedy in ((["--port", port, "--no-metrics"], "--port"), (["--port", "0", "--metrics-port", port], "--metrics-port")):
            done = subprocess.run(
                [*FONDACO, "service", "connector", "--dir", str(directory), *options], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 2, done.stderr
            assert f"127.0.0.1:{port} cannot be listened on" in done.stderr
            assert remedy in done.stderr
            assert "Traceback" not in done.stderr


def test_it_ends_leases_and_removes_services_unless_told_not_to(tmp_path: Path) -> None:
    with flyte_platform(tmp_path / "data", "--no-reap", replicas=1) as here, here.backend(Flyte1()) as backend:
        run = backend.create(task("idle"), Execution("one"))
        name = backend.wait(run)["name"]
        backend.abort(run)
        time.sleep(0.5)  # longer than its ttl
        assert name in here.names()
        with connector(here.directory):
            wait_for(lambda: name not in here.names(), "the reaper of the second to remove it")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Nobody can write to the catalog, so that calls take long."""
    with contextlib.closing(sqlite3.connect(directory / "catalog.sqlite", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_calls_at_work_are_answered_after_sigterm_and_no_others(directory: Path) -> None:
    with (
        connector(directory, "--drain", "60s", "--no-reap") as one,
        Backend(Flyte1(), [one.address]) as backend,
        ThreadPoolExecutor(1) as pool,
    ):
        assert backend.wire.category(task("drained"))
        with locked(directory):
            creating = pool.submit(backend.create, task("drained"), Execution("one"))
            wait_for(lambda: counted(one).get('fondaco_connector_requests_in_flight{protocol="flyte1"}') == 1, "the call to be at work")
            one.process.terminate()
            wait_for(lambda: "connector ends" in one.log, "it to begin to end")
            wait_for(lambda: refused(one.address), "new calls to be refused")
            assert not creating.done()
        run = creating.result(60)
        assert run.metadata
        assert one.stop() == 0
    with flyte_platform(directory, replicas=1) as here, here.backend(Flyte1()) as later:
        assert later.wait(run)["name"], "what was created is known to the next process"


def test_a_call_that_hangs_does_not_keep_the_process(directory: Path) -> None:
    with connector(directory, "--drain", "0.1s", "--no-reap") as one, Backend(Flyte1(), [one.address]) as backend:
        template = task("hung")
        with locked(directory), ThreadPoolExecutor(1) as pool:
            failing = pool.submit(backend.create, template, Execution("one"))
            wait_for(lambda: counted(one).get('fondaco_connector_requests_in_flight{protocol="flyte1"}') == 1, "the call to be at work")
            one.ends_with.add(1)  # it may end by itself, when the catalog's patience is over, or be ended
            assert one.stop() in one.ends_with
            assert failing.exception(60) is not None


# -- TLS --------------------------------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of this test, and certificates that it signs."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._key = directory, ec.generate_private_key(ec.SECP256R1())
        self.file, _ = self._write("authority", self._key, self._key, is_authority=True)

    def signed(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a party, as files."""
        return self._write(name, ec.generate_private_key(ec.SECP256R1()), self._key, is_authority=False)

    def _write(
        self, name: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> tuple[Path, Path]:
        def called(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(called(name))
            .issuer_name(called("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(by, hashes.SHA256())
        )
        files = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = serialization.PrivateFormat.PKCS8
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
        return files


def test_callers_without_a_certificate_of_the_authority_are_refused(directory: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.signed("server")
    options = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(authority.file)]
    with connector(directory, *options) as one:
        assert "(TLS)" in one.log
        root = authority.file.read_bytes()
        mine, my_key = (file.read_bytes() for file in authority.signed("flyte"))
        with grpc.secure_channel(one.address, grpc.ssl_channel_credentials(root, my_key, mine)) as channel:
            assert health(channel) == health_pb2.HealthCheckResponse.SERVING
            assert Flyte1().task_types(channel) == BOTH
        for refused in (grpc.secure_channel(one.address, grpc.ssl_channel_credentials(root)), grpc.insecure_channel(one.address)):
            with refused as channel, pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                health(channel)


# -- options ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70_000}, "--port 70000"),
        ({"port": 8000, "metrics_port": 8000}, "--metrics-port 8000"),
        ({"drain_s": -1.0}, "--drain"),
        ({"threads": 0}, "at least 1"),
        ({"certificate": Path("c.pem")}, "both --tls-certificate and --tls-key"),
        ({"client_ca": Path("ca.pem")}, "--tls-client-ca"),
        ({"certificate": Path("/nowhere/c.pem"), "private_key": Path("/nowhere/k.pem")}, "/nowhere/c.pem cannot be read"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ConnectorOptions(**options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_an_address_that_others_can_reach_comes_with_a_warning(tmp_path: Path) -> None:
    assert ConnectorOptions().warning is None
    assert ConnectorOptions(host="localhost").warning is None
    assert "neither TLS nor" in str(ConnectorOptions(host="0.0.0.0").warning)
    certificate, key = Authority(tmp_path).signed("server")
    assert "anybody may call" in str(ConnectorOptions(host="0.0.0.0", certificate=certificate, private_key=key).warning)
    assert ConnectorOptions(host="0.0.0.0", certificate=certificate, private_key=key, client_ca=certificate).warning is None


def test_a_certificate_and_a_key_that_do_not_fit_are_refused(directory: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, _ = authority.signed("one")
    _, key = authority.signed("other")
    files = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    command = [*FONDACO, "service", "connector", "--dir", str(directory), "--port", str(free_port()), "--no-metrics", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"GRPC_VERBOSITY": "NONE"})
    assert done.returncode == 2, done.stderr
    assert "do not fit" in done.stderr
