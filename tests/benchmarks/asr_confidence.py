"""How well the recogniser's confidence says whether its words are right: on real calls, each judged by the others.

    python -m tests.benchmarks.asr_confidence [--foreign]

Takes the six calls of ../shared/data/calls/harpervalley with their human transcripts, as they are and in pink
noise at 15 and 5 dB; aligns what was heard with what was said, and fits the probability that a word is right on
five calls to tell it of the sixth. `--foreign` adds clips: the share of each language whose words are no evidence.
"""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.transcripts.moonshine import INTERCEPT, SLOPE, MoonshineTranscriber
from bcaf_stream.transcripts.pairing import LANGUAGE_WORDS, UNDERSTOOD, TextConfig
from bcaf_stream.transcripts.transcriber import audible_pieces
from bcaf_stream.types import AudioChunk, Call, Channel, PcmN

DATA = Path(__file__).parents[3] / "shared" / "data"
ONE = Call("one", (Channel("line"),))
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FILLERS = {"uh", "um", "mm", "hm"}
CLIPS = 40  # of each language


class Heard(NamedTuple):
    call: str
    noise: str
    mean: float  # the tokens' geometric mean probability
    right: int
    words: int


def main() -> None:
    moonshine = MoonshineTranscriber()
    heard = [one for noise in ("none", "15 dB", "5 dB") for one in hear_calls(moonshine, noise)]
    told = told_by_the_others(heard)
    for noise in ("none", "15 dB", "5 dB", ""):
        rows = [i for i, one in enumerate(heard) if noise in ("", one.noise) and one.words]
        report(noise or "all", [heard[i] for i in rows], told[rows])
    intercept, slope = fitted(heard)
    print(f"fitted on all: {intercept:.2f} + {slope:.2f} x mean; used: {INTERCEPT} + {SLOPE} x mean")
    if "--foreign" in sys.argv:
        hear_clips(moonshine)


def hear_calls(moonshine: MoonshineTranscriber, noise: str) -> list[Heard]:
    found = []
    for transcript in sorted((DATA / "calls" / "harpervalley").glob("*.jsonl")):
        said = [json.loads(line) for line in transcript.read_text().splitlines()]
        for side in ("agent", "caller"):
            sound = noisy(sound_of(transcript.with_name(f"{transcript.stem}_{side}.flac")), noise)
            cutter = CallCutter(ONE)
            segments = cutter.push(AudioChunk("line", 0, 16_000, sound)) + cutter.flush()
            pieces = [(s.start_ms, s.end_ms, p) for s in segments for p in audible_pieces(s.samples)]
            guesses = [moonshine.transcribe(piece) for *_, piece in pieces]
            words = [
                (word, start, end, number)
                for number, ((start, end, _), guess) in enumerate(zip(pieces, guesses, strict=True))
                for word in plain(guess.text)
            ]
            truth = [
                (word, cue["start_ms"], cue["end_ms"])
                for cue in said
                if cue["channel"] == side
                for word in plain(re.sub(r"\[[a-z]+\]", " ", cue["text"]))
            ]
            right = matched([w[:3] for w in words], truth)
            for number, guess in enumerate(guesses):
                of = [ok for word, ok in zip(words, right, strict=True) if word[3] == number]
                if of and guess.confidence is not None:
                    found.append(Heard(transcript.stem, noise, mean_of(guess.confidence), sum(of), len(of)))
    return found


def mean_of(confidence: float) -> float:
    return float((np.log(confidence / (1 - confidence)) - INTERCEPT) / SLOPE)


