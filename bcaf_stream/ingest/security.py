"""Who may come in: addresses, names, tokens, certificates, signatures and limits, the same for every server."""

import hmac
import ipaddress
import re
import socket
import ssl
from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import Field, IPvAnyNetwork, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import LinkError
from bcaf_stream.types import Role, TextSource

MAX_USED = 100_000  # signatures that are remembered; more of them within their time would need the secret

_AUTHORITY = re.compile(r"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")


class EndpointConfig(Config):
    """Where a server listens, and whom it lets in; what everything that listens has in common.

    A server that listens beyond this machine must say who may come: `tokens` is a file with one secret per line,
    `allow` a list of networks (10.1.0.0/16) for protocols that carry no secret; `insecure: true` lets anybody.
    `certificate` and `key` are PEM files and turn TLS on; one beyond this machine whose clients have a secret
    needs them, or `behind_proxy: true` where a proxy ends TLS (`allow` and the limits per client are then about
    that proxy). `hosts` are the names, beside those of this machine and plain addresses, by which clients may ask
    for a server that wants no secret.
    """

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65_535)
    tokens: Path | None = None
    allow: tuple[IPvAnyNetwork, ...] = ()
    insecure: bool = False
    certificate: Path | None = None
    key: Path | None = None
    behind_proxy: bool = False
    hosts: tuple[str, ...] = ()
    max_connections: int = Field(64, ge=1)

    @property
    def local(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def open_to_all(self) -> bool:
        """Whether nothing says who may come."""
        return not self.asks_for_secret and not self.allow

    @property
    def asks_for_secret(self) -> bool:
        """Whether a client must show or use a secret; a protocol with a key of its own (Twilio's) says more."""
        return self.tokens is not None

    @model_validator(mode="after")
    def _nobody_comes_in_unasked(self) -> Self:
        if not self.local and not self.insecure and self.open_to_all:
            raise ValueError(
                f"host {self.host} is not this machine alone: say who may come with tokens: FILE"
                " or allow: [NETWORK], or insecure: true lets anybody"
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both PEM files, or neither")
        if not self.local and self.asks_for_secret and self.certificate is None and not self.behind_proxy:
            raise ValueError(
                f"host {self.host} is not this machine alone, and secrets and sound would travel unencrypted: give"
                " certificate: FILE and key: FILE, or behind_proxy: true where a proxy ends TLS"
            )
        return self


class ServerConfig(EndpointConfig):
    """A server that takes calls; `text` is where the words of its calls come from.

    `enrol` has a sound file of one person for a role: for its calls it adds to `audio.speakers.enrol`.
    """

    text: TextSource = "asr"
    max_calls_per_client: int = Field(64, ge=1)  # a client is an address
    max_silent_per_client: int = Field(16, ge=1)  # connections that have said nothing for a second
    max_message_bytes: int = Field(262_144, ge=1024)
    first_message_s: float = Field(5.0, gt=0)  # how long a connection may be silent before its call begins
    enrol: dict[Role, Path] = Field(default_factory=dict)


class Access:
    """The checks of a server's configuration, ready to be asked.

    Raises:
        LinkError: a file of tokens, a certificate or its key cannot be read.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._tokens = read_secrets(config.tokens) if config.tokens else None
        self._pages = {name.lower() for name in config.hosts}
        self._hosts = {"localhost", config.host.lower(), socket.gethostname().lower(), *self._pages}

    def host_allowed(self, host: str | None) -> bool:
        """Whether a Host header names this server.

        Anybody can make a name of his own point here, and his page is then of the same origin as this server (DNS
        rebinding). He cannot do so with a plain address or with a name of this machine.
        """
        name = _name_in(host)
        return name in self._hosts or name.endswith(".localhost") or _is_address(name)

    def origin_allowed(self, origin: str, host: str | None) -> bool:
        """Whether a page of this origin may ask: it is this server's own, or of one of `hosts`."""
        scheme, _, authority = origin.lower().partition("://")
        own = authority == (host or "").lower() or _name_in(authority) in self._pages
        return scheme in ("http", "https") and own

    def address_allowed(self, address: str) -> bool:
        """Whether a client may connect from this address."""
        allow = self._config.allow
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return not allow
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return not allow or any(peer in network for network in allow)

    def token_allowed(self, token: str | None) -> bool:
        """Whether the secret that a client showed is one of ours; compared in constant time."""
        if self._tokens is None:
            return True
        shown = (token or "").encode("utf-8", "surrogatepass")
        # All are compared, so that the time says nothing about which one was nearly right.
        return sum(hmac.compare_digest(shown, known) for known in self._tokens) > 0

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        config = self._config
        if config.certificate is None or config.key is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(config.certificate, config.key)
        except (OSError, ssl.SSLError) as error:
            files = f"{config.certificate} and {config.key}"
            reason = error.strerror if isinstance(error, FileNotFoundError) else type(error).__name__
            raise LinkError(f"{files}: not a PEM certificate and its key ({reason})") from None
        return context


def _name_in(authority: str | None) -> str:
    """The name or address in HOST or HOST:PORT; empty where it is neither."""
    found = _AUTHORITY.fullmatch(authority or "")
    return (found[1] or found[2]).lower().rstrip(".") if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def read_secrets(path: Path) -> list[bytes]:
    """The secrets of a file that only its owner may read, one per line.

    Raises:
        LinkError: it cannot be read, holds none, or may be read by others.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LinkError(f"{path}: the file of tokens cannot be read: {error.strerror}") from None
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens:
        raise LinkError(f"{path}: holds no token: write one secret per line")
    if path.stat().st_mode & 0o077:
        raise LinkError(f"{path}: may be read by others: chmod 600 it")
    return tokens


class UsedSignatures:
    """Signatures that have let somebody in, for as long as they could do so again."""

    def __init__(self, most: int = MAX_USED) -> None:
        self._until: dict[bytes, float] = {}  # in the order of their first use
        self._most = most

    def __len__(self) -> int:
        return len(self._until)

    def take(self, signature: bytes, until: float, now: float) -> bool:
        """Whether this valid signature comes for the first time; times are unix seconds."""
        if self._until.get(signature, now) > now:
            return False
        while self._until and (
            (first := next(iter(self._until.items())))[1] <= now or len(self._until) >= self._most
        ):
            del self._until[first[0]]
        self._until[signature] = until
        return True
