"""Corpora that the tests make: vectors whose labels need both modalities and the utterance before."""

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from training.config import TrainConfig
from training.datasets.audit import audit
from training.datasets.manifest import Row, write_manifest
from training.datasets.sound import listen
from training.datasets.table import read_table
from training.dialogues import Dialogue

WIDTH = 6
SIZES = {"train": 120, "dev": 40, "test": 40}
MODEL: dict[str, Any] = {
    "labels": ["calm", "cross"],
    "audio_width": WIDTH,
    "text_width": WIDTH,
    "width": 16,
    "latent": 8,
    "layers": 1,
    "heads": 2,
    "feed_forward": 32,
    "dropout": 0.0,
    "context": 2,
}
LOOP: dict[str, Any] = {"epochs": 5, "batch": 8, "learning_rate": 5e-3, "l2": 0.0, "modality_dropout": 0.0}


def vectors(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """One dialogue: (audio, text, label); the label is what the voice says now against the words before.

    The first utterance has no predecessor and counts as its own: without positions in the model, "nothing
    before" and "the same before" are one.
    """
    length = int(rng.integers(4, 9))
    voice, words = rng.integers(0, 2, (2, length))
    before = np.concatenate([words[:1], words[:-1]])
    noise = rng.normal(0, 0.2, (2, length, WIDTH)).astype(np.float32)
    noise[0, :, 0] += 2 * voice - 1
    noise[1, :, 0] += 2 * words - 1
    return [(noise[0, u], noise[1, u], int(voice[u] ^ before[u])) for u in range(length)]


def records(sizes: dict[str, int] | None = None, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for split, count in (sizes or SIZES).items():
        for call in range(count):
            for u, (audio, text, label) in enumerate(vectors(rng)):
                found.append(
                    {
                        "split": split,
                        "call": f"{split}-{call}",
                        "utterance": f"{split}-{call}-{u}",
                        "channel": "customer",
                        "start_ms": 1000 * u,
                        "end_ms": 1000 * u + 900,
                        "label": MODEL["labels"][label],
                        "audio_vector": audio.tolist(),
                        "text_vector": text.tolist(),
                    }
                )
    return found


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON lines or Parquet, as the name says."""
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def changed(
    rows: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool], **values: Any
) -> list[dict[str, Any]]:
    return [{**row, **values} if wanted(row) else row for row in rows]


def prepared(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A manifest folder, made the way `bcaf-train prepare manifest` makes it."""
    heard = listen(read_table(write_jsonl(folder / "manifest.jsonl", rows)))
    audit(heard)
    write_manifest(heard.manifest, folder / "prepared")
    return folder / "prepared"


def train_config(manifest: Path, out: Path, **changes: Any) -> TrainConfig:
    """`changes` are dotted keys with `__` for the dot."""
    data = {"name": out.name, "out": str(out), "data": {"manifest": str(manifest)}, "model": MODEL, "loop": LOOP}
    config = TrainConfig.model_validate_json(json.dumps(data))
    return config.changed({key.replace("__", "."): value for key, value in changes.items()})


def dialogues(count: int, seed: int) -> list[Dialogue]:
    """Straight to tensors, for tests of the loop alone."""
    rng = np.random.default_rng(seed)
    made = []
    for call in range(count):
        turns = vectors(rng)
        there = torch.ones(len(turns), dtype=torch.bool)
        made.append(
            Dialogue(
                rows=tuple(Row("train", f"c{call}", f"c{call}-{u}", u, "x", 0, 1) for u in range(len(turns))),
                audio_UA=torch.from_numpy(np.stack([turn[0] for turn in turns])),
                text_UT=torch.from_numpy(np.stack([turn[1] for turn in turns])),
                audio_present_U=there,
                text_present_U=there.clone(),
                label_U=torch.tensor([turn[2] for turn in turns]),
            )
        )
    return made


def tone(seconds: float, hertz: float, rate: int = 16_000) -> np.ndarray:
    at = np.arange(int(seconds * rate)) / rate
    return (8000 * np.sin(2 * np.pi * hertz * at)).astype(np.int16)


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def write_mp4(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """A clip as MELD has them: AAC in MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def meld_folder(root: Path, dialogues: int = 4, clips: bool = True) -> Path:
    """MELD's layout: each split a table and a folder of clips; high voices are angry, low ones are sad."""
    from training.datasets.meld import CLIPS

    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    root.mkdir(parents=True, exist_ok=True)
    for number, (split, folder) in enumerate(CLIPS.items()):
        lines = [head]
        for d in range(dialogues):
            for u in range(3):
                angry = (d + u + number) % 2 == 0
                said = "oh my god" if angry else "it is fine"
                emotion = "anger" if angry else "sadness"
                at = f"00:0{d}:{10 + 3 * u:02d}"
                lines.append(f'{u},"{said}",Ross,{emotion},negative,{d},{u},1,1,"{at},000","{at},800"\n')
                if clips:
                    sound = tone(0.4 + 0.05 * u, 400 + 10 * d + number if angry else 120 + 10 * d + number)
                    write_mp4(root / folder / f"dia{d}_utt{u}.mp4", sound)
        (root / f"{split}_sent_emo.csv").write_text("".join(lines), encoding="utf-8")
    return root


def iemocap_folder(root: Path, dialogues: int = 8) -> Path:
    """IEMOCAP's layout: five sessions, two actors, improvised dialogues."""
    codes = ("neu", "hap", "sad", "ang", "exc", "fru", "xxx")
    for session in range(1, 6):
        folder = root / f"Session{session}"
        for d in range(dialogues):
            name = f"Ses{session:02d}F_impro{d + 1:02d}"
            evaluation, transcript = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"], []
            for u in range(7):
                turn = f"{name}_{'FM'[u % 2]}{u // 2:03d}"
                start, end = 2.0 * u + 1.25, 2.0 * u + 2.5
                evaluation.append(f"[{start:.4f} - {end:.4f}]\t{turn}\t{codes[u]}\t[2.5000, 2.5000, 2.5000]\n")
                evaluation.append("C-E2:\tNeutral;\t()\n")
                transcript.append(f"{turn} [{start:08.4f}-{end:08.4f}]: It is fine.\n")
                write_wav(
                    folder / "sentences" / "wav" / name / f"{turn}.wav", tone(0.2, 100 + 10 * u + d + 50 * session)
                )
            for kind, lines in (("EmoEvaluation", evaluation), ("transcriptions", transcript)):
                path = folder / "dialog" / kind / f"{name}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                # Turns stand in the files by speaker, not in time order.
                path.write_text("".join(lines[:2] + lines[:1:-1]) if kind == "EmoEvaluation" else "".join(lines))
    return root
