"""Options: where a connector listens and how it ends; checked before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fondaco.core.errors import InputError
from fondaco.dataplane.binding import is_loopback

GRPC_PORT = 8000  # what Flyte's manifests of connectors use
METRICS_PORT = 9090


@dataclass(frozen=True)
class ConnectorOptions:
    """
    Attributes:
        host, port: where both protocols are served; port 0: any free one. metrics_port: where Prometheus asks, on `host` too; None:
            nowhere.
        certificate, private_key: files (PEM); both: TLS. client_ca: callers must show a certificate that this authority (PEM) has signed.
        threads: calls that may wait for a database or a cluster at once; more wait in line. calls_max: above that, calls are refused.
        drain_s: after SIGTERM, how long calls at work may take to end.
        reap: whether this process also ends leases that have expired and removes what nobody holds.
    """

    host: str = "127.0.0.1"
    port: int = GRPC_PORT
    metrics_port: int | None = METRICS_PORT
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    threads: int = 32
    calls_max: int = 512
    drain_s: float = 15.0
    reap: bool = True

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a value is wrong, or a file cannot be read; names the option.
        """
        for name, number in (("--port", self.port), ("--metrics-port", self.metrics_port)):
            if number is not None and not 0 <= number <= 65_535:
                raise InputError(f"{name} {number}: a port is a number up to 65535")
        if self.port and self.port == self.metrics_port:
            raise InputError(f"--metrics-port {self.port}: calls are answered there; choose another")
        if self.threads < 1 or self.calls_max < 1:
            raise InputError(f"threads and calls at once are at least 1, not {min(self.threads, self.calls_max)}")
        if not 0 <= self.drain_s <= 3600:
            raise InputError(f"--drain {self.drain_s:g}: seconds from 0 to 3600")
        if (self.certificate is None) != (self.private_key is None):
            raise InputError("TLS needs both --tls-certificate and --tls-key, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise InputError("--tls-client-ca: certificates of callers are checked under TLS only; give --tls-certificate and --tls-key")
        for option, file in (
            ("--tls-certificate", self.certificate),
            ("--tls-key", self.private_key),
            ("--tls-client-ca", self.client_ca),
        ):
            _readable(option, file)

    @property
    def warning(self) -> str | None:
        """What the one who starts it should know about who can reach it; None: nothing."""
        if is_loopback(self.host) or self.client_ca is not None:
            return None
        what = "TLS hides what is said, but anybody may call" if self.certificate is not None else "neither TLS nor a check of who calls"
        return (
            f"{self.host} can be reached from other machines, with {what}: whoever reaches it can start services with any command. Let a "
            "network policy admit Flyte's backend only, or give --tls-client-ca, or listen on 127.0.0.1."
        )


def _readable(option: str, file: Path | None) -> None:
    if file is None:
        return
    try:
        file.read_bytes()
    except OSError as exc:
        raise InputError(f"{option} {file} cannot be read: {exc.strerror}") from None
