"""Who may read events: key files, which topics each key is for, and the gate that the sockets ask.

A folder holds `server.json`, one `NAME.json` per client, to be given to that client, and `allowed.json`, which
says what each name may read. Key files are for their owner's eyes (0600), and are refused when they are not.
Encryption and authentication are ZeroMQ's CURVE and its ZAP protocol, by pyzmq's authenticator.
"""

import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from zmq.auth.thread import ThreadAuthenticator

from bcaf_stream.connections import Refusals
from bcaf_stream.errors import EventError, LoopError
from bcaf_stream.events.event import EVERYTHING, HEARTBEAT, parse_topic, topic_prefix
from bcaf_stream.files import replacing

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TAKEN = ("server", "allowed")


class ClientKey(NamedTuple):
    """A client's own key pair and the server's public key, as CURVE's 40 characters each."""

    public: bytes
    secret: bytes
    server: bytes

    def use(self, socket: zmq.Socket[Any]) -> None:
        socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = self


def load_client_key(path: Path) -> ClientKey:
    """The key that `bcaf-stream keys new` made.

    Raises:
        EventError: it cannot be read, others may read it too, or it is no such key.
    """
    data = _read_secret(path)
    try:
        return ClientKey(*(data[part].encode() for part in ("public", "secret", "server")))
    except (KeyError, TypeError, AttributeError):
        raise EventError(f"{path}: not a client's key: make one with bcaf-stream keys new NAME") from None


class KeyRing:
    """The folder of keys.

    Raises:
        EventError: from every method, when a file cannot be read or written, or is not what it should be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._allowed = folder / "allowed.json"

    def new(self, name: str) -> Path:
        """Make a key for a client, and the server's own if there is none; the client may read nothing yet."""
        path = self._path(name)
        if path.exists():
            raise EventError(f"{path}: there is a key of that name: revoke and delete it first")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EventError(f"{self._folder}: cannot be made: {error.strerror}") from None
        if not (self._folder / "server.json").exists():
            public, secret = zmq.curve_keypair()
            _write(self._folder / "server.json", {"public": public.decode(), "secret": secret.decode()})
        public, secret = zmq.curve_keypair()
        server = _read_secret(self._folder / "server.json")["public"]
        _write(path, {"name": name, "public": public.decode(), "secret": secret.decode(), "server": server})
        return path

    def allow(self, name: str, topics: Sequence[str]) -> list[str]:
        """Let a client read these topics and what lies below them; this replaces what it was allowed before.

        Returns the prefixes that are written: each ends where a level of a topic does.
        """
        topics = [whole_levels(topic) for topic in topics]
        wrong = [topic for topic in topics if not topic.startswith(EVERYTHING)]
        if wrong or not topics:
            raise EventError(f"--topics: must begin with {EVERYTHING}, for instance {topic_prefix('CALL')}")
        data = self._read_allowed()
        data[name] = {"public": _read_secret(self._existing(name))["public"], "topics": topics}
        _write(self._allowed, data)
        return topics

    def revoke(self, name: str) -> None:
        """Shut a client out. A running hub notices within a second."""
        data = self._read_allowed()
        if data.pop(name, None) is None:
            raise EventError(f"{name}: was allowed nothing")
        _write(self._allowed, data)

    def server(self) -> tuple[bytes, bytes]:
        """The server's public and secret key."""
        path = self._folder / "server.json"
        if not path.exists():
            raise EventError(f"{path}: no key of the server: make one with bcaf-stream keys new NAME")
        data = _read_secret(path)
        return data["public"].encode(), data["secret"].encode()

    def permissions(self) -> dict[str, tuple[bytes, ...]]:
        """For each public key that is let in, the prefixes of the topics that it may read."""
        try:
            return {
                entry["public"]: tuple(whole_levels(topic).encode() for topic in entry["topics"])
                for entry in self._read_allowed().values()
            }
        except (KeyError, TypeError, AttributeError):
            raise EventError(f"{self._allowed}: not as bcaf-stream keys writes it") from None

    def stamp(self) -> tuple[int, int] | None:
        """Changes when the permissions do."""
        try:
            stat = self._allowed.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def _read_allowed(self) -> dict[str, Any]:
        return _read_secret(self._allowed) if self._allowed.exists() else {}

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise EventError(f"{name!r}: a name has up to 64 of A-Z a-z 0-9 _ -, and is not server or allowed")
        return self._folder / f"{name}.json"

    def _existing(self, name: str) -> Path:
        path = self._path(name)
        if not path.exists():
            raise EventError(f"{path}: no such key: make it with bcaf-stream keys new {name}")
        return path


