"""A checkpoint's numbers on a split: in both context modes, with both modalities and with each alone.

`through="analyzer"` sends every utterance the way a live call does (EmotionEngine: encode, then one step per
utterance), and must decide the same; with adaptation to the voice it decides otherwise where there is sound alone.
Modes: a checkpoint is trained for one of them; the other is reported because published numbers are `offline` and a
live call is `causal`, never one in the place of the other.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from bcaf_stream.dialogue import DialogueAnalyzer
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig, load_encoders
from bcaf_stream.errors import CheckpointError, DataError
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import Checkpoint, EncoderSpec, find_checkpoint, load_checkpoint
from bcaf_stream.model.heads import IGNORED_LABEL
from bcaf_stream.types import Features, Modality, Utterance
from training.datasets.manifest import Manifest, Row, Split, read_manifest
from training.datasets.sound import decode
from training.dialogues import Dialogue, Vectors, View, load_dialogues
from training.encode import config_of, encode_missing, find_store, items, read_vectors
from training.linear import FILE_NAME, LinearFloor, fit_floor
from training.metrics import Scored
from training.predict import in_mode, predict, scored
from training.training_data import MODALITIES

Mode = Literal["causal", "offline"]
MODES: tuple[Mode, ...] = ("causal", "offline")
VIEWS: tuple[View, ...] = ("both", "text", "audio")
FITTED_ON: tuple[Split, ...] = ("train", "dev")
LOCKSTEP = 32  # dialogues that go through the streaming path side by side
Results = dict[str, dict[str, Scored]]
Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A checkpoint and the dialogues that it is tried on; `notes` say what of them cannot be taken for granted."""

    checkpoint: Checkpoint
    manifest: Manifest
    dialogues: list[Dialogue]
    notes: tuple[str, ...] = ()

    @property
    def views(self) -> tuple[View, ...]:
        """The ways of showing the corpus that differ: a corpus of text alone has one."""
        there = [m for m in MODALITIES if any(getattr(d, f"{m}_present_U").any() for d in self.dialogues)]
        return VIEWS if len(there) == 2 else tuple(v for v in VIEWS if v in there)


