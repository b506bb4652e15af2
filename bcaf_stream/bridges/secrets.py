"""Secrets of a bridge's address, which must not stand in a command line."""

from urllib.parse import urlsplit


def has_secret(address: str) -> bool:
    """Whether an address carries a password, or a query, where tokens stand."""
    try:
        parts = urlsplit(address)
        return bool(parts.password or parts.query)
    except ValueError:
        return False
