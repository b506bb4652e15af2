"""A client of Genesys AudioHook for the tests: it counts its messages and its position."""

import json
from typing import Any

NO_ID = "00000000-0000-0000-0000-000000000000"
BOTH = ("external", "internal")


def offer(*sides: str, media: str = "PCMU", rate: int = 8000) -> dict[str, Any]:
    return {"type": "audio", "format": media, "channels": list(sides), "rate": rate}


class AudioHookClient:
    """What a client would send; `hear` takes what the server said."""

    def __init__(self, session: str = "e160e428-53e2-487c-977d-96989bf5c99d", position: float = 0.0) -> None:
        self.session = session
        self.position = position  # seconds
        self.seq = self.serverseq = 0
        self.heard: list[dict[str, Any]] = []

    def message(self, kind: str, **parameters: Any) -> str:
        self.seq += 1
        fields = {"version": "2", "id": self.session, "type": kind, "seq": self.seq, "serverseq": self.serverseq}
        return json.dumps(fields | {"position": duration(self.position), "parameters": parameters})

    def open(self, conversation: str | None = "c0", media: list[Any] | None = None, **more: Any) -> str:
        participant = {"id": "p", "ani": "+1", "aniName": "x", "dnis": "+2"}
        parameters = {"organizationId": "o", "conversationId": conversation, "participant": participant}
        offers = [offer(*BOTH), offer("external"), offer("internal")] if media is None else media
        return self.message("open", **parameters, media=offers, **more)

    def audio(self, data: bytes, bytes_per_sample: int = 2) -> bytes:
        self.position += len(data) / bytes_per_sample / 8000
        return data

    def discarded(self, seconds: float, kind: str = "discarded") -> str:
        start, self.position = self.position, self.position + seconds
        return self.message(kind, start=duration(start), discarded=duration(seconds))

    def hear(self, data: str | bytes) -> dict[str, Any]:
        """Check what the server said, as the reference client does, and return it."""
        message: dict[str, Any] = json.loads(data)
        assert message["version"] == "2"
        assert message["id"] == self.session
        assert message["seq"] == self.serverseq + 1
        assert message["clientseq"] <= self.seq
        assert isinstance(message["parameters"], dict)
        self.serverseq += 1
        self.heard.append(message)
        return message


def duration(seconds: float) -> str:
    return f"PT{seconds:.6f}".rstrip("0").rstrip(".") + "S"
