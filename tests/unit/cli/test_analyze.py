"""`bcaf-stream analyze`: what it prints, and one line with the right exit code for every bad input."""

import json
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from bcaf_stream.cli.main import main
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.events.codec import from_json
from bcaf_stream.events.event import Event
from tests.commands import Outcome, run_command
from tests.tiny import tiny_checkpoint
from tests.unit.audio.signals import TrackOf, late, mux, without, write_wav

Analyze = Callable[..., Outcome]


@pytest.fixture
def analyze(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Analyze:
    def run(*arguments: str | Path, checkpoint: Path = tiny) -> Outcome:
        words = ["analyze", *map(str, arguments), "--set", f"model.checkpoint={checkpoint}"]
        return run_command(main, words, monkeypatch, capsys)

    return run


def test_a_call_with_its_transcript(analyze: Analyze, tmp_path: Path):
    output, plot = tmp_path / "events.jsonl", tmp_path / "call.png"
    done = analyze(CALL, "--transcript", SCRIPT, "--format", "jsonl", "--output", output, "--plot", plot)
    assert done.code == 0, done.err
    events = [from_json(line) for line in output.read_text().splitlines()]
    spoken = [event for event in events if event.emotion]
    said = [word for line in SCRIPT.read_text().splitlines() for word in json.loads(line)["text"].split()]
    assert events[0].type == "call.start"
    assert events[-1].type == "call.end"
    assert sorted(" ".join(event.text or "" for event in spoken).split()) == sorted(said)
    assert {event.role for event in spoken} == {"customer", "agent"}
    assert {event.modalities for event in spoken} == {("audio", "text")}
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("format", "begin"), [("rttm", "SPEAKER call 1 "), ("srt", "1\n00:00:0")])
def test_who_spoke_when_as_a_file(analyze: Analyze, tmp_path: Path, format: str, begin: str):
    done = analyze(CALL, "--transcript", SCRIPT, "--format", format, "--output", tmp_path / "turns")
    assert (done.code, done.out) == (0, "")
    turns = (tmp_path / "turns").read_text()
    assert turns.startswith(begin)
    assert turns.count("customer") >= 5 <= turns.count("agent")


def test_lines_for_a_pipe(analyze: Analyze):
    done = analyze(CALL, "--transcript", SCRIPT)
    assert done.code == 0
    assert "customer" in done.out
    assert "Are you kidding me?" in done.out


def test_audio_alone_and_a_file_for_each_channel(analyze: Analyze, tmp_path: Path):
    with av.open(str(CALL)) as container:
        frames = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1).reshape(-1, 2)
    left, right = (write_wav(tmp_path / f"{i}.wav", frames[: 8000 * 20, i]) for i in (0, 1))
    done = analyze(
        *("--channel", f"left={left}", "--channel", f"right={right}", "--role", "left=customer"),
        *("--text", "none", "--format", "jsonl"),
    )
    assert done.code == 0, done.err
    spoken = [event for line in done.out.splitlines() if (event := from_json(line)).emotion]
    assert {(event.channel, event.role) for event in spoken} == {("left", "customer"), ("right", "speaker")}
    assert {event.modalities for event in spoken} == {("audio",)}
    assert {event.text_source for event in spoken} == {"none"}


def test_silence_has_no_utterances_and_says_so(analyze: Analyze, tmp_path: Path):
    done = analyze(write_wav(tmp_path / "silence.wav", np.zeros(16_000)), "--text", "none")
    assert done.code == 0
    assert "zero utterances" in done.err


def call_sound(seconds: int) -> np.ndarray:
    """The beginning of the demo call: (2, samples) at 8 kHz."""
    with av.open(str(CALL)) as container:
        frames = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1).reshape(-1, 2)
    return frames[: 8000 * seconds].T


def spoken(done: Outcome) -> list[Event]:
    return [event for line in done.out.splitlines() if (event := from_json(line)).emotion]