class Gate:
    """Lets known keys in and says what each may read; its ZAP handler serves the sockets of one context."""

    def __init__(self, folder: Path, context: "zmq.Context[Any]") -> None:
        self._ring = KeyRing(folder)
        self._public, self._secret = self._ring.server()
        self._lock = threading.Lock()
        self._stamp = self._ring.stamp()
        self._permissions = self._ring.permissions()
        self._refusals = Refusals("keys")
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("events", credentials_provider=self)

    def protect(self, socket: zmq.Socket[Any]) -> None:
        """Before its `bind`: the socket takes only connections of known keys."""
        socket.curve_server = True
        socket.curve_secretkey = self._secret
        socket.curve_publickey = self._public
        socket.zap_domain = b"events"

    def callback(self, domain: str, key: bytes) -> bool:
        """pyzmq's authenticator asks this for each connection."""
        with self._lock:
            known = key.decode("ascii", "replace") in self._permissions
            if not known:
                self._refusals.add("a connection with a key that is not let in")
        return known

    @property
    def refused(self) -> int:
        """Connections with a key that is not let in."""
        return self._refusals.count

    def prefixes(self, user: str) -> tuple[bytes, ...]:
        """What this key may read; nothing when it is not let in any more."""
        with self._lock:
            own = self._permissions.get(user)
        return () if own is None else (*own, HEARTBEAT)

    def narrowed(self, user: str, wanted: bytes) -> list[bytes]:
        """What is left of a subscription to the prefix `wanted`."""
        own = self.prefixes(user)
        return [wanted] if any(wanted.startswith(p) for p in own) else [p for p in own if p.startswith(wanted)]

    def refresh(self) -> bool:
        """Look at the files again; whether somebody may read less than before.

        Raises:
            EventError: they cannot be read.
            LoopError: the thread that lets connections in is dead.
        """
        if not self._authenticator.is_alive():
            raise LoopError("the thread that checks keys has stopped: close the hub and open it again")
        stamp = self._ring.stamp()
        if stamp == self._stamp:
            return False
        permissions = self._ring.permissions()
        with self._lock:
            before, self._permissions, self._stamp = self._permissions, permissions, stamp
        return any(set(prefixes) - set(permissions.get(key, ())) for key, prefixes in before.items())

    def close(self) -> None:
        self._authenticator.stop()


def whole_levels(prefix: str) -> str:
    """The prefix up to where a level of a topic ends: `emo.v1.alice` is for the call alice, not for alicebob."""
    try:
        parse_topic(prefix)
    except EventError:
        return prefix if prefix.endswith(".") else f"{prefix}."
    return prefix  # a whole topic


def _read_secret(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_mode & 0o077:
            raise EventError(f"{path}: others may read this key: chmod 600 {path}")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EventError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise EventError(f"{path}: not as bcaf-stream keys writes it") from None
    if not isinstance(data, dict):
        raise EventError(f"{path}: not as bcaf-stream keys writes it")
    return data


def _write(path: Path, data: dict[str, Any]) -> None:
    """As a whole or not at all, and for the owner alone from its first moment."""
    try:
        with replacing(path, mode=0o600) as draft:
            draft.write_text(json.dumps(data, indent=1), encoding="utf-8")
    except OSError as error:
        raise EventError(f"{path}: cannot be written: {error.strerror}") from None
