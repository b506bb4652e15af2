"""Folders of the system that a deployment depends on without being asked where they are."""

import os
import sys
from pathlib import Path

# A socket's path has 107 bytes at most; behind its folder Ray puts up to 68, the process id among them.
MOST_BYTES = 107 - len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")


def ray_folder() -> tuple[str, str]:
    """Where Ray keeps its sockets and logs, and the variable that says so ("" for its default)."""
    for variable in ("RAY_TMPDIR", *(["TMPDIR"] if sys.platform.startswith("linux") else [])):
        if variable in os.environ:
            return os.environ[variable], variable
    return "/tmp", ""  # Ray's own default


def why_ray_cannot_use(folder: str, variable: str) -> str | None:
    """One line with the way out; None: it can be used."""
    named = f"{variable} ({folder})" if variable else folder
    way_out = f"set RAY_TMPDIR to a folder of at most {MOST_BYTES} bytes that you can write to, such as /tmp"
    length = len(os.fsencode(folder.rstrip("/")))
    if length > MOST_BYTES:
        return f"{named}: {length} bytes, too long for the sockets that Ray makes there: {way_out}"
    below = Path(folder).absolute() / "ray"
    there = next(at for at in (below, *below.parents) if at.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{named}: Ray cannot write there: {way_out}"
    return None


def why_home_is_no_use() -> str | None:
    """What stands against keeping something in the home folder; None: nothing."""
    try:
        home = Path.home()
    except RuntimeError:
        return "there is none: HOME is not set"
    if not home.is_dir():
        return f"{home}: no such folder"
    return None if os.access(home, os.W_OK | os.X_OK) else f"{home}: not writable"
