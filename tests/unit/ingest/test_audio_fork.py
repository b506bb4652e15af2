"""mod_audio_fork's frames -> a call; whoever says what the samples are, it is said once or the call is refused."""

import json
from contextlib import suppress
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.config import load_config
from bcaf_stream.errors import BusyError, ConfigError, LinkError
from bcaf_stream.ingest.media import CallEnd, CallStart, Degraded, contiguous
from bcaf_stream.ingest.protocol import Item, Request
from bcaf_stream.ingest.protocols.audio_fork import MAX_EARLY_BYTES, AudioForkConfig, AudioForkParser
from bcaf_stream.types import AudioChunk, Channel, Gap

AT = 1_700_000_000 * 10**9
MS = 10**6
SAMPLES_NC = np.random.default_rng(0).integers(-32768, 32767, (800, 2), np.int16, endpoint=True)
STEREO = SAMPLES_NC.astype("<i2").tobytes()
BOTH = (Channel("customer", "customer"), Channel("agent", "agent"))


def parser(config: AudioForkConfig | None = None, **query: object) -> AudioForkParser:
    return AudioForkParser(config or AudioForkConfig(port=0), Request(f"/?{urlencode(query)}"))


def heard(items: list[Item], channel: str) -> list[int]:
    return [int(s) for i in items if isinstance(i, AudioChunk) and i.channel == channel for s in i.samples]


JAMBONZ = {"callSid": "c-1", "sampleRate": 16000, "mixType": "stereo", "from": "+1", "tags": {"any": ["thing"]}}


@pytest.mark.parametrize(
    ("query", "metadata", "config"),
    [
        ({"call": "c-1", "rate": "16k", "mix": "stereo"}, "it's my call", {}),
        ({"call": "c-1", "rate": "16000", "mix": "stereo"}, '{"callSid": 7, "rate": 0.05, "mix": ["eggs"]}', {}),
        ({}, json.dumps(JAMBONZ), {}),
        ({}, json.dumps(JAMBONZ), {"rate": 8000, "mix": "mono"}),  # is for those who do not say
        ({"call": "c-1"}, "{'not': 'json'}", {"rate": 16_000, "mix": "stereo"}),
        ({"rate": "16K"}, json.dumps({"callSid": "", "call_uuid": "c-1", "mixType": "stereo"}), {}),
    ],
)
def test_the_address_the_metadata_or_the_configuration_say_what_comes(query, metadata, config):
    machine = parser(AudioForkConfig(port=0, **config), **query)
    begin, *early = machine.push(metadata, AT)
    assert begin == CallStart("c-1", BOTH, 16_000)
    items = [*early, *machine.push(STEREO, AT + 50 * MS)]
    assert heard(items, "customer") == SAMPLES_NC[:, 0].tolist()  # left is the caller
    assert heard(items, "agent") == SAMPLES_NC[:, 1].tolist()


@pytest.mark.parametrize(
    ("mix", "channels"),
    [("mono", (Channel("customer", "customer"),)), ("mixed", (Channel("mixed", "speaker"),))],
)
def test_one_channel_is_the_callers_or_nobodys_alone(mix: str, channels: tuple[Channel, ...]):
    machine = parser(call="c", rate="8k", mix=mix)
    begin, chunk = machine.push(STEREO, AT)  # metadata is not needed then, and some dialplans send none
    assert begin == CallStart("c", channels, 8000)
    assert chunk.samples.tolist() == SAMPLES_NC.reshape(-1).tolist()


def test_a_call_without_a_name_gets_one():
    (begin,) = parser(rate="8k", mix="mono").push("", AT)
    assert begin.call == "fork-20231114-221320-000"


@pytest.mark.parametrize(
    ("query", "metadata", "said"),
    [
        ({}, "{}", r"add \?rate=8k to the address"),
        ({"rate": "8k"}, "hello", r"add \?mix=mono \(or mixed, stereo\) to the address"),
        ({"rate": "7k", "mix": "mono"}, "{}", "audio_fork address: rate must be from 8000 to 192000 Hz"),
        ({"rate": "fast", "mix": "mono"}, "{}", "rate must be from 8000"),
        ({"rate": "8k", "mix": "both"}, "{}", "mix must be one of mono, mixed, stereo"),
        ({"mix": "mono"}, '{"sampleRate": -8000}', "audio_fork metadata: sampleRate must be from 8000"),
        ({"rate": "8k"}, '{"mixType": {"a": 1}}', "mixType must be one of mono"),
        ({"rate": "8k", "mix": "mono"}, json.dumps(JAMBONZ), "the address says mix=mono, and the metadata stereo"),
        ({"rate": "8k"}, json.dumps(JAMBONZ), "the address says rate=8000, and the metadata 16000"),
        ({"call": "x" * 201, "rate": "8k", "mix": "mono"}, "{}", "call must have 1 to 200"),
    ],
)
def test_samples_of_which_nobody_knows_the_form_are_refused(query, metadata, said):
    with pytest.raises(LinkError, match=said):
        parser(**query).push(metadata, AT)


