"""Voices that are known before a call: enrolled from files, or found by a first pass."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bcaf_stream.audio.first_pass import voices_of
from bcaf_stream.audio.speakers.clustering import Clusters, LocalSpeaker, Voice
from bcaf_stream.audio.speakers.config import SpeakerConfig, require_voices, with_voices
from bcaf_stream.audio.speakers.voices import clustered, enrolled, unlike
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError
from bcaf_stream.transcripts.pairing import Pairing, TextConfig
from bcaf_stream.types import AudioChunk
from tests.unit.audio.signals import write_wav
from tests.unit.audio.test_speakers import MIXED, PARTIES, demo, heard, mixed, unit


@cache
def agents_turns():
    """Samples at 8 kHz in which the agent speaks, by its own channel."""
    sound, rate = demo()
    cutter = CallCutter(PARTIES)
    found = [s for name in sound for s in cutter.push(AudioChunk(name, 0, rate, sound[name]))] + cutter.flush()
    return [(s.start_ms, s.end_ms) for s in found if s.channel == "agent"]


def shared_ms(segment):
    return sum(max(0, min(b, segment.end_ms) - max(a, segment.start_ms)) for a, b in agents_turns())


def test_whoever_may_be_the_enrolled_agent_has_the_agents_policy(tmp_path: Path):
    sound, rate = demo()
    file = write_wav(tmp_path / "agent.wav", sound["agent"][: 15 * rate])
    config = load_config(AudioConfig, overrides=[f"speakers.enrol.agent={file}"])
    both, _ = mixed()
    cutter = CallCutter(MIXED, config)
    segments = cutter.push(AudioChunk("room", 0, rate, both)) + cutter.flush()
    pairing = Pairing(MIXED, TextConfig(policy={"agent": "off"}))
    judged = [segment for segment in segments if pairing.permits(segment)]
    assert {segment.role for segment in segments} == {"agent", None}
    assert len(judged) >= 3
    for segment in judged:
        assert shared_ms(segment) < 0.3 * (segment.end_ms - segment.start_ms), "the agent is judged"
    with pytest.raises(ConfigError, match="several channels"):
        enrolled({"agent": Path("bcaf_stream/demo/call.wav").absolute()})


def test_a_voice_that_is_none_is_refused_in_one_line(tmp_path: Path):
    sound, rate = demo()
    both, _ = mixed()
    (tmp_path / "text.wav").write_text("no sound")
    three_s = sound["agent"][: 3 * rate]
    refused = {
        "short": (
            write_wav(tmp_path / "short.wav", three_s),
            r"s of a voice; give 5 s of speech",
        ),
        "silent": (write_wav(tmp_path / "silent.wav", np.zeros(8 * rate)), r"0\.0 s of a voice"),
        "empty": (write_wav(tmp_path / "empty.wav", np.zeros(0)), "empty.wav"),
        "two people": (write_wav(tmp_path / "two.wav", both), "more than one person"),
        "absent": (tmp_path / "absent.wav", "cannot be read: No such file"),
        "text": (tmp_path / "text.wav", "text.wav"),
    }
    for kind, (path, reason) in refused.items():
        with pytest.raises(ConfigError, match=reason) as error:
            enrolled({"agent": path})
        assert "audio.speakers.enrol.agent" in str(error.value), kind
        assert "\n" not in str(error.value)


def test_a_second_pass_knows_who_speaks_from_the_first_moment():
    both, rate = mixed()
    voices = voices_of(MIXED, AudioConfig(), [AudioChunk("room", 0, rate, both)])
    assert len(voices["room"]) == 2
    cutter = CallCutter(MIXED, voices=voices)
    segments = cutter.push(AudioChunk("room", 0, rate, both)) + cutter.flush()
    assert {segment.speaker for segment in segments} == {"S1", "S2"}
    assert [segment.relabelled for segment in segments] == [()] * len(segments)
    assert segments[0].speaker_confidence > 0.9
    assert voices_of(PARTIES, AudioConfig(), []) == {}
    assert voices_of(MIXED, AudioConfig(), []) == {}


def test_vectors_are_clustered_into_those_who_speak_most():
    rng = np.random.default_rng(0)
    people = [unit(*(np.eye(8)[n])) for n in range(3)]

    def said(person, count):
        for _ in range(count):
            noisy = people[person] + rng.normal(0, 0.02, 256).astype(np.float32)
            yield LocalSpeaker(noisy / np.linalg.norm(noisy), 2.0, np.zeros(0))

    local = [*said(0, 20), *said(1, 40), *said(2, 1), LocalSpeaker(None, 3.0, np.zeros(0))]
    found = clustered(local, 20)
    assert [int(np.argmax(np.array(people) @ one)) for one in found][:2] == [1, 0]
    assert len(clustered(local, 1)) == 1
    assert clustered([], 20) == []
    assert len(unlike(found, [Voice(people[1], "agent")])) == len(found) - 1


def test_those_who_are_known_are_all_and_stay_apart():
    clusters = Clusters(2, [Voice(unit(1)), Voice(unit(1, 1))])
    assert clusters.assign(heard(unit(0, 0, 1))) == [0]
    for _ in range(10):
        clusters.assign(heard(unit(1, 0.5), unit(0.9, 0.6)))
    assert len(clusters) == 2
    assert clusters.joined == {}


def test_a_server_adds_its_voices(tmp_path: Path):
    sound, rate = demo()
    file = write_wav(tmp_path / "agent.wav", sound["agent"][: 15 * rate])
    added = with_voices("auto", {"agent": file}, "ingest.pcm.enrol")
    assert added == SpeakerConfig(enrol={"agent": file})
    assert with_voices(SpeakerConfig(max=3), {"agent": file}, "x") == SpeakerConfig(max=3, enrol={"agent": file})
    assert with_voices("off", {}, "x") == "off"
    with pytest.raises(ConfigError, match=r"ingest\.pcm\.enrol: .*not with audio.speakers=off"):
        with_voices("off", {"agent": file}, "ingest.pcm.enrol")
    with pytest.raises(ConfigError, match=r"ingest\.pcm\.enrol\.agent: .*cannot be read"):
        require_voices({"agent": tmp_path / "absent.wav"}, "ingest.pcm.enrol")
