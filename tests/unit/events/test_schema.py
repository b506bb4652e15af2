"""The published schema says what the codec does: on golden events, on made ones, and on wrong ones."""

import json
from pathlib import Path

import jsonschema
import pytest

from bcaf_stream.events.codec import to_map
from bcaf_stream.events.messages import EVENT_TYPES, heartbeat
from bcaf_stream.events.schema_files import FOLDER, event_schema, rendered

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
