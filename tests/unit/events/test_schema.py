"""The published schema says what the codec does: on golden events, on made ones, and on wrong ones."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import EventError
from bcaf_stream.events.codec import to_map
from bcaf_stream.events.event import EVENT_TYPES, heartbeat
from bcaf_stream.events.replay.protocol import request_of
from bcaf_stream.events.schema_files import FOLDER, event_schema, rendered
from tests.unit.events.test_replay_job import FIELDS, GOOD

JSON_SCALARS = st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text()
JSON_VALUES = st.recursive(
    JSON_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
GOLDEN = json.loads((Path(__file__).with_name("golden") / "events_v1.json").read_text(encoding="utf-8"))
CHECK = jsonschema.Draft202012Validator(event_schema())


def test_the_files_are_those_of_the_types():
    written = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert written == rendered(), "python -m bcaf_stream.events.schema_files writes them anew"


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_golden_events_are_valid(type: str):
    CHECK.validate(GOLDEN[type]["json"])


def test_a_heartbeat_and_unknown_fields_are_valid():
    CHECK.validate(to_map(heartbeat(1, 2, 3, 4)) | {"of_a_later_writer": [1]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("v", 2),
            ("type", "emotion.guess"),
            ("seq", -1),
            ("seq", None),
            ("probs", {"joy": 1.01}),
            ("probs", None),
        ],
        *[("role", "boss"), ("confidence", -0.1), ("modalities", ["smell"]), ("seq", 2**63), ("text", 3)],
    ],
)
def test_what_the_codec_refuses_is_not_valid(name: str, value: object):
    event = GOLDEN["emotion.final"]["json"] | {name: value}
    with pytest.raises(jsonschema.ValidationError):
        CHECK.validate(event)


@pytest.mark.parametrize("name", [n for n in GOLDEN["alert"]["json"] if n != "reason"])
def test_a_field_that_the_codec_misses_is_missed(name: str):
    event = {key: value for key, value in GOLDEN["alert"]["json"].items() if key != name}
    with pytest.raises(jsonschema.ValidationError):
        CHECK.validate(event)


DOCUMENT = json.loads((FOLDER / "asyncapi.json").read_text(encoding="utf-8"))
REQUEST = jsonschema.Draft202012Validator(DOCUMENT["components"]["messages"]["request"]["payload"])
ANSWER = jsonschema.Draft202012Validator(DOCUMENT["components"]["messages"]["answer"]["payload"])


@pytest.mark.parametrize("ask", GOOD)
def test_a_request_is_described_with_all_that_it_must_have(ask: str):
    good = {"v": 1, "ask": ask, **GOOD[ask]}
    REQUEST.validate(good)
    REQUEST.validate(good | {"of_a_later_client": 1})
    for name in good:
        with pytest.raises(jsonschema.ValidationError):
            REQUEST.validate({key: value for key, value in good.items() if key != name})


@given(st.sampled_from(sorted(GOOD)), st.sampled_from(FIELDS), JSON_VALUES)
def test_the_schema_of_a_request_takes_what_the_hub_takes(ask: str, name: str, value: object):
    values = {"v": 1, "ask": ask, **GOOD[ask], name: value}
    try:
        request_of(values)
        taken = True
    except EventError:
        taken = False
    whole = type(value) is float and value.is_integer()  # 1.0 is a whole number in JSON
    assert taken == REQUEST.is_valid(values) or whole


def test_each_kind_of_answer_says_what_it_has():
    always = {"v": 1, "id": 7, "journal": "9f", "epoch": 3}
    for kind, own in {"events": "reached", "end": "reached", "count": "n", "error": "reason"}.items():
        value = "why" if own == "reason" else 4
        ANSWER.validate({**always, "kind": kind, own: value})
        with pytest.raises(jsonschema.ValidationError):
            ANSWER.validate({**always, "kind": kind})
    ANSWER.validate({**always, "kind": "busy"})


def test_the_references_of_the_asyncapi_document_lead_somewhere():
    document = json.loads((FOLDER / "asyncapi.json").read_text(encoding="utf-8"))
    assert document["asyncapi"].startswith("3.")
    found = references(document)
    assert len(found) > 5
    for reference in found:
        if not reference.startswith("#"):
            assert (FOLDER / reference).is_file()
            continue
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [r for value in node.values() for r in references(value)]
    return [r for value in node for r in references(value)] if isinstance(node, list) else []