def test_a_hole_in_a_recording_is_told_and_the_rest_is_heard(analyze: Analyze, tmp_path: Path):
    sound = TrackOf(call_sound(20).sum(axis=0, dtype=np.int16)[None], 48_000 // 6, "libopus", without(6.2, 9.2))
    done = analyze(mux(tmp_path / "hole.webm", [sound]), "--text", "none", "--format", "jsonl")
    assert done.code == 0, done.err
    assert "3.0" in done.err
    assert "of sound are missing, the first at 6." in done.err
    assert spoken(done)[-1].start_ms == pytest.approx(17_900, abs=400)
    (gap,) = [event for line in done.out.splitlines() if (event := from_json(line)).type == "audio.gap"]
    assert (gap.channel, gap.reason) == ("mono", "missing in the recording")
    assert gap.start_ms == pytest.approx(6200, abs=40)
    assert gap.end_ms == pytest.approx(9200, abs=40)


def test_times_are_those_of_the_file(analyze: Analyze, tmp_path: Path):
    at_once = mux(tmp_path / "a.mkv", [TrackOf(call_sound(10), 8000, "flac")])
    late_one = mux(tmp_path / "b.mkv", [TrackOf(call_sound(10), 8000, "flac", late(3.87))], video_s=14)
    starts = [
        [(event.channel, event.start_ms) for event in spoken(analyze(path, "--text", "none", "--format", "jsonl"))]
        for path in (at_once, late_one)
    ]
    assert starts[0]
    assert [name for name, _ in starts[1]] == [name for name, _ in starts[0]]
    for (_, early_ms), (_, late_ms) in zip(*starts, strict=True):
        assert late_ms - early_ms == pytest.approx(3870, abs=40)


def test_tracks_raw_samples_and_the_questions_they_raise(analyze: Analyze, tmp_path: Path):
    left, right = call_sound(10)
    path = mux(tmp_path / "rec.mkv", [TrackOf(left[None], 8000, "flac"), TrackOf(right[None], 8000, "flac")])
    options = ("--text", "none", "--format", "jsonl")
    done = analyze(path, *options)
    assert {event.channel for event in spoken(done)} == {"ch1", "ch2"}
    assert "each audio track is a channel" in done.err
    one = analyze(path, "--track", "0", *options)
    assert {event.channel for event in spoken(one)} == {"mono"}
    named = analyze("--channel", f"agent={path}#1", "--channel", f"customer={path}#0", *options)
    assert {event.role for event in spoken(named)} == {"agent", "customer"}
    assert analyze("--channel", f"agent={path}#1", "--track", "0", *options).code == 2
    raw = tmp_path / "rec.raw"
    raw.write_bytes(np.ascontiguousarray(call_sound(10).T).astype("<i2").tobytes())
    refused = analyze(raw, *options)
    assert refused.code == 1
    assert "--raw" in refused.err
    assert_one_line(refused)
    read = analyze(raw, "--raw", "s16le:8000:2", *options)
    assert {event.channel for event in spoken(read)} == {"customer", "agent"}
    assert analyze(raw, "--raw", "s16le", *options).code == 2


def test_a_policy_for_a_role_that_nobody_has_is_said_to_hold_for_nobody(analyze: Analyze, tmp_path: Path):
    quiet = write_wav(tmp_path / "mix.wav", np.zeros(8000))
    off = ("--text", "none", "--set", "text.policy.agent=off")
    assert "text.policy.agent=off holds for nobody" in analyze(quiet, *off).err
    told = analyze(quiet, *off, "--role", "mono=agent").err
    assert "holds for nobody" not in told
    assert "text.policy is off for everybody" in told
    assert "text.policy" not in analyze(CALL, "--text", "none", "--set", "text.policy.agent=off").err


def test_one_sound_in_both_channels_says_how_to_read_it(analyze: Analyze, tmp_path: Path):
    with av.open(str(CALL)) as container:
        sound = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1).reshape(-1, 2)
    with wave.open(str(tmp_path / "dual.wav"), "wb") as out:
        out.setparams((2, 2, 8000, 0, "NONE", ""))
        out.writeframes(np.repeat(sound[: 8000 * 6].sum(1), 2).astype("<i2").tobytes())
    done = analyze(tmp_path / "dual.wav", "--text", "none", "--set", "text.policy.agent=off")
    assert f"--channel mono={tmp_path / 'dual.wav'}#0 reads it as one channel" in done.err
    assert analyze("--channel", f"mono={tmp_path / 'dual.wav'}#0", "--text", "none").code == 0


