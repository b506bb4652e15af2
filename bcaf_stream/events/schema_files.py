"""The published description of events: a JSON Schema made from the types, and an AsyncAPI document around it.

python -m bcaf_stream.events.schema_files writes them anew; a test compares. Readers accept fields that they do
not know, and so does the schema: version 1 grows by adding alone.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bcaf_stream.events.fields import ADDED, INT64
from bcaf_stream.events.messages import VERSION, Event
from bcaf_stream.events.replay_request import MAX_CREDIT

FOLDER = Path(__file__).with_name("schema")
ID = "https://json-schema.org/draft/2020-12/schema"
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}


def event_schema() -> dict[str, Any]:
    """JSON Schema of the map of event v1, in msgpack or as a line of JSON."""
    made = TypeAdapter(Event).json_schema(mode="serialization")
    properties = {name: _narrowed(name, part) for name, part in made["properties"].items()}
    required = [name for name in properties if name not in ADDED]
    return {
        "$schema": ID,
        "title": f"event.v{VERSION}",
        "description": " ".join((Event.__doc__ or "").split()),
        "type": "object",
        "properties": properties,
        "required": required,
    }


def asyncapi() -> dict[str, Any]:
    """The public sockets as AsyncAPI 3: what is sent where, and in which frames."""
    frames = "two frames: the topic (UTF-8), and the event as a msgpack map"
    parameters = {
        "call": {"description": "the call's id, percent-encoded outside A-Z a-z 0-9 _ -"},
        "channel": {"description": "the channel, encoded likewise; empty for events of the whole call"},
        "type": {"enum": event_schema()["properties"]["type"]["enum"]},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "BCAF Stream events",
            "version": f"{VERSION}.0.0",
            "description": "Journalled before published; live delivery at most once and in order per call; with "
            "replay at least once, and exactly once after dropping known ids.",
        },
        "defaultContentType": "application/msgpack",
        "servers": {
            "live": {"host": "127.0.0.1:5561", "protocol": "zmq", "description": "XPUB: connect a SUB"},
            "replay": {"host": "127.0.0.1:5562", "protocol": "zmq", "description": "ROUTER: connect a DEALER"},
        },
        "channels": {
            "events": {
                "address": f"emo.v{VERSION}.{{call}}.{{channel}}.{{type}}",
                "servers": [{"$ref": "#/servers/live"}],
                "description": frames,
                "parameters": parameters,
                "messages": {"event": {"$ref": "#/components/messages/event"}},
            },
            "replay": {
                "address": None,
                "servers": [{"$ref": "#/servers/replay"}],
                "description": "one frame per request; an answer has a first frame and, of kind events, after it "
                "topic, event, topic, event... Answers to a request come in order; a restarted hub forgets it.",
                "messages": {
                    "request": {"$ref": "#/components/messages/request"},
                    "answer": {"$ref": "#/components/messages/answer"},
                },
            },
        },
        "operations": {
            "publish": {"action": "send", "channel": {"$ref": "#/channels/events"}},
            "takeRequest": {
                "action": "receive",
                "channel": {"$ref": "#/channels/replay"},
                "messages": [{"$ref": "#/channels/replay/messages/request"}],
                "reply": {
                    "channel": {"$ref": "#/channels/replay"},
                    "messages": [{"$ref": "#/channels/replay/messages/answer"}],
                },
            },
        },
        "components": {
            "messages": {
                "event": {"contentType": "application/msgpack", "payload": {"$ref": "event.v1.json"}},
                "request": {"contentType": "application/msgpack", "payload": _request()},
                "answer": {"contentType": "application/msgpack", "payload": _answer()},
            }
        },
    }


def _request() -> dict[str, Any]:
    whole = {"type": "integer", "minimum": 0}
    kinds = (
        "replay: what is in the journal; credit: n more events of the replay with this id may come; cancel: no "
        "more of it; count: how many events of these topics lie after `after`, up to `to`"
    )
    begin = (
        "start: the first event; new: nothing, an end at once, which tells where the journal is; last: the latest "
        "event of each channel of each call; offset: this one included; time: stored then (unix ns) or later"
    )
    return {
        "type": "object",
        "required": ["v", "ask", "id"],
        "properties": {
            "v": {"const": 1},
            "ask": {"enum": ["replay", "credit", "cancel", "count"], "description": kinds},
            "id": {
                **whole,
                "description": "chosen by the client, another one for each replay or count; in each answer",
            },
            "from": {
                "description": begin,
                "oneOf": [
                    {"enum": ["start", "new", "last"]},
                    {"type": "object", "required": ["offset"], "properties": {"offset": whole}},
                    {"type": "object", "required": ["time"], "properties": {"time": whole}},
                ],
            },
            "topics": {
                "description": "prefixes of topics; for replay and count",
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": 1000,
            },
            "speed": {
                "description": "1: in original time; null or absent: as fast as it goes",
                "type": ["number", "null"],
                "exclusiveMinimum": 0,
            },
            "credit": {
                **whole,
                "description": f"of replay: so many events may come at first, {MAX_CREDIT} at most",
            },
            "n": {**whole, "description": "of credit"},
            "after": whole,
            "to": whole,
        },
    }


def _answer() -> dict[str, Any]:
    kinds = (
        "events: a page of the replay; end: its last answer, everything up to `reached` was given; count: `n`; "
        "busy: not answered, ask again later; error: `reason`"
    )
    return {
        "type": "object",
        "required": ["v", "id", "kind", "journal", "epoch"],
        "properties": {
            "v": {"const": 1},
            "id": {"type": "integer"},
            "kind": {"enum": ["events", "end", "count", "busy", "error"], "description": kinds},
            "journal": {
                "type": "string",
                "description": "the journal's identity; in another one offsets begin anew",
            },
            "epoch": {"type": "integer", "description": "counts the starts of the hub"},
            "reached": {"type": "integer", "description": "of events and end: an offset"},
            "n": {"type": "integer"},
            "reason": {"type": "string"},
        },
    }


def _narrowed(name: str, part: dict[str, Any]) -> dict[str, Any]:
    """What the types cannot say: ranges, and the one version."""
    part = {key: value for key, value in part.items() if key not in ("default", "title")}
    if name == "v":
        return {"const": VERSION}
    narrowed: dict[str, Any] = json.loads(json.dumps(part), object_hook=_bounded)
    return narrowed


def _bounded(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") == "integer":
        return {**part, "minimum": 0, "maximum": INT64 - 1}
    return {**part, **_PROBABILITY} if part.get("type") == "number" else part


def rendered() -> dict[str, str]:
    """The files' names and contents."""
    files = {"event.v1.json": event_schema(), "asyncapi.json": asyncapi()}
    return {name: json.dumps(data, indent=2) + "\n" for name, data in files.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
