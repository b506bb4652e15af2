"""Addresses of sockets: which ones stay on this machine, and why one cannot be had."""

import errno
import ipaddress


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
