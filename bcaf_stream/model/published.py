"""BCAF by the ways of the Hugging Face hub: `from_pretrained`, `save_pretrained`, `push_to_hub`.

Apart from the network itself, because the hub's client takes a tenth of a start, and a call needs nothing of it.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from pydantic import ValidationError

from bcaf_stream.errors import CheckpointError
from bcaf_stream.model import weights
from bcaf_stream.model.bcaf import BCAF, load_weights
from bcaf_stream.model.config import BCAFConfig


def _decode_config(data: dict[str, Any]) -> BCAFConfig:
    try:
        return BCAFConfig.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "config"
        raise CheckpointError(f"config.json does not describe a BCAF model: {key}: {first['msg']}") from None


class PublishedBCAF(
    PyTorchModelHubMixin,
    BCAF,
    coders={BCAFConfig: (lambda config: config.model_dump(mode="json"), _decode_config)},
    library_name="bcaf-stream",
    tags=["speech-emotion-recognition", "emotion-recognition-in-conversation"],
    license="apache-2.0",
):
    """The model; `from_pretrained` takes a checkpoint folder or a hub id, and gives the network alone."""

    def __init__(self, config: BCAFConfig) -> None:
        BCAF.__init__(self, config)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: BCAFConfig, **hub: Any) -> BCAF:  # type: ignore[override]
        folder = Path(model_id)
        if not folder.is_dir():
            patterns = ["config.json", weights.WEIGHTS_NAME]
            folder = Path(snapshot_download(model_id, allow_patterns=patterns, **hub))
        if config.kind != "bcaf":
            raise CheckpointError(f"{model_id}: holds a model of kind {config.kind}, not BCAF")
        return load_weights(cls, folder, config)[0]
