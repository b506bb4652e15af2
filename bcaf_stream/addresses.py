"""Addresses of sockets: which ones stay on this machine, and why one cannot be had."""

import errno
import ipaddress
import re

EVERYWHERE = ("", "*", "0.0.0.0", "[::]", "::")  # what is bound to these is reached at all addresses


def is_local(address: str) -> bool:
    """Whether only programs on this machine can reach a socket bound to `address` (tcp://HOST:PORT, ipc://...)."""
    if not address.startswith("tcp://"):
        return address.startswith(("ipc://", "inproc://"))
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def in_url(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def why_not_bound(address: str, number: int | None, reason: str) -> str:
    """One line on a bind that failed with this errno."""
    if number == errno.EADDRINUSE:
        return f"{address}: the port is in use: stop what listens there, or set another `bind` (port 0: any)"
    return f"{address}: cannot be bound: give tcp://HOST:PORT of this machine ({reason})"


def reached_at(address: str, host: str | None, own: str) -> str:
    """An address as somebody elsewhere would connect to it (scheme://HOST:PORT, and what follows).

    Args:
        host: the name under which it is known; None: the one that it is bound to, or `own` where that is all.
    """
    found = re.fullmatch(r"((?!ipc|inproc)[a-z]+://)(\[[^]]*\]|[^:/]*)(.*)", address)
    if found is None:
        return address
    scheme, bound, rest = found.groups()
    if host is None and bound not in EVERYWHERE:
        return address
    return f"{scheme}{in_url(host or own)}{rest}"