def test_metadata_that_is_late_is_waited_for_and_no_sound_is_lost():
    machine = parser()
    assert machine.push(STEREO[:1001], AT) == []
    assert machine.push(STEREO[1001:2000], AT + 20 * MS) == []
    begin, *items = machine.push(json.dumps(JAMBONZ), AT + 40 * MS)
    assert begin == CallStart("c-1", BOTH, 16_000)
    items += machine.push(STEREO[2000:], AT + 60 * MS)
    assert heard(items, "agent") == SAMPLES_NC[:, 1].tolist()


def test_metadata_is_not_waited_for_without_bound():
    machine = parser()
    for n in range(MAX_EARLY_BYTES // 1000):
        assert machine.push(bytes(1000), AT + n * MS) == []
    with pytest.raises(LinkError, match="nobody says"):
        machine.push(bytes(1000), AT + 1000 * MS)


def test_text_later_is_passed_over_and_a_pause_is_a_gap():
    machine = parser(rate="8k", mix="mono", call="c")
    machine.push("", AT)
    items = []
    for ms in (20, 40, 60, *range(5060, 5400, 20)):
        items += machine.push(bytes(320), AT + ms * MS)
        assert machine.push('{"event": "dtmf", "dtmf": "5"}', AT + ms * MS) == []
    items += machine.flush(AT, closed=False)
    gaps = [(item.start, item.end, item.reason) for item in items if isinstance(item, Gap)]
    assert gaps == [(480, 480 + 39_680, "nothing sent")]  # 4,960 ms: the first 20 ms had come at once


def test_a_closed_connection_is_the_end_and_a_broken_one_is_not():
    for closed, ends in ((True, [CallEnd()]), (False, [])):
        machine = parser(rate="8k", mix="mono")
        assert machine.flush(AT, closed) == []
        machine.push("", AT)
        assert machine.flush(AT, closed) == ends


@pytest.mark.parametrize(("sent_ms", "told"), [(20, None), (40, "2.0 times"), (10, "0.5 times")])
def test_a_rate_that_is_not_the_samples_own_is_told(sent_ms: int, told: str | None):
    machine = parser(rate="8k", mix="mono")
    items = [item for n in range(600) for item in machine.push(bytes(16 * sent_ms), AT + 20 * n * MS)]
    notes = [item.reason for item in items if isinstance(item, Degraded)]
    assert len(notes) == (told is not None)
    assert all(told and told in note for note in notes)


def test_the_answer_to_a_call_that_is_not_taken_is_an_error_of_the_module_and_hangs_up_on_nobody():
    (busy,) = parser().refused(BusyError("no more calls can be taken now"))
    assert json.loads(busy.data) == {
        "type": "error",
        "data": {"busy": True, "message": "no more calls can be taken now"},
    }
    machine = parser()
    assert machine.accepted() == []


def test_the_configuration(tmp_path):
    path = tmp_path / "fork.yaml"
    path.write_text("port: 0\ncaller: {name: agent, role: customer}")
    with pytest.raises(ConfigError, match="each with its own name"):
        load_config(AudioForkConfig, path)
    with pytest.raises(ConfigError, match="mono"):
        load_config(AudioForkConfig, None, ["port=0", "mix=left"])


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
CHANGES = st.dictionaries(st.sampled_from(sorted(JAMBONZ)), VALUES | st.lists(VALUES, max_size=2))
METADATA = CHANGES.map(lambda change: json.dumps(JAMBONZ | change))
FRAMES = st.lists(st.binary(max_size=700) | METADATA | st.text(max_size=20), max_size=12)
ASKED = st.sampled_from(["8k", "mono", "stereo", "x", ""])
QUERIES = st.dictionaries(st.sampled_from(["rate", "mix", "call"]), ASKED)


@settings(max_examples=300, deadline=None)
@given(FRAMES, QUERIES, st.booleans())
def test_any_frames_are_understood_or_refused(frames: list[str | bytes], query: dict[str, str], closed: bool):
    machine, items = parser(**query), []
    with suppress(LinkError):
        for number, frame in enumerate(frames):
            items += machine.push(frame, AT + number * 700 * MS)
        items += machine.flush(AT, closed)
    assert contiguous([item for item in items if isinstance(item, AudioChunk | Gap)])
    assert all(not isinstance(item, CallStart) for item in items[1:])
    assert all(not isinstance(item, CallEnd) for item in items[:-1])
