"""Finding a pretrained model: a local folder, the local cache of the model hub, or the hub itself, in that order.

The hub's own client retries an unreachable host for half a minute and explains itself in a page of traceback;
here one short request is made first, and what it finds is said in one line.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers, get_session
from transformers import AutoConfig

from bcaf_stream.errors import EncoderError

PATIENCE = 5.0  # seconds for the one request that asks whether the hub is there


def find_model(model: str) -> tuple[str, Any]:
    """Where to load `model` from (a folder, or its hub id), and its transformers configuration.

    Raises:
        EncoderError: the folder holds no model, or the hub does not know the id or cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise EncoderError(f"{model}: this folder has no config.json, so it holds no transformers model")
        where = str(folder)
    elif model.startswith((".", "/", "~")):
        raise EncoderError(f"{model}: no such folder; give a folder with a transformers model, or a hub id")
    else:
        where = model
        _check_hub(model)
    try:
        return where, AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise EncoderError(f"{model}: its config.json cannot be used: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _check_hub(model: str) -> None:
    try:
        if isinstance(try_to_load_from_cache(model, "config.json"), str):
            return
    except HFValidationError:
        raise EncoderError(f"{model}: neither a folder nor a possible hub id (those read owner/name)") from None
    way_out = "copy the model into a folder and give that as `model`, or use kind: compact"
    url, headers = hf_hub_url(model, "config.json"), build_hf_headers()
    try:
        answer = get_session().head(url, headers=headers, timeout=PATIENCE, follow_redirects=True)
    except Exception as error:  # the client's transport errors, and its offline switch; it has changed libraries
        reason = type(error).__name__
        raise EncoderError(f"{model}: the model hub cannot be reached ({reason}); {way_out}") from None
    if answer.status_code in (401, 403, 404):
        said = f"HTTP {answer.status_code}"
        raise EncoderError(f"{model}: unknown to the model hub, or closed ({said}); check the id, or {way_out}")
