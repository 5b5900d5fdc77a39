"""Clients with tokens and over TLS: a good one reads, any other hears why; both transports, both tiers, and the writer."""

from __future__ import annotations

import asyncio
import datetime
import pickle
import ssl
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fondaco.catalog import tokens
from fondaco.core.errors import AuthenticationError, InputError, PermissionDeniedError, UnavailableError, UnwrittenError
from fondaco.dataplane.client_writer import RemoteWriter
from fondaco.dataplane.fast import AsyncFastReader, FastReader
from fondaco.dataplane.thin import AsyncThinReader, ThinReader
from fondaco.platform import Platform
from live_data_plane import DataPlaneProcess

KINDS = [ThinReader, FastReader, AsyncThinReader, AsyncFastReader]


def make_certificate(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fondaco test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
    alternative = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    certificate = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "key.pem").write_bytes(private)


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, secrets: dict[str, str]) -> Path:
    path = tmp_path_factory.mktemp("secured")
    make_certificate(path)
    with Platform.open(path / "platform") as platform:
        fields = [pa.field("n", pa.int64(), False), pa.field("text", pa.string(), False)]
        platform.create_store("members", key="long", value=pa.schema(fields)).push(
            {"key": np.arange(2000), "n": np.arange(2000), "text": ["x" * 500] * 2000}, progress=False
        )
        now_us = time.time_ns() // 1000
        with platform.catalog.write() as connection:
            secrets["reader"] = tokens.create(connection, "reader", {"members": "read"}, None, now_us)[1]
            secrets["writer"] = tokens.create(connection, "writer", {"members": "write"}, None, now_us)[1]
            secrets["other"] = tokens.create(connection, "other", {"elsewhere": "read"}, None, now_us)[1]
    settings = f'[server]\nrequire_token = true\ncertificate = "{path / "cert.pem"}"\nprivate_key = "{path / "key.pem"}"\n'
    (path / "platform" / "fondaco.toml").write_text(settings)
    return path


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[DataPlaneProcess]:
    with DataPlaneProcess(directory / "platform") as server:
        yield server


@pytest.fixture
def trusted(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(directory / "cert.pem"))


def read(kind: Any, url: str, **arguments: Any) -> tuple[Any, list[Any]]:
    """A row, and many, through any kind of reader."""
    keys = [1, 5000, *range(2000)]

    async def main() -> tuple[Any, list[Any]]:
        async with kind(url, "members", **arguments) as reader:
            return [await reader.get(7) for _ in range(3)][-1], await reader.get_many(keys)

    if kind in (AsyncThinReader, AsyncFastReader):
        return asyncio.run(main())
    with kind(url, "members", **arguments) as reader:
        return [reader.get(7) for _ in range(3)][-1], reader.get_many(keys)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_over_tls_with_a_good_token(
    kind: Any, server: DataPlaneProcess, trusted: ssl.SSLContext, secrets: dict[str, str]
) -> None:
    row, rows = read(kind, server.url, token=secrets["reader"], tls=trusted)
    assert row["n"] == 7
    assert [None if item is None else item["n"] for item in rows] == [1, None, *range(2000)]


@pytest.mark.parametrize("kind", KINDS)
def test_any_other_token_hears_why(kind: Any, server: DataPlaneProcess, trusted: ssl.SSLContext, secrets: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        read(kind, server.url, tls=trusted)
    with pytest.raises(AuthenticationError):
        read(kind, server.url, token="fdc_wrong", tls=trusted)
    with pytest.raises((PermissionDeniedError, InputError)):
        read(kind, server.url, token=secrets["other"], tls=trusted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_not_trusted_is_not_spoken_to(kind: Any, server: DataPlaneProcess, secrets: dict[str, str]) -> None:
    with pytest.raises(UnavailableError, match="its certificate is not trusted"):
        read(kind, server.url, token=secrets["reader"])
    with pytest.raises(UnavailableError):
        read(kind, server.url.replace("https", "http"), token=secrets["reader"])


def test_who_may_only_read_does_not_write(server: DataPlaneProcess, trusted: ssl.SSLContext, secrets: dict[str, str]) -> None:
    with RemoteWriter(server.url, "members", token=secrets["writer"], tls=trusted) as writer:
        assert writer.put(1, {"n": 1, "text": ""}).offset >= 0
    writer = RemoteWriter(server.url, "members", token=secrets["reader"], tls=trusted)
    position = writer.put(2, {"n": 2, "text": ""})
    with pytest.raises(PermissionDeniedError, match="role 'write'"):
        _ = position.offset
    with pytest.raises(UnwrittenError, match="1 write"):
        writer.close()


def test_a_context_of_one_s_own_is_not_pickled(server: DataPlaneProcess, trusted: ssl.SSLContext, secrets: dict[str, str]) -> None:
    with (
        ThinReader(server.url, "members", token=secrets["reader"], tls=trusted) as reader,
        pytest.raises(InputError, match="TLS context of its own cannot be pickled"),
    ):
        pickle.dumps(reader)