def open_subject(
    checkpoint: str,
    manifest: Path,
    split: Split,
    features: Path | None = None,
    device: str = "cpu",
    progress: Progress = iter,
) -> Subject:
    """Load everything; features that do not exist yet are computed with the checkpoint's encoders, and kept.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or has other labels than the corpus.
        DataError: the manifest or the features cannot be used, or there is no GPU though one is asked for.
        EncoderError: features must be computed, and the encoders cannot be loaded.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("there is no GPU here; leave --device out, or say cpu")
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    whole = read_manifest(manifest)
    corpus = Manifest(whole.corpus, tuple(whole.split(split)))  # the other splits need no features
    unknown = sorted({row.label for row in corpus.rows if row.label} - set(loaded.labels))
    if unknown:
        raise CheckpointError(
            f"{loaded.folder}: was trained on the labels {', '.join(loaded.labels)}, "
            f"and {corpus.corpus.name} has {unknown[0]!r}; rename it: bcaf-train prepare --label {unknown[0]}=..."
        )
    folder = manifest if manifest.is_dir() else manifest.parent
    vectors = _vectors(loaded, corpus, features or folder / "features", device, progress)
    config = loaded.model.config
    widths: dict[Modality, int] = {"audio": config.audio_width, "text": config.text_width}
    modalities = loaded.encoders.modalities
    dialogues = load_dialogues(corpus, split, loaded.labels, widths, vectors, modalities)
    loaded.model.to(device)
    return Subject(loaded, corpus, dialogues, tuple(_notes(loaded, corpus)))


def floor_for(subject: Subject, manifest: Path, features: Path | None = None) -> tuple[LinearFloor | None, str]:
    """The linear floor to score beside the checkpoint, or None and why there is none.

    It is the checkpoint's own, or one of the manifest's train and dev, if the vectors of those are there: nothing
    is encoded for it.

    Raises:
        CheckpointError: the one in the checkpoint is broken.
    """
    checkpoint = subject.checkpoint
    own = checkpoint.folder / FILE_NAME
    if own.is_file():
        return LinearFloor.from_bytes(own.read_bytes()), ""
    config = checkpoint.model.config
    widths: dict[Modality, int] = {"audio": config.audio_width, "text": config.text_width}
    modalities = checkpoint.encoders.modalities
    root = features or (manifest if manifest.is_dir() else manifest.parent) / "features"
    whole = read_manifest(manifest)
    found: dict[Split, list[Dialogue]] = {}
    try:
        for split in FITTED_ON:
            part = Manifest(whole.corpus, tuple(whole.split(split)))
            vectors: dict[Modality, Vectors] = {}
            for modality in (m for m in modalities if items(part, m)):
                spec = checkpoint.encoders.of(modality)
                assert spec is not None, "a modality of the checkpoint has a spec"
                store = find_store(root, modality, config_of(modality, spec, "cpu"), spec.name, spec.sha256)
                vectors[modality] = read_vectors(part, store)
            found[split] = load_dialogues(part, split, checkpoint.labels, widths, vectors, modalities)
    except DataError as error:
        return None, f"no linear floor: the checkpoint carries none, and none can be fitted ({error})"
    floor = fit_floor(checkpoint.labels, found["train"], found["dev"])
    return floor, "" if floor else "no linear floor: the train split has one class alone"


def evaluate(subject: Subject, modes: Sequence[Mode] = MODES) -> Results:
    """Whole dialogues at once: {mode: {view: predictions and truth}}; a bc-LSTM knows its own mode alone."""
    results: Results = {}
    whole = subject.checkpoint.model
    for mode in modes if isinstance(whole, BCAF) else (whole.config.mode,):
        model = in_mode(whole, mode) if isinstance(whole, BCAF) else whole
        results[mode] = {
            view: scored(model, predict(model, subject.dialogues, view), subject.checkpoint.calibration)
            for view in subject.views
        }
    return results


def evaluate_streaming(subject: Subject, device: str = "cpu", adaptation: bool = False) -> Results:
    """One utterance after the other, as a live call: {"causal": {view: ...}}.

    `adaptation`: to each channel's voice, as calls have it (bcaf_stream/model/adaptation.py).

    Raises:
        ModelError: the checkpoint's model is an offline one.
    """
    modalities = subject.checkpoint.encoders.modalities
    if any(items(subject.manifest, modality) for modality in modalities):
        engine = EmotionEngine(_live(subject, device, adaptation))
        step, initial = engine.step, engine.initial_state

        def features(dialogue: Dialogue, view: View) -> list[Features]:
            return engine.encode([_utterance(subject.manifest, row, view) for row in dialogue.rows])

    else:
        analyzer = DialogueAnalyzer(subject.checkpoint, device, adaptation)
        step, initial = analyzer.step_batch, analyzer.initial
        features = _given_features
    return {"causal": {view: _stream(subject, view, features, step, initial) for view in subject.views}}


def _live(subject: Subject, device: str, adaptation: bool) -> ModelConfig:
    return ModelConfig(checkpoint=str(subject.checkpoint.folder), device=device, adaptation=adaptation)


def predictions_of(subject: Subject, results: Results) -> Iterator[dict[str, Any]]:
    """What was predicted for each scored utterance, in each mode and view, as plain values without its words."""
    for mode, views in results.items():
        for view, found in views.items():
            rows = list(_scored_rows(subject.dialogues, cast(View, view)))
            if len(rows) != len(found.truth_N):
                raise DataError(f"{len(found.truth_N)} utterances were scored, and {len(rows)} are in the corpus")
            for row, probs, predicted in zip(rows, found.probs_NC, found.predicted_N, strict=True):
                yield {
                    "mode": mode,
                    "view": view,
                    "call": row.call,
                    "utterance": row.utterance,
                    "channel": row.channel,
                    "label": row.label,
                    "predicted": found.labels[predicted],
                    "probs": {label: round(float(p), 6) for label, p in zip(found.labels, probs, strict=True)},
                }


def _scored_rows(dialogues: Sequence[Dialogue], view: View) -> Iterator[Row]:
    """Labelled utterances of which the view leaves something, in the order of `Scored`."""
    for dialogue in dialogues:
        audio_U = dialogue.audio_present_U.bool() & (view != "text")
        text_U = dialogue.text_present_U.bool() & (view != "audio")
        kept_U = (audio_U | text_U) & (dialogue.label_U != IGNORED_LABEL)
        yield from (row for row, kept in zip(dialogue.rows, kept_U.tolist(), strict=True) if kept)


def _stream(subject: Subject, view: View, features: Any, step: Any, initial: Any) -> Scored:
    """Some dialogues side by side, each with its own state; utterances with nothing to go on are left out."""
    probs: list[tuple[float, ...]] = []
    truth: list[int] = []
    calls: list[int] = []
    for start in range(0, len(subject.dialogues), LOCKSTEP):
        group = list(enumerate(subject.dialogues))[start : start + LOCKSTEP]
        queues = [
            [(number, int(label), f) for label, f in zip(dialogue.label_U, features(dialogue, view), strict=True)
             if f.audio is not None or f.text is not None]
            for number, dialogue in group
        ]  # fmt: skip
        states = [initial() for _ in group]
        for position in range(max(map(len, queues))):
            live = [i for i, queue in enumerate(queues) if position < len(queue)]
            turns = [queues[i][position] for i in live]
            predictions, new = step([states[i] for i in live], [turn[2] for turn in turns])
            for i, state in zip(live, new, strict=True):
                states[i] = state
            for (number, label, _), prediction in zip(turns, predictions, strict=True):
                if label != IGNORED_LABEL:
                    probs.append(prediction.probs)
                    truth.append(label)
                    calls.append(number)
    order_N = np.argsort(np.array(calls, np.int64), kind="stable")
    return Scored(
        subject.checkpoint.labels,
        np.array(probs)[order_N],
        np.array(truth, np.int64)[order_N],
        np.array(calls, np.int64)[order_N],
    )


def _utterance(manifest: Manifest, row: Row, view: View) -> Utterance:
    path = manifest.sound_of(row) if view != "text" else None
    text = row.text if view != "audio" else None
    return Utterance(
        call=row.call,
        channel=row.channel,
        role="speaker",
        index=row.order,
        start_ms=row.start_ms,
        end_ms=row.end_ms,
        samples=None if path is None else decode(path, row.cut_ms)[0],
        text=text,
        text_source="none" if text is None else "given",
    )


def _given_features(dialogue: Dialogue, view: View) -> list[Features]:
    audio = dialogue.audio_present_U if view != "text" else torch.zeros(len(dialogue))
    text = dialogue.text_present_U if view != "audio" else torch.zeros(len(dialogue))
    return [
        Features(
            dialogue.audio_UA[u].numpy() if audio[u] else None,
            dialogue.text_UT[u].numpy() if text[u] else None,
            dialogue.rows[u].channel,
        )
        for u in range(len(dialogue))
    ]


def _vectors(
    checkpoint: Checkpoint, manifest: Manifest, root: Path, device: str, progress: Progress
) -> dict[Modality, Vectors]:
    found: dict[Modality, Vectors] = {}
    encoders = None
    for index, modality in enumerate(MODALITIES):
        spec = checkpoint.encoders.of(modality)
        if spec is None:
            continue
        _check_precomputed(checkpoint, manifest, modality, spec)
        if not items(manifest, modality):
            continue
        config = config_of(modality, spec, device)
        try:
            found[modality] = read_vectors(manifest, find_store(root, modality, config, spec.name, spec.sha256))
        except DataError:
            encoders = encoders or load_encoders(checkpoint, ModelConfig(), device)
            encoder = encoders[index]
            assert encoder is not None, "a modality with a spec has an encoder"
            store = encode_missing(manifest, root, modality, config, encoder, progress=progress)
            found[modality] = read_vectors(manifest, store)
    return found


def _notes(checkpoint: Checkpoint, manifest: Manifest) -> Iterator[str]:
    for modality in MODALITIES:
        spec, named = checkpoint.encoders.of(modality), manifest.corpus.vectors.get(modality)
        if modality not in manifest.modalities:
            continue
        if spec is None:
            yield f"{checkpoint.model_id} was not trained on {modality}: what the corpus has of it is left out"
        elif (named is None) != (spec.name == "unknown") and not items(manifest, modality):
            known, whose = (named, checkpoint.model_id) if named else (spec.name, manifest.corpus.name)
            yield f"nobody says that the {modality} vectors of {whose} are of {known}, as the others are"


def _check_precomputed(checkpoint: Checkpoint, manifest: Manifest, modality: Modality, spec: EncoderSpec) -> None:
    """Vectors in the manifest name their encoder, or nobody knows; a wrong name is refused."""
    named = manifest.corpus.vectors.get(modality)
    if named is not None and spec.name != "unknown" and named != spec.name:
        raise DataError(
            f"{manifest.corpus.name}: its {modality} vectors are of {named}, "
            f"and {checkpoint.model_id} was trained on those of {spec.name}"
        )