def matched(heard: list[tuple[str, int, int]], said: list[tuple[str, int, int]]) -> list[bool]:
    """Which heard words are right: the shortest edit, in which words must be near each other in time."""
    cost = np.zeros((len(heard) + 1, len(said) + 1))
    cost[:, 0], cost[0] = np.arange(len(heard) + 1), np.arange(len(said) + 1)

    def differ(i: int, j: int) -> float:
        (word, start, end), (other, begin, finish) = heard[i - 1], said[j - 1]
        return 0.0 if word == other and start < finish + 700 and end > begin - 700 else 1.2

    for i in range(1, len(heard) + 1):
        for j in range(1, len(said) + 1):
            cost[i, j] = min(cost[i - 1, j - 1] + differ(i, j), cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    right, i, j = [False] * len(heard), len(heard), len(said)
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + differ(i, j):
            right[i - 1] = differ(i, j) == 0
            i, j = i - 1, j - 1
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return right


def fitted(heard: list[Heard]) -> tuple[float, float]:
    means = np.array([[one.mean] for one in heard] * 2)
    is_right = np.repeat([1, 0], len(heard))
    weights = [one.right for one in heard] + [one.words - one.right for one in heard]
    model = LogisticRegression(C=1e6).fit(means, is_right, sample_weight=weights)
    return float(model.intercept_[0]), float(model.coef_[0, 0])


def told_by_the_others(heard: list[Heard]) -> NDArray[np.float64]:
    told = np.zeros(len(heard))
    for call in {one.call for one in heard}:
        intercept, slope = fitted([one for one in heard if one.call != call])
        for i, one in enumerate(heard):
            if one.call == call:
                told[i] = 1 / (1 + np.exp(-(intercept + slope * one.mean)))
    return told


def report(noise: str, heard: list[Heard], told: NDArray[np.float64]) -> None:
    words, right = np.array([one.words for one in heard]), np.array([one.right for one in heard])
    bins = np.minimum((told * 10).astype(int), 9)
    error = sum(abs((told * words)[bins == b].sum() - right[bins == b].sum()) for b in range(10)) / words.sum()
    area = roc_auc_score(right / words >= 0.5, told)
    unsure = (told < TextConfig().min_confidence).mean()
    print(
        f"noise {noise:6s} {len(heard):4d} pieces, {words.sum():5d} words, {right.sum() / words.sum():.2f} right;"
        f" AUC (half of the words right) {area:.3f}, calibration error {error:.3f}, no evidence {unsure:.2f}"
    )


def hear_clips(moonshine: MoonshineTranscriber) -> None:
    for corpus in ("cremad", "ravdess", "emodb", "nemo", "emovo", "turev", "urdu", "ased"):
        found = sorted((DATA / "emotional_speech" / corpus).rglob("*"))
        files = [file for file in found if file.suffix in (".flac", ".opus", ".wav")]
        np.random.default_rng(0).shuffle(files)  # type: ignore[arg-type]
        guesses = [moonshine.transcribe(sound_of(file)) for file in files[:CLIPS]]
        sure = [(len(g.text.split()), g.confidence) for g in guesses if g.confidence is not None]
        pools, words, total = [], 0, 0.0
        for count, confidence in sure:
            words, total = words + count, total + count * confidence
            if words >= LANGUAGE_WORDS:
                pools.append(total / words)
                words, total = 0, 0.0
        unsure = np.mean([confidence < TextConfig().min_confidence for _, confidence in sure])
        strange = np.mean([pool < UNDERSTOOD for pool in pools]) if pools else float("nan")
        print(f"{corpus:8s} {len(sure)} clips with words: no evidence {unsure:.2f}; not understood {strange:.2f}")


def noisy(sound: PcmN, noise: str) -> PcmN:
    if noise == "none":
        return sound
    loud = sound.astype(np.float64)
    level = np.sqrt((loud[np.abs(loud) > np.abs(loud).max() / 20] ** 2).mean())
    bands = np.fft.rfft(np.random.default_rng(0).normal(size=len(loud)))
    pink = np.fft.irfft(bands / np.sqrt(np.maximum(np.arange(len(bands)), 1)), len(loud))
    pink *= level * 10 ** (-float(noise.split()[0]) / 20) / np.sqrt((pink**2).mean())
    return np.clip(loud + pink, -32768, 32767).astype(np.int16)


def sound_of(file: Path) -> PcmN:
    with av.open(str(file)) as container:
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=16_000)
        blocks = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    return np.concatenate(blocks)


def plain(text: str) -> list[str]:
    text = text.lower().replace("okay", "ok").replace("alright", "all right").replace("<unk>", "unknown")
    text = re.sub(r"\d", lambda digit: f" {NUMBERS[int(digit[0])]} ", text)
    return [word for word in re.findall(r"[a-z']+", text) if word not in FILLERS]


if __name__ == "__main__":
    main()
