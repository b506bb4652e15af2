"""Sessions of Twilio Media Streams and of Telnyx, as their documentation shows them, written for the tests."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

FRAME = 160  # mu-law bytes in 20 ms


def twilio_start(call: str = "CA1", tracks: Sequence[str] = ("inbound", "outbound"), stream: str = "MZ1") -> str:
    media_format = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    start = {"streamSid": stream, "accountSid": "AC1", "callSid": call, "tracks": list(tracks)}
    start |= {"customParameters": {}, "mediaFormat": media_format}
    return json.dumps({"event": "start", "sequenceNumber": "1", "start": start, "streamSid": stream})


def twilio_media(track: str, chunk: int | None, timestamp: int | None, payload: bytes, seq: int = 2) -> str:
    media: dict[str, Any] = {"track": track, "payload": base64.b64encode(payload).decode()}
    media |= {} if chunk is None else {"chunk": str(chunk)}
    media |= {} if timestamp is None else {"timestamp": str(timestamp)}
    return json.dumps({"event": "media", "sequenceNumber": str(seq), "media": media, "streamSid": "MZ1"})


def twilio_stop(call: str = "CA1") -> str:
    return json.dumps({"event": "stop", "sequenceNumber": "99", "stop": {"accountSid": "AC1", "callSid": call}})


def twilio_session(tracks: dict[str, bytes], call: str = "CA1", frame: int = FRAME) -> Iterator[str]:
    """A whole call: the frames of all tracks in the order of their time."""
    yield json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})
    yield twilio_start(call, list(tracks))
    yield from twilio_frames(tracks, frame)
    yield twilio_stop(call)


def twilio_frames(tracks: dict[str, bytes], frame: int = FRAME, first_ms: int = 0) -> Iterator[str]:
    frames = [
        (start, name, data[start : start + frame])
        for name, data in tracks.items()
        for start in range(0, len(data), frame)
    ]
    for seq, (start, name, payload) in enumerate(sorted(frames, key=lambda item: item[0]), 2):
        yield twilio_media(name, start // frame + 1, first_ms + start // 8, payload, seq)


def telnyx_start(call: str = "v3:call", encoding: str = "PCMU") -> str:
    start = {"user_id": "u", "call_control_id": call, "call_session_id": "s", "from": "+1", "to": "+2"}
    start |= {"media_format": {"encoding": encoding, "sample_rate": 8000, "channels": 1}}
    return json.dumps({"event": "start", "sequence_number": "1", "start": start, "stream_id": "32DE"})
