"""The demo call through a real deployment gives the events that one process gives, field by field."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.launch import Deployment, Endpoints
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.config import load_config
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.events.event import Event, topic_prefix
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.recording import Analysis, Recording, TextMode
from tests.deployed import serve_config
from tests.same import assert_same_events
from tests.unit.actors.local_runtime import RATE, joined, mono_chunks
from tests.unit.audio.signals import write_wav


@pytest.fixture(scope="module")
def running(
    ray_session: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, Endpoints]]:
    with Deployment(serve_config("parity", tiny, tmp_path_factory.mktemp("parity"))) as deployment:
        yield deployment, deployment.up()


@pytest.mark.parametrize("text", ["given", "asr", "none"])
def test_three_actors_equal_one_process(running: tuple[Deployment, Endpoints], tiny: Path, text: TextMode):
    events = told(running, tiny, Recording.open(str(CALL), {}, {}, f"parity-{text}"), text)
    assert sum(event.type == "emotion.final" for event in events) >= 15


def test_so_they_do_where_several_share_a_channel(
    running: tuple[Deployment, Endpoints], tiny: Path, tmp_path: Path
):
    sound = write_wav(tmp_path / "room.wav", joined(mono_chunks(), "room"), RATE)
    events = told(running, tiny, Recording.open(str(sound), {}, {}, "parity-shared"), "none")
    assert {event.speaker for event in events if event.emotion} == {"S1", "S2"}


def told(running: tuple[Deployment, Endpoints], tiny: Path, recording: Recording, text: TextMode) -> list[Event]:
    """The events of a recording, which are the same by both ways."""
    deployment, endpoints = running
    words = recording.transcript(SCRIPT) if text == "given" else None
    config = load_config(AnalyzerConfig, None, [f"model.checkpoint={tiny}"])
    here = list(Analysis(recording, config, text, words))

    with EventSubscriber(endpoints.events, None, [topic_prefix(recording.call.id)]) as listener:
        assert deployment.wait_for_listener(10)
        closed = send_recording(recording, endpoints.audio, 0, text, words)
        there = [event for _ in here if (event := listener.receive(10)) is not None]

    assert_same_events(there, here)
    assert closed.utterances == sum(event.type == "emotion.final" for event in here)
    offsets = [event.offset for event in there if event.offset is not None]
    assert offsets == list(range(offsets[0], offsets[0] + len(here)))
    assert listener.gaps == 0
    return there
