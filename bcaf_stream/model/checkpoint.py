"""A trained model as a folder: `config.json`, `model.safetensors`, and whatever the encoders keep beside them.

    config.json          schema, name, labels, architecture, encoders, calibration, provisional, note
    model.safetensors    the weights, float32 or float16; always loaded as float32
    encoders/            optional; weights of encoders that are not fetched by name (theirs to read and write)
    README.md            optional model card

`config.json` holds the sha256 of the weights, so its own hash names the whole content. The key `config` is
where huggingface_hub looks for it: `PublishedBCAF.from_pretrained` reads the same folder.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from pydantic import Field, ValidationError, model_validator

from bcaf_stream.config import Config
from bcaf_stream.errors import CheckpointError
from bcaf_stream.model import weights
from bcaf_stream.model.bc_lstm import BCLSTM
from bcaf_stream.model.bcaf import BCAF, load_weights
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.model.decision import Calibration
from bcaf_stream.types import Modality

SCHEMA = 2  # of Manifest and of the weights' names; another number is refused
CONFIG_NAME = "config.json"
ENCODERS_NAME = "encoders"
_FOLDER = Path(__file__).parents[1] / "checkpoints"
COMPACT = _FOLDER / "compact"
SHIPPED: Mapping[str, Path] = {"compact": COMPACT, "compact-open": _FOLDER / "compact-open"}  # with the package
DTYPES = {"float32": torch.float32, "float16": torch.float16}


class EncoderSpec(Config):
    """Which encoder made one modality's features: enough to make the same ones again.

    `sha256` is that of the encoder's weights, empty where nobody knows it; `options` are the encoder's own.
    """

    kind: str
    name: str
    width: int = Field(ge=1)
    sha256: str = ""
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


class EncoderSpecs(Config):
    """None is a modality that the model was not trained on: nothing it would say of it means anything."""

    audio: EncoderSpec | None
    text: EncoderSpec | None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(one for one in get_args(Modality) if self.of(one) is not None)

    def of(self, modality: Modality) -> EncoderSpec | None:
        return self.audio if modality == "audio" else self.text


class Manifest(Config):
    """The content of config.json."""

    schema_version: Literal[2] = 2
    name: str
    labels: tuple[str, ...]
    config: BCAFConfig
    encoders: EncoderSpecs
    calibration: Calibration
    provisional: bool
    note: str
    weights_sha256: str

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.labels != self.config.labels:
            raise ValueError("labels differ from those of the architecture")
        for modality, spec, width in (
            ("audio", self.encoders.audio, self.config.audio_width),
            ("text", self.encoders.text, self.config.text_width),
        ):
            if spec is not None and spec.width != width:
                raise ValueError(f"the {modality} encoder is {spec.width} wide, but the model takes {width}")
        voice = self.calibration.voice
        if voice is not None and len(voice.mean_log_probs) != len(self.labels):
            raise ValueError("the prior of voices has another number of classes than labels")
        affect = self.calibration.affect
        if affect is not None and len(affect.valence) != len(self.labels):
            raise ValueError("valence and arousal have another number of classes than labels")
        if not self.encoders.modalities:
            raise ValueError("the model was trained on neither audio nor text")
        return self


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model, in evaluation mode, with all that is needed to use it.

    `provisional` says that it is not yet one to rely on; `hash` is that of config.json.
    """

    folder: Path
    name: str
    model: BCAF | BCLSTM
    labels: tuple[str, ...]
    calibration: Calibration
    encoders: EncoderSpecs
    provisional: bool
    note: str
    hash: str

    @property
    def model_id(self) -> str:
        """The name under which events know this model."""
        return f"{self.name}-{self.hash[:8]}"

    @property
    def encoders_folder(self) -> Path:
        return self.folder / ENCODERS_NAME


