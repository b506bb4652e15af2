"""What a run trains on: the dialogues of the manifest as tensors, and which encoders made their vectors."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bcaf_stream.encoders.base import EncoderConfig
from bcaf_stream.errors import DataError
from bcaf_stream.model.checkpoint import Checkpoint, EncoderSpec, EncoderSpecs, find_checkpoint, load_checkpoint
from bcaf_stream.types import Modality
from training.config import TrainConfig
from training.datasets.manifest import Manifest, Split, read_manifest
from training.dialogues import Dialogue, Vectors, load_dialogues
from training.encode import find_store, items, options_of, read_vectors
from training.store import Maker

MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """`encoders_folder`: the checkpoint folder whose encoders belong into the new checkpoint; None = none.

    `identity` is what must be the same when a run is resumed: the configuration's and the content of the data.
    """

    manifest: Manifest
    dialogues: Mapping[Split, list[Dialogue]]
    specs: EncoderSpecs
    encoders_folder: Path | None
    identity: str

    @property
    def train(self) -> list[Dialogue]:
        return self.dialogues["train"]

    @property
    def dev(self) -> list[Dialogue]:
        return self.dialogues["dev"]


def load_training_data(config: TrainConfig, splits: Sequence[Split] = ("train", "dev")) -> TrainingData:
    """Read manifest and features, and check that they fit the model.

    Raises:
        DataError: a modality, a label, a feature is missing or does not fit.
    """
    manifest = read_manifest(Path(config.data.manifest))
    _check(manifest, config)
    source = compact_source(config)
    vectors: dict[Modality, Vectors] = {}
    specs: dict[Modality, EncoderSpec] = {}
    for modality in config.data.modalities:
        specs[modality], vectors[modality] = _features(config, manifest, modality, source)
    widths: dict[Modality, int] = {"audio": config.model.audio_width, "text": config.model.text_width}
    loaded = {
        split: load_dialogues(manifest, split, config.model.labels, widths, vectors, config.data.modalities)
        for split in splits
    }
    return TrainingData(
        manifest=manifest,
        dialogues=loaded,
        specs=EncoderSpecs(audio=specs.get("audio"), text=specs.get("text")),
        encoders_folder=source.folder if source else None,
        identity=_identity(config, loaded),
    )


def compact_source(config: TrainConfig) -> Checkpoint | None:
    """The checkpoint whose own encoders are used, if one of the encoders is a compact one."""
    asked = [encoder_config(config, modality) for modality in config.data.modalities]
    if not any(one is not None and one.kind == "compact" for one in asked):
        return None
    return load_checkpoint(find_checkpoint(config.encoders_from))


def encoder_config(config: TrainConfig, modality: Modality) -> EncoderConfig | None:
    if config.encoders is None:
        return None
    return config.encoders.audio if modality == "audio" else config.encoders.text


def spec_of(maker: Maker) -> EncoderSpec:
    return EncoderSpec(
        kind=maker.kind,
        name=maker.name,
        width=maker.width,
        sha256=maker.weights_hash,
        options=dict(maker.options),
    )


def _identity(config: TrainConfig, dialogues: Mapping[Split, Sequence[Dialogue]]) -> str:
    digest = hashlib.sha256(config.identity().encode())
    for split in sorted(dialogues):
        for one in dialogues[split]:
            digest.update(f"{split} {one.rows[0].call} {len(one)}\0".encode())
            for tensor in (one.audio_UA, one.text_UT, one.audio_present_U, one.text_present_U, one.label_U):
                digest.update(tensor.numpy().data)
    return digest.hexdigest()[:16]


def _features(
    config: TrainConfig, manifest: Manifest, modality: Modality, source: Checkpoint | None
) -> tuple[EncoderSpec, Vectors]:
    asked = encoder_config(config, modality)
    width = config.model.audio_width if modality == "audio" else config.model.text_width
    known = source.encoders.of(modality) if source and asked and asked.kind == "compact" else None
    if not items(manifest, modality):
        return _claimed(asked, known, manifest, modality, width), {}
    if source is not None and known is None and asked is not None and asked.kind == "compact":
        raise DataError(f"{source.folder}: has no {modality} encoder; set encoders_from to a checkpoint with one")
    if asked is None:
        raise DataError(
            f"{config.data.manifest}: holds utterances without {modality} vectors; "
            "name the encoders, or precompute all"
        )
    store = find_store(
        config.data.features_root,
        modality,
        asked,
        known.name if known else asked.model,
        known.sha256 if known else None,
    )
    if store.maker.width != width:
        raise DataError(
            f"{store.folder}: {modality} vectors of {store.maker.name} are {store.maker.width} wide; "
            f"set model.{modality}_width to that"
        )
    return spec_of(store.maker), read_vectors(manifest, store)


def _claimed(
    asked: EncoderConfig | None, known: EncoderSpec | None, manifest: Manifest, modality: Modality, width: int
) -> EncoderSpec:
    """What the configuration or the manifest says of vectors that were not made here: unverified."""
    named = manifest.corpus.vectors.get(modality)
    claimed = known.name if known else asked.model if asked else None
    if asked is None or claimed is None:
        return EncoderSpec(kind="precomputed", name=named or "unknown", width=width)
    if named is not None and named != claimed:
        raise DataError(
            f"{manifest.corpus.name}: its {modality} vectors are of {named}, and encoders.{modality} is {claimed};"
            " name the encoder that made them, or none"
        )
    return known or EncoderSpec(kind=asked.kind, name=claimed, width=width, options=options_of(asked))


def _check(manifest: Manifest, config: TrainConfig) -> None:
    for modality in config.data.modalities:
        if modality not in manifest.modalities:
            rest = ", ".join(m for m in config.data.modalities if m != modality)
            raise DataError(
                f"{config.data.manifest}: {manifest.corpus.name} has no {modality}; "
                f"set data.modalities: [{rest}] to train without it"
            )
    unknown = sorted(set(manifest.corpus.labels) - set(config.model.labels))
    if unknown:
        raise DataError(
            f"{config.data.manifest}: label {unknown[0]!r} is unknown to the model; "
            f"model.labels: {', '.join(config.model.labels)}"
        )
