"""The state of a run between two epochs: one file, written beside the old one and put in its place."""

from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.fs
import torch

from bcaf_stream.errors import DataError, DeploymentError
from bcaf_stream.files import replacing
from bcaf_stream.model.checkpoint import SCHEMA
from training.trainer import Trainer

FILE_NAME = "state.pt"


def save_state(trainer: Trainer[Any], identity: str, folder: Path) -> Path:
    """Write the state into `folder`; a failure leaves the last one as it was.

    Raises:
        DataError: it cannot be written.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path, sync=True) as draft, draft.open("wb") as file:
            torch.save({"schema": SCHEMA, "identity": identity, **trainer.state_dict()}, file)
    except (OSError, RuntimeError) as error:  # torch's writer turns some of the system's errors into its own
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(error).splitlines()[0]
        kept = f"the state of epoch {trainer.epoch - 1} is intact" if path.is_file() else "there is none yet"
        raise DataError(
            f"{path}: the state of epoch {trainer.epoch} cannot be written ({reason}); {kept}"
        ) from None
    return path


def load_state(folder: Path, identity: str) -> dict[str, Any] | None:
    """Read the state, None where there is none.

    Raises:
        DataError: it is broken, or of another version, or of a run with another configuration or other data.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        schema, found = state.pop("schema", None), state.pop("identity")
    except Exception as error:  # unpickling broken bytes raises anything
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}); delete it to start the run anew"
        ) from None
    if schema != SCHEMA:
        raise DataError(f"{path}: another version of the program wrote it; delete it to start the run anew")
    if found != identity:
        raise DataError(
            f"{path}: this run was started with another configuration or other data;"
            " choose another name and out, or delete it"
        )
    return state


def storage(place: str) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """A folder or URL as Ray takes it; what pyarrow does not know goes through fsspec.

    Raises:
        DeploymentError: nobody knows the URL's protocol, or its package is not installed.
    """
    if "://" not in place:
        return None, str(Path(place).absolute())
    try:
        return pyarrow.fs.FileSystem.from_uri(place)
    except (pa.ArrowException, OSError):
        pass
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise DeploymentError(f"ray.storage_path {place.split('://')[0]}://: {error}") from None
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path