def save_checkpoint(
    folder: Path | str,
    model: BCAF | BCLSTM,
    *,
    encoders: EncoderSpecs,
    calibration: Calibration | None = None,
    name: str | None = None,
    provisional: bool = False,
    note: str = "",
    weights_dtype: Literal["float32", "float16"] = "float32",
    card: str | None = None,
    write_encoders: Callable[[Path], None] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a checkpoint beside `folder` and put it in its place; a failure leaves what was there.

    `name` defaults to the folder's. Without `calibration` the decision stays unfitted. `write_encoders` is
    called with the (empty) `encoders/` folder. `files` are further files by name, which loading does not need.

    Raises:
        CheckpointError: the parts do not fit each other, or the folder cannot be written or is no checkpoint.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder / CONFIG_NAME).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: exists and is not a checkpoint; choose another folder")
    data = weights.pack(model, DTYPES[weights_dtype])
    manifest = _manifest(
        folder,
        name=name or folder.name,
        labels=model.config.labels,
        config=model.config,
        encoders=encoders,
        calibration=calibration or Calibration.unfitted(model.config.decision),
        provisional=provisional,
        note=note,
        weights_sha256=hashlib.sha256(data).hexdigest(),
    )
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        fresh.mkdir(parents=True)
        (fresh / weights.WEIGHTS_NAME).write_bytes(data)
        (fresh / CONFIG_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if card is not None:
            (fresh / "README.md").write_text(card, encoding="utf-8")
        for other, content in (files or {}).items():
            (fresh / other).write_bytes(content)
        if write_encoders is not None:
            (fresh / ENCODERS_NAME).mkdir()
            write_encoders(fresh / ENCODERS_NAME)
        _replace(fresh, folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror or error}); nothing changed"
        ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: a shipped one, a local folder, or one fetched from the model hub.

    Raises:
        CheckpointError: no such folder, and no such model on a hub that can be reached.
    """
    folder = SHIPPED.get(name) or Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name in SHIPPED or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"{name}: no such checkpoint folder; give {', '.join(SHIPPED)}, a folder, or a hub id OWNER/NAME"
        )
    try:
        from huggingface_hub import snapshot_download  # a tenth of a start, which the shipped weights do not need

        return Path(snapshot_download(name))
    except Exception as error:  # the hub client's transport errors have no common base
        message = f"{name}: no such folder, and the model hub gave no such model ({type(error).__name__})"
        raise CheckpointError(f"{message}; copy the checkpoint into a folder and give that") from None


def load_checkpoint(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint folder; strict, so that a model never runs half loaded.

    Raises:
        CheckpointError: a missing, broken or foreign file; labels, widths, names or shapes that do not fit.
    """
    folder = Path(folder).absolute()
    raw = _read_config(folder)
    manifest = _manifest_of(folder, raw)
    model: BCAF | BCLSTM
    if manifest.config.kind == "bc_lstm":
        model, sha256 = load_weights(BCLSTM, folder, manifest.config)
    else:
        model, sha256 = load_weights(BCAF, folder, manifest.config)
    if sha256 != manifest.weights_sha256:
        raise CheckpointError(
            f"{folder}: {weights.WEIGHTS_NAME} is not the file that {CONFIG_NAME} describes;"
            " save or fetch the checkpoint again"
        )
    return Checkpoint(
        folder=folder,
        name=manifest.name,
        model=model.to(device),
        labels=manifest.labels,
        calibration=manifest.calibration,
        encoders=manifest.encoders,
        provisional=manifest.provisional,
        note=manifest.note,
        hash=hashlib.sha256(raw).hexdigest(),
    )


def load_calibration(folder: Path | str) -> Calibration:
    """How a checkpoint decides, without its weights.

    Raises:
        CheckpointError: its description is missing, broken or foreign.
    """
    folder = Path(folder).absolute()
    return _manifest_of(folder, _read_config(folder)).calibration


def _read_config(folder: Path) -> bytes:
    try:
        return (folder / CONFIG_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        previous = _previous(folder)
        if (previous / CONFIG_NAME).is_file() and not folder.exists():
            raise CheckpointError(
                f"{folder}: saving was cut short; rename {previous} to {folder.name} to have the last one back"
            ) from None
        raise CheckpointError(
            f"{folder}: {CONFIG_NAME} is missing; give a folder written by bcaf-train or save_checkpoint"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{folder}: {CONFIG_NAME} cannot be read ({error.strerror or error})") from None


def _manifest_of(folder: Path, raw: bytes) -> Manifest:
    data = _parse(folder, raw)
    if data.get("schema_version") != SCHEMA:
        found = data.get("schema_version", "none")
        raise CheckpointError(
            f"{folder}: {CONFIG_NAME} has schema_version {found}, this version reads {SCHEMA};"
            " train it again, or use the version that wrote it"
        )
    return _manifest(folder, **data)


def _parse(folder: Path, raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise CheckpointError(f"{folder}: {CONFIG_NAME} is not a JSON map; save or fetch the checkpoint again")
    return data


def _manifest(folder: Path, **parts: Any) -> Manifest:
    """Validate through JSON, whose strict mode takes a list for a tuple."""
    try:
        return Manifest.model_validate_json(json.dumps(parts, default=lambda part: part.model_dump(mode="json")))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or CONFIG_NAME
        raise CheckpointError(
            f"{folder}: {CONFIG_NAME} does not fit: {key}: {first['msg']};"
            " save it again with what it was trained with"
        ) from None


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _replace(fresh: Path, folder: Path) -> None:
    """Folders cannot be swapped in one call: the old one steps aside, and comes back if the new one fails."""
    if not folder.exists():
        fresh.rename(folder)
        return
    previous = _previous(folder)
    shutil.rmtree(previous, ignore_errors=True)
    folder.rename(previous)
    try:
        fresh.rename(folder)
    except OSError:
        previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)
