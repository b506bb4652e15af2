"""Secrets of a bridge: in a file that its owner alone can read, never in an error message."""

from pathlib import Path
from urllib.parse import urlsplit

from bcaf_stream.errors import EventError


def read_private(path: Path, what: str, make: str = "") -> str:
    """The one line of a file that only its owner may read; `make` is a command that writes one.

    Raises:
        EventError: it cannot be read, others may read it too, or it holds no line of ASCII.
    """
    way_out = f"; make one: {make}" if make else ""
    try:
        if path.stat().st_mode & 0o077:
            raise EventError(f"{path}: others may read this {what}: chmod 600 {path}")
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise EventError(f"{path}: cannot be read: {error.strerror}{way_out}") from None
    except UnicodeDecodeError:
        raise EventError(f"{path}: holds no {what}: it is not ASCII{way_out}") from None
    if not text or len(text.splitlines()) != 1:
        raise EventError(f"{path}: must hold one line, the {what}{way_out}")
    return text


def has_secret(address: str) -> bool:
    """Whether an address carries a password, or a query, where tokens stand."""
    try:
        parts = urlsplit(address)
        return bool(parts.password or parts.query)
    except ValueError:
        return False
