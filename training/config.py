"""The YAML file of a training run: data, encoders, model, loop, and where it runs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from bcaf_stream.config import Config
from bcaf_stream.encoders.base import EncodersConfig
from bcaf_stream.errors import ConfigError
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.types import Modality

Variant = Literal[
    "full",
    "no_connection",
    "no_bimodal",
    "no_correlative",
    "jan",
    "self",
    "cross",
    "printed",
    "fused_head",
    "mean_heads",
    "no_context",
    "no_linear_path",
    "bc_lstm",
    "layers_1",
    "layers_2",
    "layers_3",
    "layers_4",
    "layers_5",
    "layers_6",
]


class DataConfig(Config):
    """`manifest`: folder or file that prepare wrote. `features`: where vectors lie; default: beside the manifest.

    `modalities`: what to train on. A corpus without one of them is an error, so that nobody trains on text
    alone without saying so. `standardize`: bring each dimension of the vectors to mean 0 and deviation 1 of the
    train split; with `init`, what that checkpoint does is kept.
    """

    manifest: str
    features: str | None = None
    modalities: tuple[Modality, ...] = ("audio", "text")
    standardize: bool = True

    @model_validator(mode="after")
    def _some(self) -> "DataConfig":
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError("modalities must name audio, text, or both, once each")
        return self

    @property
    def features_root(self) -> Path:
        manifest = Path(self.manifest)
        folder = manifest if manifest.is_dir() or not manifest.suffix else manifest.parent
        return Path(self.features) if self.features else folder / "features"


class FeaturesConfig(Config):
    """`workers`: encoders at once, at least and at most; [0, 0] = this process, no Ray. `shard`: contents a file.

    `gpus_per_worker`: None gives each a whole GPU where Ray has one; a share (0.25) lets several use one.
    """

    workers: tuple[int, int] = (1, 2)
    cpus_per_worker: float = Field(default=1, ge=0)
    gpus_per_worker: float | None = Field(default=None, ge=0)
    shard: int = Field(default=256, ge=1)


class LoopConfig(Config):
    """The defaults are the paper's: Adam, lr 1e-4, L2 1e-4, patience 15.

    `batch`: dialogues of one step; `auto` is as many as hold some 64 utterances. `class_weights`: `balanced` is
    inverse frequency, `sqrt` its root. `modality_dropout` is the share of dialogues that lose one modality for
    some or all utterances, so that the absent vectors are learned. `feature_dropout` drops single
    dimensions of the vectors.
    `precision`: `auto` is bfloat16 on a GPU and float32 on the CPU. `clip` bounds the gradient's norm (0 = off).

    `schedule`: the learning rate stays, or falls to 0 over all `epochs`; it rises over the first `warm_up` steps.
    `ema_decay` (0 = off): the running mean of the weights, begun after the warm-up, is what is judged and kept.
    `keep`: the weights of the epoch that was best on dev, or the last. `distillation_weight` is the share of the
    cross-entropy with a teacher's probabilities in the loss (see TrainConfig.teacher), `temperature` softens both.
    """

    epochs: int = Field(default=200, ge=1)
    patience: int = Field(default=15, ge=1)
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    learning_rate: float = Field(default=1e-4, gt=0)
    l2: float = Field(default=1e-4, ge=0)
    optimizer: Literal["adam", "adamw"] = "adam"
    clip: float = Field(default=0.0, ge=0)
    class_weights: Literal["none", "sqrt", "balanced"] = "none"
    modality_dropout: float = Field(default=0.2, ge=0, le=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["constant", "linear"] = "constant"
    warm_up: int = Field(default=0, ge=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    keep: Literal["best", "last"] = "best"
    distillation_weight: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0)
    seed: int = Field(default=0, ge=0)


class RayConfig(Config):
    """`num_workers`: 0 = this process, no Ray; N; or [min, max], which grows and shrinks with the cluster.

    `address`: an existing cluster; None starts a local Ray. `storage_path`: where the state of each epoch is
    kept, a folder or any URL that fsspec knows (default: `<out>/ray`); a cluster needs one that all nodes see.
    `max_failures`: how often a lost worker is replaced; the run goes on from the last committed epoch.
    """

    num_workers: int | tuple[int, int] = 0
    cpus_per_worker: float = Field(default=1, gt=0)
    use_gpu: bool = False
    address: str | None = None
    num_cpus: int | None = None
    storage_path: str | None = None
    max_failures: int = Field(default=2, ge=-1)
    keep: int = Field(default=2, ge=1, description="checkpoints of the run that are kept")
    resize_every_s: float = Field(default=60.0, ge=0, description="how often an elastic run looks for more room")


class AblateConfig(Config):
    """Which variants, over how many seeds; `parallel` runs at a time on Ray (0 = one after the other, here)."""

    seeds: int = Field(default=5, ge=1)
    parallel: int = Field(default=0, ge=0)
    variants: tuple[Variant, ...] = (
        "full", "no_connection", "no_bimodal", "no_correlative", "jan", "self", "cross", "printed",
    )  # fmt: skip
    paper: Literal["meld", "iemocap"] | None = None


class Range(Config):
    """A value of the search: one of `choices`, or between `low` and `high`, evenly in its logarithm if `log`."""

    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> "Range":
        if bool(self.choices) == (self.low is not None and self.high is not None):
            raise ValueError("give either choices, or low and high")
        if (
            self.low is not None
            and self.high is not None
            and (self.low >= self.high or (self.log and self.low <= 0))
        ):
            raise ValueError("low must be under high, and above 0 where log is asked")
        return self


class TuneConfig(Config):
    """`space` maps dotted keys (model.dropout, loop.learning_rate) to what is tried; ASHA stops weak trials."""

    samples: int = Field(default=20, ge=1)
    parallel: int = Field(default=1, ge=1)
    grace_epochs: int = Field(default=5, ge=1)
    space: dict[str, Range] = Field(default_factory=dict)


class TrainConfig(Config):
    """One run. `out` gets the checkpoint, the log and, without Ray, the state; the same `name` resumes.

    `encoders`: None where the manifest carries vectors of encoders that the project does not know; in it,
    `audio: null` or `text: null` where it carries those of one modality.
    `encoders_from`: the checkpoint (shipped, folder or hub id) whose own encoders are used for kind: compact;
    they are copied into the new checkpoint. `init`: a checkpoint whose weights training starts from. `teacher`: a
    checkpoint for the same labels and vectors, whose logits are learned beside the labels, see LoopConfig.
    `model.linear_path` is on unless something else is said, or `init` says of what shape the model is.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    out: str
    data: DataConfig
    encoders: EncodersConfig | None = None
    encoders_from: str = "compact"
    init: str | None = None
    teacher: str | None = None
    model: BCAFConfig
    loop: LoopConfig = LoopConfig()
    ray: RayConfig = RayConfig()
    features: FeaturesConfig = FeaturesConfig()
    ablate: AblateConfig = AblateConfig()
    tune: TuneConfig = TuneConfig()

    @field_validator("model")
    @classmethod
    def _with_linear_path(cls, model: BCAFConfig, others: ValidationInfo) -> BCAFConfig:
        """Checkpoints of before have none, so the default of BCAFConfig must stay false."""
        if "linear_path" in model.model_fields_set or others.data.get("init") or model.kind != "bcaf":
            return model
        return model.model_copy(update={"linear_path": True})

    @property
    def folder(self) -> Path:
        return Path(self.out).absolute()

    def changed(self, values: Mapping[str, Any]) -> "TrainConfig":
        """The same with some dotted keys changed, validated anew.

        Raises:
            ConfigError: a key or value that the configuration does not have.
        """
        data = self.model_dump(mode="json")
        for key, value in values.items():
            node: Any = data
            *groups, last = key.split(".")
            for group in groups:
                node = node.get(group) if isinstance(node.get(group), dict) else {}
            if last not in node:
                raise ConfigError(f"{key}: no such key in the configuration")
            node[last] = value
        try:
            return TrainConfig.model_validate_json(json.dumps(data))
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def identity(self) -> str:
        """What must not change when a run is resumed; how long and where it runs may."""
        # Where the learning rate falls over all epochs, their number changes every step.
        free = {"patience"} if self.loop.schedule == "linear" else {"epochs", "patience"}
        same = self.model_dump_json(
            include={
                "data": {"modalities", "standardize"},
                "encoders": True,
                "init": True,
                "teacher": True,
                "model": True,
                "loop": True,
            },
            exclude={"loop": free},
        )
        return hashlib.sha256(same.encode()).hexdigest()[:16]
