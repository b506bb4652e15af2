"""Genesys AudioHook v2: JSON text frames and binary audio frames -> a call and its media.

Specification: "AudioHook Protocol Reference" (developer.genesys.cloud/devapps/audiohook/protocol-reference), and
where it is silent the reference implementation (github.com/purecloudlabs/audiohook-reference-implementation).
Unusual: time is told by positions, durations of the stream as the client counts it; what the client discards, or
does not send while it is paused, counts as well and is a Gap here. A conversation that comes back in a new session
says by its position where it goes on: what was heard before is left out, what was missed is told to the call.
Every text frame is numbered, and a wrong number ends the session.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from bcaf_stream.codecs import decode_linear, decode_ulaw
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.fields import Fields, require_unique_names
from bcaf_stream.ingest.media import CallEnd, CallOutcome, CallStart, ChannelConfig
from bcaf_stream.ingest.protocol import ConnectionConfig, Item, Parser, Reply, Request, WebSocketProtocol
from bcaf_stream.ingest.protocols.audiohook_signature import is_signed
from bcaf_stream.ingest.security import UsedSignatures, read_secrets
from bcaf_stream.types import AudioChunk, Gap, PcmN

RATE = 8_000
FORMATS = ("PCMU", "L16")
NO_ID = "00000000-0000-0000-0000-000000000000"  # of a connection probe's conversation
MAX_GAP = 24 * 3600 * RATE
MAX_REMEMBERED = 10_000  # conversations that may come back
_DURATION = re.compile(r"PT([0-9]{1,9}(?:\.[0-9]{1,9})?)S", re.ASCII)


class AudioHookConfig(ConnectionConfig):
    """`channels`: who is heard on which side; external is left, internal is right. `call_id` names a call.

    `tokens` holds the API keys that Genesys shows in X-API-KEY. `client_secret` is a file (mode 600) with the
    client secrets, in base64 as Genesys is given them, one per line: every request must then be signed with one.
    """

    channels: dict[Literal["external", "internal"], ChannelConfig] = Field(
        default={
            "external": ChannelConfig(name="customer", role="customer"),
            "internal": ChannelConfig(name="agent", role="agent"),
        }
    )
    call_id: Literal["conversation", "session"] = "conversation"

    client_secret: Path | None = None

    @property
    def asks_for_secret(self) -> bool:
        return super().asks_for_secret or self.client_secret is not None

    def protocol(self) -> "AudioHook":
        return AudioHook(self)

    @model_validator(mode="after")
    def _channels_have_their_names(self) -> Self:
        require_unique_names(self.channels)
        return self


class AudioHook(WebSocketProtocol):
    """A call's id is that of its conversation."""

    name = "audiohook"
    config: AudioHookConfig

    def __init__(self, config: AudioHookConfig) -> None:
        super().__init__(config)
        self._secrets: list[bytes] = []
        self._used = UsedSignatures()
        self._heard: dict[str, int] = {}

    def load(self) -> None:
        path = self.config.client_secret
        try:
            self._secrets = (
                [base64.b64decode(secret, validate=True) for secret in read_secrets(path)] if path else []
            )
        except binascii.Error:
            raise LinkError(f"{path}: a client secret must be written in base64") from None

    def parser(self, request: Request) -> "AudioHookParser":
        return AudioHookParser(self.config, self._heard)

    def may_enter(self, request: Request, now_s: float) -> bool:
        return not self._secrets or is_signed(request.header, request.target, self._secrets, now_s, self._used)


