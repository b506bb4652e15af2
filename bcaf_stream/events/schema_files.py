"""The published description of events: a JSON Schema made from the types, and an AsyncAPI document around it.

python -m bcaf_stream.events.schema_files writes them anew; a test compares. Readers accept fields that they do
not know, and so does the schema: version 1 grows by adding alone.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel

from bcaf_stream.events.codec import EventMap
from bcaf_stream.events.event import VERSION, Event
from bcaf_stream.events.publisher import BUDGET, BusConfig
from bcaf_stream.events.replay.job import HOLD_S
from bcaf_stream.events.replay.owed import EACH
from bcaf_stream.events.replay.protocol import KINDS
from bcaf_stream.events.replay.server import MAX_REQUEST_BYTES, ReplayConfig
from bcaf_stream.events.replay.socket import MAX_FRAME_BYTES
from bcaf_stream.events.subscriptions import EACH_BYTES

FOLDER = Path(__file__).with_name("schema")
ID = "https://json-schema.org/draft/2020-12/schema"


def event_schema() -> dict[str, Any]:
    """JSON Schema of the map of event v1, in msgpack or as a line of JSON."""
    _, made = msgspec.json.schema_components([EventMap])
    table = made[EventMap.__name__]
    properties = {name: _without_default(part) for name, part in table["properties"].items()}
    return {
        "$schema": ID,
        "title": f"event.v{VERSION}",
        "description": " ".join((Event.__doc__ or "").split()),
        "type": "object",
        "properties": properties,
        "required": table["required"],
    }


def asyncapi() -> dict[str, Any]:
    """The public sockets as AsyncAPI 3: what is sent where, in which frames, and how much of it."""
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
            "description": " ".join(_ABOUT.split()),
        },
        "defaultContentType": "application/msgpack",
        "servers": {
            "live": {
                "host": "127.0.0.1:5561",
                "protocol": "zmq",
                "description": "XPUB: connect a SUB",
                "security": [{"$ref": "#/components/securitySchemes/curve"}],
            },
            "replay": {
                "host": "127.0.0.1:5562",
                "protocol": "zmq",
                "description": "ROUTER: connect a DEALER",
                "security": [{"$ref": "#/components/securitySchemes/curve"}],
            },
        },
        "channels": {
            "events": {
                "address": f"emo.v{VERSION}.{{call}}.{{channel}}.{{type}}",
                "servers": [{"$ref": "#/servers/live"}],
                "description": _line(_LIVE),
                "parameters": parameters,
                "messages": {"event": {"$ref": "#/components/messages/event"}},
            },
            "replay": {
                "address": None,
                "servers": [{"$ref": "#/servers/replay"}],
                "description": _line(_REPLAY),
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
                "request": {
                    "contentType": "application/msgpack",
                    "payload": {"oneOf": [_request(kind) for kind in KINDS.values()]},
                },
                "answer": {"contentType": "application/msgpack", "payload": _answer()},
            },
            "securitySchemes": {"curve": {"type": "asymmetricEncryption", "description": _line(_CURVE)}},
        },
    }


_ABOUT = """
Journalled before published; live delivery at most once and in order per call; with replay at least once, and
exactly once after dropping known ids. `seq` counts 0, 1, 2... within a call: a number that is left out was lost
on the way. `offset` counts within the journal and grows; it has holes (events that were erased, or not kept for
longer, or lost with a damaged file; and the topics that a reader did not ask for, or may not read), so that a
hole alone means no loss. An event whose `offset` is null is the hub's own and in no journal. A `degraded` event
with degraded ["journal"] and a call or an offset stands for an event that was stored and cannot be read any more;
with call "" and no offset it is the hub's: the journal cannot be written, for the `reason` that it gives, and its
events come later. Readers ignore fields and types that they do not know.
"""

_LIVE = f"""
Two frames: the topic (UTF-8), and the event as a msgpack map. Subscribe by prefix, with the dot: emo.v1.CALL.
and not emo.v1.CALL, which brings CALL2 along. A prefix has up to 1000 bytes, a connection up to
{BusConfig().max_subscriptions} of them and {EACH_BYTES} bytes in all; it may change as many in a second. Beyond
that, or beyond {BUDGET.burst} bytes sent at once and {BUDGET.per_second} in a second, the connection is ended.
So is one that has said least, where there are more than {BusConfig().max_connections}. A reader who is too slow
loses events, and sees it by `seq`. The topic emo.v1...heartbeat (call and channel are empty) comes every two
seconds and at once after each subscription to it: `offset` is that of the last event published, so that whoever
has less has lost something or is behind; `revision` is the epoch, which grows by one with each start of the
hub; `seq` counts since that start.
"""

_REPLAY = f"""
A DEALER sends one frame for each request, a msgpack map, and no empty frame before it (a REQ would send one),
and sets no routing id: of two connections with the same one, ZeroMQ hears the first alone, and the second nothing.
An answer is a frame with a msgpack map and, of kind events, after it topic, event, topic, event... Answers to a
request come in order. A replay gives events as long as it has credit, each costs one, and credit requests add
to it; `end` follows when all up to the end of the journal was given, also when the credit is then used up
exactly, and ends the replay. Events of other topics cost nothing. Go on live from there: subscribe first, then
ask, then drop what has an offset up to `reached`. A client (a connection, or a key where there are keys) may
begin {ReplayConfig().per_second:g} replays and counts in a second, and twice as many at once;
{ReplayConfig().max_replays_each} replays of it and {ReplayConfig().max_replays} of all run at the same time.
Beyond that the answer is busy: ask again a second later. `busy` also ends a replay that has had no credit for
{ReplayConfig().idle_s:g} s, or had to make room for others (when all places are taken: the one that was quiet
for longest, or one of a client with many, or one that has run so long); ask again from the last `reached` plus
1. A request has up to {MAX_REQUEST_BYTES} bytes; a frame of more than {MAX_FRAME_BYTES} ends the connection. Of
more than {ReplayConfig().max_connections} connections one that has said least is ended. Of the short answers to
a client that takes none, {EACH} wait for it, for {HOLD_S:g} s; it misses the rest. A hub that is started again
has forgotten what was asked, and says nothing. A client that is owed an answer and hears nothing for five
seconds asks again, on a new connection.
"""

_CURVE = """
Where the hub has keys (`bcaf-stream keys`), both sockets speak ZeroMQ's CURVE, and a client needs the file
NAME.json that `bcaf-stream keys new NAME` wrote: a JSON map with `public` and `secret`, the client's own keys,
and `server`, the hub's public key; each is Z85 in 40 characters, as CURVE_PUBLICKEY, CURVE_SECRETKEY and
CURVE_SERVERKEY take it. What a key may read is cut out of what it subscribes to and asks for, without an error.
"""


def _line(text: str) -> str:
    return " ".join(text.split())


def _request(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of one kind of request; without references, which would be looked up in the document."""
    made = kind.model_json_schema()
    return dict(_inlined(made, made.pop("$defs", {})))