def test_a_model_of_words_alone_is_not_given_sound_alone(analyze: Analyze, tmp_path: Path):
    words = tiny_checkpoint(tmp_path / "words", modalities=("text",))
    done = analyze(CALL, "--text", "none", checkpoint=words)
    assert done.code == 2
    assert "judges words alone: give --transcript" in done.err


def nan_wav(folder: Path) -> Path:
    path = folder / "nan.wav"
    samples = np.zeros((1, 8000), np.float32)
    samples[0, 4000] = np.nan
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def text_file(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


def truncated(folder: Path) -> Path:
    path = folder / "cut.wav"
    path.write_bytes(CALL.read_bytes()[:300_000])
    return path


BAD_SOUND: list[tuple[str, Callable[[Path], Path], str]] = [
    ("missing", lambda folder: folder / "none.wav", "none.wav"),
    ("empty", lambda folder: text_file(folder, "empty.wav", ""), "empty"),
    ("not audio", lambda folder: text_file(folder, "notes.wav", "hello " * 100), "notes.wav"),
    ("folder", lambda folder: folder, "folder"),
    ("truncated", truncated, "cut.wav"),
    ("nan", nan_wav, "nan.wav"),
]


@pytest.mark.parametrize(("name", "make", "part"), BAD_SOUND, ids=[case[0] for case in BAD_SOUND])
def test_bad_sound(analyze: Analyze, tmp_path: Path, name: str, make: Callable[[Path], Path], part: str):
    output = tmp_path / "out.jsonl"
    done = analyze(make(tmp_path), "--text", "none", "--output", output, "--format", "jsonl")
    assert done.code == 1
    assert part in done.err
    assert_one_line(done)
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"start_ms": 9, "end_ms": 3, "channel": "agent", "text": "secret"}\n', "before its start"),
        ('{"start_ms": 900000, "end_ms": 900100, "channel": "agent", "text": "secret"}\n', "past the end"),
        ('{"start_ms": 1, "end_ms": 2, "channel": "nobody", "text": "secret"}\n', "nobody"),
        ("", "empty"),
    ],
)
def test_bad_transcripts(analyze: Analyze, tmp_path: Path, content: str, part: str):
    done = analyze(CALL, "--transcript", text_file(tmp_path, "t.jsonl", content))
    assert done.code == 1
    assert part in done.err
    assert "secret" not in done.err
    assert_one_line(done)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([], 2, "give one recording"),
        (["a.wav", "--channel", "x=b.wav"], 2, "give one recording"),
        (["a.wav", "--channel", "x"], 2, "NAME=VALUE"),
        ([str(CALL), "--role", "customer=boss"], 2, "must be one of customer, agent, speaker"),
        ([str(CALL), "--role", "boss=agent"], 2, "channels are customer, agent"),
        ([str(CALL), "--text", "guess"], 2, "--text"),
        ([str(CALL), "--format", "xml"], 2, "--format"),
        ([str(CALL), "--set", "audio.vda.mode=silero"], 2, "did you mean vad"),
        ([str(CALL), "--set", "audio.segmenter.max_ms=ten"], 2, "audio.segmenter.max_ms"),
        ([str(CALL), "--config", "none.yaml"], 2, "none.yaml"),
        ([str(CALL), "--nothing"], 2, "--nothing"),
        ([str(CALL), "--speakers", "many"], 2, "--speakers many: must be auto, off, final"),
        ([str(CALL), "--speakers", "0"], 2, "audio.speakers"),
        ([str(CALL), "--speakers", "off", "--enrol", "agent=a.wav"], 2, "not with --speakers off"),
        ([str(CALL), "--enrol", "boss=a.wav"], 2, "audio.speakers"),
        ([str(CALL), "--enrol", "agent"], 2, "NAME=VALUE"),
        ([str(CALL), "--text", "none", "--output", "/nowhere/x.jsonl"], 2, "/nowhere/x.jsonl"),
        ([str(CALL), "--text", "none", "--plot", "/nowhere/x.png"], 2, "/nowhere/x.png"),
    ],
)
def test_wrong_usage(analyze: Analyze, arguments: list[str], code: int, part: str):
    done = analyze(*arguments)
    assert done.code == code, done.err
    assert part in done.err
    assert_one_line(done)


