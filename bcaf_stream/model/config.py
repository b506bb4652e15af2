"""The architecture of a model, as it stands in config.json and under `model:` of a training run."""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.model.bimodal import Attention
from bcaf_stream.model.connection import ConnectionForm
from bcaf_stream.model.decision import Decision

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
NEWER = ("kind", "standardize", "linear_path")  # keys that checkpoints of before do not have
Name = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]  # 3 is a name too


class BCAFConfig(Config):
    """The architecture; `labels` are the classes in the order of the logits.

    The defaults are the paper's for MELD where it names them (5 layers, dropout 0.3, 1024, 512). `heads: 1`
    is the paper's attention. `connection_form: off`, `bimodal: false` and `correlative: false` each take one
    network away (see PlainLatent, bimodal.py, PlainProjection). `context` counts the utterance itself and
    means nothing when `mode` is offline. `standardize`: the weights carry mean and deviation of each dimension of
    the training vectors, see ModalityInput; `bcaf-train fit` sets it. `linear_path`: logistic regressions on the
    vectors stand beside the heads in the decision, see linear_path.py; they are not in the paper. `kind`: bc_lstm
    is the baseline of bc_lstm.py, to which only the widths, `layers`, `dropout` and `mode` mean something.
    """

    kind: Literal["bcaf", "bc_lstm"] = "bcaf"
    labels: tuple[Name, ...]
    audio_width: Count = 1024
    text_width: Count = 1024
    width: Count = 1024
    latent: Count = 512
    layers: Count = 5
    heads: Count = 8
    feed_forward: Count = 2048
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    context: Count = 32
    mode: Literal["causal", "offline"] = "causal"
    attention: Attention = "ban"
    connection_form: ConnectionForm = "stable"
    bimodal: bool = True
    correlative: bool = True
    mu: Weight = 0.1
    alpha: Weight = 0.1
    beta: Weight = 0.5
    lambda_init: float = 0.2
    decision: Decision = "weighted"
    standardize: bool = False
    linear_path: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must be at least two, all different")
        if self.kind == "bc_lstm" and self.linear_path:
            raise ValueError("a bc_lstm has no linear_path; set it to false")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self

    @property
    def classes(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        # Without the keys that are newer than checkpoints and stored states whose identity this is.
        newer = {name for name in NEWER if getattr(self, name) == type(self).model_fields[name].default}
        return hashlib.sha256(self.model_dump_json(exclude=newer).encode()).hexdigest()[:16]
