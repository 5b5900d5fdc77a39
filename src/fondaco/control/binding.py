"""Binding: the data plane's rules of which addresses may be listened on; those of the control API are the same."""

from __future__ import annotations

from fondaco.dataplane.binding import check_binding, check_port_free, check_tls, is_loopback, url_of

__all__ = ["check_binding", "check_port_free", "check_tls", "is_loopback", "url_of"]
