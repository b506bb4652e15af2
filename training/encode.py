"""From a manifest to feature vectors: which encoder is asked for, what is still to be encoded, and doing it.

Plain Python; `training/features.py` does the same on many workers with Ray Data.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bcaf_stream.encoders.base import (
    AudioEncoder,
    AudioEncoderConfig,
    EncoderConfig,
    TextEncoder,
    TextEncoderConfig,
)
from bcaf_stream.encoders.load import load_audio_encoder, load_text_encoder
from bcaf_stream.errors import DataError, EncoderError
from bcaf_stream.model.checkpoint import EncoderSpec
from bcaf_stream.types import Modality
from training.datasets.manifest import Manifest
from training.datasets.sound import decode
from training.dialogues import Vectors, text_key
from training.store import FeatureStore, Maker, code_version, find_makers

Encoder = AudioEncoder | TextEncoder


@dataclass(frozen=True, slots=True)
class Item:
    """One content to encode: words, or a file and the part of it."""

    key: str
    text: str = ""
    path: str = ""
    cut_ms: tuple[int, int] | None = None


def items(manifest: Manifest, modality: Modality) -> list[Item]:
    """Every content of the manifest once; utterances with a vector of their own need none."""
    found: dict[str, Item] = {}
    for row in manifest.rows:
        if modality == "text" and row.text_vector is None and row.text is not None:
            key = text_key(row) or ""
            found[key] = Item(key, text=row.text)
        elif modality == "audio" and row.audio_vector is None and row.audio_key is not None:
            found[row.audio_key] = Item(row.audio_key, path=str(manifest.sound_of(row)), cut_ms=row.cut_ms)
    return list(found.values())


def load_encoder(config: EncoderConfig, folder: Path | None) -> Encoder:
    if isinstance(config, AudioEncoderConfig):
        return load_audio_encoder(config, folder)
    assert isinstance(config, TextEncoderConfig)
    return load_text_encoder(config, folder)


def options_of(config: EncoderConfig) -> dict[str, str | int | float | bool]:
    """What else than its weights decides an encoder's numbers."""
    chosen = config.model_dump(exclude={"kind", "model", "device", "batch"}, exclude_none=True)
    return chosen if config.kind == "pretrained" else {"dtype": config.dtype}


def maker_of(modality: Modality, config: EncoderConfig, encoder: Encoder) -> Maker:
    return Maker(
        modality=modality,
        kind=config.kind,
        name=encoder.name,
        weights_hash=encoder.weights_hash,
        width=encoder.width,
        options=options_of(config),
        code=code_version(),
    )


def encode_shard(encoder: Encoder, store: FeatureStore, shard: Sequence[Item]) -> None:
    """Encode some items and write them as one shard.

    Raises:
        DataError: a vector is not finite, or the shard cannot be written.
        SourceError: a clip that could be decoded when the manifest was made no longer can.
    """
    contents: list[Any]
    if store.maker.modality == "text":
        contents = [item.text for item in shard]
    else:
        contents = [decode(Path(item.path), item.cut_ms)[0] for item in shard]
    vectors_ND = encoder.encode(contents)
    store.write([item.key for item in shard], np.asarray(vectors_ND, dtype=np.float32))


def encode_missing(
    manifest: Manifest,
    root: Path,
    modality: Modality,
    config: EncoderConfig,
    encoder: Encoder,
    shard: int = 256,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> FeatureStore:
    """Encode here what the store under `root` lacks; returns the store."""
    store = FeatureStore(root, maker_of(modality, config, encoder))
    todo = missing(manifest, store)
    for start in progress(range(0, len(todo), shard)):
        encode_shard(encoder, store, todo[start : start + shard])
    return store


def missing(manifest: Manifest, store: FeatureStore) -> list[Item]:
    done = store.keys()
    return [item for item in items(manifest, store.maker.modality) if item.key not in done]


def find_store(
    root: Path, modality: Modality, config: EncoderConfig, name: str | None, sha256: str | None
) -> FeatureStore:
    """The store of the encoder that the configuration asks for, without loading it.

    `name` and `sha256` are the encoder's, where they are known.

    Raises:
        DataError: there is none, it was made by other code, or the weights of that name come in two kinds.
    """
    makers = find_makers(root, modality)
    matching = [
        maker
        for maker in makers
        if maker.kind == config.kind
        and dict(maker.options) == options_of(config)
        and (name is None or maker.name == name)
        and (not sha256 or maker.weights_hash == sha256)
    ]
    current = [maker for maker in matching if maker.code == code_version()]
    asked = name or config.model or config.kind
    if len(current) == 1:
        return FeatureStore(root, current[0])
    if current:
        raise DataError(f"{root}: {modality} features of {asked} from two kinds of weights; delete the wrong ones")
    others = sorted({maker.name for maker in makers if maker not in matching})
    if matching:
        why = "were made by another version of the encoders' code"
    elif others:
        why = f"are of another encoder ({', '.join(others)})"
    else:
        why = "do not exist yet"
    raise DataError(f"{root}: the {modality} features of {asked} {why}; run bcaf-train features")


def read_vectors(manifest: Manifest, store: FeatureStore) -> Vectors:
    """The vectors of the manifest's contents.

    Raises:
        DataError: some are missing.
    """
    vectors = store.read()
    absent = [item for item in items(manifest, store.maker.modality) if item.key not in vectors]
    if absent:
        raise DataError(
            f"{store.folder}: {len(absent)} of {len(items(manifest, store.maker.modality))} vectors are missing; "
            "run bcaf-train features, which goes on where it stopped"
        )
    return vectors


def config_of(modality: Modality, spec: EncoderSpec, device: str) -> EncoderConfig:
    """The configuration that makes the features of a checkpoint again.

    Raises:
        EncoderError: they were precomputed by something that the project does not know.
    """
    if spec.kind not in ("compact", "pretrained"):
        raise EncoderError(
            f"the checkpoint was trained on precomputed {modality} vectors of {spec.name!r}; "
            "give a manifest that carries such vectors"
        )
    cls = AudioEncoderConfig if modality == "audio" else TextEncoderConfig
    model = spec.name if spec.kind == "pretrained" else None
    return cls.model_validate({"kind": spec.kind, "model": model, "device": device, **spec.options})