class AudioHookParser(Parser):
    """The frames of one session.

    Args:
        heard: up to which position (samples, as the client counts) each call that is not over has been heard;
            shared by all sessions of a server.

    Raises:
        LinkError: from `push`, for a client that breaks the protocol; `refused` has what to tell it.
    """

    def __init__(self, config: AudioHookConfig, heard: dict[str, int] | None = None) -> None:
        self._config = config
        self._text = config.text
        self._heard = heard if heard is not None else {}
        self._state: Literal["new", "opening", "open", "closed"] = "new"
        self._session = ""
        self._client_seq = self._seq = 0
        self._call: str | None = None  # None in a probe
        self._media: dict[str, Any] = {}
        self._position = 0  # of the client's next sample
        self._skip = 0  # samples to come that were heard in an earlier session
        self._end = 0  # samples given out, of each channel

    def push(self, data: str | bytes, received_at: int) -> list[Item]:
        """What a frame brings: text is control, bytes are sound."""
        if self._state == "closed":
            return []
        if isinstance(data, bytes):
            return self._audio(data, received_at)
        message = Fields.of_json("session", data)
        kind = self._check(message)
        parameters = message.group("parameters")
        match kind:
            case "open":
                return self._open(message, parameters)
            case "close":
                return self._close(parameters)
            case "ping":
                return [self._reply("pong")]
            case "update":
                return [self._reply("updated")]
            case "discarded":
                return self._gap(parameters, "discarded by the sender")
            case "resumed":
                return self._gap(parameters, "paused")
        return []  # paused, error, dtmf, and what is still to be invented

    def accepted(self) -> list[Reply]:
        """The session is open: the client may send sound."""
        self._state = "open"
        if self._call is not None:
            self._remember()
        return [self._reply("opened", {"startPaused": False, "media": [self._media]})]

    def refused(self, error: LinkError) -> list[Reply]:
        """Ask the client to close the session; it does so by `close`."""
        info = f"busy, try again later: {error}" if isinstance(error, BusyError) else str(error)
        return self._disconnect({"reason": "error", "info": info})

    def closed(self, outcome: CallOutcome) -> list[Reply]:
        return self._disconnect({"reason": "completed"})

    def _disconnect(self, parameters: dict[str, str]) -> list[Reply]:
        return [] if self._state == "closed" or not self._session else [self._reply("disconnect", parameters)]

    def _check(self, message: Fields) -> str:
        """The type of a message whose envelope is right."""
        kind = message.get("type")
        if message.get("version") != "2" or not isinstance(kind, str):
            raise LinkError('session: a message must say version "2" and its type')
        session = message.name("id")
        if session is None or (self._session and session != self._session):
            raise LinkError("session: the id of a message must be that of its session")
        self._session = session
        if message.whole("seq") != self._client_seq + 1:
            raise LinkError(f"session: seq must be {self._client_seq + 1}")
        self._client_seq += 1
        if (message.whole("serverseq") or 0) > self._seq:
            raise LinkError("session: serverseq is higher than any that was sent")
        if self._state == "new" and kind not in ("open", "close", "ping", "error"):
            raise LinkError("session: the first message must be open")
        return kind

    def _open(self, message: Fields, parameters: Fields) -> list[Item]:
        if self._state != "new":
            raise LinkError("session: open came twice")
        self._state = "opening"
        self._media = self._choose(parameters.get("media"))
        conversation = parameters.name("conversationId")
        if conversation in (None, NO_ID):  # somebody tries whether the connection works
            return list(self.accepted())
        self._call = conversation if self._config.call_id == "conversation" else self._session
        assert self._call is not None
        channels = tuple(self._config.channels[side].channel for side in self._sides())
        return [CallStart(self._call, channels, RATE, self._text, self._continue(self._call, message))]

    def _continue(self, call: str, message: Fields) -> int | None:
        """Place the session in its call, and say how many samples were missed before it."""
        self._position = _duration(message, "position") or 0
        before = self._heard.get(call)
        if before is None or not self._position:  # a first session, or one that counts anew
            return None
        self._skip = max(0, before - self._position)
        return max(0, self._position - before)

    def _choose(self, offered: Any) -> dict[str, Any]:
        """The offer that has most of the wanted sides, least beside them, and the smaller format."""
        wanted = self._config.channels
        usable = [offer for offer in offered if _is_usable(offer)] if isinstance(offered, list) else []
        usable = [offer for offer in usable if any(side in wanted for side in offer["channels"])]
        if not usable:
            raise LinkError("session: offers no PCMU or L16 at 8000 Hz with a channel that is wanted")

        def rank(offer: dict[str, Any]) -> tuple[int, int, int]:
            sides = offer["channels"]
            return -sum(side in wanted for side in sides), len(sides), FORMATS.index(offer["format"])

        best = min(usable, key=rank)
        return {"type": "audio", "format": best["format"], "channels": list(best["channels"]), "rate": RATE}

    def _sides(self) -> list[Literal["external", "internal"]]:
        return [side for side in self._config.channels if side in self._media["channels"]]

    def _audio(self, data: bytes, received_at: int) -> list[Item]:
        if self._state != "open" or self._call is None:
            raise LinkError("session: sound came though no call is open")
        samples_NC = self._decode(data)
        self._position += len(samples_NC)
        self._remember()
        skipped = min(self._skip, len(samples_NC))
        self._skip -= skipped
        samples_NC = samples_NC[skipped:]
        if not len(samples_NC):
            return []
        start, self._end = self._end, self._end + len(samples_NC)
        return [
            AudioChunk(self._config.channels[side].name, start, RATE, self._column(samples_NC, side), received_at)
            for side in self._sides()
        ]

    def _decode(self, data: bytes) -> PcmN:
        channels = len(self._media["channels"])
        width = 1 if self._media["format"] == "PCMU" else 2
        if len(data) % (width * channels):
            raise LinkError(f"session: a binary frame must hold whole samples of {channels} channels")
        samples = decode_ulaw(data) if width == 1 else decode_linear(data)
        return samples.reshape(-1, channels)

    def _column(self, samples_NC: PcmN, side: str) -> PcmN:
        return np.ascontiguousarray(samples_NC[:, self._media["channels"].index(side)])

    def _gap(self, parameters: Fields, reason: str) -> list[Item]:
        if self._state != "open" or self._call is None:
            return []
        start, length = _duration(parameters, "start"), _duration(parameters, "discarded")
        if start is None or length is None:
            raise LinkError("session: discarded and resumed must say start and discarded")
        missing = max(0, start - self._position) + length
        if missing > MAX_GAP:
            raise LinkError("session: a gap of more than a day")
        self._position = start + length
        self._remember()
        skipped = min(self._skip, missing)
        self._skip -= skipped
        begin, self._end = self._end, self._end + missing - skipped
        if begin == self._end:
            return []
        return [Gap(self._config.channels[side].name, begin, self._end, reason) for side in self._sides()]

    def _close(self, parameters: Fields) -> list[Item]:
        reply = self._reply("closed")
        running = self._state == "open" and self._call is not None
        self._state = "closed"
        reason = parameters.get("reason")
        if not running or reason == "reconnect":  # then it comes back in another session
            return [reply]
        self._heard.pop(self._call or "", None)
        return [CallEnd("error of the sender" if reason == "error" else "complete"), reply]

    def _remember(self) -> None:
        assert self._call is not None
        self._heard[self._call] = self._position + self._skip
        if len(self._heard) > MAX_REMEMBERED:
            del self._heard[next(iter(self._heard))]

    def _reply(self, kind: str, parameters: Mapping[str, Any] | None = None) -> Reply:
        self._seq += 1
        envelope = {"version": "2", "id": self._session, "type": kind, "seq": self._seq}
        return Reply(json.dumps(envelope | {"clientseq": self._client_seq, "parameters": parameters or {}}))


def _duration(fields: Fields, name: str) -> int | None:
    """A duration such as PT1.25S, in samples; None where there is none."""
    value = fields.get(name)
    if value is None:
        return None
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise LinkError(f"session: {name} must be a duration such as PT1.25S")
    return round(float(found[1]) * RATE)


def _is_usable(offer: Any) -> bool:
    if not isinstance(offer, dict) or offer.get("type") != "audio" or offer.get("format") not in FORMATS:
        return False
    sides = offer.get("channels")
    if offer.get("rate") != RATE or not isinstance(sides, list) or not 1 <= len(sides) <= 2:
        return False
    return all(side in ("external", "internal") for side in sides) and len(set(sides)) == len(sides)
