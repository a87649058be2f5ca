"""Addresses of servers, as they may be shown: what stands behind the host may be a secret."""

from __future__ import annotations

from urllib.parse import urlsplit

from phloem.errors import ConfigError


def host_of(url: str, what: str) -> str:
    """The host and port in the address of a server, for messages.

    >>> host_of("https://name:password@node.example.org:8545/secret", "a node")
    'node.example.org:8545'

    Raises:
        ConfigError: it is no address that begins with http:// or https://.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigError(f"expected the address of {what}, such as https://HOST:PORT")
    return host if port is None else f"{host}:{port}"
