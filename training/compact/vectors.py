"""The vectors that BCAF is trained on, made by the very encoders that ship: stored, read back, quantised.

`write_audio_encoder` and `write_text_encoder` make the checkpoint's `encoders/` folder; `encode_sound` and
`encode_text` then run it over the data, spoiled copies ("views") included.
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertModel

from bcaf_stream.encoders.base import AudioEncoder, TextEncoder
from bcaf_stream.encoders.compact_audio import AudioTrunk
from bcaf_stream.encoders.storage import save_weights
from bcaf_stream.errors import DataError
from training.compact.clips import Clip
from training.compact.config import LABELS
from training.compact.dialogues import Spoken
from training.compact.mixing import CompactSplit, Script, Voices
from training.compact.noise import SoundSpoiler, Telephone, float_wave, speech_of, spoil_text
from training.compact.starts import minilm_shape
from training.datasets.manifest import Split

PcmN = NDArray[np.int16]


def write_audio_encoder(folder: Path, trunk: AudioTrunk) -> None:
    """`audio/` of a checkpoint's `encoders/`: architecture, and weights in int8 and float16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(trunk.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    save_weights(folder / "weights.safetensors", trunk.state_dict())


def write_text_encoder(folder: Path, model: BertModel, minilm_folder: Path) -> None:
    """`text/`: the same, and the word list."""
    folder.mkdir(parents=True, exist_ok=True)
    minilm_shape(minilm_folder).to_json_file(folder / "config.json")
    shutil.copyfile(minilm_folder / "tokenizer.json", folder / "tokenizer.json")
    save_weights(folder / "weights.safetensors", model.state_dict())


def encode_text(encoder: TextEncoder, dialogues: Sequence[Spoken], spoiled: int = 0) -> list[Script]:
    """The words of each dialogue as they are, and in `spoiled` further views without punctuation or with gaps."""
    rng = random.Random(0)
    texts = [text for dialogue in dialogues for text, _ in dialogue]
    views = [texts] + [[spoil_text(text, rng, 1.0) for text in texts] for _ in range(spoiled)]
    vectors_VNT = np.stack([encoder.encode(view) for view in views])
    scripts, at = [], 0
    for dialogue in dialogues:
        labels_U = np.array([label for _, label in dialogue], dtype=np.int64)
        scripts.append(Script(vectors_VNT[:, at : at + len(dialogue)], labels_U))
        at += len(dialogue)
    return scripts


def labelled(clips: Sequence[Clip], boredom: str) -> list[Clip]:
    """Those with a label of the model; `boredom` is the label that bored clips get, "drop" leaves them out."""
    named = [replace(clip, label=boredom) if clip.label == "boredom" else clip for clip in clips]
    return [clip for clip in named if clip.label in LABELS]


def encode_sound(
    encoder: AudioEncoder,
    words: TextEncoder,
    clips: Sequence[Clip],
    voices: Sequence[Clip],
    spoiled: int,
    seed: int,
) -> Voices:
    """Clips in views: as they are, without silent ends, through a telephone, spoiled; and what is said in them.

    `voices` are heard in the background.
    """
    phone, spoil = Telephone(), SoundSpoiler([float_wave(v.samples) for v in voices], seed)
    views: list[list[PcmN]] = [[], [], []]
    views += [[] for _ in range(spoiled)]
    for clip in clips:
        wave_N, speech = float_wave(clip.samples), speech_of(clip.samples)
        trimmed_N = wave_N[max(0, speech[0] - 1600) : speech[1] + 3200]
        made = [wave_N, trimmed_N, phone(wave_N)] + [spoil(wave_N, speech) for _ in range(spoiled)]
        for view, one_N in zip(views, made, strict=True):
            view.append(to_pcm(one_N))
    return Voices(
        np.stack([encoder.encode(view) for view in views]),
        np.array([LABELS.index(clip.label) for clip in clips], dtype=np.int64),
        np.array([clip.corpus for clip in clips]),
        np.array([clip.speaker for clip in clips]),
        words.encode([clip.words for clip in clips]),
        np.array([bool(clip.words) for clip in clips]),
    )


def to_pcm(wave_N: torch.Tensor) -> PcmN:
    pcm_N: PcmN = (wave_N * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy()
    return pcm_N


def save_words(path: Path, scripts: Sequence[Script]) -> None:
    """One .npz: dialogues end to end, with their lengths."""
    np.savez(
        path,
        lengths=[len(script.labels_U) for script in scripts],
        words=np.concatenate([script.vectors_VUT for script in scripts], axis=1),
        labels=np.concatenate([script.labels_U for script in scripts]),
    )


def save_voices(path: Path, voices: Voices) -> None:
    np.savez(path, **{field.name: getattr(voices, field.name) for field in fields(voices)})


def load_split(work: Path, split: Split) -> CompactSplit:
    """Words and voices of one split.

    Raises:
        DataError: a stage that writes them has not been run.
    """
    for stage, name in (("words", f"words-{split}"), ("words", "words-plain"), ("sound", f"sound-{split}")):
        if not (work / f"{name}.npz").is_file():
            raise DataError(f"{work}: no {name}.npz; run `python -m training.compact {stage}` first")
    with np.load(work / f"words-{split}.npz") as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        words = np.split(stored["words"], ends, axis=1)
        scripts = [Script(*pair) for pair in zip(words, np.split(stored["labels"], ends), strict=True)]
    with np.load(work / f"sound-{split}.npz") as stored, np.load(work / "words-plain.npz") as plain:
        return CompactSplit(scripts, Voices(**stored), plain["words"])
