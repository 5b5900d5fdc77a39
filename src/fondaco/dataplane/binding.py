"""Binding: which addresses the servers may listen on, and whether callers then need tokens.

A loopback address is for this machine only. Any other can be reached by others: callers need tokens there, and the servers refuse to
listen on it while there is neither a token nor TLS, because then anybody could read and change everything.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

from fondaco.core.config import ServerConfig
from fondaco.core.errors import InputError
from fondaco.core.ports import server_ports


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name counts by what it stands for."""
    try:
        addresses: Iterable[str] = {str(found[4][0]) for found in socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)}
    except OSError as exc:
        raise InputError(f"{host!r} is no address of this machine: {exc}") from None
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)


def check_binding(host: str, config: ServerConfig, *, has_tokens: bool) -> bool:
    """Whether callers need a token on this address.

    Raises:
        InputError: others can reach it, and nothing protects it; or the certificate is half given or cannot be read.
    """
    tls = check_tls(config)
    if is_loopback(host):
        return config.require_token
    if not has_tokens and tls is None:
        raise InputError(
            f"{host} can be reached from other machines, and there is neither a token nor TLS. Make a token (fondaco token create NAME "
            "--role '*=admin'), or set certificate and private_key under [server] in fondaco.toml; or listen on 127.0.0.1."
        )
    return True


def check_tls(config: ServerConfig) -> tuple[Path, Path] | None:
    """The files of certificate and private key; None: plain HTTP.

    Raises:
        InputError: one is given without the other, or is not there.
    """
    if config.certificate is None and config.private_key is None:
        return None
    if config.certificate is None or config.private_key is None:
        raise InputError("[server] needs both certificate and private_key, or neither")
    files = Path(config.certificate), Path(config.private_key)
    for file in files:
        try:
            file.read_bytes()
        except OSError as exc:
            raise InputError(f"[server] names {file}, which cannot be read: {exc.strerror}") from None
    return files


def check_port_free(host: str, port: int, option: str) -> int:
    """`port` if nothing listens there; a free one if it is 0.

    Args:
        option: how the user chooses another, for the message.
    Raises:
        InputError: it is taken, or the address is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        if port == 0:
            for number in server_ports():
                with contextlib.suppress(OSError):
                    return _listened(family, host, number)
        return _listened(family, host, port)
    except PermissionError:
        raise InputError(f"port {port} may not be used by this user; choose one above 1023 with {option}") from None
    except OSError as exc:
        raise InputError(
            f"{host}:{port} cannot be listened on ({exc.strerror}); choose another with {option}, or stop who is there"
        ) from None


def _listened(family: int, host: str, port: int) -> int:
    """Listen for a moment; returns where."""
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a server that just ended do not count
        listener.bind((host, port))
        listener.listen(1)
        return int(listener.getsockname()[1])


def url_of(host: str, port: int, *, tls: bool) -> str:
    """The address as a URL."""
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
