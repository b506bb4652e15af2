"""Features of a whole corpus with Ray Data: a pool of encoders, on GPUs where there are some.

Each worker writes its shard itself, so what is done stays done: a second run finds nothing to do, and one
that was cut short goes on where it stopped (training/store.py). With `workers: [0, 0]` this process encodes.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data
import torch
from ray.exceptions import RayError

from actors.cluster import plain
from bcaf_stream.encoders.base import AudioEncoderConfig, EncoderConfig, TextEncoderConfig
from bcaf_stream.errors import DataError
from bcaf_stream.types import Modality
from training.config import FeaturesConfig, TrainConfig
from training.datasets.manifest import Manifest, read_manifest
from training.encode import Encoder, Item, encode_shard, items, load_encoder, maker_of, missing
from training.ray_jobs import ray_session
from training.store import FeatureStore, Maker
from training.training_data import compact_source, encoder_config


@dataclass(frozen=True, slots=True)
class Done:
    """What one modality came to: vectors in the store, of which `new` were computed now."""

    modality: Modality
    total: int
    new: int
    folder: Path


def compute_features(
    config: TrainConfig, on_progress: Callable[[Modality, int, int], None] = lambda modality, done, total: None
) -> list[Done]:
    """Encode what the manifest has and the store lacks; `on_progress` gets (modality, done, total) of now.

    Raises:
        DataError: no encoders are configured, a clip or a shard is not usable.
        EncoderError: an encoder cannot be loaded.
        DeploymentError: Ray cannot be started, or a worker was lost.
    """
    manifest = read_manifest(Path(config.data.manifest))
    return [
        _compute(config, manifest, modality, partial(on_progress, modality))
        for modality in config.data.modalities
        if items(manifest, modality)
    ]


class ShardEncoder:
    """One worker of the pool: it loads the encoder once, then encodes and writes one shard per call."""

    def __init__(self, encoder: dict[str, Any], folder: str | None, root: str, maker: dict[str, Any]) -> None:
        config: EncoderConfig
        if maker["modality"] == "audio":
            config = AudioEncoderConfig.model_validate(encoder)
        else:
            config = TextEncoderConfig.model_validate(encoder)
        if config.device == "cpu":
            torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        self._encoder = load_encoder(config, None if folder is None else Path(folder))
        self._store = FeatureStore(Path(root), Maker(**maker))

    def __call__(self, row: dict[str, str]) -> dict[str, int]:
        shard = [Item(**{**item, "cut_ms": _pair(item["cut_ms"])}) for item in json.loads(row["shard"])]
        encode_shard(self._encoder, self._store, shard)
        return {"done": len(shard)}


def _compute(
    config: TrainConfig, manifest: Manifest, modality: Modality, on_progress: Callable[[int, int], None]
) -> Done:
    asked = encoder_config(config, modality)
    if asked is None:
        raise DataError(
            f"{config.data.manifest}: its {modality} has no vectors; name the encoders in the configuration"
        )
    source = compact_source(config)
    folder = source.folder if source is not None and asked.kind == "compact" else None
    here = config.features.workers[1] == 0
    # Loaded here once in any case, because the hash of the weights names the store.
    encoder = load_encoder(asked if here else asked.model_copy(update={"device": "cpu"}), folder)
    store = FeatureStore(config.data.features_root, maker_of(modality, asked, encoder))
    todo, total = missing(manifest, store), len(items(manifest, modality))
    done = 0
    for count in (
        _here(encoder, store, todo, config.features.shard) if here else _on_ray(config, asked, folder, store, todo)
    ):
        done += count
        on_progress(done, len(todo))
    return Done(modality, total, len(todo), store.folder)


def _here(encoder: Encoder, store: FeatureStore, todo: list[Item], shard: int) -> Iterator[int]:
    for start in range(0, len(todo), shard):
        encode_shard(encoder, store, todo[start : start + shard])
        yield len(todo[start : start + shard])


def _on_ray(
    config: TrainConfig, encoder: EncoderConfig, folder: Path | None, store: FeatureStore, todo: list[Item]
) -> Iterator[int]:
    if todo:
        with ray_session(config.ray) as cluster:
            gpus = config.features.gpus_per_worker
            if gpus is None:
                gpus = 1.0 if cluster.has("GPU") >= 1 else 0.0
            yield from _encoded(config.features, gpus, encoder, folder, store, todo)


def _encoded(
    config: FeaturesConfig,
    gpus: float,
    encoder: EncoderConfig,
    folder: Path | None,
    store: FeatureStore,
    todo: list[Item],
) -> Iterator[int]:
    device = "cuda" if gpus else "cpu"
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller shows one of its own
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    shards = [todo[start : start + config.shard] for start in range(0, len(todo), config.shard)]
    rows = [{"shard": json.dumps([asdict(item) for item in shard])} for shard in shards]
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        ShardEncoder,  # type: ignore[arg-type]
        fn_constructor_kwargs={
            "encoder": {**encoder.model_dump(), "device": device},
            "folder": None if folder is None else str(folder),
            "root": str(store.folder.parent),
            "maker": asdict(store.maker),
        },
        compute=ray.data.ActorPoolStrategy(
            min_size=min(config.workers[0], len(shards)), max_size=min(config.workers[1], len(shards))
        ),
        num_cpus=config.cpus_per_worker,
        num_gpus=gpus,
    )
    try:
        for row in encoded.iter_rows():
            yield int(row["done"])
    except (RayError, SystemError) as error:
        raise plain(error, "features: a worker was lost") from None


def _pair(cut: list[int] | None) -> tuple[int, int] | None:
    return None if cut is None else (cut[0], cut[1])