def test_a_missing_checkpoint(analyze: Analyze, tmp_path: Path):
    done = analyze(CALL, "--text", "none", checkpoint=tmp_path / "none")
    assert done.code == 1
    assert "no such checkpoint folder" in done.err
    assert_one_line(done)


def test_a_checkpoint_of_other_encoders(analyze: Analyze, tmp_path: Path):
    one, other = tiny_checkpoint(tmp_path / "one"), tiny_checkpoint(tmp_path / "other", seed=1)
    for name in ("config.json", "model.safetensors"):
        (one / name).write_bytes((other / name).read_bytes())
    done = analyze(CALL, "--text", "none", checkpoint=one)
    assert done.code == 1
    assert "trained with audio encoder" in done.err
    assert_one_line(done)


def test_a_hub_that_cannot_be_reached(analyze: Analyze, monkeypatch: pytest.MonkeyPatch):
    # Port 9 of this machine answers nobody, so the test does not depend on the network it runs in.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    done = analyze(CALL, "--set", "model.text_encoder={kind: pretrained, model: FacebookAI/roberta-large}")
    assert done.code == 1
    assert "FacebookAI/roberta-large: the model hub cannot be reached" in done.err
    assert_one_line(done)


def assert_one_line(done: Outcome) -> None:
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err


NOT_FOR_ANALYZE = {
    "transformers",
    "huggingface_hub",
    "torch._dynamo",
    "sklearn",
    "scipy",
    "matplotlib",
    "pandas",
    "pyarrow",
    "ray",
}


def test_what_analyze_does_not_need_is_not_imported(tmp_path: Path):
    """Each of these costs seconds or hundreds of MB before anything was heard."""
    sound = write_wav(tmp_path / "silence.wav", np.zeros(8000))
    words = ["analyze", str(sound), "--text", "none"]  # the shipped checkpoint, which has both encoders
    script = f"import sys; from bcaf_stream.cli.main import app; app({words!r}, standalone_mode=False);"
    script += f"print(*sorted({NOT_FOR_ANALYZE!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_a_process_leaves_when_all_is_written(tmp_path: Path):
    """The end takes nothing apart, and loses nothing either."""
    sound = write_wav(tmp_path / "silence.wav", np.zeros(8000))
    command = [sys.executable, "-m", "bcaf_stream.cli.main", "analyze", str(sound), "--text", "none"]
    done = subprocess.run([*command, "--format", "jsonl"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["call.start", "call.end"]
    wrong = subprocess.run([*command, "--format", "xml"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


def test_a_voice_for_a_call_of_two_parties_is_said_to_have_no_effect(analyze: Analyze, tmp_path: Path):
    voice = write_wav(tmp_path / "agent.wav", np.zeros(8000))
    done = analyze(CALL, "--text", "none", "--enrol", f"agent={voice}")
    assert done.code == 0
    assert "--enrol has no effect: each channel of this recording has one party" in done.err
