"""`python -m training.compact teach | text | words | sound | fuse | affect | report`: the weights.

Each stage leaves its result in the folder `work`, so that any of them can be run again alone.
"""

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file

from bcaf_stream.config import load_config
from bcaf_stream.console import run
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.encoders.base import AudioEncoderConfig, TextEncoderConfig
from bcaf_stream.encoders.load import load_audio_encoder, load_text_encoder
from bcaf_stream.errors import DataError
from bcaf_stream.files import replacing
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import CONFIG_NAME, EncoderSpec, EncoderSpecs, load_checkpoint, save_checkpoint
from bcaf_stream.model.decision import Calibration
from training.compact.affect import agreement, fit_affect, probabilities, read_ratings
from training.compact.clips import Clip, read_anchors, read_clips
from training.compact.config import CompactConfig
from training.compact.dialogues import Spoken, meld_texts
from training.compact.fusion import train_fusion
from training.compact.lines import PLAIN
from training.compact.open_sources import open_texts, read_open_clips
from training.compact.report import measure, merit
from training.compact.starts import minilm, mpnet, whisper_trunk
from training.compact.text import TunedText, build_text, load_tokenizer, teacher_logits, text_scores
from training.compact.vectors import (
    encode_sound,
    encode_text,
    labelled,
    load_split,
    save_voices,
    save_words,
    write_audio_encoder,
    write_text_encoder,
)
from training.datasets.manifest import SPLITS, Split
from training.log import shown
from training.trainer import Trainer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
ConfigFile = Annotated[Path, typer.Option("--config", help="the recipe")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, repeatable")]
RECIPE = Path("configs/train/compact.yaml")
TEACHER_LOGITS = "teacher_logits.safetensors"
log = logging.getLogger(__name__)


def _start(config: Path, overrides: list[str] | None) -> tuple[CompactConfig, Path]:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = load_config(CompactConfig, config, overrides or ())
    work = Path(recipe.work)
    work.mkdir(parents=True, exist_ok=True)
    return recipe, work


def _texts(recipe: CompactConfig) -> dict[Split, list[Spoken]]:
    return open_texts(Path(recipe.texts)) if recipe.sources == "open" else meld_texts(Path(recipe.meld))


def _clips(recipe: CompactConfig) -> list[Clip]:
    speech, conversations = Path(recipe.speech), Path(recipe.conversations)
    if recipe.sources == "open":
        return read_open_clips(speech, conversations)
    return read_clips(speech) + read_anchors(conversations)


@app.command()
def teach(config: ConfigFile = RECIPE, overrides: Overrides = None) -> None:
    """Fine-tune the teacher of the text encoder, and store its logits."""
    recipe, work = _start(config, overrides)
    dialogues = _texts(recipe)
    if recipe.starts.mpnet is None:
        raise DataError("starts.mpnet: the recipe names no teacher")
    torch.manual_seed(recipe.teacher.seed)
    start = Path(recipe.starts.mpnet)
    trainer = build_text(recipe.teacher, mpnet(start), load_tokenizer(start), dialogues["train"], dialogues["dev"])
    model = _trained("teacher", trainer, dialogues["dev"])
    save_file(
        {"teacher_logits": torch.cat(teacher_logits(model, dialogues["train"]), dim=1)}, work / TEACHER_LOGITS
    )


@app.command()
def text(config: ConfigFile = RECIPE, overrides: Overrides = None) -> None:
    """Fine-tune the text encoder, with the teacher's logits where the recipe has a teacher."""
    recipe, work = _start(config, overrides)
    dialogues = _texts(recipe)
    logits = None
    if recipe.text.distillation_weight:
        if not (work / TEACHER_LOGITS).is_file():
            raise DataError(f"{work}: no {TEACHER_LOGITS}; run `python -m training.compact teach` first")
        stored = load_file(work / TEACHER_LOGITS)["teacher_logits"]
        logits = stored.split([len(one) for one in dialogues["train"]], dim=1)
    torch.manual_seed(recipe.text.seed)
    start = Path(recipe.starts.minilm)
    trainer = build_text(
        recipe.text, minilm(start), load_tokenizer(start), dialogues["train"], dialogues["dev"], logits
    )
    model = _trained("text", trainer, dialogues["dev"])
    save_file(model.encoder.state_dict(), work / "text.safetensors")


def _trained(name: str, trainer: Trainer[TunedText], dev: list[Spoken]) -> TunedText:
    while not trainer.done:
        log.info("%s: %s", name, shown(trainer.run_epoch()))
    model = trainer.best_model()
    log.info("%s: dev %s", name, text_scores(model, dev))
    return model


@app.command()
def words(config: ConfigFile = RECIPE, overrides: Overrides = None) -> None:
    """Store the text encoder as it ships, and encode MELD with it."""
    recipe, work = _start(config, overrides)
    start, dialogues = Path(recipe.starts.minilm), _texts(recipe)
    model = minilm(start)
    model.load_state_dict(load_file(work / "text.safetensors"))
    write_text_encoder(work / "encoders" / "text", model, start)
    encoder = load_text_encoder(TextEncoderConfig(batch=64), work)
    for split in SPLITS:
        save_words(work / f"words-{split}.npz", encode_text(encoder, dialogues[split], spoiled=1))
    np.savez(work / "words-plain.npz", words=encoder.encode(PLAIN))


@app.command()
def sound(config: ConfigFile = RECIPE, overrides: Overrides = None) -> None:
    """Store the audio encoder as it ships, and encode the clips (and their words, after `words`)."""
    recipe, work = _start(config, overrides)
    write_audio_encoder(work / "encoders" / "audio", whisper_trunk(Path(recipe.starts.whisper)))
    encoder = load_audio_encoder(AudioEncoderConfig(), work)
    spoken = load_text_encoder(TextEncoderConfig(), work)
    clips = _clips(recipe)
    background = [clip for clip in clips if clip.split == "train"]
    for number, split in enumerate(SPLITS):
        training = split == "train"
        bored, views = (recipe.fusion.boredom, recipe.fusion.views) if training else ("drop", 1)
        chosen = labelled([clip for clip in clips if clip.split == split], bored)
        save_voices(work / f"sound-{split}.npz", encode_sound(encoder, spoken, chosen, background, views, number))


@app.command()
def fuse(config: ConfigFile = RECIPE, overrides: Overrides = None) -> None:
    """Train BCAF with every seed, keep the best on dev, write the checkpoint, and measure dev and test."""
    recipe, work = _start(config, overrides)
    train, dev, test = (load_split(work, split) for split in SPLITS)
    models: dict[int, tuple[BCAF, Calibration]] = {}
    numbers: dict[int, dict[str, Any]] = {}
    for seed in recipe.fusion.seeds:
        model, calibration = models[seed] = train_fusion(recipe.fusion, train, dev, seed)
        found = {split: measure(model, calibration, one) for split, one in (("dev", dev), ("test", test))}
        numbers[seed] = found | {"merit (dev)": merit(found["dev"]), "decision": calibration.model_dump()}
    kept = max(numbers, key=lambda seed: float(numbers[seed]["merit (dev)"]))
    (work / "numbers.json").write_text(json.dumps({"kept": kept, "seeds": numbers}, indent=1))
    save_checkpoint(
        recipe.out,
        models[kept][0],
        encoders=_specs(work),
        calibration=models[kept][1],
        name=recipe.name,
        note=f"seed {kept} of {len(numbers)}, chosen on dev; see README.md",
        weights_dtype="float16",
        write_encoders=partial(_copy, work / "encoders"),
    )


@app.command()
def affect(config: ConfigFile = RECIPE, overrides: Overrides = None) -> None:
    """Fit valence and arousal of the labels to rated sentences, and write them into the checkpoint."""
    recipe, _ = _start(config, overrides)
    rated = read_ratings(Path(recipe.ratings))
    engine = EmotionEngine(ModelConfig(checkpoint=recipe.out))
    probs = {split: probabilities(engine, rated[split].texts) for split in SPLITS}
    places = fit_affect(probs["train"], rated["train"].rating_N2)
    checkpoint = load_checkpoint(recipe.out)
    path = checkpoint.folder / CONFIG_NAME
    data = json.loads(path.read_text(encoding="utf-8"))
    data["calibration"] = checkpoint.calibration.model_copy(update={"affect": places}).model_dump(mode="json")
    with replacing(path) as draft:
        draft.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    for name, axis in places.model_dump().items():
        typer.echo(f"{name}: {dict(zip(checkpoint.labels, axis, strict=True))}")
    for split in ("dev", "test"):
        typer.echo(f"{split}: {json.dumps(agreement(places, probs[split], rated[split].rating_N2))}")


@app.command()
def report(config: ConfigFile = RECIPE, overrides: Overrides = None) -> None:
    """Measure the checkpoint as it lies on the disk, on dev and test."""
    recipe, work = _start(config, overrides)
    checkpoint = load_checkpoint(recipe.out)
    assert isinstance(checkpoint.model, BCAF), "what fuse writes"
    for split in ("dev", "test"):
        found = measure(checkpoint.model, checkpoint.calibration, load_split(work, split))
        for name, numbers in found.items():
            typer.echo(f"{split} {name}: {json.dumps(numbers)}")


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


def _specs(work: Path) -> EncoderSpecs:
    spoken = load_text_encoder(TextEncoderConfig(), work)
    heard = load_audio_encoder(AudioEncoderConfig(), work)
    return EncoderSpecs(
        audio=EncoderSpec(kind="compact", name=heard.name, width=heard.width, sha256=heard.weights_hash),
        text=EncoderSpec(kind="compact", name=spoken.name, width=spoken.width, sha256=spoken.weights_hash),
    )


if __name__ == "__main__":
    run(app, "training.compact")