def _inlined(part: Any, known: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_inlined(each, known) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(known[part["$ref"].rpartition("/")[2]], known)
    kept = {key: each for key, each in part.items() if key != "title" or not isinstance(each, str)}
    return {key: _inlined(each, known) for key, each in kept.items()}


def _answer() -> dict[str, Any]:
    kinds = (
        "events: a page of the replay; end: its last answer, everything up to `reached` was given; count: `n`; "
        "busy: not answered, or given up: ask again later; error: `reason`, and the replay is over"
    )
    properties = {
        "v": {"const": 1},
        "id": {"type": "integer", "description": "of the request; 0 where it had none that could be read"},
        "kind": {"enum": ["events", "end", "count", "busy", "error"], "description": kinds},
        "journal": {"type": "string", "description": "the journal's identity; in another one offsets begin anew"},
        "epoch": {"type": "integer", "description": "counts the starts of the hub"},
        "reached": {"type": "integer", "description": "of events and end: the offset up to which all was given"},
        "n": {"type": "integer", "description": "of count: how many events"},
        "reason": {"type": "string", "description": "of error: what is wrong with the request, or with the hub"},
    }
    always = ["v", "id", "kind", "journal", "epoch"]
    needs = {"events": ["reached"], "end": ["reached"], "count": ["n"], "error": ["reason"], "busy": []}
    return {
        "type": "object",
        "required": always,
        "properties": properties,
        "oneOf": [{"properties": {"kind": {"const": kind}}, "required": own} for kind, own in needs.items()],
    }


def _without_default(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "default"}


def rendered() -> dict[str, str]:
    """The files' names and contents."""
    files = {"event.v1.json": event_schema(), "asyncapi.json": asyncapi()}
    return {name: json.dumps(data, indent=2) + "\n" for name, data in files.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
